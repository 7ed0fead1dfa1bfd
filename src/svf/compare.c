/*
 * compare.c - two reports, measured again from the stage files they name. A report's own verdict is a claim to be
 * checked.
 */
#include "svf/compare.h"

#include "base/error.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- measuring ---- */

static enum st_status digest_of(const struct st_svf_set *s, size_t i, char hex[65], bool *known, struct st_error *err)
{
	*known = s->digest[i] != NULL;
	if (*known)
		snprintf(hex, 65, "%s", s->digest[i]);
	if (!s->t[i] || s->t[i]->layout != ST_LAYOUT_ROWS)
		return ST_OK;
	*known = true;
	return st_sha256_hex(s->t[i]->data, s->t[i]->n_bytes, hex, err);
}

/* Where one side at least keeps a digest, equality is all that can be said. */
static enum st_status measure_digests(struct st_svf_comparison *c, const struct st_svf_match *m, size_t i,
                                      struct st_svf_check *k, struct st_error *err)
{
	const struct st_svf_tolerance *tol = &c->profile.stage[i];
	char hex[2][65] = { "", "" };
	bool known[2], sound = true;
	for (int side = 0; side < 2; side++) {
		ST_TRY(digest_of(m->set[side], i, hex[side], &known[side], err));
		sound &= m->set[side]->t[i] || st_svf_record_sound(m->set[side]->record[i]);
	}
	k->byte_match = k->shape_match = known[0] && known[1] && strcmp(hex[0], hex[1]) == 0;
	k->passed = k->byte_match && sound;
	/* Numbers that stand on one side alone: they too must be finite. */
	const struct st_tensor *t = m->set[0]->t[i] ? m->set[0]->t[i] : m->set[1]->t[i];
	if (!k->passed || !t)
		return ST_OK;
	ST_TRY(st_distance_of(&k->m, t, t, c->pool, err));
	k->passed = st_svf_passed(&k->m, tol);
	return ST_OK;
}

static enum st_status measure(struct st_svf_comparison *c, struct st_svf_match *m, struct st_error *err)
{
	m->first = -1;
	for (size_t i = 0; i < ST_SVF_STAGES; i++) {
		const struct st_tensor *a = m->set[0]->t[i], *b = m->set[1]->t[i];
		const struct st_svf_tolerance *tol = &c->profile.stage[i];
		struct st_svf_check *k = &m->check[i];
		k->m.want = c->o->top < ST_DISTANCE_TOP ? c->o->top : ST_DISTANCE_TOP;
		k->m.by_ulps = i == ST_SVF_FINAL_BF16;
		k->measured = a && b && st_svf_same_shape(a->ndim, a->shape, b->ndim, b->shape);
		if (k->measured) {
			ST_TRY(st_distance_of(&k->m, a, b, c->pool, err));
			k->shape_match = true;
			k->byte_match = k->m.bits == 0 && a->dtype == b->dtype;
			k->passed = st_svf_passed(&k->m, tol);
		} else if (!a || !b) {
			ST_TRY(measure_digests(c, m, i, k, err));
		}
		if (m->first < 0 && tol->required && !k->passed)
			m->first = (int)i;
	}
	return ST_OK;
}

/* ---- what both have ---- */

/* Where one side took its source from the other's stage file, the report says so and the bytes are the same: that is
 * where the source comes from, and no check of it. Where both took theirs from a third, nothing was shown. */
static bool copied(struct st_svf_comparison *c)
{
	const struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	c->unproved = a->copies && b->copies && c->profile.stage[ST_SVF_SOURCE].required;
	if (a->copies && b->copies)
		return true;
	return (a->copies && b->python && st_svf_made_for(a, b)) || (b->copies && a->python && st_svf_made_for(b, a));
}

static bool complete(const struct st_svf_set *s)
{
	for (size_t i = 0; i < ST_SVF_STAGES; i++)
		if (!s->t[i] && !s->digest[i])
			return false;
	return true;
}

static const struct st_svf_set *partner(const struct st_svf_side *s, const struct st_svf_set *of)
{
	for (size_t i = 0; i < s->n_sets; i++)
		if (s->sets[i].target == of->target && strcmp(s->sets[i].source_name, of->source_name) == 0)
			return &s->sets[i];
	return NULL;
}

static bool asked(const struct st_svf_side *s, const struct st_svf_claim *t)
{
	return (!s->only || strcmp(t->source, s->only) == 0)
	    && (!s->filter || strstr(t->source, s->filter) || (t->target && strstr(t->target, s->filter)));
}

/* Whether a side's report calls this tensor the sample. */
static bool is_sample(const struct st_svf_side *s, const char *source)
{
	const char *name = st_svf_text_in(json_object_get(s->json, "reference"), "source_name");
	return name && strcmp(name, source) == 0;
}

/* Every tensor that either side names, once; of these, the ones that both sides were asked for. */
static enum st_status expect(struct st_svf_comparison *c, const char ***expected, struct st_error *err)
{
	const char **seen = st_arena_alloc2(&c->arena, 2, c->side[0].n_claimed + c->side[1].n_claimed, sizeof *seen);
	ST_NEED(seen);
	*expected = seen + c->side[0].n_claimed + c->side[1].n_claimed;
	for (size_t side = 0; side < 2; side++)
		for (size_t i = 0; i < c->side[side].n_claimed; i++) {
			const struct st_svf_claim *t = &c->side[side].claimed[i];
			size_t k = 0;
			while (k < c->n_selected && strcmp(seen[k], t->source) != 0)
				k++;
			if (k < c->n_selected)
				continue;
			seen[c->n_selected++] = t->source;
			if (asked(&c->side[0], t) && asked(&c->side[1], t))
				(*expected)[c->n_expected++] = t->source;
			else if (is_sample(&c->side[0], t->source) || is_sample(&c->side[1], t->source))
				c->sample_left_out = c->o->strict_python || c->o->strict_reference;
		}
	return ST_OK;
}

static enum st_status match(struct st_svf_comparison *c, struct st_error *err)
{
	struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	const char **expected;
	bool copies = copied(c);
	ST_TRY(expect(c, &expected, err));
	c->matches = st_arena_alloc(&c->arena, a->n_sets + 1, sizeof *c->matches);
	c->missing = st_arena_alloc(&c->arena, c->n_expected + 1, sizeof *c->missing);
	ST_NEED(c->matches && c->missing);
	for (size_t i = 0; i < a->n_sets; i++) {
		const struct st_svf_set *p = partner(b, &a->sets[i]);
		if (p)
			c->matches[c->n_matches++] = (struct st_svf_match){ .name = a->sets[i].source_name,
				                                            .target = a->sets[i].target,
				                                            .set = { &a->sets[i], p },
				                                            .copied = copies };
	}
	for (size_t i = 0; i < c->n_expected; i++) {
		/* In either orientation, and in both where both sides have both. */
		bool found = false, whole = true;
		for (size_t k = 0; k < c->n_matches; k++)
			if (strcmp(c->matches[k].name, expected[i]) == 0) {
				found = true;
				whole &= complete(c->matches[k].set[0]) && complete(c->matches[k].set[1]);
			}
		c->n_covered += found && whole && !c->unproved;
		if (!found || !whole)
			c->missing[c->n_missing++] = expected[i];
	}
	return ST_OK;
}

/* ---- the run ---- */

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;
	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Evidence compared with itself agrees, whatever it is. */
static enum st_status refuse_same(const struct st_svf_comparison *c, struct st_error *err)
{
	const struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	static const char words[] = "is the %s of both sides; compared with itself it proves nothing";
	if (same_file(a->path, b->path) || json_equal(a->json, b->json))
		return st_in_file(b->path, st_fail(err, ST_ERR_USAGE, words, "report"), err);
	for (size_t i = 0; i < a->n_containers; i++)
		for (size_t k = 0; k < b->n_containers; k++) {
			const char *path = st_container_path(b->containers[k]);
			if (same_file(st_container_path(a->containers[i]), path))
				return st_in_file(path, st_fail(err, ST_ERR_MISMATCH, words, "stage file"), err);
		}
	return ST_OK;
}

static enum st_status run(struct st_svf_comparison *c, struct st_error *err)
{
	ST_TRY(st_pool_open(c->o->threads, &c->pool, err));
	ST_TRY(st_svf_profile_read(c->o->tolerances, &c->profile, err));
	ST_TRY(st_svf_side_open(c, &c->side[0], c->o->a, err));
	ST_TRY(st_svf_side_open(c, &c->side[1], c->o->b, err));
	ST_TRY(refuse_same(c, err));
	ST_TRY(match(c, err));
	for (size_t i = 0; i < c->n_matches; i++) {
		st_hooks_progress(&c->o->hooks, c->matches[i].name, i, c->n_matches);
		ST_TRY(measure(c, &c->matches[i], err));
	}
	if (c->side[0].tie != c->side[1].tie)
		st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, NULL, -1, true, "A handles tied tensors by %s, B by %s",
		            st_svf_ties[c->side[0].tie], st_svf_ties[c->side[1].tie]);
	ST_TRY(st_svf_check_files(c, err));
	st_svf_diagnose(c);
	st_svf_check_claims(c);
	st_svf_check_hashes(c);
	return c->lost ? st_fail(err, ST_ERR_NOMEM, "out of memory") : ST_OK;
}

enum st_status st_svf_compare(const struct st_svf_compare_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_comparison c = { .o = o, .side = { { .name = 'A' }, { .name = 'B' } } };
	*r = (struct st_svf_result){ 0 };
	st_arena_init(&c.arena);
	enum st_status st = run(&c, err);
	if (st == ST_OK) {
		r->text = st_svf_compare_text(&c);
		r->json = st_svf_compare_json(&c);
		r->exit_status = strcmp(st_svf_verdict(&c), "match") != 0;
		if (!r->text || !r->json) {
			st_svf_result_release(r);
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
	}
	st_svf_side_close(&c.side[0]);
	st_svf_side_close(&c.side[1]);
	free(c.findings);
	st_arena_release(&c.arena);
	st_pool_close(c.pool);
	return st;
}
