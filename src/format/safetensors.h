/* safetensors.h - what safetensors.c, hf.c and the recognition in container.c share. */
#ifndef ST_FORMAT_SAFETENSORS_H
#define ST_FORMAT_SAFETENSORS_H

#include "format/container.h"

/* Limit of the reference implementation; a longer header is refused by every reader. */
#define ST_SAFETENSORS_MAX_HEADER 100000000u

/* A shard index is JSON text. Its first bytes hold no NUL, as the header length of a safetensors file does. */
bool st_safetensors_is_index(const struct st_map *m);

/* A file that a folder or an index calls one of weights may be something else, often a Git LFS pointer: say so. */
ST_MUST_CHECK enum st_status st_safetensors_refuse_stranger(const struct st_map *m, struct st_error *err);

/* A zip file or a pickle, as torch.save writes them; torch's reader says what is wrong with the ones that are not. */
bool st_torch_is(const struct st_map *m);
/* The shards of one checkpoint. Files, tensors, format and description of c. */
ST_MUST_CHECK enum st_status st_torch_shards(struct st_container *c, const char *const *paths, size_t n,
                                             struct st_error *err);

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
