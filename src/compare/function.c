/*
 * function.c - weights that differ and compute the same together with their neighbours.
 *
 * Neurons and heads are groups of neighbours (neighbours.h), and so is a norm with all that reads it. What may have
 * moved within a group is found from the numbers and applied to b. The group is the same function when every member of a is
 * then b's, to within the noise of storing it.
 */
#include "compare/function.h"

#include "arch/arch.h"
#include "arch/described.h"
#include "base/error.h"
#include "base/pool.h"
#include "compare/experts.h"
#include "compare/move.h"
#include "compare/neighbours.h"
#include "compare/rotation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SURE 6 /* standard deviations of a fitted number: one in 1e9 is beyond */

/* ---- a norm and its readers ---- */

/*
 * What readers of a norm make up for where its weights or its biases are others: factor[c] = n_b / n_a on their columns
 * (NULL: none), and for b's biases what their products with both biases of the norm differ by.
 */
struct norm {
	const struct st_weight_diff *w, *bias;
	bool moved, biased;
	const double *factor;
	struct st_cells of_a, of_b; /* the biases; biased alone */
};

/* *ok: false where a norm weight of zero lets nothing be made up for, or a number is not finite. */
static enum st_status open_norm(struct st_move_search *s, const struct st_node *node, struct norm *n, bool *ok)
{
	*n = (struct norm){ 0 };
	*ok = true;
	if (!node || !st_is_norm(node))
		return ST_OK;
	n->w = st_move_find(s, node->w[0], -1);
	n->bias = node->n_w > 1 && node->w[1] ? st_move_find(s, node->w[1], -1) : NULL;
	n->biased = node->n_w > 1 && node->w[1];
	n->moved = st_move_at_fault(n->w) || st_move_at_fault(n->bias);
	if (!n->moved)
		return ST_OK;
	*ok = st_move_comparable(n->w) && (!n->biased || st_move_comparable(n->bias));
	if (!*ok)
		return ST_OK;
	uint64_t cols = n->w->cols;
	double *f = st_arena_alloc(&s->arena, cols, sizeof *f);
	float *x = st_arena_alloc2(&s->arena, 2, cols, sizeof *x), *y = x ? x + cols : NULL;
	if (!f || !x)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	st_weight_decode(n->w->a, 0, 1, x);
	st_weight_decode(n->w->b, 0, 1, y);
	for (uint64_t i = 0; i < cols; i++) {
		bool equal = !(x[i] < y[i]) && !(x[i] > y[i]);
		f[i] = equal ? 1 : (double)y[i] / x[i];
		*ok &= equal || (x[i] != 0 && y[i] != 0 && isfinite(f[i]));
	}
	n->factor = f;
	for (int k = 0; k < 2 && n->biased; k++) {
		struct st_dense d;
		struct st_rows side = st_rows_of(k ? n->bias->b : n->bias->a);
		ST_TRY(st_dense_make(&s->arena, 1, cols, &d, s->err));
		struct st_cells c = st_dense_row(&d, 0);
		side.get(&side, 0, &c);
		*(k ? &n->of_b : &n->of_a) = c;
	}
	return ST_OK;
}

/* The product of each row of a matrix with the norm's bias, and the variance that storing both gives it. */
static enum st_status times_bias(struct st_move_search *s, const struct st_weight *w, const struct st_cells *bias,
                                 double *sum, double *variance)
{
	struct st_rows rows = st_rows_of(w);
	struct st_dense d;
	ST_TRY(st_dense_make(&s->arena, 1, rows.cols, &d, s->err));
	struct st_cells row = st_dense_row(&d, 0);
	for (uint64_t r = 0; r < rows.rows; r++) {
		rows.get(&rows, r, &row);
		sum[r] = variance[r] = 0;
		for (uint64_t i = 0; i < rows.cols; i++) {
			struct st_cells x = st_cells_from(&row, i), y = st_cells_from(bias, i);
			double a = row.value[i], b = bias->value[i];
			sum[r] += a * b;
			variance[r] += b * b * st_cells_variance(&x, 1) + a * a * st_cells_variance(&y, 1);
		}
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(s->err));
	}
	return ST_OK;
}

/*
 * What is added to b's bias, element by element of a: the norm's bias went into it, or came out of it. m: how the
 * matrix moved.
 */
static enum st_status bias_added(struct st_move_search *s, const struct st_weight_diff *d, const struct norm *n,
                                 const struct st_move *m, const double **add, const double **error)
{
	uint64_t rows = d->rows;
	double *of_a = st_arena_alloc2(&s->arena, 6, rows, sizeof *of_a), *var_a = of_a + rows, *of_b = of_a + 2 * rows,
	       *var_b = of_a + 3 * rows, *sum = of_a + 4 * rows, *slack = of_a + 5 * rows;
	if (!of_a)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(times_bias(s, d->a, &n->of_a, of_a, var_a));
	ST_TRY(times_bias(s, d->b, &n->of_b, of_b, var_b));
	for (uint64_t r = 0; r < rows; r++) {
		uint64_t from = m->row ? m->row[r] : r;
		double g = m->row_gain ? m->row_gain[r] : 1;
		sum[r] = g * of_b[from] - of_a[r];
		slack[r] = SURE * sqrt(var_a[r] + g * g * var_b[from]);
	}
	*add = sum;
	*error = slack;
	return ST_OK;
}

/* Whether the bias behind matrix d, which moved by m, is b's. Where there is none nothing may be added. */
static enum st_status bias_fits(struct st_move_search *s, const struct st_weight_diff *d,
                                const struct st_weight_diff *bias, const struct norm *n, const struct st_move *m,
                                bool *yes)
{
	struct st_move v = st_move_of_vector(m);
	*yes = true;
	if (n->moved && n->biased) {
		*yes = !m->row_mate;
		if (!*yes)
			return ST_OK;
		ST_TRY(bias_added(s, d, n, m, &v.col_add, &v.col_add_error));
	}
	if (bias) {
		*yes = st_move_comparable(bias);
		return *yes ? st_move_fits(s, bias, &v, yes) : ST_OK;
	}
	for (uint64_t r = 0; v.col_add && r < d->rows; r++)
		*yes &= fabs(v.col_add[r]) <= v.col_add_error[r];
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

/* ---- pairs that turn ---- */

/* Places of a head's features in queries and keys: one for each pair that is turned, and one for each feature behind. */
static uint64_t places(const struct st_heads *h) { return h->d - h->n_rot / 2; }
static uint64_t place_of(const struct st_heads *h, uint64_t j)
{
	return j >= h->n_rot ? j - h->n_rot / 2 : j % (h->n_rot / 2);
}
static bool is_second(const struct st_heads *h, uint64_t j) { return j >= h->n_rot / 2 && j < h->n_rot; }

/* A factor for each place of each group, a complex number for pairs, and how well it is known. */
struct turn {
	double re, im, error;
};

/* The rows of n heads, whose pairs turn and stretch. */
static enum st_status fill_turns(struct st_move_search *s, const struct st_heads *h, uint64_t n,
                                 const struct turn *turn, struct st_move *m)
{
	uint64_t rows = n * h->d, half = h->n_rot / 2;
	double *gain = st_arena_alloc(&s->arena, rows, sizeof *gain),
	       *mate_gain = st_arena_alloc(&s->arena, rows, sizeof *mate_gain),
	       *error = st_arena_alloc(&s->arena, rows, sizeof *error);
	uint64_t *mate = st_arena_alloc(&s->arena, rows, sizeof *mate);
	if (!gain || !mate_gain || !error || !mate)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < rows; r++) {
		uint64_t j = r % h->d;
		const struct turn *t = &turn[r / h->d / (n / h->groups) * places(h) + place_of(h, j)];
		gain[r] = t->re;
		mate[r] = j >= h->n_rot ? r : is_second(h, j) ? r - half : r + half;
		mate_gain[r] = j >= h->n_rot ? 0 : is_second(h, j) ? t->im : -t->im;
		error[r] = t->error;
	}
	m->row_gain = gain;
	m->row_mate = mate;
	m->row_mate_gain = mate_gain;
	m->row_error = error;
	return ST_OK;
}

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
static enum st_status find_turns(struct st_move_search *s, const struct st_weight_diff *key, const struct st_heads *h,
                                 struct st_move *k, struct st_move *q)
{
	uint64_t half = h->n_rot / 2, all = h->groups * places(h), cols = key->cols;
	struct st_rows a = st_rows_of(key->a);
	struct st_moved x = { st_rows_of(key->b), *k };
	struct st_rows b = st_moved_rows(&x);
	struct turn *of_keys = st_arena_alloc2(&s->arena, 2, all, sizeof *of_keys),
		    *of_queries = of_keys ? of_keys + all : NULL;
	struct st_dense rows, spare;
	if (!of_keys)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&s->arena, 4, cols, &rows, s->err));
	ST_TRY(st_dense_make(&s->arena, 4, cols, &spare, s->err));
	for (uint64_t p = 0; p < all; p++) {
		uint64_t place = p % places(h),
			 apart = place < half ? half : 0, /* of a single feature both are itself */
			first = p / places(h) * h->d + (place < half ? place : place + half);
		struct st_cells of_a[2], of_b[2];
		for (uint64_t i = 0; i < 2; i++) {
			of_a[i] = st_dense_row(&rows, i);
			of_b[i] = st_dense_row(&rows, 2 + i);
			of_b[i].spare = spare.value;
			a.get(&a, first + i * apart, &of_a[i]);
			b.get(&b, first + i * apart, &of_b[i]);
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

static const char heads_turned[] = "heads of v and o in another basis",
		  folded_heads_turned[] = "norms folded into the matrices behind, heads of v and o in another basis";

#define MOST_MEMBERS 12

/* What was found of a group: members that differ get the words, or none does. */
struct group {
	const struct st_weight_diff *member[MOST_MEMBERS];
	size_t n;
	const char *how; /* NULL: nothing moved within it */
	bool fits;
};

static bool add_member(struct group *g, const struct st_weight_diff *d)
{
	if (d)
		g->member[g->n++] = d;
	return st_move_at_fault(d);
}

/* The neurons of one expert, or of a layer (-1). */
static enum st_status neurons_fit(struct st_move_search *s, const struct st_neurons *k, int64_t expert,
                                  const struct norm *norm, struct group *g)
{
	const struct st_weight_diff *in[ST_MOST_TERMS], *bias[ST_MOST_TERMS], *out = st_move_find(s, k->out, expert);
	struct st_move m[ST_MOST_TERMS], read = { 0 };
	bool any = add_member(g, out), there = st_move_comparable(out), scaled = false, yes = true;
	int what = norm->moved ? FOLDED : 0;
	for (size_t i = 0; i < k->n_in; i++) {
		in[i] = st_move_find(s, k->in[i].w, expert);
		bias[i] = k->in[i].bias ? st_move_find(s, k->in[i].bias, -1) : NULL;
		m[i] = (struct st_move){ .col_gain = norm->factor };
		any |= add_member(g, in[i]);
		any |= add_member(g, bias[i]);
		there &= st_move_comparable(in[i]) && (bias[i] != NULL) == (k->in[i].bias != NULL);
	}
	g->fits = !any && !norm->moved;
	if (g->fits || !there)
		return ST_OK;
	uint64_t rows = in[0]->rows, *own = st_arena_alloc(&s->arena, rows, sizeof *own);
	if (!own)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < rows; i++)
		own[i] = i;
	for (size_t i = 0; i < k->n_in; i++)
		if (in[i]->rows != rows || out->cols != rows)
			return ST_OK;
	ST_TRY(st_move_fits(s, in[0], &m[0], &yes));
	if (!yes) {
		uint64_t *order;
		ST_TRY(st_move_order(s, in[0], norm->factor, 1, &order));
		if (!order || (st_move_is_identity(order, rows) && !k->in[0].direct))
			return ST_OK;
		for (size_t i = 0; i < k->n_in && !st_move_is_identity(order, rows); i++) {
			m[i].row = read.col = order;
			what |= REORDERED;
		}
	}
	for (size_t i = 0; i < k->n_in; i++) {
		double *row_gain, *col_gain;
		ST_TRY(st_move_fits(s, in[i], &m[i], &yes));
		if (!yes && k->in[i].direct && !scaled) {
			const struct st_weight_diff *with = norm->moved && norm->biased ? NULL : bias[i];
			ST_TRY(find_gains(s, in[i], with, &m[i], out, NULL, &read,
			                  &(struct balance){ rows, own, own, false }, &row_gain, &col_gain));
			m[i].row_gain = row_gain;
			read.col_gain = col_gain;
			what |= SCALED;
			scaled = true;
			ST_TRY(st_move_fits(s, in[i], &m[i], &yes));
		}
		if (yes)
			ST_TRY(bias_fits(s, in[i], bias[i], norm, &m[i], &yes));
		if (!yes)
			return ST_OK;
	}
	ST_TRY(st_move_fits(s, out, &read, &g->fits));
	if (what)
		g->how = neurons[what];
	return ST_OK;
}

enum { Q, K, V, O, QB, KB, VB, SINKS, QN, KN, HEAD_MEMBERS };

static void list_heads(struct st_move_search *s, const struct st_heads *h,
                       const struct st_weight_diff *all[HEAD_MEMBERS])
{
	const struct st_weight *w[HEAD_MEMBERS] = { h->q.w,    h->k.w,    h->v.w,   h->o,      h->q.bias,
		                                    h->k.bias, h->v.bias, h->sinks, h->q_norm, h->k_norm };
	for (int i = 0; i < HEAD_MEMBERS; i++)
		all[i] = w[i] ? st_move_find(s, w[i], -1) : NULL;
}

/* Groups by V, and query heads by Q, which must follow their groups. *yes: false where heads cannot be told so. */
static enum st_status order_heads(struct st_move_search *s, const struct st_heads *h,
                                  const struct st_weight_diff *const all[HEAD_MEMBERS], struct st_move m[O + 1],
                                  uint64_t **query, bool *moved, bool *yes)
{
	uint64_t H = h->heads, G = h->groups, *groups, *map;
	*moved = *yes = false;
	*query = NULL;
	ST_TRY(st_move_order(s, all[V], m[V].col_gain, h->d_v, &groups));
	ST_TRY(st_move_order(s, all[Q], m[Q].col_gain, h->d, query));
	if (!groups || !*query)
		return ST_OK;
	for (uint64_t i = 0; i < H; i++)
		if ((*query)[i] / (H / G) != groups[i / (H / G)])
			return ST_OK;
	*moved = !st_move_is_identity(groups, G) || !st_move_is_identity(*query, H);
	*yes = !*moved || !h->numbered;
	if (!*moved || !*yes)
		return ST_OK;
	ST_TRY(st_move_blocks(s, groups, G, h->d, &map));
	m[K].row = map;
	ST_TRY(st_move_blocks(s, groups, G, h->d_v, &map));
	m[V].row = map;
	ST_TRY(st_move_blocks(s, *query, H, h->d, &map));
	m[Q].row = map;
	ST_TRY(st_move_blocks(s, *query, H, h->d_v, &map));
	m[O].col = map;
	return ST_OK;
}

/* Which factor each row of V and of K, and each column of O and row of Q, belongs to. */
static enum st_status places_of(struct st_move_search *s, const struct st_heads *h, uint64_t *of[O + 1])
{
	uint64_t H = h->heads, G = h->groups;
	of[V] = st_arena_alloc2(&s->arena, G, h->d_v, sizeof *of[V]);
	of[O] = st_arena_alloc2(&s->arena, H, h->d_v, sizeof *of[O]);
	of[K] = st_arena_alloc2(&s->arena, G, h->d, sizeof *of[K]);
	of[Q] = st_arena_alloc2(&s->arena, H, h->d, sizeof *of[Q]);
	if (!of[V] || !of[O] || !of[K] || !of[Q])
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < H * h->d_v; i++)
		of[O][i] = i / h->d_v / (H / G) * h->d_v + i % h->d_v;
	for (uint64_t i = 0; i < G * h->d_v; i++)
		of[V][i] = i;
	for (uint64_t i = 0; i < H * h->d; i++)
		of[Q][i] = i / h->d / (H / G) * places(h) + place_of(h, i % h->d);
	for (uint64_t i = 0; i < G * h->d; i++)
		of[K][i] = i / h->d * places(h) + place_of(h, i % h->d);
	return ST_OK;
}

static enum st_status heads_fit(struct st_move_search *s, const struct st_heads *h, const struct norm *norm,
                                struct group *g)
{
	const struct st_weight_diff *all[HEAD_MEMBERS];
	struct st_move m[O + 1] = { { 0 } };
	uint64_t H = h->heads, G = h->groups, *of[O + 1], *query = NULL;
	double *own, *inverse;
	bool any = false, yes, same_q, same_v, moved, turned = false;
	int what = norm->moved ? FOLDED : 0;
	list_heads(s, h, all);
	for (int i = 0; i < HEAD_MEMBERS; i++)
		any |= add_member(g, all[i]);
	g->fits = !any && !norm->moved;
	if (g->fits || st_move_at_fault(all[QN]) || st_move_at_fault(all[KN]) || (h->q.bias && !all[QB])
	    || (h->k.bias && !all[KB]) || (h->v.bias && !all[VB]) || (h->sinks && !all[SINKS]))
		return ST_OK;
	for (int i = Q; i <= O; i++)
		if (!st_move_comparable(all[i]))
			return ST_OK;
	if (all[Q]->rows != H * h->d || all[K]->rows != G * h->d || all[V]->rows != G * h->d_v
	    || all[O]->cols != H * h->d_v)
		return ST_OK;
	m[Q].col_gain = m[K].col_gain = m[V].col_gain = norm->factor;
	ST_TRY(st_move_fits(s, all[Q], &m[Q], &same_q));
	ST_TRY(st_move_fits(s, all[V], &m[V], &same_v));
	if (!same_q || !same_v) {
		ST_TRY(order_heads(s, h, all, m, &query, &moved, &yes));
		if (!yes)
			return ST_OK;
		what |= moved ? REORDERED : 0;
	}
	ST_TRY(places_of(s, h, of));
	bool biased = norm->moved && norm->biased;
	ST_TRY(st_move_fits(s, all[V], &m[V], &yes));
	if (!yes && !(what & REORDERED) && !all[VB] && !biased)
		ST_TRY(st_find_turned_heads(norm->w, all[V], all[O], h, &turned, s->err));
	if (!yes && !turned && !h->fixed_values) {
		ST_TRY(find_gains(s, all[V], biased ? NULL : all[VB], &m[V], all[O], NULL, &m[O],
		                  &(struct balance){ G * h->d_v, of[V], of[O], false }, &own, &inverse));
		m[V].row_gain = own;
		m[O].col_gain = inverse;
		what |= SCALED;
	}
	ST_TRY(st_move_fits(s, all[K], &m[K], &yes));
	if (!yes && !h->fixed_scores) {
		struct st_move k = m[K], q = m[Q];
		ST_TRY(find_gains(s, all[K], biased ? NULL : all[KB], &m[K], all[Q], biased ? NULL : all[QB], &m[Q],
		                  &(struct balance){ G * places(h), of[K], of[Q], true }, &own, &inverse));
		k.row_gain = own;
		q.row_gain = inverse;
		ST_TRY(st_move_fits(s, all[K], &k, &yes));
		if (yes) {
			m[K] = k;
			m[Q] = q;
			what |= SCALED;
		} else {
			ST_TRY(find_turns(s, all[K], h, &m[K], &m[Q]));
			what |= TURNED;
		}
	}
	for (int i = Q; i <= (turned ? K : O); i++) {
		ST_TRY(st_move_fits(s, all[i], &m[i], &yes));
		if (yes && i <= V)
			ST_TRY(bias_fits(s, all[i], all[QB + i], norm, &m[i], &yes));
		if (!yes)
			return ST_OK;
	}
	if (all[SINKS]) {
		struct st_move rows = { .row = what & REORDERED ? query : NULL }, v = st_move_of_vector(&rows);
		ST_TRY(st_move_fits(s, all[SINKS], all[SINKS]->rows == 1 ? &v : &rows, &yes));
		if (!yes)
			return ST_OK;
	}
	g->fits = true;
	if (turned)
		g->how = what & FOLDED ? folded_heads_turned : heads_turned;
	else if (what)
		g->how = heads[what];
	return ST_OK;
}

/* A matrix that reads a norm and no other member of a group: a router, the head. */
static enum st_status reader_fits(struct st_move_search *s, const struct st_graph *g, uint32_t node, uint32_t i,
                                  int64_t expert, const struct norm *norm, struct group *out)
{
	const struct st_node *n = &g->nodes[node];
	const struct st_weight_diff *d = n->stage == ST_STAGE_LM_HEAD ? st_move_find_head(s) : NULL;
	struct st_move in = { .col_gain = norm->factor };
	d = d ? d : st_move_find(s, n->w[i], expert);
	uint64_t from = 0, rows = st_part_rows(n->w[i]);
	for (uint32_t k = 0; k < i; k++)
		from += st_part_rows(n->w[k]);
	const struct st_weight *bias = st_bias_behind(g, node, from, rows);
	add_member(out, d);
	add_member(out, bias ? st_move_find(s, bias, -1) : NULL);
	if (!st_move_comparable(d) || (bias && out->n < 2))
		return ST_OK;
	ST_TRY(st_move_fits(s, d, &in, &out->fits));
	if (out->fits)
		ST_TRY(bias_fits(s, d, bias ? out->member[1] : NULL, norm, &in, &out->fits));
	out->how = neurons[FOLDED];
	return ST_OK;
}

/* ---- all that reads one value ---- */

/* Groups by the node that reads them last; kind: which of the two a node is, if any. */
struct found {
	enum { NOTHING, NEURONS, HEADS } kind;
	union {
		struct st_neurons neurons;
		struct st_heads heads;
	} is;
};

static uint32_t source_of(const struct found *f)
{
	return f->kind == NEURONS ? f->is.neurons.source : f->kind == HEADS ? f->is.heads.source : ST_NO_NODE;
}

static bool is_in(const struct found *f, const struct st_weight *w)
{
	bool in = false;
	for (size_t i = 0; f->kind == NEURONS && i < f->is.neurons.n_in; i++)
		in |= f->is.neurons.in[i].w == w;
	return in || (f->kind == HEADS && (f->is.heads.q.w == w || f->is.heads.k.w == w || f->is.heads.v.w == w));
}

struct claims {
	size_t *at; /* [all weights] */
	const char **how;
	size_t n;
	bool fit;
};

/* What fits is claimed at once where it stands for itself; behind a norm that moved it must all fit. */
static void settle(struct st_move_search *s, const struct group *g, const struct norm *norm, struct claims *c)
{
	c->fit &= g->fits;
	for (size_t i = 0; i < g->n && g->fits && g->how; i++)
		if (!norm->moved) {
			st_move_claim(s, &g->member[i], 1, g->how);
		} else if (st_move_at_fault(g->member[i])) {
			c->at[c->n] = (size_t)(g->member[i] - s->d);
			c->how[c->n++] = g->how;
		}
}

static uint64_t experts_of(const struct st_weight *w) { return w->n_experts ? w->n_experts : 1; }

/* Everything that reads node `source`. */
static enum st_status readers_fit(struct st_move_search *s, const struct st_graph *g, const struct found *found,
                                  uint32_t source, struct claims *c)
{
	struct norm norm;
	bool ok;
	ST_TRY(open_norm(s, &g->nodes[source], &norm, &ok));
	*c = (struct claims){ .at = c->at, .how = c->how, .fit = ok };
	if (!ok)
		return ST_OK;
	size_t groups = 0;
	const char *how = NULL;
	for (uint32_t i = source + 1; i < g->n_nodes && c->fit; i++) {
		const struct found *f = &found[i];
		if (source_of(f) != source)
			continue;
		uint64_t n = f->kind == NEURONS ? experts_of(f->is.neurons.out) : 1;
		for (uint64_t e = 0; e < n && (c->fit || !norm.moved); e++) {
			struct group one = { .n = 0 };
			ST_TRY(f->kind == HEADS
			               ? heads_fit(s, &f->is.heads, &norm, &one)
			               : neurons_fit(s, &f->is.neurons, f->is.neurons.out->n_experts ? (int64_t)e : -1,
			                             &norm, &one));
			settle(s, &one, &norm, c);
			how = one.how;
		}
		groups++;
		c->fit |= !norm.moved;
	}
	if (!norm.moved)
		return ST_OK;
	for (uint32_t i = source + 1; i < g->n_nodes && c->fit; i++) {
		const struct st_node *n = &g->nodes[i];
		bool reads = false;
		for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++)
			reads |= st_node_input(n, k) == source;
		if (!reads)
			continue;
		c->fit = (n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT) && n->in[0] == source && n->from[0] == 0;
		for (uint32_t k = 0; k < n->n_w && c->fit; k++) {
			bool in = false;
			for (uint32_t j = i + 1; j < g->n_nodes && !in; j++)
				in = source_of(&found[j]) == source && is_in(&found[j], n->w[k]);
			for (uint64_t e = 0; e < experts_of(n->w[k]) && !in && c->fit; e++) {
				struct group one = { .n = 0 };
				ST_TRY(reader_fits(s, g, i, k, n->w[k]->n_experts ? (int64_t)e : -1, &norm, &one));
				settle(s, &one, &norm, c);
			}
		}
	}
	for (size_t i = 0; i < c->n && c->fit; i++)
		s->how[c->at[i]] = c->how[i];
	const struct st_weight_diff *const own[] = { norm.w, norm.bias };
	if (c->fit)
		st_move_claim(s, own, 2, groups == 1 && how ? how : neurons[FOLDED]);
	return ST_OK;
}

static enum st_status find_groups(struct st_move_search *s, const struct st_graph *g)
{
	struct found *found = st_alloc_zeroed(g->n_nodes, sizeof *found);
	bool *source = st_alloc_zeroed(g->n_nodes, sizeof *source);
	struct claims c = { .at = st_alloc_array(s->n ? s->n : 1, sizeof *c.at),
		            .how = st_alloc_array(s->n ? s->n : 1, sizeof *c.how) };
	enum st_status st = found && source && c.at && c.how ? ST_OK : st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint32_t i = 0; i < g->n_nodes && st == ST_OK; i++) {
		found[i].kind = st_neurons_at(g, i, &found[i].is.neurons) ? NEURONS
		              : st_heads_at(g, i, &found[i].is.heads)     ? HEADS
		                                                          : NOTHING;
		if (source_of(&found[i]) != ST_NO_NODE)
			source[source_of(&found[i])] = true;
		source[i] |= st_is_norm(&g->nodes[i]);
	}
	for (uint32_t i = 0; i < g->n_nodes && st == ST_OK; i++) {
		if (!source[i])
			continue;
		st_arena_init(&s->arena);
		st = readers_fit(s, g, found, i, &c);
		st_arena_release(&s->arena);
	}
	free(found);
	free(source);
	free(c.at);
	free(c.how);
	return st;
}

enum st_status st_find_same_function(const struct st_model *ma, const struct st_model *mb,
                                     const struct st_weight_diff *d, size_t n, struct st_pool *pool, const char **how,
                                     struct st_error *err)
{
	struct st_move_search s = { .ma = ma, .mb = mb, .d = d, .n = n, .pool = pool, .how = how, .err = err };
	const struct st_graph *g = st_model_graph(ma);
	bool any = false, left = false;
	for (size_t i = 0; i < n; i++) {
		how[i] = NULL;
		any |= st_move_at_fault(&d[i]);
		if (d[i].status > ST_WEIGHT_FAULT)
			return ST_OK; /* a weight is missing: nothing stands in for it */
	}
	if (!any || !g)
		return ST_OK;
	ST_TRY(st_find_expert_orders(&s));
	ST_TRY(find_groups(&s, g));
	for (size_t i = 0; i < n; i++)
		left |= st_move_at_fault(&d[i]) && !how[i];
	return left ? st_find_rotation(&s, err) : ST_OK;
}
