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
	if (s->chunk && pos - pos % s->chunk > *lo)
		*lo = pos - pos % s->chunk;
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

double st_attn_slope(const struct st_attn_shape *s, size_t h)
{
	size_t n = 1;
	while (2 * n <= s->n_heads)
		n *= 2;
	double power = h < n ? s->slopes / (double)n * (double)(h + 1)
	                     : s->slopes / (double)(2 * n) * (double)(2 * (h - n) + 1);
	return st_exp(-power * 0.693147180559945309417) * s->slope_scale;
}

/* One head, tokens [t0, t0 + T). scores: the head's [s->T, P] */
static void score_block(const struct st_exec *e, const struct st_attn_shape *s, const float *q, size_t ldq, size_t t0,
                        size_t T, const float *k, size_t ldk, double slope, float *scores)
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
			for (size_t i = 0; i < R && slope != 0; i++)
				y[i] = st_canonical(
					(float)((double)y[i]
				                - slope * ((double)(s->P - s->T + t0 + t) - (double)(p + i))));
		}
	}
	for (size_t t = t0; t < t0 + T; t++) {
		size_t lo, hi;
		visible(s, t, &lo, &hi);
		memset(scores + t * s->P, 0, lo * sizeof *scores);
		memset(scores + t * s->P + hi, 0, (s->P - hi) * sizeof *scores);
	}
}

/* Heads times blocks of tokens, heads outermost. */
struct scores {
	const struct st_exec *e;
	const struct st_attn_shape *s;
	const float *q, *k;
	size_t ldq, ldk, blocks;
	float *scores;
};

static void score_blocks(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct scores *j = ctx;
	const struct st_attn_shape *s = j->s;
	size_t d = s->head_dim, share = s->n_heads / s->n_kv_heads;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		size_t h = (size_t)(i / j->blocks), t0 = (size_t)(i % j->blocks) * TOKEN_BLOCK,
		       T = s->T - t0 < TOKEN_BLOCK ? s->T - t0 : TOKEN_BLOCK;
		score_block(j->e, s, j->q + h * d, j->ldq, t0, T, j->k + h / share * d, j->ldk,
		            s->slopes != 0 ? st_attn_slope(s, h) : 0, j->scores + h * s->T * s->P);
	}
}

static size_t token_blocks(const struct st_attn_shape *s) { return (s->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK; }
/* Products of one block of one head. */
static size_t block_cost(const struct st_attn_shape *s)
{
	return (s->T < TOKEN_BLOCK ? s->T : TOKEN_BLOCK) * s->P * s->head_dim;
}

void st_attn_scores(const struct st_exec *e, const struct st_attn_shape *s, const float *q, size_t ldq, const float *k,
                    size_t ldk, float *scores)
{
	assert(s->P >= s->T && s->n_heads % s->n_kv_heads == 0);
	struct scores j = { e, s, q, k, ldq, ldk, token_blocks(s), scores };
	st_pool_each(e->pool, s->n_heads * j.blocks, block_cost(s), score_blocks, &j);
}

struct softmax {
	const struct st_exec *e;
	const struct st_attn_shape *s;
	const float *scores, *sinks; /* sinks: NULL: none */
	float *probs;
};

/* All in f64: e = exp(x - max), their sum in order, the sink's last. */
static void softmax_sink(const float *x, size_t n, float sink, float *y)
{
	double most = (double)sink, sum = 0;
	for (size_t i = 0; i < n; i++)
		most = (double)x[i] > most || x[i] != x[i] ? (double)x[i] : most;
	for (size_t i = 0; i < n; i++)
		sum += st_exp((double)x[i] - most);
	sum += st_exp((double)sink - most);
	for (size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)(st_exp((double)x[i] - most) / sum));
}

/* Rows of heads times tokens. */
static void softmax_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct softmax *j = ctx;
	const struct st_attn_shape *s = j->s;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		size_t lo, hi, row = (size_t)i * s->P;
		visible(s, (size_t)(i % s->T), &lo, &hi);
		memset(j->probs + row, 0, lo * sizeof *j->probs);
		if (j->sinks)
			softmax_sink(j->scores + row + lo, hi - lo, j->sinks[i / s->T], j->probs + row + lo);
		else
			j->e->k->softmax(j->scores + row + lo, hi - lo, j->probs + row + lo);
		memset(j->probs + row + hi, 0, (s->P - hi) * sizeof *j->probs);
	}
}

void st_attn_softmax(const struct st_exec *e, const struct st_attn_shape *s, const float *scores, float *probs)
{
	st_attn_softmax_sinks(e, s, scores, NULL, probs);
}

void st_attn_softmax_sinks(const struct st_exec *e, const struct st_attn_shape *s, const float *scores,
                           const float *sinks, float *probs)
{
	struct softmax j = { e, s, scores, sinks, probs };
	st_pool_each(e->pool, s->n_heads * s->T, s->P * 8, softmax_rows, &j);
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

struct mix {
	const struct st_exec *e;
	const struct st_attn_shape *s;
	const float *probs, *v;
	size_t ldv, blocks;
	float *y;
};

static void mix_blocks(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct mix *j = ctx;
	const struct st_attn_shape *s = j->s;
	size_t d = s->head_dim, share = s->n_heads / s->n_kv_heads;
	(void)lane;
	for (uint64_t n = begin; n < end; n++) {
		size_t h = (size_t)(n / j->blocks), t0 = (size_t)(n % j->blocks) * TOKEN_BLOCK,
		       T = s->T - t0 < TOKEN_BLOCK ? s->T - t0 : TOKEN_BLOCK;
		for (size_t i = 0; i < d; i += DIM_BLOCK)
			mix_block(j->e, s, t0, T, j->probs + h * s->T * s->P, j->v + h / share * d + i, j->ldv,
			          d - i < DIM_BLOCK ? d - i : DIM_BLOCK, j->y + h * d + i, s->n_heads * d);
	}
}

void st_attn_mix(const struct st_exec *e, const struct st_attn_shape *s, const float *probs, const float *v, size_t ldv,
                 float *y)
{
	assert(s->P >= s->T && s->n_heads % s->n_kv_heads == 0);
	struct mix j = { e, s, probs, v, ldv, token_blocks(s), y };
	st_pool_each(e->pool, s->n_heads * j.blocks, block_cost(s), mix_blocks, &j);
}
