/* files.h - building files byte by byte in a folder of their own, and opening them. */
#ifndef ST_TESTS_FORMAT_FILES_H
#define ST_TESTS_FORMAT_FILES_H

#include "test.h"
#include "folder.h"

#include "format/container.h"

#include <sys/stat.h>

struct bytes {
	uint8_t p[1 << 16];
	size_t n;
};

static inline void put(struct bytes *b, const void *p, size_t n)
{
	assert_true(n <= sizeof b->p - b->n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static inline void put_u8(struct bytes *b, uint8_t v) { put(b, &v, 1); }
static inline void put_u32(struct bytes *b, uint32_t v) { put(b, &v, 4); }
static inline void put_u64(struct bytes *b, uint64_t v) { put(b, &v, 8); }

static inline void put_zeros_to(struct bytes *b, size_t align)
{
	while (b->n % align)
		put_u8(b, 0);
}

static inline const char *save_n(const char *name, const void *p, size_t n)
{
	const char *path = in_folder(name);
	unlink(path); /* some file systems flush a file that was cut to nothing and written again */
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	return path;
}

static inline const char *save(const char *name, const struct bytes *b) { return save_n(name, b->p, b->n); }
static inline const char *save_text(const char *name, const char *text) { return save_n(name, text, strlen(text)); }

/* Opening must fail with this status, name a file, say where in it, and mention `text`. */
static inline void assert_refused(const char *path, enum st_status status, const char *text, const char *what)
{
	struct st_container *c = NULL;
	struct st_error err = ST_ERROR_INIT;
	char line[1400] = "it opened";
	enum st_status st = st_container_open(path, &c, &err);
	if (st != ST_OK)
		st_error_format(&err, line, sizeof line);
	else
		st_container_close(c);
	if (st != status || err.code != status || !err.path[0] || !strstr(line, text) || strchr(line, '\n')
	    || (st == ST_OK) != !!c)
		fail_msg("%s: expected %s with \"%s\", got %s: %s", what, st_status_name(status), text,
		         st_status_name(st), line);
}

#endif
