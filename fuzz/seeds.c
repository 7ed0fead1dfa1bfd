/*
 * seeds.c - writes the seed corpus into a folder: the sound files of tests/robust/good.h, damaged copies of each, and
 * bare headers and pickles, which the targets wrap themselves. The same files on every run.
 *
 *   seeds FOLDER
 */
#include "robust/good.h"

#include "base/rng.h"

#define COPIES 40

static const char *target;
static size_t written;

static void write_seed(const char *name, size_t copy, const void *p, size_t n)
{
	char path[600];
	snprintf(path, sizeof path, "%s/%s-%zu", target, name, copy);
	for (char *c = path + strlen(target) + 1; *c; c++)
		if (*c == '/')
			*c = '-';
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	written++;
}

/* The bytes, whole and with a few changed; `header`: where most changes go. */
static void write_seeds(const char *name, const uint8_t *p, size_t n, size_t header)
{
	struct st_xoshiro rng;
	uint8_t *q = malloc(n);
	assert_non_null(q);
	st_xoshiro_seed(&rng, n);
	write_seed(name, 0, p, n);
	for (size_t copy = 1; copy <= COPIES; copy++) {
		memcpy(q, p, n);
		for (size_t k = 0; k < copy % 4; k++)
			q[st_xoshiro_next(&rng) % (header < n ? header : n)] = (uint8_t)(st_xoshiro_next(&rng) >> 56);
		write_seed(name, copy, q, copy % 4 ? n : st_xoshiro_next(&rng) % n); /* every fourth is cut */
	}
	free(q);
}

static void write_file_seeds(const char *file)
{
	FILE *f = fopen(in_folder(file), "rb");
	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	size_t n = (size_t)ftell(f);
	uint8_t *p = malloc(n);
	assert_non_null(p);
	rewind(f);
	assert_int_equal(fread(p, 1, n, f), n);
	fclose(f);
	write_seeds(file, p, n, 6000);
	if (strlen(file) > 12 && strcmp(file + strlen(file) - 12, ".safetensors") == 0) { /* the header's text alone */
		uint64_t len;
		memcpy(&len, p, 8);
		write_seeds(file[0] == 'l' ? "header.json" : "trace-header.json", p + 8, (size_t)len, (size_t)len);
	}
	free(p);
}

int main(int argc, char **argv)
{
	static struct bytes pickle;
	if (argc != 2) {
		fprintf(stderr, "usage: seeds FOLDER\n");
		return 2;
	}
	target = argv[1];
	void *none = NULL;
	if (make_good_files(&none) != 0)
		return 1;
	for (size_t i = 0; i < N_GOOD; i++)
		write_file_seeds(good_files[i].file);
	good_pickle(&pickle);
	write_seeds("pickle", pickle.p, pickle.n, pickle.n);
	printf("%zu seeds\n", written);
	return remove_folder(&none);
}
