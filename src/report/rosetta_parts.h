/* rosetta_parts.h - what the files share that make the text of a comparison of two models. */
#ifndef ST_REPORT_ROSETTA_PARTS_H
#define ST_REPORT_ROSETTA_PARTS_H

#include "report/rosetta.h"

#define ST_ROSETTA_TAG "[ROSETTA] "

/* Puts the sentences of `part`, one a line, on the page, and empties it. */
void st_rosetta_flush(struct st_text *part, const struct st_page *page, struct st_text *out);
/* The same for words that explain what follows: nobody greps for them, so that they never take more than 80 columns. */
void st_rosetta_explain(struct st_text *part, const struct st_page *page, struct st_text *out);
/* `7042 " Paris"`, or the id alone where there is no text. */
void st_rosetta_token(uint32_t id, const char *text, struct st_text *t);

/* rosetta_stages.c: the table of stages; a layer without a finding is one line of it. */
void st_rosetta_stages(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out);

/* rosetta_next.c. Nothing is printed of logits that are the same on both sides: there is nothing to agree about. */
bool st_rosetta_has_next(const struct st_rosetta *r);
/* The figures, as sentences of the summary. */
void st_rosetta_next_summary(const struct st_rosetta *r, struct st_text *t);
/* The positions, and the best five behind the last one. */
void st_rosetta_next(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out);
void st_rosetta_layer_costs(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *out);

#endif
