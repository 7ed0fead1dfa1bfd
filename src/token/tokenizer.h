/*
 * tokenizer.h - the inside of st_tokenizer: what every loader fills in and every step reads.
 *
 * Text goes through these steps, each described by data rather than code, so that three
 * containers and a dozen families share one path:
 *
 *   added tokens cut the text -> normalise -> split into words -> model -> ids
 *
 * The loaders (gguf.c, hf.c, apr.c) translate a container's facts into this struct.
 */
#ifndef ST_TOKEN_TOKENIZER_H
#define ST_TOKEN_TOKENIZER_H

#include <stele/token.h>

#include "format/container.h"
#include "token/vocab.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define ST_SPACE_MARKER "\xE2\x96\x81" /* U+2581, SentencePiece's space */

#define ST_MAX_STEPS 16   /* normaliser steps, word-splitting stages; real ones have at most 6 */
#define ST_MAX_AROUND 8   /* ids added before or after a text */
#define ST_MAX_ADDED 1024 /* bytes of an added token */
#define ST_MAX_TEXT ST_TOKENIZE_MAX

enum st_model_kind {
	ST_MODEL_RANKED,    /* BPE: a list of merges, the earlier the stronger */
	ST_MODEL_SCORED,    /* SentencePiece BPE: two neighbours join when their text is a piece, best score first */
	ST_MODEL_WORDPIECE, /* BERT's: the longest piece, then the longest ones that go on ("##ing") */
	ST_MODEL_UNIGRAM,   /* SentencePiece unigram: the cut with the highest sum of scores */
};

/* One way of rewriting text before it is cut into words. */
enum st_norm_kind {
	ST_NORM_NFC,
	ST_NORM_NFD,
	ST_NORM_NFKC,
	ST_NORM_NFKD,
	ST_NORM_LOWERCASE,
	ST_NORM_PREPEND,         /* a before the text */
	ST_NORM_PREPEND_MISSING, /* unless it starts with a already */
	ST_NORM_PREPEND_FIRST,   /* the same, only where the text starts the whole input */
	ST_NORM_REPLACE,         /* every a by b */
	ST_NORM_REPLACE_PATTERN, /* every match of code by b */
	ST_NORM_STRIP,           /* white space at the ends; which: `ends` */
	ST_NORM_SQUEEZE,         /* runs of spaces become one, none at the ends */
	ST_NORM_CHARSMAP,        /* SentencePiece's precompiled map: a */
};

struct st_norm {
	enum st_norm_kind kind;
	const char *a, *b;
	size_t a_len, b_len;
	pcre2_code *code;
	unsigned ends; /* ST_STRIP_LEFT | ST_STRIP_RIGHT */
};

/* What happens to the matches of a stage's pattern; the names are those of tokenizer.json. */
enum st_behaviour {
	ST_SPLIT_ISOLATED,
	ST_SPLIT_REMOVED,
	ST_SPLIT_MERGED_PREVIOUS,
	ST_SPLIT_MERGED_NEXT,
	ST_SPLIT_CONTIGUOUS
};

struct st_split {
	pcre2_code *code;
	enum st_behaviour behaviour;
	bool invert; /* what does not match is the match */
	bool bytes;  /* the pattern sees the byte alphabet: the step stands behind ByteLevel */
};

/* (left id, right id) -> (rank, id of the joined piece) */
struct st_merges {
	struct st_merge {
		uint32_t left, right, order, id;
	} * slots; /* order: rank + 1, 0 = empty */
	uint32_t mask;
	uint32_t last; /* result of the merge added last: the next one is mostly its neighbour */
	char *joined;  /* as long as the longest piece */
};

struct st_tokenizer {
	struct st_arena arena;
	const char *describe;
	const char *path; /* of the file, for messages */
	struct st_vocab vocab;
	enum st_model_kind model;

	struct st_norm norms[ST_MAX_STEPS];
	size_t n_norms;
	struct st_split stages[ST_MAX_STEPS];
	size_t n_stages;

	struct st_merges merges;
	bool ignore_merges; /* a word that is a piece needs no merging */
	bool byte_level;    /* pieces are written in the byte alphabet of GPT-2 */
	bool space_marker;  /* U+2581 in a piece stands for a space */
	bool fuse_unk;
	uint32_t byte_id[256];      /* piece of one byte ("Ġ" or "<0x20>"), ST_NO_ID where absent */
	struct st_prefixes unigram; /* pieces a unigram may choose; of WordPiece all */
	const char *continuing;     /* WordPiece: what pieces within a word begin with */
	size_t continuing_len;
	uint64_t longest_word; /* in characters; longer ones are unknown */
	double unk_score;
	struct st_prefixes added; /* pieces recognised in raw text */

	int64_t bos, eos, unk, pad; /* -1: none */
	uint32_t before[ST_MAX_AROUND], after[ST_MAX_AROUND];
	size_t n_before, n_after;

	bool guessed;              /* how words are split: the file does not say, its architecture does */
	const char *chat_template; /* NULL: none */
	size_t chat_template_len;
	size_t n_chat_templates; /* several have names; then the one above is called "default" */
};

/* Bytes that grow. */
struct st_text {
	char *s;
	size_t n, cap;
};
struct st_span {
	size_t start, len;
	bool raw;
}; /* raw: not UTF-8, patterns do not apply */
struct st_spans {
	struct st_span *v;
	size_t n, cap;
};

/* What one call of st_tokenize needs; nothing is allocated per word once it has grown. */
struct st_scratch {
	const struct st_tokenizer *t;
	struct st_text text[2];   /* the normaliser writes from one to the other */
	struct st_spans words[2]; /* and so does the word splitter */
	struct st_symbol *symbols;
	size_t symbols_cap;
	struct st_candidate *heap;
	size_t heap_cap;
	struct st_best *best; /* unigram */
	size_t best_cap;
	struct st_text word; /* a word in the byte alphabet */
	uint32_t *ids;
	size_t n_ids, ids_cap;
	bool last_unk; /* the last id stands for unknown text of this word */
	pcre2_match_data *match;
	pcre2_match_context *limits;
	pcre2_jit_stack *jit_stack;
};

/* normalize.c: the result lies in the text itself or in one of s->text. `first`: the text starts the input. */
ST_MUST_CHECK enum st_status st_normalize(struct st_scratch *s, const char *text, size_t n, bool first,
                                          const char **out, size_t *out_n, struct st_error *err);
size_t st_space_step(const char *p, size_t n);   /* bytes of one white space character at p, or 0 */
size_t st_space_before(const char *p, size_t n); /* bytes of white space that end p[0, n) */
bool st_text_append(struct st_text *t, const char *p, size_t n);
/* Length of the well-formed UTF-8 sequence at p (n > 0 bytes there), 0 when there is none. */
size_t st_utf8_step(const char *p, size_t n);
/* charsmap.c: append text as SentencePiece's precompiled map rewrites it. */
ST_MUST_CHECK enum st_status st_charsmap_check(const char *map, uint64_t n, const char *what, struct st_error *err);
bool st_charsmap_apply(const char *map, size_t map_len, const char *p, size_t n, struct st_text *out);

/* split.c */
/* Compile a pattern of the field's dialect (Oniguruma, as tokenizer.json has it); `literal`: not a pattern but a text.
 */
ST_MUST_CHECK enum st_status st_pattern_compile(const char *p, size_t n, bool literal, pcre2_code **out,
                                                const char *what, struct st_error *err);
/* First match of code in p[from, n): ST_OK and *found. */
ST_MUST_CHECK enum st_status st_pattern_match(struct st_scratch *s, const pcre2_code *code, const char *p, size_t n,
                                              size_t from, size_t *start, size_t *end, bool *found,
                                              struct st_error *err);
ST_MUST_CHECK enum st_status st_split_words(struct st_scratch *s, const char *text, size_t n,
                                            const struct st_spans **out, struct st_error *err);

/* pretok.c: the word splitting that tokenizer.ggml.pre names. Unknown names are refused with the list of known ones. */
ST_MUST_CHECK enum st_status st_pretok_set(struct st_tokenizer *t, const char *name, size_t n, const char *where,
                                           bool *adds_bos, struct st_error *err);
/* The known names, i = 0, 1, ...; false behind the last. Patterns are in the dialect of tokenizer.json, each cutting
 * the words of the one before. */
struct st_pretok_facts {
	const char *name;
	const char *const *patterns;
	size_t n_patterns;
	bool nfc, ignore_merges;
};
bool st_pretok_at(size_t i, struct st_pretok_facts *out);
/* The name for a byte-level vocabulary that does not say: from the architecture and telling pieces. NULL when
 * undecidable. */
const char *st_pretok_guess(const struct st_tokenizer *t, const char *arch, size_t n);
ST_MUST_CHECK enum st_status st_pretok_undecided(const struct st_tokenizer *t, const char *arch, size_t n,
                                                 const char *where, struct st_error *err);
/* Appends one stage to t. */
ST_MUST_CHECK enum st_status st_stage_add(struct st_tokenizer *t, const char *p, size_t n, bool literal,
                                          enum st_behaviour b, bool invert, const char *where, struct st_error *err);
ST_MUST_CHECK enum st_status st_norm_add(struct st_tokenizer *t, struct st_norm norm, const char *where,
                                         struct st_error *err);
extern const char st_gpt2_pattern[];

/* merge.c: ranked and scored BPE */
ST_MUST_CHECK enum st_status st_merges_init(struct st_tokenizer *t, uint64_t n, const char *what, struct st_error *err);
ST_MUST_CHECK enum st_status st_merges_add(struct st_tokenizer *t, uint32_t rank, const char *left, size_t left_len,
                                           const char *right, size_t right_len, const char *what, struct st_error *err);
/* "left right" */
ST_MUST_CHECK enum st_status st_merges_add_text(struct st_tokenizer *t, uint32_t rank, const char *s, size_t n,
                                                const char *what, struct st_error *err);
ST_MUST_CHECK enum st_status st_merge_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err);
/* unigram.c */
/* bytes_are_text: text spelt "<0x41>" is that piece, as the tokenizers library has it and SentencePiece has not. */
ST_MUST_CHECK enum st_status st_unigram_init(struct st_tokenizer *t, bool bytes_are_text, struct st_error *err);
ST_MUST_CHECK enum st_status st_unigram_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err);

/* wordpiece.c */
ST_MUST_CHECK enum st_status st_wordpiece_init(struct st_tokenizer *t, const char *continuing, size_t n,
                                               uint64_t longest_word, struct st_error *err);
/* GGUF's spelling of the pieces into that of tokenizer.json; before they are indexed. */
ST_MUST_CHECK enum st_status st_wordpiece_respell(struct st_tokenizer *t, struct st_error *err);
ST_MUST_CHECK enum st_status st_wordpiece_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err);
/* BertNormalizer and BertPreTokenizer as steps. */
struct st_bert_flags {
	bool clean, cjk, strip_accents, lowercase;
};
ST_MUST_CHECK enum st_status st_bert_norms(struct st_tokenizer *t, struct st_bert_flags f, const char *where,
                                           struct st_error *err);
ST_MUST_CHECK enum st_status st_bert_words(struct st_tokenizer *t, const char *where, struct st_error *err);

/* The merge of two pieces, or NULL. */
const struct st_merge *st_merges_find(const struct st_merges *m, uint32_t left, uint32_t right);

/* probe.c: a text full of corner cases. */
extern const char st_probe[];
extern const size_t st_probe_len;
/* That text as a tokenizer normalises it, and the words it is cut into. Release it also after a failure, and where it
 * is all zero. */
struct st_probe_cut {
	struct st_scratch s;
	const char *text;
	size_t n;
	const struct st_spans *words;
};
ST_MUST_CHECK enum st_status st_probe_cut(const struct st_tokenizer *t, struct st_probe_cut *c, struct st_error *err);
bool st_probe_same(const struct st_probe_cut *a, const struct st_probe_cut *b);
void st_probe_release(struct st_probe_cut *c);
/* Whether two tokenizers cut it alike. */
ST_MUST_CHECK enum st_status st_probe_alike(const struct st_tokenizer *a, const struct st_tokenizer *b, bool *alike,
                                            struct st_error *err);

/* bytes.c: the byte alphabet of byte-level BPE and byte pieces. */
uint32_t st_byte_char(uint8_t b);             /* the code point that stands for a byte */
int st_char_byte(uint32_t cp);                /* the byte, or -1 */
size_t st_byte_write(uint8_t b, char out[2]); /* that code point as UTF-8; its length */
int st_byte_piece(const char *s, size_t n);   /* the byte of "<0xE2>", or -1 */
void st_byte_ids(struct st_tokenizer *t);     /* fill byte_id: needs byte_level, the index and the types */
bool st_push_id(struct st_scratch *s, uint32_t id);
/* Text with no piece: its byte pieces, else the unknown piece, else an error. */
ST_MUST_CHECK enum st_status st_push_unknown(struct st_scratch *s, const char *p, size_t n, struct st_error *err);

/* The last step of opening: which pieces are recognised in raw text. */
ST_MUST_CHECK enum st_status st_tokenizer_finish(struct st_tokenizer *t, struct st_error *err);
/* id < vocabulary, else an error naming the key. */
ST_MUST_CHECK enum st_status st_tokenizer_id(const struct st_tokenizer *t, const char *key, uint64_t id, int64_t *out,
                                             struct st_error *err);
/* What follows from scores and SentencePiece's conventions: the space marker, an optional space in front. */
ST_MUST_CHECK enum st_status st_spm_norms(struct st_tokenizer *t, bool prefix, struct st_error *err);
ST_MUST_CHECK enum st_status st_scores_check(const struct st_tokenizer *t, const char *what, struct st_error *err);

/* Loaders */
ST_MUST_CHECK enum st_status st_tokenizer_from_gguf(struct st_tokenizer *t, const struct st_container *c,
                                                    struct st_error *err);
ST_MUST_CHECK enum st_status st_tokenizer_from_hf(struct st_tokenizer *t, const struct st_container *c,
                                                  struct st_error *err);
ST_MUST_CHECK enum st_status st_tokenizer_from_apr(struct st_tokenizer *t, const struct st_container *c,
                                                   struct st_error *err);
/* facts.c: PAD and the chat template; after a loader. */
ST_MUST_CHECK enum st_status st_tokenizer_facts(struct st_tokenizer *t, const struct st_container *c,
                                                struct st_error *err);
/* "bpe (qwen2)"; in the arena. */
ST_MUST_CHECK enum st_status st_tokenizer_describe_as(struct st_tokenizer *t, struct st_error *err, const char *fmt,
                                                      ...) ST_PRINTF(3, 4);
/* hf_steps.c: normalizer, pre_tokenizer and decoder of tokenizer.json. */
typedef enum st_status (*st_hf_step_fn)(struct st_tokenizer *t, const json_t *step, const char *type,
                                        struct st_error *err);
/* Call fn for a step, or for each of a (nested) Sequence of them. `what` names it in messages. */
ST_MUST_CHECK enum st_status st_hf_each(struct st_tokenizer *t, const json_t *node, const char *what,
                                        const char *list_key, st_hf_step_fn fn, struct st_error *err);
ST_MUST_CHECK enum st_status st_hf_steps(struct st_tokenizer *t, const json_t *doc, struct st_error *err);

#endif
