/*
 * fused_template.h - dot of one stored type for few tokens, AVX-512, decoding as it multiplies.
 *
 * A group of elements of four rows is decoded into a few vectors and multiplied at once. The decoding of a group then
 * runs beside the products of the one before. The factors of a block are made before the last products of the block
 * before, since nothing can begin without them. Groups are small, since the products wait until four rows are decoded.
 * With many tokens the plain dot on a decoded tile is as fast. The order of each sum is dot's.
 *
 * The includer defines TYPE (prep_TYPE and group_TYPE above), ELEMS per block, GROUP elements per group.
 */
#define FUSED_ROWS 4
#define BLOCK struct ST_PASTE(st_block_, TYPE)
#define NAME(suffix) ST_PASTE(ST_PASTE(fused_, TYPE), suffix)

/* One function body for both accumulator types; R and C are constants after inlining. */
#define FUSED_TILE(name, elem, lanes, vec, getx, spread, fma_, get, put)                                               \
	static inline __attribute__((always_inline)) ST_TARGET void name(                                              \
		const uint8_t *w, size_t row_bytes, const elem *x, size_t ldx, size_t K, elem *acc, size_t ld,         \
		size_t ahead, const int R, const int C)                                                                \
	{                                                                                                              \
		vec s[FUSED_ROWS][ST_FUSED_TOKENS];                                                                    \
		UNROLL for (int c = 0; c < C; c++) UNROLL for (int r = 0; r < R; r++)                                  \
			s[r][c] = get(acc + ((size_t)c * ld + (size_t)r) * lanes);                                     \
		float f[FUSED_ROWS][16];                                                                               \
		if (K)                                                                                                 \
			UNROLL for (int r = 0; r < R; r++)                                                             \
				ST_PASTE(prep_, TYPE)((const BLOCK *)(w + (size_t)r * row_bytes), f[r]);               \
		for (size_t k = 0; k < K; k += ELEMS, w += sizeof(BLOCK)) {                                            \
			const uint8_t *next = k + ELEMS < K ? w + sizeof(BLOCK)                                        \
			                                    : w; /* a row's last: once more, unused */                 \
			UNROLL for (int r = 0; r < R; r++) UNROLL for (size_t i = 0; i < sizeof(BLOCK); i += 64)       \
				__builtin_prefetch((const void *)((uintptr_t)w + (size_t)r * row_bytes + ahead + i),   \
			                           0, 2);                                                              \
			UNROLL for (unsigned g = 0; g < ELEMS / GROUP; g++)                                            \
			{                                                                                              \
				_Alignas(64) float v[FUSED_ROWS][GROUP];                                               \
				UNROLL for (int r = 0; r < R; r++) ST_PASTE(group_, TYPE)(                             \
					(const BLOCK *)(w + (size_t)r * row_bytes), g, f[r], v[r]);                    \
				if (g == ELEMS / GROUP - 1)                                                            \
					UNROLL for (int r = 0; r < R; r++) ST_PASTE(prep_, TYPE)(                      \
						(const BLOCK *)(next + (size_t)r * row_bytes), f[r]);                  \
				UNROLL for (size_t i = 0; i < GROUP; i += 16)                                          \
				{                                                                                      \
					vec a[FUSED_ROWS][16 / lanes];                                                 \
					UNROLL for (int r = 0; r < R; r++) spread(a[r], v[r] + i);                     \
					UNROLL for (int h = 0; h < 16 / lanes; h++) UNROLL for (int c = 0; c < C; c++) \
					{                                                                              \
						vec b = getx(x + (size_t)c * ldx + k + GROUP * g + i + h * lanes);     \
						UNROLL for (int r = 0; r < R; r++)                                     \
							s[r][c] = fma_(a[r][h], b, s[r][c]);                           \
					}                                                                              \
				}                                                                                      \
			}                                                                                              \
		}                                                                                                      \
		UNROLL for (int c = 0; c < C; c++) UNROLL for (int r = 0; r < R; r++)                                  \
			put(acc + ((size_t)c * ld + (size_t)r) * lanes, s[r][c]);                                      \
	}
#define SPREAD(a, p) (a)[0] = _mm512_load_ps(p)
FUSED_TILE(NAME(_tile_f32), float, ST_LANES_F32, __m512, _mm512_loadu_ps, SPREAD, _mm512_fmadd_ps, _mm512_load_ps,
           _mm512_store_ps)
/* Out of the register that holds all 16: a load of the upper half would wait for the store to reach the cache. */
#define SPREAD_WIDE(a, p)                                                    \
	(a)[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_load_ps(p))), \
	(a)[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(_mm512_load_ps(p), 1))
FUSED_TILE(NAME(_tile_f64), double, ST_LANES_F64, __m512d, _mm512_loadu_pd, SPREAD_WIDE, _mm512_fmadd_pd,
           _mm512_load_pd, _mm512_store_pd)

#define FUSED_DOT(name, tile, elem, lanes)                                                                            \
	ST_TARGET static void name(const uint8_t *w, size_t row_bytes, size_t R, const elem *x, size_t ldx, size_t T, \
	                           size_t K, elem *acc)                                                               \
	{                                                                                                             \
		size_t ahead = R * row_bytes; /* the next call's rows */                                              \
		size_t r = 0;                                                                                         \
		for (; r + FUSED_ROWS <= R; r += FUSED_ROWS)                                                          \
			switch (T) {                                                                                  \
			case 1:                                                                                       \
				tile(w + r * row_bytes, row_bytes, x, ldx, K, acc + r * lanes, R, ahead, FUSED_ROWS,  \
				     1);                                                                              \
				break;                                                                                \
			case 2:                                                                                       \
				tile(w + r * row_bytes, row_bytes, x, ldx, K, acc + r * lanes, R, ahead, FUSED_ROWS,  \
				     2);                                                                              \
				break;                                                                                \
			case 3:                                                                                       \
				tile(w + r * row_bytes, row_bytes, x, ldx, K, acc + r * lanes, R, ahead, FUSED_ROWS,  \
				     3);                                                                              \
				break;                                                                                \
			case 4:                                                                                       \
				tile(w + r * row_bytes, row_bytes, x, ldx, K, acc + r * lanes, R, ahead, FUSED_ROWS,  \
				     4);                                                                              \
				break;                                                                                \
			}                                                                                             \
		for (; r < R; r++)                                                                                    \
			for (size_t t = 0; t < T; t++)                                                                \
				tile(w + r * row_bytes, row_bytes, x + t * ldx, ldx, K, acc + (t * R + r) * lanes, R, \
				     ahead, 1, 1);                                                                    \
	}
FUSED_DOT(NAME(_f32), NAME(_tile_f32), float, ST_LANES_F32)
FUSED_DOT(NAME(_f64), NAME(_tile_f64), double, ST_LANES_F64)

#undef FUSED_ROWS
#undef BLOCK
#undef NAME
#undef FUSED_TILE
#undef FUSED_DOT
#undef SPREAD
#undef SPREAD_WIDE
#undef TYPE
#undef ELEMS
#undef GROUP
