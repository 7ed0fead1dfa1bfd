/* replay.c - st_replay_run: the table of modes, and what is the same in all of them. */
#include "turboquant/modes.h"

#include "base/error.h"
#include "base/files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const struct mode {
	const char *name;
	bool capture; /* reads one, and describes it */
	bool audit;   /* --out may be a folder, for audit.json */
	/* What --out gets before it as a name: where it is no folder. */
	const char *suffix[ST_N_FILES];
	st_mode_fn check, run; /* check: or NULL */
} modes[] = {
	[ST_REPLAY_SINGLESTEP] = { "singlestep", .capture = true,
	                           .suffix = { [ST_FILE_BIN] = "_sdpa_out.bin", [ST_FILE_JSON] = ".json" },
	                           .check = st_singlestep_check, .run = st_replay_singlestep },
	[ST_REPLAY_MULTISTEP] = { "multistep", .suffix = { [ST_FILE_MD] = ".md", [ST_FILE_JSON] = ".json" },
	                          .run = st_replay_multistep },
	[ST_REPLAY_PRODUCTION] = { "production-faithful", .audit = true, .suffix = { [ST_FILE_JSON] = ".json" },
	                           .check = st_production_check, .run = st_replay_production },
	[ST_REPLAY_LINT] = { "codebook-lint", .suffix = { [ST_FILE_JSON] = ".json" }, .run = st_replay_lint },
	[ST_REPLAY_MAKE] = { "make-manifest", .check = st_make_check, .run = st_replay_make },
	[ST_REPLAY_GATE] = { "gate", .run = st_replay_gate },
};
/* A single step with a foreign output: it is explained, and the kernel's own is not written. */
static const struct mode against = { "singlestep", .capture = true, .suffix = { [ST_FILE_JSON] = ".json" },
	                             .check = st_singlestep_check, .run = st_replay_against };

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
	r->exec.bits = o->bits ? o->bits : 4;
	r->exec.signs = o->signs == 1;
	r->seed = o->seed_given ? o->seed : ST_TQ_SEED;
	return st_pool_open((unsigned)(o->threads > 0 ? o->threads : 0), &r->exec.pool, err);
}

/* ---- files ---- */

static bool ends_in_json(const char *out)
{
	const size_t n = strlen(out);
	return n > 5 && !strcmp(out + n - 5, ".json");
}

/* --out of an audit is a folder, made where it is not there, unless its name says that it is the file. */
static enum st_status open_folder(struct st_replay_run *r, bool *folder, struct st_error *err)
{
	struct stat sb;
	const char *out = r->o->out;
	*folder = false;
	if (!out)
		return ST_OK;
	if (stat(out, &sb) == 0) {
		*folder = S_ISDIR(sb.st_mode);
		return ST_OK;
	}
	*folder = !ends_in_json(out);
	return *folder ? st_outdir_open(out, NULL, &r->dir, err) : ST_OK;
}

static enum st_status open_files(struct st_replay_run *r, const struct mode *m, struct st_arena *mem,
                                 struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	struct st_inputs in = { 0 };
	enum st_status st = ST_OK;
	ST_TRY_OUT(st_inputs_add(&in, o->manifest, err));
	ST_TRY_OUT(st_inputs_add(&in, o->against, err));
	ST_TRY_OUT(st_inputs_add(&in, o->table, err));
	for (int f = 0; f < ST_CAPTURE_FILES; f++)
		ST_TRY_OUT(st_inputs_add(&in, r->capture.maps[f].path, err));
	bool folder = false;
	if (m->audit)
		st = open_folder(r, &folder, err);
	for (int i = 0; i < ST_N_FILES && st == ST_OK; i++) {
		if (!o->out || !m->suffix[i])
			continue;
		const char *in_folder = r->dir ? st_outdir_path(r->dir) : o->out;
		r->path[i] = folder ? st_path(mem, in_folder, "audit.json")
		                    : st_arena_printf(mem, "%.*s%s", (int)strlen(o->out) - 5 * ends_in_json(o->out),
		                                      o->out, m->suffix[i]);
		st = st_inputs_keep(&in, r->path[i], err);
		if (st == ST_OK)
			st = st_outfile_open(r->path[i], &r->file[i], err);
	}
	st = st_in_file(o->out, st_in_place("--out", st, err), err);
out:
	st_inputs_release(&in);
	return st;
}

/* Every file of a run, or none of them that was not complete. */
static enum st_status commit(struct st_replay_run *r, const char *json, struct st_error *err)
{
	if (r->file[ST_FILE_JSON]) {
		ST_TRY(st_outfile_write(r->file[ST_FILE_JSON], json, strlen(json), err));
		ST_TRY(st_outfile_write(r->file[ST_FILE_JSON], "\n", 1, err));
	}
	for (int i = 0; i < ST_N_FILES; i++) {
		struct st_outfile *f = r->file[i];
		r->file[i] = NULL;
		if (f)
			ST_TRY(st_outfile_commit(f, err));
	}
	struct st_outdir *dir = r->dir;
	r->dir = NULL;
	if (dir && r->no_files)
		st_outdir_abort(dir, err);
	return dir && !r->no_files ? st_outdir_commit(dir, err) : ST_OK;
}

/* ---- reports ---- */

static void describe_run(struct st_replay_run *r, const char *mode)
{
	st_json_put_all(r->json, ST_IS("schema", "stele.replay/1"),
	                ST_IS("tool", st_json_object(ST_IS("name", "stele"), ST_IS("version", st_version()))),
	                ST_IS("mode", mode), ST_IS("kernel", st_cpu_name(r->exec.cpu)),
	                ST_IS("q_dtype", st_q_name(&r->exec)), ST_IS("visibility", st_visibility_name(&r->exec)),
	                ST_IS("ran_at", json_sprintf("%lld", (long long)time(NULL))));
}

static void describe_capture(struct st_replay_run *r)
{
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &c->p;
	static const char *const masks[] = { "none", "causal", "sliding" };
	struct st_tq_rows rows;
	fprintf(r->text,
	        "replay %s\n"
	        "capture: %u query / %u key-value heads, d %u, %u of %u rows, ring start %u, mask %s",
	        r->o->manifest, p->num_heads, p->num_kv_heads, p->head_dim, p->kv_seq_len, p->kv_capacity,
	        p->ring_start, masks[p->mask_type]);
	if (p->mask_type == ST_TQ_MASK_SLIDING)
		fprintf(r->text, " %u", p->sliding_window);
	fprintf(r->text, ", scale %g", p->scale);
	if (p->softcap > 0)
		fprintf(r->text, ", soft-cap %g", p->softcap);
	fprintf(r->text, ", %u bits, signs %s\nkernel %s, query %s, visibility %s\n", c->codec.bits,
	        st_signs_name(c->codec.signs), st_cpu_name(r->exec.cpu), st_q_name(&r->exec),
	        st_visibility_name(&r->exec));
	if (json_array_size(c->unread)) {
		char *names = st_json_print(c->unread, JSON_ENSURE_ASCII);
		fprintf(r->text, "params not read: %s\n", names ? names : "(no memory to list them)");
		free(names);
	}
	if (c->compact.codes[0])
		fprintf(r->text, "the references read compact_sources\n");
	st_tq_visible_rows(p, r->exec.visibility, &rows);
	fprintf(r->text, "rows seen: %u of %u expected%s\n", rows.visible, rows.expected,
	        rows.visible < rows.expected ? " - the rest is silently dropped" : "");
	st_json_put_all(r->json, ST_IS("manifest", r->o->manifest), ST_IS("bits", c->codec.bits),
	                ST_IS("signs", st_signs_name(c->codec.signs)), ST_IS("params_not_read", json_incref(c->unread)),
	                ST_IS("compact_sources", json_boolean(c->compact.codes[0] != NULL)));
	json_object_update_new(r->json, st_json_visible(p, r->exec.visibility));
}

enum st_status st_replay_run(const struct st_replay_options *o, struct st_replay_report *out, struct st_error *err)
{
	struct st_replay_run r = { .o = o };
	struct st_arena mem = { 0 };
	size_t len = 0;
	memset(out, 0, sizeof *out);
	if ((size_t)o->mode >= sizeof modes / sizeof *modes)
		return st_fail(err, ST_ERR_USAGE, "unknown mode %d", (int)o->mode);
	const struct mode *m = o->mode == ST_REPLAY_SINGLESTEP && o->against ? &against : modes + o->mode;
	enum st_status st = resolve(&r, err);
	if (st != ST_OK)
		return st;
	r.text = open_memstream(&out->text, &len);
	r.json = json_object();
	if (!r.text || !r.json) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	if (m->check)
		ST_TRY_OUT(m->check(&r, err));
	if (m->capture) {
		ST_TRY_OUT(st_capture_open(&r.capture, o->manifest, o->bits, o->signs, r.exec.cpu, err));
		r.exec.bits = r.capture.codec.bits;
		r.exec.signs = r.capture.codec.signs;
	}
	ST_TRY_OUT(open_files(&r, m, &mem, err));
	describe_run(&r, m->name);
	if (m->capture)
		describe_capture(&r);
	ST_TRY_OUT(m->run(&r, err));
	if (r.path[ST_FILE_BIN])
		fprintf(r.text, "wrote %s\n", r.path[ST_FILE_BIN]);
	st_json_put(r.json, "exit", json_integer(r.exit_status));
	out->json = st_json_ok(r.json) ? st_json_print(r.json, JSON_INDENT(2)) : NULL;
	st = out->json ? commit(&r, out->json, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	out->exit_status = r.exit_status;
out:
	for (int i = 0; i < ST_N_FILES; i++)
		st_outfile_abort(r.file[i]);
	st_outdir_abort(r.dir, err);
	st_capture_close(&r.capture);
	st_pool_close(r.exec.pool);
	st_arena_release(&mem);
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
