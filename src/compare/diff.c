/* diff.c - what A and B are, and which comparison that makes. */
#include "compare/diff.h"

#include "arch/arch.h"
#include "arch/described.h"
#include "base/error.h"
#include "compare/pair.h"
#include "compare/settings.h"
#include "kernel/kernel.h"
#include "trace/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kind_names[] = { "a stage file", "a trace", "a model", "a set of tensors" };

/* "layers.3.attn_norm" -> attn_norm, 3. Names that are no stage stay as they are. */
static void split_key(const char *key, const char **stage, int32_t *layer)
{
	*stage = key;
	*layer = -1;
	if (strncmp(key, "layers.", 7) != 0)
		return;
	char *end;
	unsigned long n = strtoul(key + 7, &end, 10);
	if (*end == '.' && n < INT32_MAX) {
		*layer = (int32_t)n;
		*stage = end + 1;
	}
}

static enum st_status one_stage(struct st_diff_side *s, const struct st_tensor *t)
{
	s->stage = t;
	enum st_stage known;
	const char *stage;
	split_key(t->name, &stage, &s->layer);
	/* An npy file has no name of its own; a stage name that is none says nothing. */
	s->name = st_stage_parse(stage, strlen(stage), &known) ? stage : NULL;
	return ST_OK;
}

static enum st_status open_key(struct st_diff_side *s, char *path, const char *key, struct st_error *err)
{
	ST_TRY(st_container_open(path, &s->c, err));
	const struct st_tensor *t = st_container_find(s->c, key);
	if (!t) {
		enum st_status st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, key, "no tensor of that name in %s",
		                               path);
		return st;
	}
	return one_stage(s, t);
}

static bool is_trace(const struct st_container *c)
{
	if (st_container_is_bundle(c) || st_hidden_states_is(c))
		return true;
	/* Without the mark: a container with names of captured values. The others are compared as well, by name. */
	if (c->format != ST_FORMAT_SAFETENSORS && c->format != ST_FORMAT_NPZ && c->format != ST_FORMAT_NPY)
		return false;
	struct st_trace_key known;
	for (size_t i = 0; i < c->n_tensors; i++)
		if (st_trace_key_parse(c->tensors[i].name, false, &known))
			return true;
	return false;
}

static enum st_status open_side(struct st_diff_state *s, struct st_diff_side *side, const char *path,
                                enum st_diff_kind *kind, struct st_error *err)
{
	side->path = path;
	const char *colon = strrchr(path, ':');
	if (colon && access(path, F_OK) != 0) {
		char *file = st_arena_strndup(&s->arena, path, (size_t)(colon - path));
		*kind = ST_DIFF_STAGES;
		return file ? open_key(side, file, colon + 1, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	ST_TRY(st_container_open_by(path, s->pool, &side->c, err));
	const struct st_container *c = side->c;
	struct stat sb;
	bool folder = stat(path, &sb) == 0 && S_ISDIR(sb.st_mode),
	     single = c->n_tensors == 1 && c->n_maps == 1 && !folder;
	if (single && (c->format == ST_FORMAT_APRT || c->format == ST_FORMAT_NPY || c->format == ST_FORMAT_NPZ)
	    && !c->docs.metadata) {
		*kind = ST_DIFF_STAGES;
		return one_stage(side, &c->tensors[0]);
	}
	if (c->format == ST_FORMAT_APRT || is_trace(c)) {
		*kind = ST_DIFF_TRACES;
		return st_trace_open(path, &side->trace, err);
	}
	/* What is no model that Stele knows is still a set of named tensors; what contradicts itself is an error. */
	struct st_error why = ST_ERROR_INIT;
	enum st_status st = st_model_open_partial(path, &side->model, &why);
	*kind = st == ST_OK ? ST_DIFF_MODELS : ST_DIFF_TENSORS;
	if (st == ST_ERR_UNSUPPORTED)
		snprintf(s->d.note, sizeof s->d.note, "compared by tensor name: %.200s", why.message);
	else if (st != ST_OK) {
		*err = why;
		return st;
	}
	return ST_OK;
}

static int by_name(const void *x, const void *y)
{
	const struct st_tensor *a = *(const struct st_tensor *const *)x, *b = *(const struct st_tensor *const *)y;
	return strcmp(a->name, b->name);
}

/* By the same measure as the weights of a model: the noise that the two stored types predict, row by row. */
static enum st_status judge_tensor(struct st_tensor_diff *t, struct st_pool *pool, struct st_error *err)
{
	if (t->shapes_differ) {
		t->status = ST_DIFF_FAULT;
		return ST_OK;
	}
	ST_TRY(st_metrics_of_tensors(t->a, t->b, pool, &t->m, err));
	if (!st_diff_any(&t->m))
		t->status = ST_DIFF_UNDECIDED;
	if (t->m.max_abs == 0)
		return ST_OK;
	struct st_weight a = { .tensor = t->a }, b = { .tensor = t->b };
	struct st_pair p;
	ST_TRY(st_pair_open(&p, &a, &b, pool, err));
	bool exact = st_dtype_info(t->a->dtype)->kind == ST_KIND_INT && st_dtype_info(t->b->dtype)->kind == ST_KIND_INT;
	t->expected = p.sum.predicted;
	t->status = p.sum.noise && !exact ? ST_DIFF_EXPECTED : ST_DIFF_FAULT;
	st_pair_close(&p);
	return ST_OK;
}

static enum st_status diff_tensors(struct st_diff_state *s, const struct st_diff_options *o, struct st_error *err)
{
	struct st_diff *d = &s->d;
	const struct st_container *a = s->a.c, *b = s->b.c;
	size_t cap = a->n_tensors + b->n_tensors;
	const struct st_tensor **names = st_arena_alloc(&s->arena, cap ? cap : 1, sizeof *names);
	d->tensors = st_arena_alloc(&s->arena, cap ? cap : 1, sizeof *d->tensors);
	if (!names || !d->tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < cap; i++)
		names[i] = i < a->n_tensors ? &a->tensors[i] : &b->tensors[i - a->n_tensors];
	qsort(names, cap, sizeof *names, by_name);
	for (size_t i = 0; i < cap; i++) {
		if ((i && strcmp(names[i]->name, names[i - 1]->name) == 0) || !st_diff_wanted(o, names[i]->name))
			continue;
		struct st_tensor_diff *t = &d->tensors[d->n_tensors++];
		*t = (struct st_tensor_diff){ .a = st_container_find(a, names[i]->name),
			                      .b = st_container_find(b, names[i]->name) };
		d->only_a += !t->b;
		d->only_b += !t->a;
		if (!t->a || !t->b)
			continue;
		t->shapes_differ = t->a->ndim != t->b->ndim
		                || memcmp(t->a->shape, t->b->shape, t->a->ndim * sizeof *t->a->shape) != 0;
		if (!t->shapes_differ && t->a->n_elems == 0)
			continue;
		d->compared++;
		ST_TRY(judge_tensor(t, s->pool, err));
		d->over_threshold |= st_diff_beyond(o, t->m.max_abs, t->m.rel_l2);
		if (t->status == ST_DIFF_FAULT && !d->fault) {
			d->fault = true;
			d->first = d->n_tensors - 1;
		}
		if (t->status == ST_DIFF_UNDECIDED)
			st_diff_undecided(d, "a tensor has no finite value on either side");
	}
	if (d->only_a + d->only_b)
		st_diff_undecided(d, "there are tensors on one side only");
	return ST_OK;
}

static enum st_status unused(struct st_diff_state *s, const struct st_model *m, const struct st_tensor ***out,
                             size_t *n, struct st_error *err)
{
	*n = st_model_n_unused(m);
	*out = st_arena_alloc(&s->arena, *n ? *n : 1, sizeof **out);
	if (!*out)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < *n; i++)
		(*out)[i] = st_model_unused_at(m, i);
	return ST_OK;
}

/* Converters write divisors of frequencies in f32. */
#define SAME_FREQUENCY 1e-5

/* The largest relative difference between the frequencies of two graphs, rotation by rotation, and where it is. */
static double frequencies_apart(const struct st_graph *a, const struct st_graph *b, struct st_config_diff *where)
{
	double largest = 0;
	for (uint32_t i = 0, j = 0;; i++, j++) {
		while (i < a->n_nodes && a->nodes[i].op != ST_OP_ROPE)
			i++;
		while (j < b->n_nodes && b->nodes[j].op != ST_OP_ROPE)
			j++;
		if (i >= a->n_nodes || j >= b->n_nodes)
			return largest;
		const struct st_node *x = &a->nodes[i], *y = &b->nodes[j];
		if (x->head_dim != y->head_dim || x->n_rot != y->n_rot)
			return INFINITY;
		for (uint32_t k = 0; k < x->n_rot / 2; k++) {
			double f = x->inv_freq[k], g = y->inv_freq[k], apart = f == g ? 0 : fabs(f - g) / g;
			if (apart <= largest)
				continue;
			largest = apart;
			snprintf(where->a, sizeof where->a, "%.7g for pair %u", f, (unsigned)k);
			snprintf(where->b, sizeof where->b, "%.7g", g);
		}
	}
}

/* A scaling has several spellings, rope_freqs.weight among them, which no key shows: what becomes of the frequencies
 * counts. */
static void settle_rotation(struct st_diff *d, const struct st_graph *a, const struct st_graph *b)
{
	if (!a || !b)
		return;
	struct st_config_diff where = { .key = "rope frequencies", .matters = true, .stage = ST_STAGE_Q_POST_ROPE };
	double apart = frequencies_apart(a, b, &where);
	bool said = false;
	for (size_t i = 0; i < d->n_config; i++) {
		if (apart <= SAME_FREQUENCY && strncmp(d->config[i].key, "rope_", 5) == 0)
			d->config[i].matters = false;
		said |= d->config[i].matters && d->config[i].stage == ST_STAGE_Q_POST_ROPE;
	}
	if (apart > SAME_FREQUENCY && !said)
		d->config[d->n_config++] = where;
}

static enum st_status diff_models(struct st_diff_state *s, const struct st_diff_options *o, struct st_error *err)
{
	struct st_diff *d = &s->d;
	const struct st_config *ca = st_model_config(s->a.model), *cb = st_model_config(s->b.model);
	/* As far as the one that goes further does; 0 is a length that is not given. */
	size_t positions = !ca->max_positions || !cb->max_positions ? SIZE_MAX
	                 : ca->max_positions > cb->max_positions    ? ca->max_positions
	                                                            : cb->max_positions;
	const struct st_graph *ga = st_model_graph(s->a.model), *gb = st_model_graph(s->b.model);
	const struct st_described *pa = st_model_described(s->a.model), *pb = st_model_described(s->b.model);
	if (pa && pb && strcmp(pa->family->sha256, pb->family->sha256) == 0)
		d->n_config = st_compare_settings(s->a.model, s->b.model, ga && gb && st_graph_same_form(ga, gb),
		                                  positions, d->config);
	else
		d->n_config = st_compare_configs(ca, cb, positions, d->config);
	settle_rotation(d, ga, gb);
	ST_TRY(unused(s, s->a.model, &d->unused_a, &d->n_unused_a, err));
	ST_TRY(unused(s, s->b.model, &d->unused_b, &d->n_unused_b, err));
	ST_TRY(st_compare_weights(s->a.model, s->b.model, s->pool, &o->hooks, &d->weights, &d->n_weights, err));
	size_t kept = 0;
	for (size_t i = 0; i < d->n_weights; i++)
		if (st_diff_wanted(o, d->weights[i].slot->canonical))
			d->weights[kept++] = d->weights[i];
	d->n_weights = kept;
	for (size_t i = 0; i < d->n_weights; i++) {
		const struct st_weight_diff *w = &d->weights[i];
		d->compared += w->status < ST_WEIGHT_ONLY_A;
		d->only_a += w->status == ST_WEIGHT_ONLY_A;
		d->only_b += w->status == ST_WEIGHT_ONLY_B;
		d->over_threshold |= w->status < ST_WEIGHT_ONLY_A && st_diff_beyond(o, w->max_abs, w->rel_l2);
		if (w->status >= ST_WEIGHT_FAULT && !d->fault) {
			d->fault = true;
			d->first = i;
		}
	}
	for (size_t i = 0; i < d->n_config; i++)
		d->fault |= d->config[i].matters;
	return ST_OK;
}

enum st_status st_diff_run(const char *a, const char *b, const struct st_diff_options *o, struct st_diff **out,
                           struct st_error *err)
{
	*out = NULL;
	struct st_diff_state *s = st_alloc_zeroed(1, sizeof *s);
	if (!s)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&s->arena);
	s->d.path_a = a;
	s->d.path_b = b;
	s->d.first = SIZE_MAX;
	enum st_diff_kind ka, kb;
	enum st_status st;
	ST_TRY_OUT(st_pool_open(o->threads, &s->pool, err));
	ST_TRY_OUT(open_side(s, &s->a, a, &ka, err));
	ST_TRY_OUT(open_side(s, &s->b, b, &kb, err));
	/* One known model against one that is not: both are sets of tensors. */
	if (ka != kb && ka >= ST_DIFF_MODELS && kb >= ST_DIFF_MODELS)
		ka = kb = ST_DIFF_TENSORS;
	if (ka != kb) {
		bool names = (ka == ST_DIFF_TRACES && kb == ST_DIFF_TENSORS)
		          || (ka == ST_DIFF_TENSORS && kb == ST_DIFF_TRACES);
		st = st_fail(
			err, ST_ERR_MISMATCH, "A is %s and B is %s: inputs of one kind are needed (%s)", kind_names[ka],
			kind_names[kb],
			names ? "no name there is STAGE, layers.N.STAGE or steps.S. before either; 'stele help trace' "
				"lists the stages"
			      : "BUNDLE:KEY names one stage of a trace");
		goto out;
	}
	s->d.kind = ka;
	switch (ka) {
	case ST_DIFF_STAGES:
		ST_TRY_OUT(st_diff_stages(s, o, err));
		break;
	case ST_DIFF_TRACES:
		ST_TRY_OUT(st_diff_traces(s, o, err));
		break;
	case ST_DIFF_MODELS:
		ST_TRY_OUT(diff_models(s, o, err));
		break;
	case ST_DIFF_TENSORS:
		ST_TRY_OUT(diff_tensors(s, o, err));
		break;
	}
	if (s->d.compared == 0) {
		s->d.undecided = true; /* nothing compared is never a match */
		s->d.why = o->filter ? "nothing was compared; the filter goes by names of stages, and of weights as "
		                       "Hugging Face has them"
		                     : "nothing was compared";
	}
	st_pool_close(s->pool);
	*out = &s->d;
	return ST_OK;
out:
	st_pool_close(s->pool);
	st_diff_free(&s->d);
	return st;
}

void st_diff_free(struct st_diff *d)
{
	if (!d)
		return;
	struct st_diff_state *s = (struct st_diff_state *)(void *)d;
	struct st_diff_side *sides[] = { &s->a, &s->b };
	free(d->weights);
	for (int i = 0; i < 2; i++) {
		st_trace_close(sides[i]->trace);
		st_model_close(sides[i]->model);
		st_container_close(sides[i]->c);
	}
	st_arena_release(&s->arena);
	free(s);
}

int st_diff_exit(const struct st_diff *d)
{
	if (d->fault || d->over_threshold)
		return 1;
	return d->undecided ? 3 : 0;
}
