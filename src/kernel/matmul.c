/*
 * matmul.c - activations times a stored matrix.
 *
 * Threads share out the rows of w. A lane takes TILE_ROWS rows at a time and walks along K
 * in blocks: decode the block of those rows into f32 that stays in cache, multiply it with all
 * tokens at hand, keep the lanes of every sum in memory until the row ends. Neither blocks nor
 * tiles nor threads touch the order within a sum, which the level's dot fixes.
 */
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

#define TILE_ROWS 16
#define BLOCK_K 1024 /* 64 KB of decoded weights */
#define BLOCK_T 96   /* tokens at hand: their slice of x and their sums stay in the second-level cache */
#define FEW_TOKENS \
	8 /* up to here decoding costs as much as multiplying, and the tile must stay in the first-level cache */
#define FEW_ROWS 8
#define FEW_K 512      /* a multiple of every block size and lane count; divides BLOCK_K; also where operands are f64 */
#define ROWS_AT_ONCE 4 /* rows decoded whole, for layouts that cannot be entered in the middle */
#define CACHE_LINE 64

enum source {
	IN_PLACE, /* f32 rows, used where they lie */
	BLOCKS,   /* every row begins at a block */
	FUSED,    /* as BLOCKS, by a function that decodes as it multiplies: few tokens, hot types */
	ROWS,     /* through st_tensor_decode */
};

struct job {
	const struct st_exec *e;
	const struct st_tensor *w;
	enum source source;
	uint64_t row_bytes; /* IN_PLACE, BLOCKS */
	size_t block_elems, block_bytes;
	st_decode_fn decode;
	size_t tile_rows, tile_k;
	const float *x_in; /* the first token at hand */
	const void *x;     /* operands of the tokens at hand */
	size_t ldx, T, K, N;
	size_t t0, tn; /* the tokens at hand: [t0, t0 + tn) */
	float *y;
	size_t ldy;
	char *operands, *shares; /* scratch: of all lanes, and `share` bytes of each */
	size_t share;
};

static size_t padded(size_t K) { return (K + 15) / 16 * 16; }

/* Bytes of one lane's tile, rounded to whole cache lines. */
static size_t tile_bytes(size_t K)
{
	size_t rows = ROWS_AT_ONCE * padded(K), blocks = (size_t)TILE_ROWS * BLOCK_K;
	return (rows > blocks ? rows : blocks) * sizeof(float);
}

static size_t block_tokens(size_t T) { return T < BLOCK_T ? T : BLOCK_T; }
static size_t sums_bytes(size_t T) { return TILE_ROWS * block_tokens(T) * ST_SUM_BYTES; }

/* The activations of one block of tokens as the mode takes them, shared by all threads. */
static size_t operand_bytes(enum st_mode mode, size_t T, size_t K)
{
	return st_mode_prepares(mode) ? block_tokens(T) * padded(K) * st_mode_operand(mode) : 0;
}

size_t st_matmul_scratch(const struct st_exec *e, size_t T, size_t K)
{
	return operand_bytes(e->mode, T, K) + st_pool_threads(e->pool) * (tile_bytes(K) + sums_bytes(T));
}

/* How w's rows can be entered. */
static void choose_source(struct job *j)
{
	const struct st_tensor *w = j->w;
	const struct st_dtype_info *info = st_dtype_info(w->dtype);
	j->block_elems = info->block_elems;
	j->block_bytes = info->block_bytes;
	j->decode = j->e->k->decode[w->dtype] ? j->e->k->decode[w->dtype] : info->decode;
	assert(FEW_K % j->block_elems == 0);
	if (w->layout == ST_LAYOUT_ROWS) {
		j->source = BLOCKS;
		j->row_bytes = w->row_bytes;
	} else if (w->layout == ST_LAYOUT_FLAT && j->K % j->block_elems == 0) {
		j->source = BLOCKS;
		j->row_bytes = j->K / j->block_elems * j->block_bytes;
	} else {
		j->source = ROWS;
		j->tile_rows = ROWS_AT_ONCE;
		j->tile_k = j->K;
	}
	if (j->source == BLOCKS && w->dtype == ST_DTYPE_F32 && w->scale == 1 && !st_mode_rounds_both(j->e->mode)
	    && (uintptr_t)w->data % sizeof(float) == 0 && j->row_bytes % sizeof(float) == 0)
		j->source = IN_PLACE;
	bool fused = j->e->mode == ST_MODE_EXACT ? j->e->k->fused_f64[w->dtype] != NULL
	                                         : j->e->k->fused_f32[w->dtype] != NULL;
	if (j->source == BLOCKS && fused && j->T <= ST_FUSED_TOKENS && j->K % j->block_elems == 0 && w->scale == 1
	    && !st_mode_rounds_both(j->e->mode))
		j->source = FUSED;
}

/* f32 of rows [n0, n0 + rows), features [k0, k0 + kn): a pointer and the distance of its rows. */
static const float *load_tile(const struct job *j, size_t n0, size_t rows, size_t k0, size_t kn, float *tile,
                              size_t *ld)
{
	const uint8_t *at = j->w->data + n0 * j->row_bytes + k0 / j->block_elems * j->block_bytes;
	switch (j->source) {
	case IN_PLACE:
		*ld = (size_t)(j->row_bytes / sizeof(float));
		return (const float *)at;
	case ROWS:
		*ld = j->K;
		st_tensor_decode(j->w, n0, rows, tile);
		break;
	case FUSED: /* does without a tile */
	case BLOCKS:
		*ld = j->tile_k;
		/* The last block of a row may hold more than the row; dot does not look there. */
		for (size_t r = 0; r < rows; r++)
			j->decode(at + r * j->row_bytes, tile + r * *ld,
			          (kn + j->block_elems - 1) / j->block_elems * j->block_elems);
		if (j->w->scale != 1)
			for (size_t r = 0; r < rows; r++)
				for (size_t k = 0; k < kn; k++)
					tile[r * *ld + k] *= j->w->scale;
		break;
	}
	if (st_mode_rounds_both(j->e->mode))
		for (size_t r = 0; r < rows; r++)
			st_round_row(j->e, tile + r * *ld, kn, tile + r * *ld);
	return tile;
}

/* Ask for the share of the next tile's bytes that belongs to this step of `steps`: rows lie one after
 * another, but a tile reads them in short pieces that hardware does not see coming. */
static void fetch_next(const struct job *j, size_t n0, size_t n_end, size_t step, size_t steps)
{
	size_t rows = n_end - n0 < j->tile_rows ? n_end - n0 : j->tile_rows;
	size_t bytes = rows * (size_t)j->row_bytes;
	const uint8_t *p = j->w->data + n0 * j->row_bytes;
	for (size_t i = bytes * step / steps; i < bytes * (step + 1) / steps; i += CACHE_LINE)
		__builtin_prefetch(p + i, 0, 2);
}

/* y for rows [n0, n0 + rows) and tokens [t0, t0 + T) from the finished sums. */
static void store_sums(const struct job *j, const void *sums, size_t n0, size_t rows, size_t t0, size_t T)
{
	for (size_t t = 0; t < T; t++) {
		float *y = j->y + (t0 + t) * j->ldy + n0;
		const char *s = (const char *)sums + t * rows * ST_SUM_BYTES;
		if (j->e->mode == ST_MODE_EXACT) {
			double wide[TILE_ROWS];
			j->e->k->sum_f64((const double *)s, rows, wide);
			for (size_t r = 0; r < rows; r++)
				y[r] = st_canonical((float)wide[r]);
		} else {
			float narrow[TILE_ROWS];
			j->e->k->sum_f32((const float *)s, rows, narrow);
			for (size_t r = 0; r < rows; r++)
				y[r] = st_canonical(narrow[r]);
		}
	}
}

static void multiply_stored(const struct job *j, size_t n, size_t rows, void *sums)
{
	const uint8_t *w = j->w->data + n * j->row_bytes;
	if (j->e->mode == ST_MODE_EXACT)
		j->e->k->fused_f64[j->w->dtype](w, (size_t)j->row_bytes, rows, j->x, j->ldx, j->T, j->K, sums);
	else
		j->e->k->fused_f32[j->w->dtype](w, (size_t)j->row_bytes, rows, j->x, j->ldx, j->T, j->K, sums);
}

/* Rows [n0, n_end) for the tokens at hand. */
static void multiply(const struct job *j, size_t n0, size_t n_end, float *tile, void *sums)
{
	size_t size = st_mode_operand(j->e->mode), t0 = j->t0, T = j->tn;
	for (size_t n = n0; n < n_end; n += j->tile_rows) {
		size_t rows = n_end - n < j->tile_rows ? n_end - n : j->tile_rows;
		memset(sums, 0, T * rows * ST_SUM_BYTES);
		if (j->source == FUSED) {
			multiply_stored(j, n, rows, sums);
			store_sums(j, sums, n, rows, t0, T);
			continue;
		}
		for (size_t k = 0; k < j->K; k += j->tile_k) {
			size_t kn = j->K - k < j->tile_k ? j->K - k : j->tile_k, ld = 0;
			const float *w = load_tile(j, n, rows, k, kn, tile, &ld);
			if (j->source != ROWS)
				fetch_next(j, n + rows, n_end, k / j->tile_k, (j->K + j->tile_k - 1) / j->tile_k);
			st_dot(j->e, w, ld, rows, (const char *)j->x + k * size, j->ldx, T, kn, sums);
		}
		store_sums(j, sums, n, rows, t0, T);
	}
}

static void multiply_tiles(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct job *j = ctx;
	char *mine = j->shares + lane * j->share;
	size_t n_end = (size_t)end * TILE_ROWS;
	multiply(j, (size_t)begin * TILE_ROWS, n_end < j->N ? n_end : j->N, (float *)(void *)mine,
	         mine + tile_bytes(j->K));
}

static void prepare_tokens(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct job *j = ctx;
	size_t row = j->K * st_mode_operand(j->e->mode);
	(void)lane;
	for (size_t t = (size_t)begin; t < end; t++)
		st_prepare_row(j->e, j->x_in + t * j->K, j->K, j->operands + t * row);
}

void st_matmul(const struct st_exec *e, const struct st_tensor *w, const float *x, size_t T, size_t K, float *y,
               size_t ldy, void *scratch)
{
	assert(st_tensor_cols(w) == K && (uintptr_t)scratch % CACHE_LINE == 0);
	struct job j = { .e = e,
		         .w = w,
		         .ldx = K,
		         .T = T,
		         .K = K,
		         .N = (size_t)st_tensor_rows(w),
		         .y = y,
		         .ldy = ldy,
		         .tile_rows = T <= FEW_TOKENS ? FEW_ROWS : TILE_ROWS,
		         .tile_k = T <= FEW_TOKENS || e->mode == ST_MODE_EXACT ? FEW_K : BLOCK_K,
		         .operands = scratch,
		         .shares = (char *)scratch + operand_bytes(e->mode, T, K),
		         .share = tile_bytes(K) + sums_bytes(T) };
	if (T == 0 || j.N == 0)
		return;
	choose_source(&j);
	bool prepares = st_mode_prepares(e->mode);
	size_t tiles = (j.N + TILE_ROWS - 1) / TILE_ROWS;
	for (; j.t0 < T; j.t0 += BLOCK_T) {
		j.tn = T - j.t0 < BLOCK_T ? T - j.t0 : BLOCK_T;
		j.x_in = x + j.t0 * K;
		j.x = j.x_in;
		if (prepares) {
			st_pool_each(e->pool, j.tn, K, prepare_tokens, &j);
			j.x = scratch;
		}
		st_pool_each(e->pool, tiles, TILE_ROWS * K * (1 + j.tn / 2), multiply_tiles, &j);
	}
}
