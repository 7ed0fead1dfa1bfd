/*
 * Two models that are not one: an adapter, a finetune, two labels over the same bytes. What differs has a shape, and a
 * sound side is never accused.
 */
#include "toy.h"

#include "folder.h"

#include <stele/judge.h>

#include <math.h>

#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define GATE0 "model.layers.0.mlp.gate_proj.weight"
#define DOWN0 "model.layers.0.mlp.down_proj.weight"

static struct st_rosetta *compare(const char *a, const char *b)
{
	static const uint32_t ids[] = { 5, 17, 60, 33, 2 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 5, .threshold = NAN };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(in_folder(a), in_folder(b), &o, &r, &err), &err);
	return r;
}

static const struct st_weight_diff *of(const struct st_rosetta *r, const char *canonical)
{
	for (size_t i = 0; i < r->n_weights; i++)
		if (strcmp(r->weights[i].slot->canonical, canonical) == 0)
			return &r->weights[i];
	fail_msg("no weight %s", canonical);
	return NULL;
}

/* t += size * |t| * (n x rank) (rank x cols) / sqrt(rank) */
static void merge_adapter(struct toy_tensor *t, size_t rank, double size, uint64_t seed)
{
	double square = 0, scale;
	double *x = malloc(t->rows * rank * sizeof *x), *y = malloc(t->cols * rank * sizeof *y);
	for (uint64_t i = 0; i < t->rows * rank; i++)
		x[i] = toy_normal(&seed);
	for (uint64_t i = 0; i < t->cols * rank; i++)
		y[i] = toy_normal(&seed);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		square += (double)t->data[i] * t->data[i];
	scale = size * sqrt(square / (double)(t->rows * t->cols * rank));
	for (uint64_t r = 0; r < t->rows; r++)
		for (uint64_t c = 0; c < t->cols; c++) {
			double sum = 0;
			for (size_t k = 0; k < rank; k++)
				sum += x[r * rank + k] * y[c * rank + k];
			t->data[r * t->cols + c] += (float)(scale * sum);
		}
	free(x);
	free(y);
}

static void adapters_are_named(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype a, b;
		size_t rank;
		double size;
	} cases[] = {
		{ ST_DTYPE_F32, ST_DTYPE_F32, 8, 0.01 },  { ST_DTYPE_BF16, ST_DTYPE_F16, 8, 0.1 },
		{ ST_DTYPE_F16, ST_DTYPE_Q8_0, 4, 0.05 }, { ST_DTYPE_Q8_0, ST_DTYPE_Q8_0, 16, 0.1 },
		{ ST_DTYPE_BF16, ST_DTYPE_Q4_0, 4, 0.5 }, { ST_DTYPE_Q4_K, ST_DTYPE_F16, 2, 0.5 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, merged;
		toy_make(&base, "qwen2", 256, false);
		toy_make(&merged, "qwen2", 256, false);
		merge_adapter(toy_find(&merged, Q1), cases[i].rank, cases[i].size, 7 + i);
		toy_write(&base, in_folder("base.gguf"), cases[i].b, true);
		toy_write(&merged, in_folder("merged.gguf"), cases[i].a, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "base.gguf" : "merged.gguf",
			                               order ? "merged.gguf" : "base.gguf");
			const struct st_weight_diff *d = of(r, Q1);
			if (d->cause.code != ST_CAUSE_WEIGHT_LOW_RANK || d->cause.confidence != ST_CONFIRMED || d->side
			    || st_cause_number(&d->cause, ST_PARAM_RANK, 0) != (double)cases[i].rank)
				fail_msg("case %zu, order %d: %s, rank %g (%s)", i, order, st_cause_name(d->cause.code),
				         st_cause_number(&d->cause, ST_PARAM_RANK, 0), r->text);
			for (size_t k = 0; k < r->n_weights; k++)
				assert_true(&r->weights[k] == d || r->weights[k].status < ST_WEIGHT_FAULT);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&merged);
	}
}

/* Noise of full rank is no adapter, whatever it is stored in; in one matrix it is no other model either. */
static void noise_is_no_adapter(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_F32, ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q4_0 };
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		struct toy base, other;
		uint64_t seed = 11 + i;
		toy_make(&base, "qwen2", 256, false);
		toy_make(&other, "qwen2", 256, false);
		struct toy_tensor *t = toy_find(&other, Q1);
		for (uint64_t k = 0; k < t->rows * t->cols; k++)
			t->data[k] *= (float)(1 + 0.4 * toy_normal(&seed));
		toy_write(&base, in_folder("base.gguf"), types[i], true);
		toy_write(&other, in_folder("other.gguf"), types[i], true);
		struct st_rosetta *r = compare("other.gguf", "base.gguf");
		assert_int_equal(of(r, Q1)->status, ST_WEIGHT_FAULT);
		assert_string_equal(st_cause_name(of(r, Q1)->cause.code), "unexplained");
		st_rosetta_free(r);
		toy_free(&base);
		toy_free(&other);
	}
}

static void a_finetune_is_another_model(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype type;
		double size;
	} cases[] = {
		{ ST_DTYPE_BF16, 0.002 }, { ST_DTYPE_F32, 1e-4 }, { ST_DTYPE_Q8_0, 0.05 }, { ST_DTYPE_Q4_0, 0.3 }
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, other;
		uint64_t seed = 3 + i;
		toy_make(&base, "llama", 256, false);
		toy_make(&other, "llama", 256, false);
		size_t matrices = 0;
		for (size_t k = 0; k < other.n; k++) {
			struct toy_tensor *t = &other.t[k];
			double square = 0;
			for (uint64_t j = 0; j < t->rows * t->cols; j++)
				square += (double)t->data[j] * t->data[j];
			double rms = sqrt(square / (double)(t->rows * t->cols));
			for (uint64_t j = 0; j < t->rows * t->cols && !t->vector; j++)
				t->data[j] += (float)(cases[i].size * rms * toy_normal(&seed));
			matrices += !t->vector;
		}
		toy_write(&base, in_folder("base.gguf"), cases[i].type, true);
		toy_write(&other, in_folder("other.gguf"), cases[i].type, true);
		struct st_rosetta *r = compare("other.gguf", "base.gguf");
		assert_int_equal(r->verdict, ST_VERDICT_FAULT);
		if (r->cause.code != ST_CAUSE_WEIGHT_TWO_MODELS)
			fail_msg("%s: %s", st_dtype_info(cases[i].type)->name, r->text);
		assert_true(r->cause.confidence < ST_CONFIRMED);
		assert_int_equal(r->first.side, 0);
		assert_int_equal((size_t)st_cause_number(&r->cause, ST_PARAM_OF, 0), matrices);
		double median = st_cause_number(&r->cause, ST_PARAM_MEDIAN, 0);
		assert_true(median > 0.8 * cases[i].size && median < 2 * cases[i].size);
		assert_string_equal(r->recommendation, "compare two files of one model");
		st_rosetta_free(r);
		toy_free(&base);
		toy_free(&other);
	}
}

/* Between two files of 4 bits noise of 5 % shows in some rows of every matrix; a few rows of one are no other model. */
static void what_shows_in_some_rows_of_all_is_two_models(void **state)
{
	(void)state;
	for (int all = 0; all < 2; all++) {
		struct toy base, other;
		uint64_t seed = 41;
		toy_make(&base, "llama", 256, false);
		toy_make(&other, "llama", 256, false);
		for (size_t k = 0; k < other.n; k++) {
			struct toy_tensor *t = &other.t[k];
			for (uint64_t r = 0; r < t->rows && !t->vector; r++)
				for (uint64_t j = 0; j < t->cols && (all || (k == 2 && r % 100 == 7)); j++)
					t->data[r * t->cols + j] *= (float)(1 + (all ? 0.05 : 0.5) * toy_normal(&seed));
		}
		toy_write(&base, in_folder("base.gguf"), ST_DTYPE_Q4_0, true);
		toy_write(&other, in_folder("other.gguf"), ST_DTYPE_Q4_0, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r =
				compare(order ? "base.gguf" : "other.gguf", order ? "other.gguf" : "base.gguf");
			assert_int_equal(r->verdict, ST_VERDICT_FAULT);
			if (r->cause.code != (all ? ST_CAUSE_WEIGHT_TWO_MODELS : ST_CAUSE_WEIGHT_ROW_CORRUPT))
				fail_msg("order %d, all %d: %s", order, all, r->text);
			assert_int_equal(r->first.side, 0);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&other);
	}
}

/* The same bytes under two labels, of all matrices or of one: the side whose numbers are no weights is named. */
static void a_label_is_judged_by_its_numbers(void **state)
{
	(void)state;
	static const enum st_dtype pairs[][2] = { { ST_DTYPE_BF16, ST_DTYPE_F16 }, { ST_DTYPE_F16, ST_DTYPE_BF16 } };
	for (size_t i = 0; i < 4; i++) {
		enum st_dtype truth = pairs[i % 2][0], label = pairs[i % 2][1];
		bool all = i < 2;
		struct toy good, bad;
		toy_make(&good, "qwen2", 64, false);
		toy_make(&bad, "qwen2", 64, false);
		for (size_t k = 0; k < bad.n; k++)
			if (!bad.t[k].vector && (all || strcmp(bad.t[k].name, DOWN0) == 0))
				bad.t[k].label = label;
		toy_write(&good, in_folder("good.gguf"), truth, true);
		toy_write(&bad, in_folder("bad.gguf"), truth, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "good.gguf" : "bad.gguf",
			                               order ? "bad.gguf" : "good.gguf");
			const struct st_weight_diff *d = of(r, DOWN0);
			assert_string_equal(st_cause_name(d->cause.code), "weight.dtype_mislabelled");
			if (d->side != (order ? 'b' : 'a'))
				fail_msg("case %zu, order %d: side %c", i, order, d->side ? d->side : '-');
			assert_string_equal(st_cause_text(&d->cause, ST_PARAM_LABEL), st_dtype_info(label)->name);
			assert_string_equal(st_cause_text(&d->cause, ST_PARAM_TYPE), st_dtype_info(truth)->name);
			st_rosetta_free(r);
		}
		toy_free(&good);
		toy_free(&bad);
	}
}

/* ---- shapes ---- */

/* W <- (I - r r^T) W for all that writes to the stream, E <- E (I - r r^T) for the embedding. own: each its own
 * direction. */
static void ablate(struct toy *m, bool own)
{
	uint64_t seed = 17;
	double r[64], len = 0;
	for (size_t k = 0; k < m->n; k++) {
		struct toy_tensor *t = &m->t[k];
		bool left = toy_is(t->name, "o_proj") || toy_is(t->name, "down_proj"), right = toy_is(t->name, "embed");
		if (!left && !right)
			continue;
		if (own || len == 0) {
			len = 0;
			for (int i = 0; i < 64; i++) {
				r[i] = toy_normal(&seed);
				len += r[i] * r[i];
			}
			for (int i = 0; i < 64; i++)
				r[i] /= sqrt(len);
		}
		for (uint64_t i = 0; i < (left ? t->cols : t->rows); i++) {
			float *x = left ? t->data + i : t->data + i * t->cols;
			uint64_t step = left ? t->cols : 1;
			double dot = 0;
			for (uint64_t j = 0; j < 64; j++)
				dot += r[j] * x[j * step];
			for (uint64_t j = 0; j < 64; j++)
				x[j * step] -= (float)(dot * r[j]);
		}
	}
}
static void abliterated(struct toy *m) { ablate(m, false); }
static void directions_of_their_own(struct toy *m) { ablate(m, true); }

/* The smaller half of every matrix's numbers is zero. */
static void half_zero(struct toy *m)
{
	for (size_t k = 0; k < m->n; k++) {
		struct toy_tensor *t = &m->t[k];
		double sum = 0, n = (double)(t->rows * t->cols);
		for (uint64_t i = 0; i < t->rows * t->cols; i++)
			sum += (double)t->data[i] * t->data[i];
		for (uint64_t i = 0; !t->vector && i < t->rows * t->cols; i++)
			t->data[i] = fabs(t->data[i]) < 0.6745 * sqrt(sum / n) ? 0 : t->data[i];
	}
}

/* Every third neuron of the feed-forward layers. */
static void neurons_zero(struct toy *m)
{
	for (size_t k = 0; k < m->n; k++) {
		struct toy_tensor *t = &m->t[k];
		bool rows = toy_is(t->name, "gate_proj") || toy_is(t->name, "up_proj"),
		     cols = toy_is(t->name, "down_proj");
		for (uint64_t i = 0; i < t->rows * t->cols; i++)
			if ((rows && i / t->cols % 3 == 1) || (cols && i % t->cols % 3 == 1))
				t->data[i] = 0;
	}
}

static void adapters(struct toy *m, int but_layer)
{
	for (size_t k = 0; k < m->n; k++) {
		char but[32];
		snprintf(but, sizeof but, "layers.%d.", but_layer);
		if ((toy_is(m->t[k].name, "q_proj.weight") || toy_is(m->t[k].name, "v_proj.weight"))
		    && !toy_is(m->t[k].name, but))
			merge_adapter(&m->t[k], 2, 0.2, 40 + k);
	}
}
static void adapters_merged(struct toy *m) { adapters(m, 99); }
static void adapters_lost_once(struct toy *m) { adapters(m, 1); }

static void values_trained(struct toy *m)
{
	uint64_t seed = 8;
	for (size_t k = 0; k < m->n; k++)
		for (uint64_t i = 0; toy_is(m->t[k].name, "v_proj.weight") && i < m->t[k].rows * m->t[k].cols; i++)
			m->t[k].data[i] += (float)(0.01 * toy_normal(&seed));
}

static void shapes_are_told(void **state)
{
	(void)state;
	static const struct {
		void (*base)(struct toy *m), (*other)(struct toy *m);
		enum st_dtype type; /* of the other */
		const char *code, *says, *never;
	} cases[] = {
		{ NULL, abliterated, ST_DTYPE_F16, "weight.low_rank", "one direction of the stream", "adapter" },
		{ NULL, abliterated, ST_DTYPE_BF16, "weight.low_rank", "5 of 16 matrices", NULL },
		{ NULL, directions_of_their_own, ST_DTYPE_F16, "weight.low_rank", "rank 1", "direction" },
		{ NULL, half_zero, ST_DTYPE_F16, "weight.two_models", "pruned", NULL },
		{ NULL, half_zero, ST_DTYPE_Q8_0, "weight.two_models", "16 of 16 matrices", NULL },
		{ NULL, neurons_zero, ST_DTYPE_F16, "weight.two_models", "43 rows", "share" },
		{ NULL, adapters_merged, ST_DTYPE_F16, "weight.low_rank", "(q_proj, v_proj)", NULL },
		{ adapters_merged, adapters_lost_once, ST_DTYPE_F16, "weight.low_rank", "q_proj of layer 1 alone",
		  NULL },
		{ NULL, adapters_lost_once, ST_DTYPE_F16, "weight.low_rank", "v_proj of layer 0 alone", NULL },
		{ NULL, values_trained, ST_DTYPE_F16, "unexplained", "2 of 16 matrices (v_proj)", "two models" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, other;
		toy_make(&base, "qwen2", 64, false);
		toy_make(&other, "qwen2", 64, false);
		if (cases[i].base)
			cases[i].base(&base);
		cases[i].other(&other);
		toy_write(&base, in_folder("base.gguf"), ST_DTYPE_F16, true);
		toy_write(&other, in_folder("other.gguf"), cases[i].type, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "base.gguf" : "other.gguf",
			                               order ? "other.gguf" : "base.gguf");
			if (r->verdict != ST_VERDICT_FAULT || strcmp(st_cause_name(r->cause.code), cases[i].code) != 0
			    || !strstr(r->text, cases[i].says) || (cases[i].never && strstr(r->text, cases[i].never))
			    || r->first.side)
				fail_msg("case %zu, order %d, side %c: %s", i, order,
				         r->first.side ? r->first.side : '-', r->text);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&other);
	}
}

/* Pruned before both files were made, or of rows that nobody uses: zeros are no difference by themselves. */
static void zeros_of_both_are_clean(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, false);
	half_zero(&m);
	neurons_zero(&m);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F16, true);
	static const enum st_dtype types[] = { ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q4_0 };
	for (size_t i = 0; i < 3; i++) {
		toy_write(&m, in_folder("b.gguf"), types[i], true);
		struct st_rosetta *r = compare(i % 2 ? "a.gguf" : "b.gguf", i % 2 ? "b.gguf" : "a.gguf");
		if (r->verdict != ST_VERDICT_NOISE)
			fail_msg("%s: %s", st_dtype_info(types[i])->name, r->text);
		st_rosetta_free(r);
	}
	toy_free(&m);
}

/* ---- the same function ---- */

static struct toy_tensor *in_layer(struct toy *m, int layer, const char *name)
{
	char full[96];
	snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
	return toy_find(m, full);
}

static void times_row(struct toy_tensor *t, uint64_t r, double by)
{
	for (uint64_t i = 0; !t->vector && i < t->cols; i++)
		t->data[r * t->cols + i] *= (float)by;
	if (t->vector)
		t->data[r] *= (float)by;
}

static void times_column(struct toy_tensor *t, uint64_t c, double by)
{
	for (uint64_t r = 0; r < t->rows; r++)
		t->data[r * t->cols + c] *= (float)by;
}

static void fold_into(struct toy *m, struct toy_tensor *norm, struct toy_tensor *readers[], size_t n)
{
	(void)m;
	for (uint64_t c = 0; c < norm->cols; c++) {
		for (size_t i = 0; i < n; i++)
			times_column(readers[i], c, norm->data[c]);
		norm->data[c] = 1;
	}
}

static void fold_attention(struct toy *m, size_t of_three)
{
	for (int l = 0; l < TOY_LAYERS; l++)
		fold_into(m, in_layer(m, l, "input_layernorm.weight"),
		          (struct toy_tensor *[]){ in_layer(m, l, "self_attn.q_proj.weight"),
		                                   in_layer(m, l, "self_attn.k_proj.weight"),
		                                   in_layer(m, l, "self_attn.v_proj.weight") },
		          of_three);
}

static void fold_attention_norms(struct toy *m) { fold_attention(m, 3); }
static void fold_without_v(struct toy *m) { fold_attention(m, 2); }

static void fold_all(struct toy *m)
{
	fold_attention(m, 3);
	for (int l = 0; l < TOY_LAYERS; l++)
		fold_into(m, in_layer(m, l, "post_attention_layernorm.weight"),
		          (struct toy_tensor *[]){ in_layer(m, l, "mlp.gate_proj.weight"),
		                                   in_layer(m, l, "mlp.up_proj.weight") },
		          2);
	fold_into(m, toy_find(m, "model.norm.weight"), (struct toy_tensor *[]){ toy_find(m, "lm_head.weight") }, 1);
}

/* Row (or column) i becomes row from(i) of itself. */
static void permute(struct toy_tensor *t, bool columns, const uint64_t *from)
{
	uint64_t rows = t->vector ? t->cols : t->rows, cols = t->vector ? 1 : t->cols;
	float *out = malloc(rows * cols * sizeof *out);
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t c = 0; c < cols; c++)
			out[r * cols + c] = t->data[columns ? r * cols + from[c] : from[r] * cols + c];
	free(t->data);
	t->data = out;
}

static void permute_neurons(struct toy *m, bool down)
{
	uint64_t from[512];
	for (uint64_t i = 0; i < m->ffn; i++)
		from[i] = i * 37 % m->ffn;
	permute(in_layer(m, 0, "mlp.gate_proj.weight"), false, from);
	permute(in_layer(m, 0, "mlp.up_proj.weight"), false, from);
	if (down)
		permute(in_layer(m, 0, "mlp.down_proj.weight"), true, from);
}
static void neurons_permuted(struct toy *m) { permute_neurons(m, true); }
static void neurons_half_permuted(struct toy *m) { permute_neurons(m, false); }

/* Both groups exchanged, and the two heads of the first one as well. */
static void heads_permuted(struct toy *m)
{
	uint64_t q[256], kv[128], d = m->head_dim;
	static const uint64_t order[4] = { 3, 2, 0, 1 };
	for (uint64_t i = 0; i < 4 * d; i++)
		q[i] = order[i / d] * d + i % d;
	for (uint64_t i = 0; i < 2 * d; i++)
		kv[i] = (1 - i / d) * d + i % d;
	permute(in_layer(m, 1, "self_attn.q_proj.weight"), false, q);
	permute(in_layer(m, 1, "self_attn.q_proj.bias"), false, q);
	permute(in_layer(m, 1, "self_attn.o_proj.weight"), true, q);
	permute(in_layer(m, 1, "self_attn.k_proj.weight"), false, kv);
	permute(in_layer(m, 1, "self_attn.k_proj.bias"), false, kv);
	permute(in_layer(m, 1, "self_attn.v_proj.weight"), false, kv);
	permute(in_layer(m, 1, "self_attn.v_proj.bias"), false, kv);
}

static void factors_moved(struct toy *m)
{
	uint64_t seed = 77, d = m->head_dim;
	for (uint64_t i = 0; i < m->ffn; i++) {
		double g = exp(toy_normal(&seed));
		times_row(in_layer(m, 1, "mlp.up_proj.weight"), i, g);
		times_column(in_layer(m, 1, "mlp.down_proj.weight"), i, 1 / g);
	}
	for (uint64_t i = 0; i < 2 * d; i++) {
		double g = exp(toy_normal(&seed));
		times_row(in_layer(m, 0, "self_attn.v_proj.weight"), i, g);
		times_row(in_layer(m, 0, "self_attn.v_proj.bias"), i, g);
		for (uint64_t h = 0; h < 2; h++)
			times_column(in_layer(m, 0, "self_attn.o_proj.weight"), (i / d * 2 + h) * d + i % d, 1 / g);
	}
	for (uint64_t pair = 0; pair < d; pair++) { /* of both groups */
		double g = exp(0.5 * toy_normal(&seed));
		for (uint64_t half = 0; half < 2; half++) {
			uint64_t j = pair % (d / 2) + half * (d / 2), group = pair / (d / 2);
			times_row(in_layer(m, 0, "self_attn.k_proj.weight"), group * d + j, g);
			times_row(in_layer(m, 0, "self_attn.k_proj.bias"), group * d + j, g);
			for (uint64_t h = 0; h < 2; h++) {
				times_row(in_layer(m, 0, "self_attn.q_proj.weight"), (group * 2 + h) * d + j, 1 / g);
				times_row(in_layer(m, 0, "self_attn.q_proj.bias"), (group * 2 + h) * d + j, 1 / g);
			}
		}
	}
}

static void much_at_once(struct toy *m)
{
	fold_all(m);
	neurons_permuted(m);
	heads_permuted(m);
	factors_moved(m);
}

/* The stream in another basis: norms folded first, then what reads it times R, what writes to it times R's
 * transpose. */
static void rotate_but(struct toy *m, const char *but)
{
	enum { N = 64 };
	static double r[N][N];
	uint64_t seed = 3;
	for (int i = 0; i < N; i++) { /* Gram-Schmidt on random rows */
		for (int k = 0; k < N; k++)
			r[i][k] = toy_normal(&seed);
		for (int twice = 0; twice < 2; twice++)
			for (int j = 0; j < i; j++) {
				double dot = 0;
				for (int k = 0; k < N; k++)
					dot += r[i][k] * r[j][k];
				for (int k = 0; k < N; k++)
					r[i][k] -= dot * r[j][k];
			}
		double len = 0;
		for (int k = 0; k < N; k++)
			len += r[i][k] * r[i][k];
		for (int k = 0; k < N; k++)
			r[i][k] /= sqrt(len);
	}
	fold_all(m);
	for (size_t t = 0; t < m->n; t++) {
		struct toy_tensor *x = &m->t[t];
		bool writes = toy_is(x->name, "o_proj") || toy_is(x->name, "down_proj");
		if (x->vector || (but && strcmp(x->name, but) == 0))
			continue;
		uint64_t n = writes ? x->cols : x->rows, step = writes ? x->cols : 1;
		for (uint64_t i = 0; i < n; i++) {
			float *v = writes ? x->data + i : x->data + i * x->cols;
			double out[N] = { 0 };
			for (int k = 0; k < N; k++)
				for (int j = 0; j < N; j++)
					out[k] += v[(uint64_t)j * step] * r[j][k];
			for (int k = 0; k < N; k++)
				v[(uint64_t)k * step] = (float)out[k];
		}
	}
}
static void rotated(struct toy *m) { rotate_but(m, NULL); }
static void rotated_but_one(struct toy *m) { rotate_but(m, DOWN0); }

/* The two rows of every rotary pair of t, and of its bias, turned and stretched: a number for each pair of a group. */
static void turn_pairs(struct toy *m, struct toy_tensor *t, uint32_t heads, double way, double power)
{
	uint32_t d = m->head_dim, half = d / 2;
	for (uint32_t h = 0; h < heads; h++)
		for (uint32_t j = 0; j < half; j++) {
			uint32_t group = h / (heads / m->kv_heads);
			double angle = way * (0.7 * group + 1.3 * j), size = pow(1 + 0.5 * sin(j + group), power);
			for (uint64_t k = 0; k < (t->vector ? 1 : t->cols); k++) {
				float *x = &t->data[t->vector ? h * d + j : (h * d + j) * t->cols + k];
				float *y = &t->data[t->vector ? h * d + j + half : (h * d + j + half) * t->cols + k];
				double re = size * cos(angle), im = size * sin(angle), u = *x, v = *y;
				*x = (float)(re * u - im * v);
				*y = (float)(im * u + re * v);
			}
		}
}

static void turn_queries(struct toy *m, double way)
{
	for (int l = 0; l < TOY_LAYERS; l++) {
		turn_pairs(m, in_layer(m, l, "self_attn.k_proj.weight"), m->kv_heads, 1, 1);
		turn_pairs(m, in_layer(m, l, "self_attn.k_proj.bias"), m->kv_heads, 1, 1);
		turn_pairs(m, in_layer(m, l, "self_attn.q_proj.weight"), m->heads, l ? way : 1, -1);
		turn_pairs(m, in_layer(m, l, "self_attn.q_proj.bias"), m->heads, l ? way : 1, -1);
	}
}
static void pairs_turned(struct toy *m) { turn_queries(m, 1); }
static void pairs_turned_apart(struct toy *m) { turn_queries(m, -1); }

static void the_same_function_is_seen(void **state)
{
	(void)state;
	static const struct {
		void (*change)(struct toy *m);
		const char *says; /* NULL: it is another function */
	} cases[] = {
		{ fold_attention_norms, "norms folded" },
		{ fold_all, "norms folded" },
		{ neurons_permuted, "neurons in another order" },
		{ heads_permuted, "heads in another order" },
		{ factors_moved, "factors moved" },
		{ much_at_once, "norms folded into the matrices behind, factors" },
		{ rotated, "another basis" },
		{ pairs_turned, "queries and keys turned" },
		{ pairs_turned_apart, NULL },
		{ fold_without_v, NULL },
		{ neurons_half_permuted, NULL },
		{ rotated_but_one, NULL },
	};
	static const enum st_dtype types[][2] = { { ST_DTYPE_F16, ST_DTYPE_F32 },
		                                  { ST_DTYPE_BF16, ST_DTYPE_BF16 },
		                                  { ST_DTYPE_Q8_0, ST_DTYPE_F16 } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		for (size_t k = 0; k < 3; k++) {
			/* A factor for every row is known too badly from blocks. */
			if (k == 2 && cases[i].says && strstr(cases[i].says, "factors"))
				continue;
			int order = (int)(i + k) % 2;
			struct toy base, other;
			toy_make(&base, "qwen2", 64, false);
			toy_make(&other, "qwen2", 64, false);
			cases[i].change(&other);
			toy_write(&base, in_folder("base.gguf"), types[k][1], true);
			toy_write(&other, in_folder("other.gguf"), types[k][0], true);
			struct st_rosetta *r = compare(order ? "base.gguf" : "other.gguf",
			                               order ? "other.gguf" : "base.gguf");
			bool same = r->cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION && r->verdict == ST_VERDICT_NOISE;
			if (same != (cases[i].says != NULL) || (same && !strstr(r->text, cases[i].says)))
				fail_msg("case %zu, %s against %s, order %d: %s (%s)", i,
				         st_dtype_info(types[k][0])->name, st_dtype_info(types[k][1])->name, order,
				         st_verdict_name(r->verdict), r->text);
			if (!same)
				assert_int_equal(r->verdict, ST_VERDICT_FAULT);
			for (size_t w = 0; w < r->n_stages && same; w++)
				assert_true(r->stages[w].status != ST_STATUS_FAULT);
			st_rosetta_free(r);
			toy_free(&base);
			toy_free(&other);
		}
	}
}

/* The rows of each head of V of a layer turned by a rotation of two of its places after the other, and what O reads of
 * it turned too: by the same angle, or by another. */
static void turn_heads(struct toy *m, int layer, double of_v, double of_o)
{
	struct toy_tensor *v = in_layer(m, layer, "self_attn.v_proj.weight"),
			  *o = in_layer(m, layer, "self_attn.o_proj.weight");
	for (uint32_t h = 0; h < m->heads; h++)
		for (uint32_t p = 0; p < m->head_dim; p++) {
			uint32_t q = (p + 1) % m->head_dim, group = h / (m->heads / m->kv_heads);
			for (uint64_t r = 0; r < o->rows; r++) {
				float *x = o->data + r * o->cols + h * m->head_dim, a = x[p], b = x[q];
				x[p] = (float)(cos(of_o) * a - sin(of_o) * b);
				x[q] = (float)(sin(of_o) * a + cos(of_o) * b);
			}
			for (uint64_t c = 0; c < v->cols && h % (m->heads / m->kv_heads) == 0; c++) {
				float *x = v->data + c, *y = x + (group * m->head_dim + p) * v->cols,
				      *z = x + (group * m->head_dim + q) * v->cols, a = *y, b = *z;
				*y = (float)(cos(of_v) * a - sin(of_v) * b);
				*z = (float)(sin(of_v) * a + cos(of_v) * b);
			}
		}
}

static void turned_heads_are_seen(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_F32, ST_DTYPE_F16, ST_DTYPE_Q8_0 };
	for (size_t k = 0; k < sizeof types / sizeof *types; k++)
		for (int bad = 0; bad < 3; bad++) {
			struct toy base, other;
			toy_make(&base, "llama", 64, false);
			toy_make(&other, "llama", 64, false);
			turn_heads(&other, 0, 1.2, bad == 1 ? 0 : bad == 2 ? -1.2 : 1.2);
			toy_write(&base, in_folder("base.gguf"), ST_DTYPE_F16, true);
			toy_write(&other, in_folder("other.gguf"), types[k], true);
			struct st_rosetta *r = compare("other.gguf", "base.gguf");
			bool same = r->cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION && r->verdict == ST_VERDICT_NOISE
			         && strstr(r->text, "heads of v and o in another basis");
			if (same != !bad || (bad && r->verdict != ST_VERDICT_FAULT))
				fail_msg("%s, %d: %s (%s)", st_dtype_info(types[k])->name, bad,
				         st_verdict_name(r->verdict), r->text);
			st_rosetta_free(r);
			toy_free(&base);
			toy_free(&other);
		}
}

/* ---- blocks: the bytes as ggml's blocks have them, edited by hand ---- */

static void exchange_bytes(uint8_t *p, size_t a, size_t b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t x = p[a + i];
		p[a + i] = p[b + i];
		p[b + i] = x;
	}
}

static void q4_1_factors(uint8_t *p, size_t n) /* d, m, 16 bytes */
{
	for (size_t b = 0; b < n; b += 20)
		exchange_bytes(p + b, 0, 2, 2);
}
static void q4_k_factors(uint8_t *p, size_t n) /* d, dmin, 12 of scales, 128 of codes */
{
	for (size_t b = 0; b < n; b += 144)
		exchange_bytes(p + b, 0, 2, 2);
}
static void q4_k_lists(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 144) {
		exchange_bytes(p + b, 4, 8, 4); /* the first four of each, with the others' high bits */
		for (int i = 12; i < 16; i++)
			p[b + i] = (uint8_t)(p[b + i] << 4 | p[b + i] >> 4);
	}
}
static void q4_k_high_bits(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 144)
		for (int i = 4; i < 12; i++)
			p[b + i] &= 0x0F;
}
static void q4_k_last_high_bits(uint8_t *p, size_t n) /* bits 6 and 7 of the first eight bytes */
{
	for (size_t b = 0; b < n; b += 144)
		for (int i = 4; i < 12; i++)
			p[b + i] &= 0x3F;
}
static void q4_k_groups(uint8_t *p, size_t n) /* 32 codes in 16 bytes, as Q4_0 has them, instead of 64 in 32 */
{
	for (size_t b = 0; b < n; b += 144) {
		uint8_t out[128] = { 0 };
		for (int i = 0; i < 256; i++) {
			int own = i / 64 * 32 + i % 32, shift = i % 64 / 32 * 4, code = p[b + 16 + own] >> shift & 15;
			out[i / 32 * 16 + i % 16] |= (uint8_t)(code << (i % 32 / 16 * 4));
		}
		memcpy(p + b + 16, out, 128);
	}
}
static void q5_0_high_bits(uint8_t *p, size_t n) /* d, 4 of high bits, 16 */
{
	for (size_t b = 0; b < n; b += 22)
		memset(p + b + 2, 0, 4);
}
static void q6_k_scales(uint8_t *p, size_t n) /* 128 + 64 of codes, 16 scales, d */
{
	for (size_t b = 0; b < n; b += 210)
		for (int i = 0; i < 8; i++)
			exchange_bytes(p + b + 192, (size_t)i, (size_t)(15 - i), 1);
}
static void q6_k_high_bits(uint8_t *p, size_t n) /* two bits of element i from bit 2 (i % 4) of byte i / 4 on */
{
	for (size_t b = 0; b < n; b += 210) {
		uint8_t out[64] = { 0 };
		for (int i = 0; i < 256; i++) {
			int own = i / 128 * 32 + i % 32, shift = i % 128 / 32 * 2;
			out[i / 4] |= (uint8_t)((p[b + 128 + own] >> shift & 3) << (i % 4 * 2));
		}
		memcpy(p + b + 128, out, 64);
	}
}
static void q4_0_sign(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 18)
		for (int i = 2; i < 18; i++)
			p[b + i] ^= 0x88;
}

static void q8_0_sign(uint8_t *p, size_t n) /* d, 32 */
{
	for (size_t b = 0; b + 34 <= n; b += 34)
		for (size_t i = 2; i < 34; i++)
			p[b + i] ^= 0x80;
}

static void q4_0_backwards(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 18)
		for (int i = 0; i < 8; i++) {
			uint8_t x = p[b + 2 + i], y = p[b + 17 - i];
			p[b + 2 + i] = (uint8_t)(y << 4 | y >> 4);
			p[b + 17 - i] = (uint8_t)(x << 4 | x >> 4);
		}
}
static void q4_0_factor_behind(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 18) {
		uint8_t d[2] = { p[b], p[b + 1] };
		memmove(p + b, p + b + 2, 16);
		memcpy(p + b + 16, d, 2);
	}
}
static void q8_0_factor_backwards(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 34)
		exchange_bytes(p + b, 0, 1, 1);
}
static void q6_k_factor_in_front(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 210) {
		uint8_t d[2] = { p[b + 208], p[b + 209] };
		memmove(p + b + 2, p + b, 208);
		memcpy(p + b, d, 2);
	}
}
static void q6_k_nibbles(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 210)
		for (int i = 0; i < 128; i++)
			p[b + i] = (uint8_t)(p[b + i] << 4 | p[b + i] >> 4);
}
static void q5_1_high_halves(uint8_t *p, size_t n) /* d, m, 4 of high bits, 16 */
{
	for (size_t b = 0; b < n; b += 24)
		exchange_bytes(p + b, 4, 6, 2);
}
static void q5_0_high_bytes(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 22) {
		exchange_bytes(p + b, 2, 5, 1);
		exchange_bytes(p + b, 3, 4, 1);
	}
}
static void q5_k_high_bits_backwards(uint8_t *p, size_t n) /* d, dmin, 12 of scales, 32 of high bits */
{
	for (size_t b = 0; b < n; b += 176)
		for (int i = 16; i < 48; i++) {
			int x = 0;
			for (int k = 0; k < 8; k++)
				x |= (p[b + i] >> k & 1) << (7 - k);
			p[b + i] = (uint8_t)x;
		}
}
static void q2_k_scales_on(uint8_t *p, size_t n) /* 16 of scales and minima first */
{
	for (size_t b = 0; b < n; b += 84) {
		uint8_t last = p[b + 15];
		memmove(p + b + 1, p + b, 15);
		p[b] = last;
	}
}

/* The eight scales and then the eight minima of 6 bits, one behind the other. */
static void q4_k_stream(uint8_t *p, size_t n)
{
	for (size_t b = 0; b < n; b += 144) {
		uint8_t *s = p + b + 4, out[12] = { 0 };
		for (int i = 0; i < 16; i++) {
			int j = i % 8, min = i / 8, v;
			if (j < 4)
				v = s[4 * min + j] & 63;
			else
				v = (min ? s[4 + j] >> 4 : s[4 + j] & 15) | s[4 * min + j - 4] >> 6 << 4;
			for (int k = 0; k < 6; k++)
				out[(6 * i + k) / 8] |= (uint8_t)((v >> k & 1) << (6 * i + k) % 8);
		}
		memcpy(s, out, 12);
	}
}

static void layouts_of_blocks_are_named(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype type, against;
		void (*mangle)(uint8_t *p, size_t n);
		const char *order;
		bool accused;
	} cases[] = {
		{ ST_DTYPE_Q4_1, ST_DTYPE_Q4_1, q4_1_factors, "scale and minimum exchanged", false },
		{ ST_DTYPE_Q4_1, ST_DTYPE_F16, q4_1_factors, "scale and minimum exchanged", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_F16, q4_k_factors, "scale and minimum exchanged", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_lists, "scales and minima of sub-blocks exchanged", false },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_high_bits, "high bits of the scales lost", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_last_high_bits, "high bits of the last half of the scales lost",
		  true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_groups, "codes in groups of 32", false },
		{ ST_DTYPE_Q4_K, ST_DTYPE_BF16, q4_k_groups, "codes in groups of 32", true },
		{ ST_DTYPE_Q5_0, ST_DTYPE_Q5_0, q5_0_high_bits, "high bits of the codes lost", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_F16, q4_k_high_bits, "high bits of the scales lost", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q8_0, q4_k_last_high_bits, "high bits of the last half of the scales lost",
		  true },
		{ ST_DTYPE_Q5_0, ST_DTYPE_BF16, q5_0_high_bits, "high bits of the codes lost", true },
		{ ST_DTYPE_Q8_0, ST_DTYPE_F16, q8_0_sign, "the codes' highest bit inverted", true },
		{ ST_DTYPE_Q6_K, ST_DTYPE_F16, q6_k_scales, "scales backwards", true },
		{ ST_DTYPE_Q6_K, ST_DTYPE_Q6_K, q6_k_high_bits, "consecutive high bits", false },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F32, q4_0_sign, "the codes' highest bit inverted", true },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F16, q4_0_backwards, "codes backwards", true },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F16, q4_0_factor_behind, "factors at the other end of the block", true },
		{ ST_DTYPE_Q8_0, ST_DTYPE_Q8_0, q8_0_factor_backwards, "bytes of the factors backwards", true },
		{ ST_DTYPE_Q6_K, ST_DTYPE_Q6_K, q6_k_factor_in_front, "factors at the other end of the block", true },
		{ ST_DTYPE_Q6_K, ST_DTYPE_F16, q6_k_nibbles, "nibbles of the lower bits exchanged", true },
		{ ST_DTYPE_Q5_1, ST_DTYPE_Q5_1, q5_1_high_halves, "high bits of both halves exchanged", false },
		{ ST_DTYPE_Q5_0, ST_DTYPE_F16, q5_0_high_bytes, "bytes of high bits backwards", true },
		{ ST_DTYPE_Q5_K, ST_DTYPE_F16, q5_k_high_bits_backwards, "high bits backwards", true },
		{ ST_DTYPE_Q2_K, ST_DTYPE_F16, q2_k_scales_on, "scales one place on", true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_stream, "scales and minima in a plain stream of bits", false },
		{ ST_DTYPE_Q4_K, ST_DTYPE_BF16, q4_k_stream, "scales and minima in a plain stream of bits", true },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, other;
		toy_make(&base, "qwen2", 256, false);
		toy_make(&other, "qwen2", 256, false);
		toy_find(&other, Q1)->mangle = cases[i].mangle;
		toy_find(&base, Q1)->dtype = cases[i].against;
		toy_find(&other, Q1)->dtype = cases[i].type;
		toy_write(&base, in_folder("base.gguf"), ST_DTYPE_F16, true);
		toy_write(&other, in_folder("other.gguf"), ST_DTYPE_F16, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "base.gguf" : "other.gguf",
			                               order ? "other.gguf" : "base.gguf");
			const struct st_weight_diff *d = of(r, Q1);
			char want = !cases[i].accused ? 0 : order ? 'b' : 'a';
			if (d->cause.code != ST_CAUSE_WEIGHT_BLOCK_LAYOUT || d->cause.confidence != ST_CONFIRMED
			    || d->side != want || strcmp(st_cause_text(&d->cause, ST_PARAM_ORDER), cases[i].order) != 0)
				fail_msg("case %zu, order %d: side %c, %s", i, order, d->side ? d->side : '-', r->text);
			/* The stage that the verdict names is the faulty one on its line. */
			const struct st_stage_report *last = &r->stages[r->n_stages - 1];
			assert_int_equal(last->status, ST_STATUS_FAULT);
			assert_string_equal(st_stage_name(last->stage), r->first.stage);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&other);
	}
}

/* Every row of the gate displaced further than the one before it, by 8 elements. */
static void padded(struct toy *m, float fill)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	uint64_t n = t->rows * t->cols;
	float *out = malloc(n * sizeof *out);
	for (uint64_t i = 0; i < n; i++)
		out[i] = i % (t->cols + 8) < t->cols ? t->data[i / (t->cols + 8) * t->cols + i % (t->cols + 8)] : fill;
	free(t->data);
	t->data = out;
}
static void padded_with_zeros(struct toy *m) { padded(m, 0); }
static void padded_with_numbers(struct toy *m) { padded(m, 0.01f); }

static void read_as_padded(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	uint64_t n = t->rows * t->cols;
	float *out = malloc(n * sizeof *out);
	for (uint64_t r = 0; r < t->rows; r++)
		for (uint64_t c = 0; c < t->cols; c++) {
			uint64_t i = r * (t->cols + 8) + c;
			out[r * t->cols + c] = i < n ? t->data[i] : 0.02f;
		}
	free(t->data);
	t->data = out;
}

static void padding_is_seen(void **state)
{
	(void)state;
	static const struct {
		void (*plant)(struct toy *m);
		enum st_dtype type;
		bool accused;
	} cases[] = {
		{ padded_with_zeros, ST_DTYPE_F32, true },    { padded_with_zeros, ST_DTYPE_BF16, true },
		{ padded_with_numbers, ST_DTYPE_F16, false }, { read_as_padded, ST_DTYPE_F16, false },
		{ read_as_padded, ST_DTYPE_Q8_0, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, other;
		toy_make(&base, "qwen2", 256, false);
		toy_make(&other, "qwen2", 256, false);
		cases[i].plant(&other);
		toy_write(&base, in_folder("base.gguf"), ST_DTYPE_F32, true);
		toy_write(&other, in_folder("other.gguf"), cases[i].type, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "base.gguf" : "other.gguf",
			                               order ? "other.gguf" : "base.gguf");
			const struct st_weight_diff *d = of(r, GATE0);
			char want = !cases[i].accused ? 0 : order ? 'b' : 'a';
			if (strcmp(st_cause_name(d->cause.code), "weight.row_shift") != 0
			    || d->cause.confidence != ST_CONFIRMED
			    || st_cause_number(&d->cause, ST_PARAM_PADDING, 0) != 8 || d->side != want)
				fail_msg("case %zu, order %d: side %c, %s", i, order, d->side ? d->side : '-', r->text);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&other);
	}
}

/* Bytes behind every row of blocks: zeros, or what stood there before. */
static void pad_rows(uint8_t *p, size_t n, size_t row, size_t by, bool zeros)
{
	uint8_t *old = malloc(n);
	memcpy(old, p, n);
	for (size_t i = 0; i < n; i++) {
		size_t in = i % (row + by), from = i / (row + by) * row + in;
		p[i] = in < row ? old[from] : zeros ? 0 : old[from - row];
	}
	free(old);
}
static void q4_k_rows_padded(uint8_t *p, size_t n) { pad_rows(p, n, 144, 16, true); } /* 256 columns */
static void q8_0_rows_padded(uint8_t *p, size_t n) { pad_rows(p, n, 272, 48, true); }
static void q4_0_rows_filled(uint8_t *p, size_t n) { pad_rows(p, n, 144, 10, false); }
static void q6_k_a_block_more(uint8_t *p, size_t n) { pad_rows(p, n, 210, 210, true); }

static void padding_of_blocks_is_seen(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype type, against;
		void (*mangle)(uint8_t *p, size_t n);
		double bytes;
		bool accused;
	} cases[] = {
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, q4_k_rows_padded, 16, true },
		{ ST_DTYPE_Q4_K, ST_DTYPE_F16, q4_k_rows_padded, 16, true },
		{ ST_DTYPE_Q8_0, ST_DTYPE_F32, q8_0_rows_padded, 48, true },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F16, q4_0_rows_filled, 10, false },
		{ ST_DTYPE_Q6_K, ST_DTYPE_BF16, q6_k_a_block_more, 210, true },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy base, other;
		toy_make(&base, "qwen2", 256, false);
		toy_make(&other, "qwen2", 256, false);
		toy_find(&other, GATE0)->mangle = cases[i].mangle;
		toy_find(&base, GATE0)->dtype = cases[i].against;
		toy_find(&other, GATE0)->dtype = cases[i].type;
		toy_write(&base, in_folder("base.gguf"), ST_DTYPE_F16, true);
		toy_write(&other, in_folder("other.gguf"), ST_DTYPE_F16, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "base.gguf" : "other.gguf",
			                               order ? "other.gguf" : "base.gguf");
			const struct st_weight_diff *d = of(r, GATE0);
			char want = !cases[i].accused ? 0 : order ? 'b' : 'a';
			double bytes = st_cause_number(&d->cause, ST_PARAM_PADDING_BYTES, 0);
			if (d->cause.code != ST_CAUSE_WEIGHT_ROW_SHIFT || d->cause.confidence != ST_CONFIRMED
			    || !(bytes >= cases[i].bytes && bytes <= cases[i].bytes) || d->side != want)
				fail_msg("case %zu, order %d: side %c, %s", i, order, d->side ? d->side : '-', r->text);
			st_rosetta_free(r);
		}
		toy_free(&base);
		toy_free(&other);
	}
}

/* ---- which side ---- */

#define EMBED "model.embed_tokens.weight"

static void rows_times(struct toy_tensor *t, uint64_t first, uint64_t n, double by)
{
	for (uint64_t i = first * t->cols; i < (first + n) * t->cols; i++)
		t->data[i] *= (float)by;
}

static void small_rows(struct toy *m) { rows_times(toy_find(m, EMBED), 40, 3, 0.01); }

/* Rows as small as those of tokens that were never trained, which the other file has noise in. */
static void noise_in_small_rows(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, EMBED);
	uint64_t seed = 5;
	small_rows(m);
	for (uint64_t i = 40 * t->cols; i < 43 * t->cols; i++)
		t->data[i] += (float)(0.2 * toy_normal(&seed));
}

static void rows_of_garbage(struct toy *m) { rows_times(toy_find(m, GATE0), 11, 1, 1e6); }
static void column_pruned(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	for (uint64_t r = 0; r < t->rows; r++)
		t->data[r * t->cols + 9] = 0;
}
static void rows_pruned(struct toy *m) { rows_times(toy_find(m, GATE0), 30, 4, 0); }
static void end_lost(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	rows_times(t, t->rows / 2, t->rows / 2, 0);
}
static void large_rows(struct toy *m)
{
	rows_times(toy_find(m, GATE0), 11, 2, 12);
} /* as some rows of sound files are */
static void gate_transposed(struct toy *m) { toy_transpose(m, GATE0); }
static void noise_everywhere(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	uint64_t seed = 6;
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] *= (float)(1 + 0.4 * toy_normal(&seed));
}

/*
 * Of two files that differ neither is wrong by itself. Where only the other file says that a number is wrong, no side
 * is named, in neither order, and what to do begins with a condition.
 */
static void only_evidence_accuses(void **state)
{
	(void)state;
	static const struct {
		void (*sound)(struct toy *m), (*other)(struct toy *m);
		const char *tensor;
		bool accused; /* `other` */
	} cases[] = {
		{ small_rows, noise_in_small_rows, EMBED, false },
		{ NULL, rows_of_garbage, GATE0, true },
		{ NULL, column_pruned, GATE0, false },
		{ NULL, rows_pruned, GATE0, false },
		{ NULL, end_lost, GATE0, true },
		{ NULL, large_rows, GATE0, false },
		{ NULL, gate_transposed, GATE0, false },
		{ NULL, noise_everywhere, GATE0, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy sound, other;
		toy_make(&sound, "qwen2", 64, false);
		toy_make(&other, "qwen2", 64, false);
		if (cases[i].sound)
			cases[i].sound(&sound);
		cases[i].other(&other);
		toy_write(&sound, in_folder("sound.gguf"), ST_DTYPE_F16, true);
		toy_write(&other, in_folder("other.gguf"), i % 2 ? ST_DTYPE_F32 : ST_DTYPE_F16, true);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = compare(order ? "sound.gguf" : "other.gguf",
			                               order ? "other.gguf" : "sound.gguf");
			const struct st_weight_diff *d = of(r, cases[i].tensor);
			char want = !cases[i].accused ? 0 : order ? 'b' : 'a';
			assert_int_equal(d->status, ST_WEIGHT_FAULT);
			if (d->side != want || (!want && strncmp(r->recommendation, "if ", 3) != 0))
				fail_msg("case %zu, order %d: side %c, %s; %s", i, order, d->side ? d->side : '-',
				         r->text, r->recommendation);
			st_rosetta_free(r);
		}
		toy_free(&sound);
		toy_free(&other);
	}
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		CASE(adapters_are_named),
		CASE(noise_is_no_adapter),
		CASE(a_finetune_is_another_model),
		CASE(what_shows_in_some_rows_of_all_is_two_models),
		CASE(a_label_is_judged_by_its_numbers),
		CASE(shapes_are_told),
		CASE(zeros_of_both_are_clean),
		CASE(the_same_function_is_seen),
		CASE(turned_heads_are_seen),
		CASE(layouts_of_blocks_are_named),
		CASE(padding_is_seen),
		CASE(padding_of_blocks_is_seen),
		CASE(only_evidence_accuses),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
