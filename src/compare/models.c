/* models.c - the shape of a difference that many weights have. */
#include "arch/arch.h"
#include "compare/models.h"

#include "base/error.h"
#include "base/mem.h"
#include "compare/rows.h"
#include "compare/weight_trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEWEST 3     /* matrices, to speak of a model */
#define MOST 0.5     /* of the matrices are like that: a converter's mistake is made in a kind of tensor, not in most */
#define LISTED 3     /* layers that lack what their like have */
#define OF_ROWS 0.25 /* of a matrix are wrong and lie over three quarters of it: it differs all over */

static bool is_matrix(const struct st_weight_diff *d)
{
	return d->a && d->b && d->rows > 1 && d->cols > 1 && d->status < ST_WEIGHT_ONLY_A;
}

static bool differs_all_over(const struct st_weight_diff *d)
{
	return d->status == ST_WEIGHT_FAULT && d->cause.code == ST_CAUSE_UNEXPLAINED && !d->nonfinite_a
	    && !d->nonfinite_b && (double)d->bad_rows >= OF_ROWS * (double)d->rows
	    && (double)(d->last_bad_row - d->first_bad_row) >= 0.75 * (double)(d->rows - 1);
}

/* Rows that are beyond their noise here and there: between coarse types a difference all over shows in some of them. */
static bool shows_all_over(const struct st_weight_diff *d)
{
	return differs_all_over(d)
	    || (d->status == ST_WEIGHT_FAULT && d->cause.code == ST_CAUSE_WEIGHT_ROW_CORRUPT && d->last_bad_row - d->first_bad_row + 1 > d->bad_rows);
}

static bool is_pruned(const struct st_weight_diff *d)
{
	return d->status == ST_WEIGHT_FAULT && d->cause.code == ST_CAUSE_WEIGHT_TWO_MODELS;
}

static bool is_low_rank(const struct st_weight_diff *d)
{
	return d->status == ST_WEIGHT_FAULT && d->cause.code == ST_CAUSE_WEIGHT_LOW_RANK;
}

static int ascending(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

/* ---- which ---- */

/* "q_proj" of "model.layers.3.self_attn.q_proj.weight" */
static void kind_name(const struct st_weight *slot, char *buf, size_t n)
{
	const char *name = slot->canonical, *end = strrchr(name, '.'), *begin = end;
	while (begin && begin > name && begin[-1] != '.')
		begin--;
	snprintf(buf, n, "%.*s", begin ? (int)(end - begin) : 0, begin ? begin : "");
}

/* Of kinds that files call alike (the parts of a fused matrix, two "c_proj" of a layer) the name in the family's
 * description stands behind: "c_attn:q". */
static void tell_apart(const struct st_weight_diff *d, size_t n, const struct st_weight *kind, char *buf, size_t size)
{
	char other[64];
	size_t used = strlen(buf);
	for (size_t i = 0; i < n && kind->name; i++) {
		if (!is_matrix(&d[i]) || d[i].slot->layer != kind->layer || st_weight_same_kind(d[i].slot, kind))
			continue;
		kind_name(d[i].slot, other, sizeof other);
		if (strcmp(other, buf) == 0) {
			snprintf(buf + used, size - used, ":%s", kind->name);
			return;
		}
	}
}

/* Of one kind of weight: how many of its layers are in the group, and which ones are the exceptions. */
static void describe_kind(const struct st_weight_diff *d, size_t n, bool (*in)(const struct st_weight_diff *),
                          const struct st_weight *kind, char *buf, size_t size)
{
	size_t with = 0, without = 0, used;
	int32_t with_layer = -1, lacks[LISTED];
	for (size_t i = 0; i < n; i++) {
		if (!is_matrix(&d[i]) || !st_weight_same_kind(d[i].slot, kind))
			continue;
		if (in(&d[i])) {
			with_layer = d[i].slot->layer;
			with++;
		} else if (without++ < LISTED) {
			lacks[without - 1] = d[i].slot->layer;
		}
	}
	buf[0] = '\0';
	if (!with)
		return;
	kind_name(kind, buf, size);
	tell_apart(d, n, kind, buf, size);
	used = strlen(buf);
	if (with == 1 && with_layer >= 0 && without)
		snprintf(buf + used, size - used, " of layer %d alone", (int)with_layer);
	else if (without && without <= LISTED && without < with)
		for (size_t i = 0; i < without && used + 24 < size; i++)
			used += (size_t)snprintf(buf + used, size - used, i ? " and %d" : " but of layer %d", (int)lacks[i]);
	else if (without)
		snprintf(buf + used, size - used, " of %zu layers", with);
}

/* "q_proj, v_proj but of layer 5": kinds in the order of their names in the graph, cut where there are too many. */
static void describe_kinds(const struct st_weight_diff *d, size_t n, bool (*in)(const struct st_weight_diff *),
                           char *buf, size_t size)
{
	size_t used = 0;
	buf[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		char one[64];
		bool seen = false;
		if (!is_matrix(&d[i]) || !in(&d[i]))
			continue;
		for (size_t k = 0; k < i && !seen; k++)
			seen = is_matrix(&d[k]) && in(&d[k]) && st_weight_same_kind(d[k].slot, d[i].slot);
		if (seen)
			continue;
		describe_kind(d, n, in, d[i].slot, one, sizeof one);
		if (used + strlen(one) + 8 > size) {
			snprintf(buf + used, size - used, ", ...");
			return;
		}
		used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "", one);
	}
}

struct group {
	size_t matrices, in;
	double median; /* of the sizes */
	char kinds[90];
};

static enum st_status find_group(const struct st_weight_diff *d, size_t n, bool (*in)(const struct st_weight_diff *),
                                 struct group *g, struct st_error *err)
{
	double *size = st_alloc_array(n ? n : 1, sizeof *size);
	if (!size)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*g = (struct group){ 0 };
	for (size_t i = 0; i < n; i++) {
		g->matrices += is_matrix(&d[i]);
		if (is_matrix(&d[i]) && in(&d[i]))
			size[g->in++] = d[i].rel_l2;
	}
	qsort(size, g->in, sizeof *size, ascending);
	g->median = g->in ? size[g->in / 2] : 0;
	describe_kinds(d, n, in, g->kinds, sizeof g->kinds);
	free(size);
	return ST_OK;
}

static void say_group(struct st_cause *c, const struct group *g)
{
	st_cause_put(c, ST_PARAM_TENSORS, (double)g->in);
	st_cause_put(c, ST_PARAM_OF, (double)g->matrices);
	if (g->kinds[0])
		st_cause_put_text(c, ST_PARAM_KINDS, g->kinds);
}

/* ---- one direction of the stream ---- */

/* The direction that a difference of rank one has in the residual stream: its rows' where the matrix reads the stream,
 * its columns' where it writes to it. */
static enum st_status stream_direction(const struct st_weight_diff *d, size_t hidden, float *dir, struct st_error *err)
{
	struct st_rows a = st_rows_of(d->a), b = st_rows_of(d->b);
	bool writes = d->slot->role == ST_ROLE_O || d->slot->role == ST_ROLE_DOWN;
	uint64_t rows = a.rows < b.rows ? a.rows : b.rows, cols = a.cols;
	memset(dir, 0, hidden * sizeof *dir);
	if ((writes ? rows : cols) != hidden)
		return ST_OK;
	float *x = st_alloc_array2(3, cols, sizeof *x), *u = st_alloc_zeroed(rows, sizeof *u);
	if (!x || !u) {
		free(x);
		free(u);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	float *y = x + cols, *v = y + cols;
	/* Power iteration; of rank one, and what noise adds is small, two rounds do. */
	for (uint64_t i = 0; i < cols; i++)
		v[i] = 0;
	enum st_status st = ST_OK;
	for (int round = 0; round < 3 && st == ST_OK; round++) {
		float *next = st_alloc_zeroed(cols, sizeof *next);
		double len = 0;
		for (uint64_t r = 0; next && r < rows; r++) {
			double dot = 0;
			a.get(&a, r, &(struct st_cells){ .value = x });
			b.get(&b, r, &(struct st_cells){ .value = y });
			for (uint64_t i = 0; i < cols; i++) {
				x[i] -= y[i];
				dot += (double)x[i] * v[i];
			}
			if (round == 0) { /* the first sum: each row turned towards what came before it */
				double with = 0;
				for (uint64_t i = 0; i < cols; i++)
					with += (double)x[i] * next[i];
				dot = with < 0 ? -1 : 1;
			}
			u[r] = (float)dot;
			for (uint64_t i = 0; i < cols; i++)
				next[i] += (float)(dot * x[i]);
		}
		if (!next) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
			break;
		}
		for (uint64_t i = 0; i < cols; i++)
			len += (double)next[i] * next[i];
		for (uint64_t i = 0; i < cols && len > 0; i++)
			v[i] = (float)(next[i] / sqrt(len));
		free(next);
		st = st_check_cancel(err);
	}
	double len = 0;
	for (size_t i = 0; i < hidden; i++) {
		dir[i] = writes ? u[i] : v[i];
		len += (double)dir[i] * dir[i];
	}
	for (size_t i = 0; i < hidden && len > 0; i++)
		dir[i] = (float)(dir[i] / sqrt(len));
	free(x);
	free(u);
	return st;
}

static bool is_rank_one(const struct st_weight_diff *d)
{
	return is_low_rank(d) && st_cause_number(&d->cause, ST_PARAM_RANK, 0) == 1;
}

/*
 * How many differences of rank one lie in one direction, that of the first which shares its direction with another. Two
 * directions that have nothing in common have a cosine of about 1 / sqrt(hidden). One whose square is a half is no
 * accident.
 */
static enum st_status shared_direction(struct st_weight_diff *d, size_t n, bool *shares, size_t *count,
                                       struct st_error *err)
{
	size_t ones = 0, k = 0, hidden = 0;
	*count = 0;
	for (size_t i = 0; i < n; i++) {
		shares[i] = false;
		ones += is_rank_one(&d[i]);
		if (is_rank_one(&d[i]) && (d[i].slot->role == ST_ROLE_O || d[i].slot->role == ST_ROLE_DOWN))
			hidden = (size_t)d[i].rows;
		else if (is_rank_one(&d[i]) && !hidden)
			hidden = (size_t)d[i].cols;
	}
	if (ones < FEWEST)
		return ST_OK;
	float *dir = st_alloc_array2(ones, hidden, sizeof *dir);
	size_t *at = st_alloc_array(ones, sizeof *at);
	enum st_status st = dir && at ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		if (!is_rank_one(&d[i]))
			continue;
		at[k] = i;
		st = stream_direction(&d[i], hidden, dir + k++ * hidden, err);
	}
	for (size_t i = 0; i < ones && st == ST_OK && *count < FEWEST; i++) {
		*count = 0;
		for (size_t j = 0; j < ones; j++) {
			double c = 0;
			for (size_t e = 0; e < hidden; e++)
				c += (double)dir[i * hidden + e] * dir[j * hidden + e];
			shares[at[j]] = c * c > 0.5;
			*count += shares[at[j]];
		}
	}
	if (*count < FEWEST)
		*count = 0;
	free(dir);
	free(at);
	return st;
}

/* ---- the shape ---- */

enum st_status st_find_shape(struct st_weight_diff *d, size_t n, struct st_error *err)
{
	struct group all_over, shown, pruned, low_rank;
	ST_TRY(find_group(d, n, differs_all_over, &all_over, err));
	ST_TRY(find_group(d, n, shows_all_over, &shown, err));
	ST_TRY(find_group(d, n, is_pruned, &pruned, err));
	ST_TRY(find_group(d, n, is_low_rank, &low_rank, err));
	bool two = shown.in >= FEWEST && (double)shown.in > MOST * (double)shown.matrices;
	size_t in_direction = 0;
	bool *shares = st_alloc_zeroed(n ? n : 1, sizeof *shares);
	if (!shares)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = shared_direction(d, n, shares, &in_direction, err);
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		struct st_cause *c = &d[i].cause;
		if (!is_matrix(&d[i]))
			continue;
		if (is_low_rank(&d[i])) {
			if (low_rank.in > 1)
				say_group(c, &low_rank);
			if (in_direction && shares[i])
				st_cause_put(c, ST_PARAM_DIRECTION, (double)in_direction);
		} else if (is_pruned(&d[i])) {
			say_group(c, &pruned);
		} else if (shows_all_over(&d[i]) && two) {
			*c = (struct st_cause){ .code = ST_CAUSE_WEIGHT_TWO_MODELS,
				                .confidence = ST_LIKELY,
				                .residual_before = d[i].rel_l2,
				                .residual_after = d[i].rel_l2,
				                .floor = d[i].predicted };
			say_group(c, &shown);
			st_cause_put(c, ST_PARAM_MEDIAN, shown.median);
		} else if (differs_all_over(&d[i]) && all_over.in > 1) {
			say_group(c, &all_over);
			st_cause_put(c, ST_PARAM_MEDIAN, all_over.median);
		}
	}
	free(shares);
	return st;
}
