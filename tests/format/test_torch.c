/* torch: checkpoints assembled instruction by instruction, and pickles that try everything else. */
#include "files.h"
#include "manifest.h"
#include "zipfile.h"

#include "base/map.h"
#include "format/pickle.h"

#include <dirent.h>

/* ---- writing pickles (protocol 2, Python's pickletools) ---- */

static struct bytes pickle, file;

static void op(const char *codes) { put(&pickle, codes, strlen(codes)); }

static void op_begin(void)
{
	pickle.n = 0;
	op("\x80\x02");
}

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

static void op_dims(const int64_t *d, size_t n)
{
	op("(");
	for (size_t i = 0; i < n; i++)
		op_int(d[i]);
	op("t");
}

static void op_storage(const char *type, const char *key, int64_t n)
{
	op("(");
	op_str("storage");
	op("c");
	op(type);
	op("\n");
	op_str(key);
	op_str("cpu");
	op_int(n);
	op("tQ");
}

/* _rebuild_tensor_v2(storage, first, sizes, strides, False, OrderedDict()) */
static void op_tensor(const char *type, const char *key, int64_t n, int64_t first, const int64_t *sizes,
                      const int64_t *strides, size_t ndim)
{
	op("ctorch._utils\n_rebuild_tensor_v2\n(");
	op_storage(type, key, n);
	op_int(first);
	op_dims(sizes, ndim);
	op_dims(strides, ndim);
	op("\x89"
	   "ccollections\nOrderedDict\n)RtR");
}

/* 0, 1, ... 5 as f32: what every storage of these tests holds. */
static const float six[6] = { 0, 1, 2, 3, 4, 5 };

static const char *checkpoint(bool deflate)
{
	const struct member m[] = {
		{ .name = "archive/data.pkl", .data = pickle.p, .size = pickle.n, .deflate = deflate },
		{ .name = "archive/byteorder", .data = "little", .size = 6 },
		{ .name = "archive/data/0", .data = six, .size = sizeof six, .deflate = deflate },
		{ .name = "archive/version", .data = "3\n", .size = 2 },
	};
	build_zip(&file, m, sizeof m / sizeof *m, false);
	return save("model.pt", &file);
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
	float got[16];
	assert_non_null(t);
	assert_int_equal(t->n_elems, n);
	st_tensor_decode(t, 0, st_tensor_rows(t), got);
	assert_memory_equal(got, want, n * sizeof *want);
}

/* A checkpoint of one tensor "w". */
static const char *one(const char *type, const char *key, int64_t n, int64_t first, const int64_t *sizes,
                       const int64_t *strides, size_t ndim)
{
	op_begin();
	op("}");
	op_str("w");
	op_tensor(type, key, n, first, sizes, strides, ndim);
	op("s.");
	return checkpoint(false);
}
#define FLOATS "torch\nFloatStorage"
#define D(...) ((const int64_t[]){ __VA_ARGS__ })

/* ---- what is read ---- */

static void views_of_all_kinds(void **state)
{
	(void)state;
	static const struct {
		int64_t first, sizes[2], strides[2];
		size_t ndim, n;
		enum st_layout layout;
		float want[6];
	} cases[] = {
		{ 0, { 2, 3 }, { 3, 1 }, 2, 6, ST_LAYOUT_ROWS, { 0, 1, 2, 3, 4, 5 } },
		{ 0, { 3, 2 }, { 1, 3 }, 2, 6, ST_LAYOUT_STRIDED, { 0, 3, 1, 4, 2, 5 } }, /* transposed */
		{ 1, { 2, 2 }, { 3, 1 }, 2, 4, ST_LAYOUT_STRIDED, { 1, 2, 4, 5 } },       /* columns 1 and 2 */
		{ 4, { 2, 0 }, { 1, 0 }, 1, 2, ST_LAYOUT_ROWS, { 4, 5 } },
		{ 1, { 3, 0 }, { 2, 0 }, 1, 3, ST_LAYOUT_STRIDED, { 1, 3, 5 } },      /* every other one */
		{ 5, { 0, 0 }, { 0, 0 }, 0, 1, ST_LAYOUT_ROWS, { 5 } },               /* a scalar */
		{ 0, { 1, 3 }, { INT64_MAX, 1 }, 2, 3, ST_LAYOUT_ROWS, { 0, 1, 2 } }, /* the stride of a dimension of
		                                                                         one is anything */
		{ 0, { 3, 1 }, { 2, INT64_MAX }, 2, 3, ST_LAYOUT_STRIDED, { 0, 2, 4 } },
		{ 2, { 3, 0 }, { 1, 1 }, 2, 0, ST_LAYOUT_ROWS, { 0 } }, /* empty */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container *c = open_ok(
			one(FLOATS, "0", 6, cases[i].first, cases[i].sizes, cases[i].strides, cases[i].ndim));
		const struct st_tensor *t = st_container_find(c, "w");
		assert_values(t, cases[i].want, cases[i].n);
		assert_int_equal(t->layout, cases[i].layout);
		assert_int_equal(t->ndim, cases[i].ndim);
		/* Stored members are views: the bytes in the file are the tensor's. */
		if (cases[i].n)
			assert_memory_equal(file.p + t->offset, &six[cases[i].first], 4);
		st_container_close(c);
	}
}

static void types_of_storages(void **state)
{
	(void)state;
	/* The 24 bytes of `six` under another name: element 3 of 2-byte types is the high half of 1.0f, 0x3f80. */
	static const struct {
		const char *type;
		enum st_dtype dtype;
		int64_t n;
	} cases[] = {
		{ "torch\nHalfStorage", ST_DTYPE_F16, 12 },  { "torch\nBFloat16Storage", ST_DTYPE_BF16, 12 },
		{ "torch\nDoubleStorage", ST_DTYPE_F64, 3 }, { "torch\nLongStorage", ST_DTYPE_I64, 3 },
		{ "torch\nIntStorage", ST_DTYPE_I32, 6 },    { "torch\nShortStorage", ST_DTYPE_I16, 12 },
		{ "torch\nCharStorage", ST_DTYPE_I8, 24 },   { "torch\nByteStorage", ST_DTYPE_U8, 24 },
		{ "torch\nBoolStorage", ST_DTYPE_BOOL, 24 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container *c = open_ok(one(cases[i].type, "0", cases[i].n, 0, D(cases[i].n), D(1), 1));
		const struct st_tensor *t = st_container_find(c, "w");
		assert_int_equal(t->dtype, cases[i].dtype);
		assert_int_equal(t->n_bytes, 24);
		if (t->dtype == ST_DTYPE_BF16) {
			float got[12];
			st_tensor_decode(t, 0, 1, got);
			assert_true(got[3] == 1.f && got[5] == 2.f);
		}
		st_container_close(c);
	}
}

/* Nested dictionaries, lists, numbers beside tensors, attributes of a state dictionary, a parameter. */
static void names_of_nested_values(void **state)
{
	(void)state;
	for (int deflate = 0; deflate < 2; deflate++) {
		op_begin();
		op("}(");
		op_str("model");
		op("ccollections\nOrderedDict\n)R(");
		op_str("fc.weight");
		op_tensor(FLOATS, "0", 6, 0, D(2, 3), D(3, 1), 2);
		op_str("fc.bias");
		op("ctorch._utils\n_rebuild_parameter\n(");
		op_tensor(FLOATS, "0", 6, 3, D(3), D(1), 1);
		op("\x88"
		   "ccollections\nOrderedDict\n)RtR");
		op("u}");
		op_str("_metadata");
		op("}sb"); /* BUILD */
		op_str("optimizer");
		op("}(K\x07}");
		op_str("exp_avg");
		op_tensor(FLOATS, "0", 6, 0, D(1), D(1), 1);
		op("s");
		op_str("steps");
		op("](K\x01K\x02");
		op_tensor(FLOATS, "0", 6, 4, D(2), D(1), 1);
		op("eu");
		op_str("lr");
		op("G");
		put(&pickle, "\x3f\xf0\0\0\0\0\0\0", 8);
		op_str("seed");
		put(&pickle, "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0", 11); /* 2^64 - 1 takes nine bytes */
		op_str("done");
		op("N");
		op("u.");
		struct st_container *c = open_ok(checkpoint(deflate));
		assert_int_equal(st_container_n_tensors(c), 4);
		assert_values(st_container_find(c, "model.fc.weight"), six, 6);
		assert_values(st_container_find(c, "model.fc.bias"), six + 3, 3);
		assert_values(st_container_find(c, "optimizer.7.exp_avg"), six, 1);
		assert_values(st_container_find(c, "optimizer.steps.2"), six + 4, 2);
		st_container_close(c);
	}
}

static void whole_file_is_one_tensor(void **state)
{
	(void)state;
	op_begin();
	op_tensor(FLOATS, "0", 6, 0, D(6), D(1), 1);
	op(".");
	struct st_container *c = open_ok(checkpoint(false));
	assert_values(st_container_find(c, "model"), six, 6);
	st_container_close(c);
	/* Nothing at all, marked before there is a stack */
	op_begin();
	op("(t.");
	c = open_ok(checkpoint(false));
	assert_int_equal(st_container_n_tensors(c), 0);
	st_container_close(c);
}

/* Protocol 4 spells names and strings otherwise; _rebuild_tensor_v3 reads bytes under a type of its own. */
static void protocol_4_and_untyped_storages(void **state)
{
	(void)state;
	pickle.n = 0;
	op("\x80\x04}\x94\x8c\x01w\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v3\x94\x93\x94((");
	op_str("storage");
	op("ctorch.storage\nUntypedStorage\n");
	op_str("0");
	op_str("cpu");
	op("K\x18t\x94QK\x01K\x02K\x02\x86\x94K\x01K\x02\x86\x94\x89}ctorch\nfloat32\nt\x94R\x94s.");
	struct st_container *c = open_ok(checkpoint(false));
	/* first 1, sizes 2 2, strides 1 2 */
	assert_values(st_container_find(c, "w"), (float[]){ 1, 3, 2, 4 }, 4);
	st_container_close(c);
}

/* A file of one tensor: the first `rows` rows of [[0, 1, 2], [3, 4, 5]]. */
static void save_shard(const char *file_name, const char *tensor, int64_t rows)
{
	op_begin();
	op("}");
	op_str(tensor);
	op_tensor(FLOATS, "0", 6, 0, D(rows, 3), D(3, 1), 2);
	op("s.");
	checkpoint(false);
	save(file_name, &file);
}

#define SHARDS "hf/pytorch_model.bin.index.json"
#define SHARD_1 "pytorch_model-00001-of-00002.bin"
#define SHARD_2 "pytorch_model-00002-of-00002.bin"

static void folder_of_shards(void **state)
{
	(void)state;
	assert_int_equal(mkdir(in_folder("hf"), 0700), 0);
	save_shard("hf/" SHARD_1, "a", 1);
	save_shard("hf/" SHARD_2, "b", 2);
	save_text("hf/config.json", "{\"num_hidden_layers\":1}");
	save_text(SHARDS, "{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"" SHARD_2 "\"}}");
	for (int i = 0; i < 2; i++) {
		struct st_container *c = open_ok(in_folder(i ? SHARDS : "hf"));
		assert_string_equal(st_container_describe(c),
		                    i ? "torch zip checkpoint, 2 shards"
		                      : "torch zip checkpoint, 2 shards (Hugging Face folder)");
		assert_int_equal(st_container_format(c), ST_FORMAT_TORCH);
		assert_int_equal(st_container_n_tensors(c), 2);
		assert_values(st_container_find(c, "a"), six, 3);
		assert_values(st_container_find(c, "b"), six, 6);
		assert_int_equal(st_container_find(c, "b")->file, 1);
		assert_int_equal(json_integer_value(json_object_get(c->docs.config, "num_hidden_layers")), 1);
		st_container_close(c);
	}
	static const struct {
		const char *index;
		enum st_status status;
		const char *says;
	} wrong[] = {
		{ "{\"weight_map\":{\"a\":\"" SHARD_2 "\",\"b\":\"" SHARD_2 "\"}}", ST_ERR_FORMAT,
		  "a: weight_map puts it into " SHARD_2 ", which does not hold it" },
		{ "{\"weight_map\":{\"a\":\"../" SHARD_1 "\"}}", ST_ERR_FORMAT, "a: weight_map points outside" },
		{ "{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"absent.bin\"}}", ST_ERR_IO,
		  "absent.bin: cannot open" },
		{ "{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"zz.txt\"}}", ST_ERR_FORMAT,
		  "zz.txt: byte 4: zip directory" },
	};
	save_text("hf/zz.txt", "text");
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		save_text(SHARDS, wrong[i].index);
		assert_refused(in_folder("hf"), wrong[i].status, wrong[i].says, wrong[i].says);
	}
	save_text(SHARDS, "{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"" SHARD_2 "\"}}");
	save_shard("hf/" SHARD_2, "a", 2);
	assert_refused(in_folder("hf"), ST_ERR_FORMAT, "tensor a is in two files", "twice");
	/* One file. It has its config.json when it is named itself; an optimiser's state beside it has none. */
	assert_int_equal(unlink(in_folder(SHARDS)), 0);
	save_shard("hf/pytorch_model.bin", "c", 2);
	save_shard("hf/optimizer.pt", "state", 2);
	for (int i = 0; i < 3; i++) {
		struct st_container *c = open_ok(in_folder(i == 0   ? "hf"
		                                           : i == 1 ? "hf/pytorch_model.bin"
		                                                    : "hf/optimizer.pt"));
		assert_values(st_container_find(c, i < 2 ? "c" : "state"), six, 6);
		assert_true((c->docs.config != NULL) == (i < 2));
		st_container_close(c);
	}
}

/* ---- what is refused ---- */

static void tensors_beyond_their_storage(void **state)
{
	(void)state;
	static const struct {
		int64_t n, first, sizes[2], strides[2];
		const char *why;
	} cases[] = {
		{ 6, 1, { 2, 3 }, { 3, 1 }, "w: reaches beyond its storage of 6" },
		{ 6, 0, { 2, 3 }, { 4, 1 }, "reaches beyond" },
		{ 6, 0, { 7, 1 }, { 0, 0 }, "reaches beyond" }, /* expanded: more elements than there are */
		{ 6, 0, { INT64_MAX, INT64_MAX }, { 0, 0 }, "reaches beyond" },
		{ 6, 0, { 2, 2 }, { INT64_MAX, INT64_MAX }, "reaches beyond" },
		{ 6, 0, { 3, 2 }, { INT64_MAX, 1 }, "reaches beyond" },
		{ 6, INT64_MAX, { 1, 1 }, { 1, 1 }, "reaches beyond" },
		{ 6, -1, { 1, 1 }, { 1, 1 }, "negative offset" },
		{ 6, 0, { -1, 1 }, { 1, 1 }, "not whole numbers below" },
		{ 6, 0, { 1, 1 }, { -1, 1 }, "not whole numbers below" },
		{ 5, 0, { 1, 1 }, { 1, 1 }, "has 24 bytes where 5 elements of F32" },
		{ 7, 0, { 1, 1 }, { 1, 1 }, "has 24 bytes where 7 elements of F32" },
		{ INT64_MAX, 0, { 1, 1 }, { 1, 1 }, "elements of F32" },
		{ -6, 0, { 1, 1 }, { 1, 1 }, "no whole number below 2^63" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_refused(one(FLOATS, "0", cases[i].n, cases[i].first, cases[i].sizes, cases[i].strides, 2),
		               ST_ERR_FORMAT, cases[i].why, cases[i].why);
	assert_refused(one(FLOATS, "0", 6, 0, D(1, 1, 1, 1, 1, 1, 1, 1, 1), D(1, 1, 1, 1, 1, 1, 1, 1, 1), 9),
	               ST_ERR_LIMIT, "9 dimensions", "nine dimensions");
	assert_refused(one(FLOATS, "1", 6, 0, D(1), D(1), 1), ST_ERR_FORMAT, "w: its storage data/1 is not in the file",
	               "absent storage");
	assert_refused(one(FLOATS, "../data/0", 6, 0, D(1), D(1), 1), ST_ERR_FORMAT, "is not in the file",
	               "path in a key");
	assert_refused(one("torch\nComplexFloatStorage", "0", 3, 0, D(1), D(1), 1), ST_ERR_UNSUPPORTED,
	               "global torch.ComplexFloatStorage is not allowed", "complex");
	assert_refused(one("torch\nUntypedStorage", "0", 24, 0, D(1), D(1), 1), ST_ERR_FORMAT, "without a type",
	               "untyped in v2");
}

static const char *raw(const char *codes, size_t n)
{
	pickle.n = 0;
	put(&pickle, codes, n);
	return checkpoint(false);
}
#define RAW(codes) raw(codes, sizeof codes - 1)

static void forbidden_instructions(void **state)
{
	(void)state;
	assert_refused(RAW("\x80\x02"
	                   "cos\nsystem\nX\x02\0\0\0id\x85R."),
	               ST_ERR_UNSUPPORTED, "global os.system is not allowed", "GLOBAL");
	assert_refused(RAW("\x80\x04\x8c\x02os\x8c\x06system\x93."), ST_ERR_UNSUPPORTED,
	               "global os.system is not allowed", "STACK_GLOBAL");
	assert_refused(RAW("\x80\x02(ios\nsystem\n."), ST_ERR_UNSUPPORTED, "instruction INST", "INST");
	assert_refused(RAW("\x80\x02(cbuiltins\neval\no."), ST_ERR_UNSUPPORTED, "global builtins.eval", "OBJ");
	assert_refused(RAW("\x80\x02)\x81."), ST_ERR_UNSUPPORTED, "instruction NEWOBJ", "NEWOBJ");
	assert_refused(RAW("\x80\x02\x82\x01."), ST_ERR_UNSUPPORTED, "instruction EXT1", "EXT1");
	assert_refused(RAW("\x80\x02Pid\n."), ST_ERR_UNSUPPORTED, "instruction PERSID", "PERSID");
	/* Names of the whitelist in the wrong place, and names that only begin or end like them */
	assert_refused(RAW("\x80\x02"
	                   "ctorch\nFloatStorage\n)R."),
	               ST_ERR_UNSUPPORTED, "a call of torch.FloatStorage", "calling a type");
	assert_refused(RAW("\x80\x02"
	                   "ctorch._utils\n_rebuild_tensor_v2x\n."),
	               ST_ERR_UNSUPPORTED, "is not allowed", "longer name");
	assert_refused(RAW("\x80\x02"
	                   "ctorch\n_utils._rebuild_tensor_v2\n."),
	               ST_ERR_UNSUPPORTED, "", "the dot elsewhere");
	assert_refused(RAW("\x80\x02"
	                   "ccollections\nOrderedDict\n]\x85R."),
	               ST_ERR_FORMAT, "OrderedDict with arguments", "arguments");
	assert_refused(RAW("\x80\x02]}b."), ST_ERR_UNSUPPORTED, "attributes of a list", "BUILD of a list");
	assert_refused(RAW("\x80\x02NNb."), ST_ERR_UNSUPPORTED, "attributes of a None", "BUILD of None");
}

static void broken_pickles(void **state)
{
	(void)state;
	static const struct {
		const char *codes;
		size_t n;
		const char *why;
	} cases[] = {
#define CASE(codes, why) { codes, sizeof codes - 1, why }
		CASE("\x80\x02", "ends without STOP"),
		CASE("\x80\x02}", "ends without STOP"),
		CASE("\x80\x02.", "more or less than one value"),
		CASE("\x80\x02}}.", "more or less than one value"),
		CASE("\x80\x02(}.", "more or less than one value"),
		CASE("\x80\x02}.}", "bytes after STOP"),
		CASE("\x80\x02t.", "no mark"),
		CASE("\x80\x02"
		     "0.",
		     "no mark"),
		CASE("\x80\x02"
		     "2.",
		     "too few values"),
		CASE("\x80\x02\x86.", "too few values"),
		CASE("\x80\x02}(s.", "too few values"), /* the dictionary lies below the mark */
		CASE("\x80\x02}(R.", "too few values"),
		CASE("\x80\x02K\x01"
		     "a.",
		     "too few values"),
		CASE("\x80\x02K\x01K\x02"
		     "a.",
		     "no list"),
		CASE("\x80\x02]NNs.", "no dictionary"),
		CASE("\x80\x02}(Nu.", "key and no value"),
		CASE("\x80\x02(Nd.", "key and no value"),
		CASE("\x80\x02h\x05.", "never set"),
		CASE("\x80\x02j\xff\xff\xff\x7f.", "never set"),
		CASE("\x80\x02Nq\x05h\x04.", "never set"),
		CASE("\x80\x02X\xff\xff\xff\xff.", "needs 4294967295 bytes"),
		CASE("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "needs 18446744073709551615 bytes"),
		CASE("\x80\x02X\x01\0\0\0\xff.", "not UTF-8"),
		CASE("\x80\x02\x8b\xff\xff\xff\x7f.", "needs 2147483647 bytes"),
		CASE("\x80\x04\x95\xff\xff\0\0\0\0\0\0N.", "frame that is longer"),
		CASE("\x80\x02"
		     "cos\nsystem",
		     "name without an end"),
		CASE("\x80\x02NNR.", "no function"),
		CASE("\x80\x02NQ.", "no storage"),
		CASE("\x80\x02)Q.", "no storage"),
		CASE("\x80\x02\xff.", "unknown instruction 0xff"),
		CASE("\x80\x02NN\x93.", "name is no string"),
#undef CASE
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_refused(raw(cases[i].codes, cases[i].n), ST_ERR_FORMAT, cases[i].why, cases[i].why);
	assert_refused(RAW("\x80\x06N."), ST_ERR_UNSUPPORTED, "protocol 6", "protocol");
	assert_refused(RAW("\x80\x02Nr\xff\xff\xff\x7f."), ST_ERR_LIMIT, "memo 2147483647", "memo");
	assert_refused(RAW("\x80\x02N."), ST_ERR_UNSUPPORTED, "holds a None and no tensors", "None");
	assert_refused(RAW("\x80\x02}(NNK\x01)t."), ST_ERR_FORMAT, "", "tuple above the dictionary");
	assert_refused(RAW("\x80\x02}N}s."), ST_ERR_UNSUPPORTED, "a key that is neither string nor integer but None",
	               "key");
}

static void endless_values_end(void **state)
{
	(void)state;
	/* A list that holds itself. */
	assert_refused(RAW("\x80\x02]q\0h\0a."), ST_ERR_LIMIT, "nested more than 32 deep", "itself");
	/* 30 dictionaries, each with the one before under two keys: 2^30 paths. */
	op_begin();
	op("(}q");
	put_u8(&pickle, 0);
	for (uint8_t i = 0; i < 30; i++) {
		op("}(");
		op_str("a");
		put(&pickle, (uint8_t[]){ 'h', i }, 2);
		op_str("b");
		put(&pickle, (uint8_t[]){ 'h', i }, 2);
		put(&pickle, (uint8_t[]){ 'u', 'q', (uint8_t)(i + 1) }, 3);
	}
	op("t.");
	assert_refused(checkpoint(false), ST_ERR_LIMIT, "more nested values than the file has room for", "doubling");
	/* Instructions are counted, so memory is bounded before it is used. */
	static uint8_t many[700000];
	memset(many, ']', sizeof many);
	struct st_arena arena;
	const struct st_pkl *out;
	struct st_error err = ST_ERROR_INIT;
	st_arena_init(&arena);
	assert_int_equal(st_pickle_read(many, sizeof many, 0, 1000, &arena, &out, &err), ST_ERR_LIMIT);
	assert_true(arena.total < 1000 * 128);
	st_arena_release(&arena);
}

static void old_and_other_files(void **state)
{
	(void)state;
	assert_refused(save_n("old.pt",
	                      "\x80\x02\x8a\x0al\xfc\x9c"
	                      "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
	                      21),
	               ST_ERR_UNSUPPORTED, "before torch 1.6", "1.5");
	assert_refused(save_n("bare.pkl", "\x80\x04N.", 4), ST_ERR_UNSUPPORTED, "a bare pickle", "pickle");
	assert_refused(save_n("attack.pkl",
	                      "\x80\x02"
	                      "cos\nsystem\n.",
	                      14),
	               ST_ERR_UNSUPPORTED, "global os.system is not allowed", "attack");
	static uint8_t tar[512];
	memcpy(tar, "storages", 8);
	memcpy(tar + 257, "ustar", 5);
	assert_refused(save_n("old.tar", tar, sizeof tar), ST_ERR_UNSUPPORTED, "tar file", "tar");
	struct member big[] = { { .name = "a/data.pkl", .data = "\x80\x02}.", .size = 4 },
		                { .name = "a/byteorder", .data = "big", .size = 3 } };
	build_zip(&file, big, 2, false);
	assert_refused(save("big.pt", &file), ST_ERR_UNSUPPORTED, "byte order", "big endian");
	struct member two[] = { { .name = "a/data.pkl", .data = "\x80\x02}.", .size = 4 },
		                { .name = "b/data.pkl", .data = "\x80\x02}.", .size = 4 } };
	build_zip(&file, two, 2, false);
	assert_refused(save("two.pt", &file), ST_ERR_FORMAT, "second data.pkl", "two");
	big[0].bad_crc = true;
	build_zip(&file, big, 1, false);
	assert_refused(save("crc.pt", &file), ST_ERR_FORMAT, "a/data.pkl: CRC-32", "CRC of data.pkl");
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	one(FLOATS, "0", 6, 0, D(2, 3), D(3, 1), 2);
	for (size_t n = 0; n < file.n; n++) {
		char what[40];
		snprintf(what, sizeof what, "pt cut at %zu", n);
		assert_refused(save_n("model.pt", file.p, n), ST_ERR_FORMAT, "", what);
	}
	/* And the pickle itself, in a sound archive. */
	size_t whole = pickle.n;
	for (pickle.n = 0; pickle.n < whole; pickle.n++)
		assert_refused(checkpoint(false), ST_ERR_FORMAT, "pickle", "pickle cut");
}

/* Every byte of the pickle set to every value: refused or read, never anything worse. */
static void damaged_pickles_do_no_harm(void **state)
{
	(void)state;
	struct st_error err;
	size_t sound = 0;
	op_begin();
	op("}(");
	op_str("w");
	op_tensor(FLOATS, "0", 6, 0, D(2, 3), D(3, 1), 2);
	op_str("v");
	op("](K\x01K\x02\x86q");
	put_u8(&pickle, 1);
	op("h");
	put_u8(&pickle, 1);
	op("eu.");
	for (size_t i = 0; i < pickle.n; i++) {
		for (unsigned v = 0; v < 256; v++) {
			uint8_t was = pickle.p[i];
			struct st_arena arena;
			const struct st_pkl *out = NULL;
			pickle.p[i] = (uint8_t)v;
			st_error_clear(&err);
			st_arena_init(&arena);
			enum st_status st = st_pickle_read(pickle.p, pickle.n, 0, 1 << 16, &arena, &out, &err);
			assert_true(st == ST_OK ? out != NULL : err.code == st && err.message[0]);
			sound += st == ST_OK;
			st_arena_release(&arena);
			pickle.p[i] = was;
		}
	}
	assert_true(sound >= pickle.n);
}

/* ---- the shared files ---- */

static void shared_files(void **state)
{
	(void)state;
	check_manifest("pt");
}

/* The attack collection's pickles, run bare: each is refused, and none of them by accident (the two
 * harmless ones hold a list, one of them in a protocol torch never wrote). */
static void shared_attacks_are_refused_by_name(void **state)
{
	(void)state;
	const char *dir = shared_path("malformed/pt");
	DIR *d = opendir(dir);
	size_t tried = 0;
	for (struct dirent *e; (e = readdir(d));) {
		if (strncmp(e->d_name, "picklescan-", 11) != 0 || strstr(e->d_name, ".zip"))
			continue;
		char path[1200];
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		struct st_map m;
		struct st_arena arena;
		const struct st_pkl *out;
		struct st_error err = ST_ERROR_INIT;
		assert_ok(st_map_open(&m, path, &err), &err);
		st_arena_init(&arena);
		enum st_status st = st_pickle_read(m.data, m.size, 0, 1 << 16, &arena, &out, &err);
		if (strstr(e->d_name, "benign0_v4"))
			assert_int_equal(st, ST_OK);
		else
			assert_true(st == ST_ERR_UNSUPPORTED && strstr(err.message, "not allowed"));
		st_arena_release(&arena);
		st_map_close(&m);
		tried++;
	}
	closedir(d);
	assert_true(tried > 15);
}

static void shared_values(void **state)
{
	(void)state;
	struct st_container *c = open_ok(shared_path("malformed/pt/candle-fortran_tensor_3d.pth"));
	const struct st_tensor *t = st_container_tensor(c, 0);
	float got[24];
	assert_int_equal(t->n_elems, 24);
	assert_int_equal(t->layout, ST_LAYOUT_STRIDED);
	st_tensor_decode(t, 0, st_tensor_rows(t), got);
	for (size_t i = 1; i < 24; i++)
		assert_true(got[i] == got[i - 1] + 1);
	st_container_close(c);
	c = open_ok(shared_path("malformed/pt/burn-checkpoint.pt"));
	t = st_container_find(c, "model_state_dict.fc1.weight");
	assert_non_null(t);
	assert_int_equal(t->shape[0], 10);
	assert_int_equal(t->shape[1], 5);
	st_container_close(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(views_of_all_kinds, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(types_of_storages, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(names_of_nested_values, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(whole_file_is_one_tensor, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(protocol_4_and_untyped_storages, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(folder_of_shards, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(tensors_beyond_their_storage, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(forbidden_instructions, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(broken_pickles, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(endless_values_end, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(old_and_other_files, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(every_truncation_is_refused, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(damaged_pickles_do_no_harm, make_folder, remove_folder),
		cmocka_unit_test(shared_files),
		cmocka_unit_test(shared_attacks_are_refused_by_name),
		cmocka_unit_test(shared_values),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
