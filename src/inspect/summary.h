/* summary.h - digest, range, sum and first numbers of a tensor that comes in pieces. */
#ifndef ST_INSPECT_SUMMARY_H
#define ST_INSPECT_SUMMARY_H

#include <stele/status.h>

struct st_sha256;

struct st_summary {
	struct st_sha256 *hash, *hash_bf16;
	bool bf16; /* the elements are bf16 */
	double min, max, sum;
	uint64_t n, nonfinite;
	float prefix[16];
	size_t n_prefix, want_prefix;
	char sha256[65], sha256_bf16[65];
};
/* alt: also the digest of the values as bf16. */
ST_MUST_CHECK enum st_status st_summary_begin(struct st_summary *s, size_t prefix, bool alt, struct st_error *err);
/* The n numbers that follow: floats, or bf16. */
void st_summary_f32(struct st_summary *s, const void *x, uint64_t n);
void st_summary_bf16(struct st_summary *s, const void *x, uint64_t n);
void st_summary_end(struct st_summary *s); /* also releases */

#endif
