#include "report/rosetta.h"

#include "arch/arch.h"
#include "base/mem.h"
#include "report/table.h"

#include <stdlib.h>
#include <string.h>

#define TAG "[ROSETTA] "

/* Three significant figures where they are needed, "0" where there is nothing. */
static void number(struct st_text *t, double v)
{
	if (v == 0)
		st_text_puts(t, "0");
	else
		st_text_printf(t, "%.3g", v);
}

static void side_line(struct st_text *t, char name, const struct st_side_info *s)
{
	st_text_printf(t, TAG "%c: ", name);
	st_text_add_safe(t, s->path, strlen(s->path));
	st_text_printf(t, "   %s, %s, %u layers, %s\n", s->format, s->arch, (unsigned)s->layers, s->dtypes);
}

static void ids(struct st_text *t, const uint32_t *p, size_t n)
{
	st_text_puts(t, "[");
	for (size_t i = 0; i < n; i++)
		st_text_printf(t, "%s%u", i ? ", " : "", (unsigned)p[i]);
	st_text_puts(t, "]");
}

static void input_lines(const struct st_rosetta *r, struct st_text *t)
{
	side_line(t, 'A', &r->a);
	side_line(t, 'B', &r->b);
	if (r->prompt) {
		st_text_puts(t, TAG "Prompt: \"");
		st_text_add_safe(t, r->prompt, strlen(r->prompt));
		st_text_puts(t, "\"\n");
	}
	bool same = r->n_tokens_a == r->n_tokens_b
	         && memcmp(r->tokens_a, r->tokens_b, r->n_tokens_a * sizeof(uint32_t)) == 0;
	st_text_printf(t, TAG "Token IDs%s: ", same ? "" : " of A");
	ids(t, r->tokens_a, r->n_tokens_a);
	if (!same) {
		st_text_puts(t, "\n" TAG "Token IDs of B: ");
		ids(t, r->tokens_b, r->n_tokens_b);
	}
	st_text_puts(t, "\n");
	if (r->token_note[0])
		st_text_printf(t, TAG "Note: %s\n", r->token_note);
	if (r->vocab_note[0])
		st_text_printf(t, TAG "Note: %s\n", r->vocab_note);
}

static void config_lines(const struct st_rosetta *r, bool verbose, struct st_text *t)
{
	for (size_t i = 0; i < r->n_config; i++) {
		const struct st_config_diff *c = &r->config[i];
		if (!c->matters && !verbose)
			continue;
		st_text_printf(t, TAG "config %s: ", c->key);
		char a[160], b[160];
		st_config_tell(c->a, c->key, &c->from_a, a, sizeof a);
		st_config_tell(c->b, c->key, &c->from_b, b, sizeof b);
		st_text_add_safe(t, a, strlen(a));
		st_text_puts(t, " in A, ");
		st_text_add_safe(t, b, strlen(b));
		st_text_printf(t, " in B: %s\n", c->matters ? "changes the result" : "changes nothing here");
	}
}

/* "not exercised by this prompt: eos 9 / 2, sliding_window none / 4096" */
static void aside_lines(const struct st_rosetta *r, struct st_text *t)
{
	if (r->aside_note[0])
		st_text_printf(t, TAG "Note: %s\n", r->aside_note);
	if (r->n_asides)
		st_text_printf(t, TAG "Not exercised by %s:\n", r->prompt ? "this prompt" : "these tokens");
	for (size_t i = 0; i < r->n_asides; i++) {
		const struct st_aside *x = &r->asides[i];
		st_text_printf(t, TAG "  %s: ", x->key);
		st_text_add_safe(t, x->a, strlen(x->a));
		st_text_puts(t, " in A, ");
		st_text_add_safe(t, x->b, strlen(x->b));
		st_text_puts(t, " in B");
		if (x->note[0]) {
			st_text_puts(t, " (");
			st_text_add_safe(t, x->note, strlen(x->note));
			st_text_puts(t, ")");
		}
		st_text_puts(t, x->one_sided && !x->note[0] ? "; one file leaves it open\n" : "\n");
	}
}

static bool weight_line_wanted(const struct st_weight_diff *d, bool verbose)
{
	return d->status >= ST_WEIGHT_FAULT || (verbose && d->status >= ST_WEIGHT_EQUAL_DECODED);
}

static int by_value(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

/* How well the stored types explain what is apart by them: elements outside of their cells, and the size. */
static void sizes_of_noise(const struct st_rosetta *r, struct st_text *t)
{
	double *ratio = st_alloc_array(r->n_weights, sizeof *ratio);
	uint64_t judged = 0, outside = 0;
	size_t n = 0;
	for (size_t i = 0; ratio && i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		if (d->status != ST_WEIGHT_NOISE || !(d->predicted > 0))
			continue;
		judged += d->judged;
		outside += d->outside;
		ratio[n++] = d->rel_l2 / d->predicted;
	}
	if (n > 0 && judged > 0) {
		qsort(ratio, n, sizeof *ratio, by_value);
		st_text_printf(t, TAG "stored types: outside %.2f %%, rel/floor %.2f (median of %zu, %.2f to %.2f)\n",
		               100.0 * (double)outside / (double)judged, ratio[n / 2], n, ratio[0], ratio[n - 1]);
	}
	free(ratio);
}

static void weight_lines(const struct st_rosetta *r, bool verbose, struct st_text *t)
{
	static const char *const words[] = { "equal", "equal after decoding", "apart by their stored types" };
	size_t count[3] = { 0 }, matched = 0;
	for (size_t i = 0; i < r->n_weights; i++) {
		matched += r->weights[i].status < ST_WEIGHT_ONLY_A;
		if (r->weights[i].status <= ST_WEIGHT_NOISE)
			count[r->weights[i].status]++;
	}
	st_text_printf(t, TAG "=== Weights ===   %zu matched", matched);
	for (size_t k = 0; k < 3; k++)
		if (count[k] || k == 0)
			st_text_printf(t, ", %zu %s", count[k], words[k]);
	/* Faults by code, each counted once in the order they appear. */
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		size_t n = 0;
		bool first = true;
		for (size_t k = 0; d->status >= ST_WEIGHT_FAULT && k < r->n_weights; k++) {
			if (r->weights[k].status < ST_WEIGHT_FAULT || r->weights[k].cause.code != d->cause.code)
				continue;
			first &= k >= i;
			n++;
		}
		if (n && first) {
			const char *code = st_cause_name(d->cause.code);
			st_text_printf(t, ", %zu %s", n, strncmp(code, "weight.", 7) == 0 ? code + 7 : code);
		}
	}
	if (r->unused_a || r->unused_b)
		st_text_printf(t, "; tensors no stage uses: %zu in A, %zu in B", r->unused_a, r->unused_b);
	st_text_puts(t, "\n");
	sizes_of_noise(r, t);
	size_t shown = 0;
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		if (!weight_line_wanted(d, verbose))
			continue;
		if (!verbose && ++shown > 12)
			continue;
		st_text_printf(t, TAG "%s: ", d->slot->canonical);
		if (d->status >= ST_WEIGHT_FAULT)
			st_text_printf(t, "%s, ", st_cause_name(d->cause.code));
		if (d->status >= ST_WEIGHT_ONLY_A) {
			st_text_printf(t, "only in %c\n", d->status == ST_WEIGHT_ONLY_A ? 'A' : 'B');
			continue;
		}
		st_text_printf(t, "%s against %s, ", st_dtype_info(d->a->tensor->dtype)->name,
		               st_dtype_info(d->b->tensor->dtype)->name);
		if (st_cause_has(&d->cause, ST_PARAM_SHAPE_A)) { /* no element has a partner */
			st_text_printf(t, "%s against %s", st_cause_text(&d->cause, ST_PARAM_SHAPE_A),
			               st_cause_text(&d->cause, ST_PARAM_SHAPE_B));
			if (isfinite(d->cause.residual_after))
				st_text_printf(t, ", rel=%.3g after transposing", d->cause.residual_after);
			st_text_puts(t, "\n");
			continue;
		}
		st_text_puts(t, "rel=");
		number(t, d->rel_l2);
		st_text_puts(t, " expected=");
		number(t, d->predicted);
		st_text_printf(t, " gain=%.6g", d->gain);
		if (d->bad_rows)
			st_text_printf(t, ", %llu of %llu rows beyond it", (unsigned long long)d->bad_rows,
			               (unsigned long long)d->rows);
		if (d->judged)
			st_text_printf(t, ", outside %.2f %%", 100.0 * (double)d->outside / (double)d->judged);
		st_text_puts(t, "\n");
	}
	if (shown > 12)
		st_text_printf(t, TAG "... and %zu more (-v lists all)\n", shown - 12);
}

static void status_word(const struct st_stage_report *p, bool colour, struct st_text *t)
{
	static const struct {
		const char *word;
		enum st_style style;
	} words[] = {
		[ST_STATUS_EXACT] = { "OK (exact)", ST_STYLE_GOOD },
		[ST_STATUS_ROUNDING] = { "OK (rounding)", ST_STYLE_GOOD },
		[ST_STATUS_NOISE] = { "OK (noise)", ST_STYLE_GOOD },
		[ST_STATUS_INHERITED] = { "inherited", ST_STYLE_DIM },
		[ST_STATUS_FAULT] = { "DIVERGENCE", ST_STYLE_BAD },
		[ST_STATUS_MISSING] = { "missing", ST_STYLE_WARN },
		[ST_STATUS_UNDECIDED] = { "UNDECIDED", ST_STYLE_WARN },
	};
	st_text_printf(t, "%s%s%s", st_style_on(words[p->status].style, colour), words[p->status].word,
	               st_style_off(words[p->status].style, colour));
	if (p->over_threshold && p->status != ST_STATUS_FAULT)
		st_text_printf(t, " %sDIVERGENCE (threshold)%s", st_style_on(ST_STYLE_BAD, colour),
		               st_style_off(ST_STYLE_BAD, colour));
}

static void stage_line(const struct st_stage_report *p, bool verbose, bool colour, struct st_text *t)
{
	st_text_puts(t, TAG);
	if (p->stage == ST_STAGE_EMBEDDING) {
		st_text_puts(t, "A ");
		st_text_shape(t, p->shape, p->ndim);
		st_text_puts(t, "  B ");
		st_text_shape(t, p->shape, p->ndim);
	} else {
		st_text_printf(t, "%-18s", st_stage_name(p->stage));
	}
	st_text_puts(t, "  max_diff=");
	number(t, p->total.max_abs);
	st_text_puts(t, "  rel=");
	number(t, p->total.rel_l2);
	if (p->stage != ST_STAGE_EMBEDDING || p->total.max_abs > 0) {
		st_text_puts(t, "  floor=");
		number(t, p->floor);
	}
	if (verbose) {
		st_text_puts(t, "  local=");
		number(t, p->local_rel);
		st_text_puts(t, "/");
		number(t, p->local_floor);
		st_text_printf(t, "  gain=%.6g  cosine=%.9g", p->total.gain, p->total.cosine);
		if (p->shared)
			st_text_puts(t, "  shared");
	}
	if (p->total.nonfinite_a || p->total.nonfinite_b)
		st_text_printf(t, "  nonfinite=%llu/%llu", (unsigned long long)p->total.nonfinite_a,
		               (unsigned long long)p->total.nonfinite_b);
	st_text_puts(t, "  ");
	status_word(p, colour, t);
	st_text_puts(t, "\n");
}

static void heading(const struct st_stage_report *p, struct st_text *t)
{
	if (p->stage == ST_STAGE_EMBEDDING)
		st_text_puts(t, TAG "=== Embedding ===\n");
	else if (p->layer >= 0)
		st_text_printf(t, TAG "=== Layer %d ===\n", (int)p->layer);
	else
		st_text_puts(t, TAG "=== Head ===\n");
}

static bool ordinary(const struct st_stage_report *p) { return p->status <= ST_STATUS_INHERITED && !p->over_threshold; }

static bool layer_is_ordinary(const struct st_rosetta *r, int32_t layer)
{
	for (size_t i = 0; i < r->n_stages; i++)
		if (r->stages[i].layer == layer && !ordinary(&r->stages[i]))
			return false;
	return true;
}

/* A layer without anything to say is one line: its last stage. */
static void stage_lines(const struct st_rosetta *r, bool verbose, bool colour, struct st_text *t)
{
	for (size_t i = 0; i < r->n_stages; i++) {
		const struct st_stage_report *p = &r->stages[i];
		bool new_group = i == 0 || (r->stages[i - 1].layer != p->layer)
		              || r->stages[i - 1].stage == ST_STAGE_EMBEDDING;
		bool brief = !verbose && p->layer >= 0 && r->n_stages > 40 && layer_is_ordinary(r, p->layer);
		if (new_group)
			heading(p, t);
		bool last = i + 1 == r->n_stages || r->stages[i + 1].layer != p->layer;
		if (!brief || last)
			stage_line(p, verbose, colour, t);
	}
}

/* A token as text where there is one, else its id. */
static void token(const char *text, uint32_t id, struct st_text *t)
{
	if (!text[0]) {
		st_text_printf(t, "token %u", (unsigned)id);
		return;
	}
	st_text_puts(t, "\"");
	st_text_add_safe(t, text, strlen(text));
	st_text_puts(t, "\"");
}

static void percent(struct st_text *t, uint64_t part, uint64_t of)
{
	st_text_printf(t, "%llu (%.1f %%)", (unsigned long long)part, 100 * (double)part / (double)of);
}

/* Nothing where both give the same logits: there is nothing to agree about. */
static void agreement_lines(const struct st_rosetta *r, struct st_text *t)
{
	const struct st_agreement *g = &r->agreement;
	if (!g->positions || (g->kl_max == 0 && g->top1 == g->positions && g->prompts < 2 && !g->nonfinite))
		return;
	st_text_printf(t, TAG "=== Next tokens ===   %llu position%s of %llu prompt%s: best the same at ",
	               (unsigned long long)g->positions, g->positions == 1 ? "" : "s", (unsigned long long)g->prompts,
	               g->prompts == 1 ? "" : "s");
	percent(t, g->top1, g->positions);
	st_text_puts(t, ", B's best among A's five at ");
	percent(t, g->top5, g->positions);
	st_text_printf(t, "; KL(B, A) %.3g, at most %.3g", g->kl_sum / (double)g->positions, g->kl_max);
	if (!isnan(g->over_usual))
		st_text_printf(t, "; errors %.2f times what these types usually cost", g->over_usual);
	if (g->nonfinite)
		st_text_printf(t, "; %llu positions left out: logits that are not finite",
		               (unsigned long long)g->nonfinite);
	st_text_puts(t, "\n");
	for (size_t i = 0; i < g->n_changed; i++) {
		const struct st_position *p = &g->changed[i];
		st_text_puts(t, TAG "behind ");
		token(p->text_token, p->token, t);
		st_text_printf(t, " (position %u", (unsigned)p->position);
		if (g->prompts > 1)
			st_text_printf(t, " of prompt %u", (unsigned)p->prompt + 1);
		st_text_puts(t, "): ");
		token(p->text_a, p->best_a, t);
		st_text_puts(t, " in A, ");
		token(p->text_b, p->best_b, t);
		st_text_printf(t, " in B, %.3g above its second; KL %.3g\n", p->gap, p->kl);
	}
	if (g->positions - g->top1 > g->n_changed)
		st_text_printf(t, TAG "... and %llu more\n",
		               (unsigned long long)(g->positions - g->top1 - g->n_changed));
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
static void layer_cost_lines(const struct st_rosetta *r, bool verbose, struct st_text *t)
{
	double sum = 0;
	for (size_t i = 0; i < r->n_layers; i++)
		sum += r->layers[i].kl > 0 ? r->layers[i].kl : 0;
	if (!r->layers)
		return;
	st_text_printf(t,
	               TAG "=== Layers by cost ===   %zu apart by their stored types; KL of B's logits with one "
	                   "layer of A\n",
	               r->n_layers);
	size_t shown = 0;
	for (const struct st_layer_cost *p = dearest(r, INFINITY); p && (verbose || shown < 5);
	     p = dearest(r, p->kl), shown++) {
		if (p->layer >= 0)
			st_text_printf(t, TAG "layer %-12d", (int)p->layer);
		else
			st_text_printf(t, TAG "%-18s", st_stage_name(p->stage));
		st_text_printf(t, "  KL %.3g", p->kl);
		if (sum > 0)
			st_text_printf(t, " (%.0f %%)", 100 * p->kl / sum);
		st_text_printf(t, "  adds %.3g  %.2f times what its types usually cost\n", p->added, p->over_usual);
	}
}

void st_report_rosetta_text(const struct st_rosetta *r, bool verbose, bool colour, struct st_text *t)
{
	input_lines(r, t);
	config_lines(r, verbose, t);
	aside_lines(r, t);
	if (r->n_weights)
		weight_lines(r, verbose, t);
	stage_lines(r, verbose, colour, t);
	agreement_lines(r, t);
	layer_cost_lines(r, verbose, t);
	if (r->text[0])
		st_text_printf(t, TAG "DIAGNOSIS: %s\n", r->text);
	if (r->cause.code != ST_CAUSE_NONE && r->cause.confidence == ST_UNEXPLAINED)
		for (size_t i = 0; i < r->n_candidates; i++)
			st_text_printf(t, TAG "  candidate %s leaves %.3g of %.3g\n",
			               st_cause_name(r->candidates[i].code), r->candidates[i].residual_after,
			               r->cause.residual_before);
	st_text_puts(t, TAG "=== Summary ===\n");
	const char *bad = st_style_on(ST_STYLE_BAD, colour), *good = st_style_on(ST_STYLE_GOOD, colour);
	const char *warn = st_style_on(ST_STYLE_WARN, colour), *off = st_style_off(ST_STYLE_BAD, colour);
	if (r->verdict == ST_VERDICT_FAULT) {
		st_text_printf(t, TAG "%sFAILED%s: first divergence at ", bad, off);
		if (r->first.layer >= 0)
			st_text_printf(t, "layer %d ", (int)r->first.layer);
		st_text_printf(t, "%s\n", r->first.stage);
	} else if (r->over_threshold) {
		st_text_printf(t, TAG "%sFAILED%s: a stage exceeds the threshold %g; verdict without it: %s\n", bad,
		               off, r->threshold, st_verdict_name(r->verdict));
	} else if (r->verdict == ST_VERDICT_UNDECIDED) {
		st_text_printf(t, TAG "%sUNDECIDED%s: %s\n", warn, off,
		               r->compared ? "stages marked UNDECIDED could not be told apart from noise"
		                           : "nothing was compared");
	} else {
		size_t others = st_rosetta_contradictions(r);
		st_text_printf(t, TAG "%sPASSED%s%s: %s", good, off,
		               !others     ? ""
		               : r->prompt ? " for this prompt"
		                           : " for these tokens",
		               r->verdict == ST_VERDICT_MATCH
		                       ? "the two models compute the same"
		                       : "the two models differ by what their stored types account for");
		if (others)
			st_text_printf(
				t,
				"; %zu difference%s that other prompts may show %s listed above (--assert-match counts %s)",
				others, others == 1 ? "" : "s", others == 1 ? "is" : "are",
				others == 1 ? "it" : "them");
		st_text_puts(t, "\n");
	}
	if (r->recommendation[0])
		st_text_printf(t, TAG "Recommendation: %s\n", r->recommendation);
	st_text_printf(t, TAG "Compared: %zu weights, %zu stages (%zu not reached, %zu missing)", r->n_weights,
	               r->compared, r->skipped, r->missing);
	if (r->has_top1)
		st_text_printf(t, "; next token %u in A, %u in B", (unsigned)r->top1_a, (unsigned)r->top1_b);
	st_text_printf(t, "; %.2f s\n", r->ms_total / 1e3);
}
