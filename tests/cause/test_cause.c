/* The table of causes: codes are told apart, sentences say what they are given, and nothing in a row dangles. */
#include "test.h"

#include <stele/cause.h>

static void codes_are_told_apart(void **state)
{
	(void)state;
	for (int c = 1; c < ST_CAUSE_COUNT; c++) {
		enum st_cause_code found = ST_CAUSE_NONE;
		assert_true(st_cause_parse(st_cause_name((enum st_cause_code)c), &found));
		assert_int_equal(found, c); /* the first row of that code is this one */
	}
	enum st_cause_code untouched = ST_CAUSE_NONE;
	assert_false(st_cause_parse("weight.transpose", &untouched));
	assert_false(st_cause_parse("none", &untouched));
	assert_int_equal(untouched, ST_CAUSE_NONE);
	/* Reports hold these: they never change. */
	assert_string_equal(st_cause_name(ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS),
	                    "weight.rope_permuted_wrong_heads");
	assert_string_equal(st_cause_name(ST_CAUSE_UNEXPLAINED), "unexplained");
	assert_string_equal(st_param_info(ST_PARAM_WRONG_HEADS)->key, "wrong_heads");
}

static size_t n_params(const struct st_cause_info *info)
{
	size_t n = 0;
	while (n < ST_CAUSE_PARAMS && info->params[n] != ST_PARAM_NONE)
		n++;
	return n;
}

/* A mark outside the row's parameters, or one that words.c does not know. */
static void rows_are_whole(void **state)
{
	(void)state;
	for (int c = 1; c < ST_CAUSE_COUNT; c++) {
		const struct st_cause_info *info = st_cause_info((enum st_cause_code)c);
		const char *const texts[] = { info->words, info->meaning, info->test, info->repair };
		assert_non_null(info->meaning);
		assert_true(info->where != 0 && info->where < 2 * ST_ON_SVF);
		if ((info->tester == ST_BY_NOBODY) != (info->test == NULL))
			fail_msg("%s: a test is described exactly where somebody does it", info->code);
		for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
			if (texts[i] && strpbrk(texts[i], "\"\\"))
				fail_msg("%s: \"%s\" needs escaping in JSON", info->code, texts[i]);
		for (const char *w = info->words ? strchr(info->words, '%') : NULL; w; w = strchr(w + 1, '%')) {
			char digit = strchr("=+>", w[1]) ? w[2] : w[1];
			if (strchr("nxyce", digit))
				continue;
			if (digit < '1' || digit > '9' || (size_t)(digit - '0') > n_params(info))
				fail_msg("%s: no parameter %%%c: \"%s\"", info->code, digit, info->words);
		}
	}
	for (int p = 1; p < ST_PARAM_COUNT; p++)
		for (int q = 1; q < p; q++)
			assert_string_not_equal(st_param_info((enum st_param_name)p)->key,
			                        st_param_info((enum st_param_name)q)->key);
}

static void expect(const struct st_cause *c, const struct st_saying *s, const char *want)
{
	char got[256];
	assert_int_equal(st_cause_say(c, s, got, sizeof got), strlen(want));
	assert_string_equal(got, want);
}

static void sentences_follow_the_parameters(void **state)
{
	(void)state;
	struct st_saying s = { .name = "blk.0.attn_q.weight", .x = 'A', .y = 'B', .either = true };
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_SCALED };
	st_cause_put(&c, ST_PARAM_FACTOR, 0.125);
	expect(&c, &s, "blk.0.attn_q.weight of A is B's times 0.125");
	st_cause_put_text(&c, ST_PARAM_IS, "1/sqrt(head_dim)");
	expect(&c, &s, "blk.0.attn_q.weight of A is B's times 0.125 = 1/sqrt(head_dim)");
	c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_SCALED };
	st_cause_put_text(&c, ST_PARAM_AXIS, "row");
	expect(&c, &s, "blk.0.attn_q.weight of A is B's with every row times a constant of its own");

	c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_ROW_CORRUPT };
	st_cause_put(&c, ST_PARAM_ROWS, 1);
	st_cause_put(&c, ST_PARAM_FIRST_ROW, 2000000);
	st_cause_put(&c, ST_PARAM_LAST_ROW, 2000000);
	expect(&c, &s, "blk.0.attn_q.weight of A differs from B's in row 2000000 and agrees in the rest");
	c.params[0].number = 3;
	c.params[2].number = 2000002;
	expect(&c, &s,
	       "blk.0.attn_q.weight of A differs from B's in 3 rows (2000000 to 2000002) and agrees in the rest");
	c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_ROW_CORRUPT };
	st_cause_put_text(&c, ST_PARAM_AXIS, "column");
	st_cause_put(&c, ST_PARAM_COLUMNS, 2);
	st_cause_put(&c, ST_PARAM_FIRST_COLUMN, 4);
	st_cause_put(&c, ST_PARAM_LAST_COLUMN, 9);
	expect(&c, &s, "blk.0.attn_q.weight of A differs from B's in 2 columns (4 to 9) and agrees in the rest");
	s.vector = true;
	c.params[1].number = 1;
	expect(&c, &s, "blk.0.attn_q.weight of A differs from B's in element 4 and agrees in the rest");

	c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_NAN };
	st_cause_put(&c, ST_PARAM_NONFINITE, 7);
	st_cause_put(&c, ST_PARAM_FIRST_ROW, 5);
	expect(&c, &s, "blk.0.attn_q.weight of A has as many non-finite elements as B's, 7, in other places");
	s.either = false;
	expect(&c, &s, "blk.0.attn_q.weight of A has 7 non-finite elements, the first in row 5");

	c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_MISSING };
	expect(&c, &s, "blk.0.attn_q.weight is missing from A");
	st_cause_put(&c, ST_PARAM_ALL, 0);
	expect(&c, &s, "blk.0.attn_q.weight of A is all zero");

	c = (struct st_cause){ .code = ST_CAUSE_HEAD_TIED };
	st_cause_put_text(&c, ST_PARAM_HOLDS, "model.embed_tokens.weight");
	expect(&c, &s, "blk.0.attn_q.weight of A holds model.embed_tokens.weight");
	s.name = NULL;
	expect(&c, &s, "A uses its embedding as the head, B has another head of its own");
	c = (struct st_cause){ .code = ST_CAUSE_CONFIG_MISMATCH };
	st_cause_put_text(&c, ST_PARAM_KEY, "rope_theta");
	st_cause_put_text(&c, ST_PARAM_A, "10000");
	st_cause_put_text(&c, ST_PARAM_B, "1000000");
	expect(&c, &s, "rope_theta is 10000 in A and 1000000 in B");
}

static void a_row_without_words_says_its_meaning(void **state)
{
	(void)state;
	struct st_saying s = { .name = "w", .x = 'B', .y = 'A' };
	expect(&(struct st_cause){ .code = ST_CAUSE_WEIGHT_ROWS_PERMUTED }, &s,
	       "w of B against A's: the rows are the other side's in another order");
}

static void advice_names_the_tensor(void **state)
{
	(void)state;
	char got[128];
	st_cause_advise(ST_CAUSE_WEIGHT_TRANSPOSED, "w of A", got, sizeof got);
	assert_string_equal(got, "rewrite w of A as its transpose");
	st_cause_advise(ST_CAUSE_WEIGHT_SCALED, "w of A", got, sizeof got);
	assert_string_equal(got, "divide by the constant: w of A");
	assert_int_equal(st_cause_advise(ST_CAUSE_UNEXPLAINED, "w of A", got, sizeof got), 0);
	assert_string_equal(got, "");
}

/* Sentences are cut to the buffer, and what they would have needed is told. */
static void long_sentences_are_cut(void **state)
{
	(void)state;
	struct st_saying s = { .name = "w", .x = 'A', .y = 'B' };
	char got[16];
	memset(got, 'x', sizeof got);
	int n = st_cause_say(&(struct st_cause){ .code = ST_CAUSE_WEIGHT_TRANSPOSED }, &s, got, 8);
	assert_int_equal(n, strlen("w of A is B's matrix transposed"));
	assert_string_equal(got, "w of A ");
	assert_int_equal(got[8], 'x');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_are_told_apart),
		cmocka_unit_test(rows_are_whole),
		cmocka_unit_test(sentences_follow_the_parameters),
		cmocka_unit_test(a_row_without_words_says_its_meaning),
		cmocka_unit_test(advice_names_the_tensor),
		cmocka_unit_test(long_sentences_are_cut),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
