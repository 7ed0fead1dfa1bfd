/*
 * bound.c - what rounding may do to each element of one operation: docs/floors.md, "What an engine's arithmetic may
 * do".
 *
 * A sum in f32 may be taken in any order. One term after the other, a sum of K products errs by 0.3 sqrt(K) units of
 * the root of the sum of their squares on average; seven times that is allowed. A result is rounded to a type once, and
 * once more where engines are known to round in between.
 */
#include "explain/explain.h"

#include "base/error.h"
#include "base/mem.h"
#include "explain/rounding.h"

#include <math.h>
#include <stdlib.h>

#define UNIT 0x1p-24f
#define SUM 2.0f /* units for each sqrt(K): seven times 0.3 */

struct job {
	struct st_explainer *x;
	const struct st_node *n;
	const float *in[2];
	size_t ld[2];
	const float *y;
	float *bound;
	size_t rows, cols, T, P;
	enum st_dtype out;
	float unit; /* of the type that results are rounded to; 0 where that is f32 */
	bool table;
	float sums; /* unit of what attention adds up in */
};

static double rms(const float *v, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)v[i] * v[i];
	return sqrt(sum / (double)n);
}

/* a |y| + b times the row's root mean square, and two roundings: of the captured value, and of the one beside it. */
static void plain(const struct job *j, float a, float b)
{
	for (size_t r = 0; r < j->rows; r++) {
		const float *y = j->y + r * j->cols;
		float *to = j->bound + r * j->cols, all = b == 0 ? 0 : b * (float)rms(y, j->cols);
		for (size_t i = 0; i < j->cols; i++)
			to[i] += (a + UNIT) * fabsf(y[i]) + all + st_half_unit(j->out, y[i]);
	}
}

/* The root of the sum of squares of the terms of one element. */
static double terms(const struct st_weight *w, size_t row, const float *x, float *w_row)
{
	double sum = 0;
	st_weight_decode(w, row, 1, w_row);
	for (size_t k = 0; k < st_weight_cols(w); k++)
		sum += (double)w_row[k] * x[k] * w_row[k] * x[k];
	return sqrt(sum);
}

bool st_bound_again(struct st_explainer *x, uint32_t i, const struct st_node *n, size_t row, size_t col, double *more)
{
	struct st_value in;
	if (n->op != ST_OP_LINEAR || n->in[0] == ST_NO_NODE)
		return false;
	in = st_run_value(x->run, n->in[0]);
	struct st_value v = st_run_value(x->run, i);
	size_t at = 0, k = 0, r = v.rows == 1 ? in.rows - 1 : row;
	while (k < n->n_w && col >= at + st_weight_rows(n->w[k]))
		at += (size_t)st_weight_rows(n->w[k++]);
	if (k == n->n_w || n->w[k]->interleaved)
		return false;
	uint64_t K = st_weight_cols(n->w[k]);
	float *w_row = st_alloc_array(K, sizeof *w_row);
	if (!w_row)
		return false;
	*more = SUM * UNIT * sqrt((double)K) * terms(n->w[k], col - at, in.data + r * in.cols, w_row);
	free(w_row);
	return true;
}

/* Of each weight's rows, so that K is not lost beside a larger V. */
static void linear(const struct job *j)
{
	float more = j->n->softcap != 0 ? 4 * j->unit + 8 * UNIT : 0;
	size_t at = 0;
	for (uint32_t k = 0; k < j->n->n_w; k++) {
		size_t len = (size_t)st_weight_rows(j->n->w[k]);
		float b = SUM * UNIT * sqrtf((float)st_weight_cols(j->n->w[k]));
		for (size_t r = 0; r < j->rows; r++) {
			const float *y = j->y + r * j->cols + at;
			float *to = j->bound + r * j->cols + at, all = b * (float)rms(y, len);
			for (size_t i = 0; i < len; i++)
				to[i] += all + (4 * UNIT + b + more) * fabsf(y[i]) + st_half_unit(j->out, y[i]);
		}
		at += len;
	}
}

/* Whether an engine that keeps everything in the type has other weights than the file. */
static bool weights_are_rounded(const struct job *j)
{
	for (uint32_t k = 0; k < j->n->n_w && j->unit > 0; k++) {
		const struct st_weight *w = j->n->w[k];
		if (!w || !w->tensor || w->tensor->dtype == j->out)
			continue;
		uint64_t rows = st_tensor_rows(w->tensor), cols = st_tensor_cols(w->tensor);
		float *row = st_alloc_array(cols, sizeof *row);
		bool held = row != NULL;
		for (uint64_t r = 0; r < rows && held; r++) {
			st_tensor_decode(w->tensor, r, 1, row);
			for (uint64_t i = 0; i < cols && held; i++) {
				float v = row[i];
				st_round_to(j->out, &v, 1, 1);
				held = v == row[i];
			}
		}
		free(row);
		if (!held)
			return true;
	}
	return false;
}

static float largest_of(const struct st_weight *w)
{
	float most = 0, *v = st_alloc_array((size_t)w->tensor->n_elems, sizeof *v);
	if (v)
		st_tensor_decode(w->tensor, 0, st_tensor_rows(w->tensor), v);
	for (size_t i = 0; v && i < w->tensor->n_elems; i++)
		most = fmaxf(most, fabsf(v[i]));
	free(v);
	return most;
}

/* The root of the mean square of D numbers, all of one sign, and a rounding before the weight is multiplied. */
static void norm(const struct job *j, size_t D)
{
	plain(j, UNIT * (4 + sqrtf((float)D)) + j->unit * (weights_are_rounded(j) ? 2 : 1), 0);
	/* Where that rounding meets the least numbers of the type, it is no part of the number. */
	float least = j->out == ST_DTYPE_F32 || !j->n->n_w || !j->n->w[0] || !j->n->w[0]->tensor
	                    ? 0
	                    : st_half_unit(j->out, 0) * (1 + largest_of(j->n->w[0])); /* 1: may be added to it */
	for (size_t i = 0; i < j->rows * j->cols && least > 0; i++)
		j->bound[i] += least;
	if (j->n->op != ST_OP_LAYERNORM)
		return;
	float bias = j->n->n_w > 1 && j->n->w[1] && j->n->w[1]->tensor ? largest_of(j->n->w[1]) : 0;
	/* What the mean loses where it is large beside what varies about it. */
	for (size_t r = 0; r < j->rows; r++) {
		const float *x = j->in[0] + r * j->ld[0], *y = j->y + r * j->cols;
		double mean = 0, square = 0;
		for (size_t i = 0; i < j->cols; i++)
			mean += x[i];
		mean /= (double)j->cols;
		for (size_t i = 0; i < j->cols; i++)
			square += (x[i] - mean) * (x[i] - mean);
		double ratio = 1 + fabs(mean) / sqrt(square / (double)j->cols + j->n->eps);
		float all = (float)(UNIT * (4 + sqrt((double)j->cols)) * ratio * rms(y, j->cols))
		          + j->unit * ((float)rms(y, j->cols) + 2 * bias);
		for (size_t i = 0; i < j->cols; i++)
			j->bound[r * j->cols + i] += all;
	}
}

/* Frequencies are powers that were multiplied up one by one, angles are products in f32; cos, sin and both products may
 * be rounded. */
static void rope(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t half = n->n_rot / 2;
	for (size_t r = 0; r < j->rows; r++)
		for (size_t h = 0; h < n->heads; h++) {
			const float *y = j->y + r * j->cols + h * n->head_dim;
			float *to = j->bound + r * j->cols + h * n->head_dim;
			double pos = (double)(j->P - j->T + r);
			for (size_t i = 0; i < half; i++) {
				float size = hypotf(y[i], y[i + half]);
				float angle = n->inv_freq ? (float)(pos * n->inv_freq[i]) : (float)pos;
				float may = size * (UNIT * (4 + angle * (4 + (float)i)) + 3 * j->unit);
				to[i] += may + st_half_unit(j->out, y[i]);
				to[i + half] += may + st_half_unit(j->out, y[i + half]);
			}
			for (size_t i = n->n_rot; i < n->head_dim; i++)
				to[i] += st_half_unit(j->out, y[i]);
		}
}

static float length(const float *v, size_t n) { return (float)(rms(v, n) * sqrt((double)n)); }

static void scores(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t d = n->head_dim, group = n->heads / n->kv_heads;
	struct st_cached c = st_run_cached(j->x->run, n->layer);
	float more = n->softcap != 0 ? 4 * j->unit + 8 * UNIT : j->unit;
	struct st_attn_shape shape = { .n_heads = n->heads, .slopes = n->slopes, .slope_scale = n->slope_scale };
	for (size_t h = 0; h < n->heads; h++) {
		float slope = n->slopes != 0 ? (float)fabs(st_attn_slope(&shape, h)) : 0;
		for (size_t p = 0; p < j->P; p++) {
			float k = length(c.k + p * c.k_width + h / group * d, d);
			for (size_t t = 0; t < j->T; t++) {
				size_t at = (h * j->T + t) * j->cols + p;
				float q = length(j->in[0] + t * j->ld[0] + h * d, d);
				float size = q * k * fabsf((float)n->scale);
				/* What is taken away for the distance, and the score before it, are rounded by themselves. */
				float far = slope * fabsf((float)(j->P - j->T + t) - (float)p);
				j->bound[at] += far == 0 ? 0 : (4 * UNIT + 2 * j->unit) * (fabsf(j->y[at]) + 2 * far);
				j->bound[at] += 2 * UNIT * size + (4 * UNIT + more) * fabsf(j->y[at])
				              + st_half_unit(j->out, j->y[at]);
			}
		}
	}
}

static void softmax(const struct job *j)
{
	float sink = j->n->n_w && j->n->w[0] ? largest_of(j->n->w[0]) : 0;
	for (size_t r = 0; r < j->rows; r++) {
		const float *s = j->in[0] + r * j->ld[0];
		float most = 0;
		for (size_t p = 0; p < j->cols; p++)
			most = fabsf(s[p]) > most ? fabsf(s[p]) : most;
		for (size_t p = 0; p < j->cols; p++) {
			float y = j->y[r * j->cols + p];
			/* A sink stands beside the scores in their type. */
			float sinks = j->n->n_w ? y * j->unit * (2 * most + 2 + sink) : 0;
			j->bound[r * j->cols + p] += sinks + 0x1p-125f
			                           + y * UNIT * (8 + 12 * most + sqrtf((float)j->cols))
			                           + st_half_unit(j->out, y);
		}
	}
}

static enum st_status mix(const struct job *j, struct st_error *err)
{
	const struct st_node *n = j->n;
	size_t d = n->head_dim, group = n->heads / n->kv_heads;
	struct st_cached c = st_run_cached(j->x->run, n->layer);
	float *most = st_alloc_zeroed(c.v_width, sizeof *most);
	if (!most)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t p = 0; p < j->P; p++)
		for (size_t i = 0; i < c.v_width; i++)
			most[i] = fmaxf(most[i], fabsf(c.v[p * c.v_width + i]));
	float units = j->sums * (4 + sqrtf((float)j->P));
	for (size_t r = 0; r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++) {
			float y = j->y[r * j->cols + i];
			j->bound[r * j->cols + i] += units * most[i / d / group * d + i % d] + st_half_unit(j->out, y);
		}
	free(most);
	return ST_OK;
}

/* Terms were rounded to f32 when they were written down, which stays where they cancel. A bias may have been rounded to
 * the type. */
static void sum(const struct job *j)
{
	bool bias = j->n->op == ST_OP_BIAS || j->n->op == ST_OP_BIAS_AT, rounded = bias && weights_are_rounded(j);
	plain(j, 2 * UNIT, 0);
	for (size_t r = 0; r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++) {
			float a = j->in[0][r * j->ld[0] + i], y = j->y[r * j->cols + i];
			float b = bias || !j->in[1] ? y - a : j->in[1][r * j->ld[1] + i];
			j->bound[r * j->cols + i] += UNIT * (fabsf(a) + fabsf(b)) + (rounded ? j->unit * fabsf(b) : 0);
		}
}

/* Each product and each sum is rounded, one after the other. */
static void weighted_sum(const struct job *j)
{
	size_t C = j->n->choices;
	float units = ((j->unit > 0 ? j->unit : UNIT) + UNIT) * (float)(C + 1);
	for (size_t r = 0; r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++) {
			float size = 0;
			for (size_t c = 0; c < C; c++)
				size += fabsf(j->in[0][r * j->ld[0] + c * j->cols + i])
				      * (j->in[1] ? fabsf(j->in[1][r * j->ld[1] + c]) : 1);
			j->bound[r * j->cols + i] += units * size + st_half_unit(j->out, j->y[r * j->cols + i]);
		}
}

/* y = scale x + plus: terms may cancel. */
static void scaled(const struct job *j)
{
	plain(j, 2 * UNIT + j->unit, 0);
	for (size_t r = 0; r < j->rows && j->n->op == ST_OP_SCALE && j->n->plus != 0; r++)
		for (size_t i = 0; i < j->cols; i++)
			j->bound[r * j->cols + i] += (2 * UNIT + j->unit)
			                           * (fabsf(j->y[r * j->cols + i]) + 2 * fabsf((float)j->n->plus));
}

/* An exponential or a hyperbolic tangent in f32. The tails of GELU are differences of numbers that are nearly equal,
 * and an engine that makes the function of single operations may have rounded each of them to the type. */
static void activation(const struct job *j)
{
	bool tails = j->n->act == ST_ACT_GELU || j->n->act == ST_ACT_GELU_TANH || j->n->act == ST_ACT_GELU_QUICK;
	plain(j, 8 * UNIT + j->unit, 0);
	/* A table's entries are numbers of f16. */
	for (size_t r = 0; tails && j->table && r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++)
			j->bound[r * j->cols + i] += 1.01f * st_half_unit(ST_DTYPE_F16, j->y[r * j->cols + i]);
	for (size_t r = 0; tails && r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++)
			j->bound[r * j->cols + i] += (8 * UNIT + 3 * j->unit) * fabsf(j->in[0][r * j->ld[0] + i]);
}

static double parameter(const struct st_node *n, uint32_t i)
{
	float v = (float)n->xielu[i];
	if (n->w[i] && n->w[i]->tensor)
		st_tensor_decode(n->w[i]->tensor, 0, 1, &v);
	return v;
}

/* Engines make it of single operations, and each may round: two factors (a soft-plus and a sum), a square or the
 * difference of an exponential and x, products, the sum. */
static void xielu(const struct job *j)
{
	double unit = j->unit + UNIT, beta = parameter(j->n, 2);
	double above = log1p(exp(parameter(j->n, 0))), below = beta + log1p(exp(parameter(j->n, 1)));
	plain(j, 8 * UNIT + j->unit, 0);
	for (size_t r = 0; r < j->rows; r++)
		for (size_t i = 0; i < j->cols; i++) {
			double x = fabs(j->in[0][r * j->ld[0] + i]);
			double size = j->in[0][r * j->ld[0] + i] > 0 ? 4 * above * x * x : 6 * below * x;
			j->bound[r * j->cols + i] += (float)(unit * (size + 2 * beta * x));
		}
}

enum st_status st_bound_of_node(struct st_explainer *x, uint32_t i, const struct st_node *n, const struct st_arith *a,
                                const float *y, float *bound, struct st_error *err)
{
	enum st_dtype out = a ? a->out : ST_DTYPE_F32, sums = a ? a->sums : ST_DTYPE_F32;
	struct st_value v = st_run_value(x->run, i);
	struct job j = { .x = x,
		         .n = n,
		         .y = y,
		         .bound = bound,
		         .rows = v.rows,
		         .cols = v.cols,
		         .T = x->pass.T,
		         .P = st_run_positions(x->run),
		         .out = out,
		         .unit = out == ST_DTYPE_F32 ? 0 : st_unit_roundoff(out),
		         .table = a && a->table,
		         .sums = st_unit_roundoff(sums) };
	for (int k = 0; k < 2; k++)
		if (n->in[k] != ST_NO_NODE) {
			struct st_value in = st_run_value(x->run, n->in[k]);
			bool last = v.rows == 1 && in.rows > 1;
			j.in[k] = in.data + n->from[k] + (last ? (in.rows - 1) * in.cols : 0);
			j.ld[k] = in.cols;
		}
	switch (n->op) {
	case ST_OP_LINEAR:
		linear(&j);
		break;
	case ST_OP_RMSNORM:
	case ST_OP_LAYERNORM:
		norm(&j, n->heads && n->op == ST_OP_LAYERNORM ? n->head_dim : n->width);
		break;
	case ST_OP_HEADNORM:
		norm(&j, n->head_dim);
		break;
	case ST_OP_ROPE:
		rope(&j);
		break;
	case ST_OP_SCORES:
		scores(&j);
		return a ? st_bound_ties(x, n, a, j.in[0], j.ld[0], j.T, j.cols, bound, err) : ST_OK;
	case ST_OP_SOFTMAX:
		softmax(&j);
		break;
	case ST_OP_MIX:
		return mix(&j, err);
	case ST_OP_ACT:
		activation(&j);
		break;
	case ST_OP_XIELU:
		xielu(&j);
		break;
	case ST_OP_ADD:
	case ST_OP_BIAS:
	case ST_OP_BIAS_AT:
		sum(&j);
		break;
	case ST_OP_MUL: /* of factors that were written down in f32 */
		plain(&j, 3 * UNIT, 0);
		break;
	case ST_OP_EMBED:
	case ST_OP_EMBED_POSITION:
	case ST_OP_SCALE: /* the factor is rounded too */
		scaled(&j);
		break;
	case ST_OP_WEIGHTED_SUM:
		weighted_sum(&j);
		break;
	case ST_OP_TOP:
	case ST_OP_CONCAT:
	case ST_OP_SLICE:
		plain(&j, 0, 0);
		break;
	default: { /* a sum over the features of its input at most */
		float K = sqrtf((float)(n->in[0] == ST_NO_NODE ? n->width : x->g->nodes[n->in[0]].width));
		plain(&j, UNIT * (16 + K) + 4 * j.unit, UNIT * (16 + K));
	}
	}
	return ST_OK;
}
