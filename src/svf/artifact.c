/* artifact.c - opening an adapted artifact, whoever wrote it. */
#include "svf/artifact.h"

#include "base/error.h"

#include <string.h>

struct head {
	const char *file, *key, *sha256;
	uint64_t shape[2];
};

/* What a manifest of version 1 must have; tools add more. */
struct manifest {
	uint64_t version, count;
	const char *status, *layout;
	bool complete;
	const json_t *tensors;
	struct head head;
};

#define AT(m) ST_JSON_AT(struct manifest, m), .required = true
static const struct st_json_field manifest_fields[] = {
	{ AT(version), .key = { "artifact_version" } },
	{ AT(status), .key = { "status" } },
	{ AT(complete), .key = { "export_complete" } },
	{ AT(layout), .key = { "artifact_layout" } },
	{ AT(count), .key = { "selected_tensor_count" } },
	{ ST_JSON_AT_A(struct manifest, tensors, ST_JSON_LIST), .key = { "selected_tensors" }, .required = true },
	{ AT(head.file), .key = { "router_head_artifact" }, .min = 1 },
	{ AT(head.key), .key = { "router_head_tensor_key" }, .min = 1 },
	{ AT(head.shape), .key = { "router_head_shape" } },
	{ ST_JSON_AT(struct manifest, head.sha256), .key = { "router_head_sha256" } },
	{ .key = { "selected_singular_value_count" }, .required = true },
	{ .key = { "source_vector_sha256" }, .required = true },
	{ .key = { "scale_offset_count" }, .required = true },
};

struct checkpoint {
	const char *source, *target, *key, *file, *sha256;
	uint64_t shape[2];
};

#undef AT
#define AT(m) ST_JSON_AT(struct checkpoint, m), .required = true
static const struct st_json_field checkpoint_fields[] = {
	{ AT(source), .key = { "source_name" }, .min = 1 },
	{ AT(target), .key = { "path" }, .min = 1 },
	{ AT(key), .key = { "artifact_key" }, .min = 1 },
	{ AT(file), .key = { "checkpoint_path" }, .min = 1 },
	{ AT(shape), .key = { "shape" } },
	{ ST_JSON_AT(struct checkpoint, sha256), .key = { "checkpoint_sha256" } },
};
#define ROWS(table) table, sizeof(table) / sizeof *(table)

static enum st_status verify_file(struct st_svf_artifact *a, const char *rel, const char *sha, const char *what,
                                  struct st_container **c, struct st_error *err)
{
	char hex[65];
	/* A manifest comes from elsewhere: it names files of its own folder. */
	if (rel[0] == '/' || strstr(rel, ".."))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "names the file %.200s outside the artifact",
		                  rel);
	const char *path = st_path(&a->arena, a->dir, rel);
	ST_NEED(path);
	ST_TRY(st_file_sha256(path, hex, NULL, err));
	if (sha && strcmp(sha, hex) == 0)
		return st_container_open(path, c, err);
	enum st_status st = sha ? st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, what,
	                                     "SHA-256 is %.64s, the manifest says %.64s", hex, sha)
	                        : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
	                                     "the manifest has no digest of it");
	return st_in_file(path, st, err);
}

static bool is_matrix(const struct st_tensor *t, const uint64_t shape[2])
{
	return t && t->ndim == 2 && t->shape[0] == shape[0] && t->shape[1] == shape[1];
}

static enum st_status load_head(struct st_svf_artifact *a, const struct head *h, struct st_error *err)
{
	ST_TRY(verify_file(a, h->file, h->sha256, "router_head_artifact", &a->head_file, err));
	a->head = st_container_find(a->head_file, h->key);
	if (!is_matrix(a->head, h->shape) || a->head->dtype != ST_DTYPE_F32)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, h->key,
		                  "is not the F32 [%llu, %llu] that the manifest says", (unsigned long long)h->shape[0],
		                  (unsigned long long)h->shape[1]);
	if (h->shape[0] <= ST_SVF_ROLES)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "router_head_shape",
		                  "has %llu rows, which is no agent beside %d roles", (unsigned long long)h->shape[0],
		                  ST_SVF_ROLES);
	return ST_OK;
}

static enum st_status load_tensor(struct st_svf_artifact *a, size_t i, const json_t *o, struct st_error *err)
{
	char where[48];
	struct checkpoint c = { 0 };
	struct st_svf_checkpoint *t = &a->tensors[i];
	snprintf(where, sizeof where, "selected_tensors[%zu]", i);
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where, "is not an object");
	ST_TRY(st_json_read(o, &(struct st_json_read){ .where = where }, ROWS(checkpoint_fields), &c, NULL, err));
	ST_TRY(verify_file(a, c.file, c.sha256, c.source, &t->c, err));
	t->source_name = c.source;
	t->target_name = c.target;
	t->t = st_container_find(t->c, c.key);
	enum st_status st = ST_OK;
	if (!is_matrix(t->t, c.shape) || t->t->layout != ST_LAYOUT_ROWS)
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, c.key,
		                "is not the [%llu, %llu] that the manifest says", (unsigned long long)c.shape[0],
		                (unsigned long long)c.shape[1]);
	else if (t->t->dtype != ST_DTYPE_BF16) /* and a type of blocks could not be read through its strides */
		st = st_fail_at(err, ST_ERR_FORMAT, t->t->offset, c.key, "is %s; a checkpoint is BF16",
		                st_dtype_info(t->t->dtype)->name);
	t->turned = st_svf_turns(c.source, c.target);
	t->rows = c.shape[t->turned ? 1 : 0];
	t->cols = c.shape[t->turned ? 0 : 1];
	return st_in_file(st_container_path(t->c), st, err);
}

static enum st_status load(struct st_svf_artifact *a, struct st_error *err)
{
	struct manifest m = { 0 };
	ST_TRY(st_json_read(a->manifest, NULL, ROWS(manifest_fields), &m, NULL, err));
	if (m.version != 1)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "artifact_version",
		                  "is %llu; version 1 is read", (unsigned long long)m.version);
	if (strcmp(m.status, "complete") != 0 || !m.complete)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "status",
		                  "is \"%.40s\": the artifact is not complete; run the export again to go on with it",
		                  m.status);
	if (strcmp(m.layout, "checkpoint_directory") != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "artifact_layout",
		                  "is not checkpoint_directory");
	if (m.count != json_array_size(m.tensors))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensor_count",
		                  "is %llu, but %zu are listed", (unsigned long long)m.count,
		                  json_array_size(m.tensors));
	a->tensors = st_arena_alloc(&a->arena, m.count, sizeof *a->tensors);
	ST_NEED(a->tensors);
	for (size_t i = 0; i < m.count; i++) {
		a->n = i + 1; /* the one that fails half way is closed too */
		ST_TRY(load_tensor(a, i, json_array_get(m.tensors, i), err));
	}
	return load_head(a, &m.head, err);
}

enum st_status st_svf_artifact_open(const char *dir, struct st_svf_artifact *a, struct st_error *err)
{
	*a = (struct st_svf_artifact){ .dir = dir };
	st_arena_init(&a->arena);
	const char *path = st_path(&a->arena, dir, ST_SVF_MANIFEST);
	enum st_status st;
	ST_TRY_OUT(st_have(path, err));
	ST_TRY_OUT(st_json_load_object(path, 0, &a->manifest, err));
	ST_TRY_OUT(st_file_sha256(path, a->manifest_sha256, NULL, err));
	st = st_in_file(path, load(a, err), err);
out:
	if (st != ST_OK)
		st_svf_artifact_close(a);
	return st;
}

void st_svf_artifact_close(struct st_svf_artifact *a)
{
	for (size_t i = 0; i < a->n; i++)
		st_container_close(a->tensors[i].c);
	st_container_close(a->head_file);
	json_decref(a->manifest);
	st_arena_release(&a->arena);
	*a = (struct st_svf_artifact){ 0 };
}
