/*
 * diagnose.h - a captured step evaluated under a mistake, and the list of mistakes.
 *
 * All evaluation happens in f64 and in the stored (rotated) basis: the transform is orthonormal, so it only
 * has to be applied to the query and the result.
 */
#ifndef ST_TURBOQUANT_DIAGNOSE_H
#define ST_TURBOQUANT_DIAGNOSE_H

#include "turboquant/run.h"

#include <stele/cause.h>

enum round { ROUND_DECLARED, ROUND_F16, ROUND_BF16 };
enum head_map { MAP_GROUP, MAP_MODULO, MAP_REVERSED, MAP_FIRST };
enum window { WINDOW_OWN, WINDOW_NONE, WINDOW_BY_ROW };
enum row_fault { ROW_OWN, ROW_MISSING, ROW_ZERO, ROW_COPY, ROW_FOREIGN };

/* Content of a row that the capture does not have: what the output says it must have been. */
struct foreign {
	double *v;     /* [G, d] */
	double *score; /* [H]; -INFINITY: no weight */
};

/* What differs from the declared step; all zeros means nothing does. */
struct edit {
	bool q_signs, out_signs; /* flipped against the declaration */
	bool q_plain, out_plain; /* without the transform */
	bool nibbles_k, nibbles_v, kv_swapped, norms_crossed;
	unsigned norm_block;   /* ST_NORM_* */
	double factor;         /* of a centroid times a norm; 0 = its own */
	double k_gain, v_gain; /* of decoded keys, values; 0 = none */
	int64_t ring_delta;
	bool physical;
	enum window window;
	int32_t window_delta, extra; /* rows more (or fewer) at the old and at the new end */
	double scale, softcap;       /* 0 = their own; softcap < 0: none */
	enum head_map map;
	enum row_fault row_fault;
	uint32_t row;  /* chronological position of it */
	uint32_t from; /* ROW_COPY: the physical row whose content it has */
	bool one_head; /* row fault, factor and gains only in kv_head, else in every key/value head */
	uint32_t kv_head;
	const struct foreign *foreign; /* ROW_FOREIGN: owned by the table */
	enum round round, kv_round;    /* of the query; of decoded keys and values */
};

struct step {
	const struct st_capture *c;
	struct st_oracle_decode decode;
	bool q_f16, physical; /* as declared by the options */
	struct st_pool *pool;
	const float *observed;
	size_t n; /* H d */
	/* scratch of evaluate() */
	double *q, *out, *scores;    /* [H, d], [H, d], [H, rows] */
	uint32_t *rows, n_rows;      /* physical rows of the last evaluation, in reading order */
	uint32_t *map;               /* [H]: key/value head of each query head */
	double *weights_top, *total; /* [H] */
	struct st_arena mem;
};

struct hypothesis {
	enum st_cause_code code;
	char text[160];
	enum st_param_name parameter; /* of the fitted value, or ST_PARAM_NONE */
	double value;
	struct edit e;
	double residual;
};

struct table {
	struct hypothesis *h;
	size_t n, cap;
	struct foreign foreign[2]; /* one per type of query that is tried */
	size_t n_foreign;
	bool failed;
};

/* ---- diagnose_step.c ---- */

bool st_step_alloc(struct step *s);
void st_step_free(struct step *s);
/* The whole step under an edit: s->out, the scores of every head, and the rows they belong to. */
void st_step_evaluate(struct step *s, const struct edit *e);
/* nrmse of the observed output against the last evaluation. An edit that leaves nothing to compare with explains
 * nothing. */
double st_step_residual(const struct step *s);
/* nrmse of a part of the output against the last evaluation. */
double st_step_difference(const struct step *s, size_t from, size_t n);
/* The key/value head whose queries are furthest off; *one_head: it is the only one beyond the floor. */
uint32_t st_step_worst_head(const struct step *s, double floor, bool *one_head);
/* One stored row of keys (v = false) or values, as the edit leaves it; and its score for a query head. */
void st_step_row(const struct step *s, const struct edit *e, bool v, uint32_t g, uint32_t row, double *y);
double st_step_score(const struct step *s, const struct edit *e, uint32_t h, const double *k);
/* Chronological position of a physical row. */
uint32_t st_step_position(const struct st_tq_params *p, uint32_t row);
/* residual of n hypotheses, shared out over threads */
bool st_step_try(const struct step *s, struct hypothesis *h, size_t n);

/* ---- diagnose_list.c ---- */

/* parameter: of the fitted or changed value, or ST_PARAM_NONE. Never NULL: without memory t->failed is set, and the row
 * is not kept. */
struct hypothesis *st_hypothesis_add(struct table *t, enum st_cause_code code, const char *text,
                                     enum st_param_name parameter, double value, struct edit e);
/* Adds to the text, as far as there is room. */
void st_hypothesis_say(struct hypothesis *h, const char *fmt, ...) ST_PRINTF(2, 3);
/* Which head, where the edit is of one alone. */
void st_hypothesis_say_head(struct hypothesis *h);
void st_hypotheses_release(struct table *t);
/* Simple ones first: of two that explain the output equally, the first is reported. */
void st_list_mistakes(const struct step *s, struct table *t);

/* ---- diagnose_rows.c, diagnose_fit.c: mistakes with a place or a number that has to be found first ---- */

void st_find_rows(struct step *s, enum round round, double floor, struct table *t);
void st_fit_numbers(struct step *s, enum round round, double floor, struct table *t);

/* ---- what the modes call ---- */

/* Explain `observed` ([H, d], natural basis); adds "diagnosis" to the report. */
ST_MUST_CHECK enum st_status st_diagnose_output(struct st_replay_run *r, const float *observed, struct st_error *err);
/* Check the packed rows against the values before quantisation, where the capture has them. Adds "cache" to the
 * report. */
ST_MUST_CHECK enum st_status st_diagnose_cache(struct st_replay_run *r, struct st_error *err);

#endif
