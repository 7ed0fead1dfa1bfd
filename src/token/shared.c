/* shared.c - what the readers of the three kinds of vocabulary (gguf.c, apr.c, hf.c) do alike. */
#include "token/tokenizer.h"

#include "base/error.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum st_status st_tokenizer_describe_as(struct st_tokenizer *t, struct st_error *err, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	t->describe = st_arena_strndup(&t->arena, text, strlen(text));
	return t->describe ? ST_OK : st_fail(err, ST_ERR_NOMEM, "no memory for a tokenizer");
}

enum st_status st_spm_norms(struct st_tokenizer *t, bool prefix, struct st_error *err)
{
	if (prefix)
		ST_TRY(st_norm_add(t, (struct st_norm){ .kind = ST_NORM_PREPEND, .a = " ", .a_len = 1 }, "tokenizer",
		                   err));
	t->space_marker = true;
	return st_norm_add(
		t, (struct st_norm){ .kind = ST_NORM_REPLACE, .a = " ", .a_len = 1, .b = ST_SPACE_MARKER, .b_len = 3 },
		"tokenizer", err);
}

enum st_status st_scores_check(const struct st_tokenizer *t, const char *what, struct st_error *err)
{
	for (uint32_t i = 0; i < t->vocab.n; i++)
		if (!isfinite(t->vocab.scores[i]))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
			                  "score of piece %u is not a finite number", i);
	return ST_OK;
}

enum st_status st_tokenizer_id(const struct st_tokenizer *t, const char *key, uint64_t id, int64_t *out,
                               struct st_error *err)
{
	if (id >= t->vocab.n)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "id %llu, the vocabulary has %u pieces",
		                  (unsigned long long)id, t->vocab.n);
	*out = (int64_t)id;
	return ST_OK;
}
