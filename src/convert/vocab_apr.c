/* vocab_apr.c - a vocabulary in the metadata of an APR file, with the keys that settle what the format leaves open. */
#include "convert/vocab.h"

#include <string.h>

static bool put(json_t *o, const char *key, json_t *value) { return json_object_set_new(o, key, value) == 0; }
static bool append(json_t *a, json_t *value) { return json_array_append_new(a, value) == 0; }

/* One member for each piece: its text, its type, its score. */
static bool put_pieces(const struct st_vocabulary *v, json_t *o)
{
	json_t *pieces = json_array(), *types = json_array(), *scores = v->scores ? json_array() : NULL;
	bool ok = put(o, "tokenizer.vocabulary", pieces) && put(o, "tokenizer.vocab_size", json_integer(v->n))
	       && put(o, "tokenizer.token_type", types) && (!v->scores || put(o, "tokenizer.scores", scores));
	for (uint32_t id = 0; ok && id < v->n; id++) {
		struct st_piece_view p;
		st_vocabulary_piece(v, id, &p);
		ok = append(pieces, json_stringn(p.s, p.len)) && append(types, json_integer(p.type));
		if (ok && v->scores)
			ok = append(scores, json_real(id < v->t->vocab.n ? (double)v->scores[id] : 0));
	}
	return ok;
}

static bool put_merges(const struct st_vocabulary *voc, json_t *o)
{
	const struct st_piece *piece = voc->t->vocab.pieces;
	json_t *merges = json_array();
	bool ok = put(o, "tokenizer.merges", merges);
	for (uint32_t i = 0; ok && i < voc->n_merges; i++) {
		const struct st_piece *l = &piece[voc->merges[i][0]], *r = &piece[voc->merges[i][1]];
		ok = append(merges, json_sprintf("%.*s %.*s", (int)l->len, l->s, (int)r->len, r->s));
	}
	return ok;
}

static bool put_id(json_t *o, const char *key, int64_t id) { return id < 0 || put(o, key, json_integer(id)); }

enum st_status st_vocabulary_apr(const struct st_vocabulary *voc, const struct st_config *cfg, json_t *meta,
                                 struct st_error *err)
{
	if (!voc->t)
		return ST_OK;
	if (voc->charsmap || voc->squeeze)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tokenizer",
		                  "APR has no place for SentencePiece's map of characters");
	bool bytes = voc->t->byte_level;
	const char *type = bytes ? "bpe" : voc->t->model == ST_MODEL_UNIGRAM ? "unigram" : "sentencepiece";
	bool ok = put(meta, "tokenizer.model_type", json_string(type)) && put_pieces(voc, meta);
	if (bytes)
		ok = ok && put(meta, "tokenizer.pre", json_string(voc->pre)) && put_merges(voc, meta);
	else
		ok = ok && put(meta, "tokenizer.add_space_prefix", json_boolean(voc->space_prefix));
	ok = ok && put_id(meta, "tokenizer.bos_token_id", voc->t->bos >= 0 ? voc->t->bos : cfg->bos)
	  && put_id(meta, "tokenizer.eos_token_id", voc->t->eos >= 0 ? voc->t->eos : cfg->eos)
	  && put_id(meta, "tokenizer.unk_token_id", voc->t->unk)
	  && put(meta, "tokenizer.add_bos_token", json_boolean(voc->add_bos))
	  && put(meta, "tokenizer.add_eos_token", json_boolean(voc->add_eos));
	if (voc->chat_template)
		ok = ok && put(meta, "chat_template", json_stringn(voc->chat_template, voc->chat_template_len));
	return ok ? ST_OK : st_no_memory(err);
}
