/* replay_python.c - the exporting side, as replay reads it: its report and its stages. */
#include "svf/replay.h"

#include "base/error.h"

#include <string.h>

static enum st_status open_stages(struct st_svf_replay_run *x, bool sample, struct st_error *err)
{
	const char *key = sample ? "stage_tensor_file" : "all_selected_stage_tensor_file",
		   *named = sample ? x->python.said.sample : x->python.said.all;
	struct st_svf_python_file *f = sample ? &x->python.sample : &x->python.all;
	if (!named)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key,
		                  "the report names no such file: export it with stage tensors%s",
		                  sample ? "" : " and --all-selected-tensors");
	f->path = st_svf_locate(&x->job.arena, named, x->o->python_report, x->o->components_dir);
	if (!f->path)
		return st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, key, "%.300s is not there, nor beside the report",
		                  named);
	ST_TRY(st_inputs_add(&x->job.inputs, f->path, err));
	return st_container_open(f->path, &f->c, err);
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
	ST_TRY(st_in_file(x->o->python_report, st_svf_exported_read(p->json, &p->said, err), err));
	if (p->said.storage && strcmp(p->said.storage, "digest") == 0)
		p->digests = p->said.digests;
	ST_TRY(as_named(x, x->o->reference, p->said.reference, "--reference", &x->reference, err));
	return as_named(x, x->o->vector, p->said.vector, "--router-vector", &x->vector, err);
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
	x->job.tie = (enum st_svf_tie)(x->o->tie < 0 ? (int)x->python.said.tie : x->o->tie);
	ST_TRY(st_inputs_add(&x->job.inputs, x->o->python_report, err));
	return st_in_file(x->o->python_report, open_all(x, err), err);
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
		if (!out[s])
			return st_in_file(st_container_path(c),
			                  st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, name,
			                             "the stage file has no such tensor"),
			                  err);
	}
	return ST_OK;
}
