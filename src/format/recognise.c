/* recognise.c - what a file is, by its first bytes. */
#include "format/recognise.h"
#include "format/safetensors.h"

#include "base/cursor.h"
#include "base/error.h"

#include <string.h>

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

/* A shard index is JSON text. Its first bytes hold no NUL, as the header length of a safetensors file does. */
static bool is_index(const struct st_map *m)
{
	uint64_t n = m->size < 64 ? m->size : 64, i = 0;
	while (i < n && (m->data[i] == ' ' || m->data[i] == '\t' || m->data[i] == '\r' || m->data[i] == '\n'))
		i++;
	return i < n && (m->data[i] == '{' || m->data[i] == '[') && !memchr(m->data, 0, (size_t)(n < 8 ? n : 8));
}

/* First match wins: an index before safetensors, since its ninth character may be a brace too. */
static const struct {
	bool (*is)(const struct st_map *m);
	enum st_content content;
} kinds[] = {
	{ is_sound_safetensors, ST_CONTENT_SAFETENSORS },
	{ is_gguf, ST_CONTENT_GGUF },
	{ is_aprt, ST_CONTENT_APRT },
	{ is_apr, ST_CONTENT_APR },
	{ is_npy, ST_CONTENT_NPY },
	{ is_zip, ST_CONTENT_ZIP },
	{ is_old_torch, ST_CONTENT_OLD_TORCH },
	{ is_index, ST_CONTENT_INDEX },
	{ is_safetensors, ST_CONTENT_SAFETENSORS },
};

enum st_content st_recognise(const struct st_map *m)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (kinds[i].is(m))
			return kinds[i].content;
	return ST_CONTENT_UNKNOWN;
}

enum st_status st_recognise_file(const char *path, enum st_content *out, struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	*out = st_recognise(&m);
	st_map_close(&m);
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

enum st_status st_refuse_stranger(const struct st_map *m, struct st_error *err)
{
	if (m->size == 0)
		return st_fail_at(err, ST_ERR_FORMAT, 0, NULL, "the file is empty");
	for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
		if (begins(m, 0, strangers[i].magic, strlen(strangers[i].magic)))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, 0, NULL, "is %s", strangers[i].what);
	return ST_OK;
}
