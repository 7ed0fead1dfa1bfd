/*
 * massive.c - a model with massive channels, as trained ones have: a few features of the stream that are many times larger
 * than the rest, the same for every token, and that the last layer takes away again. What is wrong with one of them by a
 * few per cent is next to nothing of the stream, until the rest is all there is.
 */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GIVEN = 3, MADE = 5, UNIT = 7 }; /* features; the unit of the feed-forward part that makes, or takes away */
#define ARGUMENT 4.0                    /* of that unit's activation, and its factor */

struct file {
	const char *path;
	unsigned char *bytes;
	size_t n;
	json_t *header;
};

static float *tensor(struct file *f, size_t layer, const char *name, size_t *cols)
{
	char full[96];
	uint64_t header;
	memcpy(&header, f->bytes, sizeof header);
	if (layer == SIZE_MAX)
		snprintf(full, sizeof full, "model.%s.weight", name);
	else
		snprintf(full, sizeof full, "model.layers.%zu.%s.weight", layer, name);
	json_t *t = json_object_get(f->header, full), *shape = json_object_get(t, "shape");
	const char *type = json_string_value(json_object_get(t, "dtype"));
	if (!type || strcmp(type, "F32") != 0) {
		fprintf(stderr, "naive: %s: no %s in F32\n", f->path, full);
		exit(2);
	}
	*cols = (size_t)json_integer_value(json_array_get(shape, json_array_size(shape) - 1));
	return (float *)(void *)(f->bytes + 8 + header + json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0)));
}

/* The unit of the layer sees GIVEN alone, and adds `by` to each of n features. */
static void unit(struct file *f, size_t layer, double seen, double by, const size_t *features, size_t n)
{
	size_t D, F;
	float *norm = tensor(f, layer, "post_attention_layernorm", &D), *gate = tensor(f, layer, "mlp.gate_proj", &D),
	      *up = tensor(f, layer, "mlp.up_proj", &D), *down = tensor(f, layer, "mlp.down_proj", &F);
	double activation = ARGUMENT / (1 + exp(-ARGUMENT)) * ARGUMENT;
	for (size_t i = 0; i < D; i++) {
		gate[UNIT * D + i] = up[UNIT * D + i] = i == GIVEN ? (float)(ARGUMENT / (seen * norm[GIVEN])) : 0;
		down[i * F + UNIT] = 0;
	}
	for (size_t i = 0; i < n; i++)
		down[features[i] * F + UNIT] = (float)(by / activation);
}

void model_make_massive(const char *folder, double size)
{
	char path[512];
	json_error_t e;
	snprintf(path, sizeof path, "%s/config.json", folder);
	json_t *config = json_load_file(path, 0, &e);
	size_t layers = (size_t)json_integer_value(json_object_get(config, "num_hidden_layers")), D;
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	struct file f = { .path = path };
	FILE *file = fopen(path, "r+b");
	if (!file || layers < 3 || fseek(file, 0, SEEK_END) != 0) {
		fprintf(stderr, "naive: %s: no model of three layers\n", folder);
		exit(2);
	}
	f.n = (size_t)ftell(file);
	f.bytes = malloc(f.n);
	rewind(file);
	uint64_t header;
	if (!f.bytes || fread(f.bytes, 1, f.n, file) != f.n) {
		fprintf(stderr, "naive: %s cannot be read\n", path);
		exit(2);
	}
	memcpy(&header, f.bytes, sizeof header);
	f.header = json_loadb((char *)f.bytes + 8, header, 0, &e);
	float *embed = tensor(&f, SIZE_MAX, "embed_tokens", &D);
	size_t vocab = (size_t)json_integer_value(json_object_get(config, "vocab_size"));
	for (size_t i = 0; i < vocab; i++)
		embed[i * D + GIVEN] = (float)size;
	/* The others are as good as nothing in the mean square that the norm divides by. */
	const size_t made[] = { MADE }, both[] = { MADE, GIVEN };
	unit(&f, 1, sqrt((double)D), size, made, 1);
	unit(&f, layers - 1, sqrt((double)D / 2), -size, both, 2);
	rewind(file);
	if (fwrite(f.bytes, 1, f.n, file) != f.n || fclose(file) != 0) {
		fprintf(stderr, "naive: %s cannot be written\n", path);
		exit(2);
	}
	free(f.bytes);
	json_decref(f.header);
	json_decref(config);
}
