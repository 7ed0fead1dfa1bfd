/*
 * run.c - evaluating a model and capturing its stages.
 *
 * What will be captured is planned before anything is evaluated, in the order of evaluation, so that values
 * go to their files as they appear and no more than the evaluator's own memory is held.
 */
#include "trace/trace.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/outfile.h"
#include "format/hf.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tracer {
	const struct st_model *m;
	const struct st_graph *g;
	const struct st_trace_options *o;
	struct st_exec exec;
	struct st_run *run;
	struct st_arena arena;
	struct st_provenance prov;
	struct st_capture_plan plan;
	size_t at;             /* next item of the plan */
	uint32_t *step_tokens; /* [steps] */
	struct st_tree_writer *tree;
	struct st_bundle_writer *bundle;
};

/* ---- what to capture ---- */

static bool wanted(const struct st_trace_options *o, const struct st_node *n)
{
	if (!st_stage_set_has(&o->capture, n->stage))
		return false;
	/* A range of layers leaves out layers, not the stages around them. */
	return n->layer < 0 || o->layer_end == 0
	    || ((uint32_t)n->layer >= o->layer_first && (uint32_t)n->layer < o->layer_end);
}

/* [heads, tokens, positions] or [tokens, features]. */
static enum st_status plan_node(const struct tracer *t, uint32_t node, uint32_t step, struct st_capture *c,
                                struct st_error *err)
{
	const struct st_node *n = &t->g->nodes[node];
	uint64_t tokens = step ? 1 : t->o->n_tokens;
	*c = (struct st_capture){ .key = { .step = step, .layer = n->layer, .stage = n->stage, .part = ST_PART_ALL },
		                  .node = node };
	if (n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX) {
		c->ndim = 3;
		c->shape[0] = n->heads;
		c->shape[1] = tokens;
		c->shape[2] = t->o->n_tokens + step;
	} else {
		c->last_only = n->stage == ST_STAGE_LM_HEAD && tokens > 1 && !t->o->lm_head_all;
		c->ndim = 2;
		c->shape[0] = c->last_only ? 1 : tokens;
		c->shape[1] = n->width;
	}
	c->n = 1;
	for (uint32_t i = 0; i < c->ndim; i++)
		if (!st_mul_u64(c->n, c->shape[i], &c->n))
			return st_fail(err, ST_ERR_LIMIT, "%s of %zu tokens overflows 64 bits", st_stage_name(n->stage),
			               t->o->n_tokens);
	return ST_OK;
}

static void log_absent(const struct tracer *t)
{
	struct st_stage_set found = { 0 };
	for (uint32_t i = 0; i < t->g->n_nodes; i++)
		st_stage_set_add(&found, t->g->nodes[i].stage);
	for (unsigned s = 0; s < st_stage_count() && t->o->hooks.log; s++) {
		char line[96];
		if (!st_stage_set_has(&t->o->capture, (enum st_stage)s) || st_stage_set_has(&found, (enum st_stage)s))
			continue;
		snprintf(line, sizeof line, "the model has no stage %s; it is not in the trace",
		         st_stage_name((enum st_stage)s));
		t->o->hooks.log(t->o->hooks.user, line);
	}
}

static enum st_status make_plan(struct tracer *t, struct st_error *err)
{
	uint64_t per_step = 0, total;
	for (uint32_t i = 0; i < t->g->n_nodes; i++)
		per_step += wanted(t->o, &t->g->nodes[i]);
	if (per_step == 0)
		return st_fail(err, ST_ERR_USAGE,
		               st_stage_set_empty(&t->o->capture) ? "nothing to write: no stage was chosen"
		                                                  : "the model has none of the chosen stages");
	if (!st_mul_u64(per_step, (uint64_t)t->o->steps + 1, &total)
	    || !(t->plan.items = st_arena_alloc(&t->arena, total, sizeof *t->plan.items)))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	t->plan.prov = &t->prov;
	for (uint32_t step = 0; step <= t->o->steps; step++)
		for (uint32_t i = 0; i < t->g->n_nodes; i++)
			if (wanted(t->o, &t->g->nodes[i]))
				ST_TRY(plan_node(t, i, step, &t->plan.items[t->plan.n++], err));
	log_absent(t);
	return ST_OK;
}

/* ---- provenance ---- */

#define PUT(field, ...) ((void)snprintf(t->prov.field, sizeof t->prov.field, __VA_ARGS__))

/* Stored types of the matrices, the one with most bytes first. */
static void name_weights(struct tracer *t)
{
	uint64_t bytes[ST_DTYPE_COUNT] = { 0 };
	for (size_t i = 0; i < st_model_n_weights(t->m); i++) {
		const struct st_tensor *w = st_model_weight_at(t->m, i)->tensor;
		if (w && w->ndim >= 2)
			bytes[w->dtype] += w->n_bytes;
	}
	size_t used = 0;
	for (;;) {
		unsigned most = 0;
		for (unsigned d = 1; d < ST_DTYPE_COUNT; d++)
			if (bytes[d] > bytes[most])
				most = d;
		const char *name = st_dtype_info((enum st_dtype)most)->name;
		if (bytes[most] == 0 || used + strlen(name) + 3 > sizeof t->prov.weights)
			return;
		used += (size_t)snprintf(t->prov.weights + used, sizeof t->prov.weights - used, "%s%s",
		                         used ? ", " : "", name);
		bytes[most] = 0;
	}
}

/*
 * No time of creation: two runs write the same bytes, and a file system knows when a file was made. Nor
 * the CPU level or the number of threads: by contract they do not change a bit.
 */
static enum st_status make_provenance(struct tracer *t, struct st_error *err)
{
	const struct st_config *cfg = st_model_config(t->m);
	const char *path = st_container_path(st_model_container(t->m)), *slash = strrchr(path, '/');
	PUT(engine, "stele");
	PUT(backend, "cpu");
	PUT(mode, "%s", st_mode_name(t->exec.mode));
	PUT(model, "%s", cfg->name[0] ? cfg->name : slash && slash[1] ? slash + 1 : path);
	PUT(arch, "%s", cfg->arch);
	PUT(rope_layout, "half");
	memcpy(t->prov.heads, (uint32_t[]){ cfg->n_heads, cfg->n_kv_heads, cfg->head_dim }, sizeof t->prov.heads);
	PUT(tool, "stele %s", st_version());
	name_weights(t);
	t->prov.known = true;
	t->prov.n_tokens = t->o->n_tokens;
	t->prov.tokens = st_arena_alloc(&t->arena, t->o->n_tokens, sizeof *t->prov.tokens);
	if (t->o->prompt)
		t->prov.prompt = st_arena_strndup(&t->arena, t->o->prompt, strlen(t->o->prompt));
	if (!t->prov.tokens || (t->o->prompt && !t->prov.prompt))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(t->prov.tokens, t->o->tokens, t->o->n_tokens * sizeof *t->o->tokens);
	return st_container_sha256(st_model_container(t->m), t->prov.model_sha256, err);
}

/* Where one row of logits is enough, the others are not evaluated. */
static enum st_status open_run(struct tracer *t, struct st_error *err)
{
	return st_run_open_flags(t->g, &t->exec, t->o->n_tokens, t->o->n_tokens + t->o->steps,
	                         t->o->lm_head_all ? 0 : ST_RUN_HEAD_LAST, &t->run, err);
}

/* Refusals first: hashing a large model takes seconds. */
static enum st_status open_all(struct tracer *t, struct st_error *err)
{
	if (!t->o->tree && !t->o->bundle)
		return open_run(t, err);
	ST_TRY(make_plan(t, err));
	if (t->o->tree)
		ST_TRY(st_tree_open(t->o->tree, t->o->force, &t->plan, &t->tree, err));
	ST_TRY(open_run(t, err));
	ST_TRY(make_provenance(t, err));
	if (t->o->bundle)
		ST_TRY(st_bundle_open(t->o->bundle, &t->plan, &t->bundle, err));
	return ST_OK;
}

/* ---- evaluation ---- */

static void report_stats(const struct tracer *t, const struct st_node *n, uint32_t step, const struct st_value *v)
{
	if (!t->o->on_stage)
		return;
	struct st_trace_stats s = {
		.stage = n->stage, .layer = n->layer, .step = step, .rows = v->rows, .cols = v->cols
	};
	st_stats_of(v->data, v->rows * v->cols, &s);
	t->o->on_stage(t->o->user, &s);
}

static enum st_status capture(struct tracer *t, uint32_t node, uint32_t step, const struct st_value *v,
                              struct st_error *err)
{
	const struct st_capture *c = t->at < t->plan.n ? &t->plan.items[t->at] : NULL;
	if (!c || c->node != node || c->key.step != step)
		return ST_OK;
	t->at++;
	assert(c->n == (uint64_t)v->rows * v->cols);
	if (t->tree)
		ST_TRY(st_tree_put(t->tree, c, v->data, err));
	if (t->bundle)
		ST_TRY(st_bundle_put(t->bundle, c, v->data, err));
	return ST_OK;
}

static enum st_status eval_step(struct tracer *t, const uint32_t *tokens, size_t n, uint32_t step, struct st_error *err)
{
	ST_TRY(st_run_begin(t->run, tokens, n, err));
	if (step > 0 && t->bundle)
		ST_TRY(st_bundle_token(t->bundle, tokens[0], err));
	for (uint32_t i = 0; i < t->g->n_nodes; i++) {
		ST_TRY(st_check_cancel(err));
		ST_TRY(st_run_eval(t->run, i, err));
		struct st_value v = st_run_value(t->run, i);
		report_stats(t, &t->g->nodes[i], step, &v);
		ST_TRY(capture(t, i, step, &v, err));
		if (t->o->hooks.progress)
			t->o->hooks.progress(t->o->hooks.user, "trace", (uint64_t)step * t->g->n_nodes + i + 1,
			                     ((uint64_t)t->o->steps + 1) * t->g->n_nodes);
	}
	return ST_OK;
}

/* The largest logit of the last position; of equals the lowest id. False where every one is NaN. */
static bool best_token(const struct tracer *t, uint32_t *out)
{
	uint32_t head = st_graph_find(t->g, ST_STAGE_LM_HEAD, -1);
	struct st_value v = st_run_value(t->run, head);
	const float *logits = v.data + (v.rows - 1) * v.cols;
	size_t best = v.cols;
	for (size_t i = 0; i < v.cols; i++)
		if (!isnan(logits[i]) && (best == v.cols || logits[i] > logits[best]))
			best = i;
	*out = (uint32_t)best;
	return best < v.cols;
}

static enum st_status evaluate(struct tracer *t, struct st_error *err)
{
	ST_TRY(eval_step(t, t->o->tokens, t->o->n_tokens, 0, err));
	for (uint32_t step = 1; step <= t->o->steps; step++) {
		uint32_t *token = &t->step_tokens[step - 1];
		if (!best_token(t, token))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "lm_head",
			                  "every logit is NaN; there is no token for step %u", step);
		if (t->o->on_token)
			t->o->on_token(t->o->user, step, *token);
		ST_TRY(eval_step(t, token, 1, step, err));
	}
	uint32_t next;
	if (t->o->on_next && best_token(t, &next))
		t->o->on_next(t->o->user, next);
	return ST_OK;
}

static enum st_status commit(struct tracer *t, struct st_error *err)
{
	enum st_status st = ST_OK;
	if (t->bundle) {
		st = st_bundle_commit(t->bundle, err);
		t->bundle = NULL;
	}
	if (st == ST_OK && t->tree) {
		st = st_tree_commit(t->tree, t->step_tokens, t->o->steps, err);
		t->tree = NULL;
	}
	return st;
}

/* ---- options ---- */

/* A trace must not replace the model that it is of, weights or documents. */
static enum st_status check_output(const struct st_model *m, const char *out, bool force, struct st_error *err)
{
	const struct st_container *c = st_model_container(m);
	bool takes = false;
	for (size_t i = 0; out && i < st_container_n_files(c); i++)
		takes = takes || st_out_takes(out, st_container_file_path(c, i));
	for (const char *const *name = st_hf_names; out && *name; name++) {
		char path[PATH_MAX];
		takes = takes
		     || (snprintf(path, sizeof path, "%s/%s", c->path, *name) < PATH_MAX && st_out_takes(out, path));
	}
	if (!takes)
		return out && !force && access(out, F_OK) == 0 ? st_out_exists(out, err) : ST_OK;
	enum st_status st = st_fail(err, ST_ERR_USAGE, "is the model, or holds it");
	st_error_in(err, out);
	return st;
}

static enum st_status read_options(struct tracer *t, struct st_error *err)
{
	const struct st_trace_options *o = t->o;
	if (o->n_tokens == 0)
		return st_fail(err, ST_ERR_USAGE, "no tokens to evaluate");
	bool all = o->layer_first == 0 && o->layer_end == 0;
	if (!all && (o->layer_first >= o->layer_end || o->layer_end > t->g->n_layers))
		return st_fail(err, ST_ERR_USAGE, "layers %u..%u: the range is half open and the model has %u layers",
		               o->layer_first, o->layer_end, t->g->n_layers);
	t->exec = st_exec_default();
	if (o->mode && !st_mode_parse(o->mode, &t->exec.mode))
		return st_fail(err, ST_ERR_USAGE, "unknown mode \"%.40s\"", o->mode);
	if (o->cpu) {
		enum st_cpu cpu;
		if (!st_cpu_parse(o->cpu, &cpu))
			return st_fail(err, ST_ERR_USAGE, "unknown CPU level \"%.40s\"", o->cpu);
		t->exec.k = st_kernels_get(cpu);
		if (!t->exec.k)
			return st_fail(err, ST_ERR_UNSUPPORTED, "this processor has no %s", st_cpu_name(cpu));
	}
	ST_TRY(st_pool_open(o->threads, &t->exec.pool, err));
	ST_TRY(check_output(t->m, o->tree, o->force, err));
	ST_TRY(check_output(t->m, o->bundle, o->force, err));
	uint64_t positions;
	if (!st_add_u64(o->n_tokens, o->steps, &positions) || positions > UINT32_MAX)
		return st_fail(err, ST_ERR_LIMIT, "%zu tokens and %u steps are more positions than 32 bits count",
		               o->n_tokens, o->steps);
	t->step_tokens = st_arena_alloc(&t->arena, o->steps, sizeof *t->step_tokens);
	return t->step_tokens ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_trace_run(const struct st_model *m, const struct st_trace_options *o, struct st_error *err)
{
	struct tracer t = { .m = m, .g = st_model_graph(m), .o = o };
	st_arena_init(&t.arena);
	enum st_status st;
	ST_TRY_OUT(read_options(&t, err));
	ST_TRY_OUT(open_all(&t, err));
	ST_TRY_OUT(evaluate(&t, err));
	ST_TRY_OUT(commit(&t, err));
out:
	st_bundle_abort(t.bundle);
	st_tree_abort(t.tree, err);
	st_run_close(t.run);
	st_pool_close(t.exec.pool);
	st_arena_release(&t.arena);
	return st;
}
