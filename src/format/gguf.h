/* gguf.h - numbers that GGUF's reader and writer share. */
#ifndef ST_FORMAT_GGUF_H
#define ST_FORMAT_GGUF_H

#include "format/writer.h"

#define ST_GGUF_MAX_DIMS 4    /* GGML_MAX_DIMS; the format gives no other bound */
#define ST_GGUF_MAX_KEY 65535 /* the specification's limit on keys */
#define ST_GGUF_MAX_NAME 256  /* llama.cpp takes 63; longer names exist in files of other tools */
#define ST_GGUF_ALIGNMENT 32  /* unless general.alignment says otherwise */

/* Name of a type number, or NULL when no such number was given out. */
const char *st_gguf_type_name(uint32_t type);
/* The names of all types Stele reads from GGUF, separated by spaces. */
void st_gguf_supported(char *buf, size_t n);

#endif
