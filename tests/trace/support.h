/* support.h - for the tests of traces: a scratch folder, bundles and trees written by hand. */
#ifndef ST_TESTS_TRACE_SUPPORT_H
#define ST_TESTS_TRACE_SUPPORT_H

#include "test.h"
#include "folder.h"

#include <stele/trace.h>

#include "format/writer.h"

#include <sys/stat.h>

/* A safetensors file, header and f32 (or other) bytes given literally; `header` lacks nothing. */
static inline void write_safetensors(const char *path, const char *header, const void *data, size_t n)
{
	uint64_t len = strlen(header);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(&len, 8, 1, f), 1);
	assert_int_equal(fwrite(header, 1, len, f), len);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static inline struct st_trace *open_trace(const char *path)
{
	struct st_trace *t;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_trace_open(path, &t, &err), &err);
	return t;
}

/* All values of an entry; the caller frees them. */
static inline float *values(const struct st_trace_entry *e)
{
	float *x = malloc(e->rows * e->cols * sizeof *x + 1);
	st_tensor_decode(e->tensor, 0, e->rows, x);
	return x;
}

#endif
