/* container.c - telling formats apart, and the part of st_container every format shares. */
#include "format/container.h"
#include "format/safetensors.h"
#include "format/zip.h"

#include "base/cursor.h"
#include "base/error.h"
#include "base/hash.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

const char *st_format_name(enum st_format f)
{
	static const char *const names[ST_FORMAT_COUNT] = {
		"GGUF", "safetensors", "APR", "npy", "npz", "torch", "APRT"
	};
	return f < ST_FORMAT_COUNT ? names[f] : "unknown";
}

/* ---- recognition, by content ---- */

static bool begins(const struct st_map *m, uint64_t at, const char *magic, size_t n)
{
	return m->size >= at && m->size - at >= n && memcmp(m->data + at, magic, n) == 0;
}

static bool is_gguf(const struct st_map *m) { return begins(m, 0, "GGUF", 4); }
static bool is_aprt(const struct st_map *m) { return begins(m, 0, "APRT", 4); }
/* Any other fourth byte is some version of APR, known to its reader or refused there. */
static bool is_apr(const struct st_map *m) { return begins(m, 0, "APR", 3) && m->size > 3 && !is_aprt(m); }
static bool is_npy(const struct st_map *m) { return begins(m, 0, "\x93NUMPY", 6); }

/* A checkpoint from before torch 1.6 is a bare pickle (PROTO 2 or later) or a tar file. */
static bool is_old_torch(const struct st_map *m)
{
	return (m->size > 2 && m->data[0] == 0x80 && m->data[1] >= 2 && m->data[1] <= 5) || begins(m, 257, "ustar", 5);
}

/* safetensors has no magic: a u64 header length and the header, which begins with a brace. */
static bool length_fits(const struct st_map *m)
{
	uint64_t n = m->size > 8 ? st_load_u64(m->data) : 0;
	return n > 0 && n <= m->size - 8 && n <= ST_SAFETENSORS_MAX_HEADER;
}

/* Both hold for nothing else, while the length may begin like another format: 896 is 80 03, the start of a pickle. */
static bool is_sound_safetensors(const struct st_map *m) { return length_fits(m) && m->data[8] == '{'; }

/* Either is enough where no other format claims the file, so that a damaged header is reported as one of safetensors.
 */
static bool is_safetensors(const struct st_map *m) { return m->size > 8 && (m->data[8] == '{' || length_fits(m)); }

static bool is_zip(const struct st_map *m) { return begins(m, 0, "PK\3\4", 4) || begins(m, 0, "PK\5\6", 4); }

bool st_torch_is(const struct st_map *m) { return !is_sound_safetensors(m) && (is_zip(m) || is_old_torch(m)); }

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
			*open = st_torch_open;
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

/* First match wins: an index before safetensors, since its ninth character may be a brace too. */
static const struct {
	bool (*is)(const struct st_map *m);
	st_open_fn open;
} readers[] = {
	{ is_sound_safetensors, st_safetensors_open },
	{ is_gguf, st_gguf_open },
	{ is_aprt, st_aprt_open },
	{ is_apr, st_apr_open },
	{ is_npy, st_npy_open },
	{ is_zip, open_zip },
	{ is_old_torch, st_torch_open },
	{ st_safetensors_is_index, st_safetensors_open },
	{ is_safetensors, st_safetensors_open },
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

/* Things people hand to a model tool by mistake, or that an older tool wrote. */
static const struct {
	const char *magic, *what;
} strangers[] = {
	{ "version https://git-lfs", "a Git LFS pointer and not the file itself; fetch it with git lfs pull" },
	{ "tjgg", "a GGJT file of before GGUF; convert it to GGUF with the tools of its time" },
	{ "fmgg", "a GGMF file of before GGUF; convert it to GGUF with the tools of its time" },
	{ "lmgg", "a GGML file of before GGUF; convert it to GGUF with the tools of its time" },
	{ "algg", "a GGLA adapter of before GGUF, not a model" },
	{ "\x89HDF", "an HDF5 file, which Stele does not read" },
	{ "\x1f\x8b", "gzip-compressed; unpack it first" },
	{ "\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first" },
	{ "<", "an HTML or XML page, perhaps a failed download" },
};

static enum st_status refuse_stranger(const struct st_map *m, struct st_error *err)
{
	if (m->size == 0)
		return st_fail_at(err, ST_ERR_FORMAT, 0, NULL, "the file is empty");
	for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
		if (begins(m, 0, strangers[i].magic, strlen(strangers[i].magic)))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, 0, NULL, "is %s", strangers[i].what);
	return ST_OK;
}

enum st_status st_safetensors_refuse_stranger(const struct st_map *m, struct st_error *err)
{
	return is_safetensors(m) ? ST_OK : refuse_stranger(m, err);
}

static enum st_status refuse_unknown(const struct st_map *m, struct st_error *err)
{
	ST_TRY(refuse_stranger(m, err));
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
	st_open_fn open = NULL;
	for (size_t i = 0; i < sizeof readers / sizeof *readers && !open; i++)
		if (readers[i].is(&m))
			open = readers[i].open;
	enum st_status st = open ? ST_OK : refuse_unknown(&m, err);
	st_map_close(&m);
	ST_TRY(st);
	ST_TRY(open(c, path, err));
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
		return st_safetensors_open(c, path, err);
	if (is_aprt_tree(path))
		return st_aprt_open(c, path, err);
	return st_fail(err, ST_ERR_UNSUPPORTED,
	               "folder is neither a Hugging Face model (config.json, *.safetensors) nor an APRT tree "
	               "(layer-N/STAGE.bin)");
}

/* ---- lifetime ---- */

enum st_status st_container_open(const char *path, struct st_container **out, struct st_error *err)
{
	*out = NULL;
	struct st_container *c = calloc(1, sizeof *c);
	if (!c)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&c->arena);
	c->path = st_arena_strndup(&c->arena, path, strlen(path));
	enum st_status st = ST_OK;
	struct stat sb;
	if (!c->path)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	else if (stat(path, &sb) != 0)
		st = st_fail_errno(err, path, "cannot open");
	else
		st = S_ISDIR(sb.st_mode) ? open_folder(c, path, err) : open_file(c, path, err);
	if (st == ST_OK) {
		*out = c;
	} else {
		st_error_in(err, path);
		st_container_close(c);
	}
	return st;
}

void st_container_close(struct st_container *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_maps; i++)
		st_map_close(&c->maps[i]);
	json_decref(c->metadata);
	json_decref(c->config);
	json_decref(c->generation_config);
	json_decref(c->tokenizer);
	json_decref(c->tokenizer_config);
	st_arena_release(&c->arena);
	free(c);
}

enum st_status st_container_add_file(struct st_container *c, const char *path, uint32_t *index, struct st_error *err)
{
	/* The array is full at 0, 1, 2, 4, ... files and then doubles; the arena keeps the old one, so
	 * that earlier pointers stay readable. */
	if ((c->n_maps & (c->n_maps - 1)) == 0) {
		struct st_map *maps = st_arena_alloc(&c->arena, c->n_maps ? 2 * c->n_maps : 1, sizeof *maps);
		if (!maps)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		if (c->n_maps)
			memcpy(maps, c->maps, c->n_maps * sizeof *maps);
		c->maps = maps;
	}
	ST_TRY(st_map_open(&c->maps[c->n_maps], path, err));
	*index = (uint32_t)c->n_maps++;
	return ST_OK;
}

/* ---- questions ---- */

enum st_format st_container_format(const struct st_container *c) { return c->format; }
const char *st_container_describe(const struct st_container *c) { return c->describe; }
const char *st_container_path(const struct st_container *c) { return c->path; }
size_t st_container_n_files(const struct st_container *c) { return c->n_maps; }
const char *st_container_file_path(const struct st_container *c, size_t i) { return c->maps[i].path; }
uint64_t st_container_file_size(const struct st_container *c, size_t i) { return c->maps[i].size; }
size_t st_container_n_tensors(const struct st_container *c) { return c->n_tensors; }
const struct st_tensor *st_container_tensor(const struct st_container *c, size_t i) { return &c->tensors[i]; }

enum st_status st_container_sha256(const struct st_container *c, char hex[65], struct st_error *err)
{
	if (c->n_maps == 1)
		return st_sha256_hex(c->maps[0].data, c->maps[0].size, hex, err);
	struct st_sha256 *all = st_sha256_new();
	if (!all)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	uint8_t digest[32];
	for (size_t i = 0; i < c->n_maps && st == ST_OK; i++) {
		char one[65];
		st = st_sha256_hex(c->maps[i].data, c->maps[i].size, one, err);
		for (size_t k = 0; k < 32 && st == ST_OK; k++) {
			const char pair[3] = { one[2 * k], one[2 * k + 1], '\0' };
			digest[k] = (uint8_t)strtoul(pair, NULL, 16);
		}
		if (st == ST_OK)
			st_sha256_update(all, digest, sizeof digest);
	}
	st_sha256_final(all, digest);
	if (st == ST_OK)
		st_hex(digest, sizeof digest, hex);
	return st;
}
