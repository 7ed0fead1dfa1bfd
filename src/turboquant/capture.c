#include "turboquant/capture.h"

#include "base/files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MANIFEST = 1 << 20 };

static const char *const sign_names[] = { "none", "d1", NULL };

#define PARAM(m, ...)                                                                 \
	{                                                                             \
		ST_JSON_AT(struct st_capture_params, p.m), .key = { #m }, __VA_ARGS__ \
	}
const struct st_json_field st_capture_params[ST_N_CAPTURE_PARAMS] = {
	PARAM(num_heads, .required = true),
	PARAM(num_kv_heads, .required = true),
	PARAM(head_dim, .required = true),
	PARAM(kv_seq_len, .required = true),
	PARAM(kv_capacity, .required = true),
	PARAM(scale, .required = true),
	PARAM(mask_type, .required = true),
	PARAM(sliding_window, .required = false),
	PARAM(softcap, .required = false),
	PARAM(ring_start, .required = true),
	PARAM(scale_factor_d512, .required = false),
	{ ST_JSON_AT(struct st_capture_params, bits), .key = { "bits" } },
	{ ST_JSON_AT(struct st_capture_params, signs), .key = { "signs" }, .choices = sign_names },
};

/* clang-format off */
const struct st_capture_source st_capture_sources[ST_CAPTURE_FILES] = {
	[ST_CAPTURE_K_CODES] = { { "k_packed_padded", "k_packed_post_quant" }, "k_packed.u8", ST_HOLDS_CODES, true },
	[ST_CAPTURE_V_CODES] = { { "v_packed_padded", "v_packed_post_quant" }, "v_packed.u8", ST_HOLDS_CODES, true },
	[ST_CAPTURE_K_NORMS] = { { "k_norms_padded", "k_norms_post_quant" }, "k_norms.f32", ST_HOLDS_NORMS, true },
	[ST_CAPTURE_V_NORMS] = { { "v_norms_padded", "v_norms_post_quant" }, "v_norms.f32", ST_HOLDS_NORMS, true },
	[ST_CAPTURE_Q] = { { "q_natural" }, "q_natural.f32", ST_HOLDS_QUERY, true },
	[ST_CAPTURE_K_PRE] = { { "k_pre_quant" }, "k_pre_quant.f32", ST_HOLDS_VALUES, false },
	[ST_CAPTURE_V_PRE] = { { "v_pre_quant" }, "v_pre_quant.f32", ST_HOLDS_VALUES, false },
	[ST_CAPTURE_K_CANARY] = { { "k_norms_canary" }, NULL, ST_HOLDS_NORMS, false },
	[ST_CAPTURE_V_CANARY] = { { "v_norms_canary" }, NULL, ST_HOLDS_NORMS, false },
	[ST_CAPTURE_COMPACT] = { { "k_packed_compact" }, NULL, ST_HOLDS_CODES, false },
	[ST_CAPTURE_COMPACT + 1] = { { "v_packed_compact" }, NULL, ST_HOLDS_CODES, false },
	[ST_CAPTURE_COMPACT + 2] = { { "k_norms_compact" }, NULL, ST_HOLDS_NORMS, false },
	[ST_CAPTURE_COMPACT + 3] = { { "v_norms_compact" }, NULL, ST_HOLDS_NORMS, false },
};
/* clang-format on */

uint64_t st_capture_bytes(const struct st_tq_params *p, unsigned bits, enum st_capture_file f)
{
	const uint64_t G = p->num_kv_heads, d = p->head_dim, rows = G * p->kv_capacity;
	switch (st_capture_sources[f].holds) {
	case ST_HOLDS_CODES:
		return rows * st_tq_row_bytes(p->head_dim, bits);
	case ST_HOLDS_NORMS:
		return rows * st_tq_norm_blocks(p->head_dim) * sizeof(float);
	case ST_HOLDS_QUERY:
		return p->num_heads * d * sizeof(float);
	default:
		return G * p->kv_seq_len * d * sizeof(float);
	}
}

static enum st_status read_params(struct st_capture *c, const json_t *o, unsigned bits, int signs, enum st_cpu cpu,
                                  struct st_error *err)
{
	struct st_capture_params in = { .p.scale_factor_d512 = 1 };
	ST_TRY(st_json_read(o, &(struct st_json_read){ 0 }, st_capture_params, ST_N_CAPTURE_PARAMS, &in, NULL, err));
	if (in.bits && !st_tq_bits_ok(in.bits))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "bits",
		                  "%u is not a width of the cache; 4, 5, 6 and 8 are", in.bits);
	if (bits && in.bits && bits != in.bits)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "bits", "--bits %u, but the capture says %u", bits,
		                  in.bits);
	c->p = in.p;
	c->unread = st_json_unread(o, st_capture_params, ST_N_CAPTURE_PARAMS);
	ST_NEED(c->unread);
	ST_TRY(st_tq_params_check(&c->p, err));
	return st_tq_codec_init(&c->codec, c->p.head_dim,
	                        bits      ? bits
	                        : in.bits ? in.bits
	                                  : 4,
	                        signs >= 0 ? signs == 1 : in.signs == 1, c->p.scale_factor_d512, cpu, err);
}

/* A path of the manifest is relative to the manifest's own folder. */
static char *beside(struct st_arena *mem, const char *manifest, const char *path)
{
	const char *slash = strrchr(manifest, '/');
	const int folder = path[0] == '/' || !slash ? 0 : (int)(slash - manifest + 1);
	return st_arena_printf(mem, "%.*s%s", folder, manifest, path);
}

/* Where a code has a byte of its own, the byte may name a level that the codebook lacks: the cache is of another width.
 * Rows outside the sequence may never have been written, and hold anything. */
static enum st_status check_codes(const struct st_capture *c, const struct st_tq_params *p, const uint8_t *codes,
                                  const char *key, struct st_error *err)
{
	const size_t rb = st_tq_row_bytes(p->head_dim, c->codec.bits);
	const unsigned top = (1u << c->codec.bits) - 1;
	for (uint32_t g = 0; c->codec.bits != 4 && g < p->num_kv_heads; g++) {
		for (uint32_t i = 0; i < p->kv_seq_len; i++) {
			const size_t at = st_capture_row(p, g, i) * rb;
			for (size_t j = at; j < at + rb; j++)
				if (codes[j] > top)
					return st_fail_at(err, ST_ERR_FORMAT, j, key,
					                  "code %u; %u bits have the codes 0..%u", codes[j],
					                  c->codec.bits, top);
		}
	}
	return ST_OK;
}

static enum st_status check_finite(const uint8_t *data, uint64_t n, const char *key, struct st_error *err)
{
	for (uint64_t i = 0; i < n; i++) {
		float f;
		memcpy(&f, data + 4 * i, 4);
		if (!isfinite(f))
			return st_fail_at(err, ST_ERR_FORMAT, 4 * i, key, "number %llu is %s", (unsigned long long)i,
			                  isnan(f) ? "NaN" : "infinite");
	}
	return ST_OK;
}

/* p: the layout of the file */
static enum st_status open_file(struct st_capture *c, const struct st_tq_params *p, enum st_capture_file f,
                                const char *key, const char *path, struct st_error *err)
{
	const uint64_t want = st_capture_bytes(p, c->codec.bits, f),
		       newest = st_capture_sources[f].holds == ST_HOLDS_VALUES ? want / p->kv_seq_len : want;
	struct st_map *m = &c->maps[f];
	ST_TRY(st_map_open(m, path, err));
	if (m->size != want && m->size != newest)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%llu bytes, the params say %llu%s",
		                  (unsigned long long)m->size, (unsigned long long)want,
		                  newest != want ? ", or that of one row" : "");
	if (st_capture_sources[f].holds == ST_HOLDS_CODES)
		return check_codes(c, p, m->data, key, err);
	/* A query that is not finite is reported, not refused. */
	return f == ST_CAPTURE_Q ? ST_OK : check_finite(m->data, m->size / 4, key, err);
}

/* Opens files [from, to) by the paths in o. Empty names, which writers leave there, are none. */
static enum st_status open_files(struct st_capture *c, const struct st_tq_params *p, const char *manifest,
                                 const json_t *o, int from, int to, struct st_error *err)
{
	struct st_arena mem = { 0 };
	enum st_status st = ST_OK;
	for (int f = from; o && f < to && st == ST_OK; f++) {
		const struct st_capture_source *s = &st_capture_sources[f];
		const char *path = NULL, *key;
		const struct st_json_field field = { ST_JSON_IN(path), .key = { s->key[0], s->key[1] },
			                             .required = s->required };
		st = st_json_read_one(o, &(struct st_json_read){ 0 }, &field, &path, &key, err);
		if (st != ST_OK || !path || !path[0])
			continue;
		path = beside(&mem, manifest, path);
		st = st_have(path, err);
		if (st == ST_OK)
			st = open_file(c, p, (enum st_capture_file)f, key, path, err);
		st = st_in_file(path, st_in_place(key, st, err), err);
	}
	st_arena_release(&mem);
	return st;
}

/* Of files that only make sense together, the first that is missing. */
static enum st_status together(const struct st_capture *c, int from, int n, struct st_error *err)
{
	int there = 0, missing = from;
	for (int f = from + n; f-- > from;) {
		there += c->maps[f].size > 0;
		missing = c->maps[f].size ? missing : f;
	}
	return there == 0 || there == n
	             ? ST_OK
	             : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, st_capture_sources[missing].key[0],
	                          "is missing, and %s is given", n == 2 ? "the other one" : "another of the four");
}

/* Of compact_sources: the sequence alone, in its order. */
static struct st_tq_params compact_layout(const struct st_tq_params *p)
{
	struct st_tq_params compact = *p;
	compact.kv_capacity = p->kv_seq_len;
	compact.ring_start = 0;
	return compact;
}

static struct st_tq_kv kv_of(const struct st_map *m)
{
	return (struct st_tq_kv){ .codes = { m[0].data, m[1].data },
		                  .norms = { (const float *)m[2].data, (const float *)m[3].data } };
}

static enum st_status read_files(struct st_capture *c, const char *manifest, const json_t *paths, const json_t *compact,
                                 struct st_error *err)
{
	const struct st_map *m = c->maps;
	const struct st_tq_params p = compact_layout(&c->p);
	ST_TRY(open_files(c, &c->p, manifest, paths, 0, ST_CAPTURE_COMPACT, err));
	ST_TRY(together(c, ST_CAPTURE_K_PRE, 2, err));
	ST_TRY(together(c, ST_CAPTURE_K_CANARY, 2, err));
	if (m[ST_CAPTURE_K_PRE].size != m[ST_CAPTURE_V_PRE].size)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "v_pre_quant",
		                  "k_pre_quant holds another number of rows");
	c->kv = kv_of(m);
	c->q = (const float *)m[ST_CAPTURE_Q].data;
	for (int v = 0; v < 2; v++) {
		c->pre[v] = (const float *)m[ST_CAPTURE_K_PRE + v].data;
		c->norms_canary[v] = (const float *)m[ST_CAPTURE_K_CANARY + v].data;
	}
	c->n_pre = m[ST_CAPTURE_K_PRE].size == st_capture_bytes(&c->p, c->codec.bits, ST_CAPTURE_K_PRE)
	                 ? c->p.kv_seq_len
	                 : 1;
	ST_TRY(open_files(c, &p, manifest, compact, ST_CAPTURE_COMPACT, ST_CAPTURE_FILES, err));
	ST_TRY(together(c, ST_CAPTURE_COMPACT, 4, err));
	c->compact = kv_of(m + ST_CAPTURE_COMPACT);
	return ST_OK;
}

const struct st_tq_kv *st_capture_reference(const struct st_capture *c, struct st_tq_params *p)
{
	const bool compact = c->compact.codes[0] != NULL;
	*p = compact ? compact_layout(&c->p) : c->p;
	return compact ? &c->compact : &c->kv;
}

const float *st_capture_pre(const struct st_capture *c, bool v, uint32_t g, uint32_t i)
{
	const uint32_t first = c->p.kv_seq_len - c->n_pre;
	return c->pre[v] && i >= first ? c->pre[v] + ((size_t)g * c->n_pre + i - first) * c->p.head_dim : NULL;
}

enum st_status st_capture_open(struct st_capture *c, const char *manifest, unsigned bits, int signs, enum st_cpu cpu,
                               struct st_error *err)
{
	struct root {
		const json_t *params, *paths, *compact;
	} root = { 0 };
	static const struct st_json_field fields[] = {
		{ ST_JSON_AT_A(struct root, params, ST_JSON_OBJECT), .key = { "params" }, .required = true },
		{ ST_JSON_AT_A(struct root, paths, ST_JSON_OBJECT), .key = { "dump_paths", "inputs" },
		  .required = true },
		{ ST_JSON_AT_A(struct root, compact, ST_JSON_OBJECT), .key = { "compact_sources" } },
	};
	json_t *j = NULL;
	memset(c, 0, sizeof *c);
	enum st_status st = st_json_load_object(manifest, MAX_MANIFEST, &j, err);
	if (st == ST_ERR_IO)
		st = st_in_place("--manifest", st, err);
	ST_TRY_OUT(st);
	ST_TRY_OUT(
		st_json_read(j, &(struct st_json_read){ 0 }, fields, sizeof fields / sizeof *fields, &root, NULL, err));
	ST_TRY_OUT(read_params(c, root.params, bits, signs, cpu, err));
	st = read_files(c, manifest, root.paths, root.compact, err);
out:
	st_error_in(err, manifest);
	json_decref(j);
	if (st != ST_OK)
		st_capture_close(c);
	return st;
}

void st_capture_close(struct st_capture *c)
{
	for (size_t i = 0; i < ST_CAPTURE_FILES; i++)
		st_map_close(&c->maps[i]);
	json_decref(c->unread);
	memset(c, 0, sizeof *c);
}
