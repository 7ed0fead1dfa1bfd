/*
 * Files that end too early: each good file is cut, byte by byte from its end, and opened after every cut.
 *
 * Every cut is refused with one line that names the file, the place and the reason, and nothing near it allocates
 * more than the files' size and 64 MB. "all" as argument cuts at every byte of the data too, not only of headers,
 * tables and around the ends of tensors.
 */
#include "alloc.h"
#include "good.h"

#include <fcntl.h>

#define MARGIN ((int64_t)64 << 20)

static bool every_byte;

struct cuts {
	uint64_t header; /* bytes before the first tensor's data */
	uint64_t *edges; /* first and last bytes of tensors in the file */
	size_t n_edges;
	uint64_t end;  /* of the last tensor: what follows may be padding */
	uint64_t size; /* of all files of the container */
	enum st_format format;
};

static void find_cuts(const struct good_file *g, struct cuts *cuts)
{
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(in_folder(g->open), &c, &err), &err);
	*cuts = (struct cuts){ .header = UINT64_MAX, .format = st_container_format(c) };
	cuts->edges = malloc(2 * (st_container_n_tensors(c) + 1) * sizeof *cuts->edges);
	for (size_t i = 0; i < st_container_n_tensors(c); i++) {
		const struct st_tensor *t = st_container_tensor(c, i);
		if (strcmp(st_container_file_path(c, t->file), in_folder(g->file)) != 0)
			continue;
		cuts->header = t->offset < cuts->header ? t->offset : cuts->header;
		cuts->end = t->offset + t->n_bytes > cuts->end ? t->offset + t->n_bytes : cuts->end;
		cuts->edges[cuts->n_edges++] = t->offset;
		cuts->edges[cuts->n_edges++] = t->offset + t->n_bytes;
	}
	for (size_t i = 0; i < st_container_n_files(c); i++)
		cuts->size += st_container_file_size(c, i);
	st_container_close(c);
}

static bool wanted(const struct cuts *cuts, uint64_t at, uint64_t size)
{
	if (every_byte || at < cuts->header || size - at <= 64)
		return true;
	for (size_t i = 0; i < cuts->n_edges; i++)
		if (at + 1 >= cuts->edges[i] && at <= cuts->edges[i] + 1)
			return true;
	return false;
}

/* Whether a file cut there is still whole. */
static bool harmless(const struct good_file *g, const struct cuts *cuts, uint64_t at, uint64_t size, uint64_t brace)
{
	if (g->json)
		return at > brace;
	if (cuts->format == ST_FORMAT_APR)
		return at == size - 4; /* exactly in front of the CRC, which is optional (docs/format-apr.md) */
	return cuts->format == ST_FORMAT_GGUF && at >= cuts->end;
}

/* An error that a person can act upon. Returns what is wrong with it, or NULL. */
static const char *fault_of(const struct st_error *err)
{
	char line[1400];
	size_t n = st_error_format(err, line, sizeof line);
	if (n >= sizeof line || strchr(line, '\n'))
		return "not one line";
	if (strncmp(err->path, folder, strlen(folder)) != 0)
		return "no file";
	if (!err->message[0])
		return "no reason";
	if (err->offset == ST_NO_OFFSET && !err->where[0])
		return "no place";
	return NULL;
}

static void cut_one(const struct good_file *g)
{
	struct cuts cuts;
	find_cuts(g, &cuts);
	size_t size;
	char *bytes = read_bytes(in_folder(g->file), &size);
	uint64_t brace = size, n = 0;
	while (g->json && brace > 0 && bytes[--brace] != '}')
		;
	size_t wrong = 0;
	for (uint64_t at = size; at-- > 0 && wrong < 5;) {
		if (!wanted(&cuts, at, size))
			continue;
		assert_int_equal(truncate(in_folder(g->file), (off_t)at), 0);
		struct st_container *c;
		struct st_error err = ST_ERROR_INIT;
		char line[1400] = "it opened";
		alloc_peak_reset();
		int64_t before = alloc_live();
		limit_time(5);
		enum st_status st = st_container_open(in_folder(g->open), &c, &err);
		limit_time(0);
		const char *fault = NULL;
		if (st == ST_OK) {
			st_container_close(c);
			fault = harmless(g, &cuts, at, size, brace) ? NULL : "accepted";
		} else {
			st_error_format(&err, line, sizeof line);
			fault = c ? "a container beside the error" : fault_of(&err);
		}
		if (!fault && alloc_peak() > (int64_t)cuts.size + MARGIN)
			fault = "too much memory";
		if (!fault && alloc_live() != before)
			fault = "a leak";
		if (fault) {
			print_message("# %s cut at byte %llu of %llu: %s: %s\n", g->file, (unsigned long long)at,
			              (unsigned long long)size, fault, line);
			wrong++;
		}
		n++;
	}
	save_n(g->file, bytes, size);
	free(bytes);
	free(cuts.edges);
	print_message("# %s: %llu cuts\n", g->file, (unsigned long long)n);
	assert_int_equal(wrong, 0);
}

static void cuts_of(void **state) { cut_one(*state); }

int main(int argc, char **argv)
{
	every_byte = argc > 1 && strcmp(argv[1], "all") == 0;
	alloc_init();
	struct CMUnitTest tests[N_GOOD];
	for (size_t i = 0; i < N_GOOD; i++)
		tests[i] = (struct CMUnitTest){ .name = good_files[i].file,
			                        .test_func = cuts_of,
			                        .initial_state = (void *)(uintptr_t)&good_files[i] };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return _cmocka_run_group_tests("truncate", tests, N_GOOD, make_good_files, remove_folder);
}
