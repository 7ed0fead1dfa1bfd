/* near.h - inside of this room: names that are like each other. */
#ifndef ST_ARCH_NEAR_H
#define ST_ARCH_NEAR_H

#include "arch/described.h"

/* How like two names are, from 0 to 1: of the pairs of neighbouring letters that they have, the share that both have. Numbers
 * are all alike. */
double st_name_likeness(const char *a, const char *b);

/* A tensor's name as descriptions write it: "#" for the first number, "@" for the next, without ".weight"; in quotes where
 * it would not be read otherwise. false: it is too long, or has letters that descriptions cannot have. */
bool st_name_source(const char *name, char *buf, size_t size);

/* A tensor's name, every number in it "#". */
void st_name_fold(const char *name, char *buf, size_t size);
/* Whether a name can stand in a page. */
bool st_name_is_word(const char *s);

/* What stands behind the layer's number, or the whole. */
const char *st_name_tail(const char *name);

/* Of the tensors that no weight uses, those that a missing one may be: in the same layer, the likeliest first; at most `most`
 * go into `out`. Their number. Names in any built-in description's weights of that name count. */
size_t st_near_tensors(const struct st_described *d, const struct st_described_fault *fault, size_t most,
                       const struct st_tensor **out, double *likeness);
/* Likewise of keys: those that nothing reads, for a key of the description that is absent. */
size_t st_near_keys(const struct st_described *d, uint32_t key, size_t most, const char **out, double *likeness);

#endif
