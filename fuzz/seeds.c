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
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
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

/* Two files in one, for the target that takes pairs: both whole, and each with a few bytes changed. */
static void write_pair_seeds(const char *a, const char *b)
{
	struct st_xoshiro rng;
	size_t n[2];
	uint8_t *p[2] = { read_bytes(in_folder(a), &n[0]), read_bytes(in_folder(b), &n[1]) };
	uint8_t *both = malloc(8 + n[0] + n[1]);
	assert_non_null(both);
	st_xoshiro_seed(&rng, n[0] ^ n[1]);
	for (size_t copy = 0; copy <= COPIES; copy++) {
		uint32_t len = (uint32_t)n[0];
		memcpy(both, "PAIR", 4);
		memcpy(both + 4, &len, 4);
		memcpy(both + 8, p[0], n[0]);
		memcpy(both + 8 + n[0], p[1], n[1]);
		for (size_t k = 0; k < copy % 4; k++) {
			size_t header = n[k % 2] < 6000 ? n[k % 2] : 6000;
			both[8 + (k % 2 ? n[0] : 0) + st_xoshiro_next(&rng) % header] = (uint8_t)(st_xoshiro_next(&rng)
			                                                                          >> 56);
		}
		write_seed("pair", 100 * (size_t)(a[6] + b[6]) + copy, both, 8 + n[0] + n[1]);
	}
	free(both);
	free(p[0]);
	free(p[1]);
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
	write_pair_seeds("model.gguf", "model.apr");
	write_pair_seeds("model.apr", "model.apr");
	write_pair_seeds("model.gguf", "lone.safetensors");
	write_pair_seeds("trace.safetensors", "model.gguf");
	good_pickle(&pickle);
	write_seeds("pickle", pickle.p, pickle.n, pickle.n);
	printf("%zu seeds\n", written);
	return remove_folder(&none);
}
