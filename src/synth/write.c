/* write.c - a synthetic model on disk: one file, several, or a folder. */
#include "synth/synth.h"

#include "base/outfile.h"
#include "format/hf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct target {
	const char *format, *suffix;
	enum st_synth_target target;
	enum st_format container;
} targets[] = {
	{ "gguf", ".gguf", ST_SYNTH_GGUF, ST_FORMAT_GGUF },
	{ "apr", ".apr", ST_SYNTH_APR, ST_FORMAT_APR },
	{ "safetensors", ".safetensors", ST_SYNTH_SAFETENSORS, ST_FORMAT_SAFETENSORS },
	{ "hf", NULL, ST_SYNTH_HF, ST_FORMAT_SAFETENSORS },
};
#define N_TARGETS (sizeof targets / sizeof *targets)

#define MAX_SHARDS 999u

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n > k && strcmp(s + n - k, end) == 0;
}

static enum st_status find_target(const char *path, const char *format, const struct target **out, struct st_error *err)
{
	const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash + 1 : path, '.');
	for (size_t i = 0; i < N_TARGETS; i++) {
		const struct target *t = &targets[i];
		if (format      ? strcmp(t->format, format) == 0
		    : t->suffix ? ends_with(path, t->suffix)
		                : !dot || (slash && !slash[1])) {
			*out = t;
			return ST_OK;
		}
	}
	if (format)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--format",
		                  "unknown container \"%.64s\"; known ones are gguf, apr, safetensors, hf", format);
	return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, path,
	                  "the suffix names no container: .gguf, .apr, .safetensors, or none for a folder");
}

static enum st_status find_type(struct st_synth *s, const char *name, struct st_error *err)
{
	s->mixed = name && strcasecmp(name, "Q4_K_M") == 0;
	s->type = s->mixed ? ST_DTYPE_Q4_K : ST_DTYPE_F32;
	if (!name || s->mixed || (st_dtype_parse(name, &s->type) && st_dtype_info(s->type)->encode))
		return ST_OK;
	char known[256] = "";
	for (int t = 0; t < ST_DTYPE_COUNT; t++) {
		size_t n = strlen(known);
		if (st_dtype_info((enum st_dtype)t)->encode)
			snprintf(known + n, sizeof known - n, "%s, ", st_dtype_info((enum st_dtype)t)->name);
	}
	return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--type", "\"%.32s\" cannot be written; %sQ4_K_M can", name,
	                  known);
}

/* ---- one file of tensors ---- */

struct job {
	struct st_synth s;
	const struct target *target;
	const struct st_synth_options *o;
	struct st_pool *pool;
	uint64_t done, total;             /* bytes of tensors */
	struct st_synth_tensor **present; /* those of the file, in order */
	uint64_t *bytes;                  /* stored */
	size_t n;
};

static enum st_status gather(struct job *j, struct st_error *err)
{
	struct st_synth *s = &j->s;
	j->present = st_arena_alloc(&s->arena, s->n_tensors, sizeof *j->present);
	j->bytes = st_arena_alloc(&s->arena, s->n_tensors, sizeof *j->bytes);
	if (!j->present || !j->bytes)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < s->n_tensors; i++) {
		struct st_synth_tensor *t = &s->tensors[i];
		uint64_t shape[2] = { t->rows, t->cols };
		if (t->missing)
			continue;
		if (!st_stored_bytes(t->label, 2, shape, &j->bytes[j->n])
		    || !st_add_u64(j->total, j->bytes[j->n], &j->total))
			return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, t->canonical, "the sizes overflow 64 bits");
		j->present[j->n++] = t;
	}
	return ST_OK;
}

static enum st_status write_file(struct job *j, const char *path, size_t first, size_t n, const struct st_kv *kv,
                                 size_t n_kv, const json_t *metadata, struct st_error *err)
{
	struct st_arena arena;
	st_arena_init(&arena);
	struct st_tensor_spec *specs = st_arena_alloc(&arena, n, sizeof *specs);
	struct st_writer *w = NULL;
	const char *readable;
	enum st_status st = specs ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; st == ST_OK && i < n; i++) {
		const struct st_synth_tensor *t = j->present[first + i];
		specs[i] = (struct st_tensor_spec){
			.name = t->name, .dtype = t->label, .ndim = t->ndim, .shape = { t->rows, t->cols }
		};
		if (t->stack) {
			specs[i].shape[0] = t->stack;
			specs[i].shape[1] = t->rows / t->stack;
			specs[i].shape[2] = t->cols;
		}
		if (t->ndim == 1)
			specs[i].shape[0] = t->cols;
		if (t->made && t->made->n_label) {
			specs[i].ndim = t->made->n_label;
			memcpy(specs[i].shape, t->made->label, specs[i].ndim * sizeof *specs[i].shape);
		}
	}
	struct st_write_plan plan = { .format = j->target->container,
		                      .specs = specs,
		                      .n_specs = n,
		                      .kv = kv,
		                      .n_kv = n_kv,
		                      .alignment = 32,
		                      .metadata = metadata,
		                      .pad_header = true };
	if (st == ST_OK)
		st = st_writer_open(path, &plan, &w, err);
	if (st == ST_OK)
		st = st_synth_stream(&j->s, j->present + first, n, j->pool, &j->o->hooks, &j->done, j->total, w, err);
	if (st == ST_OK)
		st = st_writer_finish(w, &readable, err);
	if (st == ST_OK)
		st = st_writer_commit(w, err);
	else
		st_writer_abort(w);
	st_error_in(err, path);
	st_arena_release(&arena);
	return st;
}

/* Where shard i begins: tensors are dealt out in order, so that each has about as many bytes. */
static size_t shard_start(const struct job *j, uint32_t i, uint32_t shards)
{
	uint64_t goal = j->total / shards * i, sum = 0;
	size_t at = 0;
	while (at < j->n && sum < goal)
		sum += j->bytes[at++];
	/* At least one tensor each. */
	size_t least = i, most = j->n - (shards - i);
	return i == shards ? j->n : at < least ? least : at > most ? most : at;
}

/* "DIR/model-00001-of-00003.gguf" of "DIR/model.gguf". */
static char *shard_path(struct job *j, const char *path, const char *suffix, uint32_t i, uint32_t shards)
{
	size_t stem = strlen(path) - (ends_with(path, suffix) ? strlen(suffix) : 0);
	return st_arena_printf(&j->s.arena, "%.*s-%05u-of-%05u%s", (int)stem, path, i + 1, shards, suffix);
}

/* ---- GGUF and APR ---- */

static enum st_status write_gguf(struct job *j, const char *path, uint32_t shards, struct st_error *err)
{
	const struct st_kv *kv;
	size_t n_kv;
	ST_TRY(st_synth_gguf_keys(&j->s, &kv, &n_kv, err));
	if (shards == 1)
		return write_file(j, path, 0, j->n, kv, n_kv, NULL, err);
	/* Every split says where it belongs; the model's keys are in the first. */
	struct st_kv *keys = st_arena_alloc(&j->s.arena, n_kv + 3, sizeof *keys);
	if (!keys)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint16_t no, count = (uint16_t)shards;
	int32_t tensors = (int32_t)j->n;
	memcpy(keys + 3, kv, n_kv * sizeof *kv);
	keys[0] = (struct st_kv){ .key = "split.no", .type = ST_KV_U16, .count = 1, .data = (const uint8_t *)&no };
	keys[1] = (struct st_kv){
		.key = "split.count", .type = ST_KV_U16, .count = 1, .data = (const uint8_t *)&count
	};
	keys[2] = (struct st_kv){
		.key = "split.tensors.count", .type = ST_KV_I32, .count = 1, .data = (const uint8_t *)&tensors
	};
	for (uint32_t i = 0; i < shards; i++) {
		size_t first = shard_start(j, i, shards), end = shard_start(j, i + 1, shards);
		const char *name = shard_path(j, path, ".gguf", i, shards);
		if (!name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		no = (uint16_t)i;
		ST_TRY(write_file(j, name, first, end - first, keys, i ? 3 : n_kv + 3, NULL, err));
	}
	return ST_OK;
}

static enum st_status write_apr(struct job *j, const char *path, uint32_t shards, struct st_error *err)
{
	if (shards > 1)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--shards", "an APR model is one file");
	json_t *metadata = st_synth_apr_metadata(&j->s);
	enum st_status st = metadata ? write_file(j, path, 0, j->n, NULL, 0, metadata, err)
	                             : st_fail(err, ST_ERR_NOMEM, "out of memory");
	json_decref(metadata);
	return st;
}

/* ---- safetensors and what stands beside it ---- */

/* Takes the document, NULL included. Beside a single file a document may be there already: the same one
 * stays, another one is not overwritten unasked. */
static enum st_status write_json(struct job *j, const char *folder, const char *name, json_t *doc, struct st_error *err)
{
	char *text = st_json_print(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	char *path = st_arena_printf(&j->s.arena, "%s/%s", folder, name),
	     *line = st_arena_printf(&j->s.arena, "%s\n", text ? text : "");
	enum st_status st = ST_OK;
	json_t *there = NULL;
	if (!text || !path || !line)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK && !j->o->replace)
		st = st_json_load(path, &there, err);
	if (st == ST_OK && there) {
		json_t *ours = json_loads(text, 0, NULL); /* numbers as the text has them */
		if (!json_equal(there, ours)) {
			st = st_fail(err, ST_ERR_IO,
			             "already exists and belongs to another model (--force replaces it)");
			st_error_in(err, path);
		}
		json_decref(ours);
	} else if (st == ST_OK) {
		st = st_outfile_whole(path, line, strlen(line), err);
	}
	json_decref(there);
	json_decref(doc);
	free(text);
	return st;
}

static enum st_status write_documents(struct job *j, const char *folder, struct st_error *err)
{
	const struct st_synth *s = &j->s;
	ST_TRY(write_json(j, folder, "config.json", st_synth_hf_config(s), err));
	ST_TRY(write_json(j, folder, "generation_config.json", st_synth_hf_generation_config(s), err));
	ST_TRY(write_json(j, folder, "tokenizer.json", st_synth_hf_tokenizer(s), err));
	return write_json(j, folder, "tokenizer_config.json", st_synth_hf_tokenizer_config(s), err);
}

/* stem.safetensors, or its shards and stem.safetensors.index.json. */
static enum st_status write_safetensors(struct job *j, const char *folder, const char *stem, uint32_t shards,
                                        struct st_error *err)
{
	json_t *metadata = json_pack("{s:s}", "format", "pt"), *map = json_object();
	enum st_status st = metadata && map ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	char *whole = st_arena_printf(&j->s.arena, "%s/%s.safetensors", folder, stem);
	for (uint32_t i = 0; i < shards && st == ST_OK; i++) {
		size_t first = shard_start(j, i, shards), end = shard_start(j, i + 1, shards);
		const char *path = shards == 1 ? whole : whole ? shard_path(j, whole, ".safetensors", i, shards) : NULL;
		if (!path) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
			break;
		}
		const char *name = strrchr(path, '/') + 1;
		for (size_t k = first; k < end && st == ST_OK; k++)
			if (json_object_set_new(map, j->present[k]->name, json_string(name)) != 0)
				st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		if (st == ST_OK)
			st = write_file(j, path, first, end - first, NULL, 0, metadata, err);
	}
	if (st == ST_OK && shards > 1) {
		const char *name = st_arena_printf(&j->s.arena, "%s.safetensors.index.json", stem);
		json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)j->total,
		                          "weight_map", map);
		if (name)
			st = write_json(j, folder, name, index, err);
		else
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	json_decref(metadata);
	json_decref(map);
	return st;
}

static enum st_status write_folder(struct job *j, const char *path, uint32_t shards, struct st_error *err)
{
	struct st_outdir *d;
	ST_TRY(st_outdir_open(path, j->o->replace ? st_hf_names : NULL, &d, err));
	enum st_status st = write_documents(j, st_outdir_path(d), err);
	if (st == ST_OK)
		st = write_safetensors(j, st_outdir_path(d), "model", shards, err);
	if (st == ST_OK)
		return st_outdir_commit(d, err);
	st_outdir_abort(d, err);
	return st;
}

static enum st_status write_beside(struct job *j, const char *path, uint32_t shards, struct st_error *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	size_t n = strlen(name) - (ends_with(name, ".safetensors") ? strlen(".safetensors") : 0);
	char *folder = !slash        ? st_arena_strndup(&j->s.arena, ".", 1)
	             : slash == path ? st_arena_strndup(&j->s.arena, "/", 1)
	                             : st_arena_strndup(&j->s.arena, path, (size_t)(slash - path));
	char *stem = st_arena_strndup(&j->s.arena, name, n);
	if (!folder || !stem)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(write_documents(j, folder, err));
	return write_safetensors(j, folder, stem, shards, err);
}

/* ---- the whole ---- */

static void describe(const struct job *j, const char *path, uint32_t shards, struct st_synth_result *out)
{
	const struct st_synth *s = &j->s;
	*out = (struct st_synth_result){ .layers = s->cfg.n_layers, .n_tensors = j->n, .n_bytes = j->total };
	snprintf(out->path, sizeof out->path, "%s", path);
	if (shards > 1 && j->target->suffix) {
		size_t n = strlen(path) - (ends_with(path, j->target->suffix) ? strlen(j->target->suffix) : 0);
		snprintf(out->path, sizeof out->path, "%.*s-%05u-of-%05u%s", (int)n, path, 1u, shards,
		         j->target->suffix);
	}
	snprintf(out->arch, sizeof out->arch, "%s", s->cfg.arch);
	snprintf(out->type, sizeof out->type, "%s", s->mixed ? "Q4_K_M" : st_dtype_info(s->type)->name);
	snprintf(out->planted, sizeof out->planted, "%s", s->planted);
	for (size_t i = 0; i < j->n; i++) {
		const struct st_synth_tensor *t = j->present[i];
		out->n_params += t->rows * t->cols;
		if (t->fallback && !out->n_fallbacks++)
			snprintf(out->fallback, sizeof out->fallback,
			         "%s instead of %s: the rows of %s have %llu elements", st_dtype_info(t->dtype)->name,
			         out->type, t->canonical, (unsigned long long)t->cols);
	}
}

static enum st_status run(struct job *j, const char *path, struct st_synth_result *out, struct st_error *err)
{
	struct st_synth *s = &j->s;
	const struct st_synth_options *o = j->o;
	uint32_t shards = o->shards ? o->shards : 1;
	ST_TRY(find_target(path, o->format, &j->target, err));
	s->target = j->target->target;
	ST_TRY(find_type(s, o->type, err));
	ST_TRY(st_synth_configure(s, o, err));
	if (s->page)
		ST_TRY(st_synth_lay_out(s, j->target->container, err));
	ST_TRY(st_synth_list(s, err));
	if (o->plant)
		ST_TRY(st_synth_plant(s, o->plant, err));
	ST_TRY(gather(j, err));
	if (shards > MAX_SHARDS || shards > j->n)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--shards",
		                  "%u files for %zu tensors; at most one for each, and %u", shards, j->n, MAX_SHARDS);
	if (s->target != ST_SYNTH_HF && !j->o->replace && access(path, F_OK) == 0)
		return st_out_exists(path, err);
	switch (s->target) {
	case ST_SYNTH_GGUF:
		ST_TRY(write_gguf(j, path, shards, err));
		break;
	case ST_SYNTH_APR:
		ST_TRY(write_apr(j, path, shards, err));
		break;
	case ST_SYNTH_SAFETENSORS:
		ST_TRY(write_beside(j, path, shards, err));
		break;
	case ST_SYNTH_HF:
		ST_TRY(write_folder(j, path, shards, err));
		break;
	}
	describe(j, path, shards, out);
	return ST_OK;
}

enum st_status st_synth_write(const char *path, const struct st_synth_options *o, struct st_synth_result *out,
                              struct st_error *err)
{
	struct job *j = st_alloc_zeroed(1, sizeof *j);
	if (!j)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	j->o = o;
	st_arena_init(&j->s.arena);
	enum st_status st = st_pool_open(o->threads, &j->pool, err);
	if (st == ST_OK)
		st = run(j, path, out, err);
	st_pool_close(j->pool);
	if (j->s.page)
		st_synth_page_close(j->s.page);
	st_arena_release(&j->s.arena);
	free(j);
	return st;
}
