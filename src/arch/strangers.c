/* strangers.c - files that are no language model as Stele reads one, known by their tensors' names: what they are. */
#include "arch/model_state.h"

#include "base/text.h"

#include <string.h>

static bool has(const struct st_container *c, const char *tail)
{
	for (size_t i = 0; i < c->n_tensors; i++)
		if (st_ends_in_parts(c->tensors[i].name, tail))
			return true;
	return false;
}

static bool is_adapter(const struct st_container *c)
{
	for (size_t i = 0; i < c->n_tensors; i++) {
		const char *name = c->tensors[i].name;
		if (strstr(name, ".lora_A.") || strstr(name, ".lora_B.") || st_ends_in_parts(name, "lora_A") || st_ends_in_parts(name, "lora_a")
		    || st_ends_in_parts(name, "lora_A.weight") || st_ends_in_parts(name, "lora_magnitude_vector"))
			return true;
	}
	return false;
}

/* Meta's and Mistral's own training code names weights so; it also has other orders of Q and K rows. */
static bool is_native(const struct st_container *c)
{
	return has(c, "layers.0.attention.wq.weight")
	    && (has(c, "layers.0.feed_forward.w1.weight") || has(c, "layers.0.feed_forward.experts.0.w1.weight"));
}

static bool has_head(const struct st_container *c) { return has(c, "lm_head.weight") || has(c, "output.weight"); }

/*
 * Weights that other programs pack: of one matrix several tensors, of which some end alike in every file of a method.
 * `all` of these must be there, `none` must not.
 */
static const struct {
	const char *method, *all[3], *none;
} packings[] = {
	{ "GPTQ", { "qweight", "qzeros", "g_idx" }, NULL },
	{ "AWQ", { "qweight", "qzeros", "scales" }, "g_idx" },
	{ "GPTQ or AWQ", { "qweight" }, NULL },
	{ "MLX", { "scales", "biases" }, NULL },
	{ "bitsandbytes (int8)", { "SCB" }, NULL },
	{ "bitsandbytes (NF4)", { "quant_state.bitsandbytes__nf4" }, NULL },
	{ "bitsandbytes (FP4)", { "quant_state.bitsandbytes__fp4" }, NULL },
	{ "bitsandbytes (4 bits)", { "absmax", "quant_map" }, NULL },
	{ "compressed-tensors", { "weight_packed", "weight_scale" }, NULL },
	{ "FP8 with block scales", { "weight_scale_inv" }, NULL },
	{ "FP8 or int8 with scales", { "weight_scale" }, NULL },
	{ "HQQ", { "W_q", "scale", "zero" }, NULL },
	{ "AQLM", { "codebooks", "codes", "scales" }, NULL },
};

/* MLX's MXFP4 and its other modes without biases: scales that are bytes, which no weight of a model is. */
static const char *bytes_for_scales(const struct st_container *c)
{
	for (size_t i = 0; i < c->n_tensors; i++)
		if (st_ends_in_parts(c->tensors[i].name, "scales") && c->tensors[i].dtype == ST_DTYPE_U8)
			return c->tensors[i].name;
	return NULL;
}

/*
 * A matrix of integers beside something called its scale, in a form that no row above has (EETQ, Quanto and others): the
 * integers alone are no weights.
 */
static const char *integers_under_scales(const struct st_container *c)
{
	size_t looked_at = 0; /* what packs one matrix packs most: a few tell */
	for (size_t i = 0; i < c->n_tensors && looked_at < 16; i++) {
		const struct st_tensor *t = &c->tensors[i];
		const struct st_dtype_info *type = st_dtype_info(t->dtype);
		const char *dot = strrchr(t->name, '.');
		if (type->kind != ST_KIND_INT || t->ndim < 2 || !dot)
			continue;
		looked_at++;
		size_t n = (size_t)(dot - t->name) + 1;
		for (size_t k = 0; k < c->n_tensors; k++)
			if (strncmp(c->tensors[k].name, t->name, n) == 0 && strstr(c->tensors[k].name + n, "scale"))
				return t->name;
	}
	return NULL;
}

static bool fits(const struct st_container *c, size_t i)
{
	for (size_t k = 0; k < 3 && packings[i].all[k]; k++)
		if (!has(c, packings[i].all[k]))
			return false;
	return !packings[i].none || !has(c, packings[i].none);
}

const char *st_packing(const struct st_container *c, const char **tensor)
{
	if (c->format == ST_FORMAT_GGUF)
		return NULL;
	for (size_t i = 0; i < sizeof packings / sizeof *packings; i++) {
		if (!fits(c, i))
			continue;
		for (size_t k = 0; k < c->n_tensors; k++)
			if (st_ends_in_parts(c->tensors[k].name, packings[i].all[0]))
				*tensor = c->tensors[k].name;
		return packings[i].method;
	}
	*tensor = bytes_for_scales(c);
	if (*tensor)
		return "MLX (MXFP4, or another mode without biases)";
	*tensor = integers_under_scales(c);
	return *tensor ? "integers with scales" : NULL;
}

const char *st_stranger(const struct st_container *c)
{
	static const char *const heads[] = { "score.weight",          "classifier.weight", "classifier.out_proj.weight",
		                             "v_head.summary.weight", "cls.output.weight", "qa_outputs.weight" };
	if (is_adapter(c) && (has(c, "base_layer.weight") || has(c, "embed_tokens.weight")))
		return "a base model with an adapter (LoRA) beside it, which is not merged: merge it into the base first";
	if (is_adapter(c))
		return "an adapter (LoRA), which changes a base model and is none: merge it into its base first";
	if (is_native(c))
		return "a model under the names of Meta's or Mistral's own code (consolidated.*, params.json): convert it into "
		       "the Hugging Face form first";
	for (size_t i = 0; i < sizeof heads / sizeof *heads && !has_head(c); i++)
		if (has(c, heads[i]))
			return "a classifier: it scores texts and has no head that names tokens";
	return NULL;
}
