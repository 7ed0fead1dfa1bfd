#include "graph/stage.h"
#include "report/diff.h"

#include "base/error.h"
#include "report/table.h"

#include <math.h>
#include <string.h>

static void number(struct st_text *t, const char *name, double v) { st_text_printf(t, "%s %.6g\n", name, v); }

static void verdict_line(const struct st_diff *d, bool colour, struct st_text *t)
{
	const char *off = st_style_off(ST_STYLE_BAD, colour);
	if (d->only_a || d->only_b)
		st_text_printf(t, "on one side only: %zu in A, %zu in B\n", d->only_a, d->only_b);
	if (d->fault)
		st_text_printf(t, "%sdifferent%s beyond what is expected\n", st_style_on(ST_STYLE_BAD, colour), off);
	else if (d->over_threshold)
		st_text_printf(t, "%sdifferent%s beyond the threshold\n", st_style_on(ST_STYLE_BAD, colour), off);
	else if (d->undecided)
		st_text_printf(t, "%sundecided%s: %s\n", st_style_on(ST_STYLE_WARN, colour), off, d->why);
	else
		st_text_printf(t, "%sthe same%s, or different only as expected%s\n", st_style_on(ST_STYLE_GOOD, colour),
		               off, d->only_a + d->only_b ? ", in what both hold" : "");
}

static void stage_text(const struct st_diff *d, const struct st_page *page, struct st_text *t)
{
	const struct st_stage_diff *s = &d->stage;
	const struct st_metrics *m = &s->m;
	if (s->stage[0] && s->layer >= 0)
		st_text_printf(t, "stage          %s, layer %d\n", s->stage, (int)s->layer);
	else if (s->stage[0])
		st_text_printf(t, "stage          %s, whole model\n", s->stage);
	st_text_printf(t, "elements       %llu\n", (unsigned long long)m->count);
	st_text_printf(t, "max |a-b|      %.6g at %llu", m->max_abs, (unsigned long long)m->max_abs_index);
	if (s->rows > 1)
		st_text_printf(t, " (position %llu, feature %llu)", (unsigned long long)(m->max_abs_index / s->cols),
		               (unsigned long long)(m->max_abs_index % s->cols));
	st_text_puts(t, "\n");
	number(t, "mean |a-b|    ", m->mean_abs);
	number(t, "rms of a-b    ", m->rms);
	number(t, "relative L2   ", m->rel_l2);
	if (isnan(m->cosine))
		st_text_puts(t, "cosine         undefined (a norm is 0)\n");
	else
		st_text_printf(t, "cosine         %.12g\n", m->cosine);
	if (!isnan(m->gain))
		st_text_printf(t, "gain a/b       %.9g\n", m->gain);
	st_text_printf(t, "non-finite     %llu in A, %llu in B, %llu on one side only\n",
	               (unsigned long long)m->nonfinite_a, (unsigned long long)m->nonfinite_b,
	               (unsigned long long)m->nonfinite_apart);
	if (s->n_top) {
		struct st_table table;
		st_table_init(&table, "rrrr");
		st_table_cell(&table, ST_STYLE_DIM, "index");
		st_table_cell(&table, ST_STYLE_DIM, "a");
		st_table_cell(&table, ST_STYLE_DIM, "b");
		st_table_cell(&table, ST_STYLE_DIM, "|a-b|");
		for (size_t i = 0; i < s->n_top; i++) {
			st_table_cellf(&table, ST_STYLE_PLAIN, "%llu", (unsigned long long)s->top[i].index);
			st_table_number(&table, s->top[i].a, 9);
			st_table_number(&table, s->top[i].b, 9);
			st_table_number(&table, s->top[i].abs, 6);
		}
		st_text_puts(t, "largest differences\n");
		st_table_render(&table, t, "  ", page);
		st_table_release(&table);
	}
}

/* The largest differences of one row of a table, below it. */
static enum st_status values(const struct st_tensor *a, const struct st_tensor *b, struct st_text *t,
                             struct st_error *err)
{
	enum { SHOWN = 5 };
	struct st_top_diff top[SHOWN];
	size_t n;
	if (!a || !b || a->n_elems != b->n_elems)
		return ST_OK;
	ST_TRY(st_top_diffs(a, b, SHOWN, top, &n, err));
	st_text_puts(t, "largest differences in ");
	st_text_add_safe(t, a->name, strlen(a->name));
	st_text_puts(t, n ? ":\n" : ": none as stored\n");
	for (size_t i = 0; i < n; i++)
		st_text_printf(t, "  [%llu]  a %.9g  b %.9g  |a-b| %.6g\n", (unsigned long long)top[i].index,
		               (double)top[i].a, (double)top[i].b, top[i].abs);
	return ST_OK;
}

static void head(struct st_table *table, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		st_table_cell(table, ST_STYLE_DIM, names[i]);
}

/* Names that are no stage: never passed over in silence. */
static void others_text(const struct st_diff *d, size_t limit, struct st_text *t)
{
	for (size_t i = 0; i < d->n_tensors && i < limit; i++) {
		const struct st_tensor_diff *x = &d->tensors[i];
		const struct st_tensor *named = x->a ? x->a : x->b;
		st_text_puts(t, "no stage's name: ");
		st_text_add_safe(t, named->name, strlen(named->name));
		if (!x->a || !x->b)
			st_text_printf(t, ", only in %c: not compared\n", x->a ? 'A' : 'B');
		else if (x->shapes_differ)
			st_text_puts(t, ", shapes differ: not compared\n");
		else
			st_text_printf(t, ", rel L2 %.3g, max |a-b| %.3g%s\n", x->m.rel_l2, x->m.max_abs,
			               x->status == ST_DIFF_EXPECTED ? "" : "  <- apart");
	}
	if (d->n_tensors > limit)
		st_text_printf(t, "... %zu more names that are no stage's (--limit)\n", d->n_tensors - limit);
}

static void traces_summary(const struct st_diff *d, struct st_text *t)
{
	for (size_t i = 0; i < d->n_rows; i++) {
		const struct st_trace_row *r = &d->rows[i];
		if (r->positions && (r->positions_a != r->positions || r->positions_b != r->positions)) {
			st_text_printf(t,
			               "positions compared where both have them: %llu of %llu in A and %llu in B "
			               "(%s and what follows)\n",
			               (unsigned long long)r->positions, (unsigned long long)r->positions_a,
			               (unsigned long long)r->positions_b, st_stage_name(r->stage));
			break;
		}
	}
	if (d->first != SIZE_MAX) {
		const struct st_trace_row *r = &d->rows[d->first];
		st_text_printf(t, "first apart: %s", st_stage_name(r->stage));
		if (r->layer >= 0)
			st_text_printf(t, " of layer %d", (int)r->layer);
		st_text_puts(t, "\n");
	}
	for (size_t i = 0; i < d->n_rows; i++)
		if (d->rows[i].stage == ST_STAGE_LM_HEAD && d->rows[i].positions) {
			if (d->rows[i].step)
				st_text_printf(t, "step %u: ", (unsigned)d->rows[i].step);
			st_text_printf(t, "largest logit the same at %llu of %llu positions",
			               (unsigned long long)d->rows[i].top1, (unsigned long long)d->rows[i].positions);
			if (!isnan(d->rows[i].top5))
				st_text_printf(t, ", %.3g %% of the five largest", 100 * d->rows[i].top5);
			st_text_puts(t, "\n");
		}
}

static enum st_status traces_text(const struct st_diff *d, const struct st_report_diff_options *o, struct st_text *t,
                                  struct st_error *err)
{
	static const char *const names[] = { "stage",     "layer", "tokens", "min cosine", "rel L2", "at",
		                             "max |a-b|", "floor", "" };
	struct st_table table;
	st_table_init(&table, "lrrrrrrrl");
	head(&table, names, 9);
	size_t shown = 0, hidden = 0;
	for (size_t i = 0; i < d->n_rows; i++) {
		const struct st_trace_row *r = &d->rows[i];
		if (shown == o->limit && i != d->first) {
			hidden++;
			continue;
		}
		shown += shown < o->limit;
		if (r->step)
			st_table_cellf(&table, ST_STYLE_PLAIN, "step %u %s", (unsigned)r->step,
			               st_stage_name(r->stage));
		else
			st_table_cell(&table, ST_STYLE_PLAIN, st_stage_name(r->stage));
		if (r->layer >= 0)
			st_table_cellf(&table, ST_STYLE_PLAIN, "%d", (int)r->layer);
		else
			st_table_cell(&table, ST_STYLE_PLAIN, "");
		if (!r->positions) {
			for (int k = 0; k < 6; k++)
				st_table_cell(&table, ST_STYLE_PLAIN, "");
			st_table_cell(&table, ST_STYLE_WARN,
			              !r->on_b   ? "only in A"
			              : !r->on_a ? "only in B"
			                         : "not compared");
			continue;
		}
		st_table_cellf(&table, ST_STYLE_PLAIN, "%llu", (unsigned long long)r->positions);
		st_table_number(&table, r->min_cosine, 9);
		st_table_number(&table, r->max_rel_l2, 3);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%llu", (unsigned long long)r->worst_position);
		st_table_number(&table, r->max_abs, 3);
		if (isnan(r->floor))
			st_table_cell(&table, ST_STYLE_DIM, "unknown");
		else
			st_table_number(&table, r->floor, 3);
		if (r->nonfinite_apart)
			st_table_cell(&table, ST_STYLE_BAD, "non-finite on one side");
		else if (i == d->first)
			st_table_cell(&table, r->status == ST_DIFF_FAULT ? ST_STYLE_BAD : ST_STYLE_WARN,
			              r->status == ST_DIFF_FAULT ? "<- first fault" : "<- first apart");
		else
			st_table_cell(&table, ST_STYLE_WARN,
			              r->blank      ? "not finite"
			              : r->status   ? "beyond"
			              : r->rounding ? "as stored in 16 bits"
			                            : "");
	}
	st_table_render(&table, t, "", &o->page);
	st_table_release(&table);
	if (hidden)
		st_text_printf(t, "... %zu more rows (--limit)\n", hidden);
	others_text(d, o->limit, t);
	for (size_t i = 0; o->values && i < d->n_rows && i < o->limit; i++)
		if (d->rows[i].positions && d->rows[i].max_abs > 0)
			ST_TRY(values(d->rows[i].tensor_a, d->rows[i].tensor_b, t, err));
	return ST_OK;
}

static void matched_line(const struct st_diff *d, size_t equal, struct st_text *t)
{
	st_text_printf(t, "%zu tensors matched, %zu equal\n", d->compared, equal);
}

static enum st_status models_text(const struct st_diff *d, const struct st_report_diff_options *o, struct st_text *t,
                                  struct st_error *err)
{
	static const char *const words[] = { "equal", "equal after decoding", "noise", "", "only in A", "only in B" };
	static const char *const names[] = { "tensor", "A", "B", "rel L2", "expected", "gain", "" };
	for (size_t i = 0; i < d->n_config; i++) {
		st_text_printf(t, "config %s: ", d->config[i].key);
		st_text_add_safe(t, d->config[i].a, strlen(d->config[i].a));
		st_text_puts(t, " in A, ");
		st_text_add_safe(t, d->config[i].b, strlen(d->config[i].b));
		st_text_printf(t, " in B%s\n", d->config[i].matters ? " (changes the result)" : "");
	}
	size_t shown = 0, hidden = 0, equal = 0;
	for (size_t i = 0; i < d->n_weights; i++)
		equal += d->weights[i].status <= ST_WEIGHT_EQUAL_DECODED;
	matched_line(d, equal, t);
	struct st_table table;
	st_table_init(&table, "lllrrrl");
	head(&table, names, 7);
	for (size_t i = 0; i < d->n_weights; i++) {
		const struct st_weight_diff *w = &d->weights[i];
		if (w->status <= ST_WEIGHT_EQUAL_DECODED)
			continue;
		if (shown == o->limit && i != d->first) {
			hidden++;
			continue;
		}
		shown += shown < o->limit;
		st_table_cell(&table, ST_STYLE_PLAIN, w->slot->canonical);
		st_table_cell(&table, ST_STYLE_PLAIN, w->a ? st_dtype_info(w->a->tensor->dtype)->name : "-");
		st_table_cell(&table, ST_STYLE_PLAIN, w->b ? st_dtype_info(w->b->tensor->dtype)->name : "-");
		st_table_number(&table, w->rel_l2, 3);
		st_table_number(&table, w->predicted, 3);
		st_table_number(&table, w->gain, 6);
		bool fault = w->status >= ST_WEIGHT_FAULT;
		st_table_cell(&table, fault ? ST_STYLE_BAD : ST_STYLE_PLAIN,
		              fault ? st_cause_name(w->cause.code) : words[w->status]);
	}
	if (shown)
		st_table_render(&table, t, "", &o->page);
	st_table_release(&table);
	if (hidden)
		st_text_printf(t, "... %zu more tensors (--limit)\n", hidden);
	for (size_t i = 0, n = 0; o->values && i < d->n_weights && n < o->limit; i++)
		if (d->weights[i].status > ST_WEIGHT_EQUAL_DECODED && d->weights[i].status < ST_WEIGHT_ONLY_A) {
			ST_TRY(values(d->weights[i].a->tensor, d->weights[i].b->tensor, t, err));
			n++;
		}
	for (int side = 0; side < 2; side++) {
		size_t n = side ? d->n_unused_b : d->n_unused_a;
		for (size_t i = 0; i < n && i < o->limit; i++) {
			const struct st_tensor *x = (side ? d->unused_b : d->unused_a)[i];
			st_text_printf(t, "not used by the model, in %c: ", side ? 'B' : 'A');
			st_text_add_safe(t, x->name, strlen(x->name));
			st_text_puts(t, "\n");
		}
	}
	return ST_OK;
}

static bool tensors_equal(const struct st_tensor_diff *x)
{
	return x->a && x->b && x->status == ST_DIFF_EXPECTED && x->m.max_abs == 0;
}

static enum st_status tensors_text(const struct st_diff *d, const struct st_report_diff_options *o, struct st_text *t,
                                   struct st_error *err)
{
	static const char *const names[] = { "tensor", "A", "B", "rel L2", "expected", "max |a-b|", "" };
	size_t shown = 0, hidden = 0, equal = 0;
	for (size_t i = 0; i < d->n_tensors; i++)
		equal += tensors_equal(&d->tensors[i]);
	matched_line(d, equal, t);
	struct st_table table;
	st_table_init(&table, "lllrrrl");
	head(&table, names, 7);
	for (size_t i = 0; i < d->n_tensors; i++) {
		const struct st_tensor_diff *x = &d->tensors[i];
		if (tensors_equal(x))
			continue;
		if (shown == o->limit && i != d->first) {
			hidden++;
			continue;
		}
		shown += shown < o->limit;
		st_table_cell(&table, ST_STYLE_PLAIN, (x->a ? x->a : x->b)->name);
		st_table_cell(&table, ST_STYLE_PLAIN, x->a ? st_dtype_info(x->a->dtype)->name : "-");
		st_table_cell(&table, ST_STYLE_PLAIN, x->b ? st_dtype_info(x->b->dtype)->name : "-");
		if (x->a && x->b && !x->shapes_differ) {
			st_table_number(&table, x->m.rel_l2, 3);
			st_table_number(&table, x->expected, 3);
			st_table_number(&table, x->m.max_abs, 3);
			st_table_cell(&table, x->status == ST_DIFF_FAULT ? ST_STYLE_BAD : ST_STYLE_WARN,
			              x->status == ST_DIFF_FAULT ? "beyond"
			              : x->status                ? "not finite"
			                                         : "");
		} else {
			st_table_cell(&table, ST_STYLE_PLAIN, "");
			st_table_cell(&table, ST_STYLE_PLAIN, "");
			st_table_cell(&table, ST_STYLE_PLAIN, "");
			st_table_cell(&table, ST_STYLE_WARN,
			              !x->b   ? "only in A"
			              : !x->a ? "only in B"
			                      : "shapes differ");
		}
	}
	if (shown)
		st_table_render(&table, t, "", &o->page);
	st_table_release(&table);
	if (hidden)
		st_text_printf(t, "... %zu more tensors (--limit)\n", hidden);
	for (size_t i = 0, n = 0; o->values && i < d->n_tensors && n < o->limit; i++)
		if (d->tensors[i].m.max_abs > 0) {
			ST_TRY(values(d->tensors[i].a, d->tensors[i].b, t, err));
			n++;
		}
	return ST_OK;
}

/* What is said before the tables, in lines of the terminal's width. */
static void summary(const struct st_diff *d, const struct st_page *page, struct st_text *t)
{
	struct st_text part = { 0 };
	if (d->note[0])
		st_text_printf(&part, "note: %s\n", d->note);
	verdict_line(d, page->colour, &part);
	if (d->kind == ST_DIFF_TRACES)
		traces_summary(d, &part);
	st_text_wrap(t, part.s ? part.s : "", part.len, "  ", page->wrap);
	t->failed |= part.failed;
	st_text_release(&part);
}

enum st_status st_report_diff_text(const struct st_diff *d, const struct st_report_diff_options *o, struct st_text *t,
                                   struct st_error *err)
{
	st_text_puts(t, "A ");
	st_text_add_safe(t, d->path_a, strlen(d->path_a));
	st_text_puts(t, "\nB ");
	st_text_add_safe(t, d->path_b, strlen(d->path_b));
	st_text_puts(t, "\n");
	summary(d, &o->page, t);
	switch (d->kind) {
	case ST_DIFF_STAGES:
		stage_text(d, &o->page, t);
		break;
	case ST_DIFF_TRACES:
		ST_TRY(traces_text(d, o, t, err));
		break;
	case ST_DIFF_MODELS:
		ST_TRY(models_text(d, o, t, err));
		break;
	case ST_DIFF_TENSORS:
		ST_TRY(tensors_text(d, o, t, err));
		break;
	}
	return t->failed ? st_fail(err, ST_ERR_NOMEM, "out of memory") : ST_OK;
}
