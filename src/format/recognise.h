/* recognise.h - what a file is, by its first bytes and never by its name. */
#ifndef ST_FORMAT_RECOGNISE_H
#define ST_FORMAT_RECOGNISE_H

#include "base/map.h"

enum st_content {
	ST_CONTENT_UNKNOWN,
	ST_CONTENT_GGUF,
	ST_CONTENT_SAFETENSORS, /* also one that is damaged, where no other format claims it */
	ST_CONTENT_APR,
	ST_CONTENT_APRT,
	ST_CONTENT_NPY,
	ST_CONTENT_ZIP,       /* npz, or a torch checkpoint */
	ST_CONTENT_OLD_TORCH, /* of before torch 1.6 */
	ST_CONTENT_INDEX, /* JSON text: of the files in which this program is told to look for weights, a shard index */
};

enum st_content st_recognise(const struct st_map *m);
ST_MUST_CHECK enum st_status st_recognise_file(const char *path, enum st_content *out, struct st_error *err);

/* Refuse by name what people hand to a model tool by mistake: a Git LFS pointer, a web page, an empty file, ... */
ST_MUST_CHECK enum st_status st_refuse_stranger(const struct st_map *m, struct st_error *err);

#endif
