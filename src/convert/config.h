/*
 * config.h - the configuration of the output, in the spelling of each container.
 */
#ifndef ST_CONVERT_CONFIG_H
#define ST_CONVERT_CONFIG_H

#include "convert/convert.h"
#include "convert/keys.h"

/* From GGUF to GGUF: the keys of the source as they are, but for those that a repair has changed. */
ST_MUST_CHECK enum st_status st_config_same_keys(const struct st_input *from, const struct st_target *to,
                                                 struct st_keys *k, struct st_error *err);
ST_MUST_CHECK enum st_status st_config_new_keys(const struct st_target *to, struct st_keys *k, struct st_error *err);
/* config.json, and the metadata of an APR file without its vocabulary; new references. */
ST_MUST_CHECK enum st_status st_config_hf_document(const struct st_conversion *v, json_t **out, struct st_error *err);
ST_MUST_CHECK enum st_status st_config_apr_document(const struct st_conversion *v, json_t **out, struct st_error *err);

/* A number that came out of an f32, as the shortest decimal that gives this f32 again. */
double st_shortest_decimal(double v);
/* "bfloat16": what config.json says of the types of the plan's matrices. */
const char *st_torch_type(const struct st_plan *plan);

#endif
