/* exported.c - what the report of an exporting side says, as replay and compare read it. */
#include "svf/job.h"

static const char *const schemas[] = { "trinity_sakana_python_svd_parity_trace.v2", NULL };

#define AT(m) ST_JSON_AT(struct st_svf_exported, m)
static const struct st_json_field fields[] = {
	{ AT(schema), .key = { "schema" }, .required = true, .choices = schemas },
	{ AT(tie), .key = { "tie_policy" }, .choices = st_svf_ties },
	{ AT(source), .in = "reference", .key = { "source_name" }, .min = 1 },
	{ AT(reference), .in = "reference", .key = { "path" }, .min = 1 },
	{ AT(label), .in = "reference", .key = { "current_python_baseline_label" } },
	{ AT(hash), .in = "reference", .key = { "current_python_baseline_bf16_sha256" } },
	{ AT(reproducible), .in = "reference", .key = { "expected_hash_reproducible" } },
	{ AT(vector), .in = "inputs", .key = { "router_vector" }, .min = 1 },
	{ AT(components), .in = "inputs", .key = { "readback_components_dir" }, .min = 1 },
	/* The debug section's own names go before those among the inputs. */
	{ AT(sample), .in = "inputs", .key = { "stage_tensor_file" }, .min = 1 },
	{ AT(all), .in = "inputs", .key = { "all_selected_stage_tensor_file" }, .min = 1 },
	{ AT(sample), .in = "stage_debug", .key = { "stage_tensor_file" }, .min = 1 },
	{ AT(all), .in = "stage_debug", .key = { "all_selected_stage_tensor_file" }, .min = 1 },
	{ AT(storage), .in = "stage_debug", .key = { "stage_storage" } },
	{ AT(baseline), .in = "stage_debug", .key = { "baseline_label" } },
	{ AT(digests), .in = "stage_debug", .key = { "digests" } },
};

enum st_status st_svf_exported_read(const json_t *report, struct st_svf_exported *e, struct st_error *err)
{
	*e = (struct st_svf_exported){ 0 };
	return st_json_read(report, NULL, fields, sizeof fields / sizeof *fields, e, NULL, err);
}
