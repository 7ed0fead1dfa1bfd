/* open.c - telling formats apart by their first bytes, and the door through which every container comes. */
#include "format/container.h"
#include "format/hf.h"
#include "format/npy.h"
#include "format/recognise.h"
#include "format/tensors.h"
#include "format/zip.h"

#include "base/cursor.h"
#include "base/error.h"
#include "base/hash.h"

#include <assert.h>
#include <dirent.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), k = strlen(suffix);
	return n >= k && strcasecmp(s + n - k, suffix) == 0;
}

/* The kinds of zip archive differ in their members only: torch keeps its pickle in FOLDER/data.pkl. */
static enum st_status zip_reader(const struct st_map *m, st_open_fn *open, struct st_error *err)
{
	struct st_arena arena;
	struct st_zip z;
	st_arena_init(&arena);
	enum st_status st = st_zip_open(&z, m, &arena, err);
	if (st == ST_OK && z.n_members == 0)
		*open = st_npz_open; /* numpy's way to save no arrays */
	for (size_t i = 0; st == ST_OK && i < z.n_members; i++) {
		if (has_suffix(z.members[i].name, "data.pkl"))
			*open = st_checkpoint_open;
		else if (!*open && has_suffix(z.members[i].name, ".npy"))
			*open = st_npz_open;
	}
	if (st == ST_OK && !*open)
		st = st_fail(err, ST_ERR_UNSUPPORTED,
		             "zip archive with neither data.pkl (a torch checkpoint) nor .npy members (an npz file)");
	st_arena_release(&arena);
	return st;
}

static enum st_status open_zip(struct st_container *c, const char *path, struct st_error *err)
{
	struct st_map m;
	st_open_fn open = NULL;
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = zip_reader(&m, &open, err);
	st_map_close(&m);
	return st == ST_OK ? open(c, path, err) : st;
}

static const st_open_fn readers[] = {
	[ST_CONTENT_GGUF] = st_gguf_open,
	[ST_CONTENT_SAFETENSORS] = st_checkpoint_open,
	[ST_CONTENT_APR] = st_apr_open,
	[ST_CONTENT_APRT] = st_aprt_open,
	[ST_CONTENT_NPY] = st_npy_open,
	[ST_CONTENT_ZIP] = open_zip,
	[ST_CONTENT_OLD_TORCH] = st_checkpoint_open,
	[ST_CONTENT_INDEX] = st_checkpoint_open,
};

/* Suffixes that promise one format. The content decides what is read, but a name that promises something
 * else is how files get mixed up, and nothing good follows from ignoring it. */
static const struct {
	const char *suffix;
	enum st_format format;
} promises[] = {
	{ ".gguf", ST_FORMAT_GGUF }, { ".safetensors", ST_FORMAT_SAFETENSORS },
	{ ".apr", ST_FORMAT_APR },   { ".npy", ST_FORMAT_NPY },
	{ ".npz", ST_FORMAT_NPZ },
};

static enum st_status check_promise(const struct st_container *c, const char *path, struct st_error *err)
{
	for (size_t i = 0; i < sizeof promises / sizeof *promises; i++)
		if (has_suffix(path, promises[i].suffix) && c->format != promises[i].format)
			return st_fail_at(err, ST_ERR_FORMAT, 0, NULL,
			                  "holds %s, but its name ends in %s; rename it if that is meant",
			                  st_format_name(c->format), promises[i].suffix);
	return ST_OK;
}

static enum st_status refuse_unknown(const struct st_map *m, struct st_error *err)
{
	ST_TRY(st_refuse_stranger(m, err));
	char hex[17];
	st_hex(m->data, m->size < 8 ? (size_t)m->size : 8, hex);
	return st_fail_at(err, ST_ERR_FORMAT, 0, NULL,
	                  "is in no format Stele knows (begins with %s); known are GGUF, safetensors, APR, npy, npz, "
	                  "torch and APRT",
	                  hex);
}

static enum st_status open_file(struct st_container *c, const char *path, struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	enum st_content content = st_recognise(&m);
	enum st_status st = content == ST_CONTENT_UNKNOWN ? refuse_unknown(&m, err) : ST_OK;
	st_map_close(&m);
	ST_TRY(st);
	ST_TRY(readers[content](c, path, err));
	return check_promise(c, path, err);
}

/* An APRT tree has trace.json, stage files, or folders layer-0, layer-1, ... */
static bool is_aprt_tree(const char *path)
{
	DIR *d = opendir(path);
	bool yes = false;
	for (struct dirent *e; d && !yes && (e = readdir(d));) {
		yes = strcmp(e->d_name, "trace.json") == 0 || strncmp(e->d_name, "layer-", 6) == 0
		   || has_suffix(e->d_name, ".bin");
	}
	if (d)
		closedir(d);
	return yes;
}

static enum st_status open_folder(struct st_container *c, const char *path, struct st_error *err)
{
	if (st_hf_is_folder(path))
		return st_checkpoint_open(c, path, err);
	if (st_npy_is_folder(path))
		return st_npy_folder_open(c, path, err);
	if (is_aprt_tree(path))
		return st_aprt_open(c, path, err);
	return st_fail(err, ST_ERR_UNSUPPORTED,
	               "folder is neither a Hugging Face model (config.json, *.safetensors) nor an APRT tree "
	               "(layer-N/STAGE.bin) nor one of npy arrays");
}

/* ---- the door ---- */

enum st_status st_container_open(const char *path, struct st_container **out, struct st_error *err)
{
	return st_container_open_by(path, NULL, out, err);
}

enum st_status st_container_open_by(const char *path, struct st_pool *pool, struct st_container **out,
                                    struct st_error *err)
{
	*out = NULL;
	struct st_container *c = st_alloc_zeroed(1, sizeof *c);
	if (!c)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&c->arena);
	c->pool = pool;
	c->path = st_arena_strndup(&c->arena, path, strlen(path));
	enum st_status st = ST_OK;
	struct stat sb;
	if (!c->path)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	else if (stat(path, &sb) != 0)
		st = st_fail_errno(err, path, "cannot open");
	else
		st = S_ISDIR(sb.st_mode) ? open_folder(c, path, err) : open_file(c, path, err);
	if (st == ST_OK && !c->by_name)
		st = st_container_index(c, err);
	if (st == ST_OK) {
		for (size_t i = 0; i < c->n_tensors; i++)
			assert(st_tensor_is_proved(&c->tensors[i])); /* a reader that goes round the gate */
		c->pool = NULL;
		*out = c;
	} else {
		st_error_in(err, path);
		st_container_close(c);
	}
	return st;
}
