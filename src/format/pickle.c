#include "format/pickle.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 256 /* values taken from the arena at a time: its blocks are 64 bytes at least */

struct machine {
	struct st_cursor c;
	struct st_arena *arena;
	struct st_error *err;
	uint64_t at; /* file offset of the instruction, for messages */
	struct st_pkl *spare;
	size_t n_spare;
	struct st_pkl **stack;
	size_t n_stack, cap_stack;
	size_t *marks; /* heights of the stack; values below the last one are out of reach */
	size_t n_marks, cap_marks;
	struct st_pkl **memo;
	size_t n_memo, cap_memo;
};

/* ---- the whitelist ---- */

enum role {
	ROLE_TYPED_STORAGE,
	ROLE_UNTYPED_STORAGE,
	ROLE_DTYPE,
	ROLE_ORDERED_DICT,
	ROLE_SIZE,
	ROLE_TENSOR_V2,
	ROLE_TENSOR_V3,
	ROLE_PARAMETER,
};

static const struct {
	const char *name;
	enum role role;
	enum st_dtype dtype;
} globals[] = {
	{ "collections.OrderedDict", ROLE_ORDERED_DICT, 0 },
	{ "torch.Size", ROLE_SIZE, 0 },
	{ "torch._utils._rebuild_tensor_v2", ROLE_TENSOR_V2, 0 },
	{ "torch._utils._rebuild_tensor_v3", ROLE_TENSOR_V3, 0 },
	{ "torch._utils._rebuild_parameter", ROLE_PARAMETER, 0 },
	{ "torch._utils._rebuild_parameter_with_state", ROLE_PARAMETER, 0 },
	{ "torch.FloatStorage", ROLE_TYPED_STORAGE, ST_DTYPE_F32 },
	{ "torch.HalfStorage", ROLE_TYPED_STORAGE, ST_DTYPE_F16 },
	{ "torch.BFloat16Storage", ROLE_TYPED_STORAGE, ST_DTYPE_BF16 },
	{ "torch.DoubleStorage", ROLE_TYPED_STORAGE, ST_DTYPE_F64 },
	{ "torch.BoolStorage", ROLE_TYPED_STORAGE, ST_DTYPE_BOOL },
	{ "torch.ByteStorage", ROLE_TYPED_STORAGE, ST_DTYPE_U8 },
	{ "torch.CharStorage", ROLE_TYPED_STORAGE, ST_DTYPE_I8 },
	{ "torch.ShortStorage", ROLE_TYPED_STORAGE, ST_DTYPE_I16 },
	{ "torch.IntStorage", ROLE_TYPED_STORAGE, ST_DTYPE_I32 },
	{ "torch.LongStorage", ROLE_TYPED_STORAGE, ST_DTYPE_I64 },
	{ "torch.UntypedStorage", ROLE_UNTYPED_STORAGE, 0 },
	{ "torch.storage.UntypedStorage", ROLE_UNTYPED_STORAGE, 0 },
	{ "torch.float32", ROLE_DTYPE, ST_DTYPE_F32 },
	{ "torch.float16", ROLE_DTYPE, ST_DTYPE_F16 },
	{ "torch.bfloat16", ROLE_DTYPE, ST_DTYPE_BF16 },
	{ "torch.float64", ROLE_DTYPE, ST_DTYPE_F64 },
	{ "torch.float8_e4m3fn", ROLE_DTYPE, ST_DTYPE_F8_E4M3 },
	{ "torch.float8_e5m2", ROLE_DTYPE, ST_DTYPE_F8_E5M2 },
	{ "torch.bool", ROLE_DTYPE, ST_DTYPE_BOOL },
	{ "torch.uint8", ROLE_DTYPE, ST_DTYPE_U8 },
	{ "torch.int8", ROLE_DTYPE, ST_DTYPE_I8 },
	{ "torch.int16", ROLE_DTYPE, ST_DTYPE_I16 },
	{ "torch.uint16", ROLE_DTYPE, ST_DTYPE_U16 },
	{ "torch.int32", ROLE_DTYPE, ST_DTYPE_I32 },
	{ "torch.uint32", ROLE_DTYPE, ST_DTYPE_U32 },
	{ "torch.int64", ROLE_DTYPE, ST_DTYPE_I64 },
	{ "torch.uint64", ROLE_DTYPE, ST_DTYPE_U64 },
};

const char *st_pkl_kind_name(unsigned kind)
{
	static const char *const names[ST_PKL_KIND_COUNT] = {
		[ST_PKL_NONE] = "None",       [ST_PKL_BOOL] = "bool",
		[ST_PKL_INT] = "integer",     [ST_PKL_FLOAT] = "float",
		[ST_PKL_STR] = "string",      [ST_PKL_OTHER] = "bytes or long integer",
		[ST_PKL_TUPLE] = "tuple",     [ST_PKL_LIST] = "list",
		[ST_PKL_DICT] = "dictionary", [ST_PKL_GLOBAL] = "name of a function or type",
		[ST_PKL_STORAGE] = "storage", [ST_PKL_TENSOR] = "tensor",
	};
	return kind < ST_PKL_KIND_COUNT ? names[kind] : "unknown";
}

/* ---- values, stack, memo ---- */

static enum st_status fail(struct machine *m, const char *why)
{
	return st_fail_at(m->err, ST_ERR_FORMAT, m->at, "pickle", "%s", why);
}

static enum st_status no_memory(struct machine *m) { return st_fail(m->err, ST_ERR_NOMEM, "out of memory"); }

static enum st_status push(struct machine *m, struct st_pkl *v)
{
	if (!st_grow((void **)&m->stack, &m->cap_stack, m->n_stack + 1, sizeof *m->stack))
		return no_memory(m);
	m->stack[m->n_stack++] = v;
	return ST_OK;
}

/* A new value of this kind on top of the stack. */
static enum st_status make(struct machine *m, enum st_pkl_kind kind, struct st_pkl **out)
{
	if (m->n_spare == 0) {
		m->spare = st_arena_alloc(m->arena, CHUNK, sizeof *m->spare);
		if (!m->spare)
			return no_memory(m);
		m->n_spare = CHUNK;
	}
	*out = m->spare++;
	m->n_spare--;
	(*out)->kind = (uint8_t)kind;
	return push(m, *out);
}

static enum st_status push_int(struct machine *m, enum st_pkl_kind kind, int64_t i)
{
	struct st_pkl *v = NULL;
	ST_TRY(make(m, kind, &v));
	v->v.i = i;
	return ST_OK;
}

/* Values above the last mark. */
static size_t reach(const struct machine *m) { return m->n_stack - (m->n_marks ? m->marks[m->n_marks - 1] : 0); }

static enum st_status need(struct machine *m, size_t n)
{
	return reach(m) >= n ? ST_OK : fail(m, "the stack holds too few values");
}

static struct st_pkl *top(const struct machine *m) { return m->stack[m->n_stack - 1]; }

/* Take the values above the last mark, and the mark. They stay readable until the next push. */
static enum st_status pop_mark(struct machine *m, struct st_pkl ***first, size_t *n)
{
	if (m->n_marks == 0)
		return fail(m, "no mark on the stack");
	size_t height = m->marks[--m->n_marks];
	*first = height ? m->stack + height : m->stack; /* a mark may come before any value: no stack yet */
	*n = m->n_stack - height;
	m->n_stack = height;
	return ST_OK;
}

/* Append n values to a tuple, list or dictionary. */
static enum st_status extend(struct machine *m, struct st_pkl *to, struct st_pkl **v, size_t n)
{
	size_t want = to->n + n;
	if (want > to->cap) {
		size_t cap = to->cap == 0 ? want : 2 * want;
		struct st_pkl **items = cap > UINT32_MAX ? NULL : st_arena_alloc(m->arena, cap, sizeof *items);
		if (!items)
			return no_memory(m);
		if (to->n)
			memcpy(items, to->v.items, to->n * sizeof *items);
		to->v.items = items;
		to->cap = (uint32_t)cap;
	}
	if (n)
		memcpy(to->v.items + to->n, v, n * sizeof *v);
	to->n = (uint32_t)want;
	return ST_OK;
}

/* A container of the top n values. */
static enum st_status collect(struct machine *m, enum st_pkl_kind kind, struct st_pkl **v, size_t n)
{
	/* The new value takes the place of the first one on the stack: copy before it does. */
	struct st_pkl box = { .kind = (uint8_t)kind }, *out = NULL;
	if (kind == ST_PKL_DICT && n % 2 != 0)
		return fail(m, "a dictionary with a key and no value");
	ST_TRY(extend(m, &box, v, n));
	ST_TRY(make(m, kind, &out));
	*out = box;
	return ST_OK;
}

static enum st_status collect_top(struct machine *m, enum st_pkl_kind kind, size_t n)
{
	ST_TRY(need(m, n));
	m->n_stack -= n;
	return collect(m, kind, m->stack + m->n_stack, n);
}

/* Items above the mark go into the list or dictionary below it. */
static enum st_status collect_into(struct machine *m, enum st_pkl_kind kind, struct st_pkl **v, size_t n)
{
	ST_TRY(need(m, 1));
	if (top(m)->kind != kind)
		return fail(m, kind == ST_PKL_LIST ? "items for something that is no list"
		                                   : "items for something that is no dictionary");
	if (kind == ST_PKL_DICT && n % 2 != 0)
		return fail(m, "a dictionary with a key and no value");
	return extend(m, top(m), v, n);
}

static enum st_status memo_put(struct machine *m, uint64_t index)
{
	ST_TRY(need(m, 1));
	/* Picklers number their memos from 0 (or 1) on; a number far ahead would only take memory. */
	if (index > m->n_memo + 1024)
		return st_fail_at(m->err, ST_ERR_LIMIT, m->at, "pickle", "memo %llu where %zu are in use",
		                  (unsigned long long)index, m->n_memo);
	size_t had = m->cap_memo;
	if (!st_grow((void **)&m->memo, &m->cap_memo, (size_t)index + 1, sizeof *m->memo))
		return no_memory(m);
	memset(m->memo + had, 0, (m->cap_memo - had) * sizeof *m->memo);
	m->memo[index] = top(m);
	m->n_memo++;
	return ST_OK;
}

static enum st_status memo_get(struct machine *m, uint64_t index)
{
	if (index >= m->cap_memo || !m->memo[index])
		return fail(m, "a memo that was never set");
	return push(m, m->memo[index]);
}

/* ---- numbers and strings ---- */

static enum st_status push_str(struct machine *m, uint64_t n)
{
	const char *s = (const char *)st_cursor_bytes(&m->c, n, "pickle");
	struct st_pkl *v = NULL;
	if (!s)
		return m->c.st;
	if (n > UINT32_MAX || !st_utf8_valid(s, (size_t)n))
		return fail(m, "a string that is not UTF-8");
	ST_TRY(make(m, ST_PKL_STR, &v));
	v->v.s = s;
	v->n = (uint32_t)n;
	return ST_OK;
}

static enum st_status push_other(struct machine *m, uint64_t n)
{
	struct st_pkl *v;
	if (!st_cursor_bytes(&m->c, n, "pickle"))
		return m->c.st;
	return make(m, ST_PKL_OTHER, &v);
}

/* Two's complement, little endian, of any length. */
static enum st_status push_long(struct machine *m, uint64_t n)
{
	if (n > 8)
		return push_other(m, n);
	const uint8_t *p = st_cursor_bytes(&m->c, n, "pickle");
	if (!p)
		return m->c.st;
	uint64_t v = 0;
	for (uint64_t i = 0; i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	if (n > 0 && n < 8 && p[n - 1] & 0x80)
		v |= UINT64_MAX << (8 * n);
	return push_int(m, ST_PKL_INT, (int64_t)v);
}

static enum st_status push_double(struct machine *m)
{
	const uint8_t *p = st_cursor_bytes(&m->c, 8, "pickle");
	struct st_pkl *v = NULL;
	if (!p)
		return m->c.st;
	uint64_t bits = __builtin_bswap64(st_load_u64(p)); /* the one big-endian field of the format */
	ST_TRY(make(m, ST_PKL_FLOAT, &v));
	memcpy(&v->v.f, &bits, 8);
	return ST_OK;
}

/* ---- names and calls ---- */

static enum st_status push_global(struct machine *m, const char *module, size_t n_module, const char *name,
                                  size_t n_name)
{
	for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
		const char *g = globals[i].name;
		if (strlen(g) == n_module + 1 + n_name && memcmp(g, module, n_module) == 0 && g[n_module] == '.'
		    && memcmp(g + n_module + 1, name, n_name) == 0)
			return push_int(m, ST_PKL_GLOBAL, (int64_t)i);
	}
	return st_fail_at(m->err, ST_ERR_UNSUPPORTED, m->at, "pickle",
	                  "global %.*s.%.*s is not allowed: only tensors, dictionaries, lists, tuples, numbers and "
	                  "strings are read",
	                  n_module < 100 ? (int)n_module : 100, module, n_name < 100 ? (int)n_name : 100, name);
}

/* Text up to a newline. */
static enum st_status read_line(struct machine *m, const char **s, size_t *n)
{
	uint64_t left = st_cursor_left(&m->c);
	*s = (const char *)m->c.base + m->c.pos;
	const char *end = left ? memchr(*s, '\n', (size_t)left) : NULL;
	if (!end)
		return fail(m, "a name without an end");
	*n = (size_t)(end - *s);
	m->c.pos += *n + 1;
	return ST_OK;
}

static enum st_status op_global(struct machine *m)
{
	const char *module = NULL, *name = NULL;
	size_t n_module = 0, n_name = 0;
	ST_TRY(read_line(m, &module, &n_module));
	ST_TRY(read_line(m, &name, &n_name));
	return push_global(m, module, n_module, name, n_name);
}

static enum st_status op_stack_global(struct machine *m)
{
	ST_TRY(need(m, 2));
	const struct st_pkl *name = m->stack[--m->n_stack], *module = m->stack[--m->n_stack];
	if (name->kind != ST_PKL_STR || module->kind != ST_PKL_STR)
		return fail(m, "a global whose name is no string");
	return push_global(m, module->v.s, module->n, name->v.s, name->n);
}

static bool has_role(const struct st_pkl *v, enum role role)
{
	return v->kind == ST_PKL_GLOBAL && globals[v->v.i].role == role;
}

/* ("storage", type, key, location, elements): the only persistent id torch writes. */
static enum st_status op_binpersid(struct machine *m)
{
	ST_TRY(need(m, 1));
	const struct st_pkl *id = m->stack[--m->n_stack];
	struct st_pkl **v = id->v.items, *out = NULL;
	if (id->kind != ST_PKL_TUPLE || id->n < 5 || v[0]->kind != ST_PKL_STR || v[0]->n != 7
	    || memcmp(v[0]->v.s, "storage", 7) != 0 || v[2]->kind != ST_PKL_STR)
		return fail(m, "a persistent id that is no storage");
	bool typed = has_role(v[1], ROLE_TYPED_STORAGE);
	if (!typed && !has_role(v[1], ROLE_UNTYPED_STORAGE))
		return fail(m, "a storage of unknown type");
	if (v[4]->kind != ST_PKL_INT || v[4]->v.i < 0)
		return fail(m, "a storage whose length is no whole number below 2^63");
	struct st_pkl_storage *s = st_arena_alloc(m->arena, 1, sizeof *s);
	if (!s)
		return no_memory(m);
	*s = (struct st_pkl_storage){ .key = v[2]->v.s,
		                      .key_len = v[2]->n,
		                      .typed = typed,
		                      .dtype = typed ? globals[v[1]->v.i].dtype : ST_DTYPE_U8,
		                      .n = (uint64_t)v[4]->v.i };
	ST_TRY(make(m, ST_PKL_STORAGE, &out));
	out->v.storage = s;
	return ST_OK;
}

/* Sizes or strides: a tuple of whole numbers. */
static enum st_status read_dims(struct machine *m, const struct st_pkl *v, uint32_t *n, uint64_t *dims)
{
	if (v->kind != ST_PKL_TUPLE)
		return fail(m, "a tensor whose sizes or strides are no tuple");
	if (v->n > ST_MAX_DIMS)
		return st_fail_at(m->err, ST_ERR_LIMIT, m->at, "pickle", "a tensor of %u dimensions; %d are read", v->n,
		                  ST_MAX_DIMS);
	*n = v->n;
	for (uint32_t i = 0; i < v->n; i++) {
		const struct st_pkl *d = v->v.items[i];
		if (d->kind != ST_PKL_INT || d->v.i < 0)
			return fail(m, "a tensor whose sizes or strides are not whole numbers below 2^63");
		dims[i] = (uint64_t)d->v.i;
	}
	return ST_OK;
}

/* _rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks[, metadata])
 * _rebuild_tensor_v3(storage, offset, sizes, strides, requires_grad, hooks, dtype[, metadata]) */
static enum st_status build_tensor(struct machine *m, const struct st_pkl *args, bool v3)
{
	struct st_pkl **v = args->v.items, *out = NULL;
	if (args->n < (v3 ? 7u : 6u) || v[0]->kind != ST_PKL_STORAGE || v[1]->kind != ST_PKL_INT || v[1]->v.i < 0)
		return fail(m, "a tensor without a storage or with a negative offset");
	struct st_pkl_tensor *t = st_arena_alloc(m->arena, 1, sizeof *t);
	if (!t)
		return no_memory(m);
	uint32_t n_strides = 0;
	t->storage = v[0]->v.storage;
	t->first = (uint64_t)v[1]->v.i;
	t->dtype = t->storage->dtype;
	ST_TRY(read_dims(m, v[2], &t->ndim, t->shape));
	ST_TRY(read_dims(m, v[3], &n_strides, t->strides));
	if (n_strides != t->ndim)
		return fail(m, "a tensor with as many strides as it has no sizes");
	if (v3) {
		if (!has_role(v[6], ROLE_DTYPE))
			return fail(m, "a tensor without a type");
		t->dtype = globals[v[6]->v.i].dtype;
	}
	if (!v3 && !t->storage->typed)
		return fail(m, "a tensor without a type over bytes without a type");
	ST_TRY(make(m, ST_PKL_TENSOR, &out));
	out->v.tensor = t;
	return ST_OK;
}

static enum st_status op_reduce(struct machine *m)
{
	ST_TRY(need(m, 2));
	const struct st_pkl *args = m->stack[--m->n_stack], *f = m->stack[--m->n_stack];
	if (f->kind != ST_PKL_GLOBAL || args->kind != ST_PKL_TUPLE)
		return fail(m, "a call of something that is no function, or without arguments");
	switch (globals[f->v.i].role) {
	case ROLE_ORDERED_DICT:
		if (args->n != 0)
			return fail(m, "an OrderedDict with arguments");
		return collect(m, ST_PKL_DICT, NULL, 0);
	case ROLE_SIZE:
		if (args->n != 1 || args->v.items[0]->kind != ST_PKL_TUPLE)
			return fail(m, "a torch.Size that is no tuple");
		return push(m, args->v.items[0]);
	case ROLE_TENSOR_V2:
	case ROLE_TENSOR_V3:
		return build_tensor(m, args, globals[f->v.i].role == ROLE_TENSOR_V3);
	case ROLE_PARAMETER:
		if (args->n < 1 || args->v.items[0]->kind != ST_PKL_TENSOR)
			return fail(m, "a parameter without a tensor");
		return push(m, args->v.items[0]);
	default:
		return st_fail_at(m->err, ST_ERR_UNSUPPORTED, m->at, "pickle", "a call of %s is not allowed",
		                  globals[f->v.i].name);
	}
}

/* A state dictionary carries attributes beside its entries (_metadata): read and dropped. */
static enum st_status op_build(struct machine *m)
{
	ST_TRY(need(m, 2));
	const struct st_pkl *state = m->stack[--m->n_stack];
	if (top(m)->kind != ST_PKL_DICT || state->kind != ST_PKL_DICT)
		return st_fail_at(m->err, ST_ERR_UNSUPPORTED, m->at, "pickle",
		                  "setting the attributes of a %s is not allowed", st_pkl_kind_name(top(m)->kind));
	return ST_OK;
}

static enum st_status op_pop(struct machine *m)
{
	if (reach(m) > 0) {
		m->n_stack--;
		return ST_OK;
	}
	struct st_pkl **v;
	size_t n;
	return pop_mark(m, &v, &n); /* as Python does: POP on a mark takes the mark */
}

static enum st_status op_mark(struct machine *m)
{
	if (!st_grow((void **)&m->marks, &m->cap_marks, m->n_marks + 1, sizeof *m->marks))
		return no_memory(m);
	m->marks[m->n_marks++] = m->n_stack;
	return ST_OK;
}

static enum st_status op_proto(struct machine *m)
{
	unsigned v = st_cursor_u8(&m->c, "pickle");
	if (m->c.st == ST_OK && (v < 2 || v > 5))
		return st_fail_at(m->err, ST_ERR_UNSUPPORTED, m->at, "pickle", "protocol %u; 2 to 5 are read", v);
	return m->c.st;
}

static enum st_status op_frame(struct machine *m)
{
	uint64_t n = st_cursor_u64(&m->c, "pickle");
	if (m->c.st == ST_OK && n > st_cursor_left(&m->c))
		return fail(m, "a frame that is longer than the pickle");
	return m->c.st;
}

/* Instructions that exist and are refused: names of Python's pickletools. Torch writes none of them
 * (protocol 2 and later); several call or import. */
static const struct {
	uint8_t code;
	const char *name;
} refused[] = {
	{ 'i', "INST" },
	{ 'o', "OBJ" },
	{ 0x81, "NEWOBJ" },
	{ 0x92, "NEWOBJ_EX" },
	{ 'P', "PERSID" },
	{ 0x82, "EXT1" },
	{ 0x83, "EXT2" },
	{ 0x84, "EXT4" },
	{ 'I', "INT" },
	{ 'L', "LONG" },
	{ 'F', "FLOAT" },
	{ 'S', "STRING" },
	{ 'T', "BINSTRING" },
	{ 'U', "SHORT_BINSTRING" },
	{ 'V', "UNICODE" },
	{ 'g', "GET" },
	{ 'p', "PUT" },
	{ 0x8f, "EMPTY_SET" },
	{ 0x90, "ADDITEMS" },
	{ 0x91, "FROZENSET" },
	{ 0x96, "BYTEARRAY8" },
	{ 0x97, "NEXT_BUFFER" },
	{ 0x98, "READONLY_BUFFER" },
};

static enum st_status refuse(struct machine *m, unsigned op)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (refused[i].code == op)
			return st_fail_at(m->err, ST_ERR_UNSUPPORTED, m->at, "pickle", "instruction %s is not allowed",
			                  refused[i].name);
	return st_fail_at(m->err, ST_ERR_FORMAT, m->at, "pickle", "unknown instruction 0x%02x", op);
}

/* Instructions that take the values above the last mark. */
static enum st_status run_marked(struct machine *m, unsigned op)
{
	struct st_pkl **v = NULL;
	size_t n = 0;
	ST_TRY(pop_mark(m, &v, &n));
	switch (op) {
	case 't':
		return collect(m, ST_PKL_TUPLE, v, n);
	case 'l':
		return collect(m, ST_PKL_LIST, v, n);
	case 'd':
		return collect(m, ST_PKL_DICT, v, n);
	case 'e':
		return collect_into(m, ST_PKL_LIST, v, n);
	case 'u':
		return collect_into(m, ST_PKL_DICT, v, n);
	default:
		return ST_OK; /* '1', POP_MARK */
	}
}

static enum st_status run_one(struct machine *m, unsigned op)
{
	struct st_cursor *c = &m->c;
	struct st_pkl *v;
	switch (op) {
	case 0x80:
		return op_proto(m);
	case 0x95:
		return op_frame(m);
	case '(':
		return op_mark(m);
	case '0':
		return op_pop(m);
	case '2':
		ST_TRY(need(m, 1));
		return push(m, top(m));
	case 'N':
		return make(m, ST_PKL_NONE, &v);
	case 0x88:
		return push_int(m, ST_PKL_BOOL, 1);
	case 0x89:
		return push_int(m, ST_PKL_BOOL, 0);
	/* Operands are read before the value is made; a short one is found after the instruction. */
	case 'K':
		return push_int(m, ST_PKL_INT, st_cursor_u8(c, "pickle"));
	case 'M':
		return push_int(m, ST_PKL_INT, st_cursor_u16(c, "pickle"));
	case 'J':
		return push_int(m, ST_PKL_INT, (int32_t)st_cursor_u32(c, "pickle"));
	case 0x8a:
		return push_long(m, st_cursor_u8(c, "pickle"));
	case 0x8b:
		return push_long(m, st_cursor_u32(c, "pickle"));
	case 'G':
		return push_double(m);
	case 'X':
		return push_str(m, st_cursor_u32(c, "pickle"));
	case 0x8c:
		return push_str(m, st_cursor_u8(c, "pickle"));
	case 0x8d:
		return push_str(m, st_cursor_u64(c, "pickle"));
	case 'B':
		return push_other(m, st_cursor_u32(c, "pickle"));
	case 'C':
		return push_other(m, st_cursor_u8(c, "pickle"));
	case 0x8e:
		return push_other(m, st_cursor_u64(c, "pickle"));
	case ')':
		return collect(m, ST_PKL_TUPLE, NULL, 0);
	case 0x85:
		return collect_top(m, ST_PKL_TUPLE, 1);
	case 0x86:
		return collect_top(m, ST_PKL_TUPLE, 2);
	case 0x87:
		return collect_top(m, ST_PKL_TUPLE, 3);
	case ']':
		return collect(m, ST_PKL_LIST, NULL, 0);
	case '}':
		return collect(m, ST_PKL_DICT, NULL, 0);
	case 'a':
		ST_TRY(need(m, 2));
		m->n_stack -= 1;
		return collect_into(m, ST_PKL_LIST, m->stack + m->n_stack, 1);
	case 's':
		ST_TRY(need(m, 3));
		m->n_stack -= 2;
		return collect_into(m, ST_PKL_DICT, m->stack + m->n_stack, 2);
	case 't':
	case 'l':
	case 'd':
	case 'e':
	case 'u':
	case '1':
		return run_marked(m, op);
	case 'q':
		return memo_put(m, st_cursor_u8(c, "pickle"));
	case 'r':
		return memo_put(m, st_cursor_u32(c, "pickle"));
	case 0x94:
		return memo_put(m, m->n_memo);
	case 'h':
		return memo_get(m, st_cursor_u8(c, "pickle"));
	case 'j':
		return memo_get(m, st_cursor_u32(c, "pickle"));
	case 'c':
		return op_global(m);
	case 0x93:
		return op_stack_global(m);
	case 'Q':
		return op_binpersid(m);
	case 'R':
		return op_reduce(m);
	case 'b':
		return op_build(m);
	default:
		return refuse(m, op);
	}
}

static enum st_status run(struct machine *m, uint64_t max_ops, const struct st_pkl **out)
{
	for (uint64_t ops = 0;; ops++) {
		m->at = st_cursor_offset(&m->c);
		if (st_cursor_left(&m->c) == 0)
			return fail(m, "ends without STOP");
		if (ops == max_ops)
			return st_fail_at(m->err, ST_ERR_LIMIT, m->at, "pickle", "more than %llu instructions",
			                  (unsigned long long)max_ops);
		unsigned op = st_cursor_u8(&m->c, "pickle");
		if (op == '.')
			break;
		ST_TRY(run_one(m, op));
		if (m->c.st != ST_OK)
			return m->c.st;
	}
	if (m->n_marks != 0 || m->n_stack != 1)
		return fail(m, "STOP with more or less than one value");
	if (st_cursor_left(&m->c) != 0)
		return fail(m, "bytes after STOP");
	*out = m->stack[0];
	return ST_OK;
}

enum st_status st_pickle_read(const uint8_t *p, uint64_t n, uint64_t origin, uint64_t max_ops, struct st_arena *arena,
                              const struct st_pkl **out, struct st_error *err)
{
	struct machine m = { .arena = arena, .err = err };
	st_cursor_init(&m.c, p, n, origin, err);
	enum st_status st = run(&m, max_ops, out);
	free(m.stack);
	free(m.marks);
	free(m.memo);
	return st;
}
