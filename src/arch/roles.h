/* roles.h - inside of this room: spellings of weight names beyond the two canonical ones. */
#ifndef ST_ARCH_ROLES_H
#define ST_ARCH_ROLES_H

#include "arch/arch.h"

struct st_hf_prefix {
	const char *text; /* before "layers.N." and the whole-model names */
	const char *head; /* the whole name of the output matrix */
};
extern const struct st_hf_prefix st_hf_prefixes[]; /* [0]: "model.", the canonical one */
extern const size_t st_hf_prefix_count;

bool st_role_prefixed_name(const struct st_hf_prefix *p, enum st_role role, uint32_t layer, char *buf, size_t n);

/* What follows the layer number in a tensor's name of any convention, or NULL when it names no layer. */
const char *st_layer_suffix(const char *name, uint32_t *layer);

/* The configuration keys that a role's [out, in] come from, for messages. */
void st_role_shape_names(enum st_role role, bool gguf, const char *names[2]);

#endif
