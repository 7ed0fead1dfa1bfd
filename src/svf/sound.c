/*
 * sound.c - what the stages of one tensor must be by themselves, whatever the other side has: of shapes that fit each
 * other and the report, not empty, finite. Two sides that are wrong alike would otherwise agree.
 */
#include "svf/compare.h"

#include <string.h>

/* SHA-256 of no bytes. */
static const char digest_of_nothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/* ---- shapes ---- */

struct shape {
	size_t ndim;
	uint64_t d[2];
};

/* The shape of the numbers, or the one that is recorded beside a digest. */
static bool shape_of(const struct st_svf_set *set, size_t stage, struct shape *s)
{
	const struct st_tensor *t = set->t[stage];
	*s = (struct shape){ 0 };
	if (!t)
		return st_json_counts(json_object_get(set->record[stage], "shape"), 2, s->d, &s->ndim);
	s->ndim = t->ndim;
	memcpy(s->d, t->shape, (t->ndim < 2 ? t->ndim : 2) * sizeof *s->d);
	return true;
}

/* The source's shape as the report states it. */
static bool stated(const json_t *report, const char *source, struct shape *s)
{
	const json_t *ref = json_object_get(report, "reference"),
		     *ours = json_object_get(report, "selected_tensor_components"),
		     *theirs = json_object_get(json_object_get(report, "python_component_metadata"),
	                                       "selected_tensors");
	const char *sample = st_svf_text_in(ref, "source_name");
	const json_t *places[] = { sample && strcmp(sample, source) == 0 ? ref : NULL,
		                   st_svf_with_text(ours, "source_name", source),
		                   st_svf_with_text(theirs, "source_name", source) };
	for (size_t i = 0; i < 3; i++)
		if (st_json_counts(json_object_get(places[i], "source_shape"), 2, s->d, &s->ndim))
			return true;
	return false;
}

static bool fits(const struct shape *s, const struct st_svf_entry *e, enum st_svf_stage stage, bool turned)
{
	uint64_t want[2] = { 0 }, ndim = st_svf_stage_shape(e, stage, turned, want);
	if (stage == ST_SVF_NORMALIZATION && s->ndim == 0)
		return true; /* a single number may come as a scalar */
	return s->ndim == ndim && s->d[0] == want[0] && (ndim < 2 || s->d[1] == want[1]);
}

static bool shapes(struct st_svf_comparison *c, const struct st_svf_side *side, const struct st_svf_set *set)
{
	struct shape said, source;
	bool is_said = stated(side->json, set->source_name, &said) && said.ndim == 2,
	     is_there = shape_of(set, ST_SVF_SOURCE, &source);
	if (!is_said && !is_there)
		return true;
	const uint64_t *d = is_said ? said.d : source.d;
	const struct st_svf_entry e = { .rows = d[0], .cols = d[1], .k = d[0] < d[1] ? d[0] : d[1] };
	for (int i = 0; i < ST_SVF_STAGES; i++) {
		struct shape s;
		/* Which way round the result should be is a matter between the sides. */
		if (!shape_of(set, (size_t)i, &s) || fits(&s, &e, (enum st_svf_stage)i, false)
		    || fits(&s, &e, (enum st_svf_stage)i, true))
			continue;
		st_svf_find(c, ST_CAUSE_SVF_SHAPES, set->source_name, i, true,
		            "%c's stage has %llu dimensions (%llu, %llu), which does not fit a source of [%llu, %llu]",
		            side->name, (unsigned long long)s.ndim, (unsigned long long)s.d[0],
		            (unsigned long long)s.d[1], (unsigned long long)d[0], (unsigned long long)d[1]);
		return false;
	}
	return true;
}

/* ---- numbers ---- */

bool st_svf_record_sound(const json_t *record)
{
	const char *sha = st_svf_text_in(record, "sha256");
	return sha && strcmp(sha, digest_of_nothing) != 0
	    && json_integer_value(json_object_get(record, "nonfinite")) == 0;
}

static bool numbers(struct st_svf_comparison *c, const struct st_svf_match *m, int side)
{
	const struct st_svf_set *set = m->set[side];
	const char who = c->side[side].name;
	for (int i = 0; i < ST_SVF_STAGES; i++) {
		const struct st_sums *s = &m->check[i].m.s;
		uint64_t bad = side ? s->bad_b : s->bad_a;
		if (set->t[i] ? set->t[i]->n_elems == 0
		              : set->digest[i] && strcmp(set->digest[i], digest_of_nothing) == 0) {
			st_svf_find(c, ST_CAUSE_SVF_EMPTY, set->source_name, i, true, "%c's stage holds no number",
			            who);
			return false;
		}
		if (!set->t[i])
			bad = (uint64_t)json_integer_value(json_object_get(set->record[i], "nonfinite"));
		if (bad) {
			st_svf_find(c, ST_CAUSE_SVF_NOT_FINITE, set->source_name, i, true,
			            "%llu numbers of %c's stage are not finite", (unsigned long long)bad, who);
			return false;
		}
	}
	return true;
}

bool st_svf_sound(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	bool ok = true;
	for (int side = 0; side < 2; side++) {
		ok &= shapes(c, &c->side[side], m->set[side]);
		ok &= numbers(c, m, side);
	}
	return ok;
}
