/* inspect.c - open a file as everything it may be, and list what looks wrong. */
#include <stele/inspect.h>

#include "arch/arch.h"
#include "arch/turned.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "format/container.h"
#include "format/zip.h"
#include "graph/graph.h"
#include "inspect/unlike.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct st_inspection {
	struct st_container *own; /* when the model did not open; else it is the model's */
	const struct st_container *container;
	struct st_model *model;
	struct st_trace *trace;
	struct st_tokenizer *tokenizer;
	struct st_error model_error, tokenizer_error;
	bool contradiction;
	struct st_tensor_stats *stats;
	struct st_anomaly *anomalies;
	size_t n_anomalies, cap_anomalies;
	uint64_t run_memory;
	uint32_t run_tokens;
};

static ST_PRINTF(6, 7) enum st_status add(struct st_inspection *in, struct st_error *err, enum st_severity severity,
                                          const char *kind, const char *tensor, const char *fmt, ...)
{
	void *p = in->anomalies;
	if (!st_grow(&p, &in->cap_anomalies, in->n_anomalies + 1, sizeof *in->anomalies))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	in->anomalies = p;
	struct st_anomaly *a = &in->anomalies[in->n_anomalies++];
	*a = (struct st_anomaly){ .severity = severity, .kind = kind, .tensor = tensor };
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(a->text, sizeof a->text, fmt, ap);
	va_end(ap);
	return ST_OK;
}

/* ---- what the file is ---- */

static bool is_trace(const struct st_container *c)
{
	if (c->format == ST_FORMAT_APRT)
		return c->docs.metadata != NULL || c->n_tensors > 1;
	return c->format == ST_FORMAT_SAFETENSORS && st_container_is_bundle(c);
}

/* Does anything in the file say that it is a model? Then it is worth saying why it is none. */
static bool claims_model(const struct st_container *c)
{
	return c->format == ST_FORMAT_GGUF || c->format == ST_FORMAT_APR || c->docs.config != NULL;
}

/*
 * A file that lacks a key or a tensor is incomplete: a vocabulary, an adapter, one half of something; `arch` words
 * that as "is missing". Anything else that is wrong with the form of what is there is a contradiction.
 */
static bool is_contradiction(const struct st_container *c, const struct st_error *e)
{
	if (e->code == ST_ERR_MISMATCH)
		return true;
	return e->code == ST_ERR_FORMAT && c->n_tensors > 0 && strcmp(e->message, "is missing") != 0;
}

/* What has nothing to do with the file ends the inspection rather than being part of it. */
static bool from_outside(const struct st_error *e) { return e->code == ST_ERR_NOMEM || e->code == ST_ERR_CANCELLED; }

static enum st_status open_all(struct st_inspection *in, const char *path, const char *family, struct st_error *err)
{
	if (st_model_open_as(path, family, &in->model, &in->model_error) == ST_OK) {
		in->container = st_model_container(in->model);
	} else {
		if (from_outside(&in->model_error)
		    || family) { /* a description that does not fit is no finding about the file */
			*err = in->model_error;
			return err->code;
		}
		ST_TRY(st_container_open(path, &in->own, err));
		in->container = in->own;
		if (!claims_model(in->container) && !st_stranger(in->container))
			st_error_clear(&in->model_error);
		in->contradiction = is_contradiction(in->container, &in->model_error);
		if (is_trace(in->container))
			ST_TRY(st_trace_open(path, &in->trace, err));
	}
	if (st_tokenizer_open(in->container, &in->tokenizer, &in->tokenizer_error) != ST_OK) {
		in->tokenizer = NULL;
		if (from_outside(&in->tokenizer_error)) {
			*err = in->tokenizer_error;
			return err->code;
		}
		/* "Has none" is no news of a trace or a checkpoint of weights. */
		if (!claims_model(in->container))
			st_error_clear(&in->tokenizer_error);
	}
	return ST_OK;
}

/* ---- what looks wrong ---- */

static enum st_status check_values(struct st_inspection *in, const struct st_tensor *t, const struct st_tensor_stats *s,
                                   struct st_error *err)
{
	/* A captured value or an array may hold anything; a weight that is not a number is wrong. */
	enum st_severity bad = claims_model(in->container) ? ST_FAULT : ST_NOTE;
	if (s->n_nan)
		ST_TRY(add(in, err, bad, "nan", t->name, "%" PRIu64 " of %" PRIu64 " elements are NaN", s->n_nan,
		           t->n_elems));
	if (s->n_inf)
		ST_TRY(add(in, err, bad, "infinity", t->name, "%" PRIu64 " of %" PRIu64 " elements are infinite",
		           s->n_inf, t->n_elems));
	if (s->constant && s->max == 0)
		return add(in, err, ST_NOTE, "zero", t->name, "all %" PRIu64 " elements are zero", t->n_elems);
	if (t->ndim < 2) /* the gains of a norm are often all one */
		return ST_OK;
	if (s->constant)
		return add(in, err, ST_NOTE, "constant", t->name, "all %" PRIu64 " elements are %g", t->n_elems,
		           s->min);
	if (s->constant_rows)
		return add(in, err, ST_NOTE, "constant_rows", t->name,
		           "%" PRIu64 " of %" PRIu64 " rows hold one value each, the first is row %" PRIu64,
		           s->constant_rows, st_tensor_rows(t), s->first_constant_row);
	return ST_OK;
}

static int by_place(const void *pa, const void *pb)
{
	const struct st_tensor *a = *(const struct st_tensor *const *)pa, *b = *(const struct st_tensor *const *)pb;
	if (a->file != b->file)
		return a->file < b->file ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* A type of the tensor's rows that would fill `bytes` exactly: what the label should have been. */
static const char *type_that_fits(const struct st_tensor *t, uint64_t bytes)
{
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	for (int d = 0; d < ST_DTYPE_COUNT; d++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)d);
		uint64_t row = cols / info->block_elems * info->block_bytes, n;
		if (cols % info->block_elems == 0 && st_mul_u64(row, rows, &n) && n == bytes && bytes)
			return info->name;
	}
	return NULL;
}

/*
 * GGUF and APR say where a tensor begins and what type it has; how many bytes lie there is only
 * known from where the next one begins. More room than padding explains, or less than the type
 * needs, means a wrong label or a damaged table.
 */
static enum st_status check_places(struct st_inspection *in, struct st_error *err)
{
	const struct st_container *c = in->container;
	size_t n = c->n_tensors;
	if ((c->format != ST_FORMAT_GGUF && c->format != ST_FORMAT_APR) || n == 0)
		return ST_OK;
	const struct st_tensor **order = st_alloc_zeroed(n, sizeof *order);
	if (!order)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		order[i] = &c->tensors[i];
	qsort(order, n, sizeof *order, by_place);
	uint64_t pad = c->alignment > 64 ? c->alignment : 64;
	enum st_status st = ST_OK;
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		const struct st_tensor *t = order[i],
				       *next = i + 1 < n && order[i + 1]->file == t->file ? order[i + 1] : NULL;
		/* The last one ends where the file does, less APR's footer. */
		uint64_t end = next ? next->offset
		                    : st_container_file_size(c, t->file)
		                               - (c->format == ST_FORMAT_APR && !next ? 4 : 0);
		uint64_t used = t->offset + t->n_bytes;
		if (next && used > end) {
			st = add(in, err, ST_FAULT, "overlap", t->name, "its bytes overlap those of %.80s", next->name);
		} else if (end > used && end - used > pad) {
			const char *fit = NULL;
			for (uint64_t slack = 0; slack <= pad && !fit && end - t->offset >= slack; slack += 2)
				fit = type_that_fits(t, end - t->offset - slack);
			st = add(in, err, ST_NOTE, "size", t->name,
			         "stored as %s in %" PRIu64 " bytes, and %" PRIu64
			         " bytes after them belong to no tensor%s%s%s",
			         st_dtype_info(t->dtype)->name, t->n_bytes, end - used, fit ? " (" : "", fit ? fit : "",
			         fit ? " would fill them)" : "");
		}
	}
	free(order);
	return st;
}

/* One id of the configuration against the tokenizer's own: an engine that goes by the one does not end, or begin, where
 * an engine that goes by the other does. */
static enum st_status check_special_id(struct st_inspection *in, const char *what, const struct st_config_origin *from,
                                       int64_t config, int64_t own, struct st_error *err)
{
	size_t n = 0;
	const char *piece = st_tokenizer_piece(in->tokenizer, (uint32_t)own, &n);
	if (config < 0 || own < 0 || config == own)
		return ST_OK;
	return add(in, err, ST_NOTE, what, NULL, "%.88s is %" PRId64 ", but the tokenizer's own is %" PRId64 " (%.*s)",
	           from->key, config, own, n < 64 ? (int)n : 64, piece ? piece : "");
}

/* What generation_config.json has does not mend config.json for engines that read that alone. */
static enum st_status check_special_ids(struct st_inspection *in, const struct st_config *cfg, struct st_error *err)
{
	int64_t eos = st_tokenizer_eos(in->tokenizer);
	bool among = false;
	for (uint32_t i = 0; i + cfg->n_eos_generation < cfg->n_eos_also; i++)
		among |= cfg->eos_also[i] == eos;
	ST_TRY(check_special_id(in, "bos", &cfg->origin[ST_CONFIG_BOS], cfg->bos, st_tokenizer_bos(in->tokenizer),
	                        err));
	return among ? ST_OK : check_special_id(in, "eos", &cfg->origin[ST_CONFIG_EOS], cfg->eos, eos, err);
}

static enum st_status check_config(struct st_inspection *in, struct st_error *err)
{
	if (in->contradiction) {
		const struct st_tensor *t = st_container_find(in->container, in->model_error.where);
		return add(in, err, ST_FAULT, "config", t ? t->name : NULL, "%s%s%.180s",
		           t ? "" : in->model_error.where, t || !in->model_error.where[0] ? "" : ": ",
		           in->model_error.message);
	}
	if (in->model && st_model_tie_contradicts(in->model))
		ST_TRY(add(in, err, ST_NOTE, "head", st_model_role(in->model, ST_ROLE_HEAD, 0)->tensor->name,
		           "%.88s says that the head is the embedding, and the file holds another head",
		           st_model_config(in->model)->origin[ST_CONFIG_TIED].key));
	if (!in->model || !in->tokenizer)
		return ST_OK;
	const struct st_config *cfg = st_model_config(in->model);
	uint32_t vocab = st_tokenizer_vocab_size(in->tokenizer);
	if (vocab > cfg->vocab)
		return add(in, err, ST_FAULT, "vocabulary", NULL,
		           "the tokenizer has %" PRIu32 " ids, the embedding only %" PRIu32 " rows", vocab, cfg->vocab);
	return check_special_ids(in, cfg, err);
}

uint64_t st_model_run_memory(const struct st_model *m, uint64_t tokens, uint64_t steps, bool all_logits,
                             const char *mode, int threads)
{
	struct st_exec e = st_exec_default();
	struct st_error unused = ST_ERROR_INIT;
	if (mode && !st_mode_parse(mode, &e.mode))
		return UINT64_MAX;
	/* As many threads as the run would be granted. */
	if (st_pool_open(threads, &e.pool, &unused) != ST_OK)
		return UINT64_MAX;
	uint64_t n = st_run_memory_flags(st_model_graph(m), &e, tokens, tokens + steps,
	                                 all_logits ? 0 : ST_RUN_HEAD_LAST);
	st_pool_close(e.pool);
	return n;
}

/* Progress over all tensors, out of the progress over one. */
struct whole {
	const struct st_hooks *hooks;
	uint64_t before, total;
};

static void part_done(void *user, const char *what, uint64_t done, uint64_t total)
{
	struct whole *w = user;
	(void)total;
	w->hooks->progress(w->hooks->user, what, w->before + done, w->total);
}

static enum st_status read_values(struct st_inspection *in, const struct st_inspect_options *o, struct st_pool *pool,
                                  struct st_error *err)
{
	const struct st_container *c = in->container;
	struct whole whole = { .hooks = &o->hooks };
	const struct st_hooks part = { .progress = o->hooks.progress ? part_done : NULL, .user = &whole };
	for (size_t i = 0; i < c->n_tensors; i++)
		whole.total += c->tensors[i].n_bytes;
	in->stats = st_alloc_zeroed(c->n_tensors, sizeof *in->stats);
	if (!in->stats)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < c->n_tensors; i++) {
		ST_TRY(st_tensor_stats_of(&c->tensors[i], pool, &part, &in->stats[i], err));
		ST_TRY(check_values(in, &c->tensors[i], &in->stats[i], err));
		whole.before += c->tensors[i].n_bytes;
	}
	return ST_OK;
}

/* Square matrices that lie transposed among others that do not, where their numbers tell. */
static enum st_status check_turned(struct st_inspection *in, struct st_error *err)
{
	for (size_t i = 0; in->model && i < st_model_n_weights(in->model); i++) {
		const struct st_weight *w = st_model_weight_at(in->model, i);
		bool turned;
		ST_TRY(st_weight_turned(in->model, w, &turned, err));
		if (turned)
			ST_TRY(add(
				in, err, ST_FAULT, "transposed", w->tensor->name,
				"TRANSPOSED: its %s go with the channels of the stream as the %s of the matrices beside it do",
				w->role == ST_ROLE_O || w->role == ST_ROLE_DOWN ? "columns" : "rows",
				w->role == ST_ROLE_O || w->role == ST_ROLE_DOWN ? "rows" : "columns"));
	}
	return ST_OK;
}

/* Matrices that came another way than their like in the other layers. */
static enum st_status check_unlike(struct st_inspection *in, struct st_error *err)
{
	size_t n = in->model ? st_model_n_weights(in->model) : 0;
	struct st_unlike *of = st_alloc_array(n ? n : 1, sizeof *of);
	const char *said = NULL;
	enum st_status st = of ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK && n)
		st = st_find_unlike(in->model, of, err);
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		const struct st_tensor *t = st_model_weight_at(in->model, i)->tensor;
		if (of[i].own == of[i].others)
			continue;
		/* Parts of one tensor stand one behind the other. */
		if (said && strcmp(said, t->name) == 0)
			continue;
		said = t->name;
		const char *own = st_dtype_info(of[i].own)->name, *others = st_dtype_info(of[i].others)->name,
			   *places = st_model_weight_at(in->model, i)->expert >= 0 ? "experts" : "layers";
		if (of[i].others == t->dtype)
			st = add(in, err, ST_NOTE, "unlike", t->name,
			         "its numbers are those of %s, and those of its like in %" PRIu32
			         " other %s fill %s: what was done to them was not done to it",
			         own, of[i].n_others, places, others);
		else
			st = add(in, err, ST_NOTE, "unlike", t->name,
			         "the numbers of its like in %" PRIu32
			         " other %s are those of %s, and its own those of %s: it was changed alone",
			         of[i].n_others, places, others, own);
	}
	free(of);
	return st;
}

/* Stored members of an archive are used where they lie, their CRCs unseen until here. torch can be told to compute
 * none. */
static enum st_status check_archives(struct st_inspection *in, struct st_error *err)
{
	const struct st_container *c = in->container;
	bool torch = c->format == ST_FORMAT_TORCH;
	enum st_status st = ST_OK;
	for (size_t i = 0; (torch || c->format == ST_FORMAT_NPZ) && i < c->n_maps && st == ST_OK; i++) {
		struct st_arena arena;
		const char *first = NULL;
		size_t n = 0;
		st_arena_init(&arena);
		st = st_zip_damage(&c->maps[i], &arena, &n, &first, err);
		if (st == ST_OK && n > 0)
			st = add(in, err, torch ? ST_NOTE : ST_FAULT, "crc", NULL,
			         "%zu of the archive's members do not have the CRC-32 stated, first %.80s: %s", n,
			         first,
			         torch ? "damaged, or saved by a torch that was told to compute none" : "damaged");
		st_arena_release(&arena);
	}
	return st;
}

static enum st_status fill(struct st_inspection *in, const char *path, const struct st_inspect_options *o,
                           struct st_error *err)
{
	ST_TRY(open_all(in, path, o->family, err));
	in->run_tokens = o->run_tokens ? o->run_tokens : 128;
	if (in->model)
		in->run_memory = st_model_run_memory(in->model, in->run_tokens, 0, false, NULL, o->threads);
	if (in->run_memory == UINT64_MAX)
		return st_fail(err, ST_ERR_NOMEM, "no memory to plan a run");
	ST_TRY(check_config(in, err));
	ST_TRY(check_places(in, err));
	if (o->no_stats)
		return ST_OK;
	ST_TRY(check_archives(in, err));
	struct st_pool *pool;
	ST_TRY(st_pool_open(o->threads, &pool, err));
	enum st_status st = read_values(in, o, pool, err);
	st_pool_close(pool);
	if (st == ST_OK)
		st = check_turned(in, err);
	return st == ST_OK ? check_unlike(in, err) : st;
}

enum st_status st_inspect_open(const char *path, const struct st_inspect_options *o, struct st_inspection **out,
                               struct st_error *err)
{
	*out = NULL;
	struct st_inspection *in = st_alloc_zeroed(1, sizeof *in);
	if (!in)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_error_clear(&in->model_error);
	st_error_clear(&in->tokenizer_error);
	enum st_status st = fill(in, path, o, err);
	if (st == ST_OK) {
		*out = in;
	} else {
		st_error_in(err, path);
		st_inspection_close(in);
	}
	return st;
}

void st_inspection_close(struct st_inspection *in)
{
	if (!in)
		return;
	st_tokenizer_close(in->tokenizer);
	st_trace_close(in->trace);
	st_model_close(in->model);
	st_container_close(in->own);
	free(in->stats);
	free(in->anomalies);
	free(in);
}

const struct st_container *st_inspection_container(const struct st_inspection *in) { return in->container; }
const struct st_model *st_inspection_model(const struct st_inspection *in) { return in->model; }
const struct st_error *st_inspection_model_error(const struct st_inspection *in) { return &in->model_error; }
bool st_inspection_contradiction(const struct st_inspection *in) { return in->contradiction; }
const struct st_trace *st_inspection_trace(const struct st_inspection *in) { return in->trace; }
const struct st_tokenizer *st_inspection_tokenizer(const struct st_inspection *in) { return in->tokenizer; }
const struct st_error *st_inspection_tokenizer_error(const struct st_inspection *in) { return &in->tokenizer_error; }
const struct st_tensor_stats *st_inspection_stats(const struct st_inspection *in) { return in->stats; }
size_t st_inspection_n_anomalies(const struct st_inspection *in) { return in->n_anomalies; }
const struct st_anomaly *st_inspection_anomaly(const struct st_inspection *in, size_t i) { return &in->anomalies[i]; }
uint64_t st_inspection_run_memory(const struct st_inspection *in) { return in->run_memory; }
uint32_t st_inspection_run_tokens(const struct st_inspection *in) { return in->run_tokens; }
