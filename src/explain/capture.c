/*
 * capture.c - the values of a trace, laid upon the nodes of a graph.
 */
#include "explain/explain.h"

#include "arch/arch.h"
#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shape that a value has for so many positions. */
static bool is_scores(const struct st_node *n) { return n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX; }

static enum st_status misfit(const struct st_explainer *x, const struct st_trace_entry *e, const struct st_node *n,
                             struct st_error *err)
{
	return st_fail_at(
		err, ST_ERR_MISMATCH, ST_NO_OFFSET, e->tensor->name,
		"has %llu values of %llu, the model's %s has %u of each of %zu positions: it is another model's, or "
		"its axes stand in another order",
		(unsigned long long)e->rows, (unsigned long long)e->cols, st_stage_name(n->stage), n->width, x->pass.T);
}

/* How many positions an entry holds: those listed, all, or, of a flat stage of one row, what its size says. 0: none
 * fits. */
static size_t positions_of(const struct st_explainer *x, const struct st_trace_entry *e, const struct st_node *n)
{
	uint64_t count = e->tensor->n_elems, width = n->width;
	size_t rows = e->positions ? e->n_positions : x->pass.T;
	if (is_scores(n)) {
		const struct st_tensor *t = e->tensor;
		size_t P = st_run_positions(x->run);
		return t->ndim == 3 && t->shape[0] == n->heads && t->shape[1] == rows && t->shape[2] >= P ? rows : 0;
	}
	if (n->stage == ST_STAGE_LM_HEAD && e->tensor->ndim == 2 && e->rows == rows && e->cols >= width)
		return rows; /* a padded vocabulary */
	if (count == rows * width)
		return rows;
	return e->tensor->ndim == 1 && count == width ? 1 : 0; /* flat: the last position */
}

/* One row of more positions, and nobody says which. */
static bool is_unplaced(const struct st_explainer *x, const struct st_trace_entry *e, size_t rows)
{
	return x->pass.T > 1 && rows == 1 && (!e->positions || e->assumed);
}

/* Token of the pass that row r of node i's entry belongs to. */
static size_t token_of(const struct st_explainer *x, uint32_t i, const struct st_trace_entry *e, size_t rows, size_t r)
{
	if (is_unplaced(x, e, rows))
		return x->pass.placed[i];
	if (e->positions && x->pass.step == 0)
		return e->positions[r];
	return rows == x->pass.T ? r : x->pass.T - 1;
}

static void want(struct st_explainer *x, uint32_t i)
{
	if (x->wanted[i])
		return;
	x->wanted[i] = true;
	/* Also what an uncaptured or partly captured value is made of; of a captured one its own evaluation needs
	 * them. */
	for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++) {
		uint32_t in = st_node_input(&x->g->nodes[i], k);
		if (in != ST_NO_NODE)
			want(x, in);
	}
}

const struct st_node *st_capture_choice(const struct st_explainer *x, uint32_t i)
{
	for (uint32_t k = 0; k <= i; k++)
		if (x->g->nodes[k].op == ST_OP_TOP && x->g->nodes[k].layer == x->g->nodes[i].layer)
			return &x->g->nodes[k];
	return NULL;
}

/* How many experts a token has in the trace's value of node i, where these are more or fewer than the model's; else
 * 0. */
static uint32_t other_choice(const struct st_explainer *x, uint32_t i, const struct st_trace_entry *e)
{
	const struct st_node *n = &x->g->nodes[i], *top = st_capture_choice(x, i);
	uint64_t rows = e->positions ? e->n_positions : x->pass.T, count = e->tensor->n_elems;
	if (!top || n->width % top->width != 0 || count == 0 || rows == 0)
		return 0;
	uint64_t each = n->width / top->width, k = count / (rows * each);
	return k * rows * each == count && k != top->width && k <= x->g->nodes[top->in[0]].width ? (uint32_t)k : 0;
}

enum st_status st_pass_begin(struct st_explainer *x, uint32_t step, struct st_error *err)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	struct st_pass *pass = &x->pass;
	pass->step = step;
	pass->tokens = step ? &p->step_tokens[step - 1] : p->tokens;
	pass->T = step ? 1 : p->n_tokens;
	ST_TRY(st_run_begin(x->run, pass->tokens, pass->T, err));
	memset(x->wanted, 0, x->g->n_nodes * sizeof *x->wanted);
	memset(x->experts, 0, x->g->n_nodes * sizeof *x->experts);
	for (uint32_t i = 0; i < x->g->n_nodes; i++) {
		const struct st_node *n = &x->g->nodes[i];
		pass->placed[i] = (uint32_t)(pass->T - 1);
		const struct st_trace_entry *e = st_trace_find(x->t, n->stage, n->layer, step);
		pass->at[i] = e && e->misfit ? NULL : e;
		if (!pass->at[i])
			continue;
		size_t rows = positions_of(x, e, n);
		if (!rows && (x->experts[i] = other_choice(x, i, e)) != 0) {
			pass->at[i] = NULL;
			continue;
		}
		if (!rows)
			return misfit(x, e, n, err);
		for (size_t r = 0; r < rows; r++)
			if (token_of(x, i, e, rows, r) >= pass->T)
				return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, e->tensor->name,
				                  "names position %zu of %zu tokens", token_of(x, i, e, rows, r),
				                  pass->T);
	}
	for (uint32_t i = 0; i < x->g->n_nodes; i++)
		if (pass->at[i])
			want(x, i);
	return ST_OK;
}

/* ---- the basis of Q and K ---- */

/* Where the features lie that rotation node `rope` turns, in the value of node i on the way to it. */
bool st_capture_turned(const struct st_explainer *x, uint32_t i, const struct st_node *rope, uint32_t *from)
{
	uint32_t at = rope->in[0];
	*from = rope->from[0];
	for (; at != ST_NO_NODE && at != i; at = x->g->nodes[at].in[0]) {
		const struct st_node *n = &x->g->nodes[at];
		if (n->op == ST_OP_SLICE)
			*from += n->offset;
		else if (n->op != ST_OP_BIAS && n->op != ST_OP_HEADNORM && n->op != ST_OP_SCALE && n->op != ST_OP_CLAMP
		         && n->op != ST_OP_LAYERNORM && n->op != ST_OP_RMSNORM)
			return false;
		*from += n->from[0];
	}
	return at == i && *from + (size_t)rope->heads * rope->head_dim <= x->g->nodes[i].width;
}

static bool change_turned_tails(const struct st_explainer *x, const struct st_node *n, float *row, bool half)
{
	const struct st_node *rope = &x->g->nodes[n->in[1]];
	size_t d = n->width / n->heads;
	if (rope->op != ST_OP_ROPE || n->head_dim > d)
		return false;
	for (uint32_t h = 0; h < n->heads; h++)
		(half ? st_basis_to_half : st_basis_to_pairs)(row + h * d + d - n->head_dim, 1, n->head_dim,
		                                              rope->n_rot);
	return true;
}

static bool change_by_weights(const struct st_explainer *x, uint32_t i, float *row, bool half)
{
	const struct st_node *n = &x->g->nodes[i], *product = n;
	while (product->op == ST_OP_BIAS || product->op == ST_OP_HEADNORM)
		product = &x->g->nodes[product->in[0]];
	bool any = false;
	size_t at = 0;
	for (uint32_t k = 0; product->op == ST_OP_LINEAR && product->width == n->width && k < product->n_w; k++) {
		const struct st_weight *w = product->w[k];
		size_t len = (size_t)st_weight_rows(w);
		if (w->interleaved) {
			size_t d = len / w->heads;
			(half ? st_basis_to_half : st_basis_to_pairs)(row + at, w->heads, d,
			                                              w->pair_dims ? w->pair_dims : d);
			any = true;
		}
		at += len;
	}
	return any;
}

/* One row of node i's value: from adjacent pairs to halves, or back. False where nothing of it is turned. */
static bool change_basis(const struct st_explainer *x, uint32_t i, float *row, bool half)
{
	const struct st_node *n = &x->g->nodes[i];
	bool any = n->op == ST_OP_ROPE;
	uint32_t from = 0;
	for (uint32_t k = i; k < x->g->n_nodes && x->g->nodes[k].layer == n->layer; k++) {
		const struct st_node *rope = &x->g->nodes[k];
		if (k == i ? n->op != ST_OP_ROPE : rope->op != ST_OP_ROPE || !st_capture_turned(x, i, rope, &from))
			continue;
		any = true;
		(half ? st_basis_to_half : st_basis_to_pairs)(row + (k == i ? 0 : from), rope->heads, rope->head_dim,
		                                              rope->n_rot);
		if (k == i)
			break;
	}
	if (!any && n->op == ST_OP_CONCAT) /* of each head what does not turn, then what does */
		any = change_turned_tails(x, n, row, half);
	if (!any) /* a layer without rotation, whose weights have the order of those with it */
		any = change_by_weights(x, i, row, half);
	return any;
}

bool st_capture_other_basis(const struct st_explainer *x, uint32_t i, float *row)
{
	return change_basis(x, i, row, x->interleaved);
}

/* ---- values ---- */

/* Scores as the trace has them, in Stele's form: scaled and capped. */
static float in_form(const struct st_node *n, const char *form, float v)
{
	bool raw = strncmp(form, "raw", 3) == 0, scaled = strncmp(form, "scaled", 6) == 0;
	double y = raw ? (double)v * n->scale : (double)v;
	if ((raw || scaled) && n->softcap != 0)
		y = n->softcap * tanh(y / n->softcap);
	return (float)y;
}

bool st_capture_counts(const struct st_explainer *x, const struct st_node *n, const struct st_value *v,
                       const bool *have, size_t row, size_t col)
{
	size_t T = x->pass.T, P = st_run_positions(x->run), t = v->rows == 1 ? T - 1 : row % T;
	if (!have[t])
		return false;
	if (!is_scores(n))
		return true;
	size_t q = P - T + t;
	return col <= q && (!n->window || col + n->window > q) && (!n->chunk || col / n->chunk == q / n->chunk);
}

enum st_status st_capture_load(struct st_explainer *x, uint32_t i, const float *otherwise, float *out, bool *have,
                               struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[i];
	const struct st_trace_entry *e = x->pass.at[i];
	struct st_value v = st_run_value(x->run, i);
	size_t T = x->pass.T, rows = positions_of(x, e, n);
	memset(have, 0, T * sizeof *have);
	if (otherwise != out)
		memcpy(out, otherwise, v.rows * v.cols * sizeof *out);
	struct st_tensor t = *e->tensor;
	uint64_t cols = st_tensor_cols(&t), each = t.n_elems / rows; /* a position's elements, but of scores */
	bool flat = t.ndim == 1;                                     /* one row of all positions */
	float *row = st_alloc_array(is_scores(n) ? cols : flat ? t.n_elems : each, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (flat)
		st_tensor_decode(&t, 0, 1, row);
	const char *form = x->form ? x->form : st_trace_provenance(x->t)->attn_scores_form;
	for (size_t r = 0; r < rows; r++) {
		size_t tok = token_of(x, i, e, rows, r);
		have[tok] = true;
		if (is_scores(n)) {
			for (size_t h = 0; h < n->heads; h++) {
				st_tensor_decode(&t, h * rows + r, 1, row);
				float *to = out + (h * T + tok) * v.cols;
				for (size_t p = 0; p < v.cols; p++) {
					/* A masked cell is 0 or -inf; anything else has been seen. */
					bool masked = row[p] < -1e30f;
					to[p] = masked ? 0 : n->op == ST_OP_SCORES ? in_form(n, form, row[p]) : row[p];
				}
			}
			continue;
		}
		float *to = v.rows == 1 ? out : out + tok * v.cols;
		if (flat) {
			memcpy(to, row + r * v.cols, v.cols * sizeof *to);
			continue;
		}
		uint64_t per = st_tensor_rows(&t) / rows; /* [T, heads, size] has several rows for a position */
		st_tensor_decode(&t, r * per, per, row);
		memcpy(to, row, v.cols * sizeof *to);
	}
	free(row);
	if (x->interleaved)
		for (size_t r = 0; r < v.rows && !is_scores(n); r++)
			if (have[v.rows == 1 ? T - 1 : r])
				(void)change_basis(x, i, out + r * v.cols, true);
	return ST_OK;
}

/* ---- rows that are there ---- */

bool st_capture_covers(const struct st_explainer *x, uint32_t in, uint32_t node, bool all)
{
	const struct st_trace_entry *a = x->pass.at[in], *b = x->pass.at[node];
	size_t T = x->pass.T, have = positions_of(x, a, &x->g->nodes[in]);
	if (have >= T)
		return true;
	size_t want = b ? positions_of(x, b, &x->g->nodes[node]) : T, k = 0;
	if (all || want > have)
		return false;
	for (size_t r = 0; r < want; r++) { /* both in the order of positions */
		size_t t = token_of(x, node, b, want, r);
		while (k < have && token_of(x, in, a, have, k) < t)
			k++;
		if (k == have || token_of(x, in, a, have, k) != t)
			return false;
	}
	return true;
}

/* ---- one row of more positions ---- */

bool st_node_looks_back(const struct st_node *n)
{
	return n->op == ST_OP_SCORES || n->op == ST_OP_MIX || n->op == ST_OP_CONV || n->op == ST_OP_TOKEN_SHIFT
	    || n->state;
}

/* Behind the last operation that looks back, engines go on with the last position alone. */
static bool is_pruned(const struct st_explainer *x, uint32_t i)
{
	for (uint32_t k = i + 1; k < x->g->n_nodes; k++) {
		const struct st_trace_entry *e = x->pass.at[k];
		if (st_node_looks_back(&x->g->nodes[k]) || (e && positions_of(x, e, &x->g->nodes[k]) > 1))
			return false;
	}
	return true;
}

static double distance(const float *a, const float *b, size_t n)
{
	double sum = 0;
	for (size_t k = 0; k < n; k++)
		sum += ((double)a[k] - b[k]) * ((double)a[k] - b[k]);
	return sum;
}

enum st_status st_capture_place(struct st_explainer *x, uint32_t i, const float *exact, struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[i];
	struct st_value v = st_run_value(x->run, i);
	size_t T = x->pass.T, best = T - 1;
	if (is_scores(n) || v.rows != T || !is_unplaced(x, x->pass.at[i], positions_of(x, x->pass.at[i], n)))
		return ST_OK;
	ST_TRY(st_capture_load(x, i, exact, x->got, x->have, err));
	const float *row = x->got + best * v.cols;
	double least = distance(row, exact + best * v.cols, v.cols);
	for (size_t t = 0; t + 1 < T; t++) {
		double d = distance(row, exact + t * v.cols, v.cols);
		if (d < 0.25 * least) {
			least = d;
			best = t;
		}
	}
	x->pass.placed[i] = (uint32_t)best;
	bool told = false; /* it is the same of all */
	for (size_t k = 0; k < x->r.n_findings; k++)
		told |= x->r.findings[k].cause.code == ST_CAUSE_CAPTURE_TOKEN_SUBSET;
	if (told || x->r.n_findings == ST_MAX_FINDINGS || (best + 1 == T && is_pruned(x, i)))
		return ST_OK;
	struct st_finding *f = &x->r.findings[x->r.n_findings++];
	*f = (struct st_finding){ .stage = SIZE_MAX, .at = n->stage, .layer = n->layer };
	f->cause = (struct st_cause){ .code = ST_CAUSE_CAPTURE_TOKEN_SUBSET, .confidence = ST_CONFIRMED };
	st_cause_put(&f->cause, ST_PARAM_POSITION, (double)best);
	snprintf(f->structure, sizeof f->structure, "one row for %zu tokens: by its numbers it is the %s of them", T,
	         best + 1 == T ? "last" : "one at that position");
	return ST_OK;
}
