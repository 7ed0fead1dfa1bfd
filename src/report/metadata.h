/* metadata.h - what a file says of itself, key by key as it spells them. */
#ifndef ST_REPORT_METADATA_H
#define ST_REPORT_METADATA_H

#include <stele/container.h>

#include "report/table.h"

#include <jansson.h>

/* One line per key; lists and long texts are cut, and how long they are is said. */
void st_report_metadata(const struct st_container *c, struct st_text *out, const struct st_page *page);
/* { path, format, documents: { "gguf": { key: value }, "config.json": { .. } } }; nothing is cut. NULL when out of
 * memory. */
json_t *st_report_metadata_json(const struct st_container *c);

#endif
