/* npz.c - numpy's .npz: a zip file whose members are .npy arrays. */
#include "format/npy.h"
#include "format/zip.h"

#include "base/error.h"

#include <string.h>

/* Read one member into t. Text beside the numbers (labels, notes) is left out, and counted. */
static enum st_status read_member(struct st_container *c, struct st_zip *z, struct st_zip_member *m,
                                  struct st_tensor *t, bool *text, struct st_error *err)
{
	static const char suffix[] = ".npy";
	size_t n = strlen(m->name), s = sizeof suffix - 1;
	if (n <= s || strcmp(m->name + n - s, suffix) != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, m->offset, m->name,
		                  "a member of an npz that is no .npy array");
	ST_TRY(st_zip_bytes(z, m, err));
	const struct st_npy_bytes b = { .p = m->bytes, .n = m->size, .origin = m->offset, .what = m->name };
	struct st_npy_header h;
	ST_TRY(st_npy_parse(&b, &h, err));
	*text = h.kind == 'U' || h.kind == 'S';
	if (*text)
		return ST_OK;
	ST_TRY(st_npy_tensor(&b, &h, &c->arena, t, err));
	return st_container_name(c, m->name, n - s, 1024, m->offset, "array name", &t->name, err);
}

enum st_status st_npz_open(struct st_container *c, const char *path, struct st_error *err)
{
	uint32_t file;
	struct st_zip z;
	ST_TRY(st_container_add_file(c, path, &file, err));
	ST_TRY(st_zip_open(&z, &c->maps[file], &c->arena, err));
	c->format = ST_FORMAT_NPZ;
	c->tensors = st_container_table(c, z.n_members, sizeof *c->tensors, "arrays", err);
	if (!c->tensors)
		return err->code;
	size_t texts = 0;
	for (size_t i = 0; i < z.n_members; i++) {
		bool text;
		ST_TRY(read_member(c, &z, &z.members[i], &c->tensors[c->n_tensors], &text, err));
		texts += text;
		c->n_tensors += !text;
	}
	const char *plural = c->n_tensors == 1 ? "" : "s";
	c->describe = texts ? st_arena_printf(&c->arena, "npz, %zu array%s (%zu of text left out)", c->n_tensors,
	                                      plural, texts)
	                    : st_arena_printf(&c->arena, "npz, %zu array%s", c->n_tensors, plural);
	if (!c->describe)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return ST_OK;
}
