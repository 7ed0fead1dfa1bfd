/* Members of JSON objects read by tables; what is refused, and in which words. */
#include "test.h"

#include "json/json.h"

#include <math.h>

enum colour { RED, GREEN };

struct thing {
	uint32_t layers;
	uint64_t bytes;
	int64_t id;
	double eps;
	bool tied;
	const char *engine;
	char name[8];
	uint32_t heads[3];
	uint64_t shape[2];
	const json_t *extra;
	enum colour colour;
};

#define AT(m) ST_JSON_AT(struct thing, m)
static const char *const colours[] = { "red", "green", NULL };
static const struct st_json_field table[] = {
	{ AT(layers), .key = { "num_layers", "n_layers" }, .required = true, .min = 1, .max = 4096, .reals = true },
	{ AT(bytes), .key = { "bytes" } },
	{ AT(id), .key = { "id" } },
	{ AT(eps), .key = { "eps" } },
	{ AT(tied), .key = { "tied" } },
	{ AT(engine), .key = { "engine" }, .min = 1 },
	{ AT(name), .key = { "name" } },
	{ AT(heads), .key = { "heads" } },
	{ AT(shape), .key = { "shape" } },
	{ ST_JSON_AT_A(struct thing, extra, ST_JSON_OBJECT), .key = { "extra" } },
	{ AT(colour), .key = { "colour" }, .choices = colours },
	{ .key = { "note" } },
};
#define N (sizeof table / sizeof *table)

static json_t *parse(const char *text)
{
	json_t *j = json_loads(text, 0, NULL);
	assert_non_null(j);
	return j;
}

static void every_type(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct thing t = { .eps = NAN, .id = -1 };
	const char *spelled[N];
	json_t *j = parse(
		"{\"n_layers\": 24, \"bytes\": 9007199254740993, \"eps\": 1e-6, \"tied\": true, \"engine\": \"x\","
		"\"name\": \"abcde\\u00e9\\u00e9\", \"heads\": [8, 2, 64], \"shape\": [3, 4], \"extra\": {\"a\": 1},"
		"\"colour\": \"green\", \"note\": [], \"id\": null}");
	assert_ok(st_json_read(j, NULL, table, N, &t, spelled, &err), &err);
	assert_int_equal(t.layers, 24);
	assert_true(t.bytes == 9007199254740993);
	assert_true(t.id == -1);
	assert_true(t.eps == 1e-6);
	assert_true(t.tied);
	assert_string_equal(t.engine, "x");
	assert_string_equal(t.name, "abcde\xC3\xA9");
	assert_int_equal(t.heads[2], 64);
	assert_true(t.shape[0] == 3 && t.shape[1] == 4);
	assert_true(t.extra == json_object_get(j, "extra"));
	assert_int_equal(t.colour, GREEN);
	assert_string_equal(spelled[0], "n_layers");
	assert_null(spelled[2]);
	json_decref(j);
}

static void what_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *text, *line;
	} cases[] = {
		{ "{}", "e[3].num_layers: is missing" },
		{ "{\"num_layers\": null}", "e[3].num_layers: is missing" },
		{ "{\"n_layers\": 0}", "e[3].n_layers: is 0, not an integer from 1 to 4096" },
		{ "{\"n_layers\": 5.5}", "e[3].n_layers: is 5.5, not an integer from 1 to 4096" },
		{ "{\"n_layers\": \"5\"}", "e[3].n_layers: is \"5\", not an integer from 1 to 4096" },
		{ "{\"n_layers\": 5, \"num_layers\": 6}",
		  "e[3].n_layers: is 5, but num_layers, another spelling of it, is 6" },
		{ "{\"n_layers\": 5, \"num_layers\": 5.0, \"bytes\": -1}",
		  "e[3].bytes: is -1, not an integer of at least 0" },
		{ "{\"n_layers\": 5, \"bytes\": 7.0}", "e[3].bytes: is 7.0, not an integer of at least 0" },
		{ "{\"n_layers\": 1e30}", "e[3].n_layers: is 1e30, not an integer from 1 to 4096" },
		{ "{\"n_layers\": 5, \"eps\": true}", "e[3].eps: is true, not a number" },
		{ "{\"n_layers\": 5, \"tied\": 1}", "e[3].tied: is 1, not true or false" },
		{ "{\"n_layers\": 5, \"engine\": \"\"}", "e[3].engine: is \"\", not a string of at least 1 bytes" },
		{ "{\"n_layers\": 5, \"name\": {}}", "e[3].name: is an object, not a string" },
		{ "{\"n_layers\": 5, \"heads\": [1, 2]}", "e[3].heads: is [1,2], not a list of 3 integers" },
		{ "{\"n_layers\": 5, \"shape\": [0, 2]}", "e[3].shape: is [0,2], not a shape of 2 dimensions" },
		{ "{\"n_layers\": 5, \"shape\": [2147483648, 2]}",
		  "e[3].shape: is [2147483648,2], not a shape of 2 dimensions" },
		{ "{\"n_layers\": 5, \"extra\": []}", "e[3].extra: is [], not an object" },
		{ "{\"n_layers\": 5, \"colour\": \"blue\"}", "e[3].colour: is \"blue\", not one of red, green" },
		{ "{\"n_layers\": 5, \"layers\": 5}", "e[3].layers: is 5, not a key that is known here" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct thing t = { 0 };
		char line[1400];
		json_t *j = parse(cases[i].text);
		const struct st_json_read how = { .where = "e[3]", .refuse_unknown = true };
		assert_int_equal(st_json_read(j, &how, table, N, &t, NULL, &err), ST_ERR_FORMAT);
		st_error_format(&err, line, sizeof line);
		assert_string_equal(line, cases[i].line);
		json_decref(j);
	}
}

static void unread_keys_are_listed(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct thing t = { 0 };
	json_t *j = parse("{\"n_layers\": 2, \"nlayers\": 3, \"note\": 1}");
	assert_ok(st_json_read(j, NULL, table, N, &t, NULL, &err), &err);
	json_t *list = st_json_unread(j, table, N);
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(json_string_value(json_array_get(list, 0)), "nlayers");
	json_decref(list);
	json_decref(j);
}

static void written_and_read_again(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	static const struct thing t = { .layers = 24,
		                        .bytes = 9007199254740993,
		                        .id = -7,
		                        .eps = 0.1,
		                        .tied = true,
		                        .name = "abc",
		                        .engine = "x",
		                        .heads = { 8, 2, 64 },
		                        .shape = { 3, 4 },
		                        .colour = GREEN };
	static struct thing back;
	json_t *j = st_json_put_fields(json_object(), table, N, &t), *list = json_array();
	st_json_put_all(j, { "a", json_integer(1) }, { "list", list });
	assert_true(st_json_ok(j));
	assert_int_equal(json_integer_value(json_object_get(j, "a")), 1);
	assert_null(json_object_get(j, "note"));
	assert_ok(st_json_read(j, NULL, table, N, &back, NULL, &err), &err);
	assert_string_equal(back.engine, "x");
	back.engine = t.engine;
	assert_memory_equal(&back, &t, sizeof t);
	/* What could not be made is missed, in a list as in an object. */
	for (int i = 0; i < 20; i++)
		st_json_add(list, json_integer(i));
	assert_true(st_json_ok(j));
	st_json_add(list, NULL);
	assert_false(st_json_ok(j));
	json_decref(j);
	j = st_json_object({ "a", json_array() }, { "b", NULL });
	assert_false(st_json_ok(j));
	st_json_put(j, "b", json_null());
	assert_false(st_json_ok(j));
	json_decref(j);
	j = json_array();
	st_json_add(j, NULL);
	assert_false(st_json_ok(j));
	json_decref(j);
}

/* A member is written by the type of its value; the document is compared with one that was written by hand. */
static void members_by_type(void **state)
{
	(void)state;
	const bool yes = true;
	const char *none = NULL;
	const char cut[8] = "ab";
	const uint32_t small = 7;
	json_t *o = st_json_object(ST_IS("text", "x"), ST_IS("chars", cut), ST_IS("none", none), ST_IS("truth", yes),
	                           ST_IS("single", 0.5f), ST_IS("double", -0.25), ST_IS("nan", (double)NAN),
	                           ST_IS("small", small), ST_IS("large", UINT64_C(1) << 62),
	                           ST_IS("signed", INT64_C(-3)), ST_IS("value", json_integer(2)),
	                           ST_IS("inner", st_json_object(ST_IS("a", small))));
	json_t *want = json_loads("{\"text\":\"x\",\"chars\":\"ab\",\"none\":null,\"truth\":true,\"single\":0.5,"
	                          "\"double\":-0.25,\"nan\":\"nan\",\"small\":7,\"large\":4611686018427387904,"
	                          "\"signed\":-3,\"value\":2,\"inner\":{\"a\":7}}",
	                          0, NULL);
	assert_true(st_json_ok(o));
	assert_true(json_equal(o, want));
	json_decref(o);
	json_decref(want);
}

/* Keys of a member that is an object; it counts as known, and messages say where it is. */
static void members_of_members(void **state)
{
	(void)state;
	struct inner {
		uint32_t a, b;
	} x = { 0 };
	static const struct st_json_field rows[] = {
		{ ST_JSON_AT(struct inner, a), .in = "outer", .key = { "a" }, .required = true },
		{ ST_JSON_AT(struct inner, b), .key = { "b" } },
	};
	static const struct {
		const char *text, *why; /* why: NULL where it is read */
	} cases[] = {
		{ "{\"outer\":{\"a\":3,\"other\":1},\"b\":4}", NULL },
		{ "{\"outer\":{},\"a\":3}", "e.outer.a: is missing" },
		{ "{\"outer\":7}", "e.outer.a: is missing" },
		{ "{\"outer\":{\"a\":\"x\"}}", "e.outer.a: is \"x\", not an integer" },
		{ "{\"outer\":{\"a\":3},\"a\":3}", "e.a: is 3, not a key that is known here" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		char text[600];
		json_t *j = json_loads(cases[i].text, 0, NULL);
		enum st_status st = st_json_read(j, &(struct st_json_read){ .where = "e", .refuse_unknown = true },
		                                 rows, 2, &x, NULL, &err);
		st_error_format(&err, text, sizeof text);
		assert_int_equal(st, cases[i].why ? ST_ERR_FORMAT : ST_OK);
		assert_true(!cases[i].why || strstr(text, cases[i].why));
		json_decref(j);
	}
	json_t *o = st_json_put_fields(json_object(), rows, 2, &(struct inner){ 3, 4 }),
	       *want = json_loads("{\"outer\":{\"a\":3},\"b\":4}", 0, NULL);
	assert_true(json_equal(o, want));
	json_decref(o);
	json_decref(want);
}

static void lists_of_counts(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		bool ok;
		size_t n;
	} cases[] = { { "[]", true, 0 },       { "[0,7]", true, 2 },
		      { "[1,2,3]", false, 3 }, { "[-1]", false, 1 },
		      { "[1.0]", false, 1 },   { "[\"1\"]", false, 1 },
		      { "7", false, 0 },       { "[9223372036854775807]", true, 1 } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint64_t x[3] = { 0, 0, 99 };
		size_t n;
		json_t *j = json_loads(cases[i].text, JSON_DECODE_ANY, NULL);
		assert_int_equal(st_json_counts(j, 2, x, &n), cases[i].ok);
		assert_true(!cases[i].ok || n == cases[i].n);
		assert_int_equal(x[2], 99);
		json_decref(j);
	}
	uint64_t x[2];
	size_t n;
	json_t *j = json_loads("[3,9223372036854775807]", 0, NULL);
	assert_true(st_json_counts(j, 2, x, &n) && x[0] == 3 && x[1] == INT64_MAX);
	assert_false(st_json_counts(NULL, 2, x, &n));
	json_decref(j);
}

static void one_variable(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	uint32_t window = 7;
	const char *key;
	json_t *j = parse("{\"sliding_window\": 4096}");
	const struct st_json_field row = { ST_JSON_IN(window), .key = { "sliding_window" } };
	assert_ok(st_json_read_one(j, NULL, &row, &window, &key, &err), &err);
	assert_int_equal(window, 4096);
	assert_string_equal(key, "sliding_window");
	json_decref(j);
}

static void a_file_that_must_be_an_object(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	char path[] = "/tmp/stele-json-XXXXXX";
	json_t *j;
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	write_bytes(path, "[1]", 3);
	assert_int_equal(st_json_load_object(path, 0, &j, &err), ST_ERR_FORMAT);
	assert_string_equal(err.path, path);
	st_error_clear(&err);
	write_bytes(path, "{\"a\": 1}", 8);
	assert_int_equal(st_json_load_object(path, 7, &j, &err), ST_ERR_LIMIT);
	st_error_clear(&err);
	assert_ok(st_json_load_object(path, 8, &j, &err), &err);
	json_decref(j);
	unlink(path);
	assert_int_equal(st_json_load_object(path, 0, &j, &err), ST_ERR_IO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type),
		cmocka_unit_test(what_is_refused),
		cmocka_unit_test(unread_keys_are_listed),
		cmocka_unit_test(written_and_read_again),
		cmocka_unit_test(members_by_type),
		cmocka_unit_test(members_of_members),
		cmocka_unit_test(lists_of_counts),
		cmocka_unit_test(one_variable),
		cmocka_unit_test(a_file_that_must_be_an_object),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
