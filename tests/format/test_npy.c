/* npy and npz: every order and type against hand-known numbers, every truncation, zip archives of all kinds. */
#include "files.h"
#include "manifest.h"
#include "zipfile.h"

static struct bytes file;

/* An array of version `major` with this header text, padded as numpy pads. */
static void build_npy(struct bytes *b, unsigned major, const char *text, const void *data, size_t n)
{
	size_t begin = b->n, len = strlen(text) + 1, head = major == 1 ? 10 : 12;
	while ((head + len) % 64)
		len++;
	put(b, "\x93NUMPY", 6);
	put_u8(b, (uint8_t)major);
	put_u8(b, 0);
	if (major == 1)
		put_u16(b, (uint16_t)len);
	else
		put_u32(b, (uint32_t)len);
	put(b, text, strlen(text));
	while (b->n < begin + head + len - 1)
		put_u8(b, ' ');
	put_u8(b, '\n');
	put(b, data, n);
}

static const char *npy(const char *text, const void *data, size_t n)
{
	file.n = 0;
	build_npy(&file, 1, text, data, n);
	return save("a.npy", &file);
}

static struct st_container *open_ok(const char *path)
{
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(path, &c, &err), &err);
	return c;
}

static void assert_values(const struct st_tensor *t, const float *want, size_t n)
{
	float got[64];
	assert_int_equal(t->n_elems, n);
	st_tensor_decode(t, 0, st_tensor_rows(t), got);
	for (size_t i = 0; i < n; i++)
		if (memcmp(&got[i], &want[i], 4) != 0)
			fail_msg("element %zu is %g, expected %g", i, (double)got[i], (double)want[i]);
}

/* [[1, 2, 3], [4, 5, 6]] */
static const float c_order[6] = { 1, 2, 3, 4, 5, 6 };
static const float f_order[6] = { 1, 4, 2, 5, 3, 6 };

static void versions_and_orders(void **state)
{
	(void)state;
	for (unsigned major = 1; major <= 3; major++) {
		for (int fortran = 0; fortran < 2; fortran++) {
			file.n = 0;
			build_npy(&file, major,
			          fortran ? "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }"
			                  : "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
			          fortran ? f_order : c_order, 24);
			struct st_container *c = open_ok(save("stage.npy", &file));
			const struct st_tensor *t = st_container_find(c, "stage");
			assert_non_null(t);
			assert_int_equal(t->ndim, 2);
			assert_int_equal(t->shape[0], 2);
			assert_int_equal(t->shape[1], 3);
			assert_int_equal(t->layout, fortran ? ST_LAYOUT_STRIDED : ST_LAYOUT_ROWS);
			assert_int_equal(t->offset, file.n - 24);
			assert_values(t, c_order, 6);
			st_container_close(c);
		}
	}
}

static void fortran_order_in_three_dimensions(void **state)
{
	(void)state;
	/* x[i][j][k] = 100 i + 10 j + k, shape (2, 3, 2); in Fortran order i runs fastest, then j. */
	float f[12], want[12];
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 3; j++)
			for (int k = 0; k < 2; k++) {
				f[i + 2 * j + 6 * k] = (float)(100 * i + 10 * j + k);
				want[6 * i + 2 * j + k] = (float)(100 * i + 10 * j + k);
			}
	struct st_container *c = open_ok(
		npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3, 2)}", f, sizeof f));
	assert_values(st_container_tensor(c, 0), want, 12);
	st_container_close(c);
}

static void every_number_type(void **state)
{
	(void)state;
	/* Two elements each, written by hand: 1 and the value of `second`. */
	static const struct {
		const char *descr;
		enum st_dtype dtype;
		size_t size;
		uint8_t bytes[16];
		float second;
	} cases[] = {
		{ "<f2", ST_DTYPE_F16, 2, { 0x00, 0x3c, 0x00, 0xc0 }, -2 },
		{ "<f4", ST_DTYPE_F32, 4, { 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0 }, -2.5f },
		{ "<f8", ST_DTYPE_F64, 8, { 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0x04, 0xc0 }, -2.5f },
		{ "|b1", ST_DTYPE_BOOL, 1, { 1, 0 }, 0 },
		{ "|i1", ST_DTYPE_I8, 1, { 1, 0xff }, -1 },
		{ "|u1", ST_DTYPE_U8, 1, { 1, 0xff }, 255 },
		{ "<i2", ST_DTYPE_I16, 2, { 1, 0, 0xfe, 0xff }, -2 },
		{ "<u2", ST_DTYPE_U16, 2, { 1, 0, 0xfe, 0xff }, 65534 },
		{ "<i4", ST_DTYPE_I32, 4, { 1, 0, 0, 0, 0, 0, 0, 0x80 }, -2147483648.f },
		{ "<u4", ST_DTYPE_U32, 4, { 1, 0, 0, 0, 0, 0, 0, 0x80 }, 2147483648.f },
		{ "<i8",
		  ST_DTYPE_I64,
		  8,
		  { 1, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
		  -3 },
		{ "<u8", ST_DTYPE_U64, 8, { 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0 }, 4294967296.f },
		{ ">f4", ST_DTYPE_F32, 4, { 0x3f, 0x80, 0, 0, 0xc0, 0x20, 0, 0 }, -2.5f },
		{ ">i2", ST_DTYPE_I16, 2, { 0, 1, 0xff, 0xfe }, -2 },
		{ ">f8", ST_DTYPE_F64, 8, { 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0, 0x04 }, -2.5f },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char text[128];
		snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (2,), }", cases[i].descr);
		struct st_container *c = open_ok(npy(text, cases[i].bytes, 2 * cases[i].size));
		assert_int_equal(st_container_tensor(c, 0)->dtype, cases[i].dtype);
		assert_values(st_container_tensor(c, 0), (float[]){ 1, cases[i].second }, 2);
		st_container_close(c);
	}
}

static void odd_but_sound_headers(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		size_t elems;
		uint32_t ndim;
	} cases[] = {
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 1, 0 },
		{ "{'shape': (6L,), 'fortran_order': False, 'descr': '<f4'}", 6, 1 },
		{ "{\"descr\": \"<f4\", \"fortran_order\": True, \"shape\": (6,)}", 6, 1 },
		{ "{ 'descr' : '=f4' , 'fortran_order' : False , 'shape' : ( 1 , 6 , ) , }", 6, 2 },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 5)}", 0, 2 },
		{ "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 0)}", 0, 2 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container *c = open_ok(npy(cases[i].text, c_order, 4 * cases[i].elems));
		assert_int_equal(st_container_tensor(c, 0)->ndim, cases[i].ndim);
		assert_values(st_container_tensor(c, 0), c_order, cases[i].elems);
		st_container_close(c);
	}
}

static void broken_headers(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum st_status status;
		const char *why;
	} cases[] = {
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } + 1", ST_ERR_FORMAT,
		  "text after the dictionary" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", ST_ERR_FORMAT, "no tuple" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", ST_ERR_FORMAT, "comma" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}", ST_ERR_FORMAT, "whole number" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}", ST_ERR_FORMAT, "whole number" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,)}", ST_ERR_FORMAT,
		  "64 bits" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", ST_ERR_FORMAT,
		  "overflow" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}", ST_ERR_FORMAT,
		  "overflow" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 6)}", ST_ERR_LIMIT,
		  "more than 8" },
		{ "{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}", ST_ERR_FORMAT, "True or False" },
		{ "{'descr': '<f4', 'shape': (6,)}", ST_ERR_FORMAT, "no key fortran_order" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'x': 1}", ST_ERR_FORMAT, "unknown key" },
		{ "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", ST_ERR_FORMAT,
		  "a key twice" },
		{ "{'descr': '<f4\\'', 'fortran_order': False, 'shape': (6,)}", ST_ERR_FORMAT, "unterminated" },
		{ "{'descr': '<f3', 'fortran_order': False, 'shape': (6,)}", ST_ERR_FORMAT, "unknown type 'f3'" },
		{ "{'descr': '', 'fortran_order': False, 'shape': (6,)}", ST_ERR_FORMAT, "unknown type ''" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (7,)}", ST_ERR_FORMAT,
		  "24 bytes where type and shape make 28" },
		{ "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}", ST_ERR_FORMAT,
		  "24 bytes where type and shape make 20" },
		{ "{'descr': '|O', 'fortran_order': False, 'shape': (6,)}", ST_ERR_UNSUPPORTED, "Python objects" },
		{ "{'descr': '<U1', 'fortran_order': False, 'shape': (6,)}", ST_ERR_UNSUPPORTED, "array of text" },
		{ "{'descr': '|S4', 'fortran_order': False, 'shape': (6,)}", ST_ERR_UNSUPPORTED, "array of text" },
		{ "{'descr': '|V4', 'fortran_order': False, 'shape': (6,)}", ST_ERR_UNSUPPORTED, "raw bytes" },
		{ "{'descr': '<c8', 'fortran_order': False, 'shape': (3,)}", ST_ERR_UNSUPPORTED, "complex" },
		{ "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (3,)}", ST_ERR_UNSUPPORTED, "dates" },
		{ "{'descr': [('a', '<f4'), ('b', '<i4', (2,))], 'fortran_order': False, 'shape': (2,)}",
		  ST_ERR_UNSUPPORTED, "records" },
		{ "{'descr': [('a', '<f4', 'fortran_order': False, 'shape': (2,)}", ST_ERR_FORMAT,
		  "unterminated list" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_refused(npy(cases[i].text, c_order, sizeof c_order), cases[i].status, cases[i].why,
		               cases[i].text);
}

/* NUL bytes are no type, and no byte order before one. */
static void a_type_of_nul_bytes(void **state)
{
	(void)state;
	for (size_t nul = 1; nul <= 3; nul++) {
		const char *path = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", c_order,
		                       sizeof c_order);
		size_t n;
		char *p = read_bytes(path, &n), *type = memmem(p, n, "<f4", 3);
		assert_non_null(type);
		memset(type, 0, nul);
		save_n("nul.npy", p, n);
		free(p);
		assert_refused(in_folder("nul.npy"), ST_ERR_FORMAT, "unknown type", "NUL");
	}
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", c_order, sizeof c_order);
	for (size_t n = 0; n < file.n; n++) {
		char what[40];
		snprintf(what, sizeof what, "npy cut at %zu", n);
		assert_refused(save_n("a.npy", file.p, n), ST_ERR_FORMAT, "", what);
	}
}

/* Two arrays and a text; `array` keeps them until the zip is built. */
static struct bytes arrays[3];

static size_t npz_members(struct member *m, bool deflate)
{
	for (int i = 0; i < 3; i++)
		arrays[i].n = 0;
	build_npy(&arrays[0], 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", c_order, 24);
	build_npy(&arrays[1], 1, "{'descr': '|i1', 'fortran_order': False, 'shape': (3,), }", "\1\2\3", 3);
	build_npy(&arrays[2], 1, "{'descr': '<U1', 'fortran_order': False, 'shape': (), }", "x\0\0\0", 4);
	static const char *const names[3] = { "layers.0.attn_norm.npy", "b.npy", "note.npy" };
	for (int i = 0; i < 3; i++)
		m[i] = (struct member){
			.name = names[i], .data = arrays[i].p, .size = arrays[i].n, .deflate = deflate
		};
	return 3;
}

static void npz_of_all_kinds(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		struct member m[3];
		build_zip(&file, m, npz_members(m, kind & 1), kind & 2);
		struct st_container *c = open_ok(save("x.npz", &file));
		assert_int_equal(st_container_n_tensors(c), 2);
		assert_non_null(strstr(st_container_describe(c), "1 of text left out"));
		const struct st_tensor *t = st_container_find(c, "layers.0.attn_norm");
		assert_values(t, c_order, 6);
		assert_values(st_container_find(c, "b"), (float[]){ 1, 2, 3 }, 3);
		if (!(kind & 1)) /* stored: the offset is where the values lie in the file */
			assert_memory_equal(file.p + t->offset, c_order, 24);
		st_container_close(c);
	}
}

static void broken_archives(void **state)
{
	(void)state;
	struct member m[4];
	npz_members(m, true);
	m[0].bad_crc = true;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_FORMAT, "layers.0.attn_norm.npy: CRC-32", "CRC");
	npz_members(m, true);
	m[0].say_size = m[0].size + 1;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_FORMAT, "size", "deflated size");
	npz_members(m, false);
	m[0].say_size = m[0].size + 1;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_FORMAT, "two sizes", "stored size");
	npz_members(m, false);
	m[0].flags = 1;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_UNSUPPORTED, "encrypted", "encrypted");
	npz_members(m, false);
	m[1].name = m[0].name;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_FORMAT, "two zip members of this name", "twice");
	npz_members(m, false);
	m[1].name = "readme.txt";
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_UNSUPPORTED, "readme.txt: a member of an npz that is no .npy",
	               "other member");
	/* 200 bytes that claim to unfold to 3 GB: more than deflate can do, refused before memory is taken. */
	npz_members(m, true);
	m[0].say_size = 3000000000u;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_LIMIT, "the limit for this file", "bomb");
	npz_members(m, true);
	m[0].say_size = 60000000u;
	build_zip(&file, m, 3, false);
	assert_refused(save("x.npz", &file), ST_ERR_FORMAT, "so few bytes", "small bomb");
}

static void every_npz_truncation_is_refused(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		struct member m[3];
		build_zip(&file, m, npz_members(m, kind & 1), kind & 2);
		for (size_t n = 0; n < file.n; n++) {
			char what[40];
			snprintf(what, sizeof what, "npz cut at %zu", n);
			assert_refused(save_n("x.npz", file.p, n), ST_ERR_FORMAT, "", what);
		}
	}
}

/* Every byte of the archive set to each of a few values: refused or read, never anything worse. */
static void damaged_bytes_do_no_harm(void **state)
{
	(void)state;
	static const uint8_t values[] = { 0x00, 0x7f, 0x80, 0xff };
	char line[1400];
	struct member m[3];
	size_t opened = 0, tried = 0;
	build_zip(&file, m, npz_members(m, true), true);
	for (size_t i = 0; i < file.n; i++) {
		for (size_t k = 0; k < sizeof values; k++, tried++) {
			uint8_t was = file.p[i];
			file.p[i] = values[k];
			opened += opens(save("x.npz", &file), line);
			file.p[i] = was;
		}
	}
	assert_true(opened < tried);
}

static void shared_files(void **state)
{
	(void)state;
	check_manifest("npy");
}

static void shared_orders_agree(void **state)
{
	(void)state;
	/* The same array saved by numpy in both orders. */
	struct st_container *a = open_ok(shared_path("malformed/npy/npyz-c-order.npy"));
	struct st_container *b = open_ok(shared_path("malformed/npy/npyz-f-order.npy"));
	float x[24], y[24];
	assert_int_equal(st_container_tensor(b, 0)->layout, ST_LAYOUT_STRIDED);
	st_tensor_decode(st_container_tensor(a, 0), 0, 6, x);
	st_tensor_decode(st_container_tensor(b, 0), 0, 6, y);
	assert_memory_equal(x, y, sizeof x);
	st_container_close(a);
	st_container_close(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(versions_and_orders, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(fortran_order_in_three_dimensions, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(every_number_type, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(odd_but_sound_headers, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(broken_headers, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_type_of_nul_bytes, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(every_truncation_is_refused, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(npz_of_all_kinds, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(broken_archives, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(every_npz_truncation_is_refused, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(damaged_bytes_do_no_harm, make_folder, remove_folder),
		cmocka_unit_test(shared_files),
		cmocka_unit_test(shared_orders_agree),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
