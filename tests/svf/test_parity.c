/* Export, replay and compare on a small model: they agree with each other and with a second implementation, and each
 * planted fault is caught at its stage and named. */
#include "fixture.h"

#include <math.h>

static struct fx fx;
static char components[128], python[128];

static void run_export(const struct st_svf_export_options *o, int want)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_svf_export(o, &r, &err), &err);
	assert_int_equal(r.exit_status, want);
	assert_non_null(r.text);
	assert_non_null(r.json);
	st_svf_result_release(&r);
}

static struct st_svf_export_options export_options(void)
{
	return (struct st_svf_export_options){ .model = fx.model,
		                               .reference = fx.reference,
		                               .vector = fx.st,
		                               .out = python,
		                               .write_dir = components,
		                               .all_selected = true,
		                               .decompose_all = true,
		                               .chunk_rows = 100,
		                               .threads = 2 };
}

static int open_fixture(void **state)
{
	(void)state;
	fx_open(&fx);
	snprintf(components, sizeof components, "%s", fx_path(&fx, "components"));
	snprintf(python, sizeof python, "%s", fx_path(&fx, "python.json"));
	struct st_svf_export_options o = export_options();
	run_export(&o, 0);
	return 0;
}

static int close_fixture(void **state)
{
	(void)state;
	fx_close(&fx);
	return 0;
}

static json_t *load(const char *path)
{
	json_error_t e;
	json_t *j = json_load_file(path, 0, &e);
	if (!j)
		fail_msg("%s: %s", path, e.text);
	return j;
}

static json_t *at(json_t *j, const char *a, const char *b)
{
	json_t *v = json_object_get(j, a);
	return b ? json_object_get(v, b) : v;
}

/* Compare and parse what it says. */
static json_t *compare(const char *a, const char *b, const char *tolerances, int want)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_compare_options o = { .a = a, .b = b, .tolerances = tolerances, .top = 3, .threads = 2 };
	assert_ok(st_svf_compare(&o, &r, &err), &err);
	if (r.exit_status != want)
		fail_msg("exit status %d:\n%s", r.exit_status, r.text);
	json_t *j = json_loads(r.json, 0, NULL);
	assert_non_null(j);
	assert_int_equal(strstr(r.text, "verdict: match") != NULL, want == 0);
	st_svf_result_release(&r);
	return j;
}

static const char *first_fault(const json_t *j, const char *tensor, const char *orientation)
{
	size_t i;
	json_t *t;
	json_array_foreach(json_object_get(j, "tensors"), i,
	                   t) if (!strcmp(json_string_value(json_object_get(t, "source_name")), tensor)
	                          && !strcmp(json_string_value(json_object_get(t, "orientation")),
	                                     orientation)) return json_string_value(json_object_get(t, "first_fault"));
	return "absent";
}

/* A finding with that code (in that tensor at that stage, where given). */
static bool found(const json_t *j, const char *code, const char *tensor, const char *stage, bool confirmed)
{
	size_t i;
	json_t *f;
	json_array_foreach(json_object_get(j, "findings"), i, f)
	{
		const char *t = json_string_value(json_object_get(f, "tensor")),
			   *s = json_string_value(json_object_get(f, "stage"));
		if (!strcmp(json_string_value(json_object_get(f, "code")), code)
		    && (!tensor || (t && !strcmp(t, tensor))) && (!stage || (s && !strcmp(s, stage)))
		    && json_is_true(json_object_get(f, "confirmed")) == confirmed)
			return true;
	}
	char *s = json_dumps(json_object_get(j, "findings"), JSON_INDENT(1));
	fprintf(stderr, "# no %s: %s\n", code, s);
	free(s);
	return false;
}

static bool named(const json_t *j, const char *code)
{
	size_t i;
	json_t *f;
	json_array_foreach(json_object_get(j, "findings"), i,
	                   f) if (!strcmp(json_string_value(json_object_get(f, "code")), code)) return true;
	return false;
}

/* ---- the exported files ---- */

static void test_export_files(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_components.safetensors"), &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 27);
	const struct st_tensor *t = st_container_find(c, "svd.V.model.layers.1.mlp.down_proj.weight");
	assert_true(t && t->shape[0] == 192 && t->shape[1] == 64);
	st_container_close(c);
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_scale_offsets.safetensors"), &c, &err), &err);
	float *o = fx_values(c, "svf.scale_offsets.%s", "lm_head.weight");
	assert_memory_equal(o, fx.vector + 512, 64 * 4);
	free(o);
	st_container_close(c);
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_all_selected_stage_debug.safetensors"), &c,
	                            &err),
	          &err);
	assert_int_equal(st_container_n_tensors(c), 90);
	t = st_container_find(c, "tensor.model.layers.1.mlp.gate_proj.weight.final_bf16");
	assert_true(t && t->dtype == ST_DTYPE_BF16 && t->shape[0] == 192);
	st_container_close(c);
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_stage_debug.safetensors"), &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 10);
	t = st_container_find(c, "stage.final_f32");
	assert_true(t && t->shape[0] == 64 && t->shape[1] == 192);
	assert_true(st_container_find(c, "stage.normalization")->ndim == 1);
	st_container_close(c);

	json_t *m = load(fx_path(&fx, "components/trinity_svf_debug_manifest.json")), *r = load(python);
	assert_string_equal(json_string_value(at(m, "schema", NULL)), "trinity_sakana_selected_component_debug.v1");
	assert_int_equal(json_array_size(at(m, "selected_tensors", NULL)), 9);
	assert_string_equal(json_string_value(at(r, "schema", NULL)), "trinity_sakana_python_svd_parity_trace.v2");
	assert_string_equal(json_string_value(at(r, "tie_policy", NULL)), "independent");
	assert_int_equal(json_integer_value(at(r, "coverage", "covered")), 9);
	assert_true(json_array_size(at(r, "files", NULL)) >= 7);
	assert_int_equal(strlen(json_string_value(at(r, "base_model_sha256", NULL))), 64);
	assert_non_null(at(r, "environment", "cpu_level"));
	/* Digests are of the bytes that stand in the files. */
	size_t i;
	json_t *f;
	json_array_foreach(at(r, "files", NULL), i, f)
	{
		char hex[65];
		fx_sha(json_string_value(json_object_get(f, "path")), hex);
		assert_string_equal(hex, json_string_value(json_object_get(f, "sha256")));
	}
	json_t *v = json_array_get(at(r, "variants", NULL), 1);
	assert_string_equal(json_string_value(at(v, "label", NULL)), "python_safetensors_readback_torch_v_final_bf16");
	assert_true(json_number_value(at(v, "zero_offset_max_abs_error_vs_source", NULL)) < 1e-5);
	json_decref(m);
	/* Embedding and head are one matrix and so have one decomposition: factors, offsets of its own. */
	json_t *list = at(r, "selected_tensor_components", NULL), *first = json_array_get(list, 0),
	       *last = json_array_get(list, 8);
	assert_true(json_number_value(at(first, "svd", "seconds")) > 0
	            && json_number_value(at(last, "svd", "seconds")) == 0);
	assert_true(json_equal(at(first, "svd", "relative_residual"), at(last, "svd", "relative_residual")));
	json_decref(r);
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_components.safetensors"), &c, &err), &err);
	for (size_t k = 0; k < 3; k++) {
		char fmt[16];
		snprintf(fmt, sizeof fmt, "svd.%c.%%s", "USV"[k]);
		float *a = fx_values(c, fmt, "model.embed_tokens.weight"), *b = fx_values(c, fmt, "lm_head.weight");
		assert_memory_equal(a, b, 4 * (k == 0 ? 512 * 64 : k == 1 ? 64 : 64 * 64));
		free(a);
		free(b);
	}
	st_container_close(c);
	/* Nothing is left of the work. */
	assert_int_not_equal(access(fx_path(&fx, "python.json.work"), F_OK), 0);
}

/* ---- replay ---- */

static struct st_svf_replay_options replay_options(const char *stages, const char *out)
{
	return (struct st_svf_replay_options){ .components_dir = components,
		                               .python_report = python,
		                               .reference = fx.reference,
		                               .vector = fx.npy,
		                               .model = fx.model,
		                               .stage_dir = stages,
		                               .out = out,
		                               .all_selected = true,
		                               .tie = -1,
		                               .chunk_rows = 37,
		                               .threads = 2 };
}

static void run_replay(const struct st_svf_replay_options *o, int want)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_svf_replay(o, &r, &err), &err);
	if (r.exit_status != want)
		fail_msg("exit status %d:\n%s", r.exit_status, r.text);
	st_svf_result_release(&r);
}

static void test_replay(void **state)
{
	(void)state;
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages"), fx_path(&fx, "replay.json"));
	o.check_f64 = true;
	run_replay(&o, 0);
	json_t *r = load(o.out), *j = compare(python, o.out, "f32", 0);
	assert_false(json_is_true(at(r, "selection", "source_from_python_stage")));
	assert_int_equal(json_array_size(at(r, "semantic_python_component_variants", NULL)),
	                 11); /* sample, its other layout, nine */
	json_t *v = json_array_get(at(r, "semantic_python_component_variants", NULL), 0);
	assert_true(json_is_true(at(v, "matches_python_current", NULL)));
	assert_int_equal(json_array_size(at(v, "stage_debug", "checks")), 10);
	double ours = json_number_value(
		json_object_get(json_object_get(at(v, "f64_check", "adapted_source_f32"), "ours"), "max_abs_error"));
	assert_true(ours > 0 && ours < 1e-5);
	assert_int_equal(json_integer_value(at(j, "coverage", "covered")), 9);
	json_decref(r);
	json_decref(j);
	/* The same bits with blocks of other sizes: every stage equal, so also the files. */
	json_t *k = load(fx_path(&fx, "replay.json"));
	size_t i, n;
	json_t *x, *c;
	json_array_foreach(at(k, "semantic_python_component_variants", NULL), i, x)
		json_array_foreach(json_object_get(json_object_get(x, "stage_debug"), "checks"), n, c)
			assert_true(json_is_true(json_object_get(c, "byte_match")));
	json_decref(k);
}

static void test_source_from_stage(void **state)
{
	(void)state;
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages_py"), fx_path(&fx, "replay_py.json"));
	o.model = NULL;
	o.source_from_python = true;
	o.filter = "mlp";
	run_replay(&o, 0);
	json_t *r = load(o.out);
	assert_true(json_is_true(at(r, "selection", "source_from_python_stage")));
	assert_int_equal(json_integer_value(at(r, "coverage", "covered")), 3);
	assert_non_null(strstr(json_string_value(json_array_get(at(r, "warnings", NULL), 0)), "source_f32: is copied"));
	json_decref(r);
	/* The three that were asked for are there; that nine were selected is said. */
	json_t *j = compare(python, o.out, NULL, 0);
	assert_string_equal(json_string_value(at(j, "verdict", NULL)), "match");
	assert_int_equal(json_integer_value(at(j, "coverage", "covered")), 3);
	assert_int_equal(json_integer_value(at(j, "coverage", "expected")), 3);
	assert_int_equal(json_integer_value(at(j, "coverage", "selected")), 9);
	json_decref(j);
	/* One of them lost, or none asked for: that is not all of them. */
	json_t *less = load(o.out);
	json_array_remove(at(less, "semantic_python_component_variants", NULL), 3);
	fx_json(fx_path(&fx, "replay_less.json"), less);
	j = compare(python, fx_path(&fx, "replay_less.json"), NULL, 1);
	assert_string_equal(json_string_value(at(j, "verdict", NULL)), "incomplete");
	json_decref(j);
	less = load(o.out);
	json_object_set_new(at(less, "selection", NULL), "selected_source_filter", json_string("no such tensor"));
	fx_json(fx_path(&fx, "replay_less.json"), less);
	j = compare(python, fx_path(&fx, "replay_less.json"), NULL, 1);
	assert_string_equal(json_string_value(at(j, "verdict", NULL)), "incomplete");
	json_decref(j);

	/* All nine: equal throughout, and the source is the other side's: told, and no check of it. */
	o.filter = NULL;
	o.stage_dir = fx_path(&fx, "stages_copied");
	o.out = fx_path(&fx, "replay_copied.json");
	run_replay(&o, 0);
	j = compare(python, o.out, NULL, 0);
	json_t *first = json_array_get(at(j, "tensors", NULL), 0);
	assert_string_equal(json_string_value(at(j, "verdict", NULL)), "match");
	assert_int_equal(json_integer_value(at(j, "coverage", "covered")), 9);
	assert_int_equal(json_array_size(at(j, "coverage", "copied")), 10);
	for (size_t s = 0; s < 10; s++) {
		json_t *stage = json_array_get(at(first, "stages", NULL), s);
		assert_int_equal(json_is_true(json_object_get(stage, "copied")), s == 0);
		assert_int_equal(json_is_true(json_object_get(stage, "passed")), s != 0);
		assert_true(json_is_true(json_object_get(stage, "byte_match")));
	}
	json_decref(j);
	const char *path = fx_path(&fx, "tol_copied.json");
	fx_json(path, json_pack("{s:{s:b}}", "source_f32", "required", 0));
	j = compare(python, o.out, path, 0);
	assert_int_equal(json_integer_value(at(j, "coverage", "covered")), 9);
	assert_int_equal(json_array_size(at(j, "coverage", "copied")), 10);
	json_decref(j);
	/* A side that read the base model for itself is proved by one that copied it from a third. */
	run_replay(&(struct st_svf_replay_options){ .components_dir = components,
	                                            .python_report = python,
	                                            .reference = fx.reference,
	                                            .vector = fx.npy,
	                                            .model = fx.model,
	                                            .stage_dir = fx_path(&fx, "stages_own"),
	                                            .out = fx_path(&fx, "replay_own.json"),
	                                            .all_selected = true,
	                                            .tie = -1,
	                                            .threads = 2 },
	           0);
	json_decref(compare(fx_path(&fx, "replay_own.json"), fx_path(&fx, "replay_copied.json"), NULL, 0));
	/* Two that both copied from a third show nothing about the source to each other. */
	o.stage_dir = fx_path(&fx, "stages_copied_too");
	o.out = fx_path(&fx, "replay_copied_too.json");
	run_replay(&o, 0);
	j = compare(fx_path(&fx, "replay_copied_too.json"), fx_path(&fx, "replay_copied.json"), NULL, 1);
	assert_string_equal(json_string_value(at(j, "verdict", NULL)), "incomplete");
	json_decref(j);
}

/* Two reports of the sample alone, over stage files that a test writes. */
struct pair {
	struct fx_out out[10]; /* sound stages */
	float *f32[10];
	uint16_t *bf16;
	char keys[10][64], stages[128], other[128], a[128], b[128];
};

static void open_pair(struct pair *p)
{
	static const char *const names[] = { "source_f32", "offsets_f32",     "scaled_s",        "normalization",
		                             "u_scaled",   "matmul_pre_norm", "zero_source_f32", "adapted_source_f32",
		                             "final_f32",  "final_bf16" };
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_stage_debug.safetensors"), &c, &err), &err);
	for (size_t i = 0; i < 10; i++) {
		const struct st_tensor *t = st_container_find(
			c, (snprintf(p->keys[i], sizeof p->keys[i], "stage.%s", names[i]), p->keys[i]));
		p->f32[i] = fx_values(c, "stage.%s", names[i]);
		p->out[i] = (struct fx_out){
			p->keys[i], t->dtype, t->ndim, { t->shape[0], t->ndim > 1 ? t->shape[1] : 0 }, p->f32[i]
		};
	}
	p->bf16 = fx_bf16(p->f32[9], 64 * 192);
	p->out[9].data = p->bf16;
	st_container_close(c);
	snprintf(p->stages, sizeof p->stages, "%s", fx_path(&fx, "mis_a.safetensors"));
	snprintf(p->other, sizeof p->other, "%s", fx_path(&fx, "mis_b.safetensors"));
	snprintf(p->a, sizeof p->a, "%s", fx_path(&fx, "mis_a.json"));
	snprintf(p->b, sizeof p->b, "%s", fx_path(&fx, "mis_b.json"));
	json_t *py = load(python);
	json_object_set_new(at(py, "stage_debug", NULL), "stage_tensor_file", json_string(p->stages));
	json_object_set_new(at(py, "stage_debug", NULL), "all_selected_stage_tensor_file", json_null());
	json_object_set_new(at(py, "inputs", NULL), "all_selected_stage_tensor_file", json_null());
	json_object_set_new(py, "selected_tensor_stage_debug", json_array());
	json_object_set_new(py, "variants", json_array());
	json_object_set_new(py, "files", json_array());
	fx_json(p->a, py);
	fx_json(p->b, json_pack("{s:s, s:[{s:s, s:s, s:{s:s, s:s}}], s:{s:s, s:s}}", "schema",
	                        "trinity_sakana_svd_parity_trace.v2", "semantic_python_component_variants", "label",
	                        "x", "source_name", fx.t[5].source, "stage_debug", "stage_tensor_file", p->other,
	                        "stage_final_orientation", "target", "paths", "components_dir", components,
	                        "router_vector", fx.st));
}

static void close_pair(struct pair *p)
{
	for (size_t i = 0; i < 10; i++)
		free(p->f32[i]);
	free(p->bf16);
}

static void test_digests(void **state)
{
	(void)state;
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages_digest"),
	                                                fx_path(&fx, "replay_digest.json"));
	o.digest = true;
	run_replay(&o, 0);
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(
		st_container_open(
			fx_path(&fx,
	                        "stages_digest/trinity_svf_elixir_stage_stele_cpu_torch_v_lm_head.weight.safetensors"),
			&c, &err),
		&err);
	assert_int_equal(st_container_n_tensors(c), 3);
	st_container_close(c);
	json_decref(compare(python, o.out, NULL, 0));
	/* Digests on the exporting side. */
	struct st_svf_export_options e = export_options();
	char dir[128], out[128];
	snprintf(dir, sizeof dir, "%s", fx_path(&fx, "components_digest"));
	snprintf(out, sizeof out, "%s", fx_path(&fx, "python_digest.json"));
	e.write_dir = dir;
	e.out = out;
	e.digest = true;
	e.svd_weights = fx_path(&fx, "components/trinity_svf_components.safetensors");
	run_export(&e, 0);
	o.python_report = out;
	o.components_dir = dir;
	o.stage_dir = fx_path(&fx, "stages_digest2");
	o.out = fx_path(&fx, "replay_digest2.json");
	run_replay(&o, 0);
	json_decref(compare(out, o.out, NULL, 0));
	/* Equal digests of numbers that are not finite, or of none. */
	for (int empty = 0; empty < 2; empty++) {
		static const char nothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
		json_t *side[2] = { load(out), load(o.out) };
		json_t *d[2] = { at(at(side[0], "stage_debug", "digests"), "sample", "zero_source_f32"),
			         at(at(json_array_get(at(side[1], "semantic_python_component_variants", NULL), 0),
			               "stage_debug", "digests"),
			            "zero_source_f32", NULL) };
		for (int i = 0; i < 2; i++) {
			assert_non_null(d[i]);
			json_object_set_new(d[i], empty ? "sha256" : "nonfinite",
			                    empty ? json_string(nothing) : json_integer(3));
			fx_json(fx_path(&fx, i ? "nothing_b.json" : "nothing_a.json"), side[i]);
		}
		json_t *j = compare(fx_path(&fx, "nothing_a.json"), fx_path(&fx, "nothing_b.json"), NULL, 1);
		assert_string_equal(first_fault(j, fx.t[5].source, "target"), "zero_source_f32");
		assert_true(found(j, empty ? "svf.empty" : "svf.not_finite", fx.t[5].source, "zero_source_f32", true));
		json_decref(j);
	}
	/* Numbers on one side, their digest on the other, and nothing said of what they are. */
	struct pair one;
	char hex[65];
	open_pair(&one);
	float *bad = calloc(192 * 64, 4);
	bad[7] = NAN;
	memcpy(one.f32[6], bad, 192 * 64 * 4);
	fx_tensors(one.stages, one.out, 10);
	one.out[6].shape[0] = 0; /* a name for the digest to stand for */
	one.out[6].name = "elsewhere";
	fx_tensors(one.other, one.out, 10);
	write_bytes(fx_path(&fx, "bad.f32"), bad, 192 * 64 * 4);
	fx_sha(fx_path(&fx, "bad.f32"), hex);
	json_t *rp = load(one.b), *v = json_array_get(at(rp, "semantic_python_component_variants", NULL), 0);
	json_object_set_new(at(v, "stage_debug", NULL), "digests",
	                    json_pack("{s:{s:s}}", "zero_source_f32", "sha256", hex));
	fx_json(one.b, rp);
	json_t *k = compare(one.a, one.b, NULL, 1);
	assert_string_equal(first_fault(k, fx.t[5].source, "target"), "zero_source_f32");
	assert_true(found(k, "svf.not_finite", fx.t[5].source, "zero_source_f32", true));
	json_decref(k);
	free(bad);
	close_pair(&one);
	/* A digest that differs is a fault, how far is unknown. */
	fx_replay(&fx, fx_path(&fx, "o_digest"), components, fx_path(&fx, "o_digest.json"), 5, FX_OFFSETS_BF16, 3);
	json_t *j = compare(out, fx_path(&fx, "o_digest.json"), NULL, 1);
	assert_string_equal(first_fault(j, fx.t[3].source, "source"), "offsets_f32");
	json_decref(j);
}

static void test_resume(void **state)
{
	(void)state;
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages_resume"),
	                                                fx_path(&fx, "replay_resume.json"));
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	struct stat before, after;
	const char *first = fx_path(
		&fx, "stages_resume/trinity_svf_elixir_stage_stele_cpu_torch_v_model.embed_tokens.weight.safetensors");
	/* A run that cannot write its report has done the work. */
	o.out = fx_path(&fx, "no/such/folder/replay.json");
	assert_int_equal(st_svf_replay(&o, &r, &err), ST_ERR_IO);
	assert_int_equal(stat(first, &before), 0);
	o.out = fx_path(&fx, "replay_resume.json");
	run_replay(&o, 0);
	assert_int_equal(stat(first, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	json_decref(compare(python, o.out, NULL, 0));
	/* Once reported, the next run starts afresh. */
	run_replay(&o, 0);
	assert_int_equal(stat(first, &after), 0);
	assert_int_not_equal(before.st_ino, after.st_ino);
}

/* ---- given factors, layouts ---- */

static void test_layouts(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	const char *src = fx_path(&fx, "components/trinity_svf_components.safetensors");
	static const size_t tensors[2] = { 2, 7 }; /* k: square; down: [64, 192] */
	assert_ok(st_container_open(src, &c, &err), &err);
	struct fx_out out[27];
	char names[27][96];
	float *data[27];
	for (size_t i = 0; i < 27; i++) {
		const struct fx_tensor *t = &fx.t[i / 3];
		char fmt[16];
		snprintf(fmt, sizeof fmt, "svd.%c.%%s", "USV"[i % 3]);
		snprintf(names[i], sizeof names[i], fmt, t->source);
		const struct st_tensor *s = st_container_find(c, names[i]);
		data[i] = fx_values(c, fmt, t->source);
		out[i] = (struct fx_out){ names[i], ST_DTYPE_F32, s->ndim, { s->shape[0], s->shape[1] }, data[i] };
	}
	st_container_close(c);
	for (size_t n = 0; n < 2; n++) {
		size_t v = 3 * tensors[n] + 2;
		uint64_t rows = out[v].shape[0], cols = out[v].shape[1];
		float *turned = malloc(4 * rows * cols);
		for (uint64_t i = 0; i < rows; i++)
			for (uint64_t j = 0; j < cols; j++)
				turned[j * rows + i] = data[v][i * cols + j];
		struct fx_out bad[27];
		memcpy(bad, out, sizeof out);
		bad[v] = (struct fx_out){ names[v], ST_DTYPE_F32, 2, { cols, rows }, turned };
		char dir[128], path[200];
		snprintf(dir, sizeof dir, "%s", fx_path(&fx, n ? "wide_vh" : "square_vh"));
		mkdir(dir, 0777);
		snprintf(path, sizeof path, "%s/trinity_svf_components.safetensors", dir);
		fx_tensors(path, bad, 27);
		struct st_svf_replay_options o = replay_options(fx_path(&fx, n ? "stages_wide_vh" : "stages_square_vh"),
		                                                fx_path(&fx, n ? "wide_vh.json" : "square_vh.json"));
		o.components_dir = dir;
		struct st_svf_result r;
		st_error_clear(&err);
		if (n == 1) { /* the shape gives it away */
			assert_int_equal(st_svf_replay(&o, &r, &err), ST_ERR_FORMAT);
			assert_string_equal(err.where, names[v]);
			assert_non_null(strstr(err.message, "fits the layout vh"));
		} else { /* the shape says nothing, the zero-offset test does */
			assert_ok(st_svf_replay(&o, &r, &err), &err);
			assert_int_equal(r.exit_status, 1);
			assert_non_null(strstr(r.text, "another layout than torch_v"));
			st_svf_result_release(&r);
			json_t *j = compare(python, o.out, NULL, 1);
			assert_string_equal(first_fault(j, fx.t[2].source, "source"), "matmul_pre_norm");
			assert_true(found(j, "svf.v_layout", fx.t[2].source, "matmul_pre_norm", true));
			json_decref(j);
		}
		free(turned);
	}
	for (size_t i = 0; i < 27; i++)
		free(data[i]);
}

/* ---- planted faults ---- */

static void test_oracle_agrees(void **state)
{
	(void)state;
	fx_replay(&fx, fx_path(&fx, "o_none"), components, fx_path(&fx, "o_none.json"), 5, FX_NONE, SIZE_MAX);
	/* Another implementation, in f64: within the tight profile, and nothing to name. */
	json_t *j = compare(python, fx_path(&fx, "o_none.json"), "f32", 0);
	assert_int_equal(json_array_size(json_object_get(j, "findings")), 0);
	assert_int_equal(json_array_size(json_object_get(j, "tensors")), 10);
	json_decref(j);
}

static const struct planted {
	const char *name;
	enum fx_fault fault;
	size_t only;
	const char *tolerances, *code, *tensor, *stage, *orientation;
	bool no_stage; /* the fault is in no required stage */
} planted[] = {
	{ "v_square", FX_V_LAYOUT, 2, NULL, "svf.v_layout", "model.layers.1.self_attn.k_proj.weight", "matmul_pre_norm",
	  "source", false },
	{ "v_wide", FX_V_LAYOUT, 7, NULL, "svf.v_layout", "model.layers.1.mlp.down_proj.weight", "matmul_pre_norm",
	  "source", false },
	{ "alphabetical", FX_ALPHABETICAL, SIZE_MAX, NULL, "svf.alphabetical_spans", "model.embed_tokens.weight",
	  "offsets_f32", "source", false },
	{ "offsets_bf16", FX_OFFSETS_BF16, SIZE_MAX, NULL, "svf.offsets_bf16", "lm_head.weight", "offsets_f32",
	  "source", false },
	{ "scalar_u", FX_SCALAR_IN_U, 4, NULL, "svf.scalar_first", "model.layers.1.self_attn.o_proj.weight", "u_scaled",
	  "source", false },
	{ "scalar_product", FX_SCALAR_IN_PRODUCT, 6, NULL, "svf.scalar_first", "model.layers.1.mlp.up_proj.weight",
	  "matmul_pre_norm", "source", false },
	{ "truncate", FX_TRUNCATE, 1, NULL, "svf.truncated_cast", "model.layers.1.self_attn.q_proj.weight",
	  "final_bf16", "source", true },
	{ "swapped", FX_SWAPPED, SIZE_MAX, NULL, "svf.swapped_spans", "model.embed_tokens.weight", "offsets_f32",
	  "source", false },
	{ "compose", FX_COMPOSE, SIZE_MAX, NULL, "svf.tie_policy", "lm_head.weight", "source_f32", "source", false },
	{ "last_wins", FX_LAST_WINS, SIZE_MAX, NULL, "svf.tie_policy", "model.embed_tokens.weight", "final_f32",
	  "source", false },
	{ "tf32", FX_TF32, SIZE_MAX, "f32", "svf.reduced_products", "model.layers.1.mlp.gate_proj.weight",
	  "matmul_pre_norm", "source", false },
	{ "wide_not_turned", FX_NOT_TRANSPOSED, SIZE_MAX, NULL, "svf.not_transposed",
	  "model.layers.1.mlp.gate_proj.weight", "final_f32", "target", false },
};

static void test_planted(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof planted / sizeof *planted; i++) {
		const struct planted *p = &planted[i];
		char dir[64], file[80];
		snprintf(dir, sizeof dir, "o_%s", p->name);
		snprintf(file, sizeof file, "o_%s.json", p->name);
		fx_replay(&fx, fx_path(&fx, dir), components, fx_path(&fx, file), 5, p->fault, p->only);
		json_t *j = compare(python, fx_path(&fx, file), p->tolerances, 1);
		const char *first = first_fault(j, p->tensor, p->orientation);
		if (p->no_stage ? first != NULL : !first || strcmp(first, p->stage) != 0)
			fail_msg("%s: first fault at %s", p->name, first ? first : "no stage");
		if (!found(j, p->code, p->tensor, p->stage, true))
			fail_msg("%s was not named", p->name);
		/* A fault in one tensor is reported for that one only. */
		for (size_t k = 0; k < FX_TENSORS && p->only != SIZE_MAX; k++)
			if (k != p->only)
				assert_null(first_fault(j, fx.t[k].source, "source"));
		json_decref(j);
	}
}

/* k is square: its shape cannot say whether it was turned, so the sample of this manifest is k. */
static void test_square_not_turned(void **state)
{
	(void)state;
	char sha[65], reference[128], dir[128], out[128];
	fx_sha(fx.st, sha);
	snprintf(reference, sizeof reference, "%s", fx_path(&fx, "reference_k.json"));
	snprintf(dir, sizeof dir, "%s", fx_path(&fx, "components_k"));
	snprintf(out, sizeof out, "%s", fx_path(&fx, "python_k.json"));
	fx_json(reference, fx_manifest(&fx, 2, sha));
	struct st_svf_export_options e = export_options();
	e.reference = reference;
	e.write_dir = dir;
	e.out = out;
	e.svd_weights = fx_path(&fx, "components/trinity_svf_components.safetensors");
	run_export(&e, 0);
	fx_replay(&fx, fx_path(&fx, "o_k"), dir, fx_path(&fx, "o_k.json"), 2, FX_NONE, SIZE_MAX);
	json_decref(compare(out, fx_path(&fx, "o_k.json"), "f32", 0));
	fx_replay(&fx, fx_path(&fx, "o_k_bad"), dir, fx_path(&fx, "o_k_bad.json"), 2, FX_NOT_TRANSPOSED, SIZE_MAX);
	json_t *j = compare(out, fx_path(&fx, "o_k_bad.json"), NULL, 1);
	assert_string_equal(first_fault(j, fx.t[2].source, "target"), "final_f32");
	assert_true(found(j, "svf.not_transposed", fx.t[2].source, "final_f32", true));
	json_decref(j);
}

static void test_tie_policy_of_reports(void **state)
{
	(void)state;
	static const enum st_svf_tie ties[2] = { ST_SVF_COMPOSE, ST_SVF_LAST_WINS };
	for (size_t i = 0; i < 2; i++) {
		char dir[128], out[128], stages[128], report[128];
		snprintf(dir, sizeof dir, "%s", fx_path(&fx, i ? "components_last" : "components_compose"));
		snprintf(out, sizeof out, "%s", fx_path(&fx, i ? "python_last.json" : "python_compose.json"));
		snprintf(stages, sizeof stages, "%s", fx_path(&fx, i ? "stages_last" : "stages_compose"));
		snprintf(report, sizeof report, "%s", fx_path(&fx, i ? "last.json" : "compose.json"));
		struct st_svf_export_options e = export_options();
		e.write_dir = dir;
		e.out = out;
		e.tie = ties[i];
		run_export(&e, 0);
		struct st_svf_replay_options o = replay_options(stages, report);
		o.components_dir = dir;
		o.python_report = out;
		run_replay(&o, 0); /* by the policy that the export recorded */
		json_decref(compare(out, report, NULL, 0));
		json_t *j = compare(python, report, NULL, 1);
		assert_true(found(j, "svf.tie_policy", NULL, NULL, true));
		assert_true(found(j, "svf.tie_policy", i ? "model.embed_tokens.weight" : "lm_head.weight",
		                  i ? "final_f32" : "source_f32", true));
		/* It was true of the export that it was made for. */
		assert_false(named(j, "svf.contradiction"));
		json_decref(j);
	}
	/* Composed: the head starts from the adapted embedding, by the second implementation too. */
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(fx_path(&fx, "components_compose/trinity_svf_all_selected_stage_debug.safetensors"),
	                            &c, &err),
	          &err);
	float *head = fx_values(c, "tensor.%s.source_f32", "lm_head.weight"),
	      *embed = fx_values(c, "tensor.%s.adapted_source_f32", "model.embed_tokens.weight");
	assert_memory_equal(head, embed, 4 * 512 * 64);
	free(head);
	free(embed);
	st_container_close(c);
	/* With the head as the sample, the report says that it was decomposed as it was composed. */
	char sha[65], reference[128], dir[128], out[128];
	snprintf(reference, sizeof reference, "%s", fx_path(&fx, "reference_head.json"));
	snprintf(dir, sizeof dir, "%s", fx_path(&fx, "components_head"));
	snprintf(out, sizeof out, "%s", fx_path(&fx, "python_head.json"));
	fx_sha(fx.st, sha);
	fx_json(reference, fx_manifest(&fx, 8, sha));
	struct st_svf_export_options e = export_options();
	e.reference = reference;
	e.write_dir = dir;
	e.out = out;
	e.tie = ST_SVF_COMPOSE;
	run_export(&e, 0);
	assert_ok(st_container_open(fx_path(&fx, "components_head/trinity_svf_stage_debug.safetensors"), &c, &err),
	          &err);
	head = fx_values(c, "stage.%s", "source_f32");
	write_bytes(fx_path(&fx, "head.f32"), head, 4 * 512 * 64);
	free(head);
	st_container_close(c);
	fx_sha(fx_path(&fx, "head.f32"), sha);
	json_t *r = load(out);
	assert_string_equal(json_string_value(at(r, "source_tensor_f32_svd_input", "sha256_as_f32")), sha);
	assert_string_not_equal(json_string_value(at(r, "source_tensor", "sha256_as_f32")), sha);
	json_decref(r);
}

static void test_stale_and_lies(void **state)
{
	(void)state;
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages_stale"), fx_path(&fx, "stale.json"));
	run_replay(&o, 0);
	/* One bit of one stage file, after the report. */
	const char *file = fx_path(
		&fx, "stages_stale/trinity_svf_elixir_stage_stele_cpu_torch_v_lm_head.weight.safetensors");
	size_t n;
	char *p = read_bytes(file, &n);
	p[n - 1000] ^= 1;
	write_bytes(file, p, n);
	free(p);
	json_t *j = compare(python, o.out, NULL, 1);
	assert_true(found(j, "svf.stale_stages",
	                  "trinity_svf_elixir_stage_stele_cpu_torch_v_lm_head.weight.safetensors", NULL, true));
	json_decref(j);

	fx_replay(&fx, fx_path(&fx, "o_lies"), components, fx_path(&fx, "o_lies.json"), 5, FX_LIES, SIZE_MAX);
	j = compare(python, fx_path(&fx, "o_lies.json"), NULL, 1);
	/* It claims equal bytes; an f64 implementation does not have them. */
	assert_true(found(j, "svf.contradiction", "lm_head.weight", "matmul_pre_norm", true));
	json_decref(j);

	/* The verdict itself: a report of a failing replay, edited to say that it passed. */
	json_t *r = load(fx_path(&fx, "square_vh.json"));
	size_t i, k;
	json_t *v, *c;
	json_array_foreach(at(r, "semantic_python_component_variants", NULL), i, v)
	{
		json_t *d = json_object_get(v, "stage_debug");
		if (d)
			json_object_set_new(d, "functional_parity_passed", json_true());
		json_array_foreach(json_object_get(d, "checks"), k, c)
			json_object_set_new(c, "functional_passed", json_true());
	}
	fx_json(fx_path(&fx, "edited.json"), r);
	j = compare(python, fx_path(&fx, "edited.json"), NULL, 1);
	assert_true(found(j, "svf.contradiction", fx.t[2].source, "matmul_pre_norm", true));
	assert_true(found(j, "svf.contradiction", fx.t[2].source, NULL, true));
	json_decref(j);
	/* Whichever report is named first. */
	j = compare(fx_path(&fx, "edited.json"), python, NULL, 1);
	assert_true(found(j, "svf.contradiction", fx.t[2].source, "matmul_pre_norm", true));
	json_decref(j);
	j = compare(fx_path(&fx, "o_alphabetical.json"), python, NULL, 1);
	assert_true(found(j, "svf.alphabetical_spans", fx.t[0].source, "offsets_f32", true));
	assert_false(named(j, "svf.wrong_span"));
	json_decref(j);
}

/* ---- stages of shapes that they should not have ---- */

static void edit_shape(struct fx_out *o, int how)
{
	uint64_t cols = o->ndim > 1 ? o->shape[1] : 1;
	switch (how) {
	case 0:
		o->ndim = 1, o->shape[0] *= cols, o->shape[1] = 0;
		break; /* flat */
	case 1:
		o->ndim = 1, o->shape[0] = 1, o->shape[1] = 0;
		break; /* one number */
	case 2:
		o->shape[0] = o->shape[0] / 2 + (o->shape[0] < 2);
		break; /* half of it */
	case 3:
		o->ndim = 1, o->shape[0] = o->shape[1] = 0;
		break; /* nothing */
	default:
		o->ndim = 2, o->shape[1] = o->shape[0] * cols, o->shape[0] = 1; /* one row */
	}
}

/* The same stages on both sides, with one changed: exit status and, where that is 1, the cause named at it. */
static void alike(const struct pair *p, size_t stage, struct fx_out o, const char *code)
{
	struct fx_out both[10];
	memcpy(both, p->out, sizeof both);
	both[stage] = o;
	fx_tensors(p->stages, both, 10);
	fx_tensors(p->other, both, 10);
	json_t *j = compare(p->a, p->b, NULL, code != NULL);
	if (code)
		assert_true(found(j, code, fx.t[5].source, p->keys[stage] + 6, true));
	else
		assert_int_equal(json_array_size(json_object_get(j, "findings")), 0);
	json_decref(j);
}

/* What is wrong on both sides alike is equal and proves nothing. */
static void test_wrong_alike(void **state)
{
	(void)state;
	struct pair p;
	open_pair(&p);
	alike(&p, 0, p.out[0], NULL);
	for (size_t i = 0; i < 10; i++) {
		struct fx_out o = p.out[i];
		uint64_t n = o.shape[0] * (o.ndim > 1 ? o.shape[1] : 1);
		float *bad = malloc(n * 4);
		memcpy(bad, p.f32[i], n * 4);
		bad[n / 2] = NAN;
		if (i == 9) {
			uint16_t *half = fx_bf16(bad, n);
			o.data = half;
			alike(&p, i, o, "svf.not_finite");
			free(half);
		} else {
			o.data = bad;
			alike(&p, i, o, "svf.not_finite");
			bad[n / 2] = -INFINITY;
			alike(&p, i, o, "svf.not_finite");
		}
		free(bad);
		o = p.out[i];
		o.shape[0] = 0;
		alike(&p, i, o, "svf.empty");
		/* Of many rows, none of which has a number. */
		o.ndim = 2, o.shape[0] = 1000, o.shape[1] = 0;
		alike(&p, i, o, "svf.empty");
		/* One row less; a single number is no list of fewer. */
		o = p.out[i];
		o.shape[0]--;
		alike(&p, i, o, i == 3 ? "svf.empty" : "svf.shapes");
	}
	close_pair(&p);
}

/* Evidence compared with itself: the report, under whatever name, or the stage file of two reports. */
static void test_same_evidence(void **state)
{
	(void)state;
	struct pair p;
	struct st_svf_result r;
	size_t n;
	open_pair(&p);
	fx_tensors(p.stages, p.out, 10);
	fx_tensors(p.other, p.out, 10);
	const char *names[3] = { p.a, fx_path(&fx, "mis_link.json"), fx_path(&fx, "mis_copy.json") };
	assert_int_equal(link(p.a, names[1]), 0);
	char *text = read_bytes(p.a, &n);
	write_bytes(names[2], text, n);
	free(text);
	for (size_t i = 0; i < 3; i++) {
		struct st_error err = ST_ERROR_INIT;
		const struct st_svf_compare_options o = { .a = p.a, .b = names[i], .threads = 1 };
		assert_int_equal(st_svf_compare(&o, &r, &err), ST_ERR_USAGE);
		assert_string_equal(err.path, names[i]);
	}
	assert_int_equal(unlink(p.other), 0);
	assert_int_equal(link(p.stages, p.other), 0);
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_compare_options o = { .a = p.a, .b = p.b, .threads = 1 };
	assert_int_equal(st_svf_compare(&o, &r, &err), ST_ERR_MISMATCH);
	assert_string_equal(err.path, p.other);
	close_pair(&p);
}

/* Both sides may agree in a shape that no stage has; replay and compare say so and read nothing beyond it. */
static void test_misshapen(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct pair p;
	char report[128];
	open_pair(&p);
	snprintf(report, sizeof report, "%s", fx_path(&fx, "mis_replay.json"));
	for (size_t i = 0; i < 10; i++)
		for (int how = 0; how < 5; how++) {
			struct fx_out bad[10];
			memcpy(bad, p.out, sizeof bad);
			edit_shape(&bad[i], how);
			bool same = bad[i].ndim == p.out[i].ndim
			         && !memcmp(bad[i].shape, p.out[i].shape, sizeof bad[i].shape);
			fx_tensors(p.stages, bad, 10);
			struct st_svf_replay_options o = replay_options(fx_path(&fx, "mis_stages"), report);
			o.python_report = p.a;
			o.all_selected = false;
			o.check_f64 = true;
			run_replay(&o, !same && i != 9 ? 1 : 0);
			struct st_svf_result r;
			if (i == 0 && !same) {
				o.source_from_python = true;
				st_error_clear(&err);
				assert_int_equal(st_svf_replay(&o, &r, &err), ST_ERR_MISMATCH);
				assert_string_equal(err.where, "stage.source_f32");
				st_error_clear(&err);
			}
			/* The shape against the right one, and the same wrong shape with other numbers where those are
			 * looked into. */
			fx_tensors(p.other, p.out, 10);
			if (!same && i != 9)
				json_decref(compare(p.a, p.b, NULL, 1));
			for (size_t k = 1; k < 6 && i > 0 && i < 6; k += k == 1 ? 3 : 1) {
				float old = p.f32[k][0];
				p.f32[k][0] += 1;
				fx_tensors(p.other, bad, 10);
				p.f32[k][0] = old;
				struct st_svf_compare_options q = { .a = p.a, .b = p.b, .top = 3, .threads = 1 };
				assert_ok(st_svf_compare(&q, &r, &err), &err);
				st_svf_result_release(&r);
			}
		}
	close_pair(&p);
}

/* ---- factors that are odd and not wrong ---- */

static size_t warnings_with(const char *report, const char *tensor, const char *says)
{
	json_t *r = load(report), *w;
	size_t i, n = 0;
	json_array_foreach(at(r, "warnings", NULL), i, w)
		n += strstr(json_string_value(w), tensor) == json_string_value(w) && strstr(json_string_value(w), says);
	json_decref(r);
	return n;
}

static void test_warnings(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	char file[200], dir[128], out[128];
	struct fx_out list[27];
	char names[27][96];
	float *data[27];
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_components.safetensors"), &c, &err), &err);
	for (size_t i = 0; i < 27; i++) {
		char fmt[16];
		snprintf(fmt, sizeof fmt, "svd.%c.%%s", "USV"[i % 3]);
		snprintf(names[i], sizeof names[i], fmt, fx.t[i / 3].source);
		const struct st_tensor *t = st_container_find(c, names[i]);
		data[i] = fx_values(c, fmt, fx.t[i / 3].source);
		list[i] = (struct fx_out){ names[i], ST_DTYPE_F32, t->ndim, { t->shape[0], t->shape[1] }, data[i] };
	}
	st_container_close(c);
	/* V of q twice as large and its S half: the same product. In o two columns in the wrong order, U of up like V
	 * of q. */
	for (size_t i = 0; i < 64 * 64; i++)
		data[3 + 2][i] *= 2;
	for (size_t i = 0; i < 64; i++)
		data[3 + 1][i] /= 2;
	for (size_t i = 0; i < 192 * 64; i++)
		data[18][i] *= 2;
	for (size_t i = 0; i < 64; i++)
		data[18 + 1][i] /= 2;
	float *u = data[12], *s = data[13], *v = data[14], x = s[3];
	s[3] = s[4], s[4] = x;
	for (size_t r = 0; r < 64; r++)
		x = u[64 * r + 3], u[64 * r + 3] = u[64 * r + 4], u[64 * r + 4] = x;
	for (size_t r = 0; r < 128; r++)
		x = v[64 * r + 3], v[64 * r + 3] = v[64 * r + 4], v[64 * r + 4] = x;
	snprintf(file, sizeof file, "%s", fx_path(&fx, "odd.safetensors"));
	snprintf(dir, sizeof dir, "%s", fx_path(&fx, "components_odd"));
	snprintf(out, sizeof out, "%s", fx_path(&fx, "python_odd.json"));
	fx_tensors(file, list, 27);
	for (size_t i = 0; i < 27; i++)
		free(data[i]);
	struct st_svf_export_options e = export_options();
	e.svd_weights = file;
	e.write_dir = dir;
	e.out = out;
	run_export(&e, 0);
	struct st_svf_replay_options o = replay_options(fx_path(&fx, "stages_odd"), fx_path(&fx, "replay_odd.json"));
	o.components_dir = dir;
	o.python_report = out;
	/* What an interrupted run warned of is in the report of the run that ends it. */
	struct st_svf_result r;
	o.out = fx_path(&fx, "no/such/folder/replay.json");
	assert_int_equal(st_svf_replay(&o, &r, &err), ST_ERR_IO);
	o.out = fx_path(&fx, "replay_odd.json");
	run_replay(&o, 0);
	const char *reports[] = { out, fx_path(&fx, "replay_odd.json") };
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(warnings_with(reports[i], fx.t[1].source, "V is 3 away from orthonormal"), 1);
		assert_int_equal(warnings_with(reports[i], fx.t[6].source, "U is 3 away from orthonormal"), 1);
		assert_int_equal(warnings_with(reports[i], fx.t[4].source, "not in descending order"), 1);
		assert_int_equal(warnings_with(reports[i], "", ""), 3);
	}
	assert_int_equal(warnings_with(python, "", ""), 0);
}

/* ---- tolerances ---- */

static void test_tolerance_file(void **state)
{
	(void)state;
	const char *path = fx_path(&fx, "tol.json");
	fx_json(path, json_pack("{s:{s:f, s:f, s:b}}", "final_bf16", "max_abs_error", 0.0, "mean_abs_error", 0.0,
	                        "required", 1));
	/* The oracle's sums are not ours, so some element rounds the other way; required, that is a fault. */
	json_t *j = compare(python, fx_path(&fx, "o_none.json"), path, 1);
	assert_string_equal(first_fault(j, "lm_head.weight", "source"), "final_bf16");
	json_decref(j);
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	fx_json(path, json_pack("{s:{}}", "final_bf61"));
	const struct st_svf_compare_options o = { .a = python, .b = fx_path(&fx, "o_none.json"), .tolerances = path };
	assert_int_equal(st_svf_compare(&o, &r, &err), ST_ERR_FORMAT);
	assert_string_equal(err.where, "final_bf61");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_export_files),
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_source_from_stage),
		cmocka_unit_test(test_digests),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_oracle_agrees),
		cmocka_unit_test(test_planted),
		cmocka_unit_test(test_square_not_turned),
		cmocka_unit_test(test_tie_policy_of_reports),
		cmocka_unit_test(test_stale_and_lies),
		cmocka_unit_test(test_wrong_alike),
		cmocka_unit_test(test_same_evidence),
		cmocka_unit_test(test_misshapen),
		cmocka_unit_test(test_warnings),
		cmocka_unit_test(test_tolerance_file),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("svf parity", tests, open_fixture, close_fixture);
}
