/*
 * unpack.h - decompression into memory, with a bound set before the first byte.
 *
 * Stele reads tensors where they lie. Compressed ones have to be unfolded, and a small
 * file can unfold to anything; so the size is known or counted, and checked against
 * st_unpack_limit(), before memory for it is taken.
 */
#ifndef ST_FORMAT_UNPACK_H
#define ST_FORMAT_UNPACK_H

#include "base/mem.h"

/* Bytes that everything compressed in one file may unfold to: 64 MiB and eight times the file.
 * Weights and activations compress by less than two; eight leaves room for sparse ones. */
static inline uint64_t st_unpack_limit(uint64_t file_size)
{
	return (file_size > UINT64_MAX / 16 ? UINT64_MAX / 2 : 8 * file_size) + (UINT64_C(64) << 20);
}

/* One LZ4 block with its unfolded size (u32) in front, or one zstd frame: src is all of it.
 * *out lies in the arena: `head` zeroed bytes for the caller, then the unfolded ones;
 * *out_n counts both. `origin` is the file offset of src. */
ST_MUST_CHECK enum st_status st_unpack_lz4(const uint8_t *src, uint64_t n, uint64_t origin, uint64_t head,
                                           uint64_t limit, struct st_arena *arena, uint8_t **out, uint64_t *out_n,
                                           struct st_error *err);
ST_MUST_CHECK enum st_status st_unpack_zstd(const uint8_t *src, uint64_t n, uint64_t origin, uint64_t head,
                                            uint64_t limit, struct st_arena *arena, uint8_t **out, uint64_t *out_n,
                                            struct st_error *err);

/* A raw deflate stream (RFC 1951) of exactly n bytes to exactly dst_n bytes. */
ST_MUST_CHECK enum st_status st_unpack_deflate(const uint8_t *src, uint64_t n, uint8_t *dst, uint64_t dst_n,
                                               uint64_t origin, struct st_error *err);

#endif
