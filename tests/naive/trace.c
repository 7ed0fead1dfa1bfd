/* trace.c - a run as a trace bundle: a safetensors file. */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whether `list` ("a,b" or "-a,-b") takes the stage. */
static bool listed(const char *list, const char *stage)
{
	if (!list)
		return true;
	if (strcmp(list, "usual") == 0)
		list = "embedding,attn_norm,qkv_matmul,qkv_bias,q_post_rope,k_post_rope,attention,attn_out,post_attn_residual,"
		       "ffn_norm,ffn_gate,ffn_up,ffn_silu,ffn_swigl,ffn_out,post_ffn_residual,final_norm,lm_head";
	else if (strcmp(list, "outputs") == 0)
		list = "embedding,post_ffn_residual,final_norm,lm_head";
	bool without = list[0] == '-', found = false;
	size_t n = strlen(stage);
	for (const char *p = list; p && *p != '\0'; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		const char *q = *p == '-' ? p + 1 : p;
		found = found || (strcspn(q, ",") == n && memcmp(q, stage, n) == 0);
	}
	return found != without;
}

bool trace_takes(const struct value *v, const struct trace_options *o)
{
	if (!o)
		return true;
	int a = 0, b = NAIVE_LAYERS;
	if (o->layers && v->layer >= 0 && (sscanf(o->layers, "%d..%d", &a, &b) != 2 || v->layer < a || v->layer >= b))
		return false;
	return listed(o->stages, v->stage);
}

static void key_of(const struct value *v, char *buf, size_t n)
{
	char at[48] = "", in[24] = "";
	if (v->step > 0)
		snprintf(at, sizeof at, "steps.%u.", v->step);
	if (v->layer >= 0)
		snprintf(in, sizeof in, "layers.%d.", v->layer);
	snprintf(buf, n, "%s%s%s", at, in, v->stage);
}

static void set(json_t *j, const char *key, const char *value) { json_object_set_new(j, key, json_string(value)); }

static void set_list(json_t *j, const char *key, const uint32_t *v, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, json_integer(v[i]));
	char *s = json_dumps(a, JSON_COMPACT);
	set(j, key, s);
	free(s);
	json_decref(a);
}

static json_t *metadata(const struct run *r, const struct trace_options *o)
{
	const struct model *m = r->m;
	json_t *j = json_object();
	uint32_t listed_[4096];
	size_t n = r->n_prompt - r->from;
	memcpy(listed_, r->tokens + r->from, n * sizeof *listed_);
	if (r->o.plant.fault == FAULT_TOKENS_MISMATCH)
		listed_[(size_t)r->o.plant.value % n] = (uint32_t)((listed_[(size_t)r->o.plant.value % n] + 3) % m->V);
	set(j, "format", "stele-trace");
	set(j, "version", "1");
	set_list(j, "tokens", listed_, n);
	if (o->bare)
		return j;
	const uint32_t heads[3] = { (uint32_t)m->H, (uint32_t)m->G, (uint32_t)m->d };
	set(j, "engine", "naive");
	set(j, "backend", "cpu");
	set(j, "mode", arith_names[r->o.arith]);
	set(j, "arch", m->family);
	set_list(j, "heads", heads, 3);
	set(j, "rope_layout", m->interleaved ? "interleaved" : "half");
	char form[24];
	snprintf(form, sizeof form, "%s%s",
	         r->o.raw_scores && m->slopes == 0 ? "raw"
	         : m->cap > 0                      ? "capped"
	                                           : "scaled",
	         r->o.mask_inf ? "+mask" : "");
	set(j, "attn_scores.form", form);
	if (r->o.kv != CACHE_PLAIN)
		set(j, "kv_cache", cache_names[r->o.kv]);
	if (r->o.flash != FLASH_NONE)
		set(j, "flash_attention", flash_names[r->o.flash]);
	return j;
}

/* Columns from `at` on, as a value of their own. */
static void part_of(struct run *r, size_t i, const char *stage, size_t at, size_t cols)
{
	struct value v = r->values[i];
	size_t all = v.n / v.dims[0];
	snprintf(v.stage, sizeof v.stage, "%s", stage);
	v.dims[1] = cols;
	v.n = v.dims[0] * cols;
	v.v = malloc(v.n * sizeof *v.v);
	r->values = realloc(r->values, (r->n_values + 1) * sizeof *r->values);
	if (!v.v || !r->values)
		exit(2);
	for (size_t t = 0; t < v.dims[0]; t++)
		memcpy(v.v + t * cols, r->values[i].v + t * all + at, cols * sizeof *v.v);
	r->values[r->n_values++] = v;
}

void trace_arrange(struct run *r, const struct trace_options *o)
{
	const struct model *m = r->m;
	size_t n = r->n_values, q = m->H * m->d, kv = m->G * m->d, T = r->n_prompt;
	bool behind = false;
	for (size_t i = 0; i < n; i++) {
		struct value *v = &r->values[i];
		bool product = strcmp(v->stage, "qkv_matmul") == 0, biased = strcmp(v->stage, "qkv_bias") == 0;
		if (o->last_rows && v->step == 0 && (v->layer + 1 == (int)m->L || v->layer < 0)) {
			size_t cols = v->n / v->dims[0];
			if (behind && strncmp(v->stage, "attn_out", 8) != 0 && v->dims[0] == T && T > 1) {
				memmove(v->v, v->v + (T - 1) * cols, cols * sizeof *v->v);
				v->dims[0] = 1;
				v->n = cols;
				v->n_positions = 1;
				v->positions = &r->last_position;
				r->last_position = (uint32_t)(T - 1);
			}
			behind = behind || (v->layer >= 0 && strcmp(v->stage, "attention") == 0);
		}
		if (o->alias && strcmp(v->stage, "post_ffn_residual") == 0)
			snprintf(v->stage, sizeof v->stage, "layer_output");
		if (o->alias && i == 3) {
			part_of(r, i, "hidden_debug", 0, 2);
			v = &r->values[i];
		}
		if (o->split && (product || biased)) {
			part_of(r, i, product ? "k_matmul" : "k_matmul_bias", q, kv);
			part_of(r, i, product ? "v_matmul" : "v_matmul_bias", q + kv, kv);
			part_of(r, i, product ? "q_matmul" : "q_matmul_bias", 0, q);
			snprintf(r->values[i].stage, sizeof r->values[i].stage,
			         product ? "hidden_fused" : "hidden_fused_bias"); /* beside them, of no interest */
		}
	}
}

static size_t put(enum st_dtype type, double x, unsigned char *p)
{
	float f = (float)x;
	uint32_t u;
	uint16_t h = f16_bits(x);
	int32_t i = fabs(x) < 0x1p31 ? (int32_t)x : 0;
	switch (type) {
	case ST_DTYPE_F64:
		memcpy(p, &x, 8);
		return 8;
	case ST_DTYPE_F16:
		memcpy(p, &h, 2);
		return 2;
	case ST_DTYPE_BF16:
		f = (float)to_bf16(x);
		memcpy(&u, &f, 4);
		p[0] = (unsigned char)(u >> 16);
		p[1] = (unsigned char)(u >> 24);
		return 2;
	case ST_DTYPE_I32:
		memcpy(p, &i, 4);
		return 4;
	default:
		memcpy(p, &f, 4);
		return 4;
	}
}

void trace_write(const struct run *r, const struct trace_options *o, const char *path)
{
	json_t *header = json_object(), *meta = metadata(r, o);
	size_t at = 0;
	unsigned char one[8];
	for (size_t i = 0; i < r->n_values; i++) {
		const struct value *v = &r->values[i];
		enum st_dtype type = v->integers ? ST_DTYPE_I32 : o->dtype;
		char key[96], at_key[128];
		if (!trace_takes(v, o))
			continue;
		size_t size = v->n * put(type, 0, one);
		json_t *dims = json_array();
		for (size_t k = 0; k < v->n_dims; k++)
			json_array_append_new(dims, json_integer((json_int_t)v->dims[k]));
		key_of(v, key, sizeof key);
		json_object_set_new(header, key,
		                    json_pack("{s:s,s:o,s:[I,I]}", "dtype", st_dtype_info(type)->name, "shape", dims,
		                              "data_offsets", (json_int_t)at, (json_int_t)(at + size)));
		at += size;
		snprintf(at_key, sizeof at_key, "positions.%s", key);
		if (v->n_positions > 0 && !o->unplaced)
			set_list(meta, at_key, v->positions, v->n_positions);
	}
	for (size_t s = 1; r->n_prompt + s - 1 < r->n_tokens; s++) {
		char key[48];
		snprintf(key, sizeof key, "steps.%zu.token", s);
		json_object_set_new(header, key,
		                    json_pack("{s:s,s:[i,i],s:[I,I]}", "dtype", "U32", "shape", 1, 1, "data_offsets",
		                              (json_int_t)at, (json_int_t)(at + 4)));
		at += 4;
	}
	json_object_set_new(header, "__metadata__", meta);
	char *text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
	uint64_t n = strlen(text), padded = (n + 7) / 8 * 8;
	FILE *f = fopen(path, "wb");
	if (!f) {
		perror(path);
		exit(2);
	}
	fwrite(&padded, 8, 1, f);
	fprintf(f, "%-*s", (int)padded, text);
	for (size_t i = 0; i < r->n_values; i++) {
		const struct value *v = &r->values[i];
		if (!trace_takes(v, o))
			continue;
		for (size_t k = 0; k < v->n; k++)
			fwrite(one, put(v->integers ? ST_DTYPE_I32 : o->dtype, v->v[k], one), 1, f);
	}
	for (size_t s = 1; r->n_prompt + s - 1 < r->n_tokens; s++)
		fwrite(&r->tokens[r->n_prompt + s - 1], 4, 1, f);
	if (fclose(f) != 0) {
		perror(path);
		exit(2);
	}
	free(text);
	json_decref(header);
}
