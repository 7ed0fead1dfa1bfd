/* match.h - which tensor of one model is which of the other, where no family says it. */
#ifndef ST_COMPARE_MATCH_H
#define ST_COMPARE_MATCH_H

#include <stele/compare.h>

/*
 * The tensors of two models that were opened by name: `slot`, `a` and `b` of each in d[0..*n), in a's order and then
 * what only b has. Equal names belong together; then names of one meaning in two conventions; then, where exactly one
 * tensor has the shape and the values, that one. A head that one side alone has is compared with the other's embedding.
 * d has room for all tensors of both.
 */
ST_MUST_CHECK enum st_status st_match_by_name(const struct st_model *a, const struct st_model *b, struct st_pool *pool,
                                              struct st_weight_diff *d, size_t *n, struct st_error *err);

#endif
