#include "report/rosetta_parts.h"

#include "arch/arch.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define TAG ST_ROSETTA_TAG

/* Three significant figures where they are needed, "0" where there is nothing. */
static void number(struct st_text *t, double v)
{
	if (v == 0)
		st_text_puts(t, "0");
	else
		st_text_printf(t, "%.3g", v);
}

/* Words may hold names from the files, which must not drive the terminal. */
static void safely(struct st_text *t, const char *s) { st_text_add_safe(t, s, strlen(s)); }

static void sentence(struct st_text *t, const char *begins, const char *goes_on)
{
	st_text_puts(t, TAG);
	st_text_puts(t, begins);
	safely(t, goes_on);
	st_text_puts(t, "\n");
}

static void side_line(struct st_text *t, char name, const struct st_side_info *s)
{
	st_text_printf(t, TAG "%c: ", name);
	st_text_add_safe(t, s->path, strlen(s->path));
	st_text_puts(t, "   ");
	safely(t, s->format);
	st_text_puts(t, ", ");
	safely(t, s->arch);
	st_text_printf(t, ", %u layers, %s\n", (unsigned)s->layers, s->dtypes);
}

/* "[504, 3575]", and below the same as text; of a long list the beginning. */
static void token_lines(const char *of, const uint32_t *p, char (*pieces)[ST_PIECE_BYTES], size_t n, bool verbose,
                        struct st_text *t)
{
	enum { SHOWN = 32 };
	size_t shown = n > SHOWN && !verbose ? SHOWN : n;
	st_text_printf(t, TAG "Token IDs%s: [", of);
	for (size_t i = 0; i < shown; i++)
		st_text_printf(t, "%s%u", i ? ", " : "", (unsigned)p[i]);
	st_text_puts(t, shown < n ? ", ...]" : "]");
	if (shown < n)
		st_text_printf(t, " %zu of them (-v lists all)", n);
	st_text_puts(t, "\n");
	if (!pieces)
		return;
	st_text_printf(t, TAG "As text%s:", of);
	for (size_t i = 0; i < shown; i++) {
		st_text_puts(t, " ");
		st_text_add_quoted(t, pieces[i], strlen(pieces[i]));
	}
	st_text_puts(t, shown < n ? " ...\n" : "\n");
}

static void input_lines(const struct st_rosetta *r, bool verbose, struct st_text *t)
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
	token_lines(same ? "" : " of A", r->tokens_a, r->pieces_a, r->n_tokens_a, verbose, t);
	if (!same)
		token_lines(" of B", r->tokens_b, r->pieces_b, r->n_tokens_b, verbose, t);
	if (r->token_note[0])
		sentence(t, "Note: ", r->token_note);
	if (r->vocab_note[0])
		sentence(t, "Note: ", r->vocab_note);
}

static void config_lines(const struct st_rosetta *r, bool verbose, struct st_text *t)
{
	for (size_t i = 0; i < r->n_config; i++) {
		const struct st_config_diff *c = &r->config[i];
		if (!c->matters && !verbose)
			continue;
		st_text_puts(t, TAG "config ");
		safely(t, c->key);
		st_text_puts(t, ": ");
		char a[160], b[160];
		st_config_tell(c->a, c->key, &c->from_a, a, sizeof a);
		st_config_tell(c->b, c->key, &c->from_b, b, sizeof b);
		st_text_add_safe(t, a, strlen(a));
		st_text_puts(t, " in A, ");
		st_text_add_safe(t, b, strlen(b));
		st_text_printf(t, " in B: %s\n", c->matters ? "changes the result" : "changes nothing here");
	}
}

static void aside_value(const struct st_aside *x, const char *value, const struct st_config_origin *from,
                        struct st_text *t)
{
	char told[256];
	if (strcmp(value, "none") == 0)
		snprintf(told, sizeof told, "none");
	else
		st_config_tell(value, x->key, from, told, sizeof told);
	st_text_add_safe(t, told, strlen(told));
}

/* "not exercised by this prompt: eos 9 / 2, sliding_window none / 4096" */
static void aside_lines(const struct st_rosetta *r, struct st_text *t)
{
	if (r->aside_note[0])
		sentence(t, "Note: ", r->aside_note);
	if (r->n_asides)
		st_text_printf(t, TAG "Not exercised by %s:\n", r->prompt ? "this prompt" : "these tokens");
	for (size_t i = 0; i < r->n_asides; i++) {
		const struct st_aside *x = &r->asides[i];
		st_text_puts(t, TAG "  ");
		safely(t, x->key);
		st_text_puts(t, ": ");
		aside_value(x, x->a, &x->from_a, t);
		st_text_puts(t, " in A, ");
		aside_value(x, x->b, &x->from_b, t);
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

/* How well the stored types explain what is apart by them: elements outside of their cells, and the size. */
static void sizes_of_noise(const struct st_noise_sizes *z, struct st_text *t)
{
	if (!z->tensors || !z->judged)
		return;
	st_text_printf(t, TAG "stored types: outside %.2f %%, rel/floor %.2f (median of %zu, %.2f to %.2f)",
	               100.0 * (double)z->outside / (double)z->judged, z->median, z->tensors, z->least, z->most);
	if (z->over_twice)
		st_text_printf(t, "; %zu beyond twice the floor: numbers were clipped there", z->over_twice);
	st_text_puts(t, "\n");
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
		if (d->cause.code == ST_CAUSE_NONE)
			continue; /* equal, noise, or without a counterpart: counted below */
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
	if (r->no_partner)
		st_text_printf(t, ", %zu without a counterpart", r->no_partner);
	if (r->unused_a || r->unused_b)
		st_text_printf(t, "; tensors no stage uses: %zu in A, %zu in B", r->unused_a, r->unused_b);
	st_text_puts(t, "\n");
	sizes_of_noise(&r->sizes, t);
	size_t shown = 0;
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		if (!weight_line_wanted(d, verbose))
			continue;
		if (!verbose && ++shown > 12)
			continue;
		st_text_puts(t, TAG);
		safely(t, d->slot->canonical);
		st_text_puts(t, ": ");
		if (d->status >= ST_WEIGHT_FAULT && d->cause.code != ST_CAUSE_NONE)
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
		if (d->nonfinite_a || d->nonfinite_b) {
			st_text_printf(t, "not finite: %llu in A, %llu in B", (unsigned long long)d->nonfinite_a,
			               (unsigned long long)d->nonfinite_b);
		} else if (isinf(d->rel_l2)) { /* nothing is in proportion to that */
			st_text_printf(t, "B is zero everywhere, A up to %.3g", d->max_abs);
		} else {
			st_text_puts(t, "rel=");
			number(t, d->rel_l2);
			st_text_puts(t, " expected=");
			number(t, d->predicted);
			st_text_printf(t, " gain=%.6g", d->gain);
		}
		if (d->bad_rows)
			st_text_printf(t, ", %llu of %llu rows beyond it", (unsigned long long)d->bad_rows,
			               (unsigned long long)d->rows);
		if (d->judged)
			st_text_printf(t, ", outside %.2f %%", 100.0 * (double)d->outside / (double)d->judged);
		st_text_puts(t, "\n");
	}
	if (shown > 12)
		st_text_printf(t, TAG "... and %zu more (-v lists all)\n", shown - 12);
	if (r->form_note[0])
		sentence(t, "Note: ", r->form_note);
}

/* ---- the summary ---- */

/* Nothing is claimed of what was not looked at. */
static void weights_alone(const struct st_rosetta *r, const char *good, const char *off, struct st_text *t)
{
	size_t matched = 0, others = st_rosetta_contradictions(r);
	for (size_t i = 0; i < r->n_weights; i++)
		matched += r->weights[i].status < ST_WEIGHT_ONLY_A;
	st_text_printf(t, TAG "%sSAME WEIGHTS%s: %zu weights and %zu configuration keys ", good, off, matched, r->keys);
	st_text_puts(t, r->verdict == ST_VERDICT_MATCH ? "are equal"
	                                               : "are equal or differ by what their stored types account for");
	st_text_puts(t, r->n_tokens_a ? ", the tokens are the same" : ", tokens were not compared");
	if (others)
		st_text_printf(t, "; %zu difference%s listed below (--assert-match counts %s)", others,
		               others == 1 ? " is" : "s are", others == 1 ? "it" : "them");
	st_text_puts(t, "\n");
}

static void verdict_line(const struct st_rosetta *r, bool colour, struct st_text *t)
{
	const char *bad = st_style_on(ST_STYLE_BAD, colour), *good = st_style_on(ST_STYLE_GOOD, colour);
	const char *warn = st_style_on(ST_STYLE_WARN, colour), *off = st_style_off(ST_STYLE_BAD, colour);
	if (r->verdict == ST_VERDICT_FAULT) {
		st_text_printf(t, TAG "%sFAILED%s: first divergence at ", bad, off);
		if (r->first.layer >= 0)
			st_text_printf(t, "layer %d ", (int)r->first.layer);
		st_text_puts(t, r->first.stage);
		if (r->first.position >= 0 && (uint64_t)r->first.position < r->n_tokens_b && r->n_tokens_b > 1
		    && strcmp(r->first.stage, "tokens") != 0) {
			st_text_printf(t, ", most at position %lld, ", (long long)r->first.position);
			st_rosetta_token(r->tokens_b[r->first.position],
			                 r->pieces_b ? r->pieces_b[r->first.position] : "", t);
		}
		st_text_puts(t, "\n");
		return;
	}
	if (r->over_threshold) {
		st_text_printf(t, TAG "%sFAILED%s: a stage exceeds the threshold %g; verdict without it: %s\n", bad,
		               off, r->threshold, st_verdict_name(r->verdict));
		return;
	}
	if (r->verdict == ST_VERDICT_UNDECIDED) {
		if (r->left_open[0])
			st_text_printf(
				t,
				TAG
				"%sUNDECIDED%s: %s alone, a key that nothing here reads and that may change numbers\n",
				warn, off, r->left_open);
		else
			st_text_printf(
				t, TAG "%sUNDECIDED%s: %s\n", warn, off,
				r->not_evaluated[0]
					? "what the weights below differ by may be meant; nobody here knows the family"
				: r->compared ? "stages marked UNDECIDED could not be told apart from noise"
					      : "nothing was compared");
		return;
	}
	if (r->not_evaluated[0]) {
		weights_alone(r, good, off, t);
		return;
	}
	size_t others = st_rosetta_contradictions(r);
	st_text_printf(t, TAG "%sPASSED%s%s: %s", good, off,
	               !others     ? ""
	               : r->prompt ? " for this prompt"
	                           : " for these tokens",
	               r->verdict == ST_VERDICT_MATCH ? "the two models compute the same"
	                                              : "the two models differ by what their stored types account for");
	if (others)
		st_text_printf(
			t, "; %zu difference%s that other prompts may show %s listed below (--assert-match counts %s)",
			others, others == 1 ? "" : "s", others == 1 ? "is" : "are", others == 1 ? "it" : "them");
	st_text_puts(t, "\n");
}

/* What to do where there is nothing to repair. */
static void go_on(const struct st_rosetta *r, struct st_text *t)
{
	if (r->recommendation[0] || r->not_evaluated[0])
		return;
	if (r->verdict == ST_VERDICT_UNDECIDED && r->compared) {
		st_text_puts(t,
		             TAG "To go on: try other prompts, and a source in a finer type; -v shows every stage\n");
	} else if (r->over_threshold) {
		st_text_puts(t, TAG "To go on: see the stages marked DIVERGENCE below\n");
	} else if (r->verdict == ST_VERDICT_NOISE) {
		st_text_puts(t, TAG
		             "To go on: there is nothing to repair; whether A is good enough is for its next tokens to "
		             "say");
		st_text_puts(t, r->agreement.prompts > 1 ? "" : ", over texts of yours with --prompts FILE");
		st_text_puts(t, r->layers ? "\n" : "; --layer-costs says which layers cost most\n");
	}
}

/* Where two tokenizers part: the tokens there, as text. */
static void token_parting(const struct st_rosetta *r, struct st_text *t)
{
	size_t at = (size_t)r->first.position;
	if (!r->first.found || strcmp(r->first.stage, "tokens") != 0 || r->first.position < 0 || at >= r->n_tokens_a
	    || at >= r->n_tokens_b || !r->pieces_a)
		return;
	st_text_printf(t, TAG "At position %zu: ", at);
	st_rosetta_token(r->tokens_a[at], r->pieces_a[at], t);
	st_text_puts(t, " in A, ");
	st_rosetta_token(r->tokens_b[at], r->pieces_b[at], t);
	st_text_puts(t, " in B\n");
}

static void summary(const struct st_rosetta *r, bool colour, struct st_text *t)
{
	st_text_puts(t, TAG "=== Summary ===\n");
	verdict_line(r, colour, t);
	if (r->not_evaluated[0]) {
		st_text_puts(t, TAG "Stages not evaluated: ");
		st_text_add_safe(t, r->not_evaluated, strlen(r->not_evaluated));
		st_text_puts(t, "\n");
	}
	if (r->text[0])
		sentence(t, "DIAGNOSIS: ", r->text);
	token_parting(r, t);
	if (r->cause.code != ST_CAUSE_NONE && r->cause.confidence == ST_UNEXPLAINED)
		for (size_t i = 0; i < r->n_candidates; i++)
			st_text_printf(t, TAG "  candidate %s leaves %.3g of %.3g\n",
			               st_cause_name(r->candidates[i].code), r->candidates[i].residual_after,
			               r->cause.residual_before);
	if (r->recommendation[0])
		sentence(t, "Recommendation: ", r->recommendation);
	st_rosetta_next_summary(r, t);
	go_on(r, t);
	st_text_printf(t, TAG "Compared: %zu weights, %zu stages (%zu not reached, %zu missing)", r->n_weights,
	               r->compared, r->skipped, r->missing);
	if (r->has_top1) {
		const struct st_agreement *g = &r->agreement;
		st_text_puts(t, "; next token ");
		st_rosetta_token(r->top1_a, g->n_last ? g->last_a[0].text : "", t);
		st_text_puts(t, " in A, ");
		st_rosetta_token(r->top1_b, g->n_last ? g->last_b[0].text : "", t);
		st_text_puts(t, " in B");
	}
	st_text_printf(t, "; %.2f s\n", r->ms_total / 1e3);
}

void st_report_rosetta_text(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out)
{
	struct st_text t = { 0 };
	input_lines(r, verbose, &t);
	summary(r, page->colour, &t);
	config_lines(r, verbose, &t);
	aside_lines(r, &t);
	if (r->n_weights)
		weight_lines(r, verbose, &t);
	st_rosetta_flush(&t, page, out);
	st_rosetta_stages(r, verbose, page, out);
	st_rosetta_next(r, verbose, page, out);
	st_rosetta_layer_costs(r, verbose, page, out);
}
