#include "format/unpack.h"

#include "base/cursor.h"
#include "base/error.h"

#include <limits.h>
#include <lz4.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* A frame that needs a larger window than this is refused: the window is memory beside the
 * result while a frame of unknown size is measured. zstd uses 8 MiB up to level 19. */
#define ZSTD_WINDOW_LOG 25

/* The block for `head` + `body` bytes, when the limit allows it. */
static enum st_status take(uint64_t head, uint64_t body, uint64_t limit, uint64_t origin, const char *what,
                           struct st_arena *arena, uint8_t **out, uint64_t *out_n, struct st_error *err)
{
	if (body > limit || !st_add_u64(head, body, out_n))
		return st_fail_at(
			err, ST_ERR_LIMIT, origin, what,
			"unfolds to %llu bytes; the limit for this file is %llu (64 MiB and 8 times its size)",
			(unsigned long long)body, (unsigned long long)limit);
	*out = st_arena_alloc(arena, *out_n, 1);
	return *out ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_unpack_lz4(const uint8_t *src, uint64_t n, uint64_t origin, uint64_t head, uint64_t limit,
                             struct st_arena *arena, uint8_t **out, uint64_t *out_n, struct st_error *err)
{
	if (n < 4)
		return st_fail_at(err, ST_ERR_FORMAT, origin, "LZ4 block", "needs 4 bytes, %llu are left",
		                  (unsigned long long)n);
	uint64_t body = st_load_u32(src);
	/* A block cannot unfold by more than 255: a size beyond that is damage, found before any memory is taken. */
	if (n - 4 > INT_MAX || body > LZ4_MAX_INPUT_SIZE || body / 255 > n - 4)
		return st_fail_at(err, ST_ERR_FORMAT, origin, "LZ4 block", "%llu bytes cannot unfold to %llu",
		                  (unsigned long long)(n - 4), (unsigned long long)body);
	ST_TRY(take(head, body, limit, origin, "LZ4 block", arena, out, out_n, err));
	int got = LZ4_decompress_safe((const char *)src + 4, (char *)*out + head, (int)(n - 4), (int)body);
	if (got < 0 || (uint64_t)got != body)
		return st_fail_at(err, ST_ERR_FORMAT, origin, "LZ4 block", "damaged");
	return ST_OK;
}

/* Size of a frame that does not state it: unfold into a window and count. */
static enum st_status zstd_count(ZSTD_DCtx *ctx, const uint8_t *src, uint64_t n, uint64_t origin, uint64_t limit,
                                 struct st_arena *arena, uint64_t *body, struct st_error *err)
{
	size_t room = ZSTD_DStreamOutSize();
	void *window = st_arena_alloc(arena, room, 1);
	if (!window)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ZSTD_inBuffer in = { .src = src, .size = (size_t)n, .pos = 0 };
	size_t left = 1;
	*body = 0;
	while (left != 0) {
		ZSTD_outBuffer to = { .dst = window, .size = room, .pos = 0 };
		left = ZSTD_decompressStream(ctx, &to, &in);
		if (ZSTD_isError(left))
			return st_fail_at(err, ST_ERR_FORMAT, origin + in.pos, "zstd frame", "%s",
			                  ZSTD_getErrorName(left));
		if (left != 0 && to.pos == 0 && in.pos == in.size)
			return st_fail_at(err, ST_ERR_FORMAT, origin + in.pos, "zstd frame", "ends too early");
		*body += to.pos;
		if (*body > limit)
			break; /* take() refuses it */
		ST_TRY(st_check_cancel(err));
	}
	return ST_OK;
}

enum st_status st_unpack_zstd(const uint8_t *src, uint64_t n, uint64_t origin, uint64_t head, uint64_t limit,
                              struct st_arena *arena, uint8_t **out, uint64_t *out_n, struct st_error *err)
{
	size_t frame = ZSTD_findFrameCompressedSize(src, (size_t)n);
	if (ZSTD_isError(frame))
		return st_fail_at(err, ST_ERR_FORMAT, origin, "zstd frame", "%s", ZSTD_getErrorName(frame));
	if (frame != n)
		return st_fail_at(err, ST_ERR_FORMAT, origin + frame, "zstd frame", "%llu bytes follow it",
		                  (unsigned long long)(n - frame));
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	if (!ctx || ZSTD_isError(ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG))) {
		ZSTD_freeDCtx(ctx);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	enum st_status st = ST_OK;
	uint64_t body = ZSTD_getFrameContentSize(src, (size_t)n);
	if (body == ZSTD_CONTENTSIZE_ERROR)
		st = st_fail_at(err, ST_ERR_FORMAT, origin, "zstd frame", "damaged header");
	else if (body == ZSTD_CONTENTSIZE_UNKNOWN)
		st = zstd_count(ctx, src, n, origin, limit, arena, &body, err);
	if (st == ST_OK)
		st = take(head, body, limit, origin, "zstd frame", arena, out, out_n, err);
	if (st == ST_OK) {
		size_t got = ZSTD_decompressDCtx(ctx, *out + head, (size_t)body, src, (size_t)n);
		if (ZSTD_isError(got) || got != body)
			st = st_fail_at(err, ST_ERR_FORMAT, origin, "zstd frame", "%s",
			                ZSTD_isError(got) ? ZSTD_getErrorName(got) : "shorter than it says");
	}
	ZSTD_freeDCtx(ctx);
	return st;
}

enum st_status st_unpack_deflate(const uint8_t *src, uint64_t n, uint8_t *dst, uint64_t dst_n, uint64_t origin,
                                 struct st_error *err)
{
	z_stream z;
	memset(&z, 0, sizeof z);
	if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint64_t in = 0, out = 0;
	int rc = Z_OK;
	while (rc == Z_OK) {
		/* zlib counts in 32 bits: feed and drain in pieces. The last call has no room left
		 * and only sees the end mark. */
		uInt feed = n - in > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uInt)(n - in);
		uInt room = dst_n - out > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uInt)(dst_n - out);
		z.next_in = (Bytef *)(uintptr_t)(src + in);
		z.avail_in = feed;
		z.next_out = dst + out;
		z.avail_out = room;
		rc = inflate(&z, Z_NO_FLUSH);
		in += feed - z.avail_in;
		out += room - z.avail_out;
		if (rc == Z_OK && feed == z.avail_in && room == z.avail_out)
			rc = Z_BUF_ERROR;
	}
	const char *why = z.msg;
	inflateEnd(&z);
	if (rc != Z_STREAM_END || in != n || out != dst_n)
		return st_fail_at(err, ST_ERR_FORMAT, origin + in, "deflate stream", "%s",
		                  rc == Z_STREAM_END ? "its size is not the size stated"
		                  : why              ? why
		                                     : "damaged or cut");
	return ST_OK;
}
