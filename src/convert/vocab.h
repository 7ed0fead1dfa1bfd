/*
 * vocab.h - the vocabulary of the source, in one form for every target.
 */
#ifndef ST_CONVERT_VOCAB_H
#define ST_CONVERT_VOCAB_H

#include "convert/job.h"
#include "convert/keys.h"
#include "convert/log.h"
#include "token/tokenizer.h"

/* What every container can say of a tokenizer, in the reader's own normal form. */
struct st_vocabulary {
	struct st_tokenizer *t; /* of the source; NULL: the model has none */
	uint32_t n;             /* pieces to write: at least the configuration's vocabulary */
	const char *pre;        /* byte-level: the name of its word splitting */
	uint32_t (*merges)[2];  /* left and right id, strongest first */
	uint32_t n_merges;
	float *scores; /* NULL for byte-level */
	bool add_bos, add_eos, space_prefix, squeeze, mark_unknown;
	const char *charsmap; /* SentencePiece's map of characters, or NULL */
	size_t charsmap_len;
	int64_t pad;
	const char *chat_template; /* or NULL */
	size_t chat_template_len;
};

/* A piece as it is written. */
struct st_piece_view {
	const char *s;
	size_t len;
	uint8_t type;
	char made[24];
};

/* Into *voc, whose pointers are the arena's; voc->t is the caller's to close, after a failure too. */
ST_MUST_CHECK enum st_status st_vocabulary_read(struct st_vocabulary *voc, const struct st_input *from,
                                                const struct st_target *to, struct st_arena *arena, struct st_log *log,
                                                struct st_error *err);
/* The piece of an id as it is written; ids without one get a placeholder. The view may point into *p. */
void st_vocabulary_piece(const struct st_vocabulary *v, uint32_t id, struct st_piece_view *p);

/* The same in each container: GGUF's keys, members of APR's metadata, two documents of Hugging Face (new references).
 * The configuration's BOS and EOS count where the vocabulary has none. */
void st_vocabulary_keys(const struct st_vocabulary *voc, const struct st_config *cfg, struct st_keys *k);
ST_MUST_CHECK enum st_status st_vocabulary_apr(const struct st_vocabulary *voc, const struct st_config *cfg,
                                               json_t *meta, struct st_error *err);
ST_MUST_CHECK enum st_status st_vocabulary_hf(const struct st_vocabulary *voc, const struct st_target *to,
                                              json_t **tokenizer, json_t **config, struct st_error *err);

#endif
