/*
 * tensors.h - the one gate through which a tensor leaves this room.
 *
 * A reader says what its file says of a tensor: name, stored type, dimensions, order of the bytes. st_tensor_place()
 * alone turns that into sizes and a view, and alone sets `data`. st_container_open() asks st_tensor_is_proved() of
 * every tensor of every format, so that nothing is changed afterwards and no reader gets round it.
 *
 * What holds of a tensor that has passed, and what all other rooms rely on:
 *   - dimensions, rows, cols, elements and bytes do not overflow; n_elems is their product, 1 for a scalar
 *   - every byte that decoding reads lies in [data, data + n_bytes), which lies in the file (or what it unfolds to)
 *   - n_elems is in proportion to those bytes, so that a buffer for a row or a column is in proportion to the file; of
 *     a tensor without elements the other dimensions are bounded in the same way
 */
#ifndef ST_FORMAT_TENSORS_H
#define ST_FORMAT_TENSORS_H

#include <stele/dtype.h>

/* Bytes that tensors may lie in: a map, a member of an archive, what a compressed file unfolds to. */
struct st_span {
	const uint8_t *p;
	uint64_t n;
	uint64_t origin; /* file offset of p */
};

/* Product of the dimensions that are not 0, and of all; false on overflow. */
ST_MUST_CHECK bool st_shape_elems(uint32_t ndim, const uint64_t *shape, uint64_t *not_zero, uint64_t *all);

/*
 * Fill n_elems, row_bytes and n_bytes from dtype, ndim, shape, layout and strides. ST_LAYOUT_ROWS: the last block of a
 * row may be part of one, rows are padded to blocks. ST_LAYOUT_FLAT: the last block of the tensor. ST_LAYOUT_STRIDED:
 * n_bytes reach to the last element. False when that overflows.
 */
ST_MUST_CHECK bool st_tensor_measure(struct st_tensor *t);

/*
 * Make t a view of the bytes at `at` in the span: measures it, checks that they are there, and sets data, offset and a
 * scale of 1. Messages name the tensor, or `in`'s owner where the tensor has no name yet.
 */
ST_MUST_CHECK enum st_status st_tensor_place(struct st_tensor *t, const struct st_span *in, uint64_t at,
                                             struct st_error *err);

/*
 * A tensor whose parts lie in several others (ST_LAYOUT_APART) is no view of its own: all parts have passed the gate,
 * and who puts them together (packed.c) has compared their shapes.
 */

/* Has t passed the gate, and do its sizes still follow from its dimensions? */
bool st_tensor_is_proved(const struct st_tensor *t);

#endif
