/* manifest.c - a captured decode step: params, and raw little-endian f32 and u8 files beside them. */
#include "turboquant/replay_internal.h"

#include "base/error.h"
#include "base/map.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MANIFEST = 1 << 20 };

/* Exact integers only: 256.5 heads or 1e30 rows are the manifest's mistake, not something to round. */
static enum st_status get_u32(const json_t *o, const char *key, bool required, uint32_t *out, struct st_error *err)
{
	const json_t *v = json_object_get(o, key);
	if (!v && !required)
		return ST_OK;
	if (!v)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "params lacks it");
	double x = json_is_real(v) ? json_real_value(v) : (double)json_integer_value(v);
	if (!json_is_number(v) || !(x >= 0 && x <= UINT32_MAX) || x != floor(x))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is not an integer in 0..2^32-1");
	*out = (uint32_t)x;
	return ST_OK;
}

static enum st_status get_f64(const json_t *o, const char *key, bool required, double *out, struct st_error *err)
{
	const json_t *v = json_object_get(o, key);
	if (!v && !required)
		return ST_OK;
	if (!v)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "params lacks it");
	if (!json_is_number(v))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is not a number");
	*out = json_number_value(v);
	return ST_OK;
}

static enum st_status read_params(struct st_capture *c, const json_t *o, unsigned bits, int signs, struct st_error *err)
{
	uint32_t file_bits = 0;
	ST_TRY(get_u32(o, "num_heads", true, &c->p.num_heads, err));
	ST_TRY(get_u32(o, "num_kv_heads", true, &c->p.num_kv_heads, err));
	ST_TRY(get_u32(o, "head_dim", true, &c->p.head_dim, err));
	ST_TRY(get_u32(o, "kv_seq_len", true, &c->p.kv_seq_len, err));
	ST_TRY(get_u32(o, "kv_capacity", true, &c->p.kv_capacity, err));
	ST_TRY(get_f64(o, "scale", true, &c->p.scale, err));
	ST_TRY(get_u32(o, "mask_type", true, &c->p.mask_type, err));
	ST_TRY(get_u32(o, "sliding_window", c->p.mask_type == ST_TQ_MASK_SLIDING, &c->p.sliding_window, err));
	ST_TRY(get_f64(o, "softcap", false, &c->p.softcap, err));
	ST_TRY(get_u32(o, "ring_start", true, &c->p.ring_start, err));
	c->p.scale_factor_d512 = 1;
	ST_TRY(get_f64(o, "scale_factor_d512", false, &c->p.scale_factor_d512, err));
	ST_TRY(get_u32(o, "bits", false, &file_bits, err));
	if (file_bits && !st_tq_bits_ok(file_bits))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "bits",
		                  "%u is not a width of the cache; 4, 5, 6 and 8 are", file_bits);
	if (bits && file_bits && bits != file_bits)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "bits", "--bits %u, but the capture says %u", bits,
		                  file_bits);
	c->bits = bits ? bits : file_bits;
	const json_t *s = json_object_get(o, "signs");
	const char *name = json_string_value(s);
	if (s && (!name || (strcmp(name, "none") && strcmp(name, "d1"))))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "signs", "is neither \"none\" nor \"d1\"");
	c->signs = signs >= 0 ? signs == 1 : name && !strcmp(name, "d1");
	return st_tq_params_check(&c->p, err);
}

/* The keys of params that nothing here reads: of another engine's making, or misspelt. */
static json_t *unread_params(const json_t *params)
{
	static const char *const known[] = { "num_heads",   "num_kv_heads", "head_dim",          "kv_seq_len",
		                             "kv_capacity", "scale",        "mask_type",         "sliding_window",
		                             "softcap",     "ring_start",   "scale_factor_d512", "bits",
		                             "signs" };
	json_t *list = json_array();
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)params, key, v)
	{
		size_t i = 0;
		while (i < sizeof known / sizeof *known && strcmp(key, known[i]) != 0)
			i++;
		if (i == sizeof known / sizeof *known)
			json_array_append_new(list, json_string(key));
	}
	return list;
}

/* A path of the manifest is relative to the manifest's own folder. */
static char *beside(const char *manifest, const char *path)
{
	const char *slash = strrchr(manifest, '/');
	char *s = NULL;
	if (path[0] == '/' || !slash)
		return strdup(path);
	return asprintf(&s, "%.*s%s", (int)(slash - manifest + 1), manifest, path) < 0 ? NULL : s;
}

struct input {
	const char *key, *alias;
	bool required;
	enum { ANY, FINITE, CODES } holds; /* FINITE: f32 that must not be NaN or infinite; CODES: numbers of a level */
	uint64_t size;                     /* bytes; filled in from the params */
	const void **to;
};

/* Where a code has a byte of its own, the byte may name a level that the codebook lacks: the cache is of another width.
 * Rows outside the sequence may never have been written, and hold anything. */
static enum st_status check_codes(const struct st_capture *c, const uint8_t *codes, const char *key,
                                  struct st_error *err)
{
	const struct st_tq_params *p = &c->p;
	const size_t rb = st_tq_row_bytes(p->head_dim, c->bits);
	const unsigned top = (1u << c->bits) - 1;
	for (uint32_t g = 0; c->bits != 4 && g < p->num_kv_heads; g++) {
		for (uint32_t i = 0; i < p->kv_seq_len; i++) {
			const size_t at = ((size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + i) % p->kv_capacity)
			                * rb;
			for (size_t j = at; j < at + rb; j++)
				if (codes[j] > top)
					return st_fail_at(err, ST_ERR_FORMAT, j, key,
					                  "code %u; %u bits have the codes 0..%u", codes[j], c->bits,
					                  top);
		}
	}
	return ST_OK;
}

static enum st_status open_input(struct st_capture *c, const char *manifest, const json_t *paths,
                                 const struct input *in, struct st_error *err)
{
	const json_t *v = json_object_get(paths, in->key);
	const char *key = in->key;
	if (!v && in->alias) {
		v = json_object_get(paths, in->alias);
		key = v ? in->alias : key;
	}
	if ((!v || json_is_null(v)) && !in->required)
		return ST_OK;
	if (!json_is_string(v))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, v ? "is not a path" : "dump_paths lacks it");
	char *path = beside(manifest, json_string_value(v));
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct st_map *m = &c->maps[c->n_maps];
	enum st_status st = st_map_open(m, path, err);
	if (st != ST_OK && !err->where[0])
		snprintf(err->where, sizeof err->where, "%s", key);
	if (st == ST_OK) {
		c->n_maps++;
		if (m->size != in->size)
			st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%llu bytes, the params say %llu",
			                (unsigned long long)m->size, (unsigned long long)in->size);
	}
	if (st == ST_OK && in->holds == CODES)
		st = check_codes(c, m->data, key, err);
	for (uint64_t i = 0; st == ST_OK && in->holds == FINITE && i < m->size / 4; i++) {
		float f;
		memcpy(&f, m->data + 4 * i, 4);
		if (!isfinite(f))
			st = st_fail_at(err, ST_ERR_FORMAT, 4 * i, key, "number %llu is %s", (unsigned long long)i,
			                isnan(f) ? "NaN" : "infinite");
	}
	if (st == ST_OK)
		*in->to = m->data;
	else
		st_error_in(err, path);
	free(path);
	return st;
}

static enum st_status read_inputs(struct st_capture *c, const char *manifest, const json_t *paths, struct st_error *err)
{
	const uint64_t G = c->p.num_kv_heads, d = c->p.head_dim, rows = G * c->p.kv_capacity,
		       pre = G * c->p.kv_seq_len * d * 4;
	const uint64_t norms = rows * st_tq_norm_blocks(c->p.head_dim) * 4;
	if (!c->bits) {
		/* A capture that does not say: half a byte per coordinate can only be 4 bits. */
		c->bits = 4;
	}
	const uint64_t codes = rows * st_tq_row_bytes(c->p.head_dim, c->bits);
	const struct input inputs[] = {
		{ "k_packed_padded", "k_packed_post_quant", true, CODES, codes, (const void **)&c->kv.k_codes },
		{ "v_packed_padded", "v_packed_post_quant", true, CODES, codes, (const void **)&c->kv.v_codes },
		{ "k_norms_padded", "k_norms_post_quant", true, FINITE, norms, (const void **)&c->kv.k_norms },
		{ "v_norms_padded", "v_norms_post_quant", true, FINITE, norms, (const void **)&c->kv.v_norms },
		{ "q_natural", NULL, true, ANY, (uint64_t)c->p.num_heads * d * 4, (const void **)&c->q },
		{ "k_norms_canary", NULL, false, FINITE, norms, (const void **)&c->k_norms_canary },
		{ "v_norms_canary", NULL, false, FINITE, norms, (const void **)&c->v_norms_canary },
		{ "k_pre_quant", NULL, false, FINITE, pre, (const void **)&c->k_pre },
		{ "v_pre_quant", NULL, false, FINITE, pre, (const void **)&c->v_pre },
	};
	const size_t n = sizeof inputs / sizeof *inputs;
	c->maps = calloc(n, sizeof *c->maps);
	if (!c->maps)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		ST_TRY(open_input(c, manifest, paths, inputs + i, err));
	if (!c->k_pre != !c->v_pre)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, c->k_pre ? "v_pre_quant" : "k_pre_quant",
		                  "dump_paths has only the other one of k_pre_quant and v_pre_quant");
	if (!c->k_norms_canary != !c->v_norms_canary)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET,
		                  c->k_norms_canary ? "v_norms_canary" : "k_norms_canary",
		                  "dump_paths has only the other one of k_norms_canary and v_norms_canary");
	return ST_OK;
}

enum st_status st_capture_open(struct st_capture *c, const char *manifest, unsigned bits, int signs,
                               struct st_error *err)
{
	struct st_map m;
	json_t *root = NULL;
	memset(c, 0, sizeof *c);
	enum st_status st = st_map_open(&m, manifest, err);
	if (st != ST_OK) {
		if (!err->where[0])
			snprintf(err->where, sizeof err->where, "--manifest");
		return st;
	}
	if (m.size > MAX_MANIFEST) {
		st = st_fail(err, ST_ERR_LIMIT, "%llu bytes; a manifest has at most %d", (unsigned long long)m.size,
		             MAX_MANIFEST);
		goto out;
	}
	json_error_t je;
	root = json_loadb((const char *)m.data, m.size, JSON_REJECT_DUPLICATES, &je);
	if (!root) {
		st = st_fail_at(err, ST_ERR_FORMAT, je.position > 0 ? (uint64_t)je.position : 0, NULL, "not JSON: %s",
		                je.text);
		goto out;
	}
	const json_t *params = json_object_get(root, "params"), *paths = json_object_get(root, "dump_paths");
	const json_t *compact = json_object_get(root, "compact_sources");
	if (!paths)
		paths = json_object_get(root, "inputs");
	if (!json_is_object(params) || !json_is_object(paths)) {
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, json_is_object(params) ? "dump_paths" : "params",
		                "missing, or not an object");
		goto out;
	}
	if (compact && !json_is_object(compact)) {
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "compact_sources", "is not an object");
		goto out;
	}
	c->n_compact = json_object_size(compact);
	c->unread = unread_params(params);
	ST_TRY_OUT(read_params(c, params, bits, signs, err));
	st = read_inputs(c, manifest, paths, err);
out:
	st_error_in(err, manifest);
	json_decref(root);
	st_map_close(&m);
	if (st != ST_OK)
		st_capture_close(c);
	return st;
}

void st_capture_close(struct st_capture *c)
{
	for (size_t i = 0; i < c->n_maps; i++)
		st_map_close(&c->maps[i]);
	free(c->maps);
	json_decref(c->unread);
	memset(c, 0, sizeof *c);
}
