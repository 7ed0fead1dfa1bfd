/* lanes.c - the rows of two sides as a lane of a pool reads them. */
#include "compare/lanes.h"

static bool is_past(struct st_held via) { return via.type != ST_DTYPE_F32; }

/*
 * Whether numbers of a type may have gone through another one that left no trace: one that keeps more of them. Blocks
 * count where they are a good deal finer; numbers on a coarser grid show it (held.c). Q6_K lies between: encoded again
 * it may choose other scales, and the one step of AprQ8 is as fine as its own.
 */
bool st_may_come_through(enum st_dtype type, enum st_dtype via)
{
	const struct st_dtype_info *t = st_dtype_info(type), *v = st_dtype_info(via);
	if (t->kind == ST_KIND_INT)
		return false;
	if (v->kind == ST_KIND_FLOAT)
		return v->storage_rel_rms < t->storage_rel_rms;
	return t->kind == ST_KIND_QUANT
	    && (via == ST_DTYPE_Q8_0 ? 2 * v->storage_rel_rms < t->storage_rel_rms : type == ST_DTYPE_Q6_K);
}

static struct st_cells cells_at(float *buf, uint64_t cols)
{
	return (struct st_cells){ buf, buf + cols, buf + 2 * cols, buf + 3 * cols, buf + 4 * cols };
}

void st_pair_cells(float *buf, unsigned lane, uint64_t cols, struct st_cells *a, struct st_cells *b)
{
	buf += (uint64_t)lane * ST_PAIR_BUFFER * cols;
	*a = cells_at(buf, cols);
	*b = cells_at(buf + ST_PAIR_BUFFER / 2 * cols, cols);
}

void st_cells_go_through(const struct st_rows *s, struct st_held via, const struct st_cells *dst)
{
	if (is_past(via) && st_may_come_through(s->held.type, via.type))
		st_cells_through(via, dst, s->cols);
}

void st_pair_row(const struct st_rows *s, uint64_t r, struct st_held via, const struct st_cells *dst)
{
	s->get(s, r, dst);
	st_cells_go_through(s, via, dst);
}
