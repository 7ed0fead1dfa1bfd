/*
 * normalize.c - rewriting text before it is cut: Unicode normal forms, replacements, prefixes.
 *
 * Each step reads one buffer and writes the other. Bytes that are no UTF-8 pass unchanged.
 */
#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool append_char(struct st_text *t, utf8proc_int32_t cp)
{
	char c[4];
	utf8proc_ssize_t k = utf8proc_encode_char(cp, (utf8proc_uint8_t *)c);
	return k > 0 && st_text_append(t, c, (size_t)k);
}

/*
 * Put each run of combining marks into canonical order: a stable counting sort by class, since a run
 * may be as long as the text (utf8proc's own sort takes the square of its length).
 */
static bool order_marks(utf8proc_int32_t *cp, size_t n)
{
	utf8proc_int32_t *sorted = NULL;
	bool ok = true;
	for (size_t i = 0, end; i < n; i = end) {
		size_t count[257] = { 0 };
		bool unordered = false;
		unsigned last = 0;
		for (end = i; end < n; end++) {
			unsigned k = (unsigned)utf8proc_get_property(cp[end])->combining_class & 255;
			if (k == 0)
				break;
			unordered |= k < last;
			last = k;
			count[k + 1]++;
		}
		if (end == i) {
			end++;
			continue;
		}
		if (!unordered)
			continue;
		if (!sorted && !(sorted = st_alloc_array(n, sizeof *sorted))) {
			ok = false;
			break;
		}
		for (size_t k = 1; k < 257; k++)
			count[k] += count[k - 1];
		for (size_t j = i; j < end; j++)
			sorted[count[utf8proc_get_property(cp[j])->combining_class & 255]++] = cp[j];
		memcpy(cp + i, sorted, (end - i) * sizeof *cp);
	}
	free(sorted);
	return ok;
}

/* One run of UTF-8 that is not all ASCII. */
static bool normal_form(const char *p, size_t n, utf8proc_option_t opt, struct st_text *out)
{
	bool compose = opt & UTF8PROC_COMPOSE, ok = true;
	utf8proc_int32_t *cps = NULL;
	size_t n_cps = 0, cap = 0;
	int boundary = 0;
	/* Decomposing one character at a time leaves the order of marks to us. */
	opt = (opt & ~(unsigned)UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
	while (n > 0 && ok) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)(n > 4 ? 4 : n),
		                                      &cp);
		/* 18 is the longest decomposition of one character (U+FDFA in NFKD). */
		ok = k > 0 && st_grow((void **)&cps, &cap, n_cps + 32, sizeof *cps);
		if (!ok)
			break;
		utf8proc_ssize_t m = utf8proc_decompose_char(cp, cps + n_cps, 32, opt, &boundary);
		ok = m >= 0 && m <= 32;
		n_cps += ok ? (size_t)m : 0;
		p += k;
		n -= (size_t)k;
	}
	ok = ok && order_marks(cps, n_cps);
	if (ok && compose) {
		utf8proc_ssize_t m = utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)n_cps,
		                                              UTF8PROC_COMPOSE | UTF8PROC_STABLE);
		ok = m >= 0;
		n_cps = ok ? (size_t)m : 0;
	}
	for (size_t i = 0; i < n_cps && ok; i++)
		ok = append_char(out, cps[i]);
	free(cps);
	return ok;
}

static bool lower_case(const char *p, size_t n, struct st_text *out)
{
	while (n > 0) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)(n > 4 ? 4 : n),
		                                      &cp);
		/* The one character whose lower case is two (SpecialCasing.txt). */
		bool ok = k > 0
		       && (cp == 0x130 ? append_char(out, 'i') && append_char(out, 0x307)
		                       : append_char(out, utf8proc_tolower(cp)));
		if (!ok)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

static bool replace(const struct st_norm *m, const char *p, size_t n, struct st_text *out)
{
	for (const char *hit; (hit = memmem(p, n, m->a, m->a_len));) {
		size_t before = (size_t)(hit - p);
		if (!st_text_append(out, p, before) || !st_text_append(out, m->b, m->b_len))
			return false;
		p += before + m->a_len;
		n -= before + m->a_len;
	}
	return st_text_append(out, p, n);
}

static bool replace_pattern(struct st_scratch *s, const struct st_norm *m, const char *p, size_t n, struct st_text *out,
                            struct st_error *err)
{
	size_t done = 0;
	while (done < n) {
		size_t start, end;
		bool found;
		if (st_pattern_match(s, m->code, p, n, done, &start, &end, &found, err) != ST_OK)
			return false;
		if (!found || start == end) /* an empty match replaces nothing */
			break;
		if (!st_text_append(out, p + done, start - done) || !st_text_append(out, m->b, m->b_len))
			return false;
		done = end;
	}
	return st_text_append(out, p + done, n - done);
}

/* One run of UTF-8 through a step that looks at characters. ASCII has no other normal form. */
static bool rewrite_run(struct st_scratch *s, const struct st_norm *m, const char *p, size_t n, bool ascii,
                        struct st_text *out, struct st_error *err)
{
	static const int forms[] = {
		[ST_NORM_NFC] = UTF8PROC_COMPOSE,
		[ST_NORM_NFD] = 0,
		[ST_NORM_NFKC] = UTF8PROC_COMPAT | UTF8PROC_COMPOSE,
		[ST_NORM_NFKD] = UTF8PROC_COMPAT,
	};
	switch (m->kind) {
	case ST_NORM_LOWERCASE:
		return lower_case(p, n, out);
	case ST_NORM_REPLACE_PATTERN:
		return replace_pattern(s, m, p, n, out, err);
	case ST_NORM_CHARSMAP:
		return st_charsmap_apply(m->a, m->a_len, p, n, out);
	default:
		return ascii ? st_text_append(out, p, n) : normal_form(p, n, forms[m->kind], out);
	}
}

static bool each_run(struct st_scratch *s, const struct st_norm *m, const char *p, size_t n, struct st_text *out,
                     struct st_error *err)
{
	for (size_t at = 0, len; at < n;) {
		size_t end = at, bad;
		bool ascii = true;
		for (; end < n && (len = st_utf8_step(p + end, n - end)) > 0; end += len)
			ascii &= len == 1;
		for (bad = end; bad < n && st_utf8_step(p + bad, n - bad) == 0;)
			bad++;
		if ((end > at && !rewrite_run(s, m, p + at, end - at, ascii, out, err))
		    || !st_text_append(out, p + end, bad - end))
			return false;
		at = bad;
	}
	return true;
}

/* Unicode white space at p, in bytes; 0 when there is none. */
size_t st_space_step(const char *p, size_t n)
{
	utf8proc_int32_t cp;
	if (n == 0 || utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)(n > 4 ? 4 : n), &cp) <= 0)
		return 0;
	bool space = (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680
	          || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F
	          || cp == 0x3000;
	return space ? st_utf8_step(p, n) : 0;
}

/* Bytes of white space that end p[0, n). */
size_t st_space_before(const char *p, size_t n)
{
	size_t end = n;
	while (end > 0) {
		size_t start = end - 1;
		while (start > 0 && end - start < 4 && ((unsigned char)p[start] & 0xC0) == 0x80)
			start--;
		if (st_space_step(p + start, end - start) != end - start)
			break;
		end = start;
	}
	return n - end;
}

static bool strip(const struct st_norm *m, const char *p, size_t n, struct st_text *out)
{
	size_t from = 0, len;
	if (m->ends & ST_STRIP_LEFT)
		while ((len = st_space_step(p + from, n - from)) > 0)
			from += len;
	if (m->ends & ST_STRIP_RIGHT)
		n -= st_space_before(p + from, n - from);
	return st_text_append(out, p + from, n - from);
}

static bool squeeze(const char *p, size_t n, struct st_text *out)
{
	bool ok = true, pending = false;
	for (size_t i = 0; i < n && ok; i++) {
		if (p[i] == ' ') {
			pending = out->n > 0;
			continue;
		}
		ok = (!pending || st_text_append(out, " ", 1)) && st_text_append(out, p + i, 1);
		pending = false;
	}
	return ok;
}

static bool prepend(const struct st_norm *m, const char *p, size_t n, bool wanted, struct st_text *out)
{
	return (!wanted || st_text_append(out, m->a, m->a_len)) && st_text_append(out, p, n);
}

static bool apply(struct st_scratch *s, const struct st_norm *m, const char *p, size_t n, bool first,
                  struct st_text *out, struct st_error *err)
{
	bool missing = n < m->a_len || !m->a_len || memcmp(p, m->a, m->a_len) != 0;
	switch (m->kind) {
	case ST_NORM_PREPEND:
		return prepend(m, p, n, true, out);
	case ST_NORM_PREPEND_MISSING:
		return prepend(m, p, n, missing, out);
	case ST_NORM_PREPEND_FIRST:
		return prepend(m, p, n, first && missing, out);
	case ST_NORM_REPLACE:
		return replace(m, p, n, out);
	case ST_NORM_STRIP:
		return strip(m, p, n, out);
	case ST_NORM_SQUEEZE:
		return squeeze(p, n, out);
	default:
		return each_run(s, m, p, n, out, err);
	}
}

enum st_status st_normalize(struct st_scratch *s, const char *text, size_t n, bool first, const char **out,
                            size_t *out_n, struct st_error *err)
{
	for (size_t i = 0; i < s->t->n_norms && n > 0; i++) {
		struct st_text *to = &s->text[i & 1];
		to->n = 0;
		if (!apply(s, &s->t->norms[i], text, n, first, to, err)) {
			if (err->code != ST_OK)
				return err->code;
			return st_fail(err, ST_ERR_NOMEM, "no memory to normalise the text");
		}
		text = to->s;
		n = to->n;
	}
	if (n > ST_MAX_TEXT)
		return st_fail(err, ST_ERR_LIMIT, "the normalised text has %zu bytes, at most %u are handled", n,
		               ST_MAX_TEXT);
	*out = text;
	*out_n = n;
	return ST_OK;
}
