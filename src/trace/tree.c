/*
 * tree.c - writing an APRT tree: one small file per value, trace.json beside them.
 *
 * The format holds a flat list of f32 and a layer, nothing else; what it cannot say stands in trace.json.
 * The embedding is filed under layer 0, lm_head holds the last position only, as other tools have it.
 * Values of decode step S lie beside the prompt's as steps.<S>.<stage>.bin, which other tools pass over.
 */
#include "trace/trace.h"

#include "base/error.h"
#include "base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct st_tree_writer {
	struct st_outdir *dir;
	const struct st_capture_plan *plan;
	struct st_arena arena; /* paths */
};

/* What a tree holds of a capture: of lm_head the last row. */
static uint64_t tree_rows(const struct st_capture *c) { return c->key.stage == ST_STAGE_LM_HEAD ? 1 : c->shape[0]; }
static uint64_t tree_elems(const struct st_capture *c) { return c->key.stage == ST_STAGE_LM_HEAD ? c->shape[1] : c->n; }

static enum st_status make_folder(const char *path, struct st_error *err)
{
	return mkdir(path, 0777) == 0 || errno == EEXIST ? ST_OK : st_fail_errno(err, path, "cannot create folder");
}

/* DIR[/layer-N]/[steps.S.]STAGE.bin, the folder made on the way. */
static enum st_status path_of(struct st_tree_writer *w, const struct st_trace_key *k, const char **out,
                              struct st_error *err)
{
	const char *path = st_outdir_path(w->dir), *step = "";
	if (k->layer >= 0 || k->stage == ST_STAGE_EMBEDDING) {
		path = st_arena_printf(&w->arena, "%s/layer-%d", path, k->layer >= 0 ? k->layer : 0);
		if (path)
			ST_TRY(make_folder(path, err));
	}
	if (k->step > 0)
		step = st_arena_printf(&w->arena, "steps.%u.", k->step);
	*out = path && step ? st_arena_printf(&w->arena, "%s/%s%s.bin", path, step, st_stage_name(k->stage)) : NULL;
	return *out ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static enum st_status write_all(int fd, const char *path, const void *p, size_t n, struct st_error *err)
{
	for (const char *q = p; n > 0;) {
		ssize_t k = write(fd, q, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return st_fail_errno(err, path, "cannot write");
		q += k;
		n -= (size_t)k;
	}
	return ST_OK;
}

/* A plain file: the folder is not visible under its name yet, so this one need not be either. */
static enum st_status write_file(const char *path, const void *head, size_t n_head, const void *body, size_t n_body,
                                 struct st_error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	enum st_status st = fd < 0 ? st_fail_errno(err, path, "cannot create") : write_all(fd, path, head, n_head, err);
	if (st == ST_OK)
		st = write_all(fd, path, body, n_body, err);
	if (fd >= 0 && close(fd) != 0 && st == ST_OK)
		st = st_fail_errno(err, path, "cannot write");
	return st;
}

enum st_status st_tree_open(const char *path, bool replace, const struct st_capture_plan *plan,
                            struct st_tree_writer **out, struct st_error *err)
{
	*out = NULL;
	for (size_t i = 0; i < plan->n; i++)
		if (tree_elems(&plan->items[i]) > UINT32_MAX) {
			char key[96];
			st_trace_key_print(&plan->items[i].key, key, sizeof key);
			return st_fail_at(
				err, ST_ERR_LIMIT, ST_NO_OFFSET, key,
				"%llu values are more than an APRT file can hold (4294967295); write a bundle",
				(unsigned long long)tree_elems(&plan->items[i]));
		}
	struct st_tree_writer *w = st_alloc_zeroed(1, sizeof *w);
	if (!w)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&w->arena);
	w->plan = plan;
	static const char *const names[] = { "trace.json", "layer-*", "*.bin", NULL };
	enum st_status st = st_outdir_open(path, replace ? names : NULL, &w->dir, err);
	if (st == ST_OK)
		*out = w;
	else
		st_tree_abort(w, err);
	return st;
}

enum st_status st_tree_put(struct st_tree_writer *w, const struct st_capture *c, const float *x, struct st_error *err)
{
	const char *path;
	ST_TRY(path_of(w, &c->key, &path, err));
	uint64_t n = tree_elems(c);
	const uint32_t head[3] = {
		0x54525041, /* "APRT" */
		c->key.layer >= 0                    ? (uint32_t)c->key.layer
		: c->key.stage == ST_STAGE_EMBEDDING ? 0
						     : UINT32_MAX,
		(uint32_t)n,
	};
	return write_file(path, head, sizeof head, x + (c->n - n), (size_t)n * sizeof *x, err);
}

/* ---- trace.json ---- */

static bool put_shape(json_t *shapes, const struct st_capture *c, const char *key)
{
	json_t *shape = json_array();
	bool ok = shape && json_array_append_new(shape, json_integer((json_int_t)tree_rows(c))) == 0;
	for (uint32_t i = 1; i < c->ndim && ok; i++)
		ok = json_array_append_new(shape, json_integer((json_int_t)c->shape[i])) == 0;
	if (!ok) {
		json_decref(shape);
		return false;
	}
	return json_object_set_new(shapes, key, shape) == 0;
}

static json_t *describe(const struct st_capture_plan *plan, const uint32_t *tokens, size_t n_tokens)
{
	json_t *o = st_provenance_write(plan->prov), *shapes = json_object();
	bool ok = o && shapes
	       && (n_tokens == 0 || json_object_set_new(o, "steps.tokens", st_list_write(tokens, n_tokens)) == 0);
	for (size_t i = 0; i < plan->n && ok; i++) {
		const struct st_capture *c = &plan->items[i];
		char key[96], positions[128];
		st_trace_tree_key_print(&c->key, key, sizeof key);
		ok = put_shape(shapes, c, key);
		if (ok && c->key.stage == ST_STAGE_LM_HEAD && c->key.step == 0 && plan->prov->n_tokens > 1) {
			uint32_t last = (uint32_t)(plan->prov->n_tokens - 1);
			snprintf(positions, sizeof positions, "positions.%s", key);
			ok = json_object_set_new(o, positions, st_list_write(&last, 1)) == 0;
		}
	}
	ok = ok && json_object_set(o, "shapes", shapes) == 0;
	json_decref(shapes);
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* The disk may still refuse what write took (quotas, network file systems): ask before the folder gets its name. Once
 * for the whole file system: one flush per file costs seconds for the hundreds of files of a large model. */
static enum st_status sync_files(const struct st_tree_writer *w, struct st_error *err)
{
	const char *path = st_outdir_path(w->dir);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return st_fail_errno(err, path, "cannot open");
	enum st_status st = syncfs(fd) == 0 ? ST_OK : st_fail_errno(err, path, "cannot flush to disk");
	close(fd);
	return st;
}

enum st_status st_tree_commit(struct st_tree_writer *w, const uint32_t *tokens, size_t n_tokens, struct st_error *err)
{
	json_t *o = describe(w->plan, tokens, n_tokens);
	char *text = st_json_print(o, JSON_INDENT(1));
	const char *path = st_arena_printf(&w->arena, "%s/trace.json", st_outdir_path(w->dir));
	enum st_status st = text && path ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = write_file(path, text, strlen(text), "\n", 1, err);
	if (st == ST_OK)
		st = sync_files(w, err);
	if (st == ST_OK) {
		st = st_outdir_commit(w->dir, err);
		w->dir = NULL; /* commit frees it either way */
	}
	free(text);
	json_decref(o);
	st_tree_abort(w, err);
	return st;
}

void st_tree_abort(struct st_tree_writer *w, struct st_error *err)
{
	if (!w)
		return;
	st_outdir_abort(w->dir, err);
	st_arena_release(&w->arena);
	free(w);
}
