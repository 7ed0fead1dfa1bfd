/*
 * hf_steps.c - normalizer, pre_tokenizer and decoder of tokenizer.json, one table row per kind.
 *
 * The pre-tokenizers that put a space in front of the text (ByteLevel, Metaspace) do so to each word they
 * get; as the first of their list they get the text, and only there are they accepted in that mode. They
 * then amount to a normaliser step.
 */
#include "token/tokenizer.h"

#include <openssl/evp.h>
#include <string.h>

#define FILE_NAME "tokenizer.json"
#define MAX_NESTING 8

/* What steps say yes or no to; each has a few of these. */
struct flags {
	bool left, right, clean, cjk, lowercase, accents, invert, prefix, regex, split, digits;
};

#define AT(m) ST_JSON_AT(struct flags, m)
static const struct st_json_field flag_rows[] = {
	{ AT(accents), .key = { "strip_accents" } }, /* the first row: read_flags asks for it */
	{ AT(left), .key = { "strip_left" } },
	{ AT(right), .key = { "strip_right" } },
	{ AT(clean), .key = { "clean_text" } },
	{ AT(cjk), .key = { "handle_chinese_chars" } },
	{ AT(lowercase), .key = { "lowercase" } },
	{ AT(invert), .key = { "invert" } },
	{ AT(prefix), .key = { "add_prefix_space" } },
	{ AT(regex), .key = { "use_regex" } },
	{ AT(split), .key = { "split" } },
	{ AT(digits), .key = { "individual_digits" } },
};

static enum st_status read_flags(const json_t *step, const char *type, struct flags *f, struct st_error *err)
{
	const char *given[sizeof flag_rows / sizeof *flag_rows];
	*f = (struct flags){ .left = true,
		             .right = true,
		             .clean = true,
		             .cjk = true,
		             .lowercase = true,
		             .prefix = true,
		             .regex = true,
		             .split = true };
	ST_TRY(st_json_read(step, &(struct st_json_read){ .where = type }, flag_rows,
	                    sizeof flag_rows / sizeof *flag_rows, f, given, err));
	if (!given[0])
		f->accents = f->lowercase;
	return ST_OK;
}

typedef enum st_status (*step_fn)(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                  struct st_error *err);
struct row {
	const char *type;
	step_fn fn;
};

enum st_status st_hf_each(struct st_tokenizer *t, const json_t *node, const char *what, const char *list_key,
                          st_hf_step_fn fn, struct st_error *err)
{
	struct {
		const json_t *list;
		size_t at;
	} stack[MAX_NESTING];
	size_t depth = 0;
	if (!node || json_is_null(node))
		return ST_OK;
	for (;;) {
		const char *type = json_string_value(json_object_get(node, "type"));
		if (!type)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "%s: a step has no type", what);
		if (strcmp(type, "Sequence") == 0) {
			const json_t *list = json_object_get(node, list_key);
			if (!json_is_array(list) || depth == MAX_NESTING)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
				                  "%s: a Sequence without %s, or nested too deep", what, list_key);
			stack[depth].list = list;
			stack[depth++].at = 0;
		} else {
			ST_TRY(fn(t, node, type, err));
		}
		while (depth > 0 && stack[depth - 1].at == json_array_size(stack[depth - 1].list))
			depth--;
		if (depth == 0)
			return ST_OK;
		node = json_array_get(stack[depth - 1].list, stack[depth - 1].at++);
	}
}

static enum st_status unknown_step(const char *what, const char *type, const char *known, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME, "unknown %s \"%.64s\"; known: %s, Sequence",
	                  what, type, known);
}

/* pattern: {"String": s} or {"Regex": s} */
static enum st_status read_pattern(const json_t *step, const char **s, size_t *n, bool *literal, struct st_error *err)
{
	const json_t *p = json_object_get(step, "pattern"), *text = json_object_get(p, "String"),
		     *regex = json_object_get(p, "Regex");
	const json_t *v = text ? text : regex;
	if (!json_is_string(v) || json_string_length(v) == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "a pattern is neither String nor Regex");
	*s = json_string_value(v);
	*n = json_string_length(v);
	*literal = text != NULL;
	return ST_OK;
}

static enum st_status norm_replace(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                   struct st_error *err)
{
	(void)f;
	struct st_norm norm = { .kind = ST_NORM_REPLACE };
	const json_t *content = json_object_get(step, "content");
	bool literal;
	ST_TRY(read_pattern(step, &norm.a, &norm.a_len, &literal, err));
	if (!json_is_string(content))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "Replace has no content");
	norm.b = json_string_value(content);
	norm.b_len = json_string_length(content);
	if (!literal) {
		norm.kind = ST_NORM_REPLACE_PATTERN;
		ST_TRY(st_pattern_compile(norm.a, norm.a_len, false, &norm.code, FILE_NAME, err));
	}
	return st_norm_add(t, norm, FILE_NAME, err);
}

static enum st_status norm_prepend(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                   struct st_error *err)
{
	(void)f;
	const json_t *s = json_object_get(step, "prepend");
	if (!json_is_string(s))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "Prepend has no text");
	return st_norm_add(
		t,
		(struct st_norm){ .kind = ST_NORM_PREPEND, .a = json_string_value(s), .a_len = json_string_length(s) },
		FILE_NAME, err);
}

static enum st_status norm_strip(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                 struct st_error *err)
{
	(void)step;
	unsigned ends = (f->left ? ST_STRIP_LEFT : 0u) | (f->right ? ST_STRIP_RIGHT : 0u);
	return st_norm_add(t, (struct st_norm){ .kind = ST_NORM_STRIP, .ends = ends }, FILE_NAME, err);
}

/* The character map of SentencePiece in base64. */
static enum st_status norm_precompiled(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                       struct st_error *err)
{
	(void)f;
	const json_t *v = json_object_get(step, "precompiled_charsmap");
	size_t n = json_string_length(v);
	if (json_is_null(v) || (json_is_string(v) && n == 0))
		return ST_OK;
	if (!json_is_string(v) || n % 4 != 0 || n > (64u << 20))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
		                  "Precompiled: precompiled_charsmap is not base64");
	const char *s = json_string_value(v);
	char *map = st_arena_alloc2(&t->arena, n / 4, 3, 1);
	if (!map)
		return st_fail(err, ST_ERR_NOMEM, "no memory for a character map");
	int got = EVP_DecodeBlock((unsigned char *)map, (const unsigned char *)s, (int)n);
	if (got < 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
		                  "Precompiled: precompiled_charsmap is not base64");
	size_t len = (size_t)got - (s[n - 1] == '=') - (s[n - 2] == '=');
	ST_TRY(st_charsmap_check(map, len, FILE_NAME, err));
	return st_norm_add(t, (struct st_norm){ .kind = ST_NORM_CHARSMAP, .a = map, .a_len = len }, FILE_NAME, err);
}

static enum st_status norm_bert(struct st_tokenizer *t, const json_t *step, const struct flags *f, struct st_error *err)
{
	(void)step;
	struct st_bert_flags bert = {
		.clean = f->clean, .cjk = f->cjk, .lowercase = f->lowercase, .strip_accents = f->accents
	};
	return st_bert_norms(t, bert, FILE_NAME, err);
}

static enum st_status norm_step(struct st_tokenizer *t, const json_t *step, const char *type, struct st_error *err)
{
	struct flags f;
	static const struct {
		const char *type;
		enum st_norm_kind kind;
	} plain[] = {
		{ "NFC", ST_NORM_NFC },
		{ "NFD", ST_NORM_NFD },
		{ "NFKC", ST_NORM_NFKC },
		{ "NFKD", ST_NORM_NFKD },
		{ "Lowercase", ST_NORM_LOWERCASE },
	};
	static const struct row rows[] = {
		{ "Replace", norm_replace },         { "Prepend", norm_prepend },     { "Strip", norm_strip },
		{ "Precompiled", norm_precompiled }, { "BertNormalizer", norm_bert },
	};
	ST_TRY(read_flags(step, type, &f, err));
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
		if (strcmp(plain[i].type, type) == 0)
			return st_norm_add(t, (struct st_norm){ .kind = plain[i].kind }, FILE_NAME, err);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (strcmp(rows[i].type, type) == 0)
			return rows[i].fn(t, step, &f, err);
	return unknown_step("normalizer", type,
	                    "NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend, Strip, Precompiled, BertNormalizer",
	                    err);
}

static enum st_status read_behaviour(const json_t *step, enum st_behaviour *out, struct st_error *err)
{
	static const char *const names[] = {
		[ST_SPLIT_ISOLATED] = "Isolated",
		[ST_SPLIT_REMOVED] = "Removed",
		[ST_SPLIT_MERGED_PREVIOUS] = "MergedWithPrevious",
		[ST_SPLIT_MERGED_NEXT] = "MergedWithNext",
		[ST_SPLIT_CONTIGUOUS] = "Contiguous",
	};
	const char *name = json_string_value(json_object_get(step, "behavior"));
	*out = ST_SPLIT_ISOLATED;
	for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], name) == 0) {
			*out = (enum st_behaviour)i;
			return ST_OK;
		}
	return name ? st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME, "unknown behavior \"%.64s\"", name)
	            : ST_OK;
}

static enum st_status add_stage(struct st_tokenizer *t, const char *p, size_t n, bool literal, enum st_behaviour b,
                                bool invert, struct st_error *err)
{
	ST_TRY(st_stage_add(t, p, n, literal, b, invert, FILE_NAME, err));
	t->stages[t->n_stages - 1].bytes = t->byte_level;
	return ST_OK;
}

static enum st_status add_regex(struct st_tokenizer *t, const char *pattern, enum st_behaviour b, bool invert,
                                struct st_error *err)
{
	return add_stage(t, pattern, strlen(pattern), false, b, invert, err);
}

static enum st_status pre_split(struct st_tokenizer *t, const json_t *step, const struct flags *f, struct st_error *err)
{
	const char *s;
	size_t n;
	bool literal;
	enum st_behaviour b;
	ST_TRY(read_pattern(step, &s, &n, &literal, err));
	ST_TRY(read_behaviour(step, &b, err));
	return add_stage(t, s, n, literal, b, f->invert, err);
}

static enum st_status must_be_first(const struct st_tokenizer *t, const char *what, struct st_error *err)
{
	return t->n_stages == 0 ? ST_OK
	                        : st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
	                                     "%s after another pre_tokenizer", what);
}

static enum st_status pre_byte_level(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                     struct st_error *err)
{
	(void)step;
	if (t->byte_level)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME, "ByteLevel twice");
	if (f->prefix) {
		ST_TRY(must_be_first(t, "ByteLevel with add_prefix_space", err));
		ST_TRY(st_norm_add(t, (struct st_norm){ .kind = ST_NORM_PREPEND_MISSING, .a = " ", .a_len = 1 },
		                   FILE_NAME, err));
	}
	if (f->regex)
		ST_TRY(add_regex(t, st_gpt2_pattern, ST_SPLIT_ISOLATED, false, err));
	t->byte_level = true; /* its own pattern still sees the text, steps behind it see the byte alphabet */
	return ST_OK;
}

static enum st_status pre_metaspace(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                    struct st_error *err)
{
	const char *marker = json_string_value(json_object_get(step, "replacement"));
	const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
	struct st_norm prepend = { .kind = ST_NORM_PREPEND_MISSING, .a = ST_SPACE_MARKER, .a_len = 3 };
	if (marker && strcmp(marker, ST_SPACE_MARKER) != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
		                  "Metaspace with replacement \"%.16s\"", marker);
	ST_TRY(must_be_first(t, "Metaspace", err));
	if (!scheme)
		scheme = f->prefix ? "always" : "never";
	ST_TRY(st_norm_add(
		t, (struct st_norm){ .kind = ST_NORM_REPLACE, .a = " ", .a_len = 1, .b = ST_SPACE_MARKER, .b_len = 3 },
		FILE_NAME, err));
	if (strcmp(scheme, "first") == 0)
		prepend.kind = ST_NORM_PREPEND_FIRST;
	else if (strcmp(scheme, "always") != 0 && strcmp(scheme, "never") != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
		                  "Metaspace with prepend_scheme \"%.16s\"", scheme);
	if (strcmp(scheme, "never") != 0)
		ST_TRY(st_norm_add(t, prepend, FILE_NAME, err));
	t->space_marker = true;
	return f->split ? add_stage(t, ST_SPACE_MARKER, 3, true, ST_SPLIT_MERGED_NEXT, false, err) : ST_OK;
}

static enum st_status pre_digits(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                 struct st_error *err)
{
	(void)step;
	return add_regex(t, f->digits ? "\\p{N}" : "\\p{N}+", ST_SPLIT_ISOLATED, false, err);
}

static enum st_status pre_punctuation(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                      struct st_error *err)
{
	(void)f;
	enum st_behaviour b;
	ST_TRY(read_behaviour(step, &b, err));
	return add_regex(t, "[\\p{P}!-/:-@\\[-`{-~]", b, false, err);
}

static enum st_status pre_whitespace(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                     struct st_error *err)
{
	(void)step, (void)f;
	/* The library runs this one with Rust's regex, where \w has the joiners, and of Latin-1 what it has within
	 * [...]. */
	return add_regex(t, "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+", ST_SPLIT_REMOVED, true, err);
}

static enum st_status pre_whitespace_split(struct st_tokenizer *t, const json_t *step, const struct flags *f,
                                           struct st_error *err)
{
	(void)step, (void)f;
	return add_regex(t, "\\s", ST_SPLIT_REMOVED, false, err);
}

static enum st_status pre_bert(struct st_tokenizer *t, const json_t *step, const struct flags *f, struct st_error *err)
{
	(void)step, (void)f;
	return st_bert_words(t, FILE_NAME, err);
}

static enum st_status pre_step(struct st_tokenizer *t, const json_t *step, const char *type, struct st_error *err)
{
	struct flags f;
	static const struct row rows[] = {
		{ "Split", pre_split },
		{ "ByteLevel", pre_byte_level },
		{ "Metaspace", pre_metaspace },
		{ "Digits", pre_digits },
		{ "Punctuation", pre_punctuation },
		{ "Whitespace", pre_whitespace },
		{ "WhitespaceSplit", pre_whitespace_split },
		{ "BertPreTokenizer", pre_bert },
	};
	ST_TRY(read_flags(step, type, &f, err));
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (strcmp(rows[i].type, type) == 0)
			return rows[i].fn(t, step, &f, err);
	return unknown_step(
		"pre_tokenizer", type,
		"Split, ByteLevel, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, BertPreTokenizer", err);
}

/* Of the decoder only one thing is not known from elsewhere: whether the marker stands for a space. */
static enum st_status decoder_step(struct st_tokenizer *t, const json_t *step, const char *type, struct st_error *err)
{
	static const char *const rest[] = { "ByteLevel", "ByteFallback", "Fuse", "Strip", "WordPiece" };
	if (strcmp(type, "Metaspace") == 0) {
		t->space_marker = true;
		return ST_OK;
	}
	if (strcmp(type, "Replace") == 0) {
		const char *from = json_string_value(json_object_get(json_object_get(step, "pattern"), "String"));
		const char *to = json_string_value(json_object_get(step, "content"));
		if (!from || !to || strcmp(from, ST_SPACE_MARKER) != 0 || strcmp(to, " ") != 0)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
			                  "decoder replaces something other than U+2581 by a space");
		t->space_marker = true;
		return ST_OK;
	}
	for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
		if (strcmp(rest[i], type) == 0)
			return ST_OK;
	return unknown_step("decoder", type, "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, WordPiece",
	                    err);
}

enum st_status st_hf_steps(struct st_tokenizer *t, const json_t *doc, struct st_error *err)
{
	ST_TRY(st_hf_each(t, json_object_get(doc, "normalizer"), "normalizer", "normalizers", norm_step, err));
	ST_TRY(st_hf_each(t, json_object_get(doc, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", pre_step, err));
	return st_hf_each(t, json_object_get(doc, "decoder"), "decoder", "decoders", decoder_step, err);
}
