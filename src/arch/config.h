/*
 * config.h - inside of this room: a configuration's members and keys (config_keys.c), what JSON spellings share
 * (config_json.c), and one reader per container. config.c chooses the reader, and fills in and checks what it read.
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

struct st_key_text {
	char text[96];
};
/* The GGUF key of a row for a family: "{arch}.block_count" is "llama.block_count". */
struct st_key_text st_config_gguf_key(const char *family, const char *key);
/* The row of a member for st_json_read_one, with the spellings of config.json or of APR metadata. */
struct st_json_field st_config_json_field(enum st_config_member m, bool apr);
/* Note where a member's value comes from. */
void st_config_said(struct st_config *cfg, enum st_config_member m, const char *key, bool said);
ST_MUST_CHECK enum st_status st_config_unknown_family(const char *key, const char *name, size_t len,
                                                      struct st_error *err);

/* ---- readers ---- */

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

/* ---- JSON (config_json.c) ---- */

/* The JSON object that configures the model: config.json's or the APR metadata; NULL for GGUF. */
const json_t *st_config_object(const struct st_container *c);
/* Refuse keys that change the arithmetic in ways no known family has, then read the members whose rows say JSON, the
 * rotary embedding and the ids of BOS and EOS. */
ST_MUST_CHECK enum st_status st_config_json(const json_t *o, bool apr, struct st_config *cfg, struct st_error *err);
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
/* layer_types, where present: full_attention up to some layer, sliding_attention from it on. */
ST_MUST_CHECK enum st_status st_config_layer_types(const json_t *o, struct st_config *cfg, struct st_error *err);
/* Sliding window as qwen2 and qwen3 spell it: use_sliding_window, sliding_window, max_window_layers. */
ST_MUST_CHECK enum st_status st_config_qwen_window(const json_t *o, struct st_config *cfg, struct st_error *err);

#endif
