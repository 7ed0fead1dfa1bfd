/* linear.c - mistakes made in a matrix product: with another matrix, with its numbers read otherwise, too large. */
#include "explain/product.h"

#include "base/error.h"
#include "dtype/half.h"
#include "explain/rounding.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What the node really gives, in the trial's buffer. */
static enum st_status own_value(struct st_trial *t, struct st_error *err)
{
	return st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, st_trial_buffer(t), err);
}

/* ---- size ---- */

struct gain {
	struct st_part part;
	double by;
};

static void multiply(void *ctx, struct st_trial *t, float *y)
{
	const struct gain *g = ctx;
	struct st_product p = st_product_of(t);
	for (size_t r = 0; r < p.rows; r++)
		for (size_t i = g->part.at; i < g->part.at + g->part.len; i++)
			y[r * p.N + i] *= (float)g->by;
}

/* A matrix that is missing altogether, then a factor. A small fitted factor says nothing, since any other matrix has
 * one; so zero is tried by itself. */
static enum st_status test_gain(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                struct st_error *err)
{
	struct gain g = { .part = *part };
	struct st_cause c = st_blame(ST_CAUSE_WEIGHT_MISSING);
	double yy = 0, gy = 0;
	st_blame_part(t, part->k, &c);
	ST_TRY(st_try_map(t, multiply, &g, &c, err));
	if (!st_trial_direct(t))
		return ST_OK;
	for (size_t r = 0; r < p->rows; r++)
		for (size_t i = part->at; i < part->at + part->len && st_product_has(p, r); i++) {
			double y = t->exact[r * p->N + i];
			yy += y * y;
			gy += y * t->got[r * p->N + i];
		}
	g.by = yy > 0 ? gy / yy : 1;
	c = st_blame(ST_CAUSE_WEIGHT_SCALED);
	st_cause_put(&c, ST_PARAM_FACTOR, g.by);
	st_blame_part(t, part->k, &c);
	return fabs(g.by) < 1e-6 ? ST_OK : st_try_map(t, multiply, &g, &c, err);
}

/* ---- the same numbers read otherwise ---- */

/* One matrix: N rows of K. */
struct matrix {
	size_t N, K;
};

/* Where the mistake puts element (r, c) of the matrix: it multiplies x[k], and the product is added to y[n]. */
typedef void place_fn(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k);

static void in_place(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k)
{
	(void)m;
	*n = r;
	*k = c;
}

/* The bytes of the matrix taken for those of its transpose. */
static void bytes_as_transpose(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k)
{
	*k = (r * m->K + c) / m->N;
	*n = (r * m->K + c) % m->N;
}

/* The bytes of its transpose taken for those of the matrix. */
static void transpose_as_bytes(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k)
{
	*n = (c * m->N + r) / m->K;
	*k = (c * m->N + r) % m->K;
}

/* Where the number comes from that the mistake multiplies x[k] by for y[n]: the other way round. */
static void from_bytes_as_transpose(const struct matrix *m, size_t n, size_t k, size_t *r, size_t *c)
{
	*r = (k * m->N + n) / m->K;
	*c = (k * m->N + n) % m->K;
}

static void from_transpose_as_bytes(const struct matrix *m, size_t n, size_t k, size_t *r, size_t *c)
{
	*r = (n * m->K + k) % m->N;
	*c = (n * m->K + k) / m->N;
}

/* Inside of each block of 32 the halves alternate, or what alternates is taken for halves. */
static void halves_alternate(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k)
{
	size_t in = c % 32;
	(void)m;
	*n = r;
	*k = c - in + in % 16 * 2 + in / 16;
}

static void alternating_halves(const struct matrix *m, size_t r, size_t c, size_t *n, size_t *k)
{
	size_t in = c % 32;
	(void)m;
	*n = r;
	*k = c - in + in % 2 * 16 + in / 2;
}

static float bf16_as_f16(float w) { return st_f16_to_f32(st_f32_to_bf16(w)); }
static float f16_as_bf16(float w) { return st_bf16_to_f32(st_f32_to_f16(w)); }

/* What does not fit is cut off, where a conversion rounds. */
static float cut_to_bf16(float w) { return st_bf16_to_f32((uint16_t)(st_f32_bits(w) >> 16)); }
static float cut_to_f16(float w)
{
	uint16_t h = st_f32_to_f16(w);
	return st_f16_to_f32(fabsf(st_f16_to_f32(h)) > fabsf(w) ? (uint16_t)(h - 1) : h);
}

/* How the numbers of a matrix are read. */
struct reading {
	enum st_cause_code code;
	place_fn *place, *from; /* from: the other way round, of readings that take numbers from other rows; else NULL */
	float (*as)(float);
	const char *label, *type; /* of a type taken for another one */
	const char *order;        /* inside of blocks */
	size_t multiple;          /* of columns, that there must be */
	bool f32;                 /* of matrices in F32 */
};
static const struct reading readings[] = {
	{ ST_CAUSE_WEIGHT_BLOCK_LAYOUT, halves_alternate, NULL, NULL, NULL, NULL, "what alternates was taken for halves", 32,
	  false },
	{ ST_CAUSE_WEIGHT_BLOCK_LAYOUT, alternating_halves, NULL, NULL, NULL, NULL, "halves of each block alternate", 32,
	  false },
	{ ST_CAUSE_WEIGHT_TRANSPOSED, transpose_as_bytes, from_transpose_as_bytes, NULL, NULL, NULL, NULL, 1, false },
	{ ST_CAUSE_KERNEL_ORIENTATION, bytes_as_transpose, from_bytes_as_transpose, NULL, NULL, NULL, NULL, 1, false },
	{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, in_place, NULL, bf16_as_f16, "F16", "BF16", NULL, 1, false },
	{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, in_place, NULL, f16_as_bf16, "BF16", "F16", NULL, 1, false },
	{ ST_CAUSE_WEIGHT_TRUNCATED_ROUNDING, in_place, NULL, cut_to_bf16, NULL, NULL, NULL, 1, true },
	{ ST_CAUSE_WEIGHT_TRUNCATED_ROUNDING, in_place, NULL, cut_to_f16, NULL, NULL, NULL, 1, true },
};

/* Adds to sum[rows, N] what row r of matrix e gives. */
static void add_row(const struct st_product *p, const struct matrix *m, const struct reading *how, size_t e, size_t r,
                    const float *w, double *sum)
{
	for (size_t c = 0; c < m->K; c++) {
		size_t n, k;
		how->place(m, r, c, &n, &k);
		double v = how->as ? how->as(w[c]) : w[c];
		for (size_t row = 0; row < p->rows; row++)
			if (st_product_matrix(p, row) == e)
				sum[row * m->N + n] += v * st_product_input(p, row)[k];
	}
}

static const struct st_tensor *matrix_of(const struct st_part *part, size_t e)
{
	return part->w->n_experts ? &part->w->experts[e] : part->w->tensor;
}

static bool any_row_uses(const struct st_product *p, size_t e)
{
	for (size_t r = 0; r < p->rows; r++)
		if (st_product_has(p, r) && st_product_matrix(p, r) == e)
			return true;
	return false;
}

/* Whether some rows read so give what was captured: a quick look before the whole product. Of readings that leave rows in
 * their place. */
static bool reading_promises(const struct st_product *p, const struct st_part *part, const struct reading *how, float *w)
{
	const struct st_trial *t = p->t;
	const struct matrix m = { part->len, p->K };
	size_t looks = part->len < ST_GLANCED ? part->len : ST_GLANCED;
	struct st_glance g = { 0 };
	for (size_t e = 0; e < p->E; e++)
		for (size_t j = 0; j < looks && any_row_uses(p, e); j++) {
			size_t n = j * part->len / looks, to, k;
			st_tensor_decode(matrix_of(part, e), n, 1, w);
			for (size_t r = 0; r < p->rows; r++) {
				if (!st_product_has(p, r) || st_product_matrix(p, r) != e)
					continue;
				const float *x = st_product_input(p, r);
				double y = 0;
				for (size_t c = 0; c < p->K; c++) {
					how->place(&m, n, c, &to, &k);
					y += (double)(how->as ? how->as(w[c]) : w[c]) * x[k];
				}
				st_glance_add(&g, t->got[r * p->N + part->at + n], t->exact[r * p->N + part->at + n], y);
			}
		}
	return st_glance_promises(&g, t);
}

/* One number that a feature that is looked at needs: from column c it goes to x[k]. */
struct needed {
	size_t feature, c, k;
};

/* The same for readings that take numbers from elsewhere: the few features need numbers of every row, so each is decoded
 * once, and gives those alone. */
static enum st_status turned_promises(const struct st_product *p, const struct st_part *part, const struct reading *how,
                                      bool *promise, struct st_error *err)
{
	const struct st_trial *t = p->t;
	const struct matrix m = { part->len, p->K };
	size_t looks = m.N < ST_GLANCED ? m.N : ST_GLANCED;
	struct st_glance g = { 0 };
	float *w = st_alloc_array(m.K, sizeof *w);
	size_t *end = st_alloc_zeroed(m.N + 1, sizeof *end); /* of each row's numbers in `all` */
	struct needed *all = st_alloc_array2(looks, m.K, sizeof *all);
	double *sum = st_alloc_array2(p->rows, looks, sizeof *sum);
	enum st_status st = w && end && all && sum ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (int pass = 0; pass < 2 && st == ST_OK; pass++) { /* counted, then put in the order of rows */
		for (size_t f = 0; f < looks; f++)
			for (size_t k = 0; k < m.K; k++) {
				size_t r, c;
				how->from(&m, f * m.N / looks, k, &r, &c);
				if (pass == 0)
					end[r + 1]++;
				else
					all[end[r]++] = (struct needed){ f, c, k };
			}
		for (size_t r = 0; r < m.N && pass == 0; r++)
			end[r + 1] += end[r];
	}
	for (size_t e = 0; e < p->E && st == ST_OK; e++) {
		if (!any_row_uses(p, e))
			continue;
		memset(sum, 0, p->rows * looks * sizeof *sum);
		for (size_t r = 0; r < m.N && !st_cancelled(); r++) {
			size_t first = r ? end[r - 1] : 0;
			if (first < end[r])
				st_tensor_decode(matrix_of(part, e), r, 1, w);
			for (size_t row = 0; row < p->rows; row++)
				for (size_t i = first; i < end[r] && st_product_matrix(p, row) == e; i++)
					sum[row * looks + all[i].feature]
						+= (double)w[all[i].c] * st_product_input(p, row)[all[i].k];
		}
		for (size_t row = 0; row < p->rows; row++)
			for (size_t f = 0; f < looks && st_product_has(p, row) && st_product_matrix(p, row) == e; f++) {
				size_t at = row * p->N + part->at + f * m.N / looks;
				st_glance_add(&g, t->got[at], t->exact[at], sum[row * looks + f]);
			}
		st = st_check_cancel(err);
	}
	*promise = st_glance_promises(&g, t);
	free(w);
	free(end);
	free(all);
	free(sum);
	return st;
}

static enum st_status glance_at(const struct st_product *p, const struct st_part *part, const struct reading *how,
                                bool *promise, struct st_error *err)
{
	if (how->from)
		return turned_promises(p, part, how, promise, err);
	float *w = st_alloc_array(p->K, sizeof *w);
	if (!w)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*promise = reading_promises(p, part, how, w);
	free(w);
	return ST_OK;
}

/* The product with the matrix read so, as the node's value in the trial's buffer. */
static enum st_status other_product(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                    const struct reading *how, struct st_error *err)
{
	const struct matrix m = { part->len, p->K };
	ST_TRY(own_value(t, err));
	float *y = st_trial_buffer(t), *w = st_alloc_array(m.K, sizeof *w);
	double *sum = st_alloc_array2(p->rows, m.N, sizeof *sum);
	if (!w || !sum) {
		free(w);
		free(sum);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memset(sum, 0, p->rows * m.N * sizeof *sum);
	for (size_t e = 0; e < p->E; e++)
		for (size_t r = 0; r < m.N && any_row_uses(p, e) && !st_cancelled(); r++) {
			st_tensor_decode(matrix_of(part, e), r, 1, w);
			add_row(p, &m, how, e, r, w, sum);
		}
	for (size_t row = 0; row < p->rows; row++) {
		float *to = y + row * p->N + part->at;
		for (size_t n = 0; n < m.N; n++)
			to[n] = (float)sum[row * m.N + n];
		if (part->w->interleaved)
			st_basis_to_half(to, part->w->heads, m.N / part->w->heads,
			                 part->w->pair_dims ? part->w->pair_dims : m.N / part->w->heads);
	}
	free(w);
	free(sum);
	return st_check_cancel(err);
}

static enum st_status test_readings(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                    struct st_error *err)
{
	const struct st_tensor *stored = part->w->n_experts ? &part->w->experts[0] : part->w->tensor;
	if (part->w->group_rows || !part->len)
		return ST_OK;
	for (size_t i = 0; i < sizeof readings / sizeof *readings; i++) {
		const struct reading *how = &readings[i];
		struct st_cause c = st_blame(how->code);
		if (p->K % how->multiple || (how->f32 && stored->dtype != ST_DTYPE_F32))
			continue;
		if (how->label) {
			st_cause_put_text(&c, ST_PARAM_LABEL, how->label);
			st_cause_put_text(&c, ST_PARAM_TYPE, how->type);
		}
		if (how->order)
			st_cause_put_text(&c, ST_PARAM_ORDER, how->order);
		if (!part->w->interleaved && st_trial_direct(t)) {
			bool promise = false;
			ST_TRY(glance_at(p, part, how, &promise, err));
			if (!promise)
				continue;
		}
		ST_TRY(other_product(t, p, part, how, err));
		ST_TRY(st_try_value(t, st_trial_buffer(t), &c, err));
	}
	return ST_OK;
}

/* ---- another tensor ---- */

static bool same_layer_kind(const struct st_weight *a, const struct st_weight *b)
{
	return a->name && b->name && strcmp(a->name, b->name) == 0;
}

static bool is_one_of(const struct st_weight *w, const char *const *names)
{
	for (; w->name && *names; names++)
		if (strcmp(w->name, *names) == 0)
			return true;
	return false;
}

static enum st_cause_code code_of(const struct st_weight *own, const struct st_weight *other)
{
	static const char *const qkv[] = { "q", "k", "v", NULL }, *const ffn[] = { "gate", "up",          "gates",
		                                                                   "ups",  "shared_gate", "shared_up",
		                                                                   NULL };
	if (own->layer == other->layer && is_one_of(own, qkv) && is_one_of(other, qkv))
		return ST_CAUSE_WEIGHT_QKV_SWAPPED;
	if (own->layer == other->layer && is_one_of(own, ffn) && is_one_of(other, ffn))
		return ST_CAUSE_WEIGHT_GATE_UP_SWAPPED;
	return same_layer_kind(own, other) ? ST_CAUSE_WEIGHT_LAYER_SWAPPED : ST_CAUSE_WEIGHT_WRONG_TENSOR;
}

/* What is stored of `other`, with its rows in the order that `own` is read in: that is how an engine takes it. */
static struct st_weight read_as(const struct st_weight *own, const struct st_weight *other)
{
	struct st_weight w = *other;
	w.interleaved = own->interleaved;
	w.heads = own->heads;
	w.pair_dims = own->pair_dims;
	return w;
}

/* Whether some rows of another weight give what was captured: a quick look before the whole product. */
static bool promises(const struct st_product *p, const struct st_part *part, const struct st_weight *other, float *row)
{
	const struct st_trial *t = p->t;
	size_t looks = part->len < ST_GLANCED ? part->len : ST_GLANCED;
	struct st_glance g = { 0 };
	for (size_t e = 0; e < p->E; e++)
		for (size_t k = 0; k < looks && any_row_uses(p, e); k++) {
			size_t n = k * part->len / looks;
			st_product_row(p, other, e, n, row);
			for (size_t r = 0; r < p->rows; r++) {
				if (!st_product_has(p, r) || st_product_matrix(p, r) != e)
					continue;
				const float *x = st_product_input(p, r);
				double y = 0;
				for (size_t i = 0; i < p->K; i++)
					y += (double)row[i] * x[i];
				st_glance_add(&g, t->got[r * p->N + part->at + n], t->exact[r * p->N + part->at + n], y);
			}
		}
	return st_glance_promises(&g, t);
}

static enum st_status try_other(struct st_trial *t, const struct st_part *part, const struct st_weight *other,
                                const struct st_weight *read, struct st_error *err)
{
	struct st_node as = *t->n;
	struct st_cause c = st_blame(code_of(part->w, other));
	as.w[part->k] = read;
	st_cause_put_text(&c, ST_PARAM_HOLDS, other->canonical);
	if (other->layer >= 0)
		st_cause_put(&c, ST_PARAM_LAYER, other->layer);
	ST_TRY(st_try_node(t, &as, &c, err));
	/* Its neighbour may hold this one's. */
	uint32_t k = 0;
	while (k < t->n->n_w && t->n->w[k] != other)
		k++;
	if (k == t->n->n_w)
		return ST_OK;
	struct st_weight own = read_as(other, part->w);
	as.w[k] = &own;
	return st_try_node(t, &as, &c, err);
}

/* Of whole stacks: what other products with chosen experts have. */
static enum st_status test_other_stacks(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                        float *row, struct st_error *err)
{
	const struct st_graph *g = t->x->g;
	for (uint32_t k = 0; k < g->n_nodes; k++) {
		const struct st_weight *other = g->nodes[k].op == ST_OP_LINEAR_AT ? g->nodes[k].w[0] : NULL;
		if (!other || other == part->w || other->n_experts != p->E
		    || st_tensor_rows(&other->experts[0]) != part->len || st_tensor_cols(&other->experts[0]) != p->K
		    || !promises(p, part, other, row))
			continue;
		ST_TRY(try_other(t, part, other, other, err));
	}
	return ST_OK;
}

static enum st_status test_other_matrices(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                          float *row, struct st_error *err)
{
	for (size_t i = 0; i < st_model_n_weights(t->x->m); i++) {
		const struct st_weight *other = st_model_weight_at(t->x->m, i);
		if (other == part->w || !other->tensor || other->n_experts || other->kind != ST_WEIGHT_MATRIX
		    || st_weight_rows(other) != part->len || st_weight_cols(other) != p->K)
			continue;
		struct st_weight read = read_as(part->w, other);
		if (promises(p, part, &read, row))
			ST_TRY(try_other(t, part, other, &read, err));
		if (read.interleaved != other->interleaved && promises(p, part, other, row))
			ST_TRY(try_other(t, part, other, other, err));
	}
	return ST_OK;
}

static enum st_status test_other_tensors(struct st_trial *t, const struct st_product *p, const struct st_part *part,
                                         struct st_error *err)
{
	if (!st_trial_direct(t))
		return ST_OK;
	float *row = st_alloc_array(p->K, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = t->n->op == ST_OP_LINEAR_AT ? test_other_stacks(t, p, part, row, err)
	                                                : test_other_matrices(t, p, part, row, err);
	free(row);
	return st;
}

/* ---- a matrix that nobody has ---- */

#define CHANCE 5.0 /* standard deviations of the cosine of unrelated rows, each 1 / sqrt(N) */

/* Whether every row has nothing in common with what it should be: so any other matrix would make it. */
static bool is_unrelated(const struct st_product *p)
{
	bool any = false;
	for (size_t r = 0; r < p->rows; r++) {
		const float *got = p->t->got + r * p->N, *y = p->t->exact + r * p->N;
		double gy = 0, gg = 0, yy = 0;
		if (!st_product_has(p, r))
			continue;
		for (size_t i = 0; i < p->N; i++) {
			gy += (double)got[i] * y[i];
			gg += (double)got[i] * got[i];
			yy += (double)y[i] * y[i];
		}
		if (!(gg > 0) || !(yy > 0) || fabs(gy) > CHANCE * sqrt(gg * yy / (double)p->N))
			return false;
		any = true;
	}
	return any;
}

/* It comes last, as it is said of what nothing else explains: numbers of a matrix that is not at hand cannot be
 * tried. */
enum st_status st_test_unrelated(struct st_trial *t, struct st_error *err)
{
	struct st_product p = st_product_of(t);
	struct st_cause *best = &t->best->cause;
	bool head = t->n->layer < 0 && t->n->width == t->x->g->vocab,
	     tied = head && t->n->w[0]->kind == ST_WEIGHT_EMBEDDING;
	(void)err;
	if (!st_trial_direct(t) || best->confidence != ST_UNEXPLAINED || p.N < 32 || !is_unrelated(&p))
		return ST_OK;
	best->code = tied ? ST_CAUSE_HEAD_UNTIED : head ? ST_CAUSE_HEAD_WRONG_TENSOR : ST_CAUSE_WEIGHT_WRONG_TENSOR;
	best->confidence = ST_LIKELY;
	st_cause_put_text(best, tied ? ST_PARAM_TIED : ST_PARAM_HOLDS,
	                  tied ? t->n->w[0]->canonical : "none of the model's matrices");
	t->best->at = t->n->stage;
	t->best->layer = t->n->layer;
	return ST_OK;
}

enum st_status st_test_linear(struct st_trial *t, struct st_error *err)
{
	struct st_product p = st_product_of(t);
	for (uint32_t k = 0; k < t->n->n_w; k++) {
		struct st_part part = st_product_part(t, k);
		ST_TRY(test_gain(t, &p, &part, err));
		/* What a factor explains needs no other numbers. In a coarse arithmetic something else may hide behind it: numbers
		 * that were cut off are smaller on average. */
		if (t->best->cause.confidence == ST_CONFIRMED && t->best->cause.code == ST_CAUSE_WEIGHT_SCALED
		    && t->best_arith == &st_ariths[0])
			return ST_OK;
		ST_TRY(test_readings(t, &p, &part, err));
		ST_TRY(test_other_tensors(t, &p, &part, err));
	}
	ST_TRY(st_test_parts_of_sum(t, err));
	if (t->best->cause.confidence != ST_CONFIRMED)
		ST_TRY(st_test_product_order(t, err));
	return ST_OK;
}
