/*
 * export.h - one run of export: what export.c computes, export_factors.c keeps and writes, export_report.c describes.
 */
#ifndef ST_SVF_EXPORT_H
#define ST_SVF_EXPORT_H

#include "svf/job.h"

struct st_svf_export_run {
	const struct st_svf_export_options *o;
	struct st_svf_job job;
	size_t *list, n_list;      /* entries of the reference that components are written for */
	struct st_svd_report *svd; /* [n of the reference]; method NULL where factors were given */
	const char *component_source;
	const char *work_path, *work_dir; /* work_dir: NULL until it was made */
	/* what is written, NULL where nothing is; the stages lie beside what is read back */
	const char *components, *scales, *manifest, *stage_path, *all_stage_path, *read_dir;
	json_t *described, *digests; /* selected_tensor_components; of the stages */
	uint64_t done, total;
	bool matched;
	const char *baseline_label;
	char baseline_hash[65];
};

static inline const struct st_svf_entry *st_svf_export_entry(const struct st_svf_export_run *x, size_t i)
{
	return &x->job.ref.entries[x->list[i]];
}

/* Factors and their files (export_factors.c). Factors come from the file that was given or are computed, an earlier
 * run's taken over where they are the same. */
ST_MUST_CHECK enum st_status st_svf_export_prepare(struct st_svf_export_run *x, struct st_error *err);
void st_svf_export_remove_work(struct st_svf_export_run *x);
/* The component file and the offsets beside it. */
ST_MUST_CHECK enum st_status st_svf_export_components(struct st_svf_export_run *x, struct st_error *err);
json_t *st_svf_export_svd_json(const struct st_svd_report *r);

/* What the report and the debug manifest say (export_report.c). */
/* One element of selected_tensors in the debug manifest and of selected_tensor_components in the report. */
ST_MUST_CHECK enum st_status st_svf_export_describe(struct st_svf_export_run *x, size_t i, struct st_error *err);
/* The sample's source as it is stored and as it is decomposed. */
ST_MUST_CHECK enum st_status st_svf_export_sources(struct st_svf_export_run *x, struct st_error *err);
/* The sample's factors in c, under this key of the report. */
ST_MUST_CHECK enum st_status st_svf_export_bundle(struct st_svf_export_run *x, struct st_container *c, const char *key,
                                                  struct st_error *err);
void st_svf_export_variant(struct st_svf_export_run *x, const struct st_svf_stages *t, const struct st_svf_engine *g,
                           const char *label, const char *source);
ST_MUST_CHECK enum st_status st_svf_export_debug_manifest(struct st_svf_export_run *x, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_export_report(struct st_svf_export_run *x, struct st_error *err);

#endif
