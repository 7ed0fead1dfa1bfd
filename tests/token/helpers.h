/* helpers.h - containers built in memory, and what every tokenizer test does with ids. */
#ifndef ST_TESTS_TOKEN_HELPERS_H
#define ST_TESTS_TOKEN_HELPERS_H

#include "test.h"

#include "token/synth_vocab.h"
#include "token/tokenizer.h"

/* A GGUF's keys, written into one buffer as the file would have them. */
struct gguf {
	struct st_container c;
	struct st_kv kv[24];
	uint8_t *bytes[24];
};

static inline void gguf_init(struct gguf *g)
{
	memset(g, 0, sizeof *g);
	g->c.format = ST_FORMAT_GGUF;
	g->c.keys.kv = g->kv;
	g->c.path = (char *)(uintptr_t) "test.gguf";
	st_arena_init(&g->c.arena);
}

static inline void gguf_release(struct gguf *g)
{
	for (size_t i = 0; i < g->c.keys.n; i++)
		free(g->bytes[i]);
	st_arena_release(&g->c.arena);
}

static inline void gguf_add(struct gguf *g, const char *key, enum st_kv_type type, enum st_kv_type elem, uint64_t count,
                            const void *data, size_t n)
{
	size_t i = g->c.keys.n++;
	assert_true(i < 24);
	g->bytes[i] = malloc(n + 1);
	if (n)
		memcpy(g->bytes[i], data, n);
	g->kv[i] = (struct st_kv){
		.key = key, .type = type, .elem = elem, .count = count, .data = g->bytes[i], .offset = 1000 * i
	};
}

static inline void gguf_strs(struct gguf *g, const char *key, const char *const *v, size_t n)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += 8 + strlen(v[i]);
	uint8_t *p = malloc(total + 1), *at = p;
	for (size_t i = 0; i < n; i++) {
		uint64_t len = strlen(v[i]);
		memcpy(at, &len, 8);
		memcpy(at + 8, v[i], len);
		at += 8 + len;
	}
	gguf_add(g, key, ST_KV_ARR, ST_KV_STR, n, p, total);
	free(p);
}

static inline void gguf_str(struct gguf *g, const char *key, const char *v)
{
	uint8_t buf[256];
	uint64_t n = strlen(v);
	memcpy(buf, &n, 8);
	memcpy(buf + 8, v, n);
	gguf_add(g, key, ST_KV_STR, 0, 1, buf, 8 + n);
}

static inline void gguf_u32(struct gguf *g, const char *key, uint32_t v) { gguf_add(g, key, ST_KV_U32, 0, 1, &v, 4); }
static inline void gguf_bool(struct gguf *g, const char *key, bool v) { gguf_add(g, key, ST_KV_BOOL, 0, 1, &v, 1); }
static inline void gguf_f32s(struct gguf *g, const char *key, const float *v, size_t n)
{
	gguf_add(g, key, ST_KV_ARR, ST_KV_F32, n, v, 4 * n);
}
static inline void gguf_i32s(struct gguf *g, const char *key, const int32_t *v, size_t n)
{
	gguf_add(g, key, ST_KV_ARR, ST_KV_I32, n, v, 4 * n);
}

static inline enum st_status gguf_open(struct gguf *g, struct st_tokenizer **t, struct st_error *err)
{
	ST_TRY(st_kv_index(&g->c.keys, &g->c.arena, err));
	return st_tokenizer_open(&g->c, t, err);
}

/* The synthetic vocabulary under some word splitting. Keep `arena` until the container is gone. */
static inline void gguf_synth(struct gguf *g, const struct st_synth_vocab *v, const char *pre)
{
	int32_t *types = malloc(v->n * sizeof *types);
	for (uint32_t i = 0; i < v->n; i++)
		types[i] = v->types[i];
	gguf_init(g);
	gguf_str(g, "tokenizer.ggml.model", "gpt2");
	gguf_str(g, "tokenizer.ggml.pre", pre);
	gguf_strs(g, "tokenizer.ggml.tokens", v->pieces, v->n);
	gguf_strs(g, "tokenizer.ggml.merges", v->merges, v->n_merges);
	gguf_i32s(g, "tokenizer.ggml.token_type", types, v->n);
	gguf_u32(g, "tokenizer.ggml.bos_token_id", v->bos);
	gguf_u32(g, "tokenizer.ggml.eos_token_id", v->eos);
	free(types);
}

static inline struct st_tokenizer *open_synth(struct gguf *g, struct st_arena *arena, uint32_t n, const char *pre,
                                              struct st_synth_vocab *v)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t = NULL;
	st_arena_init(arena);
	assert_ok(st_synth_vocab_make(arena, n, v, &err), &err);
	gguf_synth(g, v, pre);
	assert_ok(gguf_open(g, &t, &err), &err);
	return t;
}

static inline uint32_t *tokenize(const struct st_tokenizer *t, const char *text, size_t n, unsigned flags,
                                 size_t *n_ids)
{
	struct st_error err = ST_ERROR_INIT;
	uint32_t *ids = NULL;
	assert_ok(st_tokenize(t, text, n, flags, &ids, n_ids, &err), &err);
	return ids;
}

static inline char *decode(const struct st_tokenizer *t, const uint32_t *ids, size_t n, size_t *len)
{
	size_t total = 0, at = 0;
	for (size_t i = 0; i < n; i++)
		total += st_tokenizer_decode(t, ids[i], NULL, 0);
	char *s = malloc(total + 1);
	for (size_t i = 0; i < n; i++)
		at += st_tokenizer_decode(t, ids[i], s + at, total - at);
	s[total] = '\0';
	*len = total;
	return s;
}

/* prefix: the tokenizer puts a space in front, which decoding shows. */
static inline void assert_round_trip(const struct st_tokenizer *t, const char *text, size_t n, bool prefix)
{
	size_t n_ids, len, skip = prefix && n > 0 ? 1 : 0;
	uint32_t *ids = tokenize(t, text, n, 0, &n_ids);
	char *s = decode(t, ids, n_ids, &len);
	assert_int_equal(len, n + skip);
	assert_memory_equal(s + skip, text, n);
	free(s);
	free(ids);
}

static inline void assert_ids(const struct st_tokenizer *t, const char *text, size_t n, unsigned flags,
                              const uint32_t *want, size_t n_want)
{
	size_t n_ids;
	uint32_t *ids = tokenize(t, text, n, flags, &n_ids);
	bool same = n_ids == n_want && memcmp(ids, want, n_ids * sizeof *ids) == 0;
	if (!same) {
		print_message("text \"%.*s\"\ngot ", (int)n, text);
		for (size_t i = 0; i < n_ids; i++)
			print_message(" %u", ids[i]);
		print_message("\nwant");
		for (size_t i = 0; i < n_want; i++)
			print_message(" %u", want[i]);
		print_message("\n");
	}
	free(ids);
	assert_true(same);
}

/* Pieces of a text, joined by '|', against what they should be. */
static inline void assert_pieces(const struct st_tokenizer *t, const char *text, unsigned flags, const char *want)
{
	char got[1024] = "";
	size_t n, at = 0;
	uint32_t *ids = tokenize(t, text, strlen(text), flags, &n);
	for (size_t i = 0; i < n; i++) {
		size_t len;
		const char *p = st_tokenizer_piece(t, ids[i], &len);
		at += (size_t)snprintf(got + at, sizeof got - at, "%s%.*s", i ? "|" : "", (int)len, p);
	}
	free(ids);
	assert_string_equal(got, want);
}

/* A container that holds just these JSON documents (NULL: absent). Release with json_release. */
static inline struct st_container json_container(enum st_format format, const char *text, const char *config)
{
	struct st_container c = { .format = format };
	json_error_t e;
	json_t *doc = json_loads(text, JSON_DECODE_ANY, &e);
	if (!doc)
		fail_msg("the test's own JSON: %s at %d", e.text, e.position);
	*(format == ST_FORMAT_APR ? &c.docs.metadata : &c.docs.tokenizer) = doc;
	c.docs.tokenizer_config = config ? json_loads(config, 0, &e) : NULL;
	c.path = (char *)(uintptr_t) "test";
	return c;
}

static inline void json_release(struct st_container *c)
{
	json_decref(c->docs.metadata);
	json_decref(c->docs.tokenizer);
	json_decref(c->docs.tokenizer_config);
}

static inline void assert_refused(enum st_format format, const char *text, enum st_status code, const char *says)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t = NULL;
	struct st_container c = json_container(format, text, NULL);
	char line[1400];
	enum st_status st = st_tokenizer_open(&c, &t, &err);
	st_error_format(&err, line, sizeof line);
	if (st != code || !strstr(line, says))
		fail_msg("%s\nstatus %s, message: %s\nwanted: %s, %s", text, st_status_name(st), line,
		         st_status_name(code), says);
	assert_null(t);
	json_release(&c);
}

#endif
