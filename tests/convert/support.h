/* support.h - conversions that must succeed, and two ways to compare files. */
#ifndef ST_TESTS_CONVERT_SUPPORT_H
#define ST_TESTS_CONVERT_SUPPORT_H

#include "folder.h"
#include "judge/toy.h"

#include <stele/convert.h>
#include <stele/judge.h>

/* Everything in the folder but the names that are given: what a failed run has left behind. */
static inline int left_behind(const char *keep)
{
	char cmd[512];
	snprintf(cmd, sizeof cmd, "test -z \"$(ls -A '%s' | grep -v -x -E '%s')\"", folder, keep);
	return system(cmd);
}

static inline struct st_convert_result *convert_with(const char *in, const char *out,
                                                     const struct st_convert_options *o)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_convert_result *r = NULL;
	assert_ok(st_convert(in, out, o, &r, &err), &err);
	assert_non_null(r);
	return r;
}

static inline void convert(const char *in, const char *out)
{
	st_convert_result_free(convert_with(in, out, &(struct st_convert_options){ .threads = 2 }));
}

static inline bool has_note(const struct st_convert_result *r, const char *part)
{
	for (size_t i = 0; i < r->n_notes; i++)
		if (strstr(r->notes[i], part))
			return true;
	return false;
}

/* The failure that a conversion ends in. */
static inline struct st_error convert_fails(const char *in, const char *out, const struct st_convert_options *o)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_convert_result *r = NULL;
	assert_int_not_equal(st_convert(in, out, o, &r, &err), ST_OK);
	assert_null(r);
	return err;
}

static inline struct st_rosetta *compare_files(const char *a, const char *b, const char *prompt)
{
	static const uint32_t tokens[] = { 5, 17, 3, 80, 42, 9 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r = NULL;
	struct st_rosetta_options o = { .prompt = prompt,
		                        .tokens = prompt ? NULL : tokens,
		                        .n_tokens = prompt ? 0 : 6,
		                        .threshold = NAN,
		                        .threads = 2 };
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

/* prompt NULL: some ids */
static inline void same_model(const char *a, const char *b, const char *prompt)
{
	struct st_rosetta *r = compare_files(a, b, prompt);
	if (r->verdict != ST_VERDICT_MATCH)
		fprintf(stderr, "%s against %s: %s: %s\n", a, b, st_verdict_name(r->verdict), r->text);
	assert_int_equal(r->verdict, ST_VERDICT_MATCH);
	assert_int_equal(st_rosetta_exit(r, true), 0);
	for (size_t i = 0; i < r->n_config; i++)
		assert_false(r->config[i].matters);
	st_rosetta_free(r);
}

/* The same tensors: names, types, shapes and bytes. */
static inline void same_tensors(const char *a, const char *b)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *x, *y;
	assert_ok(st_container_open(a, &x, &err), &err);
	assert_ok(st_container_open(b, &y, &err), &err);
	assert_int_equal(st_container_n_tensors(x), st_container_n_tensors(y));
	for (size_t i = 0; i < st_container_n_tensors(x); i++) {
		const struct st_tensor *s = st_container_tensor(x, i), *t = st_container_find(y, s->name);
		if (!t || s->dtype != t->dtype || s->n_bytes != t->n_bytes || memcmp(s->data, t->data, s->n_bytes) != 0)
			fprintf(stderr, "%s differs between %s and %s\n", s->name, a, b);
		assert_non_null(t);
		assert_int_equal(s->dtype, t->dtype);
		assert_int_equal(s->n_bytes, t->n_bytes);
		assert_int_equal(s->ndim, t->ndim);
		assert_memory_equal(s->shape, t->shape, s->ndim * sizeof *s->shape);
		assert_memory_equal(s->data, t->data, s->n_bytes);
	}
	st_container_close(x);
	st_container_close(y);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

#endif
