/* sides.c - what a report says it did, and the stage files that it names. */
#include "svf/compare.h"

#include "svf/job.h"

#include "base/error.h"

#include <stdarg.h>
#include <string.h>

#define MAX_SETS 8192
#define MAX_CLAIMS (2 * MAX_SETS + 1)

static bool true_in(const json_t *o, const char *a, const char *b)
{
	return json_is_true(json_object_get(json_object_get(o, a), b));
}

static enum st_status broken(const struct st_svf_side *s, const char *where, const char *what, struct st_error *err)
{
	return st_in_file(s->path, st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, where, "%.400s", what), err);
}

/* A stage file, opened once. */
static enum st_status open_file(struct st_svf_comparison *c, struct st_svf_side *s, const char *named,
                                struct st_container **out, struct st_error *err)
{
	const char *path = st_svf_locate(&c->arena, named, s->path, s->components);
	if (!path) {
		char what[400];
		snprintf(what, sizeof what, "%.300s is not there, nor beside the report", named);
		return broken(s, "stage_tensor_file", what, err);
	}
	for (size_t i = 0; i < s->n_containers; i++)
		if (strcmp(st_container_path(s->containers[i]), path) == 0) {
			*out = s->containers[i];
			return ST_OK;
		}
	ST_TRY(st_container_open(path, out, err));
	s->containers[s->n_containers++] = *out;
	return ST_OK;
}

/* A set of e's stages by name from a container, or their digests from the report; what is in neither stays NULL.
 * `like` has what else is known. */
static enum st_status add_set(struct st_svf_comparison *c, struct st_svf_side *s, struct st_svf_set like,
                              const struct st_container *file, const json_t *names, const json_t *digests,
                              struct st_error *err)
{
	struct st_svf_set *set = &s->sets[s->n_sets];
	if (s->n_sets++ == MAX_SETS)
		return broken(s, "selected tensors", "are too many", err);
	*set = like;
	set->file = st_container_path(file);
	set->safe = set->safe ? set->safe : st_svf_safe_name(&c->arena, set->source_name);
	const char *prefix = !set->label || strcmp(set->label, "selected") != 0
	                           ? "stage."
	                           : st_arena_printf(&c->arena, "tensor.%s.", set->safe);
	for (size_t i = 0; i < ST_SVF_STAGES; i++) {
		const char *named = st_svf_text_in(names, st_svf_stage_names[i]), *key = named;
		if (!key && prefix)
			key = st_arena_printf(&c->arena, "%s%s", prefix, st_svf_stage_names[i]);
		ST_NEED(key && set->safe);
		set->t[i] = st_container_find(file, key);
		set->record[i] = set->t[i] ? NULL : json_object_get(digests, st_svf_stage_names[i]);
		set->digest[i] = st_svf_text_in(set->record[i], "sha256");
	}
	const struct st_tensor *o = set->t[ST_SVF_OFFSETS];
	float *x = o && o->n_elems ? st_arena_alloc(&c->arena, o->n_elems, sizeof *x) : NULL;
	if (x)
		st_tensor_decode(o, 0, st_tensor_rows(o), x);
	else if (o && o->n_elems)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	set->offsets = x;
	return ST_OK;
}

static void claim(struct st_svf_side *s, const char *source, const json_t *named)
{
	s->claimed[s->n_claimed++] = (struct st_svf_claim){ source, st_svf_text_in(named, "elixir_name") };
}

static enum st_status python_side(struct st_svf_comparison *c, struct st_svf_side *s, struct st_error *err)
{
	struct st_svf_exported x;
	struct st_container *file = NULL;
	const json_t *e;
	size_t i;
	ST_TRY(st_in_file(s->path, st_svf_exported_read(s->json, &x, err), err));
	s->components = x.components;
	s->tie = x.tie;
	if (!x.source)
		return broken(s, "reference.source_name", "is missing", err);
	if (!x.sample && !x.all)
		return broken(s, "stage_debug.stage_tensor_file",
		              "the report names no stage file: there is nothing to compare", err);
	if (x.sample) {
		const json_t *v = st_svf_with_text(json_object_get(s->json, "variants"), "label", x.baseline);
		ST_TRY(open_file(c, s, x.sample, &file, err));
		ST_TRY(add_set(c, s,
		               (struct st_svf_set){ .source_name = x.source,
		                                    .label = "sample",
		                                    .target = true,
		                                    .observed_hash = st_svf_text_in(v, "observed_bf16_sha256") },
		               file, NULL, json_object_get(x.digests, "sample"), err));
		claim(s, x.source, json_object_get(s->json, "reference"));
	}
	if (x.all)
		ST_TRY(open_file(c, s, x.all, &file, err));
	json_array_foreach(json_object_get(s->json, "selected_tensor_stage_debug"), i, e)
	{
		const char *name = st_svf_text_in(e, "source_name"), *safe = st_svf_text_in(e, "safe_key");
		if (!name || s->n_claimed > MAX_SETS)
			return broken(s, "selected_tensor_stage_debug",
			              "holds an entry without source_name, or too many", err);
		claim(s, name, e);
		safe = safe ? safe : st_svf_safe_name(&c->arena, name);
		ST_NEED(safe);
		if (x.all)
			ST_TRY(add_set(
				c, s, (struct st_svf_set){ .source_name = name, .safe = safe, .label = "selected" },
				file, json_object_get(e, "stage_tensors"), json_object_get(x.digests, safe), err));
	}
	return ST_OK;
}

static enum st_status replay_side(struct st_svf_comparison *c, struct st_svf_side *s, struct st_error *err)
{
	static const char list[] = "semantic_python_component_variants";
	static const struct st_json_field tie = { ST_JSON_AT(struct st_svf_side, tie), .key = { "tie_policy" },
		                                  .choices = st_svf_ties };
	const json_t *v, *e;
	size_t i;
	ST_TRY(st_in_file(s->path, st_json_read_one(s->json, NULL, &tie, s, NULL, err), err));
	s->components = st_svf_text_in(json_object_get(s->json, "paths"), "components_dir");
	s->filter = st_svf_text_in(json_object_get(s->json, "selection"), "selected_source_filter");
	if (json_is_false(json_object_get(json_object_get(s->json, "selection"), "all_selected_tensors")))
		s->only = st_svf_text_in(json_object_get(s->json, "reference"), "source_name");
	s->copies = true_in(s->json, "selection", "source_from_python_stage");
	json_array_foreach(json_object_get(s->json, list), i, v)
	{
		const json_t *debug = json_object_get(v, "stage_debug"),
			     *pass = json_object_get(debug, "functional_parity_passed");
		const char *named = st_svf_text_in(debug, "stage_tensor_file"),
			   *name = st_svf_text_in(v, "source_name"), *label = st_svf_text_in(v, "label"),
			   *orientation = st_svf_text_in(debug, "stage_final_orientation");
		struct st_container *file;
		if (!named)
			continue; /* a diagnostic of another layout */
		if (!name || s->n_claimed > MAX_SETS)
			return broken(s, list, "holds an entry without source_name, or too many", err);
		ST_TRY(open_file(c, s, named, &file, err));
		ST_TRY(add_set(c, s,
		               (struct st_svf_set){
				       .source_name = name,
				       .safe = st_svf_text_in(v, "safe_key"),
				       .label = "replayed",
				       .target = orientation ? strcmp(orientation, "target") == 0
		                                             : !label || !strstr(label, "_tensor_"),
				       .observed_hash = st_svf_text_in(v, "observed_bf16_sha256"),
				       .checks = json_object_get(debug, "checks"),
				       .claims = json_is_boolean(pass),
				       .claims_pass = json_is_true(pass),
			       },
		               file, NULL, json_object_get(debug, "digests"), err));
		claim(s, name, v);
	}
	if (s->n_sets == 0)
		return broken(s, list, "none names a stage file: there is nothing to compare", err);
	if (!true_in(s->json, "selection", "all_selected_tensors"))
		return ST_OK;
	json_array_foreach(json_object_get(json_object_get(s->json, "python_component_metadata"), "selected_tensors"),
	                   i, e)
	{
		if (st_svf_text_in(e, "source_name") && s->n_claimed < MAX_CLAIMS)
			claim(s, st_svf_text_in(e, "source_name"), e);
	}
	return ST_OK;
}

enum st_status st_svf_side_open(struct st_svf_comparison *c, struct st_svf_side *s, const char *path,
                                struct st_error *err)
{
	static const char python[] = "trinity_sakana_python_svd_parity_trace.v2",
			  replay[] = "trinity_sakana_svd_parity_trace.v2";
	s->path = path;
	ST_TRY(st_json_load_object(path, 0, &s->json, err));
	const char *schema = st_svf_text_in(s->json, "schema");
	s->python = schema && strcmp(schema, python) == 0;
	if (!s->python && (!schema || strcmp(schema, replay) != 0))
		return broken(s, "schema", "is no parity report of version 2", err);
	s->sets = st_arena_alloc(&c->arena, MAX_SETS, sizeof *s->sets);
	s->claimed = st_arena_alloc(&c->arena, MAX_CLAIMS, sizeof *s->claimed);
	s->containers = st_arena_alloc(&c->arena, MAX_SETS + 2, sizeof(struct st_container *));
	ST_NEED(s->sets && s->claimed && s->containers);
	return s->python ? python_side(c, s, err) : replay_side(c, s, err);
}

void st_svf_side_close(struct st_svf_side *s)
{
	for (size_t i = 0; i < s->n_containers; i++)
		st_container_close(s->containers[i]);
	json_decref(s->json);
}

/* The digest of a file that a report lists under that role, or NULL. */
static const char *listed_digest(const json_t *report, const char *role)
{
	return st_svf_text_in(st_svf_with_text(json_object_get(report, "files"), "role", role), "sha256");
}

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

void st_svf_find(struct st_svf_comparison *c, enum st_cause_code code, const char *tensor, int stage, bool confirmed,
                 const char *fmt, ...)
{
	char text[500];
	void *p = c->findings;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	const char *kept = st_arena_printf(&c->arena, "%s", text);
	c->lost |= !kept || !st_grow(&p, &c->cap_findings, c->n_findings + 1, sizeof *c->findings);
	c->findings = p;
	if (!c->lost)
		c->findings[c->n_findings++] = (struct st_svf_finding){ st_cause_name(code), tensor,
			                                                stage < 0 ? NULL : st_svf_stage_names[stage],
			                                                kept, confirmed };
}
