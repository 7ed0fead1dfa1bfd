/*
 * reference.c - the reference manifest: which tensors, which span of the vector for each.
 *
 * Spans are consumed in the manifest's order and must cover [0, selected_singular_value_count) without gap or
 * overlap. What the vector has beyond is the head. Alphabetical order is a known trap; the manifest's order is the
 * truth.
 */
#include "svf/inputs.h"

#include "base/error.h"

#include <string.h>

#define MAX_ENTRIES 4096

struct document {
	uint64_t version, count, n_scales;
	const char *sha256;
	const json_t *tensors, *sample;
};

#define AT(m) ST_JSON_AT(struct document, m), .required = true
static const struct st_json_field top[] = {
	{ ST_JSON_AT(struct document, version), .key = { "manifest_version", "version" }, .min = 1, .max = 1 },
	{ AT(sha256), .key = { "source_vector_sha256" }, .min = 1 },
	{ AT(count), .key = { "selected_tensor_count" } },
	{ AT(n_scales), .key = { "selected_singular_value_count" } },
	{ ST_JSON_AT_A(struct document, tensors, ST_JSON_LIST), .key = { "selected_tensors" }, .required = true },
	{ ST_JSON_AT_A(struct document, sample, ST_JSON_OBJECT), .key = { "sample_adapted_tensor" }, .required = true },
};

#undef AT
#define AT(m) ST_JSON_AT(struct st_svf_entry, m), .required = true
static const struct st_json_field entry_fields[] = {
	{ AT(source_name), .key = { "source_name" }, .min = 1 },
	{ AT(target_name), .key = { "elixir_name" }, .min = 1 },
	{ AT(shape), .key = { "shape" } },
	{ AT(k), .key = { "singular_values" } },
	{ AT(start), .key = { "offset_start" } },
	{ AT(end), .key = { "offset_end" } },
};

struct sample {
	struct st_svf_entry e;
	uint64_t final[2];
	const char *hash;
};

#undef AT
#define AT(m) ST_JSON_AT(struct sample, m), .required = true
static const struct st_json_field sample_fields[] = {
	{ AT(e.source_name), .key = { "source_name" }, .min = 1 },
	{ AT(e.target_name), .key = { "elixir_name" }, .min = 1 },
	{ AT(e.start), .key = { "offset_start" } },
	{ AT(e.end), .key = { "offset_end" } },
	{ AT(e.shape), .key = { "source_shape" } },
	{ AT(final), .key = { "sample_reconstructed_shape" } },
	{ AT(hash), .key = { "sample_reconstructed_bf16_sha256" }, .min = 1 },
	{ .key = { "reconstructed_shape" } },
	{ .key = { "sample_max_abs_error_zero_offsets" } },
	{ .key = { "sample_reconstructed_bf16_max" } },
	{ .key = { "sample_reconstructed_bf16_min" } },
};
#define ROWS(table) table, sizeof(table) / sizeof *(table)

static enum st_status read_entry(const json_t *o, size_t i, struct st_arena *a, struct st_svf_entry *e,
                                 struct st_error *err)
{
	char where[48];
	snprintf(where, sizeof where, "selected_tensors[%zu]", i);
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where, "is not an object");
	ST_TRY(st_json_read(o, &(struct st_json_read){ .where = where, .refuse_unknown = true }, ROWS(entry_fields), e,
	                    NULL, err));
	uint64_t k = e->rows < e->cols ? e->rows : e->cols;
	e->index = i;
	if (e->k != k)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
		                  "singular_values is %llu, but a matrix [%llu, %llu] has %llu",
		                  (unsigned long long)e->k, (unsigned long long)e->rows, (unsigned long long)e->cols,
		                  (unsigned long long)k);
	if (e->end < e->start || e->end - e->start != k)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
		                  "span [%llu, %llu) does not hold its %llu singular values",
		                  (unsigned long long)e->start, (unsigned long long)e->end, (unsigned long long)k);
	e->turned = st_svf_turns(e->source_name, e->target_name);
	e->safe = st_svf_safe_name(a, e->source_name);
	return st_have(e->safe, err);
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

/* The head has one column for each number of a hidden state: as many as the embedding or the head of the model has.
 * Where the reference selects neither, the rest of the vector says it. */
static enum st_status place_head(struct st_svf_reference *r, const struct st_svf_vector *v, struct st_error *err)
{
	uint64_t hidden = 0, rows = ST_SVF_AGENTS + ST_SVF_ROLES;
	for (size_t i = 0; i < r->n && hidden == 0; i++)
		if (strcmp(r->entries[i].source_name, ST_SVF_EMBEDDING) == 0
		    || strcmp(r->entries[i].source_name, ST_SVF_LM_HEAD) == 0)
			hidden = r->entries[i].cols;
	if (v->n < r->n_scales)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "router vector",
		                  "has %llu numbers, but the spans of %s reach to %llu", (unsigned long long)v->n,
		                  r->path, (unsigned long long)r->n_scales);
	uint64_t left = v->n - r->n_scales;
	hidden = hidden ? hidden : left / rows;
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

static enum st_status read_sample(struct st_svf_reference *r, const json_t *o, struct st_error *err)
{
	static const char where[] = "sample_adapted_tensor";
	struct sample s = { 0 };
	struct st_svf_entry *e = NULL;
	ST_TRY(st_json_read(o, &(struct st_json_read){ .where = where, .refuse_unknown = true }, ROWS(sample_fields),
	                    &s, NULL, err));
	r->expected_hash = s.hash;
	for (size_t i = 0; i < r->n && !e; i++)
		if (strcmp(r->entries[i].source_name, s.e.source_name) == 0)
			e = &r->entries[i];
	if (!e)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "source_name \"%s\" is not among the selected tensors", s.e.source_name);
	if (strcmp(s.e.target_name, e->target_name) != 0 || s.e.start != e->start || s.e.end != e->end
	    || s.e.rows != e->rows || s.e.cols != e->cols)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "disagrees with the entry of %s in selected_tensors", e->source_name);
	/* The names decide; a rectangular shape must then agree, and where the names say nothing a turned shape is
	 * believed. */
	bool as_is = s.final[0] == e->rows && s.final[1] == e->cols,
	     turned = s.final[0] == e->cols && s.final[1] == e->rows;
	if (!as_is && turned)
		e->turned = true;
	if (e->turned ? !turned : !as_is)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, where,
		                  "sample_reconstructed_shape [%llu, %llu] is not what %s gives for [%llu, %llu]",
		                  (unsigned long long)s.final[0], (unsigned long long)s.final[1], e->target_name,
		                  (unsigned long long)e->rows, (unsigned long long)e->cols);
	r->sample = e->index;
	return ST_OK;
}

static enum st_status read_json(struct st_svf_reference *r, const struct st_svf_vector *v, struct st_arena *a,
                                struct st_error *err)
{
	struct document d = { 0 };
	ST_TRY(st_json_read(r->json, &(struct st_json_read){ .refuse_unknown = true }, ROWS(top), &d, NULL, err));
	r->n_scales = d.n_scales;
	r->n = json_array_size(d.tensors);
	if (r->n == 0 || r->n > MAX_ENTRIES)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensors",
		                  "is not a list of 1 to %d tensors", MAX_ENTRIES);
	if (d.count != r->n)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "selected_tensor_count",
		                  "is %llu, but %zu are listed", (unsigned long long)d.count, r->n);
	r->entries = st_arena_alloc(a, r->n, sizeof *r->entries);
	ST_NEED(r->entries);
	for (size_t i = 0; i < r->n; i++)
		ST_TRY(read_entry(json_array_get(d.tensors, i), i, a, &r->entries[i], err));
	ST_TRY(check_spans(r, err));
	ST_TRY(read_sample(r, d.sample, err));
	ST_TRY(place_head(r, v, err));
	if (strcmp(d.sha256, v->file_sha256) != 0 && strcmp(d.sha256, v->safetensors_sha256) != 0)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "source_vector_sha256", "is %.64s, but %s has %s",
		                  d.sha256, v->path, v->safetensors_sha256);
	return ST_OK;
}

enum st_status st_svf_reference_read(const char *path, const struct st_svf_vector *v, struct st_arena *a,
                                     struct st_svf_reference *r, struct st_error *err)
{
	*r = (struct st_svf_reference){ .path = path };
	ST_TRY(st_json_load_object(path, 0, &r->json, err));
	enum st_status st = read_json(r, v, a, err);
	if (st == ST_OK)
		st = st_file_sha256(path, r->file_sha256, NULL, err);
	if (st != ST_OK)
		st_svf_reference_release(r);
	return st_in_file(path, st, err);
}

void st_svf_reference_release(struct st_svf_reference *r)
{
	json_decref(r->json);
	r->json = NULL;
}
