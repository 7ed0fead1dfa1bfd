/* writers: what is written reads back, the bytes are the format's, and nothing is left of a failure. */
#include "files.h"

#include "base/rng.h"
#include "format/writer.h"

#include <dirent.h>

/* Types each format can hold, by the format's own documentation. */
static const enum st_dtype gguf_types[] = {
	ST_DTYPE_F32,  ST_DTYPE_F16,  ST_DTYPE_BF16,   ST_DTYPE_F64,    ST_DTYPE_I8,    ST_DTYPE_I16,
	ST_DTYPE_I32,  ST_DTYPE_I64,  ST_DTYPE_Q4_0,   ST_DTYPE_Q4_1,   ST_DTYPE_Q5_0,  ST_DTYPE_Q5_1,
	ST_DTYPE_Q8_0, ST_DTYPE_Q8_1, ST_DTYPE_Q2_K,   ST_DTYPE_Q3_K,   ST_DTYPE_Q4_K,  ST_DTYPE_Q5_K,
	ST_DTYPE_Q6_K, ST_DTYPE_Q8_K, ST_DTYPE_IQ4_NL, ST_DTYPE_IQ4_XS, ST_DTYPE_MXFP4,
};
static const enum st_dtype safetensors_types[] = {
	ST_DTYPE_F32,     ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_F64, ST_DTYPE_F8_E4M3,
	ST_DTYPE_F8_E5M2, ST_DTYPE_BOOL, ST_DTYPE_I8,   ST_DTYPE_U8,  ST_DTYPE_I16,
	ST_DTYPE_U16,     ST_DTYPE_I32,  ST_DTYPE_U32,  ST_DTYPE_I64, ST_DTYPE_U64,
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static size_t entries(const char *path)
{
	size_t n = 0;
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static uint8_t byte_of(size_t tensor, uint64_t i) { return (uint8_t)st_splitmix64_mix(tensor * 1000003 + i); }

/* Write every tensor in pieces of odd sizes, check the uncommitted file, then commit. */
static void write_and_read(const char *path, const struct st_write_plan *plan, struct st_container **out)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	assert_ok(st_writer_open(path, plan, &w, &err), &err);
	for (size_t k = 0; k < plan->n_specs; k++) {
		uint64_t n;
		assert_true(st_stored_bytes(plan->specs[k].dtype, plan->specs[k].ndim, plan->specs[k].shape, &n));
		uint8_t piece[701];
		for (uint64_t at = 0, m; at < n; at += m) {
			m = n - at < sizeof piece ? n - at : sizeof piece;
			for (uint64_t i = 0; i < m; i++)
				piece[i] = byte_of(k, at + i);
			assert_ok(st_writer_append(w, piece, (size_t)m, &err), &err);
		}
	}
	const char *readable;
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_int_equal(access(path, F_OK), -1);
	struct st_container *c;
	assert_ok(st_container_open(readable, &c, &err), &err);
	assert_int_equal(c->n_tensors, plan->n_specs);
	st_container_close(c);
	assert_ok(st_writer_commit(w, &err), &err);

	assert_ok(st_container_open(path, &c, &err), &err);
	assert_int_equal(c->n_tensors, plan->n_specs);
	for (size_t k = 0; k < plan->n_specs; k++) {
		const struct st_tensor_spec *s = &plan->specs[k];
		const struct st_tensor *t = st_container_find(c, s->name);
		assert_non_null(t);
		assert_int_equal(t->dtype, s->dtype);
		assert_int_equal(t->ndim, s->ndim);
		for (uint32_t d = 0; d < s->ndim; d++)
			assert_true(t->shape[d] == s->shape[d]);
		for (uint64_t i = 0; i < t->n_bytes; i++)
			if (t->data[i] != byte_of(k, i))
				fail_msg("%s: byte %llu differs", s->name, (unsigned long long)i);
	}
	*out = c;
}

/* One tensor per type, then a scalar, an empty one and one of more dimensions. */
static size_t make_specs(const enum st_dtype *types, size_t n, struct st_tensor_spec *specs)
{
	static char names[40][16];
	for (size_t i = 0; i < n; i++) {
		snprintf(names[i], sizeof names[i], "t.%s", st_dtype_info(types[i])->name);
		specs[i] = (struct st_tensor_spec){ names[i], types[i], 2, { 3 + i % 2, 512 } };
	}
	specs[n++] = (struct st_tensor_spec){ "scalar", ST_DTYPE_F32, 0, { 0 } };
	specs[n++] = (struct st_tensor_spec){ "empty", ST_DTYPE_F16, 2, { 0, 7 } };
	specs[n++] = (struct st_tensor_spec){ "\xE2\x96\x81 \"quoted\\", ST_DTYPE_I8, 4, { 2, 1, 3, 5 } };
	return n;
}

static void gguf_round_trip(void **state)
{
	(void)state;
	struct st_tensor_spec specs[40];
	const size_t n = make_specs(gguf_types, COUNT(gguf_types), specs);
	static const uint8_t text[] = { 5, 0, 0, 0, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o' };
	static const uint8_t list[] = { 1, 0, 0, 0, 0, 0, 0, 0, 'a', 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t numbers[] = { 0, 0, 128, 63, 0, 0, 0, 64 };
	static const uint8_t align[] = { 128, 0, 0, 0 };
	const struct st_kv kv[] = {
		{ "general.name", ST_KV_STR, ST_KV_U8, 1, text, 0 },
		{ "general.alignment", ST_KV_U32, ST_KV_U8, 1, align, 0 },
		{ "x.list", ST_KV_ARR, ST_KV_STR, 2, list, 0 },
		{ "x.numbers", ST_KV_ARR, ST_KV_F32, 2, numbers, 0 },
		{ "x.none", ST_KV_ARR, ST_KV_U64, 0, text, 0 },
		{ "x.yes", ST_KV_BOOL, ST_KV_U8, 1, list, 0 },
	};
	const struct st_write_plan plan = {
		.format = ST_FORMAT_GGUF, .specs = specs, .n_specs = n, .kv = kv, .n_kv = COUNT(kv), .alignment = 128
	};
	struct st_container *c;
	write_and_read(in_folder("all.gguf"), &plan, &c);
	assert_int_equal(c->version, 3);
	assert_int_equal(c->alignment, 128);
	assert_int_equal(c->keys.n, COUNT(kv));
	for (size_t i = 0; i < COUNT(kv); i++) {
		assert_string_equal(c->keys.kv[i].key, kv[i].key);
		assert_int_equal(c->keys.kv[i].type, kv[i].type);
		assert_int_equal(c->keys.kv[i].count, kv[i].count);
		assert_int_equal(st_kv_bytes(&c->keys.kv[i]), st_kv_bytes(&kv[i]));
		assert_memory_equal(c->keys.kv[i].data, kv[i].data, st_kv_bytes(&kv[i]));
	}
	for (size_t i = 0; i < c->n_tensors; i++)
		assert_int_equal(c->tensors[i].offset % 128, 0);
	assert_int_equal(c->maps[0].size % 128, 0); /* the last tensor is padded as well */
	st_container_close(c);
}

static void safetensors_round_trip(void **state)
{
	(void)state;
	struct st_tensor_spec specs[40];
	const size_t n = make_specs(safetensors_types, COUNT(safetensors_types), specs);
	json_t *meta = json_pack("{s:s, s:s}", "format", "pt", "note", "\"\xC3\xA9\"");
	for (int pad = 0; pad < 2; pad++) {
		const struct st_write_plan plan = { .format = ST_FORMAT_SAFETENSORS,
			                            .specs = specs,
			                            .n_specs = n,
			                            .metadata = meta,
			                            .pad_header = pad };
		struct st_container *c;
		write_and_read(in_folder(pad ? "b.safetensors" : "a.safetensors"), &plan, &c);
		assert_true(json_equal(c->docs.metadata, meta));
		uint64_t header;
		memcpy(&header, c->maps[0].data, 8);
		if (pad)
			assert_int_equal(header % 8, 0);
		else
			assert_int_equal(c->maps[0].data[8 + header - 1], '}');
		assert_int_equal(c->tensors[0].offset, 8 + header);
		st_container_close(c);
	}
	json_decref(meta);
}

/* The bytes themselves, written out by hand from the two formats' documentation. */
static void known_bytes(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	const struct st_tensor_spec spec = { "w", ST_DTYPE_U8, 2, { 1, 3 } }, q = { "w", ST_DTYPE_I8, 2, { 2, 3 } };
	struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = &spec, .n_specs = 1, .pad_header = true
	};
	static const char want_st[] =
		"\x38\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"U8\",\"shape\":[1,3],\"data_offsets\":[0,3]}} abc";
	static const char want_gguf[] =
		"GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
		"\1\0\0\0\0\0\0\0w\2\0\0\0\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\0\0\0\0\0"
		"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
		"abcdef\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
	const struct {
		const char *path, *data, *want;
		size_t n_data, n_want;
	} cases[] = {
		{ in_folder("k.safetensors"), "abc", want_st, 3, sizeof want_st - 1 },
		{ in_folder("k.gguf"), "abcdef", want_gguf, 6, sizeof want_gguf - 1 },
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct st_writer *w;
		const char *readable;
		uint8_t got[512];
		assert_ok(st_writer_open(cases[i].path, &plan, &w, &err), &err);
		assert_ok(st_writer_append(w, cases[i].data, cases[i].n_data, &err), &err);
		assert_ok(st_writer_finish(w, &readable, &err), &err);
		assert_ok(st_writer_commit(w, &err), &err);
		FILE *f = fopen(cases[i].path, "r");
		size_t n = fread(got, 1, sizeof got, f);
		fclose(f);
		assert_int_equal(n, cases[i].n_want);
		assert_memory_equal(got, cases[i].want, n);
		plan.format = ST_FORMAT_GGUF;
		plan.specs = &q;
	}
}

static void impossible_plans_are_refused(void **state)
{
	(void)state;
	static const uint8_t align[] = { 64, 0, 0, 0 }, odd[] = { 48, 0, 0, 0 };
	const struct st_kv twice[] = { { "k", ST_KV_U8, ST_KV_U8, 1, align, 0 },
		                       { "k", ST_KV_U8, ST_KV_U8, 1, align, 0 } };
	const struct st_kv aligned = { "general.alignment", ST_KV_U32, ST_KV_U8, 1, align, 0 };
	const struct st_kv oddly = { "general.alignment", ST_KV_U32, ST_KV_U8, 1, odd, 0 };
	const struct st_kv nested = { "k", ST_KV_ARR, ST_KV_ARR, 1, align, 0 };
	json_t *number = json_pack("{s:i}", "x", 1), *list = json_array();
	const struct {
		enum st_format format;
		struct st_tensor_spec specs[2];
		size_t n;
		const struct st_kv *kv;
		size_t n_kv;
		uint64_t alignment;
		json_t *meta;
		const char *text;
	} cases[] = {
		{ ST_FORMAT_GGUF,
		  { { "a", ST_DTYPE_F32, 1, { 1 } }, { "a", ST_DTYPE_F32, 1, { 1 } } },
		  2,
		  NULL,
		  0,
		  0,
		  NULL,
		  "two tensors" },
		{ ST_FORMAT_GGUF, { { "", ST_DTYPE_F32, 1, { 1 } } }, 1, NULL, 0, 0, NULL, "empty name" },
		{ ST_FORMAT_GGUF,
		  { { "a", ST_DTYPE_U8, 1, { 1 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "a: GGUF has no type for U8" },
		{ ST_FORMAT_GGUF,
		  { { "a", ST_DTYPE_F32, 5, { 1, 1, 1, 1, 1 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "a: has 5 dimensions" },
		{ ST_FORMAT_GGUF,
		  { { "a", ST_DTYPE_Q4_K, 2, { 2, 128 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "a: cannot be stored as Q4_K" },
		{ ST_FORMAT_GGUF,
		  { { "a", ST_DTYPE_F32, 2, { UINT64_C(1) << 40, UINT64_C(1) << 40 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "a: cannot be stored" },
		{ ST_FORMAT_GGUF, { { 0 } }, 0, twice, 2, 0, NULL, "k: two keys" },
		{ ST_FORMAT_GGUF,
		  { { 0 } },
		  0,
		  &aligned,
		  1,
		  32,
		  NULL,
		  "general.alignment: is 64 while the plan says 32" },
		{ ST_FORMAT_GGUF, { { 0 } }, 0, NULL, 0, 64, NULL, "general.alignment: is 32 while the plan says 64" },
		{ ST_FORMAT_GGUF, { { 0 } }, 0, &oddly, 1, 0, NULL, "general.alignment: is 48" },
		{ ST_FORMAT_GGUF, { { 0 } }, 0, &nested, 1, 0, NULL, "k: type cannot be written" },
		{ ST_FORMAT_SAFETENSORS,
		  { { "a", ST_DTYPE_Q8_0, 1, { 32 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "a: safetensors has no type for Q8_0" },
		{ ST_FORMAT_SAFETENSORS,
		  { { "__metadata__", ST_DTYPE_F32, 1, { 1 } } },
		  1,
		  NULL,
		  0,
		  0,
		  NULL,
		  "keeps this name" },
		{ ST_FORMAT_SAFETENSORS, { { "a\xFF", ST_DTYPE_F32, 1, { 1 } } }, 1, NULL, 0, 0, NULL, "" },
		{ ST_FORMAT_SAFETENSORS, { { 0 } }, 0, NULL, 0, 0, number, "x: safetensors metadata holds strings" },
		{ ST_FORMAT_SAFETENSORS, { { 0 } }, 0, NULL, 0, 0, list, "metadata must be an object" },
		{ ST_FORMAT_NPZ, { { 0 } }, 0, NULL, 0, 0, NULL, "not npz" },
	};
	size_t before = entries(folder);
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_writer *w = NULL;
		const struct st_write_plan plan = { .format = cases[i].format,
			                            .specs = cases[i].specs,
			                            .n_specs = cases[i].n,
			                            .kv = cases[i].kv,
			                            .n_kv = cases[i].n_kv,
			                            .alignment = cases[i].alignment,
			                            .metadata = cases[i].meta };
		assert_int_not_equal(st_writer_open(in_folder("never"), &plan, &w, &err), ST_OK);
		assert_null(w);
		char line[1400];
		st_error_format(&err, line, sizeof line);
		if (!strstr(line, cases[i].text))
			fail_msg("expected \"%s\", got %s", cases[i].text, line);
	}
	assert_int_equal(entries(folder), before);
	json_decref(number);
	json_decref(list);
}

static void wrong_amounts_are_refused_and_leave_nothing(void **state)
{
	(void)state;
	const struct st_tensor_spec specs[] = { { "a", ST_DTYPE_F32, 1, { 2 } },
		                                { "none", ST_DTYPE_F32, 1, { 0 } },
		                                { "b", ST_DTYPE_F32, 1, { 1 } } };
	const struct st_write_plan plan = { .format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = 3 };
	size_t before = entries(folder);
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(in_folder("never"), &plan, &w, &err), &err);
	assert_ok(st_writer_append(w, "1234", 4, &err), &err);
	assert_int_equal(st_writer_append(w, "56789", 5, &err), ST_ERR_USAGE); /* would cross into the next tensor */
	st_error_clear(&err);
	assert_int_equal(st_writer_finish(w, &readable, &err), ST_ERR_USAGE);
	assert_non_null(strstr(err.message, "tensor 0 of 3 is incomplete: 4 of 8 bytes"));
	st_error_clear(&err);
	assert_ok(st_writer_append(w, "5678", 4, &err), &err);
	assert_ok(st_writer_append(w, "abcd", 4, &err), &err);
	assert_int_equal(st_writer_append(w, "x", 1, &err), ST_ERR_USAGE);
	st_error_clear(&err);
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	st_writer_abort(w);
	assert_int_equal(entries(folder), before);
	assert_int_equal(st_writer_open(in_folder("no/such/folder"), &plan, &w, &err), ST_ERR_IO);
	st_writer_abort(NULL);
}

/* Sizes by the definitions of the types: 4.5 bits per element and so on. */
static void stored_sizes(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype t;
		uint32_t ndim;
		uint64_t shape[3], want;
	} cases[] = {
		{ ST_DTYPE_F32, 0, { 0 }, 4 },         { ST_DTYPE_F16, 3, { 2, 3, 5 }, 60 },
		{ ST_DTYPE_F64, 2, { 0, 9 }, 0 },      { ST_DTYPE_Q4_K, 2, { 2, 256 }, 288 },
		{ ST_DTYPE_Q6_K, 1, { 512 }, 420 },    { ST_DTYPE_Q8_0, 2, { 4, 64 }, 272 },
		{ ST_DTYPE_APR_Q4, 2, { 3, 11 }, 36 }, { ST_DTYPE_APR_Q8, 2, { 3, 11 }, 37 },
	};
	uint64_t n;
	for (size_t i = 0; i < COUNT(cases); i++) {
		assert_true(st_stored_bytes(cases[i].t, cases[i].ndim, cases[i].shape, &n));
		assert_int_equal(n, cases[i].want);
	}
	assert_false(st_stored_bytes(ST_DTYPE_Q4_K, 2, (uint64_t[]){ 256, 8 }, &n));
	assert_false(st_stored_bytes(ST_DTYPE_F32, 2, (uint64_t[]){ UINT64_C(1) << 32, UINT64_C(1) << 32 }, &n));
	assert_false(st_stored_bytes(ST_DTYPE_F32, 1, (uint64_t[]){ UINT64_C(1) << 62 }, &n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gguf_round_trip),
		cmocka_unit_test(safetensors_round_trip),
		cmocka_unit_test(known_bytes),
		cmocka_unit_test(impossible_plans_are_refused),
		cmocka_unit_test(wrong_amounts_are_refused_and_leave_nothing),
		cmocka_unit_test(stored_sizes),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
