/* manifest.h - the shared set of broken and odd files: each does as its manifest says. */
#ifndef ST_TESTS_FORMAT_MANIFEST_H
#define ST_TESTS_FORMAT_MANIFEST_H

#include "test.h"

#include "format/container.h"

/* Touch every element, as a user of the container would. */
static inline void decode_all(const struct st_container *c)
{
	for (size_t i = 0; i < st_container_n_tensors(c); i++) {
		const struct st_tensor *t = st_container_tensor(c, i);
		uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
		float *x = malloc((size_t)cols * sizeof *x + 1);
		assert_non_null(x);
		for (uint64_t r = 0; r < rows; r++)
			st_tensor_decode(t, r, 1, x);
		free(x);
	}
}

/* Open a file; a success is read to the last element. Failures have one line that names the file. */
static inline bool opens(const char *path, char line[1400])
{
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	line[0] = '\0';
	if (st_container_open(path, &c, &err) == ST_OK) {
		decode_all(c);
		st_container_close(c);
		return true;
	}
	st_error_format(&err, line, 1400);
	assert_null(c);
	assert_true(err.path[0] && err.message[0] && !strchr(line, '\n'));
	return false;
}

/* The manifest of data/malformed/KIND. Damage at the level of a model may pass here: the container is sound. */
static inline void check_manifest(const char *kind)
{
	char rel[256], line[1400];
	snprintf(rel, sizeof rel, "malformed/%s/manifest.json", kind);
	json_t *list = json_load_file(shared_path(rel), 0, NULL);
	assert_true(json_array_size(list) > 10);
	size_t wrong = 0, i;
	json_t *item;
	json_array_foreach(list, i, item)
	{
		const char *file = json_string_value(json_object_get(item, "file"));
		const char *expect = json_string_value(json_object_get(item, "expect"));
		bool model = strcmp(json_string_value(json_object_get(item, "level")), "model") == 0;
		snprintf(rel, sizeof rel, "malformed/%s/%s", kind, file);
		bool opened = opens(shared_path(rel), line);
		if (opened ? strcmp(expect, "reject") == 0 && !model : strcmp(expect, "accept") == 0) {
			print_message("# %s: expected %s, %s %s\n", file, expect, opened ? "it opened" : "got", line);
			wrong++;
		}
	}
	json_decref(list);
	assert_int_equal(wrong, 0);
}

#endif
