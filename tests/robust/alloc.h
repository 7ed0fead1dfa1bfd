/*
 * alloc.h - every allocation of the library and of jansson, counted, measured and made to fail on demand.
 *
 * The program is linked with --wrap for the functions below (tests/robust/meson.build), so that this works beside
 * sanitizers and valgrind, which bring a malloc of their own.
 */
#ifndef ST_TESTS_ROBUST_ALLOC_H
#define ST_TESTS_ROBUST_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* jansson allocates through the same counters from here on. */
void alloc_init(void);
/* Let the n-th allocation from now on fail, and all after it when `all`; 0: none. */
void alloc_fail_at(uint64_t n, bool all);
/* Whether an allocation failed since. */
bool alloc_failed(void);
int64_t alloc_live(void);    /* bytes now allocated */
void alloc_peak_reset(void); /* the peak starts anew from what is live */
int64_t alloc_peak(void);    /* most bytes live at once, above those at the reset */

#endif
