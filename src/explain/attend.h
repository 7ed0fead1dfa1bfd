/* attend.h - attention once more, cell by cell in f64, with mistakes that can be chosen. */
#ifndef ST_EXPLAIN_ATTEND_H
#define ST_EXPLAIN_ATTEND_H

#include "explain/hypotheses.h"

#define ST_ALL_AHEAD INT32_MAX

/* How numbers are rounded to four bits: between the least and the largest, the least lost or not; about zero. */
enum { ST_BITS_ZERO_LOST, ST_BITS_ASYMMETRIC, ST_BITS_SYMMETRIC, ST_BITS };

/* How a layer attends. */
struct st_attend {
	double scale, softcap;
	uint32_t window;           /* 0: none */
	int32_t ahead;             /* positions behind its own that a query sees, ST_ALL_AHEAD: all; -1: not its own */
	size_t hide_from, hide_to; /* these positions are hidden from the queries behind them */
	const uint32_t *key_head, *value_head; /* [H]: of each query head; NULL: the model's */
	const uint32_t *order;                 /* [H]: head h of the result is head order[h]; NULL */
	int64_t no_head;                       /* its result is zero; -1 */
	enum { ST_SINK_OWN, ST_SINK_NONE, ST_SINK_ZERO } sink;
	bool swapped;                 /* values are scored, keys are mixed */
	bool values_turned;           /* as keys are */
	const struct st_node *turned; /* queries and keys are turned as this node does; NULL: as they are */
	bool adjacent; /* these two in the file's order of Q and K, in which the features of a pair are neighbours */
	double slopes; /* ALiBi's times this */
	const double *slope; /* [H]: those of each head instead; NULL */
	/* Keys and values of positions before the current ones. */
	enum {
		ST_ROWS_OWN,
		ST_ROWS_NEWEST_ZERO,   /* the current ones are zeros */
		ST_ROWS_OVER,          /* the newest one stands in `slot`, zeros in its place */
		ST_ROWS_COPIED,        /* the newest one stands in `slot` too */
		ST_ROWS_ZERO,          /* `slot` holds zeros */
		ST_ROWS_TURNED,        /* keys of earlier positions are turned by `turn` positions more */
		ST_ROWS_UNROTATED,     /* keys of earlier positions are not turned at all */
		ST_ROWS_ALL_UNROTATED, /* nor are the current ones */
		ST_ROWS_FOUR_BITS,     /* earlier ones have four bits in blocks of 32; `slot`: ST_BITS_... */
	} rows;
	size_t slot;
	double turn;
};

/* One layer's attention in a segment: what is evaluated of scores, soft-max and mixture, and from what. */
struct st_attention {
	struct st_trial *t;
	uint32_t i_scores;
	const struct st_node *scores, *softmax, *mix,
		*rope; /* mix: NULL where the judged value stands before it; rope: of keys, or NULL */
	struct st_node own_rope;
	enum st_op from, to; /* the first that is evaluated, and whose value it is */
	size_t H, G, Gv, d, dv, T, P, ldq;
	const float *q;              /* NULL: not at hand */
	const float *given;          /* [H, T, P]: scores or probabilities that the trace has, where they are inputs */
	float *sinks;                /* [H], or NULL */
	float *k, *v, *qs;           /* [P, width], [T, H d]: as an arithmetic has them, or changed */
	double *work;                /* [threads, P] */
	size_t sample[24], n_sample; /* tokens that are looked at while parameters are searched */
	size_t head_step;
	struct st_attend as;
	const struct st_way *way;
	const float *keys, *values, *queries;
	size_t ldqs;
	size_t kw, vw;
	float *out;
};

/* False where the node is not the last of an attention that is evaluated. */
ST_MUST_CHECK enum st_status st_attention_open(struct st_trial *t, struct st_attention *a, bool *found,
                                               struct st_error *err);
void st_attention_close(struct st_attention *a);
/* As the model attends. */
struct st_attend st_attend_own(const struct st_attention *a);
/* Tries it; a variation that leaves more than there was is not evaluated any further. */
ST_MUST_CHECK enum st_status st_try_attend(struct st_attention *a, const struct st_attend *as, const struct st_cause *c,
                                           struct st_error *err);
/* Square of what it leaves of the captured value, on a sample of its rows; of a later value where it was not captured
 * itself: of all of that. A trial must follow, which puts inner values back. */
ST_MUST_CHECK enum st_status st_attend_leaves(struct st_attention *a, const struct st_attend *as, double *out,
                                              struct st_error *err);
/* The same of one head of the result, on the sample; NAN where it cannot be told. */
double st_attend_head_leaves(struct st_attention *a, const struct st_attend *as, size_t head, size_t as_head);
/* The value that it has. */
ST_MUST_CHECK enum st_status st_attend_value(struct st_attention *a, const struct st_attend *as, float *out,
                                             struct st_error *err);
/* The captured value, where it is this attention's own; else NULL. */
const float *st_attention_got(const struct st_attention *a);

/* attention.c, masks.c, rows.c: mistakes by kind. */
ST_MUST_CHECK enum st_status st_test_masks(struct st_attention *a, struct st_error *err);
ST_MUST_CHECK enum st_status st_test_rows(struct st_attention *a, struct st_error *err);

#endif
