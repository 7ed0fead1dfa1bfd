/* report: growing text, tables, and numbers and names as JSON. */
#include "test.h"

#include "report/json.h"
#include "report/table.h"

#include <math.h>

static void bytes_have_three_figures(void **state)
{
	(void)state;
	const struct {
		uint64_t n;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },         { 999, "999 B" },      { 1000, "1.00 kB" },       { 1234, "1.23 kB" },
		{ 9994, "9.99 kB" },  { 9996, "10.0 kB" },   { 99949, "99.9 kB" },      { 99951, "100 kB" },
		{ 999499, "999 kB" }, { 999501, "1.00 MB" }, { 4300000000, "4.30 GB" }, { UINT64_MAX, "18.4 EB" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_text t = { 0 };
		st_text_bytes(&t, cases[i].n);
		assert_string_equal(t.s, cases[i].text);
		st_text_release(&t);
	}
}

static void names_cannot_drive_the_terminal(void **state)
{
	(void)state;
	/* ESC, DEL, a C1 control, a broken byte, an overlong slash; what is harmless stays. */
	const char name[] = "a\033[31m\x7f\xC2\x9B"
			    "b\xFF"
			    "c\xC0\xAF"
			    "d\xE2\x96\x81\n"
			    /* RIGHT-TO-LEFT OVERRIDE and ISOLATE, the marks, a line separator; a joiner is text. */
			    "\xE2\x80\xAE\xE2\x81\xA7\xE2\x80\x8F\xD8\x9C\xE2\x80\xA8\xE2\x80\x8D";
	struct st_text t = { 0 };
	st_text_add_safe(&t, name, sizeof name - 1);
	assert_string_equal(t.s, "a?[31m??b\xEF\xBF\xBD"
	                         "c\xEF\xBF\xBD\xEF\xBF\xBD"
	                         "d\xE2\x96\x81?"
	                         "?????\xE2\x80\x8D");
	st_text_release(&t);
}

static const struct st_page plain = { 0 }, coloured = { .colour = true };

static void columns_line_up(void **state)
{
	(void)state;
	struct st_table t;
	struct st_text out = { 0 };
	st_table_init(&t, "lrl");
	const char *cells[] = { "name", "n", "note", "\xC3\xA9\xC3\xA9", "12345", "", "\xE6\xBC\xA2", "7", "x" };
	for (size_t i = 0; i < 9; i++)
		st_table_cell(&t, ST_STYLE_PLAIN, cells[i]);
	st_table_render(&t, &out, "> ", &plain);
	/* An accented letter takes one column, an ideograph two; nothing trails the last cell. */
	assert_string_equal(out.s, "> name      n  note\n"
	                           "> \xC3\xA9\xC3\xA9    12345\n"
	                           "> \xE6\xBC\xA2        7  x\n");
	st_text_release(&out);
	st_table_render(&t, &out, "", &coloured);
	assert_null(strchr(out.s, '\033'));
	st_table_cell(&t, ST_STYLE_BAD, "fault"); /* a row that is not full */
	out.len = 0;
	st_table_render(&t, &out, "", &coloured);
	assert_non_null(strstr(out.s, "\n\033[1;31mfault\033[0m\n"));
	st_text_release(&out);
	st_table_release(&t);
}

static void numbers_in_tables(void **state)
{
	(void)state;
	struct st_table t;
	struct st_text out = { 0 };
	st_table_init(&t, "rrrr");
	st_table_number(&t, NAN, 3);
	st_table_number(&t, -INFINITY, 3);
	st_table_number(&t, INFINITY, 3);
	st_table_number(&t, 0.1, 4);
	st_table_render(&t, &out, "", &plain);
	assert_string_equal(out.s, "nan  -inf  inf  0.1\n");
	st_text_release(&out);
	st_table_release(&t);
}

/* At 20 columns a row of 24 takes two lines, its headings too; no figure is torn, and what is wider stays whole. */
static void narrow_tables_go_on_below(void **state)
{
	(void)state;
	struct st_table t;
	struct st_text out = { 0 };
	static const char *const cells[] = { "stage",     "apart", "local",   "note",
		                             "attn_norm", "0.5",   "2.15e-4", "",
		                             "q",         "1",     "2",       "a note longer than all of it" };
	st_table_init(&t, "lrrl");
	for (size_t i = 0; i < 12; i++)
		st_table_cell(&t, ST_STYLE_PLAIN, cells[i]);
	st_table_render(&t, &out, "> ", &(struct st_page){ .columns = 20 });
	assert_string_equal(out.s, "> stage      apart\n"
	                           ">       local\n"
	                           ">     note\n"
	                           "> attn_norm    0.5\n"
	                           ">     2.15e-4\n"
	                           "> q              1\n"
	                           ">           2\n"
	                           ">     a note longer than all of it\n");
	st_text_release(&out);
	st_table_release(&t);
}

static void sentences_break_at_blanks(void **state)
{
	(void)state;
	const struct {
		const char *text;
		size_t width;
		const char *wrapped;
	} cases[] = {
		{ "[R] one two three four\n", 0, "[R] one two three four\n" },
		{ "[R] one two three four\n", 14, "[R] one two\n[R]   three\n[R]   four\n" },
		{ "[R] one two three four\n", 22, "[R] one two three four\n" },
		/* a token's leading blank is part of it; escape sequences take no columns */
		{ "[R] says \" Paris and\" twice\n", 18, "[R] says\n[R]   \" Paris and\"\n[R]   twice\n" },
		{ "[R] \033[1;31mFAILED\033[0m: at x\n", 15, "[R] \033[1;31mFAILED\033[0m: at\n[R]   x\n" },
		{ "[R] a-very-long-name-of-a-tensor 1\n", 16, "[R] a-very-long-name-of-a-tensor\n[R]   1\n" },
		{ "[R] of (100.0 %) 0.1 s\n", 17, "[R] of (100.0 %)\n[R]   0.1 s\n" },
		{ "[R] path   format\nnext\n", 12, "[R] path\n[R]   format\nnext\n" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_text t = { 0 };
		st_text_wrap(&t, cases[i].text, strlen(cases[i].text), "[R]   ", cases[i].width);
		assert_string_equal(t.s, cases[i].wrapped);
		st_text_release(&t);
	}
}

static void short_numbers(void **state)
{
	(void)state;
	const struct {
		double v;
		const char *text;
	} cases[] = {
		{ 0, "0" },           { 0.0343, "0.0343" },    { 2.15e-4, "2.15e-4" },
		{ 0.001, "0.001" },   { 1e-20, "1.00e-20" },   { 19.34, "19.3" },
		{ 999.4, "999" },     { 4425.4, "4425" },      { 99999.4, "99999" },
		{ 123456, "1.23e5" }, { -0.0002, "-2.00e-4" }, { INFINITY, "inf" },
		{ NAN, "nan" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_text t = { 0 };
		st_text_short(&t, cases[i].v);
		assert_string_equal(t.s, cases[i].text);
		st_text_release(&t);
	}
}

static void json_is(json_t *j, const char *text)
{
	char *s = json_dumps(j, JSON_ENCODE_ANY | JSON_COMPACT);
	assert_string_equal(s, text);
	free(s);
	json_decref(j);
}

static void json_values(void **state)
{
	(void)state;
	json_is(st_json_number(NAN), "\"nan\"");
	json_is(st_json_number(INFINITY), "\"inf\"");
	json_is(st_json_number(-INFINITY), "\"-inf\"");
	json_is(st_json_number(-0.5), "-0.5");
	json_is(st_json_u64(INT64_MAX), "9223372036854775807");
	json_is(st_json_text(NULL), "null");
	json_is(st_json_text("a\xFF\"b"), "\"a\xEF\xBF\xBD\\\"b\"");
	json_is(st_json_shape((const uint64_t[]){ 3, 4 }, 2), "[3,4]");
	json_is(st_json_shape(NULL, 0), "[]");
}

static void json_errors(void **state)
{
	(void)state;
	struct st_error e = ST_ERROR_INIT;
	e.code = ST_ERR_FORMAT;
	snprintf(e.message, sizeof e.message, "too short");
	json_is(st_json_error(&e), "{\"schema\":\"stele.error/1\",\"code\":\"format\",\"message\":\"too "
	                           "short\",\"path\":null,\"offset\":null}");
	snprintf(e.path, sizeof e.path, "m.gguf");
	snprintf(e.where, sizeof e.where, "key");
	e.offset = 7;
	json_is(st_json_error(&e), "{\"schema\":\"stele.error/1\",\"code\":\"format\",\"message\":\"key: too "
	                           "short\",\"path\":\"m.gguf\",\"offset\":7}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_have_three_figures),
		cmocka_unit_test(names_cannot_drive_the_terminal),
		cmocka_unit_test(columns_line_up),
		cmocka_unit_test(narrow_tables_go_on_below),
		cmocka_unit_test(sentences_break_at_blanks),
		cmocka_unit_test(short_numbers),
		cmocka_unit_test(numbers_in_tables),
		cmocka_unit_test(json_values),
		cmocka_unit_test(json_errors),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
