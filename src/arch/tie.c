/* tie.c - a file that says its head is the embedding, and holds another head. */
#include "arch/arch.h"

#include <string.h>

bool st_model_tie_contradicts(const struct st_model *m)
{
	const struct st_weight *head = st_model_role(m, ST_ROLE_HEAD, 0),
			       *embed = st_model_role(m, ST_ROLE_EMBED, 0);
	const struct st_tensor *h = head ? head->tensor : NULL, *e = embed ? embed->tensor : NULL;
	if (st_model_config(m)->tie_said != ST_TIE_YES || !h || !e || h == e)
		return false;
	/* One matrix in two types is a copy as far as anybody can tell without its noise. */
	return h->dtype == e->dtype && h->layout == ST_LAYOUT_ROWS && e->layout == ST_LAYOUT_ROWS
	    && (h->n_bytes != e->n_bytes || memcmp(h->data, e->data, h->n_bytes) != 0);
}
