/* replay_python.c - the exporting side, as replay reads it: its report and its stages. */
#include "svf/replay.h"

#include "base/error.h"

#include <string.h>

static const char *text_at(const json_t *o, const char *a, const char *b)
{
	const json_t *v = json_object_get(json_object_get(o, a), b);
	return json_is_string(v) && json_string_length(v) ? json_string_value(v) : NULL;
}

static enum st_status open_stages(struct st_svf_replay_run *x, const char *key, const char **path,
                                  struct st_container **c, struct st_error *err)
{
	const char *named = text_at(x->python, "stage_debug", key);
	if (!named)
		named = text_at(x->python, "inputs", key);
	if (!named) {
		enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key,
		                               "the report names no such file: export it with stage tensors%s",
		                               strncmp(key, "all", 3) == 0 ? " and --all-selected-tensors" : "");
		st_error_in(err, x->o->python_report);
		return st;
	}
	*path = st_svf_locate(&x->job.arena, named, x->o->python_report, x->o->components_dir);
	if (!*path) {
		enum st_status st = st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, key,
		                               "%.300s is not there, nor beside the report", named);
		st_error_in(err, x->o->python_report);
		return st;
	}
	return st_container_open(*path, c, err);
}

enum st_status st_svf_replay_open_python(struct st_svf_replay_run *x, struct st_error *err)
{
	const char *schema, *storage;
	ST_TRY(st_svf_load_json(x->o->python_report, &x->python, err));
	enum st_status st = st_svf_get_text(x->python, "", "schema", &schema, err);
	if (st == ST_OK && strcmp(schema, "trinity_sakana_python_svd_parity_trace.v2") != 0)
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "schema",
		                "is \"%.80s\"; trinity_sakana_python_svd_parity_trace.v2 is read", schema);
	if (st != ST_OK) {
		st_error_in(err, x->o->python_report);
		return st;
	}
	storage = text_at(x->python, "stage_debug", "stage_storage");
	if (storage && strcmp(storage, "digest") == 0) {
		x->digests = json_object_get(json_object_get(x->python, "stage_debug"), "digests");
		if (x->o->source_from_python)
			return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "--source-from-python-stage",
			                  "the report holds digests of its stages, not the stages");
		return ST_OK;
	}
	ST_TRY(open_stages(x, "stage_tensor_file", &x->sample_path, &x->sample_stages, err));
	return x->o->all_selected ? open_stages(x, "all_selected_stage_tensor_file", &x->all_path, &x->all_stages, err)
	                          : ST_OK;
}

enum st_status st_svf_replay_tie(struct st_svf_replay_run *x, struct st_error *err)
{
	const json_t *v = json_object_get(x->python, "tie_policy");
	enum st_svf_tie theirs = ST_SVF_INDEPENDENT;
	if (v && (!json_is_string(v) || !st_svf_tie_parse(json_string_value(v), &theirs))) {
		enum st_status st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tie_policy",
		                               "is not independent, compose or last-wins");
		st_error_in(err, x->o->python_report);
		return st;
	}
	x->job.tie = x->o->tie < 0 ? theirs : (enum st_svf_tie)x->o->tie;
	return ST_OK;
}

/* The other side's ten stages of an item; a missing one is a fault of the setup. */
enum st_status st_svf_replay_find_stages(const struct st_svf_replay_run *x, const struct st_svf_replay_item *it,
                                         const struct st_tensor *out[ST_SVF_STAGES], struct st_error *err)
{
	struct st_container *c = it->sample ? x->sample_stages : x->all_stages;
	memset(out, 0, ST_SVF_STAGES * sizeof *out);
	if (x->digests)
		return ST_OK;
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		char name[1200];
		if (it->sample)
			snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		else
			snprintf(name, sizeof name, "tensor.%s.%s", it->e->safe, st_svf_stage_names[s]);
		out[s] = st_container_find(c, name);
		if (!out[s]) {
			enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, name,
			                               "the stage file has no such tensor");
			st_error_in(err, it->sample ? x->sample_path : x->all_path);
			return st;
		}
	}
	return ST_OK;
}
