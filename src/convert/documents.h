/*
 * documents.h - the documents beside the weights of a Hugging Face folder.
 */
#ifndef ST_CONVERT_DOCUMENTS_H
#define ST_CONVERT_DOCUMENTS_H

#include "convert/job.h"

/* Does a document go from folder to folder; is it a spelling of the vocabulary? */
bool st_document_is_kept(const char *name);
bool st_document_is_vocabulary(const char *name);
/* A text beside the weights, in the arena; NULL where there is no such file. */
ST_MUST_CHECK enum st_status st_document_text(const struct st_input *from, struct st_arena *arena, const char *name,
                                              const char **text, size_t *len, struct st_error *err);

#endif
