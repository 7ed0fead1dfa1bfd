/*
 * checkpoint.c - models as Hugging Face and torch keep them: a file, the shards that an index lists, or a folder, with
 * JSON documents beside the weights.
 */
#include "format/container.h"
#include "format/hf.h"
#include "format/packed.h"
#include "format/recognise.h"
#include "format/safetensors.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- shard index ---- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct shard names of a weight_map, sorted. They come from a stranger: a name is one of the
 * folder, nothing with a path in it. Values point into the JSON. */
static enum st_status shard_names(json_t *map, const char ***out, size_t *n_out, struct st_error *err)
{
	size_t n = 0;
	const char *key;
	json_t *v;
	const char **names = st_alloc_array(json_object_size(map), sizeof *names);
	if (!names)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	json_object_foreach(map, key, v)
	{
		const char *s = json_string_value(v);
		const char *why =
			!s ? "weight_map does not give it a file name"
			: !*s || strchr(s, '/') || strcmp(s, ".") == 0 || strcmp(s, "..") == 0
				? "weight_map points outside the index's folder; only plain file names are followed"
				: NULL;
		if (why) {
			free(names);
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%s", why);
		}
		names[n++] = s;
	}
	qsort(names, n, sizeof *names, by_text);
	size_t k = 0;
	for (size_t i = 0; i < n; i++)
		if (k == 0 || strcmp(names[k - 1], names[i]) != 0)
			names[k++] = names[i];
	*out = names;
	*n_out = k;
	return ST_OK;
}

/* Every tensor must be where the index says. Tensors the index does not list are no harm. */
static enum st_status check_map(const struct st_container *c, json_t *map, const char *const *names, size_t n,
                                struct st_error *err)
{
	const char *key;
	json_t *v;
	json_object_foreach(map, key, v)
	{
		const char *want = json_string_value(v);
		const char *const *slot = bsearch(&want, names, n, sizeof *names, by_text);
		const struct st_tensor *t = st_container_find(c, key);
		if (!t)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "weight_map puts it into %s, which does not hold it", want);
		if (t->file != (uint32_t)(slot - names))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "weight_map puts it into %s, but it is in %s", want, c->maps[t->file].path);
	}
	return ST_OK;
}

/* Files of one model; the first one tells in which of the two formats of Hugging Face folders they are. */
static enum st_status open_files(struct st_container *c, const char *const *paths, size_t n, struct st_error *err)
{
	enum st_content content = ST_CONTENT_SAFETENSORS;
	if (n > 0)
		ST_TRY(st_recognise_file(paths[0], &content, err));
	return content == ST_CONTENT_ZIP || content == ST_CONTENT_OLD_TORCH ? st_torch_shards(c, paths, n, err)
	                                                                    : st_safetensors_shards(c, paths, n, err);
}

/* The index is not among the container's files: it holds no tensor. */
static enum st_status open_index(struct st_container *c, const char *path, const char *dir, json_t *index,
                                 struct st_error *err)
{
	json_t *map = json_object_get(index, "weight_map");
	const char **names = NULL;
	size_t n = 0;
	enum st_status st = json_is_object(map) ? shard_names(map, &names, &n, err)
	                                        : st_fail_at(err, ST_ERR_FORMAT, 0, NULL,
	                                                     "JSON without an object weight_map is no shard index; of "
	                                                     "a model in a folder, name the folder");
	if (st != ST_OK) {
		st_error_in(err, path);
		return st;
	}
	const char **paths = st_arena_alloc(&c->arena, n, sizeof *paths);
	st = paths ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		paths[i] = st_arena_printf(&c->arena, "%s/%s", dir, names[i]);
		if (!paths[i])
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (st == ST_OK)
		st = open_files(c, paths, n, err);
	if (st == ST_OK)
		st = st_container_index(c, err);
	if (st == ST_OK)
		st = check_map(c, map, names, n, err);
	free(names);
	if (st != ST_OK)
		st_error_in(err, path);
	return st;
}

static enum st_status open_weights(struct st_container *c, const char *path, const char *dir, struct st_error *err)
{
	json_t *index = NULL;
	enum st_content content;
	ST_TRY(st_recognise_file(path, &content, err));
	if (content != ST_CONTENT_INDEX)
		return open_files(c, &path, 1, err);
	enum st_status st = st_json_load(path, &index, err);
	if (st == ST_OK)
		st = open_index(c, path, dir, index, err);
	json_decref(index);
	return st;
}

static enum st_status describe(struct st_container *c, bool folder, struct st_error *err)
{
	const char *where = folder ? " (Hugging Face folder)" : "";
	c->describe = c->format == ST_FORMAT_TORCH ? st_arena_printf(&c->arena, "%s%s", c->describe, where)
	            : c->n_maps == 0               ? st_arena_printf(&c->arena, "Hugging Face folder without weights")
	            : c->n_maps == 1               ? st_arena_printf(&c->arena, "safetensors%s", where)
	                             : st_arena_printf(&c->arena, "safetensors, %zu shards%s", c->n_maps, where);
	return c->describe ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

/* Two sets of weights in one folder are nothing to choose between: the single file beside an index of other files. */
static enum st_status refuse_stray(struct st_container *c, const char *dir, const char *weights, struct st_error *err)
{
	static const char single[] = "model.safetensors";
	const char *name = strrchr(weights, '/'), *key;
	if (!name || strcmp(name + 1, single) != 0)
		return ST_OK;
	char *path = st_arena_printf(&c->arena, "%s/%s.index.json", dir, single);
	json_t *index, *v;
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_json_load(path, &index, err));
	enum st_status st = ST_OK;
	json_object_foreach(json_object_get(index, "weight_map"), key, v)
	{
		if (st == ST_OK && json_is_string(v) && strcmp(json_string_value(v), single) != 0)
			st = st_fail(
				err, ST_ERR_UNSUPPORTED,
				"folder holds both %s and an index of other files (%.80s, ...), of which one is stale: name "
				"the file or the index that you mean",
				single, json_string_value(v));
	}
	json_decref(index);
	return st;
}

/* pytorch_model.bin belongs to the config.json beside it; other checkpoints in such a folder (optimizer.pt) do not. */
static enum st_status is_lone_torch(const char *path, bool *lone, struct st_error *err)
{
	enum st_content content;
	const char *slash = strrchr(path, '/');
	ST_TRY(st_recognise_file(path, &content, err));
	*lone = (content == ST_CONTENT_ZIP || content == ST_CONTENT_OLD_TORCH)
	     && !st_hf_is_torch(slash ? slash + 1 : path);
	return ST_OK;
}

enum st_status st_checkpoint_open(struct st_container *c, const char *path, struct st_error *err)
{
	struct stat sb;
	bool folder = stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
	const char *slash = strrchr(path, '/'), *weights = path;
	const char *dir = folder || !slash
	                        ? NULL
	                        : st_arena_strndup(&c->arena, path, (size_t)(slash - path) + (slash == path));
	if (!dir && !folder && slash)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	dir = folder ? path : slash ? dir : ".";
	c->format = ST_FORMAT_SAFETENSORS;
	if (!folder) {
		bool lone;
		ST_TRY(is_lone_torch(path, &lone, err));
		if (lone)
			return st_torch_shards(c, &path, 1, err);
	}
	if (folder)
		ST_TRY(st_hf_weights(&c->arena, dir, &weights, err));
	if (folder && weights)
		ST_TRY(refuse_stray(c, dir, weights, err));
	if (weights)
		ST_TRY(open_weights(c, weights, dir, err));
	/* A trace bundle may lie in a model's folder and is no model: its neighbours are not its own. */
	if (!st_container_is_bundle(c))
		ST_TRY(st_hf_documents(c, dir, err));
	ST_TRY(describe(c, folder, err));
	return st_packed_fold(c, err);
}
