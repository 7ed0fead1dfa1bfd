/*
 * described_sizes.c - whether what a file says of sizes and of the rotation makes sense, whatever the family: keys that pages
 * call by the usual names.
 */
#include "arch/described.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <string.h>

#define MAX_WIDTH (1u << 24)

/* Generous against any known model, small against overflow. */
static const struct {
	const char *key, *label;
	uint32_t most;
} sizes[] = {
	{ "layers", "number of layers", 4096 },
	{ "hidden", "hidden size", MAX_WIDTH },
	{ "vocab", "vocabulary size", 1u << 28 },
	{ "ffn", "feed-forward size", MAX_WIDTH },
	{ "heads", "number of attention heads", MAX_WIDTH },
	{ "kv_heads", "number of key-value heads", MAX_WIDTH },
	{ "head_dim", "head size", ST_MAX_HEAD_DIM },
};

/* A key's number; false where the family has no such key, or says another one for each layer. */
static bool number(const struct st_described *d, const char *key, double *v)
{
	uint32_t i = st_family_find_key(d->family, key);
	*v = 0;
	if (i == ST_FAMILY_NONE || d->settings.keys[i].kind != ST_SETTING_NUMBER)
		return false;
	*v = d->settings.keys[i].number;
	return true;
}

/* Whether the file says it; its name there. */
static bool said(const struct st_described *d, const char *key, const char **name)
{
	uint32_t i = st_family_find_key(d->family, key);
	*name = i == ST_FAMILY_NONE || !d->origin[i].key ? key : d->origin[i].key;
	return i != ST_FAMILY_NONE && d->origin[i].said;
}

static enum st_status check_size(const struct st_described *d, size_t i, struct st_error *err)
{
	double v, hidden, heads;
	const char *name;
	if (!number(d, sizes[i].key, &v))
		return ST_OK;
	bool given = said(d, sizes[i].key, &name);
	if (v == 0 && given && i < 3)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "is 0: no %s", sizes[i].label);
	if (v > sizes[i].most)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, sizes[i].label, "%.10g exceeds the limit of %u", v,
		                  sizes[i].most);
	if (v == floor(v))
		return ST_OK;
	if (strcmp(sizes[i].key, "head_dim") == 0 && number(d, "hidden", &hidden) && number(d, "heads", &heads))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, sizes[i].label,
		                  "not given, and the hidden size %.0f is no multiple of %.0f heads", hidden, heads);
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, sizes[i].label, "not given, and %g otherwise", v);
}

/* A kind of rotation without the numbers that make it one, which readers would take for others. */
static enum st_status check_rotation(const struct st_described *d, struct st_error *err)
{
	static const struct {
		const char *kind, *needs[4];
	} kinds[] = { { "linear", { "factor" } }, { "llama3", { "factor", "low_freq", "high_freq", "original" } } };
	uint32_t type = st_family_find_key(d->family, "rope_type");
	const char *name, *kind_at;
	double v, low, high;
	if (type == ST_FAMILY_NONE || d->settings.keys[type].kind != ST_SETTING_TEXT)
		return ST_OK;
	bool typed = said(d, "rope_type", &kind_at), gguf = d->settings.spelling == ST_SPELLING_GGUF;
	if (!typed && !gguf && said(d, "factor", &name))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, kind_at, "is missing beside %s", name);
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
		for (size_t i = 0; i < 4 && kinds[k].needs[i] && typed; i++)
			if (strcmp(d->settings.keys[type].text, kinds[k].kind) == 0
			    && st_family_find_key(d->family, kinds[k].needs[i]) != ST_FAMILY_NONE
			    && !said(d, kinds[k].needs[i], &name))
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "is missing, but %s is %s", kind_at,
				                  kinds[k].kind);
	if (number(d, "theta", &v) && !(v > 0))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope_theta", "%g is no positive number", v);
	if (number(d, "factor", &v) && !(v > 0))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope scaling factor", "%g is no positive number", v);
	if (strcmp(d->settings.keys[type].text, "llama3") == 0 && number(d, "low_freq", &low)
	    && number(d, "high_freq", &high) && (!(low > 0) || !(high > low)))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope scaling",
		                  "low_freq_factor %g and high_freq_factor %g are no rising pair of positive numbers", low,
		                  high);
	return ST_OK;
}

enum st_status st_described_sizes(const struct st_described *d, struct st_error *err)
{
	double heads, kv_heads, eps, head_dim, turned;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		ST_TRY(check_size(d, i, err));
	if (number(d, "heads", &heads) && number(d, "kv_heads", &kv_heads) && kv_heads > 0
	    && fmod(heads, kv_heads) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "number of key-value heads",
		                  "%.0f does not divide the %.0f attention heads", kv_heads, heads);
	if (number(d, "turned", &turned) && number(d, "head_dim", &head_dim) && fmod(head_dim, 2) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "head size", "%.0f is odd: no rotary pairs", head_dim);
	if (number(d, "eps", &eps) && !(eps >= 0 && eps < 1))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "norm epsilon", "%g is not between 0 and 1", eps);
	return check_rotation(d, err);
}
