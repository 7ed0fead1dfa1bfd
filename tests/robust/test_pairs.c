/*
 * Two files of strangers at once, with several threads: one damaged beside a good one, and two damaged ones, through
 * rosetta, diff, convert and inspect. What two files agree in passes checks that one of them alone does not, and
 * buffers for each thread are sized by what both say.
 *
 *   test_robust_pairs [CASES [SEED]]
 */
#include "alloc.h"
#include "damage.h"
#include "examine.h"

#include <signal.h>

#define MARGIN ((int64_t)96 << 20)
#define SECONDS 30 /* also under sanitizers */

static uint64_t n_cases = 400, seed = 1;
static char running[200];

static void out_of_time(int sig)
{
	(void)sig;
	(void)!write(1, "# no answer in time: ", 21);
	(void)!write(1, running, strlen(running));
	(void)!write(1, "\n", 1);
	_exit(99);
}

/* ---- sizes that wrap ---- */

/* model.apr with other dimensions of its final norm, [32] of f32, and its first value multiplied. */
static void save_norm(const char *name, const uint64_t *dims, size_t ndim, float factor)
{
	static const char norm[] = "model.norm.weight";
	size_t n, more = 8 * (ndim - 1);
	uint8_t *p = read_bytes(in_folder("model.apr"), &n), *q = malloc(n + 64);
	assert_non_null(q);
	uint64_t index, data, offset;
	memcpy(&index, p + 24, 8);
	memcpy(&data, p + 32, 8);
	uint8_t *entry = memmem(p + index, (size_t)(data - index), norm, sizeof norm - 1);
	assert_non_null(entry);
	entry += sizeof norm - 1; /* type, number of dimensions, the dimension, offset, size */
	assert_int_equal(entry[1], 1);
	memcpy(&offset, entry + 10, 8);
	float *value = (float *)(void *)(p + data + offset);
	*value *= factor;
	/* The index ends in padding, which takes the further dimensions. */
	size_t at = (size_t)(entry - p);
	memcpy(q, p, n);
	q[at + 1] = (uint8_t)ndim;
	memcpy(q + at + 2, dims, 8 * ndim);
	memcpy(q + at + 2 + 8 * ndim, p + at + 10, (size_t)data - at - 10 - more);
	mend_apr(q, n);
	save_n(name, q, n);
	free(p);
	free(q);
}

static void sizes_that_wrap(void **state)
{
	(void)state;
	/* Products that come out as the 128 bytes that are there once 64 bits are full. */
	static const struct {
		uint64_t dims[2];
		size_t ndim;
	} cases[] = {
		{ { (UINT64_C(1) << 62) + 32 }, 1 },    { { UINT64_C(1) << 63, 0 }, 2 },
		{ { 0, UINT64_C(1) << 63 }, 2 },        { { UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1 }, 2 },
		{ { 1, (UINT64_C(1) << 62) + 32 }, 2 }, { { (UINT64_C(1) << 62) + 32, 1 }, 2 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		save_norm("wrap-a.apr", cases[i].dims, cases[i].ndim, 1);
		save_norm("wrap-b.apr", cases[i].dims, cases[i].ndim, 1.5f);
		for (int threads = 1; threads <= 5; threads += 2) {
			struct examined x;
			char a[400];
			snprintf(a, sizeof a, "%s", in_folder("wrap-a.apr"));
			examine_pair(a, in_folder("wrap-b.apr"), in_folder("out.gguf"), threads, &x);
			if (x.fault || x.opened || x.judged || x.compared || x.converted)
				fail_msg("case %zu, %d threads: %s", i, threads, x.fault ? x.fault : "was read");
		}
	}
	/* The builder itself: the right dimension is read, and the difference is found. */
	struct examined x;
	char a[400];
	save_norm("wrap-a.apr", (uint64_t[]){ 32 }, 1, 1);
	save_norm("wrap-b.apr", (uint64_t[]){ 32 }, 1, 1.5f);
	snprintf(a, sizeof a, "%s", in_folder("wrap-a.apr"));
	examine_pair(a, in_folder("wrap-b.apr"), in_folder("out.gguf"), 3, &x);
	assert_null(x.fault);
	assert_true(x.opened && x.judged && x.compared && x.converted);
}

/* ---- pairs ---- */

/* The other side of a case: a good file, or a second damaged one. Its path from the folder. */
static const char *other_side(uint8_t *p)
{
	static const char *const good[] = { "reference.gguf", "reference.apr", "reference" };
	static const struct {
		const char *of, *name;
	} second[] = { { "model.gguf", "second.gguf" }, { "model.apr", "second.apr" }, { "stage.bin", "second.bin" } };
	if (below(2))
		return good[below(3)];
	size_t k = below(3), i = 0;
	while (strcmp(good_files[i].file, second[k].of) != 0)
		i++;
	save_n(second[k].name, p, damage(i, p));
	return second[k].name;
}

static void pairs(void **state)
{
	(void)state;
	size_t room = 1 << 20, opened = 0, judged = 0, compared = 0, converted = 0, wrong = 0;
	uint8_t *p = malloc(room);
	assert_non_null(p);
	load_all();
	signal(SIGPROF, out_of_time);
	/* What libraries keep for ever is there before anything is counted. */
	struct examined x;
	char a[400], b[400];
	snprintf(a, sizeof a, "%s", in_folder("model.gguf"));
	examine_pair(a, in_folder("reference.apr"), in_folder("out.gguf"), 3, &x);
	assert_true(!x.fault && x.opened && x.judged && x.compared && x.converted);
	for (uint64_t k = 0; k < n_cases && wrong < 10; k++) {
		static const char *const models_of[] = { "model.gguf", "model.apr", "hf/config.json",
			                                 "hf/model.safetensors" };
		st_xoshiro_seed(&rng, seed * 0x9E3779B97F4A7C15u + k);
		size_t i = below(N_GOOD), pick = below(6);
		for (size_t j = 0; j < N_GOOD && pick < 4; j++)
			if (strcmp(good_files[j].file, models_of[pick]) == 0)
				i = j;
		snprintf(b, sizeof b, "%s", in_folder(other_side(p)));
		size_t n = damage(i, p);
		save_n(good_files[i].file, p, n);
		snprintf(a, sizeof a, "%s", in_folder(good_files[i].open));
		int threads = below(3) ? 3 : 1;
		snprintf(running, sizeof running, "case %llu of seed %llu, %d threads: %s", (unsigned long long)k,
		         (unsigned long long)seed, threads, good_files[i].file);
		int64_t before = alloc_live();
		alloc_peak_reset();
		limit_time(SECONDS);
		examine_pair(a, b, in_folder("out.gguf"), threads, &x);
		limit_time(0);
		if (!x.fault && alloc_peak() > (int64_t)(2 * room) + MARGIN)
			x.fault = "too much memory";
		if (!x.fault && alloc_live() != before)
			x.fault = "a leak";
		if (x.fault) {
			print_message("# %s against %s: %s (%lld bytes): %s\n", running, b, x.fault,
			              (long long)alloc_peak(), x.line);
			wrong++;
		}
		opened += x.opened;
		judged += x.judged;
		compared += x.compared;
		converted += x.converted;
		put_back(i);
	}
	unload_all();
	free(p);
	print_message("# %llu pairs: %zu opened, %zu judged, %zu compared, %zu converted\n",
	              (unsigned long long)n_cases, opened, judged, compared, converted);
	assert_int_equal(wrong, 0);
	/* A sweep in which nothing got through, or everything, tested one side only. */
	assert_true(opened > n_cases / 20 && opened < n_cases && judged > 0 && compared > 0 && converted > 0);
}

static int prepare(void **state)
{
	if (make_good_files(state) != 0)
		return -1;
	copy_file(in_folder("model.gguf"), in_folder("reference.gguf"));
	copy_file(in_folder("model.apr"), in_folder("reference.apr"));
	copy_file(in_folder("hf"), in_folder("reference"));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		n_cases = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 10);
	alloc_init();
	const struct CMUnitTest tests[] = { cmocka_unit_test(sizes_that_wrap), cmocka_unit_test(pairs) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, prepare, remove_folder);
}
