/* draft_edit.c - the lines of a drafted page: names that the file has instead, and marks where it differs. */
#include "arch/draft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_LISTED 24u

/* Whether a letter can belong to a name of a tensor or key. */
static bool in_name(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("_.#@-/", c));
}

static const char *line_at(const char *text, uint32_t number, size_t *n)
{
	while (text && --number)
		text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
	*n = text ? strcspn(text, "\n") : 0;
	return text;
}

/* The field of a line: words between blanks, of which brackets and quotes keep theirs together; counted from 0. */
static const char *field_at(const char *s, const char *end, uint32_t number, size_t *n)
{
	for (;; number--) {
		int depth = 0;
		bool quoted = false;
		while (s < end && (*s == ' ' || *s == '\t'))
			s++;
		const char *from = s;
		for (; s < end && (depth > 0 || quoted || (*s != ' ' && *s != '\t')); s++) {
			quoted ^= *s == '"';
			depth += (*s == '(' || *s == '[') - (*s == ')' || *s == ']');
		}
		*n = (size_t)(s - from);
		if (number == 0 || s == end)
			return from;
	}
}

/* A field of a line with every `old` in it that stands as a whole word replaced; quotes around it go too. */
static void replace(const struct st_draft_trial *t, struct st_draft_edits *e, uint32_t number, uint32_t field,
                    const char *old, const char *new, const char *why)
{
	size_t n, m = strlen(old), width, at = 0;
	const char *s = number < ST_DRAFT_LINES ? line_at(t->text, number, &n) : NULL;
	char buf[1024];
	bool any = false;
	if (!s)
		return;
	if (e->line[number]) {
		s = e->line[number];
		n = strlen(s);
	}
	const char *from = field_at(s, s + n, field, &width);
	for (const char *p = s; p < s + n;) {
		bool here = p >= from && p + m <= from + width && memcmp(p, old, m) == 0
		         && (p == from || !in_name(p[-1])) && (p + m == from + width || !in_name(p[m]));
		if (at + 1 >= sizeof buf)
			return;
		if (!here) {
			buf[at++] = *p++;
			continue;
		}
		bool quoted = p > from && p[-1] == '"' && p + m < from + width && p[m] == '"';
		at -= quoted;
		int put = snprintf(buf + at, sizeof buf - at, "%s", new);
		if (put < 0 || (size_t)put >= sizeof buf - at)
			return;
		at += (size_t)put;
		p += m + quoted;
		any = true;
	}
	buf[at] = '\0';
	const char *mark = strstr(buf, " # ? ") ? "" : "   # ? ";
	char *line = any && strcmp(old, new) != 0 ? st_arena_printf(e->arena, "%s%s%s", buf, mark, *mark ? why : "")
	                                          : NULL;
	if (!line || strlen(line) > 1000)
		return;
	e->line[number] = line;
	e->changes++;
}

static void say(struct st_draft_edits *e, uint32_t number, const char *words)
{
	if (number >= ST_DRAFT_LINES)
		return;
	char *s = st_arena_printf(e->arena, "%s# ? %s\n", e->front[number] ? e->front[number] : "", words);
	e->front[number] = s ? s : e->front[number];
}

/* The source as the page writes it. */
static void as_written(const char *source, char *buf, size_t size)
{
	size_t n = strlen(source);
	bool weight = n > 7 && strcmp(source + n - 7, ".weight") == 0;
	snprintf(buf, size, "%.*s", (int)(weight ? n - 7 : n), source);
}

/* Missing tensors get the likeliest name among those that nothing uses, each name once, the likeliest first. */
void st_draft_rename_tensors(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	struct st_described *d = t->d;
	bool *done = st_arena_alloc(&k->arena, d->n_faults, sizeof *done);
	const char **taken = st_arena_alloc(&k->arena, d->n_faults, sizeof *taken);
	size_t n_taken = 0;
	for (;;) {
		size_t best = SIZE_MAX;
		double likeness = 0;
		const struct st_tensor *found = NULL;
		for (size_t i = 0; i < d->n_faults && done && taken; i++) {
			const struct st_tensor *near[8];
			double like[8];
			if (done[i] || !d->faults[i].missing)
				continue;
			size_t n = st_near_tensors(d, &d->faults[i], 8, near, like);
			for (size_t c = 0; c < n; c++) {
				bool used = false;
				for (size_t m = 0; m < n_taken; m++)
					used |= strcmp(taken[m], near[c]->name) == 0;
				if (!used && like[c] > likeness) {
					best = i;
					likeness = like[c];
					found = near[c];
				}
			}
		}
		if (best == SIZE_MAX || likeness < 0.6)
			return;
		const struct st_family_weight *w = &d->family->weights[d->faults[best].weight];
		char old[256], new[256], why[320];
		done[best] = true;
		as_written(w->sources[k->where][0].name, old, sizeof old);
		snprintf(why, sizeof why, "was %.280s", old);
		if (!st_name_source(found->name, new, sizeof new) || strcmp(new, old) == 0)
			continue; /* another layer has it under this name */
		/* Parts of one tensor have it under one name. */
		for (uint32_t i = 0; i < d->family->n_weights; i++)
			for (uint32_t s = 0; s < d->family->weights[i].n_sources[k->where]; s++)
				if (strcmp(d->family->weights[i].sources[k->where][s].name,
				           w->sources[k->where][0].name)
				    == 0)
					replace(t, e, d->family->weights[i].line, k->where == ST_SPELLING_GGUF ? 1 : 2,
					        old, new, why);
		taken[n_taken++] = found->name;
	}
}

/* The size that a key is of a tensor that is there. */
static bool size_of_key(const struct st_draft *k, const struct st_draft_trial *t, uint32_t key, uint64_t *out,
                        const char **where)
{
	const struct st_described *d = t->d;
	const struct st_family *f = d->family;
	for (uint32_t i = 0; i < f->n_weights; i++) {
		const struct st_family_weight *w = &f->weights[i];
		for (uint32_t r = 0; r < w->rank && w->n_sources[k->where] && w->sources[k->where][0].n_steps == 0;
		     r++) {
			char name[256];
			if (strcmp(w->shape[r].text, f->keys[key].name) != 0)
				continue;
			(void)st_source_spell(w->sources[k->where][0].name, 0, 0, name, sizeof name);
			const struct st_tensor *found = st_container_find(k->c, name);
			bool of_expert = strchr(w->sources[k->where][0].name, '@') && w->rank > 1;
			if (found && found->ndim + of_expert == w->rank && r >= of_expert) {
				*out = found->shape[r - of_expert];
				*where = found->name;
				return true;
			}
		}
	}
	return false;
}

/* How many layers the tensors' names know. */
static uint64_t layers_named(const struct st_draft *k)
{
	uint64_t most = 0;
	for (size_t i = 0; i < k->c->n_tensors; i++) {
		const char *name = k->c->tensors[i].name, *tail = st_name_tail(name), *p = tail;
		if (tail == name)
			continue;
		for (p--; p > name && p[-1] >= '0' && p[-1] <= '9';)
			p--;
		uint64_t v = strtoull(p, NULL, 10) + 1;
		most = v > most && v < 100000 ? v : most;
	}
	return most;
}

/* A key that the file does not say, and need not, may stand there under the name that another page has for it. */
static void rename_silent(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	const struct st_described *d = t->d;
	size_t prefix = k->where == ST_SPELLING_GGUF ? strlen(d->settings.model) + 1 : 0;
	for (uint32_t i = 0; i < d->family->n_keys; i++) {
		const struct st_family_key *key = &d->family->keys[i];
		const char *near;
		double likeness;
		char new[256], why[320];
		if (key->type == ST_KEY_LET || d->origin[i].said || !key->n_spelled[k->where]
		    || !st_near_keys(d, i, 1, &near, &likeness) || likeness < 1 || !st_name_is_word(near + prefix))
			continue;
		const char *old = key->spelled[k->where][0];
		snprintf(new, sizeof new, "%.120s|%.120s", old, near + prefix);
		snprintf(why, sizeof why, "%.100s is not in the file", old);
		replace(t, e, key->line, k->where == ST_SPELLING_GGUF ? 2 : 3, old, new, why);
	}
}

/* Absent keys: another name in the file, else a size of a tensor. */
void st_draft_rename_keys(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	const struct st_described *d = t->d;
	size_t prefix = k->where == ST_SPELLING_GGUF ? strlen(d->settings.model) + 1 : 0;
	if (d->n_absent == 0)
		rename_silent(k, t, e);
	for (size_t i = 0; i < d->n_absent; i++) {
		const struct st_family_key *key = &d->family->keys[d->absent[i]];
		const char *near, *where;
		double likeness;
		uint64_t v = 0;
		char new[256], why[320];
		if (!key->n_spelled[k->where])
			continue;
		const char *old = key->spelled[k->where][0];
		if (st_near_keys(d, d->absent[i], 1, &near, &likeness) && likeness > 0.6
		    && st_name_is_word(near + prefix)) {
			snprintf(new, sizeof new, "%.120s|%.120s", old, near + prefix);
			snprintf(why, sizeof why, "%.100s is not in the file", old);
			replace(t, e, key->line, k->where == ST_SPELLING_GGUF ? 2 : 3, old, new, why);
			continue;
		}
		bool layers = strcmp(key->name, "layers") == 0 && (v = layers_named(k)) > 0;
		if (!layers && (key->type != ST_KEY_COUNT || !size_of_key(k, t, d->absent[i], &v, &where)))
			continue;
		size_t n;
		const char *s = line_at(t->text, key->line, &n);
		char *line = s && key->line < ST_DRAFT_LINES && !memchr(s, '=', n)
		                   ? st_arena_printf(e->arena, "%.*s = %llu   # ? not in the file: %s%.100s", (int)n, s,
		                                     (unsigned long long)v,
		                                     layers ? "as many layers have tensors" : "as in ",
		                                     layers ? "" : where)
		                   : NULL;
		if (line && !memchr(s, ';', n)) {
			e->line[key->line] = line;
			e->changes++;
		}
	}
}

/* ---- what is left ---- */

static void tell_value(const struct st_draft *k, const char *key, char *buf, size_t size)
{
	buf[0] = '\0';
	if (k->where == ST_SPELLING_GGUF) {
		const struct st_kv *kv = st_kv_find(&k->c->keys, key);
		const uint8_t *at = kv ? kv->data : NULL;
		size_t n;
		if (kv && kv->type == ST_KV_STR) {
			const char *s = st_kv_next_str(&at, &n);
			snprintf(buf, size, "\"%.*s\"", (int)(n < 60 ? n : 60), s);
		} else if (kv && kv->type != ST_KV_ARR) {
			snprintf(buf, size, "%.9g", st_kv_number(kv->type, kv->data));
		} else {
			snprintf(buf, size, "a list");
		}
	} else {
		const json_t *o = st_described_config(k->c);
		char part[192];
		for (const char *dot; o && (dot = strchr(key, '.')); key = dot + 1) {
			snprintf(part, sizeof part, "%.*s", (int)(dot - key), key);
			o = json_object_get(o, part);
		}
		char *s = json_dumps(json_object_get(o, key), JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
		snprintf(buf, size, "%.60s", s ? s : "");
		free(s);
	}
	for (char *p = buf; *p; p++)
		*p = (unsigned char)*p < ' ' || (unsigned char)*p > '~' ? '?' : *p;
}

static uint32_t line_of_section(const char *text, const char *section)
{
	uint32_t line = 1;
	for (const char *s = text; *s; s += strcspn(s, "\n") + 1, line++)
		if (strncmp(s, section, strlen(section)) == 0)
			return line;
	return 1;
}

static void printable(char *s)
{
	for (; *s; s++)
		*s = (unsigned char)*s < ' ' || (unsigned char)*s > '~' ? '?' : *s;
}

static void sizes(const struct st_tensor *t, char *buf, size_t size)
{
	size_t n = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < t->ndim && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
}

static void mark_keys(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	const struct st_described *d = t->d;
	uint32_t end = line_of_section(t->text, "[weights]");
	char words[400], value[80];
	for (size_t i = 0; i < d->n_absent; i++) {
		const struct st_family_key *key = &d->family->keys[d->absent[i]];
		if (key->line < ST_DRAFT_LINES && e->line[key->line])
			continue;
		snprintf(words, sizeof words, "%s: the file does not say it", key->name);
		say(e, key->line, words);
	}
	for (size_t i = 0; i < d->n_unread && i < MOST_LISTED; i++) {
		tell_value(k, d->unread[i], value, sizeof value);
		snprintf(words, sizeof words, "%.100s = %s: nothing here reads it", d->unread[i], value);
		printable(words);
		say(e, end, words);
	}
	if (d->n_unread > MOST_LISTED) {
		snprintf(words, sizeof words, "and %zu keys more", d->n_unread - MOST_LISTED);
		say(e, end, words);
	}
}

static void mark_weights(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	const struct st_described *d = t->d;
	uint32_t end = line_of_section(t->text, "[graph]");
	char words[500], shape[128], last[256] = "", pattern[256];
	size_t n = 0;
	for (size_t i = 0; i < d->n_faults; i++) {
		const struct st_described_fault *f = &d->faults[i];
		uint32_t line = d->family->weights[f->weight].line;
		snprintf(words, sizeof words, "%.120s%s%.200s", f->tensor ? f->tensor : "", f->tensor ? ": " : "",
		         f->why.message);
		printable(words);
		say(e, line, words);
	}
	for (size_t i = 0; i < d->n_unused; i++) {
		const struct st_tensor *left = st_container_find(k->c, d->unused[i]);
		st_name_fold(d->unused[i], pattern, sizeof pattern);
		if (!left || strcmp(pattern, last) == 0)
			continue;
		bool known = false; /* of another layer */
		for (size_t m = 0; m < i && !known; m++) {
			st_name_fold(d->unused[m], last, sizeof last);
			known = strcmp(pattern, last) == 0;
		}
		snprintf(last, sizeof last, "%s", pattern);
		if (known || ++n > MOST_LISTED)
			continue;
		sizes(left, shape, sizeof shape);
		snprintf(words, sizeof words, "%.200s [%s]: no weight here is it", left->name, shape);
		printable(words);
		say(e, end, words);
	}
	if (n > MOST_LISTED) {
		snprintf(words, sizeof words, "and %zu tensors more", n - MOST_LISTED);
		say(e, end, words);
	}
}

/* What is wrong at a line of the page that is no weight. */
static void mark_problem(const struct st_draft_trial *t, struct st_draft_edits *e)
{
	const struct st_described *d = t->d;
	const char *colon = strrchr(d->problem.path, ':');
	char words[500];
	if (d->problem.code == ST_OK || d->n_faults || d->n_absent)
		return;
	uint32_t line = colon && strncmp(d->problem.path, "draft:", 6) == 0 ? (uint32_t)strtoul(colon + 1, NULL, 10)
	                                                                    : 0;
	snprintf(words, sizeof words, "%.180s%s%.300s", d->problem.where, d->problem.where[0] ? ": " : "",
	         d->problem.message);
	printable(words);
	say(e, line ? line : line_of_section(t->text, "[weights]"), words);
}

char *st_draft_apply(const struct st_draft_trial *t, const struct st_draft_edits *e, const char *head)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	uint32_t line = 1;
	if (!out)
		return NULL;
	fputs(head, out);
	for (const char *s = t->text; *s; line++) {
		size_t n = strcspn(s, "\n");
		bool known = line < ST_DRAFT_LINES;
		if (known && e->front[line])
			fputs(e->front[line], out);
		if (known && e->line[line])
			fprintf(out, "%s\n", e->line[line]);
		else
			fprintf(out, "%.*s\n", (int)n, s);
		s += n + (s[n] == '\n');
	}
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

void st_draft_mark(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e)
{
	mark_keys(k, t, e);
	mark_weights(k, t, e);
	mark_problem(t, e);
}
