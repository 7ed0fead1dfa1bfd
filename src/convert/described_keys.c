/* described_keys.c - the keys of a described family in the spelling of the other container. */
#include "convert/described.h"

#include "convert/config.h"

#include <stdlib.h>
#include <string.h>

/* "NAME if KEY", "NAME unless KEY": by the model's own value of what GGUF calls so. */
static bool is_called_so(const struct st_described *d, const struct st_family_name *name)
{
	bool there = false;
	for (uint32_t i = 0; name->key && i < d->family->n_keys; i++)
		for (uint32_t k = 0; k < d->family->keys[i].n_spelled[ST_SPELLING_GGUF]; k++)
			if (strcmp(d->family->keys[i].spelled[ST_SPELLING_GGUF][k], name->key) == 0)
				there |= d->settings.keys[i].kind == ST_SETTING_NUMBER
				      && d->settings.keys[i].number != 0;
	return !name->key || there != name->unless;
}

const char *st_described_called(const struct st_described *d, enum st_spelling where, bool class)
{
	const struct st_family *f = d->family;
	/* Of a page with several types the model's own, where it says which; classes stand behind their types. */
	uint32_t key = where == ST_SPELLING_CONFIG ? st_family_find_key(f, "model_type") : ST_FAMILY_NONE, i = 0;
	struct st_settings s = st_described_at(d, -1);
	struct st_setting own = { 0 };
	struct st_error none = ST_ERROR_INIT;
	if (key != ST_FAMILY_NONE && st_expression_value(&f->keys[key].let, &s, &own, &none) == ST_OK
	    && own.kind == ST_SETTING_TEXT)
		while (i < f->n_names[where] && strcmp(f->names[where][i].name, own.text) != 0)
			i++;
	for (; i < f->n_names[where]; i++)
		if ((strstr(f->names[where][i].name, "For") != NULL) == class && is_called_so(d, &f->names[where][i]))
			return f->names[where][i].name;
	return f->n_names[where] ? f->names[where][0].name : f->name;
}

static bool says_nothing(const struct st_setting *v)
{
	return v->kind == ST_SETTING_NUMBER ? v->number == 0
	     : v->kind == ST_SETTING_TEXT   ? v->text[0] == '\0' || strcmp(v->text, "none") == 0
	                                    : v->n == 0;
}

/*
 * Whether a key is written. A value that the target's readers assume anyway is left out where it says that there is none
 * of something, or is a part of an object; counts are said whatever they are, and what the source says.
 */
static bool is_written(const struct st_described *d, uint32_t key, enum st_spelling to)
{
	const struct st_family_key *k = &d->family->keys[key];
	const struct st_setting *v = &d->settings.keys[key];
	if (k->type == ST_KEY_LET || k->n_spelled[to] == 0 || v->kind == ST_SETTING_NONE)
		return false;
	struct st_settings there = st_described_at(d, -1);
	struct st_setting assumed = { 0 };
	struct st_error none = ST_ERROR_INIT;
	there.spelling = to;
	there.model = st_described_called(d, to, false);
	bool has = k->absent[to].n && st_expression_value(&k->absent[to], &there, &assumed, &none) == ST_OK;
	if (!has || !st_setting_same(v, &assumed))
		return true;
	if (to == ST_SPELLING_CONFIG)
		return (d->origin[key].said || k->type == ST_KEY_COUNT) && !strchr(k->spelled[to][0], '.')
		    && !says_nothing(v);
	const char *name = k->spelled[to][0];
	bool part = strncmp(name, "rope.scaling.", 13) == 0;
	return !part && !says_nothing(v) && (k->type != ST_KEY_TEXT || d->origin[key].said);
}

/* ---- GGUF ---- */

static bool is_scaling(const struct st_family_key *k)
{
	return k->n_spelled[ST_SPELLING_GGUF] && strncmp(k->spelled[ST_SPELLING_GGUF][0], "rope.scaling.", 13) == 0;
}

uint32_t st_described_factors(const struct st_described *d, const char *weight)
{
	if (strcmp(weight, "rope_short") != 0 && strcmp(weight, "rope_long") != 0)
		return ST_FAMILY_NONE;
	return st_family_find_key(d->family, weight + strlen("rope_"));
}

enum st_status st_described_divides(const struct st_described *d, bool *yes, struct st_error *err)
{
	static const char *const known[] = { "none", "default", "linear", "yarn", "longrope" };
	uint32_t key = st_family_find_key(d->family, "rope_type"),
		 freqs = st_family_find_weight(d->family, st_role_name(ST_ROLE_ROPE_FREQS));
	*yes = false;
	if (key == ST_FAMILY_NONE || d->settings.keys[key].kind != ST_SETTING_TEXT)
		return ST_OK;
	const char *kind = d->settings.keys[key].text;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(kind, known[i]) == 0)
			return ST_OK;
	*yes = strcmp(kind, "llama3") == 0 && freqs != ST_FAMILY_NONE;
	return *yes ? ST_OK
	            : st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET,
	                         d->origin[key].key ? d->origin[key].key : "rope",
	                         "readers of GGUF know no rotation of the kind \"%.40s\"", kind);
}

static void array_key(struct st_keys *k, const char *name, enum st_key_type type, const struct st_setting *v)
{
	size_t size = 0;
	for (size_t i = 0; i < v->n; i++)
		size += type == ST_KEY_TEXTS ? 8 + strlen(v->items[i].text) : type == ST_KEY_FLAGS ? 1 : 4;
	uint8_t *data = st_arena_alloc(k->arena, size ? size : 1, 1), *at = data;
	char *own = st_arena_strndup(k->arena, name, strlen(name));
	for (size_t i = 0; data && i < v->n; i++) {
		float f = (float)v->items[i].number;
		uint32_t u = (uint32_t)v->items[i].number;
		uint8_t b = v->items[i].number != 0;
		if (type == ST_KEY_TEXTS) {
			uint64_t n = strlen(v->items[i].text);
			memcpy(at, &n, 8);
			memcpy(at + 8, v->items[i].text, n);
			at += 8 + n;
		} else if (type == ST_KEY_FLAGS) {
			memcpy(at++, &b, 1);
		} else {
			memcpy(at, type == ST_KEY_REALS ? (void *)&f : (void *)&u, 4);
			at += 4;
		}
	}
	st_key_array(k, own ? own : name,
	             type == ST_KEY_TEXTS   ? ST_KV_STR
	             : type == ST_KEY_FLAGS ? ST_KV_BOOL
	             : type == ST_KEY_REALS ? ST_KV_F32
	                                    : ST_KV_U32,
	             v->n, own ? data : NULL);
}

enum st_status st_described_new_keys(const struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	const struct st_described *d = st_model_described(v->src.model);
	const struct st_family *f = d->family;
	const char *arch = st_described_called(d, ST_SPELLING_GGUF, false);
	char name[192];
	bool divides;
	ST_TRY(st_described_divides(d, &divides, err));
	st_key_text(k, "general.architecture", arch, strlen(arch));
	if (v->dst.cfg.name[0])
		st_key_text(k, "general.name", v->dst.cfg.name, strlen(v->dst.cfg.name));
	/* Readers of GGUF ask for it; where a model has no limit, the field's converter writes this. */
	snprintf(name, sizeof name, "%.60s.context_length", arch);
	st_key_u32(k, name, v->dst.cfg.max_positions ? v->dst.cfg.max_positions : 1u << 20);
	for (uint32_t i = 0; i < f->n_keys; i++) {
		const struct st_setting *x = &d->settings.keys[i];
		enum st_key_type type = f->keys[i].type;
		/* transformers' "default" is GGUF's silence */
		bool plain = is_scaling(&f->keys[i]) && x->kind == ST_SETTING_TEXT && strcmp(x->text, "default") == 0;
		if (!is_written(d, i, ST_SPELLING_GGUF) || plain || (divides && is_scaling(&f->keys[i])))
			continue;
		snprintf(name, sizeof name, "%.60s.%.120s", arch, f->keys[i].spelled[ST_SPELLING_GGUF][0]);
		bool real = type == ST_KEY_REAL || type == ST_KEY_REALS,
		     flag = type == ST_KEY_FLAG || type == ST_KEY_FLAGS;
		if (x->kind == ST_SETTING_LIST)
			array_key(k, name, type, x);
		else if (x->kind == ST_SETTING_TEXT)
			st_key_text(k, name, x->text, strlen(x->text));
		else if (real)
			st_key_f32(k, name, x->number);
		else if (flag)
			st_key_bool(k, name, x->number != 0);
		else
			st_key_u32(k, name, (uint32_t)x->number);
	}
	return ST_OK;
}

/* ---- config.json ---- */

/* What was computed from an f32 is a decimal of few digits where it has one. */
static double decimal(double v)
{
	char text[32];
	snprintf(text, sizeof text, "%.6g", v);
	double d = strtod(text, NULL);
	return (float)d == (float)v ? d : st_shortest_decimal(v);
}

static json_t *json_of(enum st_key_type type, const struct st_setting *v)
{
	if (v->kind == ST_SETTING_LIST) {
		json_t *a = json_array();
		for (size_t i = 0; a && i < v->n; i++)
			json_array_append_new(a, json_of(type, &v->items[i]));
		return a;
	}
	if (v->kind == ST_SETTING_TEXT)
		return json_string(v->text);
	if (type == ST_KEY_FLAG || type == ST_KEY_FLAGS)
		return json_boolean(v->number != 0);
	if (type == ST_KEY_REAL || type == ST_KEY_REALS)
		return json_real(decimal(v->number));
	return json_integer((json_int_t)v->number);
}

/* That there is none of something is null in config.json, where the page says so: the key alone has another meaning. */
static bool is_null(const struct st_described *d, uint32_t key)
{
	const struct st_family_key *k = &d->family->keys[key];
	struct st_settings there = st_described_at(d, -1);
	struct st_setting null;
	struct st_error none = ST_ERROR_INIT;
	there.spelling = ST_SPELLING_CONFIG;
	return k->null.n && says_nothing(&d->settings.keys[key])
	    && st_expression_value(&k->null, &there, &null, &none) == ST_OK
	    && st_setting_same(&null, &d->settings.keys[key]);
}

/* "rope_scaling.factor" is a member of an object. Takes the value. */
static bool put_at(json_t *o, const char *path, json_t *value)
{
	char part[96];
	for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
		snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
		json_t *inner = json_object_get(o, part);
		if (!json_is_object(inner)) {
			inner = json_object();
			if (json_object_set_new(o, part, inner) != 0) {
				json_decref(value);
				return false;
			}
		}
		o = inner;
	}
	return json_object_set_new(o, path, value) == 0;
}

/* A tensor of longrope's divisors as the list that config.json has. */
static bool put_factors(const struct st_described *d, uint32_t weight, json_t *o)
{
	const struct st_family *f = d->family;
	uint32_t key = st_described_factors(d, f->weights[weight].name);
	const struct st_weight *w = &d->weights[weight][0];
	if (key == ST_FAMILY_NONE || !w->tensor || f->keys[key].n_spelled[ST_SPELLING_CONFIG] == 0)
		return true;
	uint64_t n = st_weight_cols(w);
	float *x = st_alloc_array(n, sizeof *x);
	json_t *list = json_array();
	bool ok = x && list;
	if (ok)
		st_weight_decode(w, 0, 1, x);
	for (uint64_t i = 0; ok && i < n; i++)
		ok = json_array_append_new(list, json_real(decimal((double)x[i]))) == 0;
	free(x);
	if (ok)
		return put_at(o, f->keys[key].spelled[ST_SPELLING_CONFIG][0], list);
	json_decref(list);
	return false;
}

enum st_status st_described_document(const struct st_conversion *v, json_t **out, struct st_error *err)
{
	const struct st_described *d = st_model_described(v->src.model);
	const struct st_family *f = d->family;
	const struct st_config *cfg = &v->dst.cfg;
	json_t *o = *out = json_object();
	int64_t bos = st_conversion_bos(v), eos = st_conversion_eos(v);
	bool ok = o && put_at(o, "architectures", json_pack("[s]", st_described_called(d, ST_SPELLING_CONFIG, true)))
	       && put_at(o, "model_type", json_string(st_described_called(d, ST_SPELLING_CONFIG, false)));
	if (cfg->name[0])
		ok = ok && put_at(o, "_name_or_path", json_string(cfg->name));
	for (uint32_t i = 0; ok && i < f->n_keys; i++)
		if (is_written(d, i, ST_SPELLING_CONFIG))
			ok = put_at(o, f->keys[i].spelled[ST_SPELLING_CONFIG][0],
			            is_null(d, i) ? json_null() : json_of(f->keys[i].type, &d->settings.keys[i]));
	for (uint32_t i = 0; ok && i < f->n_weights; i++)
		ok = put_factors(d, i, o);
	if (cfg->max_positions)
		ok = ok && put_at(o, "max_position_embeddings", json_integer(cfg->max_positions));
	ok = ok && put_at(o, "bos_token_id", bos < 0 ? json_null() : json_integer(bos))
	  && put_at(o, "eos_token_id", eos < 0 ? json_null() : json_integer(eos))
	  && put_at(o, "pad_token_id", v->vocab.t && v->vocab.pad >= 0 ? json_integer(v->vocab.pad) : json_null())
	  && put_at(o, "tie_word_embeddings", json_boolean(cfg->tied))
	  && put_at(o, "torch_dtype", json_string(st_torch_type(&v->plan))) && put_at(o, "use_cache", json_true());
	return ok ? ST_OK : st_no_memory(err);
}
