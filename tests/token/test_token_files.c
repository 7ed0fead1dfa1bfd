/* token: real vocabularies in three containers against published ids. */
#include "helpers.h"

#include <time.h>

struct model {
	struct st_container *c;
	struct st_tokenizer *t;
};

static struct model open_model(const char *rel)
{
	struct st_error err = ST_ERROR_INIT;
	struct model m = { 0 };
	const char *path = shared_path(rel);
	assert_ok(st_container_open(path, &m.c, &err), &err);
	assert_ok(st_tokenizer_open(m.c, &m.t, &err), &err);
	return m;
}

static void close_model(struct model *m)
{
	st_tokenizer_close(m->t);
	st_container_close(m->c);
}

/* Texts of an .inp file lie between separator lines, ids of each on one line of the .out file. */
static void check_cases(const char *model, const char *cases, bool prefix)
{
	static const char separator[] = "\n__ggml_vocab_test__\n";
	char rel[256];
	size_t n_in, n_out;
	struct model m = open_model(model);
	snprintf(rel, sizeof rel, "tokenizers/ggml-vocab-%s.gguf.inp", cases);
	char *in = read_bytes(shared_path(rel), &n_in);
	snprintf(rel, sizeof rel, "tokenizers/ggml-vocab-%s.gguf.out", cases);
	char *out = read_bytes(shared_path(rel), &n_out);
	size_t n_cases = 0;
	const char *line = out;
	for (const char *p = in; p;) {
		const char *end = strstr(p, separator);
		size_t n = end ? (size_t)(end - p) : strlen(p);
		uint32_t want[1024];
		size_t n_want = 0;
		const char *eol = strchrnul(line, '\n');
		while (line < eol) {
			char *next;
			want[n_want] = (uint32_t)strtoul(line, &next, 10);
			if (next == line)
				break;
			n_want++;
			line = next;
			while (*line == ' ')
				line++;
		}
		assert_ids(m.t, p, n, 0, want, n_want);
		assert_round_trip(m.t, p, n, prefix);
		n_cases++;
		line = *eol ? eol + 1 : eol;
		/* The last text has no separator and the file's last newline is not part of it. */
		p = end ? end + strlen(separator) : NULL;
	}
	assert_int_equal(n_cases, 47);
	free(in);
	free(out);
	close_model(&m);
}

static void llama_spm(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-llama-spm.gguf", "llama-spm", true);
}
static void phi3(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-phi-3.gguf", "phi-3", true);
}
static void gpt2(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-gpt-2.gguf", "gpt-2", false);
}
static void falcon(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-falcon.gguf", "falcon", false);
}
static void starcoder(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-starcoder.gguf", "starcoder", false);
}
static void deepseek_coder(void **state)
{
	(void)state;
	check_cases("tokenizers/ggml-vocab-deepseek-coder.gguf", "deepseek-coder", false);
}
static void qwen2_gguf(void **state)
{
	(void)state;
	check_cases("models/qwen2-tiny/qwen2-tiny-q4_k.gguf", "qwen2", false);
}
static void qwen2_apr(void **state)
{
	(void)state;
	check_cases("models/qwen2-tiny/qwen2-tiny-q4_k.apr", "qwen2", false);
}

/* One prompt, every container of a model. */
static void same_in_all_containers(void **state)
{
	(void)state;
	static const uint32_t story[] = { 1, 403, 407, 261, 378 }, sum[] = { 17, 10, 17, 28 };
	static const struct {
		const char *model, *text;
		const uint32_t *want;
		size_t n;
		bool bos;
	} cases[] = {
		{ "models/stories260k/model.gguf", "Once upon a time", story, 5, true },
		{ "models/stories260k/hf", "Once upon a time", story, 5, true },
		{ "models/stories260k/model-a.apr", "Once upon a time", story, 5, true },
		{ "models/stories260k/model-b.apr", "Once upon a time", story, 5, true },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.gguf", "2+2=", sum, 4, false },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.apr", "2+2=", sum, 4, false },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf", "2+2=", sum, 4, false },
		{ "models/qwen2-k/hf", "2+2=", sum, 4, false },
		{ "models/qwen2-k/qwen2-k-q4_k-a.apr", "2+2=", sum, 4, false },
		{ "models/qwen2-k/qwen2-k-q4_k-b.apr", "2+2=", sum, 4, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct model m = open_model(cases[i].model);
		print_message("%s: %s\n", cases[i].model, st_tokenizer_describe(m.t));
		assert_int_equal(st_tokenizer_adds_bos(m.t), cases[i].bos);
		assert_ids(m.t, cases[i].text, strlen(cases[i].text), ST_TOKENIZE_BOS, cases[i].want, cases[i].n);
		/* Without the flag, the same less BOS. */
		assert_ids(m.t, cases[i].text, strlen(cases[i].text), 0, cases[i].want + cases[i].bos,
		           cases[i].n - cases[i].bos);
		close_model(&m);
	}
}

/* A longer text cut alike by the containers of one model: what the GGUF says goes for the others. */
static void containers_agree(void **state)
{
	(void)state;
	static const char *const sets[][5] = {
		{ "models/stories260k/model.gguf", "models/stories260k/hf", "models/stories260k/model-a.apr",
		  "models/stories260k/model-b.apr" },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf", "models/qwen2-k/hf", "models/qwen2-k/qwen2-k-q4_k-a.apr",
		  "models/qwen2-k/qwen2-k-q4_k-b.apr" },
	};
	size_t n;
	char *text = read_bytes(shared_path("tokenizers/ggml-vocab-gpt-2.gguf.inp"), &n);
	for (size_t s = 0; s < 2; s++) {
		struct st_error err = ST_ERROR_INIT;
		struct model first = open_model(sets[s][0]);
		uint32_t *want;
		size_t n_want;
		assert_ok(st_tokenize(first.t, text, n, ST_TOKENIZE_BOS, &want, &n_want, &err), &err);
		assert_true(n_want > n / 8);
		for (size_t i = 1; i < 4; i++) {
			struct model m = open_model(sets[s][i]);
			assert_int_equal(st_tokenizer_vocab_size(m.t), st_tokenizer_vocab_size(first.t));
			assert_int_equal(st_tokenizer_bos(m.t), st_tokenizer_bos(first.t));
			assert_int_equal(st_tokenizer_eos(m.t), st_tokenizer_eos(first.t));
			assert_ids(m.t, text, n, ST_TOKENIZE_BOS, want, n_want);
			close_model(&m);
		}
		free(want);
		close_model(&first);
	}
	free(text);
}

static void special_tokens_on_request(void **state)
{
	(void)state;
	static const char text[] = "<|im_start|>user\n2+2=<|im_end|>";
	static const char *const models[] = { "models/qwen2-k/qwen2-k-q4_k.gguf", "models/qwen2-k/hf",
		                              "models/qwen2-k/qwen2-k-q4_k-a.apr" };
	for (size_t i = 0; i < 3; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct model m = open_model(models[i]);
		uint32_t *ids;
		size_t n, len;
		assert_ok(st_tokenize(m.t, text, strlen(text), ST_TOKENIZE_SPECIAL, &ids, &n, &err), &err);
		assert_int_equal(ids[0], 2046);
		assert_int_equal(ids[n - 1], 2047);
		assert_int_equal(ids[n - 2], 28);
		char *s = decode(m.t, ids, n, &len);
		assert_int_equal(len, strlen(text));
		assert_memory_equal(s, text, len);
		free(s);
		free(ids);
		assert_ok(st_tokenize(m.t, text, strlen(text), 0, &ids, &n, &err), &err);
		for (size_t k = 0; k < n; k++)
			assert_true(ids[k] < 2045);
		free(ids);
		assert_round_trip(m.t, text, strlen(text), false);
		close_model(&m);
	}
}

/* What is wrong only in the tokenizer's keys: a clear error, never a crash. */
static void malformed_files(void **state)
{
	(void)state;
	static const struct {
		const char *file, *says;
	} cases[] = {
		{ "malformed/gguf/tokens-u8.gguf", "tokenizer" },
		{ "malformed/gguf/bos-out-of-range.gguf", "tokenizer" },
		{ "malformed/gguf/token-bad-utf8.gguf", "tokenizer" },
		{ "malformed/gguf/bitnet-gpt2-50k.gguf", "tokenizer" },
		{ "malformed/gguf/bitnet-llama2-32k.gguf", "tokenizer" },
		{ "malformed/gguf/bitnet-llama3-8b.gguf", "tokenizer" },
		{ "malformed/apr/vocab-not-strings.apr", "tokenizer.vocabulary" },
		{ "malformed/apr/merges-malformed.apr", "tokenizer.merges" },
		{ "malformed/apr/good.apr", "tokenizer.vocabulary" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_container *c = NULL;
		struct st_tokenizer *t = NULL;
		char line[1400];
		if (st_container_open(shared_path(cases[i].file), &c, &err) == ST_OK) {
			assert_int_not_equal(st_tokenizer_open(c, &t, &err), ST_OK);
			st_error_format(&err, line, sizeof line);
			print_message("%s\n", line);
			assert_non_null(strstr(line, cases[i].says));
		}
		assert_null(t);
		st_container_close(c);
	}
}

/* Not a limit, a figure: opening 152k pieces and 151k merges. */
static void opening_time(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct model m = open_model("models/qwen2-tiny/qwen2-tiny-q4_k.gguf");
	struct timespec a, b;
	struct st_tokenizer *again;
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_ok(st_tokenizer_open(m.c, &again, &err), &err);
	clock_gettime(CLOCK_MONOTONIC, &b);
	print_message("opened in %.1f ms\n",
	              (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) * 1e-6);
	assert_int_equal(st_tokenizer_vocab_size(again), 151936);
	st_tokenizer_close(again);
	close_model(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(llama_spm),
		cmocka_unit_test(phi3),
		cmocka_unit_test(gpt2),
		cmocka_unit_test(falcon),
		cmocka_unit_test(starcoder),
		cmocka_unit_test(deepseek_coder),
		cmocka_unit_test(qwen2_gguf),
		cmocka_unit_test(qwen2_apr),
		cmocka_unit_test(same_in_all_containers),
		cmocka_unit_test(containers_agree),
		cmocka_unit_test(special_tokens_on_request),
		cmocka_unit_test(malformed_files),
		cmocka_unit_test(opening_time),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
