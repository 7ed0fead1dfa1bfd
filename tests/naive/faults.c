/* faults.c - the table of mistakes, and which of them a model can be given. */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct fault_row fault_table[FAULTS] = {
	{ 0 },
#define FAULT(id, name, targets, values, needs, stage, also, says, what) \
	{ name, targets, values, needs, stage, also, says, what },
#include "faults.def"
};

bool model_has(const struct model *m, size_t l, const char *word)
{
	const struct weight *w = m->w[l];
	bool qk_norm = w[Q_NORM].v != NULL, moe = m->experts[l];
	const struct {
		const char *word;
		bool has;
	} words[] = {
		{ "rms", !m->layernorm },
		{ "layernorm", m->layernorm },
		{ "turns", m->turns[l] },
		{ "nope", m->rotates && !m->turns[l] },
		{ "stretch",
		  m->rope.stretch != STRETCH_NONE && !(m->local[l] && m->local_rope.stretch == STRETCH_NONE) },
		{ "no_stretch", m->rope.stretch == STRETCH_NONE },
		{ "qk_norm", qk_norm },
		{ "no_qk_norm", !qk_norm },
		{ "gqa", m->G > 1 && m->H > m->G },
		{ "heads", m->H > 1 },
		{ "local", m->local[l] },
		{ "no_local", !m->local[l] },
		{ "cap", m->cap > 0 },
		{ "no_cap", m->cap == 0 },
		{ "final_cap", m->final_cap > 0 },
		{ "no_final_cap", m->final_cap == 0 },
		{ "gated", m->gated },
		{ "moe", moe },
		{ "sigmoid", moe && m->expert_kind == EXPERTS_SIGMOID },
		{ "groups", moe && m->groups > 1 },
		{ "router_bias", moe && w[ROUTER_BIAS].v },
		{ "shared", moe && w[SHARED_UP].v },
		{ "alibi", m->slopes > 0 },
		{ "no_latent", m->latent == 0 },
		{ "alibi_odd", m->slopes > 0 && (m->H & (m->H - 1)) != 0 },
		{ "clamp", m->limit > 0 },
		{ "no_clamp", m->limit == 0 },
		{ "sinks", w[SINKS].v != NULL },
		{ "no_sinks", w[SINKS].v == NULL },
		{ "tied", m->w[0][HEAD].v == NULL },
		{ "untied", m->w[0][HEAD].v != NULL },
		{ "positions", m->w[0][POSITIONS].v != NULL },
		{ "parallel", m->parallel },
		{ "sequential", !m->parallel && !m->no_pre_norm },
		{ "layers", l + 1 < m->L },
		{ "last", l + 1 == m->L },
		{ "all", true },
		{ "f32", !m->gguf },
		{ "wide", m->D >= 16 },
		{ "long", true },   /* of the tokens: the caller sees to it */
		{ "beyond", true }, /* likewise: more than the window */
		{ "decode", true },
	};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (strcmp(words[i].word, word) == 0)
			return words[i].has;
	fprintf(stderr, "naive: nobody knows the word '%s'\n", word);
	exit(2);
}

static int slot_of(const char *name)
{
	for (int s = 0; s < SLOTS; s++)
		if (strcmp(slot_names[s], name) == 0)
			return s;
	return -1;
}

/* Whether the layer computes that stage. */
static bool computes(const struct model *m, size_t l, const char *stage)
{
	const struct weight *w = m->w[l];
	bool moe = m->experts[l], mixtral = strcmp(m->family, "mixtral") == 0;
	if (strcmp(stage, "attn_norm") == 0)
		return w[ATTN_NORM].v;
	if (strcmp(stage, "ffn_norm") == 0)
		return w[FFN_NORM].v;
	if (strcmp(stage, "q_post_norm") == 0 || strcmp(stage, "k_post_norm") == 0)
		return w[Q_NORM].v;
	if (strcmp(stage, "post_attn_norm") == 0)
		return w[POST_ATTN_NORM].v;
	if (strcmp(stage, "qkv_matmul") == 0)
		return !m->latent;
	if (strcmp(stage, "kv_latent_norm") == 0)
		return m->latent;
	if (strcmp(stage, "q_post_rope") == 0)
		return m->turns[l];
	if (strcmp(stage, "qkv_bias") == 0)
		return w[Q_BIAS].v;
	if (strcmp(stage, "post_attn_residual") == 0)
		return !m->parallel;
	if (strcmp(stage, "expert_gate") == 0)
		return moe && !mixtral;
	if (strcmp(stage, "ffn_gate") == 0 || strcmp(stage, "ffn_swigl") == 0)
		return m->gated && (!moe || mixtral);
	if (strcmp(stage, "ffn_up") == 0)
		return !moe || mixtral;
	if (strcmp(stage, "ffn_out") == 0)
		return !moe || mixtral || w[SHARED_UP].v;
	return true;
}

bool fault_fits(const struct model *m, enum fault f, size_t l, const char *target)
{
	const struct fault_row *r = &fault_table[f];
	const struct weight *w = m->w[l];
	char word[32];
	int s = slot_of(target);
	const struct weight *t = s < 0 ? NULL : s == HEAD ? &m->w[0][m->w[0][HEAD].v ? HEAD : EMBED] : &w[s];
	bool by_weight = r->stage[0] == '*', by_bias = strcmp(r->stage, "@bias") == 0;
	if (by_bias)
		t = s == Q || s == K || s == V ? &w[Q_BIAS + (s - Q)]
		  : s == O                     ? &w[O_BIAS]
		                               : &w[GATE_BIAS + (s - GATE)];
	if ((by_weight || by_bias) && !t->v)
		return false;
	if (strcmp(r->stage, "@") == 0 && strcmp(target, "all") != 0 && !computes(m, l, target))
		return false;
	for (const char *p = r->needs; *p != '\0';) {
		size_t n = strcspn(p, " ");
		snprintf(word, sizeof word, "%.*s", (int)n, p);
		p += n + (p[n] == ' ');
		bool ok = strcmp(word, "bias") == 0   ? t->v != NULL
		        : strcmp(word, "square") == 0 ? w[O].rows == w[Q].rows && w[O].cols == w[Q].cols
		        : strcmp(word, "block") == 0  ? t->cols % 32 == 0
		        : strcmp(word, "same") == 0
		                ? l + 1 < m->L && m->w[l + 1][s].rows == t->rows && m->w[l + 1][s].cols == t->cols
		                : model_has(m, l, word);
		if (!ok)
			return false;
	}
	if ((f == FAULT_W_BLOCK_SCALE || f == FAULT_KERNEL_PARTIAL_SUM) && t->cols < 16)
		return false;
	/* Both of a layer's norms, or both of Q and K, are needed where they are exchanged. */
	if (f == FAULT_NORM_WRONG_WEIGHT && strcmp(target, "q_post_norm") != 0 && !(w[ATTN_NORM].v && w[FFN_NORM].v))
		return false;
	if ((f == FAULT_NORM_WRONG_WEIGHT || f == FAULT_NORM_PER_HEAD) && m->qk_norm_whole
	    && strcmp(target, "q_post_norm") == 0 && f == FAULT_NORM_WRONG_WEIGHT)
		return false;
	return true;
}

bool planted_parse(const char *text, struct planted *out)
{
	char name[96];
	size_t n = strcspn(text, ":=");
	*out = (struct planted){ .value = NAN, .layer = -1, .truth = NAN };
	snprintf(name, sizeof name, "%.*s", (int)n, text);
	for (int f = 1; f < FAULTS; f++)
		if (strcmp(fault_table[f].name, name) == 0)
			out->fault = (enum fault)f;
	if (out->fault == FAULT_NONE)
		return false;
	const struct fault_row *r = &fault_table[out->fault];
	const char *p = text + n;
	const char *target = *p == ':' ? p + 1 : r->targets;
	snprintf(out->target, sizeof out->target, "%.*s", (int)strcspn(target, " ="), target);
	p += strcspn(p, "=");
	const char *value = *p == '=' ? p + 1 : r->values;
	if (*value != '\0')
		out->value = strtod(value, NULL);
	return true;
}

void fault_code(enum fault f, char *buf, size_t n)
{
	snprintf(buf, n, "%.*s", (int)strcspn(fault_table[f].name, "/"), fault_table[f].name);
}
