/* convert.c - the run: open, plan, write, read back, give it its name. */
#include "convert/convert.h"

#include "convert/described.h"

#include "convert/output.h"
#include "convert/ranges.h"
#include "convert/repair.h"

#include <stdlib.h>
#include <string.h>

/* The result and what it points at are one allocation to the caller. */
struct held_result {
	struct st_convert_result r; /* first */
	struct st_arena arena;
};

/* ---- the input ---- */

/* Whether all that a model has can be said by the keys and roles that jobs.c and config_*.c know. */
static bool is_by_roles(const struct st_model *m)
{
	const struct st_graph *g = st_model_graph(m);
	const char *scaling = st_described_scaling(st_model_described(m)), *const known[] = { "none", "linear", "llama3" };
	const struct st_config *cfg = st_model_config(m);
	bool turns = false;
	for (size_t i = 0; i < 3; i++)
		turns |= strcmp(scaling, known[i]) == 0;
	if (!st_model_described(m)->family->built_in || !st_arch_find(cfg->arch, strlen(cfg->arch)) || !turns || (g && !st_graph_is_plain(g)))
		return false;
	for (size_t i = 0; i < st_model_n_weights(m); i++)
		if (st_model_weight_at(m, i)->role == ST_ROLE_COUNT)
			return false;
	for (uint32_t i = 0; g && i < g->n_nodes; i++)
		if (g->nodes[i].op == ST_OP_SCORES
		    && (g->nodes[i].window != 0) != (cfg->sliding_window && (uint32_t)g->nodes[i].layer >= cfg->window_from_layer))
			return false;
	return true;
}

static enum st_status open_input(struct st_conversion *v, struct st_error *err)
{
	/* Within GGUF a family need not be known: its keys are carried as they stand, and its tensors go by their names. */
	bool any = !v->o->repair && v->dst.format == ST_FORMAT_GGUF;
	ST_TRY(v->o->repair ? st_model_open_partial(v->src.path, &v->src.model, err)
	       : any        ? st_model_open_any(v->src.path, v->o->family, ST_OPEN_FAMILY, v->pool, &v->src.model, err)
	                    : st_model_open_as(v->src.path, v->o->family, &v->src.model, err));
	const struct st_container *in = st_model_container(v->src.model);
	const struct st_described *d = st_model_described(v->src.model);
	if (d && is_by_roles(v->src.model))
		d = NULL;
	if (d
	    && (v->o->repair || v->dst.format == ST_FORMAT_APR
	        || (in->format == v->dst.format && in->format != ST_FORMAT_GGUF)))
		return st_fail(err, ST_ERR_UNSUPPORTED, "is of the family %s, which is converted %s", d->family->name,
		               v->o->repair                     ? "and not repaired"
		               : v->dst.format == ST_FORMAT_APR ? "between GGUF and Hugging Face folders only"
		                                                : "to another container or within GGUF");
	if (d && in->format == ST_FORMAT_GGUF && v->dst.format == ST_FORMAT_GGUF) { /* all of it as it stands */
		st_model_close(v->src.model);
		v->src.model = NULL;
		d = NULL;
		ST_TRY(st_model_open_any(v->src.path, NULL, ST_OPEN_NAMES, v->pool, &v->src.model, err));
	}
	v->by_name = st_model_is_by_name(v->src.model);
	if (any && !(v->by_name && st_container_format(st_model_container(v->src.model)) == ST_FORMAT_GGUF))
		ST_TRY(st_model_check(v->src.model, err));
	const struct st_container *c = st_model_container(v->src.model);
	v->src.format = st_container_format(c);
	v->dst.cfg = *st_model_config(v->src.model);
	v->dst.arch = st_arch_find(v->dst.cfg.arch, strlen(v->dst.cfg.arch));
	v->page = d;
	v->dst.family = d ? st_described_called(d, ST_SPELLING_GGUF, false) : v->dst.cfg.arch;
	if (v->src.format != ST_FORMAT_GGUF && v->src.format != ST_FORMAT_SAFETENSORS
	    && v->src.format != ST_FORMAT_APR) {
		enum st_status st = st_fail(err, ST_ERR_UNSUPPORTED, "is %s; GGUF, safetensors and APR are converted",
		                            st_format_name(v->src.format));
		st_error_in(err, v->src.path);
		return st;
	}
	return ST_OK;
}

/* ---- what is said about it ---- */

/* Tensors whose type is not the input's though nobody asked, or not the one that was asked for. */
static void note_types(struct st_conversion *v)
{
	uint64_t count[ST_DTYPE_COUNT][ST_DTYPE_COUNT] = { 0 }; /* [wanted][got] */
	const struct st_job *first[ST_DTYPE_COUNT][ST_DTYPE_COUNT] = { 0 };
	for (size_t i = 0; i < v->plan.n; i++) {
		const struct st_job *j = &v->plan.jobs[i];
		enum st_dtype want = st_wanted_type(&v->dst, j, j->src[0] ? j->src[0]->dtype : j->spec.dtype),
			      got = j->spec.dtype;
		if (want != got && !j->repaired && count[want][got]++ == 0)
			first[want][got] = j;
	}
	for (int want = 0; want < ST_DTYPE_COUNT; want++)
		for (int got = 0; got < ST_DTYPE_COUNT; got++) {
			const struct st_job *j = first[want][got];
			const char *w = st_dtype_info((enum st_dtype)want)->name,
				   *g = st_dtype_info((enum st_dtype)got)->name;
			if (j && !st_format_has(v->dst.format, (enum st_dtype)want))
				st_note(&v->log,
				        "%llu tensors from %s to %s, which holds their values exactly: %s has no %s",
				        (unsigned long long)count[want][got], w, g, st_format_name(v->dst.format), w);
			else if (j)
				st_note(&v->log,
				        "%llu tensors as %s instead of %s, the first %s: rows of %llu do not divide into its blocks",
				        (unsigned long long)count[want][got], g, w, j->spec.name,
				        (unsigned long long)st_spec_cols(&j->spec));
		}
}

/* Which types a recipe has given: "recipe Q4_K_M: 193 matrices as Q4_K, 17 as Q6_K". */
static void note_recipe(struct st_conversion *v)
{
	uint64_t count[ST_DTYPE_COUNT] = { 0 };
	char line[256];
	size_t at = 0;
	for (size_t i = 0; i < v->plan.n; i++)
		count[v->plan.jobs[i].spec.dtype] += st_job_is_matrix(&v->plan.jobs[i]);
	for (int t = 0; t < ST_DTYPE_COUNT && at < sizeof line; t++)
		if (count[t])
			at += (size_t)snprintf(line + at, sizeof line - at, "%s%llu as %s", at ? ", " : "",
			                       (unsigned long long)count[t], st_dtype_info((enum st_dtype)t)->name);
	if (v->dst.recipe && at)
		st_note(&v->log, "recipe %s, matrices: %s", v->o->type, line);
}

static enum st_status read_importance(struct st_conversion *v, struct st_error *err)
{
	struct st_importance *im = &v->importance;
	if (!v->o->imatrix)
		return ST_OK;
	ST_TRY(st_importance_read(v->o->imatrix, &v->plan, &v->arena, im, err));
	if (im->used == 0) {
		enum st_status st = st_fail(err, ST_ERR_MISMATCH,
		                            "holds importances for none of the matrices that are encoded");
		st_error_in(err, v->o->imatrix);
		return st;
	}
	if (im->without)
		st_note(&v->log, "importances for %zu matrices; without: %zu, the first %s", im->used, im->without,
		        im->first_without);
	else
		st_note(&v->log, "importances for all %zu matrices that are encoded", im->used);
	return ST_OK;
}

static void count_jobs(const struct st_conversion *v, struct st_convert_result *r)
{
	r->tensors = v->plan.n;
	for (size_t i = 0; i < v->plan.n; i++) {
		const struct st_job *j = &v->plan.jobs[i];
		bool copy = j->kind == ST_JOB_COPY && j->gain == 1 && j->order == ST_CODES_OWN;
		uint64_t *slot = !copy ? &r->encoded : j->map ? &r->moved : &r->untouched;
		(*slot)++;
	}
}

/* ---- the run ---- */

static enum st_status run(struct st_conversion *v, struct st_convert_result *r, struct st_error *err)
{
	struct st_repair *repair = NULL;
	enum st_status st;
	ST_TRY_OUT(st_target_choose(&v->dst, v->o, &v->log, err));
	ST_TRY_OUT(open_input(v, err));
	if (v->o->repair)
		ST_TRY_OUT(st_repair_open(v, &repair, err));
	st = st_target_refuse(v, err);
	if (st != ST_OK) {
		st_error_in(err, v->dst.path);
		goto out;
	}
	ST_TRY_OUT(st_vocabulary_read(&v->vocab, &v->src, &v->dst, &v->arena, &v->log, err));
	ST_TRY_OUT(v->page ? st_described_jobs(v, err) : st_plan_jobs(v, err));
	if (repair)
		ST_TRY_OUT(st_repair_apply(repair, v, err));
	ST_TRY_OUT(read_importance(v, err));
	ST_TRY_OUT(st_check_ranges(&v->plan, v->pool, err));
	if (v->by_name)
		st_note(&v->log, "family %s, which Stele cannot run: tensors go by their names, keys as they stand",
		        v->dst.cfg.arch);
	note_types(v);
	note_recipe(v);
	if (!v->dst.bare)
		st_list_left_out(v);
	if (v->dst.bare)
		st_note(&v->log,
		        "the file holds tensors alone; name a folder to get config.json and the tokenizer too");
	count_jobs(v, r);
	ST_TRY_OUT(v->dst.folder ? st_output_folder(v, r, err) : st_output_file(v, r, err));
	snprintf(r->from, sizeof r->from, "%s", st_container_describe(st_model_container(v->src.model)));
	snprintf(r->to, sizeof r->to, "%s",
	         v->dst.format == ST_FORMAT_GGUF  ? "GGUF v3"
	         : v->dst.format == ST_FORMAT_APR ? "APR v2 (writer A)"
	         : v->dst.folder                  ? "Hugging Face folder"
	                                          : "safetensors");
	snprintf(r->checked, sizeof r->checked, "tensors%s%s",
	         v->dst.bare  ? ""
	         : v->by_name ? ", keys"
	                      : ", configuration",
	         !v->dst.bare && v->vocab.t ? ", token ids" : "");
	snprintf(r->arch, sizeof r->arch, "%s", v->dst.cfg.arch);
out:
	st_repair_close(repair);
	return st;
}

enum st_status st_convert(const char *in, const char *out, const struct st_convert_options *o,
                          struct st_convert_result **result, struct st_error *err)
{
	struct st_conversion v = { .o = o, .src.path = in, .dst.path = out };
	struct held_result *held = st_alloc_zeroed(1, sizeof *held);
	*result = NULL;
	if (!held)
		return st_no_memory(err);
	st_arena_init(&v.arena);
	v.log.arena = &v.arena;
	enum st_status st = st_pool_open(o->threads, &v.pool, err);
	if (st == ST_OK)
		st = run(&v, &held->r, err);
	if (st == ST_OK && v.log.failed)
		st = st_no_memory(err);
	st_pool_close(v.pool);
	st_tokenizer_close(v.vocab.t);
	st_model_close(v.src.model);
	st_model_close(v.src.other);
	free(v.plan.jobs);
	if (st == ST_OK) {
		held->arena = v.arena;
		held->r.notes = v.log.notes.v;
		held->r.n_notes = v.log.notes.n;
		held->r.left_out = v.log.left.v;
		held->r.n_left_out = v.log.left.n;
		held->r.repairs = v.log.repairs.v;
		held->r.n_repairs = v.log.repairs.n;
		*result = &held->r;
		return ST_OK;
	}
	st_error_in(err, in);
	st_arena_release(&v.arena);
	st_log_release(&v.log);
	free(held);
	return st;
}

void st_convert_result_free(struct st_convert_result *r)
{
	struct held_result *held = (struct held_result *)r;
	if (!held)
		return;
	free((void *)(uintptr_t)r->notes);
	free((void *)(uintptr_t)r->left_out);
	free((void *)(uintptr_t)r->repairs);
	st_arena_release(&held->arena);
	free(held);
}
