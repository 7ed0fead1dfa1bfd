/* convert.c - the run: open, plan, write, read back, give it its name. */
#include "convert/convert.h"

#include "base/outfile.h"
#include "convert/output.h"
#include "convert/repair.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* The result and what it points at are one allocation to the caller. */
struct held_result {
	struct st_convert_result r; /* first */
	struct st_arena arena;
};

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
		if (ends_with(v->dst.path, known[i].suffix))
			by_suffix = i;
	}
	if (asked && by_name < 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "format",
		                  "\"%.40s\" is none of gguf, safetensors, apr", asked);
	if (asked && by_suffix >= 0 && by_suffix != by_name)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "format", "%s contradicts the name of the output",
		                  asked);
	int pick = asked ? by_name : by_suffix >= 0 ? by_suffix : 1;
	v->dst.format = known[pick].f;
	v->dst.bare = v->dst.format == ST_FORMAT_SAFETENSORS && by_suffix >= 0;
	v->dst.folder = v->dst.format == ST_FORMAT_SAFETENSORS && !v->dst.bare;
	return ST_OK;
}

static enum st_status choose_type(struct st_conversion *v, struct st_error *err)
{
	if (!v->o->type)
		return ST_OK;
	char list[256] = "";
	size_t at = 0;
	for (int t = 0; t < ST_DTYPE_COUNT && at < sizeof list; t++)
		if (st_dtype_info((enum st_dtype)t)->encode && st_format_has(v->dst.format, (enum st_dtype)t))
			at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "",
			                       st_dtype_info((enum st_dtype)t)->name);
	if (!st_dtype_parse(v->o->type, &v->dst.type))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "type", "\"%.40s\" is no stored type; %s takes %s",
		                  v->o->type, st_format_name(v->dst.format), list);
	if (!st_dtype_info(v->dst.type)->encode || !st_format_has(v->dst.format, v->dst.type))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "type",
		                  "%s cannot be written to %s; it takes %s", st_dtype_info(v->dst.type)->name,
		                  st_format_name(v->dst.format), list);
	v->dst.has_type = true;
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
	if (lstat(v->dst.path, &sb) != 0)
		return ST_OK; /* not there */
	if (takes_files(v->dst.path, v->src.model) || takes_files(v->dst.path, v->src.other)
	    || (v->o->repair && st_out_takes(v->dst.path, v->o->repair)))
		return st_fail(err, ST_ERR_USAGE, "is an input, or holds one");
	if (!v->o->force)
		return st_fail(err, ST_ERR_IO, "already exists (--force replaces it)");
	if (S_ISDIR(sb.st_mode) != v->dst.folder)
		return st_fail(err, ST_ERR_IO,
		               v->dst.folder ? "exists and is no folder" : "exists and is no regular file");
	return ST_OK;
}

static enum st_status open_input(struct st_conversion *v, struct st_error *err)
{
	ST_TRY(v->o->repair ? st_model_open_partial(v->src.path, &v->src.model, err)
	                    : st_model_open(v->src.path, &v->src.model, err));
	const struct st_container *c = st_model_container(v->src.model);
	v->src.format = st_container_format(c);
	v->dst.cfg = *st_model_config(v->src.model);
	v->dst.arch = st_arch_find(v->dst.cfg.arch, strlen(v->dst.cfg.arch));
	if (v->src.format != ST_FORMAT_GGUF && v->src.format != ST_FORMAT_SAFETENSORS
	    && v->src.format != ST_FORMAT_APR) {
		enum st_status st = st_fail(err, ST_ERR_UNSUPPORTED, "is %s; GGUF, safetensors and APR are converted",
		                            st_format_name(v->src.format));
		st_error_in(err, v->src.path);
		return st;
	}
	return ST_OK;
}

/* ---- what is said about it ---- */

/* Tensors whose type is not the input's though nobody asked, or not the one that was asked for. */
static void note_types(struct st_conversion *v)
{
	for (size_t i = 0; i < v->plan.n; i++) {
		const struct st_job *j = &v->plan.jobs[i];
		enum st_dtype want = v->dst.has_type && j->spec.ndim == 2 && j->role != ST_ROLE_COUNT ? v->dst.type
		                   : j->src[0]                                                        ? j->src[0]->dtype
		                                                                                      : j->spec.dtype;
		if (want == j->spec.dtype || j->repaired)
			continue;
		size_t same = 0;
		bool first = true;
		for (size_t k = 0; k < v->plan.n; k++) {
			const struct st_job *o = &v->plan.jobs[k];
			enum st_dtype w = v->dst.has_type && o->spec.ndim == 2 && o->role != ST_ROLE_COUNT ? v->dst.type
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
		if (!st_format_has(v->dst.format, want))
			st_note(&v->log, "%zu tensors from %s to %s, which holds their values exactly: %s has no %s",
			        same, w, g, st_format_name(v->dst.format), w);
		else
			st_note(&v->log,
			        "%zu tensors as %s instead of %s, the first %s: rows of %llu do not divide into its "
			        "blocks",
			        same, g, w, j->spec.name, (unsigned long long)st_spec_cols(&j->spec));
	}
}

static void count_jobs(const struct st_conversion *v, struct st_convert_result *r)
{
	r->tensors = v->plan.n;
	for (size_t i = 0; i < v->plan.n; i++) {
		const struct st_job *j = &v->plan.jobs[i];
		bool copy = j->kind == ST_JOB_COPY && j->gain == 1 && j->order == ST_CODES_OWN;
		uint64_t *slot = !copy ? &r->encoded : j->map ? &r->moved : &r->untouched;
		(*slot)++;
	}
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
		st_error_in(err, v->dst.path);
		goto out;
	}
	ST_TRY_OUT(st_vocabulary_read(&v->vocab, &v->src, &v->dst, &v->arena, &v->log, err));
	ST_TRY_OUT(st_plan_jobs(v, err));
	if (repair)
		ST_TRY_OUT(st_repair_apply(repair, v, err));
	note_types(v);
	if (!v->dst.bare)
		st_list_left_out(v);
	if (v->dst.bare)
		st_note(&v->log,
		        "the file holds tensors alone; name a folder to get config.json and the tokenizer too");
	count_jobs(v, r);
	ST_TRY_OUT(v->dst.folder ? st_output_folder(v, r, err) : st_output_file(v, r, err));
	snprintf(r->from, sizeof r->from, "%s", st_container_describe(st_model_container(v->src.model)));
	snprintf(r->to, sizeof r->to, "%s",
	         v->dst.format == ST_FORMAT_GGUF  ? "GGUF v3"
	         : v->dst.format == ST_FORMAT_APR ? "APR v2 (writer A)"
	         : v->dst.folder                  ? "Hugging Face folder"
	                                          : "safetensors");
	snprintf(r->checked, sizeof r->checked, "tensors%s%s", v->dst.bare ? "" : ", configuration",
	         !v->dst.bare && v->vocab.t ? ", token ids" : "");
	snprintf(r->arch, sizeof r->arch, "%s", v->dst.cfg.arch);
out:
	st_repair_close(repair);
	return st;
}

enum st_status st_convert(const char *in, const char *out, const struct st_convert_options *o,
                          struct st_convert_result **result, struct st_error *err)
{
	struct st_conversion v = { .o = o, .src.path = in, .dst.path = out };
	struct held_result *held = st_alloc_zeroed(1, sizeof *held);
	*result = NULL;
	if (!held)
		return st_no_memory(err);
	st_arena_init(&v.arena);
	v.log.arena = &v.arena;
	enum st_status st = st_pool_open(o->threads, &v.pool, err);
	if (st == ST_OK)
		st = run(&v, &held->r, err);
	if (st == ST_OK && v.log.failed)
		st = st_no_memory(err);
	st_pool_close(v.pool);
	st_tokenizer_close(v.vocab.t);
	st_model_close(v.src.model);
	st_model_close(v.src.other);
	free(v.plan.jobs);
	if (st == ST_OK) {
		held->arena = v.arena;
		held->r.notes = v.log.notes.v;
		held->r.n_notes = v.log.notes.n;
		held->r.left_out = v.log.left.v;
		held->r.n_left_out = v.log.left.n;
		held->r.repairs = v.log.repairs.v;
		held->r.n_repairs = v.log.repairs.n;
		*result = &held->r;
		return ST_OK;
	}
	st_error_in(err, in);
	st_arena_release(&v.arena);
	st_log_release(&v.log);
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
