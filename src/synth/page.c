/*
 * page.c - a model of any family that has a page: what the file says, which tensors it holds, and their numbers.
 *
 * The page says how a weight comes out of what a container stores. So the tensors are laid out in memory, empty, and bound
 * by the page as those of a file would be; then every weight's numbers are written through its view, wherever in whichever
 * tensor it lies. What is made here is opened by the page that made it.
 */
#include "synth/page.h"

#include "format/tensors.h"
#include "graph/basis.h"
#include "synth/numbers.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of all tensors as F32: they are made in memory. */
#define MOST_BYTES ((uint64_t)4 << 30)

/* ---- what the file says ---- */

/* Sizes of a small model, by what pages or configurations call the keys: rows that K-quants can store, grouped heads, every kind of layer. */
static const struct {
	const char *key;
	uint32_t value;
	bool always; /* also where the page has a default, which is that of large models */
} small[] = {
	{ "layers", 4, true },       { "hidden", 256, true },   { "ffn", 768, true },
	{ "heads", 4, true },        { "kv_heads", 2, false },  { "said_head_dim", 32, true }, /* of the rotated part */
	{ "head_dim", 64, true },    { "vocab", 640, true },    { "positions", 2048, true },
	{ "experts", 4, true },      { "used", 2, true },       { "expert_ffn", 256, true },
	{ "shared_ffn", 256, true }, { "dk", 64, true },        { "dv", 64, true },
	{ "lk", 4, true },           { "lv", 4, true },         { "inner", 512, false },
	{ "kv_lora", 64, true },     { "lin_dim", 64, true },   { "lin_heads", 4, true },
	{ "rank", 16, false },       { "said_ffn", 768, true }, { "qk_nope_head_dim", 64, true },
	{ "turned", 32, true },      { "value_dim", 64, true }, { "ssm_heads", 8, true },
	{ "states", 16, true },      { "local_kv", 2, false },  { "scalar", 64, true },
	{ "per_layer", 0, true },
};
/* What GGUF has no key for, as its readers take it. */
static const struct {
	const char *key;
	bool value;
} small_flags[] = { { "norm_topk_prob", true }, { "lm_head_bias", true } };
/* Kinds of layers as letters: state space, attention, feed-forward. */
static const struct {
	const char *key, *value;
} small_texts[] = { { "pattern", "M-*-" } };

static bool says(json_t *o, const char *path, json_t *value)
{
	char part[96];
	for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
		snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
		json_t *inner = json_object_get(o, part);
		if (!inner && json_object_set_new(o, part, inner = json_object()) != 0) {
			json_decref(value);
			return false;
		}
		o = inner;
	}
	return json_object_set_new(o, path, value) == 0;
}

/* By the page's name, or by one that configurations have. */
static bool is_called(const struct st_family_key *k, const char *name)
{
	bool yes = strcmp(k->name, name) == 0;
	for (uint32_t i = 0; i < k->n_spelled[ST_SPELLING_CONFIG]; i++)
		yes |= strcmp(k->spelled[ST_SPELLING_CONFIG][i], name) == 0;
	return yes;
}

/* A kind for each layer where the page needs it said. */
static json_t *small_kinds(void)
{
	return json_pack("[s, s, s, s]", "recurrent", "recurrent", "attention", "recurrent");
}

/* NULL: the page's default is small enough. */
static json_t *small_value(const struct st_family_key *k)
{
	bool count = k->type == ST_KEY_COUNT || k->type == ST_KEY_COUNTS;
	for (size_t i = 0; i < sizeof small / sizeof *small && count; i++)
		if (is_called(k, small[i].key) && (small[i].always || !k->absent[ST_SPELLING_CONFIG].n))
			return json_integer(small[i].value);
	for (size_t i = 0; i < sizeof small_flags / sizeof *small_flags && k->type == ST_KEY_FLAG; i++)
		if (strcmp(small_flags[i].key, k->spelled[ST_SPELLING_CONFIG][0]) == 0)
			return json_boolean(small_flags[i].value);
	for (size_t i = 0; i < sizeof small_texts / sizeof *small_texts && !count && k->type != ST_KEY_FLAG; i++)
		if (strcmp(small_texts[i].key, k->name) == 0)
			return json_string(small_texts[i].value);
	bool needed = !k->absent[ST_SPELLING_CONFIG].n;
	/* As many as the heads, where null says so and the default is a large model's. */
	if (k->null.n && strcmp(k->name, "kv_heads") == 0)
		return json_null();
	return needed && strcmp(k->name, "theta") == 0    ? json_real(10000)
	     : needed && strcmp(k->name, "kinds_of") == 0 ? small_kinds()
	                                                  : NULL;
}

static enum st_status small_config(struct st_synth_page *p, struct st_error *err)
{
	const struct st_family *f = p->family;
	const char *type = NULL, *class = NULL;
	for (uint32_t i = 0; i < f->n_names[ST_SPELLING_CONFIG]; i++) {
		const char *name = f->names[ST_SPELLING_CONFIG][i].name, **to = strstr(name, "For") ? &class : &type;
		*to = *to ? *to : name;
	}
	if (!type && !class)
		return st_fail(err, ST_ERR_UNSUPPORTED, "%s is known from GGUF files alone, and cannot be made up", f->name);
	bool ok = (p->config = json_object());
	if (type)
		ok = ok && says(p->config, "model_type", json_string(type));
	if (class)
		ok = ok && says(p->config, "architectures", json_pack("[s]", class));
	for (uint32_t i = 0; ok && i < f->n_keys; i++) {
		const struct st_family_key *k = &f->keys[i];
		json_t *v = k->n_spelled[ST_SPELLING_CONFIG] ? small_value(k) : NULL;
		ok = !v || says(p->config, k->spelled[ST_SPELLING_CONFIG][0], v);
	}
	return ok ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static enum st_status read_settings(struct st_synth_page *p, struct st_error *err)
{
	p->path = st_arena_strndup(&p->arena, "config.json", 11);
	if (!p->path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	p->source = (struct st_container){ .format = ST_FORMAT_SAFETENSORS, .path = p->path };
	p->source.docs.config = p->config;
	p->said.family = p->family;
	p->said.c = &p->source;
	st_arena_init(&p->said.arena);
	p->reading = true;
	ST_TRY(st_described_settings(&p->said, err));
	if (p->said.n_unread)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, p->said.unread[0],
		                  "is read by nothing in the description of %s", p->family->name);
	p->stretched = strcmp(st_described_scaling(&p->said), "none") != 0;
	return ST_OK;
}

/* The value of the key that GGUF spells so. */
static bool asks(const struct st_synth_page *p, const char *spelled, double *out)
{
	for (uint32_t i = 0; i < p->family->n_keys; i++)
		for (uint32_t k = 0; k < p->family->keys[i].n_spelled[ST_SPELLING_GGUF]; k++)
			if (strcmp(p->family->keys[i].spelled[ST_SPELLING_GGUF][k], spelled) == 0)
				return st_synth_page_number(p, p->family->keys[i].name, out);
	return false;
}

bool st_synth_page_number(const struct st_synth_page *p, const char *name, double *out)
{
	uint32_t k = st_family_find_key(p->family, name);
	struct st_setting v = k == ST_FAMILY_NONE ? (struct st_setting){ 0 } : p->said.settings.keys[k];
	struct st_error none = ST_ERROR_INIT;
	if (k != ST_FAMILY_NONE && p->family->keys[k].type == ST_KEY_LET
	    && st_expression_value(&p->family->keys[k].let, &p->said.settings, &v, &none) != ST_OK)
		return false;
	*out = v.number;
	return v.kind == ST_SETTING_NUMBER;
}

bool st_synth_page_say(struct st_synth_page *p, const char *key, double value)
{
	uint32_t k = st_family_find_key(p->family, key);
	const struct st_family_key *f = k == ST_FAMILY_NONE ? NULL : &p->family->keys[k];
	struct st_setting *v = (struct st_setting *)(uintptr_t)&p->said.settings.keys[k == ST_FAMILY_NONE ? 0 : k];
	if (!f || f->type != ST_KEY_REAL || f->n_spelled[ST_SPELLING_CONFIG] == 0 || v->kind != ST_SETTING_NUMBER)
		return false;
	v->number = value;
	return says((json_t *)(uintptr_t)st_described_config(&p->source),
	            p->said.origin[k].said ? p->said.origin[k].key : f->spelled[ST_SPELLING_CONFIG][0],
	            json_real(value));
}

/* The object that holds the member at the end of the path, and that member's name. */
static json_t *holder(json_t *o, const char **path)
{
	char part[96];
	for (const char *dot; o && (dot = strchr(*path, '.')); *path = dot + 1) {
		snprintf(part, sizeof part, "%.*s", (int)(dot - *path), *path);
		o = json_object_get(o, part);
	}
	return o;
}

bool st_synth_page_exchange(struct st_synth_page *p, const char *one, const char *other, bool apply)
{
	uint32_t a = st_family_find_key(p->family, one), b = st_family_find_key(p->family, other);
	if (a == ST_FAMILY_NONE || b == ST_FAMILY_NONE || !p->said.origin[a].said || !p->said.origin[b].said)
		return false;
	json_t *config = (json_t *)(uintptr_t)st_described_config(&p->source);
	const char *x = p->said.origin[a].key, *y = p->said.origin[b].key;
	json_t *in_x = holder(config, &x), *in_y = holder(config, &y);
	json_t *vx = json_object_get(in_x, x), *vy = json_object_get(in_y, y);
	if (!vx || !vy)
		return false;
	if (!apply)
		return true;
	vx = json_incref(vx);
	return json_object_set(in_x, x, vy) == 0 && json_object_set_new(in_y, y, vx) == 0;
}

const char *st_synth_page_gguf_name(const struct st_synth_page *p)
{
	for (uint32_t i = 0; i < p->family->n_names[ST_SPELLING_GGUF]; i++) {
		const struct st_family_name *n = &p->family->names[ST_SPELLING_GGUF][i];
		double v = 0;
		bool there = n->key && asks(p, n->key, &v) && v != 0;
		if (!n->key || there != n->unless)
			return n->name;
	}
	return "";
}

/* ---- tensors ---- */

/* What a weight is for: the first stage that has it, and which of that stage's weights it is. */
static enum st_operation used_by(const struct st_family *f, uint32_t weight, uint32_t *which)
{
	for (uint32_t i = 0; i < f->n_stages; i++)
		for (uint32_t k = 0; k < f->stages[i].n_w; k++)
			if (f->stages[i].w[k].weight == weight) {
				*which = k;
				return f->stages[i].op;
			}
	return ST_OPERATIONS;
}

static bool is_matrix(const struct st_family *f, uint32_t weight)
{
	uint32_t which;
	enum st_operation op = used_by(f, weight, &which);
	return op == ST_OPERATION_linear || op == ST_OPERATION_linear_at || op == ST_OPERATION_embed;
}

static struct st_synth_image *find_image(struct st_synth_layout *p, const char *name)
{
	for (size_t i = p->n; i-- > 0;)
		if (strcmp(p->images[i].name, name) == 0)
			return &p->images[i];
	return NULL;
}

/* The shape that is stored where its steps give a weight of this one. dims: in and out. */
static enum st_status stored_shape(const struct st_source *src, const struct st_settings *s, uint32_t rank,
                                   uint64_t dims[ST_WEIGHT_RANK], struct st_error *err)
{
	uint64_t *cols = &dims[rank - 1], *rows = rank > 1 ? &dims[rank - 2] : cols, a, n, m, keep;
	for (uint32_t i = src->n_steps; i-- > 0;) {
		const struct st_source_step *x = &src->steps[i];
		ST_TRY(st_expression_count_or(&x->a, s, 0, &a, err));
		ST_TRY(st_expression_count_or(&x->n, s, 1, &n, err));
		switch (x->op) {
		case ST_SOURCE_TRANSPOSE:
			keep = *rows;
			*rows = *cols;
			*cols = keep;
			break;
		case ST_SOURCE_ROWS:
			*rows += a;
			break;
		case ST_SOURCE_STRIDE:
			*rows *= n;
			break;
		case ST_SOURCE_COLUMNS:
			*cols *= n;
			break;
		case ST_SOURCE_EACH:
			ST_TRY(st_expression_count_or(&x->m, s, 0, &m, err));
			*rows = rank == 3 ? m : n * m;
			break;
		default:
			break;
		}
	}
	return ST_OK;
}

/* A tensor of that name and at least that shape; weights that share it each reach to a part of it. */
static enum st_status add_image(struct st_synth_page *p, struct st_synth_layout *l, const struct st_family_weight *w,
                                const char *name, int32_t layer, uint32_t rank, const uint64_t *dims,
                                struct st_error *err)
{
	struct st_synth_image *x = find_image(l, name);
	if (!x) {
		if (!st_grow((void **)&l->images, &l->cap, l->n + 1, sizeof *l->images))
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		x = &l->images[l->n++];
		*x = (struct st_synth_image){ .layer = layer,
			                      .rank = rank,
			                      .matrix = is_matrix(p->family, (uint32_t)(w - p->family->weights)) };
		x->name = st_arena_strndup(&p->arena, name, strlen(name));
		x->weight = rank == w->rank && rank < 3 ? w->name : NULL;
		if (!x->name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	} else {
		x->weight = NULL;
		if (x->rank != rank)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "has two shapes");
	}
	for (uint32_t i = 0; i < rank; i++)
		x->dims[i] = dims[i] > x->dims[i] ? dims[i] : x->dims[i];
	return ST_OK;
}

/* A weight of the last stage, of which the logits have their name. */
static bool makes_logits(const struct st_family *f, const struct st_family_weight *w)
{
	const struct st_family_stage *s = &f->stages[f->n_stages - 1];
	return s->op == ST_OPERATION_bias && f->weights + s->w[0].weight == w;
}

/* Where the page leaves it to the file whether it has a weight, it has not. */
static enum st_status exists(const struct st_family *f, const struct st_family_weight *w, const struct st_settings *s,
                             bool *yes, struct st_error *err)
{
	bool may_miss = w->optional;
	*yes = true;
	if (w->condition.n)
		ST_TRY(st_expression_holds(&w->condition, s, yes, err));
	if (w->optional && w->optional_if.n)
		ST_TRY(st_expression_holds(&w->optional_if, s, &may_miss, err));
	*yes &= !may_miss || makes_logits(f, w);
	return ST_OK;
}

/* The sizes that files label it with, where the page gives others than the graph has. */
static enum st_status read_label(const struct st_source *src, const struct st_settings *s, struct st_synth_image *x,
                                 struct st_error *err)
{
	x->n_label = src->n_label;
	for (uint32_t i = 0; i < src->n_label; i++)
		ST_TRY(st_expression_count_or(&src->label[i], s, 0, &x->label[i], err));
	return ST_OK;
}

static enum st_status tell_form(const struct st_source *src, const struct st_settings *s, struct st_synth_image *x,
                                struct st_error *err)
{
	for (uint32_t i = 0; i < src->n_steps; i++) {
		x->turned |= src->steps[i].op == ST_SOURCE_TRANSPOSE;
		x->less_one |= src->steps[i].op == ST_SOURCE_PLUS_ONE;
		x->paired |= src->steps[i].op == ST_SOURCE_PAIRS;
		if (src->steps[i].op == ST_SOURCE_PAIRS && !src->steps[i].m.n)
			ST_TRY(st_expression_count(&src->steps[i].n, s, &x->heads, err));
	}
	return ST_OK;
}

static enum st_status place_weight(struct st_synth_page *p, struct st_synth_layout *l, const struct st_family_weight *w,
                                   int32_t layer, enum st_spelling to, struct st_error *err)
{
	struct st_settings s = st_described_at(&p->said, layer);
	uint64_t shape[ST_WEIGHT_RANK] = { 0 }, dims[ST_WEIGHT_RANK];
	bool there;
	ST_TRY(exists(p->family, w, &s, &there, err));
	if (!there)
		return ST_OK;
	if (w->n_sources[to] == 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, w->name, "has no place in %s",
		                  to == ST_SPELLING_GGUF ? "GGUF" : "a Hugging Face folder");
	for (uint32_t i = 0; i < w->rank; i++) {
		uint32_t v;
		ST_TRY(st_expression_count(&w->shape[i], &s, &v, err));
		if (v == 0 || v > 1u << 24)
			return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, w->name, "\"%s\" is %u, no size",
			                  w->shape[i].text, v);
		shape[i] = v;
	}
	const struct st_source *src = &w->sources[to][l->last_names ? w->n_sources[to] - 1 : 0];
	bool apart = w->rank > 1 && strchr(src->name, '@');
	uint64_t n = apart ? shape[0] : 1;
	for (uint64_t e = 0; e < n; e++) {
		char name[256];
		memcpy(dims, apart ? shape + 1 : shape, sizeof dims - (apart ? sizeof *dims : 0));
		ST_TRY(stored_shape(src, &s, w->rank - apart, dims, err));
		(void)st_source_spell(src->name, layer, (int32_t)e, name, sizeof name);
		ST_TRY(add_image(p, l, w, name, layer, w->rank - apart, dims, err));
		ST_TRY(read_label(src, &s, find_image(l, name), err));
		ST_TRY(tell_form(src, &s, find_image(l, name), err));
		if (apart && e == 0) /* the first expert stands for them */
			find_image(l, name)->weight = w->name;
	}
	return ST_OK;
}

static enum st_status place_all(struct st_synth_page *p, struct st_synth_layout *l, enum st_spelling to,
                                struct st_error *err)
{
	for (uint32_t i = 0; i < p->family->n_weights; i++) {
		const struct st_family_weight *w = &p->family->weights[i];
		for (uint32_t k = 0; k < (w->per_layer ? p->said.n_layers : 1); k++)
			ST_TRY(place_weight(p, l, w, w->per_layer ? (int32_t)k : -1, to, err));
	}
	return ST_OK;
}

/* The images as the tensors of a container. */
static enum st_status make_container(struct st_synth_layout *p, struct st_error *err)
{
	struct st_container *c = &p->c;
	uint64_t total = 0, at = 0;
	c->tensors = st_arena_alloc(&c->arena, p->n, sizeof *c->tensors);
	if (!c->tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < p->n; i++) {
		struct st_synth_image *x = &p->images[i];
		uint64_t n = sizeof(float);
		for (uint32_t k = 0; k < x->rank; k++)
			if (!st_mul_u64(n, x->dims[k], &n))
				n = UINT64_MAX;
		if (!st_add_u64(total, n, &total) || total > MOST_BYTES)
			return st_fail(
				err, ST_ERR_LIMIT,
				"a model of this family is made in memory, and more than 4 GiB of it are too many");
	}
	p->numbers = st_alloc_zeroed(total, 1);
	if (!p->numbers && total)
		return st_fail(err, ST_ERR_NOMEM, "no memory for the model's numbers");
	struct st_span all = { (const uint8_t *)p->numbers, total, 0 };
	for (size_t i = 0; i < p->n; i++) {
		struct st_synth_image *x = &p->images[i];
		struct st_tensor *t = &c->tensors[c->n_tensors++];
		*t = (struct st_tensor){ .name = x->name, .dtype = ST_DTYPE_F32, .ndim = x->rank };
		for (uint32_t k = 0; k < x->rank; k++)
			t->shape[k] = t->file_dims[k] = x->dims[k];
		ST_TRY(st_tensor_place(t, &all, at, err));
		x->data = p->numbers + at / sizeof(float);
		at += t->n_bytes;
	}
	return st_container_index(c, err);
}

/* ---- numbers ---- */

/* Numbers vary around a centre by a factor, or have a standard deviation. */
struct recipe {
	bool factor;
	float size; /* the centre, or the deviation; of a matrix times the root of its columns */
	bool by_root;
};

static bool is_negative(const struct st_source *src)
{
	for (uint32_t i = 0; i < src->n_steps; i++)
		if (src->steps[i].op == ST_SOURCE_NEG_EXP)
			return true;
	return false;
}

static struct recipe recipe_of(const struct st_synth_page *p, uint32_t weight)
{
	const struct st_family *f = p->family;
	const char *name = f->weights[weight].name;
	uint32_t which = 0;
	enum st_operation op = used_by(f, weight, &which);
	bool last = strcmp(name, "final_norm") == 0;
	for (int k = 0; k < ST_COLUMNS; k++)
		for (uint32_t n = 0; n < f->weights[weight].n_sources[k]; n++)
			if (is_negative(&f->weights[weight].sources[k][n]))
				return (struct recipe){ true, -1, false };
	switch (op) {
	case ST_OPERATION_embed:
	case ST_OPERATION_embed_position:
		return (struct recipe){ false, 0.05f, false };
	case ST_OPERATION_linear:
	case ST_OPERATION_linear_at:
	case ST_OPERATION_linear_blocks:
	case ST_OPERATION_conv:
		return (struct recipe){ false, strcmp(name, "head") == 0 ? 1.5f : 1, true };
	case ST_OPERATION_layernorm:
	case ST_OPERATION_rmsnorm:
		return which ? (struct recipe){ false, 0.1f, false } : (struct recipe){ true, last ? 2 : 1, false };
	case ST_OPERATION_bias:
	case ST_OPERATION_bias_at:
	case ST_OPERATION_top:
		return (struct recipe){ false, 0.1f, false };
	case ST_OPERATION_softmax:
	case ST_OPERATION_wkv:
		return (struct recipe){ false, 0.5f, false };
	case ST_OPERATION_scan:
		return (struct recipe){ true, which ? 1 : -1, false };
	case ST_OPERATION_token_shift:
	case ST_OPERATION_xielu:
		return (struct recipe){ true, 0.5f, false };
	default:
		return (struct recipe){ true, 1, false };
	}
}

/* n numbers of row `row` of a weight. */
static void draw(const struct recipe *r, uint64_t key, uint64_t row, size_t n, float *dst)
{
	uint64_t row_key = st_synth_row_key(key, row);
	float size = r->by_root ? r->size * st_synth_factor(row_key, UINT64_MAX - 1) / sqrtf((float)n) : r->size;
	if (!r->factor)
		st_synth_draws(row_key, 0, n, size, dst);
	for (size_t i = 0; r->factor && i < n; i++)
		dst[i] = size * st_synth_factor(row_key, i);
}

/* Where element r of a vector lies, as st_weight_stored_row() says it of rows. */
static uint64_t stored_element(const struct st_weight *w, uint64_t r, uint64_t n)
{
	uint64_t d = w->interleaved ? n / w->heads : 0, pairs = w->pair_dims ? w->pair_dims : d;
	if (d && r % d < pairs)
		r = r - r % d + st_row_in_pairs(r % d, pairs);
	return w->group_rows ? r / w->group_rows * w->group_of + w->group_from + r % w->group_rows : r;
}

static float as_stored(const struct st_weight *w, float x) { return w->plus_one ? x - 1 : w->neg_exp ? logf(-x) : x; }

float *st_synth_element(const struct st_tensor *t, uint64_t row, uint64_t col)
{
	uint8_t *at = (uint8_t *)(uintptr_t)t->data;
	if (t->layout == ST_LAYOUT_STRIDED)
		at += ((int64_t)row * t->strides[0] + (int64_t)col * t->strides[1]) * (int64_t)sizeof(float);
	else
		at += row * t->row_bytes + col * sizeof(float);
	return (float *)(void *)at;
}

/* One weight, or one expert of a stack, through its view. */
static enum st_status fill(const struct st_weight *w, const struct recipe *r, uint64_t key, struct st_error *err)
{
	bool vector = w->tensor->ndim < 2;
	uint64_t rows = vector ? 1 : st_weight_rows(w), cols = st_weight_cols(w);
	float *x = st_alloc_array(cols, sizeof *x);
	if (!x)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < rows; i++) {
		uint64_t row = vector ? 0 : st_weight_stored_row(w, i);
		draw(r, key, i, (size_t)cols, x);
		for (uint64_t c = 0; c < cols; c++)
			*st_synth_element(w->tensor, row, vector ? stored_element(w, c, cols) : c) = as_stored(w, x[c])
			                                                                           / w->tensor->scale;
	}
	free(x);
	return ST_OK;
}

static enum st_status fill_all(struct st_synth_page *p, uint64_t seed, struct st_error *err)
{
	const struct st_family *f = p->family;
	char name[128];
	for (uint32_t i = 0; i < f->n_weights; i++) {
		struct recipe r = recipe_of(p, i);
		for (uint32_t l = 0; l < (f->weights[i].per_layer ? p->file.bound->n_layers : 1); l++) {
			const struct st_weight *w = &p->file.bound->weights[i][l];
			for (uint32_t e = 0; e < (w->n_experts ? w->n_experts : w->tensor != NULL); e++) {
				struct st_weight one = *w;
				one.tensor = w->n_experts ? &w->experts[e] : w->tensor;
				snprintf(name, sizeof name, "%.60s.%" PRIu32 ".%" PRIu32, f->weights[i].name, l, e);
				ST_TRY(fill(&one, &r, st_synth_tensor_key(seed, name), err));
			}
		}
	}
	return ST_OK;
}

/* ---- the whole ---- */

enum st_status st_synth_page_open(struct st_synth_page *p, const char *name, const char *config, struct st_error *err)
{
	st_arena_init(&p->arena);
	if (config)
		ST_TRY(st_json_load(config, &p->config, err));
	if (name) {
		ST_TRY(st_described_page(name, &p->arena, &p->family, err));
	} else {
		struct st_container c = { .format = ST_FORMAT_SAFETENSORS };
		c.docs.config = p->config;
		ST_TRY(st_described_family(&c, &p->family, err));
		if (!p->family)
			return st_fail(err, ST_ERR_UNSUPPORTED, "is of no family that stele family list shows");
	}
	if (!config)
		ST_TRY(small_config(p, err));
	return read_settings(p, err);
}

static void close_layout(struct st_synth_layout *l)
{
	st_described_close(l->bound);
	free(l->images);
	free(l->numbers);
	if (l->c.path)
		st_arena_release(&l->c.arena);
	*l = (struct st_synth_layout){ 0 };
}

/* Tensors and keys as a file has them, bound. */
static enum st_status lay_out(struct st_synth_page *p, struct st_synth_layout *l, enum st_format to,
                              const struct st_kv_table *keys, struct st_error *err)
{
	struct st_container *c = &l->c;
	st_arena_init(&c->arena);
	c->format = to;
	c->path = p->path;
	c->docs.config = to == ST_FORMAT_GGUF ? NULL : p->config;
	if (keys) {
		c->keys = *keys;
		ST_TRY(st_kv_index(&c->keys, &c->arena, err));
	}
	ST_TRY(place_all(p, l, to == ST_FORMAT_GGUF ? ST_SPELLING_GGUF : ST_SPELLING_CONFIG, err));
	ST_TRY(make_container(l, err));
	return st_described_open(c, p->family, &l->bound, err);
}

/* Of the names that a page gives to a tensor, the first or the last go together. */
static enum st_status try_names(struct st_synth_page *p, struct st_synth_layout *l, enum st_format to,
                                const struct st_kv_table *keys, struct st_error *err)
{
	struct st_error first = ST_ERROR_INIT, why = ST_ERROR_INIT;
	enum st_status st = lay_out(p, l, to, keys, &first);
	if (st != ST_ERR_FORMAT) {
		*err = first;
		return st;
	}
	close_layout(l);
	l->last_names = true;
	if (lay_out(p, l, to, keys, &why) == ST_OK)
		return ST_OK;
	return st_fail(err, ST_ERR_UNSUPPORTED, "%s of this model cannot be made from its page: %.60s%s%.160s",
	               st_format_name(to), first.where, first.where[0] ? ": " : "", first.message);
}

/* What a container cannot say must not be another model in it. */
static enum st_status is_the_same(const struct st_synth_page *p, const struct st_synth_layout *twin,
                                  struct st_error *err)
{
	const struct st_graph *a = &p->file.bound->graph, *b = &twin->bound->graph;
	bool same = st_graph_same_form(a, b);
	uint32_t i = 0;
	while (same && i < a->n_nodes && st_node_same_parameters(&a->nodes[i], &b->nodes[i], 0))
		i++;
	if (same && i == a->n_nodes)
		return ST_OK;
	return st_fail(err, ST_ERR_UNSUPPORTED, "%s cannot say this model: %s would be another stage",
	               st_format_name(p->file.c.format), st_stage_name(a->nodes[same ? i : 0].stage));
}

enum st_status st_synth_page_make(struct st_synth_page *p, enum st_format to, const struct st_kv_table *keys,
                                  uint64_t seed, struct st_error *err)
{
	struct st_synth_layout twin = { 0 };
	ST_TRY(try_names(p, &p->file, to, keys, err));
	if (to == ST_FORMAT_GGUF) {
		enum st_status st = try_names(p, &twin, ST_FORMAT_SAFETENSORS, NULL, err);
		if (st == ST_OK)
			st = is_the_same(p, &twin, err);
		close_layout(&twin);
		ST_TRY(st);
	}
	return fill_all(p, seed, err);
}

void st_synth_page_close(struct st_synth_page *p)
{
	close_layout(&p->file);
	if (p->reading)
		st_arena_release(&p->said.arena);
	st_family_close(p->family);
	json_decref(p->config);
	st_arena_release(&p->arena);
}
