/*
 * stele/inspect.h - what is in a file: its tensors with their statistics, the model, trace or
 * vocabulary they make, and what looks wrong.
 */
#ifndef STELE_INSPECT_H
#define STELE_INSPECT_H

#include <stele/model.h>
#include <stele/pool.h>
#include <stele/token.h>
#include <stele/trace.h>

/* Over all elements, decoded. min, max, mean and std are over the finite ones (std divides by
 * their number) and NaN when there are none. */
struct st_tensor_stats {
	uint64_t n_nan, n_inf;
	double min, max, mean, std;
	bool constant;          /* all elements are equal (zero included); false for fewer than 2 */
	uint64_t constant_rows; /* rows of at least 2 elements that are all equal */
	uint64_t first_constant_row;
};

/* Decodes piece by piece over the threads of pool (or NULL); the result does not depend on their number. hooks (or
 * NULL) hears of progress in bytes of this tensor. */
ST_MUST_CHECK enum st_status st_tensor_stats_of(const struct st_tensor *t, struct st_pool *pool,
                                                const struct st_hooks *hooks, struct st_tensor_stats *out,
                                                struct st_error *err);

enum st_severity {
	ST_NOTE,  /* unusual, often harmless: an all-zero tensor, constant rows, bytes that belong to no tensor */
	ST_FAULT, /* wrong: weights that are not finite, shapes that contradict the configuration */
};

struct st_anomaly {
	enum st_severity severity;
	const char *kind;   /* "nan", "infinity", "zero", "constant", "constant_rows", "size", "overlap", "config",
	                       "vocabulary", "crc", "transposed", "unlike" */
	const char *tensor; /* or NULL */
	char text[256];
};

struct st_inspection;

struct st_inspect_options {
	int threads;         /* 0 = all */
	bool no_stats;       /* read the headers only */
	uint32_t run_tokens; /* what the memory of a run is given for; 0 = 128 */
	const char *family;  /* a description of the model, as in st_model_open_as(); NULL: the file says */
	struct st_hooks hooks;
};

/* Fails where the file cannot be opened as a container. A container that is no model, or not a
 * whole one, is inspected all the same; st_inspection_model_error says why. */
ST_MUST_CHECK enum st_status st_inspect_open(const char *path, const struct st_inspect_options *o,
                                             struct st_inspection **out, struct st_error *err);
void st_inspection_close(struct st_inspection *in);

const struct st_container *st_inspection_container(const struct st_inspection *in);
/* NULL when the container is no model that Stele can run. */
const struct st_model *st_inspection_model(const struct st_inspection *in);
/* Why; code ST_OK when there is a model, or when nothing in the file claims to be one. */
const struct st_error *st_inspection_model_error(const struct st_inspection *in);
/* True when that error is a contradiction in the file rather than something it lacks or a
 * kind that Stele does not know. */
bool st_inspection_contradiction(const struct st_inspection *in);
/* NULL unless the file is a trace. */
const struct st_trace *st_inspection_trace(const struct st_inspection *in);
/* NULL when there is none; then the error says why, or is ST_OK when the file has no vocabulary. */
const struct st_tokenizer *st_inspection_tokenizer(const struct st_inspection *in);
const struct st_error *st_inspection_tokenizer_error(const struct st_inspection *in);
/* In the order of the container's tensors; NULL with no_stats. */
const struct st_tensor_stats *st_inspection_stats(const struct st_inspection *in);
size_t st_inspection_n_anomalies(const struct st_inspection *in);
const struct st_anomaly *st_inspection_anomaly(const struct st_inspection *in, size_t i);
/* Anonymous bytes of a run of run_tokens tokens, beside the mapped file; 0 without a model. */
uint64_t st_inspection_run_memory(const struct st_inspection *in);
uint32_t st_inspection_run_tokens(const struct st_inspection *in);

/* Anonymous bytes that st_trace_run allocates for evaluation, beside the mapped file: values of one layer, KV cache,
 * scratch. `tokens` at once, then `steps` one by one; logits of every position or of the last alone. mode NULL =
 * "exact"; threads 0 = all. UINT64_MAX when beyond counting. */
uint64_t st_model_run_memory(const struct st_model *m, uint64_t tokens, uint64_t steps, bool all_logits,
                             const char *mode, int threads);

#endif
