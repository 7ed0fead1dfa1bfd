/*
 * described.h - a family's description bound to a container: settings (described_keys.c), weights
 * (described_weights.c), graph (described_graph.c).
 */
#ifndef ST_ARCH_DESCRIBED_H
#define ST_ARCH_DESCRIBED_H

#include "family/family.h"
#include "format/container.h"
#include "graph/graph.h"

/* Where the value of a key comes from. */
struct st_setting_origin {
	bool said;       /* in the file */
	const char *key; /* as the file spells it; where it does not say it, the first name that would; NULL: none */
};

/* A weight that is missing or does not fit: the first of its tensors. */
struct st_described_fault {
	uint32_t weight;
	int32_t layer;
	const char *tensor; /* its name; NULL: the page is at fault, and `why` tells */
	struct st_error why;
	bool missing;
	uint64_t shape[ST_WEIGHT_RANK]; /* that is wanted; all 0: it is not known */
};

struct st_naming; /* arch/roles.h */

/* How a tensor fits the place that it is found for. */
enum st_use_fit {
	ST_FIT_UNUSED, /* it has none */
	ST_FIT_OK,
	ST_FIT_REVERSED, /* APR: the label lists [in, out] over [out, in] bytes; harmless */
	ST_FIT_MISSING,  /* it has no elements */
	ST_FIT_TRANSPOSED, /* the label says [in, out] where labels are to be believed */
	ST_FIT_SIZE,
	ST_FIT_TYPE, /* integers */
};

/* What a tensor of the container is used for: a weight of the page, or a part of one. */
struct st_described_use {
	enum st_use_fit fit;
	uint32_t weight;
	int32_t layer;
	uint32_t rank;
	uint64_t shape[ST_WEIGHT_RANK]; /* of the weight */
};

struct st_described {
	const struct st_family *family;
	struct st_family *owned; /* the same, where this closes it */
	const struct st_container *c;
	struct st_arena arena;

	struct st_settings settings; /* its keys in the arena */
	struct st_setting_origin *origin;
	uint32_t n_layers, vocab;
	enum st_stage *stage; /* of each of the family's stage names */

	/* One list for each weight of the family: an entry for each layer, or one. A tensor that is NULL: the file has none,
	 * and needs none there. */
	struct st_weight **weights;
	/* Tensors that no weight uses and that mean something, and keys that nothing reads and that may: with any of them the
	 * description is not all of the model. */
	const char **unused, **unread;
	size_t n_unused, n_unread;
	struct st_described_fault *faults; /* one for each weight at most */
	size_t n_faults;
	uint32_t *absent; /* keys that the file must say, and does not */
	size_t n_absent;
	struct st_described_use *uses;          /* by tensor of the container */
	const struct st_tensor *stands_for_embed; /* the tied head, where it alone is stored; or NULL */
	struct st_naming *naming;

	bool bound; /* the configuration is sound and the weights were looked for */
	struct st_graph graph;
	struct st_error problem; /* the first weight that is missing or does not fit, or why there is no graph */
	int32_t problem_layer;   /* of that weight */
};

/*
 * Bind a container to a description: `family`, which must outlive the result, or where it is NULL the built-in one that
 * knows the container's architecture. The container must outlive the result.
 */
ST_MUST_CHECK enum st_status st_described_open(const struct st_container *c, const struct st_family *family,
                                               struct st_described **out, struct st_error *err);
/* The same, but a weight that is missing or does not fit is no failure: its tensor is NULL or the file's as it stands,
 * `problem` says why, and there is no graph. */
ST_MUST_CHECK enum st_status st_described_open_partial(const struct st_container *c, const struct st_family *family,
                                                       struct st_described **out, struct st_error *err);
/* The same, but what is wrong with the configuration is no failure either: `problem` says it, and there may be no weights
 * (`bound` is false). Failures are those of memory, and files that no description could be tried on. */
ST_MUST_CHECK enum st_status st_described_try(const struct st_container *c, const struct st_family *family,
                                              struct st_described **out, struct st_error *err);
void st_described_close(struct st_described *d);

/* How the rotation is stretched: "none", "yarn"; "none" where the family has no rotation. */
const char *st_described_scaling(const struct st_described *d);

/* The column of a page in which the container's tensors have their names. */
enum st_spelling st_described_columns(const struct st_described *d);

/* Whether the description speaks of a key of the file: reads it, or says that it changes no number. */
bool st_described_names(const struct st_described *d, const char *key);

/* Whether a tensor holds frequencies, which early checkpoints stored beside what they follow from. */
bool st_are_frequencies(const char *tensor);

/* The object that configures the text model: config.json, or the part of it for text beside those for pictures. */
const json_t *st_described_config(const struct st_container *c);

/* The key under which a container names its family. */
const char *st_described_arch_key(const struct st_container *c);
/* Why a container is of no family: it names one that nobody knows, or none. */
enum st_status st_described_unknown(const struct st_container *c, struct st_error *err);

/* The built-in family that a container belongs to, parsed; NULL in *out where none is known. */
ST_MUST_CHECK enum st_status st_described_family(const struct st_container *c, struct st_family **out,
                                                 struct st_error *err);

/* The description by which a model was opened, bound; NULL: it was opened without one. */
struct st_model;
const struct st_described *st_model_described(const struct st_model *m);

/* A description by the path of its file or by the name of a built-in one; the name is kept in the arena. */
ST_MUST_CHECK enum st_status st_described_page(const char *name, struct st_arena *arena, struct st_family **out,
                                               struct st_error *err);

/* ---- steps, in this order ---- */

ST_MUST_CHECK enum st_status st_described_settings(struct st_described *d, struct st_error *err);
/* Of the former: sizes and numbers that make no sense in any family (described_sizes.c). */
ST_MUST_CHECK enum st_status st_described_sizes(const struct st_described *d, struct st_error *err);
ST_MUST_CHECK enum st_status st_described_weights(struct st_described *d, struct st_error *err);
/* GGUF files say llama3's rotation by divisors: finds its numbers again and sets the keys (described_rotation.c). */
void st_described_rotation(struct st_described *d);
/* Converters work in f32; for factors up to 64 their divisors are up to 4e-6 off. */
#define ST_DIVISORS_AGREE 1e-5
ST_MUST_CHECK enum st_status st_described_graph(struct st_described *d, struct st_error *err);

/* The settings as they are in a layer; -1: outside the layers. */
static inline struct st_settings st_described_at(const struct st_described *d, int32_t layer)
{
	struct st_settings s = d->settings;
	s.layer = layer;
	return s;
}
/* A failure at a line of the description. */
enum st_status st_described_fail(const struct st_described *d, uint32_t line, struct st_error *err, const char *fmt,
                                 ...) ST_PRINTF(4, 5);
#define st_described_fail(...) st_failure((st_described_fail)(__VA_ARGS__))

#endif
