/* trace: the dumps of other tools, what their tensors become and what is refused. */
#include "support.h"

#include "trace/trace.h"

#define SAMPLE STELE_SOURCE_ROOT "/tests/data/dumps/hidden_states.pt"

static void has(const struct st_trace_entry *e, uint64_t cols, float first, float last)
{
	assert_non_null(e);
	assert_int_equal(e->rows, 3);
	assert_int_equal(e->cols, cols);
	float *x = values(e);
	assert_true(x[0] == first && x[3 * cols - 1] == last);
	free(x);
}

/* Written by torch, the numbers printed by torch. */
static void what_transformers_returns(void **state)
{
	(void)state;
	struct st_trace *t = open_trace(SAMPLE);
	const struct st_provenance *p = st_trace_provenance(t);
	assert_true(p->n_tokens == 3 && p->tokens[0] == 3 && p->tokens[1] == 7 && p->tokens[2] == 1);
	assert_int_equal(p->layers, 2);
	/* The first one has no stage before the model is known; the last one is the norm's output. */
	assert_int_equal(st_trace_n_entries(t), 3);
	assert_int_equal(st_trace_n_others(t), 1);
	assert_string_equal(st_trace_other_at(t, 0)->name, "hidden_states.0");
	assert_null(st_trace_find(t, ST_STAGE_EMBEDDING, -1, 0));
	has(st_trace_find(t, ST_STAGE_POST_FFN_RESIDUAL, 0, 0), 8, -0.0129393851F, -0.0124799395F);
	assert_null(st_trace_find(t, ST_STAGE_POST_FFN_RESIDUAL, 1, 0));
	has(st_trace_find(t, ST_STAGE_FINAL_NORM, -1, 0), 8, -0.393844932F, -0.830567539F);
	has(st_trace_find(t, ST_STAGE_LM_HEAD, -1, 0), 16, 0.0219608881F, 0.0092190085F);
	st_trace_set_input(t, ST_STAGE_EMBEDDING);
	assert_int_equal(st_trace_n_entries(t), 4);
	assert_int_equal(st_trace_n_others(t), 0);
	assert_int_equal(st_trace_entry_at(t, 0)->stage, ST_STAGE_EMBEDDING);
	has(st_trace_find(t, ST_STAGE_EMBEDDING, -1, 0), 8, -0.0169350617F, -0.0123398528F);
	st_trace_set_input(t, ST_STAGE_EMBEDDING); /* once */
	assert_int_equal(st_trace_n_entries(t), 4);
	st_trace_close(t);
}

#define T(name, dtype, shape, from, to) \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"
#define IDS T("input_ids", "I32", "[1,2]", 0, 8)

/* Two tokens 5 and 6, then the numbers 0, 1, 2, ... as F32. */
static struct st_trace *open_header(const char *header, size_t n, struct st_error *err)
{
	static float data[64];
	memcpy(data, (const int32_t[]){ 5, 6 }, 8);
	for (size_t i = 2; i < 64; i++)
		data[i] = (float)(i - 2);
	const char *path = in_folder("dump.safetensors");
	write_safetensors(path, header, data, n);
	struct st_trace *t;
	return st_trace_open(path, &t, err) == ST_OK ? t : NULL;
}

static void a_stack(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	static const char *const headers[] = { "{" IDS "," T("hidden_states", "F32", "[3,1,2,2]", 8, 56) "}",
		                               "{" IDS "," T("hidden_states", "F32", "[3,2,2]", 8, 56) "}" };
	for (size_t i = 0; i < 2; i++) {
		struct st_trace *t = open_header(headers[i], 56, &err);
		assert_non_null(t);
		assert_int_equal(st_trace_provenance(t)->layers, 2);
		assert_string_equal(st_trace_other_at(t, 0)->name, "hidden_states.0");
		const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_POST_FFN_RESIDUAL, 0, 0);
		assert_non_null(e);
		float *x = values(e);
		assert_memory_equal(x, ((const float[]){ 4, 5, 6, 7 }), 16);
		free(x);
		e = st_trace_find(t, ST_STAGE_FINAL_NORM, -1, 0);
		assert_non_null(e);
		x = values(e);
		assert_memory_equal(x, ((const float[]){ 8, 9, 10, 11 }), 16);
		free(x);
		st_trace_close(t);
	}
}

static void what_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *header;
		size_t n;
		const char *where, *message;
	} cases[] = {
		{ "{" IDS "," T("hidden_states.0", "F32", "[1,2,2]", 8, 24) "," T("hidden_states.2", "F32", "[1,2,2]", 24, 40) "}",
		  40, "hidden_states", "1 of the series is missing" },
		{ "{" IDS "," T("hidden_states.0", "F32", "[1,2,2]", 8, 24) "," T("hidden_states.9", "F32", "[1,2,2]", 24, 40) "}",
		  40, "hidden_states.9", "part of the dump is missing" },
		{ "{" IDS "," T("hidden_states.0", "F32", "[1,2,2]", 8, 24) "}", 24, "hidden_states", "is one state" },
		{ "{" IDS "," T("hidden_states.0", "F32", "[2,1,2]", 8, 24) "," T("hidden_states.1", "F32", "[2,1,2]", 24, 40) "}",
		  40, "hidden_states.0", "batch of 2" },
		{ "{" T("input_ids", "I32", "[2,1]", 0, 8) "," T("hidden_states", "F32", "[2,2,1,2]", 8, 40) "}", 40, "input_ids",
		  "batch of 2" },
		{ "{" IDS "," T("hidden_states.0.0", "F32", "[1,2,2]", 8, 24) "," T("hidden_states.0.1", "F32", "[1,2,2]", 24,
		                                                                    40) "}",
		  40, "hidden_states.0.0", "generate()" },
		{ "{" IDS "," T("hidden_states", "F32", "[2,3,2]", 8, 56) "}", 56, "hidden_states", "3 rows for 2 tokens" },
		{ "{" IDS "," T("hidden_states", "F32", "[6,2]", 8, 56) "}", 56, "hidden_states", "2 dimensions" },
		{ "{" T("token_ids", "I32", "[2]", 0, 8) "," T("hidden_states", "F32", "[2,2,2]", 8, 40) "}", 40, "hidden_states",
		  "vLLM's connector" },
		{ "{" IDS "," T("hidden_states", "F32", "[2,1,2,2]", 8, 40) "," T("attention_mask", "F32", "[1,2]", 8, 16) "}", 40,
		  NULL, NULL }, /* two tensors over the same bytes: refused before */
		{ "{" IDS "," T("hidden_states", "F32", "[2,1,2,2]", 8, 40) "," T("attention_mask", "U8", "[1,2]", 40, 42) "}", 42,
		  "attention_mask", "position 0 is padding" },
		{ "{" IDS "," T("hidden_states", "F32", "[2,1,2,2]", 8, 40) "," T("attentions", "F32", "[2,1,1,2,2]", 40, 72) "}",
		  72, "attentions", "are of 2 layers, and the hidden states of 1" },
		{ "{" IDS "," T("hidden_states", "F32", "[2,1,2,2]", 8, 40) "," T("hidden_states.0", "F32", "[1,2,2]", 40, 56) "}",
		  56, "hidden_states", "also in parts" },
		{ "{" IDS "," T("hidden_states.0", "F32", "[1,2,2]", 8, 24) "," T("hidden_states_0", "F32", "[1,2,2]", 24, 40) "}",
		  40, NULL, "is the same value as" },
		{ "{" IDS "," T("hidden_states", "F32", "[0,1,2,2]", 8, 8) "}", 8, "hidden_states", "is one state" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_trace *t = open_header(cases[i].header, cases[i].n, &err);
		if (t)
			fail_msg("case %zu was read", i);
		if ((cases[i].where && strcmp(err.where, cases[i].where) != 0)
		    || (cases[i].message && !strstr(err.message, cases[i].message)))
			fail_msg("case %zu: %s: %s", i, err.where, err.message);
	}
}

/* A file cut anywhere is refused. */
static void cut_files(void **state)
{
	(void)state;
	char bytes[4096];
	FILE *f = fopen(SAMPLE, "rb");
	assert_non_null(f);
	size_t n = fread(bytes, 1, sizeof bytes, f);
	assert_true(n > 1000 && n < sizeof bytes);
	fclose(f);
	const char *path = in_folder("cut.pt");
	for (size_t k = 0; k < n; k += 7) {
		struct st_error err = ST_ERROR_INIT;
		struct st_trace *t;
		write_bytes(path, bytes, k);
		assert_int_not_equal(st_trace_open(path, &t, &err), ST_OK);
		assert_true(err.message[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_transformers_returns),
		cmocka_unit_test(a_stack),
		cmocka_unit_test(what_is_refused),
		cmocka_unit_test(cut_files),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
