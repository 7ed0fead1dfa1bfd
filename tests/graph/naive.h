/*
 * naive.h - a small random decoder and its forward pass in plain f64 loops: the reference
 * for tests that need no file. Nothing here calls the code under test.
 */
#ifndef ST_TESTS_GRAPH_NAIVE_H
#define ST_TESTS_GRAPH_NAIVE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

#define NAIVE_LAYERS 3

struct naive_layer {
	float *attn_norm, *q, *k, *v, *qb, *kb, *vb, *q_norm, *k_norm, *o, *ffn_norm, *gate, *up, *down;
};

/* Matrices are [out, in]; Q and K rows in the half-split basis. */
struct naive {
	size_t D, H, G, d, F, V;
	double eps, theta, factor;  /* factor: linear rope scaling, 1 = none */
	size_t window, window_from; /* 0 = all; layers below window_from see all */
	bool bias, qk_norm, tied;
	struct naive_layer layer[NAIVE_LAYERS];
	float *embed, *final_norm, *head;
};

static inline float *naive_random(struct st_xoshiro *g, size_t n, double mean, double scale)
{
	float *x = malloc(n * sizeof *x);
	for (size_t i = 0; i < n; i++) {
		/* Sum of four uniforms: near enough to normal, and the same on every machine. */
		double u = 0;
		for (int k = 0; k < 4; k++)
			u += (double)(st_xoshiro_next(g) >> 11) * 0x1p-53 - 0.5;
		x[i] = (float)(mean + scale * u * 1.7320508);
	}
	return x;
}

/* Sizes and flags are set; fills the weights. */
static inline void naive_init(struct naive *m, uint64_t seed)
{
	struct st_xoshiro g;
	st_xoshiro_seed(&g, seed);
	size_t D = m->D, Q = m->H * m->d, K = m->G * m->d, F = m->F;
	m->embed = naive_random(&g, m->V * D, 0, 1);
	for (int l = 0; l < NAIVE_LAYERS; l++) {
		struct naive_layer *w = &m->layer[l];
		w->attn_norm = naive_random(&g, D, 1, 0.2);
		w->q = naive_random(&g, Q * D, 0, 1.5 / sqrt((double)D));
		w->k = naive_random(&g, K * D, 0, 1.5 / sqrt((double)D));
		w->v = naive_random(&g, K * D, 0, 1 / sqrt((double)D));
		w->qb = naive_random(&g, Q, 0, 0.5);
		w->kb = naive_random(&g, K, 0, 0.5);
		w->vb = naive_random(&g, K, 0, 0.5);
		w->q_norm = naive_random(&g, m->d, 1, 0.2);
		w->k_norm = naive_random(&g, m->d, 1, 0.2);
		w->o = naive_random(&g, D * Q, 0, 1 / sqrt((double)Q));
		w->ffn_norm = naive_random(&g, D, 1, 0.2);
		w->gate = naive_random(&g, F * D, 0, 1 / sqrt((double)D));
		w->up = naive_random(&g, F * D, 0, 1 / sqrt((double)D));
		w->down = naive_random(&g, D * F, 0, 1 / sqrt((double)F));
	}
	m->final_norm = naive_random(&g, D, 1, 0.2);
	m->head = m->tied ? m->embed : naive_random(&g, m->V * D, 0, 1 / sqrt((double)D));
}

static inline void naive_free(struct naive *m)
{
	for (int l = 0; l < NAIVE_LAYERS; l++) {
		float **p = (float **)&m->layer[l]; /* a row of pointers */
		for (size_t i = 0; i < sizeof m->layer[l] / sizeof *p; i++)
			free(p[i]);
	}
	if (m->head != m->embed)
		free(m->head);
	free(m->embed);
	free(m->final_norm);
}

static inline void naive_matvec(const float *w, const double *x, size_t n, size_t k, const float *bias, double *y)
{
	for (size_t i = 0; i < n; i++) {
		double s = bias ? bias[i] : 0;
		for (size_t j = 0; j < k; j++)
			s += w[i * k + j] * x[j];
		y[i] = s;
	}
}

static inline void naive_norm(const double *x, const float *w, double eps, size_t n, double *y)
{
	double s = 0;
	for (size_t i = 0; i < n; i++)
		s += x[i] * x[i];
	s = 1 / sqrt(s / (double)n + eps);
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] * s * w[i];
}

static inline void naive_rope(double *x, size_t heads, size_t d, double pos, double theta, double factor)
{
	for (size_t h = 0; h < heads; h++, x += d)
		for (size_t i = 0; i < d / 2; i++) {
			double a = pos * pow(theta, -2.0 * (double)i / (double)d) / factor, u = x[i], v = x[i + d / 2];
			x[i] = u * cos(a) - v * sin(a);
			x[i + d / 2] = v * cos(a) + u * sin(a);
		}
}

/* logits: [T, V] */
static inline void naive_forward(const struct naive *m, const uint32_t *tokens, size_t T, double *logits)
{
	size_t D = m->D, d = m->d, Q = m->H * d, K = m->G * d, F = m->F;
	double *x = malloc(T * D * sizeof *x), *q = malloc(T * Q * sizeof *q), *k = malloc(T * K * sizeof *k),
	       *v = malloc(T * K * sizeof *v), *p = malloc(T * sizeof *p), *n = malloc(D * sizeof *n),
	       *y = malloc(Q * sizeof *y), *a = malloc(F * sizeof *a), *b = malloc(F * sizeof *b),
	       *z = malloc(D * sizeof *z);
	for (size_t t = 0; t < T; t++)
		for (size_t i = 0; i < D; i++)
			x[t * D + i] = m->embed[tokens[t] * D + i];
	for (size_t l = 0; l < NAIVE_LAYERS; l++) {
		const struct naive_layer *w = &m->layer[l];
		for (size_t t = 0; t < T; t++) {
			naive_norm(x + t * D, w->attn_norm, m->eps, D, n);
			naive_matvec(w->q, n, Q, D, m->bias ? w->qb : NULL, q + t * Q);
			naive_matvec(w->k, n, K, D, m->bias ? w->kb : NULL, k + t * K);
			naive_matvec(w->v, n, K, D, m->bias ? w->vb : NULL, v + t * K);
			for (size_t h = 0; m->qk_norm && h < m->H; h++)
				naive_norm(q + t * Q + h * d, w->q_norm, m->eps, d, q + t * Q + h * d);
			for (size_t h = 0; m->qk_norm && h < m->G; h++)
				naive_norm(k + t * K + h * d, w->k_norm, m->eps, d, k + t * K + h * d);
			naive_rope(q + t * Q, m->H, d, (double)t, m->theta, m->factor);
			naive_rope(k + t * K, m->G, d, (double)t, m->theta, m->factor);
		}
		for (size_t t = 0; t < T; t++) {
			size_t from = m->window && l >= m->window_from && t + 1 > m->window ? t + 1 - m->window : 0;
			for (size_t h = 0; h < m->H; h++) {
				size_t g = h / (m->H / m->G);
				double max = -INFINITY, sum = 0;
				for (size_t s = from; s <= t; s++) {
					p[s] = 0;
					for (size_t i = 0; i < d; i++)
						p[s] += q[t * Q + h * d + i] * k[s * K + g * d + i];
					p[s] /= sqrt((double)d);
					max = fmax(max, p[s]);
				}
				for (size_t s = from; s <= t; s++)
					sum += p[s] = exp(p[s] - max);
				for (size_t i = 0; i < d; i++) {
					y[h * d + i] = 0;
					for (size_t s = from; s <= t; s++)
						y[h * d + i] += p[s] / sum * v[s * K + g * d + i];
				}
			}
			naive_matvec(w->o, y, D, Q, NULL, z);
			for (size_t i = 0; i < D; i++)
				x[t * D + i] += z[i];
			naive_norm(x + t * D, w->ffn_norm, m->eps, D, n);
			naive_matvec(w->gate, n, F, D, NULL, a);
			naive_matvec(w->up, n, F, D, NULL, b);
			for (size_t i = 0; i < F; i++)
				a[i] = a[i] / (1 + exp(-a[i])) * b[i];
			naive_matvec(w->down, a, D, F, NULL, z);
			for (size_t i = 0; i < D; i++)
				x[t * D + i] += z[i];
		}
	}
	for (size_t t = 0; t < T; t++) {
		naive_norm(x + t * D, m->final_norm, m->eps, D, n);
		naive_matvec(m->head, n, m->V, D, NULL, logits + t * m->V);
	}
	free(x);
	free(q);
	free(k);
	free(v);
	free(p);
	free(n);
	free(y);
	free(a);
	free(b);
	free(z);
}

#endif
