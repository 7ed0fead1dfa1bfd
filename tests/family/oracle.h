/* oracle.h - an expected.json of tests/data/families: token ids, and the logits that the reference implementation has for them. */
#ifndef ST_TESTS_FAMILY_ORACLE_H
#define ST_TESTS_FAMILY_ORACLE_H

#include "test.h"

#include <jansson.h>

#define ORACLE_MOST 64 /* tokens of a sequence */

struct oracle_sequence {
	uint32_t tokens[ORACLE_MOST];
	size_t T;
	double *logits; /* [T, V]; the caller frees */
};

static inline struct oracle_sequence read_oracle(const json_t *ids, const json_t *rows, size_t V)
{
	struct oracle_sequence o = { .T = json_array_size(ids) };
	assert_in_range(o.T, 1, ORACLE_MOST);
	o.logits = malloc(o.T * V * sizeof *o.logits);
	assert_non_null(o.logits);
	for (size_t t = 0; t < o.T; t++) {
		o.tokens[t] = (uint32_t)json_integer_value(json_array_get(ids, t));
		assert_int_equal(json_array_size(json_array_get(rows, t)), V);
		for (size_t i = 0; i < V; i++)
			o.logits[t * V + i] = json_number_value(json_array_get(json_array_get(rows, t), i));
	}
	return o;
}

#endif
