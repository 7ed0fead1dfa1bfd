/* The adapted artifact and routing with it, against plain loops; what unusable input is told. */
#include "fixture.h"

#include "svf/artifact.h"
#include "svf/stages.h"

#include <math.h>
#include <sys/resource.h>
#include <signal.h>

static struct fx fx;
static char components[128], artifact[128];

static int open_fixture(void **state)
{
	(void)state;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	fx_open(&fx);
	snprintf(components, sizeof components, "%s", fx_path(&fx, "components"));
	snprintf(artifact, sizeof artifact, "%s", fx_path(&fx, "artifact"));
	const struct st_svf_export_options o = { .model = fx.model,
		                                 .reference = fx.reference,
		                                 .vector = fx.st,
		                                 .out = fx_path(&fx, "python.json"),
		                                 .write_dir = components,
		                                 .all_selected = true,
		                                 .decompose_all = true,
		                                 .threads = 2 };
	assert_ok(st_svf_export(&o, &r, &err), &err);
	st_svf_result_release(&r);
	return 0;
}

static int close_fixture(void **state)
{
	(void)state;
	fx_close(&fx);
	return 0;
}

static struct st_svf_apply_options apply_options(void)
{
	return (struct st_svf_apply_options){ .model = fx.model,
		                              .reference = fx.reference,
		                              .vector = fx.npy,
		                              .components = components,
		                              .out = artifact,
		                              .chunk_rows = 50,
		                              .threads = 2 };
}

static void run_apply(const struct st_svf_apply_options *o)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_svf_apply(o, &r, &err), &err);
	st_svf_result_release(&r);
}

/* ---- the artifact ---- */

/* The oracle's adapted matrix of tensor i, source-oriented; malloc'ed. */
static float *adapted(size_t i)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct fx_stages g;
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_components.safetensors"), &c, &err), &err);
	const struct fx_tensor *t = &fx.t[i];
	float *u = fx_values(c, "svd.U.%s", t->source), *s = fx_values(c, "svd.S.%s", t->source),
	      *v = fx_values(c, "svd.V.%s", t->source);
	fx_compute(&g, t->w, fx.vector + 64 * i, u, s, v, t->rows, t->cols, false, FX_NONE);
	float *a = malloc(4 * t->rows * t->cols);
	memcpy(a, g.adapted, 4 * t->rows * t->cols);
	fx_free(&g);
	free(u);
	free(s);
	free(v);
	st_container_close(c);
	return a;
}

static void test_artifact(void **state)
{
	(void)state;
	struct st_svf_apply_options o = apply_options();
	struct st_svf_artifact a;
	struct st_error err = ST_ERROR_INIT;
	run_apply(&o);
	assert_ok(st_svf_artifact_open(artifact, &a, &err), &err);
	assert_int_equal(a.n, 9);
	for (size_t i = 0; i < 9; i++) {
		const struct fx_tensor *t = &fx.t[i];
		bool layer = i > 0 && i < 8;
		float *want = adapted(i), *got = malloc(4 * t->rows * t->cols);
		assert_string_equal(a.tensors[i].target_name, t->target);
		assert_int_equal(a.tensors[i].t->dtype, ST_DTYPE_BF16);
		assert_int_equal(a.tensors[i].t->shape[0], layer ? t->cols : t->rows);
		st_tensor_decode(a.tensors[i].t, 0, a.tensors[i].t->shape[0], got);
		for (uint64_t r = 0; r < t->rows; r++)
			for (uint64_t c = 0; c < t->cols; c++) {
				double g = got[layer ? c * t->rows + r : r * t->cols + c], w = want[r * t->cols + c];
				assert_true(fabs(g - w)
				            <= fabs(w) * 0x1p-8 + 1e-6); /* half a unit of bf16's last place */
			}
		free(want);
		free(got);
	}
	/* The head as it stands in the vector, its file without padding. */
	size_t n;
	char *p = read_bytes(fx_path(&fx, "artifact/router_head.safetensors"), &n);
	static const char head[] =
		"{\"trinity_router_head\":{\"dtype\":\"F32\",\"shape\":[10,64],\"data_offsets\":[0,2560]}}";
	assert_int_equal(n, 8 + sizeof head - 1 + 2560);
	assert_memory_equal(p + 8, head, sizeof head - 1);
	assert_memory_equal(p + 8 + sizeof head - 1, fx.vector + FX_SCALES, 2560);
	free(p);
	st_svf_artifact_close(&a);
	assert_int_equal(
		access(fx_path(&fx, "artifact/checkpoints/0003_decoder.blocks.1.self_attention.key.kernel.safetensors"),
	               R_OK),
		0);
}

static void test_published_head(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_arena a;
	struct st_svf_vector v;
	char path[] = "/tmp/stele-head-XXXXXX", hex[65];
	const char *ignored;
	st_arena_init(&a);
	assert_ok(st_svf_vector_read(shared_path("svf/sakana_model_iter_60.npy"), &a, &v, &err), &err);
	close(mkstemp(path));
	const struct st_tensor_spec spec = { "trinity_router_head", ST_DTYPE_F32, 2, { 10, 1024 } };
	const struct st_write_plan plan = { .format = ST_FORMAT_SAFETENSORS, .specs = &spec, .n_specs = 1 };
	struct st_writer *w;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	assert_ok(st_writer_append(w, v.f32 + 9216, 40960, &err), &err);
	assert_ok(st_writer_finish(w, &ignored, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
	fx_sha(path, hex);
	assert_string_equal(hex, "7ff2db0e6659cac4dd68c5fff47a112768042b31321127aeb1412a6d8e6c09be");
	unlink(path);
	st_arena_release(&a);
}

static void test_foreign_artifact(void **state)
{
	(void)state;
	struct st_svf_artifact a;
	struct st_error err = ST_ERROR_INIT;
	char dir[512];
	snprintf(dir, sizeof dir, "%s", shared_path("svf/tiny_artifact/manifest.json"));
	*strrchr(dir, '/') = '\0';
	assert_ok(st_svf_artifact_open(dir, &a, &err), &err);
	assert_int_equal(a.n, 0);
	assert_int_equal(a.head->shape[0], 5);
	assert_int_equal(a.head->shape[1], 8);
	st_svf_artifact_close(&a);
}

static void test_verified_on_load(void **state)
{
	(void)state;
	struct st_svf_artifact a;
	const char *files[] = { "artifact/router_head.safetensors",
		                "artifact/checkpoints/0009_language_modeling_head.output.kernel.safetensors" };
	for (size_t i = 0; i < 2; i++) {
		struct st_error err = ST_ERROR_INIT;
		size_t n;
		char *p = read_bytes(fx_path(&fx, files[i]), &n);
		p[n - 1] ^= 1;
		write_bytes(fx_path(&fx, files[i]), p, n);
		assert_int_equal(st_svf_artifact_open(artifact, &a, &err), ST_ERR_MISMATCH);
		assert_non_null(strstr(err.message, "SHA-256"));
		p[n - 1] ^= 1;
		write_bytes(fx_path(&fx, files[i]), p, n);
		free(p);
	}
	/* Manifests that cannot be trusted. */
	static const struct {
		const char *key;
		const char *json, *says;
	} bad[] = {
		{ "artifact_version", "2", "version 1 is read" },
		{ "status", "\"running\"", "not complete" },
		{ "selected_tensor_count", "8", "9 are listed" },
		{ "router_head_shape", "[10, 65]", "F32 [10, 65]" },
		{ "router_head_artifact", "\"../x\"", "outside the artifact" },
	};
	size_t n;
	char *good = read_bytes(fx_path(&fx, "artifact/manifest.json"), &n);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct st_error err = ST_ERROR_INIT;
		json_t *m = json_loads(good, 0, NULL);
		json_object_set_new(m, bad[i].key, json_loads(bad[i].json, JSON_DECODE_ANY, NULL));
		fx_json(fx_path(&fx, "artifact/manifest.json"), m);
		assert_int_not_equal(st_svf_artifact_open(artifact, &a, &err), ST_OK);
		if (!strstr(err.message, bad[i].says))
			fail_msg("%s: %s", bad[i].key, err.message);
		assert_non_null(strstr(err.path, "artifact/"));
	}
	write_bytes(fx_path(&fx, "artifact/manifest.json"), good, n);
	free(good);
}

/* A checkpoint of another type, its digest in order: refused by name before anything is computed from it. */
static void test_checkpoint_types(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_Q8_0, ST_DTYPE_F32, ST_DTYPE_I32 };
	static const uint32_t tokens[] = { 1, 2, 3 };
	const struct fx_tensor *t = &fx.t[5]; /* 192 x 64: turned over */
	size_t n;
	char *good = read_bytes(fx_path(&fx, "artifact/manifest.json"), &n);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		bool blocks = types[i] == ST_DTYPE_Q8_0;
		const char *file = blocks ? "checkpoints/other.gguf" : "checkpoints/other.safetensors";
		char path[200], sha[65];
		void *zeros = calloc(t->rows * t->cols, 4);
		snprintf(path, sizeof path, "%s/%s", artifact, file);
		fx_file(path, blocks ? ST_FORMAT_GGUF : ST_FORMAT_SAFETENSORS,
		        &(struct fx_out){ t->target, types[i], 2, { t->cols, t->rows }, zeros }, 1);
		free(zeros);
		fx_sha(path, sha);
		json_t *m = json_loads(good, 0, NULL), *e = json_array_get(json_object_get(m, "selected_tensors"), 5);
		json_object_set_new(e, "checkpoint_path", json_string(file));
		json_object_set_new(e, "checkpoint_sha256", json_string(sha));
		fx_json(fx_path(&fx, "artifact/manifest.json"), m);
		struct st_svf_result r;
		struct st_error err = ST_ERROR_INIT;
		const struct st_svf_route_options o = {
			.artifact = artifact, .model = fx.model, .tokens = tokens, .n_tokens = 3, .threads = 2
		};
		assert_int_equal(st_svf_route(&o, &r, &err), ST_ERR_FORMAT);
		assert_string_equal(err.path, path);
		assert_string_equal(err.where, t->target);
		assert_non_null(strstr(err.message, st_dtype_info(types[i])->name));
		unlink(path);
	}
	write_bytes(fx_path(&fx, "artifact/manifest.json"), good, n);
	free(good);
}

static void test_resume(void **state)
{
	(void)state;
	struct st_svf_apply_options o = apply_options();
	struct stat before[2], after;
	static const char *const names[2] = {
		"artifact/checkpoints/0001_embedder.token_embedding.kernel.safetensors",
		"artifact/checkpoints/0006_decoder.blocks.1.ffn.gate.kernel.safetensors"
	};
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(stat(fx_path(&fx, names[i]), &before[i]), 0);
	unlink(fx_path(&fx, names[1]));
	run_apply(&o);
	assert_int_equal(stat(fx_path(&fx, names[0]), &after), 0);
	assert_int_equal(after.st_ino, before[0].st_ino);
	assert_int_equal(stat(fx_path(&fx, names[1]), &after), 0);
	/* Other inputs need --force. */
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	o.tie = ST_SVF_LAST_WINS;
	assert_int_equal(st_svf_apply(&o, &r, &err), ST_ERR_MISMATCH);
	assert_string_equal(err.where, "tie_policy");
	o.force = true;
	run_apply(&o);
	/* Both places hold the head's matrix now. */
	size_t n, k;
	char *e = read_bytes(fx_path(&fx, names[0]), &n),
	     *h = read_bytes(fx_path(&fx, "artifact/checkpoints/0009_language_modeling_head.output.kernel.safetensors"),
	                     &k);
	assert_memory_equal(e + n - 65536, h + k - 65536, 65536);
	free(e);
	free(h);
	o.tie = ST_SVF_INDEPENDENT;
	run_apply(&o);
}

/* ---- routing ---- */

/* naive_forward, up to the last layer's norm, of the adapted model. */
static void test_route(void **state)
{
	(void)state;
	static const uint32_t tokens[] = { 5, 17, 300, 42, 7, 511 };
	struct naive *m = &fx.m;
	struct naive_layer *w = &m->layer[1];
	float **place[FX_TENSORS] = { &m->embed, &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down, NULL },
	      *kept[FX_TENSORS], *now[FX_TENSORS];
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_route_options o = { .artifact = artifact,
		                                .model = fx.model,
		                                .tokens = tokens,
		                                .n_tokens = 6,
		                                .out = fx_path(&fx, "route.json"),
		                                .threads = 2 };
	assert_ok(st_svf_route(&o, &r, &err), &err);
	json_t *j = json_loads(r.json, 0, NULL);
	st_svf_result_release(&r);
	/* The oracle: the same model with the oracle's adapted weights in bf16. The identity as a head shows the hidden
	 * state. */
	float *head = m->head, *eye = calloc(64 * 64, 4);
	for (size_t i = 0; i < 8; i++) {
		kept[i] = *place[i];
		now[i] = *place[i] = adapted(i);
		fx_round(now[i], fx.t[i].rows * fx.t[i].cols);
	}
	for (size_t i = 0; i < 64; i++)
		eye[i * 65] = 1;
	size_t vocab = m->V;
	double hidden[6 * 64], logits[10];
	m->head = eye;
	m->V = 64;
	naive_forward(m, tokens, 6, hidden);
	m->head = head;
	m->V = vocab;
	for (size_t i = 0; i < 8; i++) {
		*place[i] = kept[i];
		free(now[i]);
	}
	free(eye);
	const json_t *got = json_object_get(j, "hidden_vector_f32"), *l = json_object_get(j, "logits");
	assert_int_equal(json_array_size(got), 64);
	for (size_t i = 0; i < 64; i++)
		assert_true(fabs(json_number_value(json_array_get(got, i)) - hidden[4 * 64 + i]) < 2e-2);
	size_t agent = 0, role = 0;
	for (size_t i = 0; i < 10; i++) {
		logits[i] = 0;
		for (size_t k = 0; k < 64; k++)
			logits[i] += hidden[4 * 64 + k] * fx.vector[FX_SCALES + 64 * i + k];
		assert_true(fabs(json_number_value(json_array_get(l, i)) - logits[i]) < 5e-2);
		if (i < 7 && logits[i] > logits[agent])
			agent = i;
		if (i >= 7 && logits[i] > logits[7 + role])
			role = i - 7;
	}
	assert_int_equal(json_integer_value(json_object_get(j, "argmax_agent_id")), agent);
	assert_int_equal(json_integer_value(json_object_get(j, "argmax_role_id")), role);
	assert_int_equal(json_integer_value(json_object_get(j, "hidden_index")), 4);
	assert_string_equal(json_string_value(json_object_get(j, "schema")), "trinity_sakana_router_trace.v1");
	/* [5,17,300,42,7,511], as a shell hashes it */
	assert_string_equal(json_string_value(json_object_get(j, "token_ids_sha256")),
	                    "53e16045e079e433429f949cdf91329f4c610cd67cc1dd8ce5813b9cab203f4d");
	json_decref(j);
}

/* Another base model than the artifact's, and one whose numbers decide nothing. */
static void test_route_refuses(void **state)
{
	(void)state;
	static const uint32_t tokens[] = { 5, 17, 300 };
	char model[128], copy[128];
	struct st_svf_result r;
	size_t n, m;
	snprintf(model, sizeof model, "%s", fx_path(&fx, "model2"));
	snprintf(copy, sizeof copy, "%s", fx_path(&fx, "artifact/manifest.json"));
	mkdir(model, 0777);
	char *config = read_bytes(fx_path(&fx, "model/config.json"), &n);
	write_bytes(fx_path(&fx, "model2/config.json"), config, n);
	free(config);
	char *weights = read_bytes(fx_path(&fx, "model/model.safetensors"), &n), *manifest = read_bytes(copy, &m);
	struct st_svf_route_options o = {
		.artifact = artifact, .model = model, .tokens = tokens, .n_tokens = 3, .threads = 2
	};
	/* The file ends with the last norm, in bf16: 2, infinity, a number near the largest. */
	static const uint16_t last[] = { 0x4000, 0x7f80, 0x7f7f };
	for (int said = 1; said >= 0; said--) {
		if (!said) {
			json_t *j = json_loads(manifest, 0, NULL);
			json_object_del(j, "base_model_sha256");
			fx_json(copy, j);
		}
		for (size_t i = 0; i < 3; i++) {
			struct st_error err = ST_ERROR_INIT;
			for (size_t k = 0; k < 64; k++)
				memcpy(weights + n - 128 + 2 * k, &last[i], 2);
			write_bytes(fx_path(&fx, "model2/model.safetensors"), weights, n);
			enum st_status st = st_svf_route(&o, &r, &err);
			if (said) {
				assert_int_equal(st, ST_ERR_MISMATCH);
				assert_string_equal(err.where, "base_model_sha256");
				assert_string_equal(err.path, model);
			} else if (i == 0) {
				char hex[65];
				assert_ok(st, &err);
				fx_sha(fx_path(&fx, "model2/model.safetensors"), hex);
				json_t *j = json_loads(r.json, 0, NULL);
				assert_string_equal(json_string_value(json_object_get(j, "base_model_sha256")), hex);
				json_decref(j);
				st_svf_result_release(&r);
			} else {
				assert_int_equal(st, ST_ERR_FORMAT);
				assert_non_null(strstr(err.message, "not finite"));
			}
		}
	}
	write_bytes(copy, manifest, m);
	free(manifest);
	free(weights);
}

/* ---- names that are not UTF-8 ---- */

/* A file system takes any bytes for a name, JSON does not: what is broken stands as U+FFFD, and nothing is lost. */
static void test_any_name(void **state)
{
	(void)state;
	static const uint32_t tokens[] = { 1, 2, 3 };
	static const char *const targets[5] = { "model", "reference.json", "vector.safetensors", "components",
		                                "python.json" };
	char link_to[5][160], out[5][160];
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	for (size_t i = 0; i < 5; i++) {
		char name[64];
		snprintf(name, sizeof name, "in\xff%zu", i);
		snprintf(link_to[i], sizeof link_to[i], "%s", fx_path(&fx, name));
		assert_int_equal(symlink(fx_path(&fx, targets[i]), link_to[i]), 0);
		snprintf(name, sizeof name, "out\xff%zu", i);
		snprintf(out[i], sizeof out[i], "%s", fx_path(&fx, name));
	}
	const struct st_svf_export_options e = { .model = link_to[0],
		                                 .reference = link_to[1],
		                                 .vector = link_to[2],
		                                 .out = out[0],
		                                 .write_dir = fx_path(&fx, "any"),
		                                 .threads = 2 };
	assert_ok(st_svf_export(&e, &r, &err), &err);
	st_svf_result_release(&r);
	json_t *j = json_load_file(out[0], 0, NULL);
	const char *name = json_string_value(json_object_get(json_object_get(j, "inputs"), "model_name"));
	assert_non_null(name);
	assert_string_equal(strrchr(name, '/'), "/in\xef\xbf\xbd"
	                                        "0");
	json_decref(j);
	const struct st_svf_replay_options p = { .components_dir = link_to[3],
		                                 .python_report = link_to[4],
		                                 .reference = link_to[1],
		                                 .vector = link_to[2],
		                                 .model = link_to[0],
		                                 .stage_dir = fx_path(&fx, "any_stages"),
		                                 .out = out[1],
		                                 .tie = -1,
		                                 .threads = 2 };
	assert_ok(st_svf_replay(&p, &r, &err), &err);
	st_svf_result_release(&r);
	const struct st_svf_compare_options c = { .a = out[0], .b = out[1], .threads = 2 };
	assert_ok(st_svf_compare(&c, &r, &err), &err);
	assert_int_equal(r.exit_status, 0);
	j = json_loads(r.json, 0, NULL);
	assert_non_null(strstr(json_string_value(json_object_get(j, "b")), "out\xef\xbf\xbd"
	                                                                   "1"));
	json_decref(j);
	st_svf_result_release(&r);
	const struct st_svf_apply_options a = { .model = link_to[0],
		                                .reference = link_to[1],
		                                .vector = link_to[2],
		                                .components = link_to[3],
		                                .out = out[2],
		                                .threads = 2 };
	assert_ok(st_svf_apply(&a, &r, &err), &err);
	st_svf_result_release(&r);
	const struct st_svf_route_options o = { .artifact = out[2],
		                                .model = link_to[0],
		                                .message = "a\xc3(b",
		                                .tokens = tokens,
		                                .n_tokens = 3,
		                                .out = out[3],
		                                .threads = 2 };
	assert_ok(st_svf_route(&o, &r, &err), &err);
	st_svf_result_release(&r);
	j = json_load_file(out[3], 0, NULL);
	assert_string_equal(json_string_value(json_object_get(j, "transcript")), "user: a\xef\xbf\xbd(b");
	json_decref(j);
}

/* ---- outputs that are inputs ---- */

/* One digest over every file of the fixture. */
static void sums(char hex[65])
{
	char cmd[200];
	snprintf(cmd, sizeof cmd, "find '%s' -type f | LC_ALL=C sort | xargs sha256sum | sha256sum", fx.dir);
	FILE *f = popen(cmd, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%64s", hex), 1);
	pclose(f);
}

static void kept(enum st_status st, const struct st_error *err, const char *out)
{
	assert_int_equal(st, ST_ERR_USAGE);
	assert_string_equal(err->path, out);
	assert_non_null(strstr(err->message, "is an input"));
}

static void test_own_input(void **state)
{
	(void)state;
	static const char *const shared[] = { "model/model.safetensors", "reference.json", "vector.safetensors",
		                              "components/trinity_svf_components.safetensors" };
	static const char *const of_replay[] = { "python.json", "components/trinity_svf_stage_debug.safetensors",
		                                 "components/trinity_svf_all_selected_stage_debug.safetensors",
		                                 "components/trinity_svf_scale_offsets.safetensors",
		                                 "components/trinity_svf_debug_manifest.json" };
	static const char *const of_route[] = { "artifact/manifest.json", "artifact/router_head.safetensors",
		                                "artifact/checkpoints/0001_embedder.token_embedding.kernel.safetensors",
		                                "model/model.safetensors" };
	static const uint32_t tokens[] = { 1, 2, 3 };
	struct st_svf_result r;
	char before[65], after[65], components_file[128], own[2][160];
	snprintf(components_file, sizeof components_file, "%s", fx_path(&fx, shared[3]));
	/* Inputs that have the name of a file to be written. */
	static const char *const names[2] = { "own/router_head.safetensors",
		                              "own/trinity_svf_elixir_stage_stele_cpu_torch_v.safetensors" };
	size_t n;
	char *vector = read_bytes(fx.st, &n);
	mkdir(fx_path(&fx, "own"), 0777);
	for (size_t i = 0; i < 2; i++) {
		snprintf(own[i], sizeof own[i], "%s", fx_path(&fx, names[i]));
		write_bytes(own[i], vector, n);
	}
	free(vector);
	sums(before);
	struct st_svf_export_options e = { .model = fx.model,
		                           .reference = fx.reference,
		                           .vector = fx.st,
		                           .svd_weights = components_file,
		                           .no_components = true };
	struct st_svf_replay_options p = { .components_dir = components,
		                           .python_report = fx_path(&fx, "python.json"),
		                           .reference = fx.reference,
		                           .vector = fx.st,
		                           .model = fx.model,
		                           .stage_dir = fx_path(&fx, "own_stages"),
		                           .all_selected = true,
		                           .tie = -1 };
	char python[128], stages[128];
	snprintf(python, sizeof python, "%s", p.python_report);
	snprintf(stages, sizeof stages, "%s", p.stage_dir);
	p.python_report = python;
	p.stage_dir = stages;
	for (size_t i = 0; i < 9; i++) {
		struct st_error err = ST_ERROR_INIT, none = ST_ERROR_INIT;
		char out[160];
		snprintf(out, sizeof out, "%s", fx_path(&fx, i < 4 ? shared[i] : of_replay[i - 4]));
		e.out = p.out = out;
		if (i < 4)
			kept(st_svf_export(&e, &r, &err), &err, out);
		kept(st_svf_replay(&p, &r, &none), &none, out);
	}
	struct st_error err = ST_ERROR_INIT;
	e.out = fx_path(&fx, "own.json");
	e.no_components = false;
	e.write_dir = components;
	kept(st_svf_export(&e, &r, &err), &err, components_file);
	st_error_clear(&err);
	p.out = e.out;
	p.vector = own[1];
	p.stage_dir = fx_path(&fx, "own");
	kept(st_svf_replay(&p, &r, &err), &err, own[1]);
	struct st_svf_apply_options a = apply_options();
	st_error_clear(&err);
	a.vector = own[0];
	a.out = p.stage_dir;
	kept(st_svf_apply(&a, &r, &err), &err, own[0]);
	for (size_t i = 0; i < 4; i++) {
		char out[160];
		snprintf(out, sizeof out, "%s", fx_path(&fx, of_route[i]));
		const struct st_svf_route_options o = { .artifact = artifact,
			                                .model = fx.model,
			                                .tokens = tokens,
			                                .n_tokens = 3,
			                                .out = out,
			                                .threads = 2 };
		st_error_clear(&err);
		kept(st_svf_route(&o, &r, &err), &err, out);
	}
	sums(after);
	assert_string_equal(after, before);
}

/* ---- unusable input ---- */

struct bad_reference {
	const char *name, *where, *says;
	void (*edit)(json_t *m);
};

static json_t *nth(json_t *m, size_t i) { return json_array_get(json_object_get(m, "selected_tensors"), i); }
static void overlap(json_t *m)
{
	json_object_set_new(nth(m, 3), "offset_start", json_integer(191)),
		json_object_set_new(nth(m, 3), "offset_end", json_integer(255));
}
static void gap(json_t *m)
{
	json_object_set_new(nth(m, 3), "offset_start", json_integer(193)),
		json_object_set_new(nth(m, 3), "offset_end", json_integer(257));
}
static void leftover(json_t *m)
{
	json_array_remove(json_object_get(m, "selected_tensors"), 8);
	json_object_set_new(m, "selected_tensor_count", json_integer(8));
}
static void version(json_t *m) { json_object_set_new(m, "manifest_version", json_integer(7)); }
static void missing(json_t *m) { json_object_del(m, "selected_singular_value_count"); }
static void missing_in(json_t *m) { json_object_del(nth(m, 2), "shape"); }
static void extra(json_t *m) { json_object_set_new(m, "surprise", json_integer(1)); }
static void extra_in(json_t *m) { json_object_set_new(nth(m, 1), "scale", json_integer(1)); }
static void shape(json_t *m) { json_object_set_new(nth(m, 1), "shape", json_pack("[i,i]", 127, 64)); }
static void values(json_t *m) { json_object_set_new(nth(m, 1), "singular_values", json_integer(63)); }
static void negative(json_t *m) { json_object_set_new(nth(m, 0), "offset_start", json_integer(-1)); }
static void twice(json_t *m)
{
	json_object_set_new(nth(m, 2), "source_name", json_string("model.layers.1.self_attn.q_proj.weight"));
}
static void sample(json_t *m)
{
	json_object_set_new(json_object_get(m, "sample_adapted_tensor"), "source_name", json_string("nowhere"));
}
static void turned(json_t *m)
{
	json_object_set_new(json_object_get(m, "sample_adapted_tensor"), "sample_reconstructed_shape",
	                    json_pack("[i,i]", 192, 64));
}
static void vector_sha(json_t *m) { json_object_set_new(m, "source_vector_sha256", json_string("00")); }
static void text(json_t *m) { json_object_set_new(m, "selected_tensor_count", json_string("nine")); }

static const struct bad_reference references[] = {
	{ "overlap", "model.layers.1.self_attn.v_proj.weight", "an overlap", overlap },
	{ "gap", "model.layers.1.self_attn.v_proj.weight", "a gap", gap },
	{ "leftover", "selected_singular_value_count", "the spans end at 512", leftover },
	{ "version", "manifest_version", "is 7", version },
	{ "missing", "selected_singular_value_count", "is missing", missing },
	{ "missing_in", "selected_tensors[2].shape", "is missing", missing_in },
	{ "extra", "surprise", "is 1", extra },
	{ "extra_in", "selected_tensors[1].scale", "is 1", extra_in },
	{ "shape", "model.layers.1.self_attn.q_proj.weight", "[127, 64]", shape },
	{ "values", "model.layers.1.self_attn.q_proj.weight", "singular_values is 63", values },
	{ "negative", "selected_tensors[0].offset_start", "is -1", negative },
	{ "twice", "model.layers.1.self_attn.q_proj.weight", "selected twice", twice },
	{ "sample", "sample_adapted_tensor", "not among", sample },
	{ "turned", "sample_adapted_tensor", "[192, 64]", turned },
	{ "vector_sha", "source_vector_sha256", "is 00", vector_sha },
	{ "text", "selected_tensor_count", "is \"nine\"", text },
};

/* Every command that takes it refuses, names the place, and leaves nothing. */
static void refused(const struct st_svf_apply_options *o, const char *name, const char *where, const char *says,
                    const char *path)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_int_not_equal(st_svf_apply(o, &r, &err), ST_OK);
	if ((where && strcmp(err.where, where) != 0) || !strstr(err.message, says) || !strstr(err.path, path))
		fail_msg("%s: [%s] [%s] %s", name, err.path, err.where, err.message);
	assert_int_not_equal(access(o->out, F_OK), 0);
	const struct st_svf_export_options e = { .model = o->model,
		                                 .reference = o->reference,
		                                 .vector = o->vector,
		                                 .out = fx_path(&fx, "bad_export.json"),
		                                 .svd_weights = fx_path(
							 &fx, "components/trinity_svf_components.safetensors"),
		                                 .all_selected = true,
		                                 .write_dir = fx_path(&fx, "bad_components") };
	struct st_error err2 = ST_ERROR_INIT;
	if (o->components == components) { /* the fault is not in the components */
		assert_int_not_equal(st_svf_export(&e, &r, &err2), ST_OK);
		assert_string_equal(err2.message, err.message);
		assert_int_not_equal(access(e.out, F_OK), 0);
		assert_int_not_equal(access(e.write_dir, F_OK), 0);
	}
}

static void test_bad_references(void **state)
{
	(void)state;
	char sha[65];
	fx_sha(fx.st, sha);
	for (size_t i = 0; i < sizeof references / sizeof *references; i++) {
		json_t *m = fx_manifest(&fx, 5, sha);
		references[i].edit(m);
		fx_json(fx_path(&fx, "bad.json"), m);
		struct st_svf_apply_options o = apply_options();
		o.reference = fx_path(&fx, "bad.json");
		o.out = fx_path(&fx, "bad_artifact");
		refused(&o, references[i].name, references[i].where, references[i].says,
		        strcmp(references[i].name, "shape") == 0 ? "model" : "bad.json");
	}
}

static void test_bad_vectors(void **state)
{
	(void)state;
	double wide[FX_VECTOR + 1] = { 0 };
	struct st_svf_apply_options o = apply_options();
	o.out = fx_path(&fx, "bad_artifact");
	o.vector = fx_path(&fx, "bad.npy");
	for (size_t i = 0; i < FX_VECTOR; i++)
		wide[i] = fx.vector[i];
	fx_npy(o.vector, wide, FX_VECTOR - 1);
	refused(&o, "short", "router vector", "has 1215 numbers, expected 1216", "reference.json");
	fx_npy(o.vector, wide, FX_VECTOR + 1);
	refused(&o, "long", "router vector", "has 1217 numbers, expected 1216", "reference.json");
	wide[100] = NAN;
	fx_npy(o.vector, wide, FX_VECTOR);
	refused(&o, "nan", NULL, "number 100 is nan", "bad.npy");
	wide[100] = 1e300; /* finite as f64, not as f32 */
	fx_npy(o.vector, wide, FX_VECTOR);
	refused(&o, "inf", NULL, "number 100 is infinite", "bad.npy");
	wide[100] = 0.25; /* another vector than the manifest's */
	fx_npy(o.vector, wide, FX_VECTOR);
	refused(&o, "other", "source_vector_sha256", "but", "reference.json");
	/* A wrong type, a wrong key. */
	uint16_t half[FX_VECTOR] = { 0 };
	o.vector = fx_path(&fx, "bad.safetensors");
	fx_tensors(o.vector, &(struct fx_out){ "trinity_router_es_vector", ST_DTYPE_F16, 1, { FX_VECTOR }, half }, 1);
	refused(&o, "type", "trinity_router_es_vector", "is F16", "bad.safetensors");
	fx_tensors(o.vector, &(struct fx_out){ "vector", ST_DTYPE_F32, 1, { FX_VECTOR }, fx.vector }, 1);
	refused(&o, "key", "trinity_router_es_vector", "no such tensor", "bad.safetensors");
	/* Offsets of -1 throughout: nothing to divide by. */
	float minus[FX_VECTOR];
	char sha[65];
	memcpy(minus, fx.vector, sizeof minus);
	for (size_t i = 64; i < 128; i++)
		minus[i] = -1;
	fx_tensors(o.vector, &(struct fx_out){ "trinity_router_es_vector", ST_DTYPE_F32, 1, { FX_VECTOR }, minus }, 1);
	fx_sha(o.vector, sha);
	fx_json(fx_path(&fx, "bad.json"), fx_manifest(&fx, 5, sha));
	o.reference = fx_path(&fx, "bad.json");
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_int_not_equal(st_svf_apply(&o, &r, &err), ST_OK);
	assert_string_equal(err.where, "model.layers.1.self_attn.q_proj.weight");
	assert_non_null(strstr(err.message, "sum to 0"));
	assert_int_not_equal(access(o.out, F_OK), 0);
}

static void test_bad_components(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct st_svf_apply_options o = apply_options();
	char path[200], out[200];
	snprintf(out, sizeof out, "%s", fx_path(&fx, "bad_artifact")); /* fx_path's buffers go round */
	o.out = out;
	o.components = path;
	snprintf(path, sizeof path, "%s", fx_path(&fx, "bad.safetensors"));
	assert_ok(st_container_open(fx_path(&fx, "components/trinity_svf_components.safetensors"), &c, &err), &err);
	struct fx_out good[27];
	char names[27][96];
	float *data[27];
	for (size_t i = 0; i < 27; i++) {
		char fmt[16];
		snprintf(fmt, sizeof fmt, "svd.%c.%%s", "USV"[i % 3]);
		snprintf(names[i], sizeof names[i], fmt, fx.t[i / 3].source);
		data[i] = fx_values(c, fmt, fx.t[i / 3].source);
		const struct st_tensor *t = st_container_find(c, names[i]);
		good[i] = (struct fx_out){ names[i], ST_DTYPE_F32, t->ndim, { t->shape[0], t->shape[1] }, data[i] };
	}
	st_container_close(c);
	/* Factors of another matrix, which only the zero-offset test can see: written, and refused before it is called
	 * complete. */
	struct fx_out bad[27];
	memcpy(bad, good, sizeof bad);
	fx_tensors(path, bad, 26);
	refused(&o, "absent", "svd.V.lm_head.weight", "no such factor", "bad.safetensors");
	bad[4].shape[0] = 63;
	fx_tensors(path, bad, 27);
	refused(&o, "short S", names[4], "has 63 numbers", "bad.safetensors");
	bad[4].shape[0] = 64;
	bad[3].shape[0] = 127;
	fx_tensors(path, bad, 27);
	refused(&o, "short U", names[3], "[127, 64]", "bad.safetensors");
	bad[3].shape[0] = 128;
	data[4][9] = NAN;
	fx_tensors(path, bad, 27);
	refused(&o, "nan in S", names[4], "number 9 is nan", "bad.safetensors");
	data[4][9] = -1;
	fx_tensors(path, bad, 27);
	refused(&o, "negative S", names[4], "negative", "bad.safetensors");
	data[4][9] = data[4][8];
	data[5][77] = INFINITY;
	fx_tensors(path, bad, 27);
	refused(&o, "infinite V", names[5], "number 77 is infinite", "bad.safetensors");
	data[5][77] = 0;
	data[3][200] = NAN; /* U is as tall as its matrix and looked at while it is used */
	fx_tensors(path, bad, 27);
	struct st_svf_result r;
	st_error_clear(&err);
	assert_int_not_equal(st_svf_apply(&o, &r, &err), ST_OK);
	assert_string_equal(err.where, names[3]);
	assert_non_null(strstr(err.path, "bad.safetensors"));
	assert_non_null(strstr(err.message, "number 8 of row 3 is nan"));
	assert_int_not_equal(access(fx_path(&fx, "bad_artifact/checkpoints/"
	                                         "0002_decoder.blocks.1.self_attention.query.kernel.safetensors"),
	                            F_OK),
	                     0);
	/* Another matrix's factors. */
	data[3][200] = 0;
	memcpy(data[9], data[6], 4 * 64 * 64);
	fx_tensors(path, bad, 27);
	o.force = true;
	st_error_clear(&err);
	assert_int_equal(st_svf_apply(&o, &r, &err), ST_ERR_MISMATCH);
	assert_non_null(strstr(err.path, "bad.safetensors"));
	assert_int_not_equal(access(fx_path(&fx, "bad_artifact/checkpoints/"
	                                         "0004_decoder.blocks.1.self_attention.value.kernel.safetensors"),
	                            F_OK),
	                     0);
	for (size_t i = 0; i < 27; i++)
		free(data[i]);
}

static void test_bad_base(void **state)
{
	(void)state;
	struct st_svf_apply_options o = apply_options();
	o.out = fx_path(&fx, "bad_artifact2");
	o.model = fx_path(&fx, "base.safetensors");
	float *w = calloc(512 * 65, 4);
	struct fx_out t[9] = { 0 };
	for (size_t i = 0; i < 8; i++)
		t[i] = (struct fx_out){ fx.t[i].source, ST_DTYPE_F32, 2, { fx.t[i].rows, fx.t[i].cols }, w };
	t[3].shape[1] = 65;
	fx_tensors(o.model, t, 8);
	refused(&o, "shape", fx.t[3].source, "[64, 65]", "base.safetensors");
	t[3].shape[1] = 64;
	fx_tensors(o.model, t, 7);
	refused(&o, "absent", fx.t[7].source, "no such weight", "base.safetensors");
	w[5] = NAN;
	fx_tensors(o.model, t, 8);
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	assert_int_not_equal(st_svf_apply(&o, &r, &err), ST_OK);
	assert_string_equal(err.where, fx.t[0].source);
	assert_non_null(strstr(err.message, "not finite"));
	assert_non_null(strstr(err.path, o.model));
	/* Computing factors of it says so too, and leaves no work behind. */
	const struct st_svf_export_options e = { .model = o.model,
		                                 .reference = fx.reference,
		                                 .vector = fx.st,
		                                 .out = fx_path(&fx, "bad_export.json"),
		                                 .write_dir = fx_path(&fx, "bad_components"),
		                                 .all_selected = true,
		                                 .decompose_all = true };
	st_error_clear(&err);
	assert_int_not_equal(st_svf_export(&e, &r, &err), ST_OK);
	assert_non_null(strstr(err.message, "not finite"));
	assert_non_null(strstr(err.path, o.model));
	assert_int_not_equal(access(fx_path(&fx, "bad_export.json.work"), F_OK), 0);
	assert_int_not_equal(access(e.write_dir, F_OK), 0);
	free(w);
}

/* A limit on file sizes is a full disk to a program. */
static void test_full_disk(void **state)
{
	(void)state;
	struct st_svf_apply_options o = apply_options();
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	struct rlimit kept, small;
	o.out = fx_path(&fx, "full");
	getrlimit(RLIMIT_FSIZE, &kept);
	small = kept;
	small.rlim_cur = 30000; /* the manifest and small checkpoints fit, the embedding does not */
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	enum st_status st = st_svf_apply(&o, &r, &err);
	setrlimit(RLIMIT_FSIZE, &kept);
	assert_int_equal(st, ST_ERR_IO);
	assert_non_null(strstr(err.path, "0001_embedder"));
	assert_int_not_equal(
		access(fx_path(&fx, "full/checkpoints/0001_embedder.token_embedding.kernel.safetensors"), F_OK), 0);
	struct st_svf_artifact a;
	st_error_clear(&err);
	assert_int_equal(st_svf_artifact_open(o.out, &a, &err), ST_ERR_MISMATCH);
	assert_string_equal(err.where, "status");
	run_apply(&o); /* room again: the run goes on */
	assert_ok(st_svf_artifact_open(o.out, &a, &err), &err);
	st_svf_artifact_close(&a);
}

static void test_export_refusals(void **state)
{
	(void)state;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	struct st_svf_export_options e = { .model = "/no/such/model",
		                           .reference = fx.reference,
		                           .vector = fx.st,
		                           .out = fx_path(&fx, "refused.json"),
		                           .write_dir = fx_path(&fx, "refused"),
		                           .all_selected = true };
	assert_int_equal(st_svf_export(&e, &r, &err), ST_ERR_USAGE);
	assert_non_null(strstr(err.message, "Gflop"));
	assert_int_not_equal(access(e.write_dir, F_OK), 0);
	/* The sample alone is computed without asking. */
	e.all_selected = false;
	e.model = fx.model;
	e.strict_hash = true;
	st_error_clear(&err);
	assert_ok(st_svf_export(&e, &r, &err), &err);
	assert_int_equal(r.exit_status, 1); /* the reference's digest is of no model */
	st_svf_result_release(&r);
	json_t *m = json_load_file(fx_path(&fx, "refused/trinity_svf_debug_manifest.json"), 0, NULL);
	assert_string_equal(json_string_value(json_object_get(m, "schema")),
	                    "trinity_sakana_sample_component_debug.v1");
	json_decref(m);
	/* A replay without the stages it is to be checked against is a fault of the setup. */
	unlink(fx_path(&fx, "refused/trinity_svf_stage_debug.safetensors"));
	const struct st_svf_replay_options o = { .components_dir = e.write_dir,
		                                 .python_report = e.out,
		                                 .reference = fx.reference,
		                                 .vector = fx.st,
		                                 .model = fx.model,
		                                 .stage_dir = fx_path(&fx, "refused_stages"),
		                                 .out = fx_path(&fx, "refused_replay.json"),
		                                 .tie = -1 };
	st_error_clear(&err);
	assert_int_not_equal(st_svf_replay(&o, &r, &err), ST_OK);
	assert_string_equal(err.where, "stage_tensor_file");
	assert_int_not_equal(access(o.stage_dir, F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_artifact),
		cmocka_unit_test(test_published_head),
		cmocka_unit_test(test_foreign_artifact),
		cmocka_unit_test(test_verified_on_load),
		cmocka_unit_test(test_checkpoint_types),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_route),
		cmocka_unit_test(test_route_refuses),
		cmocka_unit_test(test_own_input),
		cmocka_unit_test(test_any_name),
		cmocka_unit_test(test_bad_references),
		cmocka_unit_test(test_bad_vectors),
		cmocka_unit_test(test_bad_components),
		cmocka_unit_test(test_bad_base),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_export_refusals),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("svf apply", tests, open_fixture, close_fixture);
}
