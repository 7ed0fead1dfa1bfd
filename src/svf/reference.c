/*
 * reference.c - the reference manifest: which tensors, which span of the vector for each.
 *
 * Spans are consumed in the manifest's order and must cover [0, selected_singular_value_count) without gap or
 * overlap. What the vector has beyond is the head. Alphabetical order is a known trap; the manifest's order is the
 * truth.
 */
#include "svf/svf.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 4096

static const char *const top_keys[] = { "source_vector_sha256",          "selected_tensor_count",
	                                "selected_singular_value_count", "selected_tensors",
	                                "sample_adapted_tensor",         NULL };
static const char *const top_optional[] = { "version", "manifest_version", NULL };
static const char *const entry_keys[] = { "source_name",  "elixir_name", "shape", "singular_values",
	                                  "offset_start", "offset_end",  NULL };
static const char *const sample_keys[] = { "source_name",
	                                   "elixir_name",
	                                   "offset_start",
	                                   "offset_end",
	                                   "source_shape",
	                                   "sample_reconstructed_shape",
	                                   "sample_reconstructed_bf16_sha256",
	                                   NULL };
static const char *const sample_optional[] = { "reconstructed_shape", "sample_max_abs_error_zero_offsets",
	                                       "sample_reconstructed_bf16_max", "sample_reconstructed_bf16_min", NULL };

static enum st_status check_version(const json_t *o, struct st_error *err)
{
	for (const char *const *k = top_optional; *k; k++) {
		const json_t *v = json_object_get(o, *k);
		if (v && !(json_is_integer(v) && json_integer_value(v) == 1)) {
			char *s = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
			enum st_status st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, *k,
			                               "is %.60s; version 1 is read", s ? s : "?");
			free(s);
			return st;
		}
	}
	return ST_OK;
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }
static bool ends(const char *s, const char *with)
{
	size_t n = strlen(s), k = strlen(with);
	return n >= k && strcmp(s + n - k, with) == 0;
}

static enum st_status read_entry(const json_t *o, size_t i, struct st_arena *a, struct st_svf_entry *e,
                                 struct st_error *err)
{
	char where[48];
	uint64_t shape[2], k;
	snprintf(where, sizeof where, "selected_tensors[%zu]", i);
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where, "is not an object");
	ST_TRY(st_svf_check_keys(o, where, entry_keys, NULL, err));
	ST_TRY(st_svf_get_text(o, where, "source_name", &e->source_name, err));
	ST_TRY(st_svf_get_text(o, where, "elixir_name", &e->target_name, err));
	ST_TRY(st_svf_get_shape(o, where, "shape", shape, err));
	ST_TRY(st_svf_get_u64(o, where, "singular_values", &k, err));
	ST_TRY(st_svf_get_u64(o, where, "offset_start", &e->start, err));
	ST_TRY(st_svf_get_u64(o, where, "offset_end", &e->end, err));
	e->index = i;
	e->rows = shape[0];
	e->cols = shape[1];
	e->k = shape[0] < shape[1] ? shape[0] : shape[1];
	if (k != e->k)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
		                  "singular_values is %llu, but a matrix [%llu, %llu] has %llu", (unsigned long long)k,
		                  (unsigned long long)e->rows, (unsigned long long)e->cols, (unsigned long long)e->k);
	if (e->end < e->start || e->end - e->start != k)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
		                  "span [%llu, %llu) does not hold its %llu singular values",
		                  (unsigned long long)e->start, (unsigned long long)e->end, (unsigned long long)k);
	/* A shape cannot tell whether a square matrix was turned over; the names can. */
	e->turned = starts(e->source_name, "model.layers.") && ends(e->source_name, ".weight")
	         && ends(e->target_name, ".kernel");
	e->safe = st_svf_safe_name(a, e->source_name);
	return e->safe ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static enum st_status check_spans(const struct st_svf_reference *r, struct st_error *err)
{
	uint64_t at = 0;
	for (size_t i = 0; i < r->n; i++) {
		const struct st_svf_entry *e = &r->entries[i];
		if (e->start != at)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
			                  "offset_start is %llu, which leaves %s: the span before ends at %llu",
			                  (unsigned long long)e->start, e->start < at ? "an overlap" : "a gap",
			                  (unsigned long long)at);
		at = e->end;
		for (size_t k = 0; k < i; k++)
			if (strcmp(r->entries[k].source_name, e->source_name) == 0
			    || strcmp(r->entries[k].safe, e->safe) == 0)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
				                  "is selected twice");
	}
	if (at != r->n_scales)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_singular_value_count",
		                  "is %llu, but the spans end at %llu", (unsigned long long)r->n_scales,
		                  (unsigned long long)at);
	return ST_OK;
}

/* The head has one column for each number of a hidden state: the columns of the embedding or of the head of the model,
 * which are where the matrix with the most rows and "embed" or "lm_head" in its name says. */
static enum st_status place_head(struct st_svf_reference *r, const struct st_svf_vector *v, struct st_error *err)
{
	uint64_t hidden = 0, rows = ST_SVF_AGENTS + ST_SVF_ROLES;
	for (size_t i = 0; i < r->n && hidden == 0; i++)
		if (strcmp(r->entries[i].source_name, "model.embed_tokens.weight") == 0
		    || strcmp(r->entries[i].source_name, "lm_head.weight") == 0)
			hidden = r->entries[i].cols;
	if (v->n < r->n_scales)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "router vector",
		                  "has %llu numbers, but the spans of %s reach to %llu", (unsigned long long)v->n,
		                  r->path, (unsigned long long)r->n_scales);
	uint64_t left = v->n - r->n_scales;
	if (hidden == 0)
		hidden = left / rows;
	if (left == 0 || left != rows * hidden)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "router vector",
		                  "has %llu numbers, expected %llu: %llu offsets and a head of %llu x %llu",
		                  (unsigned long long)v->n, (unsigned long long)(r->n_scales + rows * hidden),
		                  (unsigned long long)r->n_scales, (unsigned long long)rows,
		                  (unsigned long long)hidden);
	r->head_rows = rows;
	r->head_cols = hidden;
	return ST_OK;
}

static enum st_status read_sample(struct st_svf_reference *r, struct st_error *err)
{
	const json_t *o = json_object_get(r->json, "sample_adapted_tensor");
	static const char where[] = "sample_adapted_tensor";
	const char *name, *target;
	uint64_t start, end, shape[2], final[2];
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where, "is not an object");
	ST_TRY(st_svf_check_keys(o, where, sample_keys, sample_optional, err));
	ST_TRY(st_svf_get_text(o, where, "source_name", &name, err));
	ST_TRY(st_svf_get_text(o, where, "elixir_name", &target, err));
	ST_TRY(st_svf_get_u64(o, where, "offset_start", &start, err));
	ST_TRY(st_svf_get_u64(o, where, "offset_end", &end, err));
	ST_TRY(st_svf_get_shape(o, where, "source_shape", shape, err));
	ST_TRY(st_svf_get_shape(o, where, "sample_reconstructed_shape", final, err));
	ST_TRY(st_svf_get_text(o, where, "sample_reconstructed_bf16_sha256", &r->expected_hash, err));
	struct st_svf_entry *e = NULL;
	for (size_t i = 0; i < r->n && !e; i++)
		if (strcmp(r->entries[i].source_name, name) == 0)
			e = &r->entries[i];
	if (!e)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "source_name \"%s\" is not among the selected tensors", name);
	if (strcmp(target, e->target_name) != 0 || start != e->start || end != e->end || shape[0] != e->rows
	    || shape[1] != e->cols)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "disagrees with the entry of %s in selected_tensors", name);
	/* The names decide; a rectangular shape must then agree, and where the names say nothing a turned shape is
	 * believed. */
	uint64_t want[2] = { e->turned ? e->cols : e->rows, e->turned ? e->rows : e->cols };
	if (!e->turned && e->rows != e->cols && final[0] == e->cols && final[1] == e->rows)
		e->turned = true;
	else if (final[0] != want[0] || final[1] != want[1])
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "sample_reconstructed_shape [%llu, %llu] is not what %s gives for [%llu, %llu]",
		                  (unsigned long long) final[0], (unsigned long long) final[1], e->target_name,
		                  (unsigned long long)e->rows, (unsigned long long)e->cols);
	r->sample = e->index;
	return ST_OK;
}

static enum st_status read_json(struct st_svf_reference *r, const struct st_svf_vector *v, struct st_arena *a,
                                struct st_error *err)
{
	uint64_t count;
	const char *sha;
	ST_TRY(check_version(r->json, err));
	ST_TRY(st_svf_check_keys(r->json, "", top_keys, top_optional, err));
	ST_TRY(st_svf_get_u64(r->json, "", "selected_tensor_count", &count, err));
	ST_TRY(st_svf_get_u64(r->json, "", "selected_singular_value_count", &r->n_scales, err));
	ST_TRY(st_svf_get_text(r->json, "", "source_vector_sha256", &sha, err));
	const json_t *list = json_object_get(r->json, "selected_tensors");
	r->n = json_array_size(list);
	if (!json_is_array(list) || r->n == 0 || r->n > MAX_ENTRIES)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensors",
		                  "is not a list of 1 to %d tensors", MAX_ENTRIES);
	if (count != r->n)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensor_count",
		                  "is %llu, but %zu are listed", (unsigned long long)count, r->n);
	r->entries = st_arena_alloc(a, r->n, sizeof *r->entries);
	if (!r->entries)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < r->n; i++)
		ST_TRY(read_entry(json_array_get(list, i), i, a, &r->entries[i], err));
	ST_TRY(check_spans(r, err));
	ST_TRY(read_sample(r, err));
	ST_TRY(place_head(r, v, err));
	if (strcmp(sha, v->file_sha256) != 0 && strcmp(sha, v->safetensors_sha256) != 0)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "source_vector_sha256", "is %.64s, but %s has %s",
		                  sha, v->path, v->safetensors_sha256);
	return ST_OK;
}

enum st_status st_svf_reference_read(const char *path, const struct st_svf_vector *v, struct st_arena *a,
                                     struct st_svf_reference *r, struct st_error *err)
{
	*r = (struct st_svf_reference){ .path = path };
	ST_TRY(st_svf_load_json(path, &r->json, err));
	enum st_status st = read_json(r, v, a, err);
	if (st == ST_OK)
		st = st_svf_file_sha256(path, r->file_sha256, err);
	if (st != ST_OK) {
		st_error_in(err, path);
		st_svf_reference_release(r);
	}
	return st;
}

void st_svf_reference_release(struct st_svf_reference *r)
{
	json_decref(r->json);
	r->json = NULL;
}
