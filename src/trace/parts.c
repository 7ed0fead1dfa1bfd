/* parts.c - Q, K and V captured apart, shown as the fused stage: the values of one token side by side. */
#include "trace/trace.h"

#include "base/error.h"

#include <string.h>

static bool same_positions(const struct st_trace_item *a, const struct st_trace_item *b)
{
	return a->n_positions == b->n_positions && !a->positions == !b->positions
	    && (!a->positions || memcmp(a->positions, b->positions, a->n_positions * sizeof *a->positions) == 0);
}

/* What must hold for bytes to be put side by side. */
static enum st_status check_part(const struct st_trace_item *q, const struct st_trace_item *it, struct st_error *err)
{
	const struct st_tensor *t = it->tensor, *first = q->tensor;
	const char *why = NULL;
	if (t->layout != ST_LAYOUT_ROWS)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
		                  "parts of a fused stage must be stored in row-major order");
	if (t->dtype != first->dtype)
		why = "another type";
	else if (t->ndim < 2 || t->shape[0] != first->shape[0] || !same_positions(q, it))
		why = "other positions";
	else
		return ST_OK;
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
	                  "has %s than %s; the parts of a fused stage must agree", why, first->name);
}

enum st_status st_parts_join(struct st_trace_item items[3], struct st_arena *arena, struct st_error *err)
{
	const struct st_tensor *q = items[0].tensor;
	uint64_t n_bytes = 0, n_elems = 0;
	for (int i = 0; i < 3; i++) {
		ST_TRY(check_part(&items[0], &items[i], err));
		n_bytes += items[i].tensor->n_bytes; /* each lies in a file: no overflow */
		n_elems += items[i].tensor->n_elems;
	}
	struct st_trace_key key = items[0].key;
	key.part = ST_PART_ALL;
	char name[96];
	st_trace_key_print(&key, name, sizeof name);
	struct st_tensor *t = st_arena_alloc(arena, 1, sizeof *t);
	uint8_t *data = st_arena_alloc(arena, n_bytes, 1), *to = data;
	char *own_name = st_arena_strndup(arena, name, strlen(name));
	if (!t || !data || !own_name)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint64_t rows = q->shape[0];
	for (uint64_t r = 0; r < rows; r++)
		for (int i = 0; i < 3; i++) {
			uint64_t row = items[i].tensor->n_bytes / rows;
			memcpy(to, items[i].tensor->data + r * row, (size_t)row);
			to += row;
		}
	*t = *q;
	t->name = own_name;
	t->ndim = 2;
	t->shape[1] = rows ? n_elems / rows : 0;
	memcpy(t->file_dims, t->shape, sizeof t->file_dims);
	t->n_elems = n_elems;
	t->n_bytes = n_bytes;
	t->row_bytes = rows ? n_bytes / rows : 0;
	t->data = data;
	items[0].key = key;
	items[0].tensor = t;
	return ST_OK;
}
