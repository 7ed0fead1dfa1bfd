/* token: the steps of tokenising, each against an independent way of doing the same. */
#include "helpers.h"

#include "base/rng.h"

#include <math.h>
#include <time.h>
#include <utf8proc.h>

static uint64_t seed = 20240607;
static uint64_t below(uint64_t n) { return st_splitmix64(&seed) % n; }

/* ---- vocabulary ---- */

static void prefixes_find_every_piece(void **state)
{
	(void)state;
	static const char *const words[] = { "a", "ab", "abc", "abd", "b", "ba", "\xC3\xA4", "\xC3\xA4x", "zz" };
	struct st_prefix entries[9];
	for (uint32_t i = 0; i < 9; i++)
		entries[i] = (struct st_prefix){ words[8 - i], (uint32_t)strlen(words[8 - i]), 8 - i };
	struct st_prefixes p = { entries, 9 };
	st_prefixes_sort(&p);
	static const char alphabet[] = "abcdxz\xC3\xA4";
	for (int round = 0; round < 2000; round++) {
		char text[6];
		for (size_t i = 0; i < sizeof text; i++)
			text[i] = alphabet[below(sizeof alphabet - 1)];
		uint32_t want = 0, got = 0, id; /* bit i: piece i is a prefix */
		for (uint32_t i = 0; i < 9; i++)
			want |= memcmp(text, words[i], strlen(words[i])) == 0 ? 1u << i : 0;
		struct st_prefix_walk w = st_prefix_walk_start(&p);
		for (size_t i = 0; i < sizeof text && st_prefix_walk_next(&p, &w, (uint8_t)text[i], &id); i++)
			got |= id != ST_NO_ID ? 1u << id : 0;
		assert_int_equal(got, want);
	}
}

/* ---- merging ---- */

/* Byte-pair encoding as its definition reads: join the pair of lowest rank, leftmost first, until none is left. */
static size_t naive_bpe(const struct st_synth_vocab *v, const char *text, size_t n, const char **out)
{
	size_t k = 0;
	for (size_t i = 0; i < n; i++) {
		char c[3] = "";
		c[st_byte_write((uint8_t)text[i], c)] = '\0';
		for (uint32_t id = 0; id < 256; id++)
			if (strcmp(v->pieces[id], c) == 0)
				out[k] = v->pieces[id];
		k++;
	}
	for (;;) {
		uint32_t best = UINT32_MAX;
		size_t at = 0;
		for (size_t i = 0; i + 1 < k; i++) {
			char pair[128];
			snprintf(pair, sizeof pair, "%s %s", out[i], out[i + 1]);
			for (uint32_t m = 0; m < v->n_merges && m < best; m++)
				if (strcmp(v->merges[m], pair) == 0) {
					best = m;
					at = i;
				}
		}
		if (best == UINT32_MAX)
			return k;
		out[at] = v->pieces[256 + best];
		memmove(out + at + 1, out + at + 2, (k - at - 2) * sizeof *out);
		k--;
	}
}

static void ranked_merging_is_bpe(void **state)
{
	(void)state;
	struct st_arena arena;
	struct gguf g;
	struct st_synth_vocab v;
	struct st_tokenizer *t = open_synth(&g, &arena, 700, "gpt-2", &v);
	size_t merged = 0;
	for (int round = 0; round < 300; round++) {
		static const char letters[] = "theandersoil";
		char word[40];
		const char *want[40];
		size_t n = 1 + below(39), n_ids, len;
		for (size_t i = 0; i < n; i++)
			word[i] = letters[below(sizeof letters - 1)];
		size_t n_want = naive_bpe(&v, word, n, want);
		uint32_t *ids = tokenize(t, word, n, 0, &n_ids);
		assert_int_equal(n_ids, n_want);
		for (size_t i = 0; i < n_ids; i++) {
			const char *p = st_tokenizer_piece(t, ids[i], &len);
			assert_int_equal(len, strlen(want[i]));
			assert_memory_equal(p, want[i], len);
		}
		merged += n - n_ids;
		free(ids);
	}
	assert_true(merged > 1000); /* or nothing was tested */
	st_tokenizer_close(t);
	gguf_release(&g);
	st_arena_release(&arena);
}

/* A SentencePiece vocabulary over {a, b, c}: every word of up to four letters with a probability, scores at random. */
struct spm {
	char text[200][8];
	const char *pieces[200];
	float scores[200];
	int32_t types[200];
	size_t n;
};

static void make_spm(struct spm *s, bool bytes)
{
	memset(s, 0, sizeof *s);
	const char *fixed[] = { "<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "c" };
	for (size_t i = 0; i < 7; i++) {
		strcpy(s->text[s->n], fixed[i]);
		s->types[s->n] = i == 0 ? ST_PIECE_UNKNOWN : i < 3 ? ST_PIECE_CONTROL : ST_PIECE_NORMAL;
		s->scores[s->n++] = i < 3 ? 0 : -20;
	}
	if (bytes)
		for (unsigned b = 0x70; b < 0x74; b++) {
			snprintf(s->text[s->n], 8, "<0x%02X>", b);
			s->types[s->n++] = ST_PIECE_BYTE;
		}
	for (unsigned len = 2; len <= 4; len++)
		for (unsigned k = 0, all = len == 2 ? 9 : len == 3 ? 27 : 81; k < all; k++) {
			if (below(2))
				continue;
			for (unsigned i = 0, x = k; i < len; i++, x /= 3)
				s->text[s->n][i] = (char)('a' + x % 3);
			s->types[s->n] = ST_PIECE_NORMAL;
			s->scores[s->n++] = -(float)below(12) - 1;
		}
	for (size_t i = 0; i < s->n; i++)
		s->pieces[i] = s->text[i];
}

static struct st_tokenizer *open_spm(struct gguf *g, const struct spm *s, const char *model, bool prefix)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t = NULL;
	gguf_init(g);
	gguf_str(g, "tokenizer.ggml.model", model);
	gguf_strs(g, "tokenizer.ggml.tokens", s->pieces, s->n);
	gguf_f32s(g, "tokenizer.ggml.scores", s->scores, s->n);
	gguf_i32s(g, "tokenizer.ggml.token_type", s->types, s->n);
	gguf_bool(g, "tokenizer.ggml.add_space_prefix", prefix);
	gguf_u32(g, "tokenizer.ggml.unknown_token_id", 0);
	gguf_u32(g, "tokenizer.ggml.eos_token_id", 2);
	assert_ok(gguf_open(g, &t, &err), &err);
	return t;
}

static size_t spm_find(const struct spm *s, const char *p, size_t n)
{
	for (size_t i = 3; i < s->n; i++)
		if (strlen(s->text[i]) == n && memcmp(s->text[i], p, n) == 0)
			return i;
	return 0;
}

/* Join the neighbours whose text has the best score, leftmost first, until no two can be joined. */
static void scored_merging(void **state)
{
	(void)state;
	for (int round = 0; round < 200; round++) {
		struct spm s;
		struct gguf g;
		make_spm(&s, false);
		struct st_tokenizer *t = open_spm(&g, &s, "llama", false);
		char text[24];
		size_t n = 1 + below(24), len[24], k = n, n_ids;
		for (size_t i = 0; i < n; i++) {
			text[i] = (char)('a' + below(3));
			len[i] = 1;
		}
		for (;;) {
			size_t at = k;
			float best = -INFINITY;
			for (size_t i = 0, p = 0; i + 1 < k; p += len[i++]) {
				size_t id = spm_find(&s, text + p, len[i] + len[i + 1]);
				if (id && s.scores[id] > best) {
					best = s.scores[id];
					at = i;
				}
			}
			if (at == k)
				break;
			len[at] += len[at + 1];
			memmove(len + at + 1, len + at + 2, (k - at - 2) * sizeof *len);
			k--;
		}
		uint32_t *ids = tokenize(t, text, n, 0, &n_ids);
		assert_int_equal(n_ids, k);
		for (size_t i = 0, p = 0; i < k; p += len[i++])
			assert_int_equal(ids[i], spm_find(&s, text + p, len[i]));
		free(ids);
		st_tokenizer_close(t);
		gguf_release(&g);
	}
}

/* The best sum of scores over all 2^(n-1) ways to cut. */
static void unigram_is_optimal(void **state)
{
	(void)state;
	for (int round = 0; round < 200; round++) {
		struct spm s;
		struct gguf g;
		make_spm(&s, false);
		struct st_tokenizer *t = open_spm(&g, &s, "t5", false);
		char text[11];
		size_t n = 1 + below(11), n_ids;
		for (size_t i = 0; i < n; i++)
			text[i] = (char)('a' + below(3));
		double best = -INFINITY, got = 0;
		for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
			double sum = 0;
			for (size_t at = 0, end; at < n; at = end) {
				end = at + 1;
				while (end < n && !(cuts >> (end - 1) & 1))
					end++;
				size_t id = spm_find(&s, text + at, end - at);
				sum += id ? s.scores[id] : -INFINITY;
			}
			best = sum > best ? sum : best;
		}
		uint32_t *ids = tokenize(t, text, n, 0, &n_ids);
		for (size_t i = 0; i < n_ids; i++)
			got += s.scores[ids[i]];
		assert_true(got == best); /* small integers: exact */
		free(ids);
		st_tokenizer_close(t);
		gguf_release(&g);
	}
}

static void unknown_text(void **state)
{
	(void)state;
	struct spm s;
	struct gguf g;
	make_spm(&s, true);
	/* bytes 0x70..0x73 (p, q, r, s) have pieces, t has none */
	static const uint32_t llama[] = { 7, 8, 10, 0, 0, 4 }, t5[] = { 7, 8, 10, 0, 4 };
	struct st_tokenizer *t = open_spm(&g, &s, "llama", false);
	assert_ids(t, "pqstta", 6, 0, llama, 6);
	st_tokenizer_close(t);
	gguf_release(&g);
	t = open_spm(&g, &s, "t5", false); /* unigram takes neighbours without pieces as one unknown */
	assert_ids(t, "pqstta", 6, 0, t5, 5);
	static const uint32_t with_eos[] = { 4, 2 };
	assert_ids(t, "a", 1, ST_TOKENIZE_BOS, with_eos, 2);
	st_tokenizer_close(t);
	gguf_release(&g);
}

/* ---- normalising ---- */

static char *normal(struct st_tokenizer *t, const char *text, size_t n, bool first, size_t *len)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_scratch s = { .t = t };
	const char *out;
	assert_ok(st_normalize(&s, text, n, first, &out, len, &err), &err);
	char *copy = malloc(*len + 1);
	memcpy(copy, out, *len);
	copy[*len] = '\0';
	free(s.text[0].s);
	free(s.text[1].s);
	return copy;
}

/* Random strings of letters, marks of many classes, Hangul and wide characters against utf8proc's own functions. */
static void normal_forms(void **state)
{
	(void)state;
	static const int32_t some[] = { 'a',     'e',    'o',    0x301,  0x308, 0x323,  0x327,  0x345,  0x5B0,
		                        0x1100,  0x1161, 0x11A8, 0xAC00, 0xE9,  0x1E69, 0xFB01, 0xFDFA, 0x2126,
		                        0x1D15E, 0x3099, 0x304B, 0x915,  0x93C, 0x340,  0xFF21 };
	static const enum st_norm_kind kinds[] = { ST_NORM_NFC, ST_NORM_NFD, ST_NORM_NFKC, ST_NORM_NFKD };
	for (int round = 0; round < 2000; round++) {
		char text[256];
		size_t n = 0, len;
		for (size_t i = 0, count = below(20); i < count; i++)
			n += (size_t)utf8proc_encode_char(some[below(sizeof some / sizeof *some)],
			                                  (utf8proc_uint8_t *)text + n);
		text[n] = '\0';
		for (size_t k = 0; k < 4; k++) {
			struct st_tokenizer t = { .n_norms = 1, .norms = { { .kind = kinds[k] } } };
			utf8proc_uint8_t *u = (utf8proc_uint8_t *)text;
			utf8proc_uint8_t *want = k == 0 ? utf8proc_NFC(u)
			                       : k == 1 ? utf8proc_NFD(u)
			                       : k == 2 ? utf8proc_NFKC(u)
			                                : utf8proc_NFKD(u);
			char *got = normal(&t, text, n, true, &len);
			assert_string_equal(got, (const char *)want);
			free(got);
			free(want);
		}
	}
}

static void other_steps(void **state)
{
	(void)state;
	size_t len;
	static const struct {
		struct st_norm norm;
		bool first;
		const char *in, *out;
	} cases[] = {
		{ { .kind = ST_NORM_LOWERCASE }, true, "ÄB\xC4\xB0\xFFZ", "äbi\xCC\x87\xFFz" },
		{ { .kind = ST_NORM_PREPEND, .a = "_", .a_len = 1 }, true, "_a", "__a" },
		{ { .kind = ST_NORM_PREPEND_MISSING, .a = "_", .a_len = 1 }, true, "_a", "_a" },
		{ { .kind = ST_NORM_PREPEND_MISSING, .a = "_", .a_len = 1 }, true, "a", "_a" },
		{ { .kind = ST_NORM_PREPEND_FIRST, .a = "_", .a_len = 1 }, true, "a", "_a" },
		{ { .kind = ST_NORM_PREPEND_FIRST, .a = "_", .a_len = 1 }, false, "a", "a" },
		{ { .kind = ST_NORM_REPLACE, .a = "ab", .a_len = 2, .b = "c", .b_len = 1 }, true, "aababb", "accb" },
		{ { .kind = ST_NORM_STRIP, .ends = ST_STRIP_LEFT }, true, " \t\xC2\xA0 a ", "a " },
		{ { .kind = ST_NORM_STRIP, .ends = ST_STRIP_LEFT | ST_STRIP_RIGHT },
		  true,
		  "  a b\xE3\x80\x80 ",
		  "a b" },
		{ { .kind = ST_NORM_SQUEEZE }, true, "  a   b c ", "a b c" },
		{ { .kind = ST_NORM_NFC },
		  true,
		  "\xFF"
		  "e\xCC\x81\x80\xCC\x81"
		  "e",
		  "\xFF\xC3\xA9\x80\xCC\x81"
		  "e" }, /* bytes that are no UTF-8 stay, and part runs */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_tokenizer t = { .n_norms = 1 };
		t.norms[0] = cases[i].norm;
		char *got = normal(&t, cases[i].in, strlen(cases[i].in), cases[i].first, &len);
		assert_string_equal(got, cases[i].out);
		free(got);
	}
}

/* Two characters rewritten, made by hand: "ﬁ" becomes "fi", and "x" becomes nothing. */
static void character_map(void **state)
{
	(void)state;
	enum { UNITS = 1024 };
	struct {
		uint32_t size, units[UNITS];
		char text[4];
	} map = { UNITS * 4, { 0 }, "fi" };
	/* Children of the root live at 256 ^ byte, those of the node for EF at 512 ^ byte, of EF AC at 768 ^ byte, and
	 * so on. */
	map.units[0] = 256u << 10;
	map.units[256 ^ 0xEF] = 0xEFu | ((512u ^ 256u ^ 0xEF) << 10);
	map.units[512 ^ 0xAC] = 0xACu | ((768u ^ 512u ^ 0xAC) << 10);
	map.units[768 ^ 0x81] = 0x81u | 0x100u | ((900u ^ 768u ^ 0x81) << 10);
	map.units[900] = 0x80000000u;
	map.units[256 ^ 'x'] = 'x' | 0x100u | ((901u ^ 256u ^ 'x') << 10);
	map.units[901] = 0x80000000u | 2;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_charsmap_check((const char *)&map, sizeof map, "map", &err), &err);
	struct st_tokenizer t = {
		.n_norms = 1, .norms = { { .kind = ST_NORM_CHARSMAP, .a = (const char *)&map, .a_len = sizeof map } }
	};
	static const char in[] = "a\xEF\xAC\x81xe\xEF\xAC\x82";
	size_t len;
	char *got = normal(&t, in, strlen(in), true, &len);
	assert_string_equal(got, "afie\xEF\xAC\x82");
	free(got);
	/* Units that point outside the trie end the search, whatever the text. */
	for (size_t i = 0; i < UNITS; i++)
		map.units[i] = (uint32_t)st_splitmix64(&seed);
	char noise[4000];
	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = (char)(below(127) + 1);
	free(normal(&t, noise, sizeof noise, true, &len));
	map.size = UNITS * 4 + 400;
	assert_int_equal(st_charsmap_check((const char *)&map, sizeof map, "map", &err), ST_ERR_FORMAT);
}

/* ---- splitting ---- */

static void assert_words(const struct st_tokenizer *t, const char *text, const char *want)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_scratch s = { .t = t };
	const struct st_spans *w;
	char got[1024] = "";
	size_t at = 0;
	assert_ok(st_split_words(&s, text, strlen(text), &w, &err), &err);
	for (size_t i = 0; i < w->n; i++)
		at += (size_t)snprintf(got + at, sizeof got - at, "%s%.*s", i ? "|" : "", (int)w->v[i].len,
		                       text + w->v[i].start);
	free(s.words[0].v);
	free(s.words[1].v);
	pcre2_match_data_free(s.match);
	pcre2_match_context_free(s.limits);
	pcre2_jit_stack_free(s.jit_stack);
	assert_string_equal(got, want);
}

static void release_stages(struct st_tokenizer *t)
{
	for (size_t i = 0; i < t->n_stages; i++)
		pcre2_code_free(t->stages[i].code);
	t->n_stages = 0;
}

/* Worked out by hand from each family's published pattern. */
static void families_split_words(void **state)
{
	(void)state;
	static const struct {
		const char *pre, *text, *words;
	} cases[] = {
		{ "gpt-2", "I'll pay 1234 now!!  ok\n\n x", "I|'ll| pay| 1234| now|!!| | ok|\n\n| x" },
		{ "gpt-2", "I'LL", "I|'|LL" },
		{ "starcoder", "pay 1234", "pay| |1|2|3|4" },
		{ "qwen2", "I'LL pay 1234!\n\nx", "I|'LL| pay| |1|2|3|4|!\n\n|x" },
		{ "qwen2", "a\n \n b", "a|\n \n| b" },
		{ "qwen2", "foo.bar_baz", "foo|.bar|_baz" },
		{ "llama-bpe", "pay 12345 we", "pay| |123|45| we" },
		{ "falcon", "it's $12345.", "it|'|s| |$|123|45|." },
		{ "deepseek-llm",
		  "Hi 12345\nGr\xC3\xBC\xC3\x9F"
		  "e \xE4\xBD\xA0\xE5\xA5\xBD!",
		  "Hi| |12345|\n|Gr|\xC3\xBC\xC3\x9F|e| |\xE4\xBD\xA0\xE5\xA5\xBD|!" }, /* its punctuation has the range
		                                                                           :-~, which holds ASCII
		                                                                           letters */
		{ "deepseek-coder", "Hi 123, yo", "Hi| |1|2|3|,| yo" },
		{ "deepseek-v3", "Hi 12345,yo x", "Hi| |123|45|,yo| x" },
		{ "gpt-4o", "HelloWorld it's ABCdef", "Hello|World| it's| ABCdef" },
		{ "tekken", "HelloWorld 123 it's", "Hello|World| |1|2|3| it|'s" },
		{ "bloom", "Hi, all you", "Hi|,| all| you" },
		{ "viking", "Hi 12", "Hi| |1|2" },
		{ "default", "it's 12345", "it|'|s| |123|45" },
		{ "qwen35", "\xE0\xA4\x95\xE0\xA5\x8D\xE0\xA4\xB7 a",
		  "\xE0\xA4\x95\xE0\xA5\x8D\xE0\xA4\xB7| a" }, /* a mark inside a word */
		{ "qwen2", "\xE0\xA4\x95\xE0\xA5\x8D\xE0\xA4\xB7 a", "\xE0\xA4\x95|\xE0\xA5\x8D\xE0\xA4\xB7| a" },
		{ "bailingmoe", "I'm 12!\n\n", "I|'m| |1|2|!\n\n" },
		{ "seed-coder", "a!\n", "a|!|\n" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tokenizer t = { 0 };
		bool bos;
		assert_ok(st_pretok_set(&t, cases[i].pre, strlen(cases[i].pre), "pre", &bos, &err), &err);
		assert_words(&t, cases[i].text, cases[i].words);
		release_stages(&t);
		/* qwen2 composes e and U+0301, qwen35 leaves two code points. */
		if (strncmp(cases[i].pre, "qwen", 4) == 0)
			assert_int_equal(t.n_norms, strcmp(cases[i].pre, "qwen2") == 0);
	}
}

static void behaviours(void **state)
{
	(void)state;
	static const struct {
		enum st_behaviour b;
		bool invert;
		const char *words;
	} cases[] = {
		{ ST_SPLIT_ISOLATED, false, "the|-|final|-|-|countdown" },
		{ ST_SPLIT_REMOVED, false, "the|final|countdown" },
		{ ST_SPLIT_MERGED_PREVIOUS, false, "the-|final-|-|countdown" },
		{ ST_SPLIT_MERGED_NEXT, false, "the|-final|-|-countdown" },
		{ ST_SPLIT_CONTIGUOUS, false, "the|-|final|--|countdown" },
		{ ST_SPLIT_REMOVED, true, "-|-|-" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tokenizer t = { 0 };
		assert_ok(st_stage_add(&t, "-", 1, false, cases[i].b, cases[i].invert, "test", &err), &err);
		assert_words(&t, "the-final--countdown", cases[i].words);
		release_stages(&t);
	}
}

/* Shorthands mean what Oniguruma and Unicode mean by them; what PCRE2 would read differently is refused. */
static void pattern_dialect(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *text, *words;
	} good[] = {
		{ "\\s+",
		  "a\xC2\x85 \xE3\x80\x80"
		  "b\xE1\xA0\x8E"
		  "c",
		  "a|\xC2\x85 \xE3\x80\x80|b\xE1\xA0\x8E"
		  "c" }, /* U+180E is no space */
		{ "[^\\s]+", "a\xE1\xA0\x8E b", "a\xE1\xA0\x8E| |b" },
		{ "\\w+",
		  "a_\xC3\xA9\xCC\x81"
		  "1-b",
		  "a_\xC3\xA9\xCC\x81"
		  "1|-|b" },
		{ "\\h+", "xyfe01z", "xy|fe01|z" },
		{ "[]a]+", "b]ab", "b|]a|b" },
		{ "[[:upper:]]+", "aBCd", "a|BC|d" },
		/* What the tokenizers library makes of them: ^2 and a half are words outside of brackets alone, a
		 * combining letter is alphabetic, a currency sign punctuation, and a script has no punctuation. */
		{ "\\w+", "-\xC2\xB2\xC2\xBD-", "-|\xC2\xB2\xC2\xBD|-" },
		{ "[\\w]+", "x\xC2\xB2x", "x|\xC2\xB2|x" },
		{ "a\\b",
		  "aa-a\xC2\xB2"
		  "a\xCC\x81",
		  "a|a|-a\xC2\xB2"
		  "a\xCC\x81" },
		{ "a\\B",
		  "aa-a\xC2\xB2"
		  "a-",
		  "a|a-|a|\xC2\xB2"
		  "a-" },
		{ "[[:alpha:]]+",
		  "-a\xCD\x85"
		  "b1",
		  "-|a\xCD\x85"
		  "b|1" },
		{ "[[:^alpha:]]+",
		  "a1\xE2\x82\xAC"
		  "b",
		  "a|1\xE2\x82\xAC|b" },
		{ "[[:punct:]]+", "a$\xE2\x82\xAC.1", "a|$\xE2\x82\xAC.|1" },
		{ "\\p{Han}+", "\xE4\xBD\xA0\xE3\x80\x82\xE5\xA5\xBD", "\xE4\xBD\xA0|\xE3\x80\x82|\xE5\xA5\xBD" },
		{ "[^\\p{^Han}]+", "\xE4\xBD\xA0\xE3\x80\x82", "\xE4\xBD\xA0|\xE3\x80\x82" },
		{ "\\v", "a\x0B\x0C", "a|\x0B|\x0C" },
		{ "(?m:a.)", "a\nb", "a\n|b" },
		{ "\\p{L}++|a{2}", "ab1", "ab|1" },
		{ "(?=b)", "abab", "a|ba|b" },
		{ "b$", "ab\nb", "a|b|\n|b" },
	};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tokenizer t = { 0 };
		assert_ok(st_stage_add(&t, good[i].pattern, strlen(good[i].pattern), false, ST_SPLIT_ISOLATED, false,
		                       "test", &err),
		          &err);
		assert_words(&t, good[i].text, good[i].words);
		release_stages(&t);
	}
	static const struct {
		const char *pattern, *says;
	} bad[] = {
		{ "[a[bc]]", "class inside" },   { "[a&&b]", "intersection" }, { "[^\\S]", "\\S inside" },
		{ "\\p{N}{1,3}+", "{1,3}+ at" }, { "\\V", "\\V at" },          { "[[:^punct:]]", "[:^punct:]" },
		{ "[[:vowel:]]", "[:vowel:]" },  { "(a", "does not compile" }, { "\xFF", "does not compile" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tokenizer t = { 0 };
		assert_int_equal(st_stage_add(&t, bad[i].pattern, strlen(bad[i].pattern), false, ST_SPLIT_ISOLATED,
		                              false, "test", &err),
		                 ST_ERR_UNSUPPORTED);
		assert_non_null(strstr(err.message, bad[i].says));
	}
}

/* ---- robustness ---- */

static void any_bytes_come_back(void **state)
{
	(void)state;
	struct st_arena arena;
	struct gguf g;
	struct st_synth_vocab v;
	static const char *const pres[] = { "gpt-2",     "starcoder", "falcon", "deepseek-llm", "deepseek-v3",
		                            "llama-bpe", "gpt-4o",    "tekken", "bloom",        "default" };
	for (size_t p = 0; p < sizeof pres / sizeof *pres; p++) { /* none of them normalises */
		struct st_tokenizer *t = open_synth(&g, &arena, 512, pres[p], &v);
		for (int round = 0; round < 200; round++) {
			char text[200];
			size_t n = below(sizeof text);
			for (size_t i = 0; i < n; i++)
				text[i] = round & 1 ? (char)below(256) : " \n'ab1\xC3\xA9.\xE4\xBD\xA0"[below(13)];
			assert_round_trip(t, text, n, false);
		}
		st_tokenizer_close(t);
		gguf_release(&g);
		st_arena_release(&arena);
	}
}

static void megabytes(void **state)
{
	(void)state;
	enum { N = 1 << 20 };
	struct st_arena arena;
	struct gguf g;
	struct st_synth_vocab v;
	char *text = malloc(N);
	static const char *const fills[] = { "a",  "the", " ", "\n", "1", "\xFF", "\xE4\xBD\xA0", "\xCC\xA3\xCC\x81",
		                             "a ", "A",   "'" };
	static const char *const pres[] = { "qwen2", "gpt-4o", "falcon", "deepseek-llm" };
	for (size_t p = 0; p < sizeof pres / sizeof *pres; p++) {
		struct st_tokenizer *t = open_synth(&g, &arena, 600, pres[p], &v);
		for (size_t f = 0; f < sizeof fills / sizeof *fills; f++) {
			size_t k = strlen(fills[f]), n = N / k * k, n_ids;
			for (size_t i = 0; i < n; i++)
				text[i] = fills[f][i % k];
			struct timespec a, b;
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
			uint32_t *ids = tokenize(t, text, n, ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &n_ids);
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
			double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
			assert_true(n_ids > 0 && n_ids <= n);
			assert_true(seconds < 60); /* a square of 2^20 would take far longer, sanitizers far less */
			free(ids);
		}
		st_tokenizer_close(t);
		gguf_release(&g);
		st_arena_release(&arena);
	}
	struct spm s;
	make_spm(&s, false);
	static const char *const models[] = { "llama", "t5" };
	for (size_t m = 0; m < 2; m++) {
		struct st_tokenizer *t = open_spm(&g, &s, models[m], true);
		memset(text, 'a', N);
		assert_round_trip(t, text, N, true);
		st_tokenizer_close(t);
		gguf_release(&g);
	}
	free(text);
}

/* ---- the synthetic vocabulary ---- */

static void synthetic_vocabulary(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_arena a, b;
	struct st_synth_vocab v, w;
	st_arena_init(&a);
	st_arena_init(&b);
	static const uint32_t sizes[] = { 260, 320, 512, 4096 };
	for (size_t k = 0; k < 4; k++) {
		assert_ok(st_synth_vocab_make(&a, sizes[k], &v, &err), &err);
		assert_ok(st_synth_vocab_make(&b, sizes[k], &w, &err), &err);
		assert_int_equal(v.n, sizes[k]);
		assert_int_equal(v.n_merges, w.n_merges);
		for (uint32_t i = 0; i < v.n; i++)
			assert_string_equal(v.pieces[i], w.pieces[i]);
		assert_string_equal(v.pieces[v.bos], "<|endoftext|>");
		assert_string_equal(v.pieces[v.eos], "<|im_end|>");
		assert_true(v.n_merges > 0 && v.n_merges <= sizes[k] - 259);
		for (uint32_t i = 0; i < v.n_merges; i++) { /* "left right" makes piece 256 + i */
			size_t space = strcspn(v.merges[i], " ");
			const char *made = v.pieces[256 + i];
			assert_memory_equal(v.merges[i], made, space);
			assert_string_equal(v.merges[i] + space + 1, made + space);
		}
	}
	assert_string_equal(v.pieces[0], "!");
	assert_int_equal(st_synth_vocab_make(&a, 259, &v, &err), ST_ERR_USAGE);
	st_arena_release(&a);
	st_arena_release(&b);
	/* It shortens English, and knows its special tokens. That pieces are unique, opening it has checked. */
	struct gguf g;
	struct st_tokenizer *t = open_synth(&g, &a, 512, "qwen2", &v);
	static const char text[] = "Once upon a time there was a question about the answer.";
	size_t n_ids;
	free(tokenize(t, text, strlen(text), 0, &n_ids));
	assert_true(n_ids < strlen(text) * 2 / 3);
	assert_round_trip(t, text, strlen(text), false);
	assert_pieces(t, "<|im_end|>", ST_TOKENIZE_SPECIAL, "<|im_end|>");
	st_tokenizer_close(t);
	gguf_release(&g);
	st_arena_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prefixes_find_every_piece),
		cmocka_unit_test(ranked_merging_is_bpe),
		cmocka_unit_test(scored_merging),
		cmocka_unit_test(unigram_is_optimal),
		cmocka_unit_test(unknown_text),
		cmocka_unit_test(normal_forms),
		cmocka_unit_test(other_steps),
		cmocka_unit_test(character_map),
		cmocka_unit_test(families_split_words),
		cmocka_unit_test(behaviours),
		cmocka_unit_test(pattern_dialect),
		cmocka_unit_test(any_bytes_come_back),
		cmocka_unit_test(megabytes),
		cmocka_unit_test(synthetic_vocabulary),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
