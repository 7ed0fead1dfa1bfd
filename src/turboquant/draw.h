/*
 * draw.h - synthetic heads: the random streams of the multistep and production-faithful tests,
 * and the model's own steps between a draw and the cache (RMSNorm, RoPE).
 */
#ifndef ST_TURBOQUANT_DRAW_H
#define ST_TURBOQUANT_DRAW_H

#include "base/rng.h"
#include "turboquant/tq.h"

#define ST_TQ_SEED 0xC25EEDu /* registered: every published value belongs to it */

/* ---- multistep: one splitmix stream per tensor ---- */

enum st_seeding { ST_SEEDING_SPLITMIX, ST_SEEDING_XOR };
enum st_role_kvq { ST_DRAW_K, ST_DRAW_V, ST_DRAW_Q };
uint64_t st_draw_state(enum st_seeding s, uint64_t seed, uint64_t pos, enum st_role_kvq idx);
/* f32 Box-Muller of the high halves; x: [n] */
void st_draw_f32(uint64_t state, float *x, size_t n);

/* ---- production-faithful: one xoshiro stream, never reseeded ---- */

struct st_draw {
	struct st_xoshiro g;
	uint64_t consumed; /* 64-bit outputs so far: 2 ceil(n/2) per call */
	enum st_cpu cpu;
};
void st_draw_init(struct st_draw *r, uint64_t seed, enum st_cpu cpu);
void st_draw_normal(struct st_draw *r, float *x, size_t n);

/* x: [n, d], each row divided by sqrt(mean square + eps); unit weights */
void st_draw_rmsnorm(float *x, size_t n, uint32_t d, double eps);
/* cos and sin of position * theta^(-2i/d), i < d/2: table: [n, d] (cos, then sin). All in f32, as the recreated tool
 * computes them: at large positions the last bits of the angle decide about single codes. */
void st_draw_rope_table(const uint32_t *pos, size_t n, uint32_t d, float theta, float *table);
/* Half-split pairs (i, i + d/2) of x: [d] turned by one row of the table. */
void st_draw_rope(float *x, uint32_t d, const float *row);

#endif
