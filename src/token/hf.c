/*
 * hf.c - the tokenizer of a Hugging Face folder: tokenizer.json, with tokenizer_config.json and
 * config.json for the ids and rules that it leaves open.
 *
 * Whatever would change ids and is not understood is refused by name.
 */
#include "token/tokenizer.h"

#include <string.h>

#define FILE_NAME "tokenizer.json"
#define MAX_HOLES 65536 /* ids without a piece: some families leave a few free */

/* A setting that must be absent, null, or this string. */
static enum st_status only_empty(const json_t *model, const char *key, struct st_error *err)
{
	const json_t *v = json_object_get(model, key);
	if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)
	    || (json_is_number(v) && json_number_value(v) == 0))
		return ST_OK;
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME, "model.%s is set", key);
}

static enum st_status piece_id(const json_t *v, const char *piece, uint64_t limit, uint32_t *id, struct st_error *err)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) >= limit)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
		                  "piece \"%.64s\" has no id between 0 and %llu", piece, (unsigned long long)limit - 1);
	*id = (uint32_t)json_integer_value(v);
	return ST_OK;
}

static enum st_status set_piece(struct st_tokenizer *t, uint32_t id, const char *s, size_t n, struct st_error *err)
{
	struct st_piece *p = &t->vocab.pieces[id];
	if (p->s && (p->len != n || memcmp(p->s, s, n) != 0))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "id %u is both \"%.64s\" and \"%.64s\"",
		                  id, p->s, s);
	p->s = s;
	p->len = (uint32_t)n;
	return ST_OK;
}

/* {"piece": id, ...} of BPE */
static enum st_status read_ranked_vocab(struct st_tokenizer *t, json_t *vocab, uint64_t limit, struct st_error *err)
{
	for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
		const char *key = json_object_iter_key(it);
		uint32_t id;
		ST_TRY(piece_id(json_object_iter_value(it), key, limit, &id, err));
		ST_TRY(set_piece(t, id, key, json_object_iter_key_len(it), err));
		t->vocab.pieces[id].type = ST_PIECE_NORMAL;
	}
	return ST_OK;
}

/* [["piece", score], ...] of unigram: the place is the id. */
static enum st_status read_unigram_vocab(struct st_tokenizer *t, json_t *vocab, struct st_error *err)
{
	for (uint32_t id = 0; id < json_array_size(vocab); id++) {
		const json_t *e = json_array_get(vocab, id), *piece = json_array_get(e, 0),
			     *score = json_array_get(e, 1);
		if (!json_is_string(piece) || !json_is_number(score))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
			                  "model.vocab[%u] is not a pair of piece and score", id);
		ST_TRY(set_piece(t, id, json_string_value(piece), json_string_length(piece), err));
		t->vocab.pieces[id].type = ST_PIECE_NORMAL;
		t->vocab.scores[id] = (float)json_number_value(score);
	}
	return ST_OK;
}

/* What an added token says yes or no to. */
struct added {
	bool single_word, special, lstrip, rstrip;
};

#define AT(m) ST_JSON_AT(struct added, m)
static const struct st_json_field added_rows[] = {
	{ AT(single_word), .key = { "single_word" } },
	{ AT(special), .key = { "special" } },
	{ AT(lstrip), .key = { "lstrip" } },
	{ AT(rstrip), .key = { "rstrip" } },
};
#undef AT

static enum st_status read_added(struct st_tokenizer *t, const json_t *added, uint64_t limit, struct st_error *err)
{
	for (size_t i = 0; i < json_array_size(added); i++) {
		const json_t *a = json_array_get(added, i), *content = json_object_get(a, "content");
		struct added is = { 0 };
		uint32_t id;
		if (!json_is_string(content))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
			                  "added_tokens[%zu] has no content", i);
		ST_TRY(piece_id(json_object_get(a, "id"), json_string_value(content), limit, &id, err));
		ST_TRY(st_json_read(a, &(struct st_json_read){ .where = "added_tokens" }, added_rows,
		                    sizeof added_rows / sizeof *added_rows, &is, NULL, err));
		if (is.single_word)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
			                  "added_tokens[%zu] (\"%.64s\") is a single_word", i,
			                  json_string_value(content));
		ST_TRY(set_piece(t, id, json_string_value(content), json_string_length(content), err));
		struct st_piece *p = &t->vocab.pieces[id];
		p->type = is.special ? ST_PIECE_CONTROL : ST_PIECE_USER;
		p->strip = (is.lstrip ? ST_STRIP_LEFT : 0) | (is.rstrip ? ST_STRIP_RIGHT : 0);
	}
	return ST_OK;
}

struct model_flags {
	bool byte_fallback, ignore_merges, fuse_unk;
};

#define AT(m) ST_JSON_AT(struct model_flags, m)
static const struct st_json_field model_rows[] = {
	{ AT(byte_fallback), .key = { "byte_fallback" } },
	{ AT(ignore_merges), .key = { "ignore_merges" } },
	{ AT(fuse_unk), .key = { "fuse_unk" } },
};
#undef AT

/* The vocabulary reaches to the highest id of pieces and added tokens. */
static enum st_status read_vocab(struct st_tokenizer *t, const json_t *doc, const json_t *model, bool byte_fallback,
                                 struct st_error *err)
{
	json_t *vocab = json_object_get(model, "vocab"), *added = json_object_get(doc, "added_tokens");
	bool scored = t->model == ST_MODEL_UNIGRAM;
	if (scored ? !json_is_array(vocab) : !json_is_object(vocab))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
		                  "model.vocab is missing or of the wrong type");
	if (added && !json_is_null(added) && !json_is_array(added))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "added_tokens is not a list");
	uint64_t count = (scored ? json_array_size(vocab) : json_object_size(vocab)) + json_array_size(added);
	uint64_t limit = count + MAX_HOLES, n = scored ? json_array_size(vocab) : 0;
	uint32_t id;
	for (void *it = scored ? NULL : json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
		ST_TRY(piece_id(json_object_iter_value(it), json_object_iter_key(it), limit, &id, err));
		n = id >= n ? id + 1 : n;
	}
	for (size_t i = 0; i < json_array_size(added); i++) {
		ST_TRY(piece_id(json_object_get(json_array_get(added, i), "id"), "(added)", limit, &id, err));
		n = id >= n ? id + 1 : n;
	}
	ST_TRY(st_vocab_init(&t->vocab, &t->arena, n, scored, FILE_NAME, err));
	for (uint32_t i = 0; i < t->vocab.n; i++)
		t->vocab.pieces[i].type = ST_PIECE_UNUSED;
	ST_TRY(scored ? read_unigram_vocab(t, vocab, err) : read_ranked_vocab(t, vocab, limit, err));
	ST_TRY(read_added(t, added, limit, err));
	if (byte_fallback)
		for (uint32_t i = 0; i < t->vocab.n; i++)
			if (st_byte_piece(t->vocab.pieces[i].s, t->vocab.pieces[i].len) >= 0)
				t->vocab.pieces[i].type = ST_PIECE_BYTE;
	ST_TRY(st_vocab_index(&t->vocab, &t->arena, FILE_NAME, err));
	return scored ? st_scores_check(t, FILE_NAME, err) : ST_OK;
}

/* "left right" or ["left", "right"] */
static enum st_status read_merges(struct st_tokenizer *t, const json_t *merges, struct st_error *err)
{
	if (!json_is_array(merges))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "model.merges is not a list");
	size_t n = json_array_size(merges);
	ST_TRY(st_merges_init(t, n, FILE_NAME, err));
	for (uint32_t rank = 0; rank < n; rank++) {
		const json_t *m = json_array_get(merges, rank), *l = json_array_get(m, 0), *r = json_array_get(m, 1);
		if (json_is_string(m))
			ST_TRY(st_merges_add_text(t, rank, json_string_value(m), json_string_length(m), FILE_NAME,
			                          err));
		else if (json_array_size(m) == 2 && json_is_string(l) && json_is_string(r))
			ST_TRY(st_merges_add(t, rank, json_string_value(l), json_string_length(l), json_string_value(r),
			                     json_string_length(r), FILE_NAME, err));
		else
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
			                  "model.merges[%u] is neither text nor a pair", rank);
	}
	return ST_OK;
}

static enum st_status read_unknown(struct st_tokenizer *t, const json_t *model, struct st_error *err)
{
	const json_t *id = json_object_get(model, "unk_id"), *token = json_object_get(model, "unk_token");
	if (json_is_integer(id))
		return st_tokenizer_id(t, "model.unk_id", (uint64_t)json_integer_value(id), &t->unk, err);
	if (!json_is_string(token))
		return ST_OK;
	uint32_t found = st_vocab_find(&t->vocab, json_string_value(token), json_string_length(token));
	if (found == ST_NO_ID)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
		                  "model.unk_token \"%.64s\" is not in the vocabulary", json_string_value(token));
	t->unk = found;
	return ST_OK;
}

static enum st_status read_wordpiece(struct st_tokenizer *t, const json_t *model, struct st_error *err)
{
	const json_t *prefix = json_object_get(model, "continuing_subword_prefix"),
		     *most = json_object_get(model, "max_input_chars_per_word");
	bool given = json_is_string(prefix);
	if (t->unk < 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME, "model.unk_token is missing");
	return st_wordpiece_init(t, given ? json_string_value(prefix) : "##", given ? json_string_length(prefix) : 2,
	                         json_integer_value(most) > 0 ? (uint64_t)json_integer_value(most) : 100, err);
}

static enum st_status add_around(struct st_tokenizer *t, bool after, uint64_t id, struct st_error *err)
{
	int64_t checked;
	size_t *n = after ? &t->n_after : &t->n_before;
	ST_TRY(st_tokenizer_id(t, "post_processor", id, &checked, err));
	if (*n == ST_MAX_AROUND)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, FILE_NAME, "post_processor adds more than %d tokens",
		                  ST_MAX_AROUND);
	(after ? t->after : t->before)[(*n)++] = (uint32_t)checked;
	return ST_OK;
}

/* What is around the text in the template of a single one. */
static enum st_status read_template(struct st_tokenizer *t, const json_t *step, struct st_error *err)
{
	const json_t *single = json_object_get(step, "single"), *known = json_object_get(step, "special_tokens");
	bool after = false;
	for (size_t i = 0; i < json_array_size(single); i++) {
		const json_t *e = json_array_get(single, i), *token = json_object_get(e, "SpecialToken");
		if (json_object_get(e, "Sequence")) {
			after = true;
			continue;
		}
		const char *name = json_string_value(json_object_get(token, "id"));
		const json_t *ids = name ? json_object_get(json_object_get(known, name), "ids") : NULL;
		if (!json_is_array(ids))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
			                  "post_processor.single[%zu] is not understood", i);
		for (size_t k = 0; k < json_array_size(ids); k++) {
			const json_t *id = json_array_get(ids, k);
			if (!json_is_integer(id) || json_integer_value(id) < 0)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
				                  "post_processor: \"%.64s\" has no ids", name);
			ST_TRY(add_around(t, after, (uint64_t)json_integer_value(id), err));
		}
	}
	return ST_OK;
}

static enum st_status post_step(struct st_tokenizer *t, const json_t *step, const char *type, struct st_error *err)
{
	if (strcmp(type, "ByteLevel") == 0) /* concerns offsets only */
		return ST_OK;
	if (strcmp(type, "TemplateProcessing") == 0)
		return read_template(t, step, err);
	if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
		const json_t *cls = json_array_get(json_object_get(step, "cls"), 1),
			     *sep = json_array_get(json_object_get(step, "sep"), 1);
		if (!json_is_integer(cls) || !json_is_integer(sep))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, FILE_NAME,
			                  "post_processor: cls and sep have no ids");
		ST_TRY(add_around(t, false, (uint64_t)json_integer_value(cls), err));
		return add_around(t, true, (uint64_t)json_integer_value(sep), err);
	}
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
	                  "unknown post_processor \"%.64s\"; known: ByteLevel, TemplateProcessing, RobertaProcessing, "
	                  "BertProcessing, Sequence",
	                  type);
}

/* "bos_token" of tokenizer_config.json ("<s>" or {"content": "<s>"}), else "bos_token_id" of config.json (an id or a
 * list of them). */
static enum st_status read_special(const struct st_tokenizer *t, const struct st_container *c, const char *name,
                                   const char *id_name, int64_t *out, struct st_error *err)
{
	const json_t *v = json_object_get(c->docs.tokenizer_config, name);
	const json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
	if (json_is_string(text)) {
		uint32_t id = st_vocab_find(&t->vocab, json_string_value(text), json_string_length(text));
		if (id == ST_NO_ID)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer_config.json",
			                  "%s \"%.64s\" is not in the vocabulary", name, json_string_value(text));
		*out = id;
		return ST_OK;
	}
	const json_t *id = json_object_get(c->docs.config, id_name);
	if (!id)
		id = json_object_get(c->docs.generation_config, id_name);
	if (json_is_array(id))
		id = json_array_get(id, 0);
	if (!json_is_integer(id) || json_integer_value(id) < 0)
		return ST_OK;
	return st_tokenizer_id(t, id_name, (uint64_t)json_integer_value(id), out, err);
}

static enum st_status around(struct st_tokenizer *t, bool adds_bos, bool adds_eos, struct st_error *err)
{
	t->n_before = t->n_after = 0;
	if (adds_bos)
		ST_TRY(add_around(t, false, (uint64_t)t->bos, err));
	return adds_eos ? add_around(t, true, (uint64_t)t->eos, err) : ST_OK;
}

/*
 * What adds BOS and EOS. transformers 5, which names its one class TokenizersBackend and writes "backend" into its
 * files, takes add_bos_token and add_eos_token wherever one of them stands there, an absent one as no, and a token that
 * no key names is not added; else what tokenizer.json says counts.
 */
static bool is_of_transformers_5(const json_t *config)
{
	const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
	return json_object_get(config, "backend") || (class && strcmp(class, "TokenizersBackend") == 0);
}

static enum st_status apply_5(struct st_tokenizer *t, const json_t *config, struct st_error *err)
{
	const json_t *bos = json_object_get(config, "add_bos_token"), *eos = json_object_get(config, "add_eos_token");
	if (!bos && !eos)
		return ST_OK;
	return around(t, json_is_true(bos) && t->bos >= 0 && json_object_get(config, "bos_token"),
	              json_is_true(eos) && t->eos >= 0 && json_object_get(config, "eos_token"), err);
}

/*
 * transformers 4: the classes of these families rebuild the post-processor from add_bos_token and add_eos_token
 * (default: BOS, no EOS), whatever tokenizer.json says; its generic class looks at neither key.
 */
static enum st_status apply_class(struct st_tokenizer *t, const json_t *config, struct st_error *err)
{
	static const char *const classes[] = { "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
		                               "CohereTokenizer" };
	const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
	for (size_t i = 0; class && i < sizeof classes / sizeof *classes; i++) {
		size_t n = strlen(classes[i]);
		if (strncmp(class, classes[i], n) != 0 || (class[n] && strcmp(class + n, "Fast") != 0))
			continue;
		const json_t *bos = json_object_get(config, "add_bos_token"),
			     *eos = json_object_get(config, "add_eos_token");
		bool adds_bos = !json_is_false(bos), adds_eos = json_is_true(eos);
		if ((adds_bos && t->bos < 0) || (adds_eos && t->eos < 0))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokenizer_config.json",
			                  "%s adds %s, which no key names", class,
			                  adds_bos && t->bos < 0 ? "BOS" : "EOS");
		return around(t, adds_bos, adds_eos, err);
	}
	return ST_OK;
}

enum st_status st_tokenizer_from_hf(struct st_tokenizer *t, const struct st_container *c, struct st_error *err)
{
	const json_t *doc = c->docs.tokenizer, *model = json_object_get(doc, "model");
	const char *type = json_string_value(json_object_get(model, "type"));
	/* Files written before types were: BPE is the kind with merges. */
	if (!type && json_object_get(model, "merges"))
		type = "BPE";
	bool wordpiece = type && strcmp(type, "WordPiece") == 0;
	if (!type || (strcmp(type, "BPE") != 0 && strcmp(type, "Unigram") != 0 && !wordpiece))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, FILE_NAME,
		                  "unknown model \"%.64s\"; known: BPE, Unigram, WordPiece", type ? type : "");
	t->model = strcmp(type, "BPE") == 0 ? ST_MODEL_RANKED : wordpiece ? ST_MODEL_WORDPIECE : ST_MODEL_UNIGRAM;
	ST_TRY(only_empty(model, "dropout", err));
	if (!wordpiece)
		ST_TRY(only_empty(model, "continuing_subword_prefix", err));
	ST_TRY(only_empty(model, "end_of_word_suffix", err));
	struct model_flags is = { 0 };
	ST_TRY(st_json_read(model, &(struct st_json_read){ .where = "model" }, model_rows,
	                    sizeof model_rows / sizeof *model_rows, &is, NULL, err));
	t->ignore_merges = is.ignore_merges;
	t->fuse_unk = t->model == ST_MODEL_UNIGRAM || is.fuse_unk;
	ST_TRY(read_vocab(t, doc, model, is.byte_fallback, err));
	ST_TRY(st_hf_steps(t, doc, err));
	st_byte_ids(t);
	ST_TRY(read_unknown(t, model, err));
	ST_TRY(t->model == ST_MODEL_RANKED ? read_merges(t, json_object_get(model, "merges"), err)
	       : wordpiece                 ? read_wordpiece(t, model, err)
	                                   : st_unigram_init(t, true, err));
	ST_TRY(st_hf_each(t, json_object_get(doc, "post_processor"), "post_processor", "processors", post_step, err));

	ST_TRY(read_special(t, c, "bos_token", "bos_token_id", &t->bos, err));
	ST_TRY(read_special(t, c, "eos_token", "eos_token_id", &t->eos, err));
	const json_t *config = c->docs.tokenizer_config;
	ST_TRY(is_of_transformers_5(config) ? apply_5(t, config, err) : apply_class(t, config, err));
	return st_tokenizer_describe_as(t, err, "%s%s (tokenizer.json)", t->byte_level ? "byte-level " : "",
	                                t->model == ST_MODEL_RANKED ? "bpe"
	                                : wordpiece                 ? "wordpiece"
	                                                            : "unigram");
}
