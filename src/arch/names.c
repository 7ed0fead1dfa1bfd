/*
 * names.c - how one file calls its weights: in which language, behind which prefix, in which wrappers.
 *
 * Training leaves names behind: torch.compile, data parallelism and checkpointing wrap a module and put their own name
 * into its path, PEFT and Lightning put one in front. The weights are the same, so the names are read without them, and
 * the container's description says so.
 */
#include "arch/model_state.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* Parts of a path that wrappers put in anywhere; the last is PEFT's, of whose adapters nothing is left then
 * (strangers.c). */
static const char *const wrappers[] = { "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module",
	                                "base_layer" };
#define N_WRAPPERS (sizeof wrappers / sizeof *wrappers)

/* Does a part of the path, up to a dot, begin at s that is a wrapper's? Its length with the dot, or 0. */
static size_t wrapper_at(const char *s, size_t *which)
{
	for (size_t i = 0; i < N_WRAPPERS; i++) {
		size_t n = strlen(wrappers[i]);
		if (strncmp(s, wrappers[i], n) == 0 && s[n] == '.') {
			*which = i;
			return n + 1;
		}
	}
	return 0;
}

/* The name without the parts of wrappers, into a buffer of its own length; whether there were any, as bits. */
static unsigned unwrap(const char *name, char *to)
{
	unsigned found = 0;
	for (bool begin = true; *name;) {
		size_t which, n = begin ? wrapper_at(name, &which) : 0;
		if (n) {
			found |= 1u << which;
			name += n;
			continue;
		}
		begin = *name == '.';
		*to++ = *name++;
	}
	*to = '\0';
	return found;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct st_plain_name *)a)->name, ((const struct st_plain_name *)b)->name);
}

/* Every tensor by its name without wrappers; nothing where no name has one. */
static enum st_status index_plain(struct st_naming *n, struct st_error *err)
{
	const struct st_container *c = n->c;
	size_t which;
	bool any = false;
	for (size_t i = 0; i < c->n_tensors && !any; i++)
		for (const char *p = c->tensors[i].name; p && !any; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
			any = wrapper_at(p, &which) > 0;
	if (!any)
		return ST_OK;
	n->plain = st_arena_alloc(n->arena, c->n_tensors, sizeof *n->plain);
	if (!n->plain)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	for (size_t i = 0; i < c->n_tensors; i++) {
		const char *name = c->tensors[i].name;
		char *plain = st_arena_strndup(n->arena, name, strlen(name));
		if (!plain)
			return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
		n->wrapped |= unwrap(name, plain);
		n->plain[n->n++] = (struct st_plain_name){ plain, &c->tensors[i] };
	}
	qsort(n->plain, n->n, sizeof *n->plain, by_name);
	for (size_t i = 1; i < n->n; i++)
		if (strcmp(n->plain[i - 1].name, n->plain[i].name) == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, n->plain[i].tensor->name,
			                  "and %s are one weight once the wrappers in their names are taken off",
			                  n->plain[i - 1].tensor->name);
	return ST_OK;
}

static const struct st_tensor *find(const struct st_naming *n, const char *name)
{
	if (!n->plain)
		return st_container_find(n->c, name);
	const struct st_plain_name key = { name, NULL }, *hit = bsearch(&key, n->plain, n->n, sizeof key, by_name);
	return hit ? hit->tensor : NULL;
}

/* A file speaks one language. Two at once (a text model twice, under two prefixes) is nothing to guess about. */
static enum st_status two(const char *name, const char *seen, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name,
	                  "and %s: two embeddings, which model is meant is unclear", seen);
}

/* What a file is searched for to find its prefix: the embedding or, where the head alone is stored, a norm. */
static const char *const anchors[] = { "embed_tokens.weight", "layers.0.input_layernorm.weight" };

/* One of the prefixes that published models have, whole. */
static enum st_status known_prefix(struct st_naming *n, const char *anchor, const char **seen, struct st_error *err)
{
	char name[128];
	for (size_t i = 0; i < st_hf_prefix_count; i++) {
		snprintf(name, sizeof name, "%s%s", st_hf_prefixes[i].text, anchor);
		const struct st_tensor *t = find(n, name);
		if (!t)
			continue;
		if (*seen)
			return two(t->name, *seen, err);
		n->prefix = st_hf_prefixes[i];
		*seen = t->name;
	}
	return ST_OK;
}

/* Does a name end in this, with something in front that ends at a dot? */
static bool has_front(const char *name, const char *tail, size_t *front)
{
	size_t len = strlen(name), n = strlen(tail);
	*front = len > n ? len - n : 0;
	return *front && name[*front - 1] == '.' && strcmp(name + *front, tail) == 0;
}

/* That is what stands in front of all names, and a prefix of the usual ones behind it. */
static enum st_status set_front(struct st_naming *n, const char *name, size_t length, const struct st_hf_prefix *p,
                                struct st_error *err)
{
	char *front = st_arena_strndup(n->arena, name, length);
	char *text = st_arena_printf(n->arena, "%s%s", front ? front : "", p->text);
	char *head = st_arena_printf(n->arena, "%s%s", front ? front : "", p->head);
	if (!front || !text || !head)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	n->front = front;
	n->prefix = (struct st_hf_prefix){ text, head };
	return ST_OK;
}

/* Whatever stands in front of a known prefix, the same in front of all names. */
static enum st_status longer_prefix(struct st_naming *n, const char *anchor, const char **seen, struct st_error *err)
{
	static const size_t longest_first[] = { 3, 2, 0, 1 }; /* of st_hf_prefixes: model.language_model. ... nothing */
	for (size_t i = 0; i < n->c->n_tensors; i++) {
		const char *name = n->plain ? n->plain[i].name : n->c->tensors[i].name;
		for (size_t k = 0; k < sizeof longest_first / sizeof *longest_first; k++) {
			const struct st_hf_prefix *p = &st_hf_prefixes[longest_first[k]];
			char tail[128];
			size_t front;
			snprintf(tail, sizeof tail, "%s%s", p->text, anchor);
			if (!has_front(name, tail, &front))
				continue;
			if (*seen)
				return two(name, *seen, err);
			ST_TRY(set_front(n, name, front, p, err));
			*seen = name;
			break;
		}
	}
	return ST_OK;
}

/* Names that do not begin with "model.": as they are, or behind something. */
static enum st_status other_names(struct st_naming *n, const char *anchor, const char **seen, struct st_error *err)
{
	const struct st_tensor *t = find(n, anchor);
	*seen = t ? t->name : NULL;
	for (size_t i = 0; i < n->c->n_tensors && !t; i++) {
		const char *name = n->plain ? n->plain[i].name : n->c->tensors[i].name;
		size_t front;
		if (!has_front(name, anchor, &front))
			continue;
		if (*seen)
			return two(name, *seen, err);
		ST_TRY(set_front(n, name, front, &st_hf_prefixes[0], err));
		*seen = name;
	}
	return ST_OK;
}

/* Each tensor's name without all that, for questions about tensors that have no place. */
static enum st_status list_own(struct st_naming *n, struct st_error *err)
{
	size_t skip = n->front ? strlen(n->front) : 0;
	if (!n->plain && !n->front)
		return ST_OK;
	n->own = st_arena_alloc(n->arena, n->c->n_tensors, sizeof *n->own);
	if (!n->own)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	for (size_t i = 0; i < n->c->n_tensors; i++)
		n->own[i] = n->c->tensors[i].name;
	for (size_t i = 0; i < n->n; i++)
		n->own[n->plain[i].tensor - n->c->tensors] = n->plain[i].name;
	for (size_t i = 0; i < n->c->n_tensors; i++)
		if (skip && strncmp(n->own[i], n->front, skip) == 0)
			n->own[i] += skip;
	return ST_OK;
}

enum st_status st_naming_say(const struct st_naming *n, struct st_container *c, struct st_error *err)
{
	char text[256];
	size_t at = 0;
	if (n->front)
		at += (size_t)snprintf(text + at, sizeof text - at, "%.80s", n->front);
	for (size_t i = 0; i < N_WRAPPERS; i++)
		if (n->wrapped & 1u << i)
			at += (size_t)snprintf(text + at, sizeof text - at, "%s%s.", at ? " and " : "", wrappers[i]);
	if (at == 0)
		return ST_OK;
	char *said = st_arena_printf(&c->arena, "%s, names read without %s (%s of wrappers)", c->describe, text,
	                             strchr(text, ' ') ? "prefixes" : "a prefix");
	if (!said)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	c->describe = said;
	return ST_OK;
}

enum st_status st_naming_find(struct st_naming *n, const struct st_container *c, const char *anchor,
                              struct st_arena *arena, struct st_error *err)
{
	const char *seen = NULL;
	/* A missing embedding is reported under its usual name. */
	*n = (struct st_naming){ .c = c, .arena = arena, .prefix = st_hf_prefixes[0] };
	if (c->format == ST_FORMAT_GGUF || st_container_find(c, "token_embd.weight")) {
		n->gguf = true;
		seen = "token_embd.weight";
	}
	if (c->format == ST_FORMAT_GGUF)
		return ST_OK;
	ST_TRY(index_plain(n, err));
	for (size_t i = 0; i < sizeof anchors / sizeof *anchors && !seen; i++) {
		ST_TRY(known_prefix(n, anchors[i], &seen, err));
		if (!seen)
			ST_TRY(longer_prefix(n, anchors[i], &seen, err));
	}
	if (!seen && anchor)
		ST_TRY(other_names(n, anchor, &seen, err));
	if (n->gguf)
		ST_TRY(known_prefix(n, anchors[0], &seen, err));
	n->found = seen != NULL;
	return list_own(n, err);
}

const struct st_tensor *st_naming_look_up(const struct st_naming *n, const char *name)
{
	static const char model[] = "model.";
	size_t k = sizeof model - 1;
	char other[400];
	const struct st_tensor *t = NULL;
	if (n->found && strcmp(name, "lm_head.weight") == 0) {
		t = find(n, n->prefix.head);
	} else if (n->found && strncmp(name, model, k) == 0) {
		snprintf(other, sizeof other, "%s%s", n->prefix.text, name + k);
		t = find(n, other);
	} else if (n->front) {
		snprintf(other, sizeof other, "%s%s", n->front, name);
		t = find(n, other);
	}
	return t ? t : find(n, name);
}

const char *st_naming_own(const struct st_naming *n, const struct st_tensor *t)
{
	return n->own ? n->own[t - n->c->tensors] : t->name;
}

bool st_naming_is_beside(const struct st_naming *n, const struct st_tensor *t)
{
	struct st_name_parts p;
	st_name_take_apart(st_naming_own(n, t), &p);
	return p.layer < 0 && !n->gguf && strncmp(t->name, n->prefix.text, strlen(n->prefix.text)) != 0
	    && strncmp(st_naming_own(n, t), "lm_head.", 8) != 0;
}
