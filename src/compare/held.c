/*
 * held.c - which type the numbers of a float tensor came from.
 *
 * A file that was rounded to BF16 once and written as F32 later errs as BF16 does, and so does one that was decoded from
 * blocks. The label says what the numbers could hold; the numbers say what they do hold.
 */
#include "base/error.h"
#include "base/mem.h"
#include "compare/pair.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 64 /* looked at for blocks, spread evenly */
/* Numbers out of blocks come out of the same blocks again but for the rounding of the float type; others err by the type's whole error. */
#define SAME_BLOCKS 0.1

/* Those whose encoder finds the blocks again that a tensor was decoded from, finest first. */
static const enum st_dtype block_types[] = { ST_DTYPE_Q8_0, ST_DTYPE_Q5_0, ST_DTYPE_Q5_1, ST_DTYPE_Q4_0, ST_DTYPE_Q4_1 };

/* Stored in the order of the file: blocks end where rows do, and a permutation of rows changes nothing. */
static bool fits_floats(const struct st_tensor *t, enum st_dtype as, float *row, float *back, uint8_t *bytes)
{
	const struct st_dtype_info *info = st_dtype_info(as);
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	for (uint64_t r = 0; r < rows; r++) {
		st_tensor_decode(t, r, 1, row);
		info->encode(row, bytes, (size_t)cols);
		info->decode(bytes, back, (size_t)cols);
		if (memcmp(row, back, cols * sizeof *row) != 0)
			return false;
	}
	return true;
}

static bool fits_blocks(const struct st_tensor *t, enum st_dtype as, float *row, float *back, uint8_t *bytes)
{
	const struct st_dtype_info *info = st_dtype_info(as);
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t), n = rows < ROWS ? rows : ROWS;
	double dd = 0, xx = 0;
	if (cols % info->block_elems)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		st_tensor_decode(t, i * rows / n, 1, row);
		info->encode(row, bytes, (size_t)cols);
		info->decode(bytes, back, (size_t)cols);
		for (uint64_t k = 0; k < cols; k++) {
			dd += ((double)row[k] - back[k]) * ((double)row[k] - back[k]);
			xx += (double)row[k] * row[k];
		}
	}
	double limit = SAME_BLOCKS * info->storage_rel_rms;
	return xx > 0 && dd <= limit * limit * xx;
}

enum st_status st_held_type(const struct st_tensor *t, enum st_dtype *held, struct st_error *err)
{
	*held = t->dtype;
	if (t->dtype != ST_DTYPE_F32 && t->dtype != ST_DTYPE_F16 && t->dtype != ST_DTYPE_BF16)
		return ST_OK;
	uint64_t cols = st_tensor_cols(t);
	float *row = st_alloc_array(2 * cols, sizeof *row);
	uint8_t *bytes = st_alloc_array(cols, sizeof(double)); /* more than any of the types needs */
	enum st_status st = ST_OK;
	if (!row || !bytes) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	for (size_t i = sizeof block_types / sizeof *block_types; t->ndim == 2 && i-- > 0;) {
		if (fits_blocks(t, block_types[i], row, row + cols, bytes)) {
			*held = block_types[i];
			goto out;
		}
	}
	if (t->dtype != ST_DTYPE_BF16 && fits_floats(t, ST_DTYPE_BF16, row, row + cols, bytes))
		*held = ST_DTYPE_BF16;
	else if (t->dtype == ST_DTYPE_F32 && fits_floats(t, ST_DTYPE_F16, row, row + cols, bytes))
		*held = ST_DTYPE_F16;
out:
	free(row);
	free(bytes);
	return st;
}
