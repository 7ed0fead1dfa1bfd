/*
 * Good files with bytes changed, opened and used for everything: the outcome may be anything but a crash, a hang, an
 * error that does not explain itself, or memory out of proportion to the file.
 *
 *   test_robust_flips [CASES [SEED]]
 *
 * Case n of a seed is the same wherever it runs. A case that ends the program leaves its file behind and says where.
 */
#include "alloc.h"
#include "examine.h"
#include "good.h"

#include "base/rng.h"
#include "format/apr.h"

#include <signal.h>
#include <zlib.h>

#define MARGIN ((int64_t)64 << 20)
#define SECONDS 20 /* also under sanitizers on a busy machine */

static uint64_t n_cases = 4000, seed = 1;
static struct st_xoshiro rng;
static char running[160];

static uint64_t below(uint64_t n) { return st_xoshiro_next(&rng) % n; }

/* Numbers that break size arithmetic, and small ones. */
static uint64_t nasty(void)
{
	static const uint64_t list[] = { 0,
		                         1,
		                         2,
		                         3,
		                         31,
		                         32,
		                         255,
		                         256,
		                         65535,
		                         65536,
		                         INT32_MAX,
		                         (uint64_t)INT32_MAX + 1,
		                         UINT32_MAX,
		                         (uint64_t)1 << 32,
		                         (uint64_t)1 << 61,
		                         (uint64_t)1 << 62,
		                         INT64_MAX,
		                         (uint64_t)1 << 63,
		                         UINT64_MAX - 7,
		                         UINT64_MAX };
	return list[below(sizeof list / sizeof *list)];
}

static void mutate(uint8_t *p, size_t *n, size_t header)
{
	for (uint64_t i = 1 + below(4); i > 0 && *n > 8; i--) {
		/* Mostly where the structure is. */
		size_t at = below(4) ? below(header < *n ? header : *n) : below(*n);
		uint64_t v = nasty();
		size_t k = (size_t)1 << below(4), len = 1 + (size_t)below(16);
		switch (below(6)) {
		case 0:
			p[at] ^= (uint8_t)(1u << below(8));
			break;
		case 1:
			p[at] = (uint8_t)below(256);
			break;
		case 2:
			memcpy(p + at, &v, k < *n - at ? k : *n - at);
			break;
		case 3: /* bytes from elsewhere */
			len = len < *n - at ? len : *n - at;
			memmove(p + at, p + below(*n - len + 1), len);
			break;
		case 4: /* take some bytes out */
			len = len < *n - at ? len : *n - at;
			memmove(p + at, p + at + len, *n - at - len);
			*n -= len;
			break;
		case 5: /* a digit of JSON text, or any other byte, by a digit */
			p[at] = (uint8_t)('0' + below(10));
			break;
		}
	}
}

/* An APR file's checksums would stop nearly every change: make them right again. */
static void mend_apr(uint8_t *p, size_t n)
{
	if (n < ST_APR_HEADER + 4)
		return;
	uint32_t crc = st_apr_header_crc(p);
	memcpy(p + 40, &crc, 4);
	if (n % 64 == 4) {
		crc = (uint32_t)crc32(0, p, (uInt)(n - 4));
		memcpy(p + n - 4, &crc, 4);
	}
}

static void out_of_time(int sig)
{
	(void)sig;
	static const char text[] = "# no answer in time: ";
	(void)!write(1, text, sizeof text - 1);
	(void)!write(1, running, strlen(running));
	(void)!write(1, "\n", 1);
	_exit(99);
}

static struct {
	uint8_t *p;
	size_t n, header;
} original[N_GOOD];

static void load(size_t i)
{
	original[i].p = read_bytes(in_folder(good_files[i].file), &original[i].n);
	/* Where the data begins, roughly: enough to aim most changes at what is in front of it. */
	original[i].header = good_files[i].json || original[i].n < 1024 ? original[i].n
	                   : strstr(good_files[i].file, "gguf")         ? 5200
	                                                                : 3400;
}

/* The file of one case; its size. Zip archives are made anew around a changed member half of the time. */
static size_t damage(size_t i, uint8_t *p)
{
	static struct bytes inner, outer;
	bool npz = strcmp(good_files[i].file, "arrays.npz") == 0, pt = strcmp(good_files[i].file, "model.pt") == 0;
	if ((npz || pt) && below(2)) {
		if (npz)
			good_npy(&inner);
		else
			good_pickle(&inner);
		mutate(inner.p, &inner.n, inner.n);
		if (npz)
			good_npz(&outer, &inner);
		else
			good_checkpoint(&outer, &inner);
		memcpy(p, outer.p, outer.n);
		return outer.n;
	}
	size_t n = original[i].n;
	memcpy(p, original[i].p, n);
	mutate(p, &n, original[i].header);
	if (strcmp(good_files[i].file, "model.apr") == 0 && below(8))
		mend_apr(p, n);
	return n;
}

static void flips(void **state)
{
	(void)state;
	size_t room = 1 << 20, opened = 0, models = 0, ran = 0, judged = 0, wrong = 0;
	uint8_t *p = malloc(room);
	for (size_t i = 0; i < N_GOOD; i++)
		load(i);
	signal(SIGALRM, out_of_time);
	for (uint64_t k = 0; k < n_cases && wrong < 10; k++) {
		/* The four whole models get half of the cases. */
		static const char *const models_of[] = { "model.gguf", "model.apr", "hf/config.json",
			                                 "hf/tokenizer.json" };
		st_xoshiro_seed(&rng, seed * 0x9E3779B97F4A7C15u + k);
		size_t i = below(N_GOOD), pick = below(2 * sizeof models_of / sizeof *models_of);
		for (size_t j = 0; j < N_GOOD && pick < sizeof models_of / sizeof *models_of; j++)
			if (strcmp(good_files[j].file, models_of[pick]) == 0)
				i = j;
		size_t n = damage(i, p);
		save_n(good_files[i].file, p, n);
		snprintf(running, sizeof running, "case %llu of seed %llu: %s", (unsigned long long)k,
		         (unsigned long long)seed, in_folder(good_files[i].file));
		struct examined x;
		int64_t before = alloc_live();
		alloc_peak_reset();
		alarm(SECONDS);
		examine(in_folder(good_files[i].open), in_folder("reference.gguf"), &x);
		alarm(0);
		if (!x.fault && alloc_peak() > (int64_t)original[i].n + MARGIN)
			x.fault = "too much memory";
		if (!x.fault && alloc_live() != before)
			x.fault = "a leak";
		if (x.fault) {
			print_message("# %s: %s (%lld bytes): %s\n", running, x.fault, (long long)alloc_peak(), x.line);
			wrong++;
		}
		opened += x.opened;
		models += x.model;
		ran += x.ran;
		judged += x.judged;
		save_n(good_files[i].file, original[i].p, original[i].n);
	}
	for (size_t i = 0; i < N_GOOD; i++)
		free(original[i].p);
	free(p);
	print_message("# %llu cases: %zu opened, %zu were models, %zu ran, %zu were compared\n",
	              (unsigned long long)n_cases, opened, models, ran, judged);
	assert_int_equal(wrong, 0);
	/* A sweep in which nothing got through, or everything, tested one side only. */
	assert_true(opened > n_cases / 20 && opened < n_cases && ran > 0 && judged > 0);
}

static int prepare(void **state)
{
	if (make_good_files(state) != 0)
		return -1;
	copy_file(in_folder("model.gguf"), in_folder("reference.gguf"));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		n_cases = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 10);
	alloc_init();
	const struct CMUnitTest tests[] = { cmocka_unit_test(flips) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, prepare, remove_folder);
}
