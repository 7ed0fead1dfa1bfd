/*
 * settings.c - the keys of two models of one family, by its description.
 *
 * What a key changes is not written down anywhere: it is the first stage whose parameters, conditions or shapes name it,
 * and it matters where that stage differs between the two graphs.
 */
#include "compare/settings.h"

#include "arch/arch.h"
#include "arch/described.h"

#include <stdio.h>
#include <string.h>

/* Two models of one family, and the key at hand. */
struct two {
	const struct st_described *a, *b;
	uint32_t key;
};

/* Whether an expression depends on the key and has another value in the two models, in any layer. */
static bool tells_apart(const struct two *t, const struct st_expression *e)
{
	const struct st_family *f = t->a->family;
	if (!e->n || !st_expression_names(f, e, t->key))
		return false;
	uint32_t layers = t->a->n_layers < t->b->n_layers ? t->a->n_layers : t->b->n_layers;
	for (int32_t l = -1; l < (int32_t)layers; l++) {
		struct st_settings sa = st_described_at(t->a, l), sb = st_described_at(t->b, l);
		struct st_setting x, y;
		struct st_error ea = ST_ERROR_INIT, eb = ST_ERROR_INIT;
		bool has = st_expression_value(e, &sa, &x, &ea) == ST_OK,
		     other = st_expression_value(e, &sb, &y, &eb) == ST_OK;
		if (has != other || (has && !st_setting_same(&x, &y)))
			return true;
	}
	return false;
}

/* A parameter that a stage does not give is the key of the same name. */
static bool takes_by_name(const struct two *t, const struct st_family_stage *s)
{
	const struct st_family *f = t->a->family;
	const char *const *p = st_operation_info(s->op)->params;
	for (; *p; p++) {
		uint32_t k = st_family_find_key(f, *p);
		if (k == ST_FAMILY_NONE || st_family_param(s, *p))
			continue;
		if (k == t->key || tells_apart(t, &f->keys[k].let))
			return true;
	}
	return false;
}

static bool stage_tells_apart(const struct two *t, const struct st_family_stage *s)
{
	for (uint32_t i = 0; i < s->n_params; i++)
		if (tells_apart(t, &s->params[i].value))
			return true;
	for (uint32_t i = 0; i < s->n_when; i++)
		if (tells_apart(t, s->when[i]))
			return true;
	for (uint32_t i = 0; i < s->n_w; i++) {
		const struct st_family_weight *w = &t->a->family->weights[s->w[i].weight];
		bool named = tells_apart(t, &w->condition);
		for (uint32_t k = 0; k < w->rank; k++)
			named |= tells_apart(t, &w->shape[k]);
		if (named)
			return true;
	}
	return takes_by_name(t, s);
}

/* ---- values ---- */

/* A value of a key in a layer: a list says one for each. */
static const struct st_setting *in_layer(const struct st_setting *v, uint32_t layer)
{
	return v->kind == ST_SETTING_LIST && layer < v->n ? &v->items[layer] : v;
}

static bool same_setting(const struct st_described *a, const struct st_described *b, uint32_t key)
{
	const struct st_setting *x = &a->settings.keys[key], *y = &b->settings.keys[key];
	if (a->family->keys[key].type == ST_KEY_SET || a->n_layers != b->n_layers)
		return st_setting_same(x, y);
	for (uint32_t l = 0; l < a->n_layers; l++)
		if (!st_setting_same(in_layer(x, l), in_layer(y, l)))
			return false;
	return true;
}

static size_t show(const struct st_setting *v, bool flag, char *buf, size_t n)
{
	size_t used = 0;
	if (v->kind == ST_SETTING_TEXT)
		used = (size_t)snprintf(buf, n, "%s", v->text[0] ? v->text : "none");
	else if (v->kind == ST_SETTING_NUMBER && flag)
		used = (size_t)snprintf(buf, n, "%s", v->number != 0 ? "true" : "false");
	else if (v->kind == ST_SETTING_NUMBER)
		used = (size_t)snprintf(buf, n, "%.9g", v->number);
	else
		buf[used++] = '[';
	for (size_t i = 0; v->kind == ST_SETTING_LIST && i < v->n && used + 8 < n; i++) {
		used += (size_t)snprintf(buf + used, n - used, "%s", i ? ", " : "");
		used += used < n ? show(&v->items[i], flag, buf + used, n - used) : 0;
	}
	if (v->kind == ST_SETTING_LIST)
		used += used < n ? (size_t)snprintf(buf + used, n - used, "]") : 0;
	return used;
}

/* ---- what a difference does ---- */

enum effect { NOTHING, OTHER_PROMPTS, THESE_TOKENS };

/* The worst that a stage's nodes show, in graphs of one form. */
static enum effect effect_on(const struct st_graph *a, const struct st_graph *b, enum st_stage stage, size_t positions)
{
	enum effect worst = NOTHING;
	for (uint32_t i = 0; i < b->n_nodes; i++) {
		if (b->nodes[i].stage != stage || st_node_same_parameters(&a->nodes[i], &b->nodes[i], 0))
			continue;
		if (!st_node_same_parameters(&a->nodes[i], &b->nodes[i], positions))
			return THESE_TOKENS;
		worst = OTHER_PROMPTS;
	}
	return worst;
}

/* The first stage that a key changes, and how; without two graphs of one form, the first that names it. */
static enum effect effect_of(const struct two *t, const struct st_graph *a, const struct st_graph *b, size_t positions,
                             enum st_stage *stage)
{
	const struct st_family *f = t->a->family;
	enum effect worst = NOTHING;
	for (uint32_t i = 0; i < f->n_stages && worst != THESE_TOKENS; i++) {
		if (!stage_tells_apart(t, &f->stages[i]))
			continue;
		enum st_stage s = t->a->stage[f->stages[i].name];
		enum effect e = a && b ? effect_on(a, b, s, positions) : THESE_TOKENS;
		if (e > worst)
			*stage = s;
		worst = e > worst ? e : worst;
	}
	return worst;
}

/* Whether a key is a number of the rotation of one of them, and says nothing in the other, whose rotation is of another
 * kind: then it is told, but does not matter beside the kind. */
static bool of_one_rotation(const struct two *t, const char *key)
{
	static const struct {
		const char *key;
		bool llama3; /* of that kind alone */
	} numbers[] = { { "factor", false }, { "low_freq", true }, { "high_freq", true }, { "original", true } };
	const char *a = st_described_scaling(t->a), *b = st_described_scaling(t->b);
	bool llama3 = strcmp(a, "llama3") == 0 || strcmp(b, "llama3") == 0;
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (strcmp(key, numbers[i].key) == 0)
			return strcmp(a, b) != 0 && (llama3 || !numbers[i].llama3);
	return false;
}

/* Whether a key that one of the two kinds of files has no name for acts where one that is told already does: then it comes
 * from that. */
static bool is_told_by_another(const struct two *t, const struct st_config_diff *told, size_t n, enum st_stage stage)
{
	const struct st_family_key *k = &t->a->family->keys[t->key];
	bool both = k->n_spelled[t->a->settings.spelling] && k->n_spelled[t->b->settings.spelling];
	for (size_t i = 0; i < n && !both; i++)
		if (told[i].may_matter && !told[i].matters && told[i].stage == stage)
			return true;
	return false;
}

size_t st_compare_settings(const struct st_model *ma, const struct st_model *mb, bool one_form, size_t positions,
                           struct st_config_diff out[ST_MAX_CONFIG_DIFFS])
{
	static const enum st_config_member beside[] = { ST_CONFIG_NAME, ST_CONFIG_VOCAB, ST_CONFIG_MAX_POSITIONS,
		                                        ST_CONFIG_BOS, ST_CONFIG_EOS };
	const struct st_described *a = st_model_described(ma), *b = st_model_described(mb);
	const struct st_graph *ga = one_form ? st_model_graph(ma) : NULL, *gb = one_form ? st_model_graph(mb) : NULL;
	struct st_config_diff all[ST_MAX_CONFIG_DIFFS];
	size_t n = 0, n_all = st_compare_configs(st_model_config(ma), st_model_config(mb), positions, all);
	for (size_t i = 0; i < n_all; i++)
		for (size_t k = 0; k < sizeof beside / sizeof *beside; k++)
			if (strcmp(all[i].key, st_config_member_name(beside[k])) == 0)
				out[n++] = all[i];
	for (uint32_t i = 0; i < a->family->n_keys && n < ST_MAX_CONFIG_DIFFS; i++) {
		const struct st_family_key *k = &a->family->keys[i];
		const struct two two = { a, b, i };
		const bool one = of_one_rotation(&two, k->name);
		if (k->type == ST_KEY_LET || strcmp(k->name, "vocab") == 0 || (same_setting(a, b, i) && !one))
			continue;
		struct st_config_diff *d = &out[n];
		*d = (struct st_config_diff){ .key = st_key_in_reports(k->name), .stage = ST_STAGE_FINAL_NORM };
		enum effect e = strcmp(k->name, "layers") == 0 ? THESE_TOKENS
		                                               : effect_of(&two, ga, gb, positions, &d->stage);
		if (e == NOTHING && !one) /* one function in two spellings; what weights follow from it, these show */
			continue;
		if (e == OTHER_PROMPTS && is_told_by_another(&two, out, n, d->stage))
			continue;
		d->matters = e == THESE_TOKENS && !one;
		d->may_matter = !one;
		const struct st_described *const side[2] = { a, b };
		for (int s = 0; s < 2; s++) {
			const struct st_setting_origin *o = &side[s]->origin[i];
			struct st_config_origin *from = s ? &d->from_b : &d->from_a;
			if (one && strcmp(st_described_scaling(side[s]), "none") == 0)
				snprintf(s ? d->b : d->a, sizeof d->a, "0");
			else
				show(&side[s]->settings.keys[i], k->type == ST_KEY_FLAG, s ? d->b : d->a, sizeof d->a);
			from->said = o->said;
			snprintf(from->key, sizeof from->key, "%s", o->key ? o->key : "");
		}
		n++;
	}
	return n;
}

/* "1", "2 to 4" behind what stands there. */
static void add_run(char *buf, size_t n, uint32_t first, uint32_t last)
{
	size_t used = strlen(buf);
	if (used + 32 > n) { /* too many to be told */
		if (used && buf[used - 1] != '.')
			snprintf(buf + used, n - used, ", ...");
		return;
	}
	snprintf(buf + used, n - used, "%s%u", used ? ", " : "", first);
	used = strlen(buf);
	if (last > first)
		snprintf(buf + used, n - used, "%s%u", last == first + 1 ? ", " : " to ", last);
}

void st_find_layers(const struct st_graph *a, const struct st_graph *b, struct st_config_diff *d, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t first = UINT32_MAX, last = 0, changed = 0, all = 0;
		d[i].layer = -1;
		d[i].layers[0] = '\0';
		for (uint32_t k = 0; k < b->n_nodes; k++) {
			const struct st_node *x = &a->nodes[k], *y = &b->nodes[k];
			if (y->stage != d[i].stage || y->layer < 0)
				continue;
			all++;
			if (st_node_same_parameters(x, y, 0))
				continue;
			uint32_t layer = (uint32_t)y->layer;
			if (changed++ == 0) {
				d[i].layer = y->layer;
				first = layer;
			} else if (layer > last + 1) {
				add_run(d[i].layers, sizeof d[i].layers, first, last);
				first = layer;
			}
			last = layer;
		}
		if (changed && changed == all)
			snprintf(d[i].layers, sizeof d[i].layers, "all");
		else if (changed)
			add_run(d[i].layers, sizeof d[i].layers, first, last);
	}
}
