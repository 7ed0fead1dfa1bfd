/* raw_config.h - two configurations of a family that nobody here knows: what the files say, key by key. */
#ifndef ST_COMPARE_RAW_CONFIG_H
#define ST_COMPARE_RAW_CONFIG_H

#include <stele/compare.h>

struct st_arena;

struct st_raw_configs {
	struct st_config_diff diff[ST_MAX_CONFIG_DIFFS]; /* both files have the key, with other values */
	size_t n_diffs;
	struct st_aside aside[ST_MAX_ASIDES]; /* one file has the key */
	size_t n_asides;
	size_t compared, left_out; /* keys that both have; differences that found no room above */
};

/*
 * The keys of the family (GGUF without "ARCH.", config.json with "." between nested ones). Files of one convention are
 * compared under equal names; between two conventions those keys are compared of which it is known what the other calls
 * them, and numbers whose last word is the same in both; the others are not spoken of. `matters` is false for keys that change nothing that weights compute: names,
 * ids, the longest context. Keys point into the arena.
 */
ST_MUST_CHECK enum st_status st_compare_raw_configs(const struct st_model *a, const struct st_model *b,
                                                    struct st_arena *arena, struct st_raw_configs *out,
                                                    struct st_error *err);

#endif
