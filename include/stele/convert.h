/*
 * stele/convert.h - one model from one container into another, and repaired on the way.
 *
 * Stored bytes are kept wherever the target has their type; rows of Q and K move as whole rows.
 * The result is read back through the ordinary reader and compared before it gets its name.
 * Memory does not depend on the model's size.
 */
#ifndef STELE_CONVERT_H
#define STELE_CONVERT_H

#include <stele/model.h>

struct st_convert_options {
	/* Store matrices as this type ("Q8_0"), or as a recipe of llama.cpp says ("Q4_K_M"); NULL: as they are. */
	const char *type;
	/* "gguf", "safetensors" (that file alone), "apr" or "hf" (a Hugging Face folder); NULL: as OUT's suffix says, a
	 * folder where it has none or ends in a slash. */
	const char *format;
	/* Path of an importance matrix in GGUF (llama-imatrix), for encoders that weigh columns; or NULL. */
	const char *imatrix;
	const char *repair; /* path of a report (stele.report/1) whose repair is applied, or NULL */
	char side;          /* 'a' or 'b': which input of the report IN is; 0: as the report says */
	const char *family; /* a description of the model, as in st_model_open_as(); NULL: the file says */
	bool force;         /* replace an existing OUT */
	int threads;        /* 0: all */
	struct st_hooks hooks;
};

struct st_convert_result {
	char from[96], to[96]; /* "GGUF v3", "APR v2 (writer A)" */
	char arch[32];
	uint64_t tensors, bytes;  /* of the output */
	uint64_t untouched;       /* tensors whose stored bytes are the input's, in the same order */
	uint64_t moved;           /* the same with whole rows in another order */
	uint64_t encoded;         /* tensors stored as another type, or as other numbers */
	char checked[64];         /* what was read back and compared: "tensors, configuration, token ids" */
	const char *const *notes; /* what went over in another form, and tensors that did not: one line each */
	size_t n_notes;
	const char *const
		*left_out; /* keys and documents that have no place in the output: one line for each that holds some */
	size_t n_left_out;
	const char *const *repairs; /* what was repaired: one line each */
	size_t n_repairs;
};

/*
 * in: GGUF, safetensors (file, shards, Hugging Face folder) or APR of a known family. out: a new file, or
 * for safetensors a new folder (a name ending in .safetensors: that file alone, without configuration and
 * tokenizer). Nothing is left behind on failure. *result is freed with st_convert_result_free.
 */
ST_MUST_CHECK enum st_status st_convert(const char *in, const char *out, const struct st_convert_options *o,
                                        struct st_convert_result **result, struct st_error *err);
void st_convert_result_free(struct st_convert_result *r);

#endif
