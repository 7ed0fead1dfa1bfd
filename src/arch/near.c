/* near.c - names that are like each other: what a missing tensor or key may be called in a file. */
#include "arch/near.h"

#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MOST_PAIRS 128u
#define MOST_OTHERS 256u

/* ---- likeness ---- */

/* Pairs of neighbouring letters; numbers between dots are one letter. */
static size_t pairs(const char *s, uint16_t *out)
{
	size_t n = 0;
	unsigned char before = '.';
	for (; *s && n < MOST_PAIRS; s++) {
		unsigned char c = (unsigned char)*s;
		if (c >= '0' && c <= '9' && (before == '.' || before == '#')) { /* a layer, an expert; not that of w1 */
			if (before == '#')
				continue;
			c = '#';
		}
		c = c >= 'A' && c <= 'Z' ? (unsigned char)(c - 'A' + 'a') : c == '_' || c == '/' ? '.' : c;
		out[n++] = (uint16_t)(before << 8 | c);
		before = c;
	}
	return n;
}

double st_name_likeness(const char *a, const char *b)
{
	uint16_t x[MOST_PAIRS], y[MOST_PAIRS];
	size_t n = pairs(a, x), m = pairs(b, y), both = 0, all = n + m;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < m; k++)
			if (x[i] == y[k]) {
				y[k] = y[--m];
				both++;
				break;
			}
	return all ? 2.0 * (double)both / (double)all : 0;
}

const char *st_name_tail(const char *name)
{
	for (const char *p = name; *p; p++)
		if (*p >= '0' && *p <= '9' && (p == name || p[-1] == '.')) {
			const char *end = p + strspn(p, "0123456789");
			if (*end == '.' && end[1])
				return end + 1;
			p = end - 1;
		}
	return name;
}

static const char *source_tail(const char *source)
{
	const char *layer = strstr(source, "#.");
	return layer ? layer + 2 : source;
}

bool st_name_source(const char *name, char *buf, size_t size)
{
	size_t n = 0, numbers = 0, len = strlen(name);
	bool weight = len > 7 && strcmp(name + len - 7, ".weight") == 0;
	bool bias = len > 5 && strcmp(name + len - 5, ".bias") == 0;
	size_t end = weight ? len - 7 : len;
	if (len + 4 > size)
		return false;
	if (!weight && !bias)
		buf[n++] = '"';
	for (size_t i = 0; i < end; i++) {
		char c = name[i];
		bool digit = c >= '0' && c <= '9', letter = digit || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
		if (!letter && c != '_' && c != '.' && c != '-')
			return false;
		size_t digits = digit && (i == 0 || name[i - 1] == '.') ? strspn(name + i, "0123456789") : 0;
		bool number = digits && (i + digits == end || name[i + digits] == '.') && numbers < 2;
		buf[n++] = number ? "#@"[numbers] : c;
		numbers += number;
		i += number ? digits - 1 : 0;
	}
	if (!weight && !bias)
		buf[n++] = '"';
	buf[n] = '\0';
	return true;
}

bool st_name_is_word(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
	return n > 0 && n < 64 && s[n] == '\0';
}

void st_name_fold(const char *name, char *buf, size_t size)
{
	size_t n = 0;
	for (; *name && n + 1 < size; name++) {
		bool number = (*name >= '0' && *name <= '9') || *name == '@';
		if (!number)
			buf[n++] = *name;
		else if (n == 0 || buf[n - 1] != '#')
			buf[n++] = '#';
	}
	buf[n] = '\0';
}

/* ---- tensors ---- */

/* The layer that a name says: its first number. -1: none. */
static int64_t layer_of(const char *name)
{
	const char *tail = st_name_tail(name);
	if (tail == name)
		return -1;
	const char *p = tail - 1;
	while (p > name && p[-1] >= '0' && p[-1] <= '9')
		p--;
	int64_t v = 0;
	for (; *p != '.' && v < 1000000; p++)
		v = v * 10 + (*p - '0');
	return v;
}

/* What stands behind the last dot, without ".weight": w1, q_proj. */
static const char *last_part(const char *name, size_t *n)
{
	size_t len = strlen(name);
	len -= len > 7 && strcmp(name + len - 7, ".weight") == 0 ? 7 : 0;
	size_t from = len;
	while (from > 0 && name[from - 1] != '.')
		from--;
	*n = len - from;
	return name + from;
}

/* Of two tails; the same last word tells more than letters. */
static double like_tail(const char *source, const char *tail)
{
	size_t n, m;
	const char *a = last_part(source, &n), *b = last_part(tail, &m);
	return st_name_likeness(source, tail) + (n == m && memcmp(a, b, n) == 0 ? 0.3 : 0);
}

/* The likeness of a tensor to a weight: to any source that a built-in description gives a weight of that name, and, more, to
 * those of the page at hand. */
static double like_weight(const struct st_described *d, const struct st_family_weight *w, const char *const *others,
                          size_t n_others, const char *name)
{
	const char *tail = st_name_tail(name);
	double best = 0;
	for (uint32_t i = 0; i < w->n_sources[st_described_columns(d)]; i++) {
		double v = like_tail(source_tail(w->sources[st_described_columns(d)][i].name), tail);
		best = v > best ? v : best;
	}
	for (size_t i = 0; i < n_others; i++) {
		double v = 0.9 * like_tail(others[i], tail);
		best = v > best ? v : best;
	}
	return best;
}

/* For the same sizes, those of 1 left out; less for a matrix that is transposed. */
static double like_shape(const struct st_described_fault *f, const struct st_tensor *t)
{
	uint64_t want[ST_WEIGHT_RANK], have[8];
	size_t n = 0, m = 0;
	for (size_t i = 0; i < ST_WEIGHT_RANK; i++)
		if (f->shape[i] > 1)
			want[n++] = f->shape[i];
	for (size_t i = 0; i < t->ndim && m < 8; i++)
		if (t->shape[i] > 1)
			have[m++] = t->shape[i];
	bool straight = n == m, turned = n == m && n == 2;
	for (size_t i = 0; i < n && n == m; i++) {
		straight &= want[i] == have[i];
		turned &= want[i] == have[n - 1 - i];
	}
	return straight ? 0.5 : turned ? 0.3 : -0.5;
}

/* Whether a source takes rows out of a tensor, which is then larger. */
static bool is_cut(const struct st_described *d, const struct st_family_weight *w)
{
	enum st_spelling where = st_described_columns(d);
	for (uint32_t i = 0; i < (w->n_sources[where] ? w->sources[where][0].n_steps : 0); i++) {
		enum st_source_op op = w->sources[where][0].steps[i].op;
		if (op == ST_SOURCE_ROWS || op == ST_SOURCE_EACH || op == ST_SOURCE_STRIDE || op == ST_SOURCE_COLUMNS)
			return true;
	}
	return false;
}

/* Keeps the `most` with the largest likeness, the largest first. */
static size_t insert(double v, const void *what, const void **out, double *likeness, size_t n, size_t most)
{
	size_t at = n;
	while (at > 0 && likeness[at - 1] < v)
		at--;
	if (at == most)
		return n;
	n = n < most ? n + 1 : n;
	for (size_t i = n - 1; i > at; i--) {
		out[i] = out[i - 1];
		likeness[i] = likeness[i - 1];
	}
	out[at] = what;
	likeness[at] = v;
	return n;
}

/* Whether a line of a page begins with the name, and a blank. */
static const char *line_of(const char *text, const char *name)
{
	size_t n = strlen(name);
	for (const char *l = strstr(text, "\n[weights]\n"); l; l = strchr(l + 1, '\n'))
		if (strncmp(l + 1, name, n) == 0 && l[1 + n] == ' ')
			return l + 1 + n;
	return NULL;
}

/* Words of the next two fields that look like tensors' names: the sources that other pages give a weight. */
static size_t other_sources(const char *weight, char (*store)[96], const char **out)
{
	size_t n = 0;
	for (size_t i = 0; i < st_family_text_count && n + 4 < MOST_OTHERS; i++) {
		const char *l = line_of(st_family_texts[i].text, weight);
		for (; l && *l && *l != '\n' && *l != ',' && n < MOST_OTHERS; l++) {
			size_t k = strspn(l, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.#@");
			if (k > 2 && k < 95 && memchr(l, '.', k)) {
				memcpy(store[n], l, k);
				store[n][k] = '\0';
				out[n] = source_tail(store[n]);
				bool known = false;
				for (size_t m = 0; m < n; m++)
					known |= strcmp(out[m], out[n]) == 0;
				n += !known;
			}
			l += k ? k - 1 : 0;
		}
	}
	return n;
}

/* A bias is never stored as NAME.weight, however like the rest of the name and the shape are. */
static bool is_other_kind(const struct st_described *d, const struct st_family_weight *w, const char *name)
{
	enum st_spelling column = st_described_columns(d);
	return w->n_sources[column] && st_ends_with(w->sources[column][0].name, ".bias") && st_ends_with(name, ".weight");
}

size_t st_near_tensors(const struct st_described *d, const struct st_described_fault *fault, size_t most,
                       const struct st_tensor **out, double *likeness)
{
	const struct st_family_weight *w = &d->family->weights[fault->weight];
	char store[MOST_OTHERS][96];
	const char *others[MOST_OTHERS];
	size_t n = 0, n_others = other_sources(w->name, store, others);
	bool cut = is_cut(d, w);
	for (size_t i = 0; i < d->n_unused; i++) {
		const struct st_tensor *t = st_container_find(d->c, d->unused[i]);
		if (!t || layer_of(t->name) != (w->per_layer ? fault->layer : -1) || is_other_kind(d, w, t->name))
			continue;
		double v = like_weight(d, w, others, n_others, t->name);
		double shape = like_shape(fault, t);
		v += cut && shape < 0 ? 0 : shape;
		if (v > 0.35)
			n = insert(v, t, (const void **)out, likeness, n, most);
	}
	return n;
}

/* ---- keys ---- */

/* Of a key's line in any page or group: the likeness of a name to what it is called in this kind of file. */
static double like_key(const struct st_described *d, uint32_t key, const char *name)
{
	enum st_spelling where = d->settings.spelling;
	const struct st_family_key *k = &d->family->keys[key];
	double best = 0;
	for (uint32_t i = 0; i < k->n_spelled[where]; i++) {
		double v = st_name_likeness(k->spelled[where][i], name);
		best = v > best ? v : best;
	}
	size_t n = strlen(k->name), m = strlen(name);
	for (size_t i = 0; i < st_family_text_count; i++) {
		const char *weights = strstr(st_family_texts[i].text, "\n[weights]\n");
		for (const char *l = st_family_texts[i].text; l && (!weights || l < weights); l = strchr(l, '\n')) {
			l += *l == '\n';
			if (strncmp(l, k->name, n) != 0 || l[n] != ' ')
				continue;
			const char *end = strchr(l, '\n'), *hit = l + n;
			while ((hit = strstr(hit, name)) && hit < end) {
				if ((hit[-1] == ' ' || hit[-1] == '|')
				    && (hit[m] == ' ' || hit[m] == '|' || hit[m] == '\n'))
					return 1;
				hit++;
			}
		}
	}
	return best;
}

size_t st_near_keys(const struct st_described *d, uint32_t key, size_t most, const char **out, double *likeness)
{
	size_t n = 0, prefix = d->settings.spelling == ST_SPELLING_GGUF ? strlen(d->settings.model) + 1 : 0;
	for (size_t i = 0; i < d->n_unread; i++) {
		double v = like_key(d, key, d->unread[i] + prefix);
		if (v > 0.4)
			n = insert(v, d->unread[i], (const void **)out, likeness, n, most);
	}
	return n;
}
