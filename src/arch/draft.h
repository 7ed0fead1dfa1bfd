/* draft.h - inside of this room: a page that is being drafted, and the edits of its lines. */
#ifndef ST_ARCH_DRAFT_H
#define ST_ARCH_DRAFT_H

#include <stele/family.h>

#include "arch/near.h"

#define ST_DRAFT_TRIED 12u /* pages that are bound, the likeliest first */
#define ST_DRAFT_LINES 4096u

/* One page under the model's name, bound to it. */
struct st_draft_trial {
	size_t page; /* index into st_family_texts */
	char *text;
	struct st_family *f;
	struct st_described *d;
	double cost;
	double likeness; /* of the names of the families */
	size_t changes;  /* names that were replaced */
};

struct st_draft {
	struct st_family_draft out; /* first, so that the one is the other */
	struct st_arena arena;
	struct st_container *c;
	enum st_spelling where;
	const char *own;       /* the name of the architecture */
	const char *names[2];  /* as the page shall say it: model_type and class, or GGUF's */
	const char **patterns; /* tensors' names, every number a "#", each once */
	size_t n_patterns;
	struct st_draft_trial best;
	struct {
		size_t page;
		double cost;
	} tried[ST_DRAFT_TRIED];
	size_t n_tried;
	bool asked;    /* the page was named */
	double chosen; /* the cost of the best as it was chosen */
	struct st_error *err;
};

/* What is said of a line: another text for it, and lines in front. */
struct st_draft_edits {
	char **line;  /* [ST_DRAFT_LINES], by number from 1; NULL: as it is */
	char **front; /* comments */
	size_t changes;
	struct st_arena *arena;
};

/* Absent keys get another name that the file has, else a size of a tensor; missing tensors the likeliest name among those that
 * nothing uses. */
void st_draft_rename_keys(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e);
void st_draft_rename_tensors(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e);
/* Comments on whatever is left: absent and unread keys, missing and unused tensors, a line that does not hold. */
void st_draft_mark(struct st_draft *k, const struct st_draft_trial *t, struct st_draft_edits *e);
/* The text with its edits behind `head`; the caller frees. NULL: no memory. */
char *st_draft_apply(const struct st_draft_trial *t, const struct st_draft_edits *e, const char *head);

#endif
