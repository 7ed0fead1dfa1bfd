/* convert.c - the run: open, plan, write, read back, give it its name. */
#include "convert/convert.h"

#include "base/outfile.h"
#include "format/hf.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* The result and what it points at are one allocation to the caller. */
struct held_result {
	struct st_convert_result r; /* first */
	struct st_arena arena;
};

void st_list_add(struct st_text_list *l, const char *text)
{
	if (text && st_grow((void **)&l->v, &l->cap, l->n + 1, sizeof *l->v))
		l->v[l->n++] = text;
}

void st_note(struct st_conversion *v, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	st_list_add(&v->notes, st_arena_strndup(&v->arena, line, strlen(line)));
}

/* ---- what is asked for ---- */

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcasecmp(s + n - k, end) == 0;
}

static enum st_status choose_format(struct st_conversion *v, struct st_error *err)
{
	static const struct {
		const char *name, *suffix;
		enum st_format f;
	} known[] = {
		{ "gguf", ".gguf", ST_FORMAT_GGUF },
		{ "safetensors", ".safetensors", ST_FORMAT_SAFETENSORS },
		{ "apr", ".apr", ST_FORMAT_APR },
	};
	const char *asked = v->o->format;
	int by_name = -1, by_suffix = -1;
	for (int i = 0; i < 3; i++) {
		if (asked && strcasecmp(asked, known[i].name) == 0)
			by_name = i;
		if (ends_with(v->out_path, known[i].suffix))
			by_suffix = i;
	}
	if (asked && by_name < 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "format",
		                  "\"%.40s\" is none of gguf, safetensors, apr", asked);
	if (asked && by_suffix >= 0 && by_suffix != by_name)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "format", "%s contradicts the name of the output",
		                  asked);
	int pick = asked ? by_name : by_suffix >= 0 ? by_suffix : 1;
	v->to = known[pick].f;
	v->bare = v->to == ST_FORMAT_SAFETENSORS && by_suffix >= 0;
	v->folder = v->to == ST_FORMAT_SAFETENSORS && !v->bare;
	return ST_OK;
}

static enum st_status choose_type(struct st_conversion *v, struct st_error *err)
{
	if (!v->o->type)
		return ST_OK;
	char list[256] = "";
	size_t at = 0;
	for (int t = 0; t < ST_DTYPE_COUNT && at < sizeof list; t++)
		if (st_dtype_info((enum st_dtype)t)->encode && st_format_has(v->to, (enum st_dtype)t))
			at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "",
			                       st_dtype_info((enum st_dtype)t)->name);
	if (!st_dtype_parse(v->o->type, &v->type))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "type", "\"%.40s\" is no stored type; %s takes %s",
		                  v->o->type, st_format_name(v->to), list);
	if (!st_dtype_info(v->type)->encode || !st_format_has(v->to, v->type))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "type",
		                  "%s cannot be written to %s; it takes %s", st_dtype_info(v->type)->name,
		                  st_format_name(v->to), list);
	v->has_type = true;
	return ST_OK;
}

static bool takes_files(const char *out, const struct st_model *m)
{
	const struct st_container *c = m ? st_model_container(m) : NULL;
	for (size_t i = 0; c && i < st_container_n_files(c); i++)
		if (st_out_takes(out, st_container_file_path(c, i)))
			return true;
	return false;
}

/* The output must not be, or hold, anything that is read. */
static enum st_status refuse_same(struct st_conversion *v, struct st_error *err)
{
	struct stat sb;
	if (lstat(v->out_path, &sb) != 0)
		return ST_OK; /* not there */
	if (takes_files(v->out_path, v->in) || takes_files(v->out_path, v->other)
	    || (v->o->repair && st_out_takes(v->out_path, v->o->repair)))
		return st_fail(err, ST_ERR_USAGE, "is an input, or holds one");
	if (!v->o->force)
		return st_fail(err, ST_ERR_IO, "already exists (--force replaces it)");
	if (S_ISDIR(sb.st_mode) != v->folder)
		return st_fail(err, ST_ERR_IO, v->folder ? "exists and is no folder" : "exists and is no regular file");
	return ST_OK;
}

static enum st_status open_input(struct st_conversion *v, struct st_error *err)
{
	ST_TRY(v->o->repair ? st_model_open_partial(v->in_path, &v->in, err) : st_model_open(v->in_path, &v->in, err));
	const struct st_container *c = st_model_container(v->in);
	v->from = st_container_format(c);
	v->cfg = *st_model_config(v->in);
	v->arch = st_arch_find(v->cfg.arch, strlen(v->cfg.arch));
	if (v->from != ST_FORMAT_GGUF && v->from != ST_FORMAT_SAFETENSORS && v->from != ST_FORMAT_APR) {
		enum st_status st = st_fail(err, ST_ERR_UNSUPPORTED, "is %s; GGUF, safetensors and APR are converted",
		                            st_format_name(v->from));
		st_error_in(err, v->in_path);
		return st;
	}
	return ST_OK;
}

/* ---- what is said about it ---- */

/* Tensors whose type is not the input's though nobody asked, or not the one that was asked for. */
static void note_types(struct st_conversion *v)
{
	for (size_t i = 0; i < v->n_jobs; i++) {
		const struct st_job *j = &v->jobs[i];
		enum st_dtype want = v->has_type && j->spec.ndim == 2 && j->role != ST_ROLE_COUNT ? v->type
		                   : j->src[0]                                                    ? j->src[0]->dtype
		                                                                                  : j->spec.dtype;
		if (want == j->spec.dtype || j->repaired)
			continue;
		size_t same = 0;
		bool first = true;
		for (size_t k = 0; k < v->n_jobs; k++) {
			const struct st_job *o = &v->jobs[k];
			enum st_dtype w = v->has_type && o->spec.ndim == 2 && o->role != ST_ROLE_COUNT ? v->type
			                : o->src[0] ? o->src[0]->dtype
			                            : o->spec.dtype;
			if (w != want || o->spec.dtype != j->spec.dtype || o->repaired)
				continue;
			first = first && (k >= i);
			same++;
		}
		if (!first)
			continue;
		const char *w = st_dtype_info(want)->name, *g = st_dtype_info(j->spec.dtype)->name;
		if (!st_format_has(v->to, want))
			st_note(v, "%zu tensors from %s to %s, which holds their values exactly: %s has no %s", same, w,
			        g, st_format_name(v->to), w);
		else
			st_note(v,
			        "%zu tensors as %s instead of %s, the first %s: rows of %llu do not divide into its "
			        "blocks",
			        same, g, w, j->spec.name, (unsigned long long)st_spec_cols(&j->spec));
	}
}

static void count_jobs(const struct st_conversion *v, struct st_convert_result *r)
{
	r->tensors = v->n_jobs;
	for (size_t i = 0; i < v->n_jobs; i++) {
		const struct st_job *j = &v->jobs[i];
		bool copy = j->kind == ST_JOB_COPY && j->gain == 1 && j->order == ST_CODES_OWN;
		uint64_t *slot = !copy ? &r->encoded : j->map ? &r->moved : &r->untouched;
		(*slot)++;
	}
}

/* ---- writing ---- */

static enum st_status stream(struct st_conversion *v, struct st_writer *w, struct st_error *err)
{
	uint64_t total = 0, done = 0, bytes;
	for (size_t i = 0; i < v->n_jobs; i++)
		if (st_stored_bytes(v->jobs[i].spec.dtype, v->jobs[i].spec.ndim, v->jobs[i].spec.shape, &bytes))
			total += bytes;
	for (size_t i = 0; i < v->n_jobs; i++) {
		ST_TRY(st_check_cancel(err));
		ST_TRY(st_job_write(v, &v->jobs[i], w, err));
		if (st_stored_bytes(v->jobs[i].spec.dtype, v->jobs[i].spec.ndim, v->jobs[i].spec.shape, &bytes))
			done += bytes;
		if (v->o->hooks.progress)
			v->o->hooks.progress(v->o->hooks.user, "converting", done, total);
	}
	return ST_OK;
}

static enum st_status open_writer(struct st_conversion *v, const char *path, struct st_writer **w, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&v->arena, v->n_jobs, sizeof *specs);
	struct st_write_plan plan = { .format = v->to, .specs = specs, .n_specs = v->n_jobs, .pad_header = true };
	struct st_keys keys = { .arena = &v->arena };
	json_t *meta = NULL;
	enum st_status st = specs ? ST_OK : st_no_memory(err);
	for (size_t i = 0; specs && i < v->n_jobs; i++)
		specs[i] = v->jobs[i].spec;
	if (st == ST_OK && v->to == ST_FORMAT_GGUF)
		st = st_config_keys(v, &keys, err);
	else if (st == ST_OK && v->to == ST_FORMAT_APR)
		st = st_config_apr_document(v, &meta, err);
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
		snprintf(err->path, sizeof err->path, "%s", v->out_path);
	return st;
}

/* A file: written under no name, read back, named. */
static enum st_status write_file(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_writer *w;
	const char *readable = NULL;
	ST_TRY(open_writer(v, v->out_path, &w, err));
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

static enum st_status write_folder(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_outdir *d;
	ST_TRY(st_outdir_open(v->out_path, v->o->force ? st_hf_names : NULL, &d, err));
	enum st_status st = write_weights(v, st_outdir_path(d), r, err);
	if (st == ST_OK)
		st = st_folder_documents(v, st_outdir_path(d), err);
	if (st == ST_OK)
		st = check(v, st_outdir_path(d), err);
	if (st == ST_OK)
		st = st_check_cancel(err);
	if (st == ST_OK)
		return st_outdir_commit(d, err);
	st_outdir_error(d, err);
	st_outdir_abort(d);
	return st;
}

/* ---- the run ---- */

static enum st_status run(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_repair *repair = NULL;
	enum st_status st;
	ST_TRY_OUT(choose_format(v, err));
	ST_TRY_OUT(choose_type(v, err));
	ST_TRY_OUT(open_input(v, err));
	if (v->o->repair)
		ST_TRY_OUT(st_repair_open(v, &repair, err));
	st = refuse_same(v, err);
	if (st != ST_OK) {
		st_error_in(err, v->out_path);
		goto out;
	}
	ST_TRY_OUT(st_vocabulary_read(v, err));
	ST_TRY_OUT(st_plan_jobs(v, err));
	if (repair)
		ST_TRY_OUT(st_repair_apply(repair, v, err));
	note_types(v);
	if (!v->bare)
		st_list_left_out(v);
	if (v->bare)
		st_note(v, "the file holds tensors alone; name a folder to get config.json and the tokenizer too");
	count_jobs(v, r);
	ST_TRY_OUT(v->folder ? write_folder(v, r, err) : write_file(v, r, err));
	snprintf(r->from, sizeof r->from, "%s", st_container_describe(st_model_container(v->in)));
	snprintf(r->to, sizeof r->to, "%s",
	         v->to == ST_FORMAT_GGUF  ? "GGUF v3"
	         : v->to == ST_FORMAT_APR ? "APR v2 (writer A)"
	         : v->folder              ? "Hugging Face folder"
	                                  : "safetensors");
	snprintf(r->checked, sizeof r->checked, "tensors%s%s", v->bare ? "" : ", configuration",
	         !v->bare && v->vocab.t ? ", token ids" : "");
	snprintf(r->arch, sizeof r->arch, "%s", v->cfg.arch);
out:
	st_repair_close(repair);
	return st;
}

enum st_status st_convert(const char *in, const char *out, const struct st_convert_options *o,
                          struct st_convert_result **result, struct st_error *err)
{
	struct st_conversion v = { .o = o, .in_path = in, .out_path = out };
	struct held_result *held = calloc(1, sizeof *held);
	*result = NULL;
	if (!held)
		return st_no_memory(err);
	st_arena_init(&v.arena);
	enum st_status st = st_pool_open(o->threads, &v.pool, err);
	if (st == ST_OK)
		st = run(&v, &held->r, err);
	st_pool_close(v.pool);
	st_tokenizer_close(v.vocab.t);
	st_model_close(v.in);
	st_model_close(v.other);
	free(v.jobs);
	if (st == ST_OK) {
		held->arena = v.arena;
		held->r.notes = v.notes.v;
		held->r.n_notes = v.notes.n;
		held->r.left_out = v.left.v;
		held->r.n_left_out = v.left.n;
		held->r.repairs = v.repairs.v;
		held->r.n_repairs = v.repairs.n;
		*result = &held->r;
		return ST_OK;
	}
	st_error_in(err, in);
	st_arena_release(&v.arena);
	free(v.notes.v);
	free(v.left.v);
	free(v.repairs.v);
	free(held);
	return st;
}

void st_convert_result_free(struct st_convert_result *r)
{
	struct held_result *held = (struct held_result *)r;
	if (!held)
		return;
	free((void *)(uintptr_t)r->notes);
	free((void *)(uintptr_t)r->left_out);
	free((void *)(uintptr_t)r->repairs);
	st_arena_release(&held->arena);
	free(held);
}
