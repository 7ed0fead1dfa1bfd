/* attention.c - scores, softmax and mixture over cached positions, each a stage of its own. */
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

#define POS_BLOCK 32 /* positions of one dot call */
#define TOKEN_BLOCK 6
#define DIM_BLOCK 256 /* features rounded at a time where a mode rounds; the sums go on across blocks */
#define MIX_BLOCK \
	16 /* positions of v that stay in the first-level cache for all tokens at hand; a multiple of ST_LANES_MIX */

static_assert(DIM_BLOCK <= ST_MIX_WIDTH && MIX_BLOCK % ST_LANES_MIX == 0, "mix blocks");

/* Positions [lo, hi) that token t sees. */
static void visible(const struct st_attn_shape *s, size_t t, size_t *lo, size_t *hi)
{
	size_t pos = s->P - s->T + t;
	*hi = pos + 1;
	*lo = s->window && pos + 1 > s->window ? pos + 1 - s->window : 0;
}

/* sums[t][p] for T tokens of one head and R positions; q and k point at the head's features. */
static void score_sums(const struct st_exec *e, size_t d, const float *q, size_t ldq, size_t T, const float *k,
                       size_t ldk, size_t R, void *sums)
{
	memset(sums, 0, T * R * ST_SUM_BYTES);
	_Alignas(64) char operands[TOKEN_BLOCK * DIM_BLOCK * sizeof(double)];
	float rk[POS_BLOCK * DIM_BLOCK];
	size_t size = st_mode_operand(e->mode);
	for (size_t i = 0; i < d; i += DIM_BLOCK) {
		size_t n = d - i < DIM_BLOCK ? d - i : DIM_BLOCK, ldx = ldq, ldw = ldk;
		const void *x = q + i;
		const float *w = k + i;
		if (e->mode == ST_MODE_EXACT || st_mode_rounds_both(e->mode)) {
			for (size_t t = 0; t < T; t++)
				st_prepare_row(e, q + t * ldq + i, n, operands + t * DIM_BLOCK * size);
			x = operands;
			ldx = DIM_BLOCK;
		}
		if (st_mode_rounds_both(e->mode)) {
			for (size_t p = 0; p < R; p++)
				st_round_row(e, k + p * ldk + i, n, rk + p * DIM_BLOCK);
			w = rk;
			ldw = DIM_BLOCK;
		}
		st_dot(e, w, ldw, R, x, ldx, T, n, sums);
	}
}

/* One head, tokens [t0, t0 + T). scores: the head's [s->T, P] */
static void score_block(const struct st_exec *e, const struct st_attn_shape *s, const float *q, size_t ldq, size_t t0,
                        size_t T, const float *k, size_t ldk, float *scores)
{
	_Alignas(64) char sums[TOKEN_BLOCK * POS_BLOCK * ST_SUM_BYTES];
	size_t first, end, unused;
	visible(s, t0, &first, &unused);
	visible(s, t0 + T - 1, &unused, &end);
	for (size_t p = first; p < end; p += POS_BLOCK) {
		size_t R = end - p < POS_BLOCK ? end - p : POS_BLOCK;
		score_sums(e, s->head_dim, q + t0 * ldq, ldq, T, k + p * ldk, ldk, R, sums);
		for (size_t t = 0; t < T; t++) {
			float *y = scores + (t0 + t) * s->P + p;
			const char *mine = sums + t * R * ST_SUM_BYTES;
			if (e->mode == ST_MODE_EXACT) {
				double wide[POS_BLOCK];
				e->k->sum_f64((const double *)(const void *)mine, R, wide);
				e->k->finish_scores_f64(wide, s->scale, s->softcap, R, y);
			} else {
				float narrow[POS_BLOCK];
				e->k->sum_f32((const float *)(const void *)mine, R, narrow);
				e->k->finish_scores_f32(narrow, s->scale, s->softcap, R, y);
			}
		}
	}
	for (size_t t = t0; t < t0 + T; t++) {
		size_t lo, hi;
		visible(s, t, &lo, &hi);
		memset(scores + t * s->P, 0, lo * sizeof *scores);
		memset(scores + t * s->P + hi, 0, (s->P - hi) * sizeof *scores);
	}
}

void st_attn_scores(const struct st_exec *e, const struct st_attn_shape *s, const float *q, size_t ldq, const float *k,
                    size_t ldk, float *scores)
{
	assert(s->P >= s->T && s->n_heads % s->n_kv_heads == 0);
	size_t d = s->head_dim, share = s->n_heads / s->n_kv_heads;
	size_t blocks = (s->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
	int threads = st_threads_for(e, s->n_heads * s->T * s->P * d);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
	for (size_t h = 0; h < s->n_heads; h++)
		for (size_t b = 0; b < blocks; b++) {
			size_t t0 = b * TOKEN_BLOCK, T = s->T - t0 < TOKEN_BLOCK ? s->T - t0 : TOKEN_BLOCK;
			score_block(e, s, q + h * d, ldq, t0, T, k + h / share * d, ldk, scores + h * s->T * s->P);
		}
}

void st_attn_softmax(const struct st_exec *e, const struct st_attn_shape *s, const float *scores, float *probs)
{
	int threads = st_threads_for(e, s->n_heads * s->T * s->P * 8);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
	for (size_t h = 0; h < s->n_heads; h++)
		for (size_t t = 0; t < s->T; t++) {
			size_t lo, hi, row = (h * s->T + t) * s->P;
			visible(s, t, &lo, &hi);
			memset(probs + row, 0, lo * sizeof *probs);
			e->k->softmax(scores + row + lo, hi - lo, probs + row + lo);
			memset(probs + row + hi, 0, (s->P - hi) * sizeof *probs);
		}
}

/* Lanes of a mixture: position lo + p goes to lane p mod 4. */
union mix_sums {
	float f[ST_LANES_MIX * ST_MIX_WIDTH];
	double d[ST_LANES_MIX * ST_MIX_WIDTH];
};

/* P <= MIX_BLOCK */
static void mix_some(const struct st_exec *e, const float *prob, size_t P, const float *v, size_t ldv, size_t n,
                     union mix_sums *sums)
{
	float rp[MIX_BLOCK], rv[MIX_BLOCK * DIM_BLOCK];
	if (st_mode_rounds_both(e->mode)) {
		st_round_row(e, prob, P, rp);
		for (size_t p = 0; p < P; p++)
			st_round_row(e, v + p * ldv, n, rv + p * DIM_BLOCK);
		prob = rp;
		v = rv;
		ldv = DIM_BLOCK;
	}
	if (e->mode == ST_MODE_EXACT)
		e->k->mix_f64(prob, P, v, ldv, n, sums->d);
	else
		e->k->mix_f32(prob, P, v, ldv, n, sums->f);
}

static void store_mix(const struct st_exec *e, const union mix_sums *sums, size_t n, float *y)
{
	for (size_t i = 0; i < n; i++) {
		if (e->mode == ST_MODE_EXACT) {
			const double *s = sums->d + i;
			y[i] = st_canonical(
				(float)((s[0] + s[2 * ST_MIX_WIDTH]) + (s[ST_MIX_WIDTH] + s[3 * ST_MIX_WIDTH])));
		} else {
			const float *s = sums->f + i;
			y[i] = st_canonical((s[0] + s[2 * ST_MIX_WIDTH]) + (s[ST_MIX_WIDTH] + s[3 * ST_MIX_WIDTH]));
		}
	}
}

/* n <= DIM_BLOCK features of one head, tokens [t0, t0 + T). probs: the head's [s->T, P]; v and y point at the features.
 */
static void mix_block(const struct st_exec *e, const struct st_attn_shape *s, size_t t0, size_t T, const float *probs,
                      const float *v, size_t ldv, size_t n, float *y, size_t ldy)
{
	_Alignas(64) union mix_sums sums[TOKEN_BLOCK];
	memset(sums, 0, T * sizeof *sums);
	for (size_t p = 0, more = T; more > 0; p += MIX_BLOCK) {
		more = 0;
		for (size_t t = 0; t < T; t++) {
			size_t lo, hi;
			visible(s, t0 + t, &lo, &hi);
			if (lo + p >= hi)
				continue;
			size_t P = hi - lo - p < MIX_BLOCK ? hi - lo - p : MIX_BLOCK;
			mix_some(e, probs + (t0 + t) * s->P + lo + p, P, v + (lo + p) * ldv, ldv, n, &sums[t]);
			more++;
		}
	}
	for (size_t t = 0; t < T; t++)
		store_mix(e, &sums[t], n, y + (t0 + t) * ldy);
}

void st_attn_mix(const struct st_exec *e, const struct st_attn_shape *s, const float *probs, const float *v, size_t ldv,
                 float *y)
{
	assert(s->P >= s->T && s->n_heads % s->n_kv_heads == 0);
	size_t d = s->head_dim, share = s->n_heads / s->n_kv_heads;
	size_t blocks = (s->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
	int threads = st_threads_for(e, s->n_heads * s->T * s->P * d);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
	for (size_t h = 0; h < s->n_heads; h++)
		for (size_t b = 0; b < blocks; b++) {
			size_t t0 = b * TOKEN_BLOCK, T = s->T - t0 < TOKEN_BLOCK ? s->T - t0 : TOKEN_BLOCK;
			for (size_t i = 0; i < d; i += DIM_BLOCK)
				mix_block(e, s, t0, T, probs + h * s->T * s->P, v + h / share * d + i, ldv,
				          d - i < DIM_BLOCK ? d - i : DIM_BLOCK, y + h * d + i, s->n_heads * d);
		}
}
