/*
 * diagnose.c - why two sides differ, from their stage files alone (and the factors, where they can still be read).
 *
 * A stage is asked about only where the stages before it agree, so that an inherited error names nothing. A cause is
 * confirmed when applying it to one side gives the other's numbers.
 */
#include "svf/compare.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void st_svf_find(struct st_svf_comparison *c, enum st_cause_code code, const char *tensor, const char *stage,
                 bool confirmed, const char *fmt, ...)
{
	char text[500];
	void *p = c->findings;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!st_grow(&p, &c->cap_findings, c->n_findings + 1, sizeof *c->findings))
		return;
	c->findings = p;
	c->findings[c->n_findings++] = (struct st_svf_finding){ code, tensor, stage,
		                                                st_arena_printf(&c->arena, "%s", text), confirmed };
}

/* ---- values of a set ---- */

/* A small stage whole; malloc'ed, NULL when there are no numbers. */
static float *values(const struct st_svf_set *s, enum st_svf_stage stage)
{
	const struct st_tensor *t = s->t[stage];
	float *x = t && t->n_elems ? st_alloc_array(t->n_elems, sizeof *x) : NULL;
	if (x)
		st_tensor_decode(t, 0, st_tensor_rows(t), x);
	return x;
}

static bool near(const float *a, const float *b, uint64_t n, double rel)
{
	double dd = 0, bb = 0;
	for (uint64_t i = 0; i < n; i++) {
		dd += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		bb += (double)b[i] * (double)b[i];
	}
	return dd <= rel * rel * bb && bb > 0;
}

/* The same shape and, on evenly spread rows, numbers within rel of each other. turned: b is the transpose. */
static bool alike(const struct st_tensor *a, const struct st_tensor *b, bool turned, double rel)
{
	if (!a || !b || a->ndim != 2 || b->ndim != 2 || a->shape[0] != b->shape[turned ? 1 : 0]
	    || a->shape[1] != b->shape[turned ? 0 : 1])
		return false;
	uint64_t rows = a->shape[0], cols = a->shape[1], take = rows < 16 ? rows : 16;
	float *x = st_alloc_array(cols, sizeof *x),
	      *y = st_alloc_array(cols > b->shape[1] ? cols : b->shape[1], sizeof *y),
	      *z = st_alloc_array(cols, sizeof *z);
	bool same = x && y && z;
	for (uint64_t i = 0; same && i < take; i++) {
		uint64_t r = take > 1 ? i * (rows - 1) / (take - 1) : 0;
		st_tensor_decode(a, r, 1, x);
		if (turned)
			for (uint64_t c = 0; c < cols; c++) {
				st_tensor_decode(b, c, 1, y);
				z[c] = y[r];
			}
		else
			st_tensor_decode(b, r, 1, z);
		same = near(x, z, cols, rel);
	}
	free(x);
	free(y);
	free(z);
	return same;
}

static const char *stage_name(int s) { return st_svf_stage_names[s]; }

/* ---- offsets ---- */

static const struct st_svf_match *match_of(const struct st_svf_comparison *c, const char *name)
{
	for (size_t i = 0; i < c->n_matches; i++)
		if (!c->matches[i].a->target && strcmp(c->matches[i].a->source_name, name) == 0)
			return &c->matches[i];
	return NULL;
}

static const struct st_svf_set *set_of(const struct st_svf_match *m, int side) { return side ? m->b : m->a; }

/* Whose span on that side these offsets are. */
static const struct st_svf_match *owner(const struct st_svf_comparison *c, int side, const float *x, uint64_t n)
{
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_set *s = set_of(&c->matches[i], side);
		if (!s->t[ST_SVF_OFFSETS] || s->t[ST_SVF_OFFSETS]->n_elems != n)
			continue;
		float *y = values(s, ST_SVF_OFFSETS);
		bool same = y && memcmp(x, y, n * sizeof *x) == 0;
		free(y);
		if (same)
			return &c->matches[i];
	}
	return NULL;
}

static size_t rank_of(const struct st_svf_comparison *c, const char *name)
{
	size_t r = 0;
	for (size_t i = 0; i < c->n_matches; i++)
		r += !c->matches[i].a->target && strcmp(c->matches[i].a->source_name, name) < 0;
	return r;
}

static size_t place_of(const struct st_svf_comparison *c, const char *name)
{
	size_t at = 0;
	for (size_t i = 0; i < c->n_matches; i++) {
		if (c->matches[i].a->target)
			continue;
		if (strcmp(c->matches[i].a->source_name, name) == 0)
			return at;
		at++;
	}
	return SIZE_MAX;
}

/* With only one tensor at hand the vector itself can tell. */
static void search_vector(struct st_svf_comparison *c, const struct st_svf_match *m, const float *b, uint64_t n)
{
	const char *path = NULL;
	struct st_svf_vector v;
	struct st_error ignored = ST_ERROR_INIT;
	for (size_t s = 0; s < 2 && !path; s++) {
		const json_t *o = json_object_get(c->side[s].json, c->side[s].python ? "inputs" : "paths");
		const char *named = json_string_value(json_object_get(o, "router_vector"));
		path = named ? st_svf_locate(&c->arena, named, c->side[s].path, NULL) : NULL;
	}
	if (path && st_svf_vector_read(path, &c->arena, &v, &ignored) == ST_OK)
		for (uint64_t at = 0; at + n <= v.n; at++)
			if (memcmp(v.f32 + at, b, n * sizeof *b) == 0) {
				st_svf_find(c, ST_CAUSE_SVF_WRONG_SPAN, m->a->source_name, stage_name(ST_SVF_OFFSETS),
				            true, "%c takes its offsets from [%llu, %llu) of the vector",
				            c->side[1].name, (unsigned long long)at, (unsigned long long)(at + n));
				return;
			}
	st_svf_find(c, ST_CAUSE_SVF_OFFSETS, m->a->source_name, stage_name(ST_SVF_OFFSETS), false,
	            "the offsets are other numbers; no known mistake gives them");
}

static void rounded(struct st_svf_comparison *c, const struct st_svf_match *m, const float *a, const float *b,
                    uint64_t n, bool *done)
{
	for (int side = 0; side < 2 && !*done; side++) {
		const float *full = side ? b : a, *less = side ? a : b;
		bool nearest = true, cut = true;
		for (uint64_t i = 0; i < n; i++) {
			nearest &= less[i] == st_bf16_to_f32(st_f32_to_bf16(full[i]));
			cut &= st_f32_bits(less[i]) == (st_f32_bits(full[i]) & 0xFFFF0000u);
		}
		if (nearest || cut) {
			st_svf_find(c, ST_CAUSE_SVF_OFFSETS_BF16, m->a->source_name, stage_name(ST_SVF_OFFSETS), true,
			            "%c rounds the offsets to bf16%s", c->side[side ? 0 : 1].name,
			            nearest ? "" : " (by cutting)");
			*done = true;
		}
	}
}

/* Does that side consume the spans, which the other has in their places, in alphabetical order? `moved`: tensors with
 * another's span. */
static bool alphabetical(const struct st_svf_comparison *c, int side, size_t *moved)
{
	bool all = true;
	*moved = 0;
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_match *x = &c->matches[i];
		const struct st_tensor *t = set_of(x, side)->t[ST_SVF_OFFSETS];
		if (x->a->target || !t)
			continue;
		float *y = values(set_of(x, side), ST_SVF_OFFSETS);
		const struct st_svf_match *from = y ? owner(c, !side, y, t->n_elems) : NULL;
		free(y);
		*moved += from != NULL && strcmp(from->a->source_name, x->a->source_name) != 0;
		all &= from && place_of(c, from->a->source_name) == rank_of(c, x->a->source_name);
	}
	return all && *moved > 0;
}

static void offsets(struct st_svf_comparison *c, const struct st_svf_match *m, bool *told)
{
	if (!m->measured[ST_SVF_OFFSETS])
		return;
	uint64_t n = m->a->t[ST_SVF_OFFSETS]->n_elems;
	float *a = values(m->a, ST_SVF_OFFSETS), *b = values(m->b, ST_SVF_OFFSETS);
	bool done = !a || !b;
	if (!done)
		rounded(c, m, a, b, n, &done);
	const struct st_svf_match *o = done ? NULL : owner(c, 0, b, n);
	if (!done && !o) {
		search_vector(c, m, b, n);
	} else if (!done && !*told) {
		/* The whole pattern decides the name. */
		size_t moved, moved_a;
		int side = alphabetical(c, 1, &moved) ? 1 : alphabetical(c, 0, &moved_a) ? 0 : -1;
		const struct st_svf_match *back = match_of(c, o->a->source_name);
		const struct st_tensor *theirs = back ? back->b->t[ST_SVF_OFFSETS] : NULL;
		float *y = theirs && theirs->n_elems == n ? values(back->b, ST_SVF_OFFSETS) : NULL;
		bool swapped = moved == 2 && y && memcmp(y, a, n * sizeof *y) == 0;
		free(y);
		if (side >= 0)
			st_svf_find(c, ST_CAUSE_SVF_ALPHABETICAL_SPANS, m->a->source_name, stage_name(ST_SVF_OFFSETS),
			            true,
			            "%c consumes the spans in alphabetical order of the tensors' names; %zu tensors "
			            "have another's",
			            c->side[side].name, side ? moved : moved_a);
		else if (swapped)
			st_svf_find(c, ST_CAUSE_SVF_SWAPPED_SPANS, m->a->source_name, stage_name(ST_SVF_OFFSETS), true,
			            "%c has the spans of %s and %s swapped", c->side[1].name, m->a->source_name,
			            o->a->source_name);
		else
			st_svf_find(c, ST_CAUSE_SVF_WRONG_SPAN, m->a->source_name, stage_name(ST_SVF_OFFSETS), true,
			            "%c takes the span of %s", c->side[1].name, o->a->source_name);
		*told = side >= 0 || swapped;
	}
	free(a);
	free(b);
}

/* ---- the scalar ---- */

/* b = norm a, or b = a / norm: the scalar is in before its turn. */
static bool scalar_early(struct st_svf_comparison *c, const struct st_svf_match *m, enum st_svf_stage stage)
{
	const struct st_svf_metrics *k = &m->metrics[stage];
	const struct st_tensor *t = m->a->t[ST_SVF_NORMALIZATION];
	float *na = t && t->n_elems == 1 ? values(m->a, ST_SVF_NORMALIZATION) : NULL;
	double norm = na ? (double)na[0] : 1, gain = k->sum_aa > 0 ? k->sum_ab / k->sum_aa : 1;
	/* sums over a and b: b = gain a */
	double left = k->sum_bb - 2 * gain * k->sum_ab + gain * gain * k->sum_aa;
	bool scaled = k->sum_bb > 0 && fabs(left) < 1e-8 * k->sum_bb;
	free(na);
	for (int side = 0; side < 2; side++)
		if (scaled && fabs(norm - 1) > 1e-7
		    && fabs(gain * (side ? norm : 1 / norm) - 1) < 0.1 * fabs(norm - 1)) {
			st_svf_find(c, ST_CAUSE_SVF_SCALAR_FIRST, m->a->source_name, stage_name(stage), true,
			            "%c multiplies by the normalization %.9g before the product",
			            c->side[side ? 0 : 1].name, norm);
			return true;
		}
	return false;
}

/* ---- products ---- */

static float tf32(float x)
{
	uint32_t u = st_f32_bits(x);
	return st_bits_f32((u + 0xFFFu + (u >> 13 & 1u)) & 0xFFFFE000u);
}
static float tf32_cut(float x) { return st_bits_f32(st_f32_bits(x) & 0xFFFFE000u); }
static float bf16(float x) { return st_bf16_to_f32(st_f32_to_bf16(x)); }
static float f16(float x) { return st_f16_to_f32(st_f32_to_f16(x)); }
static float same(float x) { return x; }

static const struct hypothesis {
	enum st_cause_code code;
	const char *text;
	float (*round)(float);
	bool swap;
} hypotheses[] = {
	{ ST_CAUSE_NONE, "", same, false },
	{ ST_CAUSE_SVF_V_LAYOUT, "multiplies by the third factor in the wrong layout", same, true },
	{ ST_CAUSE_SVF_REDUCED_PRODUCTS, "rounds the operands of its products to tf32", tf32, false },
	{ ST_CAUSE_SVF_REDUCED_PRODUCTS, "cuts the operands of its products to tf32", tf32_cut, false },
	{ ST_CAUSE_SVF_REDUCED_PRODUCTS, "rounds the operands of its products to bf16", bf16, false },
	{ ST_CAUSE_SVF_REDUCED_PRODUCTS, "rounds the operands of its products to f16", f16, false },
};
#define N_HYPOTHESES (sizeof hypotheses / sizeof *hypotheses)

/* Relative distance of a few rows of a side's product from U scaled times V^T under a hypothesis. Another layout
 * reads the same numbers in another order, which a rectangular factor allows too. NaN: no memory. */
static double try_product(const struct st_svf_set *s, const struct st_svf_factors *f, const struct hypothesis *h)
{
	const struct st_tensor *ut = s->t[ST_SVF_U_SCALED], *mt = s->t[ST_SVF_MATMUL];
	uint64_t rows = mt->shape[0], cols = mt->shape[1], k = ut->shape[1], take = rows < 8 ? rows : 8;
	bool as_v = (f->layout == ST_SVF_TORCH_V) != h->swap;
	float *u = st_alloc_array(k, sizeof *u), *m = st_alloc_array(cols, sizeof *m);
	double dd = 0, mm = 0;
	for (uint64_t i = 0; u && m && i < take; i++) {
		uint64_t r = take > 1 ? i * (rows - 1) / (take - 1) : 0;
		st_tensor_decode(ut, r, 1, u);
		st_tensor_decode(mt, r, 1, m);
		for (uint64_t j = 0; j < k; j++)
			u[j] = h->round(u[j]);
		for (uint64_t c = 0; c < cols; c++) {
			double sum = 0;
			for (uint64_t j = 0; j < k; j++)
				sum += (double)u[j] * (double)h->round(as_v ? f->v[c * k + j] : f->v[j * cols + c]);
			dd += (sum - (double)m[c]) * (sum - (double)m[c]);
			mm += (double)m[c] * (double)m[c];
		}
	}
	bool ok = u && m;
	free(u);
	free(m);
	return ok && mm > 0 ? sqrt(dd / mm) : NAN;
}

static bool factors_for(struct st_svf_comparison *c, const struct st_svf_set *s, struct st_container **file,
                        struct st_svf_factors *f)
{
	struct st_error ignored = ST_ERROR_INIT;
	const struct st_tensor *u = s->t[ST_SVF_U_SCALED], *m = s->t[ST_SVF_MATMUL];
	*file = NULL;
	for (size_t i = 0; i < 2; i++) {
		const char *dir = c->side[i].components;
		char path[4096];
		enum st_svf_layout layout;
		if (!dir)
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, ST_SVF_COMPONENTS);
		const struct st_svf_entry e = { .source_name = s->source_name,
			                        .safe = s->safe,
			                        .rows = m->shape[0],
			                        .cols = m->shape[1],
			                        .k = u->shape[1] };
		st_error_clear(&ignored);
		if (st_svf_components_layout(dir, &layout, NULL, &ignored) == ST_OK
		    && st_container_open(path, file, &ignored) == ST_OK) {
			if (st_svf_factors_open(*file, &e, layout, f, &ignored) == ST_OK)
				return true;
			st_container_close(*file);
			*file = NULL;
		}
	}
	return false;
}

/* How far a side's zero-offset product is from its own source. */
static double zero_distance(const struct st_svf_set *s)
{
	const struct st_tensor *z = s->t[ST_SVF_ZERO], *w = s->t[ST_SVF_SOURCE];
	if (!z || !w || z->ndim != 2 || w->ndim != 2 || z->shape[0] != w->shape[0] || z->shape[1] != w->shape[1])
		return NAN;
	uint64_t cols = z->shape[1], rows = z->shape[0], take = rows < 64 ? rows : 64;
	float *x = st_alloc_array(cols, sizeof *x), *y = st_alloc_array(cols, sizeof *y);
	double dd = 0, ww = 0;
	for (uint64_t i = 0; x && y && i < take; i++) {
		uint64_t r = take > 1 ? i * (rows - 1) / (take - 1) : 0;
		st_tensor_decode(z, r, 1, x);
		st_tensor_decode(w, r, 1, y);
		for (uint64_t c = 0; c < cols; c++) {
			dd += ((double)x[c] - (double)y[c]) * ((double)x[c] - (double)y[c]);
			ww += (double)y[c] * (double)y[c];
		}
	}
	bool ok = x && y;
	free(x);
	free(y);
	return ok && ww > 0 ? sqrt(dd / ww) : NAN;
}

/* A side's product against every way to make one; true when that names a cause. */
static bool side_product(struct st_svf_comparison *c, const struct st_svf_match *m, int side,
                         const struct st_svf_factors *f)
{
	const struct st_svf_set *s = side ? m->b : m->a;
	double plain = try_product(s, f, &hypotheses[0]), best = plain;
	size_t which = 0;
	for (size_t i = 1; i < N_HYPOTHESES; i++) {
		double d = try_product(s, f, &hypotheses[i]);
		if (d < best) {
			best = d;
			which = i;
		}
	}
	/* The right product is within f32 noise; a cause must explain what is beyond it. */
	if (plain < 2e-6 || which == 0 || best > 0.1 * plain || best > 5e-6)
		return false;
	st_svf_find(c, hypotheses[which].code, m->a->source_name, stage_name(m->first), true,
	            "%c %s (residual %.2g, otherwise %.2g)", c->side[side].name, hypotheses[which].text, best, plain);
	return true;
}

static void products(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	struct st_container *file;
	struct st_svf_factors f;
	bool named = scalar_early(c, m, (enum st_svf_stage)m->first);
	const struct st_tensor *ut = m->a->t[ST_SVF_U_SCALED], *mt = m->a->t[ST_SVF_MATMUL];
	/* Measured: both sides have the same shape, whatever it is. */
	bool numbers = m->measured[ST_SVF_U_SCALED] && m->measured[ST_SVF_MATMUL] && ut->ndim == 2 && mt->ndim == 2
	            && ut->shape[0] == mt->shape[0];
	if (!named && numbers && factors_for(c, m->a, &file, &f)) {
		named = side_product(c, m, 1, &f);
		named = side_product(c, m, 0, &f) || named;
		st_svf_factors_close(&f);
		st_container_close(file);
	}
	if (named)
		return;
	double za = zero_distance(m->a), zb = zero_distance(m->b);
	const struct st_svf_metrics *k = &m->metrics[m->first];
	double rel = k->sum_bb > 0 ? sqrt(k->sum_dd / k->sum_bb) : 0;
	if ((zb > 0.3 && za < 1e-3) || (za > 0.3 && zb < 1e-3))
		st_svf_find(c, ST_CAUSE_SVF_V_LAYOUT, m->a->source_name, stage_name(m->first), false,
		            "%c's zero-offset product is %.2g of the source away from it: the third factor has another "
		            "layout",
		            c->side[zb > za].name, zb > za ? zb : za);
	else if (rel > 5e-6 && rel < 2e-2)
		st_svf_find(c, ST_CAUSE_SVF_REDUCED_PRODUCTS, m->a->source_name, stage_name(m->first), false,
		            "relative difference %.2g: one side's products have the precision of %s", rel,
		            rel > 2e-3 ? "bf16" : "tf32 or f16");
	else
		st_svf_find(c, ST_CAUSE_UNEXPLAINED, m->a->source_name, stage_name(m->first), false,
		            "relative difference %.2g; no known mistake gives it", rel);
}

/* ---- source and result ---- */

static const struct st_svf_set *adapted_like(const struct st_svf_side *s, const char *but, const struct st_tensor *t)
{
	for (size_t i = 0; i < s->n_sets; i++)
		if (strcmp(s->sets[i].source_name, but) != 0 && alike(t, s->sets[i].t[ST_SVF_ADAPTED], false, 1e-7))
			return &s->sets[i];
	return NULL;
}

static void source(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	const struct st_tensor *a = m->a->t[ST_SVF_SOURCE], *b = m->b->t[ST_SVF_SOURCE];
	for (int side = 0; side < 2; side++) {
		const struct st_svf_set *from = adapted_like(&c->side[side], m->a->source_name, side ? b : a);
		if (from) {
			st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, m->a->source_name, stage_name(ST_SVF_SOURCE), true,
			            "%c starts from the adapted %s (compose), the other side does not",
			            c->side[side].name, from->source_name);
			return;
		}
	}
	if (a && b && alike(a, b, true, 1e-7))
		st_svf_find(c, ST_CAUSE_SVF_SOURCE_TRANSPOSED, m->a->source_name, stage_name(ST_SVF_SOURCE), true,
		            "one side's source is the transpose of the other's");
	else if (m->shape_match[ST_SVF_SOURCE]
	         && m->metrics[ST_SVF_SOURCE].sum_dd < 1e-4 * m->metrics[ST_SVF_SOURCE].sum_bb)
		st_svf_find(c, ST_CAUSE_SVF_SOURCE_ROUNDED, m->a->source_name, stage_name(ST_SVF_SOURCE), false,
		            "the sources are near and not equal: one side's base model is rounded (bf16) or quantised");
	else
		st_svf_find(c, ST_CAUSE_SVF_SOURCE, m->a->source_name, stage_name(ST_SVF_SOURCE), false,
		            "the sources are different matrices: another base model or tensor");
}

static void result(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	for (int side = 0; side < 2; side++) {
		const struct st_svf_set *s = side ? m->b : m->a, *o = side ? m->a : m->b;
		bool turned = alike(o->t[ST_SVF_ADAPTED], o->t[ST_SVF_FINAL_F32], true, 1e-7);
		if (turned && alike(s->t[ST_SVF_ADAPTED], s->t[ST_SVF_FINAL_F32], false, 1e-7)) {
			st_svf_find(c, ST_CAUSE_SVF_NOT_TRANSPOSED, m->a->source_name, stage_name(m->first), true,
			            "%c leaves the matrix as it is; the target's name (.kernel) asks for the "
			            "transpose, for a square one too",
			            c->side[side].name);
			return;
		}
		const struct st_svf_set *from = adapted_like(&c->side[side], m->a->source_name, s->t[ST_SVF_FINAL_F32]);
		if (from) {
			st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, m->a->source_name, stage_name(m->first), true,
			            "%c ends with the adapted %s in this place (last-wins), the other side does not",
			            c->side[side].name, from->source_name);
			return;
		}
	}
	st_svf_find(c, ST_CAUSE_UNEXPLAINED, m->a->source_name, stage_name(m->first), false,
	            "the result is not what the stage before it gives");
}

static void explain(struct st_svf_comparison *c, const struct st_svf_match *m, bool *spans_told)
{
	if (m->first < 0)
		return;
	if (!m->measured[m->first] && m->first != ST_SVF_FINAL_F32 && m->first != ST_SVF_FINAL_BF16) {
		st_svf_find(c, ST_CAUSE_SVF_DIFFERS, m->a->source_name, stage_name(m->first), true, "%s",
		            m->a->t[m->first] && m->b->t[m->first]
		                    ? "the shapes differ"
		                    : "the digests differ; export both sides in full to learn by how much");
		return;
	}
	switch (m->first) {
	case ST_SVF_SOURCE:
		source(c, m);
		break;
	case ST_SVF_OFFSETS:
		offsets(c, m, spans_told);
		break;
	case ST_SVF_SCALED_S:
	case ST_SVF_U_SCALED:
		if (!scalar_early(c, m, (enum st_svf_stage)m->first))
			st_svf_find(c, ST_CAUSE_SVF_FACTORS, m->a->source_name, stage_name(m->first), false,
			            "the sides multiply by other factors, or round in between");
		break;
	case ST_SVF_NORMALIZATION:
		st_svf_find(c, ST_CAUSE_SVF_NORMALIZATION, m->a->source_name, stage_name(m->first), false,
		            "sum S / sum scaled comes out differently from the same scaled_s");
		break;
	case ST_SVF_MATMUL:
	case ST_SVF_ZERO:
		products(c, m);
		break;
	case ST_SVF_ADAPTED:
		st_svf_find(c, ST_CAUSE_SVF_NORMALIZATION, m->a->source_name, stage_name(m->first), false,
		            "the scalar after the product is not the normalization");
		break;
	default:
		result(c, m);
		break;
	}
}

/* ---- one side by itself ---- */

/* Is the bf16 result the rounded f32 result of the same file? */
static void cast(struct st_svf_comparison *c, const struct st_svf_side *side, const struct st_svf_set *s)
{
	const struct st_tensor *f = s->t[ST_SVF_FINAL_F32], *h = s->t[ST_SVF_FINAL_BF16];
	if (!f || !h || f->dtype != ST_DTYPE_F32 || h->dtype != ST_DTYPE_BF16 || f->n_elems != h->n_elems
	    || f->layout != ST_LAYOUT_ROWS || h->layout != ST_LAYOUT_ROWS)
		return;
	uint64_t n = f->n_elems, wrong = 0, not_cut = 0;
#pragma omp parallel for schedule(static) num_threads(c->threads) reduction(+ : wrong, not_cut)
	for (uint64_t i = 0; i < n; i++) {
		uint32_t u;
		uint16_t b;
		memcpy(&u, f->data + 4 * i, 4);
		memcpy(&b, h->data + 2 * i, 2);
		wrong += b != st_f32_to_bf16(st_bits_f32(u));
		not_cut += b != u >> 16;
	}
	if (wrong == 0)
		return;
	bool cut = not_cut == 0;
	st_svf_find(
		c, cut ? ST_CAUSE_SVF_TRUNCATED_CAST : ST_CAUSE_SVF_CAST, s->source_name, stage_name(ST_SVF_FINAL_BF16),
		true,
		"%c's final_bf16 is not its own final_f32 rounded to nearest even: %llu of %llu elements are others%s",
		side->name, (unsigned long long)wrong, (unsigned long long)n, cut ? ", all of them cut off" : "");
}

static const char *base_name(const char *p)
{
	const char *s = strrchr(p, '/');
	return s ? s + 1 : p;
}

/* A stage file must be the one that the report was written for. */
static enum st_status stale(struct st_svf_comparison *c, const struct st_svf_side *side, struct st_error *err)
{
	for (size_t i = 0; i < side->n_containers; i++) {
		const char *path = st_container_path(side->containers[i]);
		size_t k;
		json_t *f;
		json_array_foreach(json_object_get(side->json, "files"), k, f)
		{
			const char *named = json_string_value(json_object_get(f, "path")),
				   *sha = json_string_value(json_object_get(f, "sha256"));
			const char *role = json_string_value(json_object_get(f, "role"));
			char hex[65];
			/* Stage files of the side itself; it may also list the other side's. */
			if (!named || !sha || !role || strncmp(role, "python_", 7) == 0
			    || strcmp(base_name(named), base_name(path)) != 0)
				continue;
			ST_TRY(st_svf_file_sha256(path, hex, err));
			if (strcmp(hex, sha) != 0)
				st_svf_find(c, ST_CAUSE_SVF_STALE_STAGES, base_name(path), "", true,
				            "%c's stage file has SHA-256 %.16s.., its report was written for %.16s..",
				            side->name, hex, sha);
		}
	}
	for (size_t i = 0; i < side->n_sets; i++) {
		const struct st_svf_set *s = &side->sets[i];
		const struct st_tensor *t = s->t[ST_SVF_FINAL_BF16];
		char hex[65];
		if (!s->observed_hash || !t || t->layout != ST_LAYOUT_ROWS)
			continue;
		ST_TRY(st_sha256_hex(t->data, t->n_bytes, hex, err));
		if (strcmp(hex, s->observed_hash) != 0)
			st_svf_find(c, ST_CAUSE_SVF_STALE_STAGES, s->source_name, stage_name(ST_SVF_FINAL_BF16), true,
			            "%c's report states %.16s.. for the result, its stage file holds %.16s..",
			            side->name, s->observed_hash, hex);
	}
	return ST_OK;
}

/* The digest of a file that a report lists under that role, or NULL. */
static const char *listed_digest(const json_t *report, const char *role)
{
	size_t i;
	json_t *f;
	json_array_foreach(json_object_get(report, "files"), i, f)
	{
		const char *r = json_string_value(json_object_get(f, "role"));
		if (r && strcmp(r, role) == 0)
			return json_string_value(json_object_get(f, "sha256"));
	}
	return NULL;
}

/* Compared with another export than its own, a replay may fail and its verdict still have been true. */
bool st_svf_made_for(const struct st_svf_side *replay, const struct st_svf_side *export)
{
	static const char *const roles[2][2] = { { "python_stages", "stages" },
		                                 { "python_all_selected_stages", "all_selected_stages" } };
	for (size_t i = 0; i < 2; i++) {
		const char *seen = listed_digest(replay->json, roles[i][0]),
			   *is = listed_digest(export->json, roles[i][1]);
		if (seen && is && strcmp(seen, is) != 0)
			return false;
	}
	return true;
}

/* What a replaying side says of its checks against what its files say. */
static void contradictions(struct st_svf_comparison *c, const struct st_svf_match *m, int side)
{
	const struct st_svf_set *b = set_of(m, side);
	const char side_name = c->side[side].name;
	bool all = true, missing = false;
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		char name[64];
		size_t i;
		json_t *k, *found = NULL;
		snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		json_array_foreach(b->checks, i, k) if (json_is_string(json_object_get(k, "stage"))
		                                        && strcmp(json_string_value(json_object_get(k, "stage")), name)
		                                                   == 0) found = k;
		missing |= !found;
		if (!found || !m->measured[s])
			continue;
		const json_t *tol = json_object_get(found, "tolerance");
		double max = json_number_value(json_object_get(tol, "max_abs_error")),
		       mean = json_number_value(json_object_get(tol, "mean_abs_error"));
		/* A mean near its tolerance may fall on either side of it with another order of summation. */
		double mine = st_svf_metrics_mean(&m->metrics[s]);
		bool pass = m->shape_match[s]
		         && st_svf_metrics_passed(&m->metrics[s], &(struct st_svf_tolerance){ max, mean, true });
		bool says = json_is_true(json_object_get(found, "functional_passed"));
		bool edge = fabs(mine - mean) < 1e-3 * mean;
		if (json_is_true(json_object_get(found, "required_for_functional_parity")))
			all &= pass;
		if (says != pass && !edge) {
			const struct st_svf_metrics *got = &m->metrics[s];
			char far[64] = "empty or not finite";
			if (got->count && !got->nonfinite_a && !got->nonfinite_b)
				snprintf(far, sizeof far, "max %.3g, mean %.3g", got->max_abs, mine);
			st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, stage_name((int)s), true,
			            "%c's report says this stage %s, its files say that it %s (%s)", side_name,
			            says ? "passed" : "failed", pass ? "passes" : "fails", far);
		} else if (json_is_true(json_object_get(found, "byte_match")) && !m->byte_match[s]) {
			st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, stage_name((int)s), true,
			            "%c's report says that the bytes match, %llu elements differ", side_name,
			            (unsigned long long)m->metrics[s].mismatched);
		}
	}
	if (b->claims && b->claims_pass && !all && !missing)
		st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, "", true,
		            "%c's report claims functional parity, its files do not have it", side_name);
	if (b->claims && missing)
		st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, "", true,
		            "%c's report gives a verdict without a check of every stage", side_name);
}

enum st_status st_svf_diagnose(struct st_svf_comparison *c, struct st_error *err)
{
	bool spans_told = false;
	if (c->side[0].tie != c->side[1].tie)
		st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, "", "", true, "A handles tied tensors by %s, B by %s",
		            st_svf_tie_name(c->side[0].tie), st_svf_tie_name(c->side[1].tie));
	for (int i = 0; i < 2; i++) {
		ST_TRY(stale(c, &c->side[i], err));
		for (size_t k = 0; k < c->side[i].n_sets; k++) {
			ST_TRY(st_check_cancel(err));
			cast(c, &c->side[i], &c->side[i].sets[k]);
		}
	}
	/* All selected tensors first: they tell patterns from single cases. */
	for (int target = 0; target < 2; target++)
		for (size_t i = 0; i < c->n_matches; i++)
			if (c->matches[i].a->target == (target == 1) && st_svf_sound(c, &c->matches[i]))
				explain(c, &c->matches[i], &spans_told);
	for (int side = 0; side < 2; side++) {
		bool judged = !c->side[side].python && c->side[!side].python
		           && st_svf_made_for(&c->side[side], &c->side[!side]);
		for (size_t i = 0; judged && i < c->n_matches; i++)
			if (set_of(&c->matches[i], side)->checks)
				contradictions(c, &c->matches[i], side);
	}
	return ST_OK;
}
