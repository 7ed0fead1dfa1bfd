/* quant.c - head vectors to packed rows and back; the cache that is written row by row. */
#include "turboquant/level.h"

#include "base/error.h"
#include "base/mem.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

/* D1 signs: bit j of the table set means that coordinate j is negated. d = 128 and 256 use the
 * beginning; d = 512 all of it. */
static const uint8_t sign_bits[64] = {
	0xa7, 0x3b, 0x91, 0xf4, 0x6d, 0xc2, 0x58, 0x0e, 0xb3, 0x7f, 0x24, 0xd6, 0x89, 0x45, 0xea, 0x1c,
	0x63, 0xaf, 0xd8, 0x52, 0x97, 0x0b, 0xe1, 0x3d, 0x76, 0xc4, 0x19, 0xfe, 0x4a, 0x85, 0x2c, 0xdb,
	0xd3, 0x4e, 0xa8, 0x17, 0x9c, 0x5b, 0xe6, 0x31, 0x72, 0xb9, 0x0d, 0xf5, 0x43, 0x8a, 0x6e, 0xc7,
	0x58, 0x2f, 0x94, 0xe1, 0xb6, 0x3d, 0x0a, 0x7c, 0xc5, 0x61, 0xd8, 0x4f, 0xa3, 0x97, 0x1e, 0x85,
};

bool st_tq_head_dim_ok(uint32_t d) { return d == 128 || d == 256 || d == 512; }
bool st_tq_bits_ok(unsigned bits) { return bits == 4 || bits == 5 || bits == 6 || bits == 8; }

float st_tq_sign(uint32_t j) { return sign_bits[j >> 3] >> (j & 7) & 1 ? -1.0f : 1.0f; }

const struct st_tq_level *st_tq_level_get(enum st_cpu cpu)
{
	switch (cpu) {
#if defined(__x86_64__)
	case ST_CPU_AVX2:
		return &st_tq_level_avx2;
	case ST_CPU_AVX512:
		return &st_tq_level_avx512;
#elif defined(__aarch64__)
	case ST_CPU_NEON:
		return &st_tq_level_neon;
#endif
	default:
		return &st_tq_level_scalar;
	}
}

enum st_status st_tq_codec_init(struct st_tq_codec *c, uint32_t d, unsigned bits, bool signs, double scale_factor_d512,
                                enum st_cpu cpu, struct st_error *err)
{
	if (!st_tq_head_dim_ok(d))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "head_dim",
		                  "%u is not supported; 128, 256 and 512 are", d);
	if (!st_tq_bits_ok(bits))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "bits",
		                  "%u is not a width of the cache; 4, 5, 6 and 8 are", bits);
	if (!(scale_factor_d512 > 0) || isinf(scale_factor_d512))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "scale_factor_d512", "%g is not a positive number",
		                  scale_factor_d512);
	if (!st_cpu_usable(cpu))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "kernel", "%s cannot run on this processor",
		                  st_cpu_name(cpu));
	c->d = d;
	c->bits = bits;
	c->signs = signs;
	c->scale_factor_d512 = scale_factor_d512;
	c->cpu = cpu;
	for (uint32_t j = 0; j < 512; j++)
		c->sign[j] = signs ? st_tq_sign(j) : 1;
	if (!st_codebook_generate(&c->book, bits))
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "bits", "the codebook did not converge");
	return ST_OK;
}

static void apply_signs(const struct st_tq_codec *c, float *x)
{
	for (uint32_t j = 0; j < c->d; j++)
		x[j] *= c->sign[j];
}

void st_tq_rotate(const struct st_tq_codec *c, float *x, size_t n)
{
	const struct st_tq_level *level = st_tq_level_get(c->cpu);
	for (size_t i = 0; i < n; i++) {
		apply_signs(c, x + i * c->d);
		level->fwht(x + i * c->d, c->d);
	}
}

void st_tq_unrotate(const struct st_tq_codec *c, float *x, size_t n)
{
	const struct st_tq_level *level = st_tq_level_get(c->cpu);
	for (size_t i = 0; i < n; i++) {
		level->fwht(x + i * c->d, c->d);
		apply_signs(c, x + i * c->d);
	}
}

/* index: [d], one code each -> codes: [row bytes] */
static void pack(const uint8_t *index, uint32_t d, unsigned bits, uint8_t *codes)
{
	if (bits != 4) {
		memcpy(codes, index, d);
		return;
	}
	for (uint32_t i = 0; i < d / 2; i++)
		codes[i] = (uint8_t)(index[2 * i] | index[2 * i + 1] << 4);
}

struct encode {
	const struct st_tq_codec *c;
	const float *x;
	uint8_t *codes;
	float *norms;
};

static void encode_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct encode *k = ctx;
	const struct st_tq_codec *c = k->c;
	const size_t rb = st_tq_row_bytes(c->d, c->bits), nb = st_tq_norm_blocks(c->d);
	(void)lane;
	for (size_t i = (size_t)begin; i < end; i++) {
		float y[512];
		uint8_t index[512];
		memcpy(y, k->x + i * c->d, c->d * sizeof *y);
		st_tq_rotate(c, y, 1);
		st_tq_level_get(c->cpu)->quantise(y, c->d, c->bits, c->book.bound_f32, c->d == 512, index,
		                                  k->norms + i * nb);
		pack(index, c->d, c->bits, k->codes + i * rb);
	}
}

void st_tq_encode(const struct st_tq_codec *c, const float *x, size_t n, uint8_t *codes, float *norms,
                  struct st_pool *pool)
{
	struct encode k = { c, x, codes, norms };
	st_pool_each(pool, n, c->d * 16, encode_rows, &k);
}

void st_tq_decode_rotated(const struct st_tq_codec *c, const uint8_t *codes, const float *norms, size_t n, float *y)
{
	const size_t rb = st_tq_row_bytes(c->d, c->bits);
	const uint32_t nb = st_tq_norm_blocks(c->d), span = c->d / nb;
	const float f = c->d == 512 ? (float)(1 / c->scale_factor_d512) : 1 / sqrtf((float)c->d);
	const unsigned mask = c->book.n - 1;
	for (size_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < c->d; j++) {
			unsigned code = c->bits == 4 ? codes[i * rb + j / 2] >> (j % 2 * 4) : codes[i * rb + j];
			y[i * c->d + j] = c->book.level_f32[code & mask] * (norms[i * nb + j / span] * f);
		}
	}
}

void st_tq_decode(const struct st_tq_codec *c, const uint8_t *codes, const float *norms, size_t n, float *y)
{
	st_tq_decode_rotated(c, codes, norms, n, y);
	st_tq_unrotate(c, y, n);
}

float st_tq_round_f16(float x) { return st_f16_to_f32(st_f32_to_f16(x)); }

/* ---- cache ---- */

enum st_status st_tq_cache_init(struct st_tq_cache *c, const struct st_tq_codec *codec, uint32_t n_kv_heads,
                                uint32_t capacity, struct st_error *err)
{
	const uint64_t rows = (uint64_t)n_kv_heads * capacity;
	*c = (struct st_tq_cache){ .n_kv_heads = n_kv_heads, .capacity = capacity };
	c->codes = st_arena_alloc2(&c->mem, rows, st_tq_row_bytes(codec->d, codec->bits), 1);
	c->norms = st_arena_alloc2(&c->mem, rows, st_tq_norm_blocks(codec->d), sizeof *c->norms);
	if (c->codes && c->norms)
		return ST_OK;
	st_tq_cache_release(c);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

void st_tq_cache_release(struct st_tq_cache *c)
{
	st_arena_release(&c->mem);
	memset(c, 0, sizeof *c);
}

uint32_t st_tq_ring_start(uint64_t written, uint32_t capacity)
{
	/* The newest position is written - 1; once full, the oldest is the row after it. */
	return written < capacity ? 0 : (uint32_t)(written % capacity);
}

enum st_status st_tq_cache_append(struct st_tq_cache *c, const struct st_tq_codec *codec, const float *x, bool ring,
                                  struct st_error *err)
{
	if (!ring && c->written >= c->capacity)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "kv_capacity",
		                  "position %llu does not fit a linear cache of %u rows",
		                  (unsigned long long)c->written, c->capacity);
	size_t row = (size_t)(c->written % c->capacity);
	size_t rb = st_tq_row_bytes(codec->d, codec->bits), nb = st_tq_norm_blocks(codec->d);
	for (uint32_t g = 0; g < c->n_kv_heads; g++) {
		size_t r = (size_t)g * c->capacity + row;
		st_tq_encode(codec, x + (size_t)g * codec->d, 1, c->codes + r * rb, c->norms + r * nb, NULL);
	}
	c->written++;
	return ST_OK;
}
