/*
 * diagnose_rows.c - one bad row among many: empty, not seen, holding another row's content, or content that is nowhere
 * in the capture.
 *
 * Let Z be the sum of a head's weights, out its sound result and obs the observed one. When row t, of weight w and
 * value v, was replaced by one of weight w' and value v', then
 *
 *	D = Z (obs - out) = w (obs - v) - w' (obs - v') = u(t) - u'
 *
 * so rows are found by comparing D with the vectors u of all rows, in two passes over the cache instead of an
 * evaluation for each pair. What is found here is only a guess: the evaluation of the edited step has to confirm it.
 */
#include "turboquant/diagnose.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows kept as one half of a pair until the other half is looked for; query heads that take part in that. */
enum { KEPT = 8, HALVES = 2 * KEPT, SCANNED_HEADS = 8 };

/* One key/value head; m of its query heads, from h0. */
struct view {
	struct step *s;
	struct edit own; /* the declared step with the query under test */
	uint32_t g, h0, m, d;
	double *obs, *diff, *u; /* [m, d] in the stored basis: obs, D, and u of one row */
	struct st_arena mem;
};

static void view_close(struct view *x) { st_arena_release(&x->mem); }

/* [d] from the natural basis into the stored one */
static void to_stored(const struct step *s, double *y)
{
	const uint32_t d = s->c->p.head_dim;
	for (uint32_t j = 0; s->decode.signs && j < d; j++)
		y[j] *= st_tq_sign(j);
	st_oracle_fwht(y, d);
}

/* s holds the evaluation of `own`. */
static bool view_open(struct view *x, struct step *s, const struct edit *own, uint32_t g, uint32_t most_heads)
{
	const struct st_tq_params *p = &s->c->p;
	const uint32_t group = p->num_heads / p->num_kv_heads, d = p->head_dim;
	*x = (struct view){
		.s = s, .own = *own, .g = g, .h0 = g * group, .m = group < most_heads ? group : most_heads, .d = d
	};
	x->obs = st_arena_alloc2(&x->mem, x->m, d, sizeof *x->obs);
	x->diff = st_arena_alloc2(&x->mem, x->m, d, sizeof *x->diff);
	x->u = st_arena_alloc2(&x->mem, x->m, d, sizeof *x->u);
	if (!x->obs || !x->diff || !x->u) {
		view_close(x);
		return false;
	}
	for (uint32_t h = 0; h < x->m; h++) {
		const size_t from = (size_t)(x->h0 + h) * d;
		double *obs = x->obs + (size_t)h * d, *diff = x->diff + (size_t)h * d;
		for (uint32_t j = 0; j < d; j++) {
			obs[j] = s->observed[from + j];
			diff[j] = s->total[x->h0 + h] * (obs[j] - s->out[from + j]);
		}
		to_stored(s, obs);
		to_stored(s, diff);
	}
	return true;
}

/* x->u of a physical row; past the last one: of an empty row. */
static void row_vector(struct view *x, uint32_t row)
{
	double k[512] = { 0 }, v[512] = { 0 };
	if (row < x->s->c->p.kv_capacity) {
		st_step_row(x->s, &x->own, false, x->g, row, k);
		st_step_row(x->s, &x->own, true, x->g, row, v);
	}
	for (uint32_t h = 0; h < x->m; h++) {
		const double w = exp(st_step_score(x->s, &x->own, x->h0 + h, k) - x->s->weights_top[x->h0 + h]);
		for (uint32_t j = 0; j < x->d; j++)
			x->u[(size_t)h * x->d + j] = w * (x->obs[(size_t)h * x->d + j] - v[j]);
	}
}

static double over_heads(const struct view *x, const double *a, const double *b)
{
	return st_oracle_dot(a, b, x->m * x->d);
}

/* ---- rows of the capture ---- */

/* The cheapest of a stream, cheapest first. */
struct best {
	double cost[KEPT];
	uint32_t row[KEPT];
	unsigned n;
};

static void keep(struct best *b, double cost, uint32_t row)
{
	unsigned i = b->n;
	if (i < KEPT)
		b->n++;
	else if (cost < b->cost[--i])
		;
	else
		return;
	for (; i > 0 && cost < b->cost[i - 1]; i--) {
		b->cost[i] = b->cost[i - 1];
		b->row[i] = b->row[i - 1];
	}
	b->cost[i] = cost;
	b->row[i] = row;
}

/* Which row went, and which took its place. */
struct pair {
	double cost;
	uint32_t gone, put;
};

/*
 * D is u of the row that went, minus u of the row that took its place. The rows that D resembles most are kept as
 * candidates for either half of the pair. For each of them the other half is the row that resembles most what is left
 * of D. seen: [P]. *copy: the best pair of two rows; *empty: the best with an empty row; *alone: the best row that went
 * without another in its place.
 */
static bool find_pairs(struct view *x, const bool *seen, struct pair *copy, struct pair *empty, uint32_t *alone)
{
	const uint32_t cap = x->s->c->p.kv_capacity;
	const size_t n = (size_t)x->m * x->d;
	struct best gone = { .n = 0 }, put = { .n = 0 };
	double *rest = st_arena_alloc2(&x->mem, HALVES, n, sizeof *rest), size[HALVES];
	if (!rest)
		return false;
	for (uint32_t row = 0; row <= cap; row++) {
		row_vector(x, row);
		const double a = over_heads(x, x->diff, x->u), b = over_heads(x, x->u, x->u);
		if (row < cap && seen[row])
			keep(&gone, b - 2 * a, row);
		keep(&put, b + 2 * a, row);
	}
	for (unsigned i = 0; i < gone.n + put.n; i++) {
		const bool first = i < gone.n;
		row_vector(x, first ? gone.row[i] : put.row[i - gone.n]);
		for (size_t j = 0; j < n; j++)
			rest[i * n + j] = first ? x->diff[j] - x->u[j] : x->diff[j] + x->u[j];
		size[i] = over_heads(x, rest + i * n, rest + i * n);
	}
	copy->cost = empty->cost = INFINITY;
	*alone = gone.row[0];
	for (uint32_t row = 0; row <= cap; row++) {
		row_vector(x, row);
		const double b = over_heads(x, x->u, x->u);
		for (unsigned i = 0; i < gone.n + put.n; i++) {
			const bool first = i < gone.n;
			if (!first && (row == cap || !seen[row]))
				continue;
			const double cost = size[i] + b + (first ? 2 : -2) * over_heads(x, rest + i * n, x->u);
			const struct pair p = { cost, first ? gone.row[i] : row, first ? row : put.row[i - gone.n] };
			struct pair *to = p.put == cap ? empty : copy;
			if (p.gone != p.put && cost < to->cost)
				*to = p;
		}
	}
	return true;
}

/* ---- content that the capture does not have ---- */

/*
 * With row t gone, the rest B = D - u(t) of each head is w' (v' - obs): one v' for all heads of the group, a weight for
 * each. One head alone fits every row and proves nothing. Several heads find the row, but any vector that all of them
 * have too much fits as well. So the content must also be what a row can hold, codes and norms, and reproduce the
 * output as that.
 *
 * A factor on the output of each head can look like such a row. Let a head give out/(1 - e), with e in proportion to
 * its share p = w/Z of row t: then a row of weight w - Z e and value v p/(p - e) gives the same output. The factors are
 * the simpler explanation, so no row is looked for where they are enough (beyond_factors).
 */

/* Whether a factor for each query head leaves a tenth of the difference or more. s holds the evaluation of the declared
 * step. */
static bool beyond_factors(const struct step *s)
{
	const uint32_t d = s->c->p.head_dim;
	double left = 0, diff = 0;
	for (size_t at = 0; at < s->n; at += d) {
		double xy = 0, yy = 0;
		for (size_t j = at; j < at + d; j++) {
			xy += s->observed[j] * s->out[j];
			yy += s->out[j] * s->out[j];
		}
		const double factor = yy > 0 ? xy / yy : 0;
		for (size_t j = at; j < at + d; j++) {
			left += (s->observed[j] - factor * s->out[j]) * (s->observed[j] - factor * s->out[j]);
			diff += (s->observed[j] - s->out[j]) * (s->observed[j] - s->out[j]);
		}
	}
	return left > 0.01 * diff;
}

/* Of one head, against the head with the largest B: what the sums over coordinates come down to. */
struct shared {
	double bb, b0, b1;    /* B.B, B.(obs0 - obs), B.B0 */
	double c00, c01, c11; /* of obs0 - obs and B0 */
};

/* What remains unexplained when the first head's weight is exp(-log_x); w: [m] its head's, or NULL */
static double unexplained(const struct shared *f, uint32_t m, uint32_t ref, double log_x, double *w)
{
	const double x = exp(log_x);
	double sum = 0;
	for (uint32_t h = 0; h < m; h++) {
		const double along = f[h].b0 + x * f[h].b1, length = f[h].c00 + 2 * x * f[h].c01 + x * x * f[h].c11;
		const double weight = h == ref ? 1 / x : along > 0 && length > 0 ? along / length : 0;
		if (h != ref)
			sum += f[h].bb - weight * along;
		if (w)
			w[h] = weight;
	}
	return sum;
}

/* rest: [m, d] is B. Best weights into w: [m]; returns what they leave. */
static double share_value(const struct view *x, const double *rest, struct shared *f, double *w)
{
	const uint32_t d = x->d;
	uint32_t ref = 0;
	for (uint32_t h = 0; h < x->m; h++) {
		f[h].bb = st_oracle_dot(rest + (size_t)h * d, rest + (size_t)h * d, d);
		ref = f[h].bb > f[ref].bb ? h : ref;
	}
	const double *b0 = rest + (size_t)ref * d, *obs0 = x->obs + (size_t)ref * d;
	for (uint32_t h = 0; h < x->m; h++) {
		const double *b = rest + (size_t)h * d;
		double apart[512];
		for (uint32_t j = 0; j < d; j++)
			apart[j] = obs0[j] - x->obs[(size_t)h * d + j];
		f[h] = (struct shared){ f[h].bb,
			                st_oracle_dot(b, apart, d),
			                st_oracle_dot(b, b0, d),
			                st_oracle_dot(apart, apart, d),
			                st_oracle_dot(apart, b0, d),
			                st_oracle_dot(b0, b0, d) };
	}
	double at = 0, best = INFINITY;
	for (int i = -40; i <= 40; i++) {
		double t = 0.5 * i, e = unexplained(f, x->m, ref, t, NULL);
		if (e < best) {
			best = e;
			at = t;
		}
	}
	double lo = at - 0.5, hi = at + 0.5;
	for (int i = 0; i < 60; i++) {
		double a = lo + (hi - lo) / 3, b = hi - (hi - lo) / 3;
		if (unexplained(f, x->m, ref, a, NULL) < unexplained(f, x->m, ref, b, NULL))
			hi = b;
		else
			lo = a;
	}
	return unexplained(f, x->m, ref, 0.5 * (lo + hi), w);
}

/* x->u becomes B for physical row `row` gone. */
static void without_row(struct view *x, uint32_t row)
{
	row_vector(x, row);
	for (size_t j = 0; j < (size_t)x->m * x->d; j++)
		x->u[j] = x->diff[j] - x->u[j];
}

/* y: [d], moved to the nearest row that codes and norms can hold: every value a level times one factor, for d = 512 one
 * for each half. */
static void snap(const struct step *s, double *y)
{
	const uint32_t d = s->c->p.head_dim, span = d / st_tq_norm_blocks(d), n = 1u << s->decode.bits;
	const float *levels = s->decode.levels;
	for (double *b = y; b < y + d; b += span) {
		double to[256], unit = sqrt(st_oracle_dot(b, b, span) / span);
		for (int turn = 0; turn < 4 && unit > 0; turn++) {
			for (uint32_t j = 0; j < span; j++) {
				uint32_t near = 0;
				for (uint32_t i = 1; i < n; i++)
					near = fabs(b[j] - unit * levels[i]) < fabs(b[j] - unit * levels[near]) ? i
					                                                                        : near;
				to[j] = levels[near];
			}
			unit = st_oracle_dot(b, to, span) / st_oracle_dot(to, to, span);
		}
		for (uint32_t j = 0; j < span; j++)
			b[j] = unit > 0 ? unit * to[j] : 0;
	}
}

/* The content of one key/value head's row, from all of its query heads: by turns the row for given weights and weights
 * for a given row. */
static bool solve_content(struct step *s, const struct edit *own, uint32_t g, uint32_t row, struct foreign *to)
{
	struct view x;
	if (!view_open(&x, s, own, g, UINT32_MAX))
		return false;
	struct shared *f = st_arena_alloc(&x.mem, x.m, sizeof *f);
	double *w = st_arena_alloc(&x.mem, x.m, sizeof *w), *v = to->v + (size_t)g * x.d;
	const bool ok = f && w;
	if (ok) {
		without_row(&x, row);
		share_value(&x, x.u, f, w);
	}
	for (int turn = 0; ok && turn < 4; turn++) {
		double total = 0, apart[512];
		memset(v, 0, x.d * sizeof *v);
		for (uint32_t h = 0; h < x.m; h++) {
			for (uint32_t j = 0; j < x.d; j++)
				v[j] += w[h] * (w[h] * x.obs[(size_t)h * x.d + j] + x.u[(size_t)h * x.d + j]);
			total += w[h] * w[h];
		}
		for (uint32_t j = 0; j < x.d && total > 0; j++)
			v[j] /= total;
		snap(s, v);
		for (uint32_t h = 0; h < x.m; h++) {
			for (uint32_t j = 0; j < x.d; j++)
				apart[j] = v[j] - x.obs[(size_t)h * x.d + j];
			const double length = st_oracle_dot(apart, apart, x.d);
			w[h] = length > 0 ? fmax(st_oracle_dot(x.u + (size_t)h * x.d, apart, x.d) / length, 0) : 0;
			to->score[x.h0 + h] = w[h] > 0 ? log(w[h]) + s->weights_top[x.h0 + h] : -INFINITY;
		}
	}
	view_close(&x);
	return ok;
}

/* The row that leaves the least unexplained when its content may be anything. */
static bool find_foreign(struct view *x, const bool *seen, uint32_t *found)
{
	struct shared *f = st_arena_alloc(&x->mem, x->m, sizeof *f);
	double *w = st_arena_alloc(&x->mem, x->m, sizeof *w), best = INFINITY;
	for (uint32_t row = 0; f && w && row < x->s->c->p.kv_capacity; row++) {
		if (!seen[row])
			continue;
		without_row(x, row);
		double e = share_value(x, x->u, f, w);
		if (e < best) {
			best = e;
			*found = row;
		}
	}
	return f && w;
}

/* ---- hypotheses ---- */

static struct hypothesis *add_row(struct table *t, const struct view *x, bool one_head, enum row_fault fault,
                                  uint32_t row, const char *text)
{
	const uint32_t position = st_step_position(&x->s->c->p, row);
	struct edit e = x->own;
	e.row_fault = fault;
	e.row = position;
	e.one_head = one_head;
	e.kv_head = x->g;
	struct hypothesis *h = st_hypothesis_add(t, ST_CAUSE_CACHE_SLOT, text, ST_PARAM_POSITION, position, e);
	st_hypothesis_say_head(h);
	return h;
}

static void add_copy(struct table *t, const struct view *x, bool one_head, const struct pair *pair)
{
	const struct st_tq_params *p = &x->s->c->p;
	const uint32_t gone = st_step_position(p, pair->gone), from = st_step_position(p, pair->put);
	char text[120];
	if ((from + 1) % p->kv_capacity == gone)
		snprintf(text, sizeof text, "the row holds a copy of the one before it");
	else if ((gone + 1) % p->kv_capacity == from)
		snprintf(text, sizeof text, "the row holds a copy of the one after it");
	else if (from < p->kv_seq_len)
		snprintf(text, sizeof text, "the row is stale: it holds what belongs to position %u", from);
	else
		snprintf(text, sizeof text, "the row is stale: it holds what lies in row %u, outside the sequence",
		         pair->put);
	add_row(t, x, one_head, ROW_COPY, pair->gone, text)->e.from = pair->put;
}

static bool add_foreign(struct table *t, struct view *x, bool one_head, uint32_t row)
{
	const struct st_tq_params *p = &x->s->c->p;
	struct foreign *f = &t->foreign[t->n_foreign++];
	f->v = st_alloc_array2(p->num_kv_heads, p->head_dim, sizeof *f->v);
	f->score = st_alloc_array(p->num_heads, sizeof *f->score);
	if (!f->v || !f->score)
		return false;
	for (uint32_t g = 0; g < p->num_kv_heads; g++)
		if ((!one_head || g == x->g) && !solve_content(x->s, &x->own, g, row, f))
			return false;
	add_row(t, x, one_head, ROW_FOREIGN, row,
	        "the row is stale: it holds something that is nowhere in this capture")
		->e.foreign = f;
	return true;
}

void st_find_rows(struct step *s, enum round round, double floor, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const struct edit own = { .round = round };
	struct view x;
	bool one_head, ok;
	st_step_evaluate(s, &own);
	const uint32_t g = st_step_worst_head(s, floor, &one_head);
	ok = view_open(&x, s, &own, g, SCANNED_HEADS);
	bool *seen = ok ? st_arena_alloc(&x.mem, p->kv_capacity, sizeof *seen) : NULL;
	if (!seen) {
		if (ok)
			view_close(&x);
		t->failed = true;
		return;
	}
	for (uint32_t i = 0; i < s->n_rows; i++)
		seen[s->rows[i]] = true;
	struct pair copy, empty;
	uint32_t alone, row = 0;
	ok = s->n_rows == 0 || find_pairs(&x, seen, &copy, &empty, &alone);
	if (ok && s->n_rows > 0) {
		add_row(t, &x, one_head, ROW_MISSING, alone, "the row is not seen");
		if (empty.cost < INFINITY)
			add_row(t, &x, one_head, ROW_ZERO, empty.gone,
			        "the row was read before it was written (empty)");
		if (copy.cost < INFINITY)
			add_copy(t, &x, one_head, &copy);
		if (x.m > 1 && beyond_factors(s))
			ok = find_foreign(&x, seen, &row) && add_foreign(t, &x, one_head, row);
	}
	t->failed |= !ok;
	view_close(&x);
}
