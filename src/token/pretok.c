/*
 * pretok.c - how the families split text into words, under the names that GGUF files use for
 * it (tokenizer.ggml.pre). The patterns are those the models publish in their tokenizer.json.
 */
#include "token/tokenizer.h"

#include <stdio.h>
#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BREAKS "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* The pattern of OpenAI's cl100k and its descendants; they differ in how digits go together. */
#define CL100K(digits) CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BREAKS
/* o200k: a capital starts a new word. `tail` follows each of its two kinds of word. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(tail, digits)                                                                                  \
	"[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" tail \
	"|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" BREAKS
#define NOT_PUNCTUATION " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

const char st_gpt2_pattern[] = GPT2;

/* Letters as DeepSeek-LLM lists them: cased scripts only. */
#define DEEPSEEK_LETTERS                                                                                               \
	"A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{"   \
	"2af}\\x{370}-\\x{373}"                                                                                        \
	"\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}" \
	"\\x{3f7}-\\x{481}"                                                                                            \
	"\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{"    \
	"1cba}\\x{1cbd}-\\x{1cbf}"                                                                                     \
	"\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-"    \
	"\\x{1f45}"                                                                                                    \
	"\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{"  \
	"1fb6}-\\x{1fbc}"                                                                                              \
	"\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{" \
	"1ff2}-\\x{1ff4}"                                                                                              \
	"\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{"   \
	"2128}\\x{212a}-\\x{212d}"                                                                                     \
	"\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{"  \
	"2c7b}"                                                                                                        \
	"\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{" \
	"a76f}"                                                                                                        \
	"\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-"    \
	"\\x{ff3a}"                                                                                                    \
	"\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{"  \
	"10cc0}-\\x{10cf2}"                                                                                            \
	"\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

enum { NFC = 1, IGNORE_MERGES = 2, ADD_BOS = 4 };

enum split_kind {
	SPLIT_GPT2,
	SPLIT_DIGITS,
	SPLIT_QWEN2,
	SPLIT_LLAMA3,
	SPLIT_FALCON,
	SPLIT_DEEPSEEK_LLM,
	SPLIT_DEEPSEEK_CODER,
	SPLIT_DEEPSEEK_V3,
	SPLIT_GPT4O,
	SPLIT_TEKKEN,
	SPLIT_BLOOM,
	SPLIT_VIKING,
	SPLIT_QWEN35,
	SPLIT_SEED_CODER,
	SPLIT_BAILING,
	SPLIT_DEFAULT,
};

/* Words are cut by each pattern in turn. NFC where the published tokenizer normalises. */
static const struct split {
	const char *patterns[6];
} splits[] = {
	[SPLIT_GPT2] = { { GPT2 } },
	/* every digit a word, then GPT-2 */
	[SPLIT_DIGITS] = { { "\\p{N}", GPT2 } },
	[SPLIT_QWEN2] = { { CL100K("\\p{N}") } },
	[SPLIT_LLAMA3] = { { CL100K("\\p{N}{1,3}") } },
	[SPLIT_FALCON] = { { "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]" } },
	[SPLIT_DEEPSEEK_LLM] = { { "[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
	                           "\\s?[!-/"
	                           ":-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
	                           "\\s+$", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
	                           "\\p{N}+" } },
	[SPLIT_DEEPSEEK_CODER] = { { "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
	                             "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}" } },
	[SPLIT_DEEPSEEK_V3] = { { "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
	                          "[!\"#$%&'()*+,\\-./"
	                          ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
	                          "?[\\p{P}\\p{S}]+[\\r\\n]*|" BREAKS } },
	[SPLIT_GPT4O] = { { O200K(CONTRACTIONS "?", "\\p{N}{1,3}") } },
	[SPLIT_TEKKEN] = { { O200K("", "\\p{N}") } },
	[SPLIT_BLOOM] = { { NOT_PUNCTUATION } },
	[SPLIT_VIKING] = { { NOT_PUNCTUATION, "\\p{N}" } },
	/* combining marks count as letters */
	[SPLIT_QWEN35] = { { CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
	                                  "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" BREAKS } },
	[SPLIT_SEED_CODER] = { { CONTRACTIONS
	                         "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" BREAKS } },
	[SPLIT_BAILING] = { { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
	                      "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" } },
	/* what llama.cpp does for files that name nothing better */
	[SPLIT_DEFAULT] = { { "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
};

static const struct pretok {
	const char *name;
	uint8_t split, flags;
} pretoks[] = {
	{ "gpt-2", SPLIT_GPT2, 0 },
	{ "phi-2", SPLIT_GPT2, 0 },
	{ "jais", SPLIT_GPT2, 0 },
	{ "exaone4", SPLIT_GPT2, 0 },
	{ "mpt", SPLIT_GPT2, NFC },
	{ "olmo", SPLIT_GPT2, NFC },
	{ "starcoder", SPLIT_DIGITS, 0 },
	{ "refact", SPLIT_DIGITS, 0 },
	{ "smollm", SPLIT_DIGITS, 0 },
	{ "codeshell", SPLIT_DIGITS, 0 },
	{ "command-r", SPLIT_DIGITS, NFC },
	{ "falcon", SPLIT_FALCON, 0 },
	{ "deepseek-llm", SPLIT_DEEPSEEK_LLM, 0 },
	{ "deepseek-coder", SPLIT_DEEPSEEK_CODER, 0 },
	{ "deepseek-v3", SPLIT_DEEPSEEK_V3, 0 },
	{ "qwen2", SPLIT_QWEN2, NFC },
	{ "stablelm2", SPLIT_QWEN2, NFC },
	{ "megrez", SPLIT_QWEN2, NFC },
	{ "deepseek-r1-qwen", SPLIT_QWEN2, 0 },
	{ "grok-2", SPLIT_QWEN2, 0 },
	{ "qwen35", SPLIT_QWEN35, 0 }, /* marks stay apart, and its pattern knows them */
	{ "llama3", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "llama-v3", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "llama-bpe", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "falcon3", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "pixtral", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "lfm2", SPLIT_LLAMA3, IGNORE_MERGES | ADD_BOS },
	{ "dbrx", SPLIT_LLAMA3, 0 },
	{ "smaug-bpe", SPLIT_LLAMA3, 0 },
	{ "chatglm-bpe", SPLIT_LLAMA3, 0 },
	{ "glm4", SPLIT_LLAMA3, 0 },
	{ "gpt-4o", SPLIT_GPT4O, 0 },
	{ "llama4", SPLIT_GPT4O, 0 },
	{ "tekken", SPLIT_TEKKEN, IGNORE_MERGES | ADD_BOS },
	{ "bloom", SPLIT_BLOOM, 0 },
	{ "poro-chat", SPLIT_BLOOM, 0 },
	{ "gpt3-finnish", SPLIT_BLOOM, 0 },
	{ "viking", SPLIT_VIKING, 0 },
	{ "seed-coder", SPLIT_SEED_CODER, 0 },
	{ "bailingmoe", SPLIT_BAILING, 0 },
	{ "default", SPLIT_DEFAULT, 0 },
};

#define N_PRETOKS (sizeof pretoks / sizeof *pretoks)

enum st_status st_stage_add(struct st_tokenizer *t, const char *p, size_t n, bool literal, enum st_behaviour b,
                            bool invert, const char *where, struct st_error *err)
{
	if (t->n_stages == ST_MAX_STEPS)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, where, "more than %d stages of word splitting",
		                  ST_MAX_STEPS);
	struct st_split *g = &t->stages[t->n_stages];
	ST_TRY(st_pattern_compile(p, n, literal, &g->code, where, err));
	g->behaviour = b;
	g->invert = invert;
	t->n_stages++;
	return ST_OK;
}

enum st_status st_norm_add(struct st_tokenizer *t, struct st_norm norm, const char *where, struct st_error *err)
{
	if (t->n_norms == ST_MAX_STEPS) {
		pcre2_code_free(norm.code);
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, where, "more than %d normaliser steps",
		                  ST_MAX_STEPS);
	}
	t->norms[t->n_norms++] = norm;
	return ST_OK;
}

/* "gpt-2, phi-2, ..." */
static void list_names(char *buf, size_t size)
{
	size_t at = 0;
	for (size_t i = 0; i < N_PRETOKS && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? ", " : "", pretoks[i].name);
}

enum st_status st_pretok_set(struct st_tokenizer *t, const char *name, size_t n, const char *where, bool *adds_bos,
                             struct st_error *err)
{
	const struct pretok *p = NULL;
	for (size_t i = 0; i < N_PRETOKS; i++)
		if (strlen(pretoks[i].name) == n && memcmp(pretoks[i].name, name, n) == 0)
			p = &pretoks[i];
	if (!p) {
		char known[512];
		list_names(known, sizeof known);
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, where,
		                  "unknown pre-tokenizer \"%.*s\"; known: %s", (int)(n < 64 ? n : 64), name, known);
	}
	if (p->flags & NFC)
		ST_TRY(st_norm_add(t, (struct st_norm){ .kind = ST_NORM_NFC }, where, err));
	const struct split *s = &splits[p->split];
	for (size_t i = 0; i < sizeof s->patterns / sizeof *s->patterns && s->patterns[i]; i++)
		ST_TRY(st_stage_add(t, s->patterns[i], strlen(s->patterns[i]), false, ST_SPLIT_ISOLATED, false, where,
		                    err));
	t->ignore_merges = p->flags & IGNORE_MERGES;
	*adds_bos = p->flags & ADD_BOS;
	return ST_OK;
}

bool st_pretok_at(size_t i, struct st_pretok_facts *out)
{
	if (i >= N_PRETOKS)
		return false;
	const struct pretok *p = &pretoks[i];
	*out = (struct st_pretok_facts){ .name = p->name,
		                         .patterns = splits[p->split].patterns,
		                         .nfc = p->flags & NFC,
		                         .ignore_merges = p->flags & IGNORE_MERGES };
	while (out->n_patterns < sizeof splits[0].patterns / sizeof splits[0].patterns[0]
	       && out->patterns[out->n_patterns])
		out->n_patterns++;
	return true;
}

/*
 * Containers that hold a byte-level vocabulary and not how to split words for it. A row applies when
 * the architecture matches, and the vocabulary has the piece (or none is asked for) and at least so many pieces.
 * Families that used several tokenizers are told apart by a special token of each.
 */
static const struct guess {
	const char *arch, *piece;
	uint32_t min_pieces;
	const char *pre;
} guesses[] = {
	{ "gpt2", NULL, 0, "gpt-2" },
	{ "phi2", NULL, 0, "phi-2" },
	{ "phi", NULL, 0, "phi-2" },
	{ "falcon", ">>TITLE<<", 0, "falcon" },
	{ "starcoder", NULL, 0, "starcoder" },
	{ "starcoder2", NULL, 0, "starcoder" },
	{ "qwen2", "<｜end▁of▁sentence｜>", 0, "deepseek-r1-qwen" },
	{ "qwen2", NULL, 0, "qwen2" },
	{ "qwen2_moe", NULL, 0, "qwen2" },
	{ "qwen2moe", NULL, 0, "qwen2" },
	{ "qwen3", NULL, 0, "qwen2" },
	{ "qwen3_moe", NULL, 0, "qwen2" },
	{ "qwen3moe", NULL, 0, "qwen2" },
	{ "llama", "<|begin_of_text|>", 128000, "llama-bpe" },
	{ "llama", "<|EOT|>", 32000, "deepseek-coder" },
	{ "llama", "<｜end▁of▁sentence｜>", 100000, "deepseek-llm" },
	{ "llama", "<reponame>", 49152, "smollm" },
	{ "mistral", "[AVAILABLE_TOOLS]", 131072, "tekken" },
	{ "llama", "[AVAILABLE_TOOLS]", 131072, "tekken" },
	{ "cohere", NULL, 0, "command-r" },
	{ "command-r", NULL, 0, "command-r" },
	{ "dbrx", NULL, 0, "dbrx" },
	{ "bloom", NULL, 0, "bloom" },
	{ "mpt", NULL, 0, "mpt" },
	{ "olmo", NULL, 0, "olmo" },
	{ "deepseek_v3", NULL, 0, "deepseek-v3" },
};

const char *st_pretok_guess(const struct st_tokenizer *t, const char *arch, size_t n)
{
	for (size_t i = 0; i < sizeof guesses / sizeof *guesses; i++) {
		const struct guess *g = &guesses[i];
		if (strlen(g->arch) == n && memcmp(g->arch, arch, n) == 0 && t->vocab.n >= g->min_pieces
		    && (!g->piece || st_vocab_find(&t->vocab, g->piece, strlen(g->piece)) != ST_NO_ID))
			return g->pre;
	}
	return NULL;
}

enum st_status st_pretok_undecided(const struct st_tokenizer *t, const char *arch, size_t n, const char *where,
                                   struct st_error *err)
{
	char known[400];
	list_names(known, sizeof known);
	return st_fail_at(
		err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, where,
		"how architecture \"%.*s\" splits words for its %u pieces cannot be told without this key; known: %s",
		(int)(n < 32 ? n : 32), arch, t->vocab.n, known);
}
