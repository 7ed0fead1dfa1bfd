/* rosetta_parts.c - how a part of the report goes behind those before it. */
#include "report/rosetta_parts.h"

void st_rosetta_flush(struct st_text *part, const struct st_page *page, struct st_text *out)
{
	st_text_wrap(out, part->s ? part->s : "", part->len, ST_ROSETTA_TAG "  ", page->wrap);
	out->failed |= part->failed;
	st_text_release(part);
}

void st_rosetta_explain(struct st_text *part, const struct st_page *page, struct st_text *out)
{
	struct st_page wrapped = *page;
	wrapped.wrap = page->wrap ? page->wrap : 80;
	st_rosetta_flush(part, &wrapped, out);
}
