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

/* Parts of a path that wrappers put in anywhere. */
static const char *const wrappers[] = { "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module" };
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
static enum st_status index_plain(struct st_model *m, unsigned *found, struct st_error *err)
{
	const struct st_container *c = m->c;
	struct st_naming *n = &m->naming;
	size_t which;
	bool any = false;
	for (size_t i = 0; i < c->n_tensors && !any; i++)
		for (const char *p = c->tensors[i].name; p && !any; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
			any = wrapper_at(p, &which) > 0;
	*found = 0;
	if (!any)
		return ST_OK;
	n->plain = st_arena_alloc(&m->arena, c->n_tensors, sizeof *n->plain);
	if (!n->plain)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	for (size_t i = 0; i < c->n_tensors; i++) {
		const char *name = c->tensors[i].name;
		char *plain = st_arena_strndup(&m->arena, name, strlen(name));
		if (!plain)
			return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
		*found |= unwrap(name, plain);
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

static const struct st_tensor *find(const struct st_model *m, const char *name)
{
	const struct st_naming *n = &m->naming;
	if (!n->plain)
		return st_container_find(m->c, name);
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
static enum st_status known_prefix(struct st_model *m, const char *anchor, const char **seen, struct st_error *err)
{
	char name[128];
	for (size_t i = 0; i < st_hf_prefix_count; i++) {
		snprintf(name, sizeof name, "%s%s", st_hf_prefixes[i].text, anchor);
		const struct st_tensor *t = find(m, name);
		if (!t)
			continue;
		if (*seen)
			return two(t->name, *seen, err);
		m->naming.prefix = st_hf_prefixes[i];
		*seen = t->name;
	}
	return ST_OK;
}

/* Whatever stands in front of a known prefix, the same in front of all names. Sets *front to it. */
static enum st_status longer_prefix(struct st_model *m, const char *anchor, const char **seen, const char **front,
                                    struct st_error *err)
{
	static const size_t longest_first[] = { 3, 2, 0, 1 }; /* of st_hf_prefixes: model.language_model. ... nothing */
	for (size_t i = 0; i < m->c->n_tensors; i++) {
		const char *name = m->naming.plain ? m->naming.plain[i].name : m->c->tensors[i].name;
		size_t len = strlen(name);
		for (size_t k = 0; k < sizeof longest_first / sizeof *longest_first; k++) {
			const struct st_hf_prefix *p = &st_hf_prefixes[longest_first[k]];
			char tail[128];
			size_t n = (size_t)snprintf(tail, sizeof tail, "%s%s", p->text, anchor);
			if (len <= n || strcmp(name + len - n, tail) != 0 || name[len - n - 1] != '.')
				continue;
			if (*seen)
				return two(name, *seen, err);
			*front = st_arena_strndup(&m->arena, name, len - n);
			char *text = st_arena_printf(&m->arena, "%s%s", *front ? *front : "", p->text);
			char *head = st_arena_printf(&m->arena, "%s%s", *front ? *front : "", p->head);
			if (!*front || !text || !head)
				return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
			m->naming.prefix = (struct st_hf_prefix){ text, head };
			*seen = name;
			break;
		}
	}
	return ST_OK;
}

/* Each tensor's name without all that, for questions about tensors that have no place. */
static enum st_status list_own(struct st_model *m, const char *front, struct st_error *err)
{
	struct st_naming *n = &m->naming;
	size_t skip = front ? strlen(front) : 0;
	if (!n->plain && !front)
		return ST_OK;
	n->own = st_arena_alloc(&m->arena, m->c->n_tensors, sizeof *n->own);
	if (!n->own)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	for (size_t i = 0; i < m->c->n_tensors; i++)
		n->own[i] = m->c->tensors[i].name;
	for (size_t i = 0; i < n->n; i++)
		n->own[n->plain[i].tensor - m->c->tensors] = n->plain[i].name;
	for (size_t i = 0; i < m->c->n_tensors; i++)
		if (skip && strncmp(n->own[i], front, skip) == 0)
			n->own[i] += skip;
	return ST_OK;
}

/* What was taken off, behind the container's description. */
static enum st_status say(struct st_model *m, unsigned wrapped, const char *front, struct st_error *err)
{
	char text[256];
	size_t n = 0;
	if (front)
		n += (size_t)snprintf(text + n, sizeof text - n, "%.80s", front);
	for (size_t i = 0; i < N_WRAPPERS; i++)
		if (wrapped & 1u << i)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%s.", n ? " and " : "", wrappers[i]);
	if (n == 0)
		return ST_OK;
	char *said = st_arena_printf(&m->c->arena, "%s, names read without %s (%s of wrappers)", m->c->describe, text,
	                             strchr(text, ' ') ? "prefixes" : "a prefix");
	if (!said)
		return st_fail(err, ST_ERR_NOMEM, "no memory for names of weights");
	m->c->describe = said;
	return ST_OK;
}

enum st_status st_naming_find(struct st_model *m, struct st_error *err)
{
	const char *seen = NULL, *front = NULL;
	unsigned wrapped;
	m->naming.prefix = st_hf_prefixes[0]; /* a missing embedding is reported under its usual name */
	if (m->c->format == ST_FORMAT_GGUF || st_container_find(m->c, "token_embd.weight")) {
		m->naming.gguf = true;
		seen = "token_embd.weight";
	}
	if (m->c->format == ST_FORMAT_GGUF)
		return ST_OK;
	ST_TRY(index_plain(m, &wrapped, err));
	for (size_t i = 0; i < sizeof anchors / sizeof *anchors && !seen; i++) {
		ST_TRY(known_prefix(m, anchors[i], &seen, err));
		if (!seen)
			ST_TRY(longer_prefix(m, anchors[i], &seen, &front, err));
	}
	if (m->naming.gguf)
		ST_TRY(known_prefix(m, anchors[0], &seen, err));
	ST_TRY(list_own(m, front, err));
	return say(m, wrapped, front, err);
}

bool st_naming_spell(const struct st_model *m, enum st_role role, uint32_t layer, char *buf, size_t n)
{
	return m->naming.gguf ? st_role_gguf_name(role, layer, buf, n)
	                      : st_role_prefixed_name(&m->naming.prefix, role, layer, buf, n);
}

const struct st_tensor *st_naming_tensor(const struct st_model *m, enum st_role role, uint32_t layer)
{
	char name[256];
	return st_naming_spell(m, role, layer, name, sizeof name) ? find(m, name) : NULL;
}

const char *st_naming_own(const struct st_model *m, const struct st_tensor *t)
{
	return m->naming.own ? m->naming.own[t - m->c->tensors] : t->name;
}
