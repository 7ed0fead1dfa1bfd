/* latent.c - keys and values that are made of a latent, with a part of each key that all heads share. */
#include "engine.h"

/* Of each of H heads, `size` of `each` columns from `from` on, into columns from `at` of rows of `stride`. */
static void gather(const double *x, size_t n, size_t H, size_t each, size_t from, size_t size, double *y, size_t at,
                   size_t stride)
{
	for (size_t t = 0; t < n; t++)
		for (size_t h = 0; h < H; h++)
			memcpy(y + t * stride + at + h * size, x + t * H * each + h * each + from, size * sizeof *y);
}

void latent_parts(struct run *r, size_t l, const double *input, size_t n, size_t pos0, size_t seen, double *part[3])
{
	const struct model *m = r->m;
	size_t H = m->H, a = m->nope, b = m->turned, d = m->d, vd = m->vd, C = m->latent, each = a + vd;
	int L = (int)l;
	const struct norm_of latent_norm = { "kv_latent_norm", LATENT_NORM, SLOTS, 1, false };
	struct weight wq = get(r, l, LATENT_Q), wl = get(r, l, LATENT), wb = get(r, l, LATENT_B);
	double *raw = rows(r, n, H * d), *q = rows(r, n, H * d), *latent = rows(r, n, C + b), *c = rows(r, n, C);
	double *both = rows(r, n, H * each), *kv = rows(r, n, H * each), *q_turned = rows(r, n, H * b),
	       *k_turned = rows(r, n, b);
	/* The stages list what does not turn of all heads, then what turns; keys of all heads, then values. */
	product(r, l, LATENT_Q, &wq, 0, wq.rows, input, n, raw, H * d);
	round_all(r, raw, n * H * d);
	gather(raw, n, H, d, 0, a, q, 0, H * d);
	gather(raw, n, H, d, a, b, q, H * a, H * d);
	keep(r, "q_matmul", L, q, n, H * d);
	product(r, l, LATENT, &wl, 0, wl.rows, input, n, latent, C + b);
	round_all(r, latent, n * (C + b));
	keep(r, "kv_latent", L, latent, n, C + b);
	gather(latent, n, 1, C + b, 0, C, c, 0, C);
	gather(latent, n, 1, C + b, C, b, k_turned, 0, b);
	c = norm(r, L, &latent_norm, c, n, C);
	product(r, l, LATENT_B, &wb, 0, wb.rows, c, n, both, H * each);
	round_all(r, both, n * H * each);
	gather(both, n, H, each, 0, a, kv, 0, H * each);
	gather(both, n, H, each, a, vd, kv, H * a, H * each);
	keep(r, "kv_matmul", L, kv, n, H * each);
	for (size_t t = 0; t < n; t++)
		memcpy(q_turned + t * H * b, q + t * H * d + H * a, H * b * sizeof *q);
	rope(r, l, q_turned, n, H, pos0, seen);
	rope(r, l, k_turned, n, 1, pos0, seen);
	keep(r, "q_turned", L, q_turned, n, H * b);
	keep(r, "k_turned", L, k_turned, n, b);
	for (int i = 0; i < 3; i++)
		part[i] = rows(r, n, H * d);
	for (size_t t = 0; t < n; t++)
		for (size_t h = 0; h < H; h++) {
			size_t at = t * H * d + h * d;
			memcpy(part[0] + at, q + t * H * d + h * a, a * sizeof *q);
			memcpy(part[0] + at + a, q_turned + t * H * b + h * b, b * sizeof *q);
			memcpy(part[1] + at, kv + t * H * each + h * a, a * sizeof *q);
			memcpy(part[1] + at + a, k_turned + t * b, b * sizeof *q);
			memcpy(part[2] + at, kv + t * H * each + H * a + h * vd, vd * sizeof *q);
		}
	keep(r, "q_post_rope", L, part[0], n, H * d);
	keep(r, "k_post_rope", L, part[1], n, H * d);
}
