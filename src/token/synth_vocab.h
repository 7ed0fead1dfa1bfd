/*
 * synth_vocab.h - a small real byte-level BPE vocabulary for synthetic models.
 *
 * The 256 byte pieces in the order of GPT-2's alphabet, then one piece for each merge learnt
 * from a short English text, then special tokens and padding. The same size gives the same
 * vocabulary everywhere. It tokenises any text; word splitting is that of "gpt-2" or "qwen2".
 */
#ifndef ST_TOKEN_SYNTH_VOCAB_H
#define ST_TOKEN_SYNTH_VOCAB_H

#include "base/error.h"
#include "base/mem.h"

#define ST_SYNTH_VOCAB_MIN 260

struct st_synth_vocab {
	uint32_t n;          /* pieces, as asked for */
	const char **pieces; /* by id, UTF-8, terminated */
	uint8_t *types;      /* by id, the numbers of tokenizer.ggml.token_type */
	uint32_t n_merges;
	const char **merges; /* "left right", strongest first; merge i makes piece 256 + i */
	uint32_t bos, eos;   /* "<|endoftext|>", "<|im_end|>" */
};

/* n >= ST_SYNTH_VOCAB_MIN. Everything lies in the arena. */
ST_MUST_CHECK enum st_status st_synth_vocab_make(struct st_arena *arena, uint32_t n, struct st_synth_vocab *out,
                                                 struct st_error *err);

#endif
