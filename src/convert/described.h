/* described.h - a model of a described family into another container: tensors, keys and the check by its page. */
#ifndef ST_CONVERT_DESCRIBED_H
#define ST_CONVERT_DESCRIBED_H

#include "arch/described.h"
#include "convert/convert.h"
#include "convert/keys.h"

/* Every tensor that the page has in the target, made of the weights whose sources it is (described.c). */
ST_MUST_CHECK enum st_status st_described_jobs(struct st_conversion *v, struct st_error *err);
/* The keys of the page as GGUF's, and as config.json (described_keys.c). */
ST_MUST_CHECK enum st_status st_described_new_keys(const struct st_conversion *v, struct st_keys *k,
                                                   struct st_error *err);
ST_MUST_CHECK enum st_status st_described_document(const struct st_conversion *v, json_t **out, struct st_error *err);
/*
 * Whether GGUF spells the stretched rotation of the model as a tensor of divisors and not by keys: llama3's. A kind that
 * its readers do not know is ST_ERR_UNSUPPORTED.
 */
ST_MUST_CHECK enum st_status st_described_divides(const struct st_described *d, bool *yes, struct st_error *err);
/* The key of config.json that says what a weight of longrope's divisors holds; ST_FAMILY_NONE: it is no such weight. */
uint32_t st_described_factors(const struct st_described *d, const char *weight);
/* The name of the family in the target: of a class (Gemma2ForCausalLM) or of a type (gemma2). */
const char *st_described_called(const struct st_described *d, enum st_spelling where, bool class);

#endif
