/*
 * stele/family.h - model families as data: the descriptions that are built in, and whether a description fits a model.
 *
 * docs/descriptions.md is the manual of the language.
 */
#ifndef STELE_FAMILY_H
#define STELE_FAMILY_H

#include <stele/status.h>

/* The built-in descriptions, by name. */
size_t st_family_count(void);
const char *st_family_name(size_t i); /* "gemma2" */
/* The page of text, and its size; NULL where no description is called so. */
const char *st_family_text(const char *name, size_t *size);

struct st_family_value {
	const char *name;  /* of the key, in the description */
	const char *value; /* "4096", "[a, b]"; "" where it is another one in each layer */
	const char *key;   /* as the file spells it; what would say it where it does not; NULL: derived */
	bool said;         /* in the file */
};

#define ST_FAMILY_TOP 5

/* A description bound to a model. Everything lives until st_family_check_close(). */
struct st_family_check {
	const char *family, *file, *sha256; /* of the description */
	uint32_t n_layers, vocab;
	const struct st_family_value *values;
	size_t n_values;
	size_t n_weights; /* bound, those of each layer and expert counted */
	size_t n_stages;
	/* Tensors that no weight uses, and keys that nothing reads and that may change numbers: with any of them the
	 * description is not all of the model. */
	const char *const *unused, *const *unread;
	size_t n_unused, n_unread;
	/* Weights and keys that the file lacks, and weights of another shape: with any of them the check fails. */
	const struct st_family_fault *faults;
	size_t n_faults;
	/* After the tokens: the ids with the largest logits, the largest first. */
	uint32_t top[ST_FAMILY_TOP];
	float logit[ST_FAMILY_TOP];
	size_t n_top; /* 0: nothing was run */
};

/* What is missing or does not fit, with the names that are nearest to it. */
struct st_family_fault {
	const char *what; /* the tensor or key */
	const char *why;  /* "is missing", or what is wrong */
	const char *near[3];
	size_t n_near;
};

/*
 * Bind and run. `family`: the path of a description, the name of a built-in one, or NULL for the built-in one that
 * knows the model. tokens: what to run; none: bind only. threads: 0 = all. Failures name the line of the description,
 * or the key or tensor of the model; where the description could be tried all the same, *out is set beside the failure and
 * says what else does not fit, and nothing was run.
 */
ST_MUST_CHECK enum st_status st_family_check(const char *family, const char *model, const uint32_t *tokens, size_t n,
                                             int threads, struct st_family_check **out, struct st_error *err);
void st_family_check_close(struct st_family_check *c);

/* A description for a model of unknown architecture. Everything lives until st_family_draft_close(). */
struct st_family_draft {
	const char *text;    /* the page */
	const char *nearest; /* the built-in description that it was made from */
	size_t n_marks;      /* places marked "?" */
	bool fits;           /* it binds, and nothing is left over */
};

/*
 * Write a page as far as names, shapes and keys tell: the built-in description that is nearest to them, under the model's own
 * name, with missing names replaced by those in the file that are nearest, and every difference marked "?". What the file
 * does not tell - activations, the order of operations - is the built-in description's. `from`: the name of the built-in
 * description to begin from; NULL: the nearest.
 */
ST_MUST_CHECK enum st_status st_family_draft(const char *model, const char *from, struct st_family_draft **out,
                                             struct st_error *err);
void st_family_draft_close(struct st_family_draft *d);

#endif
