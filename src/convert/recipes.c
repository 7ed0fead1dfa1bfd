/*
 * recipes.c - the mixed recipes of llama.cpp: which matrix is stored as which type.
 *
 * The recipes are those of llama.cpp's quantiser for dense models (its names, its rules, its numbers in
 * general.file_type). A matrix takes its recipe's base type but where a rule says otherwise; the first rule counts.
 */
#include "convert/job.h"

#include <strings.h>

enum when {
	ALWAYS,
	MORE_BITS,    /* the first and last eighth of the layers, and every third between */
	FIRST_LAYERS, /* layers below `n` */
	FIRST_PART,   /* layers below n_layers / `n` */
	FEW_KV_HEADS, /* `n` or more query heads to a head of keys and values */
};

struct rule {
	enum st_role role;
	enum when when;
	uint32_t n;
	enum st_dtype type;
};

struct st_recipe {
	const char *name;
	enum st_dtype base;
	uint32_t file_type;
	struct rule rules[6];
	size_t n_rules;
};

/* clang-format off */
#define RULES(...) .rules = { __VA_ARGS__ }, .n_rules = sizeof (struct rule[]){ __VA_ARGS__ } / sizeof(struct rule)

static const struct st_recipe recipes[] = {
	{ "Q2_K_S", ST_DTYPE_Q2_K, 21, RULES(
		{ ST_ROLE_V, FEW_KV_HEADS, 4, ST_DTYPE_Q4_K },
		{ ST_ROLE_DOWN, FIRST_PART, 8, ST_DTYPE_Q4_K }) },
	{ "Q3_K_S", ST_DTYPE_Q3_K, 11, .n_rules = 0 },
	{ "Q3_K_M", ST_DTYPE_Q3_K, 12, RULES(
		{ ST_ROLE_V, FIRST_LAYERS, 2, ST_DTYPE_Q5_K },
		{ ST_ROLE_V, ALWAYS, 0, ST_DTYPE_Q4_K },
		{ ST_ROLE_DOWN, FIRST_PART, 16, ST_DTYPE_Q5_K },
		{ ST_ROLE_DOWN, ALWAYS, 0, ST_DTYPE_Q4_K },
		{ ST_ROLE_O, ALWAYS, 0, ST_DTYPE_Q4_K }) },
	{ "Q3_K_L", ST_DTYPE_Q3_K, 13, RULES(
		{ ST_ROLE_V, ALWAYS, 0, ST_DTYPE_Q5_K },
		{ ST_ROLE_DOWN, ALWAYS, 0, ST_DTYPE_Q5_K },
		{ ST_ROLE_O, ALWAYS, 0, ST_DTYPE_Q5_K }) },
	{ "Q4_K_S", ST_DTYPE_Q4_K, 14, RULES(
		{ ST_ROLE_V, FIRST_LAYERS, 4, ST_DTYPE_Q5_K },
		{ ST_ROLE_DOWN, FIRST_PART, 8, ST_DTYPE_Q5_K }) },
	{ "Q4_K_M", ST_DTYPE_Q4_K, 15, RULES(
		{ ST_ROLE_V, MORE_BITS, 0, ST_DTYPE_Q6_K },
		{ ST_ROLE_DOWN, MORE_BITS, 0, ST_DTYPE_Q6_K }) },
	{ "Q5_K_S", ST_DTYPE_Q5_K, 16, .n_rules = 0 },
	{ "Q5_K_M", ST_DTYPE_Q5_K, 17, RULES(
		{ ST_ROLE_V, MORE_BITS, 0, ST_DTYPE_Q6_K },
		{ ST_ROLE_DOWN, MORE_BITS, 0, ST_DTYPE_Q6_K }) },
};
/* clang-format on */

const struct st_recipe *st_recipe_find(const char *name)
{
	for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
		if (strcasecmp(name, recipes[i].name) == 0)
			return &recipes[i];
	return NULL;
}

const char *st_recipe_at(size_t i) { return i < sizeof recipes / sizeof *recipes ? recipes[i].name : NULL; }

enum st_dtype st_recipe_base(const struct st_recipe *r) { return r->base; }
uint32_t st_recipe_file_type(const struct st_recipe *r) { return r->file_type; }

static bool applies(const struct rule *r, const struct st_config *cfg, uint32_t layer)
{
	uint32_t n = cfg->n_layers, eighth = n / 8;
	switch (r->when) {
	case ALWAYS:
		return true;
	case MORE_BITS:
		return layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
	case FIRST_LAYERS:
		return layer < r->n;
	case FIRST_PART:
		return layer < n / r->n;
	case FEW_KV_HEADS:
		return cfg->n_kv_heads && cfg->n_heads / cfg->n_kv_heads >= r->n;
	}
	return false;
}

enum st_dtype st_recipe_type(const struct st_recipe *r, const struct st_config *cfg, const struct st_job *j)
{
	/* The matrix that makes the logits, which is the embedding where the head is tied. */
	if (j->role == ST_ROLE_HEAD || (j->role == ST_ROLE_EMBED && cfg->tied))
		return st_spec_cols(&j->spec) % ST_BLOCK_MOST == 0 ? ST_DTYPE_Q6_K : ST_DTYPE_Q8_0;
	enum st_dtype t = r->base;
	for (size_t i = 0; i < r->n_rules; i++)
		if (r->rules[i].role == j->role && applies(&r->rules[i], cfg, j->layer)) {
			t = r->rules[i].type;
			break;
		}
	/* Models of 80 layers share V among 8 heads: it is small, and better bits for it cost next to nothing. */
	bool seventy = cfg->n_layers == 80 && cfg->n_heads > cfg->n_kv_heads;
	return j->role == ST_ROLE_V && seventy && (t == ST_DTYPE_Q3_K || t == ST_DTYPE_Q4_K) ? ST_DTYPE_Q5_K : t;
}
