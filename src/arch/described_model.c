/* described_model.c - a model by a description: its weights one by one, and what reports ask of a configuration. */
#include "arch/config.h"
#include "arch/model_state.h"

#include "base/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- weights ---- */

/* The stage that uses a weight first, and what for. */
struct use {
	uint32_t weight;
	enum st_scope scope; /* of a weight that no stage uses: behind the layers, or in them */
	uint32_t order;      /* of the stage in the page; UINT32_MAX: no stage uses it */
	enum st_stage stage;
	enum st_weight_kind kind;
};

static enum st_weight_kind kind_of(enum st_operation op, uint32_t i)
{
	switch (op) {
	case ST_OPERATION_embed:
	case ST_OPERATION_embed_position:
		return ST_WEIGHT_EMBEDDING;
	case ST_OPERATION_linear:
	case ST_OPERATION_linear_at:
		return ST_WEIGHT_MATRIX;
	case ST_OPERATION_rmsnorm:
		return ST_WEIGHT_NORM;
	case ST_OPERATION_layernorm:
		return i ? ST_WEIGHT_BIAS : ST_WEIGHT_NORM;
	case ST_OPERATION_bias:
	case ST_OPERATION_top:
		return ST_WEIGHT_BIAS;
	default:
		return ST_WEIGHT_OTHER;
	}
}

static int by_use(const void *x, const void *y)
{
	const struct use *a = x, *b = y;
	if (a->scope != b->scope)
		return a->scope < b->scope ? -1 : 1;
	if (a->order != b->order)
		return a->order < b->order ? -1 : 1;
	return (a->weight > b->weight) - (a->weight < b->weight);
}

/* The weights of the page in the order in which its stages use them. A weight of the model that layers use stands behind
 * them. */
static void find_uses(const struct st_described *d, struct use *uses)
{
	const struct st_family *f = d->family;
	for (uint32_t i = 0; i < f->n_weights; i++)
		uses[i] = (struct use){ i, ST_SCOPE_AFTER, UINT32_MAX, ST_STAGE_EMBEDDING, ST_WEIGHT_OTHER };
	for (uint32_t i = 0; i < f->n_stages; i++) {
		const struct st_family_stage *s = &f->stages[i];
		for (uint32_t k = 0; k < s->n_w; k++) {
			struct use *u = &uses[s->w[k].weight];
			if (u->order != UINT32_MAX)
				continue;
			*u = (struct use){ u->weight, s->scope, i, d->stage[s->name], kind_of(s->op, k) };
		}
	}
	for (uint32_t i = 0; i < f->n_weights; i++)
		if (f->weights[i].per_layer)
			uses[i].scope = ST_SCOPE_LAYER;
		else if (uses[i].scope == ST_SCOPE_LAYER)
			uses[i].scope = ST_SCOPE_AFTER;
	qsort(uses, f->n_weights, sizeof *uses, by_use);
}

/* "model.layers.3.self_attn.qkv_proj.weight[q]": the name in Hugging Face's convention; of a part, which one. */
static void canonical(const struct st_family_weight *fw, struct st_weight *w)
{
	enum st_spelling where = fw->n_sources[ST_SPELLING_CONFIG] ? ST_SPELLING_CONFIG : ST_SPELLING_GGUF;
	const struct st_source *src = fw->n_sources[where] ? &fw->sources[where][0] : NULL;
	const char *name = src ? src->name : fw->name;
	bool part = false;
	for (uint32_t i = 0; src && i < src->n_steps; i++) {
		enum st_source_op op = src->steps[i].op;
		part |= op == ST_SOURCE_ROWS || op == ST_SOURCE_STRIDE || op == ST_SOURCE_EACH;
	}
	size_t n = st_source_spell(name, w->layer, w->expert, w->canonical, sizeof w->canonical);
	if (part && n < sizeof w->canonical)
		n += (size_t)snprintf(w->canonical + n, sizeof w->canonical - n, "[%s]", fw->name);
	if (w->expert >= 0 && !strchr(name, '@') && n < sizeof w->canonical)
		snprintf(w->canonical + n, sizeof w->canonical - n, "[%" PRId32 "]", w->expert);
}

/* Every expert of a stack is a weight. */
static enum st_status add_stack(struct st_model *m, const struct st_family_weight *fw, const struct st_weight *w,
                                struct st_weight **stack, struct st_error *err)
{
	*stack = st_arena_alloc(&m->arena, w->n_experts, sizeof **stack);
	struct st_tensor *named = st_arena_alloc(&m->arena, w->n_experts, sizeof *named);
	ST_NEED(*stack && named);
	bool one_tensor = w->n_experts > 1 && strcmp(w->experts[0].name, w->experts[1].name) == 0;
	for (uint32_t e = 0; e < w->n_experts; e++) {
		struct st_weight *one = &(*stack)[e];
		*one = *w;
		named[e] = w->experts[e];
		if (one_tensor)
			named[e].name = st_arena_printf(&m->arena, "%s[%" PRIu32 "]", w->experts[e].name, e);
		ST_NEED(named[e].name);
		one->tensor = &named[e];
		one->experts = NULL;
		one->n_experts = 0;
		one->expert = (int32_t)e;
		canonical(fw, one);
		m->bound[m->n_bound++] = one;
	}
	return ST_OK;
}

static enum st_status add_place(struct st_model *m, const struct use *use, uint32_t layer, struct st_error *err)
{
	const struct st_family_weight *fw = &m->described->family->weights[use->weight];
	struct st_weight *w = &m->described->weights[use->weight][layer];
	w->name = fw->name;
	w->role = st_role_called(fw->name);
	w->expert = -1;
	w->kind = use->kind;
	w->stage = use->stage;
	canonical(fw, w);
	if (w->n_experts)
		return add_stack(m, fw, w, &m->stacks[use->weight][layer], err);
	if (w->tensor)
		m->bound[m->n_bound++] = w;
	return ST_OK;
}

static enum st_status add_scope(struct st_model *m, const struct use *uses, enum st_scope scope, uint32_t layer,
                                struct st_error *err)
{
	for (uint32_t i = 0; i < m->described->family->n_weights; i++)
		if (uses[i].scope == scope)
			ST_TRY(add_place(m, &uses[i], layer, err));
	return ST_OK;
}

static enum st_status list_weights(struct st_model *m, struct st_error *err)
{
	const struct st_described *d = m->described;
	const struct st_family *f = d->family;
	uint64_t n = 0;
	for (uint32_t i = 0; i < f->n_weights; i++)
		for (uint32_t l = 0; l < (f->weights[i].per_layer ? d->n_layers : 1); l++)
			n += d->weights[i][l].n_experts ? d->weights[i][l].n_experts : 1;
	struct use *uses = st_arena_alloc(&m->arena, f->n_weights, sizeof *uses);
	m->bound = st_arena_alloc(&m->arena, n, sizeof *m->bound);
	m->stacks = st_arena_alloc(&m->arena, f->n_weights, sizeof *m->stacks);
	ST_NEED(uses && m->bound && m->stacks);
	for (uint32_t i = 0; i < f->n_weights; i++) {
		m->stacks[i] = st_arena_alloc(&m->arena, f->weights[i].per_layer ? d->n_layers : 1, sizeof **m->stacks);
		ST_NEED(m->stacks[i]);
	}
	m->n_weights = n;
	find_uses(d, uses);
	ST_TRY(add_scope(m, uses, ST_SCOPE_BEFORE, 0, err));
	for (uint32_t l = 0; l < d->n_layers; l++)
		ST_TRY(add_scope(m, uses, ST_SCOPE_LAYER, l, err));
	return add_scope(m, uses, ST_SCOPE_AFTER, 0, err);
}

const struct st_weight *st_described_place(const struct st_model *m, const char *name, int32_t layer, int32_t expert)
{
	const struct st_described *d = m->described;
	uint32_t i = name ? st_family_find_weight(d->family, name) : ST_FAMILY_NONE;
	if (i == ST_FAMILY_NONE)
		return NULL;
	bool per_layer = d->family->weights[i].per_layer;
	uint32_t l = per_layer ? (uint32_t)layer : 0;
	if (per_layer && (layer < 0 || l >= d->n_layers))
		return NULL;
	const struct st_weight *w = &d->weights[i][l];
	if (!w->n_experts)
		return expert < 0 ? w : NULL;
	return expert >= 0 && (uint32_t)expert < w->n_experts ? &m->stacks[i][l][expert] : NULL;
}

/* ---- tensors that no weight is ---- */

/* Whether a tensor would be a weight if there were more layers. */
static bool is_of_more_layers(const struct st_described *d, const struct st_name_parts *of)
{
	enum st_spelling where = st_described_columns(d);
	for (uint32_t i = 0; i < d->family->n_weights && of->layer >= (int32_t)d->n_layers; i++)
		for (uint32_t k = 0; k < d->family->weights[i].n_sources[where]; k++) {
			char name[256];
			struct st_name_parts p;
			(void)st_source_spell(d->family->weights[i].sources[where][k].name, of->layer, 0, name, sizeof name);
			st_name_take_apart(name, &p);
			if (p.layer == of->layer && strcmp(p.stem, of->stem) == 0 && strcmp(p.last, of->last) == 0)
				return true;
		}
	return false;
}

/* Says behind the container's description how many weights are there in name alone, and where the embedding was found. */
static enum st_status say_empty_and_tied(struct st_model *m, struct st_error *err)
{
	const struct st_described *d = m->described;
	size_t n = 0;
	for (size_t i = 0; i < m->c->n_tensors; i++)
		n += d->uses[i].fit != ST_FIT_UNUSED && m->c->tensors[i].n_elems == 0;
	if (n) {
		char *said = st_arena_printf(&m->c->arena, "%s, %zu empty tensor%s", m->c->describe, n, n > 1 ? "s" : "");
		ST_NEED(said);
		m->c->describe = said;
	}
	if (d->stands_for_embed) {
		char *said = st_arena_printf(&m->c->arena, "%s, embedding read from %s, to which it is tied", m->c->describe,
		                             d->stands_for_embed->name);
		ST_NEED(said);
		m->c->describe = said;
	}
	return ST_OK;
}

/* A tensor of the text model that nothing reads is a part of the arithmetic that is missing; those of other parts of a
 * larger model (vision, audio, heads of other tasks) are listed. */
static enum st_status refuse_unused(struct st_model *m, struct st_error *err)
{
	const struct st_described *d = m->described;
	m->unread = st_arena_alloc(&m->arena, d->n_unread, sizeof *m->unread);
	ST_NEED(m->unread);
	for (; m->n_unread < d->n_unread; m->n_unread++) {
		const char *key = d->unread[m->n_unread];
		m->unread[m->n_unread] = st_arena_strndup(&m->arena, key, strlen(key));
		ST_NEED(m->unread[m->n_unread]);
	}
	m->unused = st_arena_alloc(&m->arena, m->c->n_tensors, sizeof *m->unused);
	ST_NEED(m->unused);
	for (size_t i = 0; i < m->c->n_tensors; i++)
		if (d->uses[i].fit == ST_FIT_UNUSED && st_are_frequencies(m->c->tensors[i].name))
			m->unused[m->n_unused++] = &m->c->tensors[i];
	for (size_t i = 0; i < d->n_unused; i++) {
		const struct st_tensor *t = st_container_find(m->c, d->unused[i]);
		struct st_name_parts p;
		st_name_take_apart(st_naming_own(d->naming, t), &p);
		m->unused[m->n_unused++] = t;
		if (is_of_more_layers(d, &p)) {
			/* A count too small is a problem of the model, like a weight that is missing: beside another file it
			 * can be named. */
			if (m->described->problem.code == ST_OK)
				(void)st_fail_at(&m->described->problem, ST_ERR_FORMAT, t->offset, t->name,
				                 "is layer %" PRId32 ", but %s is %" PRIu32, p.layer,
				                 d->settings.spelling == ST_SPELLING_GGUF ? "block_count" : "the number of layers",
				                 d->n_layers);
			continue;
		}
		if (p.text && !st_naming_is_beside(d->naming, t))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, t->offset, t->name,
			                  "has no place in the description of %s", d->family->name);
	}
	if (d->n_unread)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, d->unread[0],
		                  "is read by nothing in the description of %s, and may change numbers",
		                  d->family->name);
	return ST_OK;
}

/* ---- the configuration, as far as all families have it ---- */

static const struct {
	const char *key;
	enum st_config_member member;
} known[] = {
	{ "layers", ST_CONFIG_N_LAYERS },       { "hidden", ST_CONFIG_HIDDEN },
	{ "vocab", ST_CONFIG_VOCAB },           { "eps", ST_CONFIG_NORM_EPS },
	{ "heads", ST_CONFIG_N_HEADS },         { "kv_heads", ST_CONFIG_N_KV_HEADS },
	{ "head_dim", ST_CONFIG_HEAD_DIM },     { "ffn", ST_CONFIG_FFN },
	{ "theta", ST_CONFIG_ROPE_THETA },      { "tied", ST_CONFIG_TIED },
	{ "window", ST_CONFIG_SLIDING_WINDOW },
};

/* Those of a rotation that is stretched, which say nothing in others. */
static const struct {
	const char *key;
	enum st_config_member member;
	bool llama3; /* of that kind alone */
} stretched[] = {
	{ "factor", ST_CONFIG_ROPE_FACTOR, false },      { "low_freq", ST_CONFIG_ROPE_LOW_FREQ, true },
	{ "high_freq", ST_CONFIG_ROPE_HIGH_FREQ, true }, { "original", ST_CONFIG_ROPE_ORIGINAL_POSITIONS, true },
};

static void put_number(struct st_config *cfg, enum st_config_member m, double v)
{
	char *at = (char *)cfg + st_config_rows[m].field.offset;
	bool flag = v != 0;
	uint32_t count = v >= 0 && v <= UINT32_MAX ? (uint32_t)v : 0;
	if (st_config_rows[m].field.type == ST_JSON_F64)
		memcpy(at, &v, sizeof v);
	else if (m == ST_CONFIG_TIED)
		memcpy(at, &flag, sizeof flag);
	else
		memcpy(at, &count, sizeof count);
}

const char *st_key_in_reports(const char *key)
{
	static const struct {
		const char *key;
		enum st_config_member member;
	} others[] = { { "rope_type", ST_CONFIG_ROPE_SCALING },
		       { "said_window", ST_CONFIG_SLIDING_WINDOW },
		       { "max_window_layers", ST_CONFIG_WINDOW_FROM_LAYER },
		       { "said_qkv_bias", ST_CONFIG_QKV_BIAS } };
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(known[i].key, key) == 0 && known[i].member != ST_CONFIG_SLIDING_WINDOW)
			return st_config_member_name(known[i].member);
	for (size_t i = 0; i < sizeof stretched / sizeof *stretched; i++)
		if (strcmp(stretched[i].key, key) == 0)
			return st_config_member_name(stretched[i].member);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strcmp(others[i].key, key) == 0)
			return st_config_member_name(others[i].member);
	return key;
}

static void note_origin(struct st_config *cfg, enum st_config_member m, const struct st_described *d, const char *key)
{
	uint32_t k = st_family_find_key(d->family, key);
	if (k != ST_FAMILY_NONE && d->origin[k].key)
		st_config_said(cfg, m, d->origin[k].key, d->origin[k].said);
}

static void fill_rotation(const struct st_described *d, struct st_config *cfg)
{
	const char *kind = st_described_scaling(d);
	cfg->rope_scaling = strcmp(kind, "linear") == 0 ? ST_ROPE_SCALING_LINEAR
	                  : strcmp(kind, "llama3") == 0 ? ST_ROPE_SCALING_LLAMA3
	                                                : ST_ROPE_SCALING_NONE;
	note_origin(cfg, ST_CONFIG_ROPE_SCALING, d, "rope_type");
	for (size_t i = 0; i < sizeof stretched / sizeof *stretched; i++) {
		uint32_t k = st_family_find_key(d->family, stretched[i].key);
		bool counts = stretched[i].llama3 ? cfg->rope_scaling == ST_ROPE_SCALING_LLAMA3
		                                  : cfg->rope_scaling != ST_ROPE_SCALING_NONE;
		if (k == ST_FAMILY_NONE || d->settings.keys[k].kind != ST_SETTING_NUMBER)
			continue;
		note_origin(cfg, stretched[i].member, d, stretched[i].key);
		if (counts)
			put_number(cfg, stretched[i].member, d->settings.keys[k].number);
	}
	if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR && cfg->rope_factor == 1) {
		cfg->rope_scaling = ST_ROPE_SCALING_NONE;
		cfg->rope_factor = 0;
	}
}

/* From which layer on a window is used; one that no layer uses is none. */
static void fill_window(struct st_model *m)
{
	const struct st_graph *g = &m->described->graph;
	uint32_t i = 0;
	while (i < g->n_nodes && (g->nodes[i].op != ST_OP_SCORES || g->nodes[i].window == 0))
		i++;
	if (g->n_nodes && i == g->n_nodes)
		m->cfg.sliding_window = 0;
	else if (g->n_nodes && m->cfg.sliding_window)
		m->cfg.window_from_layer = (uint32_t)g->nodes[i].layer;
}

/* Keys that say another thing in each layer have no one value here. */
void st_config_of(const struct st_described *d, struct st_config *cfg)
{
	*cfg = (struct st_config){ .bos = -1, .eos = -1 };
	snprintf(cfg->arch, sizeof cfg->arch, "%s", d->family->name);
	st_config_said(cfg, ST_CONFIG_ARCH, st_described_arch_key(d->c), true);
	struct st_settings whole = st_described_at(d, -1);
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		uint32_t k = st_family_find_key(d->family, known[i].key);
		if (k == ST_FAMILY_NONE)
			continue;
		struct st_setting v = d->settings.keys[k];
		struct st_error none = ST_ERROR_INIT;
		if (d->family->keys[k].type == ST_KEY_LET
		    && st_expression_value(&d->family->keys[k].let, &whole, &v, &none) != ST_OK)
			continue;
		if (v.kind == ST_SETTING_NUMBER)
			put_number(cfg, known[i].member, v.number);
		if (d->origin[k].key)
			st_config_said(cfg, known[i].member, d->origin[k].key, d->origin[k].said);
		if (known[i].member == ST_CONFIG_TIED && d->origin[k].said)
			cfg->tie_said = v.number != 0 ? ST_TIE_YES : ST_TIE_NO;
	}
	fill_rotation(d, cfg);
	note_origin(cfg, ST_CONFIG_SLIDING_WINDOW, d, "said_window");
	note_origin(cfg, ST_CONFIG_WINDOW_FROM_LAYER, d, "max_window_layers");
	note_origin(cfg, ST_CONFIG_QKV_BIAS, d, "said_qkv_bias");
}

static enum st_status fill_config(struct st_model *m, struct st_error *err)
{
	const struct st_described *d = m->described;
	struct st_config *cfg = &m->cfg;
	st_config_of(d, cfg);
	cfg->n_layers = d->n_layers;
	cfg->vocab = d->vocab;
	const struct st_weight *head = st_described_place(m, "head", -1, -1),
			       *bias = st_described_place(m, "q_bias", 0, -1), *norm = st_described_place(m, "q_norm", 0, -1);
	cfg->tied = !head || !head->tensor;
	cfg->qkv_bias = bias && bias->tensor;
	cfg->qk_norm = norm && norm->tensor;
	fill_window(m);
	if (m->c->format == ST_FORMAT_GGUF) {
		char key[96];
		uint64_t v = 0;
		bool found;
		snprintf(key, sizeof key, "%.60s.context_length", d->settings.model);
		ST_TRY(st_kv_u64(&m->c->keys, key, &v, &found, err));
		cfg->max_positions = v <= UINT32_MAX ? (uint32_t)v : 0;
		st_config_said(cfg, ST_CONFIG_MAX_POSITIONS, key, found);
		return st_config_gguf_names(m->c, cfg, err);
	}
	const json_t *o = st_described_config(m->c);
	bool found, apr = m->c->format == ST_FORMAT_APR;
	ST_TRY(st_config_json_member(o, apr, ST_CONFIG_MAX_POSITIONS, cfg, &found, err));
	ST_TRY(st_config_json_names(o, apr, cfg, err));
	if (!apr && o != m->c->docs.config && cfg->eos < 0 && cfg->bos < 0)
		ST_TRY(st_config_json_names(m->c->docs.config, false, cfg, err));
	if (apr || !m->c->docs.generation_config)
		return ST_OK;
	uint32_t own = cfg->eos < 0 ? UINT32_MAX : cfg->n_eos_also;
	ST_TRY(st_config_json_id(m->c->docs.generation_config, false, ST_CONFIG_EOS, cfg, err));
	cfg->n_eos_generation = cfg->n_eos_also > own ? cfg->n_eos_also - own : 0;
	return ST_OK;
}

/* Whether a line of the page is the place of a failure. */
static bool blames_page(const struct st_model *m, const struct st_error *err)
{
	size_t n = strlen(m->page->file);
	return strncmp(err->path, m->page->file, n) == 0 && err->path[n] == ':';
}

/* What does not fit a built-in page is wrong with the model; the line of the page is the place. */
static void blame_model(const struct st_model *m, struct st_error *err)
{
	char place[sizeof err->where];
	if (err->code == ST_OK || !m->page || !m->page->built_in || err->where[0] || !blames_page(m, err))
		return;
	snprintf(place, sizeof place, "%.*s", (int)sizeof place - 1, err->path);
	memcpy(err->where, place, sizeof place);
	snprintf(err->path, sizeof err->path, "%s", m->c->path);
}

enum st_status st_model_bind_described(struct st_model *m, struct st_error *err)
{
	enum st_status st = st_described_open_partial(m->c, m->page, &m->described, err);
	blame_model(m, err);
	ST_TRY(st);
	blame_model(m, &m->described->problem);
	const struct st_described *d = m->described;
	/* A line of somebody's own page that means nothing is at fault itself, and not the tensors that it leaves over. */
	if (d->problem.code != ST_OK && !m->page->built_in && blames_page(m, &d->problem)) {
		*err = d->problem;
		return err->code;
	}
	m->gguf_names = d->naming->gguf;
	ST_TRY(st_naming_say(d->naming, m->c, err));
	ST_TRY(say_empty_and_tied(m, err));
	ST_TRY(list_weights(m, err));
	ST_TRY(fill_config(m, err));
	ST_TRY(refuse_unused(m, err));
	m->problem = d->problem;
	if (m->problem.code == ST_OK)
		m->graph = d->graph;
	return ST_OK;
}
