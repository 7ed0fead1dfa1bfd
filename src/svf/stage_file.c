/* stage_file.c - a safetensors file written in pieces at any place: stages appear block by block, side by side. */
#include "svf/svf.h"

#include "base/error.h"
#include "base/outfile.h"

#include <assert.h>
#include <stdlib.h>

struct st_svf_file {
	struct st_outfile *out;
	struct st_arena arena;
	struct st_write_layout layout;
};

enum st_status st_svf_file_open(const char *path, const struct st_tensor_spec *specs, size_t n,
                                struct st_svf_file **out, struct st_error *err)
{
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = n, .pad_header = true
	};
	struct st_svf_file *f = calloc(1, sizeof *f);
	*out = NULL;
	if (!f)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&f->arena);
	enum st_status st = st_safetensors_layout(&plan, &f->arena, &f->layout, err);
	if (st == ST_OK)
		st = st_outfile_open(path, &f->out, err);
	if (st == ST_OK)
		st = st_outfile_write(f->out, f->layout.header, (size_t)f->layout.header_size, err);
	if (st == ST_OK)
		*out = f;
	else {
		st_error_in(err, path);
		st_svf_file_abort(f);
	}
	return st;
}

enum st_status st_svf_file_put(struct st_svf_file *f, size_t tensor, uint64_t byte, const void *p, uint64_t n,
                               struct st_error *err)
{
	uint64_t at = f->layout.offsets[tensor] + byte;
	assert(at + n <= f->layout.end);
	return st_outfile_patch(f->out, at, p, (size_t)n, err);
}

enum st_status st_svf_file_commit(struct st_svf_file *f, struct st_error *err)
{
	enum st_status st = st_outfile_commit(f->out, err);
	f->out = NULL;
	st_svf_file_abort(f);
	return st;
}

void st_svf_file_abort(struct st_svf_file *f)
{
	if (!f)
		return;
	st_outfile_abort(f->out);
	st_arena_release(&f->arena);
	free(f);
}
