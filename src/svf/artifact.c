/* artifact.c - opening an adapted artifact, whoever wrote it. */
#include "svf/artifact.h"

#include "base/error.h"

#include <string.h>

/* What a manifest of version 1 must have; tools add more. */
static const char *const required[] = { "artifact_version",
	                                "status",
	                                "selected_tensors",
	                                "router_head_artifact",
	                                "router_head_shape",
	                                "artifact_layout",
	                                "selected_tensor_count",
	                                "selected_singular_value_count",
	                                "source_vector_sha256",
	                                "scale_offset_count",
	                                "router_head_tensor_key",
	                                "export_complete",
	                                NULL };

static enum st_status missing_or_old(const json_t *m, struct st_error *err)
{
	for (const char *const *k = required; *k; k++)
		if (!json_object_get(m, *k))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, *k, "is missing");
	const json_t *v = json_object_get(m, "artifact_version"), *status = json_object_get(m, "status");
	if (!json_is_integer(v) || json_integer_value(v) != 1)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "artifact_version",
		                  "is %lld; version 1 is read", (long long)json_integer_value(v));
	if (!json_is_string(status) || strcmp(json_string_value(status), "complete") != 0
	    || !json_is_true(json_object_get(m, "export_complete")))
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "status",
		                  "is \"%.40s\": the artifact is not complete; run the export again to go on with it",
		                  json_is_string(status) ? json_string_value(status) : "?");
	return ST_OK;
}

static enum st_status verify_file(struct st_svf_artifact *a, const char *rel, const json_t *sha, const char *what,
                                  struct st_container **c, struct st_error *err)
{
	char hex[65];
	/* A manifest comes from elsewhere: it names files of its own folder. */
	if (rel[0] == '/' || strstr(rel, ".."))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "names the file %.200s outside the artifact",
		                  rel);
	const char *path = st_svf_path(&a->arena, a->dir, rel);
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_svf_file_sha256(path, hex, err));
	enum st_status st = ST_OK;
	if (!json_is_string(sha))
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "the manifest has no digest of it");
	else if (strcmp(json_string_value(sha), hex) != 0)
		st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, what, "SHA-256 is %.64s, the manifest says %.64s",
		                hex, json_string_value(sha));
	if (st != ST_OK) {
		st_error_in(err, path);
		return st;
	}
	return st_container_open(path, c, err);
}

static enum st_status load_head(struct st_svf_artifact *a, struct st_error *err)
{
	const char *file, *key;
	uint64_t shape[2];
	ST_TRY(st_svf_get_text(a->manifest, "", "router_head_artifact", &file, err));
	ST_TRY(st_svf_get_text(a->manifest, "", "router_head_tensor_key", &key, err));
	ST_TRY(st_svf_get_shape(a->manifest, "", "router_head_shape", shape, err));
	ST_TRY(verify_file(a, file, json_object_get(a->manifest, "router_head_sha256"), "router_head_artifact",
	                   &a->head_file, err));
	a->head = st_container_find(a->head_file, key);
	if (!a->head || a->head->ndim != 2 || a->head->shape[0] != shape[0] || a->head->shape[1] != shape[1]
	    || a->head->dtype != ST_DTYPE_F32)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
		                  "is not the F32 [%llu, %llu] that the manifest says", (unsigned long long)shape[0],
		                  (unsigned long long)shape[1]);
	if (shape[0] <= ST_SVF_ROLES)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "router_head_shape",
		                  "has %llu rows, which is no agent beside %d roles", (unsigned long long)shape[0],
		                  ST_SVF_ROLES);
	return ST_OK;
}

static enum st_status load_tensor(struct st_svf_artifact *a, size_t i, const json_t *o, struct st_error *err)
{
	char where[48];
	const char *rel, *key;
	uint64_t shape[2];
	struct st_svf_checkpoint *t = &a->tensors[i];
	snprintf(where, sizeof where, "selected_tensors[%zu]", i);
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where, "is not an object");
	ST_TRY(st_svf_get_text(o, where, "source_name", &t->source_name, err));
	ST_TRY(st_svf_get_text(o, where, "path", &t->target_name, err));
	ST_TRY(st_svf_get_text(o, where, "artifact_key", &key, err));
	ST_TRY(st_svf_get_text(o, where, "checkpoint_path", &rel, err));
	ST_TRY(st_svf_get_shape(o, where, "shape", shape, err));
	ST_TRY(verify_file(a, rel, json_object_get(o, "checkpoint_sha256"), t->source_name, &t->c, err));
	t->t = st_container_find(t->c, key);
	enum st_status st = ST_OK;
	if (!t->t || t->t->ndim != 2 || t->t->shape[0] != shape[0] || t->t->shape[1] != shape[1]
	    || t->t->layout != ST_LAYOUT_ROWS)
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is not the [%llu, %llu] that the manifest says",
		                (unsigned long long)shape[0], (unsigned long long)shape[1]);
	else if (t->t->dtype != ST_DTYPE_BF16) /* and a type of blocks could not be read through its strides */
		st = st_fail_at(err, ST_ERR_FORMAT, t->t->offset, key, "is %s; a checkpoint is BF16",
		                st_dtype_info(t->t->dtype)->name);
	if (st != ST_OK) {
		st_error_in(err, st_container_path(t->c));
		return st;
	}
	size_t n = strlen(t->target_name);
	t->turned = strncmp(t->source_name, "model.layers.", 13) == 0 && n > 7
	         && strcmp(t->target_name + n - 7, ".kernel") == 0;
	t->rows = shape[t->turned ? 1 : 0];
	t->cols = shape[t->turned ? 0 : 1];
	return ST_OK;
}

static enum st_status load(struct st_svf_artifact *a, struct st_error *err)
{
	const json_t *list;
	uint64_t count;
	ST_TRY(missing_or_old(a->manifest, err));
	const json_t *layout = json_object_get(a->manifest, "artifact_layout");
	if (!json_is_string(layout) || strcmp(json_string_value(layout), "checkpoint_directory") != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "artifact_layout",
		                  "is not checkpoint_directory");
	list = json_object_get(a->manifest, "selected_tensors");
	ST_TRY(st_svf_get_u64(a->manifest, "", "selected_tensor_count", &count, err));
	if (!json_is_array(list) || count != json_array_size(list))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensor_count",
		                  "is %llu, but %zu are listed", (unsigned long long)count, json_array_size(list));
	a->tensors = st_arena_alloc(&a->arena, count, sizeof *a->tensors);
	if (!a->tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (a->n = 0; a->n < count; a->n++)
		ST_TRY(load_tensor(a, a->n, json_array_get(list, a->n), err));
	return load_head(a, err);
}

enum st_status st_svf_artifact_open(const char *dir, struct st_svf_artifact *a, struct st_error *err)
{
	*a = (struct st_svf_artifact){ .dir = dir };
	st_arena_init(&a->arena);
	const char *path = st_svf_path(&a->arena, dir, ST_SVF_MANIFEST);
	enum st_status st = path ? st_svf_load_json(path, &a->manifest, err)
	                         : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = st_svf_file_sha256(path, a->manifest_sha256, err);
	if (st == ST_OK) {
		st = load(a, err);
		if (st != ST_OK)
			st_error_in(err, path);
	}
	if (st != ST_OK)
		st_svf_artifact_close(a);
	return st;
}

void st_svf_artifact_close(struct st_svf_artifact *a)
{
	/* The one that failed half way is at index n. */
	for (size_t i = 0; a->tensors && i < json_array_size(json_object_get(a->manifest, "selected_tensors")); i++)
		st_container_close(a->tensors[i].c);
	st_container_close(a->head_file);
	json_decref(a->manifest);
	st_arena_release(&a->arena);
	*a = (struct st_svf_artifact){ 0 };
}
