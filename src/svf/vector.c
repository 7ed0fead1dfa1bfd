/* vector.c - the trained vector: an npy file of f64 or f32, or one tensor of a safetensors file. */
#include "svf/inputs.h"

#include "base/error.h"
#include "base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A vector is some ten thousand numbers; this is room for a thousand times that. */
#define MAX_ELEMS ((uint64_t)1 << 26)

static enum st_status pick(const struct st_container *c, const struct st_tensor **out, struct st_error *err)
{
	const struct st_tensor *t = NULL;
	if (c->format == ST_FORMAT_NPY)
		t = &c->tensors[0];
	else if (c->format == ST_FORMAT_SAFETENSORS)
		t = st_container_find(c, ST_SVF_VECTOR_KEY);
	else
		return st_fail(err, ST_ERR_UNSUPPORTED, "is %s; a vector is an npy or a safetensors file", c->describe);
	if (!t)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, ST_SVF_VECTOR_KEY, "the file has no such tensor");
	if (t->ndim != 1 || (t->dtype != ST_DTYPE_F32 && t->dtype != ST_DTYPE_F64))
		return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name,
		                  "is %s with %u dimensions; a vector is F32 or F64 with one",
		                  st_dtype_info(t->dtype)->name, t->ndim);
	if (t->n_elems == 0 || t->n_elems > MAX_ELEMS)
		return st_fail_at(err, ST_ERR_LIMIT, t->offset, t->name, "has %llu numbers; 1 to %llu are read",
		                  (unsigned long long)t->n_elems, (unsigned long long)MAX_ELEMS);
	*out = t;
	return ST_OK;
}

/* Manifests name the vector by the digest of its safetensors file, header padded to 8 bytes. Made here from the
 * numbers, so that an npy file can be checked against them too. */
static enum st_status as_safetensors(struct st_svf_vector *v, struct st_error *err)
{
	char json[160], header[8 + 168];
	uint64_t bytes = v->n * sizeof *v->f32;
	int n = snprintf(json, sizeof json, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[%llu],\"data_offsets\":[0,%llu]}}",
	                 ST_SVF_VECTOR_KEY, (unsigned long long)v->n, (unsigned long long)bytes);
	uint64_t padded = ((uint64_t)n + 7) / 8 * 8;
	struct st_sha256 *h = st_sha256_new();
	ST_NEED(h);
	memset(header, ' ', sizeof header);
	memcpy(header, &padded, 8);
	memcpy(header + 8, json, (size_t)n);
	st_sha256_update(h, header, 8 + padded);
	st_sha256_update(h, v->f32, bytes);
	uint8_t digest[32];
	st_sha256_final(h, digest);
	st_hex(digest, 32, v->safetensors_sha256);
	return ST_OK;
}

static enum st_status read_open(const struct st_container *c, struct st_arena *a, struct st_svf_vector *v,
                                struct st_error *err)
{
	const struct st_tensor *t;
	ST_TRY(pick(c, &t, err));
	v->n = t->n_elems;
	v->stored = t->dtype;
	v->f32 = st_arena_alloc(a, v->n, sizeof *v->f32);
	ST_NEED(v->f32);
	st_tensor_decode(t, 0, 1, v->f32); /* F64 rounds to nearest even */
	for (uint64_t i = 0; i < v->n; i++)
		if (!isfinite(v->f32[i]))
			return st_fail_at(err, ST_ERR_FORMAT, t->offset + i * st_dtype_info(t->dtype)->block_bytes,
			                  t->name, "number %llu is %s as f32", (unsigned long long)i,
			                  isnan(v->f32[i]) ? "nan" : "infinite");
	ST_TRY(st_sha256_hex(v->f32, v->n * sizeof *v->f32, v->sha256_f32, err));
	ST_TRY(as_safetensors(v, err));
	return st_container_sha256(c, v->file_sha256, err);
}

enum st_status st_svf_vector_read(const char *path, struct st_arena *a, struct st_svf_vector *v, struct st_error *err)
{
	struct st_container *c;
	*v = (struct st_svf_vector){ .path = path };
	ST_TRY(st_container_open(path, &c, err));
	enum st_status st = st_in_file(path, read_open(c, a, v, err), err);
	st_container_close(c);
	return st;
}
