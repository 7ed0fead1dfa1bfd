/*
 * compare.c - two reports, measured again from the stage files they name. A report's own verdict is a claim to be
 * checked.
 */
#include "svf/compare.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- measuring ---- */

static bool same_shape(const struct st_tensor *a, const struct st_tensor *b)
{
	if (a->n_elems == 1 && b->n_elems == 1 && a->ndim < 2 && b->ndim < 2)
		return true; /* a scalar and a list of one */
	return a->ndim == b->ndim && memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0;
}

static enum st_status digest_of(const struct st_svf_set *s, enum st_svf_stage i, char hex[65], bool *known,
                                struct st_error *err)
{
	*known = s->digest[i] != NULL;
	if (*known)
		snprintf(hex, 65, "%s", s->digest[i]);
	if (!s->t[i] || s->t[i]->layout != ST_LAYOUT_ROWS)
		return ST_OK;
	*known = true;
	return st_sha256_hex(s->t[i]->data, s->t[i]->n_bytes, hex, err);
}

static enum st_status measure_numbers(struct st_svf_metrics *m, const struct st_tensor *a, const struct st_tensor *b,
                                      bool ulps, int threads, struct st_error *err)
{
	if (a->n_elems == 0)
		return ST_OK; /* of however many rows */
	uint64_t rows = st_tensor_rows(a), cols = st_tensor_cols(a), step = st_svf_step(rows, cols);
	float *x = st_alloc_array(step * cols, sizeof *x), *y = st_alloc_array(step * cols, sizeof *y);
	enum st_status st = x && y ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st_tensor_decode(a, r, n, x);
		st_tensor_decode(b, r, n, y);
		st_svf_metrics_add(m, x, y, n * cols, r * cols, ulps, threads);
		st = st_check_cancel(err);
	}
	free(x);
	free(y);
	return st;
}

static enum st_status measure(struct st_svf_comparison *c, struct st_svf_match *m, struct st_error *err)
{
	m->first = -1;
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		enum st_svf_stage i = (enum st_svf_stage)s;
		const struct st_tensor *a = m->a->t[i], *b = m->b->t[i];
		const struct st_svf_tolerance *tol = &c->profile.stage[i];
		m->metrics[i].want = c->o->top && c->o->top <= ST_SVF_TOP ? c->o->top : c->o->top ? ST_SVF_TOP : 1;
		m->measured[i] = a && b && same_shape(a, b);
		if (m->measured[i]) {
			ST_TRY(measure_numbers(&m->metrics[i], a, b, i == ST_SVF_FINAL_BF16, c->threads, err));
			m->shape_match[i] = true;
			m->byte_match[i] = m->metrics[i].bits == 0 && a->dtype == b->dtype;
			m->passed[i] = st_svf_metrics_passed(&m->metrics[i], tol);
		} else if (!a || !b) {
			char x[65] = "", y[65] = "";
			bool kx, ky;
			ST_TRY(digest_of(m->a, i, x, &kx, err));
			ST_TRY(digest_of(m->b, i, y, &ky, err));
			m->byte_match[i] = m->shape_match[i] = kx && ky && strcmp(x, y) == 0;
			m->passed[i] = m->byte_match[i] && (a || st_svf_record_sound(m->a->record[i]))
			            && (b || st_svf_record_sound(m->b->record[i]));
			/* Numbers that stand on one side alone: they too must be finite. */
			const struct st_tensor *t = a ? a : b;
			if (m->passed[i] && t) {
				ST_TRY(measure_numbers(&m->metrics[i], t, t, false, c->threads, err));
				m->passed[i] = st_svf_metrics_passed(&m->metrics[i], tol);
			}
		}
		if (m->first < 0 && tol->required && !m->passed[i])
			m->first = (int)i;
	}
	return ST_OK;
}

/* ---- what both have ---- */

/* Where one side took its source from the other's stage file, or both theirs from one, that they are equal says
 * nothing. */
static bool copied(const struct st_svf_comparison *c)
{
	const struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	if (a->copies && b->copies)
		return true;
	return (a->copies && b->python && st_svf_made_for(a, b)) || (b->copies && a->python && st_svf_made_for(b, a));
}

/* A required check that proves nothing is no check. */
static bool unproved(const struct st_svf_comparison *c, const struct st_svf_match *m)
{
	return m->copied && c->profile.stage[ST_SVF_SOURCE].required;
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

static bool listed(const char **list, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], name) == 0)
			return true;
	return false;
}

static enum st_status match(struct st_svf_comparison *c, struct st_error *err)
{
	struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	size_t most = a->n_claimed + b->n_claimed;
	const char **expected = st_arena_alloc(&c->arena, most + 1, sizeof *expected);
	c->matches = st_arena_alloc(&c->arena, a->n_sets + 1, sizeof *c->matches);
	c->missing = st_arena_alloc(&c->arena, most + a->n_sets + 1, sizeof *c->missing);
	if (!expected || !c->matches || !c->missing)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < a->n_sets; i++) {
		const struct st_svf_set *p = partner(b, &a->sets[i]);
		if (p)
			c->matches[c->n_matches++] = (struct st_svf_match){ .a = &a->sets[i],
				                                            .b = p,
				                                            .copied = copied(c) };
	}
	for (size_t side = 0; side < 2; side++)
		for (size_t i = 0; i < c->side[side].n_claimed; i++)
			if (!listed(expected, c->n_expected, c->side[side].claimed[i]))
				expected[c->n_expected++] = c->side[side].claimed[i];
	for (size_t i = 0; i < c->n_expected; i++) {
		/* In either orientation, and in both where both sides have both. */
		bool found = false, whole = true, proved = true;
		for (size_t k = 0; k < c->n_matches; k++)
			if (strcmp(c->matches[k].a->source_name, expected[i]) == 0) {
				found = true;
				whole &= complete(c->matches[k].a) && complete(c->matches[k].b);
				proved &= !unproved(c, &c->matches[k]);
			}
		c->n_covered += found && whole && proved;
		if (!found || !whole)
			c->missing[c->n_missing++] = expected[i];
	}
	return ST_OK;
}

/* ---- results ---- */

static bool has_hash(const struct st_svf_side *s, const char *want)
{
	static const char *const lists[] = { "variants", "native_elixir_svd_variants",
		                             "semantic_python_component_variants" };
	for (size_t l = 0; want && l < 3; l++) {
		size_t i;
		json_t *v;
		json_array_foreach(json_object_get(s->json, lists[l]), i, v)
		{
			const char *h = json_string_value(json_object_get(v, "observed_bf16_sha256"));
			if (h && strcmp(h, want) == 0)
				return true;
		}
	}
	return false;
}

static void strict_hashes(struct st_svf_comparison *c)
{
	const struct st_svf_side *py = c->side[1].python && !c->side[0].python ? &c->side[1] : &c->side[0],
				 *other = py == &c->side[0] ? &c->side[1] : &c->side[0];
	const json_t *ref = json_object_get(py->json, "reference");
	const char *base = json_string_value(json_object_get(ref, "current_python_baseline_bf16_sha256"));
	const char *want = json_string_value(json_object_get(ref, "expected_bf16_sha256"));
	if (c->o->strict_python && !has_hash(other, base))
		st_svf_find(c, ST_CAUSE_SVF_BASELINE_HASH, "", st_svf_stage_names[ST_SVF_FINAL_BF16], true,
		            "no variant of %c has %c's baseline hash %.64s", other->name, py->name,
		            base ? base : "(none)");
	if (c->o->strict_reference && (!has_hash(py, want) || !has_hash(other, want)))
		st_svf_find(c, ST_CAUSE_SVF_REFERENCE_HASH, "", st_svf_stage_names[ST_SVF_FINAL_BF16], true,
		            "%s the stored reference hash %.64s",
		            has_hash(py, want) || has_hash(other, want) ? "only one side has" : "neither side has",
		            want ? want : "(none)");
}

/* A fault before a gap: what was not compared says nothing about what was. */
static const char *verdict(const struct st_svf_comparison *c)
{
	bool differ = c->n_findings > 0;
	for (size_t i = 0; i < c->n_matches; i++)
		differ |= c->matches[i].first >= 0;
	return differ ? "differ" : c->n_expected == 0 || c->n_covered < c->n_expected ? "incomplete" : "match";
}

/* "[row, column]" of an element. */
static void position(const struct st_tensor *t, uint64_t at, char *buf, size_t n)
{
	if (t->ndim == 2 && t->shape[1])
		snprintf(buf, n, "[%llu, %llu]", (unsigned long long)(at / t->shape[1]),
		         (unsigned long long)(at % t->shape[1]));
	else
		snprintf(buf, n, "[%llu]", (unsigned long long)at);
}

static void print_stage(FILE *f, const struct st_svf_comparison *c, const struct st_svf_match *m, size_t s)
{
	const struct st_svf_metrics *k = &m->metrics[s];
	char at[64];
	bool copy = m->copied && s == ST_SVF_SOURCE;
	fprintf(f, "  %-19s %-8s %-6s %-5s", st_svf_stage_names[s],
	        c->profile.stage[s].required ? "required" : "reported",
	        !m->passed[s] ? "FAILED"
	        : copy        ? "copied"
	                      : "passed",
	        m->byte_match[s] ? "equal" : "-");
	if (!m->measured[s]) {
		fprintf(f, " %s\n",
		        m->byte_match[s]           ? "(digests)"
		        : m->a->t[s] && m->b->t[s] ? "shapes differ"
		        : m->a->t[s] || m->a->digest[s]
		                ? m->b->t[s] || m->b->digest[s] ? "digests differ" : "missing in B"
		                : "missing in A");
		return;
	}
	fprintf(f, " max %-9.3g mean %-9.3g differ %llu of %llu\n", k->max_abs, st_svf_metrics_mean(k),
	        (unsigned long long)k->mismatched, (unsigned long long)k->count);
	if (k->nonfinite_a || k->nonfinite_b)
		fprintf(f, "      not finite: %llu in A, %llu in B\n", (unsigned long long)k->nonfinite_a,
		        (unsigned long long)k->nonfinite_b);
	if (s == ST_SVF_FINAL_BF16 && k->mismatched)
		fprintf(f,
		        "      bf16 ulps 0: %llu, 1: %llu, 2: %llu, 3-4: %llu, 5-16: %llu, 17-256: %llu, more: %llu, "
		        "not finite: %llu\n",
		        (unsigned long long)k->ulps[0], (unsigned long long)k->ulps[1], (unsigned long long)k->ulps[2],
		        (unsigned long long)k->ulps[3], (unsigned long long)k->ulps[4], (unsigned long long)k->ulps[5],
		        (unsigned long long)k->ulps[6], (unsigned long long)k->ulps[7]);
	for (size_t i = 0; i < k->n_worst && (i == 0 || !m->passed[s]); i++) {
		position(m->a->t[s], k->worst[i].at, at, sizeof at);
		fprintf(f, "      %s %s: %.9g, %.9g\n", i ? "then " : "worst", at, k->worst[i].a, k->worst[i].b);
	}
}

static char *as_text(const struct st_svf_comparison *c)
{
	char *s = NULL;
	size_t n = 0, stages = 0;
	FILE *f = open_memstream(&s, &n);
	if (!f)
		return NULL;
	for (int i = 0; i < 2; i++)
		fprintf(f, "%c  %s (%s)\n", c->side[i].name, c->side[i].path, c->side[i].python ? "export" : "replay");
	fprintf(f, "tolerances: %s\n", c->profile.name);
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_match *m = &c->matches[i];
		fprintf(f, "%s [%s]\n", m->a->source_name, m->a->target ? "target" : "source");
		for (size_t k = 0; k < ST_SVF_STAGES; k++)
			print_stage(f, c, m, k);
		stages += ST_SVF_STAGES;
	}
	fprintf(f, "coverage: %zu of %zu tensors, %zu stages compared\n", c->n_covered, c->n_expected, stages);
	for (size_t i = 0; i < c->n_matches; i++)
		if (c->matches[i].copied)
			fprintf(f, "copied: source_f32 of %s [%s] is the other side's own, its check proves nothing\n",
			        c->matches[i].a->source_name, c->matches[i].a->target ? "target" : "source");
	for (size_t i = 0; i < c->n_missing; i++)
		fprintf(f, "missing: %s is not on both sides with all ten stages\n", c->missing[i]);
	for (size_t i = 0; i < c->n_matches; i++)
		if (c->matches[i].first >= 0)
			fprintf(f, "fault: %s first differs at %s\n", c->matches[i].a->source_name,
			        st_svf_stage_names[c->matches[i].first]);
	for (size_t i = 0; i < c->n_findings; i++) {
		const struct st_svf_finding *d = &c->findings[i];
		fprintf(f, "cause: %s%s%s%s%s: %s%s\n", st_cause_name(d->code), d->tensor[0] ? " in " : "", d->tensor,
		        d->stage[0] ? " at " : "", d->stage, d->text, d->confirmed ? "" : " (not confirmed)");
	}
	fprintf(f, "verdict: %s\n", verdict(c));
	if (fclose(f) != 0) {
		free(s);
		return NULL;
	}
	return s;
}

static json_t *stage_json(const struct st_svf_comparison *c, const struct st_svf_match *m, size_t s)
{
	static const char *const classes[ST_SVF_ULPS] = {
		"0", "1", "2", "3-4", "5-16", "17-256", "more", "not_finite"
	};
	const struct st_svf_metrics *k = &m->metrics[s];
	json_t *o = json_object(), *tol = json_object(), *worst = json_array();
	bool copy = m->copied && s == ST_SVF_SOURCE;
	st_json_put(tol, "max_abs_error", json_real(c->profile.stage[s].max_abs));
	st_json_put(tol, "mean_abs_error", json_real(c->profile.stage[s].mean_abs));
	st_json_put(o, "stage", st_json_text(st_svf_stage_names[s]));
	st_json_put(o, "required", json_boolean(c->profile.stage[s].required));
	st_json_put(o, "passed", json_boolean(m->passed[s] && !copy));
	st_json_put(o, "copied", json_boolean(copy));
	st_json_put(o, "byte_match", json_boolean(m->byte_match[s]));
	st_json_put(o, "shape_match", json_boolean(m->shape_match[s]));
	st_json_put(o, "tolerance", tol);
	st_json_put(o, "max_abs_error", m->measured[s] ? st_json_number(k->max_abs) : json_null());
	st_json_put(o, "mean_abs_error", m->measured[s] ? st_json_number(st_svf_metrics_mean(k)) : json_null());
	st_json_put(o, "mismatched_element_count",
	            m->measured[s] ? json_integer((json_int_t)k->mismatched) : json_null());
	st_json_put(o, "element_count", json_integer((json_int_t)k->count));
	st_json_put(o, "nonfinite", json_pack("[I, I]", (json_int_t)k->nonfinite_a, (json_int_t)k->nonfinite_b));
	for (size_t i = 0; i < k->n_worst; i++) {
		json_t *w = json_object();
		char at[64];
		position(m->a->t[s], k->worst[i].at, at, sizeof at);
		st_json_put(w, "at", st_json_text(at));
		st_json_put(w, "a", st_json_number(k->worst[i].a));
		st_json_put(w, "b", st_json_number(k->worst[i].b));
		json_array_append_new(worst, w);
	}
	st_json_put(o, "worst", worst);
	if (s == ST_SVF_FINAL_BF16 && m->measured[s]) {
		json_t *u = json_object();
		for (size_t i = 0; i < ST_SVF_ULPS; i++)
			st_json_put(u, classes[i], json_integer((json_int_t)k->ulps[i]));
		st_json_put(o, "bf16_ulps", u);
	}
	return o;
}

static char *as_json(const struct st_svf_comparison *c)
{
	json_t *o = json_object(), *tensors = json_array(), *findings = json_array(), *missing = json_array(),
	       *copies = json_array();
	json_t *cov = json_object();
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_match *m = &c->matches[i];
		json_t *t = json_object(), *stages = json_array();
		for (size_t s = 0; s < ST_SVF_STAGES; s++)
			json_array_append_new(stages, stage_json(c, m, s));
		st_json_put(t, "source_name", st_json_text(m->a->source_name));
		st_json_put(t, "orientation", st_json_text(m->a->target ? "target" : "source"));
		st_json_put(t, "first_fault", m->first < 0 ? json_null() : st_json_text(st_svf_stage_names[m->first]));
		st_json_put(t, "stages", stages);
		json_array_append_new(tensors, t);
		if (m->copied)
			json_array_append_new(copies, st_json_text(m->a->source_name));
	}
	for (size_t i = 0; i < c->n_findings; i++) {
		const struct st_svf_finding *d = &c->findings[i];
		json_t *f = json_object();
		st_json_put(f, "code", json_string(st_cause_name(d->code)));
		st_json_put(f, "tensor", d->tensor[0] ? st_json_text(d->tensor) : json_null());
		st_json_put(f, "stage", d->stage[0] ? st_json_text(d->stage) : json_null());
		st_json_put(f, "text", st_json_text(d->text));
		st_json_put(f, "confirmed", json_boolean(d->confirmed));
		json_array_append_new(findings, f);
	}
	for (size_t i = 0; i < c->n_missing; i++)
		json_array_append_new(missing, st_json_text(c->missing[i]));
	st_json_put(cov, "expected", json_integer((json_int_t)c->n_expected));
	st_json_put(cov, "covered", json_integer((json_int_t)c->n_covered));
	st_json_put(cov, "missing", missing);
	st_json_put(cov, "copied", copies);
	st_json_put(o, "schema", json_string("stele.svf-compare/1"));
	st_json_put(o, "a", st_json_text(c->side[0].path));
	st_json_put(o, "b", st_json_text(c->side[1].path));
	st_json_put(o, "tolerances", st_json_text(c->profile.name));
	st_json_put(o, "tensors", tensors);
	st_json_put(o, "coverage", cov);
	st_json_put(o, "findings", findings);
	st_json_put(o, "verdict", st_json_text(verdict(c)));
	char *s = st_json_ok(o) ? json_dumps(o, JSON_INDENT(2)) : NULL;
	json_decref(o);
	return s;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;
	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Evidence compared with itself agrees, whatever it is. */
static enum st_status refuse_same(const struct st_svf_comparison *c, struct st_error *err)
{
	const struct st_svf_side *a = &c->side[0], *b = &c->side[1];
	enum st_status st = ST_OK;
	if (same_file(a->path, b->path) || json_equal(a->json, b->json)) {
		st = st_fail(err, ST_ERR_USAGE, "is the report of both sides; compared with itself it proves nothing");
		st_error_in(err, b->path);
	}
	for (size_t i = 0; st == ST_OK && i < a->n_containers; i++)
		for (size_t k = 0; st == ST_OK && k < b->n_containers; k++)
			if (same_file(st_container_path(a->containers[i]), st_container_path(b->containers[k]))) {
				st = st_fail(err, ST_ERR_MISMATCH,
				             "is the stage file of both sides; compared with itself it proves nothing");
				st_error_in(err, st_container_path(b->containers[k]));
			}
	return st;
}

static enum st_status run(struct st_svf_comparison *c, struct st_error *err)
{
	ST_TRY(st_svf_profile_read(c->o->tolerances, &c->profile, err));
	ST_TRY(st_svf_side_open(c, &c->side[0], c->o->a, err));
	ST_TRY(st_svf_side_open(c, &c->side[1], c->o->b, err));
	ST_TRY(refuse_same(c, err));
	ST_TRY(match(c, err));
	for (size_t i = 0; i < c->n_matches; i++) {
		if (c->o->hooks.progress)
			c->o->hooks.progress(c->o->hooks.user, c->matches[i].a->source_name, i, c->n_matches);
		ST_TRY(measure(c, &c->matches[i], err));
	}
	ST_TRY(st_svf_diagnose(c, err));
	strict_hashes(c);
	return ST_OK;
}

enum st_status st_svf_compare(const struct st_svf_compare_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_comparison c = { .o = o,
		                       .threads = st_svf_threads(o->threads),
		                       .side = { { .name = 'A' }, { .name = 'B' } } };
	memset(r, 0, sizeof *r);
	st_arena_init(&c.arena);
	enum st_status st = run(&c, err);
	if (st == ST_OK) {
		r->text = as_text(&c);
		r->json = as_json(&c);
		r->exit_status = strcmp(verdict(&c), "match") != 0;
		if (!r->text || !r->json) {
			st_svf_result_release(r);
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
	}
	st_svf_side_close(&c.side[0]);
	st_svf_side_close(&c.side[1]);
	free(c.findings);
	st_arena_release(&c.arena);
	return st;
}
