/*
 * Packed weights of other programs: matrices put together from their parts, their numbers, and what they stand for
 * beside the source they were made from. The layouts are written here from the programs' own descriptions.
 */
#include "toy.h"

#include "folder.h"

#include "base/error.h"
#include "dtype/half.h"
#include "format/container.h"

#include <stele/judge.h>

enum { OUT = 16, IN = 64, GROUP = 32, GROUPS = IN / GROUP };

/* ---- a file of parts ---- */

struct parts {
	struct st_tensor_spec spec[128];
	const void *data[128];
	size_t bytes[128], n;
	const char *config; /* what is added to config.json */
};

static void add(struct parts *p, const char *name, enum st_dtype t, uint64_t rows, uint64_t cols, const void *data)
{
	struct st_tensor_spec *s = &p->spec[p->n];
	*s = (struct st_tensor_spec){
		.name = name, .dtype = t, .ndim = rows ? 2 : 1, .shape = { rows ? rows : cols, cols }
	};
	p->data[p->n] = data;
	p->bytes[p->n++] = (size_t)((rows ? rows : 1) * cols * st_dtype_info(t)->block_bytes);
}

static void write_parts(const struct parts *p, const char *dir)
{
	char path[400];
	snprintf(path, sizeof path, "mkdir -p '%s'", dir);
	assert_int_equal(system(path), 0);
	snprintf(path, sizeof path, "%s/config.json", dir);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "{\"model_type\": \"llama\"%s}", p->config ? p->config : "");
	fclose(f);
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = p->spec, .n_specs = p->n, .pad_header = true
	};
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < p->n; i++)
		assert_ok(st_writer_append(w, p->data[i], p->bytes[i], &err), &err);
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* ---- numbers ---- */

static unsigned codes[OUT][IN], zeros[OUT][GROUPS], group_of[IN];
static float scales[OUT][GROUPS], biases[OUT][GROUPS];
static uint32_t words[OUT * IN], zero_words[OUT * IN], order[IN];
static uint16_t half_scales[OUT * GROUPS], half_biases[OUT * GROUPS];

static void draw(unsigned bits, uint64_t seed)
{
	for (int k = 0; k < IN; k++)
		order[k] = group_of[k] = (unsigned)k / GROUP;
	for (int r = 0; r < OUT; r++) {
		for (int k = 0; k < IN; k++)
			codes[r][k] = (unsigned)(toy_uniform(&seed) * (1 << bits));
		for (int g = 0; g < GROUPS; g++) {
			zeros[r][g] = (unsigned)(toy_uniform(&seed) * (1 << bits));
			scales[r][g] = st_f16_to_f32(st_f32_to_f16((float)(0.01 + toy_uniform(&seed))));
			biases[r][g] = st_f16_to_f32(st_f32_to_f16((float)toy_normal(&seed)));
		}
	}
	memset(words, 0, sizeof words);
	memset(zero_words, 0, sizeof zero_words);
}

/* Bit by bit: the value's bit b is bit i * bits + b of a row of words that are `stride` apart. */
static void put_bits(uint32_t *row, size_t stride, size_t i, unsigned bits, unsigned value)
{
	for (unsigned b = 0; b < bits; b++) {
		size_t bit = i * bits + b;
		row[bit / 32 * stride] |= (uint32_t)(value >> b & 1) << bit % 32;
	}
}

/* The matrix against what[r][k], and what is known of element (r, k): the step, and whether its code is at an end. */
static void expect(const char *dir, enum st_dtype type, float (*what)(int r, int k), unsigned highest)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	float v[4][IN];
	assert_ok(st_container_open(dir, &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 1);
	const struct st_tensor *t = st_container_find(c, "m.q_proj.weight");
	assert_non_null(t);
	assert_int_equal(t->dtype, type);
	assert_int_equal(t->shape[0], OUT);
	assert_int_equal(t->shape[1], IN);
	for (int r = 0; r < OUT; r++) {
		double wide[IN];
		st_tensor_elements(t, (uint64_t)r, &(struct st_elements){ v[0], v[1], v[2], v[3] });
		st_tensor_decode_f64(t, (uint64_t)r, 1, wide);
		for (int k = 0; k < IN; k++) {
			if (v[0][k] != what(r, k) || wide[k] != (double)v[0][k])
				fail_msg("%s: (%d, %d) is %.9g, not %.9g", dir, r, k, (double)v[0][k],
				         (double)what(r, k));
			if (!highest)
				continue;
			float step = scales[r][group_of[k]];
			assert_true(codes[r][k] == 0 ? isinf(v[1][k]) : v[1][k] >= step && v[1][k] <= 12 * step);
			assert_true(codes[r][k] == highest ? isinf(v[2][k]) : v[2][k] >= step && v[2][k] <= 12 * step);
		}
	}
	st_container_close(c);
}

static float affine(int r, int k)
{
	unsigned g = group_of[k];
	return scales[r][g] * (float)((int)codes[r][k] - (int)zeros[r][g]);
}
static float with_bias(int r, int k)
{
	unsigned g = group_of[k];
	return scales[r][g] * (float)codes[r][k] + biases[r][g];
}

/* ---- methods ---- */

static void gptq_is_read(void **state)
{
	(void)state;
	static const struct {
		unsigned bits;
		bool second, act_order;
	} cases[] = {
		{ 4, false, false }, { 4, true, false }, { 8, false, true }, { 3, false, true }, { 2, true, true }
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned bits = cases[i].bits, top = (1u << bits) - 1;
		draw(bits, i + 1);
		for (uint32_t k = 0; k < IN && cases[i].act_order; k++)
			order[k] = group_of[k] = (k * 7 + 3) % GROUPS; /* columns of a group anywhere */
		for (size_t r = 0; r < OUT; r++) {
			for (size_t k = 0; k < IN; k++)
				put_bits(words + r, OUT, k, bits, codes[r][k]);
			for (size_t g = 0; g < GROUPS; g++) {
				size_t zero_cols = (OUT * bits + 31) / 32;
				put_bits(zero_words + g * zero_cols, 1, r, bits,
				         cases[i].second ? zeros[r][g] : (zeros[r][g] - 1) & top);
				half_scales[g * OUT + r] = st_f32_to_f16(scales[r][g]);
			}
		}
		struct parts p = { .config = cases[i].second
			                           ? ", \"quantization_config\": {\"checkpoint_format\": \"gptq_v2\"}"
			                           : ", \"quantization_config\": {\"quant_method\": \"gptq\"}" };
		add(&p, "m.q_proj.qweight", ST_DTYPE_I32, IN * bits / 32, OUT, words);
		add(&p, "m.q_proj.qzeros", ST_DTYPE_I32, GROUPS, (OUT * bits + 31) / 32, zero_words);
		add(&p, "m.q_proj.scales", ST_DTYPE_F16, GROUPS, OUT, half_scales);
		add(&p, "m.q_proj.g_idx", ST_DTYPE_I32, 0, IN, order);
		write_parts(&p, in_folder("gptq"));
		expect(in_folder("gptq"), ST_DTYPE_GPTQ, affine, top);
	}
	/* A group that is not there: the parts stay parts. */
	order[5] = GROUPS;
	struct parts p = { 0 };
	add(&p, "m.q_proj.qweight", ST_DTYPE_I32, IN / 16, OUT, words);
	add(&p, "m.q_proj.qzeros", ST_DTYPE_I32, GROUPS, 1, zero_words);
	add(&p, "m.q_proj.scales", ST_DTYPE_F16, GROUPS, OUT, half_scales);
	add(&p, "m.q_proj.g_idx", ST_DTYPE_I32, 0, IN, order);
	write_parts(&p, in_folder("bad"));
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(in_folder("bad"), &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 4);
	st_container_close(c);
}

static const unsigned awq_order[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };

/* Rows [in][out] packed by eights. */
static void awq_pack(uint32_t *to, const float *w, uint64_t rows, uint64_t cols, uint64_t group, uint32_t *z,
                     uint16_t *s)
{
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t g = 0; g < cols / group; g++) {
			float low = 0, high = 0;
			for (uint64_t k = 0; k < group; k++) {
				low = fminf(low, w[r * cols + g * group + k]);
				high = fmaxf(high, w[r * cols + g * group + k]);
			}
			uint16_t h = st_f32_to_f16((high - low) / 15);
			float scale = st_f16_to_f32(h), zero = fminf(15, fmaxf(0, rintf(-low / scale)));
			s[g * rows + r] = h;
			unsigned place = 0;
			while (awq_order[place] != r % 8)
				place++;
			z[g * rows / 8 + r / 8] |= (uint32_t)zero << 4 * place;
			for (uint64_t k = g * group; k < (g + 1) * group; k++) {
				float q = fminf(15, fmaxf(0, rintf(w[r * cols + k] / scale) + zero));
				to[k * rows / 8 + r / 8] |= (uint32_t)q << 4 * place;
			}
		}
}

static void awq_is_read(void **state)
{
	(void)state;
	draw(4, 9);
	for (size_t r = 0; r < OUT; r++) {
		unsigned place = 0;
		while (awq_order[place] != r % 8)
			place++;
		for (size_t k = 0; k < IN; k++)
			words[k * OUT / 8 + r / 8] |= codes[r][k] << 4 * place;
		for (size_t g = 0; g < GROUPS; g++) {
			zero_words[g * OUT / 8 + r / 8] |= zeros[r][g] << 4 * place;
			half_scales[g * OUT + r] = st_f32_to_f16(scales[r][g]);
		}
	}
	struct parts p = { .config = ", \"quantization_config\": {\"quant_method\": \"awq\", \"version\": \"gemm\"}" };
	add(&p, "m.q_proj.qweight", ST_DTYPE_I32, IN, OUT / 8, words);
	add(&p, "m.q_proj.qzeros", ST_DTYPE_I32, GROUPS, OUT / 8, zero_words);
	add(&p, "m.q_proj.scales", ST_DTYPE_F16, GROUPS, OUT, half_scales);
	write_parts(&p, in_folder("awq"));
	expect(in_folder("awq"), ST_DTYPE_AWQ, affine, 15);
}

static void mlx_is_read(void **state)
{
	(void)state;
	static const unsigned all[] = { 4, 8, 3, 6, 2, 5 };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		unsigned bits = all[i];
		char config[80];
		draw(bits, 20 + i);
		for (size_t r = 0; r < OUT; r++) {
			for (size_t k = 0; k < IN; k++)
				put_bits(words + r * IN * bits / 32, 1, k, bits, codes[r][k]);
			for (size_t g = 0; g < GROUPS; g++) {
				half_scales[r * GROUPS + g] = st_f32_to_f16(scales[r][g]);
				half_biases[r * GROUPS + g] = st_f32_to_f16(biases[r][g]);
			}
		}
		snprintf(config, sizeof config, ", \"quantization\": {\"group_size\": %d, \"bits\": %u}", GROUP, bits);
		struct parts p = { .config = config };
		add(&p, "m.q_proj.weight", ST_DTYPE_U32, OUT, IN * bits / 32, words);
		add(&p, "m.q_proj.scales", ST_DTYPE_F16, OUT, GROUPS, half_scales);
		add(&p, "m.q_proj.biases", ST_DTYPE_F16, OUT, GROUPS, half_biases);
		write_parts(&p, in_folder("mlx"));
		expect(in_folder("mlx"), ST_DTYPE_MLX, with_bias, (1u << bits) - 1);
	}
}

/* Codes with a zero point are added up in the type of the scale, which rounds them before they are cut. */
static void sums_are_rounded(const char *dir)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	float v[4][IN];
	assert_ok(st_container_open(dir, &c, &err), &err);
	const struct st_tensor *t = st_container_find(c, "m.q_proj.weight");
	for (int r = 0; r < OUT; r++) {
		st_tensor_elements(t, (uint64_t)r, &(struct st_elements){ v[0], v[1], v[2], v[3] });
		for (int k = 0; k < IN; k++) {
			float step = fabsf(scales[r][group_of[k]]), sum = fabsf((float)codes[r][k] - 8);
			if (v[3][k] < step * sum * 0x1p-12f || v[3][k] > step * 0.05f)
				fail_msg("(%d, %d): rounding %g of a step %g", r, k, (double)v[3][k], (double)step);
			if (codes[r][k] == zeros[r][group_of[k]] && sum > 0) /* a number that is 0, and no exact sum */
				assert_true(v[3][k] > 0);
		}
	}
	st_container_close(c);
}

static void compressed_tensors_are_read(void **state)
{
	(void)state;
	static const int64_t shape[2] = { OUT, IN };
	for (int zero_points = 0; zero_points < 2; zero_points++) {
		draw(4, 30);
		for (size_t r = 0; r < OUT; r++) {
			for (size_t k = 0; k < IN; k++)
				words[r * IN / 8 + k / 8] |= codes[r][k] << k % 8 * 4;
			for (size_t g = 0; g < GROUPS; g++) {
				half_scales[r * GROUPS + g] = st_f32_to_f16(scales[r][g]);
				zero_words[r / 8 * GROUPS + g] |= zeros[r][g] << r % 8 * 4;
				zeros[r][g] = zero_points ? zeros[r][g] : 8;
			}
		}
		struct parts p = { .config = ", \"quantization_config\": {\"format\": \"pack-quantized\"}" };
		add(&p, "m.q_proj.weight_packed", ST_DTYPE_I32, OUT, IN / 8, words);
		add(&p, "m.q_proj.weight_scale", ST_DTYPE_F16, OUT, GROUPS, half_scales);
		add(&p, "m.q_proj.weight_shape", ST_DTYPE_I64, 0, 2, shape);
		if (zero_points)
			add(&p, "m.q_proj.weight_zero_point", ST_DTYPE_I32, OUT / 8, GROUPS, zero_words);
		write_parts(&p, in_folder("ct"));
		expect(in_folder("ct"), ST_DTYPE_CT_PACK, affine, 15);
		if (zero_points)
			sums_are_rounded(in_folder("ct"));
	}
}

static float map[16], absmax[OUT];
static bool nested;
static uint8_t absmax_codes[OUT];
static float nested_map[256], nested_absmax[4];

static float by_map(int r, int k)
{
	float s = nested ? nested_map[absmax_codes[r]] * nested_absmax[r / 4] + 0.25f : absmax[r];
	return map[codes[r][k]] * s; /* blocks of 64: one to a row */
}

static void bitsandbytes_is_read(void **state)
{
	(void)state;
	uint8_t bytes[OUT * IN / 2];
	for (int i = 0; i < 2; i++) {
		char json[256];
		nested = i;
		draw(4, 40);
		uint64_t seed = 41;
		for (int k = 0; k < 16; k++)
			map[k] = (float)(k - 7) / 8;
		for (int k = 0; k < 256; k++)
			nested_map[k] = (float)(k - 128) / 128;
		for (int r = 0; r < OUT; r++) {
			absmax[r] = (float)(0.5 + toy_uniform(&seed));
			absmax_codes[r] = (uint8_t)(toy_uniform(&seed) * 256);
			nested_absmax[r / 4] = 1.5f + (float)(r / 4);
			for (int k = 0; k < IN; k += 2)
				bytes[(r * IN + k) / 2] = (uint8_t)(codes[r][k] << 4 | codes[r][k + 1]);
		}
		snprintf(json, sizeof json,
		         "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [%d, %d], \"nested_blocksize\": 4, "
		         "\"nested_offset\": 0.25}",
		         OUT, IN);
		struct parts p = { .config = ", \"quantization_config\": {\"load_in_4bit\": true}" };
		add(&p, "m.q_proj.weight", ST_DTYPE_U8, OUT * IN / 2, 1, bytes);
		add(&p, "m.q_proj.weight.quant_map", ST_DTYPE_F32, 0, 16, map);
		add(&p, "m.q_proj.weight.quant_state.bitsandbytes__nf4", ST_DTYPE_U8, 0, strlen(json), json);
		if (nested) {
			add(&p, "m.q_proj.weight.absmax", ST_DTYPE_U8, 0, OUT, absmax_codes);
			add(&p, "m.q_proj.weight.nested_absmax", ST_DTYPE_F32, 0, 4, nested_absmax);
			add(&p, "m.q_proj.weight.nested_quant_map", ST_DTYPE_F32, 0, 256, nested_map);
		} else {
			add(&p, "m.q_proj.weight.absmax", ST_DTYPE_F32, 0, OUT, absmax);
		}
		write_parts(&p, in_folder("bnb"));
		expect(in_folder("bnb"), ST_DTYPE_BNB4, by_map, 0);
	}
}

/* FP4 chosen under block scales that were rounded afterwards: every original lies in its number's cell, also at the far end
 * of a small number's wide gap. */
static void cells_reach_to_where_codes_were_chosen(void **state)
{
	(void)state;
	static const float fp4[16] = { 0,  1.0f / 192,  2.0f / 3,  1,  1.0f / 3,  0.5f,  1.0f / 6,  0.25f,
		                       -0, -1.0f / 192, -2.0f / 3, -1, -1.0f / 3, -0.5f, -1.0f / 6, -0.25f };
	uint8_t bytes[OUT * IN / 2];
	float x[OUT][IN], v[4][IN];
	uint64_t seed = 77;
	memcpy(map, fp4, sizeof map);
	for (int k = 0; k < 256; k++)
		nested_map[k] = (float)(k - 128) / 128;
	for (int r = 0; r < OUT; r++) {
		nested_absmax[r / 4] = 8; /* steps of 1/16 for scales near 0.1 */
		absmax_codes[r] = 126;    /* 0.125 */
		float exact = r % 2 ? 0.098f : 0.152f;
		for (int k = 0; k < IN; k++) {
			float y = (float)(2 * toy_uniform(&seed) - 1);
			codes[r][k] = 0;
			for (uint8_t i = 1; i < 16; i++)
				if (fabsf(fp4[i] - y) < fabsf(fp4[codes[r][k]] - y))
					codes[r][k] = i;
			x[r][k] = y * exact;
		}
		for (int k = 0; k < IN; k += 2)
			bytes[(r * IN + k) / 2] = (uint8_t)(codes[r][k] << 4 | codes[r][k + 1]);
	}
	char json[256];
	snprintf(json, sizeof json,
	         "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"shape\": [%d, %d], \"nested_blocksize\": 4, "
	         "\"nested_offset\": 0.25}",
	         OUT, IN);
	struct parts p = { .config = ", \"quantization_config\": {\"load_in_4bit\": true}" };
	add(&p, "m.q_proj.weight", ST_DTYPE_U8, OUT * IN / 2, 1, bytes);
	add(&p, "m.q_proj.weight.quant_map", ST_DTYPE_F32, 0, 16, map);
	add(&p, "m.q_proj.weight.quant_state.bitsandbytes__fp4", ST_DTYPE_U8, 0, strlen(json), json);
	add(&p, "m.q_proj.weight.absmax", ST_DTYPE_U8, 0, OUT, absmax_codes);
	add(&p, "m.q_proj.weight.nested_absmax", ST_DTYPE_F32, 0, 4, nested_absmax);
	add(&p, "m.q_proj.weight.nested_quant_map", ST_DTYPE_F32, 0, 256, nested_map);
	write_parts(&p, in_folder("fp4"));
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(in_folder("fp4"), &c, &err), &err);
	const struct st_tensor *t = st_container_find(c, "m.q_proj.weight");
	assert_int_equal(t->dtype, ST_DTYPE_BNB4);
	for (int r = 0; r < OUT; r++) {
		st_tensor_elements(t, (uint64_t)r, &(struct st_elements){ v[0], v[1], v[2], v[3] });
		for (int k = 0; k < IN; k++) {
			float away = x[r][k] - v[0][k], gap = away < 0 ? v[1][k] : v[2][k];
			if (fabsf(away) > gap / 2 + v[3][k] + 1e-6f)
				fail_msg("(%d, %d): %g beside %g: gap %g, rounding %g", r, k, (double)x[r][k],
				         (double)v[0][k], (double)gap, (double)v[3][k]);
			assert_true(v[3][k] < 0.05f); /* as far as the scale may have moved, not further */
		}
	}
	st_container_close(c);
}

static int8_t ints[OUT][IN];
static float factors[OUT * IN];
static int per_row, block_rows, block_cols;
static float divisor;

static float scaled(int r, int k)
{
	return (float)ints[r][k] * (factors[r / block_rows * per_row + k / block_cols] / divisor);
}

/* Small whole numbers as E4M3: 1.mmm times a power of two. */
static uint8_t e4m3_of(int v)
{
	int a = v < 0 ? -v : v, e = 0;
	if (a == 0)
		return 0;
	while (a >> (e + 1))
		e++;
	return (uint8_t)((v < 0 ? 0x80 : 0) | (e + 7) << 3 | ((a << 3 >> e) & 7));
}

static void factors_beside_are_read(void **state)
{
	(void)state;
	static const struct {
		const char *name, *config;
		int rows, cols; /* of a block */
		bool fp8, bnb;
	} cases[] = {
		{ "m.q_proj.weight_scale_inv", ", \"quantization_config\": {\"weight_block_size\": [8, 16]}", 8, 16,
		  true, false },
		{ "m.q_proj.weight_scale", ", \"quantization_config\": {}", 1, IN, true, false },
		{ "m.q_proj.weight_scale", ", \"quantization_config\": {}", OUT, IN, true, false },
		{ "m.q_proj.weight_scale", ", \"quantization_config\": {}", 1, IN, false, false },
		{ "m.q_proj.SCB", ", \"quantization_config\": {\"load_in_8bit\": true}", 1, IN, false, true },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint8_t bytes[OUT][IN];
		uint64_t seed = 50 + i;
		block_rows = cases[i].rows;
		block_cols = cases[i].cols;
		per_row = IN / block_cols;
		divisor = cases[i].bnb ? 127 : 1;
		for (int r = 0; r < OUT; r++)
			for (int k = 0; k < IN; k++) {
				ints[r][k] = (int8_t)(toy_uniform(&seed) * 31 - 15); /* 4 bits: exact in E4M3 */
				bytes[r][k] = cases[i].fp8 ? e4m3_of(ints[r][k]) : (uint8_t)ints[r][k];
			}
		for (int k = 0; k < OUT * IN; k++)
			factors[k] = (float)(0.01 + toy_uniform(&seed));
		struct parts p = { .config = cases[i].config };
		uint64_t rows = (uint64_t)(OUT / block_rows);
		add(&p, "m.q_proj.weight", cases[i].fp8 ? ST_DTYPE_F8_E4M3 : ST_DTYPE_I8, OUT, IN, bytes);
		add(&p, cases[i].name, ST_DTYPE_F32, cases[i].bnb ? 0 : rows, cases[i].bnb ? rows : (uint64_t)per_row,
		    factors);
		write_parts(&p, in_folder("scaled"));
		expect(in_folder("scaled"), cases[i].fp8 ? ST_DTYPE_F8_SCALED : ST_DTYPE_I8_SCALED, scaled, 0);
	}
}

/* ---- beside the source ---- */

static unsigned zero_less = 1; /* GPTQ's second format holds the middle itself */

/* Symmetric, as AutoGPTQ packs: codes around the middle, of which the file holds one less; a column's codes in words. */
static void gptq_pack(unsigned bits, uint32_t *to, const float *w, uint64_t rows, uint64_t cols, uint64_t group,
                      uint32_t *z, uint16_t *s)
{
	const unsigned top = (1u << bits) - 1, middle = (top + 1) / 2, in_word = 32 / bits;
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t g = 0; g < cols / group; g++) {
			float most = 0;
			for (uint64_t k = 0; k < group; k++)
				most = fmaxf(most, fabsf(w[r * cols + g * group + k]));
			uint16_t h = st_f32_to_f16(2 * most / (float)top);
			s[g * rows + r] = h;
			z[g * rows / in_word + r / in_word] |= (middle - zero_less) << bits * (r % in_word);
			for (uint64_t k = g * group; k < (g + 1) * group; k++) {
				float q = fminf((float)top, fmaxf(0, rintf(w[r * cols + k] / st_f16_to_f32(h))
				                                             + (float)middle));
				to[k / in_word * rows + r] |= (uint32_t)q << bits * (k % in_word);
			}
		}
}

/* A toy with its matrices packed, each code the nearest one; gptq: its bits, or 0 for AWQ; `by`: what is left in the scales of
 * o_proj. */
static void write_packed(struct toy *m, const char *dir, unsigned gptq, float by)
{
	static char names[64][4][96];
	static uint32_t group_of_column[1024];
	struct parts p = { 0 };
	void *held[256];
	size_t n_held = 0;
	toy_write(m, dir, ST_DTYPE_BF16, false); /* its config.json; the weights are written anew */
	for (size_t i = 0; i < m->n; i++) {
		struct toy_tensor *t = &m->t[i];
		if (t->vector || !toy_is(t->name, "_proj")) {
			add(&p, t->name, ST_DTYPE_F32, t->vector ? 0 : t->rows, t->cols, t->data);
			continue;
		}
		uint64_t groups = t->cols / 32;
		unsigned in_word = gptq ? 32 / gptq : 8;
		uint32_t *w = calloc(t->cols * t->rows / in_word, 4), *z = calloc(groups * t->rows / in_word, 4);
		uint16_t *s = calloc(groups * t->rows, 2);
		if (gptq)
			gptq_pack(gptq, w, t->data, t->rows, t->cols, 32, z, s);
		else
			awq_pack(w, t->data, t->rows, t->cols, 32, z, s);
		for (uint64_t k = 0; k < groups * t->rows && toy_is(t->name, "o_proj"); k++)
			s[k] = st_f32_to_f16(by * st_f16_to_f32(s[k]));
		static const char *const tails[] = { "qweight", "qzeros", "scales", "g_idx" };
		for (int k = 0; k < 4; k++)
			snprintf(names[i][k], 96, "%.*s%s", (int)strlen(t->name) - 6, t->name, tails[k]);
		add(&p, names[i][0], ST_DTYPE_I32, gptq ? t->cols / in_word : t->cols,
		    gptq ? t->rows : t->rows / 8, w);
		add(&p, names[i][1], ST_DTYPE_I32, groups, t->rows / in_word, z);
		add(&p, names[i][2], ST_DTYPE_F16, groups, t->rows, s);
		for (uint32_t k = 0; k < 1024; k++)
			group_of_column[k] = k / 32;
		if (gptq)
			add(&p, names[i][3], ST_DTYPE_I32, 0, t->cols, group_of_column);
		held[n_held++] = w;
		held[n_held++] = z;
		held[n_held++] = s;
	}
	char path[400];
	snprintf(path, sizeof path, "mv '%s/config.json' '%s.json'", dir, dir);
	assert_int_equal(system(path), 0);
	write_parts(&p, dir);
	snprintf(path, sizeof path, "mv '%s.json' '%s/config.json'", dir, dir);
	assert_int_equal(system(path), 0);
	while (n_held)
		free(held[--n_held]);
}

static void packed_is_judged_by_its_source(void **state)
{
	(void)state;
	static const uint32_t ids[] = { 5, 17, 60 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 3, .threshold = NAN, .keep_going = true };
	for (int fault = 0; fault < 3; fault++) {
		struct toy m;
		struct st_error err = ST_ERROR_INIT;
		struct st_rosetta *r;
		toy_make(&m, "llama", 64, false);
		for (size_t i = 0; i < m.n; i++) /* BF16 holds the source */
			for (uint64_t k = 0; k < m.t[i].rows * m.t[i].cols; k++)
				m.t[i].data[k] = st_bf16_to_f32(st_f32_to_bf16(m.t[i].data[k]));
		toy_write(&m, in_folder("source"), ST_DTYPE_BF16, false);
		struct toy_tensor *t = toy_find(&m, "model.layers.1.self_attn.v_proj.weight");
		for (uint64_t k = 0; fault == 1 && k < t->rows * t->cols; k++)
			t->data[k] *= 1.25f;
		uint64_t seed = 3;
		for (uint64_t k = 0; fault == 2 && k < t->rows * t->cols; k++)
			t->data[k] += (float)(0.05 * toy_normal(&seed)); /* 40 % of a weight */
		write_packed(&m, in_folder("awq"), 0, 1);
		assert_ok(st_rosetta_run(in_folder("awq"), in_folder("source"), &o, &r, &err), &err);
		assert_int_equal(r->verdict, fault ? ST_VERDICT_FAULT : ST_VERDICT_NOISE);
		if (fault == 1)
			assert_int_equal(r->cause.code, ST_CAUSE_WEIGHT_SCALED);
		if (fault)
			assert_string_equal(r->first.tensor, t->name);
		st_rosetta_free(r);
		toy_free(&m);
	}
}

/* Cells of GPTQ hide a factor up to a bound, which is the same from either side. */
static void a_factor_under_gptq_has_no_order(void **state)
{
	(void)state;
	static const uint32_t ids[] = { 5, 17, 60 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 3, .threshold = NAN, .keep_going = true };
	struct toy m;
	struct st_error err = ST_ERROR_INIT;
	toy_make(&m, "llama", 128, false);
	toy_write(&m, in_folder("source"), ST_DTYPE_F16, false);
	for (int i = 0; i < 18; i++) {
		int percent = 92 + i / 2 * 2;
		unsigned bits = i % 2 ? 8 : 4;
		enum st_verdict verdict[2];
		enum st_cause_code code[2];
		write_packed(&m, in_folder("gptq"), bits, (float)percent / 100);
		for (int way = 0; way < 2; way++) {
			struct st_rosetta *r;
			assert_ok(st_rosetta_run(in_folder(way ? "source" : "gptq"),
			                         in_folder(way ? "gptq" : "source"), &o, &r, &err),
			          &err);
			verdict[way] = r->verdict;
			code[way] = r->cause.code;
			st_rosetta_free(r);
		}
		if (verdict[0] != verdict[1] || code[0] != code[1])
			fail_msg("%u bits, scales times %d %%: %s, and %s in the other order", bits, percent,
			         st_verdict_name(verdict[0]), st_verdict_name(verdict[1]));
		/* The largest of a symmetric group is cut to the last code: in 8 bits that is more than the rounding. */
		if (percent == 100)
			assert_int_equal(verdict[0], ST_VERDICT_NOISE);
		else if (bits == 8 || percent <= 95 || percent >= 105)
			assert_int_equal(verdict[0], ST_VERDICT_FAULT);
	}
	toy_free(&m);
}

/* A file of GPTQ's second format that does not say so is read as the first: every number is a step off, and that is
 * named. */
static void gptq_formats_are_told_apart(void **state)
{
	(void)state;
	static const uint32_t ids[] = { 5, 17, 60 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 3, .threshold = NAN, .keep_going = true };
	struct toy m;
	struct st_error err = ST_ERROR_INIT;
	toy_make(&m, "llama", 64, false);
	toy_write(&m, in_folder("source"), ST_DTYPE_F16, false);
	for (int i = 0; i < 6; i++) {
		static const unsigned bits[] = { 2, 4, 8 };
		zero_less = i % 2;
		write_packed(&m, in_folder("gptq"), bits[i / 2], 1);
		for (int way = 0; way < 2; way++) {
			struct st_rosetta *r;
			assert_ok(st_rosetta_run(in_folder(way ? "source" : "gptq"),
			                         in_folder(way ? "gptq" : "source"), &o, &r, &err),
			          &err);
			bool second = r->verdict == ST_VERDICT_FAULT
			           && r->cause.code == ST_CAUSE_WEIGHT_DTYPE_MISLABELLED
			           && r->cause.confidence == ST_CONFIRMED && r->first.side == (way ? 'b' : 'a')
			           && strstr(r->text, "GPTQ v1 and holds GPTQ v2");
			if (zero_less ? r->cause.code == ST_CAUSE_WEIGHT_DTYPE_MISLABELLED : !second)
				fail_msg("%u bits, %u less, order %d: %s (%s)", bits[i / 2], zero_less, way,
				         st_verdict_name(r->verdict), r->text);
			st_rosetta_free(r);
		}
	}
	zero_less = 1;
	toy_free(&m);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		CASE(gptq_is_read),
		CASE(awq_is_read),
		CASE(mlx_is_read),
		CASE(compressed_tensors_are_read),
		CASE(bitsandbytes_is_read),
		CASE(cells_reach_to_where_codes_were_chosen),
		CASE(factors_beside_are_read),
		CASE(packed_is_judged_by_its_source),
		CASE(a_factor_under_gptq_has_no_order),
		CASE(gptq_formats_are_told_apart),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
