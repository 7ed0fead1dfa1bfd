/*
 * Every allocation fails once: each use of the library below runs again and again, with its 1st, 2nd, 3rd ...
 * allocation failing, and then with all from that one on, until a run needs fewer. Each failure must end in
 * ST_ERR_NOMEM, with everything freed and no file left behind.
 */
#include "alloc.h"
#include "examine.h"
#include "good.h"

#include <stele/diff.h>

static uint64_t stride = 1;
static int threads = 1; /* of the use that runs */

struct use {
	const char *name, *path;
	enum st_status (*run)(const char *path, struct st_error *err);
	bool writes;
	int threads;
};

static enum st_status use_container(const char *path, struct st_error *err)
{
	struct st_container *c;
	enum st_status st = st_container_open(path, &c, err);
	st_container_close(c);
	return st;
}

static enum st_status use_hash(const char *path, struct st_error *err)
{
	struct st_container *c;
	char hex[65];
	enum st_status st = st_container_open(path, &c, err);
	if (st == ST_OK)
		st = st_container_sha256(c, hex, err);
	st_container_close(c);
	return st;
}

static enum st_status use_inspect(const char *path, struct st_error *err)
{
	const struct st_inspect_options o = { .threads = threads };
	struct st_inspection *in = NULL;
	enum st_status st = st_inspect_open(path, &o, &in, err);
	st_inspection_close(in);
	return st;
}

static enum st_status use_tokenizer(const char *path, struct st_error *err)
{
	struct st_container *c;
	struct st_tokenizer *t = NULL;
	uint32_t *ids;
	size_t n;
	enum st_status st = st_container_open(path, &c, err);
	if (st == ST_OK)
		st = st_tokenizer_open(c, &t, err);
	if (st == ST_OK)
		st = st_tokenize(t, "Once upon a time<|im_end|> \xff", 28, ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &ids,
		                 &n, err);
	if (st == ST_OK)
		free(ids);
	st_tokenizer_close(t);
	st_container_close(c);
	return st;
}

static enum st_status use_read_trace(const char *path, struct st_error *err)
{
	struct st_trace *t;
	enum st_status st = st_trace_open(path, &t, err);
	if (st == ST_OK)
		st_trace_close(t);
	return st;
}

static const uint32_t tokens[] = { 5, 6 };

static enum st_status use_trace(const char *path, struct st_error *err)
{
	struct st_model *m;
	const struct st_trace_options o = { .tokens = tokens,
		                            .n_tokens = 2,
		                            .prompt = "p",
		                            .threads = threads,
		                            .steps = 1,
		                            .capture = { { UINT64_MAX } },
		                            .tree = in_folder("made"),
		                            .bundle = in_folder("made.safetensors"),
		                            .force = true };
	enum st_status st = st_model_open(path, &m, err);
	if (st == ST_OK)
		st = st_trace_run(m, &o, err);
	st_model_close(m);
	return st;
}

static enum st_status use_rosetta(const char *path, struct st_error *err)
{
	const struct st_rosetta_options o = {
		.prompt = "2+2=", .threads = threads, .threshold = NAN, .keep_going = true, .hash = true
	};
	struct st_rosetta *r;
	enum st_status st = st_rosetta_run(path, in_folder("model.gguf"), &o, &r, err);
	if (st == ST_OK)
		st_rosetta_free(r);
	return st;
}

static enum st_status use_diff(const char *path, struct st_error *err)
{
	const struct st_diff_options o = { .limit = 3, .threshold = NAN, .rel_threshold = NAN, .threads = threads };
	struct st_diff *d;
	enum st_status st = st_diff_run(path, path, &o, &d, err);
	if (st == ST_OK)
		st_diff_free(d);
	return st;
}

static enum st_status use_synth(const char *path, struct st_error *err)
{
	const struct st_synth_options o = {
		.config = in_folder("hf/config.json"), .seed = 2, .threads = threads, .replace = true
	};
	struct st_synth_result result;
	return st_synth_write(path, &o, &result, err);
}

static enum st_status use_convert(const char *path, struct st_error *err)
{
	char out[400];
	const struct st_convert_options o = { .type = "Q8_0", .threads = threads, .force = true };
	struct st_convert_result *r;
	snprintf(out, sizeof out, "%s", in_folder("converted.gguf"));
	enum st_status st = st_convert(path, out, &o, &r, err);
	if (st == ST_OK)
		st_convert_result_free(r);
	return st;
}

static size_t entries(void)
{
	DIR *d = opendir(folder);
	size_t n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A sum of all names and bytes in the folder, temporary names left out. */
static void sum_of(char sum[64])
{
	char command[200];
	snprintf(command, sizeof command, "cd '%s' && find . -type f | LC_ALL=C sort | xargs cksum | cksum", folder);
	FILE *f = popen(command, "r");
	assert_true(f && fgets(sum, 64, f));
	pclose(f);
}

static void sweep(void **state)
{
	const struct use *u = *state;
	struct st_error err = ST_ERROR_INIT;
	char path[400], line[1400];
	snprintf(path, sizeof path, "%s", in_folder(u->path));
	threads = u->threads;
	/* Twice, so that what libraries keep for ever is there, and the outputs too. */
	assert_ok(u->run(path, &err), &err);
	assert_ok(u->run(path, &err), &err);
	size_t wrong = 0, files = entries();
	char sum[64];
	sum_of(sum);
	int64_t live = alloc_live();
	uint64_t n = 0;
	for (int all = 0; all < 2; all++) {
		bool failed = true;
		for (uint64_t at = 1; failed && wrong < 10; at += stride) {
			st_error_clear(&err);
			alloc_fail_at(at, all);
			enum st_status st = u->run(path, &err);
			failed = alloc_failed();
			alloc_fail_at(0, false);
			const char *fault = NULL;
			char now[64];
			if (failed && st == ST_OK) {
				/* Only where nothing depended on it. */
				sum_of(now);
				fault = u->writes && strcmp(now, sum) == 0 ? NULL : "a success";
			} else if (failed ? st != ST_ERR_NOMEM || err.code != st || !err.message[0] : st != ST_OK) {
				fault = failed ? "no ST_ERR_NOMEM" : "a failure of its own";
			}
			if (!fault && alloc_live() != live)
				fault = "a leak";
			if (!fault && entries() != files)
				fault = "a file left behind";
			if (fault) {
				st_error_format(&err, line, sizeof line);
				print_message("# allocation %llu%s: %s (%s: %s), %lld bytes more\n",
				              (unsigned long long)at, all ? " and all after" : "", fault,
				              st_status_name(st), line, (long long)(alloc_live() - live));
				live = alloc_live();
				files = entries();
				wrong++;
			}
			n += failed;
		}
	}
	print_message("# %s %s, threads %d: %llu failures\n", u->name, u->path, threads, (unsigned long long)n);
	assert_int_equal(wrong, 0);
	assert_true(n > 0);
}

static const struct use uses[] = {
	{ "open", "model.gguf", use_container, false, 1 },
	{ "open", "split-00001-of-00002.gguf", use_container, false, 1 },
	{ "open", "model.apr", use_container, false, 1 },
	{ "open", "hf", use_container, false, 1 },
	{ "open", "shards", use_container, false, 1 },
	{ "open", "tree", use_container, false, 1 },
	{ "open", "array.npy", use_container, false, 1 },
	{ "open", "arrays.npz", use_container, false, 1 },
	{ "open", "model.pt", use_container, false, 1 },
	{ "hash", "model.gguf", use_hash, false, 1 },
	{ "inspect", "model.gguf", use_inspect, false, 1 },
	{ "inspect", "hf", use_inspect, false, 1 },
	{ "inspect", "trace.safetensors", use_inspect, false, 1 },
	{ "inspect", "tree", use_inspect, false, 1 },
	{ "tokenize", "model.gguf", use_tokenizer, false, 1 },
	{ "tokenize", "model.apr", use_tokenizer, false, 1 },
	{ "tokenize", "hf", use_tokenizer, false, 1 },
	{ "read", "trace.safetensors", use_read_trace, false, 1 },
	{ "read", "tree", use_read_trace, false, 1 },
	{ "trace", "model.gguf", use_trace, true, 1 },
	{ "trace", "hf", use_trace, true, 1 },
	{ "rosetta", "model.apr", use_rosetta, false, 1 },
	{ "rosetta", "hf", use_rosetta, false, 1 },
	{ "diff", "trace.safetensors", use_diff, false, 1 },
	{ "diff", "stage.bin", use_diff, false, 1 },
	{ "diff", "model.gguf", use_diff, false, 1 },
	{ "diff", "array.npy", use_diff, false, 1 },
	{ "synth", "new.gguf", use_synth, true, 1 },
	{ "synth", "new.apr", use_synth, true, 1 },
	{ "synth", "new", use_synth, true, 1 },
	{ "convert", "model.apr", use_convert, true, 1 },
	{ "convert", "hf", use_convert, true, 1 },
	{ "inspect", "model.gguf", use_inspect, false, 3 },
	{ "trace", "model.gguf", use_trace, true, 3 },
	{ "rosetta", "model.apr", use_rosetta, false, 3 },
	{ "diff", "trace.safetensors", use_diff, false, 3 },
	{ "diff", "model.gguf", use_diff, false, 3 },
	{ "synth", "new.gguf", use_synth, true, 3 },
	{ "convert", "model.apr", use_convert, true, 3 },
};
#define N_USES (sizeof uses / sizeof *uses)

int main(int argc, char **argv)
{
	if (argc > 1)
		stride = strtoull(argv[1], NULL, 10);
	alloc_init();
	struct CMUnitTest tests[N_USES];
	static char names[N_USES][96];
	for (size_t i = 0; i < N_USES; i++) {
		snprintf(names[i], sizeof names[i], "%s %s%s", uses[i].name, uses[i].path,
		         uses[i].threads > 1 ? ", 3 threads" : "");
		tests[i] = (struct CMUnitTest){ .name = names[i],
			                        .test_func = sweep,
			                        .initial_state = (void *)(uintptr_t)&uses[i] };
	}
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return _cmocka_run_group_tests("memory", tests, N_USES, make_good_files, remove_folder);
}
