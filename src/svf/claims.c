/* claims.c - what a side says of itself, in its report, against what its files say. */
#include "svf/compare.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

struct casting {
	const uint8_t *f32, *bf16;
	_Atomic uint64_t wrong, not_cut;
};

static void count_casts(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct casting *k = ctx;
	uint64_t wrong = 0, not_cut = 0;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		uint32_t u;
		uint16_t b;
		memcpy(&u, k->f32 + 4 * i, 4);
		memcpy(&b, k->bf16 + 2 * i, 2);
		wrong += b != st_f32_to_bf16(st_bits_f32(u));
		not_cut += b != u >> 16;
	}
	k->wrong += wrong;
	k->not_cut += not_cut;
}

/* Is the bf16 result the rounded f32 result of the same file? */
static void cast(struct st_svf_comparison *c, const struct st_svf_side *side, const struct st_svf_set *s)
{
	const struct st_tensor *f = s->t[ST_SVF_FINAL_F32], *h = s->t[ST_SVF_FINAL_BF16];
	if (!f || !h || f->dtype != ST_DTYPE_F32 || h->dtype != ST_DTYPE_BF16 || f->n_elems != h->n_elems
	    || f->layout != ST_LAYOUT_ROWS || h->layout != ST_LAYOUT_ROWS)
		return;
	struct casting k = { .f32 = f->data, .bf16 = h->data };
	st_pool_run(c->pool, f->n_elems, st_pool_piece(c->pool, f->n_elems, 4), count_casts, &k);
	if (k.wrong == 0)
		return;
	bool cut = k.not_cut == 0;
	st_svf_find(
		c, cut ? ST_CAUSE_SVF_TRUNCATED_CAST : ST_CAUSE_SVF_CAST, s->source_name, ST_SVF_FINAL_BF16, true,
		"%c's final_bf16 is not its own final_f32 rounded to nearest even: %llu of %llu elements are others%s",
		side->name, (unsigned long long)k.wrong, (unsigned long long)f->n_elems,
		cut ? ", all of them cut off" : "");
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
			const char *named = st_svf_text_in(f, "path"), *sha = st_svf_text_in(f, "sha256"),
				   *role = st_svf_text_in(f, "role");
			char hex[65];
			/* Stage files of the side itself; it may also list the other side's. */
			if (!named || !sha || !role || strncmp(role, "python_", 7) == 0
			    || strcmp(base_name(named), base_name(path)) != 0)
				continue;
			ST_TRY(st_file_sha256(path, hex, NULL, err));
			if (strcmp(hex, sha) != 0)
				st_svf_find(c, ST_CAUSE_SVF_STALE_STAGES, base_name(path), -1, true,
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
			st_svf_find(c, ST_CAUSE_SVF_STALE_STAGES, s->source_name, ST_SVF_FINAL_BF16, true,
			            "%c's report states %.16s.. for the result, its stage file holds %.16s..",
			            side->name, s->observed_hash, hex);
	}
	return ST_OK;
}

/* What a replaying side says of its checks against what its files say. */
static void contradictions(struct st_svf_comparison *c, const struct st_svf_match *m, int side)
{
	const struct st_svf_set *b = m->set[side];
	const char side_name = c->side[side].name;
	bool all = true, missing = false;
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		char name[64];
		snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		const json_t *found = st_svf_with_text(b->checks, "stage", name);
		missing |= !found;
		if (!found || !m->check[s].measured)
			continue;
		const json_t *tol = json_object_get(found, "tolerance");
		double max = json_number_value(json_object_get(tol, "max_abs_error")),
		       mean = json_number_value(json_object_get(tol, "mean_abs_error"));
		/* A mean near its tolerance may fall on either side of it with another order of summation. */
		double mine = st_distance_mean(&m->check[s].m);
		bool pass = m->check[s].shape_match
		         && st_svf_passed(&m->check[s].m, &(struct st_svf_tolerance){ max, mean, true });
		bool says = json_is_true(json_object_get(found, "functional_passed"));
		bool edge = fabs(mine - mean) < 1e-3 * mean;
		if (json_is_true(json_object_get(found, "required_for_functional_parity")))
			all &= pass;
		if (says != pass && !edge) {
			const struct st_distance *got = &m->check[s].m;
			char far[64] = "empty or not finite";
			if (got->count && !got->s.bad_a && !got->s.bad_b)
				snprintf(far, sizeof far, "max %.3g, mean %.3g", got->s.max, mine);
			st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, (int)s, true,
			            "%c's report says this stage %s, its files say that it %s (%s)", side_name,
			            says ? "passed" : "failed", pass ? "passes" : "fails", far);
		} else if (json_is_true(json_object_get(found, "byte_match")) && !m->check[s].byte_match) {
			st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, (int)s, true,
			            "%c's report says that the bytes match, %llu elements differ", side_name,
			            (unsigned long long)m->check[s].m.mismatched);
		}
	}
	if (b->claims && b->claims_pass && !all && !missing)
		st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, -1, true,
		            "%c's report claims functional parity, its files do not have it", side_name);
	if (b->claims && missing)
		st_svf_find(c, ST_CAUSE_SVF_CONTRADICTION, b->source_name, -1, true,
		            "%c's report gives a verdict without a check of every stage", side_name);
}

static bool has_hash(const struct st_svf_side *s, const char *want)
{
	static const char *const lists[] = { "variants", "native_elixir_svd_variants",
		                             "semantic_python_component_variants" };
	for (size_t l = 0; l < 3; l++)
		if (st_svf_with_text(json_object_get(s->json, lists[l]), "observed_bf16_sha256", want))
			return true;
	return false;
}

void st_svf_check_hashes(struct st_svf_comparison *c)
{
	if (c->sample_left_out)
		return; /* there is nothing that could have them */
	const struct st_svf_side *py = c->side[1].python && !c->side[0].python ? &c->side[1] : &c->side[0],
				 *other = py == &c->side[0] ? &c->side[1] : &c->side[0];
	const json_t *ref = json_object_get(py->json, "reference");
	const char *base = st_svf_text_in(ref, "current_python_baseline_bf16_sha256"),
		   *want = st_svf_text_in(ref, "expected_bf16_sha256");
	if (c->o->strict_python && !has_hash(other, base))
		st_svf_find(c, ST_CAUSE_SVF_BASELINE_HASH, NULL, ST_SVF_FINAL_BF16, true,
		            "no variant of %c has %c's baseline hash %.64s", other->name, py->name,
		            base ? base : "(none)");
	if (c->o->strict_reference && (!has_hash(py, want) || !has_hash(other, want)))
		st_svf_find(c, ST_CAUSE_SVF_REFERENCE_HASH, NULL, ST_SVF_FINAL_BF16, true,
		            "%s the stored reference hash %.64s",
		            has_hash(py, want) || has_hash(other, want) ? "only one side has" : "neither side has",
		            want ? want : "(none)");
}

enum st_status st_svf_check_files(struct st_svf_comparison *c, struct st_error *err)
{
	for (int i = 0; i < 2; i++) {
		ST_TRY(stale(c, &c->side[i], err));
		for (size_t k = 0; k < c->side[i].n_sets; k++) {
			ST_TRY(st_check_cancel(err));
			cast(c, &c->side[i], &c->side[i].sets[k]);
		}
	}
	return ST_OK;
}

void st_svf_check_claims(struct st_svf_comparison *c)
{
	for (int i = 0; i < 2; i++) {
		const struct st_svf_side *side = &c->side[i], *other = &c->side[!i];
		bool judged = !side->python && other->python && st_svf_made_for(side, other);
		for (size_t k = 0; judged && k < c->n_matches; k++)
			if (c->matches[k].set[i]->checks)
				contradictions(c, &c->matches[k], i);
	}
}
