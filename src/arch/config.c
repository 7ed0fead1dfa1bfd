/* config.c - a configuration from any container: dispatch, defaults, sanity. */
#include "arch/config.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <string.h>

/* The hand-written limits: generous against any known model, small against overflow. */
#define MAX_LAYERS 4096u
#define MAX_WIDTH (1u << 24) /* hidden, ffn, heads * head_dim */
#define MAX_VOCAB (1u << 28)

static enum st_status bad(struct st_error *err, const char *what, const char *fmt, double value)
{
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, fmt, value);
}

static enum st_status check_count(const char *what, uint32_t v, uint32_t most, struct st_error *err)
{
	if (v == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "is 0");
	if (v > most)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, what, "%u exceeds the limit of %u", v, most);
	return ST_OK;
}

static enum st_status check_rope(const struct st_config *cfg, struct st_error *err)
{
	if (!(cfg->rope_theta > 0) || !isfinite(cfg->rope_theta))
		return bad(err, "rope_theta", "%g is no positive number", cfg->rope_theta);
	if (cfg->rope_scaling == ST_ROPE_SCALING_NONE)
		return ST_OK;
	if (!(cfg->rope_factor > 0) || !isfinite(cfg->rope_factor))
		return bad(err, "rope scaling factor", "%g is no positive number", cfg->rope_factor);
	if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR)
		return ST_OK;
	if (!(cfg->rope_low_freq > 0) || !(cfg->rope_high_freq > cfg->rope_low_freq) || !isfinite(cfg->rope_high_freq))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope scaling",
		                  "low_freq_factor %g and high_freq_factor %g are no rising pair of positive numbers",
		                  cfg->rope_low_freq, cfg->rope_high_freq);
	return check_count("rope scaling original_max_position_embeddings", cfg->rope_original_positions, UINT32_MAX,
	                   err);
}

static enum st_status check(const struct st_config *cfg, struct st_error *err)
{
	ST_TRY(check_count("number of layers", cfg->n_layers, MAX_LAYERS, err));
	ST_TRY(check_count("hidden size", cfg->hidden, MAX_WIDTH, err));
	ST_TRY(check_count("feed-forward size", cfg->ffn, MAX_WIDTH, err));
	ST_TRY(check_count("vocabulary size", cfg->vocab, MAX_VOCAB, err));
	ST_TRY(check_count("number of attention heads", cfg->n_heads, MAX_WIDTH, err));
	ST_TRY(check_count("number of key-value heads", cfg->n_kv_heads, MAX_WIDTH, err));
	if (cfg->n_heads % cfg->n_kv_heads != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "number of key-value heads",
		                  "%u does not divide the %u attention heads", cfg->n_kv_heads, cfg->n_heads);
	ST_TRY(check_count("head size", cfg->head_dim, ST_MAX_HEAD_DIM, err));
	if (cfg->head_dim % 2)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "head size", "%u is odd: no rotary pairs",
		                  cfg->head_dim);
	uint64_t width = (uint64_t)cfg->n_heads * cfg->head_dim;
	if (width > MAX_WIDTH)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "number of attention heads",
		                  "%u heads of %u exceed the limit of %u features", cfg->n_heads, cfg->head_dim,
		                  MAX_WIDTH);
	if (!(cfg->norm_eps >= 0 && cfg->norm_eps < 1))
		return bad(err, "norm epsilon", "%g is not between 0 and 1", cfg->norm_eps);
	return check_rope(cfg, err);
}

/* What a file may leave out, where the family's reference implementation says what that means. */
static enum st_status defaults(const struct st_arch *arch, struct st_config *cfg, struct st_error *err)
{
	snprintf(cfg->arch, sizeof cfg->arch, "%s", arch->name);
	cfg->qk_norm = arch->qk_norm;
	cfg->qkv_bias |= arch->qkv_bias;
	if (cfg->n_kv_heads == 0)
		cfg->n_kv_heads = cfg->n_heads;
	if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR && cfg->rope_factor == 1) {
		cfg->rope_scaling = ST_ROPE_SCALING_NONE;
		cfg->rope_factor = 0;
	}
	/* A window that no layer uses is none: one spelling of that. */
	if (cfg->sliding_window == 0 || cfg->window_from_layer >= cfg->n_layers)
		cfg->sliding_window = cfg->window_from_layer = 0;
	if (isnan(cfg->rope_theta)) {
		if (arch->default_rope_theta == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, cfg->origin[ST_CONFIG_ROPE_THETA].key,
			                  "is missing, and %s has no default", arch->name);
		cfg->rope_theta = arch->default_rope_theta;
	}
	if (cfg->head_dim == 0 && cfg->n_heads) {
		if (cfg->hidden % cfg->n_heads)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "head size",
			                  "not given, and the hidden size %u is no multiple of %u heads", cfg->hidden,
			                  cfg->n_heads);
		cfg->head_dim = cfg->hidden / cfg->n_heads;
	}
	return ST_OK;
}

enum st_status st_config_read(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                              struct st_error *err)
{
	memset(cfg, 0, sizeof *cfg);
	cfg->norm_eps = cfg->rope_theta = NAN;
	cfg->bos = cfg->eos = -1;
	enum st_status st;
	if (c->format == ST_FORMAT_GGUF)
		st = st_config_gguf(c, cfg, arch, err);
	else if (c->format == ST_FORMAT_APR)
		st = st_config_apr(c, cfg, arch, err);
	else if (c->docs.config)
		st = st_config_hf(c, cfg, arch, err);
	else
		st = st_fail(err, ST_ERR_UNSUPPORTED, "%s without a config.json beside it is no model",
		             st_format_name(c->format));
	if (st == ST_OK && (*arch)->configure)
		st = (*arch)->configure(c, cfg, err);
	if (st == ST_OK)
		st = defaults(*arch, cfg, err);
	if (st == ST_OK)
		st = check(cfg, err);
	st_error_in(err, c->path);
	return st;
}
