/* names.c - what stages, layouts and policies are called in files. */
#include "svf/inputs.h"

#include <string.h>

const char *const st_svf_stage_names[ST_SVF_STAGES] = {
	"source_f32",      "offsets_f32",     "scaled_s",           "normalization", "u_scaled",
	"matmul_pre_norm", "zero_source_f32", "adapted_source_f32", "final_f32",     "final_bf16",
};

const char *const st_svf_ties[ST_SVF_TIE_COUNT + 1] = { "independent", "compose", "last-wins", NULL };

/* The spelling in use, and those of older manifests. */
static const struct {
	const char *name;
	enum st_svf_layout layout;
} layouts[] = { { "torch_v", ST_SVF_TORCH_V },
	        { "vh", ST_SVF_VH },
	        { "nx", ST_SVF_NX },
	        { "torch", ST_SVF_TORCH_V },
	        { "torch-v", ST_SVF_TORCH_V } };

const char *st_svf_layout_name(enum st_svf_layout l) { return layouts[l].name; }

bool st_svf_layout_parse(const char *s, enum st_svf_layout *out)
{
	for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
		if (strcmp(layouts[i].name, s) == 0) {
			*out = layouts[i].layout;
			return true;
		}
	return false;
}

const json_t *st_svf_with_text(const json_t *list, const char *key, const char *text)
{
	for (size_t i = 0; text && i < json_array_size(list); i++) {
		const char *s = st_svf_text_in(json_array_get(list, i), key);
		if (s && strcmp(s, text) == 0)
			return json_array_get(list, i);
	}
	return NULL;
}

bool st_svf_turns(const char *source_name, const char *target_name)
{
	static const char layer[] = "model.layers.", weight[] = ".weight", kernel[] = ".kernel";
	size_t s = strlen(source_name), t = strlen(target_name), w = sizeof weight - 1, k = sizeof kernel - 1;
	return strncmp(source_name, layer, sizeof layer - 1) == 0 && s >= w && t >= k
	    && strcmp(source_name + s - w, weight) == 0 && strcmp(target_name + t - k, kernel) == 0;
}

bool st_svf_plain(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'
	    || c == '-';
}

char *st_svf_safe_name(struct st_arena *a, const char *name)
{
	size_t n = strlen(name);
	char *out = st_arena_alloc2(a, 2, n + 1, 1), *p = out;
	if (!out)
		return NULL;
	for (const char *s = name; *s;) {
		if (st_svf_plain(*s)) {
			*p++ = *s++;
			continue;
		}
		*p++ = '_';
		*p++ = '_';
		/* One pair for a character, not for each byte of it. */
		do
			s++;
		while (((unsigned char)*s & 0xC0) == 0x80);
	}
	return out;
}
