/*
 * stream.c - making and writing at the same time.
 *
 * A tensor is cut into blocks of rows and some blocks make a batch. While all threads make the blocks of one
 * batch, one of them first writes the batch before; so the disk and the processors work at once, and two
 * batches and one block per thread are all the memory there is.
 */
#include "synth/synth.h"

#include "dtype/aprq.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK ((uint64_t)1 << 16)  /* elements of a block, or one row */
#define BATCH ((uint64_t)16 << 20) /* bytes of a batch, or one block per thread */

/* The row of the source that the file has at `row`: rotary pairs side by side, or as they are. */
static uint64_t ordered(uint64_t row, uint64_t rows, uint32_t heads)
{
	if (!heads)
		return row;
	uint64_t d = rows / heads, i = row % d;
	return row - i + i / 2 + (i % 2 ? d / 2 : 0);
}

static void make_row(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x, float *scratch)
{
	uint64_t from = t->ndim == 1 ? 0 : ordered(row, t->rows, t->pairs);
	t->row(s, t, from, x);
	if (t->edit)
		t->edit(s, t, from, x);
	if (t->ndim == 1 && t->pairs) {
		memcpy(scratch, x, t->cols * sizeof *x);
		for (uint64_t i = 0; i < t->cols; i++)
			x[i] = scratch[ordered(i, t->cols, t->pairs)];
	}
}

struct stream {
	const struct st_synth *s;
	const struct st_synth_tensor *t;
	uint64_t block_rows, row_bytes;
	float scale; /* AprQ8: of the whole tensor */
	struct st_pool *pool;
	float *scratch; /* two rows for every lane */
};

static float *scratch_of(const struct stream *k, unsigned lane) { return k->scratch + 2 * k->t->cols * lane; }

static void make_block(const struct stream *k, unsigned lane, uint64_t row0, uint64_t rows, uint8_t *dst)
{
	const struct st_synth_tensor *t = k->t;
	void (*encode)(const float *, void *, size_t) = t->encode ? t->encode : st_synth_encoder(t->dtype);
	float *x = scratch_of(k, lane);
	for (uint64_t r = row0; r < row0 + rows; r++, dst += k->row_bytes) {
		make_row(k->s, t, r, x, x + t->cols);
		if (t->dtype == ST_DTYPE_APR_Q8)
			st_apr_q8_encode(x, (size_t)t->cols, k->scale, (int8_t *)dst);
		else
			encode(x, dst, (size_t)t->cols);
		if (t->mangle)
			t->mangle(t, r, dst);
	}
}

/* AprQ8 needs the largest element before the first is written. */
struct largest {
	const struct stream *k;
	float of[ST_POOL_MAX]; /* every lane's */
};

static void find_largest(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct largest *l = ctx;
	const struct stream *k = l->k;
	float *x = scratch_of(k, lane);
	for (uint64_t r = begin; r < end; r++) {
		make_row(k->s, k->t, r, x, x + k->t->cols);
		l->of[lane] = st_apr_q8_largest(l->of[lane], x, (size_t)k->t->cols);
	}
}

static enum st_status find_scale(struct stream *k, struct st_writer *w, struct st_error *err)
{
	struct largest l = { .k = k };
	st_pool_each(k->pool, k->t->rows, k->t->cols * 16, find_largest, &l);
	float largest = 0;
	for (unsigned i = 0; i < ST_POOL_MAX; i++)
		largest = l.of[i] > largest ? l.of[i] : largest;
	k->scale = st_apr_q8_scale(largest);
	return st_writer_append(w, &k->scale, sizeof k->scale, err);
}

/* One batch that is made while the one before is written. */
struct batch {
	const struct stream *k;
	uint64_t row0, rows;
	uint8_t *made;
	const uint8_t *waiting;
	uint64_t waiting_bytes;
	struct st_writer *w;
	enum st_status st; /* of writing: one lane does that */
	struct st_error *err;
};

/* Item 0 writes, the others make one block each. */
static void do_batch(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct batch *b = ctx;
	const struct stream *k = b->k;
	for (uint64_t i = begin; i < end; i++) {
		if (i == 0) {
			if (b->waiting_bytes)
				b->st = st_writer_append(b->w, b->waiting, (size_t)b->waiting_bytes, b->err);
			continue;
		}
		uint64_t first = (i - 1) * k->block_rows,
			 n = b->rows - first < k->block_rows ? b->rows - first : k->block_rows;
		make_block(k, lane, b->row0 + first, n, b->made + first * k->row_bytes);
	}
}

static enum st_status stream_tensor(struct stream *k, uint8_t *const buf[2], uint64_t batch_rows,
                                    const struct st_hooks *hooks, uint64_t *done, uint64_t total, struct st_writer *w,
                                    struct st_error *err)
{
	const struct st_synth_tensor *t = k->t;
	enum st_status st = t->dtype == ST_DTYPE_APR_Q8 ? find_scale(k, w, err) : ST_OK;
	uint64_t waiting = 0; /* bytes of the other buffer that are made and not written */
	unsigned at = 0;
	for (uint64_t row0 = 0; st == ST_OK && (row0 < t->rows || waiting); at ^= 1) {
		uint64_t rows = t->rows - row0 < batch_rows ? t->rows - row0 : batch_rows,
			 blocks = st_ceil_div(rows, k->block_rows);
		struct batch b = { k, row0, rows, buf[at], buf[at ^ 1], waiting, w, ST_OK, err };
		st_pool_run(k->pool, blocks + 1, blocks > 1 ? 1 : 2, do_batch, &b);
		st = b.st;
		*done += waiting;
		waiting = rows * k->row_bytes;
		row0 += rows;
		if (hooks->progress)
			hooks->progress(hooks->user, t->canonical, *done, total);
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	return st;
}

/* How a tensor is cut: whole rows to a block, whole blocks to a batch. */
static uint64_t cut(struct stream *k)
{
	const struct st_dtype_info *info = st_dtype_info(k->t->dtype);
	k->row_bytes = k->t->cols / info->block_elems * info->block_bytes;
	k->block_rows = k->t->cols < BLOCK ? BLOCK / k->t->cols : 1;
	uint64_t fit = BATCH / (k->block_rows * k->row_bytes), threads = st_pool_threads(k->pool);
	uint64_t rows = k->block_rows * (fit > threads ? fit : threads);
	return rows < k->t->rows ? rows : k->t->rows;
}

enum st_status st_synth_stream(const struct st_synth *s, struct st_synth_tensor *const *tensors, size_t n,
                               struct st_pool *pool, const struct st_hooks *hooks, uint64_t *done, uint64_t total,
                               struct st_writer *w, struct st_error *err)
{
	struct stream k = { .s = s, .pool = pool };
	uint64_t batch = 0, widest = 0;
	for (size_t i = 0; i < n; i++) {
		k.t = tensors[i];
		uint64_t rows = cut(&k);
		batch = rows * k.row_bytes > batch ? rows * k.row_bytes : batch;
		widest = k.t->cols > widest ? k.t->cols : widest;
	}
	uint8_t *buf[2] = { st_alloc_array(batch, 1), st_alloc_array(batch, 1) };
	k.scratch = st_alloc_array3(2, st_pool_threads(pool), widest, sizeof *k.scratch);
	enum st_status st = buf[0] && buf[1] && k.scratch ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		k.t = tensors[i];
		st = stream_tensor(&k, buf, cut(&k), hooks, done, total, w, err);
	}
	free(buf[0]);
	free(buf[1]);
	free(k.scratch);
	return st;
}
