/*
 * aprt.c - APRT, one stage of a trace in a file, and trees of them.
 *
 * A file is "APRT", u32 layer (2^32-1: of the whole model), u32 n and n float32; its name
 * is the stage. A tree is DIR/layer-<N>/<stage>.bin and DIR/<stage>.bin, and may have a
 * trace.json with provenance and shapes. Tensors get the keys of a trace bundle:
 * layers.<N>.<stage>, or <stage> alone.
 */
#include "format/container.h"
#include "format/tensors.h"

#include "base/cursor.h"
#include "base/error.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HEADER 12u
#define WHOLE_MODEL UINT32_MAX
static const char suffix[] = ".bin";

/* ---- one file ---- */

/* The embedding belongs to no layer, though trees file it under layer 0. */
static enum st_status name_stage(struct st_container *c, const char *stage, uint32_t layer, const char **out,
                                 struct st_error *err)
{
	if (layer == WHOLE_MODEL || (layer == 0 && strcmp(stage, "embedding") == 0))
		return st_container_name(c, stage, strlen(stage), 255, ST_NO_OFFSET, "stage name", out, err);
	const char *key = st_arena_printf(&c->arena, "layers.%u.%s", layer, stage);
	if (!key)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return st_container_name(c, key, strlen(key), 255, ST_NO_OFFSET, "stage name", out, err);
}

/* Map a file and check its size; t gets all but its name and its place. */
static enum st_status read_stage(struct st_container *c, const char *path, struct st_tensor *t, uint32_t *layer,
                                 struct st_error *err)
{
	ST_TRY(st_container_add_file(c, path, &t->file, err));
	const struct st_map *m = &c->maps[t->file];
	struct st_cursor cur;
	st_cursor_init(&cur, m->data, m->size, 0, err);
	const uint8_t *magic = st_cursor_bytes(&cur, 4, "APRT header");
	*layer = st_cursor_u32(&cur, "APRT header");
	uint64_t n = st_cursor_u32(&cur, "APRT header");
	enum st_status st = cur.st;
	if (st == ST_OK && memcmp(magic, "APRT", 4) != 0)
		st = st_fail_at(err, ST_ERR_FORMAT, 0, NULL, "not an APRT file");
	/* Other readers pass over bytes behind the values; here they mean that something is wrong. */
	if (st == ST_OK && m->size != HEADER + 4 * n)
		st = st_fail_at(err, ST_ERR_FORMAT, m->size, NULL, "%llu bytes where %llu values make %llu",
		                (unsigned long long)m->size, (unsigned long long)n,
		                (unsigned long long)(HEADER + 4 * n));
	if (st != ST_OK) {
		st_error_in(err, path);
		return st;
	}
	t->dtype = ST_DTYPE_F32;
	t->ndim = 1;
	t->shape[0] = t->file_dims[0] = t->n_elems = n;
	return ST_OK;
}

/* The values follow the header. */
static enum st_status place(struct st_container *c, struct st_tensor *t, struct st_error *err)
{
	const struct st_map *m = &c->maps[t->file];
	return st_tensor_place(t, &(struct st_span){ m->data, m->size, 0 }, HEADER, err);
}

static enum st_status open_one(struct st_container *c, const char *path, struct st_error *err)
{
	uint32_t layer = 0;
	const char *stage = NULL;
	c->tensors = st_container_table(c, 1, sizeof *c->tensors, "stages", err);
	if (!c->tensors)
		return err->code;
	c->n_tensors = 1;
	ST_TRY(read_stage(c, path, &c->tensors[0], &layer, err));
	ST_TRY(st_container_name_of_file(c, path, suffix, &stage, err));
	ST_TRY(name_stage(c, stage, layer, &c->tensors[0].name, err));
	ST_TRY(place(c, &c->tensors[0], err));
	c->describe = st_arena_printf(&c->arena, "APRT stage");
	return c->describe ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

/* ---- a tree ---- */

struct stage_file {
	const char *path, *stage;
	uint32_t layer; /* of its folder */
};

struct tree {
	struct st_container *c;
	struct stage_file *files;
	size_t n, cap;
	size_t n_layers;
	struct st_error *err;
};

static enum st_status no_memory(struct tree *t) { return st_fail(t->err, ST_ERR_NOMEM, "out of memory"); }

/* layer-<N>: decimal, unpadded. */
static bool layer_of(const char *name, uint32_t *layer)
{
	if (strncmp(name, "layer-", 6) != 0)
		return false;
	const char *p = name + 6;
	uint64_t v = 0;
	if (*p == '\0' || (*p == '0' && p[1] != '\0'))
		return false;
	for (; *p >= '0' && *p <= '9' && v < WHOLE_MODEL; p++)
		v = 10 * v + (uint64_t)(*p - '0');
	*layer = (uint32_t)v;
	return *p == '\0' && v < WHOLE_MODEL;
}

static enum st_status list_folder(struct tree *t, const char *path, uint32_t layer);

static enum st_status list_entry(struct tree *t, const char *folder, const char *name, uint32_t layer)
{
	size_t n = strlen(name), s = sizeof suffix - 1;
	char *path = st_arena_printf(&t->c->arena, "%s/%s", folder, name);
	struct stat sb;
	if (!path)
		return no_memory(t);
	if (stat(path, &sb) != 0)
		return st_fail_errno(t->err, path, "cannot open");
	if (S_ISDIR(sb.st_mode)) {
		uint32_t inner;
		if (layer != WHOLE_MODEL || !layer_of(name, &inner)) {
			enum st_status st = st_fail(t->err, ST_ERR_FORMAT,
			                            "a folder of a trace that is not named layer-<N>");
			st_error_in(t->err, path);
			return st;
		}
		t->n_layers++;
		return list_folder(t, path, inner);
	}
	if (n <= s || strcmp(name + n - s, suffix) != 0)
		return ST_OK; /* trace.json, notes */
	if (!st_grow((void **)&t->files, &t->cap, t->n + 1, sizeof *t->files))
		return no_memory(t);
	struct stage_file *f = &t->files[t->n++];
	*f = (struct stage_file){ .path = path, .stage = st_arena_strndup(&t->c->arena, name, n - s), .layer = layer };
	return f->stage ? ST_OK : no_memory(t);
}

static enum st_status list_folder(struct tree *t, const char *path, uint32_t layer)
{
	DIR *d = opendir(path);
	if (!d)
		return st_fail_errno(t->err, path, "cannot open");
	enum st_status st = ST_OK;
	for (struct dirent *e; st == ST_OK && (e = readdir(d));)
		if (e->d_name[0] != '.')
			st = list_entry(t, path, e->d_name, layer);
	closedir(d);
	return st;
}

/* By layer, whole-model stages last, then by name: a folder has no order of its own. */
static int by_layer(const void *a, const void *b)
{
	const struct stage_file *x = a, *y = b;
	return x->layer != y->layer ? (x->layer > y->layer) - (x->layer < y->layer) : strcmp(x->stage, y->stage);
}

/* trace.json may know the shape that the stage file cannot tell. */
static enum st_status apply_shape(struct tree *t, struct st_tensor *x)
{
	const json_t *shape = json_object_get(json_object_get(t->c->docs.metadata, "shapes"), x->name);
	if (!shape)
		return ST_OK;
	uint64_t n, not_zero, dims[ST_MAX_DIMS];
	size_t ndim;
	if (!st_json_counts(shape, ST_MAX_DIMS, dims, &ndim) || !st_shape_elems((uint32_t)ndim, dims, &not_zero, &n)
	    || n != x->n_elems)
		return st_fail_at(t->err, ST_ERR_FORMAT, ST_NO_OFFSET, x->name,
		                  "the shape in trace.json does not make the %llu values of the file",
		                  (unsigned long long)x->n_elems);
	x->ndim = (uint32_t)ndim;
	for (size_t i = 0; i < ndim; i++)
		x->shape[i] = x->file_dims[i] = dims[i];
	return ST_OK;
}

static enum st_status read_tree_stage(struct tree *t, const struct stage_file *f, struct st_tensor *x)
{
	uint32_t layer = 0;
	ST_TRY(read_stage(t->c, f->path, x, &layer, t->err));
	ST_TRY(name_stage(t->c, f->stage, f->layer, &x->name, t->err));
	bool embedding = f->layer == 0 && layer == WHOLE_MODEL && strcmp(f->stage, "embedding") == 0;
	if (layer != f->layer && !embedding) {
		enum st_status st = layer == WHOLE_MODEL || f->layer == WHOLE_MODEL
		                          ? st_fail_at(t->err, ST_ERR_FORMAT, 4, NULL, "header says %s, folder says %s",
		                                       layer == WHOLE_MODEL ? "whole model" : "one layer",
		                                       layer == WHOLE_MODEL ? "one layer" : "whole model")
		                          : st_fail_at(t->err, ST_ERR_FORMAT, 4, NULL,
		                                       "header says layer %u, folder says layer %u", layer, f->layer);
		st_error_in(t->err, f->path);
		return st;
	}
	ST_TRY(apply_shape(t, x));
	return place(t->c, x, t->err);
}

static enum st_status read_tree(struct tree *t, const char *path)
{
	struct st_container *c = t->c;
	ST_TRY(list_folder(t, path, WHOLE_MODEL));
	if (t->n == 0)
		return st_fail(t->err, ST_ERR_FORMAT,
		               "folder without stage files (layer-<N>/<stage>.bin or <stage>.bin)");
	qsort(t->files, t->n, sizeof *t->files, by_layer);
	char *trace = st_arena_printf(&c->arena, "%s/trace.json", path);
	if (!trace)
		return no_memory(t);
	ST_TRY(st_json_load(trace, &c->docs.metadata, t->err));
	if (c->docs.metadata && !json_is_object(c->docs.metadata)) {
		enum st_status st = st_fail(t->err, ST_ERR_FORMAT, "not a JSON object");
		st_error_in(t->err, trace);
		return st;
	}
	/* The files are there, each with its name on disk: no claim of a stranger about their number. */
	c->tensors = st_arena_alloc(&c->arena, t->n, sizeof *c->tensors);
	if (!c->tensors)
		return no_memory(t);
	for (; c->n_tensors < t->n; c->n_tensors++)
		ST_TRY(read_tree_stage(t, &t->files[c->n_tensors], &c->tensors[c->n_tensors]));
	c->describe = st_arena_printf(&c->arena, "APRT tree, %zu stages in %zu layers%s", t->n, t->n_layers,
	                              c->docs.metadata ? "" : ", provenance unknown (no trace.json)");
	return c->describe ? ST_OK : no_memory(t);
}

enum st_status st_aprt_open(struct st_container *c, const char *path, struct st_error *err)
{
	struct stat sb;
	if (stat(path, &sb) != 0)
		return st_fail_errno(err, path, "cannot open");
	c->format = ST_FORMAT_APRT;
	enum st_status st;
	if (S_ISDIR(sb.st_mode)) {
		struct tree t = { .c = c, .err = err };
		st = read_tree(&t, path);
		free(t.files);
	} else {
		st = open_one(c, path, err);
	}
	return st;
}
