/*
 * draft.c - a description for a model of unknown architecture: the built-in page whose names, shapes and keys are nearest to
 * the model's, under the model's own name, with what differs marked "?".
 */
#include "arch/draft.h"

#include "arch/roles.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROUNDS 4

static void end_trial(struct st_draft_trial *t)
{
	st_described_close(t->d);
	st_family_close(t->f);
	free(t->text);
	*t = (struct st_draft_trial){ 0 };
}

void st_family_draft_close(struct st_family_draft *out)
{
	struct st_draft *k = (struct st_draft *)out;
	if (!k)
		return;
	end_trial(&k->best);
	st_container_close(k->c);
	st_arena_release(&k->arena);
	free(k);
}

/* ---- what the file calls itself ---- */

static enum st_status read_names(struct st_draft *k)
{
	const struct st_container *c = k->c;
	struct st_error *err = k->err;
	const char *key = "general.architecture";
	k->where = c->format == ST_FORMAT_GGUF ? ST_SPELLING_GGUF : ST_SPELLING_CONFIG;
	if (c->format == ST_FORMAT_GGUF) {
		const char *s;
		size_t n;
		bool found;
		ST_TRY(st_kv_str(&c->keys, key, &s, &n, &found, err));
		k->names[0] = found ? st_arena_strndup(&k->arena, s, n) : NULL;
	} else if (c->format == ST_FORMAT_APR || !json_is_object(c->docs.config)) {
		return st_fail(err, ST_ERR_UNSUPPORTED,
		               "has no config.json, and is no GGUF file: a description needs the keys of one");
	} else {
		const json_t *o = st_described_config(c), *list = json_object_get(o, "architectures");
		key = "model_type";
		k->names[0] = json_string_value(json_object_get(o, key));
		k->names[1] = json_string_value(json_is_array(list) ? json_array_get(list, 0) : list);
		if (!k->names[0]) {
			k->names[0] = k->names[1];
			k->names[1] = NULL;
		}
	}
	if (!k->names[0] || !*k->names[0])
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is missing: the model has no name");
	if (!st_name_is_word(k->names[0]) || (k->names[1] && !st_name_is_word(k->names[1])))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key, "\"%.60s\" is no name for a description",
		                  st_name_is_word(k->names[0]) ? k->names[1] : k->names[0]);
	k->own = k->names[0];
	return ST_OK;
}

/* ---- the light comparison: names alone ---- */

/* Behind any prefix that checkpoints of one model differ in. */
static const char *past_prefix(const char *name)
{
	size_t longest = 0;
	for (size_t i = 0; i < st_hf_prefix_count; i++) {
		size_t n = strlen(st_hf_prefixes[i].text);
		if (n > longest && strncmp(name, st_hf_prefixes[i].text, n) == 0)
			longest = n;
	}
	return name + longest;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static enum st_status find_patterns(struct st_draft *k)
{
	const struct st_container *c = k->c;
	struct st_error *err = k->err;
	k->patterns = st_arena_alloc(&k->arena, c->n_tensors, sizeof *k->patterns);
	ST_NEED(k->patterns);
	for (size_t i = 0; i < c->n_tensors; i++) {
		char name[256];
		st_name_fold(past_prefix(c->tensors[i].name), name, sizeof name);
		k->patterns[i] = st_arena_strndup(&k->arena, name, strlen(name));
		ST_NEED(k->patterns[i]);
	}
	qsort(k->patterns, c->n_tensors, sizeof *k->patterns, by_text);
	for (size_t i = 0; i < c->n_tensors; i++)
		if (i == 0 || strcmp(k->patterns[i], k->patterns[k->n_patterns - 1]) != 0)
			k->patterns[k->n_patterns++] = k->patterns[i];
	return ST_OK;
}

static size_t pattern_of(const struct st_draft *k, const char *source)
{
	char name[256];
	const char *key = name;
	st_name_fold(past_prefix(source), name, sizeof name);
	const char **hit = bsearch(&key, k->patterns, k->n_patterns, sizeof *k->patterns, by_text);
	return hit ? (size_t)(hit - k->patterns) : SIZE_MAX;
}

static const char *tail_of_pattern(const char *pattern)
{
	const char *layer = strstr(pattern, "#.");
	return layer && (layer == pattern || layer[-1] == '.') ? layer + 2 : pattern;
}

/* The likeness of a tensor's name to any source of a weight. */
static double like_any(const struct st_draft *k, const struct st_family_weight *w, const char *pattern)
{
	double best = 0;
	for (uint32_t s = 0; s < w->n_sources[k->where]; s++) {
		const char *source = w->sources[k->where][s].name, *layer = strstr(source, "#.");
		double v = st_name_likeness(layer ? layer + 2 : source, tail_of_pattern(pattern));
		best = v > best ? v : best;
	}
	return best;
}

/* Tensors without a weight and weights without a tensor, each the less the liker its name is to some other; 0: every name is
 * one of the page's. */
static double light_cost(const struct st_draft *k, const struct st_family *f)
{
	double cost = 0;
	double *like = st_alloc_zeroed(k->n_patterns + 1, sizeof *like);
	if (!like)
		return 1e9;
	for (uint32_t i = 0; i < f->n_weights; i++) {
		const struct st_family_weight *w = &f->weights[i];
		double best = 0;
		for (uint32_t s = 0; s < w->n_sources[k->where]; s++) {
			size_t at = pattern_of(k, w->sources[k->where][s].name);
			if (at != SIZE_MAX)
				best = like[at] = 1;
		}
		for (size_t n = 0; n < k->n_patterns && best < 1 && w->n_sources[k->where]; n++) {
			double v = 0.9 * like_any(k, w, k->patterns[n]);
			best = v > best ? v : best;
			like[n] = v > like[n] ? v : like[n];
		}
		if (w->n_sources[k->where])
			cost += (1 - best) * (w->optional ? 0.3 : w->condition.n ? 1 : 4);
	}
	for (size_t n = 0; n < k->n_patterns; n++)
		cost += 4 * (1 - like[n]);
	free(like);
	return cost;
}

/* ---- a page under another name ---- */

static const char *group_text(const char *name, size_t n)
{
	for (size_t i = 0; i < st_family_text_count; i++)
		if (strlen(st_family_texts[i].family) == n && memcmp(st_family_texts[i].family, name, n) == 0
		    && strstr(st_family_texts[i].name, ".keys"))
			return st_family_texts[i].text;
	return NULL;
}

/* A line, in which `model == "NAME"` is known. */
static void put_line(FILE *out, const char *s, size_t n, const char *model)
{
	static const char equal[] = "model == \"", unequal[] = "model != \"";
	size_t k = sizeof equal - 1;
	const char *end = s + n;
	while (s < end) {
		bool is = (size_t)(end - s) > k && memcmp(s, equal, k) == 0,
		     isnt = (size_t)(end - s) > k && memcmp(s, unequal, k) == 0;
		const char *close = is || isnt ? memchr(s + k, '"', (size_t)(end - s) - k) : NULL;
		if (!close) {
			fputc(*s++, out);
			continue;
		}
		bool same = strlen(model) == (size_t)(close - s) - k && memcmp(s + k, model, strlen(model)) == 0;
		fputs(same == is ? "true" : "false", out);
		s = close + 1;
	}
	fputc('\n', out);
}

/* Whether a line between two places begins with the same word as `line`: a page that spells a key of a group itself does so
 * above the group. */
static bool is_spelled(const char *from, const char *to, const char *line)
{
	size_t n = strcspn(line, " \t\n") + 1;
	if (strncmp(line, "let ", 4) == 0 || strncmp(line, "require ", 8) == 0 || strncmp(line, "harmless ", 9) == 0)
		return false;
	for (const char *s = from; s < to; s += strcspn(s, "\n") + 1)
		if (strncmp(s, line, n) == 0 && line[n - 1] == ' ')
			return true;
	return false;
}

/* Of a new family nobody knows what APR files of it are. */
static bool is_of_apr(const char *line, size_t n)
{
	return (n > 4 && memcmp(line, "apr ", 4) == 0) || (n == 7 && memcmp(line, "use apr", 7) == 0);
}

/* The page, named as the file is, with its groups of keys written out, so that a porter can change them; `model`: which of the
 * page's names the file would have. */
static char *page_text(const struct st_draft *k, const struct st_family_text *page, const char *model)
{
	char *text = NULL, name[64];
	size_t size, n = 0;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	for (const char *s = k->own; *s && n < sizeof name - 1; s++)
		name[n++] = (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') ? *s
		          : *s >= 'A' && *s <= 'Z'                               ? (char)(*s + 32)
		                                                                 : '_';
	name[n] = '\0';
	fprintf(out, "family %s%s\n", name[0] >= '0' && name[0] <= '9' ? "m" : "", name);
	if (k->where == ST_SPELLING_GGUF)
		fprintf(out, "gguf   %s\n", k->own);
	else
		fprintf(out, "config %s%s%s\n", k->own, k->names[1] ? " " : "", k->names[1] ? k->names[1] : "");
	const char *s = strstr(page->text, "\n[keys]\n");
	const char *keys = s ? s + 1 : page->text;
	for (s = keys; *s;) {
		size_t len = strcspn(s, "\n");
		const char *group = NULL;
		if (len > 4 && memcmp(s, "use ", 4) == 0) {
			size_t word = strcspn(s + 4, " \n");
			bool as_is = word == 6 && memcmp(s + 4, "common", 6) == 0;
			group = as_is || is_of_apr(s, len) ? NULL : group_text(s + 4, word);
		}
		for (const char *g = group; g && *g; g += strcspn(g, "\n") + 1)
			if (*g != '#' && *g != '\n' && !is_spelled(keys, s, g))
				put_line(out, g, strcspn(g, "\n"), model);
		if (!group && !is_of_apr(s, len))
			put_line(out, s, len, model);
		s += len + (s[len] == '\n');
	}
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static double cost_of(const struct st_draft *k, const struct st_draft_trial *t)
{
	const struct st_described *d = t->d;
	double cost = 4.0 * (double)(d->n_absent + d->n_faults) + 3.0 * (double)d->n_unused + (double)d->n_unread
	            + (double)t->changes;
	if (!d->bound)
		cost += 6 + light_cost(k, t->f);
	else if (d->problem.code != ST_OK && d->n_faults == 0)
		cost += 6;
	return cost;
}

/* Binds a text; what is no page any more is an error of ours. */
static enum st_status bind(struct st_draft *k, struct st_draft_trial *t)
{
	ST_TRY(st_family_parse("draft", t->text, strlen(t->text), &t->f, k->err));
	ST_TRY(st_described_try(k->c, t->f, &t->d, k->err));
	t->cost = cost_of(k, t);
	return ST_OK;
}

static enum st_status edits_for(struct st_draft *k, struct st_draft_edits *e)
{
	struct st_error *err = k->err;
	*e = (struct st_draft_edits){ .arena = &k->arena };
	e->line = st_arena_alloc(&k->arena, ST_DRAFT_LINES, sizeof *e->line);
	e->front = st_arena_alloc(&k->arena, ST_DRAFT_LINES, sizeof *e->front);
	ST_NEED(e->line && e->front);
	return ST_OK;
}

/* Names are looked for again as long as that helps: with a key found, shapes are known that tell tensors. */
static enum st_status improve(struct st_draft *k, struct st_draft_trial *t)
{
	struct st_draft_edits e;
	for (int round = 0; round < MOST_ROUNDS && t->cost > 0; round++) {
		ST_TRY(edits_for(k, &e));
		st_draft_rename_keys(k, t, &e);
		if (t->d->n_absent == 0)
			st_draft_rename_tensors(k, t, &e);
		if (e.changes == 0)
			return ST_OK;
		struct st_draft_trial next = { .page = t->page,
			                       .likeness = t->likeness,
			                       .changes = t->changes + e.changes,
			                       .text = st_draft_apply(t, &e, "") };
		enum st_status st = next.text ? bind(k, &next) : st_fail(k->err, ST_ERR_NOMEM, "no memory for a draft");
		if (st == ST_ERR_FORMAT) { /* a name that has no place in a page: it is left alone */
			st_error_clear(k->err);
			end_trial(&next);
			return ST_OK;
		}
		if (st != ST_OK) {
			end_trial(&next);
			return st;
		}
		end_trial(t);
		*t = next;
	}
	return ST_OK;
}

/* "llama if expert_count": whether the file could be called so. */
static bool can_be(const struct st_draft *k, const struct st_family_name *name)
{
	char key[192];
	if (!name->key)
		return true;
	snprintf(key, sizeof key, "%.90s.%.90s", k->own, name->key);
	const struct st_kv *kv = st_kv_find(&k->c->keys, key);
	bool holds = kv && kv->type != ST_KV_STR && kv->type != ST_KV_ARR && st_kv_number(kv->type, kv->data) != 0;
	return holds != name->unless;
}

static bool is_better(const struct st_draft_trial *a, const struct st_draft_trial *b)
{
	if (!b->text || a->cost != b->cost)
		return !b->text || a->cost < b->cost;
	return a->likeness > b->likeness;
}

/* The page under each of its names that change what it says. */
static enum st_status try_page(struct st_draft *k, size_t page, const struct st_family *as_is, double likeness)
{
	const struct st_family_text *p = &st_family_texts[page];
	double least = 1e9;
	bool depends = strstr(p->text, "model == \"") || strstr(p->text, "model != \"");
	for (uint32_t i = 0; i < as_is->n_names[k->where]; i++) {
		const struct st_family_name *name = &as_is->names[k->where][i];
		struct st_draft_trial t = { .page = page, .likeness = likeness };
		if (!can_be(k, name))
			continue;
		t.text = page_text(k, p, name->name);
		enum st_status st = t.text ? bind(k, &t) : st_fail(k->err, ST_ERR_NOMEM, "no memory for a draft");
		if (st == ST_OK)
			st = improve(k, &t);
		least = st == ST_OK && t.cost < least ? t.cost : least;
		if (st == ST_OK && is_better(&t, &k->best)) {
			end_trial(&k->best);
			k->best = t;
		} else {
			end_trial(&t);
		}
		ST_TRY(st);
		if (!depends)
			break;
	}
	k->tried[k->n_tried].page = page;
	k->tried[k->n_tried++].cost = least;
	return st_check_cancel(k->err);
}

struct rank {
	size_t page;
	double cost;
	double likeness;
	struct st_family *f;
};

static int by_rank(const void *x, const void *y)
{
	const struct rank *a = x, *b = y;
	if (a->cost != b->cost)
		return a->cost < b->cost ? -1 : 1;
	return a->likeness != b->likeness ? (a->likeness > b->likeness ? -1 : 1)
	                                  : (a->page > b->page) - (a->page < b->page);
}

/* The likeness of the file's name to any name of the family. */
static double like_family(const struct st_draft *k, const struct st_family *f)
{
	double best = st_name_likeness(k->own, f->name);
	for (int where = 0; where < ST_SPELLINGS; where++)
		for (uint32_t i = 0; i < f->n_names[where]; i++) {
			double v = st_name_likeness(f->names[where][i].name, k->own);
			double w = k->names[1] ? st_name_likeness(f->names[where][i].name, k->names[1]) : 0;
			best = v > best ? v : best;
			best = w > best ? w : best;
		}
	return best;
}

static enum st_status choose(struct st_draft *k, const char *from)
{
	struct st_error *err = k->err;
	struct rank *ranks = st_alloc_array(st_family_text_count, sizeof *ranks);
	size_t n = 0;
	enum st_status st = ST_OK;
	ST_NEED(ranks);
	for (size_t i = 0; i < st_family_text_count; i++) {
		const struct st_family_text *t = &st_family_texts[i];
		struct rank *r = &ranks[n];
		if (strstr(t->name, ".keys") || (from && strcmp(from, t->family) != 0))
			continue;
		ST_TRY_OUT(st_family_parse(t->name, t->text, t->size, &r->f, err));
		*r = (struct rank){ i, light_cost(k, r->f), like_family(k, r->f), r->f };
		n++;
	}
	qsort(ranks, n, sizeof *ranks, by_rank);
	for (size_t i = 0; i < n && k->n_tried < ST_DRAFT_TRIED; i++)
		if (ranks[i].f->n_names[k->where])
			ST_TRY_OUT(try_page(k, ranks[i].page, ranks[i].f, ranks[i].likeness));
	k->chosen = k->best.cost;
	if (!k->best.text)
		st = from ? st_fail(err, ST_ERR_UNSUPPORTED, "the page %.60s is not of this kind of file", from)
		          : st_fail(err, ST_ERR_UNSUPPORTED, "is near to no family that is built in");
out:
	for (size_t i = 0; i < n; i++)
		st_family_close(ranks[i].f);
	free(ranks);
	return st;
}

static size_t count_marks(const char *text)
{
	size_t n = 0;
	for (const char *s = strstr(text, "# ? "); s; s = strstr(s + 1, "# ? "))
		n++;
	return n;
}

/* Pages that fit as well: which of the graphs is meant cannot be told. */
static const char *equals(const struct st_draft *k, double cost, char *buf, size_t size)
{
	size_t n = 0;
	buf[0] = '\0';
	for (size_t i = 0; i < k->n_tried && n < size && k->best.likeness < 1; i++)
		if (k->tried[i].cost == cost && k->tried[i].page != k->best.page)
			n += (size_t)snprintf(buf + n, size - n, "%s%s",
			                      n ? ", " : "# ? As near, and maybe with another graph: ",
			                      st_family_texts[k->tried[i].page].family);
	if (n && n + 2 < size)
		snprintf(buf + n, size - n, ".\n");
	return buf;
}

static enum st_status write_out(struct st_draft *k)
{
	struct st_draft_edits e;
	struct st_error *err = k->err;
	char head[1600], also[400];
	const char *page = st_family_texts[k->best.page].family;
	ST_TRY(edits_for(k, &e));
	st_draft_mark(k, &k->best, &e);
	char *body = st_draft_apply(&k->best, &e, "");
	ST_NEED(body);
	k->out.n_marks = count_marks(body);
	free(body);
	k->out.nearest = page;
	k->out.fits = k->out.n_marks == 0 && !*equals(k, k->chosen, also, sizeof also)
	           && k->best.d->problem.code == ST_OK && k->best.d->n_unused == 0 && k->best.d->n_unread == 0;
	snprintf(
		head, sizeof head,
		"# Drafted from the built-in page %s, %s. %s\n"
		"# What they do not tell is taken from %s: activations, the order of operations, scales. Hold it against the model's\n"
		"# own code, then against its numbers: stele family check, and stele diff with a trace of the other program.\n%s",
		page, k->asked ? "as asked" : "whose names, shapes and keys are nearest",
		k->out.n_marks ? "What differs is marked with \"?\"."
		: k->out.fits  ? "Nothing in the file differs."
			       : "",
		page, equals(k, k->chosen, also, sizeof also));
	char *text = st_draft_apply(&k->best, &e, head);
	ST_NEED(text);
	k->out.text = st_arena_strndup(&k->arena, text, strlen(text));
	free(text);
	ST_NEED(k->out.text);
	return ST_OK;
}

enum st_status st_family_draft(const char *model, const char *from, struct st_family_draft **out, struct st_error *err)
{
	struct st_draft *k = st_alloc_zeroed(1, sizeof *k);
	ST_NEED(k);
	st_arena_init(&k->arena);
	k->err = err;
	k->asked = from != NULL;
	enum st_status st = st_container_open(model, &k->c, err);
	if (st == ST_OK && k->c->n_tensors == 0)
		st = st_fail(err, ST_ERR_FORMAT, "holds no tensors");
	if (st == ST_OK)
		st = read_names(k);
	if (st == ST_OK)
		st = find_patterns(k);
	if (st == ST_OK)
		st = choose(k, from);
	if (st == ST_OK)
		st = write_out(k);
	if (st != ST_OK) {
		st_error_in(err, model);
		st_family_draft_close(&k->out);
		return st;
	}
	*out = &k->out;
	return ST_OK;
}
