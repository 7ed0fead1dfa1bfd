/* capture.c - mistakes of the one who copies values: the run was right, the trace is not. */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct value *find(struct run *r, const char *stage, int l) { return (struct value *)run_find(r, stage, l, 0); }

/* What the layer or a later one has under `stage`, whatever the family calls it. */
static struct value *find_any(struct run *r, const char *a, const char *b, int l)
{
	struct value *v = find(r, a, l);
	return v ? v : find(r, b, l);
}

static void exchange(struct value *a, struct value *b)
{
	if (!a || !b || a->n != b->n)
		return;
	double *v = a->v;
	a->v = b->v;
	b->v = v;
}

static void copy(struct value *to, const struct value *from)
{
	if (to && from && to->n == from->n)
		memcpy(to->v, from->v, to->n * sizeof *to->v);
}

static void cut(struct value *v, size_t from, size_t count)
{
	size_t cols = v->n / v->dims[0];
	memmove(v->v, v->v + from * cols, count * cols * sizeof *v->v);
	v->dims[0] = count;
	v->n = count * cols;
}

/* To the other order of rotary pairs, in `heads` heads of d from column `at` on. */
static void other_basis(struct value *v, size_t at, size_t heads, size_t d, size_t dims, bool neighbours)
{
	size_t cols = v->n / v->dims[0];
	double was[256];
	for (size_t t = 0; t < v->dims[0]; t++)
		for (size_t h = 0; h < heads; h++) {
			double *x = v->v + t * cols + at + h * d;
			memcpy(was, x, d * sizeof *x);
			for (size_t i = 0; i < dims; i++) {
				size_t half = i / 2 + i % 2 * (dims / 2);
				if (neighbours)
					x[half] = was[i];
				else
					x[i] = was[half];
			}
		}
}

static void all_to_other_basis(struct run *r)
{
	const struct model *m = r->m;
	for (size_t i = 0; i < r->n_values; i++) {
		struct value *v = &r->values[i];
		bool both = strcmp(v->stage, "qkv_matmul") == 0 || strcmp(v->stage, "qkv_bias") == 0;
		if (both || strncmp(v->stage, "q_post", 6) == 0)
			other_basis(v, 0, m->H, m->d, m->rope.dims, m->interleaved);
		if (both || strncmp(v->stage, "k_post", 6) == 0)
			other_basis(v, both ? m->H * m->d : 0, m->G, m->d, m->rope.dims, m->interleaved);
	}
}

/* Rotated queries and keys in their places of the fused stage. */
static void rotated_in_place(struct run *r, struct value *v, int l)
{
	const struct model *m = r->m;
	size_t q = m->H * m->d, kv = m->G * m->d, all = q + 2 * kv;
	const struct value *a = find(r, "q_post_rope", l), *b = find(r, "k_post_rope", l);
	for (size_t t = 0; a && b && t < v->dims[0]; t++) {
		memcpy(v->v + t * all, a->v + t * q, q * sizeof *v->v);
		memcpy(v->v + t * all + q, b->v + t * kv, kv * sizeof *v->v);
	}
}

void run_spoil_capture(struct run *r, const struct run *other)
{
	const struct planted *p = &r->o.plant;
	const struct model *m = r->m;
	int L = (int)m->L, first = p->layer < 0 ? 0 : p->layer, last = p->layer < 0 ? L - 1 : p->layer;
	if (p->fault == FAULT_CAPTURE_ROPE_LAYOUT) {
		all_to_other_basis(r);
		return;
	}
	if (p->fault == FAULT_CAPTURE_STITCHED) {
		for (size_t i = 0; i < r->n_values; i++)
			if (r->values[i].layer >= (first > 0 ? first : 1)
			    || (r->values[i].layer < 0 && i > r->n_values / 2))
				copy(&r->values[i],
				     run_find(other, r->values[i].stage, r->values[i].layer, r->values[i].step));
		return;
	}
	if (p->fault == FAULT_TOKEN_SUBSET && strcmp(p->target, "all") == 0) {
		for (size_t i = 0; i < r->n_values; i++)
			if (strncmp(r->values[i].stage, "attn_s", 6) != 0)
				cut(&r->values[i], r->values[i].dims[0] - 1, 1);
		return;
	}
	if (p->fault == FAULT_CAPTURE_LAYER_SHIFT) { /* from the last one on, so that each still has its own to give */
		for (int l = L - 1; l > first; l--)
			copy(find(r, p->target, l), find(r, p->target, l - 1));
		return;
	}
	for (int l = first; l <= last; l++) {
		struct value *v = find(r, p->target, l);
		if (!v)
			continue;
		size_t n = v->dims[0], cols = v->n / n;
		switch (p->fault) {
		case FAULT_TOKEN_SUBSET:
			cut(v, n - 1, 1);
			break;
		case FAULT_TOKEN_ANY:
			cut(v, (size_t)p->value, 1);
			break;
		case FAULT_CAPTURE_PARTIAL:
			cut(v, 0, n / 2);
			break;
		case FAULT_CAPTURE_STALE:
			memcpy(v->v + n / 2 * cols, v->v + (n / 2 - 1) * cols, cols * sizeof *v->v);
			break;
		case FAULT_CAPTURE_ROW_SHIFT:
			memmove(v->v + cols, v->v, (n - 1) * cols * sizeof *v->v);
			memset(v->v, 0, cols * sizeof *v->v);
			break;
		case FAULT_CAPTURE_ALIASED_SILU:
			copy(v, find_any(r, "ffn_silu", "expert_silu", l));
			break;
		case FAULT_CAPTURE_ALIASED_ROPE:
			rotated_in_place(r, v, l);
			break;
		case FAULT_CAPTURE_ALIASED_ADD:
			copy(v, find(r, "post_attn_residual", l));
			break;
		case FAULT_CAPTURE_BATCH_ROW:
			copy(v, run_find(other, p->target, l, 0));
			break;
		case FAULT_CAPTURE_AXES: {
			size_t heads = cols / m->d;
			double *was = malloc(v->n * sizeof *was);
			if (!was)
				exit(2);
			memcpy(was, v->v, v->n * sizeof *was);
			for (size_t t = 0; t < n; t++)
				for (size_t h = 0; h < heads; h++)
					memcpy(v->v + (h * n + t) * m->d, was + (t * heads + h) * m->d,
					       m->d * sizeof *was);
			free(was);
			break;
		}
		case FAULT_MISLABELLED_GATE_UP:
			exchange(v, find_any(r, "ffn_up", "expert_up", l));
			break;
		case FAULT_MISLABELLED_NORM:
			exchange(v, find(r, "ffn_norm", l));
			break;
		case FAULT_MISLABELLED_LAST: /* the others have no norm behind them */
			if (l + 1 == L)
				copy(v, find(r, "final_norm", -1));
			break;
		default:
			break;
		}
	}
}

const struct value *run_first_difference(const struct run *clean, const struct run *faulty,
                                         const struct trace_options *o)
{
	for (size_t i = 0; i < faulty->n_values; i++) {
		const struct value *a = &faulty->values[i], *b = run_find(clean, a->stage, a->layer, a->step);
		if (!trace_takes(a, o))
			continue;
		if (!b || a->n != b->n || a->dims[0] != b->dims[0])
			return a;
		for (size_t k = 0; k < a->n; k++)
			if ((float)a->v[k] != (float)b->v[k])
				return a;
	}
	return NULL;
}
