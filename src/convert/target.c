/* target.c - what is asked for: the container, the type of the matrices; and what the output must not be. */
#include "convert/convert.h"

#include "base/outfile.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcasecmp(s + n - k, end) == 0;
}

/* The last component of a path, without slashes at its end. */
static const char *last_name(const char *path, size_t *len)
{
	size_t n = strlen(path);
	while (n > 0 && path[n - 1] == '/')
		n--;
	size_t at = n;
	while (at > 0 && path[at - 1] != '/')
		at--;
	*len = n - at;
	return path + at;
}

/*
 * The container: as it is asked for, else as the suffix of the output says. A name without any suffix, or with a slash
 * at its end, is a folder. One with a suffix that no container has is refused: it is more often a slip than a folder's
 * name, and a folder of a model is large.
 */
static enum st_status choose_format(struct st_target *to, const char *asked, struct st_log *log, struct st_error *err)
{
	static const struct {
		const char *name, *suffix;
		enum st_format f;
	} known[] = {
		{ "gguf", ".gguf", ST_FORMAT_GGUF },
		{ "safetensors", ".safetensors", ST_FORMAT_SAFETENSORS },
		{ "apr", ".apr", ST_FORMAT_APR },
		{ "hf", "/", ST_FORMAT_SAFETENSORS },
	};
	enum { HF = 3, NONE = -1 };
	int by_name = NONE, by_suffix = NONE;
	for (int i = 0; i <= HF; i++) {
		if (asked && strcasecmp(asked, known[i].name) == 0)
			by_name = i;
		if (ends_with(to->path, known[i].suffix))
			by_suffix = i;
	}
	if (asked && by_name == NONE)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--to",
		                  "\"%.40s\" is none of gguf, safetensors, apr, hf", asked);
	if (asked && by_suffix != NONE && by_suffix != by_name)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--to", "%s contradicts the name of the output",
		                  asked);
	int pick = asked ? by_name : by_suffix;
	size_t n;
	const char *name = last_name(to->path, &n), *dot = memrchr(name, '.', n);
	if (pick == NONE && dot && dot > name) {
		enum st_status st = st_fail(
			err, ST_ERR_USAGE,
			"no container has the suffix %.*s; .gguf, .safetensors and .apr name one, and --to hf writes "
			"a Hugging Face folder",
			(int)(name + n - dot), dot);
		st_error_in(err, to->path);
		return st;
	}
	if (pick == NONE) {
		pick = HF;
		st_note(log, "the name of the output has no suffix, so it is a Hugging Face folder (--to hf says so)");
	}
	to->format = known[pick].f;
	to->folder = pick == HF;
	to->bare = to->format == ST_FORMAT_SAFETENSORS && !to->folder;
	return ST_OK;
}

/* What --type takes for a container, as text: "F32, F16, ..., and the recipes Q2_K_S, ...". */
static void list_types(enum st_format f, char *list, size_t size)
{
	size_t at = 0;
	for (int t = 0; t < ST_DTYPE_COUNT && at < size; t++)
		if (st_dtype_info((enum st_dtype)t)->encode && st_format_has(f, (enum st_dtype)t))
			at += (size_t)snprintf(list + at, size - at, "%s%s", at ? ", " : "",
			                       st_dtype_info((enum st_dtype)t)->name);
	for (size_t i = 0; f == ST_FORMAT_GGUF && st_recipe_at(i) && at < size; i++)
		at += (size_t)snprintf(list + at, size - at, "%s%s", i ? ", " : ", and the recipes ", st_recipe_at(i));
}

static enum st_status choose_type(struct st_target *to, const char *asked, struct st_error *err)
{
	char list[384] = "";
	if (!asked)
		return ST_OK;
	list_types(to->format, list, sizeof list);
	to->has_type = true;
	to->recipe = st_recipe_find(asked);
	if (to->recipe && to->format != ST_FORMAT_GGUF)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--type",
		                  "%.40s is a recipe for GGUF; %s takes %s", asked, st_format_name(to->format), list);
	if (to->recipe) {
		to->type = st_recipe_base(to->recipe);
		return ST_OK;
	}
	if (!st_dtype_parse(asked, &to->type))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--type", "\"%.40s\" is no stored type; %s takes %s",
		                  asked, st_format_name(to->format), list);
	if (!st_dtype_info(to->type)->encode || !st_format_has(to->format, to->type))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--type",
		                  "%s cannot be written to %s; it takes %s", st_dtype_info(to->type)->name,
		                  st_format_name(to->format), list);
	return ST_OK;
}

enum st_status st_target_choose(struct st_target *to, const struct st_convert_options *o, struct st_log *log,
                                struct st_error *err)
{
	ST_TRY(choose_format(to, o->format, log, err));
	ST_TRY(choose_type(to, o->type, err));
	if (o->imatrix && !to->has_type)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--imatrix",
		                  "says how to store matrices as another type: it needs --type");
	if (o->imatrix && !to->recipe && !st_dtype_weighted(to->type))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--imatrix", "%s takes no notice of importances",
		                  st_dtype_info(to->type)->name);
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
enum st_status st_target_refuse(const struct st_conversion *v, struct st_error *err)
{
	struct stat sb;
	if (stat(v->dst.path, &sb) != 0)
		return ST_OK; /* not there; a link to nothing is refused when the output is opened */
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
