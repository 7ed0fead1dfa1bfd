/* experts.h - experts in another order, and the router with them. */
#ifndef ST_COMPARE_EXPERTS_H
#define ST_COMPARE_EXPERTS_H

#include "compare/move.h"

/* Of models that have graphs of one form: claims the weights of every choice of experts that fits. */
ST_MUST_CHECK enum st_status st_find_expert_orders(struct st_move_search *s);

#endif
