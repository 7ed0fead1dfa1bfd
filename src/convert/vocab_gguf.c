/* vocab_gguf.c - a vocabulary as GGUF's keys. */
#include "convert/keys.h"
#include "convert/vocab.h"

#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static uint8_t *put_text(uint8_t *p, const char *s, uint64_t n)
{
	memcpy(p, &n, 8);
	memcpy(p + 8, s, n);
	return p + 8 + n;
}

static void piece_keys(const struct st_vocabulary *v, struct st_keys *k)
{
	struct st_piece_view p;
	uint64_t bytes = 0;
	for (uint32_t id = 0; id < v->n; id++) {
		st_vocabulary_piece(v, id, &p);
		bytes += 8 + p.len;
	}
	uint8_t *text = st_arena_alloc(k->arena, bytes, 1), *at = text;
	int32_t *types = st_arena_alloc(k->arena, v->n, sizeof *types);
	if (!text || !types) {
		k->failed = true;
		return;
	}
	for (uint32_t id = 0; id < v->n; id++) {
		st_vocabulary_piece(v, id, &p);
		at = put_text(at, p.s, p.len);
		types[id] = p.type;
	}
	st_key_array(k, KEY("tokens"), ST_KV_STR, v->n, text);
	if (v->scores) {
		float *scores = st_arena_alloc(k->arena, v->n, sizeof *scores);
		if (scores) /* ids without a piece keep the score 0 */
			memcpy(scores, v->scores, v->t->vocab.n * sizeof *scores);
		st_key_array(k, KEY("scores"), ST_KV_F32, v->n, scores);
	}
	st_key_array(k, KEY("token_type"), ST_KV_I32, v->n, types);
}

/* "left right" */
static void merge_key(const struct st_vocabulary *v, struct st_keys *k)
{
	const struct st_piece *piece = v->t->vocab.pieces;
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < v->n_merges; i++)
		bytes += 8 + piece[v->merges[i][0]].len + 1 + piece[v->merges[i][1]].len;
	uint8_t *text = st_arena_alloc(k->arena, bytes ? bytes : 1, 1), *at = text;
	for (uint32_t i = 0; text && i < v->n_merges; i++) {
		const struct st_piece *l = &piece[v->merges[i][0]], *r = &piece[v->merges[i][1]];
		uint64_t n = (uint64_t)l->len + 1 + r->len;
		memcpy(at, &n, 8);
		memcpy(at + 8, l->s, l->len);
		at[8 + l->len] = ' ';
		memcpy(at + 9 + l->len, r->s, r->len);
		at += 8 + n;
	}
	st_key_array(k, KEY("merges"), ST_KV_STR, v->n_merges, text);
}

static void id_key(struct st_keys *k, const char *key, int64_t id)
{
	if (id >= 0)
		st_key_u32(k, key, (uint32_t)id);
}

void st_vocabulary_keys(const struct st_vocabulary *voc, const struct st_config *cfg, struct st_keys *k)
{
	if (!voc->t) {
		id_key(k, KEY("bos_token_id"), cfg->bos);
		id_key(k, KEY("eos_token_id"), cfg->eos);
		return;
	}
	const char *model = voc->t->byte_level ? "gpt2" : voc->t->model == ST_MODEL_UNIGRAM ? "t5" : "llama";
	st_key_text(k, KEY("model"), model, strlen(model));
	if (voc->t->byte_level)
		st_key_text(k, KEY("pre"), voc->pre, strlen(voc->pre));
	piece_keys(voc, k);
	if (voc->t->byte_level)
		merge_key(voc, k);
	id_key(k, KEY("bos_token_id"), voc->t->bos >= 0 ? voc->t->bos : cfg->bos);
	id_key(k, KEY("eos_token_id"), voc->t->eos >= 0 ? voc->t->eos : cfg->eos);
	id_key(k, KEY("unknown_token_id"), voc->t->unk);
	id_key(k, KEY("padding_token_id"), voc->pad);
	st_key_bool(k, KEY("add_bos_token"), voc->add_bos);
	st_key_bool(k, KEY("add_eos_token"), voc->add_eos);
	if (!voc->t->byte_level) {
		st_key_bool(k, KEY("add_space_prefix"), voc->space_prefix);
		if (voc->squeeze)
			st_key_bool(k, KEY("remove_extra_whitespaces"), true);
		if (voc->charsmap)
			st_key_array(k, KEY("precompiled_charsmap"), ST_KV_U8, voc->charsmap_len, voc->charsmap);
	}
	if (voc->chat_template)
		st_key_text(k, "tokenizer.chat_template", voc->chat_template, voc->chat_template_len);
}
