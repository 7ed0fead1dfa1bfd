/*
 * described.c - which tensors the output has, by the family's page.
 *
 * A page says of every weight how it comes out of what each container stores. Read backwards it says which tensor of the
 * target a weight is a part of, and which rows of it are the weight's.
 */
#include "convert/described.h"

#include "graph/basis.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of the output while its parts are found. */
struct tensor {
	const char *name;
	int32_t layer;
	const struct st_source *src; /* of the first */
	bool turned, less_one, logarithm, vector;
	uint64_t stack, of; /* experts in it, and rows of each; 0: it is no stack */
	uint64_t cols;
	uint64_t wide; /* columns of a small matrix whose numbers are put one by one; 0: it is none */
	struct st_job_row *rows;
	size_t n, cap; /* rows: reached so far, room */
	const struct st_weight *first;
	bool alone; /* one weight is all of it */
};

struct tensors {
	struct tensor *v;
	size_t n, cap;
};

/* Where the weight's rows lie in a tensor of the target. */
struct part {
	uint64_t from, step, each, of; /* part row p: of 0: from + p * step; else p / each * of + from + p % each */
	bool pairs, turned, less_one, logarithm;
	uint32_t heads, pair_dims;
	uint64_t column, every; /* of columns those from `column` on, one of `every`; 0: all */
};

static enum st_status read_part(const struct st_source *src, const struct st_settings *s, struct part *p,
                                struct st_error *err)
{
	*p = (struct part){ .step = 1, .heads = 1 };
	for (uint32_t i = 0; i < src->n_steps; i++) {
		const struct st_source_step *x = &src->steps[i];
		uint64_t b;
		switch (x->op) {
		case ST_SOURCE_TRANSPOSE:
			p->turned = true;
			break;
		case ST_SOURCE_ROWS:
			ST_TRY(st_expression_count_or(&x->a, s, 0, &p->from, err));
			break;
		case ST_SOURCE_STRIDE:
			ST_TRY(st_expression_count_or(&x->a, s, 0, &p->from, err));
			ST_TRY(st_expression_count_or(&x->n, s, 1, &p->step, err));
			break;
		case ST_SOURCE_EACH:
			ST_TRY(st_expression_count_or(&x->a, s, 0, &p->from, err));
			ST_TRY(st_expression_count_or(&x->b, s, 0, &b, err));
			ST_TRY(st_expression_count_or(&x->m, s, 0, &p->of, err));
			p->each = b - p->from;
			break;
		case ST_SOURCE_COLUMNS:
			ST_TRY(st_expression_count_or(&x->a, s, 0, &p->column, err));
			ST_TRY(st_expression_count_or(&x->n, s, 1, &p->every, err));
			break;
		case ST_SOURCE_PAIRS:
			ST_TRY(st_expression_count(&x->n, s, &p->heads, err));
			p->pairs = p->heads != 0;
			if (x->m.n)
				ST_TRY(st_expression_count(&x->m, s, &p->pair_dims, err));
			break;
		case ST_SOURCE_PLUS_ONE:
			p->less_one = true;
			break;
		case ST_SOURCE_NEG_EXP:
			p->logarithm = true;
			break;
		case ST_SOURCE_TIMES: {
			double by;
			ST_TRY(st_expression_number(&x->a, s, &by, err));
			if (by != 1)
				return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, src->name,
				                  "is stored divided by %g, which cannot be written yet", by);
			break;
		}
		default:
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, src->name,
			                  "is made in a way that cannot be written backwards yet");
		}
	}
	return ST_OK;
}

/* Where row r of the weight, in the graph's basis, stands in the target's tensor. d: rows of a head */
static uint64_t target_row(const struct part *p, uint64_t r, uint64_t rows)
{
	uint64_t d = p->pairs ? rows / p->heads : 0, n = p->pair_dims ? p->pair_dims : d;
	if (d && r % d < n)
		r = r - r % d + st_row_in_pairs(r % d, n);
	return p->of ? r / p->each * p->of + p->from + r % p->each : p->from + r * p->step;
}

static enum st_status put_row(struct tensor *t, uint64_t at, const struct st_weight *w, uint64_t r,
                              struct st_error *err)
{
	if (at >= (1u << 30))
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, t->name, "has too many rows");
	size_t before = t->cap;
	if (!st_grow((void **)&t->rows, &t->cap, (size_t)at + 1, sizeof *t->rows))
		return st_no_memory(err);
	memset(t->rows + before, 0, (t->cap - before) * sizeof *t->rows);
	if (t->rows[at].w)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, w->canonical, "has no place beside %s in %s",
		                  t->rows[at].w->canonical, t->name);
	t->rows[at] = (struct st_job_row){ w, r };
	t->n = at + 1 > t->n ? (size_t)at + 1 : t->n;
	return ST_OK;
}

/* Parts of one tensor are weights of one layer, and those come one behind the other. */
static struct tensor *find_tensor(struct tensors *all, const char *name, const struct st_source *src,
                                  const struct st_weight *w)
{
	for (size_t i = all->n; i-- > 0 && all->v[i].layer == w->layer;)
		if (strcmp(all->v[i].name, name) == 0)
			return &all->v[i];
	if (!st_grow((void **)&all->v, &all->cap, all->n + 1, sizeof *all->v))
		return NULL;
	struct tensor *t = &all->v[all->n++];
	*t = (struct tensor){ .name = name, .layer = w->layer, .src = src, .first = w, .alone = true };
	return t;
}

/* Names under another root are another program's, and a file is not written half in the one's way. */
static bool same_root(const char *a, const char *b)
{
	size_t n = strcspn(a, ".");
	return n == strcspn(b, ".") && memcmp(a, b, n) == 0;
}

/* Which of the target's sources: where both containers have as many, they stand for each other. */
static uint32_t alternative(const struct st_described *d, const struct st_family_weight *fw, enum st_spelling to,
                            const struct st_weight *w)
{
	enum st_spelling from = st_described_columns(d);
	for (uint32_t i = 0; fw->n_sources[from] == fw->n_sources[to] && i < fw->n_sources[from]; i++) {
		char name[256];
		size_t n = st_source_spell(fw->sources[from][i].name, w->layer, w->expert, name, sizeof name);
		if (n < sizeof name && strncmp(w->tensor->name, name, n) == 0)
			return same_root(fw->sources[to][i].name, fw->sources[to][0].name) ? i : 0;
	}
	return 0;
}

/* Rows of each matrix of a stack, with those of all weights that share it. */
static enum st_status rows_of_one(const struct st_described *d, enum st_spelling to, const struct st_source *src,
                                  const struct st_settings *s, uint64_t *of, struct st_error *err)
{
	*of = 0;
	for (uint32_t i = 0; i < d->family->n_weights; i++) {
		const struct st_family_weight *w = &d->family->weights[i];
		for (uint32_t k = 0; w->rank == 3 && k < w->n_sources[to]; k++) {
			struct part p;
			uint32_t rows;
			if (strcmp(w->sources[to][k].name, src->name) != 0)
				continue;
			ST_TRY(read_part(&w->sources[to][k], s, &p, err));
			ST_TRY(st_expression_count(&w->shape[1], s, &rows, err));
			uint64_t end = p.of ? p.of : rows ? p.from + (rows - 1) * p.step + 1 : 0;
			*of = end > *of ? end : *of;
		}
	}
	return ST_OK;
}

/* A small matrix of which another weight has the columns between: its numbers one by one. */
static enum st_status add_columns(struct tensor *t, const struct st_weight *w, const struct part *p,
                                  struct st_error *err)
{
	uint64_t rows = st_weight_rows(w), cols = st_weight_cols(w), wide = cols * p->every;
	if (p->turned || p->pairs || p->of || p->step != 1 || w->expert >= 0 || (t->n && t->wide != wide))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
		                  "is made in a way that cannot be written backwards yet");
	t->alone = false;
	t->vector = true;
	t->cols = 1;
	t->wide = wide;
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t c = 0; c < cols; c++)
			ST_TRY(put_row(t, r * wide + p->column + c * p->every, w, r * cols + c, err));
	return ST_OK;
}

static enum st_status add_weight(struct st_conversion *v, struct tensors *all, const struct st_weight *w,
                                 struct st_error *err)
{
	const struct st_described *d = st_model_described(v->src.model);
	enum st_spelling to = v->dst.format == ST_FORMAT_GGUF ? ST_SPELLING_GGUF : ST_SPELLING_CONFIG;
	const struct st_family_weight *fw = &d->family->weights[st_family_find_weight(d->family, w->name)];
	struct st_settings s = st_described_at(d, w->layer);
	struct part p;
	if (fw->n_sources[to] == 0
	    && (w->role == ST_ROLE_ROPE_FREQS || st_described_factors(d, w->name) != ST_FAMILY_NONE)) {
		st_note(&v->log, "%s: frequencies are said by keys there", w->tensor->name);
		return ST_OK;
	}
	if (fw->n_sources[to] == 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, w->canonical, "has no place in %s",
		                  st_format_name(v->dst.format));
	const struct st_source *src = &fw->sources[to][alternative(d, fw, to, w)];
	char spelt[256];
	size_t length = st_source_spell(src->name, w->layer, w->expert, spelt, sizeof spelt);
	const char *name = st_arena_strndup(&v->arena, spelt, length < sizeof spelt ? length : sizeof spelt - 1);
	struct tensor *t = name ? find_tensor(all, name, src, w) : NULL;
	if (!t)
		return st_no_memory(err);
	ST_TRY(read_part(src, &s, &p, err));
	bool small = w->kind != ST_WEIGHT_MATRIX && w->kind != ST_WEIGHT_EMBEDDING;
	bool vector = w->tensor->ndim < 2 || (small && st_tensor_rows(w->tensor) == 1),
	     stacked = w->expert >= 0 && !strchr(src->name, '@');
	if (p.every)
		return add_columns(t, w, &p, err);
	uint64_t rows = vector ? st_weight_cols(w) : st_weight_rows(w), cols = vector ? 1 : st_weight_cols(w);
	uint64_t at = 0;
	if (stacked) { /* one expert behind the other, each with what it shares its place with */
		t->of = rows;
		if (fw->rank == 3)
			ST_TRY(rows_of_one(d, to, src, &s, &t->of, err));
		at = (uint64_t)w->expert * t->of;
		t->stack = (uint64_t)w->expert + 1 > t->stack ? (uint64_t)w->expert + 1 : t->stack;
	}
	if (t->n
	    && (t->cols != cols || t->vector != vector || t->turned != p.turned || t->less_one != p.less_one
	        || t->logarithm != p.logarithm))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name,
		                  "is made of weights that do not fit together");
	if (p.pairs && (rows % p.heads || rows / p.heads % 2))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "%" PRIu64 " rows are not %u heads", rows,
		                  p.heads);
	t->alone &= t->n == 0;
	t->cols = cols;
	t->vector = vector;
	t->turned = p.turned;
	t->less_one = p.less_one;
	t->logarithm = p.logarithm;
	for (uint64_t r = 0; r < rows; r++)
		ST_TRY(put_row(t, at + target_row(&p, r, rows), w, r, err));
	return ST_OK;
}

/* ---- jobs ---- */

/* The bytes of every row can be taken as they are. */
static bool rows_copyable(const struct st_job *j, enum st_dtype want)
{
	const struct st_dtype_info *info = st_dtype_info(want);
	uint64_t cols = st_spec_cols(&j->spec);
	if (j->turned || cols % info->block_elems)
		return false;
	for (uint64_t r = 0; r < j->n_rows; r++) {
		const struct st_weight *w = j->rows[r].w;
		const struct st_tensor *t = w->tensor;
		bool same_form = w->plus_one == j->less_one && w->neg_exp == j->logarithm && t->scale == 1;
		if (t->dtype != want || t->layout != ST_LAYOUT_ROWS || !same_form)
			return false;
	}
	return true;
}

static enum st_status settle(struct st_conversion *v, struct st_job *j, struct st_error *err)
{
	enum st_dtype want = st_wanted_type(&v->dst, j, j->src[0]->dtype);
	uint64_t bytes;
	/* Readers of GGUF take what is no matrix as F32. */
	if (v->dst.format == ST_FORMAT_GGUF && !j->is_matrix)
		want = ST_DTYPE_F32;
	j->raw = rows_copyable(j, want) && st_format_has(v->dst.format, want)
	      && st_stored_bytes(want, j->spec.ndim, j->spec.shape, &bytes);
	j->spec.dtype = want;
	if (!j->raw) {
		j->kind = ST_JOB_TRANSPOSE; /* numbers that no stored tensor has in this order */
		ST_TRY(st_job_settle(&v->dst, j, want, err));
	}
	j->kind = ST_JOB_GATHER;
	return ST_OK;
}

/* The sizes that the target's files have, where the page says them. They hold as many numbers, and rows as long. */
static enum st_status label(const struct st_conversion *v, const struct tensor *t, struct st_tensor_spec *s,
                            struct st_error *err)
{
	struct st_settings here = st_described_at(st_model_described(v->src.model), t->layer);
	uint64_t had = st_spec_rows(s) * st_spec_cols(s), cols = st_spec_cols(s);
	if (t->src->n_label == 0)
		return ST_OK;
	s->ndim = t->src->n_label;
	for (uint32_t i = 0; i < s->ndim; i++)
		ST_TRY(st_expression_count_or(&t->src->label[i], &here, 0, &s->shape[i], err));
	bool fits = st_spec_rows(s) * st_spec_cols(s) == had && (t->vector || st_spec_cols(s) == cols);
	return fits ? ST_OK
	            : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "its label does not hold its numbers");
}

/* A vector is small: its numbers are made here. */
static enum st_status vector_job(struct st_conversion *v, const struct tensor *t, struct st_job *j,
                                 struct st_error *err)
{
	float *x = st_arena_alloc(&v->arena, t->n, sizeof *x), *own = NULL;
	const struct st_weight *now = NULL;
	if (!x)
		return st_no_memory(err);
	for (size_t i = 0; i < t->n; i++) {
		if (t->rows[i].w != now) {
			now = t->rows[i].w;
			free(own);
			uint64_t rows = t->wide ? st_weight_rows(now) : 1;
			own = st_alloc_array2(rows, st_weight_cols(now), sizeof *own);
			if (!own)
				return st_no_memory(err);
			for (uint64_t r = 0; r < rows; r++)
				st_weight_decode(now, r, 1, own + r * st_weight_cols(now));
		}
		x[i] = st_stored_form(t->less_one, t->logarithm, own[t->rows[i].row]);
	}
	free(own);
	enum st_dtype want = v->dst.format == ST_FORMAT_GGUF ? ST_DTYPE_F32 : t->first->tensor->dtype;
	/* A page that gives a vector the shape [1, n] says how config.json's containers label it. */
	const struct st_family *f = st_model_described(v->src.model)->family;
	bool row = !t->wide && f->weights[st_family_find_weight(f, t->first->name)].rank == 2 && t->first->expert < 0
	        && v->dst.format != ST_FORMAT_GGUF;
	j->kind = ST_JOB_VALUES;
	j->values = x;
	j->spec.ndim = row || t->wide ? 2 : 1;
	j->spec.shape[0] = row ? 1 : t->wide ? t->n / t->wide : t->n;
	j->spec.shape[1] = row ? t->n : t->wide;
	ST_TRY(label(v, t, &j->spec, err));
	return st_job_settle(&v->dst, j, want, err);
}

static enum st_status add_tensor(struct st_conversion *v, struct tensor *t, struct st_error *err)
{
	struct st_job *j;
	for (size_t i = 0; i < t->n; i++)
		if (!t->rows[i].w)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "row %zu of it is none of the model's weights", i);
	ST_TRY(st_add_job(&v->plan, &j, err));
	j->spec.name = t->name;
	j->role = t->alone ? t->first->role : ST_ROLE_COUNT;
	j->layer = t->layer < 0 ? 0 : (uint32_t)t->layer;
	j->src[0] = t->first->tensor;
	if (t->vector)
		return vector_job(v, t, j, err);
	j->rows = st_arena_alloc(&v->arena, t->n, sizeof *j->rows);
	if (!j->rows)
		return st_no_memory(err);
	memcpy((struct st_job_row *)(uintptr_t)j->rows, t->rows, t->n * sizeof *t->rows);
	j->n_rows = t->n;
	j->turned = t->turned;
	j->less_one = t->less_one;
	j->logarithm = t->logarithm;
	j->spec.ndim = t->stack ? 3 : 2;
	uint64_t *shape = j->spec.shape;
	if (t->stack) {
		if (t->n != t->stack * t->of)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "is a stack of matrices in a form that cannot be written yet");
		shape[0] = t->stack;
		shape[1] = t->turned ? t->cols : t->of;
		shape[2] = t->turned ? t->of : t->cols;
	} else {
		shape[0] = t->turned ? t->cols : t->n;
		shape[1] = t->turned ? t->n : t->cols;
	}
	ST_TRY(label(v, t, &j->spec, err));
	struct st_tensor named = *t->first->tensor;
	named.name = t->name;
	named.ndim = j->spec.ndim;
	j->is_matrix = (t->first->kind == ST_WEIGHT_MATRIX || t->first->kind == ST_WEIGHT_EMBEDDING)
	            && st_may_be_quantised(&named);
	if (!j->is_matrix)
		j->role = ST_ROLE_COUNT;
	return settle(v, j, err);
}

/* The divisors that make the frequencies of theta those that the graph turns by. */
static enum st_status divisors_job(struct st_conversion *v, struct st_error *err)
{
	const struct st_described *d = st_model_described(v->src.model);
	const struct st_graph *g = st_model_graph(v->src.model);
	const struct st_family_weight *w =
		&d->family->weights[st_family_find_weight(d->family, st_role_name(ST_ROLE_ROPE_FREQS))];
	uint32_t theta = st_family_find_key(d->family, "theta"), i = 0;
	while (i < g->n_nodes && g->nodes[i].op != ST_OP_ROPE)
		i++;
	if (i == g->n_nodes || theta == ST_FAMILY_NONE || d->settings.keys[theta].kind != ST_SETTING_NUMBER
	    || w->n_sources[ST_SPELLING_GGUF] == 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, w->name, "cannot be made for GGUF");
	const struct st_node *n = &g->nodes[i];
	float *by = st_arena_alloc(&v->arena, n->n_rot / 2, sizeof *by);
	struct st_job *j;
	if (!by)
		return st_no_memory(err);
	for (uint32_t k = 0; k < n->n_rot / 2; k++)
		by[k] = (float)(pow(d->settings.keys[theta].number, -2.0 * k / n->n_rot) / n->inv_freq[k]);
	ST_TRY(st_add_job(&v->plan, &j, err));
	j->kind = ST_JOB_VALUES;
	j->values = by;
	j->spec = (struct st_tensor_spec){ .name = w->sources[ST_SPELLING_GGUF][0].name,
		                           .dtype = ST_DTYPE_F32,
		                           .ndim = 1,
		                           .shape = { n->n_rot / 2 } };
	return ST_OK;
}

/* Longrope's divisors, which are lists of config.json, as the tensors that GGUF has for them. */
static enum st_status factors_jobs(struct st_conversion *v, struct st_error *err)
{
	const struct st_described *d = st_model_described(v->src.model);
	for (uint32_t i = 0; i < d->family->n_weights; i++) {
		const struct st_family_weight *w = &d->family->weights[i];
		uint32_t key = st_described_factors(d, w->name);
		const struct st_setting *list = key == ST_FAMILY_NONE ? NULL : &d->settings.keys[key];
		if (!list || list->kind != ST_SETTING_LIST || w->n_sources[ST_SPELLING_GGUF] == 0)
			continue;
		float *x = st_arena_alloc(&v->arena, list->n, sizeof *x);
		struct st_job *j;
		if (!x)
			return st_no_memory(err);
		for (size_t k = 0; k < list->n; k++)
			x[k] = (float)list->items[k].number;
		ST_TRY(st_add_job(&v->plan, &j, err));
		j->kind = ST_JOB_VALUES;
		j->values = x;
		j->spec = (struct st_tensor_spec){ .name = w->sources[ST_SPELLING_GGUF][0].name,
			                           .dtype = ST_DTYPE_F32,
			                           .ndim = 1,
			                           .shape = { list->n } };
	}
	return ST_OK;
}

enum st_status st_described_jobs(struct st_conversion *v, struct st_error *err)
{
	const struct st_model *m = v->src.model;
	const struct st_described *d = st_model_described(m);
	bool divides = false;
	if (d->family->n_names[v->dst.format == ST_FORMAT_GGUF ? ST_SPELLING_GGUF : ST_SPELLING_CONFIG] == 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, d->family->name,
		                  "is a family that has no %s files", st_format_name(v->dst.format));
	if (v->dst.format == ST_FORMAT_GGUF)
		ST_TRY(st_described_divides(d, &divides, err));
	struct tensors all = { 0 };
	enum st_status st = ST_OK;
	for (size_t i = 0; i < st_model_n_weights(m) && st == ST_OK; i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (w->role == ST_ROLE_HEAD && st_head_is_copy(v, w)) {
			st_note(&v->log, "%s is a copy of the embedding: stored once, as a tied head", w->tensor->name);
			v->dst.cfg.tied = true;
			continue;
		}
		st = add_weight(v, &all, w, err);
	}
	for (size_t i = 0; i < all.n && st == ST_OK; i++)
		st = add_tensor(v, &all.v[i], err);
	for (size_t i = 0; i < all.n; i++)
		free(all.v[i].rows);
	free(all.v);
	if (divides && st == ST_OK)
		st = divisors_job(v, err);
	if (v->dst.format == ST_FORMAT_GGUF && st == ST_OK)
		st = factors_jobs(v, err);
	for (size_t i = 0; i < st_model_n_unused(m) && st == ST_OK; i++)
		st_note(&v->log, "dropped: %s, which is no weight of the text model", st_model_unused_at(m, i)->name);
	return st;
}
