/* Bytes as a model: everything that a command does with one file, down to a token through every stage. */
#include "fuzz.h"

#include <stele/inspect.h>
#include <stele/judge.h>
#include <stele/token.h>
#include <stele/trace.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdio.h>

static void tokenize(const struct st_container *c)
{
	static const char text[] = "2+2= caf\xc3\xa9 \xff<|im_end|>";
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t;
	uint32_t *ids;
	size_t n;
	if (st_tokenizer_open(c, &t, &err) != ST_OK)
		return;
	if (st_tokenize(t, text, sizeof text - 1, ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &ids, &n, &err) == ST_OK) {
		for (size_t i = 0; i < n; i++)
			if (ids[i] >= st_tokenizer_vocab_size(t))
				abort();
		free(ids);
	}
	st_tokenizer_close(t);
}

static void run(const char *path)
{
	static const uint32_t token = 1;
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	struct st_rosetta *r;
	if (st_model_open(path, &m, &err) != ST_OK)
		return;
	const struct st_trace_options to = { .tokens = &token, .n_tokens = 1, .threads = 1 };
	enum st_status st = st_trace_run(m, &to, &err);
	st_model_close(m);
	if ((st == ST_OK) != (err.code == ST_OK))
		abort();
	st_error_clear(&err);
	/* With itself: nothing can be at fault. */
	const struct st_rosetta_options ro = { .tokens = &token, .n_tokens = 1, .threads = 1, .threshold = 0 };
	if (st == ST_OK && st_rosetta_run(path, path, &ro, &r, &err) == ST_OK) {
		for (size_t i = 0; i < r->n_weights; i++)
			if (r->weights[i].status != ST_WEIGHT_EQUAL)
				abort();
		st_rosetta_free(r);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, n) != (ssize_t)n)
		abort();
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct st_error err = ST_ERROR_INIT;
	struct st_inspection *in;
	const struct st_inspect_options io = { .threads = 1 };
	if (st_inspect_open(path, &io, &in, &err) == ST_OK) {
		tokenize(st_inspection_container(in));
		st_inspection_close(in);
		run(path);
	}
	close(fd);
	return 0;
}
