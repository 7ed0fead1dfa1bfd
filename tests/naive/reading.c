/* reading.c - weights as the engine reads them, and mistakes in that. */
#include "engine.h"

struct weight copy_of(struct run *r, struct weight w)
{
	float *v = room(r, w.rows * w.cols, sizeof *v);
	memcpy(v, w.v, w.rows * w.cols * sizeof *v);
	w.v = v;
	return w;
}

static struct weight permuted(struct run *r, struct weight w, const size_t *from)
{
	struct weight c = copy_of(r, w);
	for (size_t i = 0; i < w.rows; i++)
		memcpy(c.v + i * w.cols, w.v + from[i] * w.cols, w.cols * sizeof *w.v);
	return c;
}

/* Row of the half-split order that stands at row i of the order of neighbours, for heads of d rows. */
size_t pair_order(size_t i, size_t d) { return i / d * d + i % d / 2 + (i % 2) * (d / 2); }

/* Bits of one type read as another. */
static float misread(float x)
{
	float b = (float)to_bf16(x);
	uint32_t u;
	memcpy(&u, &b, 4);
	return (float)f16_of_bits((uint16_t)(u >> 16));
}

static struct weight fused_row(struct run *r, size_t l, enum slot s)
{
	/* [q0.. k0 v0 q1.. k1 v1] taken for what is read: rows in the file's order are [Q | K | V]. */
	const struct model *m = r->m;
	size_t per = m->H / m->G, group = (per + 2) * m->d, q = m->H * m->d, kv = m->G * m->d;
	struct weight w = copy_of(r, m->w[l][s]);
	for (size_t i = 0; i < w.rows; i++) {
		size_t g = s == Q ? i / (per * m->d) : i / m->d, in = s == Q ? i % (per * m->d) : i % m->d;
		size_t at = g * group + in + (s == Q ? 0 : s == K ? per * m->d : (per + 1) * m->d);
		const struct weight *src = at < q ? &m->w[l][Q] : at < q + kv ? &m->w[l][K] : &m->w[l][V];
		size_t row = at < q ? at : at < q + kv ? at - q : at - q - kv;
		memcpy(w.v + i * w.cols, src->v + row * w.cols, w.cols * sizeof *w.v);
	}
	return w;
}

static size_t largest_row(const struct weight *w)
{
	size_t at = 0;
	double most = 0;
	for (size_t i = 0; i < w->rows; i++) {
		double square = 0;
		for (size_t j = 0; j < w->cols; j++)
			square += (double)w->v[i * w->cols + j] * w->v[i * w->cols + j];
		at = square > most ? i : at;
		most = square > most ? square : most;
	}
	return at;
}

static struct weight spoil_once(struct run *r, size_t l, enum slot s, struct weight w)
{
	const struct model *m = r->m;
	const char *name = slot_names[s];
	int at = s <= HEAD ? -1 : (int)l;
	double value = r->hit->value;
	size_t each = s >= GATE && s <= DOWN && m->experts[l] ? w.rows / m->E : w.rows; /* of a stack: one matrix */
	struct weight c;
	size_t *from;
	switch (r->hit->fault) {
	case FAULT_KERNEL_ORIENTATION: /* what is stored by rows is read by columns */
		if (!on(r, r->hit->fault, at, name))
			return w;
		c = copy_of(r, w);
		for (size_t i = 0; i < w.rows; i++)
			for (size_t j = 0; j < w.cols; j++)
				c.v[i * w.cols + j] = w.v[i / each * each * w.cols + j * each + i % each];
		return c;
	case FAULT_W_TRANSPOSED:
		if (!on(r, r->hit->fault, at, name))
			return w;
		c = copy_of(r, w);
		for (size_t i = 0; i < w.rows; i++)
			for (size_t j = 0; j < w.cols; j++)
				c.v[i / each * each * w.cols + j * each + i % each] = w.v[i * w.cols + j];
		return c;
	case FAULT_W_ROPE_PERMUTED:
	case FAULT_W_ROPE_WRONG_HEADS:
	case FAULT_W_ROWS_PERMUTED:
	case FAULT_W_ROW_SHIFT:
		if (!on(r, r->hit->fault, at, name))
			return w;
		from = room(r, w.rows, sizeof *from);
		for (size_t i = 0; i < w.rows; i++)
			from[i] = r->hit->fault == FAULT_W_ROPE_PERMUTED    ? pair_order(i, m->d)
			        : r->hit->fault == FAULT_W_ROPE_WRONG_HEADS ? pair_order(i, w.rows / m->H)
			        : r->hit->fault == FAULT_W_ROW_SHIFT        ? (i + (size_t)value) % w.rows
			                                                    : i;
		if (r->hit->fault == FAULT_W_ROWS_PERMUTED)
			for (size_t i = w.rows; i-- > 1;) {
				size_t in = i % each, k = i - in + mix64(in + 77) % (in + 1), t = from[i];
				from[i] = from[k];
				from[k] = t;
			}
		return permuted(r, w, from);
	case FAULT_W_QKV_SWAPPED:
		return !on(r, FAULT_W_QKV_SWAPPED, at, NULL) ? w : s == K ? m->w[l][V] : s == V ? m->w[l][K] : w;
	case FAULT_W_QKV_INTERLEAVED:
		return on(r, FAULT_W_QKV_INTERLEAVED, at, NULL) && (s == Q || s == K || s == V) ? fused_row(r, l, s)
		                                                                                : w;
	case FAULT_W_GATE_UP_SWAPPED:
		return !on(r, FAULT_W_GATE_UP_SWAPPED, at, NULL) ? w
		     : s == GATE                                 ? m->w[l][UP]
		     : s == UP                                   ? m->w[l][GATE]
		                                                 : w;
	case FAULT_W_GATE_UP_INTERLEAVED: {
		if (!on(r, FAULT_W_GATE_UP_INTERLEAVED, at, NULL) || (s != GATE && s != UP))
			return w;
		c = copy_of(r, w);
		size_t E = m->experts[l] ? m->E : 1, F = w.rows / E;
		for (size_t i = 0; i < w.rows; i++) {
			size_t e = i / F, k = 2 * (i % F) + (s == UP); /* of the rows of both, one behind the other */
			const struct weight *src = &m->w[l][k < F ? GATE : UP];
			memcpy(c.v + i * w.cols, src->v + (e * F + k % F) * w.cols, w.cols * sizeof *w.v);
		}
		return c;
	}
	case FAULT_W_LAYER_SWAPPED:
		return on(r, FAULT_W_LAYER_SWAPPED, at, name) && l + 1 < m->L && m->w[l + 1][s].v ? m->w[l + 1][s] : w;
	case FAULT_W_WRONG_TENSOR:
		return on(r, FAULT_W_WRONG_TENSOR, at, name) ? m->w[l][s == O ? Q : O] : w;
	case FAULT_MOE_PERMUTED:
		if (!on(r, FAULT_MOE_PERMUTED, at, NULL) || !m->experts[l] || s < GATE || s > DOWN_BIAS || s == ROUTER)
			return w;
		c = copy_of(r, w);
		for (size_t e = 0; e < m->E; e++) {
			size_t n = w.rows * w.cols / m->E;
			memcpy(c.v + e * n, w.v + (e + 1) % m->E * n, n * sizeof *w.v);
		}
		return c;
	case FAULT_W_MISSING:
	case FAULT_W_SCALED:
	case FAULT_W_ROW_CORRUPT:
	case FAULT_W_ROW_CHANNEL:
	case FAULT_W_BLOCK_SCALE:
	case FAULT_W_BLOCK_LAYOUT:
	case FAULT_W_MISLABELLED:
	case FAULT_W_TRUNCATED:
	case FAULT_W_NAN:
	case FAULT_W_LOW_RANK: {
		if (!on(r, r->hit->fault, at, name))
			return w;
		c = copy_of(r, w);
		size_t block = w.cols % 32 == 0 ? 32 : 8, bad = w.rows / 3, largest = largest_row(&w);
		double rms = 0;
		for (size_t i = 0; i < w.rows * w.cols; i++)
			rms += (double)w.v[i] * w.v[i];
		rms = sqrt(rms / (double)(w.rows * w.cols));
		for (size_t i = 0; i < w.rows; i++)
			for (size_t j = 0; j < w.cols; j++) {
				float *x = &c.v[i * w.cols + j];
				switch (r->hit->fault) {
				case FAULT_W_MISSING:
					*x = 0;
					break;
				case FAULT_W_SCALED:
					*x = (float)(*x * value);
					break;
				case FAULT_W_ROW_CORRUPT:
					if (i == bad)
						*x = (float)(rms * noise(j + 1000));
					break;
				case FAULT_W_ROW_CHANNEL:
					*x = i == largest ? (float)(*x * value) : *x;
					break;
				case FAULT_W_BLOCK_SCALE:
					if (i % 3 == 1 && j / block == w.cols / block / 2)
						*x = (float)(*x * value);
					break;
				case FAULT_W_BLOCK_LAYOUT:
					*x = w.v[i * w.cols + j / 32 * 32 + pair_order(j % 32, 32)];
					break;
				case FAULT_W_MISLABELLED:
					*x = misread(*x);
					break;
				case FAULT_W_TRUNCATED: {
					uint32_t u;
					memcpy(&u, x, 4);
					u &= 0xFFFF0000u;
					memcpy(x, &u, 4);
					break;
				}
				case FAULT_W_LOW_RANK:
					*x = (float)(*x
					             + 0.15 * rms
					                       * (noise(i) * noise(j + 5000)
					                          + noise(i + 9000) * noise(j + 17000)));
					break;
				default:
					break;
				}
			}
		if (r->hit->fault == FAULT_W_NAN)
			c.v[bad * w.cols + w.cols / 2] = NAN;
		return c;
	}
	case FAULT_W_TWO_MODELS: {
		double rms = 0;
		c = copy_of(r, w);
		for (size_t i = 0; i < w.rows * w.cols; i++)
			rms += (double)w.v[i] * w.v[i];
		rms = sqrt(rms / (double)(w.rows * w.cols));
		for (size_t i = 0; i < w.rows * w.cols; i++)
			c.v[i] = (float)(c.v[i] + value * rms * noise(i + ((uint64_t)s << 40) + (l << 32)));
		return c;
	}
	default:
		return w;
	}
}

struct weight spoil_weight(struct run *r, size_t l, enum slot s, struct weight w)
{
	for (size_t k = 0; k <= r->o.n_more; k++) {
		const struct planted *p = k == 0 ? &r->o.plant : &r->o.more[k - 1];
		if (r->hit->fault != p->fault)
			*r->hit = *p;
		w = spoil_once(r, l, s, w);
	}
	return w;
}

struct weight get(struct run *r, size_t l, enum slot s)
{
	struct weight w = r->m->w[s <= HEAD ? 0 : l][s];
	return w.v && r->o.plant.fault != FAULT_NONE ? spoil_weight(r, l, s, w) : w;
}
