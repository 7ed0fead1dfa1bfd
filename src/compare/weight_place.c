/* weight_place.c - another tensor of the model in the place of this one, or mixed with it row by row. */
#include "arch/arch.h"
#include "compare/weight_trial.h"

#include <string.h>

bool st_weight_same_kind(const struct st_weight *a, const struct st_weight *b)
{
	struct st_name_parts p, q;
	if (a->name && b->name)
		return strcmp(a->name, b->name) == 0;
	if (a->role != ST_ROLE_COUNT || b->role != ST_ROLE_COUNT)
		return a->role == b->role;
	st_name_take_apart(a->canonical, &p);
	st_name_take_apart(b->canonical, &q);
	return strcmp(p.stem, q.stem) == 0 && strcmp(p.last, q.last) == 0;
}

static bool same_kind(const struct st_weight *a, const struct st_weight *b)
{
	return st_weight_same_kind(a, b) && (a->layer != b->layer || a->name || a->role != ST_ROLE_COUNT);
}

/* Which code a tensor found in another tensor's place gets. */
static enum st_cause_code misplaced_code(const struct st_weight *slot, const struct st_weight *found)
{
	enum st_role r = slot->role, f = found->role;
	if (same_kind(slot, found) && slot->layer == found->layer && slot->expert >= 0)
		return ST_CAUSE_WEIGHT_EXPERT_SWAPPED;
	if (same_kind(slot, found))
		return ST_CAUSE_WEIGHT_LAYER_SWAPPED;
	if (r == ST_ROLE_HEAD)
		return f == ST_ROLE_EMBED ? ST_CAUSE_HEAD_TIED : ST_CAUSE_HEAD_WRONG_TENSOR;
	if (slot->kind == ST_WEIGHT_NORM && found->kind == ST_WEIGHT_NORM)
		return ST_CAUSE_NORM_WRONG_WEIGHT;
	bool qkv_r = r >= ST_ROLE_Q && r <= ST_ROLE_V_BIAS, qkv_f = f >= ST_ROLE_Q && f <= ST_ROLE_V_BIAS;
	if (qkv_r && qkv_f && slot->layer == found->layer)
		return ST_CAUSE_WEIGHT_QKV_SWAPPED;
	if ((r == ST_ROLE_GATE && f == ST_ROLE_UP) || (r == ST_ROLE_UP && f == ST_ROLE_GATE))
		return slot->layer == found->layer ? ST_CAUSE_WEIGHT_GATE_UP_SWAPPED : ST_CAUSE_WEIGHT_WRONG_TENSOR;
	return ST_CAUSE_WEIGHT_WRONG_TENSOR;
}

/* Whether two tensors agree, by a few rows. */
static enum st_status agree(struct st_trial *t, const struct st_rows *x, const struct st_rows *y, bool *yes)
{
	struct st_row_stat part[ST_SAMPLE];
	uint64_t few = t->n_sample < 4 ? t->n_sample : 4;
	struct st_pair_summary s;
	*yes = false;
	if (x->rows != y->rows || x->cols != y->cols)
		return ST_OK;
	ST_TRY(st_pair_judge(x, y, t->sample, few, t->pool, part, &s, t->err));
	*yes = s.noise;
	return ST_OK;
}

/* A head that is tied and stored as well. Then it is no sign of anything that the embedding is found in the head. */
static enum st_status stored_twice(struct st_trial *t, const struct st_rows *side, bool *yes)
{
	const struct st_model *own = side == t->a ? t->ma : t->mb;
	const struct st_weight *head = st_model_role(own, ST_ROLE_HEAD, 0);
	*yes = false;
	if (t->d->slot->role != ST_ROLE_EMBED || !head || !head->tensor || st_model_config(own)->tie_said == ST_TIE_NO)
		return ST_OK;
	struct st_rows rows = st_rows_of(head);
	return agree(t, side, &rows, yes);
}

/* The tensor of model m with the same bytes-worth of numbers as `side` at this slot's place, if any. */
static enum st_status find_misplaced(struct st_trial *t, const struct st_rows *side, const struct st_model *m,
                                     const struct st_weight **found)
{
	*found = NULL;
	bool twin;
	ST_TRY(stored_twice(t, side, &twin));
	for (size_t i = 0; i < st_model_n_weights(m) && !*found; i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		bool itself = w == (m == t->mb ? t->d->b : t->d->a)
		           || (w->role != ST_ROLE_COUNT && w->role == t->d->slot->role && w->layer == t->d->slot->layer
		               && w->expert == t->d->slot->expert);
		if (!w->tensor || itself || w->role == ST_ROLE_ROPE_FREQS || (twin && w->role == ST_ROLE_HEAD))
			continue;
		struct st_rows other = st_rows_of(w);
		bool yes;
		ST_TRY(agree(t, side, &other, &yes));
		if (yes)
			*found = w;
	}
	return ST_OK;
}

/*
 * One side has a head of its own, the other uses its embedding. A side is wrong that says its head is tied and holds
 * another one. A side is wrong, too, that says nothing where the other says what it does. Where both say the same or
 * nothing, neither is known to be wrong.
 */
static enum st_status one_is_tied(struct st_trial *t)
{
	struct st_weight_diff *d = t->d;
	bool tied_a = d->a->role == ST_ROLE_EMBED;
	enum st_tie own = st_model_config(tied_a ? t->mb : t->ma)->tie_said,
		    tied = st_model_config(tied_a ? t->ma : t->mb)->tie_said;
	char own_side = tied_a ? 'b' : 'a', tied_side = tied_a ? 'a' : 'b';
	bool untied = own == ST_TIE_YES || (own == ST_TIE_UNSAID && tied == ST_TIE_YES);
	struct st_cause c = { .code = untied ? ST_CAUSE_HEAD_UNTIED : ST_CAUSE_HEAD_TIED, .residual_after = d->rel_l2 };
	st_cause_put_text(&c, untied ? ST_PARAM_TIED : ST_PARAM_HOLDS, (tied_a ? d->a : d->b)->canonical);
	st_trial_decide(t, c, untied ? own_side : own == ST_TIE_NO && tied == ST_TIE_UNSAID ? tied_side : 0);
	return ST_OK;
}

enum st_status st_test_misplaced(struct st_trial *t)
{
	if (t->d->slot->role == ST_ROLE_HEAD && (t->d->a->role == ST_ROLE_EMBED) != (t->d->b->role == ST_ROLE_EMBED))
		return one_is_tied(t);
	const struct st_weight *in_b, *in_a;
	ST_TRY(find_misplaced(t, t->a, t->mb, &in_b)); /* a holds what b has elsewhere */
	ST_TRY(find_misplaced(t, t->b, t->ma, &in_a)); /* b holds what a has elsewhere */
	if (!in_a && !in_b)
		return ST_OK;
	/* When a's tensor is found elsewhere in b while b's is nowhere in a, a has lost its own: a is wrong. */
	char side = in_b && !in_a ? 'a' : in_a && !in_b ? 'b' : 0;
	const struct st_weight *found = in_b ? in_b : in_a;
	struct st_rows other = st_rows_of(found);
	struct st_cause c = { .code = misplaced_code(t->d->slot, found) };
	st_cause_put_text(&c, ST_PARAM_HOLDS, found->canonical);
	if (found->layer >= 0)
		st_cause_put(&c, ST_PARAM_LAYER, found->layer);
	return in_b ? st_trial_consider(t, t->a, &other, c, side, false)
	            : st_trial_consider(t, &other, t->b, c, side, false);
}

/* Rows of two sides in turn: those from `first` on of the pair of them, interleaved. */
struct alternating {
	struct st_rows of[2];
	uint64_t first;
};

static void get_alternating(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct alternating *x = s->ctx;
	uint64_t i = x->first + r;
	const struct st_rows *from = &x->of[i % 2];
	from->get(from, i / 2, dst);
}

/*
 * Gate and up written as g0 u0 g1 u1 ... and then cut in half; or one behind the other, and read as if they alternated.
 * The one undoes the other, so nothing says which of the two files is wrong.
 */
enum st_status st_test_gate_up_interleaved(struct st_trial *t)
{
	enum st_role r = t->d->slot->role;
	if (r != ST_ROLE_GATE && r != ST_ROLE_UP)
		return ST_OK;
	for (int k = 0; k < 2 && !t->done; k++) {
		const struct st_model *m = k ? t->ma : t->mb; /* the side whose rows alternate in the other */
		const struct st_weight *gate = st_model_weight_beside(m, t->d->slot, ST_ROLE_GATE),
				       *up = st_model_weight_beside(m, t->d->slot, ST_ROLE_UP);
		if (!gate || !gate->tensor || !up || !up->tensor)
			continue;
		struct alternating x = { { st_rows_of(gate), st_rows_of(up) }, 0 };
		x.first = r == ST_ROLE_UP ? x.of[0].rows : 0;
		struct st_rows side = x.of[0];
		side.get = get_alternating;
		side.ctx = &x;
		ST_TRY(st_trial_consider(t, k ? &side : t->a, k ? t->b : &side,
		                         (struct st_cause){ .code = ST_CAUSE_WEIGHT_GATE_UP_INTERLEAVED }, 0, false));
	}
	return ST_OK;
}

/* One of Q, K, V taken row by row from all three of the same layer. */
struct fused {
	struct st_rows part[3]; /* Q, K, V of side b */
	uint64_t start;         /* of this weight in [Q | K | V] */
	uint64_t chunks;
	bool gathered; /* which of the two was read as the other */
};

/*
 * A fused matrix holds its rows either as [Q | K | V] or in chunks [q0 k0 v0 | q1 k1 v1 | ...], one for each group of
 * heads or for each device that had a part. Reading the one as the other puts row r of this weight where row r + start
 * of the one stands in the other.
 */
static void get_fused(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct fused *f = s->ctx;
	uint64_t n[3], chunk = 0, at = f->start + r;
	for (int i = 0; i < 3; i++) {
		n[i] = f->part[i].rows / f->chunks; /* rows of each within a chunk */
		chunk += n[i];
	}
	if (f->gathered) { /* where the chunks' order has what stands at `at` of [Q | K | V] */
		int i = 0;
		uint64_t before = 0;
		while (at >= f->part[i].rows) {
			at -= f->part[i].rows;
			before += n[i++];
		}
		at = at / n[i] * chunk + before + at % n[i];
		for (i = 0; at >= f->part[i].rows; i++)
			at -= f->part[i].rows;
		f->part[i].get(&f->part[i], at, dst);
		return;
	}
	uint64_t c = at / chunk, in = at % chunk;
	int i = 0;
	while (in >= n[i])
		in -= n[i++];
	f->part[i].get(&f->part[i], c * n[i] + in, dst);
}

/* Each reading undoes the other, so nothing says which of the two files is wrong. */
enum st_status st_test_qkv_interleaved(struct st_trial *t)
{
	enum st_role r = t->d->slot->role;
	if (r < ST_ROLE_Q || r > ST_ROLE_V)
		return ST_OK;
	struct fused f = { .start = 0 };
	for (int i = 0; i < 3; i++) {
		const struct st_weight *w = st_model_weight_beside(t->mb, t->d->slot, (enum st_role)(ST_ROLE_Q + i));
		if (!w || !w->tensor || st_tensor_cols(w->tensor) != t->a->cols)
			return ST_OK;
		f.part[i] = st_rows_of(w);
		f.start += i < (int)(r - ST_ROLE_Q) ? f.part[i].rows : 0;
	}
	uint64_t rows = f.part[1].rows;
	if (f.part[2].rows != rows || f.part[0].rows % rows)
		return ST_OK;
	struct st_rows b = f.part[r - ST_ROLE_Q];
	b.get = get_fused;
	b.ctx = &f;
	for (f.chunks = 2; f.chunks <= rows && !t->done; f.chunks++) {
		for (int gathered = 0; gathered < 2 && rows % f.chunks == 0 && !t->done; gathered++) {
			f.gathered = gathered;
			struct st_cause c = { .code = ST_CAUSE_WEIGHT_QKV_INTERLEAVED };
			st_cause_put(&c, ST_PARAM_CHUNKS, (double)f.chunks);
			ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
		}
	}
	return ST_OK;
}
