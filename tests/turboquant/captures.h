/* captures.h - synthetic captures for tests, each made once in the scratch folder. */
#ifndef ST_TESTS_CAPTURES_H
#define ST_TESTS_CAPTURES_H

#include "tq_test.h"
#include "folder.h"

#include <sys/stat.h>

/* Keeps the first half of the heads: heads are the outermost dimension of every file. */
static inline void keep_half(const char *dir)
{
	char path[400];
	snprintf(path, sizeof path, "%s/manifest.json", dir);
	json_t *j = json_load_file(path, 0, NULL), *params = json_object_get(j, "params"), *file;
	const char *key;
	for (int i = 0; i < 2; i++) {
		const char *heads = i ? "num_heads" : "num_kv_heads";
		json_int_t n = json_integer_value(json_object_get(params, heads));
		assert_int_equal(n % 2, 0);
		json_object_set_new(params, heads, json_integer(n / 2));
	}
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_object_foreach(json_object_get(j, "dump_paths"), key, file)
	{
		struct stat sb;
		snprintf(path, sizeof path, "%s/%s", dir, json_string_value(file));
		assert_int_equal(stat(path, &sb), 0);
		assert_int_equal(truncate(path, sb.st_size / 2), 0);
	}
	json_decref(j);
}

/* The manifest of the capture of a kind, with or without signs; half: of half its heads, for tests to which their
 * number does not matter. Captures of 16 heads have 8 then, and 4 of keys and values. */
static inline const char *capture_of(const char *kind, int signs, bool half)
{
	static char path[8][256];
	static unsigned turn;
	char *p = path[turn++ % 8], name[64];
	snprintf(name, sizeof name, "%s-%d%s", kind, signs, half ? "h" : "");
	if (access(in_folder(name), F_OK) != 0) {
		struct st_error err = ST_ERROR_INIT;
		struct st_replay_report rep;
		const struct st_replay_options o = {
			.mode = ST_REPLAY_MAKE, .make = kind, .signs = signs, .out = in_folder(name)
		};
		assert_ok(st_replay_run(&o, &rep, &err), &err);
		assert_int_equal(rep.exit_status, 0);
		st_replay_report_release(&rep);
		if (half)
			keep_half(in_folder(name));
	}
	snprintf(p, sizeof path[0], "%s/%s/manifest.json", folder, name);
	return p;
}

#endif
