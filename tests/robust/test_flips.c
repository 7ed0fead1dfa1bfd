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
#include "damage.h"

#include <signal.h>

#define MARGIN ((int64_t)64 << 20)
#define SECONDS 20 /* also under sanitizers */

static uint64_t n_cases = 4000, seed = 1;
static char running[160];

static void out_of_time(int sig)
{
	(void)sig;
	static const char text[] = "# no answer in time: ";
	(void)!write(1, text, sizeof text - 1);
	(void)!write(1, running, strlen(running));
	(void)!write(1, "\n", 1);
	_exit(99);
}

static void flips(void **state)
{
	(void)state;
	size_t room = 1 << 20, opened = 0, models = 0, ran = 0, judged = 0, wrong = 0;
	uint8_t *p = malloc(room);
	load_all();
	signal(SIGPROF, out_of_time);
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
		limit_time(SECONDS);
		examine(in_folder(good_files[i].open), in_folder("reference.gguf"), &x);
		limit_time(0);
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
		put_back(i);
	}
	unload_all();
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
