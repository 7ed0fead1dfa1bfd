#include "turboquant/draw.h"

#include "turboquant/level.h"

#include <math.h>

#define GOLDEN 0x9E3779B97F4A7C15u

/* The sub-seed mixer of the recreated tool: shift, multiply, then xor - not the finaliser of
 * splitmix64, which xors first. Kept as it is, because its values are on record. */
static uint64_t subseed_mix(uint64_t z)
{
	z = (z >> 30) * 0xBF58476D1CE4E5B9u ^ z;
	z = (z >> 27) * 0x94D049BB133111EBu ^ z;
	return z ^ (z >> 31);
}

uint64_t st_draw_state(enum st_seeding s, uint64_t seed, uint64_t pos, enum st_role_kvq idx)
{
	if (s == ST_SEEDING_SPLITMIX)
		return subseed_mix(seed + (3 * pos + (uint64_t)idx) * GOLDEN) + GOLDEN;
	static const unsigned shift[] = { 16, 32, 48 };
	return (seed ^ pos << shift[idx] ^ (idx == ST_DRAW_Q ? 0xABCDEFu : 0)) ^ GOLDEN;
}

static float uniform_f32(uint64_t *state) { return (float)(st_splitmix64(state) >> 32) / 4294967296.0f; }

void st_draw_f32(uint64_t state, float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 2) {
		float u1 = uniform_f32(&state), u2 = uniform_f32(&state);
		float mag = sqrtf(-2.0f * logf(u1 < 1e-38f ? 1e-38f : u1)), angle = 6.28318530717958648f * u2;
		x[i] = mag * cosf(angle);
		if (i + 1 < n)
			x[i + 1] = mag * sinf(angle);
	}
}

void st_draw_init(struct st_draw *r, uint64_t seed, enum st_cpu cpu)
{
	st_xoshiro_seed(&r->g, seed);
	r->consumed = 0;
	r->cpu = cpu;
}

void st_draw_normal(struct st_draw *r, float *x, size_t n)
{
	enum { PAIRS = 512 };
	const struct st_tq_level *level = st_tq_level_get(r->cpu);
	for (size_t i = 0; i < n;) {
		double u[2 * PAIRS];
		float y[2 * PAIRS];
		size_t left = n - i, pairs = left >= 2 * PAIRS ? PAIRS : (left + 1) / 2;
		for (size_t k = 0; k < 2 * pairs; k++)
			u[k] = (double)(st_xoshiro_next(&r->g) >> 11) * 0x1p-53;
		for (size_t k = 0; k < pairs; k++)
			u[2 * k] = u[2 * k] < 1e-38 ? 1e-38 : u[2 * k];
		r->consumed += 2 * pairs;
		size_t take = left < 2 * pairs ? left : 2 * pairs;
		level->normals(u, pairs, take == 2 * pairs ? x + i : y);
		for (size_t k = 0; take < 2 * pairs && k < take; k++)
			x[i + k] = y[k];
		i += take;
	}
}

void st_draw_rmsnorm(float *x, size_t n, uint32_t d, double eps)
{
	for (size_t i = 0; i < n; i++) {
		float *row = x + i * d;
		double part[8] = { 0 };
		for (uint32_t j = 0; j < d; j += 8)
			for (int l = 0; l < 8; l++)
				part[l] += (double)row[j + l] * (double)row[j + l];
		double ss = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
		float f = (float)(1 / sqrt(ss / d + eps));
		for (uint32_t j = 0; j < d; j++)
			row[j] *= f;
	}
}

void st_draw_rope_table(const uint32_t *pos, size_t n, uint32_t d, float theta, float *table)
{
	for (uint32_t i = 0; i < d / 2; i++) {
		const float freq = 1.0f / powf(theta, (float)i * 2.0f / (float)d);
		for (size_t p = 0; p < n; p++) {
			table[p * d + i] = cosf((float)pos[p] * freq);
			table[p * d + d / 2 + i] = sinf((float)pos[p] * freq);
		}
	}
}

void st_draw_rope(float *x, uint32_t d, const float *row)
{
	for (uint32_t i = 0; i < d / 2; i++) {
		float a = x[i], b = x[d / 2 + i], c = row[i], s = row[d / 2 + i];
		x[i] = a * c - b * s;
		x[d / 2 + i] = a * s + b * c;
	}
}
