/*
 * apr.c - the tokenizer of an APR file: the keys under "tokenizer." of its metadata.
 *
 * The format keeps pieces, merges or scores, and a few ids. It has no types of pieces and no word
 * splitting; both are inferred here (docs/tokenizers.md), unless the optional keys
 * tokenizer.token_type and tokenizer.pre, with GGUF's meaning, say more.
 */
#include "token/tokenizer.h"

#include <string.h>

static const struct kind {
	const char *name;
	enum st_model_kind model;
} kinds[] = {
	{ "bpe", ST_MODEL_RANKED }, { "gpt2", ST_MODEL_RANKED },  { "sentencepiece", ST_MODEL_SCORED },
	{ "spm", ST_MODEL_SCORED }, { "llama", ST_MODEL_SCORED }, { "unigram", ST_MODEL_UNIGRAM },
	{ "t5", ST_MODEL_UNIGRAM },
};

/* The keys; a list or text that is absent is NULL, an id -1. */
struct keys {
	const json_t *vocab, *merges, *scores, *types;
	const char *kind[2], *pre, *architecture, *model_type;
	int64_t bos, eos, unk;
};

#define AT(m) ST_JSON_AT(struct keys, m)
#define LIST(m) ST_JSON_AT_A(struct keys, m, ST_JSON_LIST)
#define ID .min = 0, .max = UINT32_MAX
static const struct st_json_field keys[] = {
	{ LIST(vocab), .key = { "tokenizer.vocabulary" } },
	{ LIST(merges), .key = { "tokenizer.merges" } },
	{ LIST(scores), .key = { "tokenizer.scores" } },
	{ LIST(types), .key = { "tokenizer.token_type" } },
	{ AT(kind[0]), .key = { "tokenizer.model_type" } },
	{ AT(kind[1]), .key = { "tokenizer.model" } },
	{ AT(pre), .key = { "tokenizer.pre" } },
	{ AT(architecture), .key = { "architecture" } },
	{ AT(model_type), .key = { "model_type" } },
	{ AT(bos), .key = { "tokenizer.bos_token_id" }, ID },
	{ AT(eos), .key = { "tokenizer.eos_token_id" }, ID },
	{ AT(unk), .key = { "tokenizer.unk_token_id" }, ID },
};

/* A truth, whose default the kind of tokenizer decides. */
static enum st_status read_bool(const json_t *meta, const char *key, bool *out, struct st_error *err)
{
	return st_json_read_one(meta, NULL, &(struct st_json_field){ ST_JSON_IN(*out), .key = { key } }, out, NULL,
	                        err);
}

static enum st_status read_kind(struct st_tokenizer *t, const struct keys *said, struct st_error *err)
{
	static const char *const named_by[] = { "tokenizer.model_type", "tokenizer.model" };
	const struct kind *kind = NULL;
	for (size_t k = 0; k < 2; k++) {
		const char *name = said->kind[k];
		if (!name)
			continue;
		const struct kind *named = NULL;
		for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
			if (strcmp(kinds[i].name, name) == 0)
				named = &kinds[i];
		if (!named)
			return st_fail_at(
				err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, named_by[k],
				"unknown tokenizer \"%.64s\"; known: bpe, gpt2, sentencepiece, spm, llama, unigram, t5",
				name);
		if (kind && kind->model != named->model)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, named_by[k], "\"%s\" contradicts %s", name,
			                  named_by[0]);
		kind = named;
	}
	if (!kind && !said->merges && !said->scores)
		return st_fail(err, ST_ERR_UNSUPPORTED,
		               "tokenizer.vocabulary with neither tokenizer.model_type, .merges nor .scores: its kind "
		               "is unknown");
	t->model = kind ? kind->model : said->merges ? ST_MODEL_RANKED : ST_MODEL_SCORED;
	t->byte_level = t->model == ST_MODEL_RANKED;
	return ST_OK;
}

static enum st_status read_vocab(struct st_tokenizer *t, const struct keys *said, struct st_error *err)
{
	static const char key[] = "tokenizer.vocabulary";
	const json_t *vocab = said->vocab, *scores = said->scores, *types = said->types;
	size_t n = json_array_size(vocab);
	bool scored = t->model != ST_MODEL_RANKED;
	if (scored && !scores)
		return st_fail(err, ST_ERR_FORMAT,
		               "tokenizer.scores is missing: a SentencePiece vocabulary needs them");
	if (scored && json_array_size(scores) != n)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer.scores", "%zu scores for %zu pieces",
		                  json_array_size(scores), n);
	if (types && json_array_size(types) != n)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer.token_type", "%zu types for %zu pieces",
		                  json_array_size(types), n);
	ST_TRY(st_vocab_init(&t->vocab, &t->arena, n, scored, key, err));
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		const json_t *piece = json_array_get(vocab, id), *score = scored ? json_array_get(scores, id) : NULL;
		if (!json_is_string(piece))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "piece %u is not a string", id);
		if (scored && !json_is_number(score))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer.scores",
			                  "score of piece %u is not a number", id);
		json_int_t type = types ? json_integer_value(json_array_get(types, id)) : ST_PIECE_NORMAL;
		if (type < ST_PIECE_NORMAL || type > ST_PIECE_BYTE)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer.token_type",
			                  "piece %u has unknown type %lld", id, (long long)type);
		t->vocab.pieces[id] = (struct st_piece){ json_string_value(piece), (uint32_t)json_string_length(piece),
			                                 (uint8_t)type, 0 };
		if (scored)
			t->vocab.scores[id] = (float)json_number_value(score);
	}
	ST_TRY(st_vocab_index(&t->vocab, &t->arena, key, err));
	return scored ? st_scores_check(t, "tokenizer.scores", err) : ST_OK;
}

static enum st_status read_merges(struct st_tokenizer *t, const json_t *merges, struct st_error *err)
{
	static const char key[] = "tokenizer.merges";
	if (!merges)
		return st_fail(err, ST_ERR_FORMAT, "tokenizer.merges is missing: a byte-level vocabulary needs them");
	size_t n = json_array_size(merges);
	ST_TRY(st_merges_init(t, n, key, err));
	for (uint32_t rank = 0; rank < n; rank++) {
		const json_t *m = json_array_get(merges, rank);
		if (!json_is_string(m))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "merge %u is not a string", rank);
		ST_TRY(st_merges_add_text(t, rank, json_string_value(m), json_string_length(m), key, err));
	}
	return ST_OK;
}

static enum st_status set_id(const struct st_tokenizer *t, const char *key, int64_t said, int64_t *id,
                             struct st_error *err)
{
	return said < 0 ? ST_OK : st_tokenizer_id(t, key, (uint64_t)said, id, err);
}

/* A byte-level piece that is longer than a byte and that no merge makes cannot come from text: somebody
 * added it. Those written <...> are special; the rest is padding. */
static enum st_status infer_bpe_types(struct st_tokenizer *t, struct st_error *err)
{
	uint8_t *made = st_arena_alloc(&t->arena, t->vocab.n, 1);
	if (!made)
		return st_fail(err, ST_ERR_NOMEM, "no memory for %u pieces", t->vocab.n);
	for (uint32_t i = 0; i <= t->merges.mask; i++)
		if (t->merges.slots[i].order)
			made[t->merges.slots[i].id] = 1;
	for (unsigned b = 0; b < 256; b++)
		if (t->byte_id[b] != ST_NO_ID)
			made[t->byte_id[b]] = 1;
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		struct st_piece *p = &t->vocab.pieces[id];
		if (!made[id] && p->len > 0)
			p->type = p->len > 2 && p->s[0] == '<' && p->s[p->len - 1] == '>' ? ST_PIECE_CONTROL
			                                                                  : ST_PIECE_UNUSED;
	}
	return ST_OK;
}

/* SentencePiece's own names. */
static void infer_spm_types(struct st_tokenizer *t)
{
	static const struct {
		const char *piece;
		enum st_piece_type type;
	} known[] = {
		{ "<unk>", ST_PIECE_UNKNOWN },
		{ "<s>", ST_PIECE_CONTROL },
		{ "</s>", ST_PIECE_CONTROL },
		{ "<pad>", ST_PIECE_CONTROL },
	};
	for (uint32_t id = 0; id < t->vocab.n; id++)
		if (st_byte_piece(t->vocab.pieces[id].s, t->vocab.pieces[id].len) >= 0)
			t->vocab.pieces[id].type = ST_PIECE_BYTE;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		uint32_t id = st_vocab_find(&t->vocab, known[i].piece, strlen(known[i].piece));
		if (id != ST_NO_ID)
			t->vocab.pieces[id].type = (uint8_t)known[i].type;
	}
}

static enum st_status read_bpe(struct st_tokenizer *t, const struct keys *said, bool *adds_bos, struct st_error *err)
{
	static const char key[] = "tokenizer.pre";
	const char *pre = said->pre, *arch = said->architecture ? said->architecture : said->model_type;
	st_byte_ids(t);
	ST_TRY(read_merges(t, said->merges, err));
	if (!said->types)
		ST_TRY(infer_bpe_types(t, err));
	if (pre) {
		ST_TRY(st_pretok_set(t, pre, strlen(pre), key, adds_bos, err));
		return st_tokenizer_describe_as(t, err, "bpe (%s)", pre);
	}
	arch = arch ? arch : "unknown";
	pre = st_pretok_guess(t, arch, strlen(arch));
	if (!pre)
		return st_pretok_undecided(t, arch, strlen(arch), key, err);
	ST_TRY(st_pretok_set(t, pre, strlen(pre), key, adds_bos, err));
	t->guessed = true;
	return st_tokenizer_describe_as(t, err, "bpe (%s, from architecture %.64s)", pre, arch);
}

static enum st_status read_sentencepiece(struct st_tokenizer *t, const json_t *meta, bool typed, struct st_error *err)
{
	bool prefix = true;
	if (!typed)
		infer_spm_types(t);
	st_byte_ids(t);
	for (uint32_t id = 0; id < t->vocab.n && t->unk < 0; id++)
		if (t->vocab.pieces[id].type == ST_PIECE_UNKNOWN)
			t->unk = id;
	ST_TRY(read_bool(meta, "tokenizer.add_space_prefix", &prefix, err));
	ST_TRY(st_spm_norms(t, prefix, err));
	t->fuse_unk = t->model == ST_MODEL_UNIGRAM;
	if (t->model == ST_MODEL_UNIGRAM)
		ST_TRY(st_unigram_init(t, false, err));
	return st_tokenizer_describe_as(t, err, "%s", t->model == ST_MODEL_UNIGRAM ? "unigram" : "spm");
}

enum st_status st_tokenizer_from_apr(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const json_t *meta = c->docs.metadata;
	struct keys said = { .bos = -1, .eos = -1, .unk = -1 };
	ST_TRY(st_json_read(meta, NULL, keys, sizeof keys / sizeof *keys, &said, NULL, err));
	if (!said.vocab)
		return st_fail(err, ST_ERR_UNSUPPORTED, "no tokenizer.vocabulary: there is no tokenizer");
	ST_TRY(read_kind(t, &said, err));
	ST_TRY(read_vocab(t, &said, err));
	ST_TRY(set_id(t, "tokenizer.bos_token_id", said.bos, &t->bos, err));
	ST_TRY(set_id(t, "tokenizer.eos_token_id", said.eos, &t->eos, err));
	ST_TRY(set_id(t, "tokenizer.unk_token_id", said.unk, &t->unk, err));

	bool adds_bos = t->model == ST_MODEL_SCORED, adds_eos = t->model == ST_MODEL_UNIGRAM;
	ST_TRY(t->byte_level ? read_bpe(t, &said, &adds_bos, err)
	                     : read_sentencepiece(t, meta, said.types != NULL, err));
	/* Without types, the ids a file names are special whatever they look like. */
	if (!said.types && t->bos >= 0)
		t->vocab.pieces[t->bos].type = ST_PIECE_CONTROL;
	if (!said.types && t->eos >= 0)
		t->vocab.pieces[t->eos].type = ST_PIECE_CONTROL;
	ST_TRY(read_bool(meta, "tokenizer.add_bos_token", &adds_bos, err));
	ST_TRY(read_bool(meta, "tokenizer.add_eos_token", &adds_eos, err));
	if (adds_bos && t->bos >= 0)
		t->before[t->n_before++] = (uint32_t)t->bos;
	if (adds_eos && t->eos >= 0)
		t->after[t->n_after++] = (uint32_t)t->eos;
	return ST_OK;
}
