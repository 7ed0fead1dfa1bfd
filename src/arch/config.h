/*
 * config.h - inside of this room: the members of a configuration that reports have names for and their keys (config_keys.c),
 * and what files say beside the arithmetic (config_names.c).
 */
#ifndef ST_ARCH_CONFIG_H
#define ST_ARCH_CONFIG_H

#include "arch/arch.h"
#include "json/json.h"

/* ---- members and keys ---- */

enum {
	ST_KEY_JSON = 1, /* read with its row alone, in the containers that the flags name */
	ST_KEY_GGUF = 2,
	ST_KEY_NEEDED = 4,
	ST_KEY_NEEDED_IN_JSON = 8,
};

struct st_config_row {
	const char *name; /* the member of st_config */
	struct st_json_field
		field;      /* its type and place; spellings in config.json. "rope_scaling.factor" is for people */
	const char *gguf;   /* "{arch}" stands for the family; NULL: GGUF has no such key */
	const char *apr[5]; /* spellings in the metadata of APR files, where they are not config.json's */
	unsigned flags;
};
extern const struct st_config_row st_config_rows[ST_CONFIG_MEMBERS];

/* The row of a member for st_json_read_one, with the spellings of config.json or of APR metadata. */
struct st_json_field st_config_json_field(enum st_config_member m, bool apr);
/* Note where a member's value comes from. */
void st_config_said(struct st_config *cfg, enum st_config_member m, const char *key, bool said);
/* ---- beside the arithmetic (config_names.c) ---- */

/* The JSON object that configures the model: config.json's or the APR metadata; NULL for GGUF. */
const json_t *st_config_object(const struct st_container *c);
/* One member by its row; *found says whether the file has it. */
ST_MUST_CHECK enum st_status st_config_json_member(const json_t *o, bool apr, enum st_config_member m,
                                                   struct st_config *cfg, bool *found, struct st_error *err);
/* BOS or EOS: an id, or a list of ids. The first one counts where none was found before; further ones end a text
 * too. */
ST_MUST_CHECK enum st_status st_config_json_id(const json_t *o, bool apr, enum st_config_member m,
                                               struct st_config *cfg, struct st_error *err);
/* What is no arithmetic: the model's name, the ids of BOS and EOS. */
ST_MUST_CHECK enum st_status st_config_json_names(const json_t *o, bool apr, struct st_config *cfg,
                                                  struct st_error *err);
ST_MUST_CHECK enum st_status st_config_gguf_ids(const struct st_container *c, struct st_config *cfg,
                                                struct st_error *err);
ST_MUST_CHECK enum st_status st_config_gguf_names(const struct st_container *c, struct st_config *cfg,
                                                  struct st_error *err);
void st_config_ends_at(struct st_config *cfg, int64_t id);
#endif
