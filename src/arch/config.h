/* config.h - inside of this room: readers of configurations, one per spelling. */
#ifndef ST_ARCH_CONFIG_H
#define ST_ARCH_CONFIG_H

#include "arch/arch.h"

/*
 * Each finds the family and fills cfg with what the file says; 0 and NaN mean "absent". The
 * family's configure, the defaults and the checks follow in st_config_read.
 */
ST_MUST_CHECK enum st_status st_config_gguf(const struct st_container *c, struct st_config *cfg,
                                            const struct st_arch **arch, struct st_error *err);
ST_MUST_CHECK enum st_status st_config_hf(const struct st_container *c, struct st_config *cfg,
                                          const struct st_arch **arch, struct st_error *err);
ST_MUST_CHECK enum st_status st_config_apr(const struct st_container *c, struct st_config *cfg,
                                           const struct st_arch **arch, struct st_error *err);

/* The JSON object that configures the model: config.json's or the APR metadata; NULL for GGUF. */
const json_t *st_config_object(const struct st_container *c);

ST_MUST_CHECK enum st_status st_config_unknown_family(const char *key, const char *name, size_t len,
                                                      struct st_error *err);

/*
 * JSON members. `names` lists spellings of one key, NULL-terminated; null counts as absent. A
 * member of the wrong kind, or two spellings that disagree, are errors that name the key.
 */
typedef const char *const *st_names;
ST_MUST_CHECK enum st_status st_json_u32(const json_t *o, st_names names, uint32_t *out, bool *found,
                                         struct st_error *err);
ST_MUST_CHECK enum st_status st_json_f64(const json_t *o, st_names names, double *out, bool *found,
                                         struct st_error *err);
ST_MUST_CHECK enum st_status st_json_bool(const json_t *o, st_names names, bool *out, bool *found,
                                          struct st_error *err);
ST_MUST_CHECK enum st_status st_json_str(const json_t *o, st_names names, const char **out, bool *found,
                                         struct st_error *err);
/* An id, or the first of a list of ids; absent and negative ones leave *out alone. */
ST_MUST_CHECK enum st_status st_json_id(const json_t *o, st_names names, int64_t *out, struct st_error *err);
#define ST_NAMES(...) ((const char *const[]){ __VA_ARGS__, NULL })

/* A numeric member of struct st_config and its spellings. */
struct st_json_field {
	size_t offset; /* of a uint32_t in struct st_config */
	bool required;
	const char *names[5]; /* NULL-terminated */
};
ST_MUST_CHECK enum st_status st_json_fields(const json_t *o, const struct st_json_field *fields, size_t n,
                                            struct st_config *cfg, struct st_error *err);

/* rope_theta, rope_scaling (4.x) and rope_parameters (transformers 5), which must agree. */
ST_MUST_CHECK enum st_status st_json_rope(const json_t *o, struct st_config *cfg, struct st_error *err);
/* Refuse keys that change the arithmetic in ways no known family has, unless they hold their neutral value. */
ST_MUST_CHECK enum st_status st_json_refuse(const json_t *o, struct st_error *err);
/* layer_types, where present: full_attention up to some layer, sliding_attention from it on. */
ST_MUST_CHECK enum st_status st_json_layer_types(const json_t *o, struct st_config *cfg, struct st_error *err);
/* Sliding window as qwen2 and qwen3 spell it: use_sliding_window, sliding_window, max_window_layers. */
ST_MUST_CHECK enum st_status st_json_qwen_window(const json_t *o, struct st_config *cfg, struct st_error *err);

#endif
