#include "turboquant/oracle.h"

#include "base/error.h"
#include "base/mem.h"

#include <string.h>

struct st_oracle_decode st_oracle_decode_of(const struct st_tq_codec *c)
{
	return (struct st_oracle_decode){
		.bits = c->bits,
		.levels = c->book.level_f32,
		.signs = c->signs,
		.fwht = true,
		.factor = c->d == 512 ? 1 / c->scale_factor_d512 : 1 / sqrt((double)c->d),
	};
}

/* H_2n = [H_n H_n; H_n -H_n]: transform both halves, then their sum and difference. */
static void hadamard(double *x, uint32_t n)
{
	if (n == 1)
		return;
	uint32_t half = n / 2;
	hadamard(x, half);
	hadamard(x + half, half);
	for (uint32_t i = 0; i < half; i++) {
		double a = x[i], b = x[half + i];
		x[i] = a + b;
		x[half + i] = a - b;
	}
}

void st_oracle_fwht(double *x, uint32_t d)
{
	hadamard(x, d);
	for (uint32_t i = 0; i < d; i++)
		x[i] /= sqrt((double)d);
}

void st_oracle_decode_row(const struct st_oracle_decode *o, uint32_t d, const uint8_t *codes, const float *norms,
                          double *y)
{
	double norm[2];
	for (unsigned own = 0; own < 2; own++) {
		unsigned block = o->norm_block == ST_NORM_SWAPPED ? (d == 512) - own
		               : o->norm_block == ST_NORM_FIRST   ? 0
		               : o->norm_block == ST_NORM_SECOND  ? d == 512
		                                                  : own;
		norm[own] = d == 512 || own == 0 ? norms[block] : 0;
	}
	/* What each code is worth under each norm. */
	const unsigned n = 1u << o->bits, blocks = d == 512 ? 2 : 1;
	const bool swapped = o->bits == 4 && o->nibbles_swapped;
	double worth[2][ST_TQ_MAX_LEVELS];
	for (unsigned b = 0; b < blocks; b++)
		for (unsigned i = 0; i < n; i++)
			worth[b][i] = o->levels[i] * norm[b] * o->factor;
	for (uint32_t j = 0; j < d; j += 2) {
		const double *w = worth[j / 256 % blocks];
		const uint8_t low = o->bits == 4 ? codes[j / 2] & 15 : codes[j] & (n - 1),
			      high = o->bits == 4 ? codes[j / 2] >> 4 : codes[j + 1] & (n - 1);
		y[j] = w[swapped ? high : low];
		y[j + 1] = w[swapped ? low : high];
	}
	if (o->fwht)
		st_oracle_fwht(y, d);
	for (uint32_t j = 0; o->signs && j < d; j++)
		y[j] *= st_tq_sign(j);
}

double st_oracle_dot(const double *a, const double *b, uint32_t d)
{
	double part[8] = { 0 };
	for (uint32_t j = 0; j < d; j += 8)
		for (int l = 0; l < 8; l++)
			part[l] += a[j + l] * b[j + l];
	return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

double st_oracle_score(const double *q, const double *k, uint32_t d, double scale, double softcap)
{
	const double x = scale * st_oracle_dot(q, k, d);
	return softcap > 0 ? softcap * tanh(x / softcap) : x;
}

enum { MAX_HEADS = 4096 }; /* st_tq_params_check */

/* The query heads that read key/value head g: [H]. Returns how many they are. */
static uint32_t heads_of(const struct st_oracle_step *s, uint32_t g, uint32_t *heads)
{
	const uint32_t group = s->p->num_heads / s->p->num_kv_heads;
	uint32_t n = 0;
	for (uint32_t h = 0; h < s->p->num_heads; h++)
		if ((s->map ? s->map[h] : h / group) == g)
			heads[n++] = h;
	return n;
}

void st_oracle_attend(const struct st_oracle_step *s)
{
	const uint32_t d = s->p->head_dim, H = s->p->num_heads, n = s->n;
	uint32_t heads[MAX_HEADS];
	double y[512];
	memset(s->out, 0, (size_t)H * d * sizeof *s->out);
	for (uint32_t h = 0; h < H; h++) {
		s->top[h] = -INFINITY;
		s->total[h] = 0;
	}
	for (uint32_t g = 0; g < s->p->num_kv_heads; g++) {
		const uint32_t m = heads_of(s, g, heads);
		for (uint32_t i = 0; i < n; i++) {
			s->row(s->ctx, false, g, i, y);
			for (uint32_t k = 0; k < m; k++) {
				const uint32_t h = heads[k];
				double *x = &s->scores[(size_t)h * n + i];
				if (!s->score || !s->score(s->ctx, h, g, i, x))
					*x = st_oracle_score(s->q + (size_t)h * d, y, d, s->scale, s->softcap);
				s->top[h] = fmax(s->top[h], *x);
			}
		}
		for (uint32_t i = 0; i < n; i++) {
			s->row(s->ctx, true, g, i, y);
			for (uint32_t k = 0; k < m; k++) {
				const uint32_t h = heads[k];
				const double x = s->scores[(size_t)h * n + i],
					     w = x == -INFINITY ? 0 : exp(x - s->top[h]);
				/* Below 1e-30 of the largest weight a row cannot reach f64's last bit of the sum. */
				if (w < 1e-30)
					continue;
				s->total[h] += w;
				for (uint32_t j = 0; j < d; j++)
					s->out[(size_t)h * d + j] += w * y[j];
			}
		}
	}
	for (uint32_t h = 0; h < H; h++)
		for (uint32_t j = 0; s->total[h] != 0 && j < d; j++)
			s->out[(size_t)h * d + j] /= s->total[h];
}

/* The rows that p's mask shows, from its definition: chronological positions from `first` on. */
struct visible {
	const struct st_tq_params *p;
	uint32_t first;
	const struct st_oracle_decode *decode; /* of kv; NULL: the values themselves, [G, L, d] */
	const struct st_tq_kv *kv;
	const float *const *pre;
};

static void visible_row(const void *ctx, bool v, uint32_t g, uint32_t i, double *y)
{
	const struct visible *c = ctx;
	const struct st_tq_params *p = c->p;
	const uint32_t d = p->head_dim, at = c->first + i;
	if (c->decode) {
		const size_t row = (size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + at) % p->kv_capacity;
		st_oracle_decode_row(c->decode, d, c->kv->codes[v] + row * (c->decode->bits == 4 ? d / 2 : d),
		                     c->kv->norms[v] + row * (d == 512 ? 2 : 1), y);
		return;
	}
	const float *x = c->pre[v] + ((size_t)g * p->kv_seq_len + at) * d;
	for (uint32_t j = 0; j < d; j++)
		y[j] = x[j];
}

static enum st_status attend_visible(struct visible c, const float *q, double *out, struct st_error *err)
{
	const struct st_tq_params *p = c.p;
	const uint32_t L = p->kv_seq_len, H = p->num_heads, d = p->head_dim;
	c.first = p->mask_type == ST_TQ_MASK_SLIDING && p->sliding_window < L ? L - p->sliding_window : 0;
	struct st_arena mem = { 0 };
	double *qd = st_arena_alloc2(&mem, H, d, sizeof *qd);
	struct st_oracle_step s = { .p = p,
		                    .scale = p->scale,
		                    .softcap = p->softcap,
		                    .q = qd,
		                    .n = L - c.first,
		                    .row = visible_row,
		                    .ctx = &c,
		                    .scores = st_arena_alloc2(&mem, H, L, sizeof(double)),
		                    .top = st_arena_alloc(&mem, H, sizeof(double)),
		                    .total = st_arena_alloc(&mem, H, sizeof(double)),
		                    .out = out };
	const bool ok = qd && s.scores && s.top && s.total;
	for (size_t i = 0; ok && i < (size_t)H * d; i++)
		qd[i] = q[i];
	if (ok)
		st_oracle_attend(&s);
	st_arena_release(&mem);
	return ok ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_oracle_dequant(const struct st_tq_params *p, const struct st_oracle_decode *o,
                                 const struct st_tq_kv *kv, const float *q, double *out, struct st_error *err)
{
	return attend_visible((struct visible){ .p = p, .decode = o, .kv = kv }, q, out, err);
}

enum st_status st_oracle_floor(const struct st_tq_params *p, const float *const pre[2], const float *q, double *out,
                               struct st_error *err)
{
	return attend_visible((struct visible){ .p = p, .pre = pre }, q, out, err);
}
