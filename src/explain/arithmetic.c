/*
 * arithmetic.c - the arithmetics of sound engines, and whether one of them accounts for a difference: docs/floors.md,
 * "What an engine's arithmetic may do".
 */
#include "explain/explain.h"

#include "base/error.h"
#include "explain/rounding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* From the finest to the coarsest: the first one that accounts for a difference is named. */
#define F32 ST_DTYPE_F32
#define F16 ST_DTYPE_F16
#define BF16 ST_DTYPE_BF16
#define Q8_0 ST_DTYPE_Q8_0
#define PLAIN .mode = ST_MODE_EXACT, .out = F32, .cache = F32, .query = F32, .sums = F32
#define PRODUCTS(m) .mode = ST_MODE_EMULATE_##m, .out = F32, .cache = F32, .query = F32, .sums = F32
#define RESULTS(m, t) .mode = m, .out = t, .cache = F32, .query = F32, .sums = F32, .ops = ST_ARITH_ALL
#define CACHE(c, q, s) .mode = ST_MODE_EXACT, .out = F32, .cache = c, .query = q, .sums = s, .ops = ST_ARITH_ATTENTION
const struct st_arith st_ariths[] = {
	{ "f32", PLAIN, .ops = ST_ARITH_ALL },
	{ "f16 operands", PRODUCTS(F16), .ops = ST_ARITH_LINEAR },
	{ "f16 cache", CACHE(F16, F32, F32) },
	{ "f16 cache and queries", CACHE(F16, F16, F32) },
	{ "f16 attention", PRODUCTS(F16), .ops = ST_ARITH_ATTENTION },
	{ "flash attention, sums in f16", CACHE(F16, F16, F16) },
	{ "bf16 operands", PRODUCTS(BF16), .ops = ST_ARITH_LINEAR },
	{ "bf16 cache", CACHE(BF16, F32, F32) },
	{ "bf16 cache and queries", CACHE(BF16, BF16, F32) },
	{ "bf16 attention", PRODUCTS(BF16), .ops = ST_ARITH_ATTENTION },
	{ "f16 table of GELU", PLAIN, .table = true, .ops = ST_ARITH_GELU },
	{ "q8_0 activations", PRODUCTS(Q8_0), .ops = ST_ARITH_LINEAR },
	{ "q8_k activations", PRODUCTS(Q8_K), .ops = ST_ARITH_LINEAR },
	{ "activations as each weight asks for", PLAIN, .partner = true, .table = true, .ops = ST_ARITH_LINEARS },
	{ "activations as each weight asks for, f16 cache", .mode = ST_MODE_EXACT, .out = F32, .cache = F16,
	  .query = F16, .sums = F16, .partner = true, .table = true, .ops = ST_ARITH_LINEARS },
	{ "q8_0 cache", CACHE(Q8_0, F32, F32) },
	{ "q8_0 cache and queries", CACHE(Q8_0, Q8_0, F32) },
	{ "q8_0 cache and queries, in Hadamard's basis", CACHE(Q8_0, Q8_0, F32), .turned = true },
	{ "f16 results", RESULTS(ST_MODE_EMULATE_F16, F16) },
	{ "bf16 results", RESULTS(ST_MODE_EMULATE_BF16, BF16) },
	{ "written down in f16", RESULTS(ST_MODE_EXACT, F16), .dump = true },
	{ "written down in bf16", RESULTS(ST_MODE_EXACT, BF16), .dump = true },
};
const size_t st_n_ariths = sizeof st_ariths / sizeof *st_ariths;

/* An emulated arithmetic rounds at other places than the engine does: docs/floors.md, the same section, "Emulated". */
#define ALLOWS 1.5    /* times the emulation's own difference */
#define EXTREME 12.0  /* of a token's root mean square: no element of noise is beyond */
#define SIGNIFICANT 6 /* standard deviations */

static bool concerns(const struct st_explainer *x, const struct st_segment *s, const struct st_arith *a)
{
	size_t linears = 0;
	if (a->ops & ST_ARITH_ALL)
		return true;
	for (uint32_t i = s->first; i <= s->node; i++) {
		const struct st_node *n = &x->g->nodes[i];
		bool linear = n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT,
		     mixes = n->op == ST_OP_SCORES || n->op == ST_OP_MIX;
		bool gelu = n->op == ST_OP_ACT && n->act != ST_ACT_SILU;
		if (!x->inner[i])
			continue;
		if (mixes && a->turned && n->head_dim % 64 != 0)
			return false;
		if ((linear && a->ops & ST_ARITH_LINEAR) || (mixes && a->ops & ST_ARITH_ATTENTION)
		    || (gelu && a->ops & ST_ARITH_GELU))
			return true;
		linears += linear || mixes || gelu;
	}
	return linears > 1 && a->ops & ST_ARITH_LINEARS;
}

/* A soft-max of scores that were not captured. A score was rounded to the type three times: the product, the factor,
 * and what is added. A probability is off by the roundings of its own score, and by those of the sum, which are at most
 * those of the largest score. */
static void bound_rounded_scores(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                                 const float *value, const struct st_value *v)
{
	const float *scores = st_run_value(x->run, n->in[0]).data;
	double unit = 3 * st_unit_roundoff(a->out);
	for (size_t r = 0; r < v->rows; r++) {
		double most = 0;
		for (size_t i = r * v->cols; i < (r + 1) * v->cols; i++)
			most = value[i] > 0 ? fmax(most, unit * fabs(scores[i])) : most;
		for (size_t i = r * v->cols; i < (r + 1) * v->cols; i++)
			x->bound[i] += (float)(value[i] * expm1(unit * fabs(scores[i]) + most));
	}
}

/* A factor that was not captured: what may happen to it, times the other one. */
static enum st_status bound_factors(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                                    const struct st_value *v, struct st_error *err)
{
	for (int k = 0; k < 2; k++) {
		uint32_t in = n->in[k], other = n->in[1 - k];
		if (in == ST_NO_NODE || other == ST_NO_NODE || !x->inner[in])
			continue;
		struct st_value f = st_run_value(x->run, in), g = st_run_value(x->run, other);
		if (f.rows != v->rows || f.cols != v->cols || g.rows != v->rows || g.cols != v->cols)
			continue;
		memset(x->moved, 0, v->rows * v->cols * sizeof *x->moved);
		ST_TRY(st_bound_of_node(x, in, &x->g->nodes[in], a, f.data, x->moved, err));
		for (size_t i = 0; i < v->rows * v->cols; i++)
			x->bound[i] += x->moved[i] * fabsf(g.data[i]);
	}
	return ST_OK;
}

/* x + y + z, where x + y was not captured. An engine may add z to x or to y first: that sum is rounded, too. */
static void bound_order_of_sum(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                               const struct st_value *v)
{
	for (int k = 0; k < 2; k++) {
		uint32_t in = n->in[k], other = n->in[1 - k];
		if (in == ST_NO_NODE || other == ST_NO_NODE || !x->inner[in] || x->g->nodes[in].op != ST_OP_ADD)
			continue;
		const uint32_t terms[3] = { other, x->g->nodes[in].in[0], x->g->nodes[in].in[1] };
		bool alike = true;
		for (int t = 0; t < 3; t++) {
			struct st_value term = terms[t] == ST_NO_NODE ? (struct st_value){ 0 }
			                                              : st_run_value(x->run, terms[t]);
			alike = alike && term.rows == v->rows && term.cols == v->cols;
		}
		const float *first = alike ? st_run_value(x->run, other).data : NULL;
		for (size_t i = 0; i < v->rows * v->cols && alike; i++) {
			float one = first[i] + st_run_value(x->run, terms[1]).data[i];
			float two = first[i] + st_run_value(x->run, terms[2]).data[i];
			x->bound[i] += st_half_unit(a->out, fmaxf(fabsf(one), fabsf(two)));
		}
	}
}

/* What the arithmetic may do to each element of `value`, which the segment has in the way w. */
static enum st_status bound_segment(struct st_explainer *x, const struct st_segment *s, const struct st_way *w,
                                    const struct st_arith *a, const float *value, struct st_error *err)
{
	struct st_value v = st_run_value(x->run, s->node);
	size_t n = v.rows * v.cols;
	memset(x->bound, 0, n * sizeof *x->bound);
	const struct st_node *node = w->edit == s->node && w->as ? w->as : &x->g->nodes[s->node];
	ST_TRY(st_bound_of_node(x, s->node, node, a, value, x->bound, err));
	if (node->op == ST_OP_MUL)
		ST_TRY(bound_factors(x, node, a, &v, err));
	if (node->op == ST_OP_ADD)
		bound_order_of_sum(x, node, a, &v);
	if (node->op == ST_OP_SOFTMAX && x->inner[node->in[0]] && a->out != F32 && !a->dump)
		bound_rounded_scores(x, node, a, value, &v);
	if (s->n_inner == 1 && !a->dump)
		return ST_OK;
	/* Inner values were rounded as well. They are moved at random by what rounding may do, and what comes out is
	 * measured: four times a token's root mean square and four times the element's own difference are allowed. */
	struct st_way moved = *w;
	moved.arith = a;
	moved.jiggle = 1;
	moved.move_inputs = a->dump;
	/* A trial's own numbers for the node's value do not move. The node as it is moves in their place. */
	const float *put = w->edit == s->node ? w->value : NULL;
	if (put)
		moved.edit = ST_NO_NODE;
	float *other = x->moved;
	ST_TRY(st_segment_eval(x, s, &moved, other, err));
	for (size_t r = 0; r < v.rows; r++) {
		double sum = 0;
		for (size_t i = r * v.cols; i < (r + 1) * v.cols; i++) {
			other[i] -= put ? (float)((double)value[i] - ((double)put[i] - x->exact[i])) : value[i];
			sum += (double)other[i] * other[i];
		}
		float all = (float)(4 * sqrt(sum / (double)v.cols));
		for (size_t i = r * v.cols; i < (r + 1) * v.cols; i++)
			x->bound[i] += all + 4 * fabsf(other[i]);
	}
	return ST_OK;
}

/* ---- is it noise of the size of `like`, without structure? ---- */

struct shape {
	double rms, gain, coherence; /* gain: of the difference in the value; coherence: of its means over tokens */
	double worst;                /* largest element, in root mean squares of its token */
	double usual_gain, usual_sd; /* gain of usual features alone, and how far it would be from 0 by chance */
	double feature;              /* the mean square of the worst feature, in that of all */
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* A few features may be so much larger than the rest that a gain is theirs alone. Those whose mean square is up to
 * sixteen times the median are usual: square[i] becomes 1 for them, and 0 for the others. */
static void mark_usual(double *square, size_t n, double *sorted)
{
	memcpy(sorted, square, n * sizeof *square);
	qsort(sorted, n, sizeof *sorted, by_value);
	double limit = 16 * sorted[n / 2];
	for (size_t i = 0; i < n; i++)
		square[i] = square[i] <= limit;
}

/* usual: [cols] */
static struct shape shape_of(const struct st_explainer *x, const struct st_node *n, const struct st_value *v,
                             const float *a, const float *b, const double *usual, double *by_row)
{
	struct shape s = { 0 };
	double dd = 0, dy = 0, yy = 0, count = 0, usual_dy = 0, usual_yy = 0, usual_dd = 0, usual_count = 0;
	for (size_t r = 0; r < v->rows; r++) {
		double sum = 0, most = 0, in_row = 0;
		for (size_t i = 0; i < v->cols; i++) {
			if (!st_capture_counts(x, n, v, x->have, r, i))
				continue;
			double d = (double)a[r * v->cols + i] - b[r * v->cols + i], y = x->exact[r * v->cols + i];
			sum += d * d;
			dy += d * y;
			yy += y * y;
			usual_dy += usual[i] * d * y;
			usual_yy += usual[i] * y * y;
			usual_dd += usual[i] * d * d;
			usual_count += usual[i];
			most = fmax(most, fabs(d));
			in_row++;
		}
		by_row[r] = in_row ? sqrt(sum / in_row) : 0;
		if (in_row >= 32 && sum > 0)
			s.worst = fmax(s.worst, most / by_row[r]);
		dd += sum;
		count += in_row;
	}
	s.rms = count ? sqrt(dd / count) : 0;
	s.gain = yy > 0 ? dy / yy : 0;
	s.usual_gain = usual_yy > 0 ? usual_dy / usual_yy : 0;
	double coherent = 0, whole = 0;
	for (size_t i = 0; i < v->cols && v->rows >= 4; i++) {
		double sum = 0, square = 0, n_rows = 0;
		for (size_t r = 0; r < v->rows; r++) {
			if (!st_capture_counts(x, n, v, x->have, r, i))
				continue;
			double d = (double)a[r * v->cols + i] - b[r * v->cols + i];
			sum += d;
			square += d * d;
			n_rows++;
		}
		if (n_rows && s.rms > 0)
			s.feature = fmax(s.feature, square / n_rows / (s.rms * s.rms));
		coherent += sum * sum;
		whole += square;
	}
	s.coherence = whole > 0 ? coherent / whole
	                        : 0; /* 1 where tokens err for themselves, their number where alike */
	/* Of what the gain leaves. Tokens that err alike are not so many. */
	if (usual_yy > 0)
		s.usual_sd = sqrt(fmax(usual_dd - usual_dy * s.usual_gain, 0) / usual_count * fmax(s.coherence, 1) / usual_yy);
	return s;
}

/* Results in f32 are not all short. */
static bool any_longer_than(int bits, const float *v, size_t n)
{
	size_t i = 0;
	while (i < n && st_significant_bits(v[i]) <= bits)
		i++;
	return i < n;
}

/* How large the worst of so many features may be by chance, in the mean square of all (Laurent and Massart, 2000); the
 * emulation's own tells how unequal they are. */
static double most_of_feature(const struct shape *like, double rows, double features)
{
	double u = log(features / 1e-9), chance = 1 + 2 * sqrt(u / rows) + 2 * u / rows;
	return chance * fmax(1, like->feature / 2);
}

/* Of a difference that is noise x->bound becomes what an element may be apart, and f->gain the least gain that is none. */
static bool is_noise_like(struct st_explainer *x, const struct st_segment *s, const float *value, const float *emulated,
                          struct st_fit *f)
{
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node);
	double *a = st_alloc_array2(2, v.rows, sizeof *a), *b = a ? a + v.rows : NULL;
	double *usual = st_alloc_array2(2, v.cols, sizeof *usual);
	if (!a || !usual) {
		free(a);
		free(usual);
		return false;
	}
	memset(usual, 0, v.cols * sizeof *usual);
	for (size_t i = 0; i < v.rows * v.cols; i++)
		if (st_capture_counts(x, n, &v, x->have, i / v.cols, i % v.cols))
			usual[i % v.cols] += (double)x->exact[i] * x->exact[i];
	mark_usual(usual, v.cols, usual + v.cols);
	struct shape got = shape_of(x, n, &v, x->got, value, usual, a),
		     like = shape_of(x, n, &v, emulated, value, usual, b);
	free(usual);
	double count = (double)v.rows * (double)v.cols, features = (double)v.cols;
	bool noise = like.rms > 0 && count >= 64 && any_longer_than(7, x->got, v.rows * v.cols);
	for (size_t r = 0; r < v.rows; r++)
		noise = noise && a[r] <= ALLOWS * b[r] * (1 + SIGNIFICANT / sqrt(2 * features));
	double norm = 0; /* the gain of noise has this standard deviation, about 0 */
	for (size_t i = 0; i < v.rows * v.cols; i++)
		norm += (double)value[i] * value[i];
	double sd = norm > 0 ? got.rms / sqrt(norm) : 0;
	double extreme = fmax(EXTREME, 1.5 * like.worst);
	f->gain = fabs(like.gain) * ALLOWS + SIGNIFICANT * sd;
	noise = noise && got.worst <= extreme && fabs(got.gain) <= f->gain
	     && got.coherence <= fmax(like.coherence, 1) * (1 + SIGNIFICANT * sqrt(2 / features));
	noise = noise && fabs(got.usual_gain) <= fabs(like.usual_gain) * ALLOWS + SIGNIFICANT * got.usual_sd;
	noise = noise && got.feature <= most_of_feature(&like, (double)v.rows, features);
	for (size_t i = 0; i < v.rows * v.cols && noise; i++)
		x->bound[i] = (float)(extreme * a[i / v.cols]);
	free(a);
	return noise;
}

/* ---- fits ---- */

/* Relative L2 of sums of squares: of a difference, and of what it is a part of. */
static double part_of(double dd, double yy)
{
	double rel = yy > 0 ? sqrt(dd / yy) : dd > 0 ? (double)INFINITY : 0;
	return isnan(dd) || isnan(yy) || isnan(rel) ? (double)INFINITY : rel;
}

/* as: the node as it was evaluated. */
static void compare(struct st_explainer *x, const struct st_segment *s, const struct st_node *as, const float *value,
                    struct st_fit *f)
{
	size_t looks = 0;
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node);
	double dd = 0, yy = 0;
	f->ratio = 0;
	f->row = f->col = 0;
	for (size_t r = 0; r < v.rows; r++)
		for (size_t i = 0; i < v.cols; i++) {
			if (!st_capture_counts(x, n, &v, x->have, r, i))
				continue;
			size_t k = r * v.cols + i;
			double d = fabs((double)x->got[k] - value[k]), ratio = d == 0 ? 0 : d / x->bound[k];
			double more;
			if (ratio > 1 && ratio < 1e4 && looks++ < 256 && st_bound_again(x, s->node, as, r, i, &more)) {
				ratio = d / (x->bound[k] + more);
				looks = ratio > 1 ? 256 : looks; /* one beyond is enough */
			}
			dd += d * d;
			yy += (double)value[k] * value[k];
			if (ratio > f->ratio || isnan(ratio)) {
				f->ratio = isnan(ratio) ? INFINITY : ratio;
				f->row = r;
				f->col = i;
			}
		}
	f->rel = part_of(dd, yy);
	f->noise = f->ratio <= 1;
}

/* |a - b| / |of| over the elements that count; b: NULL for zeros. */
static double relative_where_counted(const struct st_explainer *x, const struct st_segment *s, const float *a,
                                     const float *b, const float *of)
{
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node);
	double dd = 0, yy = 0;
	for (size_t r = 0; r < v.rows; r++)
		for (size_t i = 0; i < v.cols; i++) {
			size_t k = r * v.cols + i;
			double d = b ? (double)a[k] - b[k] : a[k];
			if (!st_capture_counts(x, n, &v, x->have, r, i))
				continue;
			dd += d * d;
			yy += (double)of[k] * of[k];
		}
	return part_of(dd, yy);
}

double st_fit_left(const struct st_explainer *x, const struct st_segment *s, const float *value)
{
	return relative_where_counted(x, s, x->got, value, value);
}

/* Whether every number that counts is one of the type. */
static bool all_held_in(const struct st_explainer *x, const struct st_segment *s, enum st_dtype type)
{
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node);
	for (size_t r = 0; r < v.rows; r++)
		for (size_t i = 0; i < v.cols; i++) {
			float y = x->got[r * v.cols + i], held = y;
			st_round_to(type, &held, 1, 1);
			if (held != y && st_capture_counts(x, n, &v, x->have, r, i))
				return false;
		}
	return true;
}

static double relative(const struct st_explainer *x, const struct st_segment *s, const float *a, const float *b)
{
	struct st_value v = st_run_value(x->run, s->node);
	double dd = 0, yy = 0;
	for (size_t i = 0; i < v.rows * v.cols; i++) {
		double d = b ? (double)a[i] - b[i] : a[i], y = b ? b[i] : x->exact[i];
		dd += d * d;
		yy += y * y;
	}
	return yy > 0 ? sqrt(dd / yy) : 0;
}

/* Inputs that were moved are what was captured again. */
static enum st_status restore_inputs(struct st_explainer *x, const struct st_segment *s, struct st_error *err)
{
	for (uint32_t i = s->from; i < s->node; i++) {
		struct st_value v = st_run_value(x->run, i);
		if (!x->input[i])
			continue;
		ST_TRY(st_capture_load(x, i, v.data, v.data, x->have_input, err));
		st_run_put(x->run, i, v.data);
	}
	return ST_OK;
}

/* ---- the choice of experts ---- */

static bool has(const float *set, size_t n, float e)
{
	for (size_t i = 0; i < n; i++)
		if (set[i] == e)
			return true;
	return false;
}

/* How far a key of the choice may be off: by 16 units of the largest key, and, where the matrix product that made the
 * keys was not captured, by twice that product's bound. */
static enum st_status slack_of_keys(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                                    size_t row, double most, double *slack, struct st_error *err)
{
	const struct st_node *key = &x->g->nodes[n->in[0]];
	double unit = a->out == F32 ? 0x1p-24 : st_unit_roundoff(a->out);
	*slack = 16 * unit * most;
	for (uint32_t i = n->in[0]; i != ST_NO_NODE && x->inner[i]; i = x->g->nodes[i].in[0]) {
		struct st_value v = st_run_value(x->run, i);
		double largest = 0;
		if (x->g->nodes[i].op != ST_OP_LINEAR)
			continue;
		memset(x->moved, 0, v.rows * v.cols * sizeof *x->moved);
		ST_TRY(st_bound_of_node(x, i, &x->g->nodes[i], a, v.data, x->moved, err));
		for (size_t c = 0; c < v.cols; c++)
			largest = fmax(largest, x->moved[row * v.cols + c]);
		/* Keys behind a soft-max or a sigmoid move in proportion to their size. */
		*slack += key->op == ST_OP_LINEAR || key->op == ST_OP_BIAS ? 2 * largest : 4 * largest * most;
		break;
	}
	return ST_OK;
}

/* A choice is a set; rel and floor are the gap between the keys and how far these may be off, in parts of the largest
 * key, where that gap is widest. Another one is noise where an expert that was chosen and one that was passed over have keys as
 * near to each other as rounding may bring them. */
static enum st_status fit_choice(struct st_explainer *x, const struct st_segment *s, const float *value,
                                 const struct st_arith *a, struct st_fit *f, struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node), keys = st_run_value(x->run, n->in[0]);
	*f = (struct st_fit){ .arith = a, .noise = true, .reach = INFINITY };
	float *bias = NULL;
	if (n->n_w && n->w[0]) {
		bias = st_alloc_array((size_t)n->w[0]->tensor->n_elems, sizeof *bias);
		if (!bias)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		st_tensor_decode(n->w[0]->tensor, 0, st_tensor_rows(n->w[0]->tensor), bias);
	}
	enum st_status st = ST_OK;
	for (size_t r = 0; r < v.rows && st == ST_OK; r++) {
		const float *got = x->got + r * v.cols, *want = value + r * v.cols, *key = keys.data + r * keys.cols;
		double passed = -INFINITY, chosen = INFINITY, most = 0, slack = 0;
		for (size_t c = 0; c < keys.cols; c++) {
			double k = (double)key[c] + (bias ? bias[c] : 0);
			most = fmax(most, fabs(k));
			if (has(want, v.cols, (float)c) && !has(got, v.cols, (float)c))
				passed = fmax(passed, k);
			if (!has(want, v.cols, (float)c) && has(got, v.cols, (float)c))
				chosen = fmin(chosen, k);
		}
		if (!isfinite(passed) || !st_capture_counts(x, n, &v, x->have, r, 0))
			continue;
		st = slack_of_keys(x, n, a, r, most, &slack, err);
		double ratio = (passed - chosen) / slack, gap = most > 0 ? fabs(passed - chosen) / most : 0;
		if (gap > f->rel) {
			f->rel = gap;
			f->floor = slack / most;
		}
		if (ratio > f->ratio) {
			f->ratio = ratio;
			f->row = r;
		}
		f->noise = f->noise && ratio <= 1 && n->groups.used >= n->groups.all;
	}
	free(bias);
	return st;
}

static enum st_status fit_one(struct st_explainer *x, const struct st_segment *s, const struct st_way *w,
                              const float *exact, const struct st_arith *a, struct st_fit *f, struct st_error *err)
{
	bool emulated = a->mode != ST_MODE_EXACT || a->cache != ST_DTYPE_F32 || a->partner || a->table;
	const float *value = exact;
	struct st_way way = *w;
	f->arith = a;
	if (x->g->nodes[s->node].op == ST_OP_TOP)
		return fit_choice(x, s, exact, a, f, err);
	if (a->out != ST_DTYPE_F32
	    && (!all_held_in(x, s, a->out) || (a->dump && x->pass.at[s->node]->tensor->dtype != a->out))) {
		f->ratio = f->rel = INFINITY; /* a result that was rounded to the type is one of its numbers */
		return ST_OK;
	}
	if (emulated) {
		/* A trial's own numbers: what the arithmetic does to the node as it is, is added to them. */
		way.arith = a;
		way.edit = w->value ? ST_NO_NODE : w->edit;
		ST_TRY(st_segment_eval(x, s, &way, x->tried, err));
		way.edit = w->edit;
		struct st_value v = st_run_value(x->run, s->node);
		for (size_t k = 0; k < v.rows * v.cols && w->value; k++)
			x->tried[k] += exact[k] - x->exact[k];
		value = x->tried;
	}
	ST_TRY(bound_segment(x, s, &way, a, value, err));
	compare(x, s, w->edit == s->node && w->as ? w->as : &x->g->nodes[s->node], value, f);
	f->floor = emulated ? relative(x, s, value, exact) : relative(x, s, x->bound, NULL);
	f->reach = relative_where_counted(x, s, x->bound, NULL, exact)
	         + (emulated ? relative_where_counted(x, s, value, exact, exact) : 0);
	if (emulated && a->out == ST_DTYPE_F32 && !f->noise && is_noise_like(x, s, exact, value, f)) {
		f->noise = f->by_size = true;
		f->ratio = f->floor > 0 ? relative(x, s, x->got, exact) / f->floor : 0;
	}
	if (a->dump)
		ST_TRY(restore_inputs(x, s, err));
	return s->n_inner > 1 ? st_segment_eval(x, s, w, x->tried, err) : ST_OK; /* inner values as they were */
}

enum st_status st_fit_of_value(struct st_explainer *x, const struct st_segment *s, const struct st_way *w,
                               const float *exact, struct st_fit *out, struct st_error *err)
{
	struct st_fit best = { .ratio = INFINITY };
	double plain = 0, reach = 0;
	uint8_t known = x->usual[x->g->nodes[s->node].stage], usual = known ? known : x->exact_usual;
	/* Where every number is one of F16 or BF16, results in that type are tried first. Most numbers of BF16 are
	 * numbers of F16 as well, so the later one in the table wins. */
	for (size_t i = 0; i < st_n_ariths && x->g->nodes[s->node].op != ST_OP_TOP; i++)
		if (st_ariths[i].out != F32 && !st_ariths[i].dump && all_held_in(x, s, st_ariths[i].out))
			usual = (uint8_t)(i + 1);
	for (size_t k = 0; k < st_n_ariths + 1; k++) { /* f32, what accounted for the stage before, the others */
		size_t i = k == 0 ? 0 : k == 1 ? (usual ? usual - 1u : 0) : k - 1;
		struct st_fit f = { 0 };
		if ((k == 1 && i == 0) || (k > 1 && (i == 0 || i + 1 == usual)) || !concerns(x, s, &st_ariths[i]))
			continue;
		ST_TRY(fit_one(x, s, w, exact, &st_ariths[i], &f, err));
		plain = k == 0 ? f.ratio : plain;
		f.plain = plain;
		f.reach = reach = fmax(reach, f.reach);
		/* One that accounts for every element is worth more than one that makes noise of the same size; where the
		 * stage came before, that has been asked. */
		if (f.noise && (!f.by_size || known || w->value || w->as || w->also || w->make)) {
			*out = f;
			return ST_OK;
		}
		if (!best.noise && (f.noise || f.ratio < best.ratio || !best.arith))
			best = f;
	}
	*out = best;
	/* Bounds are left as those of the answer. */
	if (best.noise)
		ST_TRY(fit_one(x, s, w, exact, best.arith, out, err));
	out->plain = plain;
	out->reach = reach;
	return ST_OK;
}
