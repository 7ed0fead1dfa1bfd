/* whole.h - tests of every combination, and the part of it that the quick suite takes. */
#ifndef ST_TESTS_WHOLE_H
#define ST_TESTS_WHOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* The program was given "all", as in `make check-long`: every combination is tried. */
static bool whole;

static inline void whole_if_asked(int argc, char **argv) { whole = argc > 1 && strcmp(argv[1], "all") == 0; }

/*
 * Whether value k (of n) of a third factor is tried with values i and j of two others. Where not all are, the ones that
 * are make a Latin square: each value of a factor still meets each value of every other.
 */
static inline bool taken(size_t i, size_t j, size_t k, size_t n) { return whole || (i + j) % n == k; }

#endif
