/* Factors from a torch checkpoint: the same digests as from the component file that holds the same numbers. */
#include "fixture.h"

#include <zlib.h>

struct bytes {
	uint8_t p[1 << 21];
	size_t n;
};
struct member {
	const char *name;
	const void *data;
	size_t size;
};
static struct bytes pickle, zip, directory;

static void put(struct bytes *b, const void *p, size_t n)
{
	assert_true(n <= sizeof b->p - b->n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v) { put(b, &v, 4); }

/* Stored members (PKWARE APPNOTE 4.3): the fields from the version to the extra field's length are the same in both
 * headers. */
static void build_zip(const struct member *m, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t offset = (uint32_t)zip.n, size = (uint32_t)m[i].size, zero = 0;
		uint32_t common[] = { 20, 0, 0, (uint32_t)crc32(0, m[i].data, (uInt)size) };
		uint16_t lengths[2] = { (uint16_t)strlen(m[i].name), 0 };
		put_u32(&zip, 0x04034b50);
		put_u32(&directory, 0x02014b50);
		put(&directory, "\x14", 2);
		for (int k = 0; k < 2; k++) {
			struct bytes *b = k ? &directory : &zip;
			put(b, common, 6); /* version, flags, method */
			put(b, &zero, 4);  /* time */
			put_u32(b, common[3]);
			put_u32(b, size);
			put_u32(b, size);
			put(b, lengths, 4);
		}
		put(&zip, m[i].name, lengths[0]);
		put(&zip, m[i].data, size);
		put(&directory, "\0\0\0\0\0\0\0\0\0", 10); /* comment, disk, attributes */
		put_u32(&directory, offset);
		put(&directory, m[i].name, lengths[0]);
	}
	uint32_t start = (uint32_t)zip.n;
	uint16_t count = (uint16_t)n;
	put(&zip, directory.p, directory.n);
	put_u32(&zip, 0x06054b50);
	put_u32(&zip, 0);
	put(&zip, &count, 2);
	put(&zip, &count, 2);
	put_u32(&zip, (uint32_t)directory.n);
	put_u32(&zip, start);
	put(&zip, "\0", 2);
}

static void op(const char *codes) { put(&pickle, codes, strlen(codes)); }

static void op_str(const char *s)
{
	op("X");
	put_u32(&pickle, (uint32_t)strlen(s));
	op(s);
}

static void op_int(int64_t v)
{
	put(&pickle, "\x8a\x08", 2); /* LONG1 of 8 bytes */
	put(&pickle, &v, 8);
}

/* _rebuild_tensor_v2(storage `key` of n floats, 0, sizes, strides, False, OrderedDict()) */
static void op_tensor(const char *key, const int64_t *sizes, const int64_t *strides, size_t ndim)
{
	op("ctorch._utils\n_rebuild_tensor_v2\n((");
	op_str("storage");
	op("ctorch\nFloatStorage\n");
	op_str(key);
	op_str("cpu");
	op_int(ndim == 1 ? sizes[0] : sizes[0] * sizes[1]);
	op("tQ");
	op_int(0);
	for (int strided = 0; strided < 2; strided++) {
		op("(");
		for (size_t i = 0; i < ndim; i++)
			op_int(strided ? strides[i] : sizes[i]);
		op("t");
	}
	op("\x89"
	   "ccollections\nOrderedDict\n)RtR");
}

static char *final_hash(const struct fx *x, const char *weights, const char *out)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_export_options o = { .model = x->model,
		                                 .reference = x->reference,
		                                 .vector = x->st,
		                                 .out = out,
		                                 .svd_weights = weights,
		                                 .write_dir = fx_path(x, "written"),
		                                 .all_selected = true,
		                                 .threads = 2 };
	assert_ok(st_svf_export(&o, &r, &err), &err);
	json_t *j = json_loads(r.json, 0, NULL), *all = json_array();
	size_t i;
	json_t *c;
	json_array_foreach(json_object_get(j, "selected_tensor_components"), i, c)
		json_array_append(all, json_object_get(c, "final_bf16_sha256"));
	assert_int_equal(json_array_size(all), 9);
	assert_int_equal(json_array_size(json_object_get(j, "warnings")), 0);
	char *s = json_dumps(all, 0);
	json_decref(all);
	json_decref(j);
	st_svf_result_release(&r);
	return s;
}

static void test_torch(void **state)
{
	(void)state;
	static struct fx x;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct member m[28];
	static char names[27][32];
	float *data[27];
	fx_open(&x);
	const struct st_svf_export_options o = { .model = x.model,
		                                 .reference = x.reference,
		                                 .vector = x.st,
		                                 .out = fx_path(&x, "first.json"),
		                                 .write_dir = fx_path(&x, "components"),
		                                 .all_selected = true,
		                                 .decompose_all = true,
		                                 .threads = 2 };
	assert_ok(st_svf_export(&o, &r, &err), &err);
	st_svf_result_release(&r);
	char components[200], pt[200], key[8], name[128], fmt[16];
	snprintf(components, sizeof components, "%s/trinity_svf_components.safetensors", fx_path(&x, "components"));
	snprintf(pt, sizeof pt, "%s", fx_path(&x, "svd_weights.pt"));
	assert_ok(st_container_open(components, &c, &err), &err);
	op("\x80\x02}");
	for (size_t i = 0; i < 27; i++) {
		const struct fx_tensor *t = &x.t[i / 3];
		snprintf(fmt, sizeof fmt, "svd.%c.%%s", "USV"[i % 3]);
		data[i] = fx_values(c, fmt, t->source);
		int64_t rows = (int64_t)(i % 3 == 0 ? t->rows : i % 3 == 1 ? 64 : t->cols);
		int64_t sizes[2] = { rows, 64 }, strides[2] = { i % 3 == 1 ? 1 : 64, 1 };
		if (i % 3 == 2) { /* as torch.svd leaves V: columns one after the other */
			float *turned = malloc(4 * (size_t)rows * 64);
			for (int64_t a = 0; a < rows; a++)
				for (int64_t b = 0; b < 64; b++)
					turned[b * rows + a] = data[i][a * 64 + b];
			free(data[i]);
			data[i] = turned;
			strides[0] = 1;
			strides[1] = rows;
		}
		snprintf(key, sizeof key, "%zu", i);
		snprintf(name, sizeof name, "%s.%c", t->source, "USV"[i % 3]);
		snprintf(names[i], sizeof names[i], "archive/data/%zu", i);
		op_str(name);
		op_tensor(key, sizes, strides, i % 3 == 1 ? 1 : 2);
		op("s");
		m[i + 1] = (struct member){ .name = names[i],
			                    .data = data[i],
			                    .size = (size_t)(i % 3 == 1 ? 64 : rows * 64) * 4 };
	}
	op(".");
	st_container_close(c);
	m[0] = (struct member){ .name = "archive/data.pkl", .data = pickle.p, .size = pickle.n };
	build_zip(m, 28);
	write_bytes(pt, zip.p, zip.n);
	char *a = final_hash(&x, components, fx_path(&x, "a.json")), *b = final_hash(&x, pt, fx_path(&x, "b.json"));
	assert_string_equal(a, b);
	free(a);
	free(b);
	for (size_t i = 0; i < 27; i++)
		free(data[i]);
	fx_close(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_torch) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("svf torch", tests, NULL, NULL);
}
