/* make.c - synthetic captures, so that every mode can be tried without an engine at hand. */
#include "turboquant/replay_internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct kind {
	const char *name, *what;
	struct st_tq_params p;
} kinds[] = {
	{ "linear", "linear cache, 200 of 256 rows", { 16, 8, 256, 200, 256, 0.0625, ST_TQ_MASK_CAUSAL, 0, 0, 0, 1 } },
	{ "ring",
	  "full ring, wrapped: position 1050 of capacity 1024",
	  { 16, 8, 256, 1024, 1024, 0.0625, ST_TQ_MASK_SLIDING, 512, 0, 27, 1 } },
	{ "partial",
	  "partly filled ring that starts at row 27",
	  { 16, 8, 256, 256, 1024, 0.0625, ST_TQ_MASK_SLIDING, 512, 0, 27, 1 } },
	{ "d512",
	  "head size 512, two norms per row, soft-cap 30",
	  { 8, 2, 512, 120, 128, 0.125, ST_TQ_MASK_NONE, 0, 30, 0, 1 } },
	{ "d128",
	  "head size 128, one query head per key head",
	  { 4, 4, 128, 96, 128, 0.088388347648318447, ST_TQ_MASK_CAUSAL, 0, 0, 0, 1 } },
};

static enum st_status write_file(struct st_outdir *dir, const char *name, const void *p, uint64_t n,
                                 struct st_error *err)
{
	char *path = NULL;
	struct st_outfile *f = NULL;
	if (asprintf(&path, "%s/%s", st_outdir_path(dir), name) < 0)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = st_outfile_open(path, &f, err);
	if (st == ST_OK)
		st = st_outfile_write(f, p, n, err);
	if (st == ST_OK)
		st = st_outfile_commit(f, err);
	else
		st_outfile_abort(f);
	free(path);
	return st;
}

static json_t *params_json(const struct st_tq_params *p, unsigned bits, bool signs)
{
	json_t *j = json_object();
	st_json_put(j, "num_heads", json_integer(p->num_heads));
	st_json_put(j, "num_kv_heads", json_integer(p->num_kv_heads));
	st_json_put(j, "head_dim", json_integer(p->head_dim));
	st_json_put(j, "kv_seq_len", json_integer(p->kv_seq_len));
	st_json_put(j, "kv_capacity", json_integer(p->kv_capacity));
	st_json_put(j, "scale", json_real(p->scale));
	st_json_put(j, "mask_type", json_integer(p->mask_type));
	st_json_put(j, "sliding_window", json_integer(p->sliding_window));
	st_json_put(j, "softcap", json_real(p->softcap));
	st_json_put(j, "ring_start", json_integer(p->ring_start));
	st_json_put(j, "scale_factor_d512", json_real(p->scale_factor_d512));
	st_json_put(j, "bits", json_integer(bits));
	st_json_put(j, "signs", json_string(signs ? "d1" : "none"));
	return j;
}

/* Rows outside the sequence hold what an engine leaves there: codes and norms of values long gone. */
static void stale_rows(struct st_scene *s, struct st_draw *g)
{
	const struct st_tq_params *p = &s->p;
	const size_t rb = st_tq_row_bytes(p->head_dim, s->codec.bits), nb = st_tq_norm_blocks(p->head_dim);
	for (size_t h = 0; h < p->num_kv_heads; h++) {
		for (uint32_t i = p->kv_seq_len; i < p->kv_capacity; i++) {
			size_t row = h * p->kv_capacity + (p->ring_start + (uint64_t)i) % p->kv_capacity;
			float x[512];
			st_draw_normal(g, x, p->head_dim);
			st_tq_encode(&s->codec, x, 1, s->k_codes + row * rb, s->k_norms + row * nb, NULL);
			st_draw_normal(g, x, p->head_dim);
			st_tq_encode(&s->codec, x, 1, s->v_codes + row * rb, s->v_norms + row * nb, NULL);
		}
	}
}

enum st_status st_replay_make(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	const struct kind *k = NULL;
	const char *name = o->make ? o->make : "ring";
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (!strcmp(kinds[i].name, name))
			k = kinds + i;
	if (!k)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "make-manifest",
		                  "unknown capture \"%s\"; linear, ring, partial, d512 and d128 are known", name);
	if (!o->out)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--out", "--make-manifest needs a folder to write");
	struct stat sb;
	if (o->out[0] && lstat(o->out, &sb) == 0) {
		enum st_status exists = st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, "--out",
		                                   "already exists; a capture goes into a new folder");
		st_error_in(err, o->out);
		return exists;
	}
	const struct st_tq_params *p = &k->p;
	const unsigned bits = o->bits ? o->bits : 4;
	const bool signs = o->signs == 1;
	struct st_outdir *dir = NULL;
	struct st_scene s;
	struct st_draw g;
	json_t *manifest = json_object(), *paths = json_object();
	char *text = NULL;
	enum st_status st = st_scene_init(&s, p, bits, signs, &r->exec, err);
	if (st != ST_OK)
		goto out;
	st = st_outdir_open(o->out, NULL, &dir, err);
	if (st != ST_OK) {
		if (!err->where[0])
			snprintf(err->where, sizeof err->where, "--out");
		goto out;
	}
	const uint32_t G = p->num_kv_heads, H = p->num_heads, d = p->head_dim, L = p->kv_seq_len;
	const size_t rows = (size_t)G * p->kv_capacity, rb = st_tq_row_bytes(d, bits), nb = st_tq_norm_blocks(d);
	st_draw_init(&g, o->seed_given ? o->seed : ST_TQ_SEED, r->exec.cpu);
	st_draw_normal(&g, s.k, (size_t)G * L * d);
	st_draw_normal(&g, s.v, (size_t)G * L * d);
	st_draw_normal(&g, s.q, (size_t)H * d);
	st_scene_encode(&s);
	stale_rows(&s, &g);
	const struct {
		const char *key, *file;
		const void *data;
		uint64_t bytes;
	} files[] = {
		{ "k_packed_padded", "k_packed.u8", s.k_codes, rows * rb },
		{ "v_packed_padded", "v_packed.u8", s.v_codes, rows * rb },
		{ "k_norms_padded", "k_norms.f32", s.k_norms, rows * nb * 4 },
		{ "v_norms_padded", "v_norms.f32", s.v_norms, rows * nb * 4 },
		{ "q_natural", "q_natural.f32", s.q, (uint64_t)H * d * 4 },
		{ "k_pre_quant", "k_pre_quant.f32", s.k, (uint64_t)G * L * d * 4 },
		{ "v_pre_quant", "v_pre_quant.f32", s.v, (uint64_t)G * L * d * 4 },
	};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		st_json_put(paths, files[i].key, json_string(files[i].file));
		ST_TRY_OUT(write_file(dir, files[i].file, files[i].data, files[i].bytes, err));
	}
	st_json_put(manifest, "params", params_json(p, bits, signs));
	json_object_set(manifest, "dump_paths", paths);
	text = json_dumps(manifest, JSON_INDENT(2));
	if (!text) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	ST_TRY_OUT(write_file(dir, "manifest.json", text, strlen(text), err));
	st = st_outdir_commit(dir, err);
	dir = NULL;
	st_json_put(r->json, "kind", json_string(k->name));
	st_json_put(r->json, "folder", st_json_text(o->out));
	json_object_update(r->json, manifest);
	fprintf(r->text, "wrote %s/manifest.json: %s; %u query / %u key-value heads, d %u, %u bits, signs %s\n", o->out,
	        k->what, H, G, d, bits, signs ? "d1" : "none");
out:
	st_outdir_abort(dir, err);
	st_scene_release(&s);
	json_decref(manifest);
	json_decref(paths);
	free(text);
	return st;
}
