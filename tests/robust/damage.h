/*
 * damage.h - copies of the good files with bytes changed, the same for the same seed wherever they are made.
 */
#ifndef ST_TESTS_ROBUST_DAMAGE_H
#define ST_TESTS_ROBUST_DAMAGE_H

#include "good.h"

#include "base/rng.h"
#include "format/apr.h"

#include <zlib.h>

static struct st_xoshiro rng;

static inline uint64_t below(uint64_t n) { return st_xoshiro_next(&rng) % n; }

/* Numbers that break size arithmetic, and small ones. */
static inline uint64_t nasty(void)
{
	static const uint64_t list[] = { 0,
		                         1,
		                         2,
		                         3,
		                         31,
		                         32,
		                         255,
		                         256,
		                         65535,
		                         65536,
		                         INT32_MAX,
		                         (uint64_t)INT32_MAX + 1,
		                         UINT32_MAX,
		                         (uint64_t)1 << 32,
		                         (uint64_t)1 << 61,
		                         (uint64_t)1 << 62,
		                         INT64_MAX,
		                         (uint64_t)1 << 63,
		                         UINT64_MAX - 7,
		                         UINT64_MAX };
	return list[below(sizeof list / sizeof *list)];
}

static inline void mutate(uint8_t *p, size_t *n, size_t header)
{
	for (uint64_t i = 1 + below(4); i > 0 && *n > 8; i--) {
		/* Mostly where the structure is. */
		size_t at = below(4) ? below(header < *n ? header : *n) : below(*n);
		uint64_t v = nasty();
		size_t k = (size_t)1 << below(4), len = 1 + (size_t)below(16);
		switch (below(6)) {
		case 0:
			p[at] ^= (uint8_t)(1u << below(8));
			break;
		case 1:
			p[at] = (uint8_t)below(256);
			break;
		case 2:
			memcpy(p + at, &v, k < *n - at ? k : *n - at);
			break;
		case 3: /* bytes from elsewhere */
			len = len < *n - at ? len : *n - at;
			memmove(p + at, p + below(*n - len + 1), len);
			break;
		case 4: /* take some bytes out */
			len = len < *n - at ? len : *n - at;
			memmove(p + at, p + at + len, *n - at - len);
			*n -= len;
			break;
		case 5: /* a digit of JSON text, or any other byte, by a digit */
			p[at] = (uint8_t)('0' + below(10));
			break;
		}
	}
}

/* An APR file's checksums would stop nearly every change: make them right again. */
static inline void mend_apr(uint8_t *p, size_t n)
{
	if (n < ST_APR_HEADER + 4)
		return;
	uint32_t crc = st_apr_header_crc(p);
	memcpy(p + 40, &crc, 4);
	if (n % 64 == 4) {
		crc = (uint32_t)crc32(0, p, (uInt)(n - 4));
		memcpy(p + n - 4, &crc, 4);
	}
}

static struct {
	uint8_t *p;
	size_t n, header;
} original[N_GOOD];

static inline void load(size_t i)
{
	original[i].p = read_bytes(in_folder(good_files[i].file), &original[i].n);
	/* Where the data begins, roughly: enough to aim most changes at what is in front of it. */
	original[i].header = good_files[i].json || original[i].n < 1024 ? original[i].n
	                   : strstr(good_files[i].file, "gguf")         ? 5200
	                                                                : 3400;
}

/* The file of one case; its size. Zip archives are made anew around a changed member half of the time. */
static inline size_t damage(size_t i, uint8_t *p)
{
	static struct bytes inner, outer;
	bool npz = strcmp(good_files[i].file, "arrays.npz") == 0, pt = strcmp(good_files[i].file, "model.pt") == 0;
	if ((npz || pt) && below(2)) {
		if (npz)
			good_npy(&inner);
		else
			good_pickle(&inner);
		mutate(inner.p, &inner.n, inner.n);
		if (npz)
			good_npz(&outer, &inner);
		else
			good_checkpoint(&outer, &inner);
		memcpy(p, outer.p, outer.n);
		return outer.n;
	}
	size_t n = original[i].n;
	memcpy(p, original[i].p, n);
	mutate(p, &n, original[i].header);
	if (strcmp(good_files[i].file, "model.apr") == 0 && below(8))
		mend_apr(p, n);
	return n;
}

/* The same file of every good kind in memory, to be damaged and put back. */
static inline void load_all(void)
{
	for (size_t i = 0; i < N_GOOD; i++)
		load(i);
}

static inline void put_back(size_t i) { save_n(good_files[i].file, original[i].p, original[i].n); }

static inline void unload_all(void)
{
	for (size_t i = 0; i < N_GOOD; i++)
		free(original[i].p);
}

#endif
