/*
 * level_impl.h - attention and quantisation once, in the operations of vec.h: the level ST_TQ_LEVEL.
 *
 * Lane order: a 64-byte load holds 16 words of W codes (8 at 4 bits, 4 at one byte each), so
 * shifting it by one code at a time yields vectors of coordinates {W l + n : l = 0..15}. Queries and
 * outputs are kept in that order, block by block, and no code is ever shuffled between lanes. Dense
 * rows use W = 1. A score is the sum over blocks and n of one fma per lane, then lanes by halving.
 */
#include "turboquant/level.h"

#include "kernel/fwht_template.h"
#include "kernel/vec_math.h"

/* ---- rows ---- */

VEC_INLINE uint32_t physical_row(const struct st_tq_rows *r, uint32_t i)
{
	return i < r->count[0] ? r->start[0] + i : r->start[1] + (i - r->count[0]);
}

VEC_INLINE v16 look_up(unsigned bits, const float *t, i16 i)
{
	return bits == 4 ? v_lut16(t, i) : bits == 5 ? v_lut32(t, i) : bits == 6 ? v_lut64(t, i) : v_lut256(t, i);
}

/* Codes per 32-bit word, coordinates per 64-byte block. */
#define PER_WORD(bits) ((bits) == 0 ? 1u : (bits) == 4 ? 8u : 4u)
#define PER_BLOCK(bits) (16u * PER_WORD(bits))

/* Scores of 16 / NH rows for NH heads: out[r NH + h] = q[h] . row r (norms applied when packed). */
#define SCORE_ROWS(nh) (16u / (nh))
VEC_WHOLE v16 score_group(const struct st_tq_task *t, unsigned bits, unsigned nh, const uint32_t *row)
{
	const uint32_t d = t->d, nb = bits && d == 512 ? 2 : 1, span = d / nb;
	const size_t row_bytes = bits == 0 ? (size_t)d * 4 : bits == 4 ? d / 2 : d;
	const uint8_t *base = bits ? t->kv.codes[0] : (const uint8_t *)t->kv.dense[0];
	v16 total = v_set1(0);
	for (uint32_t b = 0; b < nb; b++) {
		v16 acc[16];
		for (unsigned i = 0; i < 16; i++)
			acc[i] = v_set1(0);
		for (uint32_t c = b * span; c < (b + 1) * span; c += PER_BLOCK(bits)) {
			for (unsigned n = 0; n < PER_WORD(bits); n++) {
				v16 q0 = v_load(t->q + c + 16 * n), q1 = q0;
				if (nh == 2)
					q1 = v_load(t->q + d + c + 16 * n);
				for (unsigned r = 0; r < SCORE_ROWS(nh); r++) {
					const uint8_t *p = base + row[r] * row_bytes;
					v16 x = bits == 0 ? v_load((const float *)p + c)
					                  : look_up(bits, t->table,
					                            i_shr(i_load(p + (bits == 4 ? c / 2 : c)),
					                                  n * (bits == 4 ? 4 : 8)));
					acc[r * nh] = v_fma(x, q0, acc[r * nh]);
					if (nh == 2)
						acc[r * nh + 1] = v_fma(x, q1, acc[r * nh + 1]);
				}
			}
		}
		v16 s = v_reduce16(acc);
		if (bits == 0)
			return s;
		float f[16];
		for (unsigned i = 0; i < 16; i++)
			f[i] = t->kv.norms[0][(size_t)row[i / nh] * nb + b] * t->factor;
		total = v_fma(s, v_load(f), total);
	}
	return total;
}

/* acc[h] += w[h][r] * row r of V, for the rows of one chunk. w: [NH][B][CHUNK] */
VEC_WHOLE void mix_chunk(const struct st_tq_task *t, unsigned bits, unsigned nh, const uint32_t *row, uint32_t n_rows,
                         const float *w, const float *keep)
{
	const uint32_t d = t->d, nb = bits && d == 512 ? 2 : 1;
	const size_t row_bytes = bits == 0 ? (size_t)d * 4 : bits == 4 ? d / 2 : d;
	const uint8_t *base = bits ? t->kv.codes[1] : (const uint8_t *)t->kv.dense[1];
	/* Dense rows have one vector per block; eight blocks at a time keep as many accumulators busy. */
	const unsigned per = bits ? PER_WORD(bits) : 8;
	for (uint32_t c = 0; c < d; c += 16 * per) {
		v16 acc[16];
		const float *wb = w + (nb == 2 && c >= d / 2 ? ST_TQ_CHUNK : 0);
		for (unsigned h = 0; h < nh; h++)
			for (unsigned n = 0; n < per; n++)
				acc[h * 8 + n] = v_mul(v_load(t->acc + h * d + c + 16 * n), v_set1(keep[h]));
		for (uint32_t r = 0; r < n_rows; r++) {
			const uint8_t *p = base + row[r] * row_bytes;
			v16 w0 = v_set1(wb[r]), w1 = nh == 2 ? v_set1(wb[nb * ST_TQ_CHUNK + r]) : w0;
			i16 word = bits ? i_load(p + (bits == 4 ? c / 2 : c)) : i_zero();
			for (unsigned n = 0; n < per; n++) {
				v16 x = bits == 0 ? v_load((const float *)p + c + 16 * n)
				                  : look_up(bits, t->table, i_shr(word, n * (bits == 4 ? 4 : 8)));
				acc[n] = v_fma(x, w0, acc[n]);
				if (nh == 2)
					acc[8 + n] = v_fma(x, w1, acc[8 + n]);
			}
		}
		for (unsigned h = 0; h < nh; h++)
			for (unsigned n = 0; n < per; n++)
				v_store(t->acc + h * d + c + 16 * n, acc[h * 8 + n]);
	}
}

VEC_WHOLE void attend(const struct st_tq_task *t, unsigned bits, unsigned nh)
{
	const uint32_t nb = bits && t->d == 512 ? 2 : 1;
	for (unsigned h = 0; h < nh; h++) {
		t->max[h] = -INFINITY;
		t->sum[h] = 0;
	}
	memset(t->acc, 0, (size_t)nh * t->d * sizeof *t->acc);
	for (uint32_t i0 = t->first; i0 < t->end; i0 += ST_TQ_CHUNK) {
		uint32_t n = t->end - i0 < ST_TQ_CHUNK ? t->end - i0 : ST_TQ_CHUNK, row[ST_TQ_CHUNK];
		float s[ST_TQ_PAIR][ST_TQ_CHUNK], w[ST_TQ_PAIR * 2 * ST_TQ_CHUNK], keep[ST_TQ_PAIR];
		/* Short chunks repeat the last row and give the copies the score -inf. */
		for (uint32_t r = 0; r < ST_TQ_CHUNK; r++)
			row[r] = physical_row(t->rows, i0 + (r < n ? r : n - 1));
		for (uint32_t r = 0; r < n; r += SCORE_ROWS(nh)) {
			float f[16];
			v_store(f, v_mul(score_group(t, bits, nh, row + r), v_set1(t->scale)));
			for (unsigned i = 0; i < SCORE_ROWS(nh); i++)
				for (unsigned h = 0; h < nh; h++)
					s[h][r + i] = f[i * nh + h];
		}
		for (unsigned h = 0; h < nh; h++) {
			v16 m = v_set1(t->max[h]), sum = v_set1(0);
			for (uint32_t r = 0; r < ST_TQ_CHUNK; r += 16) {
				if (t->softcap > 0 && r < n)
					v_store(s[h] + r, v_mul(v_set1(t->softcap),
					                        v_tanh(v_div(v_load(s[h] + r), v_set1(t->softcap)))));
			}
			for (uint32_t r = n; r < ST_TQ_CHUNK; r++)
				s[h][r] = -INFINITY;
			for (uint32_t r = 0; r < ST_TQ_CHUNK; r += 16)
				m = v_max(m, v_load(s[h] + r));
			float top = lane_max(m);
			float gone[16];
			v_store(gone, v_exp(v_set1(t->max[h] - top)));
			keep[h] = t->max[h] == -INFINITY ? 0 : gone[0];
			t->max[h] = top;
			for (uint32_t r = 0; r < ST_TQ_CHUNK; r += 16) {
				v16 p = v_exp(v_sub(v_load(s[h] + r), v_set1(top)));
				sum = v_add(sum, p);
				v_store(s[h] + r, p);
			}
			t->sum[h] = fmaf(t->sum[h], keep[h], lane_sum(sum));
			for (uint32_t b = 0; b < nb; b++) {
				float *wb = w + (h * nb + b) * ST_TQ_CHUNK;
				for (uint32_t r = 0; r < n; r++)
					wb[r] = bits ? s[h][r] * (t->kv.norms[1][(size_t)row[r] * nb + b] * t->factor)
					             : s[h][r];
			}
		}
		mix_chunk(t, bits, nh, row, n, w, keep);
	}
}

/* One instance per width and head count, so that every inner loop has constant bounds. */
#define INSTANCE(bits)                                                                              \
	static ST_TARGET void attend_##bits##_1(const struct st_tq_task *t) { attend(t, bits, 1); } \
	static ST_TARGET void attend_##bits##_2(const struct st_tq_task *t) { attend(t, bits, 2); }
/* clang-format off */
INSTANCE(0) INSTANCE(4) INSTANCE(5) INSTANCE(6) INSTANCE(8)
/* clang-format on */
#undef INSTANCE

	static void attend_any(const struct st_tq_task *t)
{
	static void (*const table[9][2])(const struct st_tq_task *) = {
		[0] = { attend_0_1, attend_0_2 }, [4] = { attend_4_1, attend_4_2 }, [5] = { attend_5_1, attend_5_2 },
		[6] = { attend_6_1, attend_6_2 }, [8] = { attend_8_1, attend_8_2 },
	};
	table[t->bits][t->n_heads - 1](t);
}

/* ---- quantisation ---- */

VEC_WHOLE void quantise(const float *x, uint32_t d, unsigned bits, const float *bounds, bool per_block, uint8_t *index,
                        float *norms)
{
	const uint32_t nb = per_block ? 2 : 1, span = d / nb;
	for (uint32_t b = 0; b < nb; b++) {
		v16 sq = v_set1(0);
		for (uint32_t c = b * span; c < (b + 1) * span; c += 16)
			sq = v_fma(v_load(x + c), v_load(x + c), sq);
		float ss = lane_sum(sq);
		/* One norm: L2, and coordinates times sqrt(d) have unit variance. Two: RMS of each block. */
		float norm = per_block ? sqrtf(ss / (float)span) : sqrtf(ss);
		if (norm < 1e-10f)
			norm = 0;
		norms[b] = norm;
		float f = norm == 0 ? 0 : per_block ? 1 / norm : sqrtf((float)d) / norm;
		for (uint32_t c = b * span; c < (b + 1) * span; c += 16) {
			v16 y = v_mul(v_load(x + c), v_set1(f));
			i16 k = i_zero();
			/* How many boundaries lie below y, highest bit first. */
			for (unsigned step = 1u << (bits - 1); step > 0; step >>= 1)
				k = i_step(k, y, look_up(bits, bounds, i_add1(k, step - 1)), step);
			i_store_u8(index + c, k);
		}
	}
}

/* One copy per width, so that every inner loop has constant bounds. */
static ST_TARGET void quantise_any(const float *x, uint32_t d, unsigned bits, const float *bounds, bool per_block,
                                   uint8_t *index, float *norms)
{
	if (bits == 4)
		quantise(x, d, 4, bounds, per_block, index, norms);
	else if (bits == 5)
		quantise(x, d, 5, bounds, per_block, index, norms);
	else if (bits == 6)
		quantise(x, d, 6, bounds, per_block, index, norms);
	else
		quantise(x, d, 8, bounds, per_block, index, norms);
}

const struct st_tq_level ST_TQ_LEVEL = {
	.attend = attend_any, .normals = normals, .fwht = fwht_any, .quantise = quantise_any
};
