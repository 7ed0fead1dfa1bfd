/*
 * output.h - the output is written under no name, read back, and only then given its name.
 */
#ifndef ST_CONVERT_OUTPUT_H
#define ST_CONVERT_OUTPUT_H

#include "convert/convert.h"

/* One file; a Hugging Face folder. Both set r->bytes. */
ST_MUST_CHECK enum st_status st_output_file(struct st_conversion *v, struct st_convert_result *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_output_folder(struct st_conversion *v, struct st_convert_result *r,
                                              struct st_error *err);
/* folder.c: the documents beside the weights, into the folder `dir`. */
ST_MUST_CHECK enum st_status st_folder_documents(struct st_conversion *v, const char *dir, struct st_error *err);

#endif
