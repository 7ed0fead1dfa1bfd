/* rotation.h - the residual stream in another basis. */
#ifndef ST_COMPARE_ROTATION_H
#define ST_COMPARE_ROTATION_H

#include "compare/move.h"
#include "compare/neighbours.h"

/* Sets how[] of every weight at fault where each is the other side's in one other basis of the stream; else none. */
ST_MUST_CHECK enum st_status st_find_rotation(struct st_move_search *s, struct st_error *err);

/*
 * Whether the heads of a layer stand in another basis each: V's rows of a head are b's turned, and so are O's columns
 * of the query heads that read it. They share what is between them, and the stages say whether it is turned back. norm:
 * what V reads the stream through, or NULL.
 */
ST_MUST_CHECK enum st_status st_find_turned_heads(const struct st_weight_diff *norm, const struct st_weight_diff *v,
                                                  const struct st_weight_diff *o, const struct st_heads *h, bool *yes,
                                                  struct st_error *err);

#endif
