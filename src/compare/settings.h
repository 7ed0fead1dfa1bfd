/* settings.h - the keys of two models that one description knows. */
#ifndef ST_COMPARE_SETTINGS_H
#define ST_COMPARE_SETTINGS_H

#include <stele/compare.h>

#include "arch/arch.h"

/*
 * As st_compare_configs(), of all keys that the family's description has. Both models are of one family. one_form: their
 * graphs have the same stages and widths; then a key matters where a stage that names it has other parameters.
 */
size_t st_compare_settings(const struct st_model *a, const struct st_model *b, bool one_form, size_t positions,
                           struct st_config_diff out[ST_MAX_CONFIG_DIFFS]);

/* In which layers each difference shows, between graphs of one form. */
void st_find_layers(const struct st_graph *a, const struct st_graph *b, struct st_config_diff *d, size_t n);

/* What every family has, by the configurations alone. */
size_t st_compare_configs(const struct st_config *a, const struct st_config *b, size_t n_positions,
                          struct st_config_diff out[ST_MAX_CONFIG_DIFFS]);

#endif
