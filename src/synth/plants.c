/*
 * plants.c - faults that converters really make, one row each, planted in an otherwise sound file.
 *
 * A plant edits the list of tensors (whose numbers, in which order, stored how) or the configuration. It names the
 * tensors it touched; nothing in the file says that it is there.
 */
#include <stele/cause.h>

#include "synth/synth.h"

#include "dtype/geometry.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows and values of a faulty tensor ---- */

/* The bytes of the transpose in the place of the matrix: element i of the file is element i of W^T. */
static void row_transposed(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	for (uint64_t c = 0; c < t->cols; c++) {
		uint64_t i = row * t->cols + c;
		dst[c] = st_synth_number(s, t->from, t->from_layer, i % t->rows, i / t->rows);
	}
}

static void row_reversed(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	st_synth_row(s, t, t->rows - 1 - row, dst);
}

static void row_next(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	st_synth_row(s, t, (row + 1) % t->rows, dst);
}

/* g0 u0 g1 u1 ..., cut in the middle. */
static void row_interleaved(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	uint64_t i = t->role == ST_ROLE_UP ? t->rows + row : row;
	enum st_role from = i % 2 ? ST_ROLE_UP : ST_ROLE_GATE;
	if (!t->image) {
		st_synth_numbers(s, from, t->layer, i / 2, dst);
		return;
	}
	const struct st_synth_tensor *x = st_synth_find((struct st_synth *)(uintptr_t)s, from, t->layer);
	memcpy(dst, x->image + i / 2 * t->cols, t->cols * sizeof *dst);
}

/* One row of numbers that belong nowhere: those of a row behind the last. */
static void row_corrupt(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	st_synth_row(s, t, row == t->rows / 2 ? t->rows + row : row, dst);
}

static void row_ones(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	(void)s, (void)row;
	for (uint64_t i = 0; i < t->cols; i++)
		dst[i] = t->made && t->made->less_one ? 0 : 1;
}

static void row_zeros(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	(void)s, (void)row;
	memset(dst, 0, t->cols * sizeof *dst);
}

static void multiply(const struct st_synth_tensor *t, float by, float *x)
{
	for (uint64_t i = 0; i < t->cols; i++)
		x[i] *= by;
}

static void edit_by_head_size(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)row;
	multiply(t, 1 / sqrtf((float)s->cfg.head_dim), x);
}

static void edit_by_hidden(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)row;
	multiply(t, sqrtf((float)s->cfg.hidden), x);
}

static void edit_halved(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)s, (void)row;
	multiply(t, 0.5f, x);
}

static void edit_less_one(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)s, (void)row;
	for (uint64_t i = 0; i < t->cols; i++)
		x[i] -= 1;
}

static void edit_plus_one(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)s, (void)row;
	for (uint64_t i = 0; i < t->cols; i++)
		x[i] += 1;
}

/* The second block of every row with twice its scale. Doubling the values before encoding doubles exactly that. */
static void edit_block_scale(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)s, (void)row;
	uint32_t n = st_dtype_info(t->dtype)->block_elems;
	for (uint32_t i = n; i < 2 * n; i++)
		x[i] *= 2;
}

static void edit_nan(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x)
{
	(void)s;
	if (row == t->rows / 3)
		x[t->cols / 3] = NAN;
}

/* ---- bytes ---- */

static void mangle_nan(const struct st_synth_tensor *t, uint64_t row, uint8_t *bytes)
{
	if (row == t->rows / 3)
		memcpy(bytes + st_dtype_geometry(t->dtype)->d_at, &(uint16_t){ 0x7E00 }, 2);
}

static void mangle_nibbles(const struct st_synth_tensor *t, uint64_t row, uint8_t *bytes)
{
	(void)row;
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	for (uint64_t i = 0; i < t->cols / info->block_elems; i++, bytes += info->block_bytes)
		st_block_reorder(t->dtype, bytes, ST_CODES_EXCHANGED);
}

/* BF16 by cutting the lower half off. */
static void encode_truncated(const float *x, void *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t u;
		memcpy(&u, x + i, 4);
		memcpy((uint8_t *)dst + 2 * i, &(uint16_t){ (uint16_t)(u >> 16) }, 2);
	}
}

/* ---- the table ---- */

struct plant {
	enum st_cause_code code;
	const char *text;
	enum st_role role; /* what it is planted in; ST_ROLE_COUNT: no tensor */
	/* NULL when the tensor (NULL where the model has none) is one for this fault, else why not. May be NULL itself.
	 */
	const char *(*unfit)(const struct st_synth *s, const struct st_synth_tensor *t);
	/* Either what replaces these members of the tensor... */
	st_synth_row_fn row;
	void (*edit)(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x);
	void (*mangle)(const struct st_synth_tensor *t, uint64_t row, uint8_t *bytes);
	/* ...or something that names itself what it touched. */
	void (*apply)(struct st_synth *s, struct st_synth_tensor *t);
	const char
		*name; /* "CODE/WHICH": one of several faults that have one code; NULL: the first, by its code alone */
	/* Of a page's model: in what the page puts together, where `role` has no tensor of its own. */
	st_synth_mislay_fn mislay;
};

static void apply_to(struct st_synth *s, enum st_role role, uint32_t layer,
                     void (*change)(struct st_synth *, struct st_synth_tensor *))
{
	struct st_synth_tensor *t = st_synth_find(s, role, layer);
	if (!t)
		return;
	change(s, t);
	st_synth_touched(s, t->canonical);
}

/* Numbers of two tensors exchanged. */
static void exchange(struct st_synth *s, struct st_synth_tensor *t, enum st_role role, uint32_t layer)
{
	struct st_synth_tensor *other = st_synth_find(s, role, layer);
	t->from = role;
	t->from_layer = layer;
	other->from = t->role;
	other->from_layer = t->layer;
	st_synth_touched(s, t->canonical);
	st_synth_touched(s, other->canonical);
}

static uint32_t neighbour(const struct st_synth *s, uint32_t layer)
{
	return layer + 1 < s->cfg.n_layers ? layer + 1 : layer - 1;
}

static void apply_layer_swapped(struct st_synth *s, struct st_synth_tensor *t)
{
	exchange(s, t, t->role, neighbour(s, t->layer));
}
static void apply_kv_swapped(struct st_synth *s, struct st_synth_tensor *t) { exchange(s, t, ST_ROLE_V, t->layer); }
static void apply_gate_up(struct st_synth *s, struct st_synth_tensor *t) { exchange(s, t, ST_ROLE_UP, t->layer); }

static void make_interleaved(struct st_synth *s, struct st_synth_tensor *t) { (void)s, t->row = row_interleaved; }

static void apply_interleaved(struct st_synth *s, struct st_synth_tensor *t)
{
	apply_to(s, ST_ROLE_GATE, t->layer, make_interleaved);
	apply_to(s, ST_ROLE_UP, t->layer, make_interleaved);
}

static void apply_wrong_tensor(struct st_synth *s, struct st_synth_tensor *t)
{
	t->from = ST_ROLE_O;
	st_synth_touched(s, t->canonical);
}

static void apply_wrong_norm(struct st_synth *s, struct st_synth_tensor *t)
{
	t->from = ST_ROLE_FFN_NORM;
	st_synth_touched(s, t->canonical);
}

static void apply_head_tied(struct st_synth *s, struct st_synth_tensor *t)
{
	t->from = ST_ROLE_EMBED;
	st_synth_touched(s, t->canonical);
}

/* The other order than the container's: permuted where it should not be, not permuted where it should. */
static void turn_pairs(struct st_synth *s, struct st_synth_tensor *t)
{
	bool query = t->role == ST_ROLE_Q || t->role == ST_ROLE_Q_BIAS;
	t->pairs = t->pairs ? 0 : query ? s->cfg.n_heads : s->cfg.n_kv_heads;
}

static void apply_rope_permuted(struct st_synth *s, struct st_synth_tensor *t)
{
	static const enum st_role roles[] = { ST_ROLE_Q, ST_ROLE_K, ST_ROLE_Q_BIAS, ST_ROLE_K_BIAS };
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		apply_to(s, roles[i], t->layer, turn_pairs);
}

/* K permuted as if it had as many heads as Q. */
static void apply_wrong_heads(struct st_synth *s, struct st_synth_tensor *t)
{
	t->pairs = s->cfg.n_heads;
	st_synth_touched(s, t->canonical);
}

static void apply_missing(struct st_synth *s, struct st_synth_tensor *t)
{
	t->missing = true;
	st_synth_touched(s, t->canonical);
}

static void apply_truncated(struct st_synth *s, struct st_synth_tensor *t)
{
	t->dtype = t->label = ST_DTYPE_BF16;
	t->encode = encode_truncated;
	st_synth_touched(s, t->canonical);
}

/* Types whose rows have the same size, so that nothing but the numbers is wrong. The first row that the
 * tensor's type, its columns and the container allow; for all other types F16 under the label BF16. */
static void apply_mislabelled(struct st_synth *s, struct st_synth_tensor *t)
{
	static const enum st_dtype pairs[][2] = {
		{ ST_DTYPE_BF16, ST_DTYPE_F16 },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_0 },
		{ ST_DTYPE_Q4_0, ST_DTYPE_Q4_K },
		{ ST_DTYPE_Q4_0, ST_DTYPE_IQ4_NL },
	};
	enum st_dtype is = ST_DTYPE_F16, says = ST_DTYPE_BF16;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		if (pairs[i][0] == t->dtype && t->cols % st_dtype_info(pairs[i][1])->block_elems == 0
		    && st_synth_has_type(s->target, pairs[i][1])) {
			is = pairs[i][0];
			says = pairs[i][1];
			break;
		}
	}
	t->dtype = is;
	t->label = says;
	st_synth_touched(s, t->canonical);
	size_t n = strlen(s->planted);
	snprintf(s->planted + n, sizeof s->planted - n, " (%s labelled %s)", st_dtype_info(is)->name,
	         st_dtype_info(says)->name);
}

static void apply_nan(struct st_synth *s, struct st_synth_tensor *t)
{
	if (st_dtype_info(t->dtype)->kind == ST_KIND_FLOAT)
		t->edit = edit_nan;
	else
		t->mangle = mangle_nan;
	st_synth_touched(s, t->canonical);
}

/* A tied head that is stored as a copy (APR) is copied from what the file says the embedding is. */
static void apply_embedding(struct st_synth *s, struct st_synth_tensor *t, st_synth_row_fn row,
                            void (*edit)(const struct st_synth *, const struct st_synth_tensor *, uint64_t, float *))
{
	struct st_synth_tensor *head = s->cfg.tied ? st_synth_find(s, ST_ROLE_HEAD, 0) : NULL;
	for (; t; t = t == head ? NULL : head) {
		t->row = row;
		t->edit = edit;
		st_synth_touched(s, t->canonical);
	}
}

static void apply_embedding_scale(struct st_synth *s, struct st_synth_tensor *t)
{
	apply_embedding(s, t, st_synth_row, edit_by_hidden);
}
static void apply_embedding_shift(struct st_synth *s, struct st_synth_tensor *t)
{
	apply_embedding(s, t, row_next, NULL);
}

/* The base frequency of the first LLaMA, as a reader that does not find the key would use it. */
#define OLD_THETA 10000.0

static void apply_config(struct st_synth *s, struct st_synth_tensor *t)
{
	(void)t;
	if (s->page)
		(void)st_synth_page_number(s->page, "theta", &s->cfg.rope_theta);
	double theta = s->cfg.rope_theta == OLD_THETA ? 100 * OLD_THETA : OLD_THETA;
	if (s->page && !st_synth_page_say(s->page, "theta", theta))
		return;
	char what[64];
	snprintf(what, sizeof what, "rope_theta (%g, should be %g)", theta, s->cfg.rope_theta);
	s->cfg.rope_theta = theta;
	st_synth_touched(s, what);
}

static void apply_bos(struct st_synth *s, struct st_synth_tensor *t)
{
	(void)t;
	s->words.adds_bos = !s->words.adds_bos;
	st_synth_touched(s, s->words.adds_bos ? "the tokenizer (adds BOS, should not)"
	                                      : "the tokenizer (adds no BOS, should)");
}

/* Merges name pieces by their text, so only the ids of the two change. */
static void apply_tokens(struct st_synth *s, struct st_synth_tensor *t)
{
	(void)t;
	const char **p = s->vocab.pieces;
	uint32_t at[2] = { 0, 0 };
	for (uint32_t i = 0; i < 256; i++)
		for (int k = 0; k < 2; k++)
			if (strcmp(p[i], k ? "3" : "2") == 0)
				at[k] = i;
	const char *two = p[at[0]];
	p[at[0]] = p[at[1]];
	p[at[1]] = two;
	st_synth_touched(s, "the vocabulary (\"2\" and \"3\" have each other's ids)");
}

/* ---- what fits ---- */

static const char *fit_matrix(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)s;
	return t->rows < 12 || t->cols < 12 ? "the matrix is too small" : NULL;
}

static const char *fit_two_layers(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)t;
	return s->cfg.n_layers < 2 ? "there is one layer only" : NULL;
}

static const char *fit_same_shape_as_o(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)t;
	return (uint64_t)s->cfg.n_heads * s->cfg.head_dim != s->cfg.hidden ? "Q and O have different shapes" : NULL;
}

static const char *fit_grouped(const struct st_synth *s, const struct st_synth_tensor *t)
{
	uint64_t wrong = t->rows % s->cfg.n_heads ? 0 : t->rows / s->cfg.n_heads;
	if (s->cfg.n_heads == s->cfg.n_kv_heads)
		return "Q and K have equally many heads";
	return wrong < 2 || wrong % 2 ? "K does not divide into as many heads as Q has" : NULL;
}

static const char *fit_blocks(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)s;
	if (st_dtype_geometry(t->dtype)->sub == 0)
		return "the type has no blocks";
	return t->cols < 2 * (uint64_t)st_dtype_info(t->dtype)->block_elems ? "a row is one block" : NULL;
}

static const char *fit_nibbles(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)s;
	return !st_dtype_has_nibbles(t->dtype) ? "the type has no 4-bit codes" : NULL;
}

static const char *fit_f16_rows(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)t;
	return !st_synth_has_type(s->target, ST_DTYPE_BF16) ? "the container has no BF16" : NULL;
}

static const char *fit_nan(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)s;
	return st_dtype_info(t->dtype)->kind != ST_KIND_FLOAT && st_dtype_geometry(t->dtype)->factor != ST_FACTOR_F16
	             ? "the type cannot hold NaN"
	             : NULL;
}

static const char *fit_own_head(const struct st_synth *s, const struct st_synth_tensor *t)
{
	(void)t;
	return s->cfg.tied ? "the head is the embedding" : NULL;
}

static const struct plant plants[] = {
	{ ST_CAUSE_TOKENS_BOS, "a BOS token in front of every text, or none where one belongs", ST_ROLE_COUNT,
	  .apply = apply_bos },
	{ ST_CAUSE_TOKENS_MISMATCH, "two tokens have each other's ids", ST_ROLE_COUNT, .apply = apply_tokens },
	{ ST_CAUSE_CONFIG_MISMATCH, "a wrong base frequency of the rotary embedding", ST_ROLE_COUNT,
	  .apply = apply_config },
	{ ST_CAUSE_CONFIG_MISMATCH, "the base frequencies of local and global layers exchanged", ST_ROLE_COUNT,
	  .name = "config.mismatch/bases", .mislay = st_synth_mislay_bases },
	{ ST_CAUSE_CONFIG_MISMATCH, "longrope's factors of long texts in the place of those of short ones",
	  ST_ROLE_COUNT, .name = "config.mismatch/factors", .mislay = st_synth_mislay_factors },
	{ ST_CAUSE_EMBEDDING_SCALE, "the embedding times sqrt(hidden size)", ST_ROLE_EMBED,
	  .apply = apply_embedding_scale },
	{ ST_CAUSE_EMBEDDING_ROW_SHIFT, "every token has its neighbour's embedding", ST_ROLE_EMBED, fit_matrix,
	  .apply = apply_embedding_shift },
	{ ST_CAUSE_WEIGHT_TRANSPOSED, "the output projection written as its transpose", ST_ROLE_O, fit_matrix,
	  .row = row_transposed },
	{ ST_CAUSE_WEIGHT_ROPE_PERMUTED, "rows of Q and K in the other rotary order", ST_ROLE_Q,
	  .apply = apply_rope_permuted },
	{ ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS, "rows of K reordered for the number of Q's heads", ST_ROLE_K,
	  fit_grouped, .apply = apply_wrong_heads },
	{ ST_CAUSE_WEIGHT_ROWS_PERMUTED, "rows of the gate in reverse order", ST_ROLE_GATE, fit_matrix,
	  .row = row_reversed },
	{ ST_CAUSE_WEIGHT_ROW_SHIFT, "rows of the up projection one place up", ST_ROLE_UP, fit_matrix,
	  .row = row_next },
	{ ST_CAUSE_WEIGHT_QKV_SWAPPED, "K and V exchanged; fused with Q, each in the next one's place", ST_ROLE_K,
	  .apply = apply_kv_swapped, .mislay = st_synth_mislay_parts },
	{ ST_CAUSE_WEIGHT_FUSED_ORDER, "the first part of a fused tensor behind the others", ST_ROLE_COUNT,
	  .mislay = st_synth_mislay_order },
	{ ST_CAUSE_WEIGHT_FUSED_ORDER, "the latent behind the rotated part that is stored with it", ST_ROLE_COUNT,
	  .name = "weight.fused_order/latent", .mislay = st_synth_mislay_latent },
	{ ST_CAUSE_WEIGHT_QKV_INTERLEAVED,
	  "fused Q, K and V as blocks where they lie head by head, or the other way round", ST_ROLE_COUNT,
	  .mislay = st_synth_mislay_groups },
	{ ST_CAUSE_WEIGHT_GATE_UP_SWAPPED, "gate and up exchanged", ST_ROLE_GATE, .apply = apply_gate_up },
	{ ST_CAUSE_WEIGHT_GATE_UP_INTERLEAVED, "rows of gate and up alternate, cut in the middle", ST_ROLE_GATE,
	  fit_matrix, .apply = apply_interleaved, .mislay = st_synth_mislay_gate_up },
	{ ST_CAUSE_WEIGHT_EXPERT_SWAPPED, "the experts in reverse order, the router's rows as they were", ST_ROLE_COUNT,
	  .mislay = st_synth_mislay_experts },
	{ ST_CAUSE_WEIGHT_LAYER_SWAPPED, "the down projections of two layers exchanged", ST_ROLE_DOWN, fit_two_layers,
	  .apply = apply_layer_swapped },
	{ ST_CAUSE_WEIGHT_WRONG_TENSOR, "the output projection in the place of Q", ST_ROLE_Q, fit_same_shape_as_o,
	  .apply = apply_wrong_tensor },
	{ ST_CAUSE_WEIGHT_WRONG_TENSOR, "the shared expert and the first routed one exchanged", ST_ROLE_COUNT,
	  .name = "weight.wrong_tensor/shared", .mislay = st_synth_mislay_shared },
	{ ST_CAUSE_WEIGHT_MISSING, "no output projection", ST_ROLE_O, .apply = apply_missing },
	{ ST_CAUSE_WEIGHT_SCALED, "Q divided by sqrt(head size)", ST_ROLE_Q, .edit = edit_by_head_size },
	{ ST_CAUSE_WEIGHT_ROW_CORRUPT, "one row of the down projection holds other numbers", ST_ROLE_DOWN, fit_matrix,
	  .row = row_corrupt },
	{ ST_CAUSE_WEIGHT_BLOCK_SCALE, "the second block of every row of the down projection has twice its scale",
	  ST_ROLE_DOWN, fit_blocks, .edit = edit_block_scale },
	{ ST_CAUSE_WEIGHT_BLOCK_LAYOUT, "the two 4-bit codes of each byte of the output projection exchanged",
	  ST_ROLE_O, fit_nibbles, .mangle = mangle_nibbles },
	{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, "the output projection labelled as another type of the same size",
	  ST_ROLE_O, fit_f16_rows, .apply = apply_mislabelled },
	{ ST_CAUSE_WEIGHT_TRUNCATED_ROUNDING, "the output projection as BF16, cut off instead of rounded", ST_ROLE_O,
	  fit_f16_rows, .apply = apply_truncated },
	{ ST_CAUSE_WEIGHT_NAN, "one NaN in the output projection (a block's scale, where there are blocks)", ST_ROLE_O,
	  fit_nan, .apply = apply_nan },
	{ ST_CAUSE_NORM_PLUS_ONE, "1 added to the weights of the attention norm", ST_ROLE_ATTN_NORM,
	  .edit = edit_plus_one },
	{ ST_CAUSE_NORM_PLUS_ONE, "1 taken off the weights of the attention norm", ST_ROLE_ATTN_NORM,
	  .edit = edit_less_one, .name = "norm.plus_one/less" },
	{ ST_CAUSE_NORM_WRONG_WEIGHT, "the attention norm carries the feed-forward norm's weights", ST_ROLE_ATTN_NORM,
	  .apply = apply_wrong_norm },
	{ ST_CAUSE_NORM_WEIGHT_MISSING, "weights of the attention norm are all 1", ST_ROLE_ATTN_NORM, .row = row_ones },
	{ ST_CAUSE_BIAS_MISSING, "the bias of K is all 0", ST_ROLE_K_BIAS, .row = row_zeros },
	{ ST_CAUSE_BIAS_MISSING, "what the router adds is all 0", ST_ROLE_COUNT, .name = "bias.missing/router",
	  .mislay = st_synth_mislay_router_bias },
	{ ST_CAUSE_BIAS_SCALED, "the bias of K halved", ST_ROLE_K_BIAS, .edit = edit_halved },
	{ ST_CAUSE_HEAD_TIED, "the embedding in the place of the head", ST_ROLE_HEAD, fit_own_head,
	  .apply = apply_head_tied },
	{ ST_CAUSE_HEAD_SCALE, "the head halved", ST_ROLE_HEAD, fit_own_head, .edit = edit_halved },
};
#define N_PLANTS (sizeof plants / sizeof *plants)

const char *st_synth_plant_code(size_t i)
{
	return i >= N_PLANTS ? NULL : plants[i].name ? plants[i].name : st_cause_name(plants[i].code);
}
const char *st_synth_plant_text(size_t i) { return i < N_PLANTS ? plants[i].text : NULL; }

static bool acts_on_rows(const struct plant *p)
{
	return p->row == row_reversed || p->row == row_next || p->row == row_corrupt || p->apply == apply_rope_permuted
	    || p->apply == apply_wrong_heads;
}

/* Why this plant cannot be had here, or NULL. */
static const char *unfit_tensor(struct st_synth *s, const struct plant *p, uint32_t layer)
{
	double theta;
	if (p->apply == apply_config && s->page && !st_synth_page_number(s->page, "theta", &theta))
		return "the model does not turn by a base frequency";
	if (p->role == ST_ROLE_COUNT)
		return NULL;
	const struct st_synth_tensor *t = st_synth_find(s, p->role, layer);
	if (!t)
		return "the file has no such tensor";
	if (t->made && (t->made->turned || t->made->paired) && (acts_on_rows(p) || p->apply == apply_interleaved))
		return t->made->turned ? "the container stores the matrix transposed"
		                       : "the container stores rows in pairs";
	return p->unfit ? p->unfit(s, t) : NULL;
}

static const char *unfit(struct st_synth *s, const struct plant *p, uint32_t layer)
{
	const char *why = p->mislay && p->role == ST_ROLE_COUNT ? "only families made from their page have it"
	                                                        : unfit_tensor(s, p, layer);
	return why && p->mislay && s->page ? p->mislay(s, layer, false) : why;
}

/* Codes that fit this model, type and container, "weight.transposed|rows_permuted|...": written out they are longer
 * than an error holds. Codes of one group stand together in the table. */
static void list_codes(struct st_synth *s, uint32_t layer, char *buf, size_t size)
{
	size_t at = 0, group = 0;
	const char *last = "";
	buf[0] = '\0';
	for (size_t i = 0; i < N_PLANTS && at + 1 < size; i++) {
		const char *code = st_synth_plant_code(i);
		if (unfit(s, &plants[i], layer))
			continue;
		bool same = group > 0 && strncmp(code, last, group) == 0;
		int n = snprintf(buf + at, size - at, "%s%s", same ? "|" : at ? ", " : "", same ? code + group : code);
		at += n > 0 ? (size_t)n : 0;
		group = strcspn(code, ".") + 1;
		last = code;
	}
}

static bool parse_layer(const char *text, uint32_t n_layers, uint32_t *layer)
{
	char *end;
	if (text[0] < '0' || text[0] > '9')
		return false;
	unsigned long v = strtoul(text, &end, 10);
	*layer = (uint32_t)v;
	return !*end && v < n_layers;
}

enum st_status st_synth_plant(struct st_synth *s, const char *plant, struct st_error *err)
{
	const struct plant *p = NULL;
	size_t len = strcspn(plant, ":");
	/* The second layer: the first is often special, and not every model has a third. */
	uint32_t layer = s->cfg.n_layers > 1 ? 1 : 0;
	for (size_t i = 0; i < N_PLANTS; i++)
		if (strlen(st_synth_plant_code(i)) == len && memcmp(st_synth_plant_code(i), plant, len) == 0)
			p = &plants[i];
	if (plant[len] && !parse_layer(plant + len + 1, s->cfg.n_layers, &layer))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--plant", "\"%.32s\" is no layer of 0 to %u",
		                  plant + len + 1, s->cfg.n_layers - 1);
	const char *why = p ? unfit(s, p, layer) : NULL;
	char codes[460];
	if (!p || why)
		list_codes(s, layer, codes, sizeof codes);
	if (!p)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--plant", "unknown code \"%.*s\"; known here: %s",
		                  (int)(len < 40 ? len : 40), plant, codes);
	if (why)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--plant", "%s does not fit: %s; known here: %s",
		                  st_synth_plant_code((size_t)(p - plants)), why, codes);
	snprintf(s->planted, sizeof s->planted, "%s", st_cause_name(p->code));
	struct st_synth_tensor *t = p->role == ST_ROLE_COUNT ? NULL : st_synth_find(s, p->role, layer);
	if (p->mislay && (p->role == ST_ROLE_COUNT || unfit_tensor(s, p, layer))) {
		why = p->mislay(s, layer, true);
		return why ? st_fail_at(err, ST_ERR_NOMEM, ST_NO_OFFSET, "--plant", "%s", why) : ST_OK;
	}
	if (p->apply) {
		p->apply(s, t);
		return ST_OK;
	}
	if (p->row)
		t->row = p->row;
	t->edit = p->edit;
	t->mangle = p->mangle;
	st_synth_touched(s, t->canonical);
	return ST_OK;
}
