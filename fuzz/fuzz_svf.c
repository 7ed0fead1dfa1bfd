/*
 * Damaged files of a singular-value adaptation. The first byte picks one file of a small sound session; the others
 * change bytes of it (two for the place, one for the value), with 0x40 in the first byte values of its JSON, or with
 * 0x80 stand in its place. Every command that reads it then runs.
 */
#include "fuzz.h"

#include "base/hash.h"
#include "format/writer.h"
#include "svf/artifact.h"

#include <stele/svf.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define K 8u /* singular values of each of the two tensors, and the hidden size */
#define ROWS 24u

static char dir[64];

static const char *in_dir(const char *name)
{
	static char buf[16][160];
	static unsigned turn;
	char *p = buf[turn++ % 16];
	snprintf(p, sizeof buf[0], "%s/%s", dir, name);
	return p;
}

/* ---- commands ---- */

/* A refusal has a message of one line. */
static void judge(enum st_status st, struct st_error *err, struct st_svf_result *r, const char *sound)
{
	char line[1400];
	st_error_format(err, line, sizeof line);
	if ((st == ST_OK) != (err->code == ST_OK) || (st != ST_OK && (!err->message[0] || strchr(line, '\n')))
	    || (sound && (st != ST_OK || r->exit_status))) {
		fprintf(stderr, "%s: %s\n", sound ? sound : "refusal", line);
		abort();
	}
	if (st == ST_OK)
		st_svf_result_release(r);
	st_error_clear(err);
}

static void export(const char *sound)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_export_options o = { .model = in_dir("base.safetensors"),
		                                 .reference = in_dir("reference.json"),
		                                 .vector = in_dir("vector.safetensors"),
		                                 .write_dir = in_dir("c"),
		                                 .out = in_dir("a.json"),
		                                 .all_selected = true,
		                                 .decompose_all = true,
		                                 .threads = 1 };
	judge(st_svf_export(&o, &r, &err), &err, &r, sound);
}

static void replay(const char *stages, const char *out, bool from_python, const char *sound)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_replay_options o = { .model = in_dir("base.safetensors"),
		                                 .reference = in_dir("reference.json"),
		                                 .vector = in_dir("vector.safetensors"),
		                                 .components_dir = in_dir("c"),
		                                 .python_report = in_dir("a.json"),
		                                 .stage_dir = in_dir(stages),
		                                 .out = in_dir(out),
		                                 .all_selected = true,
		                                 .source_from_python = from_python,
		                                 .check_f64 = true,
		                                 .tie = -1,
		                                 .threads = 1 };
	judge(st_svf_replay(&o, &r, &err), &err, &r, sound);
}

static void compare(const char *a, const char *b, const char *sound)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_compare_options o = { .a = in_dir(a), .b = in_dir(b), .top = 3, .threads = 1 };
	judge(st_svf_compare(&o, &r, &err), &err, &r, sound);
}

static void apply(const char *out, const char *sound)
{
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_apply_options o = { .model = in_dir("base.safetensors"),
		                                .reference = in_dir("reference.json"),
		                                .vector = in_dir("vector.safetensors"),
		                                .components = in_dir("c"),
		                                .out = in_dir(out),
		                                .force = true,
		                                .threads = 1 };
	judge(st_svf_apply(&o, &r, &err), &err, &r, sound);
}

static void artifact(void)
{
	struct st_svf_result r = { 0 };
	struct st_svf_artifact a;
	struct st_error err = ST_ERROR_INIT;
	enum st_status st = st_svf_artifact_open(in_dir("art"), &a, &err);
	if (st == ST_OK)
		st_svf_artifact_close(&a);
	judge(st, &err, &r, NULL);
}

/* ---- a sound session ---- */

enum reader { WITH_INPUTS = 1, WITH_STAGES = 2, WITH_ARTIFACT = 4 };

static struct sound {
	const char *name;
	unsigned readers;
	uint8_t *p;
	size_t n;
} files[] = {
	{ "vector.safetensors", WITH_INPUTS, NULL, 0 },
	{ "reference.json", WITH_INPUTS, NULL, 0 },
	{ "c/trinity_svf_components.safetensors", WITH_INPUTS | WITH_STAGES, NULL, 0 },
	{ "c/trinity_svf_debug_manifest.json", WITH_INPUTS, NULL, 0 },
	{ "c/trinity_svf_scale_offsets.safetensors", WITH_INPUTS, NULL, 0 },
	{ "c/trinity_svf_stage_debug.safetensors", WITH_INPUTS | WITH_STAGES, NULL, 0 },
	{ "c/trinity_svf_all_selected_stage_debug.safetensors", WITH_INPUTS | WITH_STAGES, NULL, 0 },
	{ "a.json", WITH_INPUTS | WITH_STAGES, NULL, 0 },
	{ "b.json", WITH_STAGES, NULL, 0 },
	{ "st/trinity_svf_elixir_stage_stele_cpu_torch_v_model.embed_tokens.weight.safetensors", WITH_STAGES, NULL, 0 },
	{ "art/manifest.json", WITH_ARTIFACT, NULL, 0 },
	{ "art/router_head.safetensors", WITH_ARTIFACT, NULL, 0 },
};
#define FILES (sizeof files / sizeof *files)

static void put(const char *name, const void *p, size_t n)
{
	FILE *f = fopen(in_dir(name), "wb");
	if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0)
		abort();
}

static void put_tensors(const char *name, const struct st_tensor_spec *specs, size_t n, const float *x)
{
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = n, .pad_header = true
	};
	struct st_error err = ST_ERROR_INIT;
	const char *ignored;
	struct st_writer *w;
	if (st_writer_open(in_dir(name), &plan, &w, &err) != ST_OK)
		abort();
	for (size_t i = 0, at = 0; i < n; i++) {
		size_t elems = (size_t)(specs[i].shape[0] * (specs[i].ndim > 1 ? specs[i].shape[1] : 1));
		if (st_writer_append(w, x + at, elems * sizeof *x, &err) != ST_OK)
			abort();
		at += elems;
	}
	if (st_writer_finish(w, &ignored, &err) != ST_OK || st_writer_commit(w, &err) != ST_OK)
		abort();
}

static void get(struct sound *s)
{
	struct stat sb;
	FILE *f = fopen(in_dir(s->name), "rb");
	if (!f || fstat(fileno(f), &sb) != 0 || !(s->p = malloc((size_t)sb.st_size))
	    || fread(s->p, 1, (size_t)sb.st_size, f) != (size_t)sb.st_size)
		abort();
	s->n = (size_t)sb.st_size;
	fclose(f);
}

static int drop(const char *p, const struct stat *s, int k, struct FTW *f)
{
	(void)s, (void)k, (void)f;
	return remove(p);
}
static void leave(void)
{
	nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
	for (size_t i = 0; i < FILES; i++)
		free(files[i].p);
}

static void open_session(void)
{
	static const struct st_tensor_spec base[] = {
		{ "model.embed_tokens.weight", ST_DTYPE_F32, 2, { ROWS, K } },
		{ "model.layers.0.self_attn.k_proj.weight", ST_DTYPE_F32, 2, { K, K } }
	};
	static const struct st_tensor_spec vector = { "trinity_router_es_vector", ST_DTYPE_F32, 1, { 12 * K } };
	float w[(ROWS + K) * K], v[12 * K];
	char json[1600], hex[65];
	struct st_error err = ST_ERROR_INIT;
	snprintf(dir, sizeof dir, "/tmp/stele-fuzz-XXXXXX");
	if (!mkdtemp(dir) || atexit(leave) != 0)
		abort();
	for (size_t i = 0; i < sizeof w / sizeof *w; i++)
		w[i] = (float)(i * 7919 % 101) / 101 - 0.5f;
	for (size_t i = 0; i < sizeof v / sizeof *v; i++)
		v[i] = (float)(i * 31 % 17) / 100;
	put_tensors("base.safetensors", base, 2, w);
	put_tensors("vector.safetensors", &vector, 1, v);
	struct sound s = { .name = "vector.safetensors" };
	get(&s);
	if (st_sha256_hex(s.p, s.n, hex, &err) != ST_OK)
		abort();
	free(s.p);
	int n = snprintf(json, sizeof json,
	                 "{\"source_vector_sha256\":\"%s\",\"selected_tensor_count\":2,\"selected_singular_value_"
	                 "count\":16,\"selected_tensors\":["
	                 "{\"source_name\":\"model.embed_tokens.weight\",\"elixir_name\":\"embedder.kernel\",\"shape\":"
	                 "[24,8],\"singular_values\":8,\"offset_start\":0,\"offset_end\":8},"
	                 "{\"source_name\":\"model.layers.0.self_attn.k_proj.weight\",\"elixir_name\":\"key.kernel\","
	                 "\"shape\":[8,8],\"singular_values\":8,\"offset_start\":8,\"offset_end\":16}],"
	                 "\"sample_adapted_tensor\":{\"source_name\":\"model.layers.0.self_attn.k_proj.weight\","
	                 "\"elixir_name\":\"key.kernel\",\"offset_start\":8,\"offset_end\":16,"
	                 "\"source_shape\":[8,8],\"sample_reconstructed_shape\":[8,8],\"sample_reconstructed_bf16_"
	                 "sha256\":\"00\"}}",
	                 hex);
	put("reference.json", json, (size_t)n);
	export("a sound export");
	replay("st", "b.json", false, "a sound replay");
	compare("a.json", "b.json", "sound reports");
	apply("art", "a sound artifact");
	for (size_t i = 0; i < FILES; i++)
		get(&files[i]);
}

/* ---- damage ---- */

/* Counts down through every member and element; at 0 the value there is replaced, or taken away. */
static bool replace(json_t *j, size_t *left, uint8_t by)
{
	static const char *const values[] = {
		"null",  "true",     "-1", "0",   "7",  "1e308", "9223372036854775807", "\"\"",
		"\"x\"", "\"../x\"", "[]", "[1]", "{}", "[[]]",  "\"b.json\"",          "\"\\n\""
	};
	size_t i = 0, n = json_is_object(j) ? json_object_size(j) : json_array_size(j),
	       pick = by % (sizeof values / sizeof *values + 1);
	void *at = json_object_iter(j);
	for (; i < n; i++, at = json_is_object(j) ? json_object_iter_next(j, at) : NULL) {
		json_t *v = json_is_object(j) ? json_object_iter_value(at) : json_array_get(j, i);
		if ((*left)-- > 0) {
			if (replace(v, left, by))
				return true;
			continue;
		}
		json_t *other = pick < sizeof values / sizeof *values ? json_loads(values[pick], JSON_DECODE_ANY, NULL)
		                                                      : NULL;
		if (json_is_array(j))
			(void)(other ? json_array_set_new(j, i, other) : json_array_remove(j, i));
		else
			(void)(other ? json_object_iter_set_new(j, at, other)
			             : json_object_del(j, json_object_iter_key(at)));
		return true;
	}
	return false;
}

static void put_values(const struct sound *s, const uint8_t *data, size_t n)
{
	json_t *j = json_loadb((const char *)s->p, s->n, 0, NULL);
	for (size_t i = 0; i + 3 <= n && i < 9; i += 3) {
		size_t left = data[i] | (size_t)data[i + 1] << 8;
		replace(j, &left, data[i + 2]);
	}
	char *text = json_dumps(j, JSON_INDENT(1));
	if (!text)
		abort();
	put(s->name, text, strlen(text));
	free(text);
	json_decref(j);
}

static void put_bytes(const struct sound *s, const uint8_t *data, size_t n)
{
	uint8_t *p = malloc(s->n);
	if (!p)
		abort();
	memcpy(p, s->p, s->n);
	for (size_t i = 0; i + 3 <= n && i < 39; i += 3)
		p[(data[i] | (size_t)data[i + 1] << 8) % s->n] = data[i + 2];
	put(s->name, p, s->n);
	free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (!dir[0])
		open_session();
	if (n == 0 || n > 1u << 12)
		return 0;
	const struct sound *s = &files[(data[0] & 0x3F) % FILES];
	if (data[0] & 0x80)
		put(s->name, data + 1, n - 1);
	else if (data[0] & 0x40 && s->p[0] == '{')
		put_values(s, data + 1, n - 1);
	else
		put_bytes(s, data + 1, n - 1);
	if (s->readers & WITH_INPUTS) {
		replay("st2", "b2.json", false, NULL);
		replay("st2", "b2.json", true, NULL);
		apply("art2", NULL);
	}
	if (s->readers & WITH_STAGES) {
		compare("a.json", "b.json", NULL);
		compare("b.json", "a.json", NULL);
	}
	if (s->readers & WITH_ARTIFACT)
		artifact();
	put(s->name, s->p, s->n);
	return 0;
}
