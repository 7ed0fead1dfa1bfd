/* test.h - what every unit test includes: cmocka, whole files, and where the shared data lies. */
#ifndef ST_TESTS_TEST_H
#define ST_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <stele/status.h>

/* The folder of the shared data set: $STELE_SHARED, else ../shared beside the source tree. */
static inline const char *shared_root(void)
{
	const char *root = getenv("STELE_SHARED");
	return root ? root : STELE_SOURCE_ROOT "/../shared";
}

/* Path of a file of the shared data set, "<root>/data/REL"; skips the running test with a line
 * saying so when the data set is absent. The result lies in one of 8 static buffers used in turn. */
static inline const char *shared_path(const char *rel)
{
	static char buf[8][1024];
	static unsigned turn;
	char *p = buf[turn++ % 8];
	snprintf(p, sizeof buf[0], "%s/data/%s", shared_root(), rel);
	if (access(p, R_OK) != 0) {
		fprintf(stderr, "skipped: needs the shared data set (%s)\n", rel);
		skip();
	}
	return p;
}

static inline void write_bytes(const char *path, const void *p, size_t n)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* The file's n bytes and a NUL after them; the caller frees them. */
static inline void *read_bytes(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	*n = (size_t)ftell(f);
	rewind(f);
	char *p = malloc(*n + 1);
	assert_non_null(p);
	assert_int_equal(fread(p, 1, *n, f), *n);
	p[*n] = '\0';
	fclose(f);
	return p;
}

/* Skips the running test where long double is no wider than double, as under valgrind: its reference is too coarse. */
static inline void needs_long_double(void)
{
	volatile long double one = 1;
	if (one + 0x1p-60L == one) {
		fprintf(stderr, "skipped: long double is no wider than double\n");
		skip();
	}
}

/* Assert success, printing the error otherwise. */
#define assert_ok(expr, err)                                         \
	do {                                                         \
		if ((expr) != ST_OK) {                               \
			char line_[1400];                            \
			st_error_format((err), line_, sizeof line_); \
			fail_msg("%s: %s", #expr, line_);            \
		}                                                    \
	} while (0)

#endif
