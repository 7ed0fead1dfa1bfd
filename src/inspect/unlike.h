/* unlike.h - matrices whose numbers were stored another way before than those of their like in the other layers. */
#ifndef ST_INSPECT_UNLIKE_H
#define ST_INSPECT_UNLIKE_H

#include <stele/model.h>

/* of[i], for every weight of the model: what its numbers came from, and what those of its like did; equal where nothing
 * stands out. */
struct st_unlike {
	enum st_dtype own, others;
	uint32_t n_others;
};
ST_MUST_CHECK enum st_status st_find_unlike(const struct st_model *m, struct st_unlike *of, struct st_error *err);

#endif
