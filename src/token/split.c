/*
 * split.c - cutting text into words with patterns, stage after stage.
 *
 * A pattern sees one word of the stage before as its whole subject, so that looking ahead ends
 * where that word ends. Bytes that are no UTF-8 form words of their own which no pattern sees.
 */
#include "token/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Enough for any sane pattern on a text of 16 MB; a runaway pattern ends in an error instead. */
#define MATCH_LIMIT 50000000u
#define HEAP_LIMIT_KIB (64u << 10)

/* White space as Unicode defines it. PCRE2's own \s has U+180E in addition. */
#define SPACES "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORDS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of [...], Oniguruma's \w knows a table for Latin-1 that counts the numbers of that page as well. */
#define WORDS_ALONE WORDS "\\xb2\\xb3\\xb9\\xbc-\\xbe"
#define HEX "0-9A-Fa-f"
#define VISIBLE "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}"

/* Shorthands that mean something else to PCRE2 than to Oniguruma, for which the patterns of tokenizer.json are
 * written: members within [...], and the whole outside. NULL: cannot be spelt out there. */
static const struct {
	char c;
	const char *members, *alone;
} shorthands[] = {
	{ 's', SPACES, "[" SPACES "]" },
	{ 'S', NULL, "[^" SPACES "]" },
	{ 'w', WORDS, "[" WORDS_ALONE "]" },
	{ 'W', NULL, "[^" WORDS_ALONE "]" },
	{ 'h', HEX, "[" HEX "]" },
	{ 'H', NULL, "[^" HEX "]" },
	{ 'v', "\\x0b", "\\x0b" },
	{ 'V', NULL, NULL },
	{ 'b', "\\b", "(?:(?<=[" WORDS_ALONE "])(?![" WORDS_ALONE "])|(?<![" WORDS_ALONE "])(?=[" WORDS_ALONE "]))" },
	{ 'B', NULL, "(?:(?<=[" WORDS_ALONE "])(?=[" WORDS_ALONE "])|(?<![" WORDS_ALONE "])(?![" WORDS_ALONE "]))" },
};

/* [:name:] and [:^name:] of Oniguruma, measured over all assigned characters. */
static const struct {
	const char *name, *members, *others;
} posix[] = {
	{ "alnum", "\\p{Alphabetic}\\p{Nd}", NULL },
	{ "alpha", "\\p{Alphabetic}", "\\P{Alphabetic}" },
	{ "ascii", "\\x00-\\x7f", "\\x80-\\x{10ffff}" },
	{ "blank", "\\p{Zs}\\t", NULL },
	{ "cntrl", "\\p{Cc}", "\\P{Cc}" },
	{ "digit", "\\p{Nd}", "\\P{Nd}" },
	{ "graph", VISIBLE, NULL },
	{ "lower", "\\p{Lowercase}", "\\P{Lowercase}" },
	{ "print", VISIBLE "\\p{Zs}", NULL },
	{ "punct", "\\p{P}\\p{S}", NULL },
	{ "space", SPACES, NULL },
	{ "upper", "\\p{Uppercase}", "\\P{Uppercase}" },
	{ "word", WORDS, NULL },
	{ "xdigit", HEX, NULL },
};

/* A pattern on its way from one dialect to the other. */
struct translation {
	const char *p;
	size_t n, i;
	bool in_class;
	struct st_text *out;
	const char *what;
	struct st_error *err;
};

static enum st_status refuse(const struct translation *t, const char *has, size_t len)
{
	return st_fail_at(t->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->what, "pattern has %.*s at character %zu",
	                  (int)len, has, t->i);
}

static enum st_status put(const struct translation *t, const char *s, size_t len)
{
	return st_text_append(t->out, s, len) ? ST_OK : st_fail(t->err, ST_ERR_NOMEM, "no memory for a pattern");
}

static enum st_status keep(struct translation *t, size_t len)
{
	t->i += len;
	return put(t, t->p + t->i - len, len);
}

/* To PCRE2 the name of a script alone means its extensions too; a script is what it takes behind "sc:". */
static bool is_script(const char *name, size_t len)
{
	char text[80];
	int code;
	PCRE2_SIZE at;
	snprintf(text, sizeof text, "\\p{sc:%.*s}", (int)(len < 64 ? len : 64), name);
	pcre2_code *c = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
	pcre2_code_free(c);
	return c != NULL;
}

static enum st_status translate_escape(struct translation *t)
{
	const char *p = t->p + t->i, *end = t->n - t->i > 2 && p[2] == '{' ? memchr(p, '}', t->n - t->i) : NULL;
	for (size_t k = 0; k < sizeof shorthands / sizeof *shorthands; k++) {
		if (shorthands[k].c != p[1])
			continue;
		const char *to = t->in_class ? shorthands[k].members : shorthands[k].alone;
		if (!to)
			return st_fail_at(t->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->what,
			                  "pattern has \\%c%s at character %zu", p[1],
			                  t->in_class ? " inside [...]" : "", t->i);
		t->i += 2;
		return put(t, to, strlen(to));
	}
	if (!end || !strchr("pPxokg", p[1]))
		return keep(t, 2);
	size_t not = p[3] == '^', len = (size_t)(end - (p + 3));
	if ((p[1] == 'p' || p[1] == 'P') && len > not &&is_script(p + 3 + not, len - not )) {
		ST_TRY(keep(t, 3 + not ));
		ST_TRY(put(t, "sc:", 3));
		return keep(t, len - not +1);
	}
	return keep(t, len + 4);
}

/* "[:name:]" within a class. */
static enum st_status translate_posix(struct translation *t)
{
	const char *p = t->p + t->i, *end = memchr(p, ']', t->n - t->i);
	size_t len = end ? (size_t)(end + 1 - p) : 0;
	if (len < 4 || p[1] != ':' || end[-1] != ':')
		return refuse(t, "a class inside a class", 22);
	bool not = p[2] == '^';
	for (size_t k = 0; k < sizeof posix / sizeof *posix; k++) {
		size_t name = len - 4 - not ;
		const char *to = not ? posix[k].others : posix[k].members;
		if (strlen(posix[k].name) != name || memcmp(p + 2 + not, posix[k].name, name) != 0 || !to)
			continue;
		t->i += len;
		return put(t, to, strlen(to));
	}
	return refuse(t, p, len);
}

/* Characters outside of [...] that begin something in which the dialects differ. */
static enum st_status translate_plain(struct translation *t)
{
	const char *p = t->p + t->i;
	size_t n = t->n - t->i, len = 1;
	if (*p == '[') {
		t->in_class = true;
		len += n > len && p[len] == '^';
		len += n > len && p[len] == ']'; /* a bracket in first place is a member */
	} else if (*p == '{') {
		while (len < n && strchr("0123456789,", p[len]) && p[len])
			len++;
		/* There the plus is a second repetition; in PCRE2 it forbids to give back. */
		if (len + 1 < n && p[len] == '}' && p[len + 1] == '+')
			return refuse(t, p, len + 2);
	} else if (*p == '(' && n > 1 && p[1] == '?') {
		for (len = 2; len < n && strchr("imx-", p[len]) && p[len];)
			len++;
		if (len < n && (p[len] == ':' || p[len] == ')')) { /* m: the dot matches a newline, PCRE2's s */
			for (size_t k = 0; k < len; k++)
				ST_TRY(put(t, p[k] == 'm' ? "s" : p + k, 1));
			t->i += len;
			return ST_OK;
		}
		len = 1;
	}
	return keep(t, len);
}

/* Rewrite a pattern for PCRE2; refuse what PCRE2 would silently read in another way. */
static enum st_status translate(const char *p, size_t n, struct st_text *out, const char *what, struct st_error *err)
{
	struct translation t = { p, n, 0, false, out, what, err };
	while (t.i < n) {
		const char *c = p + t.i;
		bool more = t.i + 1 < n;
		if (*c == '\\' && more) {
			ST_TRY(translate_escape(&t));
		} else if (!t.in_class) {
			ST_TRY(translate_plain(&t));
		} else if (*c == '[') {
			ST_TRY(translate_posix(&t));
		} else if (*c == '&' && more && c[1] == '&') {
			return refuse(&t, "an intersection of classes", 26);
		} else {
			t.in_class = *c != ']';
			ST_TRY(keep(&t, 1));
		}
	}
	return ST_OK;
}

enum st_status st_pattern_compile(const char *p, size_t n, bool literal, pcre2_code **out, const char *what,
                                  struct st_error *err)
{
	struct st_text text = { 0 };
	pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
	enum st_status st = ctx ? ST_OK : st_fail(err, ST_ERR_NOMEM, "no memory for a pattern");
	if (st != ST_OK)
		goto out;
	pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
	pcre2_set_parens_nest_limit(ctx, 100);
	if (!literal) {
		ST_TRY_OUT(translate(p, n, &text, what, err));
		p = text.s ? text.s : "";
		n = text.n;
	}
	int code;
	PCRE2_SIZE at;
	/* ^ and $ are line anchors in the patterns' dialect. */
	*out = pcre2_compile((PCRE2_SPTR)p, n,
	                     literal ? PCRE2_UTF | PCRE2_LITERAL
	                             : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
	                     &code, &at, ctx);
	if (!*out) {
		char text_of_code[120];
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text_of_code, sizeof text_of_code);
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, what,
		                "pattern does not compile: %s at character %zu", text_of_code, at);
		goto out;
	}
	/* Without JIT (an old CPU, a system that forbids writable code) matching is slower, no different. */
#ifndef ST_NO_JIT /* compiled patterns read ahead of the text in whole vectors, which valgrind reports */
	(void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
#endif
out:
	free(text.s);
	pcre2_compile_context_free(ctx);
	return st;
}

static enum st_status prepare_matching(struct st_scratch *s, struct st_error *err)
{
	s->match = pcre2_match_data_create(1, NULL);
	s->limits = pcre2_match_context_create(NULL);
	s->jit_stack = pcre2_jit_stack_create(32u << 10, 1u << 20, NULL); /* NULL where there is no JIT */
	if (!s->match || !s->limits)
		return st_fail(err, ST_ERR_NOMEM, "no memory for matching");
	pcre2_set_match_limit(s->limits, MATCH_LIMIT);
	pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
	if (s->jit_stack)
		pcre2_jit_stack_assign(s->limits, NULL, s->jit_stack);
	return ST_OK;
}

enum st_status st_pattern_match(struct st_scratch *s, const pcre2_code *code, const char *p, size_t n, size_t from,
                                size_t *start, size_t *end, bool *found, struct st_error *err)
{
	if (!s->match)
		ST_TRY(prepare_matching(s, err));
	ST_TRY(st_check_cancel(err));
	int rc = pcre2_match(code, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK, s->match, s->limits);
	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(code, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, s->limits);
	*found = rc >= 0;
	if (rc == PCRE2_ERROR_NOMATCH)
		return ST_OK;
	if (rc < 0) {
		char text[120];
		pcre2_get_error_message(rc, (PCRE2_UCHAR *)text, sizeof text);
		return st_fail(err, ST_ERR_LIMIT, "splitting a word of %zu bytes: %s", n, text);
	}
	const PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->match);
	*start = o[0] < from ? from : o[0]; /* \K in a pattern could move it back */
	*end = o[1] < *start ? *start : o[1];
	return ST_OK;
}

static bool push_span(struct st_spans *w, size_t start, size_t len, bool raw)
{
	if (len == 0)
		return true;
	if (!st_grow((void **)&w->v, &w->cap, w->n + 1, sizeof *w->v))
		return false;
	w->v[w->n++] = (struct st_span){ start, len, raw };
	return true;
}

/* Segments of one word, matches and the gaps between them in order, become words by the stage's behaviour. */
struct segments {
	struct st_spans *out;
	enum st_behaviour behaviour;
	size_t first;    /* words of out before this word */
	bool last_match; /* was the last segment a match? */
};

static bool add_segment(struct segments *g, size_t start, size_t len, bool match)
{
	struct st_span *last = g->out->n > g->first ? &g->out->v[g->out->n - 1] : NULL;
	bool join = false;
	if (len == 0)
		return true;
	switch (g->behaviour) {
	case ST_SPLIT_ISOLATED:
		break;
	case ST_SPLIT_REMOVED:
		if (match)
			return true;
		break;
	case ST_SPLIT_CONTIGUOUS:
		join = last && match == g->last_match;
		break;
	case ST_SPLIT_MERGED_PREVIOUS: /* a match joins what is before it, unless that is a match itself */
		join = last && match && !g->last_match;
		break;
	case ST_SPLIT_MERGED_NEXT:
		join = last && !match && g->last_match;
		break;
	}
	g->last_match = match;
	if (!join)
		return push_span(g->out, start, len, false);
	last->len += len;
	return true;
}

/* A word as a step behind ByteLevel sees it: each byte as one character. */
static enum st_status in_byte_alphabet(struct st_scratch *s, const char **p, size_t *n, struct st_error *err)
{
	s->word.n = 0;
	for (size_t i = 0; i < *n; i++) {
		char out[2];
		if (!st_text_append(&s->word, out, st_byte_write((uint8_t)(*p)[i], out)))
			return st_fail(err, ST_ERR_NOMEM, "no memory for a word of %zu bytes", *n);
	}
	*p = s->word.s;
	*n = s->word.n;
	return ST_OK;
}

/* Bytes of the text that p[0, n) of a stage's subject stands for. */
static size_t text_bytes(const struct st_split *stage, const char *p, size_t n)
{
	size_t characters = 0;
	for (size_t i = 0; stage->bytes && i < n; i++)
		characters += ((uint8_t)p[i] & 0xC0) != 0x80;
	return stage->bytes ? characters : n;
}

static enum st_status split_word(struct st_scratch *s, const struct st_split *stage, const char *text,
                                 struct st_span word, struct st_spans *out, struct st_error *err)
{
	const char *p = text + word.start;
	size_t n = word.len;
	if (stage->bytes)
		ST_TRY(in_byte_alphabet(s, &p, &n, err));
	struct segments g = { .out = out, .behaviour = stage->behaviour, .first = out->n };
	size_t done = 0, from = 0, at = word.start; /* done of p, at of text: the end of the last segment */
	while (from <= n) {
		size_t start, end;
		bool found;
		ST_TRY(st_pattern_match(s, stage->code, p, n, from, &start, &end, &found, err));
		if (!found)
			break;
		size_t gap = text_bytes(stage, p + done, start - done), len = text_bytes(stage, p + start, end - start);
		if (!add_segment(&g, at, gap, stage->invert) || !add_segment(&g, at + gap, len, !stage->invert))
			return st_fail(err, ST_ERR_NOMEM, "no memory for words");
		at += gap + len;
		done = end;
		from = end;
		if (start == end) { /* an empty match cuts here; go on behind the next character */
			size_t step = end < n ? st_utf8_step(p + end, n - end) : 1;
			from = end + (step ? step : 1);
		}
	}
	if (!add_segment(&g, at, text_bytes(stage, p + done, n - done), stage->invert))
		return st_fail(err, ST_ERR_NOMEM, "no memory for words");
	return ST_OK;
}

/* Runs of UTF-8 and runs of other bytes. */
static bool split_raw(struct st_spans *w, const char *text, size_t n)
{
	size_t start = 0;
	bool raw = false;
	for (size_t at = 0, len; at < n; at += len) {
		len = st_utf8_step(text + at, n - at);
		bool bad = len == 0;
		if (bad)
			len = 1;
		if (bad != raw) {
			if (!push_span(w, start, at - start, raw))
				return false;
			start = at;
			raw = bad;
		}
	}
	return push_span(w, start, n - start, raw);
}

enum st_status st_split_words(struct st_scratch *s, const char *text, size_t n, const struct st_spans **out,
                              struct st_error *err)
{
	const struct st_tokenizer *t = s->t;
	struct st_spans *in = &s->words[0], *next = &s->words[1];
	in->n = 0;
	if (!(t->n_stages ? split_raw(in, text, n) : push_span(in, 0, n, false)))
		return st_fail(err, ST_ERR_NOMEM, "no memory for words");
	for (size_t i = 0; i < t->n_stages; i++) {
		next->n = 0;
		for (size_t k = 0; k < in->n; k++) {
			if (!in->v[k].raw)
				ST_TRY(split_word(s, &t->stages[i], text, in->v[k], next, err));
			else if (!push_span(next, in->v[k].start, in->v[k].len, true))
				return st_fail(err, ST_ERR_NOMEM, "no memory for words");
		}
		struct st_spans *swap = in;
		in = next;
		next = swap;
	}
	*out = in;
	return ST_OK;
}
