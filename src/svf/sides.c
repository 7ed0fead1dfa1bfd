/* sides.c - what a report says it did, and the stage files that it names. */
#include "svf/compare.h"

#include "base/error.h"

#include <string.h>

#define MAX_SETS 8192

static const char *text_in(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_string(v) && json_string_length(v) ? json_string_value(v) : NULL;
}

static enum st_status broken(const struct st_svf_side *s, const char *where, const char *what, struct st_error *err)
{
	enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, where, "%.400s", what);
	st_error_in(err, s->path);
	return st;
}

/* A stage file, opened once. */
static enum st_status open_file(struct st_svf_comparison *c, struct st_svf_side *s, const char *named,
                                const char **path, struct st_container **out, struct st_error *err)
{
	*path = st_svf_locate(&c->arena, named, s->path, s->components);
	if (!*path) {
		char what[400];
		snprintf(what, sizeof what, "%.300s is not there, nor beside the report", named);
		return broken(s, "stage_tensor_file", what, err);
	}
	for (size_t i = 0; i < s->n_containers; i++)
		if (strcmp(st_container_path(s->containers[i]), *path) == 0) {
			*out = s->containers[i];
			return ST_OK;
		}
	ST_TRY(st_container_open(*path, out, err));
	s->containers[s->n_containers++] = *out;
	return ST_OK;
}

/* Stages by name from a container, or their digests from the report. What is in neither stays NULL. */
static enum st_status fill(struct st_svf_comparison *c, struct st_svf_set *set, const struct st_container *file,
                           const char *prefix, const json_t *names, const json_t *digests, struct st_error *err)
{
	for (size_t i = 0; i < ST_SVF_STAGES; i++) {
		const char *named = text_in(names, st_svf_stage_names[i]);
		const char *key = named ? named : st_arena_printf(&c->arena, "%s%s", prefix, st_svf_stage_names[i]);
		if (!key)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		set->t[i] = file ? st_container_find(file, key) : NULL;
		set->record[i] = set->t[i] ? NULL : json_object_get(digests, st_svf_stage_names[i]);
		set->digest[i] = text_in(set->record[i], "sha256");
	}
	return ST_OK;
}

static const json_t *variant_named(const json_t *report, const char *label)
{
	size_t i;
	json_t *v;
	json_array_foreach(json_object_get(report, "variants"), i, v)
	{
		const char *l = text_in(v, "label");
		if (l && label && strcmp(l, label) == 0)
			return v;
	}
	return NULL;
}

static enum st_status python_side(struct st_svf_comparison *c, struct st_svf_side *s, struct st_error *err)
{
	const json_t *debug = json_object_get(s->json, "stage_debug"), *inputs = json_object_get(s->json, "inputs");
	const json_t *digests = json_object_get(debug, "digests"),
		     *list = json_object_get(s->json, "selected_tensor_stage_debug"), *e;
	const char *source = text_in(json_object_get(s->json, "reference"), "source_name");
	const char *one = text_in(debug, "stage_tensor_file"), *all = text_in(debug, "all_selected_stage_tensor_file"),
		   *path;
	struct st_container *file = NULL;
	size_t i;
	s->components = text_in(inputs, "readback_components_dir");
	if (!source)
		return broken(s, "reference.source_name", "is missing", err);
	one = one ? one : text_in(inputs, "stage_tensor_file");
	all = all ? all : text_in(inputs, "all_selected_stage_tensor_file");
	if (!one && !all)
		return broken(s, "stage_debug.stage_tensor_file",
		              "the report names no stage file: there is nothing to compare", err);
	if (one) {
		struct st_svf_set *set = &s->sets[s->n_sets++];
		const json_t *v = variant_named(s->json, text_in(debug, "baseline_label"));
		ST_TRY(open_file(c, s, one, &path, &file, err));
		*set = (struct st_svf_set){ .source_name = source,
			                    .safe = st_svf_safe_name(&c->arena, source),
			                    .label = "sample",
			                    .file = path,
			                    .target = true,
			                    .observed_hash = text_in(v, "observed_bf16_sha256") };
		ST_TRY(fill(c, set, file, "stage.", NULL, json_object_get(digests, "sample"), err));
		s->claimed[s->n_claimed++] = source;
	}
	if (all)
		ST_TRY(open_file(c, s, all, &path, &file, err));
	json_array_foreach(list, i, e)
	{
		const char *name = text_in(e, "source_name"), *safe;
		if (!name || s->n_sets == MAX_SETS)
			return broken(s, "selected_tensor_stage_debug",
			              "holds an entry without source_name, or too many", err);
		safe = text_in(e, "safe_key");
		safe = safe ? safe : st_svf_safe_name(&c->arena, name);
		s->claimed[s->n_claimed++] = name;
		if (!all)
			continue;
		struct st_svf_set *set = &s->sets[s->n_sets++];
		*set = (struct st_svf_set){ .source_name = name, .safe = safe, .label = "selected", .file = path };
		const char *prefix = st_arena_printf(&c->arena, "tensor.%s.", safe);
		if (!prefix)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(fill(c, set, file, prefix, json_object_get(e, "stage_tensors"), json_object_get(digests, safe),
		            err));
	}
	return ST_OK;
}

static enum st_status replay_side(struct st_svf_comparison *c, struct st_svf_side *s, struct st_error *err)
{
	const json_t *v, *e;
	size_t i;
	s->components = text_in(json_object_get(s->json, "paths"), "components_dir");
	s->copies = json_is_true(json_object_get(json_object_get(s->json, "selection"), "source_from_python_stage"));
	json_array_foreach(json_object_get(s->json, "semantic_python_component_variants"), i, v)
	{
		const json_t *debug = json_object_get(v, "stage_debug");
		const char *named = text_in(debug, "stage_tensor_file"), *name = text_in(v, "source_name"),
			   *label = text_in(v, "label"), *path;
		const char *orientation = text_in(debug, "stage_final_orientation");
		struct st_container *file;
		if (!named)
			continue; /* a diagnostic of another layout */
		if (!name || s->n_sets == MAX_SETS)
			return broken(s, "semantic_python_component_variants",
			              "holds an entry without source_name, or too many", err);
		ST_TRY(open_file(c, s, named, &path, &file, err));
		struct st_svf_set *set = &s->sets[s->n_sets++];
		*set = (struct st_svf_set){ .source_name = name,
			                    .safe = text_in(v, "safe_key"),
			                    .label = label,
			                    .file = path,
			                    .target = orientation ? strcmp(orientation, "target") == 0
			                                          : !label || !strstr(label, "_tensor_"),
			                    .observed_hash = text_in(v, "observed_bf16_sha256"),
			                    .checks = json_object_get(debug, "checks") };
		const json_t *pass = json_object_get(debug, "functional_parity_passed");
		set->claims = json_is_boolean(pass);
		set->claims_pass = json_is_true(pass);
		set->safe = set->safe ? set->safe : st_svf_safe_name(&c->arena, name);
		ST_TRY(fill(c, set, file, "stage.", NULL, json_object_get(debug, "digests"), err));
		s->claimed[s->n_claimed++] = name;
	}
	if (json_is_true(json_object_get(json_object_get(s->json, "selection"), "all_selected_tensors")))
		json_array_foreach(
			json_object_get(json_object_get(s->json, "python_component_metadata"), "selected_tensors"), i,
			e) if (text_in(e, "source_name") && s->n_claimed < 2 * MAX_SETS)
			s->claimed[s->n_claimed++] = text_in(e, "source_name");
	return s->n_sets ? ST_OK
	                 : broken(s, "semantic_python_component_variants",
	                          "none names a stage file: there is nothing to compare", err);
}

enum st_status st_svf_side_open(struct st_svf_comparison *c, struct st_svf_side *s, const char *path,
                                struct st_error *err)
{
	static const struct {
		const char *schema;
		bool python;
	} schemas[] = {
		{ "trinity_sakana_python_svd_parity_trace.v2", true },
		{ "trinity_sakana_svd_parity_trace.v2", false },
	};
	const char *schema;
	s->path = path;
	ST_TRY(st_svf_load_json(path, &s->json, err));
	enum st_status st = st_svf_get_text(s->json, "", "schema", &schema, err);
	if (st != ST_OK) {
		st_error_in(err, path);
		return st;
	}
	size_t k = 0;
	while (k < 2 && strcmp(schemas[k].schema, schema) != 0)
		k++;
	if (k == 2)
		return broken(s, "schema", "is no parity report of version 2", err);
	s->python = schemas[k].python;
	const char *tie = text_in(s->json, "tie_policy");
	if (tie && !st_svf_tie_parse(tie, &s->tie))
		return broken(s, "tie_policy", "is not independent, compose or last-wins", err);
	s->sets = st_arena_alloc(&c->arena, MAX_SETS, sizeof *s->sets);
	s->claimed = st_arena_alloc(&c->arena, 2 * MAX_SETS + 1, sizeof *s->claimed);
	s->containers = st_arena_alloc(&c->arena, MAX_SETS + 2, sizeof(struct st_container *));
	if (!s->sets || !s->claimed || !s->containers)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return s->python ? python_side(c, s, err) : replay_side(c, s, err);
}

void st_svf_side_close(struct st_svf_side *s)
{
	for (size_t i = 0; i < s->n_containers; i++)
		st_container_close(s->containers[i]);
	json_decref(s->json);
}
