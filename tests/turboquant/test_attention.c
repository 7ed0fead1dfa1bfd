/* attention: the kernel and the oracle against plain loops over the format's description; bits; masks; errors. */
#include "tq_test.h"
#include "pools.h"

#include <sys/mman.h>

/* A cache of random codes: any byte is a valid row. */
struct cache {
	struct st_tq_params p;
	unsigned bits;
	bool signs;
	uint8_t *kc, *vc;
	float *kn, *vn, *q;
	size_t rb, nb, rows;
};

static struct cache make(struct st_tq_params p, unsigned bits, bool signs)
{
	struct cache c = { .p = p, .bits = bits, .signs = signs };
	c.rb = bits == 4 ? p.head_dim / 2 : p.head_dim;
	c.nb = p.head_dim == 512 ? 2 : 1;
	c.rows = (size_t)p.num_kv_heads * p.kv_capacity;
	c.kc = malloc(c.rows * c.rb);
	c.vc = malloc(c.rows * c.rb);
	c.kn = malloc(c.rows * c.nb * 4);
	c.vn = malloc(c.rows * c.nb * 4);
	c.q = malloc((size_t)p.num_heads * p.head_dim * 4);
	for (size_t i = 0; i < c.rows * c.rb; i++) {
		c.kc[i] = (uint8_t)(rnd() * (1u << (bits == 4 ? 8 : bits)));
		c.vc[i] = (uint8_t)(rnd() * (1u << (bits == 4 ? 8 : bits)));
	}
	for (size_t i = 0; i < c.rows * c.nb; i++) {
		c.kn[i] = (float)((p.head_dim == 512 ? 1 : sqrt((double)p.head_dim)) * (0.5 + rnd()));
		c.vn[i] = (float)((p.head_dim == 512 ? 1 : sqrt((double)p.head_dim)) * (0.5 + rnd()));
	}
	fill_normal(c.q, (size_t)p.num_heads * p.head_dim);
	return c;
}

static void drop(struct cache *c) { free(c->kc), free(c->vc), free(c->kn), free(c->vn), free(c->q); }

static void naive_row(const struct cache *c, const struct st_codebook *book, const uint8_t *codes, const float *norms,
                      size_t row, double *y)
{
	const uint32_t d = c->p.head_dim;
	double x[512];
	for (uint32_t j = 0; j < d; j++) {
		unsigned code = c->bits == 4 ? (codes[row * c->rb + j / 2] >> (j % 2 ? 4 : 0)) & 15
		                             : codes[row * c->rb + j];
		double level = c->bits == 4 ? (double)(float)levels4[code] : book->level_f32[code];
		x[j] = d == 512 ? level * norms[row * 2 + j / 256] / c->p.scale_factor_d512
		                : level * norms[row] / sqrt((double)d);
	}
	naive_hadamard(x, y, d);
	for (uint32_t j = 0; c->signs && j < d; j++)
		y[j] *= st_tq_sign(j);
}

/* Chronological attention, one query head after another, nothing clever. */
static void naive(const struct cache *c, bool physical, double *out)
{
	const struct st_tq_params *p = &c->p;
	const uint32_t d = p->head_dim, cap = p->kv_capacity;
	struct st_codebook book;
	st_codebook_generate(&book, c->bits);
	double *k = malloc(c->rows * d * 8), *v = malloc(c->rows * d * 8), *s = malloc(cap * 8);
	for (size_t r = 0; r < c->rows; r++) {
		naive_row(c, &book, c->kc, c->kn, r, k + r * d);
		naive_row(c, &book, c->vc, c->vn, r, v + r * d);
	}
	for (uint32_t h = 0; h < p->num_heads; h++) {
		size_t g = h / (p->num_heads / p->num_kv_heads);
		double top = -1e300, total = 0;
		for (uint32_t i = 0; i < p->kv_seq_len; i++) {
			size_t phys = ((size_t)p->ring_start + i) % cap;
			s[i] = -INFINITY;
			if (p->mask_type == 2 && (int64_t)i < (int64_t)p->kv_seq_len - p->sliding_window)
				continue;
			if (physical && phys >= p->kv_seq_len)
				continue;
			double dot = 0;
			for (uint32_t j = 0; j < d; j++)
				dot += c->q[h * d + j] * k[(g * cap + phys) * d + j];
			s[i] = dot * p->scale;
			if (p->softcap > 0)
				s[i] = p->softcap * tanh(s[i] / p->softcap);
			top = fmax(top, s[i]);
		}
		for (uint32_t j = 0; j < d; j++)
			out[h * d + j] = 0;
		for (uint32_t i = 0; i < p->kv_seq_len; i++) {
			double w = exp(s[i] - top);
			total += w;
			for (uint32_t j = 0; j < d && w > 0; j++)
				out[h * d + j] += w * v[(g * cap + ((size_t)p->ring_start + i) % cap) * d + j];
		}
		for (uint32_t j = 0; j < d; j++)
			out[h * d + j] /= total;
	}
	free(k), free(v), free(s);
}

static void run(const struct cache *c, enum st_cpu cpu, int threads, bool physical, float *out)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tq_codec codec;
	const struct st_tq_exec e = { cpu,  pool_of(threads), false, physical ? ST_TQ_PHYSICAL : ST_TQ_CHRONOLOGICAL, 0,
		                      false };
	const struct st_tq_kv kv = { { c->kc, c->vc }, { c->kn, c->vn }, { NULL } };
	size_t n = (size_t)c->p.num_heads * c->p.head_dim;
	float *q = malloc(n * 4);
	assert_ok(st_tq_codec_init(&codec, c->p.head_dim, c->bits, c->signs, c->p.scale_factor_d512, cpu, &err), &err);
	memcpy(q, c->q, n * 4);
	st_tq_rotate(&codec, q, c->p.num_heads);
	assert_ok(st_tq_attention(&e, &codec, &c->p, &kv, q, out, &err), &err);
	st_tq_unrotate(&codec, out, c->p.num_heads);
	free(q);
}

static const struct {
	unsigned bits;
	bool signs, physical;
	struct st_tq_params p;
} cases[] = {
	{ 4, false, false, { 4, 4, 128, 100, 128, 0.3, 0, 0, 0, 0, 1 } },   /* one query head per kv head */
	{ 4, true, false, { 8, 4, 256, 70, 70, 0.2, 1, 0, 0, 13, 1 } },     /* full ring */
	{ 4, false, false, { 6, 2, 256, 65, 300, 0.2, 2, 64, 0, 270, 1 } }, /* groups of three, wrapped, window */
	{ 4, true, true, { 4, 2, 256, 200, 300, 0.1, 2, 150, 0, 27, 1 } },  /* physical */
	{ 4, true, false, { 5, 1, 512, 33, 40, 0.1, 0, 0, 15, 20, 0.7 } },  /* two norms, factor, soft-cap */
	{ 5, false, false, { 2, 1, 128, 1, 4, 0.2, 0, 0, 0, 3, 1 } },       /* one row */
	{ 5, true, false, { 4, 2, 256, 129, 129, 0.2, 0, 0, 50, 128, 1 } },
	{ 6, false, false, { 4, 2, 512, 48, 64, 0.1, 2, 17, 0, 60, 2 } },
	{ 8,
	  true,
	  false,
	  { 3, 3, 256, 80, 90, 0.2, 2, 1000, 2, 0, 1 } },               /* window longer than the sequence, hard cap */
	{ 8, false, false, { 7, 1, 128, 64, 64, 0.2, 2, 1, 0, 5, 1 } }, /* window of one */
};

static void kernel_and_oracle_match_plain_loops(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct cache c = make(cases[i].p, cases[i].bits, cases[i].signs);
		size_t n = (size_t)c.p.num_heads * c.p.head_dim;
		double *want = malloc(n * 8), *oracle = malloc(n * 8);
		float *out = malloc(n * 4), *first = malloc(n * 4);
		naive(&c, cases[i].physical, want);
		int seen = 0;
		FOR_LEVELS(cpu)
		{
			for (int threads = 1; threads <= 3; threads += 2) {
				run(&c, cpu, threads, cases[i].physical, out);
				double e = st_tq_nrmse(out, want, n);
				if (!(e < 3e-6))
					fail_msg("case %zu, %s: nrmse %g", i, st_cpu_name(cpu), e);
				if (!seen++)
					memcpy(first, out, n * 4);
				assert_memory_equal(out, first, n * 4);
			}
		}
		if (!cases[i].physical) {
			struct st_error err = ST_ERROR_INIT;
			struct st_codebook book;
			st_codebook_generate(&book, c.bits);
			const struct st_oracle_decode o = { .bits = c.bits,
				                            .levels = book.level_f32,
				                            .signs = c.signs,
				                            .fwht = true,
				                            .factor = c.p.head_dim == 512
				                                            ? 1 / c.p.scale_factor_d512
				                                            : 1 / sqrt((double)c.p.head_dim) };
			const struct st_tq_kv kv = { { c.kc, c.vc }, { c.kn, c.vn }, { NULL } };
			assert_ok(st_oracle_dequant(&c.p, &o, &kv, c.q, oracle, &err), &err);
			double diff = 0, total = 0;
			for (size_t k = 0; k < n; k++) {
				diff += (oracle[k] - want[k]) * (oracle[k] - want[k]);
				total += want[k] * want[k];
			}
			assert_true(sqrt(diff / total) < 1e-6); /* the printed levels have 7 decimals */
		}
		free(want), free(oracle), free(out), free(first);
		drop(&c);
	}
}

/* Long sequences take several splits; levels and threads still agree, and so does the plain loop. */
static void splits_merge(void **state)
{
	(void)state;
	struct cache c = make((struct st_tq_params){ 3, 1, 128, 16500, 16500, 0.2, 0, 0, 0, 16000, 1 }, 4, false);
	double want[3 * 128];
	float out[3 * 128], first[3 * 128];
	naive(&c, false, want);
	run(&c, ST_CPU_SCALAR, 1, false, first);
	assert_true(st_tq_nrmse(first, want, 384) < 3e-6);
	FOR_LEVELS(cpu)
	{
		for (int threads = 1; threads <= 4; threads++) {
			run(&c, cpu, threads, false, out);
			assert_memory_equal(out, first, sizeof out);
		}
	}
	drop(&c);
}

/* The same sequence anywhere in the ring gives the same bits. */
static void position_in_the_ring_does_not_matter(void **state)
{
	(void)state;
	struct cache c = make((struct st_tq_params){ 4, 2, 256, 150, 200, 0.2, 2, 140, 0, 0, 1 }, 4, true), t = c;
	float a[4 * 256], b[4 * 256];
	run(&c, st_cpu_best(), 1, false, a);
	for (uint32_t start = 1; start < 200; start += 33) {
		t = make(c.p, 4, true);
		memcpy(t.q, c.q, sizeof(float) * 4 * 256);
		t.p.ring_start = start;
		for (uint32_t g = 0; g < 2; g++) {
			for (uint32_t i = 0; i < 200; i++) {
				size_t from = g * 200 + i, to = g * 200 + (start + i) % 200;
				memcpy(t.kc + to * t.rb, c.kc + from * c.rb, c.rb);
				memcpy(t.vc + to * t.rb, c.vc + from * c.rb, c.rb);
				t.kn[to] = c.kn[from];
				t.vn[to] = c.vn[from];
			}
		}
		run(&t, st_cpu_best(), 2, false, b);
		assert_memory_equal(a, b, sizeof a);
		drop(&t);
	}
	drop(&c);
}

/* Nothing outside the visible rows is read: the rest of the cache lies on pages that cannot be. */
static void reads_only_visible_rows(void **state)
{
	(void)state;
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	/* 4-bit d 256 rows of 128 bytes: 64 rows end exactly at the guard page. */
	struct cache c = make((struct st_tq_params){ 2, 1, 256, 64, 4096, 0.2, 0, 0, 0, 0, 1 }, 4, false), t = c;
	size_t len = c.rows * c.rb;
	uint8_t *k = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		*v = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(k != MAP_FAILED && v != MAP_FAILED);
	memcpy(k, c.kc, len);
	memcpy(v, c.vc, len);
	float a[512], b[512];
	run(&c, ST_CPU_SCALAR, 1, false, a);
	assert_int_equal(64 * c.rb % page, 0);
	assert_int_equal(mprotect(k + 64 * c.rb, len - 64 * c.rb, PROT_NONE), 0);
	assert_int_equal(mprotect(v + 64 * c.rb, len - 64 * c.rb, PROT_NONE), 0);
	t.kc = k;
	t.vc = v;
	FOR_LEVELS(cpu)
	{
		run(&t, cpu, 1, false, b);
		assert_memory_equal(a, b, sizeof a);
	}
	munmap(k, len);
	munmap(v, len);
	drop(&c);
}

/* The dense kernel against plain loops, and the same bits on every level. */
static void dense_kernel(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	const struct st_tq_params p = { 6, 2, 256, 90, 100, 0.11, 2, 80, 30, 44, 1 };
	float *k = malloc(2 * 100 * 256 * 4), *v = malloc(2 * 100 * 256 * 4), q[6 * 256], out[6 * 256], first[6 * 256];
	double want[6 * 256];
	fill_normal(k, 2 * 100 * 256);
	fill_normal(v, 2 * 100 * 256);
	fill_normal(q, 6 * 256);
	for (int h = 0; h < 6; h++) {
		double w[90] = { 0 }, total = 0;
		for (int i = 10; i < 90; i++) {
			double dot = 0;
			for (int j = 0; j < 256; j++)
				dot += (double)q[h * 256 + j] * k[(h / 3 * 100 + (44 + i) % 100) * 256 + j];
			w[i] = exp(30 * tanh(dot * 0.11 / 30));
			total += w[i];
		}
		for (int j = 0; j < 256; j++) {
			want[h * 256 + j] = 0;
			for (int i = 10; i < 90; i++)
				want[h * 256 + j] += w[i] / total * v[(h / 3 * 100 + (44 + i) % 100) * 256 + j];
		}
	}
	const struct st_tq_kv kv = { .dense = { k, v } };
	int seen = 0;
	FOR_LEVELS(cpu)
	{
		const struct st_tq_exec e = { cpu, pool_of(2), false, ST_TQ_CHRONOLOGICAL, 0, false };
		assert_ok(st_tq_attention(&e, NULL, &p, &kv, q, out, &err), &err);
		assert_true(st_tq_nrmse(out, want, 6 * 256) < 2e-6);
		if (!seen++)
			memcpy(first, out, sizeof out);
		assert_memory_equal(out, first, sizeof out);
	}
	free(k), free(v);
}

/* Extreme scores: far apart, all equal, infinite. */
static void extreme_scores(void **state)
{
	(void)state;
	FOR_LEVELS(cpu)
	{
		struct cache c = make((struct st_tq_params){ 2, 1, 128, 40, 40, 500, 0, 0, 0, 0, 1 }, 4, false);
		double want[256];
		float out[256];
		naive(&c, false, want);
		run(&c, cpu, 1, false, out);
		assert_true(st_tq_nrmse(out, want, 256)
		            < 1e-3); /* scores of some 1e4: f32 has 1e-3 of one unit there */
		c.p.scale = 0;
		naive(&c, false, want);
		run(&c, cpu, 1, false, out);
		assert_true(st_tq_nrmse(out, want, 256) < 1e-6);
		c.p.scale = 1;
		c.kn[3] = NAN;
		run(&c, cpu, 1, false, out);
		assert_true(isnan(out[0])); /* never hidden */
		drop(&c);
	}
}

static void visible_rows(void **state)
{
	(void)state;
	/* Each combination against the definition: i < len, window, physical row below len. */
	for (uint32_t cap = 1; cap <= 9; cap++) {
		for (uint32_t len = 1; len <= cap; len++) {
			for (uint32_t start = 0; start < cap; start++) {
				for (uint32_t window = 0; window <= cap + 1; window++) {
					for (int vis = 0; vis < 2; vis++) {
						const struct st_tq_params p = {
							1, 1, 128, len, cap, 1, window ? 2 : 0, window, 0, start, 1
						};
						struct st_tq_rows rows;
						bool want[16] = { 0 }, got[16] = { 0 };
						uint32_t n = 0, expected = 0;
						st_tq_visible_rows(&p, vis ? ST_TQ_PHYSICAL : ST_TQ_CHRONOLOGICAL,
						                   &rows);
						for (uint32_t i = 0; i < len; i++) {
							uint32_t row = (start + i) % cap;
							if (window && i + window < len)
								continue;
							expected++;
							if (vis && row >= len)
								continue;
							want[row] = true;
							n++;
						}
						for (int r = 0; r < 2; r++)
							for (uint32_t k = 0; k < rows.count[r]; k++)
								got[rows.start[r] + k] = true;
						assert_memory_equal(want, got, sizeof want);
						assert_int_equal(rows.visible, n);
						assert_int_equal(rows.expected, expected);
					}
				}
			}
		}
	}
	/* The case on record: existing kernels see 229 of 256. */
	const struct st_tq_params p = { 16, 8, 256, 256, 1024, 1, 2, 512, 0, 27, 1 };
	struct st_tq_rows rows;
	st_tq_visible_rows(&p, ST_TQ_PHYSICAL, &rows);
	assert_int_equal(rows.visible, 229);
	assert_int_equal(rows.expected, 256);
}

static void parameters_are_checked_by_name(void **state)
{
	(void)state;
	const struct st_tq_params good = { 8, 4, 256, 10, 16, 1, 2, 4, 0, 3, 1 };
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_tq_params_check(&good, &err), &err);
	struct st_tq_params bad[16];
	static const char *const where[] = {
		"ring_start",  "kv_seq_len",        "kv_seq_len", "num_heads",      "scale",    "scale",
		"softcap",     "softcap",           "mask_type",  "sliding_window", "head_dim", "num_kv_heads",
		"kv_capacity", "scale_factor_d512", "num_heads",  "scale"
	};
	for (int i = 0; i < 16; i++)
		bad[i] = good;
	bad[0].ring_start = 16;
	bad[1].kv_seq_len = 17;
	bad[2].kv_seq_len = 0;
	bad[3].num_heads = 9;
	bad[4].scale = NAN;
	bad[5].scale = INFINITY;
	bad[6].softcap = -1;
	bad[7].softcap = NAN;
	bad[8].mask_type = 3;
	bad[9].sliding_window = 0;
	bad[10].head_dim = 96;
	bad[11].num_kv_heads = 0;
	bad[12].kv_capacity = 0;
	bad[13].scale_factor_d512 = 0;
	bad[14].num_heads = 0;
	bad[15].scale = 1e300;
	for (int i = 0; i < 16; i++) {
		st_error_clear(&err);
		assert_int_equal(st_tq_params_check(&bad[i], &err), ST_ERR_USAGE);
		assert_string_equal(err.where, where[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_and_oracle_match_plain_loops),
		cmocka_unit_test(splits_merge),
		cmocka_unit_test(position_in_the_ring_does_not_matter),
		cmocka_unit_test(reads_only_visible_rows),
		cmocka_unit_test(dense_kernel),
		cmocka_unit_test(extreme_scores),
		cmocka_unit_test(visible_rows),
		cmocka_unit_test(parameters_are_checked_by_name),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
