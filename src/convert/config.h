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

#endif
