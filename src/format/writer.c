/* writer.c - streaming tensors into a file whose layout is known from the start. */
#include "format/writer.h"

#include "base/error.h"
#include "base/outfile.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <libdeflate.h>

struct st_writer {
	struct st_outfile *file;
	struct st_arena arena;
	struct st_write_layout layout;
	uint64_t *sizes;  /* bytes of each tensor */
	size_t n, at;     /* tensors; the one being written */
	uint64_t done;    /* bytes of it */
	uint64_t written; /* bytes of the file */
	uint32_t crc;     /* of them; kept only for a footer */
	bool placed;      /* by st_writer_put */
	bool finished;
};

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Names once each: no reader takes a file that has one twice. */
static enum st_status check_unique(const char **names, size_t n, const char *what, struct st_error *err)
{
	qsort(names, n, sizeof *names, by_text);
	for (size_t i = 0; i < n; i++) {
		if (!names[i][0])
			return st_fail(err, ST_ERR_USAGE, "a %s has an empty name", what);
		if (i && strcmp(names[i - 1], names[i]) == 0)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, names[i], "two %ss have this name", what);
	}
	return ST_OK;
}

static enum st_status check_names(struct st_arena *arena, const struct st_write_plan *plan, struct st_error *err)
{
	const char **names = st_arena_alloc(arena, plan->n_specs, sizeof *names);
	const char **keys = st_arena_alloc(arena, plan->n_kv, sizeof *keys);
	if (!names || !keys)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < plan->n_specs; i++)
		names[i] = plan->specs[i].name;
	for (size_t i = 0; i < plan->n_kv; i++)
		keys[i] = plan->kv[i].key;
	ST_TRY(check_unique(names, plan->n_specs, "tensor", err));
	return check_unique(keys, plan->n_kv, "key", err);
}

static enum st_status lay_out(struct st_writer *w, const struct st_write_plan *plan, struct st_error *err)
{
	ST_TRY(check_names(&w->arena, plan, err));
	w->n = plan->n_specs;
	w->sizes = st_arena_alloc(&w->arena, w->n, sizeof *w->sizes);
	if (!w->sizes)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < w->n; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		if (!st_stored_bytes(t->dtype, t->ndim, t->shape, &w->sizes[i]))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name,
			                  "cannot be stored as %s with this shape", st_dtype_info(t->dtype)->name);
	}
	switch (plan->format) {
	case ST_FORMAT_GGUF:
		return st_gguf_layout(plan, &w->arena, &w->layout, err);
	case ST_FORMAT_SAFETENSORS:
		return st_safetensors_layout(plan, &w->arena, &w->layout, err);
	case ST_FORMAT_APR:
		return st_apr_layout(plan, &w->arena, &w->layout, err);
	default:
		return st_fail(err, ST_ERR_UNSUPPORTED, "Stele writes GGUF, safetensors and APR, not %s",
		               st_format_name(plan->format));
	}
}

static enum st_status emit(struct st_writer *w, const void *p, size_t n, struct st_error *err)
{
	ST_TRY(st_outfile_write(w->file, p, n, err));
	if (w->layout.crc_footer)
		w->crc = libdeflate_crc32(w->crc, p, n);
	w->written += n;
	return ST_OK;
}

static enum st_status emit_zeros(struct st_writer *w, uint64_t upto, struct st_error *err)
{
	static const uint8_t zeros[4096];
	assert(w->written <= upto);
	while (w->written < upto) {
		uint64_t n = upto - w->written;
		ST_TRY(emit(w, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros, err));
	}
	return ST_OK;
}

enum st_status st_writer_open(const char *path, const struct st_write_plan *plan, struct st_writer **out,
                              struct st_error *err)
{
	*out = NULL;
	struct st_writer *w = st_alloc_zeroed(1, sizeof *w);
	if (!w)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&w->arena);
	enum st_status st = lay_out(w, plan, err);
	if (st == ST_OK)
		st = st_outfile_open(path, &w->file, err);
	if (st == ST_OK)
		st = emit(w, w->layout.header, (size_t)w->layout.header_size, err);
	if (st == ST_OK) {
		*out = w;
	} else {
		st_error_in(err, path);
		st_writer_abort(w);
	}
	return st;
}

enum st_status st_writer_append(struct st_writer *w, const void *p, size_t n, struct st_error *err)
{
	assert(!w->finished && !w->placed);
	while (w->at < w->n && w->done == w->sizes[w->at]) { /* to the next tensor that has bytes to come */
		w->at++;
		w->done = 0;
	}
	if (n == 0)
		return ST_OK;
	if (w->at == w->n || n > w->sizes[w->at] - w->done)
		return st_fail(err, ST_ERR_USAGE, "more bytes than tensor %zu of %zu has", w->at, w->n);
	if (w->done == 0)
		ST_TRY(emit_zeros(w, w->layout.offsets[w->at], err));
	ST_TRY(emit(w, p, n, err));
	w->done += n;
	return ST_OK;
}

enum st_status st_writer_put(struct st_writer *w, size_t i, uint64_t byte, const void *p, size_t n,
                             struct st_error *err)
{
	assert(!w->finished && w->written == w->layout.header_size && !w->layout.crc_footer);
	assert(byte <= w->sizes[i] && n <= w->sizes[i] - byte);
	w->placed = true;
	return st_outfile_patch(w->file, w->layout.offsets[i] + byte, p, n, err);
}

enum st_status st_writer_finish(struct st_writer *w, const char **readable, struct st_error *err)
{
	w->finished = w->placed;
	if (w->placed)
		return st_outfile_readable(w->file, readable, err);
	ST_TRY(st_writer_append(w, NULL, 0, err)); /* past tensors that are empty or complete */
	if (w->at != w->n)
		return st_fail(err, ST_ERR_USAGE, "tensor %zu of %zu is incomplete: %llu of %llu bytes", w->at, w->n,
		               (unsigned long long)w->done, (unsigned long long)w->sizes[w->at]);
	ST_TRY(emit_zeros(w, w->layout.end, err));
	if (w->layout.crc_footer) {
		uint32_t crc = w->crc;
		ST_TRY(emit(w, &crc, sizeof crc, err));
	}
	w->finished = true;
	return st_outfile_readable(w->file, readable, err);
}

enum st_status st_writer_commit(struct st_writer *w, struct st_error *err)
{
	assert(w->finished);
	enum st_status st = st_outfile_commit(w->file, err);
	w->file = NULL; /* commit frees it either way */
	st_writer_abort(w);
	return st;
}

enum st_status st_writer_close(struct st_writer *w, enum st_status so_far, struct st_error *err)
{
	const char *readable;
	if (so_far == ST_OK)
		so_far = st_writer_finish(w, &readable, err);
	if (so_far == ST_OK)
		return st_writer_commit(w, err);
	st_writer_abort(w);
	return so_far;
}

void st_writer_abort(struct st_writer *w)
{
	if (!w)
		return;
	st_outfile_abort(w->file);
	st_arena_release(&w->arena);
	free(w);
}
