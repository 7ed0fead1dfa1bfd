/*
 * unlike.c - a matrix that stands out among its like in one file.
 *
 * What was done to a weight after it had been rounded once fills digits that the others leave empty: an adapter merged into
 * numbers of BF16 that are stored in F32 leaves no number of BF16. So where all layers' matrices of one kind came the
 * same way but for very few, these were changed alone, or were left out when the others were. That is exact, and says
 * nothing of sizes, by which sound layers differ.
 */
#include "inspect/unlike.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "compare/cells.h"
#include "compare/weight_trial.h"
#include "format/container.h"
#include "graph/graph.h"

#include <stdlib.h>

#define FEWEST 5 /* others of one way beside the one that stands out */
#define SHARE 8  /* at most one in so many stands out: of more, some layers were trained and others not */

static bool is_asked(const struct st_weight *w) { return w->tensor && w->layer >= 0 && w->tensor->ndim == 2; }

/* Numbers that are all zero, or one, fit any type. */
static enum st_status tells(const struct st_tensor *t, bool *differ, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t);
	float *row = st_alloc_array(cols, sizeof *row);
	*differ = false;
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < rows && i < 4 && !*differ; i++) {
		st_tensor_decode(t, i * rows / 4, 1, row);
		for (uint64_t k = 1; k < cols; k++)
			*differ |= row[k] != row[0];
	}
	free(row);
	return ST_OK;
}

/* Of the matrices like weight i, stored as it is: how many came the way that most did. */
static void ask_kind(const struct st_model *m, const enum st_dtype *came, size_t i, struct st_unlike *of)
{
	uint32_t of_type[ST_DTYPE_COUNT] = { 0 }, all = 0;
	const struct st_weight *w = st_model_weight_at(m, i);
	for (size_t k = 0; k < st_model_n_weights(m); k++) {
		const struct st_weight *o = st_model_weight_at(m, k);
		if (!is_asked(o) || came[k] == ST_DTYPE_COUNT || o->tensor->dtype != w->tensor->dtype
		    || !st_weight_same_kind(w, o))
			continue;
		of_type[came[k]]++;
		all++;
	}
	enum st_dtype most = came[i];
	for (int t = 0; t < ST_DTYPE_COUNT; t++)
		most = of_type[t] > of_type[most] ? (enum st_dtype)t : most;
	*of = (struct st_unlike){ came[i], most, of_type[most] };
	if (of_type[most] < FEWEST || (all - of_type[most]) * SHARE > all + SHARE / 2)
		of->others = came[i];
}

enum st_status st_find_unlike(const struct st_model *m, struct st_unlike *of, struct st_error *err)
{
	size_t n = st_model_n_weights(m);
	enum st_dtype *came = st_alloc_array(n ? n : 1, sizeof *came);
	enum st_status st = came ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		struct st_held held;
		came[i] = ST_DTYPE_COUNT;
		bool differ = false;
		if (is_asked(w))
			st = tells(w->tensor, &differ, err);
		if (st != ST_OK || !differ)
			continue;
		st = st_held_type(w->tensor, &held, err);
		came[i] = held.type;
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		of[i] = (struct st_unlike){ 0 };
		if (came[i] != ST_DTYPE_COUNT)
			ask_kind(m, came, i, &of[i]);
	}
	free(came);
	return st;
}
