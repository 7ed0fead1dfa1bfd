/*
 * stele/diff.h - two stage files, two traces, two models, or two sets of plain tensors.
 */
#ifndef STELE_DIFF_H
#define STELE_DIFF_H

#include <stele/compare.h>

enum st_diff_kind { ST_DIFF_STAGES, ST_DIFF_TRACES, ST_DIFF_MODELS, ST_DIFF_TENSORS };

struct st_top_diff {
	uint64_t index;
	float a, b;
	double abs;
};

/* The largest differences, largest first, ties by index; one that is finite on one side only is infinite. */
ST_MUST_CHECK enum st_status st_top_diffs(const struct st_tensor *a, const struct st_tensor *b, size_t limit,
                                          struct st_top_diff *out, size_t *n, struct st_error *err);

/* Two values of one stage. */
struct st_stage_diff {
	char stage[64];      /* empty when unknown */
	int32_t layer;       /* -1: whole model (or unknown) */
	uint64_t rows, cols; /* as far as known: rows 1 for a flat file */
	struct st_metrics m;
	struct st_top_diff *top;
	size_t n_top;
	bool same; /* nothing beyond f32 rounding, and nothing non-finite on one side only */
};

/* What is right to conclude from one pair of values. */
enum st_diff_status {
	ST_DIFF_EXPECTED,  /* the same, or apart by no more than expected */
	ST_DIFF_UNDECIDED, /* apart by more than is known to be noise, or not comparable */
	ST_DIFF_FAULT,
};

/* One stage of two traces. Figures over positions: the worst row tells, a whole-tensor figure dilutes. */
struct st_trace_row {
	uint32_t stage;
	int32_t layer;
	uint32_t step;
	bool on_a, on_b;
	uint64_t positions; /* compared: those both sides hold */
	uint64_t positions_a, positions_b;
	double min_cosine; /* NaN where a row is zero */
	double max_rel_l2;
	uint64_t worst_position;
	double max_abs;
	uint64_t nonfinite_a, nonfinite_b, nonfinite_apart;
	uint64_t blank; /* positions where nothing is finite on either side */
	bool rounding;  /* apart by no more than the 16-bit types that the values were stored in */
	uint64_t top1;  /* of lm_head: positions whose largest logit is the same */
	double top5;    /* and what share of the five largest is, over all positions; NaN for other stages */
	double floor;   /* of max_rel_l2; NaN when the provenance does not say enough */
	enum st_diff_status status;
	const struct st_tensor *tensor_a, *tensor_b;
};

/* One tensor of two containers, matched by name. */
struct st_tensor_diff {
	const struct st_tensor *a, *b; /* NULL on the side that lacks it */
	bool shapes_differ;
	struct st_metrics m;
	double expected; /* of m.rel_l2, by the stored types */
	enum st_diff_status status;
};

struct st_diff_options {
	const char *filter;   /* glob over stage, canonical or tensor names; NULL: all */
	size_t limit;         /* largest differences kept per stage file */
	double threshold;     /* of any |a - b|; NAN: none */
	double rel_threshold; /* of the relative L2 of a row; NAN: none */
	int threads;          /* 0: all */
	struct st_hooks hooks;
};

struct st_diff {
	enum st_diff_kind kind;
	const char *path_a, *path_b; /* the caller's */
	struct st_stage_diff stage;
	struct st_trace_row *rows;
	size_t n_rows;
	struct st_weight_diff *weights;
	size_t n_weights;
	struct st_config_diff config[ST_MAX_CONFIG_DIFFS + 1]; /* the last for frequencies that no key shows */
	size_t n_config;
	struct st_tensor_diff *tensors; /* of two traces: under names that are no stage */
	size_t n_tensors;
	const struct st_tensor **unused_a, **unused_b; /* models: tensors no stage uses */
	size_t n_unused_a, n_unused_b;
	char note[512]; /* how the inputs were taken, where that needs saying */
	size_t compared, only_a, only_b;
	size_t first; /* row, weight or tensor that is the first fault, else the first undecided; SIZE_MAX: none */
	bool fault;
	bool undecided;
	const char *why; /* it is undecided; static text, NULL otherwise */
	bool over_threshold;
};

/* A and B are files, folders, or "BUNDLE:KEY" for one stage of a trace. Inputs of different kinds, of different
 * tokens or shapes are ST_ERR_MISMATCH. Free with st_diff_free; the inputs stay mapped until then. */
ST_MUST_CHECK enum st_status st_diff_run(const char *a, const char *b, const struct st_diff_options *o,
                                         struct st_diff **out, struct st_error *err);
void st_diff_free(struct st_diff *d);
/* 0 the same or as expected; 1 a fault or beyond the threshold; 3 undecided. */
int st_diff_exit(const struct st_diff *d);

#endif
