/* output.c - the output: streamed, read back, and given its name. */
#include "convert/output.h"

#include "base/outfile.h"
#include "convert/config.h"
#include "convert/described.h"
#include "format/hf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static enum st_status stream(struct st_conversion *v, struct st_writer *w, struct st_error *err)
{
	uint64_t total = 0, done = 0, bytes;
	for (size_t i = 0; i < v->plan.n; i++)
		if (st_stored_bytes(v->plan.jobs[i].spec.dtype, v->plan.jobs[i].spec.ndim, v->plan.jobs[i].spec.shape,
		                    &bytes))
			total += bytes;
	for (size_t i = 0; i < v->plan.n; i++) {
		ST_TRY(st_check_cancel(err));
		ST_TRY(st_job_write(&v->plan.jobs[i], w, v->pool, err));
		if (st_stored_bytes(v->plan.jobs[i].spec.dtype, v->plan.jobs[i].spec.ndim, v->plan.jobs[i].spec.shape,
		                    &bytes))
			done += bytes;
		if (v->o->hooks.progress)
			v->o->hooks.progress(v->o->hooks.user, "converting", done, total);
	}
	return ST_OK;
}

/* general.file_type and quantization_version, where the types are not the source's own. */
static void type_keys(const struct st_conversion *v, struct st_keys *k)
{
	bool blocks = false;
	uint32_t type;
	if (v->src.format == v->dst.format && !v->dst.has_type)
		return;
	for (size_t i = 0; i < v->plan.n; i++)
		blocks |= st_dtype_info(v->plan.jobs[i].spec.dtype)->kind == ST_KIND_QUANT;
	if (st_file_type(&v->dst, &v->plan, &type))
		st_key_u32(k, "general.file_type", type);
	if (blocks)
		st_key_u32(k, "general.quantization_version", 2);
	if (v->o->imatrix) {
		const char *slash = strrchr(v->o->imatrix, '/'), *name = slash ? slash + 1 : v->o->imatrix;
		st_key_text(k, "quantize.imatrix.file", name, strlen(name));
		st_key_u32(k, "quantize.imatrix.entries_count", (uint32_t)v->importance.entries);
		st_key_u32(k, "quantize.imatrix.chunks_count", (uint32_t)v->importance.chunks);
	}
}

static enum st_status gguf_keys(const struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	if (v->src.format == v->dst.format) {
		ST_TRY(st_config_same_keys(&v->src, &v->dst, k, err));
	} else {
		ST_TRY(v->page ? st_described_new_keys(v, k, err)
		                                        : st_config_new_keys(&v->dst, k, err));
		st_vocabulary_keys(&v->vocab, &v->dst.cfg, k);
	}
	type_keys(v, k);
	return k->failed ? st_no_memory(err) : ST_OK;
}

static enum st_status apr_metadata(const struct st_conversion *v, json_t **out, struct st_error *err)
{
	ST_TRY(st_config_apr_document(v, out, err));
	/* Within APR the vocabulary is there already. */
	return v->src.format == v->dst.format ? ST_OK : st_vocabulary_apr(&v->vocab, &v->dst.cfg, *out, err);
}

static enum st_status open_writer(struct st_conversion *v, const char *path, struct st_writer **w, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&v->arena, v->plan.n, sizeof *specs);
	struct st_write_plan plan = {
		.format = v->dst.format, .specs = specs, .n_specs = v->plan.n, .pad_header = true
	};
	struct st_keys keys = { .arena = &v->arena };
	json_t *meta = NULL;
	enum st_status st = specs ? ST_OK : st_no_memory(err);
	for (size_t i = 0; specs && i < v->plan.n; i++)
		specs[i] = v->plan.jobs[i].spec;
	if (st == ST_OK && v->dst.format == ST_FORMAT_GGUF)
		st = gguf_keys(v, &keys, err);
	else if (st == ST_OK && v->dst.format == ST_FORMAT_APR)
		st = apr_metadata(v, &meta, err);
	else if (st == ST_OK
	         && !(meta = json_pack("{s:s}", "format", "pt"))) /* transformers refuses files without it */
		st = st_no_memory(err);
	plan.kv = keys.v;
	plan.n_kv = keys.n;
	plan.metadata = meta;
	if (st == ST_OK)
		st = st_writer_open(path, &plan, w, err);
	json_decref(meta);
	free(keys.v);
	return st;
}

/* What is wrong with a file that has no name yet is wrong with the output. */
static enum st_status check(struct st_conversion *v, const char *path, struct st_error *err)
{
	enum st_status st = st_check_result(v, path, err);
	if (st != ST_OK)
		snprintf(err->path, sizeof err->path, "%s", v->dst.path);
	return st;
}

/* A file: written under no name, read back, named. */
enum st_status st_output_file(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_writer *w;
	const char *readable = NULL;
	ST_TRY(open_writer(v, v->dst.path, &w, err));
	enum st_status st = stream(v, w, err);
	if (st == ST_OK)
		st = st_writer_finish(w, &readable, err);
	if (st == ST_OK)
		st = check(v, readable, err);
	struct stat sb;
	if (st == ST_OK && stat(readable, &sb) == 0)
		r->bytes = (uint64_t)sb.st_size;
	if (st == ST_OK)
		st = st_check_cancel(err);
	if (st == ST_OK)
		return st_writer_commit(w, err);
	st_writer_abort(w);
	return st;
}

static enum st_status write_weights(struct st_conversion *v, const char *dir, struct st_convert_result *r,
                                    struct st_error *err)
{
	const char *path = st_arena_printf(&v->arena, "%s/model.safetensors", dir), *readable;
	struct st_writer *w;
	if (!path)
		return st_no_memory(err);
	ST_TRY(open_writer(v, path, &w, err));
	enum st_status st = stream(v, w, err);
	if (st == ST_OK)
		st = st_writer_finish(w, &readable, err);
	struct stat sb;
	if (st == ST_OK && stat(readable, &sb) == 0)
		r->bytes = (uint64_t)sb.st_size;
	if (st == ST_OK)
		return st_writer_commit(w, err);
	st_writer_abort(w);
	return st;
}

enum st_status st_output_folder(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_outdir *d;
	ST_TRY(st_outdir_open(v->dst.path, v->o->force ? st_hf_names : NULL, &d, err));
	enum st_status st = write_weights(v, st_outdir_path(d), r, err);
	if (st == ST_OK)
		st = st_folder_documents(v, st_outdir_path(d), err);
	if (st == ST_OK)
		st = check(v, st_outdir_path(d), err);
	if (st == ST_OK)
		st = st_check_cancel(err);
	if (st == ST_OK)
		return st_outdir_commit(d, err);
	st_outdir_abort(d, err);
	return st;
}
