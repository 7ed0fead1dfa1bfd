/* say.c - a finding in words. */
#include "explain/explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(char *buf, size_t n, const char *fmt, ...) ST_PRINTF(3, 4);
static void add(char *buf, size_t n, const char *fmt, ...)
{
	size_t at = strlen(buf);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(buf + at, n - at, fmt, ap);
	va_end(ap);
}

static void add_place(char *buf, size_t n, enum st_stage stage, int32_t layer)
{
	size_t at = strlen(buf);
	st_stage_place(stage, layer, buf + at, n - at);
}

/* "theta: value 10000, expected 1e+06" */
static void add_params(char *buf, size_t n, const struct st_cause *c)
{
	for (size_t i = 0; i < c->n_params; i++) {
		const struct st_param *p = &c->params[i];
		add(buf, n, "%s%s ", i ? ", " : " (", st_param_info(p->name)->key);
		if (st_param_is_text(p->name))
			add(buf, n, "%s", p->text);
		else
			add(buf, n, "%.7g", p->number);
	}
	if (c->n_params)
		add(buf, n, ")");
}

void st_explain_say(const struct st_explainer *x, struct st_finding *f)
{
	const struct st_explained_stage of_trace = { .stage = f->at, .layer = f->layer };
	const struct st_explained_stage *s = f->stage == SIZE_MAX ? &of_trace : &x->r.stages[f->stage];
	const struct st_cause *c = &f->cause;
	f->text[0] = f->recommendation[0] = 0;
	add_place(f->text, sizeof f->text, f->at, f->layer);
	if (s->step)
		add(f->text, sizeof f->text, " in decode step %u", s->step);
	if (c->code == ST_CAUSE_UNEXPLAINED) {
		add(f->text, sizeof f->text,
		    " differs beyond what arithmetic may do, and no tested cause explains it: %s", f->structure);
		return;
	}
	add(f->text, sizeof f->text, ": %s", st_cause_info(c->code)->meaning);
	add_params(f->text, sizeof f->text, c);
	if (f->stage == SIZE_MAX || c->code == ST_CAUSE_NUMERIC_NONDETERMINISTIC || c->code == ST_CAUSE_NUMERIC_LOW_PRECISION)
		add(f->text, sizeof f->text, ": %s", f->structure);
	for (size_t i = 0; i < f->n_equivalent; i++)
		add(f->text, sizeof f->text, "%s%s", i ? ", " : "; these values cannot tell it from ",
		    st_cause_name(f->equivalent[i]));
	if (f->engine_right)
		add(f->text, sizeof f->text,
		    "; the engine went on with the right value, so that the capture alone is wrong");
	if (f->at != s->stage || f->layer != s->layer) {
		add(f->text, sizeof f->text, "; seen at ");
		add_place(f->text, sizeof f->text, s->stage, s->layer);
	}
	(void)st_cause_advise(c->code, NULL, f->recommendation, sizeof f->recommendation);
}
