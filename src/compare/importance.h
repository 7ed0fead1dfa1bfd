/*
 * importance.h - whether refitted scales can be the fit of importances that all rows share.
 *
 * An encoder that refits takes for a block the scale (and minimum) that fits its codes best under weights: an
 * importance of each column times something of the number itself. Where y are the stored numbers and x the original,
 *
 *     sum_i importance_i g(x_ri) y_ri (x_ri - y_ri) = 0        for every row r and its block of columns i.
 *
 * Importances are not known, and need not be. Added up over the rows it says that the column sums of g y (x - y) are
 * positive in some columns and negative in others: no importances give 0 where all 32 of a block have one sign. A
 * factor on the numbers does that, since it moves them all one way. docs/floors.md, "Refitted scales".
 */
#ifndef ST_COMPARE_IMPORTANCE_H
#define ST_COMPARE_IMPORTANCE_H

#include "compare/feasible.h"
#include "compare/rows.h"

struct st_pool;

/*
 * Rows [begin, end) of `fitted`, which a refit must explain, beside their `original`. *some: whether there may be such
 * importances; so it is where nothing tells.
 */
ST_MUST_CHECK enum st_status st_some_importances(const struct st_rows *fitted, const struct st_rows *original,
                                                 const uint64_t *idx, uint64_t begin, uint64_t end, struct st_held via,
                                                 struct st_pool *pool, bool *some, struct st_error *err);

/*
 * Two sides of one type, both refitted. Where more rows of a block of columns are equal than it has columns, the
 * importances were the same on both sides, and equal codes have equal scales: *fit is false where a block has the codes
 * of the other side under a scale that puts them outside of its cells.
 */
ST_MUST_CHECK enum st_status st_same_importances_fit(const struct st_rows *a, const struct st_rows *b,
                                                     const uint64_t *idx, uint64_t n, struct st_held via,
                                                     struct st_pool *pool, bool *fit, struct st_error *err);

#endif
