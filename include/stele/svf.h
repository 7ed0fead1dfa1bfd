/*
 * stele/svf.h - apply a singular-value adaptation to a base model, and prove it stage by stage.
 *
 * A trained vector rescales the singular values of a few weight matrices of a base model and carries a
 * small linear head that reads one hidden state. docs/svf.md has the formula, the files and their keys.
 */
#ifndef STELE_SVF_H
#define STELE_SVF_H

#include <stele/status.h>

/* How the third factor of W = U diag(S) V^T is stored. */
enum st_svf_layout {
	ST_SVF_TORCH_V, /* V, [in, k]: multiply by its transpose */
	ST_SVF_VH,      /* V^T, [k, in]: multiply as it is */
	ST_SVF_NX,      /* the same bytes under another tool's name */
	ST_SVF_LAYOUT_COUNT
};

/* What to do when two adapted tensors share storage in the base model (embedding and head). */
enum st_svf_tie {
	ST_SVF_INDEPENDENT, /* each from the base model, each kept */
	ST_SVF_COMPOSE,     /* the later one starts from the adapted earlier one */
	ST_SVF_LAST_WINS,   /* each from the base model, both places hold the later one */
	ST_SVF_TIE_COUNT
};

enum st_svf_svd { ST_SVF_GESDD, ST_SVF_GESVJ };

/* What a command has to say, and how it ended: 0 good, 1 a fault was found. Release with
 * st_svf_result_release; strings may be NULL. */
struct st_svf_result {
	char *text; /* for people, ends in a newline */
	char *json; /* for programs: the report */
	int exit_status;
};
void st_svf_result_release(struct st_svf_result *r);

/* Every path below may be NULL where a comment does not say otherwise. */
struct st_svf_export_options {
	const char *model, *reference, *vector, *out; /* required */
	const char *svd_weights;          /* factors: a torch checkpoint or a component file; NULL: computed here */
	const char *write_dir;            /* folder for components and stages */
	const char *readback_dir;         /* folder to read components from; NULL: write_dir */
	bool all_selected, decompose_all; /* every tensor of the reference; computing their factors is allowed */
	bool strict_hash;                 /* exit status 1 unless the reference's hash is met */
	bool no_components, no_stages, digest;
	bool model_bf16;           /* round the base model's weights to bf16 first */
	bool vector_f64;           /* recorded; the arithmetic uses f32 offsets either way */
	enum st_svf_layout layout; /* of svd_weights */
	enum st_svf_tie tie;
	enum st_svf_svd svd;
	uint64_t chunk_rows; /* 0: 8192 */
	int threads;         /* 0: all */
	struct st_hooks hooks;
};
ST_MUST_CHECK enum st_status st_svf_export(const struct st_svf_export_options *o, struct st_svf_result *r,
                                           struct st_error *err);

struct st_svf_replay_options {
	const char *components_dir, *python_report, *stage_dir, *out; /* required */
	const char *reference, *vector;                               /* NULL: those that python_report names */
	const char *model;                                            /* required unless source_from_python */
	const char *filter;                                           /* only tensors whose name contains this */
	bool preferred_only, source_from_python, all_selected, digest, check_f64, model_bf16;
	int tie; /* an st_svf_tie, or -1: as the exporting side recorded */
	uint64_t chunk_rows;
	int threads;
	struct st_hooks hooks;
};
ST_MUST_CHECK enum st_status st_svf_replay(const struct st_svf_replay_options *o, struct st_svf_result *r,
                                           struct st_error *err);

struct st_svf_compare_options {
	const char *a, *b;      /* reports; required */
	const char *tolerances; /* "strict" (default), "f32", or a JSON file */
	bool strict_python, strict_reference;
	uint32_t top; /* largest differences listed per stage that fails; 0: one */
	int threads;
	struct st_hooks hooks;
};
ST_MUST_CHECK enum st_status st_svf_compare(const struct st_svf_compare_options *o, struct st_svf_result *r,
                                            struct st_error *err);

struct st_svf_apply_options {
	const char *model, *reference, *vector, *components, *out; /* required; components: a folder or a file */
	enum st_svf_layout layout;
	enum st_svf_tie tie;
	bool force; /* start over in a folder that holds another artifact */
	bool model_bf16;
	uint64_t chunk_rows;
	int threads;
	struct st_hooks hooks;
};
ST_MUST_CHECK enum st_status st_svf_apply(const struct st_svf_apply_options *o, struct st_svf_result *r,
                                          struct st_error *err);

struct st_svf_route_options {
	const char *artifact, *model, *message; /* required */
	const char *role;                       /* of the message; NULL: "user" */
	const char *transcript;                 /* the whole transcript instead of message */
	const uint32_t *tokens;                 /* these ids instead of tokenizing the transcript */
	size_t n_tokens;
	const char *out;  /* write the trace here */
	const char *mode; /* as st_trace_options */
	int threads;
	struct st_hooks hooks;
};
ST_MUST_CHECK enum st_status st_svf_route(const struct st_svf_route_options *o, struct st_svf_result *r,
                                          struct st_error *err);

#endif
