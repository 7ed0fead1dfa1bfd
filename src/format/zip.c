#include "format/zip.h"

#include "base/cursor.h"
#include "base/error.h"
#include "format/unpack.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Record sizes and signatures: PKWARE APPNOTE 4.3. */
#define LOCAL_SIZE 30u
#define ENTRY_SIZE 46u
#define END_SIZE 22u
#define END64_SIZE 56u
#define LOCATOR64_SIZE 20u
#define LOCAL_SIG 0x04034b50u
#define ENTRY_SIG 0x02014b50u
#define END_SIG 0x06054b50u
#define END64_SIG 0x06064b50u
#define LOCATOR64_SIG 0x07064b50u
#define FLAG_ENCRYPTED 0x2041u /* traditional, strong, masked headers */

struct directory {
	uint64_t offset, size, count;
};

static enum st_status broken(uint64_t offset, const char *where, const char *why, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_FORMAT, offset, where, "%s", why);
}

/* The end record lies at the end, in front of a comment of up to 65,535 bytes that it measures. */
static enum st_status find_end(const struct st_map *m, uint64_t *at, struct st_error *err)
{
	if (m->size >= END_SIZE) {
		uint64_t last = m->size - END_SIZE, first = last > UINT16_MAX ? last - UINT16_MAX : 0;
		for (uint64_t p = last + 1; p-- > first;) {
			if (st_load_u32(m->data + p) == END_SIG && st_load_u16(m->data + p + 20) == last - p) {
				*at = p;
				return ST_OK;
			}
		}
	}
	return broken(m->size, "zip directory", "no end record: the file is cut or no zip", err);
}

static enum st_status read_end(const struct st_map *m, struct directory *d, struct st_error *err)
{
	uint64_t at = 0;
	ST_TRY(find_end(m, &at, err));
	const uint8_t *p = m->data + at;
	uint64_t disk = st_load_u16(p + 4) | st_load_u16(p + 6);
	*d = (struct directory){ .count = st_load_u16(p + 10),
		                 .size = st_load_u32(p + 12),
		                 .offset = st_load_u32(p + 16) };
	bool wide = d->count == UINT16_MAX || d->size == UINT32_MAX || d->offset == UINT32_MAX;
	if (wide && at >= LOCATOR64_SIZE && st_load_u32(p - LOCATOR64_SIZE) == LOCATOR64_SIG) {
		uint64_t at64 = st_load_u64(p - LOCATOR64_SIZE + 8);
		if (at64 > at - LOCATOR64_SIZE || at - LOCATOR64_SIZE - at64 < END64_SIZE
		    || st_load_u32(m->data + at64) != END64_SIG)
			return broken(at - LOCATOR64_SIZE, "zip64 locator", "does not lead to an end record", err);
		p = m->data + at64;
		disk = st_load_u32(p + 16) | st_load_u32(p + 20);
		*d = (struct directory){ .count = st_load_u64(p + 32),
			                 .size = st_load_u64(p + 40),
			                 .offset = st_load_u64(p + 48) };
		at = at64;
	}
	if (disk != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, at, "zip directory", "split over several disks");
	if (d->offset > at || d->size > at - d->offset)
		return broken(at, "zip directory", "lies outside the file", err);
	if (d->count > d->size / ENTRY_SIZE)
		return broken(at, "zip directory", "more members than its size has room for", err);
	return ST_OK;
}

/* Fields that were 2^32-1 in the entry stand in the zip64 extra field, in this order. */
static bool widen(const uint8_t *extra, uint64_t n, uint64_t *fields[3])
{
	bool need = false;
	for (int i = 0; i < 3; i++)
		need |= *fields[i] == UINT32_MAX;
	if (!need)
		return true;
	while (n >= 4) {
		uint64_t len = st_load_u16(extra + 2);
		if (len > n - 4)
			return false;
		if (st_load_u16(extra) == 1) {
			const uint8_t *p = extra + 4;
			for (int i = 0; i < 3; i++) {
				if (*fields[i] != UINT32_MAX)
					continue;
				if (len < 8)
					return false;
				*fields[i] = st_load_u64(p);
				p += 8;
				len -= 8;
			}
			return true;
		}
		extra += 4 + len;
		n -= 4 + len;
	}
	return true; /* no extra field: the size is 2^32-1 and is checked like any other */
}

/* Where the member's bytes begin: behind its local header, whose name must be the directory's. */
static enum st_status locate(const struct st_map *map, const struct directory *d, uint64_t local, size_t name_len,
                             struct st_zip_member *m, struct st_error *err)
{
	if (local > d->offset || d->offset - local < LOCAL_SIZE)
		return broken(local, m->name, "its header lies outside the file", err);
	const uint8_t *p = map->data + local;
	if (st_load_u32(p) != LOCAL_SIG)
		return broken(local, m->name, "no local header where the directory says", err);
	uint64_t names = st_load_u16(p + 26), skip = LOCAL_SIZE + names + st_load_u16(p + 28), room = d->offset - local;
	if (skip > room || m->packed > room - skip)
		return broken(local, m->name, "its bytes run into the directory", err);
	if (names != name_len || memcmp(p + LOCAL_SIZE, m->name, name_len) != 0)
		return broken(local, m->name, "its local header has another name", err);
	m->offset = local + skip;
	return ST_OK;
}

static int by_name(const void *a, const void *b)
{
	const struct st_zip_member *const *x = a, *const *y = b;
	return strcmp((*x)->name, (*y)->name);
}

static enum st_status read_entry(struct st_zip *z, const struct directory *d, struct st_cursor *c, char **names,
                                 struct st_zip_member *m)
{
	uint64_t at = st_cursor_offset(c);
	const uint8_t *p = st_cursor_bytes(c, ENTRY_SIZE, "zip directory");
	if (!p)
		return c->st;
	if (st_load_u32(p) != ENTRY_SIG)
		return broken(at, "zip directory", "an entry has the wrong signature", c->err);
	size_t len = st_load_u16(p + 28);
	uint64_t n_extra = st_load_u16(p + 30), local = st_load_u32(p + 42);
	const char *name = (const char *)st_cursor_bytes(c, len, "zip directory");
	const uint8_t *extra = st_cursor_bytes(c, n_extra, "zip directory");
	st_cursor_bytes(c, st_load_u16(p + 32), "zip directory");
	if (c->st != ST_OK)
		return c->st;
	if (len == 0 || memchr(name, '\0', len) || !st_utf8_valid(name, len))
		return broken(at, "zip directory", "a member's name is empty or not UTF-8", c->err);
	memcpy(*names, name, len);
	m->name = *names;
	*names += len + 1;
	m->crc = st_load_u32(p + 16);
	m->packed = st_load_u32(p + 20);
	m->size = st_load_u32(p + 24);
	if (!widen(extra, n_extra, (uint64_t *[]){ &m->size, &m->packed, &local }))
		return broken(at, m->name, "damaged zip64 field", c->err);
	if (st_load_u16(p + 8) & FLAG_ENCRYPTED)
		return st_fail_at(c->err, ST_ERR_UNSUPPORTED, at, m->name, "encrypted zip member");
	unsigned method = st_load_u16(p + 10);
	if (method != 0 && method != 8)
		return st_fail_at(c->err, ST_ERR_UNSUPPORTED, at, m->name,
		                  "zip compression method %u (stored and deflate are read)", method);
	m->deflated = method == 8;
	if (!m->deflated && m->packed != m->size)
		return broken(at, m->name, "a stored member with two sizes", c->err);
	return locate(z->map, d, local, len, m, c->err);
}

enum st_status st_zip_open(struct st_zip *z, const struct st_map *map, struct st_arena *arena, struct st_error *err)
{
	*z = (struct st_zip){ .map = map, .arena = arena, .unpack_left = st_unpack_limit(map->size) };
	struct directory d;
	ST_TRY(read_end(map, &d, err));
	z->n_members = (size_t)d.count;
	z->members = st_arena_alloc(arena, d.count, sizeof *z->members);
	z->by_name = st_arena_alloc(arena, d.count, sizeof *z->by_name);
	char *names = st_arena_alloc(arena, d.size, 1); /* an entry is longer than its terminated name */
	if (!z->members || !z->by_name || !names)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct st_cursor c;
	st_cursor_init(&c, map->data + d.offset, d.size, d.offset, err);
	for (size_t i = 0; i < z->n_members; i++) {
		ST_TRY(read_entry(z, &d, &c, &names, &z->members[i]));
		z->by_name[i] = &z->members[i];
	}
	qsort(z->by_name, z->n_members, sizeof *z->by_name, by_name);
	for (size_t i = 1; i < z->n_members; i++)
		if (strcmp(z->by_name[i - 1]->name, z->by_name[i]->name) == 0)
			return broken(d.offset, z->by_name[i]->name, "two zip members of this name", err);
	return ST_OK;
}

struct st_zip_member *st_zip_find(const struct st_zip *z, const char *name)
{
	struct st_zip_member key = { .name = name }, *k = &key;
	struct st_zip_member **hit = z->n_members ? bsearch(&k, z->by_name, z->n_members, sizeof *z->by_name, by_name)
	                                          : NULL;
	return hit ? *hit : NULL;
}

enum st_status st_zip_bytes(struct st_zip *z, struct st_zip_member *m, struct st_error *err)
{
	if (m->bytes)
		return ST_OK;
	if (!m->deflated) {
		m->bytes = z->map->data + m->offset;
		return ST_OK;
	}
	if (m->size > z->unpack_left)
		return st_fail_at(
			err, ST_ERR_LIMIT, m->offset, m->name,
			"unfolds to %llu bytes; the limit for this file is %llu (64 MiB and 8 times its size)",
			(unsigned long long)m->size, (unsigned long long)st_unpack_limit(z->map->size));
	/* Deflate cannot unfold by more than 1032: a size beyond that is damage, found before memory is taken. */
	if (m->size / 1032 > m->packed)
		return broken(m->offset, m->name, "so few bytes cannot unfold to the size stated", err);
	uint8_t *p = st_arena_alloc(z->arena, m->size, 1);
	if (!p)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_unpack_deflate(z->map->data + m->offset, m->packed, p, m->size, m->offset, err));
	z->unpack_left -= m->size;
	m->bytes = p;
	return st_zip_verify(m, err);
}

enum st_status st_zip_verify(const struct st_zip_member *m, struct st_error *err)
{
	uint32_t crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), m->bytes, (size_t)m->size);
	if (crc != m->crc)
		return st_fail_at(err, ST_ERR_FORMAT, m->offset, m->name, "CRC-32 is %08x, the directory says %08x",
		                  (unsigned)crc, (unsigned)m->crc);
	return ST_OK;
}

enum st_status st_zip_damage(const struct st_map *map, struct st_arena *arena, size_t *n, const char **first,
                             struct st_error *err)
{
	const uint64_t piece = 1 << 26; /* between two looks at st_cancel() */
	struct st_zip z;
	*n = 0;
	ST_TRY(st_zip_open(&z, map, arena, err));
	for (size_t i = 0; i < z.n_members; i++) {
		const struct st_zip_member *m = &z.members[i];
		uint32_t crc = 0;
		if (m->deflated)
			continue;
		for (uint64_t at = 0; at < m->size; at += piece) {
			ST_TRY(st_check_cancel(err));
			crc = libdeflate_crc32(crc, map->data + m->offset + at,
			                       (size_t)(m->size - at < piece ? m->size - at : piece));
		}
		if (crc != m->crc && (*n)++ == 0)
			*first = m->name;
	}
	return ST_OK;
}
