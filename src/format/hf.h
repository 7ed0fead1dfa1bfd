/* hf.h - the folder in which Hugging Face keeps a model: names of its files, its documents. */
#ifndef ST_FORMAT_HF_H
#define ST_FORMAT_HF_H

#include "format/container.h"

/* The names in a Hugging Face folder as it is written here: documents, config.json first, then patterns of weights;
 * NULL last. */
#define ST_HF_DOCUMENTS 11
extern const char *const st_hf_names[ST_HF_DOCUMENTS + 4];
/* Does the folder hold config.json, tokenizer.json, a .safetensors file or pytorch_model*? */
bool st_hf_is_folder(const char *dir);
/* Is that what Hugging Face calls a model's torch checkpoint, or a shard of it? */
bool st_hf_is_torch(const char *name);
/* Which file of the folder holds the weights: the single .safetensors file or the shard index, or else
 * pytorch_model.bin or its index, in the arena; NULL for a folder with a tokenizer and no weights at all. */
ST_MUST_CHECK enum st_status st_hf_weights(struct st_arena *a, const char *dir, const char **out, struct st_error *err);
/* Load config.json, generation_config.json, tokenizer.json and tokenizer_config.json where they exist.
 * A config.json whose sizes are no counts is refused. */
ST_MUST_CHECK enum st_status st_hf_documents(struct st_container *c, const char *dir, struct st_error *err);

#endif
