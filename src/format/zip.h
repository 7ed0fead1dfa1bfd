/*
 * zip.h - the members of a zip file in a map, as npz and torch checkpoints use it.
 *
 * The directory is read here, not by a library, for one reason: tensors are read where they
 * lie, and libzip does not tell where a stored member's bytes begin. What is left beside
 * that is inflating, and zlib does it.
 */
#ifndef ST_FORMAT_ZIP_H
#define ST_FORMAT_ZIP_H

#include "base/map.h"
#include "base/mem.h"

struct st_zip_member {
	const char *name;      /* UTF-8, in the arena */
	uint64_t offset;       /* of its bytes in the file */
	uint64_t packed, size; /* bytes in the file, bytes unfolded */
	const uint8_t *bytes;  /* NULL until st_zip_bytes() */
	uint32_t crc;
	bool deflated;
};

struct st_zip {
	const struct st_map *map;
	struct st_arena *arena;
	struct st_zip_member *members; /* in directory order */
	struct st_zip_member **by_name;
	size_t n_members;
	uint64_t unpack_left; /* of st_unpack_limit() */
};

/* Reads the whole directory and checks that every member lies inside the file, is stored or
 * deflated, is not encrypted and has a name of its own. zip64 is fine; several disks are not. */
ST_MUST_CHECK enum st_status st_zip_open(struct st_zip *z, const struct st_map *map, struct st_arena *arena,
                                         struct st_error *err);

/* Exact name, or NULL. */
struct st_zip_member *st_zip_find(const struct st_zip *z, const char *name);

/* Make m->bytes: a view for a stored member, memory of the arena for a deflated one (within
 * the file's limit; its CRC is checked then). */
ST_MUST_CHECK enum st_status st_zip_bytes(struct st_zip *z, struct st_zip_member *m, struct st_error *err);

/* CRC-32 of a member against the directory: for small ones, since it reads them whole. */
ST_MUST_CHECK enum st_status st_zip_verify(const struct st_zip_member *m, struct st_error *err);

/* How many stored members of the archive have other bytes than their CRC-32 says, and the name of the first, in the
 * arena. Reads the whole file. */
ST_MUST_CHECK enum st_status st_zip_damage(const struct st_map *map, struct st_arena *arena, size_t *n,
                                           const char **first, struct st_error *err);

#endif
