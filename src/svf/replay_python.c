/* replay_python.c - the exporting side, as replay reads it: its report and its stages. */
#include "svf/replay.h"

#include "base/error.h"

#include <string.h>

struct report {
	const char *schema;
	const json_t *debug, *inputs, *reference;
};

#define AT(m) ST_JSON_AT(struct report, m)
static const char *const schemas[] = { "trinity_sakana_python_svd_parity_trace.v2", NULL };
static const struct st_json_field report_fields[] = {
	{ AT(schema), .key = { "schema" }, .required = true, .choices = schemas },
	{ AT(debug), .key = { "stage_debug" } },
	{ AT(inputs), .key = { "inputs" } },
	{ AT(reference), .key = { "reference" } },
};

#undef AT
#define AT(m) ST_JSON_AT(struct st_svf_python, m)
static const struct st_json_field tie_fields[] = { { AT(tie), .key = { "tie_policy" }, .choices = st_svf_ties } };
static const struct st_json_field reference_fields[] = {
	{ AT(label), .key = { "current_python_baseline_label" } },
	{ AT(hash), .key = { "current_python_baseline_bf16_sha256" } },
	{ AT(reproducible), .key = { "expected_hash_reproducible" } },
	{ AT(reference), .key = { "path" }, .min = 1 },
};
static const struct st_json_field input_fields[] = { { AT(vector), .key = { "router_vector" }, .min = 1 } };
/* The debug section's own names go before those among the inputs. */
static const struct st_json_field stage_fields[] = {
	{ AT(sample.named), .key = { "stage_tensor_file" }, .min = 1 },
	{ AT(all.named), .key = { "all_selected_stage_tensor_file" }, .min = 1 },
	{ AT(storage), .key = { "stage_storage" } },
};
#define ROWS(table) table, sizeof(table) / sizeof *(table)

static enum st_status open_stages(struct st_svf_replay_run *x, bool sample, struct st_error *err)
{
	const char *key = stage_fields[sample ? 0 : 1].key[0],
		   *named = sample ? x->python.sample.named : x->python.all.named;
	if (!named)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key,
		                  "the report names no such file: export it with stage tensors%s",
		                  sample ? "" : " and --all-selected-tensors");
	const char *path = st_svf_locate(&x->job.arena, named, x->o->python_report, x->o->components_dir);
	if (!path)
		return st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, key, "%.300s is not there, nor beside the report",
		                  named);
	*(sample ? &x->python.sample.path : &x->python.all.path) = path;
	ST_TRY(st_inputs_add(&x->job.inputs, path, err));
	return st_container_open(path, sample ? &x->python.sample.c : &x->python.all.c, err);
}

static enum st_status read_report(struct st_svf_python *p, struct st_error *err)
{
	const struct st_json_read inputs = { .where = "inputs" }, debug = { .where = "stage_debug" },
				  reference = { .where = "reference" };
	struct report r = { 0 };
	ST_TRY(st_json_read(p->json, NULL, ROWS(report_fields), &r, NULL, err));
	ST_TRY(st_json_read(p->json, NULL, ROWS(tie_fields), p, NULL, err));
	ST_TRY(st_json_read(r.inputs, &inputs, ROWS(input_fields), p, NULL, err));
	ST_TRY(st_json_read(r.inputs, &inputs, stage_fields, 2, p, NULL, err));
	ST_TRY(st_json_read(r.debug, &debug, ROWS(stage_fields), p, NULL, err));
	ST_TRY(st_json_read(r.reference, &reference, ROWS(reference_fields), p, NULL, err));
	if (p->storage && strcmp(p->storage, "digest") == 0)
		p->digests = json_object_get(r.debug, "digests");
	return ST_OK;
}

/* A file as asked for, or else where the report's own one is. */
static enum st_status as_named(struct st_svf_replay_run *x, const char *asked, const char *named, const char *option,
                               const char **out, struct st_error *err)
{
	*out = asked ? asked : named ? st_svf_locate(&x->job.arena, named, x->o->python_report, NULL) : NULL;
	return *out ? ST_OK
	            : st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, option,
	                         "is needed: %.300s, which the report names, is not there", named ? named : "none");
}

enum st_status st_svf_python_load(struct st_svf_replay_run *x, struct st_error *err)
{
	struct st_svf_python *p = &x->python;
	ST_TRY(st_json_load_object(x->o->python_report, 0, &p->json, err));
	enum st_status st = read_report(p, err);
	if (st != ST_OK)
		st_error_in(err, x->o->python_report);
	ST_TRY(st);
	ST_TRY(as_named(x, x->o->reference, p->reference, "--reference", &x->reference, err));
	return as_named(x, x->o->vector, p->vector, "--router-vector", &x->vector, err);
}

static enum st_status open_all(struct st_svf_replay_run *x, struct st_error *err)
{
	if (!x->python.digests) {
		ST_TRY(open_stages(x, true, err));
		return x->o->all_selected ? open_stages(x, false, err) : ST_OK;
	}
	return !x->o->source_from_python ? ST_OK
	                                 : st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "--source-from-python-stage",
	                                              "the report holds digests of its stages, not the stages");
}

enum st_status st_svf_python_open(struct st_svf_replay_run *x, struct st_error *err)
{
	x->job.tie = (enum st_svf_tie)(x->o->tie < 0 ? (int)x->python.tie : x->o->tie);
	ST_TRY(st_inputs_add(&x->job.inputs, x->o->python_report, err));
	enum st_status st = open_all(x, err);
	if (st != ST_OK)
		st_error_in(err, x->o->python_report);
	return st;
}

void st_svf_python_close(struct st_svf_python *p)
{
	st_container_close(p->sample.c);
	st_container_close(p->all.c);
	json_decref(p->json);
}

enum st_status st_svf_python_stages(const struct st_svf_replay_run *x, const struct st_svf_replay_item *it,
                                    const struct st_tensor *out[ST_SVF_STAGES], struct st_error *err)
{
	struct st_container *c = it->sample ? x->python.sample.c : x->python.all.c;
	memset(out, 0, ST_SVF_STAGES * sizeof *out);
	for (size_t s = 0; !x->python.digests && s < ST_SVF_STAGES; s++) {
		char name[1200];
		if (it->sample)
			snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		else
			snprintf(name, sizeof name, "tensor.%s.%s", it->e->safe, st_svf_stage_names[s]);
		out[s] = st_container_find(c, name);
		if (!out[s]) {
			enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, name,
			                               "the stage file has no such tensor");
			st_error_in(err, st_container_path(c));
			return st;
		}
	}
	return ST_OK;
}
