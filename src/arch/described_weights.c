/* described_weights.c - the tensors of a description's weights, as views of what the container stores. */
#include "arch/described.h"

#include "arch/roles.h"
#include "dtype/apart.h"
#include "base/error.h"
#include "format/tensors.h"
#include "graph/basis.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct place {
	struct st_described *d;
	const struct st_family_weight *w;
	struct st_settings s; /* at the layer */
	int32_t layer;
	enum st_spelling columns; /* how the file names its tensors */
	uint64_t shape[ST_WEIGHT_RANK];
	const struct st_source *source; /* at hand */
	const struct st_tensor *stored; /* its tensor */
	char name[256];                 /* of that */
	struct st_error *err;
};

#define FAIL(p, ...) st_described_fail((p)->d, (p)->w->line, (p)->err, __VA_ARGS__)

/* ---- names ---- */

enum st_spelling st_described_columns(const struct st_described *d)
{
	bool gguf = d->naming ? d->naming->gguf : d->settings.spelling == ST_SPELLING_GGUF;
	return gguf ? ST_SPELLING_GGUF : ST_SPELLING_CONFIG;
}

/* The tensor of a name; in containers of config.json whatever stands in front of it or wraps it. */
static const struct st_tensor *find(struct place *p, const char *pattern, uint32_t expert)
{
	(void)st_source_spell(pattern, p->layer, (int32_t)expert, p->name, sizeof p->name);
	return p->columns == ST_SPELLING_GGUF && p->s.spelling == ST_SPELLING_GGUF
	             ? st_container_find(p->d->c, p->name)
	             : st_naming_look_up(p->d->naming, p->name);
}

/* The name of the weight that is looked up by token; NULL: the page gives none. */
static const char *embedding_name(const struct st_described *d)
{
	for (uint32_t i = 0; i < d->family->n_stages; i++) {
		const struct st_family_stage *s = &d->family->stages[i];
		const struct st_family_weight *w = s->op == ST_OPERATION_embed ? &d->family->weights[s->w[0].weight]
		                                                               : NULL;
		if (w && w->n_sources[ST_SPELLING_CONFIG])
			return w->sources[ST_SPELLING_CONFIG][0].name;
	}
	return NULL;
}

/* ---- views ---- */

static uint64_t element_bytes(const struct st_tensor *t)
{
	const struct st_dtype_info *i = st_dtype_info(t->dtype);
	return i->block_elems == 1 ? i->block_bytes : 0;
}

/* The sizes that follow from a view's shape. It lies inside a tensor that passed the gate. */
static bool settle(struct st_tensor *t) { return st_tensor_measure(t) && t->n_elems > 0; }

static enum st_status transpose(struct place *p, struct st_tensor *t)
{
	if (t->ndim < 2 || t->ndim > 3 || !element_bytes(t) || t->layout != ST_LAYOUT_ROWS)
		return FAIL(p, "%s: %s: only matrices of plain numbers can be transposed", p->name,
		            st_dtype_info(t->dtype)->name);
	if (t->ndim == 3) { /* one for each head, below one another */
		uint64_t in = t->shape[1], out = t->shape[2];
		t->layout = ST_LAYOUT_STRIDED;
		t->strides[0] = (int64_t)(in * out);
		t->strides[1] = 1;
		t->strides[2] = (int64_t)out;
		t->shape[1] = out;
		t->shape[2] = in;
		return settle(t) ? ST_OK : FAIL(p, "%s: too large to be transposed", p->name);
	}
	uint64_t rows = t->shape[0], cols = t->shape[1];
	t->layout = ST_LAYOUT_STRIDED;
	t->strides[0] = 1;
	t->strides[1] = (int64_t)cols;
	t->shape[0] = cols;
	t->shape[1] = rows;
	return settle(t) ? ST_OK : FAIL(p, "%s: too large to be transposed", p->name);
}

/* Every nth row from a of a matrix whose parts lie in several tensors. */
static enum st_status rows_apart(struct place *p, struct st_tensor *t, uint64_t a, uint64_t n, uint64_t rows)
{
	struct st_apart *own = st_arena_alloc(&p->d->arena, 1, sizeof *own);
	struct st_error *err = p->err;
	ST_NEED(own);
	*own = *t->apart;
	uint64_t step = own->step ? own->step : 1;
	own->first += a * step;
	own->step = step * n;
	own->rows = rows;
	t->apart = own;
	t->shape[0] = rows;
	return settle(t) ? ST_OK : FAIL(p, "%s: cannot be cut", p->name);
}

/* Rows [a, b) of a matrix, elements [a, b) of a vector. */
static enum st_status cut(struct place *p, struct st_tensor *t, uint64_t a, uint64_t b)
{
	uint64_t all = t->ndim == 1 ? t->n_elems : t->shape[0];
	if (t->ndim == 0 || t->ndim > 2 || a >= b || b > all)
		return FAIL(p, "%s: rows %" PRIu64 " to %" PRIu64 " of %" PRIu64, p->name, a, b, all);
	if (t->layout == ST_LAYOUT_APART)
		return rows_apart(p, t, a, 1, b - a);
	if (t->ndim == 1) {
		const struct st_dtype_info *i = st_dtype_info(t->dtype);
		if (a % i->block_elems || b % i->block_elems)
			return FAIL(p, "%s: blocks of %u elements do not end there", p->name, i->block_elems);
		t->data += a / i->block_elems * i->block_bytes;
	} else if (t->layout == ST_LAYOUT_ROWS) {
		t->data += a * t->row_bytes;
	} else if (t->layout == ST_LAYOUT_STRIDED) {
		t->data += a * (uint64_t)t->strides[0] * element_bytes(t);
	} else {
		return FAIL(p, "%s: its rows do not begin at blocks", p->name);
	}
	uint64_t row_bytes = t->row_bytes;
	t->shape[0] = b - a;
	if (!settle(t))
		return FAIL(p, "%s: cannot be cut", p->name);
	if (t->ndim == 2 && t->layout == ST_LAYOUT_ROWS)
		t->row_bytes = row_bytes;
	return ST_OK;
}

static enum st_status count(struct place *p, const struct st_expression *e, uint64_t otherwise, uint64_t *out)
{
	return st_expression_count_or(e, &p->s, otherwise, out, p->err);
}

/* Every nth row from a: rows of a view may be farther apart than they are long. */
static enum st_status stride(struct place *p, struct st_tensor *t, const struct st_source_step *step)
{
	uint64_t a, n;
	ST_TRY(count(p, &step->a, 0, &a));
	ST_TRY(count(p, &step->n, 1, &n));
	if (t->ndim == 2 && t->layout == ST_LAYOUT_APART && n && a < n && t->shape[0] % n == 0)
		return rows_apart(p, t, a, n, t->shape[0] / n);
	if (t->ndim == 2 && t->layout == ST_LAYOUT_STRIDED && n && a < n && t->shape[0] % n == 0) {
		int64_t between = t->strides[0];
		ST_TRY(cut(p, t, a, t->shape[0] - (n - 1 - a)));
		t->shape[0] = (t->shape[0] + n - 1) / n;
		t->strides[0] = between * (int64_t)n;
		return settle(t) ? ST_OK : FAIL(p, "%s: cannot be cut", p->name);
	}
	if (t->ndim != 2 || t->layout != ST_LAYOUT_ROWS || n == 0 || a >= n || t->shape[0] % n)
		return FAIL(p, "%s: has no every %" PRIu64 "th row from %" PRIu64, p->name, n, a);
	ST_TRY(cut(p, t, a, t->shape[0] - (n - 1 - a)));
	uint64_t row_bytes = t->row_bytes * n;
	t->shape[0] = (t->shape[0] + n - 1) / n;
	if (!settle(t))
		return FAIL(p, "%s: cannot be cut", p->name);
	t->row_bytes = row_bytes;
	return ST_OK;
}

/* Every nth column from a. */
static enum st_status columns(struct place *p, struct st_tensor *t, const struct st_source_step *step)
{
	uint64_t a, n, size = element_bytes(t);
	ST_TRY(count(p, &step->a, 0, &a));
	ST_TRY(count(p, &step->n, 1, &n));
	if (t->ndim != 2 || t->layout != ST_LAYOUT_ROWS || !size || n == 0 || a >= n || t->shape[1] % n)
		return FAIL(p, "%s: has no every %" PRIu64 "th column from %" PRIu64, p->name, n, a);
	t->strides[0] = (int64_t)(t->row_bytes / size);
	t->strides[1] = (int64_t)n;
	t->layout = ST_LAYOUT_STRIDED;
	t->data += a * size;
	t->shape[1] /= n;
	return settle(t) ? ST_OK : FAIL(p, "%s: cannot be cut", p->name);
}

static enum st_status each(struct place *p, const struct st_tensor *t, const struct st_source_step *step,
                           struct st_weight *w)
{
	uint64_t n, a, b, m;
	ST_TRY(count(p, &step->n, 0, &n));
	ST_TRY(count(p, &step->a, 0, &a));
	ST_TRY(count(p, &step->b, 0, &b));
	ST_TRY(count(p, &step->m, 0, &m));
	uint64_t rows = t->ndim == 1 ? t->n_elems : st_tensor_rows(t);
	if (t->ndim == 0 || (t->ndim > 1 && t->layout != ST_LAYOUT_ROWS) || a >= b || b > m || n == 0 || rows / n != m
	    || rows % n || (t->ndim == 1 && st_dtype_info(t->dtype)->block_elems != 1))
		return FAIL(p, "%s: has no %" PRIu64 " groups of %" PRIu64 " rows with rows %" PRIu64 " to %" PRIu64,
		            p->name, n, m, a, b);
	w->group_from = (uint32_t)a;
	w->group_rows = (uint32_t)(b - a);
	w->group_of = (uint32_t)m;
	return ST_OK;
}

/* A tensor has one factor: that of all its numbers. */
static enum st_status times(struct place *p, struct st_tensor *t, const struct st_source_step *s)
{
	double by;
	ST_TRY(st_expression_number(&s->a, &p->s, &by, p->err));
	float f = (float)by * t->scale;
	if (!(fabsf(f) > 0) || !(fabsf(f) <= FLT_MAX) || t->layout == ST_LAYOUT_APART)
		return FAIL(p, "%s: cannot be multiplied by %g", p->name, by);
	t->scale = f;
	return ST_OK;
}

static enum st_status step(struct place *p, struct st_tensor *t, const struct st_source_step *s, struct st_weight *w)
{
	uint64_t a, b;
	switch (s->op) {
	case ST_SOURCE_TRANSPOSE:
		return transpose(p, t);
	case ST_SOURCE_ROWS:
		if (t->ndim > 2 && t->layout == ST_LAYOUT_ROWS) { /* matrices one below another */
			t->shape[0] = st_tensor_rows(t);
			t->shape[1] = st_tensor_cols(t);
			t->ndim = 2;
		}
		ST_TRY(count(p, &s->a, 0, &a));
		ST_TRY(count(p, &s->b, t->ndim == 1 ? t->n_elems : t->shape[0], &b));
		return cut(p, t, a, b);
	case ST_SOURCE_STRIDE:
		return stride(p, t, s);
	case ST_SOURCE_COLUMNS:
		return columns(p, t, s);
	case ST_SOURCE_EACH:
		return each(p, t, s, w);
	case ST_SOURCE_PAIRS:
		ST_TRY(st_expression_count(&s->n, &p->s, &w->heads, p->err));
		w->interleaved = w->heads != 0;
		return s->m.n ? st_expression_count(&s->m, &p->s, &w->pair_dims, p->err) : ST_OK;
	case ST_SOURCE_PLUS_ONE:
		w->plus_one = true;
		if (t->ndim != 1)
			return FAIL(p, "%s: 1+ is for vectors", p->name);
		return ST_OK;
	case ST_SOURCE_NEG_EXP:
		w->neg_exp = true;
		return ST_OK;
	case ST_SOURCE_TIMES:
		return times(p, t, s);
	}
	return ST_OK;
}

/* ---- shapes ---- */

static void print_shape(char *buf, size_t size, const uint64_t *shape, uint32_t rank)
{
	size_t n = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < rank && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%" PRIu64, i ? ", " : "", shape[i]);
}

/* Whether a source is all of a tensor, as it lies. */
static bool keeps_shape(const struct st_source *src)
{
	for (uint32_t i = 0; src && i < src->n_steps; i++) {
		enum st_source_op op = src->steps[i].op;
		if (op != ST_SOURCE_PAIRS && op != ST_SOURCE_PLUS_ONE && op != ST_SOURCE_NEG_EXP && op != ST_SOURCE_TIMES)
			return false;
	}
	return src != NULL;
}

static bool letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* "num_attention_heads*head_dim, hidden_size": the sizes wanted, in the names that the file has for keys. */
static void print_keys(const struct place *p, char *buf, size_t size)
{
	size_t n = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < p->w->rank && n < size; i++) {
		n += (size_t)snprintf(buf + n, size - n, "%s", i ? ", " : "");
		for (const char *s = p->w->shape[i].text; *s && n < size;) {
			char word[64];
			size_t k = 0;
			while (letter(s[k]) && k < sizeof word - 1)
				k++;
			snprintf(word, sizeof word, "%.*s", (int)k, s);
			uint32_t key = k ? st_family_find_key(p->d->family, word) : ST_FAMILY_NONE;
			const char *own = key == ST_FAMILY_NONE ? NULL : p->d->origin[key].key;
			n += own ? (size_t)snprintf(buf + n, size - n, "%s", own)
			         : (size_t)snprintf(buf + n, size - n, "%.*s", (int)(k ? k : 1), s);
			s += k ? k : 1;
		}
	}
}

/* The last `rank` sizes wanted against what is there; sizes of 1 in front are labels only. */
static enum st_status check_shape(struct place *p, const struct st_weight *w, const struct st_tensor *t, uint32_t rank)
{
	const uint64_t *want = p->shape + p->w->rank - rank;
	struct st_weight as = *w;
	as.tensor = t;
	uint64_t rows = st_weight_rows(&as), cols = st_tensor_cols(t);
	bool fits = rank > 1      ? cols == want[rank - 1]
	          : w->group_rows ? t->ndim == 1 && rows == want[0]
	                          : t->n_elems == want[0] && cols == want[0];
	if (rank == 2)
		fits &= rows == want[0];
	if (rank == 3)
		fits &= want[0] != 0 && rows / want[0] == want[1] && rows % want[0] == 0;
	if (fits && w->interleaved)
		fits = w->heads && (rank == 1 ? cols : rows) % w->heads == 0
		    && (rank == 1 ? cols : rows) / w->heads % 2 == 0;
	struct st_described_use *use = p->stored ? &p->d->uses[p->stored - p->d->c->tensors] : &(struct st_described_use){ 0 };
	bool turned = rank == 2 && t->ndim == 2 && rows == want[1] && cols == want[0], whole = keeps_shape(p->source);
	char found[128], wanted[128], keys[256], line[64] = "";
	print_shape(found, sizeof found, t->shape, t->ndim);
	print_shape(wanted, sizeof wanted, want, rank);
	if (st_dtype_info(t->dtype)->kind == ST_KIND_INT) {
		use->fit = ST_FIT_TYPE;
		return st_fail_at(p->err, ST_ERR_FORMAT, t->offset, p->name,
		                  "is stored as %s, which is no type for a weight", st_dtype_info(t->dtype)->name);
	}
	if (fits)
		return ST_OK;
	use->fit = turned && whole ? ST_FIT_TRANSPOSED : ST_FIT_SIZE;
	if (!whole || rank != p->w->rank)
		return st_fail_at(p->err, ST_ERR_FORMAT, t->offset, p->name, "%s [%s] gives %s no [%s]",
		                  st_dtype_info(t->dtype)->name, found, p->w->name, wanted);
	print_keys(p, keys, sizeof keys);
	/* Somebody's own page may be as wrong as the file. */
	if (!p->d->family->built_in)
		snprintf(line, sizeof line, " (%.40s:%u)", p->d->family->file, p->w->line);
	return st_fail_at(p->err, ST_ERR_FORMAT, t->offset, p->name, "is [%s], expected [%s] = [%s]%s%s", found, wanted,
	                  keys, use->fit == ST_FIT_TRANSPOSED ? ": transposed" : "", line);
}

/* A stack of matrices as one view for each. */
static enum st_status split(struct place *p, struct st_weight *w, const struct st_tensor *t)
{
	uint64_t rows = p->shape[1];
	struct st_tensor flat = *t, *views = st_arena_alloc(&p->d->arena, p->shape[0], sizeof *views);
	struct st_error *err = p->err;
	ST_NEED(views);
	/* Rows that an expert shares with others of its kind (gate and up in one tensor) are a group for each expert. */
	uint64_t of = w->group_rows ? w->group_of : rows, from = w->group_from;
	bool a_group_each = !w->group_rows || (w->group_rows == rows && st_tensor_rows(t) / of == p->shape[0]);
	bool by_rows = t->layout == ST_LAYOUT_ROWS || (t->layout == ST_LAYOUT_APART && !w->group_rows);
	if (!by_rows || !a_group_each || w->interleaved)
		return FAIL(p, "%s: experts are whole rows", p->name);
	flat.ndim = 2;
	flat.shape[0] = st_tensor_rows(t);
	flat.shape[1] = st_tensor_cols(t);
	for (uint64_t e = 0; e < p->shape[0]; e++) {
		views[e] = flat;
		ST_TRY(cut(p, &views[e], e * of + from, e * of + from + rows));
	}
	w->group_rows = w->group_of = w->group_from = 0;
	w->experts = views;
	w->n_experts = (uint32_t)p->shape[0];
	return ST_OK;
}

/* Numbers of each head in one tensor, where the other container has a tensor for each: a vector for each head. */
static enum st_status split_heads(struct place *p, struct st_weight *w, const struct st_tensor *t)
{
	struct st_tensor *views = st_arena_alloc(&p->d->arena, p->shape[0], sizeof *views), flat = *t;
	struct st_error *err = p->err;
	ST_NEED(views);
	if (t->layout != ST_LAYOUT_ROWS || !element_bytes(t) || t->row_bytes * st_tensor_rows(t) != t->n_bytes)
		return FAIL(p, "%s: is no vector for each head", p->name);
	flat.ndim = 1;
	flat.shape[0] = t->n_elems;
	if (!settle(&flat))
		return FAIL(p, "%s: is no vector for each head", p->name);
	for (uint64_t h = 0; h < p->shape[0]; h++) {
		views[h] = flat;
		ST_TRY(cut(p, &views[h], h * p->shape[1], (h + 1) * p->shape[1]));
	}
	w->tensor = w->experts = views;
	w->n_experts = (uint32_t)p->shape[0];
	return ST_OK;
}

static bool is_one_for_each(const struct st_family_weight *fw)
{
	for (int where = 0; where < ST_COLUMNS; where++)
		for (uint32_t i = 0; i < fw->n_sources[where]; i++)
			if (strchr(fw->sources[where][i].name, '@'))
				return true;
	return false;
}

/* ---- one weight ---- */

/* A tensor is used here, and fits until it is found not to. */
static void take(struct place *p, const struct st_source *src, const struct st_tensor *t)
{
	struct st_described_use *use = &p->d->uses[t - p->d->c->tensors];
	p->source = src;
	p->stored = t;
	*use = (struct st_described_use){ .fit = ST_FIT_OK,
		                          .weight = (uint32_t)(p->w - p->d->family->weights),
		                          .layer = p->layer,
		                          .rank = p->w->rank };
	memcpy(use->shape, p->shape, sizeof use->shape);
}

/* The bytes of an APR file are [out, in] whatever order the label of a matrix has. */
static void turn_label(struct place *p, struct st_tensor *t)
{
	const struct st_container *c = p->d->c;
	struct st_described_use *use = &p->d->uses[p->stored - c->tensors];
	const uint64_t *want = p->shape;
	if (c->format != ST_FORMAT_APR || p->w->rank != 2 || t->ndim != 2 || !keeps_shape(p->source))
		return;
	/* A square label says nothing; it follows the file's others. */
	bool reversed = t->file_dims[0] != t->shape[0] || (want[0] == want[1] && c->apr.dims_reversed);
	if (t->shape[0] == want[0] && t->shape[1] == want[1]) {
		use->fit = reversed ? ST_FIT_REVERSED : ST_FIT_OK;
		return;
	}
	struct st_tensor turned = *t;
	turned.shape[0] = want[0];
	turned.shape[1] = want[1];
	if (t->shape[0] != want[1] || t->shape[1] != want[0] || t->layout != ST_LAYOUT_ROWS
	    || want[1] % st_dtype_info(t->dtype)->block_elems != 0 || !st_tensor_measure(&turned)
	    || turned.n_bytes != t->n_bytes)
		return;
	*t = turned;
	use->fit = ST_FIT_REVERSED;
}

static enum st_status view(struct place *p, const struct st_source *src, const struct st_tensor *t, struct st_weight *w,
                           struct st_tensor *out)
{
	take(p, src, t);
	*out = *t;
	turn_label(p, out);
	/* One channel in the middle is a label: a convolution's weights are [features, 1, taps]. */
	if (out->ndim == 3 && out->shape[1] == 1 && p->w->rank == 2 && out->layout == ST_LAYOUT_ROWS) {
		out->shape[1] = out->shape[2];
		out->ndim = 2;
	}
	while (out->ndim > 1 && out->shape[0] == 1 && (out->ndim > p->w->rank || p->w->rank == 1)) {
		memmove(out->shape, out->shape + 1, (out->ndim - 1) * sizeof *out->shape);
		memmove(out->strides, out->strides + 1, (out->ndim - 1) * sizeof *out->strides);
		out->ndim--;
	}
	/* Numbers of each head, one after the other, are a vector. */
	if (p->w->rank == 1 && out->ndim == 2 && out->layout == ST_LAYOUT_ROWS
	    && out->row_bytes * out->shape[0] == out->n_bytes && element_bytes(out)) {
		out->ndim = 1;
		out->shape[0] = out->n_elems;
		if (!settle(out))
			return FAIL(p, "%s: is no vector", p->name);
	}
	for (uint32_t i = 0; i < src->n_steps; i++)
		ST_TRY(step(p, out, &src->steps[i], w));
	return ST_OK;
}

/* A stack of which each matrix is stored transposed: the steps are taken with each of them. */
static enum st_status stack_of_transposed(struct place *p, const struct st_source *src, const struct st_tensor *t,
                                          struct st_weight *w)
{
	struct st_tensor *views = st_arena_alloc(&p->d->arena, p->shape[0], sizeof *views), flat = *t;
	struct st_error *err = p->err;
	ST_NEED(views);
	if (t->layout != ST_LAYOUT_ROWS || t->shape[0] != p->shape[0])
		return FAIL(p, "%s: is no stack of %" PRIu64, p->name, p->shape[0]);
	take(p, src, t);
	flat.ndim = 2;
	flat.shape[0] = t->shape[0] * t->shape[1];
	flat.shape[1] = t->shape[2];
	for (uint64_t e = 0; e < p->shape[0]; e++) {
		views[e] = flat;
		ST_TRY(cut(p, &views[e], e * t->shape[1], (e + 1) * t->shape[1]));
		for (uint32_t i = 0; i < src->n_steps; i++)
			ST_TRY(step(p, &views[e], &src->steps[i], w));
		ST_TRY(check_shape(p, w, &views[e], 2));
	}
	w->tensor = w->experts = views;
	w->n_experts = (uint32_t)p->shape[0];
	return ST_OK;
}

/* One tensor for each expert. */
static enum st_status gather(struct place *p, const struct st_source *src, struct st_weight *w)
{
	struct st_tensor *views = st_arena_alloc(&p->d->arena, p->shape[0], sizeof *views);
	struct st_error *err = p->err;
	ST_NEED(views);
	for (uint64_t e = 0; e < p->shape[0]; e++) {
		const struct st_tensor *t = find(p, src->name, (uint32_t)e);
		if (!t)
			return st_fail_at(p->err, ST_ERR_FORMAT, ST_NO_OFFSET, p->name, "is missing");
		ST_TRY(view(p, src, t, w, &views[e]));
		ST_TRY(check_shape(p, w, &views[e], p->w->rank - 1));
	}
	w->tensor = w->experts = views;
	w->n_experts = (uint32_t)p->shape[0];
	return ST_OK;
}

static enum st_status whole(struct place *p, const struct st_source *src, const struct st_tensor *t,
                            struct st_weight *w)
{
	struct st_tensor *v = st_arena_alloc(&p->d->arena, 1, sizeof *v);
	struct st_error *err = p->err;
	if (p->w->rank == 3 && t->ndim == 3 && src->n_steps && src->steps[0].op == ST_SOURCE_TRANSPOSE)
		return stack_of_transposed(p, src, t, w);
	ST_NEED(v);
	ST_TRY(view(p, src, t, w, v));
	ST_TRY(check_shape(p, w, v, p->w->rank));
	w->tensor = v;
	if (p->w->rank == 2 && is_one_for_each(p->w))
		return split_heads(p, w, v);
	return p->w->rank == 3 ? split(p, w, v) : ST_OK;
}

/* Of two tied tensors some writers store the head and not the embedding. Where the configuration ties them, either is
 * both. */
static bool is_tied(const struct st_described *d)
{
	uint32_t key = st_family_find_key(d->family, "tied");
	return key != ST_FAMILY_NONE && d->origin[key].said && d->settings.keys[key].number != 0;
}

static bool is_embedding(const struct st_described *d, const struct st_family_weight *w)
{
	for (uint32_t i = 0; i < d->family->n_stages; i++)
		if (d->family->stages[i].op == ST_OPERATION_embed)
			return &d->family->weights[d->family->stages[i].w[0].weight] == w;
	return false;
}

static const struct st_source *head_source(const struct place *p)
{
	uint32_t head = st_family_find_weight(p->d->family, "head");
	const struct st_family_weight *w = head == ST_FAMILY_NONE ? NULL : &p->d->family->weights[head];
	return w && w->n_sources[p->columns] ? &w->sources[p->columns][0] : NULL;
}

static enum st_status bind(struct place *p, struct st_weight *w)
{
	const struct st_family_weight *fw = p->w;
	enum st_spelling where = p->columns;
	bool holds = true, may_miss = fw->optional;
	if (fw->condition.n)
		ST_TRY(st_expression_holds(&fw->condition, &p->s, &holds, p->err));
	if (fw->optional && fw->optional_if.n)
		ST_TRY(st_expression_holds(&fw->optional_if, &p->s, &may_miss, p->err));
	w->layer = p->layer;
	snprintf(w->canonical, sizeof w->canonical, "%s", fw->name);
	if (!holds || fw->n_sources[where] == 0)
		return ST_OK;
	for (uint32_t i = 0; i < fw->rank; i++) {
		uint32_t v;
		ST_TRY(st_expression_count(&fw->shape[i], &p->s, &v, p->err));
		if (v == 0 || v > (1u << 28))
			return FAIL(p, "\"%s\" is %u, no size of %s", fw->shape[i].text, v, fw->name);
		p->shape[i] = v;
	}
	for (uint32_t i = 0; i < fw->n_sources[where]; i++) {
		const struct st_source *src = st_family_source(fw, where, i, p->s.spelling == ST_SPELLING_APR);
		const struct st_tensor *t = find(p, src->name, 0);
		if (t && t == p->d->stands_for_embed)
			return ST_OK; /* it is the embedding, which is the head */
		if (t && strchr(src->name, '@') && fw->rank > 1)
			return p->shape[0] > p->d->c->n_tensors ? FAIL(p, "%s: more experts than tensors", p->name)
			                                        : gather(p, src, w);
		if (t && t->n_elems)
			return whole(p, src, t, w);
		if (t && !may_miss) {
			take(p, src, t);
			p->d->uses[t - p->d->c->tensors].fit = ST_FIT_MISSING;
			return st_fail_at(
				p->err, ST_ERR_FORMAT, t->offset, t->name,
				"is missing: the tensor has no elements, as in a checkpoint that was saved while its "
				"weights were spread over several machines");
		}
	}
	if (may_miss)
		return ST_OK;
	const struct st_source *head = is_embedding(p->d, fw) && is_tied(p->d) ? head_source(p) : NULL;
	const struct st_tensor *t = head ? find(p, head->name, 0) : NULL;
	if (t && t->n_elems) {
		p->d->stands_for_embed = t;
		return whole(p, head, t, w);
	}
	(void)find(p, fw->sources[where][0].name, 0);
	return st_fail_at(p->err, ST_ERR_FORMAT, ST_NO_OFFSET, p->name, "is missing");
}

/* What does not fit is shown as the file has it; a part of a tensor is none. */
static void leave_as_stored(struct place *p, struct st_weight *w)
{
	const struct st_family_weight *fw = p->w;
	enum st_spelling where = p->columns;
	*w = (struct st_weight){ .layer = p->layer };
	for (uint32_t i = 0; i < fw->n_sources[where] && !w->tensor; i++) {
		const struct st_source *src = &fw->sources[where][i];
		const struct st_tensor *t = fw->rank < 3 ? find(p, src->name, 0) : NULL;
		bool whole = true;
		for (uint32_t k = 0; k < src->n_steps; k++)
			whole &= src->steps[k].op == ST_SOURCE_PAIRS || src->steps[k].op == ST_SOURCE_PLUS_ONE;
		w->tensor = t && t->n_elems && whole ? t : NULL;
	}
}

/* ---- what is left over ---- */

static bool matches(const char *pattern, const char *name)
{
	for (; *pattern; pattern++) {
		if (*pattern == '*' && !pattern[1])
			return true;
		if (*pattern == '#') {
			size_t digits = strspn(name, "0123456789");
			if (digits == 0)
				return false;
			name += digits;
		} else if (*pattern != *name++) {
			return false;
		}
	}
	return *name == '\0';
}

bool st_are_frequencies(const char *name)
{
	static const char frequencies[] = ".rotary_emb.inv_freq";
	size_t n = strlen(name), k = sizeof frequencies - 1;
	return n > k && strcmp(name + n - k, frequencies) == 0;
}

static bool ignores(const struct st_family *f, const char *name)
{
	if (st_are_frequencies(name))
		return true;
	for (uint32_t i = 0; i < f->n_ignored; i++)
		if (matches(f->ignored[i], name))
			return true;
	return false;
}

static enum st_status left_over(struct st_described *d, struct st_error *err)
{
	d->unused = st_arena_alloc(&d->arena, d->c->n_tensors, sizeof *d->unused);
	ST_NEED(d->unused);
	for (size_t i = 0; i < d->c->n_tensors; i++)
		if (d->uses[i].fit == ST_FIT_UNUSED && !ignores(d->family, st_naming_own(d->naming, &d->c->tensors[i])))
			d->unused[d->n_unused++] = d->c->tensors[i].name;
	return ST_OK;
}

/* A weight that files may lack, and that some layers have, is missing in the others. */
static enum st_status check_in_all(struct st_described *d, uint32_t index, struct st_error *err)
{
	const struct st_family_weight *w = &d->family->weights[index];
	uint32_t there = 0, missing = UINT32_MAX;
	for (uint32_t l = 0; l < d->n_layers && w->per_layer && w->optional; l++) {
		struct st_settings s = st_described_at(d, (int32_t)l);
		bool holds = true;
		if (w->condition.n)
			ST_TRY(st_expression_holds(&w->condition, &s, &holds, err));
		there += d->weights[index][l].tensor != NULL;
		if (holds && !d->weights[index][l].tensor && missing == UINT32_MAX)
			missing = l;
	}
	if (there == 0 || missing == UINT32_MAX || d->problem.code != ST_OK)
		return ST_OK;
	char name[256];
	(void)st_source_spell(w->sources[st_described_columns(d)][0].name, (int32_t)missing, 0, name, sizeof name);
	(void)st_fail_at(&d->problem, ST_ERR_FORMAT, ST_NO_OFFSET, name, "is missing, but other layers have it");
	return ST_OK;
}

static enum st_status note_fault(const struct place *p, uint32_t weight, const struct st_error *why,
                                 struct st_error *err)
{
	struct st_described *d = p->d;
	if (d->n_faults && d->faults[d->n_faults - 1].weight == weight)
		return ST_OK;
	struct st_described_fault *f = &d->faults[d->n_faults++];
	*f = (struct st_described_fault){
		.weight = weight, .layer = p->layer, .why = *why, .missing = strcmp(why->message, "is missing") == 0
	};
	memcpy(f->shape, p->shape, sizeof f->shape);
	if (p->name[0]) {
		f->tensor = st_arena_strndup(&d->arena, p->name, strlen(p->name));
		ST_NEED(f->tensor);
	}
	return ST_OK;
}

/* Of several faults the first in the order of the graph is told: of weights of layers, that of the lowest layer. */
static bool comes_before(const struct place *p, int32_t layer) { return p->layer >= 0 && layer > p->layer; }

enum st_status st_described_weights(struct st_described *d, struct st_error *err)
{
	const struct st_family *f = d->family;
	/* Every layer has tensors: a count beyond theirs is false, and must not size anything. */
	if (d->n_layers > d->c->n_tensors)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "number of layers",
		                  "%u, but the file holds %zu tensors in all", d->n_layers, d->c->n_tensors);
	d->weights = st_arena_alloc(&d->arena, f->n_weights, sizeof *d->weights);
	d->uses = st_arena_alloc(&d->arena, d->c->n_tensors, sizeof *d->uses);
	d->faults = st_arena_alloc(&d->arena, f->n_weights, sizeof *d->faults);
	d->naming = st_arena_alloc(&d->arena, 1, sizeof *d->naming);
	ST_NEED(d->weights && d->uses && d->faults && d->naming);
	ST_TRY(st_naming_find(d->naming, d->c, embedding_name(d), &d->arena, err));
	for (uint32_t i = 0; i < f->n_weights; i++) {
		uint32_t n = f->weights[i].per_layer ? d->n_layers : 1;
		d->weights[i] = st_arena_alloc(&d->arena, n, sizeof **d->weights);
		ST_NEED(d->weights[i]);
		for (uint32_t l = 0; l < n; l++) {
			struct place p = { .d = d,
				           .w = &f->weights[i],
				           .layer = f->weights[i].per_layer ? (int32_t)l : -1 };
			struct st_error why = ST_ERROR_INIT;
			p.err = &why;
			p.columns = st_described_columns(d);
			p.s = st_described_at(d, p.layer);
			if (bind(&p, &d->weights[i][l]) == ST_OK)
				continue;
			if (why.code != ST_ERR_FORMAT) {
				*err = why;
				return why.code;
			}
			if (d->problem.code == ST_OK || comes_before(&p, d->problem_layer)) {
				d->problem = why;
				d->problem_layer = p.layer;
			}
			ST_TRY(note_fault(&p, i, &why, err));
			leave_as_stored(&p, &d->weights[i][l]);
		}
		ST_TRY(check_in_all(d, i, err));
	}
	return left_over(d, err);
}
