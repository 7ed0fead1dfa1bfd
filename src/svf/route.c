/*
 * route.c - one forward pass of the adapted model: the last layer's normed hidden state of the token before the last,
 * times the head, tells which agent and which role.
 */
#include "svf/artifact.h"
#include "svf/job.h"

#include "base/error.h"
#include "base/hash.h"
#include "kernel/kernel.h"

#include <stele/token.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const roles[ST_SVF_ROLES] = { "Worker", "Thinker", "Verifier" };

struct route {
	const struct st_svf_route_options *o;
	struct st_svf_artifact a;
	struct st_model *model;
	char base_sha256[65];
	struct st_svf_job job; /* its report is the trace */
	struct st_exec exec;
	struct st_graph graph;
	char *transcript;
	uint32_t *tokens, *owned; /* owned: by the tokenizer */
	size_t n;
	float *hidden, *head, *logits;
	size_t width, outputs, index;
	size_t agent, role;
};

/* ---- the adapted graph ---- */

/* The checkpoint as a weight [out, in]: where it is stored the other way round, through its strides. */
static enum st_status adapted_weight(struct route *x, const struct st_svf_checkpoint *p, const struct st_weight *base,
                                     struct st_weight **out, struct st_error *err)
{
	struct st_tensor *t = st_arena_alloc(&x->job.arena, 1, sizeof *t);
	struct st_weight *w = st_arena_alloc(&x->job.arena, 1, sizeof *w);
	ST_NEED(t && w);
	if (!base->tensor || base->tensor->ndim != 2 || base->tensor->shape[0] != p->rows
	    || base->tensor->shape[1] != p->cols)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, p->source_name,
		                  "the artifact's [%llu, %llu] does not fit the model", (unsigned long long)p->rows,
		                  (unsigned long long)p->cols);
	*t = *p->t;
	if (p->turned) {
		t->layout = ST_LAYOUT_STRIDED;
		t->shape[0] = p->rows;
		t->shape[1] = p->cols;
		t->strides[0] = 1;
		t->strides[1] = (int64_t)p->rows;
		t->row_bytes = 0;
	}
	*w = *base;
	w->tensor = t;
	w->interleaved = false;
	*out = w;
	return ST_OK;
}

static void substitute(struct route *x, const struct st_weight *from, const struct st_weight *to)
{
	for (uint32_t i = 0; i < x->graph.n_nodes; i++)
		for (uint32_t k = 0; k < x->graph.nodes[i].n_w; k++)
			if (x->graph.nodes[i].w[k] == from)
				x->graph.nodes[i].w[k] = to;
}

static enum st_status adapt(struct route *x, struct st_error *err)
{
	const struct st_graph *g = st_model_graph(x->model);
	x->graph = *g;
	x->graph.nodes = st_arena_alloc(&x->job.arena, g->n_nodes, sizeof *g->nodes);
	ST_NEED(x->graph.nodes);
	memcpy(x->graph.nodes, g->nodes, g->n_nodes * sizeof *g->nodes);
	for (size_t i = 0; i < x->a.n; i++) {
		const struct st_svf_checkpoint *p = &x->a.tensors[i];
		/* Logits over the vocabulary are not evaluated here, and a tied model's embedding must stay apart from
		 * its head. */
		if (strcmp(p->source_name, ST_SVF_LM_HEAD) == 0)
			continue;
		const struct st_weight *base = st_model_called(x->model, p->source_name);
		struct st_weight *w;
		if (!base)
			return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, p->source_name,
			                  "the model has no such weight");
		ST_TRY(adapted_weight(x, p, base, &w, err));
		substitute(x, base, w);
	}
	return ST_OK;
}

/* ---- what is asked ---- */

static enum st_status read_tokens(struct route *x, struct st_error *err)
{
	const struct st_svf_route_options *o = x->o;
	const char *role = o->role ? o->role : "user";
	x->transcript = o->transcript ? st_arena_printf(&x->job.arena, "%s", o->transcript)
	              : o->message    ? st_arena_printf(&x->job.arena, "%s: %s", role, o->message)
	                              : NULL;
	if (!x->transcript && !o->n_tokens)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--message", "is needed");
	if (o->n_tokens) {
		x->n = o->n_tokens;
		x->tokens = st_arena_alloc(&x->job.arena, x->n, sizeof *x->tokens);
		ST_NEED(x->tokens);
		memcpy(x->tokens, o->tokens, x->n * sizeof *x->tokens);
		return ST_OK;
	}
	struct st_tokenizer *tok;
	ST_TRY(st_tokenizer_open(st_model_container(x->model), &tok, err));
	enum st_status st = st_tokenize(tok, x->transcript, strlen(x->transcript),
	                                ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &x->owned, &x->n, err);
	st_tokenizer_close(tok);
	x->tokens = x->owned;
	if (st == ST_OK && x->n == 0)
		st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--message", "the transcript gives no tokens");
	return st;
}

static enum st_status evaluate(struct route *x, struct st_error *err)
{
	struct st_run *run = NULL;
	uint32_t last = st_graph_find(&x->graph, ST_STAGE_FINAL_NORM, -1);
	if (last == ST_NO_NODE)
		return st_fail(err, ST_ERR_MISMATCH, "the model has no final_norm");
	/* Of the head over the vocabulary nothing is needed; with this flag it takes one row of memory. */
	ST_TRY(st_run_open_flags(&x->graph, &x->exec, x->n, x->n, ST_RUN_HEAD_LAST, &run, err));
	enum st_status st = st_run_begin(run, x->tokens, x->n, err);
	for (uint32_t i = 0; st == ST_OK && i <= last; i++) {
		st = st_check_cancel(err);
		if (st == ST_OK)
			st = st_run_eval(run, i, err);
		st_hooks_progress(&x->o->hooks, st_stage_name(x->graph.nodes[i].stage), i, last);
	}
	if (st == ST_OK) {
		struct st_value v = st_run_value(run, last);
		x->index = x->n <= 1 ? 0 : x->n - 2;
		x->width = v.cols;
		x->hidden = st_arena_alloc(&x->job.arena, v.cols, sizeof *x->hidden);
		if (!x->hidden)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		else
			memcpy(x->hidden, v.data + x->index * v.cols, v.cols * sizeof *x->hidden);
	}
	st_run_close(run);
	return st;
}

/* Of numbers that are not finite no largest one decides anything. */
static enum st_status check_finite(const float *x, size_t n, const char *what, struct st_error *err)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
			                  "number %zu is %g: the model or the artifact holds numbers that are not "
			                  "finite, or too large",
			                  i, (double)x[i]);
	return ST_OK;
}

static enum st_status decide(struct route *x, struct st_error *err)
{
	const struct st_tensor *h = x->a.head;
	ST_TRY(check_finite(x->hidden, x->width, "the hidden state", err));
	x->outputs = (size_t)h->shape[0];
	if (h->shape[1] != x->width)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "router_head_shape",
		                  "the head reads %llu numbers, a hidden state of the model has %zu",
		                  (unsigned long long)h->shape[1], x->width);
	x->head = st_arena_alloc(&x->job.arena, h->n_elems, sizeof *x->head);
	x->logits = st_arena_alloc(&x->job.arena, x->outputs, sizeof *x->logits);
	ST_NEED(x->head && x->logits);
	st_tensor_decode(h, 0, h->shape[0], x->head);
	for (size_t i = 0; i < x->outputs; i++) {
		double sum = 0;
		for (size_t k = 0; k < x->width; k++)
			sum += (double)x->hidden[k] * (double)x->head[i * x->width + k];
		x->logits[i] = (float)sum;
	}
	ST_TRY(check_finite(x->logits, x->outputs, "the logits", err));
	size_t agents = x->outputs - ST_SVF_ROLES;
	x->agent = st_lead_of(x->logits, agents).best;
	x->role = st_lead_of(x->logits + agents, ST_SVF_ROLES).best;
	return ST_OK;
}

/* ---- the trace ---- */

static json_t *floats(const float *x, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		st_json_add(a, st_json_number((double)x[i]));
	return a;
}

static json_t *hash(const void *p, uint64_t n)
{
	struct st_error no_memory = ST_ERROR_INIT;
	char hex[65];
	return st_sha256_hex(p, n, hex, &no_memory) == ST_OK ? json_string(hex) : NULL;
}

static void trace(struct route *x)
{
	const struct st_svf_route_options *o = x->o;
	json_t *ids = json_array(), *messages = json_array();
	size_t width = x->width, agents = x->outputs - ST_SVF_ROLES;
	uint64_t mask[2] = { 1, x->n }, states[3] = { 1, x->n, width }, vector[2] = { 1, width },
		 logits[2] = { 1, x->outputs };
	for (size_t i = 0; i < x->n; i++)
		st_json_add(ids, json_integer(x->tokens[i]));
	if (o->message)
		st_json_add(messages,
		            st_json_object(ST_IS("role", o->role ? o->role : "user"), ST_IS("content", o->message)));
	char *compact = st_json_print(ids, JSON_COMPACT);
	json_t *ids_hash = compact ? hash(compact, strlen(compact)) : NULL;
	free(compact);
	st_json_put_all(
		x->job.report, ST_IS("schema", "trinity_sakana_router_trace.v1"), ST_IS("runtime", "stele"),
		ST_IS("artifact_dir", o->artifact), ST_IS("artifact_manifest_sha256", x->a.manifest_sha256),
		ST_IS("base_model_sha256", x->base_sha256), ST_IS("messages", messages),
		ST_IS("transcript", x->transcript),
		ST_IS("transcript_sha256", x->transcript ? hash(x->transcript, strlen(x->transcript)) : json_null()),
		ST_IS("token_ids_sha256", ids_hash), ST_IS("input_ids", ids),
		ST_IS("attention_mask_shape", st_json_shape(mask, 2)),
		ST_IS("hidden_state_shape", st_json_shape(states, 3)), ST_IS("hidden_position", json_integer(-2)),
		ST_IS("hidden_index", x->index), ST_IS("hidden_vector_shape", st_json_shape(vector, 2)),
		ST_IS("hidden_vector_sha256_as_f32", hash(x->hidden, width * sizeof *x->hidden)),
		ST_IS("hidden_vector_prefix_f32", floats(x->hidden, width < 8 ? width : 8)),
		ST_IS("hidden_vector_f32", floats(x->hidden, width)),
		ST_IS("head_weight_shape", st_json_shape(x->a.head->shape, 2)),
		ST_IS("head_weight_sha256_as_f32", hash(x->head, x->a.head->n_elems * sizeof *x->head)),
		ST_IS("logits_shape", st_json_shape(logits, 2)),
		ST_IS("logits_sha256_as_f32", hash(x->logits, x->outputs * sizeof *x->logits)),
		ST_IS("logits", floats(x->logits, x->outputs)), ST_IS("agent_logits", floats(x->logits, agents)),
		ST_IS("role_logits", floats(x->logits + agents, ST_SVF_ROLES)), ST_IS("argmax_agent_id", x->agent),
		ST_IS("argmax_role_id", x->role), ST_IS("role_name", roles[x->role]),
		ST_IS("mode", st_mode_name(x->exec.mode)),
		ST_IS("environment", st_svf_environment(x->exec.pool, NULL)));
}

/* An artifact holds a few matrices of its base model. Those of another model around them would give an answer too, and
 * a wrong one. */
static enum st_status check_base(struct route *x, struct st_error *err)
{
	const json_t *made_from = json_object_get(x->a.manifest, "base_model_sha256");
	st_hooks_log(&x->o->hooks, "hashing %s", x->o->model);
	ST_TRY(st_container_sha256(st_model_container(x->model), x->base_sha256, err));
	/* Artifacts of other tools do not say. */
	if (!json_is_string(made_from) || strcmp(json_string_value(made_from), x->base_sha256) == 0)
		return ST_OK;
	return st_in_file(x->o->model,
	                  st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "base_model_sha256",
	                             "is %.64s, the artifact was made from %.64s", x->base_sha256,
	                             json_string_value(made_from)),
	                  err);
}

/* The trace must not replace what it is of. */
static enum st_status keep_inputs(struct route *x, struct st_error *err)
{
	struct st_inputs *in = &x->job.inputs;
	const char *manifest = st_path(&x->job.arena, x->o->artifact, ST_SVF_MANIFEST);
	if (!x->o->out)
		return ST_OK;
	ST_NEED(manifest);
	ST_TRY(st_inputs_add(in, manifest, err));
	for (size_t i = 0; i < x->a.n; i++)
		ST_TRY(st_container_inputs(x->a.tensors[i].c, in, err));
	ST_TRY(st_container_inputs(x->a.head_file, in, err));
	ST_TRY(st_container_inputs(st_model_container(x->model), in, err));
	return st_inputs_keep(in, x->o->out, err);
}

static void tell(const struct route *x)
{
	FILE *f = x->job.text;
	size_t agents = x->outputs - ST_SVF_ROLES;
	fprintf(f, "%zu tokens, hidden state at %zu\n", x->n, x->index);
	for (size_t i = 0; i < x->outputs; i++)
		fprintf(f, "%s %zu%s%s: %.6g%s\n", i < agents ? "agent" : "role", i < agents ? i : i - agents,
		        i < agents ? "" : " ", i < agents ? "" : roles[i - agents], (double)x->logits[i],
		        i == x->agent || i == agents + x->role ? " *" : "");
	fprintf(f, "agent %zu, role %zu (%s)\n", x->agent, x->role, roles[x->role]);
}

static enum st_status run(struct route *x, struct st_svf_result *r, struct st_error *err)
{
	const struct st_svf_route_options *o = x->o;
	ST_TRY(st_svf_job_begin(&x->job, o->threads, r, err));
	x->exec = st_exec_default();
	x->exec.pool = x->job.pool;
	if (o->mode && !st_mode_parse(o->mode, &x->exec.mode))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--mode", "unknown mode \"%.40s\"", o->mode);
	ST_TRY(st_svf_artifact_open(o->artifact, &x->a, err));
	ST_TRY(st_model_open(o->model, &x->model, err));
	ST_TRY(keep_inputs(x, err));
	ST_TRY(check_base(x, err));
	ST_TRY(read_tokens(x, err));
	ST_TRY(adapt(x, err));
	ST_TRY(evaluate(x, err));
	ST_TRY(decide(x, err));
	trace(x);
	tell(x);
	return o->out ? st_json_write(o->out, x->job.report, err) : ST_OK;
}

enum st_status st_svf_route(const struct st_svf_route_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct route x = { .o = o };
	enum st_status st = st_svf_job_close(&x.job, run(&x, r, err), 0, r, err);
	free(x.owned);
	st_model_close(x.model);
	st_svf_artifact_close(&x.a);
	return st;
}
