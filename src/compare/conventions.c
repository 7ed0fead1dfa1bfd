/* conventions.c - what GGUF's converter does to weights on purpose, by family. */
#include "compare/conventions.h"

#include "arch/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
static const struct convention {
	enum st_cause_code code;
	const char *words;
	const char *families[28]; /* general.architecture */
} conventions[] = {
	{ ST_CAUSE_WEIGHT_ROPE_PERMUTED, "the rows of Q and K lie in adjacent pairs",
	  { "llama", "deci", "baichuan", "xverse", "minicpm", "internlm2", "olmo", "arctic", "deepseek", "granite",
	    "granitemoe", "granitehybrid", "smollm3", "arcee", "bailingmoe", "mistral3" } },
	{ ST_CAUSE_NORM_PLUS_ONE, "norms are stored with their one added",
	  { "gemma", "gemma2", "gemma3", "nemotron", "qwen3next", "qwen35", "qwen35moe" } },
	{ ST_CAUSE_WEIGHT_TRANSPOSED, "matrices are turned, [out, in]", { "gpt2" } },
};
/* clang-format on */

static bool is_of(const struct convention *c, const char *family)
{
	for (size_t i = 0; i < sizeof c->families / sizeof *c->families && c->families[i]; i++)
		if (strcmp(c->families[i], family) == 0)
			return true;
	return false;
}

static bool is_found(const struct st_weight_diff *d, enum st_cause_code code)
{
	return d->status == ST_WEIGHT_FAULT && d->cause.code == code && d->cause.confidence == ST_CONFIRMED;
}

/* Whether some weight of the same name, in any layer, is apart by this cause. */
static bool is_kin(const struct st_weight_diff *d, size_t n, const struct st_weight_diff *one, enum st_cause_code code)
{
	struct st_name_parts want, p;
	st_name_take_apart(one->slot->canonical, &want);
	for (size_t i = 0; i < n; i++) {
		if (!is_found(&d[i], code))
			continue;
		st_name_take_apart(d[i].slot->canonical, &p);
		if (strcmp(p.stem, want.stem) == 0 && strcmp(p.last, want.last) == 0)
			return true;
	}
	return false;
}

/* What was found on a weight is undone, and what is left of it counts. */
static void settle(struct st_weight_diff *d)
{
	d->status = d->cause.residual_after == 0 ? ST_WEIGHT_EQUAL_DECODED : ST_WEIGHT_NOISE;
	d->rel_l2 = d->cause.residual_after;
	d->predicted = d->cause.floor;
	d->bad_rows = d->outside = d->judged = 0;
	d->gain = 1;
	d->side = 0;
	d->cause = (struct st_cause){ .code = ST_CAUSE_NONE };
}

/* The form that all others of its name have is not on this one. */
static void blame(struct st_weight_diff *d, enum st_cause_code code, char gguf_side)
{
	d->status = ST_WEIGHT_FAULT;
	d->side = gguf_side;
	d->cause = (struct st_cause){
		.code = code, .confidence = ST_CONFIRMED, .residual_before = INFINITY, .residual_after = INFINITY
	};
}

void st_settle_conventions(const struct st_model *a, const struct st_model *b, struct st_weight_diff *d, size_t n,
                           struct st_conventions *out)
{
	bool gguf_a = st_model_has_gguf_names(a), gguf_b = st_model_has_gguf_names(b);
	*out = (struct st_conventions){ .n_open = 0 };
	if (gguf_a == gguf_b)
		return;
	const char *family = st_model_config(gguf_a ? a : b)->arch;
	for (size_t k = 0; k < sizeof conventions / sizeof *conventions; k++) {
		const struct convention *c = &conventions[k];
		size_t found = 0, lacking = 0, at = strlen(out->note);
		for (size_t i = 0; i < n; i++) {
			found += is_found(&d[i], c->code);
			lacking += d[i].status <= ST_WEIGHT_NOISE && is_kin(d, n, &d[i], c->code);
		}
		bool known = is_of(c, family);
		if (found <= lacking)
			continue;
		for (size_t i = 0; i < n; i++)
			if (d[i].status <= ST_WEIGHT_NOISE && is_kin(d, n, &d[i], c->code))
				blame(&d[i], c->code, gguf_a ? 'a' : 'b');
		for (size_t i = 0; i < n && known; i++)
			if (is_found(&d[i], c->code) && !d[i].side)
				settle(&d[i]);
		if (!known)
			out->open[out->n_open++] = c->code;
		snprintf(out->note + at, sizeof out->note - at, "%s%s in %c, on %s%zu weights%s", at ? "; " : "",
		         c->words, gguf_a ? 'A' : 'B', lacking ? "" : "every one of ", found,
		         known ? ", as GGUF has it in this family"
		               : ": whether GGUF has it so in this family is not known");
	}
}

bool st_convention_is_open(const struct st_conventions *c, enum st_cause_code code)
{
	for (size_t i = 0; i < c->n_open; i++)
		if (c->open[i] == code)
			return true;
	return false;
}
