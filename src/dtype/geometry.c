/* geometry.c - blocks taken apart and put together by their descriptors. */
#include "dtype/layouts.h"

#include "base/cursor.h"
#include "base/levels.h"
#include "dtype/half.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* The numbers at one place of n bytes, put above the `up` bits that dst has. */
static inline void numbers_of(const uint8_t *restrict p, unsigned n, unsigned shift, unsigned mask, unsigned up,
                              int16_t *restrict dst)
{
	if (up == 0)
		for (unsigned i = 0; i < n; i++)
			dst[i] = (int16_t)((unsigned)p[i] >> shift & mask);
	else
		for (unsigned i = 0; i < n; i++)
			dst[i] = (int16_t)((unsigned)dst[i] | ((unsigned)p[i] >> shift & mask) << up);
}

/* The numbers in one byte. */
static inline void numbers_in(unsigned byte, unsigned n, unsigned bits, unsigned mask, unsigned up, int16_t *dst)
{
	for (unsigned i = 0; i < n; i++)
		dst[i] = (int16_t)((up ? (unsigned)dst[i] : 0) | (byte >> (i * bits) & mask) << up);
}

/* Take a list out of its bits, above the `up` bits that dst has. */
static inline __attribute__((always_inline)) void read_bits(const struct st_bits *b, const uint8_t *block, unsigned n,
                                                            unsigned up, int16_t *dst)
{
	unsigned mask = (1u << b->bits) - 1, shift = b->shift, bytes = b->bytes;
	const uint8_t *p = block + b->at;
	for (unsigned first = 0; first < n; first += b->group, p += b->advance, shift += b->shift_advance) {
		unsigned end = n - first < b->group ? n - first : b->group;
		if (bytes == 1) {
			numbers_in((unsigned)*p >> shift, end, b->bits, mask, up, dst + first);
			continue;
		}
		for (unsigned e = 0, s = shift; e < end; e += bytes, s += b->bits)
			numbers_of(p, end - e < bytes ? end - e : bytes, s, mask, up, dst + first + e);
	}
}

static void write_bits(const struct st_bits *b, uint8_t *block, unsigned n, unsigned up, const int16_t *src)
{
	if (b->bits == 0)
		return;
	unsigned mask = (1u << b->bits) - 1, shift = b->shift;
	uint8_t *p = block + b->at;
	for (unsigned first = 0; first < n; first += b->group, p += b->advance, shift += b->shift_advance) {
		unsigned end = n - first < b->group ? n - first : b->group;
		for (unsigned e = 0, s = shift; e < end; s += b->bits)
			for (unsigned k = 0; k < b->bytes && e < end; k++, e++) {
				unsigned v = (unsigned)src[first + e] >> up & mask;
				p[k] = (uint8_t)((p[k] & ~(mask << s)) | v << s);
			}
	}
}

static inline void sign_extend(unsigned bits, unsigned n, int16_t *v)
{
	int sign = 1 << (bits - 1);
	for (unsigned i = 0; i < n; i++)
		v[i] = (int16_t)((v[i] ^ sign) - sign);
}

static unsigned elements_of(const struct st_geometry *g) { return (unsigned)g->sub * g->n_sub; }

static float read_factor(enum st_factor f, const uint8_t *block, int at)
{
	if (at < 0)
		return 0;
	switch (f) {
	case ST_FACTOR_F16:
		return st_f16_to_f32(st_load_u16(block + at));
	case ST_FACTOR_F32:
		return st_load_f32(block + at);
	case ST_FACTOR_E8M0:
		return st_e8m0_half(block[at]);
	case ST_FACTOR_NONE:
		break;
	}
	return 1;
}

static void write_factor(enum st_factor f, float v, uint8_t *block, int at)
{
	if (at < 0)
		return;
	uint16_t h = st_f32_to_f16(v);
	int exponent;
	switch (f) {
	case ST_FACTOR_F16:
		memcpy(block + at, &h, sizeof h);
		return;
	case ST_FACTOR_F32:
		memcpy(block + at, &v, sizeof v);
		return;
	case ST_FACTOR_E8M0:
		/* v = 2^(e - 128), and frexp gives it as 0.5 * 2^exponent. */
		(void)frexpf(v, &exponent);
		block[at] = (uint8_t)(exponent + 127);
		return;
	case ST_FACTOR_NONE:
		return;
	}
}

ST_LEVELS static void read_codes(const struct st_geometry *g, const uint8_t *block, unsigned n, int16_t *code)
{
	read_bits(&g->code, block, n, 0, code);
	if (g->code_high.bits)
		read_bits(&g->code_high, block, n, g->code.bits, code);
	if (g->code_signed)
		sign_extend(g->code.bits, n, code);
}

/* The integers of the sub-blocks. */
static void read_small(const struct st_bits *low, const struct st_bits *high, const uint8_t *block, unsigned n,
                       int16_t *v)
{
	read_bits(low, block, n, 0, v);
	if (high->bits)
		read_bits(high, block, n, low->bits, v);
}

void st_block_unpack(const struct st_geometry *g, const uint8_t *block, struct st_block_parts *p)
{
	unsigned n = elements_of(g);
	assert(n > 0 && n <= ST_BLOCK_MOST);
	p->d = g->factor == ST_FACTOR_NONE ? 1 : read_factor(g->factor, block, g->d_at);
	p->m = read_factor(g->factor, block, g->m_at);
	read_codes(g, block, n, p->code);
	memset(p->scale, 0, sizeof p->scale);
	memset(p->min, 0, sizeof p->min);
	if (g->min.bits)
		read_small(&g->min, &g->min_high, block, g->n_sub, p->min);
	if (g->scale.bits)
		read_small(&g->scale, &g->scale_high, block, g->n_sub, p->scale);
	if (g->scale_signed)
		sign_extend(g->scale.bits, g->n_sub, p->scale);
	for (unsigned j = 0; j < g->n_sub; j++)
		p->scale[j] = g->scale.bits ? (int16_t)(p->scale[j] - g->scale_bias) : 1;
}

void st_block_pack(const struct st_geometry *g, const struct st_block_parts *p, uint8_t *block)
{
	unsigned n = elements_of(g);
	int16_t stored[ST_SUBS_MOST];
	for (unsigned j = 0; j < g->n_sub; j++)
		stored[j] = (int16_t)(p->scale[j] + g->scale_bias);
	write_factor(g->factor, p->d, block, g->d_at);
	write_factor(g->factor, p->m, block, g->m_at);
	write_bits(&g->code, block, n, 0, p->code);
	write_bits(&g->code_high, block, n, g->code.bits, p->code);
	write_bits(&g->scale, block, g->n_sub, 0, stored);
	write_bits(&g->scale_high, block, g->n_sub, g->scale.bits, stored);
	write_bits(&g->min, block, g->n_sub, 0, p->min);
	write_bits(&g->min_high, block, g->n_sub, g->min.bits, p->min);
}

int st_block_level(const struct st_geometry *g, int code)
{
	return g->levels ? g->levels->level[code & 15] : code - g->bias;
}

int st_geometry_largest_level(const struct st_geometry *g)
{
	if (g->levels) {
		int most = 0;
		for (int i = 0; i < 16; i++)
			most = g->levels->level[i] > most  ? g->levels->level[i]
			     : -g->levels->level[i] > most ? -g->levels->level[i]
			                                   : most;
		return most;
	}
	int low = g->bias - g->lowest, high = g->highest - g->bias;
	return low > high ? low : high;
}

/* What the sub-block takes off, or what the block adds: one number, as the decoders round it. */
static float offset_of(const struct st_geometry *g, const struct st_block_parts *p, unsigned j)
{
	return g->min.bits ? -(p->m * (float)p->min[j]) : p->m;
}

static float step_of(const struct st_geometry *g, const struct st_block_parts *p, unsigned j)
{
	return g->scale.bits ? p->d * (float)p->scale[j] : p->d;
}

void st_block_numbers(const struct st_geometry *g, const struct st_block_parts *p, float *dst)
{
	for (unsigned j = 0; j < g->n_sub; j++) {
		float step = step_of(g, p, j), offset = offset_of(g, p, j), *y = dst + (size_t)j * g->sub;
		const int16_t *c = p->code + (size_t)j * g->sub;
		for (unsigned i = 0; i < g->sub; i++)
			y[i] = step * (float)st_block_level(g, c[i]);
		/* Adding a zero would make -0 into 0. */
		for (unsigned i = 0; g->m_at >= 0 && i < g->sub; i++)
			y[i] += offset;
	}
}

void st_layout_reorder(const struct st_geometry *g, uint8_t *block, enum st_code_order order)
{
	int16_t code[ST_BLOCK_MOST] = { 0 }, swapped[ST_BLOCK_MOST];
	unsigned n = elements_of(g), half = g->code.group / 2;
	struct st_bits own = g->code, pairs = g->code;
	pairs.group = 2;
	pairs.bytes = pairs.advance = 1;
	assert(g->code.bits == 4);
	switch (order) {
	case ST_CODES_OWN:
		return;
	case ST_CODES_EXCHANGED:
		read_bits(&own, block, n, 0, code);
		for (unsigned i = 0; i < n; i++)
			swapped[i] = code[i % g->code.group < half ? i + half : i - half];
		write_bits(&own, block, n, 0, swapped);
		return;
	case ST_CODES_FROM_PAIRS:
		read_bits(&pairs, block, n, 0, code);
		write_bits(&own, block, n, 0, code);
		return;
	case ST_CODES_TO_PAIRS:
		read_bits(&own, block, n, 0, code);
		write_bits(&pairs, block, n, 0, code);
		return;
	}
}
