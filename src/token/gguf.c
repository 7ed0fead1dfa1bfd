/*
 * gguf.c - the tokenizer of a GGUF file: the keys under tokenizer.ggml.
 *
 * What a file leaves out follows the conventions of the format: SentencePiece vocabularies
 * begin with <unk>, <s>, </s> and want BOS; byte-level ones want it where their family does.
 */
#include "token/tokenizer.h"

#include "base/cursor.h"

#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static const struct kind {
	const char *name;
	enum st_model_kind model;
	bool byte_level;
} kinds
	[] = {
		{ "gpt2", ST_MODEL_RANKED, true },    { "llama", ST_MODEL_SCORED, false },
		{ "t5", ST_MODEL_UNIGRAM, false },    { "bert", ST_MODEL_WORDPIECE, false },
		{ "gemma4", ST_MODEL_RANKED, false }, /* merges over SentencePiece's spelling of blanks */
	};

/* An array of this element type, or *kv = NULL when the key is absent. */
static enum st_status find_array(const struct st_container *c, const char *key, enum st_kv_type elem,
                                 const struct st_kv **kv, struct st_error *err)
{
	const struct st_kv *a = *kv = st_kv_find(&c->keys, key);
	if (a && (a->type != ST_KV_ARR || a->elem != elem))
		return st_fail_at(err, ST_ERR_FORMAT, a->offset, key, "is not an array of %s",
		                  elem == ST_KV_STR   ? "strings"
		                  : elem == ST_KV_F32 ? "f32"
		                  : elem == ST_KV_U8  ? "u8"
		                                      : "i32");
	return ST_OK;
}

static enum st_status read_vocab(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const struct st_kv *tokens, *scores, *types;
	ST_TRY(find_array(c, KEY("tokens"), ST_KV_STR, &tokens, err));
	ST_TRY(find_array(c, KEY("scores"), ST_KV_F32, &scores, err));
	ST_TRY(find_array(c, KEY("token_type"), ST_KV_I32, &types, err));
	if (!tokens)
		return st_fail(err, ST_ERR_FORMAT, KEY("model") " without " KEY("tokens"));
	bool scored = t->model == ST_MODEL_SCORED || t->model == ST_MODEL_UNIGRAM;
	if (scored && !scores)
		return st_fail(err, ST_ERR_FORMAT, KEY("scores") " is missing: a SentencePiece vocabulary needs them");
	if (scores && scores->count != tokens->count)
		return st_fail_at(err, ST_ERR_FORMAT, scores->offset, scores->key, "%llu scores for %llu pieces",
		                  (unsigned long long)scores->count, (unsigned long long)tokens->count);
	if (types && types->count != tokens->count)
		return st_fail_at(err, ST_ERR_FORMAT, types->offset, types->key, "%llu types for %llu pieces",
		                  (unsigned long long)types->count, (unsigned long long)tokens->count);

	ST_TRY(st_vocab_init(&t->vocab, &t->arena, tokens->count, scored, tokens->key, err));
	const uint8_t *p = tokens->data;
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		struct st_piece *piece = &t->vocab.pieces[id];
		size_t len;
		piece->s = st_kv_next_str(&p, &len);
		if (len > UINT32_MAX)
			return st_fail_at(err, ST_ERR_LIMIT, tokens->offset, tokens->key, "piece %u has %zu bytes", id,
			                  len);
		piece->len = (uint32_t)len;
		uint32_t type = types ? st_load_u32(types->data + 4 * (size_t)id) : ST_PIECE_NORMAL;
		/* 0 is "undefined" in the format; nothing else is known about it. */
		if (type > ST_PIECE_BYTE)
			return st_fail_at(err, ST_ERR_FORMAT, types->offset + 4 * (uint64_t)id, types->key,
			                  "piece %u has unknown type %u", id, type);
		piece->type = (uint8_t)(type ? type : ST_PIECE_NORMAL);
		if (scored)
			t->vocab.scores[id] = st_load_f32(scores->data + 4 * (size_t)id);
	}
	if (t->model == ST_MODEL_WORDPIECE)
		ST_TRY(st_wordpiece_respell(t, err));
	ST_TRY(st_vocab_index(&t->vocab, &t->arena, tokens->key, err));
	return scored ? st_scores_check(t, scores->key, err) : ST_OK;
}

static enum st_status read_merges(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const struct st_kv *merges;
	ST_TRY(find_array(c, KEY("merges"), ST_KV_STR, &merges, err));
	if (!merges)
		return st_fail(err, ST_ERR_FORMAT, KEY("merges") " is missing: a vocabulary of merges needs them");
	ST_TRY(st_merges_init(t, merges->count, merges->key, err));
	const uint8_t *p = merges->data;
	for (uint32_t rank = 0; rank < merges->count; rank++) {
		size_t n;
		const char *s = st_kv_next_str(&p, &n);
		ST_TRY(st_merges_add_text(t, rank, s, n, merges->key, err));
	}
	return ST_OK;
}

/* UINT32_MAX is how writers spell "none". */
static enum st_status read_id(const struct st_tokenizer *t, const struct st_container *c, const char *key, int64_t *id,
                              struct st_error *err)
{
	uint64_t v;
	bool found;
	ST_TRY(st_kv_u64(&c->keys, key, &v, &found, err));
	if (found && v == UINT32_MAX)
		*id = -1;
	else if (found)
		return st_tokenizer_id(t, key, v, id, err);
	return ST_OK;
}

static enum st_status read_bpe(struct st_tokenizer *t, const struct st_container *c, bool *adds_bos,
                               struct st_error *err)
{
	const char *pre, *arch;
	size_t n, arch_n;
	bool found, known;
	ST_TRY(read_merges(t, c, err));
	ST_TRY(st_kv_str(&c->keys, KEY("pre"), &pre, &n, &found, err));
	if (found) {
		ST_TRY(st_pretok_set(t, pre, n, KEY("pre"), adds_bos, err));
		return st_tokenizer_describe_as(t, err, "bpe (%.*s)", (int)n, pre);
	}
	ST_TRY(st_kv_str(&c->keys, "general.architecture", &arch, &arch_n, &known, err));
	const char *guess = known ? st_pretok_guess(t, arch, arch_n) : NULL;
	if (!guess)
		return st_pretok_undecided(t, known ? arch : "unknown", known ? arch_n : 7, KEY("pre"), err);
	ST_TRY(st_pretok_set(t, guess, strlen(guess), KEY("pre"), adds_bos, err));
	t->guessed = true;
	return st_tokenizer_describe_as(t, err, "bpe (%s, from architecture %.*s)", guess,
	                                (int)(arch_n < 64 ? arch_n : 64), arch);
}

static enum st_status read_sentencepiece(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const struct st_kv *map;
	bool prefix = true, squeeze = false, found;
	ST_TRY(st_kv_bool(&c->keys, KEY("add_space_prefix"), &prefix, &found, err));
	ST_TRY(st_kv_bool(&c->keys, KEY("remove_extra_whitespaces"), &squeeze, &found, err));
	ST_TRY(find_array(c, KEY("precompiled_charsmap"), ST_KV_U8, &map, err));
	if (map && map->count > 0) {
		ST_TRY(st_charsmap_check((const char *)map->data, map->count, map->key, err));
		ST_TRY(st_norm_add(t,
		                   (struct st_norm){ .kind = ST_NORM_CHARSMAP,
		                                     .a = (const char *)map->data,
		                                     .a_len = (size_t)map->count },
		                   map->key, err));
	}
	if (squeeze)
		ST_TRY(st_norm_add(t, (struct st_norm){ .kind = ST_NORM_SQUEEZE }, KEY("remove_extra_whitespaces"),
		                   err));
	ST_TRY(st_spm_norms(t, prefix, err));
	t->fuse_unk = t->model == ST_MODEL_UNIGRAM;
	if (t->model == ST_MODEL_UNIGRAM)
		ST_TRY(st_unigram_init(t, false, err));
	return st_tokenizer_describe_as(t, err, "%s", t->model == ST_MODEL_UNIGRAM ? "unigram" : "spm");
}

/* Merges run over the whole text, whose blanks are written as SentencePiece does; what no piece covers becomes
 * bytes. */
static enum st_status read_spelled_bpe(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	ST_TRY(read_merges(t, c, err));
	ST_TRY(st_spm_norms(t, false, err));
	t->fuse_unk = true;
	return st_tokenizer_describe_as(t, err, "bpe (gemma4)");
}

/* The id of a piece of this text; BERT's specials have their names. */
static int64_t id_of(const struct st_tokenizer *t, const char *piece)
{
	uint32_t id = st_vocab_find(&t->vocab, piece, strlen(piece));
	return id == ST_NO_ID ? -1 : (int64_t)id;
}

/*
 * CLS before the text and SEP behind it. The format has no key for how text is made ready: as its readers do, accents
 * and capitals are taken away.
 */
static enum st_status read_wordpiece(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	int64_t cls = t->bos >= 0 ? t->bos : id_of(t, "[CLS]"), sep = id_of(t, "[SEP]");
	bool adds_cls = true, adds_sep = true, said;
	ST_TRY(read_id(t, c, KEY("cls_token_id"), &cls, err));
	ST_TRY(read_id(t, c, KEY("seperator_token_id"), &sep, err)); /* as the format spells it */
	ST_TRY(st_kv_bool(&c->keys, KEY("add_bos_token"), &adds_cls, &said, err));
	ST_TRY(st_kv_bool(&c->keys, KEY("add_eos_token"), &adds_sep, &said, err));
	if (t->unk < 0)
		t->unk = id_of(t, "[UNK]");
	if (t->unk < 0)
		return st_fail(err, ST_ERR_FORMAT, KEY("unknown_token_id") " is missing, and no piece is [UNK]");
	if (adds_cls && cls >= 0)
		t->before[t->n_before++] = (uint32_t)cls;
	if (adds_sep && sep >= 0)
		t->after[t->n_after++] = (uint32_t)sep;
	ST_TRY(st_bert_norms(t, (struct st_bert_flags){ true, true, true, true }, KEY("model"), err));
	ST_TRY(st_bert_words(t, KEY("model"), err));
	ST_TRY(st_wordpiece_init(t, "##", 2, 100, err));
	return st_tokenizer_describe_as(t, err, "wordpiece");
}

/* The ids SentencePiece gives out when nothing else was asked for, where the pieces bear them out. */
static int64_t usual_id(const struct st_tokenizer *t, const char *piece, uint32_t id)
{
	return st_vocab_find(&t->vocab, piece, strlen(piece)) == id ? (int64_t)id : -1;
}

enum st_status st_tokenizer_from_gguf(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const char *model;
	size_t n;
	bool found, adds_bos, adds_eos;
	ST_TRY(st_kv_str(&c->keys, KEY("model"), &model, &n, &found, err));
	if (!found)
		return st_fail(err, ST_ERR_UNSUPPORTED, "no " KEY("model") ": there is no tokenizer");
	if ((n == 4 && memcmp(model, "none", 4) == 0) || (n == 8 && memcmp(model, "no_vocab", 8) == 0))
		return st_fail(err, ST_ERR_UNSUPPORTED, KEY("model") " is \"%.*s\": there is no tokenizer", (int)n,
		               model);
	const struct kind *kind = NULL;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strlen(kinds[i].name) == n && memcmp(kinds[i].name, model, n) == 0)
			kind = &kinds[i];
	if (!kind)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, KEY("model"),
		                  "unknown tokenizer \"%.*s\"; known: gpt2, llama, t5, bert, gemma4",
		                  (int)(n < 64 ? n : 64), model);
	t->model = kind->model;
	t->byte_level = kind->byte_level;
	ST_TRY(read_vocab(t, c, err));
	st_byte_ids(t);

	adds_bos = !kind->byte_level && kind->model != ST_MODEL_UNIGRAM;
	adds_eos = kind->model == ST_MODEL_UNIGRAM;
	if (kind->model == ST_MODEL_SCORED) {
		t->bos = usual_id(t, "<s>", 1);
		t->eos = usual_id(t, "</s>", 2);
		t->unk = usual_id(t, "<unk>", 0);
	} else if (kind->model == ST_MODEL_RANKED && !kind->byte_level) {
		t->bos = usual_id(t, "<bos>", 2);
		t->eos = usual_id(t, "<eos>", 1);
		t->unk = usual_id(t, "<unk>", 3);
	} else if (kind->model == ST_MODEL_UNIGRAM) {
		t->eos = usual_id(t, "</s>", 1);
		t->unk = usual_id(t, "<unk>", 2);
	}
	ST_TRY(read_id(t, c, KEY("bos_token_id"), &t->bos, err));
	ST_TRY(read_id(t, c, KEY("eos_token_id"), &t->eos, err));
	ST_TRY(read_id(t, c, KEY("unknown_token_id"), &t->unk, err));

	if (kind->model == ST_MODEL_WORDPIECE)
		return read_wordpiece(t, c, err);
	ST_TRY(kind->byte_level                 ? read_bpe(t, c, &adds_bos, err)
	       : kind->model == ST_MODEL_RANKED ? read_spelled_bpe(t, c, err)
	                                        : read_sentencepiece(t, c, err));
	bool said_bos, said_eos;
	ST_TRY(st_kv_bool(&c->keys, KEY("add_bos_token"), &adds_bos, &said_bos, err));
	ST_TRY(st_kv_bool(&c->keys, KEY("add_eos_token"), &adds_eos, &said_eos, err));
	if ((said_bos && adds_bos && t->bos < 0) || (said_eos && adds_eos && t->eos < 0))
		return st_fail(err, ST_ERR_FORMAT, "tokenizer.ggml.add_%s_token is set and no such token is named",
		               said_bos && adds_bos && t->bos < 0 ? "bos" : "eos");
	if (adds_bos && t->bos >= 0)
		t->before[t->n_before++] = (uint32_t)t->bos;
	if (adds_eos && t->eos >= 0)
		t->after[t->n_after++] = (uint32_t)t->eos;
	return ST_OK;
}
