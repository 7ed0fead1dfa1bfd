/*
 * rosetta_stages.c - the stages of a comparison, as tables: one line for a layer that has nothing to say, one for each
 * stage of a layer that has.
 */
#include "report/rosetta_parts.h"

#include <math.h>
#include <string.h>

static const struct {
	const char *word, *in_layer; /* of one stage, of a whole layer */
	enum st_style style;
} words[] = {
	[ST_STATUS_EXACT] = { "OK (exact)", "exact", ST_STYLE_GOOD },
	[ST_STATUS_ROUNDING] = { "OK (rounding)", "rounding", ST_STYLE_GOOD },
	[ST_STATUS_NOISE] = { "OK (noise)", "noise", ST_STYLE_GOOD },
	[ST_STATUS_INHERITED] = { "inherited", "inherited", ST_STYLE_DIM },
	[ST_STATUS_FAULT] = { "DIVERGENCE", "DIVERGENCE", ST_STYLE_BAD },
	[ST_STATUS_MISSING] = { "missing", "missing", ST_STYLE_WARN },
	[ST_STATUS_UNDECIDED] = { "UNDECIDED", "UNDECIDED", ST_STYLE_WARN },
	[ST_STATUS_REARRANGED] = { "rearranged", "rearranged", ST_STYLE_DIM },
};

/* Whether the two sides do the same there, so that all of the difference came with the inputs. */
static bool adds_nothing(const struct st_stage_report *p)
{
	return p->kind == ST_FLOOR_ROUNDING && p->local_rel == 0 && p->worst_token_ratio == 0;
}

/* The local error over its floor, at the worst token, which is what a verdict rests on; 0 where the sides do the
 * same. */
static double over_floor(const struct st_stage_report *p) { return adds_nothing(p) ? 0 : p->worst_token_ratio; }

static void times(struct st_text *t, double ratio)
{
	if (ratio < 99.995)
		st_text_printf(t, "%.2f", ratio);
	else
		st_text_short(t, ratio);
}

/* ---- groups: a layer, what stands in front of the layers, what stands behind ---- */

static size_t group_end(const struct st_rosetta *r, size_t first)
{
	size_t end = first + 1;
	while (end < r->n_stages && r->stages[end].layer == r->stages[first].layer)
		end++;
	return end;
}

static bool has_finding(const struct st_rosetta *r, size_t first, size_t end)
{
	for (size_t i = first; i < end; i++) {
		const struct st_stage_report *p = &r->stages[i];
		if (p->status > ST_STATUS_INHERITED || p->over_threshold)
			return true;
		if (r->first.found && r->first.layer == p->layer
		    && strcmp(r->first.stage, st_stage_name(p->stage)) == 0)
			return true;
	}
	return false;
}

/* What stands in front of the layers comes first. */
static void group_name(const struct st_rosetta *r, size_t first, struct st_text *t, const char *layer,
                       const char *other[2])
{
	if (r->stages[first].layer >= 0)
		st_text_printf(t, "%s %d", layer, (int)r->stages[first].layer);
	else
		st_text_puts(t, other[first == 0 ? 0 : 1]);
}

/* ---- lines ---- */

static void folded_line(const struct st_rosetta *r, size_t first, size_t end, struct st_table *table)
{
	const char *others[] = { "embedding", "head" };
	struct st_text t = { 0 };
	enum st_stage_status worst = ST_STATUS_EXACT;
	const struct st_stage_report *largest = &r->stages[first];
	for (size_t i = first; i < end; i++) {
		const struct st_stage_report *p = &r->stages[i];
		worst = p->status > worst ? p->status : worst;
		largest = over_floor(p) > over_floor(largest) ? p : largest;
	}
	group_name(r, first, &t, "layer", others);
	st_table_cell(table, ST_STYLE_PLAIN, t.s);
	st_table_cellf(table, ST_STYLE_PLAIN, "%zu", end - first);
	st_table_cell(table, words[worst].style, words[worst].in_layer);
	st_table_short(table, r->stages[end - 1].total.rel_l2);
	t.len = 0;
	if (over_floor(largest) > 0) {
		times(&t, over_floor(largest));
		st_text_printf(&t, " %s", st_stage_name(largest->stage));
	} else {
		st_text_puts(&t, "-");
	}
	st_table_cell(table, ST_STYLE_PLAIN, t.s);
	table->text.failed |= t.failed;
	st_text_release(&t);
}

static void status_cell(const struct st_stage_report *p, struct st_table *table)
{
	struct st_text t = { 0 };
	st_text_puts(&t, words[p->status].word);
	if (p->total.nonfinite_a || p->total.nonfinite_b)
		st_text_printf(&t, ", not finite: %llu in A, %llu in B", (unsigned long long)p->total.nonfinite_a,
		               (unsigned long long)p->total.nonfinite_b);
	else if (isinf(p->total.rel_l2))
		st_text_puts(&t, ", B is zero everywhere");
	if (p->over_threshold && p->status != ST_STATUS_FAULT)
		st_text_puts(&t, ", DIVERGENCE (threshold)");
	st_table_cell(table, p->over_threshold ? ST_STYLE_BAD : words[p->status].style, t.s);
	table->text.failed |= t.failed;
	st_text_release(&t);
}

static void stage_line(const struct st_stage_report *p, bool verbose, struct st_table *table)
{
	st_table_cell(table, ST_STYLE_PLAIN, st_stage_name(p->stage));
	st_table_short(table, p->total.rel_l2);
	st_table_short(table, p->inherited_rel);
	if (adds_nothing(p)) {
		for (int i = 0; i < (verbose ? 3 : 2); i++)
			st_table_cell(table, ST_STYLE_PLAIN, "-");
	} else {
		st_table_short(table, p->local_rel);
		if (verbose)
			st_table_short(table, p->local_floor);
		struct st_text t = { 0 };
		times(&t, over_floor(p));
		st_table_cell(table, ST_STYLE_PLAIN, t.s);
		table->text.failed |= t.failed;
		st_text_release(&t);
	}
	status_cell(p, table);
	if (!verbose)
		return;
	st_table_short(table, p->total.max_abs);
	st_table_number(table, p->total.gain, 6);
	st_table_number(table, p->total.cosine, 9);
	if (adds_nothing(p))
		st_table_cell(table, ST_STYLE_PLAIN, "-");
	else
		st_table_cellf(table, ST_STYLE_PLAIN, "%llu", (unsigned long long)p->worst_token);
	st_table_cell(table, ST_STYLE_DIM, p->shared ? "shared" : "");
}

static void unfold(const struct st_rosetta *r, size_t first, size_t end, bool verbose, const struct st_page *page,
                   struct st_text *out)
{
	static const char *const brief[] = { "stage", "apart", "inherited", "local", "/floor", "" };
	static const char *const whole[] = { "stage", "apart",    "inherited", "local",  "floor",       "/floor",
		                             "",      "max_diff", "gain",      "cosine", "worst token", "" };
	const char *others[] = { "Embedding", "Head" };
	struct st_table table;
	struct st_text t = { 0 };
	group_name(r, first, &t, "Layer", others);
	st_text_printf(out, ST_ROSETTA_TAG "=== %s ===\n", t.s ? t.s : "");
	out->failed |= t.failed;
	st_text_release(&t);
	st_table_init(&table, verbose ? "lrrrrrlrrrrl" : "lrrrrl");
	for (size_t i = 0; i < table.n_cols; i++)
		st_table_cell(&table, ST_STYLE_DIM, (verbose ? whole : brief)[i]);
	for (size_t i = first; i < end; i++)
		stage_line(&r->stages[i], verbose, &table);
	st_table_render(&table, out, ST_ROSETTA_TAG, page);
	st_table_release(&table);
}

/* ---- the whole ---- */

static void legend(bool folded, struct st_text *t)
{
	st_text_puts(
		t, ST_ROSETTA_TAG
		"apart: |A - B| / |B|, the distance of the two values; local: what of it the stage itself adds, given "
		"the same inputs; inherited: what came with its inputs. /floor: local over what the stored types and "
		"the arithmetic account for, at the worst token; about 1 or less is noise.\n");
	if (folded)
		st_text_puts(t, ST_ROSETTA_TAG
		             "A layer without a finding is one line: apart behind it, and the largest /floor "
		             "of its stages (-v shows every stage).\n");
}

void st_rosetta_stages(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out)
{
	static const char *const heads[] = { "", "stages", "", "apart", "/floor, largest" };
	struct st_text part = { 0 };
	bool any_folded = false, any_apart = false;
	if (!r->n_stages)
		return;
	for (size_t i = 0; i < r->n_stages; i++)
		any_apart |= r->stages[i].status != ST_STATUS_EXACT;
	for (size_t i = 0, end; i < r->n_stages; i = end) {
		end = group_end(r, i);
		any_folded |= !verbose && !has_finding(r, i, end);
	}
	st_text_printf(&part, ST_ROSETTA_TAG "=== Stages ===   %zu compared", r->compared);
	if (r->skipped)
		st_text_printf(&part, ", %zu behind %s", r->skipped,
		               r->parted ? "that, where the forms part, not evaluated"
		                         : "the first fault not evaluated (--keep-going goes on)");
	st_text_puts(&part, "\n");
	st_rosetta_flush(&part, page, out);
	if (any_apart) {
		legend(any_folded, &part);
		st_rosetta_explain(&part, page, out);
	}
	for (size_t i = 0, end; i < r->n_stages; i = end) {
		end = group_end(r, i);
		if (verbose || has_finding(r, i, end)) {
			unfold(r, i, end, verbose, page, out);
			continue;
		}
		/* Neighbours that fold share a table, so that their columns line up. */
		struct st_table table;
		st_table_init(&table, "lrlrl");
		for (size_t k = 0; k < table.n_cols; k++)
			st_table_cell(&table, ST_STYLE_DIM, heads[k]);
		folded_line(r, i, end, &table);
		for (; end < r->n_stages; end = group_end(r, end)) {
			if (has_finding(r, end, group_end(r, end)))
				break;
			folded_line(r, end, group_end(r, end), &table);
		}
		st_table_render(&table, out, ST_ROSETTA_TAG, page);
		st_table_release(&table);
	}
}
