/* rng.h - the generators Stele uses: splitmix64 and xoshiro256** (Blackman, Vigna). */
#ifndef ST_BASE_RNG_H
#define ST_BASE_RNG_H

#include <stdint.h>

static inline uint64_t st_splitmix64_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

/* Advances the state by the golden ratio, then mixes. */
static inline uint64_t st_splitmix64(uint64_t *state) { return st_splitmix64_mix(*state += 0x9E3779B97F4A7C15u); }

struct st_xoshiro {
	uint64_t s[4];
};

static inline void st_xoshiro_seed(struct st_xoshiro *g, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		g->s[i] = st_splitmix64(&seed);
}

static inline uint64_t st_xoshiro_next(struct st_xoshiro *g)
{
	uint64_t *s = g->s, x = s[1] * 5, r = ((x << 7) | (x >> 57)) * 9, t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = (s[3] << 45) | (s[3] >> 19);
	return r;
}

#endif
