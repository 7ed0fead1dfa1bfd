/* facts.c - what a file says of its tokenizer beyond the ids of a text: PAD, and the chat template. */
#include "token/tokenizer.h"

#include "base/map.h"

#include <string.h>
#include <unistd.h>

static void gguf_facts(struct st_tokenizer *t, const struct st_container *c)
{
	const struct st_kv *kv = st_kv_find(&c->keys, "tokenizer.chat_template");
	struct st_error none = ST_ERROR_INIT;
	uint64_t pad = 0;
	bool found = false;
	if (kv && kv->type == ST_KV_STR) {
		const uint8_t *p = kv->data;
		t->chat_template = st_kv_next_str(&p, &t->chat_template_len);
	}
	if (st_kv_u64(&c->keys, "tokenizer.ggml.padding_token_id", &pad, &found, &none) == ST_OK && found
	    && pad < t->vocab.n)
		t->pad = (int64_t)pad;
}

/* One template, or several with names, of which "default" is what the other containers keep. */
static void json_template(struct st_tokenizer *t, const json_t *v)
{
	t->n_chat_templates = json_is_array(v) ? json_array_size(v) : 1;
	for (size_t i = 0; json_is_array(v) && i < json_array_size(v); i++) {
		const json_t *one = json_array_get(v, i);
		const char *name = json_string_value(json_object_get(one, "name"));
		if (name && strcmp(name, "default") == 0) {
			v = json_object_get(one, "template");
			break;
		}
	}
	if (json_is_string(v)) {
		t->chat_template = json_string_value(v);
		t->chat_template_len = json_string_length(v);
	}
}

/* Newer folders keep the template as a file of its own. */
static enum st_status template_file(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const char *weights = st_container_file_path(c, 0), *slash = strrchr(weights, '/');
	const char *path = st_arena_printf(&t->arena, "%.*schat_template.jinja", slash ? (int)(slash - weights + 1) : 0,
	                                   weights);
	struct st_map m;
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (access(path, F_OK) != 0)
		return ST_OK;
	ST_TRY(st_map_open(&m, path, err));
	t->chat_template_len = (size_t)m.size;
	t->chat_template = st_arena_strndup(&t->arena, m.data ? (const char *)m.data : "", (size_t)m.size);
	st_map_close(&m);
	return t->chat_template ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_tokenizer_facts(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	if (c->format == ST_FORMAT_GGUF) {
		gguf_facts(t, c);
		return ST_OK;
	}
	if (c->format == ST_FORMAT_APR) {
		json_template(t, json_object_get(c->docs.metadata, "chat_template"));
		return ST_OK;
	}
	const json_t *pad = json_object_get(c->docs.tokenizer_config, "pad_token");
	const char *s = json_string_value(json_is_object(pad) ? json_object_get(pad, "content") : pad);
	uint32_t id = s ? st_vocab_find(&t->vocab, s, strlen(s)) : ST_NO_ID;
	const json_t *config = json_object_get(c->docs.config, "pad_token_id");
	if (id != ST_NO_ID)
		t->pad = id;
	else if (json_is_integer(config) && json_integer_value(config) >= 0
	         && json_integer_value(config) < (json_int_t)t->vocab.n)
		t->pad = json_integer_value(config);
	json_template(t, json_object_get(c->docs.tokenizer_config, "chat_template"));
	bool folder = c->docs.tokenizer_config && st_container_n_files(c) > 0;
	return t->chat_template || !folder ? ST_OK : template_file(t, c, err);
}

bool st_tokenizer_guessed(const struct st_tokenizer *t) { return t->guessed; }
int64_t st_tokenizer_pad(const struct st_tokenizer *t) { return t->pad; }

const char *st_tokenizer_chat_template(const struct st_tokenizer *t, size_t *len)
{
	*len = t->chat_template_len;
	return t->chat_template;
}
