/* safetensors.h - what the reader of safetensors offers to those that find its files. */
#ifndef ST_FORMAT_SAFETENSORS_H
#define ST_FORMAT_SAFETENSORS_H

#include "format/container.h"

/* Limit of the reference implementation; a longer header is refused by every reader. */
#define ST_SAFETENSORS_MAX_HEADER 100000000u

/* Files and tensors of c, from all shards of one model. */
ST_MUST_CHECK enum st_status st_safetensors_shards(struct st_container *c, const char *const *paths, size_t n,
                                                   struct st_error *err);

#endif
