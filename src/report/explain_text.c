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
	const double seen[] = { s->visible.gain, s->visible.row, s->visible.angle };
	for (size_t i = 0; i < sizeof seen / sizeof *seen; i++)
		if (isnan(seen[i]))
			st_table_cell(table, ST_STYLE_DIM, "");
		else
			st_table_short(table, seen[i]);
	st_table_cell(table, style_of(s->status), st_stage_status_name(s->status));
	st_table_cell(table, ST_STYLE_DIM, s->arithmetic ? s->arithmetic : "");
}

static void table_head(struct st_table *t)
{
	static const char *const names[] = { "stage", "rel", "floor", "ratio", "gain", "row", "angle", "status", "arithmetic" };
	st_table_init(t, "lrrrrrrll");
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

/* A fault by the power of ten of its ratio to the floor: 1 up to ten times, 2 up to a hundred. */
static const char *symbol(const struct st_explained_stage *u)
{
	static const char *const powers[] = { "1", "2", "3", "4", "5", "6", "7", "8", "9" };
	enum st_stage_status s = u->status;
	double power = u->ratio > 1 ? floor(log10(u->ratio)) : 0;
	return s == ST_STATUS_FAULT     ? isfinite(power) ? powers[(size_t)fmin(power, 8)] : "X"
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
			st_text_printf(t, "%s%s%s", st_style_on(style, page->colour), symbol(u),
			               st_style_off(style, page->colour));
		}
		st_text_puts(t, "\n");
	}
	static const char legend[] = "a column a layer, then steps: = equal, . rounding, ~ noise, ? inherited,\n"
				     "1-9 fault of so many digits above the floor, X not finite\n";
	st_text_wrap(t, legend, sizeof legend - 1, "", page->wrap);
}

/* ---- what accounts for it, and what would have been seen ---- */

#define MAX_KINDS 32

/* One line: the arithmetics that account for the stages, the most frequent one first. */
static void arithmetics(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	const char *names[MAX_KINDS];
	size_t counts[MAX_KINDS], n = 0;
	for (size_t i = 0; i < x->n_stages; i++) {
		const char *name = x->stages[i].arithmetic;
		size_t k = 0;
		if (!name)
			continue;
		while (k < n && strcmp(names[k], name) != 0)
			k++;
		if (k == n && n < MAX_KINDS) {
			names[n] = name;
			counts[n++] = 0;
		}
		if (k < n)
			counts[k]++;
	}
	struct st_text line = { 0 };
	st_text_puts(&line, n ? "as expected from " : "no arithmetic accounts for any value");
	for (size_t left = n; left > 0; left--) {
		size_t most = 0;
		for (size_t k = 1; k < n; k++)
			most = counts[k] > counts[most] ? k : most;
		st_text_printf(&line, "%s%s (%zu value%s)", left == n ? "" : ", ", names[most], counts[most],
		               counts[most] == 1 ? "" : "s");
		counts[most] = 0;
	}
	st_text_puts(&line, "\n");
	if (line.s)
		st_text_wrap(t, line.s, line.len, "    ", page->wrap);
	st_text_release(&line);
}

/* A part of a number: "2.1e-06", "0.4 %". */
static void part(struct st_text *t, double v)
{
	st_text_printf(t, v >= 1e-4 ? "%.2g %%" : "%.1e", v >= 1e-4 ? 100 * v : v);
}

/* What "no fault" excludes: the least mistake that each sound stage would have shown, in the stage that shows it least. */
static void excludes(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	static const char *const names[] = { "a gain", "an error in one row", "an angle (rad)" };
	struct st_text line = { 0 };
	for (size_t k = 0; k < 3; k++) {
		const struct st_explained_stage *worst = NULL;
		double most = 0;
		for (size_t i = 0; i < x->n_stages; i++) {
			const struct st_visible *v = &x->stages[i].visible;
			double seen = k == 0 ? v->gain : k == 1 ? v->row : v->angle;
			if (seen > most) {
				most = seen;
				worst = &x->stages[i];
			}
		}
		if (!worst)
			continue;
		st_text_printf(&line, "%s%s of ", line.len ? "; " : "would have been seen in every sound stage: ", names[k]);
		if (k < 2)
			part(&line, most);
		else
			st_text_printf(&line, "%.1e", most);
		st_text_puts(&line, " or more (least in ");
		place(&line, worst->stage, worst->layer, worst->step);
		st_text_puts(&line, ")");
	}
	if (line.len)
		st_text_puts(&line, "; what is smaller cannot be decided\n");
	if (line.s)
		st_text_wrap(t, line.s, line.len, "    ", page->wrap);
	st_text_release(&line);
}

/* A best token that rounding decides: said where it is another one than the logits' inputs give. */
static void top1(const struct st_explain *x, const struct st_page *page, struct st_text *t)
{
	struct st_text line = { 0 };
	if (!x->has_top1 || x->top1 == x->top1_exact)
		return;
	st_text_printf(&line,
	               "best next token %u; given the same inputs exactly it is %u, which is %.3g ahead of the next there\n",
	               (unsigned)x->top1, (unsigned)x->top1_exact, x->top1_gap);
	if (line.s)
		st_text_wrap(t, line.s, line.len, "    ", page->wrap);
	st_text_release(&line);
}

/* ---- a second trace ---- */

static void engine(struct st_text *t, const struct st_provenance *p)
{
	const char *const said[] = { p->engine, p->backend, p->mode };
	bool any = false;
	for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
		if (!said[i][0])
			continue;
		st_text_puts(t, any ? ", " : "");
		safe(t, said[i]);
		any = true;
	}
	if (!any)
		st_text_puts(t, "an engine that does not say its name");
}

static void second(const struct st_explain *x, const char *what, const struct st_beside *b, const struct st_page *page,
                   struct st_text *t)
{
	const struct st_explain *y = b->judged;
	bool fault = y->verdict == ST_VERDICT_FAULT;
	enum st_style style = fault ? ST_STYLE_BAD : ST_STYLE_GOOD;
	st_text_printf(t, "\n%s   ", what);
	safe(t, y->trace_path);
	st_text_puts(t, "   ");
	engine(t, &y->trace);
	st_text_puts(t, "\n");
	if (!b->same_tokens) {
		st_text_printf(t, "its tokens differ first at %zu: the two are not compared\n", b->at);
		return;
	}
	st_text_printf(t, "by itself %s%s%s", st_style_on(style, page->colour), st_verdict_name(y->verdict),
	               st_style_off(style, page->colour));
	if (fault && y->n_findings && y->findings[0].stage != SIZE_MAX) {
		const struct st_explained_stage *s = &y->stages[y->findings[0].stage];
		st_text_puts(t, ": first at ");
		place(t, s->stage, s->layer, s->step);
	}
	st_text_puts(t, "\n");
	findings(y, page, t);
	struct st_text line = { 0 };
	st_text_printf(&line, "distance to exact, given own inputs, (root mean square of %zu values): the trace %.2g, this one %.2g; ",
	               b->compared, b->rms_here, b->rms_there);
	st_text_printf(&line, "the trace is nearer in %zu, this one in %zu", b->nearer_here, b->nearer_there);
	double by = b->rms_here > 0 ? b->rms_there / b->rms_here : b->rms_there > 0 ? INFINITY : 1;
	if (by > 2 || by < 0.5)
		st_text_printf(&line, ": %s is the less exact side", by > 2 ? "this one" : "the trace");
	if (b->only_here || b->only_there)
		st_text_printf(&line, "; measured on one side alone, and not compared: %zu here, %zu there", b->only_here,
		               b->only_there);
	st_text_puts(&line, "\n");
	if (b->parted && b->after)
		st_text_printf(&line, "the greedy tokens part after step %u: ", (unsigned)b->after);
	else if (b->parted)
		st_text_puts(&line, "the greedy tokens part after the prompt: ");
	if (b->parted)
		st_text_printf(&line, "%u here, %.3g ahead of %u, which is rank %zu; %u there, %.3g ahead; what follows is not "
		               "compared\n", (unsigned)b->here, b->gap_here, (unsigned)b->there, b->rank_here,
		               (unsigned)b->there, b->gap_there);
	else if (b->has_top1)
		st_text_printf(&line, "best next token: %u here, %u there\n", (unsigned)x->top1, (unsigned)y->top1);
	if (b->equal + b->differ) {
		st_text_printf(&line, "bit for bit: %zu values equal, %zu not", b->equal, b->differ);
		if (b->first != SIZE_MAX) {
			st_text_printf(&line, ", by %.2g first at ", b->rel);
			place(&line, x->stages[b->first].stage, x->stages[b->first].layer, x->stages[b->first].step);
		}
		if (b->first != SIZE_MAX && !b->same_path) {
			st_text_puts(&line, "; they did not take the same path: the trace says ");
			engine(&line, &x->trace);
			st_text_puts(&line, ", this one ");
			engine(&line, &y->trace);
		}
		st_text_puts(&line, "\n");
	}
	if (line.s)
		st_text_wrap(t, line.s, line.len, "    ", page->wrap);
	st_text_release(&line);
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
	if (x->first.side == 'b') {
		st_text_puts(t, ": in the second trace");
	} else if (fault && x->n_findings && x->findings[0].stage != SIZE_MAX) {
		st_text_puts(t, ": first at ");
		const struct st_explained_stage *s = &x->stages[x->findings[0].stage];
		place(t, s->stage, s->layer, s->step);
	}
	st_text_puts(t, "\n");
	findings(x, page, t);
	if (x->n_stages)
		arithmetics(x, page, t);
	excludes(x, page, t);
	top1(x, page, t);
	if (x->reference)
		second(x, "reference", x->reference, page, t);
	if (x->again)
		second(x, "again", x->again, page, t);
	st_text_puts(t, "\n");
	if (x->first.side == 'b') { /* the second trace alone is at fault: its stages are what one wants to see */
		st_text_puts(t, "the stages of the second trace:\n");
		x = x->again->judged;
	}
	if ((verbose || fault) && x->n_stages) {
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
