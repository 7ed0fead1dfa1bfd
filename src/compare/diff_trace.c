/*
 * diff_trace.c - two traces, stage by stage.
 *
 * Without the weights a floor can only be an estimate: it follows from what the traces say of
 * themselves. Between two runs of the same weights in f32 it is rounding that grows with
 * depth; where stored types, activations or modes differ each product adds their error. How much
 * a model amplifies what comes into a stage is not known, so what exceeds the floor is undecided
 * unless it appears at once: a fault is a stage that is apart by many times what any stage before
 * it was. A trace that says nothing of its types has no floor. docs/floors.md has the figures.
 */
#include "compare/diff.h"

#include "base/error.h"
#include "compare/sums.h"
#include "graph/basis.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FACTOR 8.0
#define F32_STEP 6e-8
/* A stage that is apart by so many times what came in is no news yet: norms, gates and the softmax amplify. */
#define INHERITED 4.0
/* Unrelated values are sqrt(2) apart: a floor near that would let everything pass. */
#define LARGEST_FLOOR 0.7
/*
 * How many times as far apart as the stages before it one stage of a sound pair may be (docs/floors.md, "Between two
 * traces"): 6 times were seen, and 20 times in the first softmax, which turns an absolute error of large scores into a
 * relative one.
 */
#define JUMP 16.0
#define JUMP_SOFTMAX 4.0

/* The relative error of storing operands the way `name` says ("q8_0", "Q4_K/Q6_K", "f16"): the first type named. */
static double type_error(const char *name)
{
	char word[16];
	size_t n = 0;
	while (name[n] && name[n] != '/' && name[n] != ',' && name[n] != ' ' && n + 1 < sizeof word) {
		word[n] = name[n];
		n++;
	}
	word[n] = '\0';
	enum st_dtype t;
	return st_dtype_parse(word, &t) ? st_dtype_info(t)->storage_rel_rms : NAN;
}

/* What one matrix product of this trace may be away from exact arithmetic on its own weights. NAN: not said. */
static double product_error(const struct st_provenance *p)
{
	double e = F32_STEP;
	if (strncmp(p->mode, "emulate:", 8) == 0)
		e += type_error(p->mode + 8);
	else if (p->activations[0])
		e += type_error(p->activations);
	else if (strcmp(p->engine, "stele") != 0 && p->weights[0] && type_error(p->weights) > 0) {
		/* An engine that multiplies quantised weights rounds the activations too: to 8 bits at best. */
		e += st_dtype_info(ST_DTYPE_Q8_0)->storage_rel_rms;
	}
	return e;
}

static bool same_text(const char *a, const char *b)
{
	for (; *a && *b; a++, b++)
		if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
			return false;
	return *a == *b;
}

/* Relative error that one layer of products adds between the two traces, or NAN. */
static double layer_error(const struct st_provenance *a, const struct st_provenance *b)
{
	if (!a->known || !b->known)
		return NAN;
	double e = hypot(product_error(a), product_error(b));
	bool same_file = a->model_sha256[0] && strcmp(a->model_sha256, b->model_sha256) == 0;
	if (same_file || (a->weights[0] && same_text(a->weights, b->weights)))
		return e;
	if (!a->weights[0] || !b->weights[0])
		return NAN;
	return hypot(e, hypot(type_error(a->weights), type_error(b->weights)));
}

/* The most that storing a value in that type can change it, relative to it. */
static double type_step(enum st_dtype t) { return t == ST_DTYPE_F16 ? 0x1p-11 : t == ST_DTYPE_BF16 ? 0x1p-8 : 0; }

/* How many layers' worth of error a stage has gathered. */
static double depth(const struct st_trace_row *r, int32_t last_layer)
{
	if (r->stage == ST_STAGE_EMBEDDING)
		return 0;
	return r->layer >= 0 ? r->layer + 1.0 : last_layer + 2.0;
}

/* Softmaxes between the embedding and a stage: what amplifies most, and may lie between two stages that were captured.
 */
static int softmaxes(const struct st_trace_row *r, int32_t last_layer)
{
	if (r->layer < 0)
		return r->stage == ST_STAGE_EMBEDDING ? 0 : last_layer + 1;
	return r->layer + (r->stage >= ST_STAGE_ATTN_SOFTMAX);
}

/* What the stages so far were apart. */
struct past {
	double largest; /* rel_l2 of any of them, faults left out */
	const struct st_trace_row *last;
};

static enum st_diff_status judge(const struct st_trace_row *r, double layer, int32_t last_layer, const struct past *p)
{
	if (r->nonfinite_apart)
		return ST_DIFF_FAULT;
	if (r->blank)
		return ST_DIFF_UNDECIDED;
	if (r->rounding)
		return ST_DIFF_EXPECTED;
	/* Of unknown origin: rounding is the least that two programs may differ by, and nothing says what more. */
	if (isnan(r->floor))
		return r->max_rel_l2 <= ST_DIFF_ROUNDING ? ST_DIFF_EXPECTED : ST_DIFF_UNDECIDED;
	if (r->max_rel_l2 == 0 || r->max_rel_l2 <= r->floor)
		return ST_DIFF_EXPECTED;
	int between = softmaxes(r, last_layer)
	            - (p->last && p->last->step == r->step ? softmaxes(p->last, last_layer) : 0);
	double before = fmax(p->largest, layer + F32_STEP);
	return r->max_rel_l2 > JUMP * pow(JUMP_SOFTMAX, between) * before ? ST_DIFF_FAULT : ST_DIFF_UNDECIDED;
}

static uint32_t position_of(const struct st_trace_entry *e, uint64_t row)
{
	return e->positions ? e->positions[row] : (uint32_t)row;
}

/* Rows of the first axis: a [heads, T, P] value has its positions second and is taken as one. */
static uint64_t n_positions(const struct st_trace_entry *e) { return e->tensor->ndim == 2 ? e->tensor->shape[0] : 1; }

/* The same position on both sides. */
struct match {
	uint64_t i, j; /* rows */
	struct st_sums s;
	struct st_diff_meetings meetings; /* where a type is short */
	size_t top[2];                    /* of logits: the largest of each side */
	size_t common;                    /* of the five largest */
};

/* Engines drop rows in the last layer: only positions that both hold are compared. */
static uint64_t match_positions(const struct st_trace_entry *a, const struct st_trace_entry *b, struct match *m)
{
	uint64_t n = 0, na = n_positions(a), nb = n_positions(b);
	/* A single position without a name is the newest one. It meets the last of the other side, also where that side
	 * has one alone and names it. */
	bool lone_a = na == 1 && !a->positions, lone_b = nb == 1 && !b->positions;
	if (na > 0 && nb > 0 && lone_a != lone_b) {
		m[0] = (struct match){ .i = na - 1, .j = nb - 1 };
		return 1;
	}
	for (uint64_t i = 0, j = 0; i < na && j < nb;) {
		uint32_t pa = position_of(a, i), pb = position_of(b, j);
		if (pa == pb)
			m[n++] = (struct match){ .i = i, .j = j };
		i += pa <= pb;
		j += pb <= pa;
	}
	return n;
}

/* How the values of one side come into the basis of the other: the first `heads` of every `width` features are turned.
 */
struct turn {
	bool a, b;
	uint64_t width;
	size_t heads, d;
};

/* Whether it is known which features of a stage are heads, and so how to bring two bases together. */
static bool find_turn(enum st_stage s, const uint32_t heads[3], uint64_t each, bool a, struct turn *t)
{
	uint64_t q = heads[0], kv = heads[1], d = heads[2];
	bool fused = s == ST_STAGE_QKV_MATMUL || s == ST_STAGE_QKV_BIAS,
	     keys = s == ST_STAGE_K_POST_NORM || s == ST_STAGE_K_POST_ROPE;
	if (d == 0 || d % 2 || d > ST_MAX_HEAD_DIM)
		return false;
	uint64_t turned = fused ? q + kv : keys ? kv : q;
	*t = (struct turn){
		.a = a, .b = !a, .width = (fused ? q + 2 * kv : turned) * d, .heads = (size_t)turned, .d = (size_t)d
	};
	return each > 0 && each % t->width == 0;
}

static const float *turned(const struct turn *t, const float *x, uint64_t n, float *buf)
{
	if (x != buf)
		memcpy(buf, x, n * sizeof *x);
	for (uint64_t at = 0; at < n; at += t->width)
		st_basis_to_half(buf + at, t->heads, t->d, t->d);
	return buf;
}

/* The positions of one stage that both traces have, `each` values a position. */
struct positions {
	const struct st_tensor *a, *b;
	struct match *m;
	uint64_t each;
	const struct turn *t;
	float *buf;           /* two positions for every lane */
	enum st_dtype ta, tb; /* that the values are numbers of */
	bool short_type, logits;
};

#define LARGEST 5

/* Places of the LARGEST largest of n, largest first; ties by place. */
static size_t largest(const float *x, size_t n, size_t top[LARGEST])
{
	size_t held = 0;
	for (size_t i = 0; i < n; i++) {
		if (isnan(x[i]) || (held == LARGEST && !(x[i] > x[top[held - 1]])))
			continue;
		size_t k = held < LARGEST ? held++ : held - 1;
		for (; k > 0 && x[i] > x[top[k - 1]]; k--)
			top[k] = top[k - 1];
		top[k] = i;
	}
	return held;
}

static void compare_largest(const float *x, const float *y, size_t n, struct match *m)
{
	size_t a[LARGEST], b[LARGEST], na = largest(x, n, a), nb = largest(y, n, b);
	m->top[0] = na ? a[0] : SIZE_MAX;
	m->top[1] = nb ? b[0] : SIZE_MAX;
	for (size_t i = 0; i < na; i++)
		for (size_t k = 0; k < nb; k++)
			m->common += a[i] == b[k];
}

static void measure_positions(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct positions *p = ctx;
	uint64_t each = p->each;
	float *mine = p->buf + (uint64_t)lane * 2 * each;
	for (uint64_t k = begin; k < end && !st_cancelled(); k++) {
		const float *x = st_floats_at(p->a, p->m[k].i * each, each, mine),
			    *y = st_floats_at(p->b, p->m[k].j * each, each, mine + each);
		if (p->t->a)
			x = turned(p->t, x, each, mine);
		if (p->t->b)
			y = turned(p->t, y, each, mine + each);
		st_sums_of(x, y, each, 0, &p->m[k].s);
		if (p->short_type)
			st_diff_meet(x, p->ta, y, p->tb, each, &p->m[k].meetings);
		if (p->logits)
			compare_largest(x, y, (size_t)each, &p->m[k]);
	}
}

static enum st_status measure(const struct st_trace_entry *a, const struct st_trace_entry *b,
                              const enum st_dtype held[2], struct match *m, uint64_t n, uint64_t each,
                              const struct turn *t, struct st_pool *pool, struct st_error *err)
{
	float *buf = st_alloc_array3(st_pool_threads(pool), 2, each, sizeof *buf);
	if (!buf)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct positions p = { a->tensor,
		               b->tensor,
		               m,
		               each,
		               t,
		               buf,
		               held[0],
		               held[1],
		               st_diff_short(held[0], held[1]),
		               a->stage == ST_STAGE_LM_HEAD };
	st_pool_each(pool, n, each * 4, measure_positions, &p);
	free(buf);
	return st_check_cancel(err);
}

/* Values per position, where there is one. */
static uint64_t width_of(const struct st_trace_entry *e)
{
	return n_positions(e) ? e->tensor->n_elems / n_positions(e) : 0;
}

static enum st_status compare_entries(const struct st_trace_entry *a, const struct st_trace_entry *b,
                                      const enum st_dtype held[2], const struct turn *t, struct st_pool *pool,
                                      struct st_trace_row *r, struct st_error *err)
{
	uint64_t na = n_positions(a), nb = n_positions(b), each = width_of(a);
	if (nb == 0 || na == 0 || width_of(b) != each)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, a->tensor->name,
		                  "%llu values per position in A, %llu in B", (unsigned long long)each,
		                  (unsigned long long)width_of(b));
	struct match *m = st_alloc_zeroed(na, sizeof *m);
	ST_NEED(m);
	r->positions_a = na;
	r->positions_b = nb;
	r->positions = match_positions(a, b, m);
	enum st_status st = measure(a, b, held, m, r->positions, each, t, pool, err);
	bool logits = a->stage == ST_STAGE_LM_HEAD;
	uint64_t apart = 0, neighbours = 0, common = 0;
	r->min_cosine = r->positions ? INFINITY : NAN;
	for (uint64_t k = 0; k < r->positions && st == ST_OK; k++) {
		const struct st_sums *s = &m[k].s;
		double rel = s->apart ? INFINITY : s->dd == 0 ? 0 : s->bb > 0 ? sqrt(s->dd / s->bb) : INFINITY;
		double cosine = s->aa > 0 && s->bb > 0 ? s->ab / (sqrt(s->aa) * sqrt(s->bb)) : NAN;
		if (isnan(cosine) || cosine < r->min_cosine)
			r->min_cosine = cosine; /* once undefined it stays so: no comparison with NaN holds */
		if (rel > r->max_rel_l2) {
			r->max_rel_l2 = rel;
			r->worst_position = position_of(a, m[k].i);
		}
		r->max_abs = s->max > r->max_abs ? s->max : r->max_abs;
		r->nonfinite_a += s->bad_a;
		r->nonfinite_b += s->bad_b;
		r->nonfinite_apart += s->apart;
		r->blank += s->bad_a == each && !s->apart;
		apart += m[k].meetings.apart;
		neighbours += m[k].meetings.neighbours;
		common += m[k].common;
		r->top1 += logits && m[k].top[0] == m[k].top[1];
	}
	r->rounding = r->max_rel_l2 > 0 && st_diff_short(held[0], held[1]) && apart == 0
	           && st_diff_few_neighbours(neighbours, r->positions * each, held[0]);
	r->top5 = logits && r->positions && each >= LARGEST ? (double)common / (double)(LARGEST * r->positions) : NAN;
	free(m);
	return st;
}

static enum st_status check_tokens(const struct st_provenance *a, const struct st_provenance *b, struct st_error *err)
{
	if (!a->tokens || !b->tokens)
		return ST_OK;
	if (a->n_tokens != b->n_tokens)
		return st_fail(err, ST_ERR_MISMATCH, "tokens.mismatch: %zu tokens in A, %zu in B", a->n_tokens,
		               b->n_tokens);
	for (size_t i = 0; i < a->n_tokens; i++)
		if (a->tokens[i] != b->tokens[i])
			return st_fail(err, ST_ERR_MISMATCH, "tokens.mismatch: token %zu is %u in A, %u in B", i,
			               (unsigned)a->tokens[i], (unsigned)b->tokens[i]);
	return ST_OK;
}

static bool before(const struct st_trace_entry *x, const struct st_trace_entry *y)
{
	/* Whole-model stages: the embedding comes first, the others behind the layers. */
	int64_t lx = x->layer < 0 ? (x->stage == ST_STAGE_EMBEDDING ? -1 : INT32_MAX) : x->layer;
	int64_t ly = y->layer < 0 ? (y->stage == ST_STAGE_EMBEDDING ? -1 : INT32_MAX) : y->layer;
	return x->step != y->step ? x->step < y->step : lx != ly ? lx < ly : x->stage < y->stage;
}

/* A stage may be missing: engines fuse some, and models lack some. A whole layer is no such matter. */
static bool layer_missing(const struct st_diff *d)
{
	for (size_t i = 0, end; i < d->n_rows; i = end) {
		bool a = false, b = false;
		for (end = i;
		     end < d->n_rows && d->rows[end].layer == d->rows[i].layer && d->rows[end].step == d->rows[i].step;
		     end++) {
			a |= d->rows[end].on_a;
			b |= d->rows[end].on_b;
		}
		if (d->rows[i].layer >= 0 && a != b)
			return true;
	}
	return false;
}

enum st_status st_diff_traces(struct st_diff_state *s, const struct st_diff_options *o, struct st_error *err)
{
	struct st_diff *d = &s->d;
	const struct st_provenance *pa = st_trace_provenance(s->a.trace), *pb = st_trace_provenance(s->b.trace);
	ST_TRY(check_tokens(pa, pb, err));
	bool bases = pa->rope_layout[0] && pb->rope_layout[0] && strcmp(pa->rope_layout, pb->rope_layout) != 0;
	const uint32_t *heads = pa->heads[0] ? pa->heads : pb->heads;
	int noted = 0;
	if (!pa->known || !pb->known)
		noted = snprintf(d->note, sizeof d->note, "provenance of %s is unknown: tokens could not be checked",
		                 pa->known   ? "B"
		                 : pb->known ? "A"
		                             : "both");
	if (bases && !heads[0])
		snprintf(d->note + noted, sizeof d->note - (size_t)noted,
		         "%sQ and K stages are not compared: their basis is %s in A, %s in B, and neither says what "
		         "its heads are",
		         noted ? "; " : "", pa->rope_layout, pb->rope_layout);
	double layer = layer_error(pa, pb);
	size_t na = st_trace_n_entries(s->a.trace), nb = st_trace_n_entries(s->b.trace);
	d->rows = st_arena_alloc(&s->arena, na + nb ? na + nb : 1, sizeof *d->rows);
	if (!d->rows)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct past past = { 0 };
	int32_t last_layer = 0;
	for (size_t i = 0; i < na; i++) {
		int32_t l = st_trace_entry_at(s->a.trace, i)->layer;
		last_layer = l > last_layer ? l : last_layer;
	}
	for (size_t i = 0, j = 0; i < na || j < nb;) {
		const struct st_trace_entry *a = i < na ? st_trace_entry_at(s->a.trace, i) : NULL;
		const struct st_trace_entry *b = j < nb ? st_trace_entry_at(s->b.trace, j) : NULL;
		if (a && b && before(a, b))
			b = NULL;
		else if (a && b && before(b, a))
			a = NULL;
		i += a != NULL;
		j += b != NULL;
		const struct st_trace_entry *e = a ? a : b;
		if (!st_diff_wanted(o, st_stage_name(e->stage)) && !st_diff_wanted(o, e->tensor->name))
			continue;
		struct st_trace_row *r = &d->rows[d->n_rows];
		*r = (struct st_trace_row){ .stage = e->stage,
			                    .layer = e->layer,
			                    .step = e->step,
			                    .on_a = a,
			                    .on_b = b,
			                    .tensor_a = a ? a->tensor : NULL,
			                    .tensor_b = b ? b->tensor : NULL,
			                    .min_cosine = NAN,
			                    .top5 = NAN };
		d->n_rows++;
		d->only_a += a && !b;
		d->only_b += b && !a;
		struct turn turn = { 0 };
		if (!a || !b)
			continue;
		struct st_trace_entry ea = *a, eb = *b;
		a = &ea;
		b = &eb;
		ST_TRY(st_diff_axes(&ea.tensor, &eb.tensor, &s->arena, err));
		r->tensor_a = ea.tensor;
		r->tensor_b = eb.tensor;
		if (bases && st_diff_basis_matters(e->stage)
		    && !find_turn(e->stage, heads, width_of(a), pa->rope_layout[0] == 'i', &turn)) {
			st_diff_undecided(d, "Q and K lie in another order on the two sides and could not be compared");
			continue;
		}
		enum st_dtype held[2];
		ST_TRY(st_diff_held(ea.tensor, s->pool, &held[0], err));
		ST_TRY(st_diff_held(eb.tensor, s->pool, &held[1], err));
		ST_TRY(compare_entries(a, b, held, &turn, s->pool, r, err));
		if (!r->positions && a->tensor->n_elems && b->tensor->n_elems)
			st_diff_undecided(d, "a stage has no position that both sides hold");
		if (!r->positions || !a->tensor->n_elems)
			continue;
		d->compared++;
		/* Errors of layers add up like a random walk; an embedding row is only stored. */
		r->floor = FACTOR * (layer * sqrt(depth(r, last_layer)) + F32_STEP);
		if (r->stage == ST_STAGE_EMBEDDING && !isnan(layer))
			r->floor = FACTOR * (hypot(type_error(pa->weights), type_error(pb->weights)) + F32_STEP);
		if (!isnan(r->floor)) /* and what the types round that the values themselves were written in */
			r->floor += type_step(held[0]) + type_step(held[1]);
		if (!isnan(r->floor))
			r->floor = fmin(LARGEST_FLOOR, fmax(r->floor, INHERITED * past.largest));
		r->status = judge(r, layer, last_layer, &past);
		d->over_threshold |= st_diff_beyond(o, r->max_abs, r->max_rel_l2);
		if (r->status == ST_DIFF_FAULT && !d->fault) {
			d->fault = true;
			d->first = d->n_rows - 1;
		}
		if (r->status == ST_DIFF_UNDECIDED && d->first == SIZE_MAX)
			d->first = d->n_rows - 1;
		if (r->status == ST_DIFF_UNDECIDED && !(isnan(r->floor) && !r->blank && st_diff_has_threshold(o)))
			st_diff_undecided(d, r->blank ? "a stage has no finite value on either side"
			                     : isnan(r->floor)
			                             ? "they differ, and nothing says by how much they may "
			                               "(--threshold, or traces with provenance)"
			                             : "a stage is further apart than estimated, and came there by and "
			                               "by; with the models at hand, rosetta can tell");
		past.last = r;
		if (r->status != ST_DIFF_FAULT)
			past.largest = fmax(past.largest, r->max_rel_l2);
		if (o->hooks.progress)
			o->hooks.progress(o->hooks.user, "comparing stages", i, na);
	}
	if (layer_missing(d))
		st_diff_undecided(d, "a layer is on one side only");
	return st_diff_others(s, o, err);
}
