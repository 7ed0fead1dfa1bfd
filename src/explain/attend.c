/* attend.c - attention once more, cell by cell in f64, with mistakes that can be chosen. */
#include "explain/attend.h"

#include "base/error.h"
#include "base/pool.h"
#include "explain/rounding.h"
#include "graph/basis.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct st_attend st_attend_own(const struct st_attention *a)
{
	return (struct st_attend){ .scale = a->scores->scale,
		                   .softcap = a->scores->softcap,
		                   .window = a->scores->window,
		                   .no_head = -1,
		                   .slopes = 1 };
}

const float *st_attention_got(const struct st_attention *a) { return a->t->s->node == a->t->i ? a->t->x->got : NULL; }

static bool is_inner(const struct st_trial *t, uint32_t i)
{
	return i >= t->s->first && i <= t->s->node && t->x->inner[i];
}

/* ---- what is there ---- */

#define SAMPLE 4e6 /* products that are made once over the sample */
#define SMALL 2e7  /* of attention that is evaluated whole for every variation */

static double cost_of(const struct st_attention *a) { return (double)a->P * (double)(a->d + a->dv); }

/* Tokens and heads that parameters are searched on: all of a small prompt. */
static void choose_sample(struct st_attention *a)
{
	double rows = fmax(SAMPLE / cost_of(a), 8);
	size_t heads = a->H <= 8 || rows >= 24.0 * (double)a->H ? a->H : 4;
	size_t room = sizeof a->sample / sizeof *a->sample, n = 0, seen = 0;
	size_t most = (size_t)fmax(2, fmin((double)room, rows / (double)heads));
	a->head_step = a->H / heads;
	for (size_t t = 0; t < a->T; t++)
		n += a->t->x->have[t];
	size_t step = n > most ? (n + most - 1) / most : 1;
	/* From the last one back: late positions see the most. */
	for (size_t t = a->T; t-- > 0 && a->n_sample < most;)
		if (a->t->x->have[t] && seen++ % step == 0)
			a->sample[a->n_sample++] = t;
}

enum st_status st_attention_open(struct st_trial *t, struct st_attention *a, bool *found, struct st_error *err)
{
	const struct st_graph *g = t->x->g;
	*found = false;
	*a = (struct st_attention){ .t = t, .to = t->n->op };
	for (uint32_t k = t->i + 1; k <= t->s->node; k++)
		if (is_inner(t, k) && g->nodes[k].in[0] == t->i
		    && (g->nodes[k].op == ST_OP_SOFTMAX || g->nodes[k].op == ST_OP_MIX))
			return ST_OK;
	uint32_t i_softmax = t->n->op == ST_OP_MIX ? t->n->in[0] : t->n->op == ST_OP_SOFTMAX ? t->i : ST_NO_NODE;
	a->i_scores = i_softmax == ST_NO_NODE ? t->i : g->nodes[i_softmax].in[0];
	a->scores = &g->nodes[a->i_scores];
	a->softmax = i_softmax == ST_NO_NODE ? NULL : &g->nodes[i_softmax];
	a->mix = t->n->op == ST_OP_MIX ? t->n : NULL;
	if (a->scores->op != ST_OP_SCORES || (a->softmax && a->softmax->op != ST_OP_SOFTMAX))
		return ST_OK;
	a->from = is_inner(t, a->i_scores)                          ? ST_OP_SCORES
	        : i_softmax != ST_NO_NODE && is_inner(t, i_softmax) ? ST_OP_SOFTMAX
	                                                            : ST_OP_MIX;
	struct st_cached c = st_run_cached(t->x->run, a->scores->layer);
	a->H = a->scores->heads;
	a->G = a->scores->kv_heads;
	a->d = a->scores->head_dim;
	a->Gv = a->mix ? a->mix->kv_heads : a->G;
	a->dv = a->mix ? a->mix->head_dim : 0;
	a->T = t->T;
	a->P = t->P;
	if (!c.k || (a->mix && !c.v) || (a->mix && a->mix->heads != a->H) || a->dv > ST_MAX_HEAD_DIM)
		return ST_OK;
	if (st_run_holds(t->x->run, a->scores->in[0])) {
		struct st_value q = st_run_value(t->x->run, a->scores->in[0]);
		a->q = q.data + a->scores->from[0];
		a->ldq = q.cols;
	} else if (a->from == ST_OP_SCORES) {
		return ST_OK;
	}
	if (a->from != ST_OP_SCORES)
		a->given = st_run_value(t->x->run, a->from == ST_OP_SOFTMAX ? a->i_scores : i_softmax).data;
	const struct st_node *key = &g->nodes[a->scores->in[1]];
	if (key->op == ST_OP_ROPE && key->inv_freq && key->head_dim == a->d && key->head_dim <= ST_MAX_HEAD_DIM) {
		/* As the prompt's keys were turned. */
		size_t seen = t->x->r.trace.n_tokens;
		bool beyond = key->beyond.from && seen > key->beyond.from;
		a->own_rope = *key;
		a->own_rope.inv_freq = beyond ? key->beyond.inv_freq : key->inv_freq;
		a->own_rope.mscale = beyond ? key->beyond.mscale : key->mscale;
		a->rope = a->own_rope.inv_freq ? &a->own_rope : NULL;
	}
	size_t widest = c.k_width > c.v_width ? c.k_width : c.v_width;
	a->k = st_alloc_array2(a->P, widest, sizeof *a->k);
	a->v = st_alloc_array2(a->P, widest, sizeof *a->v);
	a->qs = st_alloc_array3(a->T, a->H, a->d, sizeof *a->qs);
	a->work = st_alloc_array2(st_pool_threads(t->x->exec.pool), a->P, sizeof *a->work);
	const struct st_weight *sink = a->softmax && a->softmax->n_w ? a->softmax->w[0] : NULL;
	a->sinks = sink ? st_alloc_array((size_t)sink->tensor->n_elems, sizeof *a->sinks) : NULL;
	if (!a->k || !a->v || !a->qs || !a->work || (sink && !a->sinks)) {
		st_attention_close(a);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (sink)
		st_weight_decode(sink, 0, st_tensor_rows(sink->tensor), a->sinks);
	choose_sample(a);
	*found = true;
	return ST_OK;
}

void st_attention_close(struct st_attention *a)
{
	free(a->k);
	free(a->v);
	free(a->qs);
	free(a->work);
	free(a->sinks);
	a->k = a->v = a->qs = a->sinks = NULL;
	a->work = NULL;
}

/* ---- keys and values ---- */

/* A row of keys or values turned by so many positions more, and `longer`. */
static void turn_row(const struct st_node *rope, float *row, size_t heads, size_t d, bool adjacent, double positions,
                     double longer)
{
	size_t half = rope->n_rot / 2;
	for (size_t h = 0; h < heads; h++, row += d)
		for (size_t i = 0; i < half; i++) {
			double angle = positions * rope->inv_freq[i], c = cos(angle) * longer, s = sin(angle) * longer;
			size_t u = adjacent ? 2 * i : i, v = adjacent ? u + 1 : u + half;
			double x = row[u], y = row[v];
			row[u] = (float)(x * c - y * s);
			row[v] = (float)(x * s + y * c);
		}
}

/* The first n features of each head from halves to neighbours. */
static void to_adjacent(float *row, size_t heads, size_t d, size_t n)
{
	float was[ST_MAX_HEAD_DIM];
	for (size_t h = 0; h < heads; h++, row += d) {
		memcpy(was, row, n * sizeof *was);
		for (size_t i = 0; i < n / 2; i++) {
			row[2 * i] = was[i];
			row[2 * i + 1] = was[i + n / 2];
		}
	}
}

static void four_bits(float *x, size_t n, size_t kind)
{
	for (size_t b = 0; b < n; b += 32) {
		size_t m = n - b < 32 ? n - b : 32;
		double lo = INFINITY, hi = -INFINITY;
		for (size_t i = b; i < b + m; i++) {
			lo = fmin(lo, (double)x[i]);
			hi = fmax(hi, (double)x[i]);
		}
		double most = fmax(fabs(lo), fabs(hi)), step = kind == ST_BITS_SYMMETRIC ? most / 7 : (hi - lo) / 15;
		double from = kind == ST_BITS_SYMMETRIC ? 0 : lo;
		for (size_t i = b; i < b + m; i++) {
			double q = step > 0 ? rint((x[i] - from) / step) * step : 0;
			x[i] = (float)(kind == ST_BITS_ZERO_LOST ? q : q + from);
		}
	}
}

/* As the engine's cache has them: K in the order of its file. */
static void round_earlier(struct st_attention *a, size_t before)
{
	for (size_t p = 0; p < before && a->as.adjacent; p++)
		to_adjacent(a->k + p * a->kw, a->G, a->d, a->rope->n_rot);
	four_bits(a->k, before * a->kw, a->as.slot);
	four_bits(a->v, before * a->vw, a->as.slot);
	for (size_t p = 0; p < before && a->as.adjacent; p++)
		st_basis_to_half(a->k + p * a->kw, a->G, a->d, a->rope->n_rot);
}

static void change_rows(struct st_attention *a)
{
	const struct st_attend *as = &a->as;
	size_t before = a->P - a->T, last = a->P - 1;
	float *k = a->k, *v = a->v;
	if (as->rows == ST_ROWS_FOUR_BITS)
		round_earlier(a, before);
	if (as->rows == ST_ROWS_OVER || as->rows == ST_ROWS_COPIED) {
		memcpy(k + as->slot * a->kw, k + last * a->kw, a->kw * sizeof *k);
		memcpy(v + as->slot * a->vw, v + last * a->vw, a->vw * sizeof *v);
	}
	if (as->rows == ST_ROWS_ZERO) {
		memset(k + as->slot * a->kw, 0, a->kw * sizeof *k);
		memset(v + as->slot * a->vw, 0, a->vw * sizeof *v);
	}
	if (as->rows == ST_ROWS_OVER || as->rows == ST_ROWS_NEWEST_ZERO) {
		memset(k + before * a->kw, 0, a->T * a->kw * sizeof *k);
		memset(v + before * a->vw, 0, a->T * a->vw * sizeof *v);
	}
	bool all = as->rows == ST_ROWS_ALL_UNROTATED, none = all || as->rows == ST_ROWS_UNROTATED;
	for (size_t p = 0; p < (all ? a->P : before) && (none || as->rows == ST_ROWS_TURNED); p++)
		turn_row(a->rope, k + p * a->kw, a->G, a->d, false, none ? -(double)p : as->turn,
		         none ? 1 / a->rope->mscale : 1);
	for (size_t p = 0; p < a->P && as->values_turned; p++)
		turn_row(a->rope, v + p * a->vw, a->Gv, a->dv, as->adjacent, (double)p, a->rope->mscale);
	for (size_t p = 0; p < a->P && as->swapped && as->adjacent; p++) {
		st_basis_to_half(k + p * a->kw, a->G, a->d, a->rope->n_rot);
		to_adjacent(v + p * a->vw, a->G, a->d, a->rope->n_rot);
	}
}

/* The type to which an arithmetic rounds the operands of attention: its mode's, or that of its cache or queries. */
static enum st_dtype operand_type(const struct st_attention *a, bool query)
{
	const struct st_arith *w = a->way ? a->way->arith : NULL;
	if (!w)
		return ST_DTYPE_F32;
	enum st_dtype stored = query ? w->query : w->cache;
	bool mode = stored == ST_DTYPE_F32 && w->ops & (ST_ARITH_ATTENTION | ST_ARITH_ALL) && !w->partner;
	return mode && w->mode == ST_MODE_EMULATE_F16  ? ST_DTYPE_F16
	     : mode && w->mode == ST_MODE_EMULATE_BF16 ? ST_DTYPE_BF16
	                                               : stored;
}

static void take_rows(struct st_attention *a)
{
	struct st_cached c = st_run_cached(a->t->x->run, a->scores->layer);
	enum st_dtype key = operand_type(a, false), query = operand_type(a, true);
	a->keys = a->as.swapped ? c.v : c.k;
	a->values = a->as.swapped ? c.k : c.v;
	a->kw = a->as.swapped ? c.v_width : c.k_width;
	a->vw = a->as.swapped ? c.k_width : c.v_width;
	a->queries = a->q;
	a->ldqs = a->ldq;
	const struct st_node *turned = a->as.turned;
	if ((query != ST_DTYPE_F32 || turned) && a->q) {
		for (size_t t = 0; t < a->T; t++) {
			memcpy(a->qs + t * a->H * a->d, a->q + t * a->ldq, a->H * a->d * sizeof *a->qs);
			if (turned)
				turn_row(turned, a->qs + t * a->H * a->d, a->H, a->d, a->as.adjacent,
				         (double)(a->P - a->T + t), turned->mscale);
		}
		st_round_to(query, a->qs, a->T * a->H * a->d, a->H * a->d);
		a->queries = a->qs;
		a->ldqs = a->H * a->d;
	}
	if (a->as.rows == ST_ROWS_OWN && !a->as.values_turned && !a->as.adjacent && !turned && key == ST_DTYPE_F32)
		return;
	memcpy(a->k, a->keys, a->P * a->kw * sizeof *a->k);
	if (a->values)
		memcpy(a->v, a->values, a->P * a->vw * sizeof *a->v);
	change_rows(a);
	for (size_t p = 0; p < a->P && turned; p++)
		turn_row(turned, a->k + p * a->kw, a->G, a->d, a->as.adjacent, (double)p, turned->mscale);
	st_round_to(key, a->k, a->P * a->kw, a->kw);
	if (a->values)
		st_round_to(key, a->v, a->P * a->vw, a->vw);
	a->keys = a->k;
	a->values = a->v;
}

/* ---- one query of one head ---- */

static bool sees(const struct st_attention *a, const struct st_attend *as, size_t t, size_t p)
{
	size_t q = a->P - a->T + t;
	uint32_t chunk = a->scores->chunk;
	if (as->ahead != ST_ALL_AHEAD && (int64_t)p > (int64_t)q + as->ahead && !(p == 0 && q == 0))
		return false;
	if ((as->window && p + as->window <= q) || (chunk && p / chunk < q / chunk))
		return false;
	return !(p >= as->hide_from && p < as->hide_to && q >= as->hide_to);
}

static double score(const struct st_attention *a, size_t h, size_t t, size_t p)
{
	const struct st_node *n = a->scores;
	size_t own = h / (a->H / a->G), g = a->as.key_head ? a->as.key_head[h] : own, q = a->P - a->T + t;
	if (a->from == ST_OP_SOFTMAX && p <= q && (!n->window || p + n->window > q)
	    && (!n->chunk || p / n->chunk == q / n->chunk))
		return a->given[(h * a->T + t) * a->P + p];
	const float *x = a->queries + t * a->ldqs + h * a->d, *y = a->keys + p * a->kw + g * a->d;
	double sum = 0;
	for (size_t i = 0; i < a->d; i++)
		sum += (double)x[i] * y[i];
	double s = sum * a->as.scale;
	if (a->as.softcap != 0)
		s = a->as.softcap * tanh(s / a->as.softcap);
	if (n->slopes != 0) {
		struct st_attn_shape shape = { .n_heads = a->H, .slopes = n->slopes, .slope_scale = n->slope_scale };
		double slope = a->as.slope ? a->as.slope[h] : a->as.slopes * st_attn_slope(&shape, h);
		s -= slope * ((double)q - (double)p);
	}
	return s;
}

/* What roundings in between may do to a number of that size, tried out at random. */
static double moved(const struct st_attention *a, double y, double size, uint64_t *state)
{
	const struct st_way *w = a->way;
	if (!w || w->jiggle == 0)
		return y;
	enum st_dtype out = w->arith ? w->arith->out : ST_DTYPE_F32;
	double unit = 4 * 0x1p-24 + (out == ST_DTYPE_F32 ? 0 : 2 * (double)st_unit_roundoff(out));
	return y + w->jiggle * unit * size * (2 * st_rng_uniform(state) - 1);
}

/* The scores, or what follows of them up to the value that is tried; y: dv features of a mixture, else P numbers. */
static void attend_row(const struct st_attention *a, size_t h, size_t t, double *work, double *y)
{
	const struct st_attend *as = &a->as;
	uint64_t state = (h * a->T + t + 1) * 0x9E3779B97F4A7C15u;
	double most = -INFINITY, sum = 0, sink = -INFINITY;
	const float *probs = a->from == ST_OP_MIX ? a->given + (h * a->T + t) * a->P : NULL;
	for (size_t p = 0; p < a->P; p++) {
		bool seen = sees(a, as, t, p);
		if (probs) {
			work[p] = seen ? (double)probs[p] : 0;
			continue;
		}
		double s = seen ? score(a, h, t, p) : 0;
		work[p] = a->to == ST_OP_SCORES ? s : !seen ? -INFINITY : moved(a, s, fabs(s) + 1, &state);
		most = seen ? fmax(most, s) : most;
	}
	if (a->to == ST_OP_SCORES) {
		memcpy(y, work, a->P * sizeof *y);
		return;
	}
	if (as->sink == ST_SINK_ZERO)
		sink = 0;
	else if (as->sink == ST_SINK_OWN && a->sinks)
		sink = (double)a->sinks[h];
	most = fmax(most, sink);
	for (size_t p = 0; p < a->P && !probs; p++)
		sum += work[p] = most > -INFINITY ? exp(work[p] - most) : 0;
	sum += sink > -INFINITY ? exp(sink - most) : 0;
	for (size_t p = 0; p < a->P && !probs; p++) {
		work[p] = sum > 0 ? work[p] / sum : 0;
		work[p] = a->to == ST_OP_MIX ? moved(a, work[p], work[p], &state) : work[p];
	}
	if (a->to == ST_OP_SOFTMAX) {
		memcpy(y, work, a->P * sizeof *y);
		return;
	}
	size_t g = as->value_head ? as->value_head[h] : h / (a->H / a->Gv);
	for (size_t i = 0; i < a->dv; i++)
		y[i] = 0;
	for (size_t p = 0; p < a->P; p++) {
		const float *v = a->values + p * a->vw + g * a->dv;
		for (size_t i = 0; i < a->dv && work[p] != 0; i++)
			y[i] += work[p] * v[i];
	}
}

static void rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct st_attention *a = ctx;
	double y[ST_MAX_HEAD_DIM], *work = a->work + lane * a->P;
	for (uint64_t k = begin; k < end; k++) {
		size_t h = (size_t)(k / a->T), t = (size_t)(k % a->T), from = a->as.order ? a->as.order[h] : h;
		bool mixes = a->to == ST_OP_MIX;
		attend_row(a, from, t, work, mixes ? y : work);
		float *to = mixes ? a->out + t * a->H * a->dv + h * a->dv : a->out + k * a->P;
		for (size_t i = 0; i < (mixes ? a->dv : a->P); i++)
			to[i] = mixes && (int64_t)h == a->as.no_head ? 0 : (float)(mixes ? y[i] : work[i]);
	}
}

static enum st_status make(void *ctx, const struct st_way *w, float *out, struct st_error *err)
{
	struct st_attention *a = ctx;
	a->way = w;
	a->out = out;
	take_rows(a);
	st_pool_each(a->t->x->exec.pool, a->H * a->T, a->P * (a->d + a->dv), rows, a);
	a->way = NULL;
	return st_check_cancel(err);
}

enum st_status st_attend_value(struct st_attention *a, const struct st_attend *as, float *out, struct st_error *err)
{
	a->as = *as;
	return make(a, NULL, out, err);
}

/* ---- how much a variation leaves ---- */

double st_attend_head_leaves(struct st_attention *a, const struct st_attend *as, size_t head, size_t as_head)
{
	const float *got = st_attention_got(a);
	const struct st_node *n = a->t->n;
	struct st_value v = st_trial_value(a->t);
	double y[ST_MAX_HEAD_DIM], sum = 0;
	bool mixes = a->to == ST_OP_MIX;
	if (!got)
		return NAN;
	a->as = *as;
	take_rows(a);
	for (size_t k = 0; k < a->n_sample; k++) {
		size_t t = a->sample[k], row = head * a->T + t;
		attend_row(a, as_head, t, a->work, mixes ? y : a->work);
		const float *to = mixes ? got + t * a->H * a->dv + head * a->dv : got + row * a->P;
		for (size_t i = 0; i < (mixes ? a->dv : a->P); i++) {
			double d = (mixes ? (int64_t)head == as->no_head ? 0 : y[i] : a->work[i]) - to[i];
			if (mixes || st_capture_counts(a->t->x, n, &v, a->t->x->have, row, i))
				sum += d * d;
		}
	}
	return sum;
}

enum st_status st_attend_leaves(struct st_attention *a, const struct st_attend *as, double *out, struct st_error *err)
{
	struct st_explainer *x = a->t->x;
	*out = 0;
	if (st_attention_got(a)) {
		for (size_t h = 0; h < a->H; h += a->head_step)
			*out += st_attend_head_leaves(a, as, h, as->order ? as->order[h] : h);
		return st_check_cancel(err);
	}
	float *y = st_trial_buffer(a->t);
	ST_TRY(st_attend_value(a, as, y, err));
	ST_TRY(st_segment_eval(x, a->t->s, &(struct st_way){ .edit = a->t->i, .value = y }, x->candidate, err));
	struct st_value v = st_run_value(x->run, a->t->s->node);
	for (size_t r = 0; r < v.rows; r++)
		for (size_t i = 0; i < v.cols; i++)
			if (st_capture_counts(x, &x->g->nodes[a->t->s->node], &v, x->have, r, i)) {
				double d = (double)x->got[r * v.cols + i] - x->candidate[r * v.cols + i];
				*out += d * d;
			}
	return ST_OK;
}

/* A large attention is tried on a sample first. A mistake that leaves most of the difference there is not evaluated on
 * the whole. */
enum st_status st_try_attend(struct st_attention *a, const struct st_attend *as, const struct st_cause *c,
                             struct st_error *err)
{
	if (st_attention_got(a) && cost_of(a) * (double)a->H * (double)a->T > SMALL) {
		struct st_attend own = st_attend_own(a);
		double before, left;
		ST_TRY(st_attend_leaves(a, &own, &before, err));
		ST_TRY(st_attend_leaves(a, as, &left, err));
		if (left > 0.25 * before)
			return ST_OK;
	}
	a->as = *as;
	return st_try_made(a->t, make, a, c, err);
}
