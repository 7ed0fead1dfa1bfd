/* job.c - one run of export, replay or apply: its inputs, and what it tells. */
#include "svf/job.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum st_status st_svf_job_begin(struct st_svf_job *j, int threads, struct st_svf_result *r, struct st_error *err)
{
	*r = (struct st_svf_result){ 0 };
	j->text = open_memstream(&r->text, &j->length);
	j->report = json_object();
	j->files = json_array();
	j->variants = json_array();
	j->warnings = json_array();
	ST_NEED(j->text && j->report && j->files && j->variants && j->warnings);
	return st_pool_open(threads, &j->pool, err);
}

enum st_status st_svf_job_open(struct st_svf_job *j, const char *vector, const char *reference, int threads,
                               struct st_svf_result *r, struct st_error *err)
{
	ST_TRY(st_svf_job_begin(j, threads, r, err));
	ST_TRY(st_svf_vector_read(vector, &j->arena, &j->vector, err));
	ST_TRY(st_inputs_add(&j->inputs, vector, err));
	ST_TRY(st_svf_reference_read(reference, &j->vector, &j->arena, &j->ref, err));
	return st_inputs_add(&j->inputs, reference, err);
}

enum st_status st_svf_job_base(struct st_svf_job *j, const char *model, bool round_bf16, struct st_error *err)
{
	ST_TRY(st_svf_base_open(model, round_bf16, &j->hooks, &j->base, err));
	j->have_base = true;
	for (size_t i = 0; i < j->ref.n; i++) {
		struct st_weight w;
		ST_TRY(st_svf_base_find(&j->base, &j->ref.entries[i], &w, err));
	}
	return st_container_inputs(st_svf_base_container(&j->base), &j->inputs, err);
}

void st_svf_result_release(struct st_svf_result *r)
{
	free(r->text);
	free(r->json);
	memset(r, 0, sizeof *r);
}

enum st_status st_svf_job_close(struct st_svf_job *j, enum st_status so_far, int exit_status, struct st_svf_result *r,
                                struct st_error *err)
{
	if (so_far == ST_OK) {
		r->exit_status = exit_status;
		r->json = st_json_ok(j->report) ? st_json_print(j->report, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
		so_far = st_have(r->json, err);
	}
	if (j->text && fclose(j->text) != 0 && so_far == ST_OK)
		so_far = st_have(false, err);
	if (so_far != ST_OK)
		st_svf_result_release(r);
	json_decref(j->report);
	json_decref(j->files);
	json_decref(j->variants);
	json_decref(j->warnings);
	for (size_t i = 0; j->computed && i < j->ref.n; i++)
		st_container_close(j->computed[i]);
	st_container_close(j->factors);
	if (j->have_base)
		st_svf_base_close(&j->base);
	st_svf_reference_release(&j->ref);
	st_inputs_release(&j->inputs);
	st_arena_release(&j->arena);
	st_pool_close(j->pool);
	return so_far;
}

void st_svf_job_wrote(struct st_svf_job *j, const char *verb, const char *path)
{
	size_t i;
	json_t *w;
	json_array_foreach(j->warnings, i, w) fprintf(j->text, "warning: %s\n", json_string_value(w));
	fprintf(j->text, "%s %s\n", verb, path);
}

const struct st_svf_entry *st_svf_job_sample(const struct st_svf_job *j) { return &j->ref.entries[j->ref.sample]; }

/* ---- factors ---- */

static const char *const schemas[] = { "trinity_sakana_sample_component_debug.v1",
	                               "trinity_sakana_selected_component_debug.v1", NULL };
struct components {
	const char *schema, *layout;
};
static const struct st_json_field component_fields[] = {
	{ ST_JSON_AT(struct components, schema), .key = { "schema" }, .required = true, .choices = schemas },
	{ ST_JSON_AT(struct components, layout), .key = { "component_v_layout" } },
};

enum st_status st_svf_components_layout(const char *dir, enum st_svf_layout *layout, json_t **manifest,
                                        struct st_error *err)
{
	char path[4096];
	struct components c = { 0 };
	json_t *m;
	snprintf(path, sizeof path, "%s/%s", dir, ST_SVF_DEBUG_MANIFEST);
	*layout = ST_SVF_TORCH_V;
	if (manifest)
		*manifest = NULL;
	ST_TRY(st_json_load(path, &m, err));
	if (!m)
		return ST_OK;
	enum st_status st = st_json_read(m, NULL, component_fields, 2, &c, NULL, err);
	if (st == ST_OK && c.layout && !st_svf_layout_parse(c.layout, layout))
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "component_v_layout",
		                "is \"%.40s\"; torch_v, vh and nx are known", c.layout);
	if (st == ST_OK && manifest)
		*manifest = m;
	else
		json_decref(m);
	return st_in_file(path, st, err);
}

struct st_container *st_svf_job_factors(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->factors ? j->factors : j->computed ? j->computed[e->index] : NULL;
}

/* ---- tied tensors ---- */

static const struct st_svf_entry *tied(const struct st_svf_job *j, const struct st_svf_entry *e, size_t from, size_t to)
{
	for (size_t i = from; j->have_base && i < to; i++)
		if (i != e->index
		    && st_svf_base_tied(&j->base, &j->ref.entries[i < e->index ? i : e->index],
		                        &j->ref.entries[i < e->index ? e->index : i]))
			return &j->ref.entries[i];
	return NULL;
}

const struct st_svf_entry *st_svf_job_before(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->tie == ST_SVF_COMPOSE ? tied(j, e, 0, e->index) : NULL;
}

const struct st_svf_entry *st_svf_job_after(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->tie == ST_SVF_LAST_WINS ? tied(j, e, e->index + 1, j->ref.n) : NULL;
}
