/*
 * stele/compare.h - how far apart two tensors, two traces or two models are, and for two
 * stored weights: whether their types explain it, and if not, which mistake does.
 */
#ifndef STELE_COMPARE_H
#define STELE_COMPARE_H

#include <stele/cause.h>
#include <stele/model.h>
#include <stele/pool.h>
#include <stele/token.h>
#include <stele/trace.h>

/* ---- two sets of numbers ---- */

/*
 * b is the reference. Sums are f64 in an order that depends only on the count. Elements that
 * are not finite on both sides alike (same NaN-ness, same infinity) are left out of the sums
 * and counted; one that is not finite on one side only makes max_abs infinite.
 */
struct st_metrics {
	uint64_t count;
	uint64_t nonfinite_a, nonfinite_b;
	uint64_t nonfinite_apart; /* positions where the two sides disagree about being finite */
	double max_abs;
	uint64_t max_abs_index; /* first element with max_abs */
	double mean_abs, rms;   /* of a - b */
	double rel_l2;          /* |a - b| / |b|; 0 when both are zero, infinity when only b is */
	double cosine;          /* NaN when a norm is 0 */
	double gain;            /* least-squares g of a = g b; NaN when |b| = 0 */
	double norm_a, norm_b;  /* L2 over the finite elements */
	double norm_diff;       /* |a - b| */
};

/* pool (or NULL): the threads that share the work, here and below. */
void st_metrics_of(const float *a, const float *b, uint64_t n, struct st_pool *pool, struct st_metrics *m);
/* Two stored tensors of equal element count (shapes may differ), decoded piece by piece. */
ST_MUST_CHECK enum st_status st_metrics_of_tensors(const struct st_tensor *a, const struct st_tensor *b,
                                                   struct st_pool *pool, struct st_metrics *m, struct st_error *err);

/* ---- two weights ---- */

struct st_candidate {
	enum st_cause_code code;
	double residual_after;
};

enum st_weight_status {
	ST_WEIGHT_EQUAL,         /* the same stored bytes */
	ST_WEIGHT_EQUAL_DECODED, /* the same numbers, stored differently */
	ST_WEIGHT_NOISE,         /* apart by what the stored types predict */
	ST_WEIGHT_FAULT,
	ST_WEIGHT_ONLY_A,
	ST_WEIGHT_ONLY_B, /* a required weight is on one side only */
};

/* A type that errs: its step where the whole tensor has one (AprQ8), else 1. */
struct st_held {
	enum st_dtype type;
	float scale;
};

#define ST_MAX_CANDIDATES 4
struct st_weight_diff {
	const struct st_weight *a, *b; /* NULL on the side that lacks it; for a tied head the embedding */
	const struct st_weight *slot;  /* where the weight belongs: names, role, layer, stage */
	enum st_weight_status status;
	struct st_held held_a, held_b; /* whose noise was expected: the stored types', or that of coarser ones that the
	                                  numbers came from */
	double rel_l2;                 /* |a - b| / |b| after decoding, in the basis of the graph */
	double predicted;              /* the same ratio as the stored types predict it */
	double gain;
	double max_abs;
	uint64_t nonfinite_a, nonfinite_b;
	uint64_t rows, cols;
	uint64_t judged, outside; /* elements, and those that no original could have given both of */
	uint64_t bad_rows, first_bad_row, last_bad_row; /* rows apart by more than predicted */
	struct st_cause cause;                          /* ST_WEIGHT_FAULT and ONLY_* */
	char side; /* 'a', 'b': the one that is wrong where that can be told; else 0 */
	struct st_candidate candidates[ST_MAX_CANDIDATES];
	size_t n_candidates;
};

/* Every weight slot of either model, in graph order. *out is malloc'ed. */
ST_MUST_CHECK enum st_status st_compare_weights(const struct st_model *a, const struct st_model *b,
                                                struct st_pool *pool, const struct st_hooks *hooks,
                                                struct st_weight_diff **out, size_t *n, struct st_error *err);

/*
 * How well stored types explain what is apart by them, over the weights that are noise: whether elements may come from
 * one original says nothing of the size, and the size nothing of the elements. rel over floor is rel_l2 / predicted.
 * Errors that lie within closed cells reach 1.73 (one side stored) or 2.45 (both, in equal steps) where every one is as
 * large as it can be; encoders are at 1, and with importances up to 1.6. What is larger was clipped.
 */
struct st_noise_sizes {
	size_t tensors; /* that are noise and have a floor; 0: the rest says nothing */
	uint64_t judged, outside;
	double median, least, most; /* rel over floor */
	size_t over_twice;          /* tensors beyond twice their floor */
};
ST_MUST_CHECK enum st_status st_noise_sizes_of(const struct st_weight_diff *d, size_t n, struct st_noise_sizes *out,
                                               struct st_error *err);

/* ---- two configurations ---- */

struct st_config_diff {
	const char
		*key; /* as st_model_key has it, or a key of the family's description: as long as the models are open */
	char a[64], b[64];
	struct st_config_origin from_a, from_b;
	bool matters;    /* changes arithmetic for the tokens at hand */
	bool may_matter; /* it may for other tokens */
	bool among;      /* eos: one side's is among the further ids that the other ends at */
	uint32_t stage;  /* first stage it changes, where it matters */
	/* In which layers it changes that stage, for some tokens at least: the first of them, and "all", or "0, 2 to 4"; -1
	 * and empty where the graphs do not tell. */
	int32_t layer;
	char layers[64];
};
#define ST_MAX_CONFIG_DIFFS 48

/* ---- what some tokens do not show ---- */

/* A difference of two files that the tokens at hand do not exercise, and others may. */
struct st_aside {
	enum st_cause_code code; /* of the vocabulary or of the configuration */
	char key[48]; /* "eos", "sliding_window", "merges", "chat template" */
	char a[96], b[96];
	struct st_config_origin from_a, from_b; /* of a configuration key; else their key is empty */
	char note[192];                         /* which of several, where they part; may be empty */
	bool one_sided;                         /* one file leaves it open: told, but it contradicts nothing */
};
#define ST_MAX_ASIDES 32

/* Two tokenizers whole: pieces, types, scores, merges, splitting, special ids, chat template. Adds to out[*n]. */
ST_MUST_CHECK enum st_status st_compare_vocabularies(const struct st_tokenizer *a, const struct st_tokenizer *b,
                                                     struct st_aside out[ST_MAX_ASIDES], size_t *n,
                                                     struct st_error *err);
/* The differences of two configurations that do not matter for the tokens at hand, but may for others. */
void st_compare_asides(const struct st_config_diff *diffs, size_t n_diffs, struct st_aside out[ST_MAX_ASIDES],
                       size_t *n);

#endif
