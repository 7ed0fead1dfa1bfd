/* names.c - what stages, layouts and policies are called in files. */
#include "svf/svf.h"

#include <string.h>

const char *const st_svf_stage_names[ST_SVF_STAGES] = {
	"source_f32",      "offsets_f32",     "scaled_s",           "normalization", "u_scaled",
	"matmul_pre_norm", "zero_source_f32", "adapted_source_f32", "final_f32",     "final_bf16",
};

static const char *const layouts[ST_SVF_LAYOUT_COUNT] = { "torch_v", "vh", "nx" };
static const char *const ties[ST_SVF_TIE_COUNT] = { "independent", "compose", "last-wins" };

const char *st_svf_layout_name(enum st_svf_layout l) { return layouts[l]; }
const char *st_svf_tie_name(enum st_svf_tie t) { return ties[t]; }

static bool find(const char *const *names, int n, const char *s, int *out)
{
	for (int i = 0; i < n; i++)
		if (strcmp(names[i], s) == 0) {
			*out = i;
			return true;
		}
	return false;
}

bool st_svf_layout_parse(const char *s, enum st_svf_layout *out)
{
	int i;
	/* Two spellings that older manifests use. */
	if (strcmp(s, "torch") == 0 || strcmp(s, "torch-v") == 0)
		s = layouts[ST_SVF_TORCH_V];
	if (!find(layouts, ST_SVF_LAYOUT_COUNT, s, &i))
		return false;
	*out = (enum st_svf_layout)i;
	return true;
}

bool st_svf_tie_parse(const char *s, enum st_svf_tie *out)
{
	int i;
	if (!find(ties, ST_SVF_TIE_COUNT, s, &i))
		return false;
	*out = (enum st_svf_tie)i;
	return true;
}

static bool plain(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'
	    || c == '-';
}

char *st_svf_safe_name(struct st_arena *a, const char *name)
{
	size_t n = strlen(name);
	char *out = st_arena_alloc(a, 2 * n + 1, 1), *p = out;
	if (!out)
		return NULL;
	for (const char *s = name; *s;) {
		if (plain(*s)) {
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
