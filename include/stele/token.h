/*
 * stele/token.h - text to token ids and back, with the vocabulary a model file carries.
 */
#ifndef STELE_TOKEN_H
#define STELE_TOKEN_H

#include <stele/container.h>

struct st_tokenizer;

enum {
	ST_TOKENIZE_BOS = 1,     /* add BOS/EOS where the model's own rules say so */
	ST_TOKENIZE_SPECIAL = 2, /* recognise special tokens written in the text */
};

/* Bytes of the longest text that is taken apart: it takes up to a hundred times as much memory. */
#define ST_TOKENIZE_MAX (16u << 20)

/* ST_ERR_UNSUPPORTED when the container has no tokenizer or one of an unknown kind (the
 * message names it and lists the known ones). The tokenizer copies what it needs from the
 * container only where it must; the container must outlive it. */
ST_MUST_CHECK enum st_status st_tokenizer_open(const struct st_container *c, struct st_tokenizer **out,
                                               struct st_error *err);
void st_tokenizer_close(struct st_tokenizer *t);

/* text: n bytes, need not be valid UTF-8 (invalid bytes are handled as the model's own
 * tokenizer would: byte tokens or U+FFFD). *ids is malloc'ed; the caller frees it. */
ST_MUST_CHECK enum st_status st_tokenize(const struct st_tokenizer *t, const char *text, size_t n, unsigned flags,
                                         uint32_t **ids, size_t *n_ids, struct st_error *err);

uint32_t st_tokenizer_vocab_size(const struct st_tokenizer *t);
/* The stored piece of an id (as in the vocabulary: "Ġthe", "▁the"), NULL when out of range. */
const char *st_tokenizer_piece(const struct st_tokenizer *t, uint32_t id, size_t *len);
/* The bytes an id stands for in text. Returns the length; writes at most n bytes. */
size_t st_tokenizer_decode(const struct st_tokenizer *t, uint32_t id, char *buf, size_t n);
/* "bpe (qwen2)", "spm": for people. */
const char *st_tokenizer_describe(const struct st_tokenizer *t);
/* Ids, or -1 where the model has none. */
int64_t st_tokenizer_bos(const struct st_tokenizer *t);
int64_t st_tokenizer_eos(const struct st_tokenizer *t);
bool st_tokenizer_adds_bos(const struct st_tokenizer *t);
/* The file does not say how words are split; that was taken from its architecture (describe says which). */
bool st_tokenizer_guessed(const struct st_tokenizer *t);
int64_t st_tokenizer_pad(const struct st_tokenizer *t);
/* The chat template, not terminated, or NULL. */
const char *st_tokenizer_chat_template(const struct st_tokenizer *t, size_t *len);

#endif
