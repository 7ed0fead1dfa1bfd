/*
 * weight_layout.c - the parts of blocks in another order, or some of their bits lost.
 *
 * A layout is a copy of the type's descriptor with one field changed (dtype/geometry.h), or something done to the parts
 * of a block. A file may hold blocks that were written in it, or blocks that were read in it and written again; what
 * loses bits is done to the side that still has them. Where that is of another type, the bits are put back that come
 * nearest to its numbers: few are lost of each, so numbers that are not those of the block are not met by any.
 */
#include "compare/weight_trial.h"
#include "dtype/geometry.h"
#include "graph/basis.h"

#include <math.h>
#include <string.h>

enum way { PUT_RIGHT, PUT_WRONG, LOSE };

struct layout {
	const char *name;
	enum way way;
	/* The descriptor of the layout; or what is done to the parts (to no effect: false). */
	bool (*describe)(struct st_geometry *g);
	void (*change)(const struct st_geometry *g, struct st_block_parts *p);
	enum st_code_order order; /* else one of those that have a name of their own */
	/* Of LOSE: put back what comes nearest to the numbers. */
	void (*restore)(const struct st_geometry *g, struct st_block_parts *p, const float *numbers);
	/* Or put the bytes of a block right; `size` of them. */
	void (*bytes)(const struct st_geometry *g, uint8_t *block, size_t size);
};

/* ---- codes ---- */

static bool consecutive(struct st_bits *b)
{
	if (!b->bits || 8 % b->bits || b->bits == 8 || b->group == 8 / b->bits)
		return false;
	*b = (struct st_bits){
		.at = b->at, .bits = b->bits, .group = (uint16_t)(8 / b->bits), .bytes = 1, .advance = 1
	};
	return true;
}

/* Codes of 4 bits in pairs are called that. */
static bool has_pairs(const struct st_geometry *g) { return g->code.bits == 4 && g->code_high.bits <= 1; }
static bool codes_consecutive(struct st_geometry *g) { return !has_pairs(g) && consecutive(&g->code); }
static bool high_bits_consecutive(struct st_geometry *g) { return consecutive(&g->code_high); }
static bool all_consecutive(struct st_geometry *g)
{
	return g->code_high.bits && consecutive(&g->code) && consecutive(&g->code_high);
}

static bool groups_of(struct st_geometry *g, uint16_t n)
{
	unsigned elements = (unsigned)g->sub * g->n_sub;
	if (!g->code.bits || g->code.bits == 8 || g->code.group == n || n > elements)
		return false;
	g->code.group = n;
	g->code.bytes = g->code.advance = (uint16_t)(n * g->code.bits / 8);
	return true;
}
static bool groups_of_32(struct st_geometry *g) { return groups_of(g, 32); }
static bool groups_of_64(struct st_geometry *g) { return groups_of(g, 64); }
static bool groups_of_128(struct st_geometry *g) { return groups_of(g, 128); }
static bool groups_of_256(struct st_geometry *g) { return groups_of(g, 256); }

static void other_sign(const struct st_geometry *g, struct st_block_parts *p)
{
	unsigned bits = (unsigned)g->code.bits + g->code_high.bits;
	for (unsigned i = 0; i < (unsigned)g->sub * g->n_sub; i++)
		p->code[i] = (int16_t)(!g->code_signed  ? p->code[i] ^ (1 << (bits - 1))
		                       : p->code[i] < 0 ? p->code[i] + (1 << (bits - 1))
		                                        : p->code[i] - (1 << (bits - 1)));
}

static void code_high_lost(const struct st_geometry *g, struct st_block_parts *p)
{
	for (unsigned i = 0; i < (unsigned)g->sub * g->n_sub && g->code_high.bits; i++)
		p->code[i] = (int16_t)(p->code[i] & ((1 << g->code.bits) - 1));
}

static void restore_codes(const struct st_geometry *g, struct st_block_parts *p, const float *numbers)
{
	struct st_block_parts with = *p;
	float value[ST_BLOCK_MOST], best[ST_BLOCK_MOST];
	unsigned n = (unsigned)g->sub * g->n_sub;
	for (int high = 0; high < 1 << g->code_high.bits; high++) {
		for (unsigned i = 0; i < n; i++)
			with.code[i] = (int16_t)((p->code[i] & ((1 << g->code.bits) - 1)) | high << g->code.bits);
		st_block_numbers(g, &with, value);
		for (unsigned i = 0; i < n; i++) {
			float away = fabsf(value[i] - numbers[i]);
			if (high && !(away < best[i]))
				continue;
			best[i] = away;
			p->code[i] = with.code[i];
		}
	}
}

/* The lower four bits of codes of six. */
static void low_nibbles_exchanged(const struct st_geometry *g, struct st_block_parts *p)
{
	unsigned n = g->code.bytes;
	for (unsigned i = 0; i < (unsigned)g->sub * g->n_sub && g->code.bits == 4 && !has_pairs(g); i++) {
		if (i / n % 2)
			continue;
		int16_t x = p->code[i], y = p->code[i + n];
		p->code[i] = (int16_t)((x & ~15) | (y & 15));
		p->code[i + n] = (int16_t)((y & ~15) | (x & 15));
	}
}

static void codes_backwards(const struct st_geometry *g, struct st_block_parts *p)
{
	unsigned n = (unsigned)g->sub * g->n_sub;
	for (unsigned i = 0; i < n / 2; i++) {
		int16_t x = p->code[i];
		p->code[i] = p->code[n - 1 - i];
		p->code[n - 1 - i] = x;
	}
}

static void exchange(uint8_t *x, uint8_t *y)
{
	uint8_t v = *x;
	*x = *y;
	*y = v;
}

static size_t high_bytes(const struct st_geometry *g) { return (size_t)g->sub * g->n_sub * g->code_high.bits / 8; }

static void high_bits_backwards(const struct st_geometry *g, uint8_t *block, size_t size)
{
	(void)size;
	for (size_t i = 0; i < high_bytes(g); i++) {
		unsigned x = block[g->code_high.at + i], y = 0;
		for (unsigned k = 0; k < 8; k++)
			y |= (x >> k & 1) << (7 - k);
		block[g->code_high.at + i] = (uint8_t)y;
	}
}

/* As a number of 32 bits has them on the other kind of machine. */
static void high_bytes_backwards(const struct st_geometry *g, uint8_t *block, size_t size)
{
	(void)size;
	for (size_t i = 0; i < 2 && high_bytes(g) == 4; i++)
		exchange(&block[g->code_high.at + i], &block[g->code_high.at + 3 - i]);
}

static void high_halves_exchanged(const struct st_geometry *g, uint8_t *block, size_t size)
{
	(void)size;
	for (size_t i = 0; i < 2 && high_bytes(g) == 4; i++)
		exchange(&block[g->code_high.at + i], &block[g->code_high.at + 2 + i]);
}

/* ---- factors ---- */

static size_t factor_bytes(const struct st_geometry *g)
{
	return g->factor == ST_FACTOR_F16 ? 2 : g->factor == ST_FACTOR_F32 ? 4 : g->factor == ST_FACTOR_E8M0 ? 1 : 0;
}

static void factor_bytes_backwards(const struct st_geometry *g, uint8_t *block, size_t size)
{
	const int at[] = { g->d_at, g->m_at };
	size_t n = factor_bytes(g);
	(void)size;
	for (size_t k = 0; k < 2 && n > 1; k++)
		for (size_t i = 0; i < n / 2 && at[k] >= 0; i++)
			exchange(&block[(size_t)at[k] + i], &block[(size_t)at[k] + n - 1 - i]);
}

/* They stand at the other end of the block. */
static void factors_at_other_end(const struct st_geometry *g, uint8_t *block, size_t size)
{
	uint8_t old[ST_BLOCK_BYTES_MOST];
	size_t n = factor_bytes(g) * (g->m_at >= 0 ? 2 : 1), rest = size - n;
	if (n == 0 || (g->d_at != 0 && (size_t)g->d_at != rest))
		return;
	memcpy(old, block, size);
	if (g->d_at == 0) {
		memcpy(block, old + rest, n);
		memcpy(block + n, old, rest);
	} else {
		memcpy(block, old + n, rest);
		memcpy(block + rest, old, n);
	}
}

/* Number i of six bits, one behind the other. */
static int16_t six_bits(const uint8_t *p, unsigned i)
{
	unsigned at = 6 * i, two = (unsigned)p[at / 8] | (at % 8 > 2 ? (unsigned)p[at / 8 + 1] << 8 : 0);
	return (int16_t)(two >> at % 8 & 63);
}

/* Eight scales and eight minima in 12 bytes (Q4_K, Q5_K) as a plain stream of bits instead of the split one. */
static void scales_out_of_stream(const struct st_geometry *g, uint8_t *block, bool pairs)
{
	struct st_block_parts p;
	if (!g->min_high.bits || g->n_sub != 8)
		return;
	st_block_unpack(g, block, &p);
	for (unsigned j = 0; j < 8; j++) {
		p.scale[j] = six_bits(block + g->scale.at, pairs ? 2 * j : j);
		p.min[j] = six_bits(block + g->scale.at, pairs ? 2 * j + 1 : 8 + j);
	}
	st_block_pack(g, &p, block);
}
static void scales_then_minima(const struct st_geometry *g, uint8_t *block, size_t size)
{
	(void)size;
	scales_out_of_stream(g, block, false);
}
static void scales_with_minima(const struct st_geometry *g, uint8_t *block, size_t size)
{
	(void)size;
	scales_out_of_stream(g, block, true);
}

static void factors_exchanged(const struct st_geometry *g, struct st_block_parts *p)
{
	float d = p->d;
	if (g->m_at < 0)
		return;
	p->d = p->m;
	p->m = d;
}

static void lists_exchanged(const struct st_geometry *g, struct st_block_parts *p)
{
	for (unsigned j = 0; j < g->n_sub && g->min.bits; j++) {
		int16_t x = p->scale[j];
		p->scale[j] = p->min[j];
		p->min[j] = x;
	}
}

static void both_exchanged(const struct st_geometry *g, struct st_block_parts *p)
{
	if (!g->min.bits)
		return;
	factors_exchanged(g, p);
	lists_exchanged(g, p);
}

static void lose_scale_bits(const struct st_geometry *g, struct st_block_parts *p, unsigned from)
{
	for (unsigned j = from; j < g->n_sub && g->scale_high.bits; j++) {
		p->scale[j] = (int16_t)(((p->scale[j] + g->scale_bias) & ((1 << g->scale.bits) - 1)) - g->scale_bias);
		if (g->min_high.bits)
			p->min[j] = (int16_t)(p->min[j] & ((1 << g->min.bits) - 1));
	}
}
static void scale_high_lost(const struct st_geometry *g, struct st_block_parts *p) { lose_scale_bits(g, p, 0); }
static void last_scale_high_lost(const struct st_geometry *g, struct st_block_parts *p)
{
	lose_scale_bits(g, p, g->n_sub / 2u);
}

static void restore_scales(const struct st_geometry *g, struct st_block_parts *p, const float *numbers, unsigned from)
{
	struct st_block_parts with = *p;
	float value[ST_BLOCK_MOST];
	double best[ST_SUBS_MOST];
	int scales = 1 << g->scale_high.bits, mins = 1 << g->min_high.bits;
	for (int high = 0; high < scales * mins; high++) {
		for (unsigned j = from; j < g->n_sub; j++) {
			int scale = (p->scale[j] + g->scale_bias) & ((1 << g->scale.bits) - 1);
			with.scale[j] = (int16_t)((scale | high % scales << g->scale.bits) - g->scale_bias);
			if (g->min_high.bits)
				with.min[j] = (int16_t)((p->min[j] & ((1 << g->min.bits) - 1))
				                        | high / scales << g->min.bits);
		}
		st_block_numbers(g, &with, value);
		for (unsigned j = from; j < g->n_sub; j++) {
			double away = 0;
			for (unsigned i = j * g->sub; i < (j + 1) * g->sub; i++)
				away += ((double)value[i] - numbers[i]) * ((double)value[i] - numbers[i]);
			if (high && !(away < best[j]))
				continue;
			best[j] = away;
			p->scale[j] = with.scale[j];
			p->min[j] = with.min[j];
		}
	}
}

static void restore_all_scales(const struct st_geometry *g, struct st_block_parts *p, const float *numbers)
{
	restore_scales(g, p, numbers, 0);
}
static void restore_last_scales(const struct st_geometry *g, struct st_block_parts *p, const float *numbers)
{
	restore_scales(g, p, numbers, g->n_sub / 2u);
}

/* ---- sub-blocks ---- */

static void order_scales(const struct st_geometry *g, struct st_block_parts *p,
                         unsigned (*from)(unsigned j, unsigned n))
{
	struct st_block_parts old = *p;
	for (unsigned j = 0; j < g->n_sub && g->scale.bits; j++) {
		p->scale[j] = old.scale[from(j, g->n_sub)];
		p->min[j] = old.min[from(j, g->n_sub)];
	}
}

static unsigned backwards(unsigned j, unsigned n) { return n - 1 - j; }
static unsigned evens_first(unsigned j, unsigned n) { return j < n / 2 ? 2 * j : 2 * (j - n / 2) + 1; }
static unsigned alternating(unsigned j, unsigned n) { return j % 2 ? n / 2 + j / 2 : j / 2; }
static unsigned one_on(unsigned j, unsigned n) { return (j + 1) % n; }
static unsigned one_back(unsigned j, unsigned n) { return (j + n - 1) % n; }
static unsigned neighbour(unsigned j, unsigned n)
{
	(void)n;
	return j ^ 1;
}

static void scales_backwards(const struct st_geometry *g, struct st_block_parts *p) { order_scales(g, p, backwards); }
static void scales_evens_first(const struct st_geometry *g, struct st_block_parts *p)
{
	order_scales(g, p, evens_first);
}
static void scales_alternating(const struct st_geometry *g, struct st_block_parts *p)
{
	order_scales(g, p, alternating);
}
static void scales_in_pairs(const struct st_geometry *g, struct st_block_parts *p) { order_scales(g, p, neighbour); }
static void scales_one_on(const struct st_geometry *g, struct st_block_parts *p) { order_scales(g, p, one_on); }
static void scales_one_back(const struct st_geometry *g, struct st_block_parts *p) { order_scales(g, p, one_back); }

static void subs_backwards(const struct st_geometry *g, struct st_block_parts *p)
{
	struct st_block_parts old = *p;
	order_scales(g, p, backwards);
	for (unsigned i = 0; i < (unsigned)g->sub * g->n_sub && g->n_sub > 1; i++)
		p->code[i] = old.code[(g->n_sub - 1u - i / g->sub) * g->sub + i % g->sub];
}

/* What reads factors from wrong places gives NaN, and is tried before these are asked for. */
static const struct layout of_factors[] = {
	{ "factors at the other end of the block", PUT_RIGHT, .bytes = factors_at_other_end },
	{ "bytes of the factors backwards", PUT_RIGHT, .bytes = factor_bytes_backwards },
};

/* Those with an order first: what a repair can undo. */
static const struct layout layouts[] = {
	{ "nibbles exchanged", PUT_RIGHT, .order = ST_CODES_EXCHANGED },
	{ "pairs", PUT_RIGHT, .order = ST_CODES_FROM_PAIRS },
	{ "halves", PUT_RIGHT, .order = ST_CODES_TO_PAIRS },
	{ "consecutive codes", PUT_RIGHT, .describe = codes_consecutive },
	{ "consecutive codes", PUT_WRONG, .describe = codes_consecutive },
	{ "consecutive high bits", PUT_RIGHT, .describe = high_bits_consecutive },
	{ "consecutive high bits", PUT_WRONG, .describe = high_bits_consecutive },
	{ "consecutive codes and high bits", PUT_RIGHT, .describe = all_consecutive },
	{ "consecutive codes and high bits", PUT_WRONG, .describe = all_consecutive },
	{ "codes in groups of 32", PUT_RIGHT, .describe = groups_of_32 },
	{ "codes in groups of 32", PUT_WRONG, .describe = groups_of_32 },
	{ "codes in groups of 64", PUT_RIGHT, .describe = groups_of_64 },
	{ "codes in groups of 64", PUT_WRONG, .describe = groups_of_64 },
	{ "codes in groups of 128", PUT_RIGHT, .describe = groups_of_128 },
	{ "codes in groups of 128", PUT_WRONG, .describe = groups_of_128 },
	{ "codes in groups of 256", PUT_RIGHT, .describe = groups_of_256 },
	{ "codes in groups of 256", PUT_WRONG, .describe = groups_of_256 },
	{ "the codes' highest bit inverted", PUT_RIGHT, .change = other_sign },
	{ "nibbles of the lower bits exchanged", PUT_RIGHT, .change = low_nibbles_exchanged },
	{ "codes backwards", PUT_RIGHT, .change = codes_backwards },
	{ "high bits backwards", PUT_RIGHT, .bytes = high_bits_backwards },
	{ "bytes of high bits backwards", PUT_RIGHT, .bytes = high_bytes_backwards },
	{ "high bits of both halves exchanged", PUT_RIGHT, .bytes = high_halves_exchanged },
	{ "scale and minimum exchanged", PUT_RIGHT, .change = factors_exchanged },
	{ "scales and minima of sub-blocks exchanged", PUT_RIGHT, .change = lists_exchanged },
	{ "scales and minima exchanged", PUT_RIGHT, .change = both_exchanged },
	{ "sub-blocks backwards", PUT_RIGHT, .change = subs_backwards },
	{ "scales backwards", PUT_RIGHT, .change = scales_backwards },
	{ "scales of even sub-blocks first", PUT_RIGHT, .change = scales_evens_first },
	{ "scales of both halves in turn", PUT_RIGHT, .change = scales_alternating },
	{ "scales exchanged in pairs", PUT_RIGHT, .change = scales_in_pairs },
	{ "scales one place on", PUT_RIGHT, .change = scales_one_on },
	{ "scales one place back", PUT_RIGHT, .change = scales_one_back },
	{ "scales and minima in a plain stream of bits", PUT_RIGHT, .bytes = scales_then_minima },
	{ "scales and minima in turn in a plain stream of bits", PUT_RIGHT, .bytes = scales_with_minima },
	{ "high bits of the codes lost", LOSE, .change = code_high_lost, .restore = restore_codes },
	{ "high bits of the scales lost", LOSE, .change = scale_high_lost, .restore = restore_all_scales },
	{ "high bits of the last half of the scales lost", LOSE, .change = last_scale_high_lost, .restore = restore_last_scales },
};

/* Whether the layout is another one than the type's own. */
static bool applies(const struct layout *l, enum st_dtype t)
{
	struct st_geometry as = *st_dtype_geometry(t);
	struct st_block_parts p = { .d = 1, .m = 2 }, q;
	if (as.sub == 0)
		return false;
	if (l->order != ST_CODES_OWN)
		return st_dtype_has_nibbles(t);
	if (l->describe)
		return l->describe(&as);
	if (l->bytes) {
		uint8_t x[ST_BLOCK_BYTES_MOST], y[ST_BLOCK_BYTES_MOST];
		size_t n = st_dtype_info(t)->block_bytes;
		for (size_t i = 0; i < n; i++)
			x[i] = y[i] = (uint8_t)(i * 7 + 1);
		l->bytes(&as, y, n);
		return memcmp(x, y, n) != 0;
	}
	for (unsigned j = 0; j < as.n_sub; j++) {
		p.scale[j] = (int16_t)(as.scale_top - (int)j);
		p.min[j] = (int16_t)(as.scale_top - 16 - (int)j);
	}
	for (unsigned i = 0; i < (unsigned)as.sub * as.n_sub; i++)
		p.code[i] = (int16_t)(as.highest - (int)(i % 3));
	q = p;
	l->change(&as, &q);
	return p.d != q.d || p.m != q.m || memcmp(p.scale, q.scale, sizeof p.scale) != 0
	    || memcmp(p.min, q.min, sizeof p.min) != 0 || memcmp(p.code, q.code, sizeof p.code) != 0;
}

/* Whether bits that the layout loses are there. */
static bool has_bits(const struct layout *l, const struct st_geometry *g, const uint8_t *block)
{
	struct st_block_parts p, q;
	st_block_unpack(g, block, &p);
	q = p;
	l->change(g, &q);
	return memcmp(p.scale, q.scale, sizeof p.scale) != 0 || memcmp(p.min, q.min, sizeof p.min) != 0
	    || memcmp(p.code, q.code, sizeof p.code) != 0;
}

/* like: numbers to come near to, or NULL. */
static void rearrange(const struct layout *l, enum st_dtype t, uint8_t *block, const float *like)
{
	const struct st_geometry *own = st_dtype_geometry(t);
	struct st_geometry as = *own;
	struct st_block_parts p;
	if (l->order != ST_CODES_OWN) {
		st_block_reorder(t, block, l->order);
		return;
	}
	if (l->bytes) {
		l->bytes(own, block, st_dtype_info(t)->block_bytes);
		return;
	}
	if (l->describe)
		l->describe(&as);
	st_block_unpack(l->way == PUT_RIGHT ? &as : own, block, &p);
	if (like)
		l->restore(own, &p, like);
	else if (l->change)
		l->change(own, &p);
	st_block_pack(l->way == PUT_WRONG ? &as : own, &p, block);
}

/* ---- the hypothesis ---- */

/* A side with its blocks rearranged. */
struct rearranged {
	const struct st_rows *from;
	const struct layout *layout;
	const struct st_rows *like; /* whose numbers tell what was lost; else NULL */
};

/* The cells of a row are those of a tensor that holds the row with its blocks put right. */
static void get_rearranged(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct rearranged *x = s->ctx;
	const struct st_weight *w = x->from->w;
	const struct st_tensor *t = w->tensor;
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	uint8_t block[ST_BLOCK_BYTES_MOST];
	if (x->like)
		x->like->get(x->like, r, &(struct st_cells){ .value = dst->spare });
	if (w->interleaved)
		r = st_row_in_pairs(r, s->rows / w->heads);
	for (uint64_t at = 0, b = 0; at < s->cols; at += info->block_elems, b++) {
		memcpy(block, t->data + r * t->row_bytes + b * info->block_bytes, info->block_bytes);
		rearrange(x->layout, t->dtype, block, x->like ? dst->spare + at : NULL);
		struct st_tensor one = { .dtype = t->dtype,
			                 .layout = ST_LAYOUT_ROWS,
			                 .ndim = 1,
			                 .shape = { info->block_elems },
			                 .n_elems = info->block_elems,
			                 .n_bytes = info->block_bytes,
			                 .row_bytes = info->block_bytes,
			                 .scale = t->scale,
			                 .data = block };
		struct st_weight part = { .tensor = &one, .heads = 1, .layer = -1 };
		struct st_cells here = st_cells_from(dst, at);
		st_weight_cells(&part, (struct st_held){ t->dtype, t->scale }, 0, &here);
	}
}

/* Whether none of the bits is there in the rows of the sample. */
static bool are_lost(const struct st_trial *t, const struct st_rows *s, const struct layout *l)
{
	const struct st_tensor *of = s->w->tensor;
	const struct st_dtype_info *info = st_dtype_info(of->dtype);
	for (uint64_t i = 0; i < t->n_sample; i++)
		for (uint64_t at = 0; at + info->block_bytes <= of->row_bytes; at += info->block_bytes)
			if (has_bits(l, st_dtype_geometry(of->dtype), of->data + t->sample[i] * of->row_bytes + at))
				return false;
	return true;
}

static enum st_status try_layouts(struct st_trial *t, const struct layout *layout, size_t n)
{
	for (size_t i = 0; i < n && !t->done; i++) {
		const struct layout *l = &layout[i];
		for (int k = 0; k < 2 && !t->done; k++) {
			const struct st_rows *s = k ? t->b : t->a, *other = k ? t->a : t->b;
			const struct st_tensor *stored = s->w->tensor;
			/* Read wrongly, sound numbers give the other side's NaN. */
			bool sounder = k ? t->d->nonfinite_b < t->d->nonfinite_a : t->d->nonfinite_a < t->d->nonfinite_b;
			if (stored->layout != ST_LAYOUT_ROWS || !applies(l, stored->dtype) || sounder)
				continue;
			bool restored = l->way == LOSE && other->w->tensor->dtype != stored->dtype;
			if (restored && !are_lost(t, s, l))
				continue;
			struct st_rows side = *s;
			struct rearranged x = { s, l, restored ? other : NULL };
			side.get = get_rearranged;
			side.ctx = &x;
			struct st_cause c = { .code = ST_CAUSE_WEIGHT_BLOCK_LAYOUT };
			st_cause_put_text(&c, ST_PARAM_ORDER, l->name);
			/* Between two files of such types either may be the one that was written wrongly; bits that are
			 * there were not made up, and what gives NaN is not right. */
			bool either = applies(l, other->w->tensor->dtype) && l->way != LOSE
			           && t->d->nonfinite_a == t->d->nonfinite_b;
			char wrong = (l->way == LOSE && !restored) == (k == 1) ? 'a' : 'b';
			ST_TRY(st_trial_consider(t, k ? t->a : &side, k ? &side : t->b, c, either ? 0 : wrong, false));
		}
	}
	return ST_OK;
}

enum st_status st_test_block_bytes(struct st_trial *t)
{
	ST_TRY(try_layouts(t, of_factors, sizeof of_factors / sizeof *of_factors));
	return t->done ? ST_OK : st_find_padded_blocks(t);
}

enum st_status st_test_block_layout(struct st_trial *t)
{
	return try_layouts(t, layouts, sizeof layouts / sizeof *layouts);
}
