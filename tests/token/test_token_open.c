/* token: what tokenizer.json, APR metadata and GGUF keys mean, and what is refused. */
#include "helpers.h"

/* A byte-level tokenizer.json over a few letters; the arguments are JSON. */
#define VOCAB                                                        \
	"\"a\":0,\"b\":1,\"c\":2,\"\xC4\xA0\":3,\"ab\":4,\"\xC4\xA0" \
	"a\":5,\"1\":6,\"2\":7,\"12\":8,\"-\":9,\"abc\":10"
#define MERGES "\"a b\",\"\xC4\xA0 a\",[\"1\",\"2\"],\"ab c\""
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define HF(added, norm, pre, post, more)                                                                              \
	"{\"added_tokens\":" added ",\"normalizer\":" norm ",\"pre_tokenizer\":" pre ",\"post_processor\":" post      \
	",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[" MERGES \
	"]" more "}}"
#define SEQUENCE(list, steps) "{\"type\":\"Sequence\",\"" list "\":[" steps "]}"
#define SPLIT(pattern, behaviour) \
	"{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behaviour "\",\"invert\":false}"
#define ADDED(id, content, more) "{\"id\":" id ",\"content\":\"" content "\"" more "}"

static struct st_tokenizer *open_json(struct st_container *c)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t = NULL;
	assert_ok(st_tokenizer_open(c, &t, &err), &err);
	return t;
}

static void hf_steps(void **state)
{
	(void)state;
	static const struct {
		const char *doc, *text, *pieces;
	} cases[] = {
		{ HF("[]", "null", BYTE_LEVEL, "null", ""), "abc ab12", "abc|\xC4\xA0|ab|12" },
		/* a merge across the cut is not made */
		{ HF("[]", "null",
		     SEQUENCE("pretokenizers", SPLIT("{\"Regex\":\"b\"}", "MergedWithNext") "," BYTE_LEVEL), "null",
		     ""),
		  "abc", "a|b|c" },
		{ HF("[]", "null", SEQUENCE("pretokenizers", SPLIT("{\"String\":\"-\"}", "Removed") "," BYTE_LEVEL),
		     "null", ""),
		  "ab-ab", "ab|ab" },
		{ HF("[]", "null",
		     SEQUENCE("pretokenizers", "{\"type\":\"Digits\",\"individual_digits\":true}," BYTE_LEVEL), "null",
		     ""),
		  "12", "1|2" },
		{ HF("[]", "null",
		     SEQUENCE("pretokenizers", "{\"type\":\"Digits\",\"individual_digits\":false}," BYTE_LEVEL), "null",
		     ""),
		  "12", "12" },
		{ HF("[]", "null",
		     SEQUENCE("pretokenizers", "{\"type\":\"Punctuation\",\"behavior\":\"Isolated\"}," BYTE_LEVEL),
		     "null", ""),
		  "ab-ab", "ab|-|ab" },
		{ HF("[]", "null", "{\"type\":\"ByteLevel\"}", "null", ""), "ab a",
		  "\xC4\xA0|ab|\xC4\xA0"
		  "a" }, /* both options default to true */
		{ HF("[]", "{\"type\":\"Lowercase\"}", BYTE_LEVEL, "null", ""), "ABC", "abc" },
		{ HF("[]",
		     SEQUENCE("normalizers", "{\"type\":\"Strip\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"}"
		                             ",\"content\":\"ab\"}"),
		     BYTE_LEVEL, "null", ""),
		  " xc ", "abc" },
		{ HF("[]", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"a\"}", BYTE_LEVEL,
		     "null", ""),
		  "xxxbxb", "ab|ab" },
		{ HF("[]", "{\"type\":\"Prepend\",\"prepend\":\"a\"}", BYTE_LEVEL, "null", ""), "b", "ab" },
		/* added tokens: special only on request, others always; white space goes with them where they say so */
		{ HF("[" ADDED("11", "<b>", ",\"special\":true") "," ADDED("12", "bb", "") "]", "null", BYTE_LEVEL,
		     "null", ""),
		  "abba", "a|bb|a" },
		{ HF("[" ADDED("11", "bb", ",\"lstrip\":true") "]", "null", BYTE_LEVEL, "null", ""), "a  bb a",
		  "a|bb|\xC4\xA0"
		  "a" },
		{ HF("[" ADDED("11", "bb", ",\"rstrip\":true") "]", "null", BYTE_LEVEL, "null", ""), "a bb  a",
		  "a|\xC4\xA0|bb|a" },
		{ HF("[" ADDED("11", "bb", "") "," ADDED("12", "bbc", "") "]", "null", BYTE_LEVEL, "null", ""),
		  "abbcbb", "a|bbc|bb" }, /* the longest */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container c = json_container(ST_FORMAT_SAFETENSORS, cases[i].doc, NULL);
		struct st_tokenizer *t = open_json(&c);
		assert_pieces(t, cases[i].text, 0, cases[i].pieces);
		st_tokenizer_close(t);
		json_release(&c);
	}
}

/* A step behind ByteLevel cuts the byte alphabet: U+00B2 is the bytes C2 B2, written U+00C2 U+00B2, of which the second
 * is a digit. In front of ByteLevel the character is one. Expected: what the tokenizers library does. */
static void steps_behind_byte_level(void **state)
{
	(void)state;
#define G "\xC4\xA0"
#define C2 "\xC3\x82"
#define B2 "\xC2\xB2"
#define DIGITS(steps)                                                                                           \
	"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"" G "\":0,\"" C2 "\":1,\"" B2 "\":2,\"" G C2 "\":3,\"" C2 B2 \
	"\":4},"                                                                                                \
	"\"merges\":[\"" G " " C2 "\",\"" C2 " " B2 "\"]},\"pre_tokenizer\":" SEQUENCE("pretokenizers", steps) "}"
#define E2 "\xC3\xA2"
#define X80 "\xC4\xA2"
#define X8D "\xC4\xAF"
#define JOINED(steps)                                                                                     \
	"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"" E2 "\":1,\"" X80 "\":2,\"" X8D "\":3,\"a" E2 \
	"\":4,\"" X80 X8D "\":5,"                                                                         \
	"\"" C2 "\":6,\"" B2 "\":7,\"" C2 B2 "\":8,\"a" C2 "\":9},"                                       \
	"\"merges\":[\"a " E2 "\",\"" X80 " " X8D "\",\"a " C2 "\",\"" C2 " " B2 "\"]},"                  \
	"\"pre_tokenizer\":" SEQUENCE("pretokenizers", steps) "}"
	static const struct {
		const char *doc, *text, *pieces;
	} cases[] = {
		{ DIGITS(BYTE_LEVEL ",{\"type\":\"Digits\"}"), " \xC2\xB2", G C2 "|" B2 },
		{ DIGITS("{\"type\":\"Digits\"}," BYTE_LEVEL), " \xC2\xB2", G "|" C2 B2 },
		/* To Whitespace a superscript is no word character and no space either: a run of its own. A joiner is
		   part of a word. */
		{ JOINED("{\"type\":\"Whitespace\"}," BYTE_LEVEL), "a\xE2\x80\x8D", "a" E2 "|" X80 X8D },
		{ JOINED("{\"type\":\"Whitespace\"}," BYTE_LEVEL), "a\xC2\xB2", "a|" C2 B2 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container c = json_container(ST_FORMAT_SAFETENSORS, cases[i].doc, NULL);
		struct st_tokenizer *t = open_json(&c);
		assert_pieces(t, cases[i].text, 0, cases[i].pieces);
		st_tokenizer_close(t);
		json_release(&c);
	}
}

static void special_tokens(void **state)
{
	(void)state;
	struct st_container c = json_container(
		ST_FORMAT_SAFETENSORS,
		HF("[" ADDED("11", "<b>", ",\"special\":true") "]", "null", BYTE_LEVEL, "null", ",\"unk_token\":\"-\""),
		NULL);
	struct st_tokenizer *t = open_json(&c);
	assert_pieces(t, "a<b>b", ST_TOKENIZE_SPECIAL, "a|<b>|b");
	assert_pieces(t, "a<b>b", 0, "a|-|b|-|b"); /* < and > have no pieces here */
	size_t len;
	assert_null(st_tokenizer_piece(t, 12, &len));
	assert_int_equal(st_tokenizer_decode(t, 12, NULL, 0), 0);
	char small[2] = "..";
	assert_int_equal(st_tokenizer_decode(t, 10, small, 2), 3); /* says how much there is, writes what fits */
	assert_memory_equal(small, "ab", 2);
	st_tokenizer_close(t);
	json_release(&c);
}

/* "abc" is made by no merge here: only ignore_merges finds it. */
static void ignore_merges(void **state)
{
	(void)state;
#define DOC(flag)                                                                                              \
	"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4},\"merges\":[\"a " \
	"b\"],\"ignore_merges\":" flag "},\"pre_tokenizer\":" BYTE_LEVEL "}"
	struct st_container c = json_container(ST_FORMAT_SAFETENSORS, DOC("true"), NULL),
			    d = json_container(ST_FORMAT_SAFETENSORS, DOC("false"), NULL);
	struct st_tokenizer *t = open_json(&c), *u = open_json(&d);
	assert_pieces(t, "abc", 0, "abc");
	assert_pieces(u, "abc", 0, "ab|c");
	st_tokenizer_close(t);
	st_tokenizer_close(u);
	json_release(&c);
	json_release(&d);
}

static void metaspace_and_unigram(void **state)
{
	(void)state;
#define M "\xE2\x96\x81"
#define UNIGRAM(scheme)                                                                                           \
	"{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"" M "\",-3],[\"a\",-2],[\"" M  \
	"a\",-1],[\"b\",-2],[\"" M "ab\",-9]]},"                                                                  \
	"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" M "\",\"prepend_scheme\":\"" scheme "\"}," \
	"\"added_tokens\":[{\"id\":6,\"content\":\"<x>\",\"special\":true}],\"decoder\":{\"type\":\"Metaspace\"}}"
	static const struct {
		const char *doc, *text, *pieces;
	} cases[] = {
		{ UNIGRAM("always"), "ab a", M "a|b|" M "a" },
		{ UNIGRAM("never"), "ab a", "a|b|" M "a" },
		{ UNIGRAM("always"), " a", M "a" },
		{ UNIGRAM("always"), "a<x>a", M "a|<x>|" M "a" },
		{ UNIGRAM("first"), "a<x>a", M "a|<x>|a" },
		{ UNIGRAM("never"), "azzb", "a|<unk>|b" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container c = json_container(ST_FORMAT_SAFETENSORS, cases[i].doc, NULL);
		struct st_tokenizer *t = open_json(&c);
		assert_pieces(t, cases[i].text, ST_TOKENIZE_SPECIAL, cases[i].pieces);
		st_tokenizer_close(t);
		json_release(&c);
	}
	/* With byte_fallback A and two bytes of a letter become byte pieces; so does their spelling, as the tokenizers
	 * library does it. */
#define BYTES(score)                                                                                                 \
	"{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],[\"a\",-2],[" \
	"\"<0x41>\"," score "],[\"<0xC3>\",-30],"                                                                    \
	"[\"<0xA4>\",-30],[\"<\",-2],[\"0\",-2],[\"x\",-2],[\"4\",-2],[\"1\",-2],[\">\",-2]]}}"
	static const struct {
		const char *doc, *text, *pieces;
	} bytes[] = {
		{ BYTES("-30"), "aA\xC3\xA4", "a|<0x41>|<0xC3>|<0xA4>" },
		{ BYTES("-30"), "a<0x41>", "a|<|0|x|4|1|>" },
		{ BYTES("-5"), "a<0x41>", "a|<0x41>" },
		{ BYTES("-5"), "a<0x41", "a|<|0|x|4|1" },
	};
	for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
		struct st_container b = json_container(ST_FORMAT_SAFETENSORS, bytes[i].doc, NULL);
		struct st_tokenizer *tb = open_json(&b);
		assert_pieces(tb, bytes[i].text, 0, bytes[i].pieces);
		st_tokenizer_close(tb);
		json_release(&b);
	}
	struct st_container c = json_container(ST_FORMAT_SAFETENSORS, UNIGRAM("never"), NULL);
	struct st_tokenizer *t = open_json(&c);
	assert_round_trip(t, "ab a  b", 7, false);
	st_tokenizer_close(t);
	json_release(&c);
}

static void bos_and_eos(void **state)
{
	(void)state;
#define TEMPLATE                                                                                                       \
	"{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{"             \
	"\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"                                                                  \
	"{\"SpecialToken\":{\"id\":\"</"                                                                               \
	"s>\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[11],\"tokens\":[\"<s>" \
	"\"]},"                                                                                                        \
	"\"</s>\":{\"id\":\"</s>\",\"ids\":[12],\"tokens\":[\"</s>\"]}}}"
#define TOKENS "[" ADDED("11", "<s>", ",\"special\":true") "," ADDED("12", "</s>", ",\"special\":true") "]"
	static const struct {
		const char *post, *config, *pieces;
		bool bos;
	} cases[] = {
		{ "null", NULL, "ab", false },
		{ TEMPLATE, NULL, "<s>|ab|</s>", true },
		{ SEQUENCE("processors", "{\"type\":\"ByteLevel\"}," TEMPLATE), NULL, "<s>|ab|</s>", true },
		{ "{\"type\":\"RobertaProcessing\",\"cls\":[\"<s>\",11],\"sep\":[\"</s>\",12]}", NULL, "<s>|ab|</s>",
		  true },
		/* the Llama classes decide by themselves, with BOS and without EOS by default; the generic class leaves
		   the template */
		{ TEMPLATE, "{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\"}", "<s>|ab", true },
		{ "null", "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":{\"content\":\"<s>\"}}", "<s>|ab",
		  true },
		{ TEMPLATE,
		  "{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\",\"eos_token\":\"</"
		  "s>\",\"add_bos_token\":false,\"add_eos_token\":true}",
		  "ab|</s>", false },
		{ TEMPLATE,
		  "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"bos_token\":\"<s>\",\"add_bos_token\":false}",
		  "<s>|ab|</s>", true },
	/* transformers 5: either key decides for both ends, whatever tokenizer.json says; neither leaves it */
#define FIVE "{\"tokenizer_class\":\"TokenizersBackend\",\"bos_token\":\"<s>\",\"eos_token\":\"</s>\""
		{ TEMPLATE, FIVE "}", "<s>|ab|</s>", true },
		{ "null", FIVE "}", "ab", false },
		{ TEMPLATE, FIVE ",\"add_bos_token\":false}", "ab", false },
		{ TEMPLATE, FIVE ",\"add_bos_token\":true}", "<s>|ab", true },
		{ "null", FIVE ",\"add_bos_token\":true}", "<s>|ab", true },
		{ TEMPLATE, FIVE ",\"add_eos_token\":true}", "ab|</s>", false },
		{ TEMPLATE, FIVE ",\"add_bos_token\":null}", "ab", false },
		{ "null", "{\"tokenizer_class\":\"TokenizersBackend\",\"add_bos_token\":true}", "ab", false },
		{ "null", "{\"tokenizer_class\":\"LlamaTokenizer\",\"backend\":\"tokenizers\",\"bos_token\":\"<s>\"}",
		  "ab", false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char doc[4096];
		snprintf(doc, sizeof doc,
		         "{\"added_tokens\":" TOKENS ",\"pre_tokenizer\":" BYTE_LEVEL
		         ",\"post_processor\":%s,\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[" MERGES
		         "]}}",
		         cases[i].post);
		struct st_container c = json_container(ST_FORMAT_SAFETENSORS, doc, cases[i].config);
		struct st_tokenizer *t = open_json(&c);
		assert_pieces(t, "ab", ST_TOKENIZE_BOS, cases[i].pieces);
		assert_pieces(t, "ab", 0, "ab");
		assert_int_equal(st_tokenizer_adds_bos(t), cases[i].bos);
		st_tokenizer_close(t);
		json_release(&c);
	}
}

static void hf_refusals(void **state)
{
	(void)state;
	const enum st_format hf = ST_FORMAT_SAFETENSORS;
	assert_refused(hf, "{}", ST_ERR_UNSUPPORTED, "BPE, Unigram");
	assert_refused(hf, "[1]", ST_ERR_UNSUPPORTED, "BPE, Unigram");
	assert_refused(hf, "{\"model\":{\"type\":\"WordLevel\"}}", ST_ERR_UNSUPPORTED, "WordLevel");
	assert_refused(hf, "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", ST_ERR_FORMAT, "unk_token");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\"}}", ST_ERR_FORMAT, "model.vocab");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", ST_ERR_FORMAT, "model.merges");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", ST_ERR_FORMAT, "empty");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967296},\"merges\":[]}}", ST_ERR_FORMAT,
	               "\"a\" has no id");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", ST_ERR_FORMAT,
	               "\"a\" has no id");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", ST_ERR_FORMAT,
	               "id 0 is both");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}",
	               ST_ERR_FORMAT, "joined piece");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a x\"]}}",
	               ST_ERR_FORMAT, "\"x\" is not in");
	assert_refused(hf, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\"]]}}",
	               ST_ERR_FORMAT, "merges[0]");
	assert_refused(hf, HF("[]", "{\"type\":\"Nmt\"}", BYTE_LEVEL, "null", ""), ST_ERR_UNSUPPORTED,
	               "normalizer \"Nmt\"");
	assert_refused(hf, HF("[]", "null", "{\"type\":\"UnicodeScripts\"}", "null", ""), ST_ERR_UNSUPPORTED,
	               "pre_tokenizer \"UnicodeScripts\"");
	assert_refused(hf, HF("[]", "null", BYTE_LEVEL, "{\"type\":\"Odd\"}", ""), ST_ERR_UNSUPPORTED,
	               "post_processor \"Odd\"");
	assert_refused(hf, HF("[]", "null", "{\"x\":1}", "null", ""), ST_ERR_FORMAT, "no type");
	assert_refused(hf, HF("[]", "null", SEQUENCE("pretokenizers", BYTE_LEVEL "," BYTE_LEVEL), "null", ""),
	               ST_ERR_UNSUPPORTED, "ByteLevel twice");
	assert_refused(hf, HF("[]", "null", SPLIT("{\"Regex\":\"[a&&b]\"}", "Isolated"), "null", ""),
	               ST_ERR_UNSUPPORTED, "intersection");
	assert_refused(hf, HF("[]", "null", SPLIT("{\"Regex\":\"a\"}", "Odd"), "null", ""), ST_ERR_UNSUPPORTED, "Odd");
	assert_refused(hf,
	               HF("[]", "null",
	                  SEQUENCE("pretokenizers", SPLIT("{\"Regex\":\"a\"}", "Isolated") ",{\"type\":\"ByteLevel\"}"),
	                  "null", ""),
	               ST_ERR_UNSUPPORTED, "add_prefix_space");
	assert_refused(hf, HF("[]", "null", BYTE_LEVEL, "null", ",\"dropout\":0.1"), ST_ERR_UNSUPPORTED, "dropout");
	assert_refused(hf, HF("[]", "null", BYTE_LEVEL, "null", ",\"end_of_word_suffix\":\"</w>\""), ST_ERR_UNSUPPORTED,
	               "end_of_word_suffix");
	assert_refused(hf, HF("[" ADDED("11", "x", ",\"single_word\":true") "]", "null", BYTE_LEVEL, "null", ""),
	               ST_ERR_UNSUPPORTED, "single_word");
	assert_refused(hf, HF("[" ADDED("1", "x", "") "]", "null", BYTE_LEVEL, "null", ""), ST_ERR_FORMAT,
	               "id 1 is both");
	/* What says yes or no says true or false. */
	assert_refused(hf, HF("[" ADDED("11", "x", ",\"special\":1") "]", "null", BYTE_LEVEL, "null", ""),
	               ST_ERR_FORMAT, "special: is 1, not");
	assert_refused(hf, HF("[]", "null", "{\"type\":\"Digits\",\"individual_digits\":1}", "null", ""), ST_ERR_FORMAT,
	               "individual_digits: is 1, not");
	assert_refused(hf, HF("[]", "{\"type\":\"Strip\",\"strip_left\":\"no\"}", BYTE_LEVEL, "null", ""),
	               ST_ERR_FORMAT, "strip_left");
	assert_refused(hf, HF("[]", "null", BYTE_LEVEL, "null", ",\"byte_fallback\":\"yes\""), ST_ERR_FORMAT,
	               "byte_fallback");
	assert_refused(hf, HF("[]", "null", BYTE_LEVEL, "null", ",\"unk_token\":\"?\""), ST_ERR_FORMAT, "unk_token");
}

#define APR(more) "{\"tokenizer.vocabulary\":[\"a\",\"b\",\"ab\",\"<e>\"]" more "}"

static void apr_refusals(void **state)
{
	(void)state;
	const enum st_format apr = ST_FORMAT_APR;
	assert_refused(apr, "{}", ST_ERR_UNSUPPORTED, "tokenizer.vocabulary");
	assert_refused(apr, "{\"tokenizer.vocabulary\":3}", ST_ERR_FORMAT, "tokenizer.vocabulary: is 3, not a list");
	assert_refused(apr, "{\"tokenizer.vocabulary\":[1,2],\"tokenizer.merges\":[]}", ST_ERR_FORMAT,
	               "piece 0 is not a string");
	assert_refused(apr, APR(""), ST_ERR_UNSUPPORTED, "its kind is unknown");
	assert_refused(apr, APR(",\"tokenizer.model_type\":\"odd\""), ST_ERR_UNSUPPORTED, "bpe, gpt2");
	assert_refused(apr, APR(",\"tokenizer.model_type\":\"bpe\",\"tokenizer.model\":\"llama\""), ST_ERR_FORMAT,
	               "contradicts");
	assert_refused(apr, APR(",\"tokenizer.model_type\":\"bpe\""), ST_ERR_FORMAT, "tokenizer.merges is missing");
	assert_refused(apr, APR(",\"tokenizer.model_type\":\"spm\""), ST_ERR_FORMAT, "tokenizer.scores is missing");
	assert_refused(apr, APR(",\"tokenizer.model_type\":\"spm\",\"tokenizer.scores\":[1,2]"), ST_ERR_FORMAT,
	               "2 scores for 4");
	assert_refused(apr, APR(",\"tokenizer.merges\":[\"a b\"],\"tokenizer.bos_token_id\":4"), ST_ERR_FORMAT,
	               "tokenizer.bos_token_id");
	assert_refused(apr, APR(",\"tokenizer.merges\":[\"ab\"],\"architecture\":\"gpt2\""), ST_ERR_FORMAT, "merge 0");
	assert_refused(apr, APR(",\"tokenizer.merges\":[\"a b\"],\"architecture\":\"llama\""), ST_ERR_UNSUPPORTED,
	               "tokenizer.pre");
	assert_refused(apr, APR(",\"tokenizer.merges\":[\"a b\"],\"tokenizer.pre\":\"odd\""), ST_ERR_UNSUPPORTED,
	               "known: gpt-2");
}

static void apr_is_understood(void **state)
{
	(void)state;
	static const struct {
		const char *doc, *describe, *pieces;
	} cases[] = {
		{ APR(",\"tokenizer.merges\":[\"a b\"],\"architecture\":\"gpt2\""),
		  "bpe (gpt-2, from architecture gpt2)", "ab|<e>|b" },
		{ APR(",\"tokenizer.merges\":[\"a b\"],\"architecture\":\"llama\",\"tokenizer.pre\":\"qwen2\""),
		  "bpe (qwen2)", "ab|<e>|b" },
		{ APR(",\"tokenizer.model\":\"llama\",\"tokenizer.scores\":[-1,-2,-1,0],\"tokenizer.token_type\":[1,1,"
		      "1,3],\"tokenizer.add_space_prefix\":false"),
		  "spm", "ab|<e>|b" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container c = json_container(ST_FORMAT_APR, cases[i].doc, NULL);
		struct st_tokenizer *t = open_json(&c);
		assert_string_equal(st_tokenizer_describe(t), cases[i].describe);
		assert_pieces(t, "ab<e>b", ST_TOKENIZE_SPECIAL, cases[i].pieces);
		st_tokenizer_close(t);
		json_release(&c);
	}
}

/* One thing wrong at a time in a GGUF that is otherwise right. */
static void gguf_refusals(void **state)
{
	(void)state;
	enum fault {
		NONE,
		NO_MODEL,
		ODD_MODEL,
		MODEL_U32,
		NO_TOKENS,
		TOKENS_U8,
		NO_MERGES,
		ODD_MERGE,
		ODD_PRE,
		NO_PRE,
		BAD_UTF8,
		TWICE,
		FEW_TYPES,
		ODD_TYPE,
		BOS_HIGH,
		BOS_NONE,
		NAN_SCORE,
		FEW_SCORES,
		FAULTS
	};
	static const struct {
		enum st_status code;
		const char *says;
	} want[FAULTS] = {
		[NONE] = { ST_OK, "" },
		[BOS_NONE] = { ST_OK, "" },
		[NO_MODEL] = { ST_ERR_UNSUPPORTED, "there is no tokenizer" },
		[ODD_MODEL] = { ST_ERR_UNSUPPORTED, "known: gpt2, llama, t5, bert, gemma4" },
		[MODEL_U32] = { ST_ERR_FORMAT, "expected string" },
		[NO_TOKENS] = { ST_ERR_FORMAT, "tokenizer.ggml.tokens" },
		[TOKENS_U8] = { ST_ERR_FORMAT, "not an array of strings" },
		[NO_MERGES] = { ST_ERR_FORMAT, "tokenizer.ggml.merges is missing" },
		[ODD_MERGE] = { ST_ERR_FORMAT, "merge 1, \"ab\"" },
		[ODD_PRE] = { ST_ERR_UNSUPPORTED, "unknown pre-tokenizer \"odd\"; known: gpt-2" },
		[NO_PRE] = { ST_ERR_UNSUPPORTED, "architecture \"llama\"" },
		[BAD_UTF8] = { ST_ERR_FORMAT, "piece 2 is not valid UTF-8" },
		[TWICE] = { ST_ERR_FORMAT, "two ids, 1 and 2" },
		[FEW_TYPES] = { ST_ERR_FORMAT, "2 types for 4" },
		[ODD_TYPE] = { ST_ERR_FORMAT, "unknown type 9" },
		[BOS_HIGH] = { ST_ERR_FORMAT, "tokenizer.ggml.bos_token_id: id 99, the vocabulary has 4" },
		[NAN_SCORE] = { ST_ERR_FORMAT, "score of piece 0" },
		[FEW_SCORES] = { ST_ERR_FORMAT, "3 scores for 4" },
	};
	for (int f = NONE; f < FAULTS; f++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tokenizer *t = NULL;
		struct gguf g;
		bool spm = f == NAN_SCORE || f == FEW_SCORES;
		const char *tokens[] = { "a", "b", f == BAD_UTF8 ? "\xC3(" : f == TWICE ? "b" : "ab", "<e>" };
		const char *merges[] = { "a b", f == ODD_MERGE ? "ab" : "a b" };
		int32_t types[] = { 1, 1, f == ODD_TYPE ? 9 : 1, 3 };
		float scores[] = { f == NAN_SCORE ? 0.0f / 0.0f : 0, 0, 0, 0 };
		gguf_init(&g);
		gguf_str(&g, "general.architecture", "llama");
		if (f == MODEL_U32)
			gguf_u32(&g, "tokenizer.ggml.model", 1);
		else if (f != NO_MODEL)
			gguf_str(&g, "tokenizer.ggml.model", f == ODD_MODEL ? "odd" : spm ? "llama" : "gpt2");
		if (f == TOKENS_U8)
			gguf_add(&g, "tokenizer.ggml.tokens", ST_KV_ARR, ST_KV_U8, 3, "\1\2\3", 3);
		else if (f != NO_TOKENS)
			gguf_strs(&g, "tokenizer.ggml.tokens", tokens, 4);
		if (f != NO_MERGES)
			gguf_strs(&g, "tokenizer.ggml.merges", merges, 2);
		if (f != NO_PRE)
			gguf_str(&g, "tokenizer.ggml.pre", f == ODD_PRE ? "odd" : "gpt-2");
		gguf_i32s(&g, "tokenizer.ggml.token_type", types, f == FEW_TYPES ? 2 : 4);
		gguf_f32s(&g, "tokenizer.ggml.scores", scores, f == FEW_SCORES ? 3 : 4);
		gguf_u32(&g, "tokenizer.ggml.bos_token_id", f == BOS_HIGH ? 99 : f == BOS_NONE ? UINT32_MAX : 3);
		enum st_status st = gguf_open(&g, &t, &err);
		char line[1400];
		st_error_format(&err, line, sizeof line);
		if (st != want[f].code || !strstr(line, want[f].says))
			fail_msg("fault %d: status %s: %s", f, st_status_name(st), line);
		if (t) {
			assert_int_equal(st_tokenizer_bos(t), f == BOS_NONE ? -1 : 3);
			assert_pieces(t, "abab", 0, "ab|ab");
		}
		st_tokenizer_close(t);
		gguf_release(&g);
	}
}

static void gguf_bos_rules(void **state)
{
	(void)state;
	static const struct {
		const char *pre;
		int add;
		bool bos;
	} cases[] = {
		{ "gpt-2", -1, false },    { "gpt-2", 1, true },   { "llama-bpe", -1, true },
		{ "llama-bpe", 0, false }, { "tekken", -1, true }, { "qwen2", -1, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_arena arena;
		struct st_synth_vocab v;
		struct st_tokenizer *t = NULL;
		struct gguf g;
		size_t n;
		st_arena_init(&arena);
		assert_ok(st_synth_vocab_make(&arena, 300, &v, &err), &err);
		gguf_synth(&g, &v, cases[i].pre);
		if (cases[i].add >= 0)
			gguf_bool(&g, "tokenizer.ggml.add_bos_token", cases[i].add);
		assert_ok(gguf_open(&g, &t, &err), &err);
		assert_int_equal(st_tokenizer_adds_bos(t), cases[i].bos);
		uint32_t *ids = tokenize(t, "x", 1, ST_TOKENIZE_BOS, &n);
		assert_int_equal(n, 1 + cases[i].bos);
		assert_true(!cases[i].bos || ids[0] == v.bos);
		free(ids);
		/* An empty text: no ids but BOS. */
		free(tokenize(t, "", 0, ST_TOKENIZE_BOS, &n));
		assert_int_equal(n, cases[i].bos);
		st_tokenizer_close(t);
		gguf_release(&g);
		st_arena_release(&arena);
	}
}

/* Merges over SentencePiece's blanks, no blank in front, bytes for what no piece covers. */
static void gguf_gemma4(void **state)
{
	(void)state;
	static const char *const tokens[] = { "<pad>",
		                              "<eos>",
		                              "<bos>",
		                              "<unk>",
		                              "a",
		                              "b",
		                              "ab",
		                              "\xE2\x96\x81",
		                              ("\xE2\x96\x81"
		                               "ab"),
		                              "<0x0A>",
		                              "<0xC3>",
		                              "<0xA9>",
		                              "<turn>" };
	static const char *const merges[] = { "a b", "\xE2\x96\x81 ab" };
	static const int32_t types[] = { 3, 3, 3, 2, 1, 1, 1, 1, 1, 6, 6, 6, 3 };
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t;
	struct gguf g;
	gguf_init(&g);
	gguf_str(&g, "tokenizer.ggml.model", "gemma4");
	gguf_strs(&g, "tokenizer.ggml.tokens", tokens, 13);
	gguf_strs(&g, "tokenizer.ggml.merges", merges, 2);
	gguf_add(&g, "tokenizer.ggml.token_type", ST_KV_ARR, ST_KV_I32, 13, types, sizeof types);
	assert_ok(gguf_open(&g, &t, &err), &err);
	assert_pieces(t, "ab ab", ST_TOKENIZE_BOS,
	              "<bos>|ab|\xE2\x96\x81"
	              "ab");
	assert_pieces(t, "a\n\xC3\xA9 b", 0, "a|<0x0A>|<0xC3>|<0xA9>|\xE2\x96\x81|b");
	assert_pieces(t, "ab<turn>ab", ST_TOKENIZE_SPECIAL, "ab|<turn>|ab");
	st_tokenizer_close(t);
	gguf_release(&g);
}

/* Ids from the tokenizers package, of the same pieces. GGUF spells pieces otherwise and has no word on capitals. */
static void wordpiece(void **state)
{
	(void)state;
	static const char *const pieces[] = { "[PAD]", "[UNK]",  "[CLS]",        "[SEP]",     "[MASK]", "un",
		                              "##aff", "##able", "caf",          "##e",       "the",    "##s",
		                              "!",     ",",      "\xE4\xBA\xAC", "a",         "##b",    "b",
		                              "x",     "Caf",    "\xC3\xA9",     "##\xC3\xA9" };
	enum { N = sizeof pieces / sizeof *pieces };
	static const struct {
		const char *text;
		uint32_t lower[12], cased[12]; /* without CLS and SEP; ended by 0 */
	} cases[] = {
		{ "Unaffable, caf\xC3\xA9s!", { 5, 6, 7, 13, 8, 9, 11, 12 }, { 1, 13, 8, 21, 11, 12 } },
		{ "un\xE4\xBA\xAC"
		  "the \xE4\xBA\xAC\xE4\xBA\xAC",
		  { 5, 14, 10, 14, 14 },
		  { 5, 14, 10, 14, 14 } },
		{ "a\xE2\x80\x8B"
		  "b\tx  [MASK]thes",
		  { 15, 16, 18, 4, 10, 11 },
		  { 15, 16, 18, 4, 10, 11 } },
		{ "zzz unzz the", { 1, 1, 10 }, { 1, 1, 10 } },
		{ "Caf\xC3\xA9 THE", { 8, 9, 10 }, { 19, 21, 1 } },
		{ "cafe\xCC\x81", { 8, 9 }, { 1 } },
		{ " ", { 0 }, { 0 } },
	};
	char doc[2048], long_word[128];
	struct st_error err = ST_ERROR_INIT;
	struct st_tokenizer *t[3];
	struct st_container c[2];
	for (int cased = 0; cased < 2; cased++) {
		size_t n = (size_t)snprintf(
			doc, sizeof doc,
			"{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":%s},"
			"\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\"},"
			"\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"[CLS]\",2],\"sep\":[\"[SEP]\",3]},"
			"\"added_tokens\":[{\"id\":4,\"content\":\"[MASK]\",\"special\":true}],"
			"\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":{",
			cased ? "false" : "true");
		for (size_t i = 0; i < N; i++)
			n += (size_t)snprintf(doc + n, sizeof doc - n, "%s\"%s\":%zu", i ? "," : "", pieces[i], i);
		snprintf(doc + n, sizeof doc - n, "}}}");
		c[cased] = json_container(ST_FORMAT_SAFETENSORS, doc, NULL);
		t[cased] = open_json(&c[cased]);
	}
	struct gguf g;
	char spelled[N][16];
	const char *tokens[N];
	int32_t types[N];
	for (size_t i = 0; i < N; i++) {
		bool goes_on = strncmp(pieces[i], "##", 2) == 0;
		snprintf(spelled[i], sizeof spelled[i], "%s%s", i < 5 || goes_on ? "" : "\xE2\x96\x81",
		         pieces[i] + (goes_on ? 2 : 0));
		tokens[i] = spelled[i];
		types[i] = i < 5 ? 3 : 1;
	}
	gguf_init(&g);
	gguf_str(&g, "tokenizer.ggml.model", "bert");
	gguf_strs(&g, "tokenizer.ggml.tokens", tokens, N);
	gguf_i32s(&g, "tokenizer.ggml.token_type", types, N);
	gguf_u32(&g, "tokenizer.ggml.unknown_token_id", 1);
	gguf_u32(&g, "tokenizer.ggml.cls_token_id", 2);
	gguf_u32(&g, "tokenizer.ggml.seperator_token_id", 3);
	assert_ok(gguf_open(&g, &t[2], &err), &err);
	memset(long_word, 'b', sizeof long_word);
	long_word[0] = 'a';
	for (int k = 0; k < 3; k++) {
		uint32_t want[102] = { 2, 15 };
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
			const uint32_t *ids = k == 1 ? cases[i].cased : cases[i].lower;
			size_t n = 1;
			while (n < 13 && ids[n - 1])
				n++;
			uint32_t all[14] = { 2 };
			memcpy(all + 1, ids, (n - 1) * sizeof *ids);
			all[n] = 3;
			assert_ids(t[k], cases[i].text, strlen(cases[i].text), ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL,
			           all, n + 1);
		}
		for (int i = 2; i < 101; i++)
			want[i] = 16;
		want[101] = 3;
		assert_ids(t[k], long_word, 100, ST_TOKENIZE_BOS, want, 102);
		assert_ids(t[k], long_word, 101, ST_TOKENIZE_BOS, (const uint32_t[]){ 2, 1, 3 }, 3);
		/* The pieces are the same whatever the file calls them. */
		size_t len;
		assert_memory_equal(st_tokenizer_piece(t[k], 6, &len), "##aff", 5);
		char *s = decode(t[k], (const uint32_t[]){ 5, 6, 7 }, 3, &len);
		assert_string_equal(s, " unaffable");
		free(s);
	}
	for (int k = 0; k < 3; k++)
		st_tokenizer_close(t[k]);
	gguf_release(&g);
	json_release(&c[0]);
	json_release(&c[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wordpiece),
		cmocka_unit_test(hf_steps),
		cmocka_unit_test(steps_behind_byte_level),
		cmocka_unit_test(special_tokens),
		cmocka_unit_test(ignore_merges),
		cmocka_unit_test(metaspace_and_unigram),
		cmocka_unit_test(bos_and_eos),
		cmocka_unit_test(hf_refusals),
		cmocka_unit_test(apr_refusals),
		cmocka_unit_test(apr_is_understood),
		cmocka_unit_test(gguf_refusals),
		cmocka_unit_test(gguf_bos_rules),
		cmocka_unit_test(gguf_gemma4),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
