/*
 * check.c - the result, read back with the ordinary reader before it gets its name.
 *
 * Tensors that were copied must be there byte for byte; those that were encoded must hold the numbers that were meant,
 * as far as their type allows. Independently of how they were made, rows of every weight are then compared with the
 * input's in the basis of the graph, so that a wrong order of rows cannot confirm itself; repaired weights are compared
 * with the sound file's.
 */
#include "convert/convert.h"

#include "compare/pair.h"
#include "compare/settings.h"
#include "convert/described.h"
#include "dtype/geometry.h"
#include "convert/fields.h"
#include "graph/basis.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static enum st_status differs(const char *name, struct st_error *err, const char *what)
{
	return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, name, "reading back gives %s; nothing was written", what);
}

/* ---- one tensor ---- */

#define PIECE ((uint64_t)4 << 20) /* bytes */

struct copies {
	const struct st_tensor *a, *b;
	atomic_bool differ;
};

static void compare_pieces(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct copies *c = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		uint64_t at = i * PIECE, len = c->a->n_bytes - at < PIECE ? c->a->n_bytes - at : PIECE;
		if (memcmp(c->a->data + at, c->b->data + at, (size_t)len) != 0)
			atomic_store_explicit(&c->differ, true, memory_order_relaxed);
	}
}

static enum st_status check_copy(const struct st_job *j, const struct st_tensor *t, struct st_pool *pool,
                                 struct st_error *err)
{
	if (!j->map && j->gain == 1 && j->order == ST_CODES_OWN) {
		if (t->n_bytes != j->src[0]->n_bytes || t->scale != j->src[0]->scale)
			return differs(t->name, err, "another size");
		struct copies c = { .a = t, .b = j->src[0] };
		st_pool_run(pool, st_ceil_div(t->n_bytes, PIECE), 1, compare_pieces, &c);
		ST_TRY(st_check_cancel(err));
		return atomic_load(&c.differ) ? differs(t->name, err, "other bytes") : ST_OK;
	}
	uint8_t *row = st_alloc_array(t->row_bytes, 1);
	if (!row)
		return st_no_memory(err);
	enum st_status st = ST_OK;
	for (uint64_t r = 0; r < st_spec_rows(&j->spec) && st == ST_OK; r++) {
		st_job_row_bytes(j, r, row);
		if (memcmp(t->data + r * t->row_bytes, row, (size_t)t->row_bytes) != 0)
			st = differs(t->name, err, "other bytes");
		if (st == ST_OK && r % 256 == 0)
			st = st_check_cancel(err);
	}
	free(row);
	return st;
}

static void get_meant(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	st_job_row(s->ctx, r, dst->value);
	st_cells_exact(dst, s->cols);
}

/* Rows of a tensor from one on. */
struct rows_from {
	struct st_rows all;
	uint64_t first;
};

static void get_from(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct rows_from *x = s->ctx;
	x->all.get(&x->all, x->first + r, dst);
}

/* What a job gave against what it was to give, numbers that are known exactly. */
static enum st_status check_numbers(const struct st_job *j, const struct st_tensor *t, struct st_pool *pool,
                                    struct st_error *err)
{
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec), step = st_job_step(j);
	bool by_rows = st_job_by_rows(j);
	struct st_arena arena;
	struct st_dense x = { 0 };
	struct st_row_stat *stats = st_alloc_array(rows, sizeof *stats);
	struct st_weight w = { .tensor = t, .heads = 1, .layer = -1 };
	struct st_rows got = st_rows_of(&w), want = got;
	st_arena_init(&arena);
	want.held = (struct st_held){ ST_DTYPE_F32, 1 };
	enum st_status st = stats ? ST_OK : st_no_memory(err);
	if (by_rows && st == ST_OK) {
		want.get = get_meant;
		want.ctx = j;
		st = st_pair_measure(&got, &want, NULL, rows, ST_NO_PAST, pool, stats, err);
	} else if (st == ST_OK) {
		st = st_dense_make(&arena, step, cols, &x, err);
	}
	for (uint64_t r = 0; r < rows && st == ST_OK && !by_rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		struct rows_from from = { got, r };
		struct st_rows here = got;
		here.get = get_from;
		here.ctx = &from;
		st = st_job_floats(j, r, n, x.value, pool, err);
		if (st != ST_OK)
			break;
		struct st_cells all = st_dense_row(&x, 0);
		st_cells_exact(&all, n * cols);
		struct st_dense now = x;
		now.rows = n;
		struct st_rows dense = st_rows_dense(&now, &want);
		dense.whole = here.whole;
		st = st_pair_measure(&here, &dense, NULL, n, ST_NO_PAST, pool, stats + r, err);
	}
	struct st_pair_summary s;
	if (st == ST_OK) {
		st_pair_summarise(stats, NULL, rows, &s);
		/* Every number must lie in its cell. How many lie at the very end of one says nothing here: numbers that came
		 * from the grid of other blocks stand halfway between two codes more often than by chance. */
		if (s.dd > 0 && !s.noise && (s.fit.outside || s.apart))
			st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, t->name,
			                "reading back gives numbers that differ by %.3g where %s accounts for %.3g; "
			                "nothing was written",
			                s.rel, st_dtype_info(t->dtype)->name, s.predicted);
	}
	st_arena_release(&arena);
	free(stats);
	return st;
}

static enum st_status check_job(const struct st_job *j, const struct st_container *c, struct st_pool *pool,
                                struct st_error *err)
{
	const struct st_tensor *t = st_container_find(c, j->spec.name);
	if (!t)
		return differs(j->spec.name, err, "no such tensor");
	if (t->dtype != j->spec.dtype || t->ndim != j->spec.ndim
	    || memcmp(t->shape, j->spec.shape, t->ndim * sizeof *t->shape) != 0)
		return differs(j->spec.name, err, "another type or shape");
	return j->kind == ST_JOB_COPY ? check_copy(j, t, pool, err) : check_numbers(j, t, pool, err);
}

/* ---- in the graph's basis ---- */

/* The weight of m that fills a place; a tied head is the embedding. */
static const struct st_weight *filled(const struct st_model *m, enum st_role role, uint32_t layer)
{
	const struct st_weight *w = st_model_role(m, role, layer);
	if ((!w || !w->tensor) && role == ST_ROLE_HEAD && st_model_config(m)->tied)
		w = st_model_role(m, ST_ROLE_EMBED, 0);
	return w && w->tensor ? w : NULL;
}

enum { SAMPLE = 16 };

/* A repaired weight that was encoded anew: its numbers were stored before, at another size or along another axis. */
struct repaired {
	struct st_rows of;
	struct st_held before;
};

static void get_repaired(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct repaired *x = s->ctx;
	x->of.get(&x->of, r, dst);
	if (!dst->below)
		return;
	/* Twice, since a factor may bring the numbers below a power of two, where units are half as large; and since blocks
	 * that lay along the other axis may have had larger numbers in them than this row has. */
	const struct st_geometry *g = st_dtype_geometry(x->before.type);
	float half = g->sub ? st_cells_largest(dst, s->cols) / (float)st_geometry_largest_level(g) : 0;
	for (uint64_t i = 0; i < s->cols; i++)
		dst->slack[i] += 2 * half;
	for (int i = 0; i < 2 && !g->sub; i++)
		st_cells_through(x->before, dst, s->cols);
}

/* The stages of both are the same, one by one. */
static enum st_status check_stages(const struct st_graph *got, const struct st_graph *want, struct st_error *err)
{
	uint32_t i = 0;
	while (i < got->n_nodes && i < want->n_nodes && got->nodes[i].stage == want->nodes[i].stage
	       && got->nodes[i].layer == want->nodes[i].layer)
		i++;
	if (i == got->n_nodes && i == want->n_nodes)
		return ST_OK;
	char where[96];
	const struct st_node *n = i < want->n_nodes ? &want->nodes[i] : &got->nodes[i];
	st_stage_place(n->stage, n->layer, where, sizeof where);
	return differs(where, err, "a graph of another form: this stage is in one of them only");
}

/* Rows of a described family's weights, as the graph sees them, on both sides; and that the graphs are one. */
static enum st_status check_described(struct st_conversion *v, const struct st_model *out, struct st_error *err)
{
	const struct st_model *m = v->src.model;
	const struct st_graph *a = st_model_graph(out), *b = st_model_graph(m);
	struct st_config_diff diff[ST_MAX_CONFIG_DIFFS];
	if (!st_model_described(out))
		return differs(v->dst.family, err, "a graph of another form");
	ST_TRY(check_stages(a, b, err));
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_weight *want = st_model_weight_at(m, i), *got = st_model_place(out, want);
		bool said_by_key = st_described_factors(st_model_described(m), want->name) != ST_FAMILY_NONE;
		if (said_by_key || want->role == ST_ROLE_ROPE_FREQS
		    || (want->role == ST_ROLE_HEAD && st_head_is_copy(v, want)))
			continue;
		if (!got || !got->tensor)
			return differs(want->canonical, err, "a model without this weight");
		struct st_rows x = st_rows_of(got), y = st_rows_of(want);
		uint64_t idx[SAMPLE], n = x.rows < SAMPLE ? x.rows : SAMPLE;
		struct st_row_stat stats[SAMPLE];
		struct st_pair_summary s;
		if (x.rows != y.rows || x.cols != y.cols)
			return differs(want->canonical, err, "another shape");
		for (uint64_t k = 0; k < n; k++)
			idx[k] = k * x.rows / n;
		ST_TRY(st_pair_judge(&x, &y, idx, n, v->pool, stats, &s, err));
		if ((s.dd > 0 && !s.noise) || s.apart)
			return differs(want->canonical, err, "other numbers than the input has");
	}
	bool one_form = st_graph_same_form(a, b);
	size_t n = st_compare_settings(out, m, one_form, SIZE_MAX, diff);
	for (size_t i = 0; i < n; i++)
		if (diff[i].matters)
			return st_fail_at(
				err, ST_ERR_MISMATCH, ST_NO_OFFSET,
				diff[i].from_b.key[0] ? diff[i].from_b.key : diff[i].key,
				"reading back gives %s instead of %s, which %s cannot say; nothing was written",
				diff[i].a, diff[i].b, st_format_name(v->dst.format));
	for (uint32_t i = 0; i < b->n_nodes; i++)
		if (!st_node_same_form(a, b, i) || !st_node_same_parameters(&a->nodes[i], &b->nodes[i], 0))
			return differs(st_stage_name(b->nodes[i].stage), err, "a stage with other parameters");
	return ST_OK;
}

static enum st_status check_weight(struct st_conversion *v, const struct st_job *j, const struct st_model *out,
                                   struct st_error *err)
{
	const struct st_weight *got = filled(out, j->role, j->layer),
			       *want = j->repaired ? j->sound : filled(v->src.model, j->role, j->layer);
	if (!got)
		return differs(j->spec.name, err, "a model without this weight");
	if (!want)
		return ST_OK; /* repaired, and the sound file is not at hand */
	struct st_rows a = st_rows_of(got), b = st_rows_of(want);
	uint64_t idx[SAMPLE], n = j->repaired ? a.rows : a.rows < SAMPLE ? a.rows : SAMPLE;
	if (a.rows != b.rows || a.cols != b.cols)
		return differs(j->spec.name, err, "another shape");
	for (uint64_t i = 0; i < SAMPLE; i++)
		idx[i] = n ? i * a.rows / n : 0;
	struct st_row_stat *stats = st_alloc_array(n, sizeof *stats);
	if (!stats)
		return st_no_memory(err);
	struct repaired repaired = { a, a.held };
	bool encoded_again = j->repaired && j->kind != ST_JOB_COPY && j->src[0];
	if (encoded_again)
		repaired.before = (struct st_held){ j->src[0]->dtype, j->src[0]->scale };
	const uint64_t *which = j->repaired ? NULL : idx;
	struct st_pair_summary s;
	enum st_status st = st_pair_judge(&a, &b, which, n, v->pool, stats, &s, err);
	if (st == ST_OK && encoded_again && !s.noise && !s.apart) {
		double rel = s.rel, once = s.predicted;
		a.get = get_repaired;
		a.ctx = &repaired;
		st = st_pair_judge(&a, &b, which, n, v->pool, stats, &s, err);
		if (st == ST_OK && s.noise)
			st_note(&v->log,
			        "%s: its numbers were stored in other blocks before and are rounded a second time, so "
			        "they are %.3g from the other file's where storing them once costs %.3g; rosetta will "
			        "say that no one original gives both. Only a conversion of the original cures that",
			        j->spec.name, rel, once);
	}
	if (st == ST_OK) {
		bool copied = !j->repaired && j->kind == ST_JOB_COPY;
		if ((s.dd > 0 && (copied || !s.noise)) || s.apart)
			st = j->repaired
			           ? st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, j->spec.name,
			                        "after the repair of %s it still differs from the other file by %.3g "
			                        "where the stored types account for %.3g; nothing was written",
			                        j->repaired, s.rel, s.predicted)
			           : differs(j->spec.name, err, "other numbers than the input has");
	}
	free(stats);
	return st;
}

/* ---- the rest ---- */

/* Divisors that were computed in f32 are up to 4e-6 off. */
#define FREQUENCIES_AGREE 1e-5

/* What the graph rotates by, against the configuration that was meant and the divisors that were kept. */
static enum st_status check_frequencies(const struct st_conversion *v, const struct st_model *out, struct st_error *err)
{
	const struct st_config *cfg = &v->dst.cfg;
	const struct st_graph *g = st_model_graph(out);
	uint32_t node = st_graph_find(g, ST_STAGE_Q_POST_ROPE, 0);
	float by[ST_MAX_HEAD_DIM / 2];
	for (uint32_t i = 0; i < cfg->head_dim / 2; i++)
		by[i] = cfg->rope_scaling == ST_ROPE_SCALING_LINEAR ? (float)cfg->rope_factor : 1;
	if (cfg->rope_scaling == ST_ROPE_SCALING_LLAMA3)
		st_config_rope_divisors(cfg, by);
	for (size_t k = 0; k < v->plan.n && cfg->rope_scaling != ST_ROPE_SCALING_LLAMA3; k++) {
		float kept[ST_MAX_HEAD_DIM / 2];
		if (v->plan.jobs[k].role != ST_ROLE_ROPE_FREQS)
			continue;
		st_tensor_decode(v->plan.jobs[k].src[0], 0, 1, kept);
		for (uint32_t i = 0; i < cfg->head_dim / 2; i++)
			by[i] *= kept[i];
	}
	for (uint32_t i = 0; i < cfg->head_dim / 2 && node != ST_NO_NODE; i++) {
		double want = pow(cfg->rope_theta, -2.0 * i / cfg->head_dim) / by[i], got = g->nodes[node].inv_freq[i];
		if (!(fabs(got / want - 1) <= FREQUENCIES_AGREE))
			return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "rotary embedding",
			                  "reading back gives %.6g instead of %.6g for pair %u; nothing was written",
			                  got, want, (unsigned)i);
	}
	return ST_OK;
}

/* How the frequencies are spelled may differ once they agree. */
static enum st_status check_config(struct st_conversion *v, const struct st_config *got, struct st_error *err)
{
	struct st_config_diff d[ST_MAX_CONFIG_DIFFS];
	size_t n = st_compare_configs(got, &v->dst.cfg, SIZE_MAX, d);
	for (size_t i = 0; i < n; i++) {
		if (d[i].matters && strncmp(d[i].key, "rope_", 5) != 0)
			return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, d[i].key,
			                  "reading back gives %s instead of %s; nothing was written", d[i].a, d[i].b);
		if (strcmp(d[i].key, "tied") != 0
		    && strcmp(d[i].b, "-1") != 0) /* an id that only the vocabulary named is now in both */
			st_note(&v->log, "%s reads %s, in the input %s", d[i].key, d[i].a, d[i].b);
	}
	return ST_OK;
}

/* What must tokenise alike; the last ones are where SentencePiece's reader and tokenizer.json are known to differ in
 * the handling of blanks at the start. */
static const struct {
	const char *text;
	bool strict;
} texts[] = {
	{ "2+2=", true },
	{ "Once upon a time, there was a little girl named Lily.", true },
	{ "def f(x):\n    return x ** 2  # it's 1234567890\n", true },
	{ "Gr\xc3\xb6\xc3\x9f"
	  "e \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x99\x82 e\xcc\x81",
	  true },
	{ "I'm\n\n you'LL  3.14159 \t tabs", true },
	{ "", true },
	{ " leading", false },
	{ "trailing  ", false },
	{ "  ", false },
};

static enum st_status check_text(struct st_conversion *v, const struct st_tokenizer *got, size_t i,
                                 struct st_error *err)
{
	uint32_t *a = NULL, *b = NULL;
	size_t na = 0, nb = 0;
	struct st_error ea = ST_ERROR_INIT, eb = ST_ERROR_INIT;
	const char *s = texts[i].text;
	enum st_status sa = st_tokenize(got, s, strlen(s), ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &a, &na, &ea);
	enum st_status sb = st_tokenize(v->vocab.t, s, strlen(s), ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &b, &nb, &eb);
	bool same = sa == sb && na == nb && memcmp(a ? a : (uint32_t *)"", b ? b : (uint32_t *)"", na * sizeof *a) == 0;
	free(a);
	free(b);
	if (sa == ST_ERR_NOMEM || sb == ST_ERR_NOMEM)
		return st_fail(err, ST_ERR_NOMEM, "no memory to read the tokenizer back");
	if (same)
		return ST_OK;
	if (texts[i].strict)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "tokenizer",
		                  "reading back gives other ids for \"%.40s\"; nothing was written", s);
	st_note(&v->log,
	        "the tokenizer gives other ids for \"%s\": the two containers treat blanks at the ends differently", s);
	return ST_OK;
}

static enum st_status check_tokenizer(struct st_conversion *v, const struct st_container *c, struct st_error *err)
{
	struct st_tokenizer *got;
	if (!v->vocab.t)
		return ST_OK;
	ST_TRY(st_tokenizer_open(c, &got, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; i < sizeof texts / sizeof *texts && st == ST_OK; i++)
		st = check_text(v, got, i, err);
	if (st == ST_OK && (got->bos != v->vocab.t->bos || got->eos != v->vocab.t->eos))
		st_note(&v->log, "BOS and EOS are %lld and %lld, in the input %lld and %lld", (long long)got->bos,
		        (long long)got->eos, (long long)v->vocab.t->bos, (long long)v->vocab.t->eos);
	st_tokenizer_close(got);
	return st;
}

static enum st_status check_tensors(struct st_conversion *v, const struct st_container *c, const struct st_model *out,
                                    struct st_error *err)
{
	uint64_t done = 0, total = 0;
	if (st_container_n_tensors(c) != v->plan.n)
		return st_fail(err, ST_ERR_MISMATCH,
		               "reading back gives %zu tensors instead of %zu; nothing was written",
		               st_container_n_tensors(c), v->plan.n);
	for (size_t i = 0; i < c->n_tensors; i++)
		total += c->tensors[i].n_bytes;
	for (size_t i = 0; i < v->plan.n; i++) {
		const struct st_job *j = &v->plan.jobs[i];
		ST_TRY(check_job(j, c, v->pool, err));
		if (out && j->role != ST_ROLE_COUNT && j->role != ST_ROLE_ROPE_FREQS)
			ST_TRY(check_weight(v, j, out, err));
		done += st_container_find(c, j->spec.name)->n_bytes;
		if (v->o->hooks.progress)
			v->o->hooks.progress(v->o->hooks.user, "checking", done, total);
	}
	return ST_OK;
}

/* Keys of a family that is not known: every one must be there, byte for byte, but for those that speak of the types. */
static enum st_status check_keys(const struct st_conversion *v, const struct st_container *out, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->src.model);
	for (size_t i = 0; i < c->keys.n; i++) {
		const struct st_kv *want = &c->keys.kv[i], *got = st_kv_find(&out->keys, want->key);
		bool of_types = strcmp(want->key, "general.file_type") == 0
		             || strcmp(want->key, "general.quantization_version") == 0
		             || strncmp(want->key, "quantize.imatrix.", 17) == 0;
		if (strncmp(want->key, "split.", 6) == 0 || of_types)
			continue;
		if (!got || got->type != want->type || got->elem != want->elem || got->count != want->count
		    || st_kv_bytes(got) != st_kv_bytes(want)
		    || memcmp(got->data, want->data, (size_t)st_kv_bytes(want)) != 0)
			return differs(want->key, err, got ? "another value" : "no such key");
	}
	return ST_OK;
}

static enum st_status check_by_name(struct st_conversion *v, const char *path, struct st_error *err)
{
	struct st_container *c;
	ST_TRY(st_container_open(path, &c, err));
	enum st_status st = check_keys(v, c, err);
	if (st == ST_OK)
		st = check_tensors(v, c, NULL, err);
	if (st == ST_OK)
		st = check_tokenizer(v, c, err);
	st_container_close(c);
	return st;
}

enum st_status st_check_result(struct st_conversion *v, const char *path, struct st_error *err)
{
	if (v->dst.bare) {
		struct st_container *c;
		ST_TRY(st_container_open(path, &c, err));
		enum st_status st = check_tensors(v, c, NULL, err);
		st_container_close(c);
		return st;
	}
	if (v->by_name)
		return check_by_name(v, path, err);
	struct st_model *m;
	bool described = v->page != NULL;
	enum st_status opened = st_model_open_as(path, v->o->family, &m, err);
	if (opened != ST_OK && described && opened != ST_ERR_NOMEM && opened != ST_ERR_CANCELLED) {
		/* The page says what the target's files are: this model is none of them. */
		char message[sizeof err->message];
		snprintf(message, sizeof message, "%.120s, read as %.40s reads it; nothing was written", err->message,
		         st_format_name(v->dst.format));
		memcpy(err->message, message, sizeof message);
		err->offset = ST_NO_OFFSET;
	}
	ST_TRY(opened);
	enum st_status st = described ? check_described(v, m, err) : check_frequencies(v, m, err);
	if (st == ST_OK && !described)
		st = check_config(v, st_model_config(m), err);
	if (st == ST_OK)
		st = check_tensors(v, st_model_container(m), described ? NULL : m, err);
	if (st == ST_OK)
		st = check_tokenizer(v, st_model_container(m), err);
	st_model_close(m);
	return st;
}
