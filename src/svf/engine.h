/*
 * engine.h - the computation: factors of a matrix, and the formula that applies a span of the vector to them.
 *
 * A tensor is worked on in blocks of rows. Nothing of its size is held except V and a result that is turned over.
 */
#ifndef ST_SVF_ENGINE_H
#define ST_SVF_ENGINE_H

#include "kernel/gemm.h"
#include "svf/inputs.h"

#include "format/writer.h"

/* ---- the formula (engine.c) ---- */

/* Where time went, in seconds. */
struct st_svf_times {
	double products, hashing, rest;
};

struct st_svf_engine {
	const struct st_svf_entry *e;
	const struct st_svf_factors *f;
	struct st_row_source source;
	struct st_pool *pool;
	float *offsets, *scaled; /* [k] */
	float norm, sum_s, sum_scaled;
	struct st_gemm_b b;
	uint64_t chunk; /* rows of a block */
	/* of the current block: [n, cols], u and u_scaled [n, k]; offsets are elements */
	float *src, *u, *u_scaled, *matmul, *zero, *adapted;
	uint16_t *bf16;
	float *buffer;
	struct st_svf_row *row_sums; /* [chunk] */
	/* Over all rows so far. */
	double zero_error, zero_error_bf16; /* max |zero - source|, and against the source rounded to bf16 */
	double zero_dd, source_dd;          /* their squares */
	double u_error;                     /* after the last block: |U^T U - 1|, columns against some of them */
	float *gram;                        /* [ST_GRAM, k] */
	struct st_svf_times *times;         /* or NULL */
};

ST_MUST_CHECK enum st_status st_svf_engine_open(struct st_svf_engine *g, const struct st_svf_entry *e,
                                                const struct st_svf_factors *f, const float *offsets,
                                                struct st_row_source source, uint64_t chunk, struct st_pool *pool,
                                                struct st_error *err);
/* All stages for rows [row0, row0 + n), n <= chunk, into the buffers above. */
ST_MUST_CHECK enum st_status st_svf_engine_rows(struct st_svf_engine *g, uint64_t row0, uint64_t n,
                                                struct st_error *err);
/* The adapted rows alone: what `compose` starts the next tensor from. */
ST_MUST_CHECK enum st_status st_svf_engine_adapted(struct st_svf_engine *g, uint64_t row0, uint64_t n, float *dst,
                                                   struct st_error *err);
void st_svf_engine_close(struct st_svf_engine *g);

/* ---- files of factors (factors.c) ---- */

/* Factors of a source, written as svd.{U,S,V}.<safe> (torch_v) to a component file at `path`. */
ST_MUST_CHECK enum st_status st_svf_decompose(const struct st_svf_entry *e, struct st_row_source source,
                                              enum st_svf_svd method, struct st_pool *pool, const char *path,
                                              struct st_svd_report *r, const struct st_hooks *hooks,
                                              struct st_error *err);

/* svd.U, svd.S and svd.V of e, in the arena. */
ST_MUST_CHECK enum st_status st_svf_component_specs(const struct st_svf_entry *e, enum st_svf_layout layout,
                                                    struct st_arena *a, struct st_tensor_spec specs[3],
                                                    struct st_error *err);
/* A safetensors file whose header is padded to 8 bytes. */
ST_MUST_CHECK enum st_status st_svf_file_open(const char *path, const struct st_tensor_spec *specs, size_t n,
                                              struct st_writer **out, struct st_error *err);

#endif
