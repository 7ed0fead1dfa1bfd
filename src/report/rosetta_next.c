/* rosetta_next.c - next tokens of both sides and what layers cost, as text: is the quantisation all right? */
#include "graph/stage.h"
#include "report/rosetta_parts.h"

#include <math.h>
#include <string.h>

#define TAG ST_ROSETTA_TAG

void st_rosetta_token(uint32_t id, const char *text, struct st_text *t)
{
	st_text_printf(t, "%u", (unsigned)id);
	if (!text[0])
		return;
	st_text_puts(t, " ");
	st_text_add_quoted(t, text, strlen(text));
}

static void token_cell(struct st_table *table, enum st_style style, uint32_t id, const char *text)
{
	struct st_text t = { 0 };
	st_rosetta_token(id, text, &t);
	st_table_cell(table, style, t.s);
	table->text.failed |= t.failed;
	st_text_release(&t);
}

bool st_rosetta_has_next(const struct st_rosetta *r)
{
	const struct st_agreement *g = &r->agreement;
	return g->positions && (g->kl_max > 0 || g->top1 != g->positions || g->prompts > 1 || g->nonfinite);
}

static void percent(struct st_text *t, uint64_t part, uint64_t of)
{
	st_text_printf(t, " (%.1f %%)", 100 * (double)part / (double)of);
}

/* What others lose: mean KL of Llama 3 8B against its F16, measured by llama.cpp's authors; docs/agreement.md. */
static const struct {
	const char *type;
	double kl;
} scale[] = { { "Q8_0", 0.0014 }, { "Q6_K", 0.0055 }, { "Q5_K_M", 0.011 }, { "Q4_K_M", 0.031 },
	      { "Q4_0", 0.072 },  { "Q3_K_M", 0.10 }, { "Q3_K_S", 0.23 },  { "Q2_K", 0.45 } };

static void place_on_scale(double kl, struct st_text *t)
{
	const size_t n = sizeof scale / sizeof *scale;
	size_t i = 0;
	while (i < n && kl > scale[i].kl)
		i++;
	st_text_puts(t, TAG "For scale: a model of 8 billion weights loses ");
	if (i == 0)
		st_text_printf(t, "more (KL %.2g) in %s", scale[0].kl, scale[0].type);
	else if (i == n)
		st_text_printf(t, "less (KL %.2g) in %s", scale[n - 1].kl, scale[n - 1].type);
	else
		st_text_printf(t, "as much between %s (KL %.2g) and %s (%.2g)", scale[i - 1].type, scale[i - 1].kl,
		               scale[i].type, scale[i].kl);
	st_text_puts(t, "; small models lose more\n");
}

void st_rosetta_next_summary(const struct st_rosetta *r, struct st_text *t)
{
	const struct st_agreement *g = &r->agreement;
	if (!st_rosetta_has_next(r))
		return;
	st_text_printf(t, TAG "Next tokens: the best is the same at %llu of %llu position%s",
	               (unsigned long long)g->top1, (unsigned long long)g->positions, g->positions == 1 ? "" : "s");
	percent(t, g->top1, g->positions);
	st_text_printf(t, ", B's best is among the five best of A at %llu", (unsigned long long)g->top5);
	percent(t, g->top5, g->positions);
	st_text_puts(t, "; KL divergence of A from B ");
	st_text_short(t, g->kl_sum / (double)g->positions);
	st_text_puts(t, " on average, ");
	st_text_short(t, g->kl_max);
	st_text_puts(t, " at most\n");
	if (!isnan(g->over_usual))
		place_on_scale(g->kl_sum / (double)g->positions, t);
	if (!isnan(g->over_usual))
		st_text_printf(t,
		               TAG "Errors: the stages add %.2f times what a plain encoder of these types costs (1: as "
		                   "usual; less: better%s)\n",
		               g->over_usual,
		               g->over_usual < 0.3 ? "; far less: one file was made from the other" : "");
}

static void positions_table(const struct st_agreement *g, const struct st_position *list, size_t n,
                            const struct st_page *page, struct st_text *out)
{
	struct st_table table;
	bool several = g->prompts > 1;
	st_table_init(&table, several ? "rrlllrrr" : "rlllrrr");
	if (several)
		st_table_cell(&table, ST_STYLE_DIM, "prompt");
	static const char *const heads[] = { "at", "behind", "best in A", "best in B", "gap", "KL", "rank" };
	for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
		st_table_cell(&table, ST_STYLE_DIM, heads[i]);
	for (size_t i = 0; i < n; i++) {
		const struct st_position *p = &list[i];
		if (several)
			st_table_cellf(&table, ST_STYLE_PLAIN, "%u", (unsigned)p->prompt + 1);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%u", (unsigned)p->position);
		if (p->text_token[0]) {
			struct st_text t = { 0 };
			st_text_add_quoted(&t, p->text_token, strlen(p->text_token));
			st_table_cell(&table, ST_STYLE_PLAIN, t.s);
			table.text.failed |= t.failed;
			st_text_release(&t);
		} else {
			st_table_cellf(&table, ST_STYLE_PLAIN, "%u", (unsigned)p->token);
		}
		token_cell(&table, ST_STYLE_PLAIN, p->best_a, p->text_a);
		token_cell(&table, ST_STYLE_PLAIN, p->best_b, p->text_b);
		st_table_short(&table, p->gap);
		st_table_short(&table, p->kl);
		st_table_cellf(&table,
		               p->rank == 1   ? ST_STYLE_GOOD
		               : p->rank <= 5 ? ST_STYLE_WARN
		                              : ST_STYLE_BAD,
		               "%u", (unsigned)p->rank);
	}
	st_table_render(&table, out, TAG, page);
	st_table_release(&table);
}

static void last_table(const struct st_agreement *g, const struct st_page *page, struct st_text *out)
{
	struct st_table table;
	st_table_init(&table, "rlrlr");
	static const char *const heads[] = { "", "A", "share", "B", "share" };
	for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
		st_table_cell(&table, ST_STYLE_DIM, heads[i]);
	for (size_t i = 0; i < g->n_last; i++) {
		st_table_cellf(&table, ST_STYLE_PLAIN, "%zu.", i + 1);
		token_cell(&table, ST_STYLE_PLAIN, g->last_a[i].token, g->last_a[i].text);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%.1f %%", 100 * g->last_a[i].probability);
		token_cell(&table, ST_STYLE_PLAIN, g->last_b[i].token, g->last_b[i].text);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%.1f %%", 100 * g->last_b[i].probability);
	}
	st_table_render(&table, out, TAG, page);
	st_table_release(&table);
}

void st_rosetta_next(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out)
{
	enum { FEW = 8 }; /* positions of one prompt that are shown although nothing is the matter */
	const struct st_agreement *g = &r->agreement;
	struct st_text part = { 0 };
	if (!st_rosetta_has_next(r))
		return;
	st_text_printf(&part, TAG "=== Next tokens ===   %llu position%s of %llu prompt%s",
	               (unsigned long long)g->positions, g->positions == 1 ? "" : "s", (unsigned long long)g->prompts,
	               g->prompts == 1 ? "" : "s");
	if (g->nonfinite)
		st_text_printf(&part, "; %llu positions left out: logits that are not finite",
		               (unsigned long long)g->nonfinite);
	st_text_puts(&part, "\n");
	st_rosetta_flush(&part, page, out);
	bool each = g->prompts == 1 && g->n_each == g->positions && (verbose || g->n_each <= FEW);
	if (each || g->n_changed)
		st_text_puts(&part,
		             TAG "gap: how far B's best logit stands above its second; a small gap is a choice that "
		                 "any noise may turn. rank: of B's best in A.\n");
	st_rosetta_explain(&part, page, out);
	if (each)
		positions_table(g, g->each, g->n_each, page, out);
	else if (g->n_changed)
		positions_table(g, g->changed, g->n_changed, page, out);
	if (!each && g->positions - g->top1 > g->n_changed)
		st_text_printf(out, TAG "... and %llu more where the best differ\n",
		               (unsigned long long)(g->positions - g->top1 - g->n_changed));
	if (!g->n_last)
		return;
	st_text_puts(&part, TAG "Behind the last token");
	if (g->prompts > 1)
		st_text_puts(&part, " of the first prompt");
	st_text_puts(&part, ", ");
	st_rosetta_token(r->tokens_b[r->n_tokens_b - 1], r->pieces_b ? r->pieces_b[r->n_tokens_b - 1] : "", &part);
	st_text_puts(&part, ", the five likeliest:\n");
	st_rosetta_flush(&part, page, out);
	last_table(g, page, out);
}

static const struct st_layer_cost *dearest(const struct st_rosetta *r, double below)
{
	const struct st_layer_cost *best = NULL;
	for (size_t i = 0; i < r->n_layers; i++)
		if (r->layers[i].kl < below && (!best || r->layers[i].kl > best->kl))
			best = &r->layers[i];
	return best;
}

/* The dearest first; those alike in cost down to the last bit are one line, which exact zeros are. */
void st_rosetta_layer_costs(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out)
{
	static const char *const heads[] = { "", "KL", "of all", "adds", "times usual" };
	struct st_text part = { 0 };
	struct st_table table;
	double sum = 0;
	for (size_t i = 0; i < r->n_layers; i++)
		sum += r->layers[i].kl > 0 ? r->layers[i].kl : 0;
	if (!r->layers)
		return;
	st_text_printf(&part, TAG "=== Layers by cost ===   %zu apart by their stored types, the dearest first%s\n",
	               r->n_layers, verbose || r->n_layers <= 5 ? "" : " (-v lists all)");
	st_rosetta_flush(&part, page, out);
	st_text_puts(&part, TAG
	             "KL: of B's logits when this layer alone is taken from A. adds: how far that moves the stream. "
	             "times usual: the errors of its stages over what a plain encoder of these types costs.\n");
	st_rosetta_explain(&part, page, out);
	st_table_init(&table, "lrrrr");
	for (size_t i = 0; i < table.n_cols; i++)
		st_table_cell(&table, ST_STYLE_DIM, heads[i]);
	size_t shown = 0;
	for (const struct st_layer_cost *p = dearest(r, INFINITY); p && (verbose || shown < 5);
	     p = dearest(r, p->kl), shown++) {
		if (p->layer >= 0)
			st_table_cellf(&table, ST_STYLE_PLAIN, "layer %d", (int)p->layer);
		else
			st_table_cell(&table, ST_STYLE_PLAIN, p->stage == ST_STAGE_EMBEDDING ? "embedding" : "head");
		st_table_short(&table, p->kl);
		if (sum > 0)
			st_table_cellf(&table, ST_STYLE_PLAIN, "%.0f %%", 100 * p->kl / sum);
		else
			st_table_cell(&table, ST_STYLE_PLAIN, "-");
		st_table_short(&table, p->added);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%.2f", p->over_usual);
	}
	st_table_render(&table, out, TAG, page);
	st_table_release(&table);
}
