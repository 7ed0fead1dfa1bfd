/* conventions.h - differences that are the form of a container and no fault, where no family says so. */
#ifndef ST_COMPARE_CONVENTIONS_H
#define ST_COMPARE_CONVENTIONS_H

#include <stele/compare.h>

struct st_conventions {
	enum st_cause_code open[4]; /* found on every weight of its name, and nobody here knows whether that is meant */
	size_t n_open;
	char note[320]; /* what was settled or left open, or empty */
};

/*
 * GGUF keeps some weights in another form than Hugging Face: rows of Q and K in adjacent pairs, norms with their one
 * added, gpt2's matrices turned. Where a cause of that kind is found between two such models on most tensors of its
 * names, it is no fault of those: in a family that GGUF is known to keep so, the weights count as equal or as apart
 * by noise; in others they stay as they are, and the code is listed as open. The few that are not so are at fault, on
 * the side of the GGUF file (`side`).
 */
void st_settle_conventions(const struct st_model *a, const struct st_model *b, struct st_weight_diff *d, size_t n,
                           struct st_conventions *c);
bool st_convention_is_open(const struct st_conventions *c, enum st_cause_code code);

#endif
