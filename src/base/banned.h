/*
 * banned.h - calls that do not compile here; included before every source file of the library and the
 * command by the build.
 *
 * Some write without knowing how much room there is, some cannot report a bad number, some keep
 * hidden state or depend on the machine's clock and locale, two run a shell. Tests, fuzz targets and
 * benchmarks may use them (ST_TESTS).
 */
#if !defined ST_BASE_BANNED_H && !defined ST_TESTS
#define ST_BASE_BANNED_H

/* First, so that their own declarations are not affected. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <mm_malloc.h> /* comes with the intrinsics, and defines functions that call malloc */
#endif

#define ST_BANNED(name, instead) _Static_assert(0, #name " is banned: use " #instead)

/* Each use becomes a declaration where an expression is expected, which no compiler accepts. */
#undef strcpy
#undef strcat
#undef strncpy
#undef strncat
#undef alloca
#undef strtok
#define strcpy(...) ST_BANNED(strcpy, snprintf)
#define strcat(...) ST_BANNED(strcat, snprintf)
#define strncpy(...) ST_BANNED(strncpy, snprintf)
#define strncat(...) ST_BANNED(strncat, snprintf)
#define sprintf(...) ST_BANNED(sprintf, snprintf)
#define vsprintf(...) ST_BANNED(vsprintf, vsnprintf)
#define gets(...) ST_BANNED(gets, fgets)
#define strtok(...) ST_BANNED(strtok, strcspn)
#define atoi(...) ST_BANNED(atoi, strtoul)
#define atol(...) ST_BANNED(atol, strtoul)
#define atoll(...) ST_BANNED(atoll, strtoull)
#define atof(...) ST_BANNED(atof, strtod)
#define rand(...) ST_BANNED(rand, base / rng.h)
#define srand(...) ST_BANNED(srand, base / rng.h)
#define localtime(...) ST_BANNED(localtime, gmtime_r)
#define gmtime(...) ST_BANNED(gmtime, gmtime_r)
#define ctime(...) ST_BANNED(ctime, strftime)
#define asctime(...) ST_BANNED(asctime, strftime)
#define mktemp(...) ST_BANNED(mktemp, base / outfile.h)
#define tmpnam(...) ST_BANNED(tmpnam, base / outfile.h)
#define alloca(...) ST_BANNED(alloca, an arena)
/* Memory comes from base/mem.h, whose calls take factors; the room itself is built with ST_BASE. */
#ifndef ST_BASE
#define malloc(...) ST_BANNED(malloc, base / mem.h)
#define calloc(...) ST_BANNED(calloc, base / mem.h)
#define realloc(...) ST_BANNED(realloc, base / mem.h)
#define reallocarray(...) ST_BANNED(reallocarray, base / mem.h)
#define aligned_alloc(...) ST_BANNED(aligned_alloc, base / mem.h)
#define posix_memalign(...) ST_BANNED(posix_memalign, base / mem.h)
#undef strdup
#undef strndup
#define strdup(...) ST_BANNED(strdup, base / mem.h)
#define strndup(...) ST_BANNED(strndup, base / mem.h)
#define asprintf(...) ST_BANNED(asprintf, base / mem.h)
#define vasprintf(...) ST_BANNED(vasprintf, base / mem.h)
#endif
#define system(...) ST_BANNED(system, nothing)
#define popen(...) ST_BANNED(popen, nothing)

#endif
