/*
 * stele/cause.h - why two things differ: the codes of the reports, their parameters and their words.
 *
 * A code is an interface: reports, scripts and `stele convert --repair` use it, so it keeps its meaning. Every fact
 * about a cause stands in its row of <stele/causes.def>.
 */
#ifndef STELE_CAUSE_H
#define STELE_CAUSE_H

#include <stdbool.h>
#include <stddef.h>

/* ST_CAUSE_WEIGHT_TRANSPOSED ... in the order of the table. */
enum st_cause_code {
	ST_CAUSE_NONE, /* nothing is named */
#define CAUSE(name, ...) ST_CAUSE_##name,
#include <stele/causes.def>
	ST_CAUSE_COUNT
};

/* What a mistake is made on. */
enum st_cause_place {
	ST_ON_WEIGHT = 1,
	ST_ON_NODE = 2,    /* of a graph: an operation, its parameters, its kernel */
	ST_ON_CAPTURE = 4, /* the values are right, what was written down of them is not */
	ST_ON_CONFIG = 8,  /* configuration or vocabulary */
	ST_ON_CACHE = 16,  /* keys and values of earlier tokens */
	ST_ON_SVF = 32,    /* a stage of `stele svf` */
};

/* Who names a cause. */
enum st_cause_tester {
	ST_BY_NOBODY, /* reserved */
#define WEIGHT_TEST(name, function) ST_BY_##name,
#include <stele/causes.def>
	ST_BY_COMPARISON, /* the comparison of two models, beside the tests above */
	ST_BY_JUDGE,
	ST_BY_EXPLAIN, /* `stele explain` */
	ST_BY_REPLAY,  /* `stele replay` */
	ST_BY_SVF,     /* `stele svf compare` */
};

enum st_unit {
	ST_UNIT_COUNT,
	ST_UNIT_INDEX,     /* from 0 */
	ST_UNIT_ROWS,      /* a distance, with its sign */
	ST_UNIT_ELEMENTS,  /* of a tensor */
	ST_UNIT_POSITIONS, /* tokens */
	ST_UNIT_RATIO,
	ST_UNIT_VALUE, /* in the unit of the numbers at hand */
	/* the parameter is text: */
	ST_UNIT_TEXT,
	ST_UNIT_TENSOR, /* a canonical Hugging Face name */
	ST_UNIT_TYPE,   /* a stored type */
};
const char *st_unit_name(enum st_unit u);

enum st_param_name {
	ST_PARAM_NONE,
#define PARAM(name, key, unit) ST_PARAM_##name,
#include <stele/causes.def>
	ST_PARAM_COUNT
};

struct st_param_info {
	const char *key; /* "factor": its name in reports */
	enum st_unit unit;
};
/* Of any but ST_PARAM_NONE. */
const struct st_param_info *st_param_info(enum st_param_name p);
bool st_param_is_text(enum st_param_name p);

#define ST_CAUSE_PARAMS 9
struct st_cause_info {
	const char *code;    /* "weight.transposed" */
	unsigned where;      /* enum st_cause_place, or several of them */
	const char *words;   /* NULL: made from `meaning` */
	const char *meaning; /* one phrase */
	const char *test;    /* how Stele tests it; NULL where this version never names it */
	const char *repair;  /* what to do (%n: the tensor), or NULL */
	enum st_cause_tester tester;
	enum st_param_name params[ST_CAUSE_PARAMS]; /* that it may carry; ST_PARAM_NONE behind the last */
};
/* Of any but ST_CAUSE_NONE. */
const struct st_cause_info *st_cause_info(enum st_cause_code c);
/* st_cause_info(c)->code; "none" for ST_CAUSE_NONE. */
const char *st_cause_name(enum st_cause_code c);
/* False for text that is no code. */
bool st_cause_parse(const char *code, enum st_cause_code *out);

enum st_confidence { ST_UNEXPLAINED, ST_LIKELY, ST_CONFIRMED };
const char *st_confidence_name(enum st_confidence c);
/*
 * The one rule, of weights, of an engine's values and of packed caches. noise: with the cause undone nothing is left but
 * noise. before, after: relative L2 of the difference without the cause and with it undone. Likely is what takes away nine
 * tenths, and leaves less than a tenth of the size: of a difference that is far larger than the numbers almost anything
 * takes most away.
 */
enum st_confidence st_confidence_of(bool noise, double before, double after);

/* A fitted parameter: a number, or text where its unit says so. */
struct st_param {
	enum st_param_name name;
	double number;
	char text[96];
};

#define ST_MAX_PARAMS 8
struct st_cause {
	enum st_cause_code code; /* ST_CAUSE_UNEXPLAINED when none fits */
	enum st_confidence confidence;
	struct st_param params[ST_MAX_PARAMS]; /* in the order in which they were put */
	size_t n_params;
	double residual_before, residual_after; /* relative L2 */
	double floor;                           /* what the stored types account for */
};

/* The parameter must be in the cause's row; no more than ST_MAX_PARAMS are kept. Text is cut to what fits. */
void st_cause_put(struct st_cause *c, enum st_param_name p, double v);
void st_cause_put_text(struct st_cause *c, enum st_param_name p, const char *text);
bool st_cause_has(const struct st_cause *c, enum st_param_name p);
/* `otherwise` and "" where it carries no such parameter. */
double st_cause_number(const struct st_cause *c, enum st_param_name p, double otherwise);
const char *st_cause_text(const struct st_cause *c, enum st_param_name p);

/* Of whom a sentence speaks. */
struct st_saying {
	const char *name; /* of the tensor or node; NULL: of none */
	char x, y;        /* 'A', 'B': the side that is named, and the other one */
	bool either;      /* nothing tells which of the two is wrong */
	bool vector;      /* what it is on has one axis */
};
/* The cause in words, without its code. Returns what snprintf does. */
int st_cause_say(const struct st_cause *c, const struct st_saying *s, char *buf, size_t n);
/* The repair in words with `name` for its tensor, or "": "rewrite blk.0.attn_q.weight of A as its transpose". NULL: of
 * no tensor. */
int st_cause_advise(enum st_cause_code c, const char *name, char *buf, size_t n);

#endif
