/*
 * inputs.h - what the room reads: the vector, the reference, the base model, the factors; and what files call things.
 *
 * W [rows, cols] = U [rows, k] diag(S [k]) V^T [k, cols], k = min(rows, cols).
 */
#ifndef ST_SVF_INPUTS_H
#define ST_SVF_INPUTS_H

#include <stele/svf.h>

#include "arch/arch.h"
#include "base/files.h"
#include "json/json.h"
#include "linalg/linalg.h"

/* ---- names (names.c) ---- */

enum st_svf_stage {
	ST_SVF_SOURCE,
	ST_SVF_OFFSETS,
	ST_SVF_SCALED_S,
	ST_SVF_NORMALIZATION,
	ST_SVF_U_SCALED,
	ST_SVF_MATMUL,
	ST_SVF_ZERO,
	ST_SVF_ADAPTED,
	ST_SVF_FINAL_F32,
	ST_SVF_FINAL_BF16,
	ST_SVF_STAGES
};
extern const char *const st_svf_stage_names[ST_SVF_STAGES];

#define ST_SVF_COMPONENTS "trinity_svf_components.safetensors"
#define ST_SVF_SCALES "trinity_svf_scale_offsets.safetensors"
#define ST_SVF_DEBUG_MANIFEST "trinity_svf_debug_manifest.json"
#define ST_SVF_STAGE_FILE "trinity_svf_stage_debug.safetensors"
#define ST_SVF_ALL_STAGE_FILE "trinity_svf_all_selected_stage_debug.safetensors"
#define ST_SVF_VECTOR_KEY "trinity_router_es_vector"
#define ST_SVF_HEAD_KEY "trinity_router_head"
#define ST_SVF_EMBEDDING "model.embed_tokens.weight"
#define ST_SVF_LM_HEAD "lm_head.weight"
#define ST_SVF_AGENTS 7
#define ST_SVF_ROLES 3

const char *st_svf_layout_name(enum st_svf_layout l); /* "torch_v", "vh", "nx" */
bool st_svf_layout_parse(const char *s, enum st_svf_layout *out);
extern const char *const st_svf_ties[ST_SVF_TIE_COUNT + 1]; /* "independent", "compose", "last-wins", NULL */
bool st_svf_plain(char c);                                  /* [A-Za-z0-9_.-] */
/* '/' becomes "__", then anything but [A-Za-z0-9_.-]. NULL when out of memory. */
char *st_svf_safe_name(struct st_arena *a, const char *name);
/* Whether a target holds the transpose of its source. A shape cannot tell for a square matrix; the names can. */
bool st_svf_turns(const char *source_name, const char *target_name);

/* The text o[key] of somebody's report; NULL where it is none, or empty. */
static inline const char *st_svf_text_in(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_string_length(v) ? json_string_value(v) : NULL;
}
/* The element of a list of objects whose member `key` is that text; NULL: none. */
const json_t *st_svf_with_text(const json_t *list, const char *key, const char *text);

/* ---- the trained vector (vector.c) ---- */

struct st_svf_vector {
	const char *path;
	float *f32; /* [n], in the arena */
	uint64_t n;
	enum st_dtype stored;
	char file_sha256[65], sha256_f32[65];
	char safetensors_sha256[65]; /* of the numbers as the one-tensor safetensors file that manifests name */
};
ST_MUST_CHECK enum st_status st_svf_vector_read(const char *path, struct st_arena *a, struct st_svf_vector *v,
                                                struct st_error *err);

/* ---- the reference manifest (reference.c) ---- */

struct st_svf_entry {
	size_t index;
	const char *source_name, *target_name, *safe;
	union {
		struct {
			uint64_t rows, cols; /* of the source, [out, in] */
		};
		uint64_t shape[2];
	};
	uint64_t k;          /* singular values */
	uint64_t start, end; /* span of the vector */
	bool turned;         /* the target holds the transpose */
};

/* Spans in its own order, checked against the vector. */
struct st_svf_reference {
	const char *path;
	char file_sha256[65];
	json_t *json;
	struct st_svf_entry *entries; /* in manifest order */
	size_t n;
	uint64_t n_scales;             /* of all spans: [0, n_scales) of the vector */
	uint64_t head_rows, head_cols; /* [n_scales, n) */
	size_t sample;                 /* index of the sample tensor */
	const char *expected_hash;
};
ST_MUST_CHECK enum st_status st_svf_reference_read(const char *path, const struct st_svf_vector *v, struct st_arena *a,
                                                   struct st_svf_reference *r, struct st_error *err);
void st_svf_reference_release(struct st_svf_reference *r);

/* ---- the base model (base_model.c) ---- */

struct st_svf_base {
	const char *path;
	struct st_model *model; /* GGUF and APR; else NULL */
	struct st_container *c; /* owned when there is no model */
	char sha256[65];
	bool round_bf16;
};
ST_MUST_CHECK enum st_status st_svf_base_open(const char *path, bool round_bf16, const struct st_hooks *hooks,
                                              struct st_svf_base *b, struct st_error *err);
void st_svf_base_close(struct st_svf_base *b);
const struct st_container *st_svf_base_container(const struct st_svf_base *b);
/* The weight by its Hugging Face name, whatever the file calls it; the head of a tied model is its embedding. */
ST_MUST_CHECK enum st_status st_svf_base_find(const struct st_svf_base *b, const struct st_svf_entry *e,
                                              struct st_weight *w, struct st_error *err);
bool st_svf_base_tied(const struct st_svf_base *b, const struct st_svf_entry *x, const struct st_svf_entry *y);
/* Rows of a tensor as they are; ctx is a const struct st_tensor **. */
enum st_status st_svf_tensor_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);
/* Rows of a stored weight; ctx is a struct st_svf_weight_rows. */
struct st_svf_weight_rows {
	struct st_weight w;
	bool round_bf16;
	struct st_pool *pool;
};
enum st_status st_svf_weight_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);

/* ---- the factors of one tensor (factors.c); U stays where it is ---- */

struct st_svf_factors {
	const char *path; /* of the file they are in */
	const struct st_tensor *u, *s_view, *v_view;
	float *s, *v; /* owned */
	enum st_svf_layout layout;
	bool descending;
	double v_error; /* |V^T V - 1|, columns against some of them */
};
/* From a torch checkpoint (<source>.U) or a component file (svd.U.<safe>); checks names, shapes and numbers. */
ST_MUST_CHECK enum st_status st_svf_factors_open(const struct st_container *c, const struct st_svf_entry *e,
                                                 enum st_svf_layout layout, struct st_svf_factors *f,
                                                 struct st_error *err);
void st_svf_factors_close(struct st_svf_factors *f);

#endif
