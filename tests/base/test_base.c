/* base: errors, sizes, arenas, cursors, maps and whole-or-nothing files. */
#include "test.h"
#include "folder.h"

#include "base/cursor.h"
#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/rng.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

static size_t entries(const char *path)
{
	size_t n = 0;
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void first_error_wins(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_fail_at(&err, ST_ERR_FORMAT, 12, "key \"a\nb\"", "value %d", 7), ST_ERR_FORMAT);
	assert_int_equal(st_fail(&err, ST_ERR_IO, "later"), ST_ERR_FORMAT);
	st_error_in(&err, "m.gguf");
	st_error_in(&err, "other");
	char line[256];
	st_error_format(&err, line, sizeof line);
	assert_string_equal(line, "m.gguf: byte 12: key \"a?b\": value 7");
}

/* Names come from files: what could drive a terminal, and bytes that are no UTF-8, do not get into a message. */
static void messages_are_printable(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	(void)st_fail_at(&err, ST_ERR_FORMAT, 0, "a\x1b[31m\x7f\xc2\x9b\xff\xc3",
	                 "\xe2\x96\x81 \xc3\xa9 \xc2\xa0 \xf0\x9f\x98\x80 \xe2\x96 \xc0\xaf");
	assert_string_equal(err.where, "a?[31m????");
	assert_string_equal(err.message, "\xe2\x96\x81 \xc3\xa9 \xc2\xa0 \xf0\x9f\x98\x80 ?? ??");
}

static void message_cut_inside_a_character_stays_utf8(void **state)
{
	(void)state;
	for (int lead = 0; lead < 4; lead++) {
		char where[400];
		memset(where, 'x', (size_t)lead);
		size_t n = (size_t)lead;
		while (n < 390) {
			memcpy(where + n, "\xE2\x96\x81", 3);
			n += 3;
		}
		where[n] = '\0';
		struct st_error err = ST_ERROR_INIT;
		(void)st_fail_at(&err, ST_ERR_FORMAT, 0, where, "m");
		assert_true(st_utf8_valid(err.where, strlen(err.where)));
	}
}

static void checked_sizes(void **state)
{
	(void)state;
	uint64_t v;
	assert_false(st_mul_u64(UINT64_C(1) << 33, UINT64_C(1) << 33, &v));
	assert_false(st_add_u64(UINT64_MAX, 1, &v));
	assert_false(st_round_up(UINT64_MAX - 3, 64, &v));
	assert_true(st_round_up(65, 64, &v));
	assert_int_equal(v, 128);
	assert_true(st_ceil_div(UINT64_MAX, 2) == UINT64_C(1) << 63);
	assert_null(st_alloc_array(UINT64_MAX, 2));
}

static void arena_is_zeroed_and_aligned(void **state)
{
	(void)state;
	struct st_arena a;
	st_arena_init(&a);
	for (size_t n = 0; n < 200000; n = n * 3 + 1) {
		unsigned char *p = st_arena_alloc(&a, n, 1);
		assert_non_null(p);
		assert_int_equal((uintptr_t)p % 64, 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(p[i], 0);
		memset(p, 0xAA, n);
	}
	assert_null(st_arena_alloc(&a, UINT64_MAX, 3));
	assert_string_equal(st_arena_printf(&a, "%d-%s", 5, "x"), "5-x");
	st_arena_release(&a);
}

static void cursor_error_sticks(void **state)
{
	(void)state;
	const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6 };
	struct st_error err = ST_ERROR_INIT;
	struct st_cursor c;
	st_cursor_init(&c, bytes, sizeof bytes, 100, &err);
	assert_int_equal(st_cursor_u32(&c, "count"), 0x04030201);
	assert_int_equal(st_cursor_u64(&c, "length"), 0);
	assert_int_equal(st_cursor_u8(&c, "late"), 0);
	assert_int_equal(c.st, ST_ERR_FORMAT);
	assert_int_equal(err.offset, 104);
	assert_string_equal(err.where, "length");
}

static void utf8(void **state)
{
	(void)state;
	assert_true(st_utf8_valid("a\xC3\xA9\xE2\x96\x81\xF0\x9F\x98\x80", 10));
	assert_false(st_utf8_valid("\xC0\x80", 2));         /* overlong */
	assert_false(st_utf8_valid("\xED\xA0\x80", 3));     /* surrogate */
	assert_false(st_utf8_valid("\xE2\x96", 2));         /* cut */
	assert_false(st_utf8_valid("\xF4\x90\x80\x80", 4)); /* above U+10FFFF */
}

static void map_refuses_what_is_no_file(void **state)
{
	(void)state;
	struct st_map m;
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_map_open(&m, folder, &err), ST_ERR_IO);
	st_error_clear(&err);
	assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
	assert_int_equal(st_map_open(&m, in_folder("pipe"), &err), ST_ERR_IO);
	st_error_clear(&err);
	assert_int_equal(st_map_open(&m, in_folder("absent"), &err), ST_ERR_IO);
	assert_non_null(strstr(err.message, "No such file"));
}

static void map_is_found_by_address(void **state)
{
	(void)state;
	FILE *f = fopen(in_folder("file"), "w");
	fputs("hello", f);
	fclose(f);
	struct st_map m;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_map_open(&m, in_folder("file"), &err), &err);
	assert_int_equal(m.size, 5);
	assert_string_equal(st_map_path_of(m.data + 4), in_folder("file"));
	assert_null(st_map_path_of(m.data + 5));
	const void *gone = m.data;
	st_map_close(&m);
	assert_null(st_map_path_of(gone));
}

static void outfile_appears_only_at_commit(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outfile *f;
	assert_ok(st_outfile_open(in_folder("out"), &f, &err), &err);
	assert_ok(st_outfile_write(f, "abcdef", 6, &err), &err);
	assert_ok(st_outfile_zeros(f, 5000000, &err), &err);
	assert_ok(st_outfile_patch(f, 1, "XY", 2, &err), &err);
	assert_int_equal(st_outfile_size(f), 5000006);
	assert_int_equal(access(in_folder("out"), F_OK), -1);
	const char *readable;
	assert_ok(st_outfile_readable(f, &readable, &err), &err);
	struct st_map m;
	assert_ok(st_map_open(&m, readable, &err), &err);
	assert_memory_equal(m.data, "aXYdef\0\0", 8);
	st_map_close(&m);
	assert_ok(st_outfile_commit(f, &err), &err);
	struct stat sb;
	assert_int_equal(stat(in_folder("out"), &sb), 0);
	assert_int_equal(sb.st_size, 5000006);
	assert_int_equal(entries(folder), 1);
}

static void outfile_aborted_keeps_the_old_file(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outfile *f;
	FILE *old = fopen(in_folder("out"), "w");
	fputs("old", old);
	fclose(old);
	assert_ok(st_outfile_open(in_folder("out"), &f, &err), &err);
	assert_ok(st_outfile_write(f, "new", 3, &err), &err);
	st_outfile_abort(f);
	struct st_map m;
	assert_ok(st_map_open(&m, in_folder("out"), &err), &err);
	assert_memory_equal(m.data, "old", 3);
	st_map_close(&m);
	assert_int_equal(entries(folder), 1);
}

static void full_disk_is_an_error(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outfile *f;
	/* /dev/full is no regular file, so it is refused before a byte is lost. */
	assert_int_equal(st_outfile_open("/dev/full", &f, &err), ST_ERR_IO);
	st_error_clear(&err);
	assert_int_equal(st_outfile_open(in_folder("no/such/folder/x"), &f, &err), ST_ERR_IO);
}

static void touch(const char *dir, const char *name)
{
	char path[800];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

static void outdir_replaces_whole(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outdir *d;
	static const char *const names[] = { "trace.json", "layer-*", NULL };
	for (int round = 0; round < 2; round++) {
		assert_ok(st_outdir_open(in_folder("tree/"), round ? names : NULL, &d, &err), &err);
		touch(st_outdir_path(d), "trace.json");
		touch(st_outdir_path(d), round ? "layer-1" : "layer-0");
		assert_ok(st_outdir_commit(d, &err), &err);
		assert_int_equal(entries(in_folder("tree")), 2);
		assert_int_equal(access(in_folder(round ? "tree/layer-1" : "tree/layer-0"), F_OK), 0);
		assert_int_equal(entries(folder), 1);
	}
	assert_int_equal(st_outdir_open(in_folder("tree"), NULL, &d, &err), ST_ERR_IO);
	/* One name more, or the mark missing, and it is a folder of somebody's. */
	st_error_clear(&err);
	touch(in_folder("tree"), "diary");
	assert_int_equal(st_outdir_open(in_folder("tree"), names, &d, &err), ST_ERR_IO);
	assert_non_null(strstr(err.message, "diary"));
	assert_int_equal(unlink(in_folder("tree/diary")), 0);
	assert_int_equal(unlink(in_folder("tree/trace.json")), 0);
	st_error_clear(&err);
	assert_int_equal(st_outdir_open(in_folder("tree"), names, &d, &err), ST_ERR_IO);
	assert_non_null(strstr(err.message, "trace.json"));
	assert_int_equal(entries(in_folder("tree")), 1);
	/* An empty folder is nobody's. */
	st_error_clear(&err);
	assert_int_equal(mkdir(in_folder("empty"), 0777), 0);
	assert_ok(st_outdir_open(in_folder("empty"), names, &d, &err), &err);
	touch(st_outdir_path(d), "file");
	assert_ok(st_outdir_commit(d, &err), &err);
	assert_int_equal(entries(in_folder("empty")), 1);
}

/* What a signal handler does: everything under construction goes, what has its name stays. */
/* A link is written through; one to nothing is refused by name, and so is a name that no file can have. */
static void outputs_through_links(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outfile *f;
	struct st_outdir *d;
	static const char *const names[] = { "trace.json", NULL };
	struct stat sb;
	char text[8] = "";
	assert_int_equal(mkdir(in_folder("far"), 0777), 0);
	touch(in_folder("far"), "file");
	assert_int_equal(symlink("far/file", in_folder("link")), 0);
	assert_ok(st_outfile_open(in_folder("link"), &f, &err), &err);
	assert_ok(st_outfile_write(f, "new", 3, &err), &err);
	assert_ok(st_outfile_commit(f, &err), &err);
	assert_int_equal(lstat(in_folder("link"), &sb), 0);
	assert_true(S_ISLNK(sb.st_mode));
	FILE *in = fopen(in_folder("far/file"), "r");
	assert_non_null(in);
	assert_int_equal(fread(text, 1, sizeof text, in), 3);
	fclose(in);
	assert_memory_equal(text, "new", 3);

	assert_int_equal(mkdir(in_folder("far/tree"), 0777), 0);
	touch(in_folder("far/tree"), "trace.json");
	assert_int_equal(symlink("far/tree", in_folder("dir")), 0);
	assert_ok(st_outdir_open(in_folder("dir"), names, &d, &err), &err);
	touch(st_outdir_path(d), "trace.json");
	touch(st_outdir_path(d), "more");
	assert_ok(st_outdir_commit(d, &err), &err);
	assert_int_equal(lstat(in_folder("dir"), &sb), 0);
	assert_true(S_ISLNK(sb.st_mode));
	assert_int_equal(access(in_folder("far/tree/more"), F_OK), 0);

	assert_int_equal(symlink("nowhere", in_folder("dangling")), 0);
	assert_int_equal(st_outfile_open(in_folder("dangling"), &f, &err), ST_ERR_IO);
	assert_non_null(strstr(err.message, "symbolic link to nothing"));
	err = (struct st_error)ST_ERROR_INIT;
	assert_int_equal(st_outdir_open(in_folder("dangling"), names, &d, &err), ST_ERR_IO);
	assert_non_null(strstr(err.message, "symbolic link to nothing"));
}

/* The longest name that a file can have is no trouble; a longer one fails before any work. */
static void long_names_of_outputs(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outfile *f;
	struct st_outdir *d;
	char *name = malloc(258); /* not an array: the compiler would foresee a path too long for in_folder */
	memset(name, 'n', 258);
	name[255] = '\0';
	assert_ok(st_outfile_open(in_folder(name), &f, &err), &err);
	assert_ok(st_outfile_commit(f, &err), &err);
	assert_int_equal(access(in_folder(name), F_OK), 0);
	assert_int_equal(unlink(in_folder(name)), 0);
	assert_ok(st_outdir_open(in_folder(name), NULL, &d, &err), &err);
	assert_ok(st_outdir_commit(d, &err), &err);
	assert_int_equal(access(in_folder(name), F_OK), 0);
	name[255] = 'n';
	name[256] = '\0';
	assert_int_equal(st_outfile_open(in_folder(name), &f, &err), ST_ERR_IO);
	err = (struct st_error)ST_ERROR_INIT;
	assert_int_equal(st_outdir_open(in_folder(name), NULL, &d, &err), ST_ERR_IO);
	free(name);
}

struct watch {
	char path[512];
	atomic_bool stop, missed;
};

static void *watch_folder(void *ctx)
{
	struct watch *w = ctx;
	while (!w->stop)
		if (access(w->path, F_OK) != 0)
			w->missed = true;
	return NULL;
}

/* A folder that is replaced is there at every moment, and what is in place after that is said to be. */
static void replaced_folders_are_never_missing(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outdir *d;
	struct st_outfile *f;
	static const char *const names[] = { "trace.json", NULL };
	struct watch w = { .stop = false };
	pthread_t thread;
	snprintf(w.path, sizeof w.path, "%s", in_folder("tree"));
	for (int round = 0; round < 200; round++) {
		assert_ok(st_outdir_open(w.path, names, &d, &err), &err);
		assert_false(st_outputs_placed());
		char inner[600];
		snprintf(inner, sizeof inner, "%s/trace.json", st_outdir_path(d));
		assert_ok(st_outfile_open(inner, &f, &err), &err);
		assert_ok(st_outfile_commit(f, &err), &err);
		assert_false(st_outputs_placed()); /* the folder is not */
		assert_ok(st_outdir_commit(d, &err), &err);
		assert_true(st_outputs_placed());
		if (round == 0)
			assert_int_equal(pthread_create(&thread, NULL, watch_folder, &w), 0);
	}
	w.stop = true;
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_false(w.missed);
	assert_int_equal(access(in_folder("tree/trace.json"), F_OK), 0);
}

static void outdirs_vanish(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_outdir *d, *done;
	char inner[400], name[40];
	assert_ok(st_outdir_open(in_folder("done"), NULL, &done, &err), &err);
	touch(st_outdir_path(done), "trace.json");
	assert_ok(st_outdir_commit(done, &err), &err);
	assert_ok(st_outdir_open(in_folder("tree"), NULL, &d, &err), &err);
	for (int layer = 0; layer < 3; layer++) {
		snprintf(inner, sizeof inner, "%s/layer-%d", st_outdir_path(d), layer);
		assert_int_equal(mkdir(inner, 0777), 0);
		for (int i = 0; i < 300; i++) { /* more than one buffer of names */
			snprintf(name, sizeof name, "a-stage-of-some-length-%d.bin", i);
			touch(inner, name);
		}
	}
	assert_int_equal(entries(folder), 2);
	st_outdirs_remove();
	assert_int_equal(entries(folder), 1);
	assert_int_equal(entries(in_folder("done")), 1);
	st_outdir_abort(d, NULL);
}

static void outputs_that_take_inputs(void **state)
{
	(void)state;
	assert_int_equal(mkdir(in_folder("a"), 0777), 0);
	assert_int_equal(mkdir(in_folder("a/b"), 0777), 0);
	assert_int_equal(mkdir(in_folder("ab"), 0777), 0);
	assert_int_equal(symlink("b", in_folder("a/link")), 0);
	assert_true(st_out_takes(in_folder("a"), in_folder("a/b")));
	assert_true(st_out_takes(in_folder("a/b/"), in_folder("a/link")));
	assert_false(st_out_takes(in_folder("a"), in_folder("ab")));
	assert_false(st_out_takes(in_folder("a/b"), in_folder("a")));
	assert_false(st_out_takes(in_folder("none"), in_folder("a")));
	struct st_inputs in = { 0 };
	struct st_error err = ST_ERROR_INIT;
	for (int i = 0; i < 40; i++)
		assert_ok(st_inputs_add(&in, i == 33 ? in_folder("a/link") : i % 2 ? NULL : folder, &err), &err);
	assert_ok(st_inputs_keep(&in, in_folder("ab"), &err), &err);
	assert_int_equal(st_inputs_keep(&in, in_folder("a/b"), &err), ST_ERR_USAGE);
	assert_non_null(strstr(err.path, "a/b"));
	st_error_clear(&err);
	assert_int_equal(st_inputs_keep(&in, NULL, &err), ST_ERR_NOMEM);
	st_inputs_release(&in);
}

static void known_digests(void **state)
{
	(void)state;
	char hex[65];
	struct st_error err = ST_ERROR_INIT;
	/* FIPS 180-2, appendix B.1 */
	assert_ok(st_sha256_hex("abc", 3, hex, &err), &err);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void known_random_numbers(void **state)
{
	(void)state;
	/* First outputs of the authors' splitmix64.c with state 1234567 (published test vector). */
	uint64_t s = 1234567;
	assert_true(st_splitmix64(&s) == UINT64_C(6457827717110365317));
	assert_true(st_splitmix64(&s) == UINT64_C(3203168211198807973));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_error_wins),
		cmocka_unit_test(messages_are_printable),
		cmocka_unit_test(message_cut_inside_a_character_stays_utf8),
		cmocka_unit_test(checked_sizes),
		cmocka_unit_test(arena_is_zeroed_and_aligned),
		cmocka_unit_test(cursor_error_sticks),
		cmocka_unit_test(utf8),
		cmocka_unit_test_setup_teardown(map_refuses_what_is_no_file, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(map_is_found_by_address, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outfile_appears_only_at_commit, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outputs_through_links, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(long_names_of_outputs, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(replaced_folders_are_never_missing, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outfile_aborted_keeps_the_old_file, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(full_disk_is_an_error, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outdir_replaces_whole, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outdirs_vanish, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(outputs_that_take_inputs, make_folder, remove_folder),
		cmocka_unit_test(known_digests),
		cmocka_unit_test(known_random_numbers),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
