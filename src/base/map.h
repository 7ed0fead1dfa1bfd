/* map.h - read-only file maps, known by address so that a SIGBUS can be explained. */
#ifndef ST_BASE_MAP_H
#define ST_BASE_MAP_H

#include <stele/status.h>

struct st_map {
	const uint8_t *data; /* of an empty file, an address that nothing is read from */
	uint64_t size;
	char *path;
};

/* Regular files only: a folder, pipe or device is refused by name. The map is private and
 * read-only; the descriptor is closed at once. */
ST_MUST_CHECK enum st_status st_map_open(struct st_map *m, const char *path, struct st_error *err);
void st_map_close(struct st_map *m); /* also fine on a zeroed map */

#endif
