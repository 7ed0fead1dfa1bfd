/*
 * dot_template.h - the product sums of one level, for one element type: included by dots.h once for f32 and once for
 * f64 accumulators.
 *
 * A register tile of R weight rows by C tokens holds all lanes of its sums; tokens and rows
 * left over take narrower tiles. No tile changes the order in which one sum is formed.
 *
 * The includer defines ST_TARGET (function attributes of the level) and
 *   DOT                 name of the product sum
 *   ELEM, LANES         float, 16 or double, 8
 *   VEC, WIDTH          a vector type and how many ELEMs it holds; they divide LANES
 *   LOAD(p)             vector of floats at p (converted); LOAD_N(p, n): the first n, zeros beyond, n may be <= 0
 *   FMA(a, b, c)        a * b + c, rounded once
 *   GETX(p), GETX_N(p, n)  the same of ELEMs
 *   SPLAT(x)            vector of copies of a float
 *   GET(p), PUT(p, v)   load and store accumulators
 *   MIX                 name of the sum over positions
 *   ROWS, COLS          the widest tile that stays in registers; ROWS1 >= ROWS: rows for one token
 */
#define TILE_ ST_PASTE(DOT, _tile)
#define REGS (LANES / WIDTH)

static inline __attribute__((always_inline)) ST_TARGET void TILE_(const float *w, size_t ldw, const ELEM *x, size_t ldx,
                                                                  size_t K, ELEM *acc, size_t ld, const int R,
                                                                  const int C)
{
	VEC s[ROWS1][COLS][REGS];
	UNROLL for (int c = 0; c < C; c++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int j = 0; j < REGS; j++)
		s[r][c][j] = GET(acc + ((size_t)c * ld + (size_t)r) * LANES + j * WIDTH);
	size_t k = 0;
	for (; k + LANES <= K; k += LANES)
		UNROLL for (int j = 0; j < REGS; j++)
		{
			VEC a[ROWS1];
			UNROLL for (int r = 0; r < R; r++) a[r] = LOAD(w + (size_t)r * ldw + k + j * WIDTH);
			UNROLL for (int c = 0; c < C; c++)
			{
				VEC b = GETX(x + (size_t)c * ldx + k + j * WIDTH);
				UNROLL for (int r = 0; r < R; r++) s[r][c][j] = FMA(a[r], b, s[r][c][j]);
			}
		}
	if (k < K)
		UNROLL for (int j = 0; j < REGS; j++)
		{
			int left = (int)(K - k) - j * WIDTH;
			size_t at = left > 0 ? k + (size_t)(j * WIDTH) : k; /* never beyond the row */
			VEC a[ROWS1];
			UNROLL for (int r = 0; r < R; r++) a[r] = LOAD_N(w + (size_t)r * ldw + at, left);
			UNROLL for (int c = 0; c < C; c++)
			{
				VEC b = GETX_N(x + (size_t)c * ldx + at, left);
				UNROLL for (int r = 0; r < R; r++) s[r][c][j] = FMA(a[r], b, s[r][c][j]);
			}
		}
	UNROLL for (int c = 0; c < C; c++) UNROLL for (int r = 0; r < R; r++) UNROLL for (int j = 0; j < REGS; j++)
		PUT(acc + ((size_t)c * ld + (size_t)r) * LANES + j * WIDTH, s[r][c][j]);
}

/* All rows for C tokens, C a constant. */
static inline __attribute__((always_inline)) ST_TARGET void ST_PASTE(DOT, _cols)(const float *w, size_t ldw, size_t R,
                                                                                 const ELEM *x, size_t ldx, size_t K,
                                                                                 ELEM *acc, const int rows, const int C)
{
	size_t r = 0;
	for (; r + (size_t)rows <= R; r += (size_t)rows)
		TILE_(w + r * ldw, ldw, x, ldx, K, acc + r * LANES, R, rows, C);
	for (; r < R; r++)
		TILE_(w + r * ldw, ldw, x, ldx, K, acc + r * LANES, R, 1, C);
}

ST_TARGET static void DOT(const float *w, size_t ldw, size_t R, const ELEM *x, size_t ldx, size_t T, size_t K,
                          ELEM *acc)
{
	/* Equal groups of at most COLS tokens: 8 tokens are 4 + 4, not 6 + 2. */
	size_t groups = (T + COLS - 1) / COLS;
	for (size_t g = groups; g > 0; g--) {
		size_t c = (T + g - 1) / g;
		switch (c) {
		case 1:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS1, 1);
			break;
		case 2:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS, 2);
			break;
		case 3:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS, 3);
			break;
#if COLS >= 6
		case 4:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS, 4);
			break;
		case 5:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS, 5);
			break;
		case 6:
			ST_PASTE(DOT, _cols)(w, ldw, R, x, ldx, K, acc, ROWS, 6);
			break;
#endif
		}
		x += c * ldx;
		acc += c * R * LANES;
		T -= c;
	}
}

/* Lane p mod 4 of each feature; features beyond n in the last vector gather zeros. */
ST_TARGET static void MIX(const float *prob, size_t P, const float *v, size_t ldv, size_t n, ELEM *acc)
{
	for (size_t i = 0; i < n; i += WIDTH) {
		int left = n - i < WIDTH ? (int)(n - i) : WIDTH;
		VEC s[ST_LANES_MIX];
		UNROLL for (int l = 0; l < ST_LANES_MIX; l++) s[l] = GET(acc + l * ST_MIX_WIDTH + i);
		size_t p = 0;
		if (left == WIDTH) {
			for (; p + ST_LANES_MIX <= P; p += ST_LANES_MIX)
				UNROLL for (size_t l = 0; l < ST_LANES_MIX; l++)
					s[l] = FMA(SPLAT(prob[p + l]), LOAD(v + (p + l) * ldv + i), s[l]);
		} else {
			for (; p + ST_LANES_MIX <= P; p += ST_LANES_MIX)
				UNROLL for (size_t l = 0; l < ST_LANES_MIX; l++)
					s[l] = FMA(SPLAT(prob[p + l]), LOAD_N(v + (p + l) * ldv + i, left), s[l]);
		}
		UNROLL for (size_t l = 0; l < ST_LANES_MIX - 1; l++) if (p + l < P)
			s[l] = FMA(SPLAT(prob[p + l]), LOAD_N(v + (p + l) * ldv + i, left), s[l]);
		UNROLL for (int l = 0; l < ST_LANES_MIX; l++) PUT(acc + l * ST_MIX_WIDTH + i, s[l]);
	}
}

#undef TILE_
#undef WIDTH
#undef DOT
#undef ELEM
#undef LANES
#undef VEC
#undef REGS
#undef LOAD
#undef LOAD_N
#undef FMA
#undef GET
#undef GETX
#undef GETX_N
#undef SPLAT
#undef PUT
#undef MIX
