/*
 * diagnose.c - why two sides differ, from their stage files alone (and the factors, where they can still be read).
 *
 * A stage is asked about only where the stages before it agree, so that an inherited error names nothing. A cause is
 * confirmed when applying it to one side gives the other's numbers.
 */
#include "svf/compare.h"

#include "svf/job.h"

#include "base/error.h"
#include "dtype/half.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a few rows ---- */

/* Of `take` rows that are spread evenly over all of them, number i. */
static uint64_t spread(uint64_t i, uint64_t take, uint64_t rows) { return take > 1 ? i * (rows - 1) / (take - 1) : 0; }

/* Memory for two rows, x and x + n; NULL is remembered. */
static float *two_rows(struct st_svf_comparison *c, uint64_t n)
{
	float *x = st_alloc_array2(2, n, sizeof *x);
	c->lost |= !x;
	return x;
}

struct apart {
	double worst, all; /* relative to b, of a row and of all; infinite where b is zero or the shapes differ */
};

/* How far a few rows of a are from those of b. turned: b is the transpose. */
static struct apart rows_apart(struct st_svf_comparison *c, const struct st_tensor *a, const struct st_tensor *b,
                               bool turned, uint64_t most)
{
	struct apart far = { INFINITY, INFINITY };
	if (!a || !b || a->ndim != 2 || b->ndim != 2 || a->shape[0] != b->shape[turned]
	    || a->shape[1] != b->shape[!turned])
		return far;
	uint64_t rows = a->shape[0], cols = a->shape[1], take = rows < most ? rows : most;
	float *x = two_rows(c, cols), *y = x + cols, *column = turned ? two_rows(c, rows) : NULL;
	double dd = 0, bb = 0, worst = 0;
	for (uint64_t i = 0; x && (column || !turned) && i < take; i++) {
		uint64_t r = spread(i, take, rows);
		double row_dd = 0, row_bb = 0;
		st_tensor_decode(a, r, 1, x);
		if (!turned)
			st_tensor_decode(b, r, 1, y);
		for (uint64_t k = 0; k < cols; k++) {
			if (turned) {
				st_tensor_decode(b, k, 1, column);
				y[k] = column[r];
			}
			row_dd += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
			row_bb += (double)y[k] * (double)y[k];
		}
		worst = fmax(worst, row_bb > 0 ? sqrt(row_dd / row_bb) : INFINITY);
		dd += row_dd;
		bb += row_bb;
	}
	if (x && bb > 0)
		far = (struct apart){ worst, sqrt(dd / bb) };
	free(x);
	free(column);
	return far;
}

static bool alike(struct st_svf_comparison *c, const struct st_tensor *a, const struct st_tensor *b, bool turned)
{
	return rows_apart(c, a, b, turned, 16).worst <= 1e-7;
}

/* ---- offsets ---- */

static const struct st_svf_match *match_of(const struct st_svf_comparison *c, const char *name)
{
	for (size_t i = 0; i < c->n_matches; i++)
		if (!c->matches[i].target && strcmp(c->matches[i].name, name) == 0)
			return &c->matches[i];
	return NULL;
}

static uint64_t n_offsets(const struct st_svf_set *s) { return s->offsets ? s->t[ST_SVF_OFFSETS]->n_elems : 0; }

static bool same_offsets(const struct st_svf_set *x, const struct st_svf_set *y)
{
	uint64_t n = n_offsets(x);
	return n && n_offsets(y) == n && memcmp(x->offsets, y->offsets, n * sizeof *x->offsets) == 0;
}

/* Whose span on that side these offsets are. */
static const struct st_svf_match *owner(const struct st_svf_comparison *c, int side, const struct st_svf_set *of)
{
	for (size_t i = 0; i < c->n_matches; i++)
		if (same_offsets(of, c->matches[i].set[side]))
			return &c->matches[i];
	return NULL;
}

static size_t rank_of(const struct st_svf_comparison *c, const char *name)
{
	size_t r = 0;
	for (size_t i = 0; i < c->n_matches; i++)
		r += !c->matches[i].target && strcmp(c->matches[i].name, name) < 0;
	return r;
}

static size_t place_of(const struct st_svf_comparison *c, const char *name)
{
	size_t at = 0;
	for (size_t i = 0; i < c->n_matches; i++) {
		if (c->matches[i].target)
			continue;
		if (strcmp(c->matches[i].name, name) == 0)
			return at;
		at++;
	}
	return SIZE_MAX;
}

/* With only one tensor at hand the vector itself can tell. */
static void search_vector(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	const char *path = NULL;
	uint64_t n = n_offsets(m->set[1]);
	struct st_svf_vector v;
	struct st_error unusable = ST_ERROR_INIT; /* then it tells nothing */
	for (size_t s = 0; s < 2 && !path; s++) {
		const json_t *o = json_object_get(c->side[s].json, c->side[s].python ? "inputs" : "paths");
		const char *named = st_svf_text_in(o, "router_vector");
		path = named ? st_svf_locate(&c->arena, named, c->side[s].path, NULL) : NULL;
	}
	if (path && st_svf_vector_read(path, &c->arena, &v, &unusable) == ST_OK)
		for (uint64_t at = 0; at + n <= v.n; at++)
			if (memcmp(v.f32 + at, m->set[1]->offsets, n * sizeof *v.f32) == 0) {
				st_svf_find(c, ST_CAUSE_SVF_WRONG_SPAN, m->name, ST_SVF_OFFSETS, true,
				            "%c takes its offsets from [%" PRIu64 ", %" PRIu64 ") of the vector",
				            c->side[1].name, at, at + n);
				return;
			}
	c->lost |= unusable.code == ST_ERR_NOMEM;
	st_svf_find(c, ST_CAUSE_SVF_OFFSETS, m->name, ST_SVF_OFFSETS, false,
	            "the offsets are other numbers; no known mistake gives them");
}

static bool rounded(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	for (int side = 0; side < 2; side++) {
		const float *full = m->set[!side]->offsets, *less = m->set[side]->offsets;
		bool nearest = true, cut = true;
		for (uint64_t i = 0; i < n_offsets(m->set[0]); i++) {
			nearest &= less[i] == st_bf16_to_f32(st_f32_to_bf16(full[i]));
			cut &= st_f32_bits(less[i]) == (st_f32_bits(full[i]) & 0xFFFF0000u);
		}
		if (nearest || cut) {
			st_svf_find(c, ST_CAUSE_SVF_OFFSETS_BF16, m->name, ST_SVF_OFFSETS, true,
			            "%c rounds the offsets to bf16%s", c->side[side].name,
			            nearest ? "" : " (by cutting)");
			return true;
		}
	}
	return false;
}

/* Does that side consume the spans, which the other has in their places, in alphabetical order? `moved`: tensors with
 * another's span. */
static bool alphabetical(const struct st_svf_comparison *c, int side, size_t *moved)
{
	bool all = true;
	*moved = 0;
	for (size_t i = 0; i < c->n_matches; i++) {
		const struct st_svf_match *x = &c->matches[i];
		if (x->target || !x->set[side]->t[ST_SVF_OFFSETS])
			continue;
		const struct st_svf_match *from = owner(c, !side, x->set[side]);
		*moved += from != NULL && strcmp(from->name, x->name) != 0;
		all &= from && place_of(c, from->name) == rank_of(c, x->name);
	}
	return all && *moved > 0;
}

static void offsets(struct st_svf_comparison *c, const struct st_svf_match *m, bool *told)
{
	const struct st_svf_set *a = m->set[0], *b = m->set[1];
	if (!m->check[ST_SVF_OFFSETS].measured || rounded(c, m))
		return;
	const struct st_svf_match *o = owner(c, 0, b);
	if (!o) {
		search_vector(c, m);
		return;
	}
	if (*told)
		return;
	/* The whole pattern decides the name. */
	size_t moved, moved_a;
	int side = alphabetical(c, 1, &moved) ? 1 : alphabetical(c, 0, &moved_a) ? 0 : -1;
	const struct st_svf_match *back = match_of(c, o->name);
	bool swapped = moved == 2 && back && same_offsets(back->set[1], a);
	if (side >= 0)
		st_svf_find(c, ST_CAUSE_SVF_ALPHABETICAL_SPANS, a->source_name, ST_SVF_OFFSETS, true,
		            "%c consumes the spans in alphabetical order of the tensors' names; %zu tensors have "
		            "another's",
		            c->side[side].name, side ? moved : moved_a);
	else if (swapped)
		st_svf_find(c, ST_CAUSE_SVF_SWAPPED_SPANS, a->source_name, ST_SVF_OFFSETS, true,
		            "%c has the spans of %s and %s swapped", c->side[1].name, a->source_name, o->name);
	else
		st_svf_find(c, ST_CAUSE_SVF_WRONG_SPAN, a->source_name, ST_SVF_OFFSETS, true, "%c takes the span of %s",
		            c->side[1].name, o->name);
	*told = side >= 0 || swapped;
}

/* ---- the scalar ---- */

/* b = norm a, or b = a / norm: the scalar is in before its turn. */
static bool scalar_early(struct st_svf_comparison *c, const struct st_svf_match *m, enum st_svf_stage stage)
{
	const struct st_sums *k = &m->check[stage].m.s;
	const struct st_tensor *t = m->set[0]->t[ST_SVF_NORMALIZATION];
	float of_a = 1;
	if (t && t->n_elems == 1)
		st_tensor_decode(t, 0, 1, &of_a);
	double norm = (double)of_a, gain = k->aa > 0 ? k->ab / k->aa : 1;
	/* sums over a and b: b = gain a */
	double left = k->bb - 2 * gain * k->ab + gain * gain * k->aa;
	bool scaled = k->bb > 0 && fabs(left) < 1e-8 * k->bb;
	for (int side = 0; side < 2; side++)
		if (scaled && fabs(norm - 1) > 1e-7
		    && fabs(gain * (side ? norm : 1 / norm) - 1) < 0.1 * fabs(norm - 1)) {
			st_svf_find(c, ST_CAUSE_SVF_SCALAR_FIRST, m->name, (int)stage, true,
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
 * reads the same numbers in another order, which a rectangular factor allows too. */
static double try_product(struct st_svf_comparison *c, const struct st_svf_set *s, const struct st_svf_factors *f,
                          const struct hypothesis *h)
{
	const struct st_tensor *ut = s->t[ST_SVF_U_SCALED], *mt = s->t[ST_SVF_MATMUL];
	uint64_t rows = mt->shape[0], cols = mt->shape[1], k = ut->shape[1], take = rows < 8 ? rows : 8;
	bool as_v = (f->layout == ST_SVF_TORCH_V) != h->swap;
	float *u = two_rows(c, k > cols ? k : cols), *m = u + (k > cols ? k : cols);
	double dd = 0, mm = 0;
	for (uint64_t i = 0; u && i < take; i++) {
		uint64_t r = spread(i, take, rows);
		st_tensor_decode(ut, r, 1, u);
		st_tensor_decode(mt, r, 1, m);
		for (uint64_t j = 0; j < k; j++)
			u[j] = h->round(u[j]);
		for (uint64_t x = 0; x < cols; x++) {
			double sum = 0;
			for (uint64_t j = 0; j < k; j++)
				sum += (double)u[j] * (double)h->round(as_v ? f->v[x * k + j] : f->v[j * cols + x]);
			dd += (sum - (double)m[x]) * (sum - (double)m[x]);
			mm += (double)m[x] * (double)m[x];
		}
	}
	free(u);
	return mm > 0 ? sqrt(dd / mm) : NAN;
}

static bool factors_for(struct st_svf_comparison *c, const struct st_svf_set *s, struct st_container **file,
                        struct st_svf_factors *f)
{
	const struct st_tensor *u = s->t[ST_SVF_U_SCALED], *m = s->t[ST_SVF_MATMUL];
	const struct st_svf_entry e = { .source_name = s->source_name,
		                        .safe = s->safe,
		                        .rows = m->shape[0],
		                        .cols = m->shape[1],
		                        .k = u->shape[1] };
	for (size_t i = 0; i < 2; i++) {
		struct st_error unusable = ST_ERROR_INIT; /* then the factors tell nothing */
		const char *dir = c->side[i].components,
			   *path = dir ? st_path(&c->arena, dir, ST_SVF_COMPONENTS) : NULL;
		enum st_svf_layout layout;
		*file = NULL;
		if (path && st_svf_components_layout(dir, &layout, NULL, &unusable) == ST_OK
		    && st_container_open(path, file, &unusable) == ST_OK
		    && st_svf_factors_open(*file, &e, layout, f, &unusable) == ST_OK)
			return true;
		c->lost |= unusable.code == ST_ERR_NOMEM || (dir && !path);
		st_container_close(*file);
	}
	return false;
}

/* A side's product against every way to make one; true when that names a cause. */
static bool side_product(struct st_svf_comparison *c, const struct st_svf_match *m, int side,
                         const struct st_svf_factors *f)
{
	const struct st_svf_set *s = m->set[side];
	double plain = try_product(c, s, f, &hypotheses[0]), best = plain;
	size_t which = 0;
	for (size_t i = 1; i < N_HYPOTHESES; i++) {
		double d = try_product(c, s, f, &hypotheses[i]);
		if (d < best) {
			best = d;
			which = i;
		}
	}
	/* The right product is within f32 noise; a cause must explain what is beyond it. */
	if (plain < 2e-6 || which == 0 || best > 0.1 * plain || best > 5e-6)
		return false;
	st_svf_find(c, hypotheses[which].code, m->name, m->first, true, "%c %s (residual %.2g, otherwise %.2g)",
	            c->side[side].name, hypotheses[which].text, best, plain);
	return true;
}

static void products(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	struct st_container *file;
	struct st_svf_factors f;
	bool named = scalar_early(c, m, (enum st_svf_stage)m->first);
	const struct st_tensor *ut = m->set[0]->t[ST_SVF_U_SCALED], *mt = m->set[0]->t[ST_SVF_MATMUL];
	/* Measured: both sides have the same shape, whatever it is. */
	bool numbers = m->check[ST_SVF_U_SCALED].measured && m->check[ST_SVF_MATMUL].measured && ut->ndim == 2
	            && mt->ndim == 2 && ut->shape[0] == mt->shape[0];
	if (!named && numbers && factors_for(c, m->set[0], &file, &f)) {
		named = side_product(c, m, 1, &f);
		named = side_product(c, m, 0, &f) || named;
		st_svf_factors_close(&f);
		st_container_close(file);
	}
	if (named)
		return;
	/* How far each side's zero-offset product is from its own source. */
	double za = rows_apart(c, m->set[0]->t[ST_SVF_ZERO], m->set[0]->t[ST_SVF_SOURCE], false, 64).all,
	       zb = rows_apart(c, m->set[1]->t[ST_SVF_ZERO], m->set[1]->t[ST_SVF_SOURCE], false, 64).all;
	const struct st_sums *k = &m->check[m->first].m.s;
	double rel = k->bb > 0 ? sqrt(k->dd / k->bb) : 0;
	if ((zb > 0.3 && za < 1e-3) || (za > 0.3 && zb < 1e-3))
		st_svf_find(c, ST_CAUSE_SVF_V_LAYOUT, m->name, m->first, false,
		            "%c's zero-offset product is %.2g of the source away from it: the third factor has another "
		            "layout",
		            c->side[zb > za].name, zb > za ? zb : za);
	else if (rel > 5e-6 && rel < 2e-2)
		st_svf_find(c, ST_CAUSE_SVF_REDUCED_PRODUCTS, m->name, m->first, false,
		            "relative difference %.2g: one side's products have the precision of %s", rel,
		            rel > 2e-3 ? "bf16" : "tf32 or f16");
	else
		st_svf_find(c, ST_CAUSE_UNEXPLAINED, m->name, m->first, false,
		            "relative difference %.2g; no known mistake gives it", rel);
}

/* ---- source and result ---- */

static const struct st_svf_set *adapted_like(struct st_svf_comparison *c, const struct st_svf_side *s, const char *but,
                                             const struct st_tensor *t)
{
	for (size_t i = 0; i < s->n_sets; i++)
		if (strcmp(s->sets[i].source_name, but) != 0 && alike(c, t, s->sets[i].t[ST_SVF_ADAPTED], false))
			return &s->sets[i];
	return NULL;
}

static void source(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	const struct st_tensor *a = m->set[0]->t[ST_SVF_SOURCE], *b = m->set[1]->t[ST_SVF_SOURCE];
	for (int side = 0; side < 2; side++) {
		const struct st_svf_set *from = adapted_like(c, &c->side[side], m->name, side ? b : a);
		if (from) {
			st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, m->name, ST_SVF_SOURCE, true,
			            "%c starts from the adapted %s (compose), the other side does not",
			            c->side[side].name, from->source_name);
			return;
		}
	}
	const struct st_sums *k = &m->check[ST_SVF_SOURCE].m.s;
	if (alike(c, a, b, true))
		st_svf_find(c, ST_CAUSE_SVF_SOURCE_TRANSPOSED, m->name, ST_SVF_SOURCE, true,
		            "one side's source is the transpose of the other's");
	else if (m->check[ST_SVF_SOURCE].shape_match && k->dd < 1e-4 * k->bb)
		st_svf_find(c, ST_CAUSE_SVF_SOURCE_ROUNDED, m->name, ST_SVF_SOURCE, false,
		            "the sources are near and not equal: one side's base model is rounded (bf16) or quantised");
	else
		st_svf_find(c, ST_CAUSE_SVF_SOURCE, m->name, ST_SVF_SOURCE, false,
		            "the sources are different matrices: another base model or tensor");
}

static void result(struct st_svf_comparison *c, const struct st_svf_match *m)
{
	for (int side = 0; side < 2; side++) {
		const struct st_svf_set *s = m->set[side], *o = m->set[!side];
		bool turned = alike(c, o->t[ST_SVF_ADAPTED], o->t[ST_SVF_FINAL_F32], true);
		if (turned && alike(c, s->t[ST_SVF_ADAPTED], s->t[ST_SVF_FINAL_F32], false)) {
			st_svf_find(c, ST_CAUSE_SVF_NOT_TRANSPOSED, m->name, m->first, true,
			            "%c leaves the matrix as it is; the target's name (.kernel) asks for the "
			            "transpose, for a square one too",
			            c->side[side].name);
			return;
		}
		const struct st_svf_set *from = adapted_like(c, &c->side[side], m->name, s->t[ST_SVF_FINAL_F32]);
		if (from) {
			st_svf_find(c, ST_CAUSE_SVF_TIE_POLICY, m->name, m->first, true,
			            "%c ends with the adapted %s in this place (last-wins), the other side does not",
			            c->side[side].name, from->source_name);
			return;
		}
	}
	st_svf_find(c, ST_CAUSE_UNEXPLAINED, m->name, m->first, false,
	            "the result is not what the stage before it gives");
}

static const char other_factors[] = "the sides multiply by other factors, or round in between";
static const struct one_cause {
	enum st_cause_code code;
	const char *text;
} one_causes[ST_SVF_STAGES] = {
	[ST_SVF_SCALED_S] = { ST_CAUSE_SVF_FACTORS, other_factors },
	[ST_SVF_U_SCALED] = { ST_CAUSE_SVF_FACTORS, other_factors },
	[ST_SVF_NORMALIZATION] = { ST_CAUSE_SVF_NORMALIZATION,
	                           "sum S / sum scaled comes out differently from the same scaled_s" },
	[ST_SVF_ADAPTED] = { ST_CAUSE_SVF_NORMALIZATION, "the scalar after the product is not the normalization" },
};

static void explain(struct st_svf_comparison *c, const struct st_svf_match *m, bool *spans_told)
{
	if (m->first < 0)
		return;
	if (!m->check[m->first].measured && m->first != ST_SVF_FINAL_F32 && m->first != ST_SVF_FINAL_BF16) {
		st_svf_find(c, ST_CAUSE_SVF_DIFFERS, m->name, m->first, true, "%s",
		            m->set[0]->t[m->first] && m->set[1]->t[m->first]
		                    ? "the shapes differ"
		                    : "the digests differ; export both sides in full to learn by how much");
		return;
	}
	switch (m->first) {
	case ST_SVF_SOURCE:
		source(c, m);
		return;
	case ST_SVF_OFFSETS:
		offsets(c, m, spans_told);
		return;
	case ST_SVF_SCALED_S:
	case ST_SVF_U_SCALED:
		if (scalar_early(c, m, (enum st_svf_stage)m->first))
			return;
		break;
	case ST_SVF_MATMUL:
	case ST_SVF_ZERO:
		products(c, m);
		return;
	case ST_SVF_FINAL_F32:
	case ST_SVF_FINAL_BF16:
		result(c, m);
		return;
	}
	/* Of the others the stage alone says what it can be. */
	const struct one_cause *k = &one_causes[m->first];
	st_svf_find(c, k->code, m->name, m->first, false, "%s", k->text);
}

void st_svf_diagnose(struct st_svf_comparison *c)
{
	bool spans_told = false;
	/* All selected tensors first: they tell patterns from single cases. */
	for (int target = 0; target < 2; target++)
		for (size_t i = 0; i < c->n_matches; i++)
			if (c->matches[i].target == (target == 1) && st_svf_sound(c, &c->matches[i]))
				explain(c, &c->matches[i], &spans_told);
}
