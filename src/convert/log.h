/*
 * log.h - the lines that a conversion says about itself: notes, what has no place in the output, what was repaired.
 */
#ifndef ST_CONVERT_LOG_H
#define ST_CONVERT_LOG_H

#include "base/mem.h"

struct st_text_list {
	const char **v;
	size_t n, cap;
};

struct st_log {
	struct st_arena *arena; /* the lines; the lists are freed by st_log_release */
	struct st_text_list notes, left, repairs;
	bool failed; /* a line found no memory: whoever makes the result must ask */
};

void st_note(struct st_log *log, const char *fmt, ...) ST_PRINTF(2, 3);
void st_log_line(struct st_log *log, struct st_text_list *l, const char *fmt, ...) ST_PRINTF(3, 4);
/* The text stays where it is; NULL means that no memory was had for it. */
void st_list_add(struct st_log *log, struct st_text_list *l, const char *text);
void st_log_release(struct st_log *log);

#endif
