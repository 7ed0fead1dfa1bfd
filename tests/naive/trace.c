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
	bool without = list[0] == '-', found = false;
	size_t n = strlen(stage);
	for (const char *p = list; p && *p != '\0'; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		const char *q = *p == '-' ? p + 1 : p;
		found = found || (strcspn(q, ",") == n && memcmp(q, stage, n) == 0);
	}
	return found != without;
}

static bool taken(const struct value *v, const struct trace_options *o)
{
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
	set(j, "attn_scores.form", m->cap > 0 ? "capped" : "scaled");
	if (r->o.kv != CACHE_PLAIN)
		set(j, "kv_cache", cache_names[r->o.kv]);
	if (r->o.flash != FLASH_NONE)
		set(j, "flash_attention", flash_names[r->o.flash]);
	return j;
}

static size_t put(enum st_dtype type, double x, unsigned char *p)
{
	float f = (float)x;
	uint32_t u;
	_Float16 h = (_Float16)f;
	int32_t i = (int32_t)x;
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
		if (!taken(v, o))
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
		if (v->n_positions > 0)
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
		if (!taken(v, o))
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
