/* recurrent.c - convolutions, scans and the delta rule: token after token, features or heads shared out over threads. */
#include "kernel/recurrent.h"

#include "kernel/kernels.h"

#include <string.h>

static double softplus(double x) { return x > 40 ? x : st_log(1 + st_exp(x)); }

static float rounded(double x) { return st_canonical((float)x); }

void st_softplus(const float *x, size_t n, float *y)
{
	for (size_t i = 0; i < n; i++) {
		double v = (double)x[i], e = st_exp(v);
		/* log(1 + e), where e is too small to be seen beside 1 */
		y[i] = rounded(v < -18 ? e - e * e / 2 : softplus(v));
	}
}

/* ---- convolution ---- */

struct conv {
	const float *x, *w;
	size_t ldx, T, C, K;
	double *state;
	float *y;
};

static void conv_features(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct conv *j = ctx;
	(void)lane;
	for (uint64_t c = begin; c < end; c++) {
		const float *w = j->w + c * j->K;
		double *s = j->state + c * (j->K - 1);
		for (size_t t = 0; t < j->T; t++) {
			double x = (double)j->x[t * j->ldx + c], sum = 0;
			for (size_t k = 0; k + 1 < j->K; k++)
				sum += (double)w[k] * s[k];
			sum += (double)w[j->K - 1] * x;
			if (j->y)
				j->y[t * j->C + c] = rounded(sum);
			if (j->K > 1) {
				memmove(s, s + 1, (j->K - 2) * sizeof *s);
				s[j->K - 2] = x;
			}
		}
	}
}

void st_conv(const struct st_exec *e, const float *x, size_t ldx, const float *w, size_t T, size_t C, size_t K,
             double *state, float *y)
{
	struct conv j = { x, w, ldx, T, C, K, state, y };
	st_pool_each(e->pool, C, T * K * 2, conv_features, &j);
}

/* ---- delta rule ---- */

struct delta {
	const struct st_delta_shape *s;
	struct st_features q, k, v, g, beta;
	double *state;
	float *y;
};

/* One token of one head; S: [dk, dv], in `sum` room for dv numbers. */
static void delta_step(const struct delta *j, size_t h, size_t t, double *S, double *sum)
{
	const struct st_delta_shape *s = j->s;
	size_t dk = s->dk, dv = s->dv, kh = h * s->key_heads / s->heads;
	const float *q = j->q.x + t * j->q.ld + kh * dk, *k = j->k.x + t * j->k.ld + kh * dk,
		    *v = j->v.x + t * j->v.ld + h * dv, *g = j->g.x + t * j->g.ld + h * (s->g_each ? dk : 1);
	double beta = (double)j->beta.x[t * j->beta.ld + h], decay = st_exp((double)g[0]);
	memset(sum, 0, dv * sizeof *sum);
	for (size_t i = 0; i < dk; i++) {
		double ki = (double)k[i], di = s->g_each ? st_exp((double)g[i]) : decay;
		for (size_t c = 0; c < dv; c++) {
			S[i * dv + c] *= di;
			sum[c] += ki * S[i * dv + c];
		}
	}
	for (size_t c = 0; c < dv; c++)
		sum[c] = ((double)v[c] - sum[c]) * beta;
	for (size_t i = 0; i < dk; i++)
		for (size_t c = 0; c < dv; c++)
			S[i * dv + c] += (double)k[i] * sum[c];
	if (!j->y)
		return;
	memset(sum, 0, dv * sizeof *sum);
	for (size_t i = 0; i < dk; i++)
		for (size_t c = 0; c < dv; c++)
			sum[c] += (double)q[i] * S[i * dv + c];
	for (size_t c = 0; c < dv; c++)
		j->y[(t * s->heads + h) * dv + c] = rounded(sum[c] * s->scale);
}

static void delta_heads(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct delta *j = ctx;
	double sum[ST_MAX_STATE];
	(void)lane;
	for (uint64_t h = begin; h < end; h++)
		for (size_t t = 0; t < j->s->T; t++)
			delta_step(j, h, t, j->state + h * j->s->dk * j->s->dv, sum);
}

void st_delta_rule(const struct st_exec *e, const struct st_delta_shape *s, struct st_features q, struct st_features k,
                   struct st_features v, struct st_features g, struct st_features beta, double *state, float *y)
{
	struct delta j = { s, q, k, v, g, beta, state, y };
	st_pool_each(e->pool, s->heads, s->T * s->dk * s->dv * 8, delta_heads, &j);
}

/* ---- linear attention ---- */

struct linear_attention {
	const struct st_linear_attention_shape *s;
	struct st_features q, k, v, g;
	const float *first;
	double *state;
	float *y;
};

/* What row i of the state of head h keeps behind token t. */
static double kept(const struct linear_attention *j, size_t h, size_t t, size_t i)
{
	const struct st_linear_attention_shape *s = j->s;
	if (!j->g.x)
		return st_exp(-s->slope_scale * st_exp(-s->slopes * (double)(h + 1) / (double)s->heads * M_LN2));
	const float *g = j->g.x + t * j->g.ld;
	return st_exp((double)(s->g_each ? g[h * s->dk + i] : g[h]));
}

/* One token of one head; S: [dk, dv], in `sum` room for dv numbers. */
static void attend_step(const struct linear_attention *j, size_t h, size_t t, double *S, double *sum)
{
	const struct st_linear_attention_shape *s = j->s;
	size_t dk = s->dk, dv = s->dv;
	const float *q = j->q.x + t * j->q.ld + h * dk, *k = j->k.x + t * j->k.ld + h * dk,
		    *v = j->v.x + t * j->v.ld + h * dv;
	bool each = j->g.x && s->g_each;
	double decay = each ? 0 : kept(j, h, t, 0);
	memset(sum, 0, dv * sizeof *sum);
	for (size_t i = 0; i < dk; i++) {
		double d = each ? kept(j, h, t, i) : decay, newest = j->first ? (double)j->first[h * dk + i] : 0;
		for (size_t c = 0; c < dv; c++) {
			double kv = (double)k[i] * (double)v[c], before = S[i * dv + c];
			S[i * dv + c] = d * before + kv;
			sum[c] += (double)q[i] * (j->first ? before + newest * kv : S[i * dv + c]);
		}
	}
	for (size_t c = 0; j->y && c < dv; c++)
		j->y[(t * s->heads + h) * dv + c] = rounded(sum[c] * s->scale);
}

static void attend_heads(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct linear_attention *j = ctx;
	double sum[ST_MAX_STATE];
	(void)lane;
	for (uint64_t h = begin; h < end; h++)
		for (size_t t = 0; t < j->s->T; t++)
			attend_step(j, h, t, j->state + h * j->s->dk * j->s->dv, sum);
}

void st_linear_attention(const struct st_exec *e, const struct st_linear_attention_shape *s, struct st_features q,
                         struct st_features k, struct st_features v, struct st_features g, const float *first, double *state,
                         float *y)
{
	struct linear_attention j = { s, q, k, v, g, first, state, y };
	st_pool_each(e->pool, s->heads, s->T * s->dk * s->dv * 6, attend_heads, &j);
}

/* ---- selective scan ---- */

struct scan {
	const struct st_scan_shape *s;
	struct st_features x, dt, B, C;
	const float *A, *D;
	double *state;
	float *y;
};

static void scan_step(const struct scan *j, size_t h, size_t t, double *decay)
{
	const struct st_scan_shape *s = j->s;
	size_t N = s->N, P = s->head_dim, g = h * s->groups / s->heads;
	const float *x = j->x.x + t * j->x.ld + h * P, *B = j->B.x + t * j->B.ld + g * N,
		    *C = j->C.x + t * j->C.ld + g * N;
	double dt = (double)j->dt.x[t * j->dt.ld + h], of_head = s->a_each ? 0 : st_exp(dt * (double)j->A[h]);
	for (size_t n = 0; n < N; n++)
		decay[n] = s->a_each ? st_exp(dt * (double)j->A[h * N + n]) : of_head;
	for (size_t i = 0; i < P; i++) {
		double *H = j->state + (h * P + i) * N, v = (double)x[i], sum = 0;
		for (size_t n = 0; n < N; n++) {
			H[n] = decay[n] * H[n] + dt * (double)B[n] * v;
			sum += (double)C[n] * H[n];
		}
		if (j->y)
			j->y[(t * s->heads + h) * P + i] = rounded(sum + (double)j->D[h] * v);
	}
}

static void scan_heads(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct scan *j = ctx;
	double decay[ST_MAX_STATE];
	(void)lane;
	for (uint64_t h = begin; h < end; h++)
		for (size_t t = 0; t < j->s->T; t++)
			scan_step(j, h, t, decay);
}

void st_scan(const struct st_exec *e, const struct st_scan_shape *s, struct st_features x, struct st_features dt,
             struct st_features B, struct st_features C, const float *A, const float *D, double *state, float *y)
{
	struct scan j = { s, x, dt, B, C, A, D, state, y };
	st_pool_each(e->pool, s->heads, s->T * s->head_dim * s->N * 8, scan_heads, &j);
}

/* ---- recurrences of single features ---- */

void st_lru(const struct st_exec *e, struct st_features x, struct st_features r, struct st_features i, const float *p,
            size_t T, size_t D, bool first, double *state, float *y)
{
	(void)e;
	for (size_t t = 0; t < T; t++)
		for (size_t d = 0; d < D; d++) {
			double log_a = -8 * (double)r.x[t * r.ld + d] * softplus((double)p[d]);
			double in = (double)i.x[t * i.ld + d] * (double)x.x[t * x.ld + d];
			if (first && t == 0)
				state[d] = in;
			else
				state[d] = st_exp(log_a) * state[d] + sqrt(1 - st_exp(2 * log_a)) * in;
			if (y)
				y[t * D + d] = rounded(state[d]);
		}
}

void st_token_shift(const struct st_exec *e, const float *x, size_t ldx, const float *w, size_t T, size_t D,
                    double *state, float *y)
{
	(void)e;
	for (size_t t = 0; t < T; t++)
		for (size_t d = 0; d < D; d++) {
			double now = (double)x[t * ldx + d], share = w ? (double)w[d] : 0;
			if (y)
				y[t * D + d] = rounded(share * now + (1 - share) * state[d]);
			state[d] = now;
		}
}

void st_wkv(const struct st_exec *e, struct st_features k, struct st_features v, const float *decay, const float *first,
            size_t T, size_t D, bool begin, double *state, float *y)
{
	double *num = state, *den = state + D, *most = den + D;
	(void)e;
	for (size_t d = 0; begin && d < D; d++)
		most[d] = -1e38;
	for (size_t t = 0; t < T; t++)
		for (size_t d = 0; d < D; d++) {
			double key = (double)k.x[t * k.ld + d], value = (double)v.x[t * v.ld + d];
			double now = key + (double)first[d], m = fmax(most[d], now), a = st_exp(most[d] - m),
			       b = st_exp(now - m);
			if (y)
				y[t * D + d] = rounded((a * num[d] + b * value) / (a * den[d] + b));
			double before = most[d] - st_exp((double)decay[d]);
			m = fmax(before, key);
			a = st_exp(before - m);
			b = st_exp(key - m);
			num[d] = a * num[d] + b * value;
			den[d] = a * den[d] + b;
			most[d] = m;
		}
}
