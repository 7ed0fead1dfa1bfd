#include "graph/stage.h"
#include "report/explain.h"

#include <math.h>
#include <string.h>

static void place(struct st_text *t, enum st_stage s, int32_t layer, uint32_t step)
{
	st_text_puts(t, st_stage_name(s));
	if (layer >= 0)
		st_text_printf(t, " of layer %d", (int)layer);
	if (step)
		st_text_printf(t, " in step %u", (unsigned)step);
}

static void safe(struct st_text *t, const char *s) { st_text_add_safe(t, s, strlen(s)); }

static void heading(const struct st_explain *x, struct st_text *t)
{
	const struct st_provenance *p = &x->trace;
	st_text_puts(t, "trace   ");
	safe(t, x->trace_path);
	if (p->engine[0]) {
		st_text_puts(t, "   ");
		safe(t, p->engine);
		if (p->backend[0]) {
			st_text_puts(t, ", ");
			safe(t, p->backend);
		}
	}
	st_text_printf(t, ", %zu token%s", p->n_tokens, p->n_tokens == 1 ? "" : "s");
	if (p->n_steps)
		st_text_printf(t, " and %zu step%s", p->n_steps, p->n_steps == 1 ? "" : "s");
	st_text_puts(t, "\nmodel   ");
	safe(t, x->model.path);
	st_text_printf(t, "   %s, %s, %u layers\n", x->model.format, x->model.arch, (unsigned)x->model.layers);
}

static enum st_style style_of(enum st_stage_status s)
{
	return s == ST_STATUS_FAULT     ? ST_STYLE_BAD
	     : s == ST_STATUS_NOISE     ? ST_STYLE_PLAIN
	     : s == ST_STATUS_INHERITED ? ST_STYLE_DIM
	                                : ST_STYLE_GOOD;
}

static void row(struct st_table *table, const struct st_explained_stage *s)
{
	struct st_text name = { 0 };
	place(&name, s->stage, s->layer, s->step);
	st_table_cell(table, ST_STYLE_PLAIN, name.s);
	st_text_release(&name);
	st_table_short(table, s->m.rel_l2);
	st_table_short(table, s->floor);
	st_table_short(table, s->ratio);
	st_table_cell(table, style_of(s->status), st_stage_status_name(s->status));
	st_table_cell(table, ST_STYLE_DIM, s->arithmetic ? s->arithmetic : "");
}

static void table_head(struct st_table *t)
{
	static const char *const names[] = { "stage", "rel", "floor", "ratio", "status", "arithmetic" };
	st_table_init(t, "lrrrll");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		st_table_cell(t, ST_STYLE_DIM, names[i]);
}

static void findings(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	for (size_t i = 0; i < x->n_findings; i++) {
		const struct st_finding *f = &x->findings[i];
		struct st_text line = { 0 };
		st_text_printf(&line, "%s%s%s (%s): ", st_style_on(ST_STYLE_BAD, page->colour),
		               st_cause_name(f->cause.code), st_style_off(ST_STYLE_BAD, page->colour),
		               st_confidence_name(f->cause.confidence));
		safe(&line, f->text);
		st_text_puts(&line, "\n");
		if (f->cause.code != ST_CAUSE_UNEXPLAINED && f->stage != SIZE_MAX && isfinite(f->cause.residual_before))
			st_text_printf(&line, "  residual %.3g, under this cause %.3g, floor %.3g\n",
			               f->cause.residual_before, f->cause.residual_after, f->cause.floor);
		for (size_t k = 0; k < f->n_candidates && f->cause.confidence != ST_CONFIRMED; k++)
			st_text_printf(&line, "  nearest: %s leaves %.3g of %.3g\n",
			               st_cause_name(f->candidates[k].code), f->candidates[k].residual_after,
			               f->cause.residual_before);
		if (f->recommendation[0])
			st_text_printf(&line, "  repair: %s\n", f->recommendation);
		if (line.s)
			st_text_wrap(t, line.s, line.len, "    ", page->wrap);
		st_text_release(&line);
	}
	if (x->n_more)
		st_text_printf(t, "%zu more faulty stage%s; --keep-going names their causes\n", x->n_more,
		               x->n_more == 1 ? "" : "s");
}

static const char *symbol(enum st_stage_status s)
{
	return s == ST_STATUS_FAULT     ? "X"
	     : s == ST_STATUS_NOISE     ? "~"
	     : s == ST_STATUS_EXACT     ? "="
	     : s == ST_STATUS_INHERITED ? "?"
	                                : ".";
}

/* A row for each stage, a column for each layer. */
static void strip(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	bool done[ST_MAX_STAGES] = { 0 };
	size_t widest = 0;
	for (size_t i = 0; i < x->n_stages; i++) {
		size_t n = strlen(st_stage_name(x->stages[i].stage));
		widest = n > widest ? n : widest;
	}
	size_t room = page->columns > widest + 12 ? page->columns - widest - 2 : SIZE_MAX;
	for (size_t i = 0; i < x->n_stages; i++) {
		const struct st_explained_stage *s = &x->stages[i];
		if (done[s->stage])
			continue;
		done[s->stage] = true;
		const char *name = st_stage_name(s->stage);
		st_text_printf(t, "%s", name);
		st_text_pad(t, widest + 2 - strlen(name));
		size_t shown = 0;
		for (size_t k = i; k < x->n_stages; k++) {
			const struct st_explained_stage *u = &x->stages[k];
			if (u->stage != s->stage)
				continue;
			if (shown++ == room) {
				st_text_puts(t, "\n");
				st_text_pad(t, widest + 2);
				shown = 1;
			}
			enum st_style style = style_of(u->status);
			st_text_printf(t, "%s%s%s", st_style_on(style, page->colour), symbol(u->status),
			               st_style_off(style, page->colour));
		}
		st_text_puts(t, "\n");
	}
	st_text_puts(t, "a column a layer, then steps: = equal  . rounding  ~ noise  ? inherited  X fault\n");
}

static void coverage(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	struct st_text line = { 0 };
	st_text_printf(&line, "judged: %zu value%s", x->n_stages, x->n_stages == 1 ? "" : "s");
	if (x->n_missing) {
		st_text_puts(&line, "; not in the trace: ");
		for (size_t i = 0; i < x->n_missing; i++)
			st_text_printf(&line, "%s%s", i ? ", " : "", st_stage_name(x->missing[i]));
	}
	if (x->n_unknown) {
		st_text_printf(&line, "; %zu that the model has no stage for: ", x->n_unknown);
		for (size_t i = 0; i < x->n_unknown && i < 6; i++) {
			st_text_puts(&line, i ? ", " : "");
			safe(&line, st_explain_unknown(x, i));
		}
		if (x->n_unknown > 6)
			st_text_puts(&line, ", ...");
	}
	st_text_puts(&line, "\n");
	if (line.s)
		st_text_wrap(t, line.s, line.len, "    ", page->wrap);
	st_text_release(&line);
}

void st_report_explain_text(const struct st_explain *x, bool verbose, const struct st_page *page, struct st_text *t)
{
	heading(x, t);
	bool fault = x->verdict == ST_VERDICT_FAULT, undecided = x->verdict == ST_VERDICT_UNDECIDED;
	enum st_style style = fault ? ST_STYLE_BAD : undecided ? ST_STYLE_WARN : ST_STYLE_GOOD;
	st_text_printf(t, "verdict %s%s%s", st_style_on(style, page->colour), st_verdict_name(x->verdict),
	               st_style_off(style, page->colour));
	if (x->first.found && x->n_findings && x->findings[0].stage != SIZE_MAX) {
		st_text_puts(t, ": first at ");
		const struct st_explained_stage *s = &x->stages[x->findings[0].stage];
		place(t, s->stage, s->layer, s->step);
	}
	st_text_puts(t, "\n");
	findings(x, page, t);
	st_text_puts(t, "\n");
	if (verbose || fault) {
		struct st_table table;
		table_head(&table);
		size_t shown = 0;
		for (size_t i = 0; i < x->n_stages; i++)
			if (verbose || (x->stages[i].status == ST_STATUS_FAULT && shown++ < 12))
				row(&table, &x->stages[i]);
		st_table_render(&table, t, "", page);
		st_table_release(&table);
		st_text_puts(t, "\n");
	}
	strip(x, page, t);
	coverage(x, page, t);
}
