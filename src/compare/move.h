/*
 * move.h - a weight whose rows and columns are another's, moved about: in another order, times factors.
 */
#ifndef ST_COMPARE_MOVE_H
#define ST_COMPARE_MOVE_H

#include "compare/rows.h"

struct st_pool;

/*
 * Rows and columns from elsewhere, and times factors; NULL: as they are. A vector's elements are its columns. To a row,
 * or to an element of a vector, its mate is added times a factor: two of them that turn together, by factors that were
 * fitted and are known to within the error. col_add is added to the elements of a vector last, and is known to within
 * its error.
 */
struct st_move {
	const uint64_t *row, *col;
	const double *row_gain, *col_gain;
	const uint64_t *row_mate, *col_mate;
	const double *row_mate_gain, *col_mate_gain, *row_error, *col_error;
	const double *col_add, *col_add_error;
};

struct st_moved {
	struct st_rows from;
	struct st_move m;
};

/* A side made of it; it is asked for rows with room to spare (st_cells.spare). */
struct st_rows st_moved_rows(const struct st_moved *x);

/* What a search for moves works on. */
struct st_move_search {
	const struct st_model *ma, *mb;
	const struct st_weight_diff *d;
	size_t n;
	struct st_pool *pool;
	struct st_arena arena; /* of one group */
	const char **how;
	struct st_error *err;
};

/* Where a weight of a's graph is compared: whole, or that of one expert (-1: whole). NULL: it is not. */
const struct st_weight_diff *st_move_find(const struct st_move_search *s, const struct st_weight *w, int64_t expert);
/* Where the heads are compared as heads, which a tied one is beside the embedding. NULL: they are not. */
const struct st_weight_diff *st_move_find_head(const struct st_move_search *s);
/* That of any expert, where `first` is that of the first one (or NULL): they are compared one after the other. */
const struct st_weight_diff *st_move_of_expert(const struct st_move_search *s, const struct st_weight_diff *first,
                                               uint64_t expert);

/* Whether both sides have it, of one shape, and all its numbers are finite. */
bool st_move_comparable(const struct st_weight_diff *d);
static inline bool st_move_at_fault(const struct st_weight_diff *d) { return d && d->status == ST_WEIGHT_FAULT; }

/* Whether a is b moved so, to within the noise. */
ST_MUST_CHECK enum st_status st_move_fits(struct st_move_search *s, const struct st_weight_diff *d,
                                          const struct st_move *m, bool *yes);
/* The same for the elements of a bias, which are the rows of a matrix. */
struct st_move st_move_of_vector(const struct st_move *m);

/*
 * order[i]: the block of b, of `block` rows, that block i of a is; columns of b are taken times col_gain (or NULL). NULL
 * where that is no permutation, or where single rows are no others' rows at all.
 */
ST_MUST_CHECK enum st_status st_move_order(struct st_move_search *s, const struct st_weight_diff *d,
                                           const double *col_gain, uint64_t block, uint64_t **order);
bool st_move_is_identity(const uint64_t *order, uint64_t n);
/* Rows of n blocks of d rows, in the order of the blocks: map[i * d + j] = order[i] * d + j. */
ST_MUST_CHECK enum st_status st_move_blocks(struct st_move_search *s, const uint64_t *order, uint64_t n, uint64_t d,
                                            uint64_t **map);

/* What happened to the members of a group, of which some may be NULL, where they differ. */
void st_move_claim(struct st_move_search *s, const struct st_weight_diff *const members[], size_t n, const char *how);

#endif
