/* vocab_hf.c - a vocabulary as tokenizer.json and tokenizer_config.json. */
#include "convert/vocab.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define MARKER "\xE2\x96\x81" /* U+2581, SentencePiece's space */

static bool put(json_t *o, const char *key, json_t *value) { return json_object_set_new(o, key, value) == 0; }
static bool append(json_t *a, json_t *value) { return json_array_append_new(a, value) == 0; }

/* Recognised in raw text, before anything else. */
static bool is_added(uint8_t type)
{
	return type == ST_PIECE_CONTROL || type == ST_PIECE_USER || type == ST_PIECE_UNKNOWN;
}

/* Padding to the embedding's size is no vocabulary: tokenizer.json leaves such ids out. */
static bool is_padding(const struct st_piece_view *p, uint32_t id)
{
	char name[24];
	int n = snprintf(name, sizeof name, "[PAD%u]", id);
	return p->len == 0 || (p->type == ST_PIECE_UNUSED && p->len == (size_t)n && memcmp(p->s, name, (size_t)n) == 0);
}

static json_t *added_tokens(const struct st_vocabulary *v)
{
	json_t *list = json_array();
	for (uint32_t id = 0; list && id < v->t->vocab.n; id++) {
		struct st_piece_view p;
		st_vocabulary_piece(v, id, &p);
		if (!is_added(p.type) || p.len == 0)
			continue;
		uint8_t strip = v->t->vocab.pieces[id].strip;
		if (!append(list, json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
		                            p.s, p.len, "single_word", 0, "lstrip", (strip & ST_STRIP_LEFT) != 0,
		                            "rstrip", (strip & ST_STRIP_RIGHT) != 0, "normalized", 0, "special",
		                            p.type != ST_PIECE_USER))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* {"piece": id}. Keys of JSON objects are terminated strings, and so are pieces: no text of a model holds NUL. */
static json_t *ranked_vocab(const struct st_vocabulary *voc)
{
	json_t *o = json_object();
	for (uint32_t id = 0; o && id < voc->t->vocab.n; id++) {
		struct st_piece_view p;
		st_vocabulary_piece(voc, id, &p);
		/* Added tokens are among them. The tokenizers library takes their ids from here: it gives one that it
		 * does not find the next free id, whatever added_tokens says. */
		if (is_padding(&p, id))
			continue;
		if (json_object_setn_new(o, p.s, p.len, json_integer(id)) != 0) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

static json_t *merge_list(const struct st_vocabulary *v)
{
	const struct st_piece *piece = v->t->vocab.pieces;
	json_t *list = json_array();
	bool pairs = false; /* a piece with a space in it needs the newer spelling */
	for (uint32_t i = 0; i < v->n_merges && !pairs; i++)
		for (int k = 0; k < 2; k++)
			pairs |= memchr(piece[v->merges[i][k]].s, ' ', piece[v->merges[i][k]].len) != NULL;
	for (uint32_t i = 0; list && i < v->n_merges; i++) {
		const struct st_piece *l = &piece[v->merges[i][0]], *r = &piece[v->merges[i][1]];
		json_t *one = pairs ? json_pack("[s%, s%]", l->s, (size_t)l->len, r->s, (size_t)r->len)
		                    : json_sprintf("%.*s %.*s", (int)l->len, l->s, (int)r->len, r->s);
		if (!append(list, one)) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *piece_text(const struct st_vocabulary *v, int64_t id)
{
	if (id < 0 || id >= (int64_t)v->t->vocab.n || !v->t->vocab.pieces[id].s)
		return json_null();
	return json_stringn(v->t->vocab.pieces[id].s, v->t->vocab.pieces[id].len);
}

static bool has_bytes(const struct st_vocabulary *v)
{
	for (uint32_t id = 0; id < v->t->vocab.n; id++)
		if (v->t->vocab.pieces[id].type == ST_PIECE_BYTE)
			return true;
	return false;
}

static json_t *bpe_model(const struct st_vocabulary *voc, bool ignore_merges)
{
	bool spm = !voc->t->byte_level;
	return json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
	                 spm ? piece_text(voc, voc->t->unk) : json_null(), "continuing_subword_prefix",
	                 "end_of_word_suffix", "fuse_unk", spm, "byte_fallback", spm && has_bytes(voc), "ignore_merges",
	                 ignore_merges, "vocab", ranked_vocab(voc), "merges", merge_list(voc));
}

static json_t *unigram_model(const struct st_vocabulary *voc)
{
	json_t *list = json_array();
	bool ok = list != NULL;
	for (uint32_t id = 0; ok && id < voc->t->vocab.n; id++) {
		struct st_piece_view p;
		st_vocabulary_piece(voc, id, &p);
		ok = append(list, json_pack("[s%, f]", p.s, p.len, (double)voc->scores[id]));
	}
	return json_pack("{s:s, s:o, s:b, s:o}", "type", "Unigram", "unk_id",
	                 voc->t->unk < 0 ? json_null() : json_integer(voc->t->unk), "byte_fallback", has_bytes(voc),
	                 "vocab", ok ? list : NULL);
}

/* ---- the steps around the model ---- */

static json_t *byte_level_step(void)
{
	return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
	                 "use_regex", 0);
}

static json_t *word_splitting(const struct st_pretok_facts *f)
{
	json_t *steps = json_array();
	bool ok = steps != NULL;
	for (size_t i = 0; ok && i < f->n_patterns; i++)
		ok = append(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
		                             f->patterns[i], "behavior", "Isolated", "invert", 0));
	ok = ok && append(steps, byte_level_step());
	return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", ok ? steps : NULL);
}

static json_t *base64(const char *p, size_t n)
{
	unsigned char *buf = st_alloc_array2(n / 3 + 2, 4, 1);
	if (!buf)
		return NULL;
	int len = EVP_EncodeBlock(buf, (const unsigned char *)p, (int)n);
	json_t *s = json_stringn((const char *)buf, (size_t)len);
	free(buf);
	return s;
}

static json_t *spm_normalizer(const struct st_vocabulary *v)
{
	json_t *steps = json_array();
	bool ok = steps != NULL;
	if (v->charsmap)
		ok = ok
		  && append(steps, json_pack("{s:s, s:o}", "type", "Precompiled", "precompiled_charsmap",
		                             base64(v->charsmap, v->charsmap_len)));
	if (v->squeeze) {
		ok = ok
		  && append(steps, json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", 1, "strip_right", 1));
		ok = ok
		  && append(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "Regex", " {2,}",
		                             "content", " "));
	}
	if (v->space_prefix)
		ok = ok && append(steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", MARKER));
	ok = ok
	  && append(steps,
	            json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content", MARKER));
	return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", ok ? steps : NULL);
}

static json_t *spm_decoder(const struct st_vocabulary *v)
{
	json_t *steps = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String", MARKER,
	                          "content", " ", "type", "ByteFallback", "type", "Fuse");
	if (steps && v->space_prefix
	    && !append(steps,
	               json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0))) {
		json_decref(steps);
		steps = NULL;
	}
	return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

static json_t *special(const struct st_vocabulary *v, int64_t id, int type_id)
{
	return json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", piece_text(v, id), "type_id", type_id);
}

static bool put_special_ids(const struct st_vocabulary *v, json_t *o, int64_t id)
{
	const struct st_piece *p = &v->t->vocab.pieces[id];
	return json_object_setn_new(o, p->s, p->len,
	                            json_pack("{s:o, s:[I], s:[o]}", "id", piece_text(v, id), "ids", (json_int_t)id,
	                                      "tokens", piece_text(v, id)))
	    == 0;
}

/* BOS and EOS around one text, and around each of two. */
static json_t *template_step(const struct st_vocabulary *v)
{
	json_t *single = json_array(), *pair = json_array(), *known = json_object();
	bool ok = single && pair && known;
	for (int i = 0; ok && i < 2; i++) {
		json_t *seq = json_pack("{s:{s:s, s:i}}", "Sequence", "id", i ? "B" : "A", "type_id", i);
		if (v->add_bos)
			ok = ok && append(pair, special(v, v->t->bos, i))
			  && (i || append(single, special(v, v->t->bos, 0)));
		ok = ok && (i || json_array_append(single, seq) == 0) && json_array_append(pair, seq) == 0;
		if (v->add_eos)
			ok = ok && append(pair, special(v, v->t->eos, i))
			  && (i || append(single, special(v, v->t->eos, 0)));
		json_decref(seq);
	}
	ok = ok && (!v->add_bos || put_special_ids(v, known, v->t->bos))
	  && (!v->add_eos || put_special_ids(v, known, v->t->eos));
	if (!ok) {
		json_decref(single);
		json_decref(pair);
		json_decref(known);
		return NULL;
	}
	return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
	                 "special_tokens", known);
}

static json_t *post_processor(const struct st_vocabulary *v)
{
	if (v->add_bos || v->add_eos)
		return template_step(v);
	return v->t->byte_level ? byte_level_step() : json_null();
}

static bool facts_of(const char *name, struct st_pretok_facts *f)
{
	for (size_t i = 0; st_pretok_at(i, f); i++)
		if (strcmp(f->name, name) == 0)
			return true;
	return false;
}

static json_t *tokenizer_document(const struct st_vocabulary *voc)
{
	bool bytes = voc->t->byte_level, unigram = voc->t->model == ST_MODEL_UNIGRAM;
	struct st_pretok_facts f = { 0 };
	if (bytes && !facts_of(voc->pre, &f))
		return NULL; /* the reader has taken the name, so it is one of them */
	json_t *o = json_object();
	bool ok = o && put(o, "version", json_string("1.0")) && put(o, "truncation", json_null())
	       && put(o, "padding", json_null()) && put(o, "added_tokens", added_tokens(voc))
	       && put(o, "normalizer",
	              !bytes  ? spm_normalizer(voc)
	              : f.nfc ? json_pack("{s:s}", "type", "NFC")
	                      : json_null())
	       && put(o, "pre_tokenizer", bytes ? word_splitting(&f) : json_null())
	       && put(o, "post_processor", post_processor(voc))
	       && put(o, "decoder", bytes ? byte_level_step() : spm_decoder(voc))
	       && put(o, "model", unigram ? unigram_model(voc) : bpe_model(voc, f.ignore_merges));
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* ---- tokenizer_config.json ---- */

static const char *class_of(const struct st_vocabulary *voc, const struct st_arch *arch)
{
	/* Llama's class puts a blank in front of a text whatever tokenizer.json says. */
	if (!voc->t->byte_level)
		return voc->t->model == ST_MODEL_UNIGRAM || !voc->space_prefix ? "PreTrainedTokenizerFast"
		                                                               : "LlamaTokenizerFast";
	return arch == &st_arch_llama || voc->add_bos ? "PreTrainedTokenizerFast" : "Qwen2TokenizerFast";
}

static json_t *config_document(const struct st_vocabulary *voc, const struct st_target *to)
{
	json_t *o = json_object();
	bool ok = o && put(o, "tokenizer_class", json_string(class_of(voc, to->arch)))
	       && put(o, "add_bos_token", json_boolean(voc->add_bos))
	       && put(o, "add_eos_token", json_boolean(voc->add_eos))
	       && put(o, "bos_token", piece_text(voc, voc->t->bos)) && put(o, "eos_token", piece_text(voc, voc->t->eos))
	       && put(o, "unk_token", piece_text(voc, voc->t->unk)) && put(o, "pad_token", piece_text(voc, voc->pad))
	       && put(o, "clean_up_tokenization_spaces", json_false());
	if (to->cfg.max_positions)
		ok = ok && put(o, "model_max_length", json_integer(to->cfg.max_positions));
	if (voc->chat_template)
		ok = ok && put(o, "chat_template", json_stringn(voc->chat_template, voc->chat_template_len));
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}

enum st_status st_vocabulary_hf(const struct st_vocabulary *voc, const struct st_target *to, json_t **tokenizer,
                                json_t **config, struct st_error *err)
{
	*tokenizer = tokenizer_document(voc);
	*config = *tokenizer ? config_document(voc, to) : NULL;
	return *config ? ST_OK : st_fail(err, ST_ERR_NOMEM, "no memory for tokenizer.json, or a piece that is no text");
}
