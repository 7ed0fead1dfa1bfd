/*
 * turned.c - how a square matrix lies, by the sizes of its rows and columns.
 *
 * The sizes along the stream are compared by rank with those of other matrices of the same layer and of the layers beside
 * it. Matrices that are not square are known to lie right. Ranks of n sizes that have nothing to do with each other are
 * correlated by 1 / sqrt(n), however the sizes are distributed. In SmolLM2 the profiles of the right reading are
 * correlated by 0.2 to 0.9, which is 5 to 22 of these, and those of the wrong one by 3.4 of them at most.
 */
#include "arch/turned.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINES 256 /* rows, or columns, that sizes are taken of; a multiple of all blocks */
#define FEWEST 256
#define SURE 8   /* standard deviations: that of the reading which is the right one */
#define SILENT 4 /* that of the other, with every matrix that it is compared with */
#define WITNESSES 2

static const enum st_role readers[] = { ST_ROLE_Q, ST_ROLE_K, ST_ROLE_V, ST_ROLE_GATE, ST_ROLE_UP },
			  writers[] = { ST_ROLE_O, ST_ROLE_DOWN };

struct size {
	double square;
	uint64_t at;
};

static int by_square(const void *x, const void *y)
{
	const struct size *a = x, *b = y;
	return (a->square > b->square) - (a->square < b->square);
}

/* Ranks of squares, equal ones alike, with a mean of 0 and squares that add up to 1. */
static void to_ranks(const struct size *sorted, uint64_t n, double *rank)
{
	double sum = 0;
	for (uint64_t i = 0, end; i < n; i = end) {
		for (end = i + 1; end < n && !(sorted[end].square > sorted[i].square);)
			end++;
		for (uint64_t k = i; k < end; k++)
			rank[sorted[k].at] = (double)(i + end) - (double)n;
	}
	for (uint64_t i = 0; i < n; i++)
		sum += rank[i] * rank[i];
	for (uint64_t i = 0; i < n && sum > 0; i++)
		rank[i] /= sqrt(sum);
}

/* The sizes of the columns, or of the rows, of a matrix as it is stored. */
static enum st_status profile(const struct st_tensor *t, bool of_rows, double *rank, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t), n = of_rows ? rows : cols;
	struct st_tensor part = *t;
	if (of_rows && cols > LINES)
		part.shape[part.ndim - 1] = LINES;
	uint64_t lines = of_rows || rows < LINES ? rows : LINES, wide = st_tensor_cols(&part);
	float *row = st_alloc_array(wide, sizeof *row);
	struct size *size = st_alloc_array(n, sizeof *size);
	if (!row || !size) {
		free(row);
		free(size);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	for (uint64_t i = 0; i < n; i++)
		size[i] = (struct size){ 0, i };
	for (uint64_t r = 0; r < lines; r++) {
		st_tensor_decode(&part, r * rows / lines, 1, row);
		for (uint64_t k = 0; k < wide; k++)
			size[of_rows ? r : k].square += (double)row[k] * row[k];
	}
	qsort(size, n, sizeof *size, by_square);
	to_ranks(size, n, rank);
	free(row);
	free(size);
	return st_check_cancel(err);
}

/* A whole matrix of rows that lie one after the other. */
static bool is_plain(const struct st_weight *w)
{
	return w && w->tensor && w->tensor->ndim == 2 && w->tensor->layout == ST_LAYOUT_ROWS && !w->group_rows
	    && w->expert < 0 && st_dtype_info(w->tensor->dtype)->kind != ST_KIND_INT;
}

static bool is_square(const struct st_weight *w) { return st_tensor_rows(w->tensor) == st_tensor_cols(w->tensor); }

struct witness {
	size_t of_turned;  /* how many speak for the matrix turned */
	bool silent_label; /* none speaks for it as it is labelled */
};

static double product(const double *x, const double *y, uint64_t n)
{
	double sum = 0;
	for (uint64_t i = 0; i < n; i++)
		sum += x[i] * y[i];
	return fabs(sum);
}

/* own: ranks by columns, by rows, and by rows in the order that a file keeps them in; room: one more */
static enum st_status hear(const struct st_weight *w, bool of_rows, uint64_t n, const double *own, double *room,
                           struct witness *out, struct st_error *err)
{
	ST_TRY(profile(w->tensor, of_rows, room, err));
	double label = product(own + (of_rows ? n : 0), room, n),
	       turned = fmax(product(own + (of_rows ? 0 : n), room, n), of_rows ? 0 : product(own + 2 * n, room, n));
	double sd = 1 / sqrt((double)n);
	out->of_turned += turned > SURE * sd;
	out->silent_label &= label < SILENT * sd;
	return ST_OK;
}

enum st_status st_weight_turned(const struct st_model *m, const struct st_weight *w, bool *turned, struct st_error *err)
{
	uint32_t layers = st_model_config(m)->n_layers;
	const enum st_role *like = readers;
	size_t n_like = sizeof readers / sizeof *readers;
	bool known = false, of_rows = w->role == ST_ROLE_O || w->role == ST_ROLE_DOWN;
	*turned = false;
	if (of_rows) {
		like = writers;
		n_like = sizeof writers / sizeof *writers;
	}
	for (size_t i = 0; i < n_like; i++)
		known |= like[i] == w->role;
	if (!known || w->layer < 0 || !is_plain(w) || !is_square(w) || st_tensor_cols(w->tensor) < FEWEST
	    || st_tensor_cols(w->tensor) != st_model_config(m)->hidden)
		return ST_OK;
	uint64_t n = st_tensor_cols(w->tensor);
	double *own = st_alloc_array2(4, n, sizeof *own);
	if (!own)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct witness all = { .silent_label = true };
	enum st_status st = profile(w->tensor, false, own, err);
	if (st == ST_OK)
		st = profile(w->tensor, true, own + n, err);
	for (uint64_t i = 0; i < n; i++)
		own[2 * n + i] = own[n + st_weight_stored_row(w, i)];
	for (int32_t l = w->layer - 1; l <= w->layer + 1 && st == ST_OK; l++)
		for (size_t i = 0; i < n_like && l >= 0 && l < (int32_t)layers && st == ST_OK; i++) {
			const struct st_weight *other = st_model_role(m, like[i], (uint32_t)l);
			/* Another square one may lie wrong itself. */
			if (!is_plain(other) || is_square(other)
			    || (of_rows ? st_tensor_rows(other->tensor) : st_tensor_cols(other->tensor)) != n)
				continue;
			st = hear(other, of_rows, n, own, own + 3 * n, &all, err);
		}
	free(own);
	*turned = st == ST_OK && all.of_turned >= WITNESSES && all.silent_label;
	return st;
}
