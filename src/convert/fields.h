/*
 * fields.h - the numbers of a configuration and what each container calls them.
 */
#ifndef ST_CONVERT_FIELDS_H
#define ST_CONVERT_FIELDS_H

#include "convert/job.h"

enum st_field_kind { ST_FIELD_U32, ST_FIELD_F64 };

/* A number of st_config and its key in GGUF (behind the family's prefix), config.json and APR. */
struct st_field {
	const char *key; /* as st_compare_configs calls it */
	enum st_field_kind kind;
	size_t offset;
	const char *gguf, *hf, *apr;
	/* APR's other spellings. They are taken out when a file of the second writer becomes one of the first. */
	const char *aliases[5];
};

extern const struct st_field st_fields[];
extern const size_t st_n_fields;

uint32_t st_field_u32(const struct st_config *cfg, const struct st_field *f);
double st_field_f64(const struct st_config *cfg, const struct st_field *f);

/* Set a key of st_compare_configs from its text. False when the key is none that can be set. */
bool st_config_set(struct st_config *cfg, const char *key, const char *text);
/* Has a repair changed a key that begins so? */
bool st_config_edited(const struct st_target *to, const char *prefix);
/* Is this how a container (GGUF: behind the family's prefix) spells a number of the configuration? */
bool st_config_has_key(enum st_format f, const char *key);
/* rope_freqs.weight for llama3's scaling: head_dim / 2 divisors. */
void st_config_rope_divisors(const struct st_config *cfg, float *by);

#endif
