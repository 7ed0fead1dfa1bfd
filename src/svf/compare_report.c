/* compare_report.c - what a comparison of two reports says, to people and to programs. */
#include "svf/compare.h"

#include <stdio.h>
#include <stdlib.h>

/* A fault before a gap: what was not compared says nothing about what was. */
const char *st_svf_verdict(const struct st_svf_comparison *c)
{
	bool differ = c->n_findings > 0;
	for (size_t i = 0; i < c->n_matches; i++)
		differ |= c->matches[i].first >= 0;
	bool incomplete = c->n_expected == 0 || c->n_covered < c->n_expected || c->sample_left_out;
	return differ ? "differ" : incomplete ? "incomplete" : "match";
}

static const char *const ulp_classes[ST_ULP_CLASSES] = { "0", "1", "2", "3-4", "5-16", "17-256", "more", "not finite" };

/* "[row, column]" of an element. */
static void position(const struct st_tensor *t, uint64_t at, char *buf, size_t n)
{
	if (t->ndim == 2 && t->shape[1])
		snprintf(buf, n, "[%llu, %llu]", (unsigned long long)(at / t->shape[1]),
		         (unsigned long long)(at % t->shape[1]));
	else
		snprintf(buf, n, "[%llu]", (unsigned long long)at);
}

static bool has(const struct st_svf_set *s, size_t i) { return s->t[i] || s->digest[i]; }

static void print_stage(FILE *f, const struct st_svf_comparison *c, const struct st_svf_match *m, size_t s)
{
	const struct st_svf_check *k = &m->check[s];
	const struct st_svf_set *a = m->set[0], *b = m->set[1];
	char at[64];
	fprintf(f, "  %-19s %-8s %-6s %-5s", st_svf_stage_names[s],
	        c->profile.stage[s].required ? "required" : "reported",
	        !k->passed                        ? "FAILED"
	        : m->copied && s == ST_SVF_SOURCE ? "copied"
	                                          : "passed",
	        k->byte_match ? "equal" : "-");
	if (!k->measured) {
		fprintf(f, " %s\n",
		        k->byte_match        ? "(digests)"
		        : a->t[s] && b->t[s] ? "shapes differ"
		        : !has(a, s)         ? "missing in A"
		        : !has(b, s)         ? "missing in B"
		                             : "digests differ");
		return;
	}
	fprintf(f, " max %-9.3g mean %-9.3g differ %llu of %llu\n", k->m.s.max, st_distance_mean(&k->m),
	        (unsigned long long)k->m.mismatched, (unsigned long long)k->m.count);
	if (k->m.s.bad_a || k->m.s.bad_b)
		fprintf(f, "      not finite: %llu in A, %llu in B\n", (unsigned long long)k->m.s.bad_a,
		        (unsigned long long)k->m.s.bad_b);
	for (size_t i = 0; k->m.by_ulps && k->m.mismatched && i < ST_ULP_CLASSES; i++)
		fprintf(f, "%s %s: %llu%s", i ? "," : "      bf16 ulps", ulp_classes[i],
		        (unsigned long long)k->m.ulps[i], i == ST_ULP_CLASSES - 1 ? "\n" : "");
	for (size_t i = 0; i < k->m.n_worst && (i == 0 || !k->passed); i++) {
		position(a->t[s], k->m.worst[i].index, at, sizeof at);
		fprintf(f, "      %s %s: %.9g, %.9g\n", i ? "then " : "worst", at, (double)k->m.worst[i].a,
		        (double)k->m.worst[i].b);
	}
}

static const char *orientation(const struct st_svf_match *m) { return m->target ? "target" : "source"; }

char *st_svf_compare_text(const struct st_svf_comparison *c)
{
	char *s = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&s, &n);
	if (!f)
		return NULL;
	for (int i = 0; i < 2; i++)
		fprintf(f, "%c  %s (%s)\n", c->side[i].name, c->side[i].path, c->side[i].python ? "export" : "replay");
	fprintf(f, "tolerances: %s\n", c->profile.name);
	for (size_t i = 0; i < c->n_matches; i++) {
		fprintf(f, "%s [%s]\n", c->matches[i].name, orientation(&c->matches[i]));
		for (size_t k = 0; k < ST_SVF_STAGES; k++)
			print_stage(f, c, &c->matches[i], k);
	}
	fprintf(f, "coverage: %zu of %zu ", c->n_covered, c->n_expected);
	if (c->side[0].filter || c->side[1].filter || c->n_expected < c->n_selected)
		fprintf(f, "asked, %zu selected", c->n_selected);
	else
		fprintf(f, "tensors");
	fprintf(f, ", %zu stages compared\n", c->n_matches * ST_SVF_STAGES);
	for (size_t i = 0; i < c->n_matches; i++)
		if (c->matches[i].copied)
			fprintf(f, "copied: source_f32 of %s [%s] is %s\n", c->matches[i].name,
			        orientation(&c->matches[i]),
			        c->unproved ? "a third's on both sides, its check proves nothing"
			                    : "the other side's own: where it comes from, not a check of it");
	for (size_t i = 0; i < c->n_missing; i++)
		fprintf(f, "missing: %s is not on both sides with all ten stages\n", c->missing[i]);
	if (c->sample_left_out)
		fprintf(f, "missing: the sample, whose digest is asked for, was left out by --selected-source-filter\n");
	for (size_t i = 0; i < c->n_matches; i++)
		if (c->matches[i].first >= 0)
			fprintf(f, "fault: %s first differs at %s\n", c->matches[i].name,
			        st_svf_stage_names[c->matches[i].first]);
	for (size_t i = 0; i < c->n_findings; i++) {
		const struct st_svf_finding *d = &c->findings[i];
		fprintf(f, "cause: %s%s%s%s%s: %s%s\n", d->code, d->tensor ? " in " : "", d->tensor ? d->tensor : "",
		        d->stage ? " at " : "", d->stage ? d->stage : "", d->text,
		        d->confirmed ? "" : " (not confirmed)");
	}
	fprintf(f, "verdict: %s\n", st_svf_verdict(c));
	if (fclose(f) == 0)
		return s;
	free(s);
	return NULL;
}

static json_t *stage_json(const struct st_svf_comparison *c, const struct st_svf_match *m, size_t s)
{
	const struct st_svf_check *k = &m->check[s];
	json_t *o = st_svf_check_json(k, &c->profile.stage[s], k->measured), *worst = json_array();
	bool copy = m->copied && s == ST_SVF_SOURCE;
	for (size_t i = 0; i < k->m.n_worst; i++) {
		char at[64];
		position(m->set[0]->t[s], k->m.worst[i].index, at, sizeof at);
		st_json_add(worst,
		            st_json_object(ST_IS("at", at), ST_IS("a", k->m.worst[i].a), ST_IS("b", k->m.worst[i].b)));
	}
	st_json_put_all(o, ST_IS("stage", st_svf_stage_names[s]), ST_IS("required", c->profile.stage[s].required),
	                ST_IS("passed", json_boolean(k->passed && !copy)), ST_IS("copied", copy),
	                ST_IS("element_count", k->m.count),
	                ST_IS("nonfinite", json_pack("[I, I]", (json_int_t)k->m.s.bad_a, (json_int_t)k->m.s.bad_b)),
	                ST_IS("worst", worst));
	if (k->m.by_ulps && k->measured) {
		json_t *u = json_object();
		for (size_t i = 0; i < ST_ULP_CLASSES; i++)
			st_json_put(u, i == ST_ULP_CLASSES - 1 ? "not_finite" : ulp_classes[i],
			            st_json_u64(k->m.ulps[i]));
		st_json_put(o, "bf16_ulps", u);
	}
	return o;
}

#define AT(m) ST_JSON_AT(struct st_svf_finding, m)
static const struct st_json_field finding_fields[] = {
	{ AT(code), .key = { "code" } }, { AT(tensor), .key = { "tensor" } },       { AT(stage), .key = { "stage" } },
	{ AT(text), .key = { "text" } }, { AT(confirmed), .key = { "confirmed" } },
};

char *st_svf_compare_json(const struct st_svf_comparison *c)
{
	json_t *tensors = json_array(), *findings = json_array(), *missing = json_array(), *copies = json_array();
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_match *m = &c->matches[i];
		json_t *stages = json_array();
		for (size_t s = 0; s < ST_SVF_STAGES; s++)
			st_json_add(stages, stage_json(c, m, s));
		st_json_add(tensors,
		            st_json_object(ST_IS("source_name", m->name), ST_IS("orientation", orientation(m)),
		                           ST_IS("first_fault", m->first < 0 ? NULL : st_svf_stage_names[m->first]),
		                           ST_IS("stages", stages)));
		if (m->copied)
			st_json_add(copies, st_json_text(m->name));
	}
	for (size_t i = 0; i < c->n_findings; i++)
		st_json_add(findings,
		            st_json_put_fields(json_object(), finding_fields,
		                               sizeof finding_fields / sizeof *finding_fields, &c->findings[i]));
	for (size_t i = 0; i < c->n_missing; i++)
		st_json_add(missing, st_json_text(c->missing[i]));
	json_t *o = st_json_object(
		ST_IS("schema", "stele.svf-compare/1"), ST_IS("a", c->side[0].path), ST_IS("b", c->side[1].path),
		ST_IS("tolerances", c->profile.name), ST_IS("tensors", tensors),
		{ "coverage",
	          st_json_object(ST_IS("selected", c->n_selected), ST_IS("expected", c->n_expected),
	                         ST_IS("covered", c->n_covered), ST_IS("missing", missing), ST_IS("copied", copies),
	                         ST_IS("filters", json_pack("[o, o]", st_json_text(c->side[0].filter),
	                                                    st_json_text(c->side[1].filter))),
	                         ST_IS("sample_left_out", json_boolean(c->sample_left_out))) },
		ST_IS("findings", findings), ST_IS("verdict", st_svf_verdict(c)));
	char *s = st_json_ok(o) ? st_json_print(o, JSON_INDENT(2)) : NULL;
	json_decref(o);
	return s;
}
