/* tolerances.c - how far two values of a stage may be apart. */
#include "svf/stages.h"

#include "base/error.h"

#include <float.h>
#include <string.h>

bool st_svf_passed(const struct st_distance *m, const struct st_svf_tolerance *t)
{
	return m->count > 0 && m->s.bad_a == 0 && m->s.bad_b == 0 && m->s.max <= t->max_abs
	    && st_distance_mean(m) <= t->mean_abs;
}

/* ---- tolerances ---- */

#define AT(m) ST_JSON_AT(struct st_svf_tolerance, m)
static const struct st_json_field fields[] = {
	{ AT(max_abs), .key = { "max_abs_error" }, .max = DBL_MAX },
	{ AT(mean_abs), .key = { "mean_abs_error" }, .max = DBL_MAX },
	{ AT(required), .key = { "required" } },
};

json_t *st_svf_check_json(const struct st_svf_check *c, const struct st_svf_tolerance *t, bool numbers)
{
	return st_json_object(ST_IS("tolerance", st_json_put_fields(json_object(), fields, 2, t)),
	                      ST_IS("byte_match", c->byte_match), ST_IS("shape_match", c->shape_match),
	                      ST_IS("max_abs_error", numbers ? st_json_number(c->m.s.max) : json_null()),
	                      ST_IS("mean_abs_error", numbers ? st_json_number(st_distance_mean(&c->m)) : json_null()),
	                      ST_IS("mismatched_element_count", numbers ? st_json_u64(c->m.mismatched) : json_null()));
}

/* {max, mean} of the products; scales and the normalization are the same in every profile. The cast is reported, not
 * required. */
static void set(struct st_svf_profile *p, const char *name, double max, double mean)
{
	const struct st_svf_tolerance none = { 0, 0, true }, scale = { 1e-6, 1e-8, true }, norm = { 1e-6, 1e-6, true };
	snprintf(p->name, sizeof p->name, "%s", name);
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		p->stage[s] = (struct st_svf_tolerance){ max, mean, s != ST_SVF_FINAL_BF16 };
	p->stage[ST_SVF_SOURCE] = p->stage[ST_SVF_OFFSETS] = none;
	p->stage[ST_SVF_SCALED_S] = p->stage[ST_SVF_U_SCALED] = scale;
	p->stage[ST_SVF_NORMALIZATION] = norm;
}

static enum st_status read_profile(const json_t *o, struct st_svf_profile *p, struct st_error *err)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
	{
		size_t s = 0;
		while (s < ST_SVF_STAGES && strcmp(st_svf_stage_names[s], key) != 0)
			s++;
		if (s == ST_SVF_STAGES)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "is no stage; the first is source_f32, the last final_bf16");
		if (!json_is_object(v))
			return st_json_bad(o, NULL, key, "not an object", err);
		ST_TRY(st_json_read(v, &(struct st_json_read){ .where = key, .refuse_unknown = true }, fields, 3,
		                    &p->stage[s], NULL, err));
	}
	return ST_OK;
}

enum st_status st_svf_profile_read(const char *name, struct st_svf_profile *p, struct st_error *err)
{
	json_t *o;
	set(p, "strict", 1e-3, 1e-5);
	if (!name || strcmp(name, "strict") == 0)
		return ST_OK;
	if (strcmp(name, "f32") == 0) {
		set(p, "f32", 1e-5, 1e-7);
		return ST_OK;
	}
	ST_TRY(st_json_load_object(name, 0, &o, err));
	enum st_status st = st_in_file(name, read_profile(o, p, err), err);
	snprintf(p->name, sizeof p->name, "%.63s", name);
	json_decref(o);
	return st;
}
