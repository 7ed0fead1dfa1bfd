/* summary.c - digest, range, sum and first numbers of a tensor that comes in pieces. */
#include "inspect/summary.h"

#include "base/error.h"
#include "base/hash.h"
#include "dtype/half.h"

#include <math.h>

#define PIECE ((size_t)16384) /* elements: hashed and looked at while they are in L2 */
#define LANES 8

enum st_status st_summary_begin(struct st_summary *s, size_t prefix, bool alt, struct st_error *err)
{
	*s = (struct st_summary){ .min = INFINITY, .max = -INFINITY, .want_prefix = prefix < 16 ? prefix : 16 };
	s->hash = st_sha256_new();
	s->hash_bf16 = alt ? st_sha256_new() : NULL;
	if (s->hash && (!alt || s->hash_bf16))
		return ST_OK;
	st_summary_end(s);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static void look(struct st_summary *s, const float *x, size_t n)
{
	float lo[LANES], hi[LANES], bad = 0;
	double sum[LANES] = { 0 };
	for (size_t l = 0; l < LANES; l++) {
		lo[l] = INFINITY;
		hi[l] = -INFINITY;
	}
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (size_t l = 0; l < LANES; l++) {
			float v = x[i + l];
			lo[l] = v < lo[l] ? v : lo[l];
			hi[l] = v > hi[l] ? v : hi[l];
			sum[l] += (double)v;
			bad += v - v;
		}
	for (; i < n; i++) {
		lo[0] = x[i] < lo[0] ? x[i] : lo[0];
		hi[0] = x[i] > hi[0] ? x[i] : hi[0];
		sum[0] += (double)x[i];
		bad += x[i] - x[i];
	}
	for (size_t l = 0; l < LANES; l++) {
		s->min = (double)lo[l] < s->min ? (double)lo[l] : s->min;
		s->max = (double)hi[l] > s->max ? (double)hi[l] : s->max;
		s->sum += sum[l];
	}
	for (i = 0; bad != 0 && i < n; i++)
		s->nonfinite += !isfinite(x[i]);
	for (i = 0; s->n_prefix < s->want_prefix && i < n; i++)
		s->prefix[s->n_prefix++] = x[i];
	s->n += n;
}

void st_summary_f32(struct st_summary *s, const void *numbers, uint64_t n)
{
	const float *x = numbers;
	uint16_t half[2048];
	for (uint64_t at = 0; at < n; at += PIECE) {
		size_t m = n - at < PIECE ? (size_t)(n - at) : PIECE;
		st_sha256_update(s->hash, x + at, m * sizeof *x);
		look(s, x + at, m);
		for (size_t i = 0; s->hash_bf16 && i < m; i += 2048) {
			size_t p = m - i < 2048 ? m - i : 2048;
			for (size_t j = 0; j < p; j++)
				half[j] = st_f32_to_bf16(x[at + i + j]);
			st_sha256_update(s->hash_bf16, half, p * sizeof *half);
		}
	}
}

void st_summary_bf16(struct st_summary *s, const void *numbers, uint64_t n)
{
	const uint16_t *x = numbers;
	float wide[2048];
	s->bf16 = true;
	for (uint64_t at = 0; at < n; at += 2048) {
		size_t m = n - at < 2048 ? (size_t)(n - at) : 2048;
		for (size_t i = 0; i < m; i++)
			wide[i] = st_bf16_to_f32(x[at + i]);
		st_sha256_update(s->hash, x + at, m * sizeof *x);
		look(s, wide, m);
	}
}

static void take(struct st_sha256 **h, char hex[65])
{
	uint8_t digest[32];
	if (!*h)
		return;
	st_sha256_final(*h, digest);
	st_hex(digest, 32, hex);
	*h = NULL;
}

void st_summary_end(struct st_summary *s)
{
	take(&s->hash, s->sha256);
	take(&s->hash_bf16, s->sha256_bf16);
}
