/* make.c - synthetic captures, so that every mode can be tried without an engine at hand. */
#include "turboquant/modes.h"

#include "base/error.h"
#include "base/files.h"

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

static enum st_status write_file(struct st_outdir *dir, struct st_arena *mem, const char *name, const void *p,
                                 uint64_t n, struct st_error *err)
{
	return st_outfile_whole(st_path(mem, st_outdir_path(dir), name), p, n, err);
}

/* Rows outside the sequence hold what an engine leaves there: codes and norms of values long gone. */
static void stale_rows(struct st_scene *s, struct st_draw *g)
{
	const struct st_tq_params *p = &s->p;
	const size_t rb = st_tq_row_bytes(p->head_dim, s->codec.bits), nb = st_tq_norm_blocks(p->head_dim);
	for (size_t h = 0; h < p->num_kv_heads; h++) {
		for (uint32_t i = p->kv_seq_len; i < p->kv_capacity; i++) {
			const size_t row = st_capture_row(p, (uint32_t)h, i);
			for (int v = 0; v < 2; v++) {
				float x[512];
				st_draw_normal(g, x, p->head_dim);
				st_tq_encode(&s->codec, x, 1, s->codes[v] + row * rb, s->norms[v] + row * nb, NULL);
			}
		}
	}
}

static const struct kind *kind_of(const struct st_replay_options *o)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (!strcmp(kinds[i].name, o->make ? o->make : "ring"))
			return kinds + i;
	return NULL;
}

enum st_status st_make_check(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	struct stat sb;
	if (!kind_of(o))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "make-manifest",
		                  "unknown capture \"%s\"; linear, ring, partial, d512 and d128 are known", o->make);
	if (!o->out)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--out", "--make-manifest needs a folder to write");
	return lstat(o->out, &sb) != 0 ? ST_OK
	                               : st_in_file(o->out,
	                                            st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, "--out",
	                                                       "already exists; a capture goes into a new folder"),
	                                            err);
}

static enum st_status write_capture(struct st_outdir *dir, const struct st_scene *s, json_t *manifest,
                                    struct st_error *err)
{
	const struct st_tq_params *p = &s->p;
	const struct st_capture_params params = { .p = *p, .bits = s->codec.bits, .signs = s->codec.signs };
	const void *const data[ST_CAPTURE_MADE] = { s->codes[0], s->codes[1], s->norms[0], s->norms[1],
		                                    s->q,        s->pre[0],   s->pre[1] };
	json_t *paths = json_object();
	for (int f = 0; f < ST_CAPTURE_MADE; f++)
		st_json_put(paths, st_capture_sources[f].key[0], json_string(st_capture_sources[f].file));
	st_json_put_all(
		manifest,
		ST_IS("params", st_json_put_fields(json_object(), st_capture_params, ST_N_CAPTURE_PARAMS, &params)),
		ST_IS("dump_paths", paths));
	struct st_arena mem = { 0 };
	char *text = st_json_ok(manifest) ? st_json_print(manifest, JSON_INDENT(2)) : NULL;
	enum st_status st = text ? write_file(dir, &mem, "manifest.json", text, strlen(text), err)
	                         : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (int f = 0; st == ST_OK && f < ST_CAPTURE_MADE; f++)
		st = write_file(dir, &mem, st_capture_sources[f].file, data[f],
		                st_capture_bytes(p, s->codec.bits, (enum st_capture_file)f), err);
	st_arena_release(&mem);
	free(text);
	return st;
}

enum st_status st_replay_make(struct st_replay_run *r, struct st_error *err)
{
	const struct kind *k = kind_of(r->o);
	struct st_outdir *dir = NULL;
	struct st_scene s;
	struct st_draw g;
	json_t *manifest = json_object();
	enum st_status st;
	ST_TRY_OUT(st_scene_init(&s, &k->p, &r->exec, err));
	ST_TRY_OUT(st_in_place("--out", st_outdir_open(r->o->out, NULL, &dir, err), err));
	st_draw_init(&g, r->seed, r->exec.cpu);
	st_scene_draw(&s, &g);
	st_scene_encode(&s);
	stale_rows(&s, &g);
	st = write_capture(dir, &s, manifest, err);
	if (st == ST_OK) {
		st = st_outdir_commit(dir, err);
		dir = NULL;
	}
	st_json_put_all(r->json, ST_IS("kind", k->name), ST_IS("folder", r->o->out));
	json_object_update(r->json, manifest);
	fprintf(r->text, "wrote %s/manifest.json: %s; %u query / %u key-value heads, d %u, %u bits, signs %s\n",
	        r->o->out, k->what, k->p.num_heads, k->p.num_kv_heads, k->p.head_dim, r->exec.bits,
	        st_signs_name(r->exec.signs));
out:
	st_outdir_abort(dir, err);
	st_scene_release(&s);
	json_decref(manifest);
	return st;
}
