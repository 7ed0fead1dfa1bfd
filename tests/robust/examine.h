/* examine.h - everything the command does with a file that a stranger sent. */
#ifndef ST_TESTS_ROBUST_EXAMINE_H
#define ST_TESTS_ROBUST_EXAMINE_H

#include "test.h"

#include <stele/convert.h>
#include <stele/diff.h>
#include <stele/inspect.h>
#include <stele/judge.h>
#include <stele/model.h>
#include <stele/token.h>
#include <stele/trace.h>

struct examined {
	bool opened, model, tokenizer, ran, judged, compared, converted;
	const char *fault; /* what a failure's account lacks; NULL when nothing */
	char line[1400];   /* the last failure */
};

/* A failure has one line with a reason and the file, or speaks of two files that do not go together. */
static inline enum st_status examine_error(struct examined *x, enum st_status st, struct st_error *err)
{
	if (st != ST_OK) {
		size_t n = st_error_format(err, x->line, sizeof x->line);
		if (n >= sizeof x->line || strchr(x->line, '\n') || !err->message[0]
		    || (!err->path[0] && st != ST_ERR_MISMATCH))
			x->fault = "an error that is not one line with a file and a reason";
		if (err->code != st)
			x->fault = "a status that is not the error's";
	} else if (err->code != ST_OK) {
		x->fault = "an error beside a success";
	}
	st_error_clear(err);
	return st;
}

static inline void examine_tokenizer(const struct st_container *c, struct examined *x)
{
	static const char text[] = "Once upon a time \xc3\xa9\xe2\x82\xac 2+2=\n\t\xff<|im_end|>";
	struct st_tokenizer *t;
	struct st_error err = ST_ERROR_INIT;
	uint32_t *ids;
	size_t n;
	if (examine_error(x, st_tokenizer_open(c, &t, &err), &err) != ST_OK)
		return;
	x->tokenizer = true;
	if (st_tokenize(t, text, sizeof text - 1, ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &ids, &n, &err) == ST_OK) {
		for (size_t i = 0; i < n; i++) {
			char buf[64];
			size_t len;
			st_tokenizer_piece(t, ids[i], &len);
			st_tokenizer_decode(t, ids[i], buf, sizeof buf);
			if (ids[i] >= st_tokenizer_vocab_size(t))
				x->fault = "a token beyond the vocabulary";
		}
		free(ids);
	}
	st_tokenizer_close(t);
}

/* Container, statistics, tokenizer, model, one token in exact mode, and a comparison with `good`. */
static inline void examine(const char *path, const char *good, struct examined *x)
{
	static const uint32_t token = 5;
	struct st_error err = ST_ERROR_INIT;
	struct st_inspection *in;
	struct st_model *m;
	struct st_rosetta *r;
	memset(x, 0, sizeof *x);
	const struct st_inspect_options io = { .threads = 1 };
	if (examine_error(x, st_inspect_open(path, &io, &in, &err), &err) == ST_OK) {
		x->opened = true;
		examine_tokenizer(st_inspection_container(in), x);
		st_inspection_close(in);
	}
	if (examine_error(x, st_model_open(path, &m, &err), &err) == ST_OK) {
		const struct st_trace_options to = { .tokens = &token, .n_tokens = 1, .threads = 1 };
		x->model = true;
		x->ran = examine_error(x, st_trace_run(m, &to, &err), &err) == ST_OK;
		st_model_close(m);
	}
	const struct st_rosetta_options ro = {
		.tokens = &token, .n_tokens = 1, .threads = 1, .threshold = NAN, .keep_going = true
	};
	if (x->opened && examine_error(x, st_rosetta_run(path, good, &ro, &r, &err), &err) == ST_OK) {
		x->judged = true;
		st_rosetta_free(r);
	}
}

/* Two files that may both be damaged, with several threads: judged both ways round, compared, and the first
 * converted. */
static inline void examine_pair(const char *a, const char *b, const char *out, int threads, struct examined *x)
{
	static const uint32_t tokens[] = { 5, 6, 7 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_diff *d;
	struct st_convert_result *c;
	struct st_inspection *in;
	memset(x, 0, sizeof *x);
	const struct st_inspect_options io = { .threads = threads };
	if (examine_error(x, st_inspect_open(a, &io, &in, &err), &err) == ST_OK) {
		x->opened = true;
		st_inspection_close(in);
	}
	const struct st_rosetta_options ro = {
		.tokens = tokens, .n_tokens = 3, .threads = threads, .threshold = NAN, .keep_going = true, .hash = true
	};
	for (int turn = 0; turn < 2; turn++)
		if (examine_error(x, st_rosetta_run(turn ? b : a, turn ? a : b, &ro, &r, &err), &err) == ST_OK) {
			x->judged = true;
			st_rosetta_free(r);
		}
	const struct st_diff_options dp = { .limit = 3, .threshold = NAN, .threads = threads };
	if (examine_error(x, st_diff_run(a, b, &dp, &d, &err), &err) == ST_OK) {
		x->compared = true;
		st_diff_free(d);
	}
	const struct st_convert_options co = { .type = "Q8_0", .threads = threads };
	if (examine_error(x, st_convert(a, out, &co, &c, &err), &err) == ST_OK) {
		x->converted = true;
		st_convert_result_free(c);
		if (unlink(out) != 0)
			x->fault = "a conversion that left no file";
	} else if (access(out, F_OK) == 0) {
		x->fault = "a failed conversion that left a file";
	}
}

#endif
