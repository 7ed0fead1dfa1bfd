/*
 * chain.h - whether two sides went through the same coarser type.
 *
 * Numbers that came out of a coarser type and are stored more finely now have cells as wide as that type's steps. That
 * speaks of an original which did not come the same way. Where one side's numbers lie on the other's grid far more
 * often than chance puts them there, both came the same way, and each number is judged as it is stored
 * (docs/floors.md, "The same chain").
 */
#ifndef ST_COMPARE_CHAIN_H
#define ST_COMPARE_CHAIN_H

#include "compare/rows.h"

struct st_pool;

/*
 * same[r]: row r of either side came the same way; a and b as they are stored. `held` is what
 * the numbers of the side `grid` came from, which is a or b, and `other` what those of the other side did.
 */
ST_MUST_CHECK enum st_status st_same_chain(const struct st_rows *a, const struct st_rows *b, const struct st_rows *grid,
                                           struct st_held held, struct st_held other, struct st_pool *pool, bool *same,
                                           struct st_error *err);

#endif
