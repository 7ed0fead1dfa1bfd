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

/* How the file calls its weights (names.c). */
struct st_plain_name {
	const char *name; /* without the parts that wrappers put into it */
	const struct st_tensor *tensor;
};
struct st_naming {
	const struct st_container *c;
	struct st_arena *arena;
	bool gguf;
	bool found;                  /* the prefix, not only supposed */
	struct st_hf_prefix prefix;  /* with Hugging Face names; what wrappers put in front of all included */
	struct st_plain_name *plain; /* sorted by name; NULL where no name has a wrapper inside */
	size_t n;
	const char *front; /* what stands in front of all names; NULL: nothing */
	unsigned wrapped;  /* which parts were taken off, a bit for each */
	const char **own;  /* of each tensor of the container: its name without wrappers; NULL: as it stands */
};

/* anchor: a name that tells where the others begin, beside those of the usual embedding and norm; or NULL. Everything lies
 * in the arena, which like the container must outlive the naming. */
ST_MUST_CHECK enum st_status st_naming_find(struct st_naming *n, const struct st_container *c, const char *anchor,
                                            struct st_arena *arena, struct st_error *err);
/* The tensor of a name as Hugging Face has it: "model.layers.0.input_layernorm.weight", "transformer.wte.weight". */
const struct st_tensor *st_naming_look_up(const struct st_naming *n, const char *name);
/* A tensor's name without all that. */
const char *st_naming_own(const struct st_naming *n, const struct st_tensor *t);
/* Whether a tensor, which has no place in the text model, stands beside it, as heads of other tasks do. */
bool st_naming_is_beside(const struct st_naming *n, const struct st_tensor *t);
/* Says behind the container's description what names are read without. */
ST_MUST_CHECK enum st_status st_naming_say(const struct st_naming *n, struct st_container *c, struct st_error *err);

#endif
