/* described_graph.c - the stages of a description as nodes: which weights, which parameters, which widths. */
#include "arch/arch.h"
#include "arch/described.h"

#include "base/error.h"
#include "graph/basis.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WIDTH (1u << 24)
/* Against a stranger's page, far above every model known: what is alive at once for one token, what is carried from
 * token to token, and how many stages all layers have. */
#define MAX_FEATURES (1u << 25)
#define MAX_STATE ((uint64_t)1 << 30)
#define MAX_NODES (1u << 20)

/* What a value consists of, for those that later stages take apart. */
struct parts {
	uint32_t n;
	uint32_t weight[ST_NODE_WEIGHTS], from[ST_NODE_WEIGHTS], width[ST_NODE_WEIGHTS];
};

struct builder {
	struct st_described *d;
	struct st_graph *g;
	const struct st_family_stage *s; /* under construction */
	struct st_settings at;
	int32_t layer;
	uint32_t *node;      /* [n_stage_names]: the node that a name stands for now */
	struct parts *parts; /* by node */
	uint32_t room;       /* nodes that there is room for */
	struct st_error *err;
};

/* At the stage's line, with its name in front. */
static enum st_status stage_fail(const struct builder *b, const char *fmt, ...) ST_PRINTF(2, 3);
static enum st_status stage_fail(const struct builder *b, const char *fmt, ...)
{
	char message[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	return st_described_fail(b->d, b->s->line, b->err, "%s: %s", b->d->family->stage_names[b->s->name], message);
}
#define FAIL(b, ...) st_failure(stage_fail(b, __VA_ARGS__))

/* ---- parameters ---- */

/* As the stage says; else the family's key of that name; else `otherwise`. */
static enum st_status setting(struct builder *b, const char *name, struct st_setting *out)
{
	const struct st_expression *e = st_family_param(b->s, name);
	uint32_t key = st_family_find_key(b->d->family, name);
	if (e)
		return st_expression_value(e, &b->at, out, b->err);
	if (key == ST_FAMILY_NONE)
		return ST_OK;
	const struct st_family_key *k = &b->d->family->keys[key];
	if (k->type == ST_KEY_LET)
		return st_expression_value(&k->let, &b->at, out, b->err);
	*out = b->at.keys[key];
	return ST_OK;
}

static enum st_status real(struct builder *b, const char *name, double otherwise, double *out)
{
	struct st_setting v = { .kind = ST_SETTING_NUMBER, .number = otherwise };
	ST_TRY(setting(b, name, &v));
	if (v.kind != ST_SETTING_NUMBER)
		return FAIL(b, "%s: %s is no number", st_operation_info(b->s->op)->name, name);
	*out = v.number;
	return ST_OK;
}

static enum st_status count(struct builder *b, const char *name, double otherwise, uint32_t *out)
{
	double v;
	ST_TRY(real(b, name, otherwise, &v));
	if (!(v >= 0) || !(v <= INT32_MAX) || v != floor(v))
		return FAIL(b, "%s: %s is %.17g, no count", st_operation_info(b->s->op)->name, name, v);
	*out = (uint32_t)v;
	return ST_OK;
}

static enum st_status flag(struct builder *b, const char *name, bool *out)
{
	double v;
	ST_TRY(real(b, name, 0, &v));
	*out = v != 0;
	return ST_OK;
}

static enum st_status text(struct builder *b, const char *name, const char *otherwise, const char **out)
{
	struct st_setting v = { .kind = ST_SETTING_TEXT, .text = otherwise };
	ST_TRY(setting(b, name, &v));
	if (v.kind != ST_SETTING_TEXT)
		return FAIL(b, "%s: %s is no text", st_operation_info(b->s->op)->name, name);
	*out = v.text;
	return ST_OK;
}

/* ---- arguments ---- */

/* Argument i: its node, the first feature that is meant, and how many. */
static enum st_status input(struct builder *b, uint32_t i, struct st_node *n, uint32_t *width)
{
	const struct st_family_arg *a = &b->s->in[i];
	const char *name = b->d->family->stage_names[a->stage];
	uint32_t at = b->node[a->stage], from = 0;
	if (at == ST_NO_NODE)
		return FAIL(b, "\"%s\" has no value in layer %d", name, b->layer);
	*width = b->g->nodes[at].width;
	const struct parts *p = &b->parts[at];
	bool found = a->part == ST_FAMILY_NONE;
	for (uint32_t k = 0; k < p->n && !found; k++)
		if (p->weight[k] == a->part) {
			from = p->from[k];
			*width = p->width[k];
			found = true;
		}
	if (i < ST_NODE_INPUTS) {
		n->in[i] = at;
		n->from[i] = from;
	} else {
		n->more[i - ST_NODE_INPUTS] = at;
		n->more_from[i - ST_NODE_INPUTS] = from;
		n->n_more = i - ST_NODE_INPUTS + 1;
	}
	return found ? ST_OK : FAIL(b, "\"%s\" has no part \"%s\"", name, b->d->family->weights[a->part].name);
}

/* Whether the first input is all of its stage, and not a part of it. */
static bool is_whole(const struct builder *b, const struct st_node *n, uint32_t width)
{
	return n->from[0] == 0 && b->g->nodes[n->in[0]].width == width;
}

static const struct st_weight *weight_of(const struct builder *b, uint32_t index)
{
	bool per_layer = b->d->family->weights[index].per_layer;
	if (index == ST_FAMILY_NONE || (per_layer && b->layer < 0))
		return NULL;
	const struct st_weight *w = &b->d->weights[index][per_layer ? b->layer : 0];
	return w->tensor ? w : NULL;
}

static const struct st_weight *weight(const struct builder *b, uint32_t i)
{
	const struct st_family_arg *a = &b->s->w[i];
	const struct st_weight *w = weight_of(b, a->weight);
	return w || a->other == ST_FAMILY_NONE ? w : weight_of(b, a->other);
}

static enum st_status need_weight(struct builder *b, uint32_t i, struct st_node *n)
{
	n->w[i] = weight(b, i);
	n->n_w = i + 1;
	return n->w[i] ? ST_OK : FAIL(b, "\"%s\" is not in the file", b->d->family->weights[b->s->w[i].weight].name);
}

/* How many it holds; one tensor for each head is one vector. */
static uint64_t numbers(const struct st_weight *w)
{
	return !w ? 0 : w->n_experts ? w->n_experts * w->experts[0].n_elems : w->tensor->n_elems;
}

/* A vector of `width` numbers. */
static enum st_status need_vector(struct builder *b, uint32_t i, struct st_node *n, uint32_t width)
{
	ST_TRY(need_weight(b, i, n));
	if (numbers(n->w[i]) != width)
		return FAIL(b, "\"%s\" has %llu numbers for %u features", b->d->family->weights[b->s->w[i].weight].name,
		            (unsigned long long)numbers(n->w[i]), width);
	return ST_OK;
}

/* ---- operations ---- */

static enum st_status add(struct builder *b, struct st_node n, const struct parts *parts)
{
	if (n.width == 0 || n.width > MAX_WIDTH)
		return FAIL(b, "%u features, where 1 to %u can be", n.width, MAX_WIDTH);
	if (b->g->n_nodes == b->room)
		return FAIL(b, "more stages than were counted");
	n.stage = b->d->stage[b->s->name];
	n.layer = b->layer;
	n.slot = b->s->name;
	uint32_t i = b->g->n_nodes++;
	b->g->nodes[i] = n;
	b->parts[i] = *parts;
	b->node[b->s->name] = i;
	return ST_OK;
}

static enum st_status linear(struct builder *b, struct st_node *n, uint32_t in, struct parts *parts)
{
	uint64_t width = 0;
	n->op = ST_OP_LINEAR;
	for (uint32_t i = 0; i < b->s->n_w; i++) {
		ST_TRY(need_weight(b, i, n));
		uint64_t rows = st_weight_rows(n->w[i]);
		const char *name = b->d->family->weights[b->s->w[i].weight].name;
		if (st_tensor_cols(n->w[i]->tensor) != in || n->w[i]->n_experts || n->w[i]->plus_one)
			return FAIL(b, "\"%s\" takes %llu features, \"%s\" has %u", name,
			            (unsigned long long)st_tensor_cols(n->w[i]->tensor),
			            b->d->family->stage_names[b->s->in[0].stage], in);
		if (!is_whole(b, n, in))
			return FAIL(b, "a part of a stage has no products");
		parts->weight[i] = b->s->w[i].weight;
		parts->from[i] = (uint32_t)width;
		parts->width[i] = (uint32_t)rows;
		parts->n = i + 1;
		width += rows;
		if (width > MAX_WIDTH && b->layer >= 0)
			return FAIL(b, "more than %u features", MAX_WIDTH);
	}
	n->width = (uint32_t)width;
	return real(b, "cap", 0, &n->softcap);
}

/* Without its weights a bias does nothing: its name stands for what it would have been added to. */
static enum st_status bias(struct builder *b, struct st_node *n, uint32_t in, struct parts *parts, bool *none)
{
	uint64_t width = 0;
	uint32_t absent = 0;
	n->op = ST_OP_BIAS;
	n->width = in;
	*parts = b->parts[n->in[0]];
	for (uint32_t i = 0; i < b->s->n_w; i++)
		absent += !weight(b, i);
	*none = absent == b->s->n_w;
	if (*none) {
		b->node[b->s->name] = n->in[0];
		return ST_OK;
	}
	for (uint32_t i = 0; i < b->s->n_w; i++) {
		ST_TRY(need_weight(b, i, n));
		width += n->w[i]->group_rows ? st_weight_rows(n->w[i]) : n->w[i]->tensor->n_elems;
	}
	return width == in && is_whole(b, n, in)
	             ? ST_OK
	             : FAIL(b, "%llu numbers for %u features", (unsigned long long)width, in);
}

static enum st_status norm(struct builder *b, struct st_node *n, uint32_t in)
{
	bool about_mean = b->s->op == ST_OPERATION_layernorm;
	n->op = about_mean ? ST_OP_LAYERNORM : ST_OP_RMSNORM;
	n->width = in;
	ST_TRY(real(b, "eps", 0, &n->eps));
	if (!(n->eps >= 0 && n->eps < 1))
		return FAIL(b, "eps %g is not between 0 and 1", n->eps);
	uint32_t each = in;
	if (st_family_param(b->s, "heads")) {
		n->op = about_mean ? ST_OP_LAYERNORM : ST_OP_HEADNORM;
		ST_TRY(count(b, "heads", 1, &n->heads));
		if (n->heads == 0 || in % n->heads)
			return FAIL(b, "%u features are not %u heads", in, n->heads);
		each = n->head_dim = in / n->heads;
	}
	for (uint32_t i = 0; i < b->s->n_w; i++) {
		bool own = about_mean && n->heads && numbers(weight(b, i)) == in && in != each;
		if (i && own != n->own_weights)
			return FAIL(b, "weights of each head beside those of all");
		n->own_weights = own;
		ST_TRY(need_vector(b, i, n, own ? in : each));
	}
	return ST_OK;
}

/* What the rotation of a stage is made of. */
struct rotation {
	double theta, factor, low, high, original, fast, slow, attention_factor;
	const char *scaling;
	bool linear, llama3, yarn, dynamic, longrope;
	bool truncate; /* yarn's bounds to whole pairs */
};

static enum st_status rotation(struct builder *b, struct rotation *r)
{
	ST_TRY(real(b, "theta", 10000, &r->theta));
	ST_TRY(text(b, "scaling", "none", &r->scaling));
	ST_TRY(real(b, "factor", 1, &r->factor));
	ST_TRY(real(b, "low_freq", 1, &r->low));
	ST_TRY(real(b, "high_freq", 4, &r->high));
	ST_TRY(real(b, "original", 0, &r->original));
	ST_TRY(real(b, "beta_fast", 32, &r->fast));
	ST_TRY(real(b, "beta_slow", 1, &r->slow));
	ST_TRY(real(b, "attention_factor", 0, &r->attention_factor));
	r->linear = strcmp(r->scaling, "linear") == 0;
	r->llama3 = strcmp(r->scaling, "llama3") == 0;
	r->yarn = strcmp(r->scaling, "yarn") == 0;
	r->dynamic = strcmp(r->scaling, "dynamic") == 0;
	r->longrope = strcmp(r->scaling, "longrope") == 0;
	uint32_t truncate;
	ST_TRY(count(b, "truncate", 1, &truncate));
	r->truncate = truncate != 0;
	if (!r->linear && !r->llama3 && !r->yarn && !r->dynamic && !r->longrope && strcmp(r->scaling, "none") != 0)
		return st_fail_at(b->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "rope scaling",
		                  "\"%.64s\" is not known; none, linear, dynamic, llama3, yarn and longrope are",
		                  r->scaling);
	bool sound = r->theta > 0 && r->factor > 0 && r->attention_factor >= 0;
	if (r->llama3)
		sound &= r->low > 0 && r->high > r->low && r->original > 0;
	if (r->dynamic)
		sound &= r->original >= 1 && r->factor >= 1;
	if (r->longrope)
		sound &= r->original > 1;
	if (r->yarn)
		sound &= r->theta > 1 && r->original > 0 && r->fast > 0 && r->slow > 0;
	return sound ? ST_OK
	             : FAIL(b, "theta %g, factor %g, low_freq %g, high_freq %g, original %g are no rotation", r->theta,
	                    r->factor, r->low, r->high, r->original);
}

/* Below which pair a frequency turns more than `turns` times over the original length, of n_rot features. */
static double yarn_pair(const struct rotation *r, double turns, uint32_t n_rot)
{
	return n_rot * st_log(r->original / (turns * 2 * M_PI)) / (2 * st_log(r->theta));
}

/* Yarn keeps fast pairs, divides slow ones, and goes over linearly between (transformers, modeling_rope_utils). */
static double yarn(const struct rotation *r, uint32_t i, uint32_t n_rot)
{
	double low = yarn_pair(r, r->fast, n_rot), high = yarn_pair(r, r->slow, n_rot);
	low = fmax(r->truncate ? floor(low) : low, 0);
	high = fmin(r->truncate ? ceil(high) : high, n_rot - 1.0);
	double slow = (i - low) / (low == high ? 0.001 : high - low);
	slow = slow < 0 ? 0 : slow > 1 ? 1 : slow;
	return slow / r->factor + (1 - slow);
}

/* What frequencies are divided by: weight i, else the list of that name; neither: none. */
static enum st_status divisors(struct builder *b, uint32_t i, const char *name, uint32_t pairs, double *by, bool *some)
{
	struct st_setting list = { .kind = ST_SETTING_NUMBER };
	const struct st_weight *w = i < b->s->n_w ? weight(b, i) : NULL;
	ST_TRY(setting(b, name, &list));
	uint64_t n = w ? st_tensor_cols(w->tensor) : list.kind == ST_SETTING_LIST ? list.n : 0;
	*some = n > 0;
	if (n && n != pairs)
		return FAIL(b, "%llu divisors for %u pairs", (unsigned long long)n, pairs);
	if (w)
		st_tensor_decode_f64(w->tensor, 0, 1, by);
	for (uint32_t k = 0; k < n; k++) {
		by[k] = w ? by[k] : list.items[k].number;
		if (!(by[k] > 0) || !isfinite(by[k]))
			return w ? st_fail_at(b->err, ST_ERR_FORMAT, w->tensor->offset, w->tensor->name,
			                      "element %u is %g, no divisor of a frequency", k, by[k])
			         : FAIL(b, "%g is no divisor of a frequency", by[k]);
	}
	return ST_OK;
}

/* Pairs behind the first n_turned stay as they are: their frequency is 0. */
static enum st_status frequencies(struct builder *b, const struct st_node *n, const struct rotation *r,
                                  uint32_t n_turned, const double *by, double **out)
{
	uint32_t pairs = n->n_rot / 2;
	double *inv = st_arena_alloc(&b->d->arena, pairs, sizeof *inv), ln_theta = st_log(r->theta);
	struct st_error *err = b->err;
	ST_NEED(inv);
	for (uint32_t i = 0; i < pairs; i++) {
		inv[i] = i < n_turned ? st_exp(-ln_theta * (2.0 * i) / n->n_rot) : 0;
		inv[i] *= r->llama3 && by ? 1
		        : r->llama3 ? st_rope_bands(inv[i], r->factor, r->low, r->high, r->original)
		        : r->yarn   ? yarn(r, i, n->n_rot)
		        : r->linear ? 1 / r->factor
		                    : 1;
		if (by)
			inv[i] /= by[i];
	}
	*out = inv;
	return ST_OK;
}

/* Divisors beside llama3's numbers are its effect, said twice: it is applied once. */
static enum st_status check_llama3(struct builder *b, const struct st_node *n, const struct rotation *r, const double *by)
{
	const struct st_tensor *t = weight(b, 0)->tensor;
	for (uint32_t i = 0; i < n->n_rot / 2; i++) {
		double keep = st_rope_bands(st_exp(-st_log(r->theta) * (2.0 * i) / n->n_rot), r->factor, r->low, r->high,
		                            r->original);
		if (!(fabs(keep * by[i] - 1) < ST_DIVISORS_AGREE))
			return st_fail_at(b->err, ST_ERR_FORMAT, t->offset, t->name,
			                  "element %u is %g, where the configuration's llama3 scaling divides by %g", i, by[i],
			                  1 / keep);
	}
	return ST_OK;
}

static enum st_status rope(struct builder *b, struct st_node *n, uint32_t in)
{
	double by[ST_MAX_HEAD_DIM / 2];
	struct rotation r;
	n->op = ST_OP_ROPE;
	n->width = in;
	ST_TRY(count(b, "head_dim", in, &n->head_dim));
	if (n->head_dim == 0 || n->head_dim > ST_MAX_HEAD_DIM || in % n->head_dim)
		return FAIL(b, "%u features are not heads of %u", in, n->head_dim);
	n->heads = in / n->head_dim;
	const struct st_expression *dims = st_family_param(b->s, "dims");
	n->n_rot = n->head_dim;
	if (dims)
		ST_TRY(st_expression_count(dims, &b->at, &n->n_rot, b->err));
	if (n->n_rot % 2 || n->n_rot == 0 || n->n_rot > n->head_dim)
		return FAIL(b, "%u of %u features of a head cannot be turned in pairs", n->n_rot, n->head_dim);
	ST_TRY(rotation(b, &r));
	const struct st_expression *turned = st_family_param(b->s, "pairs");
	uint32_t pairs = n->n_rot / 2, n_turned = pairs;
	if (turned)
		ST_TRY(st_expression_count(turned, &b->at, &n_turned, b->err));
	if (n_turned > pairs)
		return FAIL(b, "%u pairs of %u are turned", n_turned, pairs);
	double *inv, *beyond;
	bool some, more, backward;
	ST_TRY(divisors(b, 0, "short", pairs, by, &some));
	if (some && r.llama3 && b->s->n_w && weight(b, 0))
		ST_TRY(check_llama3(b, n, &r, by));
	ST_TRY(frequencies(b, n, &r, n_turned, some ? by : NULL, &inv));
	ST_TRY(divisors(b, 1, "long", pairs, by, &more));
	if (r.longrope && (!some || !more))
		return FAIL(b, "longrope without its %s factors", some ? "long" : "short");
	n->inv_freq = inv;
	n->mscale = r.longrope && r.attention_factor == 0 && r.factor > 1
	                  ? sqrt(1 + st_log(r.factor) / st_log(r.original))
	          : !r.yarn && !r.longrope ? 1
	          : r.attention_factor > 0 ? r.attention_factor
	          : r.factor > 1 && r.yarn ? 0.1 * st_log(r.factor) + 1
	                                   : 1;
	n->beyond.mscale = n->mscale;
	if (r.longrope) {
		ST_TRY(frequencies(b, n, &r, n_turned, by, &beyond));
		ST_TRY(real(b, "long_mscale", n->mscale, &n->beyond.mscale));
		ST_TRY(real(b, "short_mscale", n->mscale, &n->mscale));
		n->beyond.inv_freq = beyond;
	}
	if (r.dynamic && n->n_rot <= 2)
		return FAIL(b, "a dynamic base needs more than one pair");
	n->beyond.from = r.longrope || r.dynamic ? (uint32_t)r.original : 0;
	n->beyond.theta = r.theta;
	n->beyond.factor = r.factor;
	ST_TRY(flag(b, "backward", &backward));
	if (backward && (r.dynamic || r.longrope))
		return FAIL(b, "%s turns forward", r.scaling);
	for (uint32_t i = 0; backward && i < pairs; i++)
		inv[i] = -inv[i];
	return ST_OK;
}

/* in[0] = queries, in[1] = keys; or probabilities and values. */
static enum st_status attention(struct builder *b, struct st_node *n, const uint32_t *in)
{
	bool scores = b->s->op == ST_OPERATION_scores;
	n->op = scores ? ST_OP_SCORES : ST_OP_MIX;
	ST_TRY(count(b, "heads", 1, &n->heads));
	ST_TRY(count(b, "kv_heads", n->heads, &n->kv_heads));
	if (n->heads == 0 || n->kv_heads == 0 || n->heads % n->kv_heads || in[1] % n->kv_heads)
		return FAIL(b, "%u features for %u key-value heads and %u heads", in[1], n->kv_heads, n->heads);
	n->head_dim = in[1] / n->kv_heads;
	if (scores ? (uint64_t)n->heads * n->head_dim != in[0]
	           : b->g->nodes[n->in[0]].op != ST_OP_SOFTMAX || b->g->nodes[n->in[0]].heads != n->heads)
		return FAIL(b, scores ? "%u features are not %u heads of %u" : "%u: no probabilities of %u heads of %u",
		            in[0], n->heads, n->head_dim);
	if ((uint64_t)n->heads * n->head_dim > MAX_WIDTH)
		return FAIL(b, "more than %u features", MAX_WIDTH);
	n->width = scores ? n->heads : n->heads * n->head_dim;
	n->window = scores ? 0 : b->g->nodes[n->in[0]].window;
	n->chunk = scores ? 0 : b->g->nodes[n->in[0]].chunk;
	if (!scores)
		return ST_OK;
	ST_TRY(count(b, "window", 0, &n->window));
	ST_TRY(count(b, "chunk", 0, &n->chunk));
	ST_TRY(real(b, "slopes", 0, &n->slopes));
	ST_TRY(real(b, "slope_scale", 1, &n->slope_scale));
	if (!(n->slopes >= 0 && n->slopes <= 1000))
		return FAIL(b, "slopes of 2^-%g", n->slopes);
	ST_TRY(real(b, "scale", 1, &n->scale));
	return real(b, "cap", 0, &n->softcap);
}

static enum st_status experts(struct builder *b, struct st_node *n, const uint32_t *in)
{
	n->op = ST_OP_LINEAR_AT;
	ST_TRY(need_weight(b, 0, n));
	const struct st_weight *w = n->w[0];
	uint64_t K = w->n_experts ? st_tensor_cols(&w->experts[0]) : 0,
		 N = w->n_experts ? st_tensor_rows(&w->experts[0]) : 0;
	n->choices = in[1];
	bool chosen = b->g->nodes[n->in[1]].op == ST_OP_TOP;
	if (!chosen || !K || (in[0] != K && in[0] != K * n->choices) || !is_whole(b, n, in[0])
	    || N * n->choices > MAX_WIDTH)
		return FAIL(b, "\"%s\" does not fit: %u features, %u chosen",
		            b->d->family->weights[b->s->w[0].weight].name, in[0], in[1]);
	/* Indices stay below what the router has. */
	if (b->g->nodes[b->g->nodes[n->in[1]].in[0]].width > w->n_experts)
		return FAIL(b, "the router knows more experts than there are");
	n->width = (uint32_t)(N * n->choices);
	return ST_OK;
}

/* Indices of the largest, among all or in the best groups. */
static enum st_status top(struct builder *b, struct st_node *n, uint32_t in)
{
	n->op = ST_OP_TOP;
	if (b->s->n_w && weight(b, 0)) /* without it the choice is by the values alone */
		ST_TRY(need_vector(b, 0, n, in));
	ST_TRY(count(b, "count", 1, &n->width));
	ST_TRY(count(b, "groups", 1, &n->groups.all));
	ST_TRY(count(b, "used_groups", n->groups.all, &n->groups.used));
	ST_TRY(count(b, "best", 1, &n->groups.best));
	if (n->width == 0 || n->width > in || !is_whole(b, n, in))
		return FAIL(b, "%u of %u", n->width, in);
	uint32_t all = n->groups.all, each = all ? in / all : 0;
	if (all == 0 || all > ST_MAX_GROUPS || in % all || n->groups.used == 0 || n->groups.used > all
	    || n->groups.best == 0 || n->groups.best > 2)
		return FAIL(b, "%u in %u groups, of which %u, by the best %u", in, all, n->groups.used, n->groups.best);
	if (n->groups.used < all && (n->width > n->groups.used * each || n->groups.best > each))
		return FAIL(b, "%u of %u groups of %u", n->width, n->groups.used, each);
	return ST_OK;
}

/* Of each head a's features, then b's; b has as many heads, or one for all. */
static enum st_status concat(struct builder *b, struct st_node *n, const uint32_t *in)
{
	n->op = ST_OP_CONCAT;
	ST_TRY(count(b, "heads", 1, &n->heads));
	uint32_t H = n->heads, each = H ? in[0] / H : 0;
	if (H == 0 || in[0] % H)
		return FAIL(b, "%u features are not %u heads", in[0], H);
	bool shared;
	ST_TRY(flag(b, "shared_head", &shared));
	n->kv_heads = shared ? 1 : H;
	if (in[1] % n->kv_heads)
		return FAIL(b, "%u features are not %u heads", in[1], n->kv_heads);
	n->head_dim = in[1] / n->kv_heads;
	uint64_t width = (uint64_t)H * (each + n->head_dim);
	if (width > MAX_WIDTH)
		return FAIL(b, "more than %u features", MAX_WIDTH);
	n->width = (uint32_t)width;
	return ST_OK;
}

static enum st_status xielu(struct builder *b, struct st_node *n, uint32_t in)
{
	static const char *const names[] = { "alpha_p", "alpha_n", "beta", "eps" };
	n->op = ST_OP_XIELU;
	n->width = in;
	for (uint32_t i = 0; i < 4; i++) {
		if (i < b->s->n_w && weight(b, i))
			ST_TRY(need_vector(b, i, n, 1));
		else
			ST_TRY(real(b, names[i], 0, &n->xielu[i]));
	}
	n->n_w = b->s->n_w;
	return ST_OK;
}

/* Rows of a matrix by the choice, added to the parts that the choice made. */
static enum st_status bias_at(struct builder *b, struct st_node *n, const uint32_t *in)
{
	n->op = ST_OP_BIAS_AT;
	n->width = in[0];
	n->choices = in[1];
	ST_TRY(need_weight(b, 0, n));
	const struct st_weight *w = n->w[0];
	if (b->g->nodes[n->in[1]].op != ST_OP_TOP || in[0] % in[1] || !is_whole(b, n, in[0]) || w->n_experts
	    || w->group_rows || st_tensor_cols(w->tensor) != in[0] / in[1]
	    || st_tensor_rows(w->tensor) < b->g->nodes[b->g->nodes[n->in[1]].in[0]].width)
		return FAIL(b, "\"%s\" does not fit: %u features, %u chosen",
		            b->d->family->weights[b->s->w[0].weight].name, in[0], in[1]);
	return ST_OK;
}

/* The second input is the indices of the largest of as many features as the first has. */
static bool names_features(const struct builder *b, const struct st_node *n, uint32_t in)
{
	const struct st_node *top = &b->g->nodes[n->in[1]];
	return top->op == ST_OP_TOP && b->g->nodes[top->in[0]].width == in && is_whole(b, n, in);
}

static enum st_status chosen(struct builder *b, struct st_node *n, const uint32_t *in)
{
	uint32_t shares;
	n->op = ST_OP_CHOSEN;
	n->width = in[1];
	ST_TRY(count(b, "shares", 0, &shares));
	ST_TRY(real(b, "plus", 0, &n->shares.plus));
	ST_TRY(real(b, "least", 0, &n->shares.least));
	ST_TRY(real(b, "by", 1, &n->shares.by));
	n->shares.shares = shares != 0;
	return names_features(b, n, in[0]) ? ST_OK : FAIL(b, "the indices are not those of %u features", in[0]);
}

static enum st_status pointwise(struct builder *b, struct st_node *n, const uint32_t *in, struct parts *parts)
{
	static const struct {
		enum st_operation operation;
		enum st_op op;
		enum st_activation act;
	} known[] = {
		{ ST_OPERATION_add, ST_OP_ADD, 0 },
		{ ST_OPERATION_mul, ST_OP_MUL, 0 },
		{ ST_OPERATION_silu, ST_OP_ACT, ST_ACT_SILU },
		{ ST_OPERATION_gelu, ST_OP_ACT, ST_ACT_GELU },
		{ ST_OPERATION_gelu_tanh, ST_OP_ACT, ST_ACT_GELU_TANH },
		{ ST_OPERATION_relu, ST_OP_ACT, ST_ACT_RELU },
		{ ST_OPERATION_relu_squared, ST_OP_ACT, ST_ACT_RELU_SQUARED },
		{ ST_OPERATION_sigmoid, ST_OP_ACT, ST_ACT_SIGMOID },
		{ ST_OPERATION_gelu_quick, ST_OP_ACT, ST_ACT_GELU_QUICK },
		{ ST_OPERATION_tanh, ST_OP_ACT, ST_ACT_TANH },
		{ ST_OPERATION_exp, ST_OP_ACT, ST_ACT_EXP },
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (known[i].operation == b->s->op) {
			n->op = known[i].op;
			n->act = known[i].act;
		}
	n->width = in[0];
	for (uint32_t i = 0; i < b->s->n_in; i++)
		if (in[i] != in[0])
			return FAIL(b, "%u and %u features", in[0], in[i]);
	if (b->s->n_in == 1 && is_whole(b, n, in[0]))
		*parts = b->parts[n->in[0]];
	return ST_OK;
}

/* ---- what carries a state ---- */

static bool is_plain(const struct st_weight *w) { return !w->n_experts && !w->group_rows && !w->interleaved; }

static enum st_status conv(struct builder *b, struct st_node *n, uint32_t in, struct parts *parts)
{
	uint64_t rows = 0;
	n->op = ST_OP_CONV;
	n->width = in;
	*parts = b->parts[n->in[0]];
	for (uint32_t i = 0; i < b->s->n_w; i++) {
		ST_TRY(need_weight(b, i, n));
		const struct st_tensor *t = n->w[i]->tensor;
		if (!is_plain(n->w[i]) || (i && st_tensor_cols(t) != n->state_size) || st_tensor_cols(t) > 64)
			return FAIL(b, "\"%s\" is no convolution of these taps",
			            b->d->family->weights[b->s->w[i].weight].name);
		n->state_size = (uint32_t)st_tensor_cols(t);
		rows += st_tensor_rows(t);
	}
	n->state = (uint64_t)in * (n->state_size > 1 ? n->state_size - 1 : 1);
	return rows == in && n->state_size ? ST_OK : FAIL(b, "%llu rows for %u features", (unsigned long long)rows, in);
}

static enum st_status delta_rule(struct builder *b, struct st_node *n, const uint32_t *in)
{
	uint32_t kh;
	n->op = ST_OP_DELTA_RULE;
	ST_TRY(count(b, "heads", 1, &n->heads));
	ST_TRY(count(b, "key_heads", n->heads, &kh));
	ST_TRY(real(b, "scale", 1, &n->scale));
	n->groups_of = kh;
	uint32_t H = n->heads;
	if (H == 0 || kh == 0 || H % kh || in[0] % kh || in[1] != in[0] || in[2] % H || in[4] != H)
		return FAIL(b, "%u, %u, %u features are not %u heads with %u keys", in[0], in[1], in[2], H, kh);
	n->state_size = in[0] / kh;
	n->head_dim = in[2] / H;
	n->width = in[2];
	n->each = in[3] != H;
	if (n->state_size > ST_MAX_STATE || n->head_dim > ST_MAX_STATE
	    || (n->each && in[3] != (uint64_t)H * n->state_size))
		return FAIL(b, "%u decays for %u heads of %u", in[3], H, n->state_size);
	n->state = (uint64_t)H * n->state_size * n->head_dim;
	return ST_OK;
}

static enum st_status linear_attention(struct builder *b, struct st_node *n, const uint32_t *in)
{
	n->op = ST_OP_LINEAR_ATTENTION;
	ST_TRY(count(b, "heads", 1, &n->heads));
	ST_TRY(real(b, "scale", 1, &n->scale));
	ST_TRY(real(b, "slopes", 0, &n->slopes));
	ST_TRY(real(b, "slope_scale", 1, &n->slope_scale));
	uint32_t H = n->heads;
	if (H == 0 || in[0] % H || in[1] != in[0] || in[2] % H)
		return FAIL(b, "%u, %u, %u features are not %u heads", in[0], in[1], in[2], H);
	n->state_size = in[0] / H;
	n->head_dim = in[2] / H;
	n->width = in[2];
	n->each = b->s->n_in > 3 && in[3] != H;
	if (n->state_size > ST_MAX_STATE || n->head_dim > ST_MAX_STATE || (n->each && in[3] != in[0]))
		return FAIL(b, "%u decays for %u heads of %u", in[3], H, n->state_size);
	if (!(n->slopes >= 0 && n->slopes <= 1000) || !(n->slope_scale >= 0))
		return FAIL(b, "slopes of 2^-%g times %g", n->slopes, n->slope_scale);
	if (b->s->n_w)
		ST_TRY(need_vector(b, 0, n, in[0]));
	n->state = (uint64_t)H * n->state_size * n->head_dim;
	return ST_OK;
}

static enum st_status scan(struct builder *b, struct st_node *n, const uint32_t *in)
{
	n->op = ST_OP_SCAN;
	ST_TRY(count(b, "heads", in[1], &n->heads));
	ST_TRY(count(b, "groups", 1, &n->groups_of));
	uint32_t H = n->heads, G = n->groups_of;
	if (H == 0 || G == 0 || H % G || in[0] % H || in[1] != H || in[2] % G || in[3] != in[2]
	    || in[2] / G > ST_MAX_STATE)
		return FAIL(b, "%u inputs, %u steps, %u and %u are not %u heads in %u groups", in[0], in[1], in[2],
		            in[3], H, G);
	n->head_dim = in[0] / H;
	n->state_size = in[2] / G;
	n->width = in[0];
	for (uint32_t i = 0; i < b->s->n_w; i++)
		ST_TRY(need_weight(b, i, n));
	uint64_t A = n->w[0]->tensor->n_elems;
	n->each = A != H;
	if (!is_plain(n->w[0]) || (n->each && A != (uint64_t)H * n->state_size)
	    || (n->n_w > 1 && (!is_plain(n->w[1]) || n->w[1]->tensor->n_elems != H)))
		return FAIL(b, "%llu numbers of A for %u heads of %u states", (unsigned long long)A, H, n->state_size);
	if (n->n_w < 2)
		return FAIL(b, "without D");
	n->state = (uint64_t)in[0] * n->state_size;
	return ST_OK;
}

/* Of features one by one. */
static enum st_status recurrence(struct builder *b, struct st_node *n, const uint32_t *in)
{
	bool wkv = b->s->op == ST_OPERATION_wkv;
	n->op = wkv ? ST_OP_WKV : b->s->op == ST_OPERATION_lru ? ST_OP_LRU : ST_OP_TOKEN_SHIFT;
	n->width = in[0];
	for (uint32_t i = 1; i < b->s->n_in; i++)
		if (in[i] != in[0])
			return FAIL(b, "%u and %u features", in[0], in[i]);
	for (uint32_t i = 0; i < b->s->n_w; i++)
		ST_TRY(need_vector(b, i, n, in[0]));
	n->state = (uint64_t)in[0] * (wkv ? 3 : 1);
	return ST_OK;
}

static enum st_status build(struct builder *b)
{
	struct st_node n = { .in = { ST_NO_NODE, ST_NO_NODE }, .scale = 1 };
	struct parts parts = { 0 };
	uint32_t in[ST_NODE_ALL_INPUTS] = { 0 };
	bool none = false, above;
	for (uint32_t i = 0; i < b->s->n_in; i++)
		ST_TRY(input(b, i, &n, &in[i]));
	switch (b->s->op) {
	case ST_OPERATION_embed:
	case ST_OPERATION_embed_position:
		n.op = b->s->op == ST_OPERATION_embed ? ST_OP_EMBED : ST_OP_EMBED_POSITION;
		ST_TRY(need_weight(b, 0, &n));
		n.width = (uint32_t)st_tensor_cols(n.w[0]->tensor);
		if (n.op == ST_OP_EMBED && st_weight_rows(n.w[0]) < b->d->vocab)
			return FAIL(b, "fewer rows than the vocabulary");
		if (n.op == ST_OP_EMBED)
			ST_TRY(real(b, "scale", 1, &n.scale));
		else
			ST_TRY(count(b, "offset", 0, &n.offset));
		break;
	case ST_OPERATION_linear:
		ST_TRY(linear(b, &n, in[0], &parts));
		break;
	case ST_OPERATION_bias:
		ST_TRY(bias(b, &n, in[0], &parts, &none));
		break;
	case ST_OPERATION_scale:
		n.op = ST_OP_SCALE;
		n.width = in[0];
		if (b->s->n_w && weight(b, 0)) /* without it, as `by` says */
			ST_TRY(need_vector(b, 0, &n, 1));
		ST_TRY(real(b, "by", 1, &n.scale));
		ST_TRY(real(b, "plus", 0, &n.plus));
		break;
	case ST_OPERATION_slice:
		n.op = ST_OP_SLICE;
		ST_TRY(count(b, "from", 0, &n.offset));
		ST_TRY(count(b, "count", in[0], &n.width));
		if ((uint64_t)n.offset + n.width > in[0])
			return FAIL(b, "%u features from %u on of %u", n.width, n.offset, in[0]);
		break;
	case ST_OPERATION_times:
		n.op = ST_OP_TIMES;
		n.width = in[0];
		if (st_family_param(b->s, "heads"))
			ST_TRY(count(b, "heads", 1, &n.heads));
		if (n.heads && in[0] % n.heads)
			return FAIL(b, "%u features are not %u heads", in[0], n.heads);
		ST_TRY(need_vector(b, 0, &n, n.heads ? n.heads : in[0]));
		break;
	case ST_OPERATION_linear_blocks:
		n.op = ST_OP_LINEAR_BLOCKS;
		n.width = in[0];
		ST_TRY(need_weight(b, 0, &n));
		n.head_dim = (uint32_t)st_tensor_cols(n.w[0]->tensor);
		if (!is_plain(n.w[0]) || in[0] % n.head_dim || n.w[0]->tensor->n_elems != (uint64_t)in[0] * n.head_dim)
			return FAIL(b, "blocks of %u do not fit %u features", n.head_dim, in[0]);
		break;
	case ST_OPERATION_softplus:
		n.op = ST_OP_SOFTPLUS;
		n.width = in[0];
		break;
	case ST_OPERATION_l2norm:
		n.op = ST_OP_L2NORM;
		n.width = in[0];
		ST_TRY(real(b, "eps", 0, &n.eps));
		ST_TRY(count(b, "heads", 1, &n.heads));
		if (n.heads == 0 || in[0] % n.heads || !(n.eps >= 0))
			return FAIL(b, "%u features are not %u heads", in[0], n.heads);
		n.head_dim = in[0] / n.heads;
		break;
	case ST_OPERATION_conv:
		ST_TRY(conv(b, &n, in[0], &parts));
		break;
	case ST_OPERATION_delta_rule:
		ST_TRY(delta_rule(b, &n, in));
		break;
	case ST_OPERATION_linear_attention:
		ST_TRY(linear_attention(b, &n, in));
		break;
	case ST_OPERATION_scan:
		ST_TRY(scan(b, &n, in));
		break;
	case ST_OPERATION_token_shift:
	case ST_OPERATION_lru:
	case ST_OPERATION_wkv:
		ST_TRY(recurrence(b, &n, in));
		break;
	case ST_OPERATION_scale_by_position:
		n.op = ST_OP_SCALE_BY_POSITION;
		n.width = in[0];
		ST_TRY(real(b, "by", 0, &n.scale));
		ST_TRY(count(b, "every", 0, &n.offset));
		if (n.offset == 0)
			return FAIL(b, "every 0 positions");
		break;
	case ST_OPERATION_concat:
		ST_TRY(concat(b, &n, in));
		break;
	case ST_OPERATION_xielu:
		ST_TRY(xielu(b, &n, in[0]));
		break;
	case ST_OPERATION_near_shares:
		n.op = ST_OP_NEAR_SHARES;
		n.width = in[1];
		ST_TRY(real(b, "jitter", 0, &n.jitter));
		if (!names_features(b, &n, in[0]))
			return FAIL(b, "the indices are not those of %u features", in[0]);
		break;
	case ST_OPERATION_bias_at:
		ST_TRY(bias_at(b, &n, in));
		break;
	case ST_OPERATION_sum_of:
		n.op = ST_OP_WEIGHTED_SUM;
		ST_TRY(count(b, "count", 0, &n.choices));
		if (n.choices == 0 || in[0] % n.choices || !is_whole(b, &n, in[0]))
			return FAIL(b, "%u features are not %u parts", in[0], n.choices);
		n.width = in[0] / n.choices;
		break;
	case ST_OPERATION_spread:
		n.op = ST_OP_SPREAD;
		n.choices = in[1];
		if ((uint64_t)in[0] * in[1] > MAX_WIDTH)
			return FAIL(b, "%u times %u features, more than %u", in[0], in[1], MAX_WIDTH);
		n.width = in[0] * in[1];
		break;
	case ST_OPERATION_rmsnorm:
	case ST_OPERATION_layernorm:
		ST_TRY(norm(b, &n, in[0]));
		break;
	case ST_OPERATION_rope:
		ST_TRY(rope(b, &n, in[0]));
		break;
	case ST_OPERATION_scores:
	case ST_OPERATION_mix:
		ST_TRY(attention(b, &n, in));
		break;
	case ST_OPERATION_softmax: {
		const struct st_node *scores = &b->g->nodes[n.in[0]];
		if (scores->op != ST_OP_SCORES)
			return FAIL(b, "soft-max of something that is no scores");
		n.op = ST_OP_SOFTMAX;
		n.width = n.heads = scores->heads;
		n.kv_heads = scores->kv_heads;
		n.head_dim = scores->head_dim;
		n.window = scores->window;
		n.chunk = scores->chunk;
		if (b->s->n_w && weight(b, 0)) /* without them nothing is added */
			ST_TRY(need_vector(b, 0, &n, n.heads));
		break;
	}
	case ST_OPERATION_top:
		ST_TRY(top(b, &n, in[0]));
		break;
	case ST_OPERATION_chosen:
		ST_TRY(chosen(b, &n, in));
		break;
	case ST_OPERATION_softmax_all:
		n.op = ST_OP_SOFTMAX_ALL;
		n.width = in[0];
		break;
	case ST_OPERATION_clamp:
		n.op = ST_OP_CLAMP;
		n.width = in[0];
		ST_TRY(real(b, "limit", 0, &n.high));
		if (!(n.high >= 0))
			return FAIL(b, "a limit of %g", n.high);
		ST_TRY(flag(b, "above", &above));
		none = n.high == 0 && is_whole(b, &n, in[0]);
		if (n.high == 0) /* as it is, where a part of a stage makes a node of its own */
			n.high = INFINITY;
		n.low = above ? -INFINITY : -n.high;
		if (st_family_param(b->s, "low") || st_family_param(b->s, "high")) {
			ST_TRY(real(b, "low", -DBL_MAX, &n.low));
			ST_TRY(real(b, "high", DBL_MAX, &n.high));
			n.low = n.low < -FLT_MAX ? -INFINITY : n.low;
			n.high = n.high > FLT_MAX ? INFINITY : n.high;
			if (!(n.low <= n.high))
				return FAIL(b, "nothing lies between %g and %g", n.low, n.high);
			none = false;
		}
		parts = b->parts[n.in[0]];
		if (none)
			b->node[b->s->name] = n.in[0];
		break;
	case ST_OPERATION_softmax_of:
		n.op = ST_OP_SOFTMAX_OF;
		n.width = in[1];
		if (b->g->nodes[n.in[1]].op != ST_OP_TOP || b->g->nodes[n.in[1]].in[0] != n.in[0])
			return FAIL(b, "the indices are not those of the largest of the same stage");
		break;
	case ST_OPERATION_linear_at:
		ST_TRY(experts(b, &n, in));
		break;
	case ST_OPERATION_weighted_sum:
		n.op = ST_OP_WEIGHTED_SUM;
		n.choices = in[1];
		n.width = in[0] / in[1];
		if (in[0] % in[1] || !is_whole(b, &n, in[0]))
			return FAIL(b, "%u features are not %u parts", in[0], in[1]);
		break;
	default:
		ST_TRY(pointwise(b, &n, in, &parts));
	}
	return none ? ST_OK : add(b, n, &parts);
}

/* ---- the whole ---- */

static enum st_status stands(struct builder *b, bool *out)
{
	*out = true;
	for (uint32_t i = 0; i < b->s->n_when && *out; i++) {
		ST_TRY(st_expression_holds(b->s->when[i], &b->at, out, b->err));
		*out = *out != b->s->not_when[i];
	}
	return ST_OK;
}

static enum st_status scope(struct builder *b, enum st_scope which, int32_t layer)
{
	const struct st_family *f = b->d->family;
	b->layer = layer;
	b->at = st_described_at(b->d, layer);
	/* A layer's names mean nothing in the next. */
	for (uint32_t i = 0; i < f->n_stages; i++)
		if (f->stages[i].scope == ST_SCOPE_LAYER)
			b->node[f->stages[i].name] = ST_NO_NODE;
	for (uint32_t i = 0; i < f->n_stages; i++) {
		bool here;
		b->s = &f->stages[i];
		if (b->s->scope != which)
			continue;
		ST_TRY(stands(b, &here));
		if (here)
			ST_TRY(build(b));
	}
	return st_check_cancel(b->err);
}

static enum st_status layers(struct builder *b)
{
	struct st_graph *g = b->g;
	uint32_t *x = &b->node[0];
	*x = b->node[b->d->family->stream_from];
	for (uint32_t l = 0; l < b->d->n_layers; l++) {
		uint32_t width = g->nodes[*x].width, before = g->n_nodes;
		ST_TRY(scope(b, ST_SCOPE_LAYER, (int32_t)l));
		if (g->n_nodes == before)
			return st_described_fail(b->d, 1, b->err, "no stage stands in layer %u", l);
		struct st_node *last = &g->nodes[g->n_nodes - 1];
		if (last->width != width)
			return st_described_fail(b->d, 1, b->err, "layer %u leaves %u features in a stream of %u", l,
			                         last->width, width);
		/* The stream alternates between two places, so that every node of a layer can be evaluated again while that
		 * layer is the current one. */
		if (l % 2 == 1)
			last->slot += b->d->family->n_stage_names;
		*x = g->n_nodes - 1;
	}
	return ST_OK;
}

/* Values in one place never live together; those of all places do. */
static enum st_status check_memory(struct builder *b)
{
	const struct st_graph *g = b->g;
	uint64_t features = 0, state = 0;
	uint32_t *width = st_alloc_zeroed(g->n_slots, sizeof *width), widest = 0, largest = 0;
	struct st_error *err = b->err;
	ST_NEED(width);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		if (n->width > width[n->slot]) {
			features += n->width - width[n->slot];
			width[n->slot] = n->width;
		}
		state += n->state;
		widest = n->width > g->nodes[widest].width ? i : widest;
		largest = n->state > g->nodes[largest].state ? i : largest;
	}
	free(width);
	if (features <= MAX_FEATURES && state <= MAX_STATE)
		return ST_OK;
	bool wide = features > MAX_FEATURES;
	const struct st_node *n = &g->nodes[wide ? widest : largest];
	uint32_t name = n->slot % b->d->family->n_stage_names, line = 1;
	for (uint32_t i = 0; i < b->d->family->n_stages; i++)
		if (b->d->family->stages[i].name == name)
			line = b->d->family->stages[i].line;
	return st_described_fail(b->d, line, err,
	                         wide ? "%s: %llu features make more than %llu with those of all other stages"
	                              : "%s: a state of %llu numbers makes more than %llu with all others",
	                         b->d->family->stage_names[name], (unsigned long long)(wide ? n->width : n->state),
	                         (unsigned long long)(wide ? MAX_FEATURES : MAX_STATE));
}

enum st_status st_described_graph(struct st_described *d, struct st_error *err)
{
	const struct st_family *f = d->family;
	struct builder b = { .d = d, .g = &d->graph, .err = err };
	uint64_t room = (uint64_t)f->n_stages * ((uint64_t)d->n_layers + 1);
	if (room > MAX_NODES)
		return st_described_fail(d, f->stages[f->n_stages - 1].line, err,
		                         "%u layers of %u stages are more than %u", d->n_layers, f->n_stages,
		                         MAX_NODES);
	b.room = (uint32_t)room;
	d->graph.nodes = st_arena_alloc(&d->arena, room, sizeof *d->graph.nodes);
	b.parts = st_alloc_array(room, sizeof *b.parts);
	b.node = st_alloc_array(f->n_stage_names, sizeof *b.node);
	enum st_status st = ST_OK;
	if (!d->graph.nodes || !b.parts || !b.node) {
		st = st_fail(err, ST_ERR_NOMEM, "no memory for the graph");
		goto out;
	}
	for (uint32_t i = 0; i < f->n_stage_names; i++)
		b.node[i] = ST_NO_NODE;
	d->graph.n_layers = d->n_layers;
	d->graph.vocab = d->vocab;
	d->graph.n_slots = 2 * f->n_stage_names;
	ST_TRY_OUT(scope(&b, ST_SCOPE_BEFORE, -1));
	ST_TRY_OUT(layers(&b));
	ST_TRY_OUT(scope(&b, ST_SCOPE_AFTER, -1));
	ST_TRY_OUT(check_memory(&b));
	if (d->graph.nodes[d->graph.n_nodes - 1].stage != ST_STAGE_LM_HEAD)
		st = st_described_fail(d, f->stages[f->n_stages - 1].line, err,
		                       "\"%s\" is the last stage: that of the logits is called lm_head",
		                       st_stage_name(d->graph.nodes[d->graph.n_nodes - 1].stage));
	else if (d->graph.nodes[d->graph.n_nodes - 1].width != d->vocab)
		st = st_described_fail(d, f->stages[f->n_stages - 1].line, err, "%u logits for a vocabulary of %u",
		                       d->graph.nodes[d->graph.n_nodes - 1].width, d->vocab);
out:
	free(b.parts);
	free(b.node);
	return st;
}
