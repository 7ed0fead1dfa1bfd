/*
 * repair.c - from a report of rosetta to changed jobs.
 *
 * A report describes what side a has in terms of side b: a = f(b). Repairing a undoes f, repairing b applies it. All of
 * it happens in the basis of the graph, where the comparison was made. The basis of the output comes on top. Some
 * reports leave a choice, such as the order of two reorderings. Then the one is taken that brings the other file's
 * numbers.
 */
#include "convert/repair.h"

#include "compare/weight_trial.h"
#include "convert/report.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fix {
	const struct st_repair *r;
	struct st_conversion *v;
	const json_t *fault, *params;
	const char *code, *name;
	enum st_role role;
	uint32_t layer;
	struct st_job *j;
	const struct st_weight *own;   /* the weight at fault, or NULL when it is missing */
	const struct st_weight *sound; /* the other file's, or NULL */
	struct st_error *err;
};

static const struct st_weight *bound(const struct st_model *m, enum st_role role, uint32_t layer)
{
	const struct st_weight *w = m ? st_model_role(m, role, layer) : NULL;
	return w && w->tensor ? w : NULL;
}

static const struct st_weight *filled(const struct st_model *m, enum st_role role, uint32_t layer)
{
	const struct st_weight *w = bound(m, role, layer);
	return !w && m && role == ST_ROLE_HEAD && st_model_config(m)->tied ? bound(m, ST_ROLE_EMBED, 0) : w;
}

static double number(const struct fix *f, const char *key, double otherwise)
{
	const json_t *v = json_object_get(f->params, key);
	return json_is_number(v) ? json_number_value(v) : otherwise;
}

static enum st_status cannot(const struct fix *f, const char *why)
{
	return st_fail_at(f->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, f->name, "%s cannot be repaired: %s", f->code, why);
}

static enum st_dtype wanted_type(const struct fix *f, enum st_dtype stored)
{
	return st_wanted_type(&f->v->dst, f->j, stored);
}

/* Take the rows graph[] of w0 and w1 instead. */
static enum st_status take(const struct fix *f, const struct st_weight *w0, const struct st_weight *w1,
                           const uint64_t *graph, enum st_dtype want)
{
	const struct st_weight *w[2] = { w0, w1 };
	f->j->kind = ST_JOB_COPY;
	f->j->src[0] = w0->tensor;
	f->j->src[1] = w1 ? w1->tensor : NULL;
	ST_TRY(st_job_map(&f->v->dst, &f->v->arena, f->j, w, graph, f->err));
	return st_job_settle(&f->v->dst, f->j, want, f->err);
}

static bool fits_place(const struct fix *f, const struct st_weight *w)
{
	return st_tensor_rows(w->tensor) == st_spec_rows(&f->j->spec)
	    && st_tensor_cols(w->tensor) == st_spec_cols(&f->j->spec);
}

/* How far row `r` of the job is from the other file's: sums over the row. */
static enum st_status row_residual(const struct fix *f, uint64_t r, double *dd, double *bb)
{
	const struct st_job *j = f->j;
	uint64_t cols = st_spec_cols(&j->spec), g = st_output_interleaved(&f->v->dst, j->role) && j->spec.ndim == 2
	                                                  ? st_row_in_halves(r, f->v->dst.cfg.head_dim)
	                                                  : r;
	float *x = st_alloc_array2(3, cols, sizeof *x), *y = x ? x + cols : NULL, *z = x ? y + cols : NULL;
	uint8_t *bytes = j->kind == ST_JOB_COPY
	                       ? st_alloc_array(j->spec.ndim < 2 ? j->src[0]->n_bytes : j->src[0]->row_bytes, 1)
	                       : NULL;
	enum st_status st = x && (bytes || j->kind != ST_JOB_COPY) ? ST_OK : st_no_memory(f->err);
	if (st == ST_OK && bytes) {
		st_job_row_bytes(j, r, bytes);
		struct st_tensor row = { .dtype = j->spec.dtype,
			                 .layout = ST_LAYOUT_ROWS,
			                 .ndim = 1,
			                 .shape = { cols },
			                 .n_elems = cols,
			                 .scale = j->src[0]->scale,
			                 .row_bytes = j->src[0]->row_bytes,
			                 .data = bytes };
		st_tensor_decode(&row, 0, 1, x);
	} else if (st == ST_OK) {
		st = st_job_floats(j, r, 1, x, NULL, f->err);
	}
	if (st == ST_OK) {
		st_weight_decode(f->sound, j->spec.ndim < 2 ? 0 : g, 1, y);
		if (j->spec.ndim < 2 && st_output_interleaved(&f->v->dst, j->role)) {
			/* A vector is in the order of the output; bring the other file's there too. */
			for (uint64_t i = 0; i < cols; i++)
				z[st_row_in_pairs(i, f->v->dst.cfg.head_dim)] = y[i];
			memcpy(y, z, cols * sizeof *y);
		}
		for (uint64_t i = 0; i < cols; i++) {
			*dd += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
			*bb += (double)y[i] * y[i];
		}
	}
	free(x);
	free(bytes);
	return st;
}

/* Relative residual over some rows spread evenly. */
static enum st_status residual(const struct fix *f, double *out)
{
	uint64_t rows = st_spec_rows(&f->j->spec), n = rows < 64 ? rows : 64;
	double dd = 0, bb = 0;
	for (uint64_t i = 0; i < n; i++)
		ST_TRY(row_residual(f, i * rows / n, &dd, &bb));
	*out = bb > 0 ? sqrt(dd / bb) : dd > 0 ? INFINITY : 0;
	return ST_OK;
}

static enum st_status fix_transposed(struct fix *f)
{
	struct st_job *j = f->j;
	uint64_t rows = st_spec_rows(&j->spec), d = f->v->dst.cfg.head_dim;
	j->from = *f->own;
	j->src[0] = f->own->tensor;
	j->src[1] = NULL;
	if (f->own->tensor->n_elems != rows * st_spec_cols(&j->spec))
		return cannot(f, "it has another size");
	if (st_tensor_rows(f->own->tensor) != rows)
		j->from.interleaved = false; /* labelled [in, out]: its rows are no rows of heads */
	j->map = NULL;
	if (st_output_interleaved(&f->v->dst, j->role)) {
		uint64_t *map = st_arena_alloc(&f->v->arena, rows, sizeof *map);
		if (!map)
			return st_no_memory(f->err);
		for (uint64_t r = 0; r < rows; r++)
			map[r] = st_row_in_pairs(r, d);
		j->map = map;
	}
	j->kind = ST_JOB_TRANSPOSE;
	return st_job_settle(&f->v->dst, j, wanted_type(f, f->own->tensor->dtype), f->err);
}

static enum st_status fix_from_other(struct fix *f)
{
	if (!f->sound)
		return cannot(f, "it takes the other file's tensor, which is not at hand");
	if (!fits_place(f, f->sound))
		return cannot(f, "the other file's tensor has another shape");
	enum st_dtype theirs = f->sound->tensor->dtype, ours = f->own ? f->own->tensor->dtype : theirs;
	if (!st_dtype_info(ours)->encode)
		ours = theirs;
	return take(f, f->sound, NULL, NULL, wanted_type(f, ours));
}

/* A constant that the report names is meant exactly; the fitted number carries the noise of the stored types. */
static double exact_factor(const struct fix *f, double fitted)
{
	const char *is = st_report_text(f->params, "is");
	struct st_constant known;
	for (size_t i = 0; is && st_known_constant(&f->v->dst.cfg, i, &known); i++)
		if (strcmp(is, known.name) == 0 && fabs(fitted / known.value - 1) < 0.01)
			return known.value;
	return fitted;
}

static enum st_status fix_scaled(struct fix *f)
{
	double g = number(f, "factor", 0);
	if (g == 0 || !isfinite(g))
		return fix_from_other(f); /* each row has its own factor */
	g = exact_factor(f, g);
	f->j->gain = f->r->side == 'a' ? 1 / g : g;
	return take(f, f->own, NULL, NULL, wanted_type(f, f->own->tensor->dtype));
}

static enum st_status fix_plus_one(struct fix *f)
{
	double by = number(f, "offset", 0);
	f->j->offset = f->r->side == 'a' ? -by : by;
	return take(f, f->own, NULL, NULL, f->own->tensor->dtype);
}

static uint64_t *new_map(const struct fix *f, uint64_t *n)
{
	*n = f->j->spec.ndim < 2 ? st_spec_cols(&f->j->spec) : st_spec_rows(&f->j->spec);
	return st_arena_alloc(&f->v->arena, *n, sizeof(uint64_t));
}

static enum st_status fix_row_shift(struct fix *f)
{
	uint64_t n, *graph = new_map(f, &n);
	double by = number(f, "shift", 0);
	if (!graph)
		return st_no_memory(f->err);
	if (number(f, "rows_lost", 0) > 0 || number(f, "padding", 0) > 0 || number(f, "padding_bytes", 0) > 0)
		return fix_from_other(f); /* they went over the edge: this file no longer has them */
	if (by != floor(by) || fabs(by) >= (double)n)
		return cannot(f, "the report gives no whole shift below the number of rows");
	/* a's row r is b's row r + by */
	int64_t step = f->r->side == 'a' ? -(int64_t)by : (int64_t)by;
	for (uint64_t r = 0; r < n; r++)
		graph[r] = (r + n + (uint64_t)step) % n;
	return take(f, f->own, NULL, graph, wanted_type(f, f->own->tensor->dtype));
}

/* The reorderings that a report may mean: from one RoPE order to the other with heads of d rows, alone (0, 1) or before
 * or behind one with heads of d0 rows (2 to 5). */
enum { ALONE = 2, REORDERINGS = 6 };
static uint64_t reordered(unsigned which, uint64_t i, uint64_t d, uint64_t d0)
{
	switch (which) {
	case 0:
		return st_row_in_pairs(i, d);
	case 1:
		return st_row_in_halves(i, d);
	case 2:
		return st_row_in_halves(st_row_in_pairs(i, d), d0);
	case 3:
		return st_row_in_pairs(st_row_in_halves(i, d), d0);
	case 4:
		return st_row_in_pairs(st_row_in_halves(i, d0), d);
	default:
		return st_row_in_halves(st_row_in_pairs(i, d0), d);
	}
}

static enum st_status fix_rope_order(struct fix *f)
{
	uint64_t n, *graph = new_map(f, &n), heads = (uint64_t)number(f, "heads", 0),
		    wrong = (uint64_t)number(f, "wrong_heads", (double)heads);
	const char *order = st_report_text(f->params, "order");
	if (!graph)
		return st_no_memory(f->err);
	if (heads == 0 || wrong == 0 || n % heads || n % wrong || n / heads % 2 || n / wrong % 2 || !order)
		return cannot(f, "the report's head counts do not divide the rows");
	unsigned n_ways = wrong == heads ? ALONE : REORDERINGS, best = strcmp(order, "pairs") == 0;
	if (!f->sound && n_ways > ALONE)
		return cannot(
			f,
			"which of the possible reorderings it was takes the other file's tensor, which is not at hand");
	double least = INFINITY;
	for (unsigned pass = 0; pass <= n_ways; pass++) {
		unsigned way = pass < n_ways ? pass : best; /* try each, then take the best */
		if (!f->sound && pass < n_ways)
			continue;
		for (uint64_t i = 0; i < n; i++) {
			uint64_t k = reordered(way, i, n / wrong, n / heads);
			/* a's row i is b's row k */
			graph[f->r->side == 'a' ? k : i] = f->r->side == 'a' ? i : k;
		}
		ST_TRY(take(f, f->own, NULL, graph, wanted_type(f, f->own->tensor->dtype)));
		double left = INFINITY;
		if (pass < n_ways)
			ST_TRY(residual(f, &left));
		if (left < least) {
			least = left;
			best = way;
		}
	}
	return ST_OK;
}

/* The fault of this file whose tensor holds what belongs here, by its name. */
static const char *holder_of(const struct fix *f)
{
	for (size_t i = 0; i < json_array_size(f->r->faults); i++) {
		const json_t *o = json_array_get(f->r->faults, i);
		const char *holds = st_report_text(json_object_get(o, "parameters"), "holds");
		if (holds && strcmp(holds, f->name) == 0 && st_fault_concerns(f->r, o))
			return st_report_text(o, "tensor");
	}
	return NULL;
}

/* "a's tensor is b's HOLDS": what belongs in b lies under that name in b itself, what belongs in a lies where a holds
 * this one. */
static enum st_status fix_misplaced(struct fix *f)
{
	const char *at = f->r->side == 'b' ? st_report_text(f->params, "holds") : holder_of(f);
	enum st_role role;
	uint32_t layer;
	if (!st_fault_side(f->fault) && at && st_role_of_name(at, &role, &layer)) {
		const struct st_weight *w = bound(f->v->src.model, role, layer);
		double left = 0;
		if (w && fits_place(f, w)) {
			struct st_job keep = *f->j;
			ST_TRY(take(f, w, NULL, NULL, wanted_type(f, w->tensor->dtype)));
			if (f->sound)
				ST_TRY(residual(f, &left));
			if (left < 0.5) /* of another tensor it is above 1 */
				return ST_OK;
			*f->j = keep;
		}
	}
	return fix_from_other(f);
}

/* Rows of gate and up alternate over both tensors, one behind the other. */
static enum st_status fix_gate_up_interleaved(struct fix *f)
{
	uint64_t n, *graph = new_map(f, &n);
	const struct st_weight *gate = bound(f->v->src.model, ST_ROLE_GATE, f->layer),
			       *up = bound(f->v->src.model, ST_ROLE_UP, f->layer);
	if (!graph)
		return st_no_memory(f->err);
	if (!gate || !up || !fits_place(f, gate) || !fits_place(f, up))
		return cannot(f, "the file lacks one of gate and up");
	for (uint64_t i = 0; i < n; i++)
		graph[i] = 2 * i + (f->role == ST_ROLE_UP);
	return take(f, gate, up, graph, wanted_type(f, f->own->tensor->dtype));
}

static enum st_status fix_block_layout(struct fix *f)
{
	static const struct {
		const char *order;
		enum st_code_order once, other;
	} known[] = {
		{ "nibbles exchanged", ST_CODES_EXCHANGED, ST_CODES_EXCHANGED },
		{ "pairs", ST_CODES_FROM_PAIRS, ST_CODES_TO_PAIRS },
		{ "halves", ST_CODES_TO_PAIRS, ST_CODES_FROM_PAIRS },
	};
	const char *order = st_report_text(f->params, "order");
	enum st_dtype t = f->own->tensor->dtype;
	for (size_t i = 0; order && i < 3; i++) {
		if (strcmp(order, known[i].order) != 0)
			continue;
		double left[2] = { 0, 0 };
		if (!st_dtype_has_nibbles(t))
			break;
		/* Which of the two files the report read again is not always said: one order undoes the other. */
		for (int k = 0; k < 2; k++) {
			f->j->order = k ? known[i].other : known[i].once;
			ST_TRY(take(f, f->own, NULL, NULL, t));
			if (f->j->kind != ST_JOB_COPY)
				return cannot(f, "the output has no place for the blocks; repair into a container that "
				                 "has this type");
			if (f->sound)
				ST_TRY(residual(f, &left[k]));
		}
		f->j->order = left[0] <= left[1] ? known[i].once : known[i].other;
		return ST_OK;
	}
	return cannot(f, "the report names no order of values in a block that Stele knows");
}

/* Of the same bytes under two labels the report relabels one; where this file is the other, its tensor has the type
 * that is proposed there, and what is right for it is the label. */
static enum st_status fix_label(struct fix *f)
{
	const char *own = st_dtype_info(f->own->tensor->dtype)->name, *proposed = st_report_text(f->params, "type");
	const char *name = proposed && strcmp(proposed, own) == 0 ? st_report_text(f->params, "label") : proposed;
	enum st_dtype t;
	struct st_tensor *x = st_arena_alloc(&f->v->arena, 1, sizeof *x);
	struct st_weight w = *f->own;
	if (!x)
		return st_no_memory(f->err);
	*x = *f->own->tensor;
	uint64_t cols = st_tensor_cols(x);
	if (!name || !st_dtype_parse(name, &t) || x->layout != ST_LAYOUT_ROWS || cols % st_dtype_info(t)->block_elems
	    || cols / st_dtype_info(t)->block_elems * st_dtype_info(t)->block_bytes != x->row_bytes)
		return cannot(f, "the bytes do not hold the type that the report names");
	x->dtype = t;
	x->scale = 1;
	w.tensor = x;
	return take(f, &w, NULL, NULL, wanted_type(f, t));
}

static const struct {
	enum st_cause_code code;
	enum st_status (*fix)(struct fix *f);
	bool in_place; /* works on the file's own tensor */
	const char *what;
} fixes[] = {
	{ ST_CAUSE_WEIGHT_TRANSPOSED, fix_transposed, true, "rewritten as its transpose" },
	{ ST_CAUSE_WEIGHT_ROPE_PERMUTED, fix_rope_order, true, "rows put into the other RoPE order" },
	{ ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS, fix_rope_order, true,
	  "rows reordered for the right number of heads" },
	{ ST_CAUSE_WEIGHT_SCALED, fix_scaled, true, "scaled back" },
	{ ST_CAUSE_EMBEDDING_SCALE, fix_scaled, true, "scaled back" },
	{ ST_CAUSE_HEAD_SCALE, fix_scaled, true, "scaled back" },
	{ ST_CAUSE_BIAS_SCALED, fix_scaled, true, "scaled back" },
	{ ST_CAUSE_WEIGHT_ROW_SHIFT, fix_row_shift, true, "rows shifted back" },
	{ ST_CAUSE_EMBEDDING_ROW_SHIFT, fix_row_shift, true, "rows shifted back" },
	{ ST_CAUSE_NORM_PLUS_ONE, fix_plus_one, true, "one added or taken away" },
	{ ST_CAUSE_WEIGHT_QKV_SWAPPED, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_WEIGHT_GATE_UP_SWAPPED, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_WEIGHT_EXPERT_SWAPPED, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_WEIGHT_LAYER_SWAPPED, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_WEIGHT_WRONG_TENSOR, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_NORM_WRONG_WEIGHT, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_HEAD_WRONG_TENSOR, fix_misplaced, true, "the right tensor put in its place" },
	{ ST_CAUSE_WEIGHT_GATE_UP_INTERLEAVED, fix_gate_up_interleaved, true, "rows of gate and up taken apart" },
	{ ST_CAUSE_WEIGHT_BLOCK_LAYOUT, fix_block_layout, true, "values inside the blocks reordered" },
	{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, fix_label, true, "labelled as what it is" },
	{ ST_CAUSE_HEAD_TIED, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_MISSING, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_BIAS_MISSING, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_NORM_WEIGHT_MISSING, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_QKV_INTERLEAVED, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_FUSED_ORDER, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_ROWS_PERMUTED, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_ROW_CORRUPT, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_BLOCK_SCALE, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_TRUNCATED_ROUNDING, fix_from_other, false, "taken from the other file" },
	{ ST_CAUSE_WEIGHT_NAN, fix_from_other, false, "taken from the other file" },
};

/* The job of a place; a missing weight gets one. */
static enum st_status find_job(struct fix *f)
{
	struct st_conversion *v = f->v;
	char name[128];
	for (size_t i = 0; i < v->plan.n; i++)
		if (v->plan.jobs[i].role == f->role && v->plan.jobs[i].layer == f->layer) {
			f->j = &v->plan.jobs[i];
			return ST_OK;
		}
	ST_TRY(st_add_job(&v->plan, &f->j, f->err));
	f->j->role = f->role;
	f->j->layer = f->layer;
	f->j->spec.ndim = st_role_shape(&v->dst.cfg, f->role, f->j->spec.shape);
	bool named = v->dst.format == ST_FORMAT_GGUF ? st_role_gguf_name(f->role, f->layer, name, sizeof name)
	                                             : st_role_hf_name(f->role, f->layer, name, sizeof name);
	f->j->spec.name = named ? st_arena_strndup(&v->arena, name, strlen(name)) : NULL;
	return f->j->spec.name ? ST_OK : st_no_memory(f->err);
}

static enum st_status apply_fault(struct fix *f)
{
	const char *code = st_report_text(f->fault, "code");
	f->name = st_report_text(f->fault, "tensor");
	f->params = json_object_get(f->fault, "parameters");
	if (!code || !f->name || !st_role_of_name(f->name, &f->role, &f->layer)
	    || (st_role_per_layer(f->role) && f->layer >= f->v->dst.cfg.n_layers))
		return st_fail(f->err, ST_ERR_FORMAT, "weights.faults names no code or no weight of this model");
	f->code = code;
	enum st_cause_code cause;
	size_t i = 0, n = st_cause_parse(code, &cause) ? sizeof fixes / sizeof *fixes : 0;
	while (i < n && fixes[i].code != cause)
		i++;
	if (i == n)
		return cannot(f, "it is not known what would undo it; convert again from a sound source");
	f->own = bound(f->v->src.model, f->role, f->layer);
	f->sound = filled(f->v->src.other, f->role, f->layer);
	bool bias = f->role == ST_ROLE_Q_BIAS || f->role == ST_ROLE_K_BIAS || f->role == ST_ROLE_V_BIAS;
	f->v->dst.cfg.qkv_bias |= bias;
	ST_TRY(find_job(f));
	if (f->role == ST_ROLE_HEAD)
		f->v->dst.cfg.tied = false;
	if (!f->own && fixes[i].in_place && f->role == ST_ROLE_HEAD)
		f->own = bound(f->v->src.model, ST_ROLE_EMBED, 0);
	if (!f->own && fixes[i].in_place)
		return cannot(f, "the file has no such tensor");
	f->j->gain = 1;
	f->j->offset = 0;
	ST_TRY(fixes[i].fix(f));
	f->j->repaired = st_cause_name(fixes[i].code);
	f->j->sound = f->sound;
	st_log_line(&f->v->log, &f->v->log.repairs, "%s: %s: %s", f->code, f->j->spec.name, fixes[i].what);
	return ST_OK;
}

static struct st_job *job_of(struct st_conversion *v, enum st_role role)
{
	for (size_t i = 0; i < v->plan.n; i++)
		if (v->plan.jobs[i].role == role)
			return &v->plan.jobs[i];
	return NULL;
}

/* A head that the file has only as its embedding follows the embedding's repair. */
static bool follows_embedding(const struct st_repair *r, const struct st_conversion *v, const json_t *fault)
{
	enum st_role role;
	uint32_t layer;
	const char *name = st_report_text(fault, "tensor");
	if (!name || !st_role_of_name(name, &role, &layer) || role != ST_ROLE_HEAD
	    || bound(v->src.model, ST_ROLE_HEAD, 0))
		return false;
	for (size_t i = 0; i < json_array_size(r->faults); i++) {
		const char *other = st_report_text(json_array_get(r->faults, i), "tensor");
		if (other && st_role_of_name(other, &role, &layer) && role == ST_ROLE_EMBED)
			return true;
	}
	return false;
}

enum st_status st_repair_apply(struct st_repair *r, struct st_conversion *v, struct st_error *err)
{
	for (size_t i = 0; i < json_array_size(r->faults); i++) {
		struct fix f = { .r = r, .v = v, .fault = json_array_get(r->faults, i), .err = err };
		if (!st_fault_concerns(r, f.fault)) {
			const char *name = st_report_text(f.fault, "tensor");
			st_note(&v->log, "%s is wrong in the other file and stays as it is here",
			        name ? name : "a tensor");
			continue;
		}
		if (!follows_embedding(r, v, f.fault))
			ST_TRY(apply_fault(&f));
	}
	struct st_job *embed = job_of(v, ST_ROLE_EMBED), *head = job_of(v, ST_ROLE_HEAD);
	if (embed && head && embed->repaired && v->dst.cfg.tied && !bound(v->src.model, ST_ROLE_HEAD, 0)) {
		const char *name = head->spec.name;
		*head = *embed;
		head->spec.name = name;
		head->role = ST_ROLE_HEAD;
	}
	st_sort_jobs(&v->plan, v->dst.format);
	return ST_OK;
}
