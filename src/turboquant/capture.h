/*
 * capture.h - a captured decode step: params, and raw little-endian f32 and u8 files beside them. The same two tables
 * read a manifest and write one.
 */
#ifndef ST_TURBOQUANT_CAPTURE_H
#define ST_TURBOQUANT_CAPTURE_H

#include "base/map.h"
#include "json/json.h"
#include "turboquant/oracle.h"

/* The members of `params`. */
struct st_capture_params {
	struct st_tq_params p;
	uint32_t bits, signs; /* 0: not stated; 0 none, 1 D1 */
};
enum { ST_N_CAPTURE_PARAMS = 13 };
extern const struct st_json_field st_capture_params[ST_N_CAPTURE_PARAMS];

/* The files of `dump_paths`, and of `compact_sources` from ST_CAPTURE_COMPACT on. A path is relative to the manifest's
 * own folder. */
enum st_capture_file {
	ST_CAPTURE_K_CODES,
	ST_CAPTURE_V_CODES,
	ST_CAPTURE_K_NORMS,
	ST_CAPTURE_V_NORMS,
	ST_CAPTURE_Q,
	ST_CAPTURE_K_PRE,
	ST_CAPTURE_V_PRE,
	ST_CAPTURE_MADE, /* the ones before it are in every capture that is made */
	ST_CAPTURE_K_CANARY = ST_CAPTURE_MADE,
	ST_CAPTURE_V_CANARY,
	ST_CAPTURE_COMPACT,
	ST_CAPTURE_FILES = ST_CAPTURE_COMPACT + 4
};
extern const struct st_capture_source {
	const char *key[2], *file; /* spellings; the name in a capture that is made, or NULL */
	enum { ST_HOLDS_CODES, ST_HOLDS_NORMS, ST_HOLDS_QUERY, ST_HOLDS_VALUES } holds;
	bool required;
} st_capture_sources[ST_CAPTURE_FILES];
/* Bytes that the params imply. */
uint64_t st_capture_bytes(const struct st_tq_params *p, unsigned bits, enum st_capture_file f);

struct st_capture {
	struct st_tq_params p;
	struct st_tq_codec codec;
	struct st_tq_kv kv;
	const float *q;                       /* [H, d] */
	const float *norms_canary[2];         /* or NULL */
	const float *pre[2];                  /* [G, n_pre, d]: before quantisation, or NULL */
	uint32_t n_pre;                       /* the newest positions, chronological: L of them, or 1 */
	struct st_tq_kv compact;              /* the same sequence in rows 0..L-1 of [G, L, ..], or NULLs */
	json_t *unread;                       /* names of params that nothing reads; in no order */
	struct st_map maps[ST_CAPTURE_FILES]; /* keep all of it; size 0: not there */
};
/* bits 0 and signs -1: as the manifest says. */
ST_MUST_CHECK enum st_status st_capture_open(struct st_capture *c, const char *manifest, unsigned bits, int signs,
                                             enum st_cpu cpu, struct st_error *err);
void st_capture_close(struct st_capture *c);
/* The cache that the references read, and its layout: compact_sources where the capture has them. */
const struct st_tq_kv *st_capture_reference(const struct st_capture *c, struct st_tq_params *p);
/* The values of position i before quantisation; NULL where the capture does not hold them. */
const float *st_capture_pre(const struct st_capture *c, bool v, uint32_t g, uint32_t i);
/* Where position i of the sequence lies among [G, P] rows. */
static inline size_t st_capture_row(const struct st_tq_params *p, uint32_t g, uint32_t i)
{
	return (size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + i) % p->kv_capacity;
}

#endif
