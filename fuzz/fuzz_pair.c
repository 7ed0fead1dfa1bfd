/*
 * Bytes as two files at once, with three threads, through rosetta, diff, convert and, as a trace
 * and its model, explain: "PAIR", a u32 length of the first
 * file, and both. Any other bytes are the first file, and a copy with one byte changed the second, so that two files
 * can agree in what no check of one alone looks at.
 */
#include "fuzz.h"

#include <stele/convert.h>
#include <stele/diff.h>
#include <stele/explain.h>
#include <stele/judge.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A file without a name; its path into `path`. */
static int put_file(const uint8_t *p, size_t n, char path[64])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		abort();
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

static void check(enum st_status st, struct st_error *err)
{
	if ((st == ST_OK) != (err->code == ST_OK) || (st != ST_OK && !err->message[0]))
		abort();
	st_error_clear(err);
}

static void use(const char *a, const char *b)
{
	static const uint32_t tokens[] = { 1, 2 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r = NULL;
	struct st_diff *d = NULL;
	const struct st_rosetta_options ro = {
		.tokens = tokens, .n_tokens = 2, .threads = 3, .threshold = NAN, .keep_going = true
	};
	enum st_status st = st_rosetta_run(a, b, &ro, &r, &err);
	if (st == ST_OK)
		st_rosetta_free(r);
	check(st, &err);
	const struct st_diff_options dp = { .limit = 3, .threshold = NAN, .threads = 3 };
	st = st_diff_run(a, b, &dp, &d, &err);
	if (st == ST_OK)
		st_diff_free(d);
	check(st, &err);
}

static void explain(const char *trace, const char *model)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_explain *x = NULL;
	const struct st_explain_options o = { .threads = 3, .other_file = true, .keep_going = true, .again = trace };
	enum st_status st = st_explain_run(trace, model, &o, &x, &err);
	if (st == ST_OK) {
		/* Nothing judged is no match, and two readings of one file are equal. */
		if ((!x->n_stages && x->verdict < ST_VERDICT_FAULT) || x->again->differ)
			abort();
		st_explain_free(x);
	}
	check(st, &err);
}

static void convert(const char *a)
{
	char folder[] = "/tmp/stele-fuzz-XXXXXX", out[64];
	struct st_error err = ST_ERROR_INIT;
	struct st_convert_result *result;
	if (!mkdtemp(folder))
		abort();
	snprintf(out, sizeof out, "%s/out.gguf", folder);
	const struct st_convert_options o = { .type = "Q8_0", .threads = 3 };
	enum st_status st = st_convert(a, out, &o, &result, &err);
	if (st == ST_OK)
		st_convert_result_free(result);
	check(st, &err);
	if ((unlink(out) == 0) != (st == ST_OK) || rmdir(folder) != 0) /* whole, or nothing */
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char a[64], b[64];
	const uint8_t *second = data;
	size_t n_first = n, n_second = n;
	uint8_t *changed = NULL;
	uint32_t len;
	if (n == 0)
		return 0;
	if (n >= 8 && memcmp(data, "PAIR", 4) == 0) {
		memcpy(&len, data + 4, 4);
		data += 8;
		n -= 8;
		n_first = len < n ? len : n;
		second = data + n_first;
		n_second = n - n_first;
	} else {
		size_t at = 0;
		changed = malloc(n);
		if (!changed)
			return 0;
		memcpy(changed, data, n);
		for (size_t i = 0; i < n; i++)
			at = at * 31 + data[i];
		changed[at % n] ^= 1;
		second = changed;
	}
	int fa = put_file(data, n_first, a), fb = put_file(second, n_second, b);
	use(a, b);
	explain(a, b);
	convert(a);
	close(fa);
	close(fb);
	free(changed);
	return 0;
}
