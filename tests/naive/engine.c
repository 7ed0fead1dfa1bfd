/* engine.c - memory, roundings, and values as they are captured. */
#include "engine.h"

void *room(struct run *r, size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);
	r->scraps = realloc(r->scraps, (r->n_scraps + 1) * sizeof *r->scraps);
	if (!p || !r->scraps) {
		fputs("naive: no memory\n", stderr);
		exit(2);
	}
	return r->scraps[r->n_scraps++] = p;
}

double *rows(struct run *r, size_t n, size_t cols) { return room(r, n * cols, sizeof(double)); }

uint64_t mix64(uint64_t x)
{
	x += 0x9E3779B97F4A7C15u;
	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
	x = (x ^ x >> 27) * 0x94D049BB133111EBu;
	return x ^ x >> 31;
}

/* About normal, by the sum of uniform numbers; the same for the same key. */
double noise(uint64_t key)
{
	double s = -6;
	for (uint64_t i = 0; i < 12; i++)
		s += (double)(mix64(key * 12 + i) >> 11) * 0x1p-53;
	return s;
}

/* What is planted is left in r->hit, for its value; what is done in the end is put there, for reports. */
bool on(const struct run *r, enum fault f, int layer, const char *target)
{
	for (size_t k = 0; k <= r->o.n_more; k++) {
		const struct planted *p = k == 0 ? &r->o.plant : &r->o.more[k - 1];
		if (p->fault != f || (p->layer >= 0 && layer >= 0 && p->layer != layer)
		    || (target && strcmp(p->target, target) != 0))
			continue;
		if (r->hit->fault != f)
			*r->hit = *p;
		return true;
	}
	return false;
}

bool is_stream(const struct run *r) { return r->o.arith == ARITH_BF16STREAM || r->o.arith == ARITH_F16STREAM; }

/* What a value is when it leaves an operation. */
double out(const struct run *r, double x)
{
	return r->o.arith == ARITH_F64        ? x
	     : r->o.arith == ARITH_BF16STREAM ? to_bf16(x)
	     : r->o.arith == ARITH_F16STREAM  ? to_f16(x)
	                                      : (double)(float)x;
}

/* A step inside an operation that is computed in f32 even in half-precision engines. */
double step(const struct run *r, double x) { return r->o.arith == ARITH_F64 ? x : (double)(float)x; }

static void spoil_stage(struct run *r, const char *stage, int l, double *v, size_t n, size_t cols)
{
	size_t total = n * cols, tail = cols % 16 ? cols % 16 : 8;
	if (on(r, FAULT_NUMERIC_NAN, l, stage))
		v[total / 2] = NAN;
	if (on(r, FAULT_NUMERIC_OVERFLOW, l, stage)) {
		double most = 0;
		for (size_t i = 0; i < total; i++)
			most = fmax(most, fabs(v[i]));
		for (size_t i = 0; i < total; i++)
			if (fabs(v[i]) > 0.9 * most)
				v[i] = v[i] > 0 ? INFINITY : -INFINITY;
	}
	if (on(r, FAULT_LOW_PRECISION, l, stage))
		for (size_t i = 0; i < total; i++) {
			int e;
			double f = frexp(v[i], &e);
			v[i] = ldexp(rint(f * 64) / 64, e);
		}
	for (size_t t = 0; t < n; t++) {
		double *x = v + t * cols;
		if (on(r, FAULT_KERNEL_TAIL, l, stage))
			memset(x + cols - tail, 0, tail * sizeof *x);
		if (on(r, FAULT_KERNEL_STALE_TILE, l, stage))
			memcpy(x + cols - 8, x + cols - 16, 8 * sizeof *x);
		if (on(r, FAULT_KERNEL_UNINITIALISED, l, stage))
			for (size_t i = 0; i < tail; i++)
				x[cols - tail + i] = noise(t * 100 + i) * (i % 3 ? 1e-30 : 1e4);
	}
	if (on(r, FAULT_KERNEL_STALE_TOKEN, l, stage) && n > 2)
		memcpy(v + (n - 2) * cols, v + (n - 3) * cols, cols * sizeof *v);
}

struct value *add_value(struct run *r, const char *stage, int l, const double *v, size_t a, size_t b, size_t c)
{
	if (r->n_values == r->room) {
		r->room = r->room ? 2 * r->room : 64;
		r->values = realloc(r->values, r->room * sizeof *r->values);
		if (!r->values)
			exit(2);
	}
	struct value *x = &r->values[r->n_values++];
	*x = (struct value){
		.layer = l, .step = r->step, .n_dims = c ? 3 : 2, .dims = { a, b, c }, .n = a * b * (c ? c : 1)
	};
	snprintf(x->stage, sizeof x->stage, "%s", stage);
	x->v = malloc(x->n * sizeof *x->v);
	if (!x->v)
		exit(2);
	memcpy(x->v, v, x->n * sizeof *v);
	return x;
}

/* A stage is done: mistakes of its kernel, and a copy for the trace. */
void keep(struct run *r, const char *stage, int l, double *v, size_t n, size_t cols)
{
	spoil_stage(r, stage, l, v, n, cols);
	add_value(r, stage, l, v, n, cols, 0);
}
