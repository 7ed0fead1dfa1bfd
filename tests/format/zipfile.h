/* zipfile.h - making zip files byte by byte (PKWARE APPNOTE 4.3), sound ones and others. */
#ifndef ST_TESTS_FORMAT_ZIPFILE_H
#define ST_TESTS_FORMAT_ZIPFILE_H

#include "files.h"

#include <zlib.h>

struct member {
	const char *name;
	const void *data;
	size_t size;
	bool deflate;
	unsigned flags;    /* general purpose bits */
	uint64_t say_size; /* stated instead of size, when not 0 */
	bool bad_crc;
};

static inline void put_u16(struct bytes *b, uint16_t v) { put(b, &v, 2); }

static inline size_t raw_deflate(const void *src, size_t n, uint8_t *dst, size_t room)
{
	z_stream z;
	memset(&z, 0, sizeof z);
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)src;
	z.avail_in = (uInt)n;
	z.next_out = dst;
	z.avail_out = (uInt)room;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	size_t got = z.total_out;
	deflateEnd(&z);
	return got;
}

/* `wide`: with zip64 fields and end records throughout. */
static inline void build_zip(struct bytes *b, const struct member *m, size_t n, bool wide)
{
	static uint8_t packed[1 << 15];
	static struct bytes dir;
	dir.n = b->n = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t crc = (uint32_t)crc32(0, m[i].data, (uInt)m[i].size) ^ m[i].bad_crc;
		size_t len = m[i].deflate ? raw_deflate(m[i].data, m[i].size, packed, sizeof packed) : m[i].size;
		uint64_t local = b->n, size = m[i].say_size ? m[i].say_size : m[i].size;
		uint16_t n_name = (uint16_t)strlen(m[i].name), method = m[i].deflate ? 8 : 0;
		put_u32(b, 0x04034b50);
		put_u16(b, 20);
		put_u16(b, (uint16_t)m[i].flags);
		put_u16(b, method);
		put_u32(b, 0);
		put_u32(b, crc);
		put_u32(b, (uint32_t)len);
		put_u32(b, (uint32_t)size);
		put_u16(b, n_name);
		put_u16(b, 3); /* an extra field, as torch pads with */
		put(b, m[i].name, n_name);
		put(b, "zzz", 3);
		put(b, m[i].deflate ? packed : m[i].data, len);
		put_u32(&dir, 0x02014b50);
		put_u32(&dir, 20 | 20 << 16);
		put_u16(&dir, (uint16_t)m[i].flags);
		put_u16(&dir, method);
		put_u32(&dir, 0);
		put_u32(&dir, crc);
		put_u32(&dir, wide ? UINT32_MAX : (uint32_t)len);
		put_u32(&dir, wide ? UINT32_MAX : (uint32_t)size);
		put_u16(&dir, n_name);
		put_u16(&dir, wide ? 28 : 0);
		put_u16(&dir, 0);
		put_u32(&dir, 0);
		put_u32(&dir, 0);
		put_u32(&dir, wide ? UINT32_MAX : (uint32_t)local);
		put(&dir, m[i].name, n_name);
		if (wide) {
			put_u16(&dir, 1);
			put_u16(&dir, 24);
			put_u64(&dir, size);
			put_u64(&dir, len);
			put_u64(&dir, local);
		}
	}
	uint64_t at = b->n;
	put(b, dir.p, dir.n);
	if (wide) {
		uint64_t end64 = b->n;
		put_u32(b, 0x06064b50);
		put_u64(b, 44);
		put_u32(b, 45 | 45 << 16);
		put_u32(b, 0);
		put_u32(b, 0);
		put_u64(b, n);
		put_u64(b, n);
		put_u64(b, dir.n);
		put_u64(b, at);
		put_u32(b, 0x07064b50);
		put_u32(b, 0);
		put_u64(b, end64);
		put_u32(b, 1);
	}
	put_u32(b, 0x06054b50);
	put_u32(b, 0);
	put_u16(b, wide ? UINT16_MAX : (uint16_t)n);
	put_u16(b, wide ? UINT16_MAX : (uint16_t)n);
	put_u32(b, wide ? UINT32_MAX : (uint32_t)dir.n);
	put_u32(b, wide ? UINT32_MAX : (uint32_t)at);
	put_u16(b, 0);
}

#endif
