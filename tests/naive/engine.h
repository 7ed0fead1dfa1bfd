/* engine.h - what the parts of a run share. */
#ifndef ST_TESTS_NAIVE_ENGINE_H
#define ST_TESTS_NAIVE_ENGINE_H

#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Zeroed; kept until the run is freed. */
void *room(struct run *r, size_t n, size_t size);
double *rows(struct run *r, size_t n, size_t cols);
uint64_t mix64(uint64_t x);
/* About normal; the same for the same key. */
double noise(uint64_t key);

/* Whether the run makes that mistake in this layer (-1: outside of layers), to that target (NULL: any). */
bool on(const struct run *r, enum fault f, int layer, const char *target);
bool is_stream(const struct run *r);
/* What a value is when it leaves an operation. */
double out(const struct run *r, double x);
/* A step inside an operation that is computed in f32 even in half-precision engines. */
double step(const struct run *r, double x);

struct value *add_value(struct run *r, const char *stage, int l, const double *v, size_t a, size_t b, size_t c);
/* A stage is done: mistakes of its kernel, and a copy for the trace. */
void keep(struct run *r, const char *stage, int l, double *v, size_t n, size_t cols);

/* A weight as the engine reads it. */
struct weight get(struct run *r, size_t l, enum slot s);
struct weight spoil_weight(struct run *r, size_t l, enum slot s, struct weight w);
struct weight copy_of(struct run *r, struct weight w);
/* Row of the half-split order that stands at row i of the order of neighbours, for heads of d rows. */
size_t pair_order(size_t i, size_t d);

/* y[t, j] = sum over i of x[t, i] w[row0 + j, i], rows of y `stride` apart; not rounded to the engine's type. */
void product(struct run *r, size_t l, enum slot s, const struct weight *w, size_t row0, size_t n_out, const double *x,
             size_t n, double *y, size_t stride);
void round_all(const struct run *r, double *v, size_t n);
/* Adds the bias, unless there is none. `at`: where in the bias, which a stack of experts has more of. */
void add_bias(struct run *r, size_t l, enum slot s, enum slot matrix, size_t at, double *y, size_t n, size_t cols,
              size_t stride);

struct norm_of {
	const char *stage;
	enum slot weight, bias;
	size_t groups; /* norms beside each other in a row */
	bool wide;     /* the weight is as long as the row */
};
void norm_once(struct run *r, int l, const struct norm_of *o, const double *x, double *y, size_t n, size_t cols);
double *norm(struct run *r, int l, const struct norm_of *o, const double *x, size_t n, size_t cols);

/* Of each pair of a head's first `dims` features, the angle from one position to the next; and what lengths are multiplied by. */
void frequencies(const struct run *r, size_t l, const struct rotation *o, size_t dims, size_t seen, double *f,
                 double *scale);
void rotate(struct run *r, size_t l, double *x, size_t n, size_t heads, size_t pos0, size_t seen);
/* The same, unless it is left out or done twice. */
void rope(struct run *r, size_t l, double *x, size_t n, size_t heads, size_t pos0, size_t seen);

/* Queries, keys and values by way of a latent; values are made as long as keys by zeros. */
void latent_parts(struct run *r, size_t l, const double *input, size_t n, size_t pos0, size_t seen, double *part[3]);

/* From the normed input to the output projection; of a feed-forward part, dense or of experts. */
double *attention(struct run *r, size_t l, const double *input, size_t n, size_t pos0);
double *dense(struct run *r, size_t l, const double *x, size_t n);
double *experts(struct run *r, size_t l, const double *x, const double *stream, size_t n);

#endif
