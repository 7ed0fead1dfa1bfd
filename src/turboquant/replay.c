/* replay.c - st_replay_run: options in, report and files out. */
#include "turboquant/replay_internal.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

json_t *st_json_visible(const struct st_tq_params *p, enum st_tq_visibility vis)
{
	struct st_tq_rows rows;
	st_tq_visible_rows(p, vis, &rows);
	json_t *j = json_object();
	st_json_put(j, "visible_rows", json_integer(rows.visible));
	st_json_put(j, "expected_rows", json_integer(rows.expected));
	return j;
}

static size_t base_length(const char *out)
{
	size_t n = strlen(out);
	return n > 5 && !strcmp(out + n - 5, ".json") ? n - 5 : n;
}

enum st_status st_replay_open(struct st_replay_run *r, const char *suffix, struct st_outfile **f, char **path,
                              struct st_error *err)
{
	if (!r->o->out)
		return ST_OK;
	char *name = NULL;
	if (asprintf(&name, "%.*s%s", (int)base_length(r->o->out), r->o->out, suffix) < 0)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	for (size_t i = 0; r->inputs[i] && st == ST_OK; i++)
		if (st_out_takes(name, r->inputs[i]))
			st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--out", "is one of the files that are read");
	if (st == ST_OK)
		st = st_outfile_open(name, f, err);
	st_error_in(err, name);
	if (st != ST_OK && !err->where[0])
		snprintf(err->where, sizeof err->where, "--out");
	if (path && st == ST_OK)
		*path = name;
	else
		free(name);
	return st;
}

enum st_status st_replay_open_json(struct st_replay_run *r, struct st_error *err)
{
	return st_replay_open(r, ".json", &r->json_file, NULL, err);
}

static enum st_status resolve(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	r->exec.cpu = st_cpu_best();
	if (o->kernel && !st_cpu_parse(o->kernel, &r->exec.cpu))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "kernel",
		                  "unknown kernel \"%s\"; scalar, avx2, avx512 and neon are known", o->kernel);
	if (!st_cpu_usable(r->exec.cpu))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "kernel", "%s cannot run on this processor",
		                  st_cpu_name(r->exec.cpu));
	if (o->bits && !st_tq_bits_ok(o->bits))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "bits",
		                  "%u is not a width of the cache; 4, 5, 6 and 8 are", o->bits);
	if (o->out && !o->out[0])
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--out", "the name is empty");
	r->exec.q_f16 = o->q_f16;
	r->exec.visibility = o->physical ? ST_TQ_PHYSICAL : ST_TQ_CHRONOLOGICAL;
	return ST_OK;
}

static const struct mode {
	const char *name;
	enum st_status (*run)(struct st_replay_run *r, struct st_error *err);
} modes[] = {
	[ST_REPLAY_SINGLESTEP] = { "singlestep", st_replay_singlestep },
	[ST_REPLAY_MULTISTEP] = { "multistep", st_replay_multistep },
	[ST_REPLAY_PRODUCTION] = { "production-faithful", st_replay_production },
	[ST_REPLAY_LINT] = { "codebook-lint", st_replay_lint },
	[ST_REPLAY_MAKE] = { "make-manifest", st_replay_make },
	[ST_REPLAY_GATE] = { "gate", st_replay_gate },
};

static void header(struct st_replay_run *r, const char *mode)
{
	json_t *tool = json_object();
	st_json_put(r->json, "schema", json_string("stele.replay/1"));
	st_json_put(tool, "name", json_string("stele"));
	st_json_put(tool, "version", json_string(st_version()));
	st_json_put(r->json, "tool", tool);
	st_json_put(r->json, "mode", json_string(mode));
	st_json_put(r->json, "kernel", json_string(st_cpu_name(r->exec.cpu)));
	st_json_put(r->json, "q_dtype", json_string(r->exec.q_f16 ? "f16" : "f32"));
	st_json_put(r->json, "visibility",
	            json_string(r->exec.visibility == ST_TQ_PHYSICAL ? "physical" : "chronological"));
	st_json_put(r->json, "ran_at", st_json_now());
}

/* Every file of a run, or none of them that was not complete. */
static enum st_status commit(struct st_replay_run *r, const char *json, struct st_error *err)
{
	struct st_outfile **files[] = { &r->bin_file, &r->md_file, &r->json_file };
	if (r->json_file) {
		ST_TRY(st_outfile_write(r->json_file, json, strlen(json), err));
		ST_TRY(st_outfile_write(r->json_file, "\n", 1, err));
	}
	/* The JSON goes last: where it is, the files it names are. */
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		struct st_outfile *f = *files[i];
		*files[i] = NULL;
		if (f)
			ST_TRY(st_outfile_commit(f, err));
	}
	return ST_OK;
}

enum st_status st_replay_run(const struct st_replay_options *o, struct st_replay_report *out, struct st_error *err)
{
	struct st_replay_run r = { .o = o };
	size_t len = 0;
	enum st_status st;
	memset(out, 0, sizeof *out);
	if ((size_t)o->mode >= sizeof modes / sizeof *modes)
		return st_fail(err, ST_ERR_USAGE, "unknown mode %d", (int)o->mode);
	ST_TRY(resolve(&r, err));
	r.text = open_memstream(&out->text, &len);
	r.json = json_object();
	if (!r.text || !r.json) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	ST_TRY_OUT(st_pool_open(o->threads, &r.exec.pool, err));
	header(&r, modes[o->mode].name);
	ST_TRY_OUT(modes[o->mode].run(&r, err));
	st_json_put(r.json, "exit_status", json_integer(r.exit_status));
	if (r.bin_path)
		fprintf(r.text, "wrote %s\n", r.bin_path);
	out->json = json_dumps(r.json, JSON_INDENT(2));
	if (!out->json || !st_json_ok(r.json)) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	st = commit(&r, out->json, err);
	out->exit_status = r.exit_status;
out:
	st_pool_close(r.exec.pool);
	st_outfile_abort(r.bin_file);
	st_outfile_abort(r.md_file);
	st_outfile_abort(r.json_file);
	free(r.bin_path);
	json_decref(r.json);
	if (r.text && fclose(r.text) != 0 && st == ST_OK)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st != ST_OK)
		st_replay_report_release(out);
	return st;
}

void st_replay_report_release(struct st_replay_report *r)
{
	free(r->text);
	free(r->json);
	memset(r, 0, sizeof *r);
}
