/* stages.c - a line of the section [graph]. */
#include "family/parser.h"

#include "base/error.h"

#include <string.h>

#define MAX_ARGS 12u
#define MAX_PARAMS 16u

static const struct st_operation_info operations[] = {
#define RANGE(a, b) a, b
#define LIST(...) __VA_ARGS__
#define OPERATION(name, stages, weights, params, meaning) \
	[ST_OPERATION_##name] = { #name, stages, weights, (const char *const[]){ params, NULL }, meaning },
#include "family/operations.def"
};

const struct st_operation_info *st_operation_info(enum st_operation op) { return &operations[op]; }

static bool is(const char *s, size_t n, const char *word) { return strlen(word) == n && memcmp(s, word, n) == 0; }

static uint32_t stage_index(const struct st_family *f, const char *s, size_t n)
{
	for (uint32_t i = 0; i < f->n_stage_names; i++)
		if (is(s, n, f->stage_names[i]))
			return i;
	return ST_FAMILY_NONE;
}

static uint32_t weight_index(const struct st_family *f, const char *s, size_t n)
{
	for (uint32_t i = 0; i < f->n_weights; i++)
		if (is(s, n, f->weights[i].name))
			return i;
	return ST_FAMILY_NONE;
}

static enum st_status stage_arg(struct st_line *l, const struct st_family *f, const struct st_graph_lines *g,
                                struct st_family_arg *a, struct st_error *err)
{
	size_t n;
	const char *s = st_line_name(l, &n);
	if (!s)
		return st_line_fail(l, err, "\"%s\": expected a stage", st_line_rest(l).text);
	a->stage = stage_index(f, s, n);
	if (a->stage == ST_FAMILY_NONE || !g->stands[a->stage])
		return st_line_fail(l, err, "\"%.*s\" is no stage above this line", (int)(n < 60 ? n : 60), s);
	if (l->at == l->end || *l->at != '.')
		return ST_OK;
	l->at++;
	s = st_line_name(l, &n);
	a->part = s ? weight_index(f, s, n) : ST_FAMILY_NONE;
	if (a->part == ST_FAMILY_NONE)
		return st_line_fail(l, err,
		                    "\"%.*s\" is no weight: a part of a stage has the name of the weight that made it",
		                    s ? (int)(n < 60 ? n : 60) : 0, s ? s : "");
	return ST_OK;
}

static enum st_status weight_arg(struct st_line *l, const struct st_family *f, struct st_family_arg *a,
                                 struct st_error *err)
{
	uint32_t *slot = &a->weight;
	for (int i = 0; i < 2; i++) {
		size_t n;
		const char *s = st_line_name(l, &n);
		*slot = s ? weight_index(f, s, n) : ST_FAMILY_NONE;
		if (*slot == ST_FAMILY_NONE)
			return st_line_fail(l, err, "\"%.*s\" is no weight", s ? (int)(n < 60 ? n : 60) : 0,
			                    s ? s : "");
		if (i == 1 || !st_line_word(l, "or"))
			break;
		slot = &a->other;
	}
	return ST_OK;
}

/* key=EXPR, where that comes next. */
static bool comes_param(const struct st_line *l)
{
	struct st_line ahead = *l;
	size_t n;
	return st_line_name(&ahead, &n) && st_line_take(&ahead, "=") && (ahead.at == ahead.end || *ahead.at != '=');
}

static enum st_status param(struct st_line *l, const struct st_family *f, const struct st_operation_info *op,
                            struct st_family_param *out, struct st_error *err)
{
	size_t n;
	const char *s = st_line_name(l, &n);
	out->name = NULL;
	for (size_t i = 0; op->params[i]; i++)
		if (is(s, n, op->params[i]))
			out->name = op->params[i];
	if (!out->name)
		return st_line_fail(l, err, "%s has no parameter \"%.*s\"", op->name, (int)(n < 60 ? n : 60), s);
	(void)st_line_take(l, "=");
	return st_expression_parse(l, f, false, &out->value, err);
}

/* OPERATION(STAGES, WEIGHTS, PARAMETERS) */
static enum st_status arguments(struct st_line *l, const struct st_family *f, const struct st_graph_lines *g,
                                struct st_family_stage *out, struct st_error *err)
{
	const struct st_operation_info *op = st_operation_info(out->op);
	struct st_family_arg args[MAX_ARGS];
	struct st_family_param params[MAX_PARAMS];
	for (bool first = true; !st_line_take(l, ")"); first = false) {
		if (!first && !st_line_take(l, ","))
			return st_line_fail(l, err, "\"%s\": expected \",\" or \")\"", st_line_rest(l).text);
		if (comes_param(l)) {
			if (out->n_params == MAX_PARAMS)
				return st_line_fail(l, err, "more than %u parameters", MAX_PARAMS);
			struct st_family_param *p = &params[out->n_params];
			ST_TRY(param(l, f, op, p, err));
			for (uint32_t i = 0; i < out->n_params; i++)
				if (params[i].name == p->name)
					return st_line_fail(l, err, "a second \"%s\"", p->name);
			out->n_params++;
			continue;
		}
		uint32_t n = out->n_in + out->n_w;
		if (n == MAX_ARGS || n == op->max_in + op->max_w)
			return st_line_fail(l, err, "\"%s\" is one argument more than %s has", st_line_rest(l).text,
			                    op->name);
		args[n] = (struct st_family_arg){ ST_FAMILY_NONE, ST_FAMILY_NONE, ST_FAMILY_NONE, ST_FAMILY_NONE };
		bool stage = out->n_in < op->max_in;
		ST_TRY(stage ? stage_arg(l, f, g, &args[n], err) : weight_arg(l, f, &args[n], err));
		*(stage ? &out->n_in : &out->n_w) += 1;
	}
	if (out->n_in < op->min_in || out->n_w < op->min_w)
		return st_line_fail(l, err, "%s needs %u stage%s and %u weight%s", op->name, op->min_in,
		                    op->min_in == 1 ? "" : "s", op->min_w, op->min_w == 1 ? "" : "s");
	struct st_family_arg *a = st_arena_alloc(l->arena, out->n_in + out->n_w, sizeof *a);
	struct st_family_param *p = st_arena_alloc(l->arena, out->n_params, sizeof *p);
	ST_NEED(a && p);
	memcpy(a, args, (out->n_in + out->n_w) * sizeof *a);
	memcpy(p, params, out->n_params * sizeof *p);
	out->in = a;
	out->w = a + out->n_in;
	out->params = p;
	return ST_OK;
}

/* layer x = STAGE: the stages that follow are each layer's. */
static enum st_status begin_layers(struct st_line *l, struct st_family *f, struct st_graph_lines *g,
                                   struct st_error *err)
{
	struct st_family_arg from = { .part = ST_FAMILY_NONE };
	if (g->scope != ST_SCOPE_BEFORE || g->n_when)
		return st_line_fail(l, err, "layers in a place where they cannot begin");
	if (!st_line_word(l, "x") || !st_line_take(l, "="))
		return st_line_fail(l, err, "\"%s\": expected x = the stage that enters the first layer",
		                    st_line_rest(l).text);
	ST_TRY(stage_arg(l, f, g, &from, err));
	if (from.part != ST_FAMILY_NONE)
		return st_line_fail(l, err, "the stream is a whole stage");
	f->stream_from = from.stage;
	g->scope = ST_SCOPE_LAYER;
	g->stands[0] = true;
	return ST_OK;
}

static enum st_status begin_when(struct st_line *l, struct st_family *f, struct st_graph_lines *g, struct st_error *err)
{
	if (g->n_when == ST_FAMILY_WHEN)
		return st_line_fail(l, err, "conditions nested more than %d deep", ST_FAMILY_WHEN);
	struct st_expression *e = st_arena_alloc(l->arena, 1, sizeof *e);
	ST_NEED(e);
	ST_TRY(st_expression_parse(l, f, false, e, err));
	g->not_when[g->n_when] = false;
	g->when[g->n_when++] = e;
	return ST_OK;
}

static enum st_status end(struct st_line *l, struct st_family *f, struct st_graph_lines *g, struct st_error *err)
{
	if (g->n_when) {
		g->n_when--;
		return ST_OK;
	}
	if (g->scope != ST_SCOPE_LAYER)
		return st_line_fail(l, err, "\"end\" of nothing");
	if (f->n_stages == 0 || f->stages[f->n_stages - 1].scope != ST_SCOPE_LAYER)
		return st_line_fail(l, err, "a layer without stages");
	g->scope = ST_SCOPE_AFTER;
	/* Behind the layers only the stream and what stands before them have a value. */
	for (uint32_t i = 0; i < f->n_stages; i++)
		if (f->stages[i].scope == ST_SCOPE_LAYER)
			g->stands[f->stages[i].name] = false;
	return ST_OK;
}

static bool same_branch(const struct st_family_stage *a, const struct st_graph_lines *g)
{
	for (uint32_t i = 0; i < a->n_when && i < g->n_when; i++)
		if (a->when[i] != g->when[i])
			break;
		else if (a->not_when[i] != g->not_when[i])
			return false; /* the other branch of the same condition */
	return true;
}

static enum st_status stage_name(struct st_line *l, struct st_family *f, const struct st_graph_lines *g, uint32_t *out,
                                 struct st_error *err)
{
	size_t n;
	const char *s = st_line_name(l, &n);
	if (!s)
		return st_line_fail(l, err, "\"%s\": expected a stage, layer, when, otherwise or end",
		                    st_line_rest(l).text);
	*out = stage_index(f, s, n);
	if (*out == 0)
		return st_line_fail(l, err, "\"x\" is the stream; a stage needs another name");
	if (*out != ST_FAMILY_NONE) {
		for (uint32_t i = 0; i < f->n_stages; i++)
			if (f->stages[i].name == *out && same_branch(&f->stages[i], g))
				return st_line_fail(l, err, "a second stage \"%s\"; the first is in line %u",
				                    f->stage_names[*out], f->stages[i].line);
		return ST_OK;
	}
	ST_TRY(st_family_room(l, f->n_stage_names, err));
	*out = f->n_stage_names++;
	return st_line_copy(l, s, n, &f->stage_names[*out], err);
}

enum st_status st_parse_stage(struct st_line *l, struct st_family *f, struct st_graph_lines *g, struct st_error *err)
{
	if (st_line_word(l, "layer"))
		return begin_layers(l, f, g, err);
	if (st_line_word(l, "when"))
		return begin_when(l, f, g, err);
	if (st_line_word(l, "end"))
		return end(l, f, g, err);
	if (st_line_word(l, "otherwise")) {
		if (!g->n_when || g->not_when[g->n_when - 1])
			return st_line_fail(l, err, "\"otherwise\" of nothing");
		g->not_when[g->n_when - 1] = true;
		return ST_OK;
	}
	struct st_family_stage s = { .line = l->number, .scope = g->scope, .n_when = g->n_when };
	memcpy(s.when, g->when, sizeof s.when);
	memcpy(s.not_when, g->not_when, sizeof s.not_when);
	ST_TRY(st_family_room(l, f->n_stages, err));
	ST_TRY(stage_name(l, f, g, &s.name, err));
	if (!st_line_take(l, "="))
		return st_line_fail(l, err, "\"%s\": expected = behind %s", st_line_rest(l).text,
		                    f->stage_names[s.name]);
	size_t n;
	const char *op = st_line_name(l, &n);
	int i = 0;
	while (op && i < ST_OPERATIONS && !is(op, n, operations[i].name))
		i++;
	if (!op || i == ST_OPERATIONS)
		return st_line_fail(l, err, "\"%.*s\" is no operation", op ? (int)(n < 60 ? n : 60) : 0, op ? op : "");
	s.op = (enum st_operation)i;
	if (!st_line_take(l, "("))
		return st_line_fail(l, err, "\"%s\": expected ( behind %s", st_line_rest(l).text, operations[i].name);
	ST_TRY(arguments(l, f, g, &s, err));
	f->stages[f->n_stages++] = s;
	g->stands[s.name] = true;
	return ST_OK;
}
