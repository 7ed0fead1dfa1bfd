/*
 * function.c - weights that differ and compute the same together with their neighbours.
 *
 * A layer has two groups of neighbours: attention and the feed-forward part, each with the norm in front. The head and
 * its norm are a group. What may have moved within a group is found from the numbers and applied to b. The group is the
 * same function when every member of a is then b's, to within the noise of storing it.
 */
#include "compare/function.h"

#include "arch/arch.h"
#include "arch/described.h"
#include "base/error.h"
#include "base/pool.h"
#include "compare/experts.h"
#include "compare/move.h"
#include "compare/rotation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the work ---- */

static const struct st_weight_diff *find(const struct st_move_search *s, enum st_role role, int32_t layer)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->d[i].slot->role == role && s->d[i].slot->layer == layer)
			return &s->d[i];
	return NULL;
}

/* ---- a norm and its readers ---- */

/*
 * factor[c] = n_b / n_a, by which the columns of the readers make up for other norm weights; NULL where the norms are
 * equal. *ok: false where a norm weight of zero lets nothing be made up for.
 */
static enum st_status norm_factor(struct st_move_search *s, const struct st_weight_diff *norm, const double **factor,
                                  bool *ok)
{
	*factor = NULL;
	*ok = true;
	if (!st_move_at_fault(norm))
		return ST_OK;
	*ok = st_move_comparable(norm);
	if (!*ok)
		return ST_OK;
	uint64_t n = norm->cols;
	double *f = st_arena_alloc(&s->arena, n, sizeof *f);
	float *x = st_arena_alloc2(&s->arena, 2, n, sizeof *x), *y = x ? x + n : NULL;
	if (!f || !x)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	st_weight_decode(norm->a, 0, 1, x);
	st_weight_decode(norm->b, 0, 1, y);
	for (uint64_t i = 0; i < n; i++) {
		f[i] = (double)y[i] / x[i];
		*ok &= x[i] != 0 && y[i] != 0 && isfinite(f[i]);
	}
	*factor = f;
	return ST_OK;
}

/* ---- factors between what is written and who reads it ---- */

/*
 * The factors g above zero for which g y meets x, for every pair of cells that was added. The middle of them is taken.
 * Least squares may lie at an edge, where cells meet in their slack alone.
 */
struct factor {
	double least, most;
};

static void narrow(struct factor *f, const struct st_cells *x, const struct st_cells *y, uint64_t i)
{
	double xl = (double)x->value[i] - x->below[i], xh = (double)x->value[i] + x->above[i],
	       yl = (double)y->value[i] - y->below[i], yh = (double)y->value[i] + y->above[i];
	if (isfinite(yl) && isfinite(xh)) { /* g yl <= xh */
		if (yl > 0)
			f->most = fmin(f->most, xh / yl);
		else if (yl < 0)
			f->least = fmax(f->least, xh / yl);
	}
	if (isfinite(yh) && isfinite(xl)) { /* g yh >= xl */
		if (yh > 0)
			f->least = fmax(f->least, xl / yh);
		else if (yh < 0)
			f->most = fmin(f->most, xl / yh);
	}
}

/* f32 arithmetic may leave no factor between the two. The middle is as good then. */
static double middle(const struct factor *f)
{
	return f->least > 0 && isfinite(f->most) ? (f->least + f->most) / 2 : 1;
}

/*
 * gain[i]: by which row i of `rows` is multiplied in a, where the reader's columns that belong to it are divided by it.
 * The cells of both leave an interval. of_row, of_col: which gain a row, and a column of the reader (or, with by_rows, a row
 * of it), belongs to.
 */
struct balance {
	uint64_t n;
	const uint64_t *of_row, *of_col;
	bool by_rows;
};

static enum st_status add_gains(struct st_move_search *s, const struct st_weight_diff *d, const struct st_move *m,
                                const uint64_t *of, bool by_row, bool inverse, struct factor *f)
{
	struct st_rows a = st_rows_of(d->a);
	struct st_moved x = { st_rows_of(d->b), *m };
	struct st_rows b = st_moved_rows(&x);
	struct st_dense da, db, spare;
	ST_TRY(st_dense_make(&s->arena, 1, a.cols, &da, s->err));
	ST_TRY(st_dense_make(&s->arena, 1, a.cols, &db, s->err));
	ST_TRY(st_dense_make(&s->arena, 4, a.cols, &spare, s->err));
	struct st_cells ca = st_dense_row(&da, 0), cb = st_dense_row(&db, 0);
	ca.spare = cb.spare = spare.value;
	for (uint64_t r = 0; r < a.rows; r++) {
		a.get(&a, r, &ca);
		b.get(&b, r, &cb);
		for (uint64_t i = 0; i < a.cols; i++)
			narrow(&f[of[by_row ? r : i]], inverse ? &cb : &ca, inverse ? &ca : &cb, i);
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(s->err));
	}
	return ST_OK;
}

/* Factors of the writer's rows and their inverse for the reader, by both and by their biases (or NULL). */
static enum st_status find_gains(struct st_move_search *s, const struct st_weight_diff *writer,
                                 const struct st_weight_diff *bias, const struct st_move *w,
                                 const struct st_weight_diff *reader, const struct st_weight_diff *reader_bias,
                                 const struct st_move *r, const struct balance *k, double **row_gain,
                                 double **other_gain)
{
	uint64_t rows = writer->rows, others = k->by_rows ? reader->rows : reader->cols;
	struct factor *g = st_arena_alloc(&s->arena, k->n, sizeof *g);
	*row_gain = st_arena_alloc(&s->arena, rows, sizeof **row_gain);
	*other_gain = st_arena_alloc(&s->arena, others, sizeof **other_gain);
	if (!g || !*row_gain || !*other_gain)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < k->n; i++)
		g[i] = (struct factor){ 0, INFINITY };
	ST_TRY(add_gains(s, writer, w, k->of_row, true, false, g));
	ST_TRY(add_gains(s, reader, r, k->of_col, k->by_rows, true, g));
	struct st_move of_bias = st_move_of_vector(w), of_other = st_move_of_vector(r);
	if (st_move_comparable(bias))
		ST_TRY(add_gains(s, bias, &of_bias, k->of_row, false, false, g));
	if (st_move_comparable(reader_bias))
		ST_TRY(add_gains(s, reader_bias, &of_other, k->of_col, false, true, g));
	for (uint64_t i = 0; i < rows; i++)
		(*row_gain)[i] = middle(&g[k->of_row[i]]);
	for (uint64_t i = 0; i < others; i++)
		(*other_gain)[i] = 1 / middle(&g[k->of_col[i]]);
	return ST_OK;
}

/* ---- groups ---- */

enum { FOLDED = 1, REORDERED = 2, SCALED = 4, TURNED = 8 };

static const char *const neurons[] = {
	NULL,
	"norms folded into the matrices behind",
	"neurons in another order",
	"norms folded into the matrices behind, neurons in another order",
	"factors moved between neighbours",
	"norms folded into the matrices behind, factors moved between neighbours",
	"neurons in another order, factors moved between neighbours",
	"norms folded into the matrices behind, neurons in another order, factors moved between neighbours",
};
static const char *const heads[] = {
	NULL,
	"norms folded into the matrices behind",
	"heads in another order",
	"norms folded into the matrices behind, heads in another order",
	"factors moved between neighbours",
	"norms folded into the matrices behind, factors moved between neighbours",
	"heads in another order, factors moved between neighbours",
	"norms folded into the matrices behind, heads in another order, factors moved between neighbours",
	"queries and keys turned together",
	"norms folded into the matrices behind, queries and keys turned together",
	"heads in another order, queries and keys turned together",
	"norms folded into the matrices behind, heads in another order, queries and keys turned together",
	"factors moved between neighbours, queries and keys turned together",
	"norms folded into the matrices behind, factors moved between neighbours, queries and keys turned together",
	"heads in another order, factors moved between neighbours, queries and keys turned together",
	"norms folded into the matrices behind, heads in another order, factors moved between neighbours, queries and keys turned together",
};

static enum st_status feed_forward(struct st_move_search *s, int32_t layer)
{
	const struct st_weight_diff *norm = find(s, ST_ROLE_FFN_NORM, layer), *gate = find(s, ST_ROLE_GATE, layer),
				    *up = find(s, ST_ROLE_UP, layer), *down = find(s, ST_ROLE_DOWN, layer);
	const struct st_weight_diff *const all[] = { norm, gate, up, down };
	bool any = false, yes;
	for (size_t i = 0; i < 4; i++)
		any |= st_move_at_fault(all[i]);
	if (!any || !st_move_comparable(gate) || !st_move_comparable(up) || !st_move_comparable(down))
		return ST_OK;
	struct st_move in = { 0 }, out = { 0 };
	int what = st_move_at_fault(norm) ? FOLDED : 0;
	ST_TRY(norm_factor(s, norm, &in.col_gain, &yes));
	if (!yes)
		return ST_OK;
	ST_TRY(st_move_fits(s, gate, &in, &yes));
	if (!yes) {
		uint64_t *order;
		ST_TRY(st_move_order(s, gate, in.col_gain, 1, &order));
		if (!order || st_move_is_identity(order, gate->rows))
			return ST_OK;
		in.row = out.col = order;
		what |= REORDERED;
		ST_TRY(st_move_fits(s, gate, &in, &yes));
		if (!yes)
			return ST_OK;
	}
	ST_TRY(st_move_fits(s, up, &in, &yes));
	struct st_move up_in = in;
	if (!yes) {
		uint64_t *own = st_arena_alloc(&s->arena, up->rows, sizeof *own);
		double *row_gain, *col_gain;
		if (!own)
			return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
		for (uint64_t i = 0; i < up->rows; i++)
			own[i] = i;
		ST_TRY(find_gains(s, up, NULL, &in, down, NULL, &out, &(struct balance){ up->rows, own, own, false },
		                  &row_gain, &col_gain));
		up_in.row_gain = row_gain;
		out.col_gain = col_gain;
		what |= SCALED;
		ST_TRY(st_move_fits(s, up, &up_in, &yes));
		if (!yes)
			return ST_OK;
	}
	ST_TRY(st_move_fits(s, down, &out, &yes));
	if (yes && what)
		st_move_claim(s, all, 4, neurons[what]);
	return ST_OK;
}

struct rotary {
	uint64_t heads, groups, d;
};

/* A factor for each pair of each group, a complex number, and how well it is known. */
struct turn {
	double re, im, error;
};

/* The rows of n heads, whose pairs turn and stretch. */
static enum st_status fill_turns(struct st_move_search *s, const struct rotary *h, uint64_t n, const struct turn *turn,
                                 struct st_move *m)
{
	uint64_t rows = n * h->d, half = h->d / 2;
	double *gain = st_arena_alloc(&s->arena, rows, sizeof *gain),
	       *mate_gain = st_arena_alloc(&s->arena, rows, sizeof *mate_gain),
	       *error = st_arena_alloc(&s->arena, rows, sizeof *error);
	uint64_t *mate = st_arena_alloc(&s->arena, rows, sizeof *mate);
	if (!gain || !mate_gain || !error || !mate)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < rows; r++) {
		const struct turn *t = &turn[r / h->d / (n / h->groups) * half + r % half];
		bool first = r % h->d < half;
		gain[r] = t->re;
		mate[r] = first ? r + half : r - half;
		mate_gain[r] = first ? -t->im : t->im;
		error[r] = t->error;
	}
	m->row_gain = gain;
	m->row_mate = mate;
	m->row_mate_gain = mate_gain;
	m->row_error = error;
	return ST_OK;
}

#define SURE 6 /* standard deviations of a fitted factor: one in 1e9 is beyond */

/* y = c x of two rows each, by least squares. What storing them can have changed is what c can be off by. */
static struct turn fit_turn(const struct st_cells y[2], const struct st_cells x[2], uint64_t n)
{
	double same = 0, cross = 0, square = 0, noise = 0;
	const float *y1 = y[0].value, *y2 = y[1].value, *x1 = x[0].value, *x2 = x[1].value;
	for (uint64_t i = 0; i < n; i++) {
		same += (double)x1[i] * y1[i] + (double)x2[i] * y2[i];
		cross += (double)x1[i] * y2[i] - (double)x2[i] * y1[i];
		square += (double)x1[i] * x1[i] + (double)x2[i] * x2[i];
	}
	if (!(square > 0) || !(same * same + cross * cross > 0))
		return (struct turn){ 1, 0, 0 };
	struct turn t = { same / square, cross / square, 0 };
	double size = t.re * t.re + t.im * t.im;
	for (int i = 0; i < 2; i++)
		noise += (st_cells_variance(&y[i], n) + size * st_cells_variance(&x[i], n)) / (2 * (double)n);
	t.error = SURE * sqrt(noise / square);
	return t;
}

/*
 * A rotary embedding turns the two rows of a pair by one angle in queries and keys, and scores see the product of a query
 * with the conjugate of a key. So each pair of a group may be turned and stretched: its keys times a number c, and its
 * queries times 1 / conj(c). c is found from the keys.
 */
static enum st_status find_turns(struct st_move_search *s, const struct st_weight_diff *key, const struct rotary *h,
                                 struct st_move *k, struct st_move *q)
{
	uint64_t half = h->d / 2, pairs = h->groups * half, cols = key->cols;
	struct st_rows a = st_rows_of(key->a);
	struct st_moved x = { st_rows_of(key->b), *k };
	struct st_rows b = st_moved_rows(&x);
	struct turn *of_keys = st_arena_alloc2(&s->arena, 2, pairs, sizeof *of_keys),
		    *of_queries = of_keys ? of_keys + pairs : NULL;
	struct st_dense rows, spare;
	if (!of_keys)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&s->arena, 4, cols, &rows, s->err));
	ST_TRY(st_dense_make(&s->arena, 4, cols, &spare, s->err));
	for (uint64_t p = 0; p < pairs; p++) {
		uint64_t first = p / half * h->d + p % half;
		struct st_cells of_a[2], of_b[2];
		for (uint64_t i = 0; i < 2; i++) {
			of_a[i] = st_dense_row(&rows, i);
			of_b[i] = st_dense_row(&rows, 2 + i);
			of_b[i].spare = spare.value;
			a.get(&a, first + i * half, &of_a[i]);
			b.get(&b, first + i * half, &of_b[i]);
		}
		struct turn c = fit_turn(of_a, of_b, cols);
		double size = c.re * c.re + c.im * c.im;
		of_keys[p] = c;
		of_queries[p] = (struct turn){ c.re / size, c.im / size, c.error / size };
	}
	ST_TRY(st_check_cancel(s->err));
	ST_TRY(fill_turns(s, h, h->groups, of_keys, k));
	return fill_turns(s, h, h->heads, of_queries, q);
}

static enum st_status attention(struct st_move_search *s, int32_t layer)
{
	static const enum st_role roles[] = { ST_ROLE_ATTN_NORM, ST_ROLE_Q,      ST_ROLE_K,      ST_ROLE_V,
		                              ST_ROLE_O,         ST_ROLE_Q_BIAS, ST_ROLE_K_BIAS, ST_ROLE_V_BIAS,
		                              ST_ROLE_Q_NORM,    ST_ROLE_K_NORM };
	enum { NORM, Q, K, V, O, QB, KB, VB, QN, KN, N };
	const struct st_weight_diff *all[N];
	const struct st_config *cfg = st_model_config(s->ma), *other = st_model_config(s->mb);
	uint64_t H = cfg->n_heads, G = cfg->n_kv_heads, d = cfg->head_dim;
	bool any = false, yes;
	for (size_t i = 0; i < N; i++) {
		all[i] = find(s, roles[i], layer);
		any |= st_move_at_fault(all[i]);
	}
	if (!any || st_move_at_fault(all[QN]) || st_move_at_fault(all[KN]) || H != other->n_heads
	    || G != other->n_kv_heads || !G || H % G || d != other->head_dim)
		return ST_OK;
	for (int i = Q; i <= O; i++)
		if (!st_move_comparable(all[i]))
			return ST_OK;
	if (all[Q]->rows != H * d || all[K]->rows != G * d || all[V]->rows != G * d || all[O]->cols != H * d)
		return ST_OK;
	struct st_move q = { 0 }, k = { 0 }, v = { 0 }, o = { 0 };
	int what = st_move_at_fault(all[NORM]) ? FOLDED : 0;
	ST_TRY(norm_factor(s, all[NORM], &q.col_gain, &yes));
	if (!yes)
		return ST_OK;
	k.col_gain = v.col_gain = q.col_gain;
	/* The order of heads: groups by V, and query heads by Q, which must follow their groups. */
	bool same_q, same_v;
	ST_TRY(st_move_fits(s, all[Q], &q, &same_q));
	ST_TRY(st_move_fits(s, all[V], &v, &same_v));
	if (!same_q || !same_v) {
		uint64_t *groups, *query, *map;
		ST_TRY(st_move_order(s, all[V], v.col_gain, d, &groups));
		ST_TRY(st_move_order(s, all[Q], q.col_gain, d, &query));
		if (!groups || !query)
			return ST_OK;
		for (uint64_t h = 0; h < H; h++)
			if (query[h] / (H / G) != groups[h / (H / G)])
				return ST_OK;
		if (!st_move_is_identity(groups, G) || !st_move_is_identity(query, H)) {
			what |= REORDERED;
			ST_TRY(st_move_blocks(s, groups, G, d, &map));
			k.row = v.row = map;
			ST_TRY(st_move_blocks(s, query, H, d, &map));
			q.row = o.col = map;
		}
	}
	uint64_t *of_v = st_arena_alloc2(&s->arena, G, d, sizeof *of_v),
		 *of_o = st_arena_alloc2(&s->arena, H, d, sizeof *of_o),
		 *of_k = st_arena_alloc2(&s->arena, G, d, sizeof *of_k),
		 *of_q = st_arena_alloc2(&s->arena, H, d, sizeof *of_q);
	double *own, *inverse;
	if (!of_v || !of_o || !of_k || !of_q)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < H * d; i++) {
		uint64_t group = i / d / (H / G), j = i % d;
		of_o[i] = group * d + j;
		of_q[i] = group * (d / 2) + j % (d / 2); /* a rotary pair has one factor */
		if (i < G * d) {
			of_v[i] = i;
			of_k[i] = i / d * (d / 2) + j % (d / 2);
		}
	}
	bool turned = false;
	ST_TRY(st_move_fits(s, all[V], &v, &yes));
	if (!yes && !(what & REORDERED) && !st_move_at_fault(all[VB]))
		ST_TRY(st_find_turned_heads(s->ma, s->mb, all[V], all[O], &turned, s->err));
	if (!yes && !turned) {
		ST_TRY(find_gains(s, all[V], all[VB], &v, all[O], NULL, &o,
		                  &(struct balance){ G * d, of_v, of_o, false }, &own, &inverse));
		v.row_gain = own;
		o.col_gain = inverse;
		what |= SCALED;
	}
	ST_TRY(st_move_fits(s, all[K], &k, &yes));
	if (!yes && !all[QN]) {
		struct st_move k_scaled = k, q_scaled = q;
		ST_TRY(find_gains(s, all[K], all[KB], &k, all[Q], all[QB], &q,
		                  &(struct balance){ G * (d / 2), of_k, of_q, true }, &own, &inverse));
		k_scaled.row_gain = own;
		q_scaled.row_gain = inverse;
		ST_TRY(st_move_fits(s, all[K], &k_scaled, &yes));
		if (yes) {
			k = k_scaled;
			q = q_scaled;
			what |= SCALED;
		} else {
			ST_TRY(find_turns(s, all[K], &(struct rotary){ H, G, d }, &k, &q));
			what |= TURNED;
		}
	}
	const struct st_move *const moves[N] = { [Q] = &q, [K] = &k, [V] = &v, [O] = &o };
	for (int i = Q; i <= (turned ? K : O); i++) {
		ST_TRY(st_move_fits(s, all[i], moves[i], &yes));
		if (!yes)
			return ST_OK;
	}
	for (int i = QB; i <= VB; i++) {
		if (!all[i])
			continue;
		struct st_move m = st_move_of_vector(moves[i - QB + Q]);
		if (!st_move_comparable(all[i]))
			return ST_OK;
		ST_TRY(st_move_fits(s, all[i], &m, &yes));
		if (!yes)
			return ST_OK;
	}
	if (turned)
		st_move_claim(s, all, N,
		              what & FOLDED ? "norms folded into the matrices behind, heads of v and o in another basis"
		                            : "heads of v and o in another basis");
	else if (what)
		st_move_claim(s, all, N, heads[what]);
	return ST_OK;
}

static enum st_status head(struct st_move_search *s)
{
	const struct st_weight_diff *const all[] = { find(s, ST_ROLE_FINAL_NORM, -1), find(s, ST_ROLE_HEAD, -1) };
	struct st_move in = { 0 };
	bool yes;
	if (!st_move_at_fault(all[0]) || !st_move_comparable(all[1]))
		return ST_OK;
	ST_TRY(norm_factor(s, all[0], &in.col_gain, &yes));
	if (yes)
		ST_TRY(st_move_fits(s, all[1], &in, &yes));
	if (yes)
		st_move_claim(s, all, 2, neurons[FOLDED]);
	return ST_OK;
}

enum st_status st_find_same_function(const struct st_model *ma, const struct st_model *mb,
                                     const struct st_weight_diff *d, size_t n, struct st_pool *pool, const char **how,
                                     struct st_error *err)
{
	struct st_move_search s = { .ma = ma, .mb = mb, .d = d, .n = n, .pool = pool, .how = how, .err = err };
	bool any = false, left = false;
	enum st_status st = ST_OK;
	for (size_t i = 0; i < n; i++) {
		how[i] = NULL;
		any |= st_move_at_fault(&d[i]);
		if (d[i].status > ST_WEIGHT_FAULT)
			return ST_OK; /* a weight is missing: nothing stands in for it */
	}
	/* Of other graphs only experts are known to go together. */
	const struct st_graph *ga = st_model_graph(ma), *gb = st_model_graph(mb);
	if (st_model_described(ma) && !(ga && gb && st_graph_is_plain(ga) && st_graph_is_plain(gb)))
		return any ? st_find_expert_orders(&s) : ST_OK;
	uint32_t layers = st_model_config(ma)->n_layers;
	for (uint32_t l = 0; any && l < layers && st == ST_OK; l++) {
		for (int part = 0; part < 2 && st == ST_OK; part++) {
			st_arena_init(&s.arena);
			st = part ? feed_forward(&s, (int32_t)l) : attention(&s, (int32_t)l);
			st_arena_release(&s.arena);
		}
	}
	st_arena_init(&s.arena);
	if (any && st == ST_OK)
		st = head(&s);
	st_arena_release(&s.arena);
	for (size_t i = 0; i < n; i++)
		left |= st_move_at_fault(&d[i]) && !how[i];
	return left && st == ST_OK ? st_find_rotation(ma, mb, d, n, how, err) : st;
}
