/* helpers.h - small synthetic models, and their weights. */
#ifndef ST_TESTS_SYNTH_HELPERS_H
#define ST_TESTS_SYNTH_HELPERS_H

#include "arch/arch.h"
#include "folder.h"

#include <stele/model.h>
#include <stele/synth.h>

/* Small enough for a hundred comparisons, wide enough for K-quants. "tied" and further keys in `more`. */
static inline const char *write_config(const char *name, const char *arch, const char *more)
{
	static char path[160]; /* one at a time: it stays while other names come and go */
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f,
	        "{\"model_type\": \"%s\", \"hidden_size\": 256, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, "
	        "\"num_key_value_heads\": 2, \"head_dim\": 64, \"intermediate_size\": 512, \"vocab_size\": 320, "
	        "\"rms_norm_eps\": 1e-6, "
	        "\"rope_theta\": 1000000.0, \"max_position_embeddings\": 512%s}\n",
	        arch, more);
	fclose(f);
	return path;
}

static inline struct st_synth_options small(const char *config, const char *type)
{
	return (struct st_synth_options){ .config = config, .type = type, .seed = 7, .threads = 2, .replace = true };
}

static inline struct st_synth_result synth(const char *path, const struct st_synth_options *o)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_synth_result r;
	assert_ok(st_synth_write(path, o, &r, &err), &err);
	return r;
}

static inline struct st_model *open_model(const char *path)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	assert_ok(st_model_open(path, &m, &err), &err);
	return m;
}

/* All numbers of a weight in the basis of the graph; the caller frees them. */
static inline float *numbers_of(const struct st_weight *w, size_t *n)
{
	uint64_t rows = st_tensor_rows(w->tensor), cols = st_tensor_cols(w->tensor);
	float *x = malloc(rows * cols * sizeof *x);
	assert_non_null(x);
	st_weight_decode(w, 0, rows, x);
	*n = rows * cols;
	return x;
}

/* The weight of m in the same place; a tied head that has no tensor is the embedding. */
static inline const struct st_weight *same_place(const struct st_model *m, const struct st_weight *w)
{
	const struct st_weight *x = st_model_role(m, w->role, w->layer < 0 ? 0 : (uint32_t)w->layer);
	if (w->role == ST_ROLE_HEAD && (!x || !x->tensor))
		x = st_model_role(m, ST_ROLE_EMBED, 0);
	return x && x->tensor ? x : NULL;
}

#endif
