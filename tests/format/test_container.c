/* container: what is recognised, and how the rest is refused. */
#include "files.h"

#include "base/cursor.h"

/* What people hand to a model tool by mistake is named, everything else shown by its first bytes. */
static void strangers_are_named(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		size_t n;
		enum st_status status;
		const char *says;
	} cases[] = {
		{ "", 0, ST_ERR_FORMAT, "the file is empty" },
		{ "x", 1, ST_ERR_FORMAT, "no format Stele knows (begins with 78); known are GGUF" },
		{ "hello world, this is text\n", 26, ST_ERR_FORMAT, "begins with 68656c6c6f20776f" },
		{ "\0\0\0\0\0\0\0\0\0\0\0\0", 12, ST_ERR_FORMAT, "no format Stele knows" },
		{ "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 56, ST_ERR_UNSUPPORTED,
		  "Git LFS pointer" },
		{ "tjgg\3\0\0\0", 8, ST_ERR_UNSUPPORTED, "GGJT file of before GGUF" },
		{ "\x89HDF\r\n\x1a\n", 8, ST_ERR_UNSUPPORTED, "HDF5" },
		{ "\x1f\x8b\x08\0\0\0\0\0", 8, ST_ERR_UNSUPPORTED, "gzip" },
		{ "<!DOCTYPE html><html>", 21, ST_ERR_UNSUPPORTED, "failed download" },
		{ "gguf\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, ST_ERR_FORMAT, "no format Stele knows" },
		{ "{\"a\": 1}", 8, ST_ERR_FORMAT, "no shard index" },
		{ "PK\3\4", 4, ST_ERR_FORMAT, "zip" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_refused(save_n("stranger", cases[i].text, cases[i].n), cases[i].status, cases[i].says,
		               cases[i].says);
}

static void what_is_no_file(void **state)
{
	(void)state;
	assert_refused(in_folder("absent"), ST_ERR_IO, "No such file", "absent");
	assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
	assert_refused(in_folder("pipe"), ST_ERR_IO, "pipe", "pipe");
	assert_refused("/dev/null", ST_ERR_IO, "device", "device");
}

/* '{' (0x7B) as the low byte of a header length does not make a safetensors file JSON, and a brace as the ninth
 * character does not make JSON a safetensors file. */
static void braces_in_odd_places(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	b.n = 0;
	put_u64(&b, 0x7B);
	put(&b, "{}", 2);
	while (b.n < 8 + 0x7B)
		put_u8(&b, ' ');
	assert_ok(st_container_open(save("brace", &b), &c, &err), &err);
	assert_int_equal(st_container_format(c), ST_FORMAT_SAFETENSORS);
	assert_int_equal(c->n_tensors, 0);
	assert_int_equal(c->n_maps, 1);
	st_container_close(c);
	assert_refused(save_text("brace.json", "{\"x\":[1,{\"weight_map\":{}}]}"), ST_ERR_FORMAT, "no shard index",
	               "json");
	assert_ok(st_container_open(save_text("empty.json", "\n {    \"weight_map\": {} }"), &c, &err), &err);
	assert_int_equal(c->n_maps, 0);
	st_container_close(c);
	st_container_close(NULL);
}

/* The header length comes first and may be any number: 0x0280 to 0x0580 begin like a pickle of protocol 2 to 5,
 * 0x525041 like APR. */
static void lengths_that_look_like_magic(void **state)
{
	(void)state;
	static const uint32_t lengths[] = { 0x0280, 0x0380, 0x0480, 0x0580, 0x525041 };
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		size_t n = 8 + lengths[i];
		char *b = malloc(n);
		struct st_container *c;
		struct st_error err = ST_ERROR_INIT;
		memset(b, ' ', n);
		memset(b, 0, 8);
		for (size_t k = 0; k < 4; k++)
			b[k] = (char)(lengths[i] >> 8 * k);
		memcpy(b + 8, "{}", 2);
		assert_ok(st_container_open(save_n("magic.safetensors", b, n), &c, &err), &err);
		assert_int_equal(st_container_format(c), ST_FORMAT_SAFETENSORS);
		st_container_close(c);
		free(b);
	}
}

/* Bytes stay where they are: a view of the map, at the offset it states. */
static void views_lie_in_the_map(void **state)
{
	(void)state;
	static struct bytes b;
	static const char header[] = "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	b.n = 0;
	put_u64(&b, sizeof header - 1);
	put(&b, header, sizeof header - 1);
	put_u32(&b, 0x3F800000);
	put_u32(&b, 0xBF800000);
	const char *path = save("view.safetensors", &b);
	assert_ok(st_container_open(path, &c, &err), &err);
	const struct st_tensor *t = st_container_tensor(c, 0);
	assert_ptr_equal(t->data, c->maps[t->file].data + t->offset);
	assert_string_equal(st_map_path_of(t->data), path);
	assert_string_equal(st_container_path(c), path);
	assert_string_equal(st_container_file_path(c, 0), path);
	assert_int_equal(st_container_file_size(c, 0), b.n);
	assert_true(st_load_f32(t->data) == 1.0f && st_load_f32(t->data + 4) == -1.0f);
	st_container_close(c);
}

static void format_names(void **state)
{
	(void)state;
	static const char *const names[] = { "GGUF", "safetensors", "APR", "npy", "npz", "torch", "APRT" };
	for (int f = 0; f < ST_FORMAT_COUNT; f++)
		assert_string_equal(st_format_name((enum st_format)f), names[f]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strangers_are_named),  cmocka_unit_test(what_is_no_file),
		cmocka_unit_test(braces_in_odd_places), cmocka_unit_test(lengths_that_look_like_magic),
		cmocka_unit_test(views_lie_in_the_map), cmocka_unit_test(format_names),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
