/* rope.c - the frequencies of the rotary embedding. */
#include "arch/model_state.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>

/* All of frequency f stays for wavelengths below original/high positions, nothing beyond original/low, linear in
 * original/wavelength between (transformers, modeling_rope_utils). */
double st_rope_bands(double f, double factor, double low, double high, double original)
{
	double turns = original * f / (2 * M_PI); /* original / wavelength */
	double keep = (turns - low) / (high - low);
	keep = keep < 0 ? 0 : keep > 1 ? 1 : keep;
	return (1 - keep) / factor + keep;
}

double st_rope_llama3(const struct st_config *cfg, double f)
{
	return st_rope_bands(f, cfg->rope_factor, cfg->rope_low_freq, cfg->rope_high_freq,
	                     cfg->rope_original_positions);
}

/* Published models use low 1 and high 4; they count only in proportion to the original length,
 * so 1 is no loss of generality. */
#define LOW 1.0
#define USUAL_HIGH 4.0
#define USUAL_ORIGINAL 8192
/* Converters work in f32; for factors up to 64 their divisors are up to 4e-6 off. */
#define AS_MEANT 1e-5

/*
 * GGUF has no key for llama3's scaling: converters write its effect, one divisor per pair. Find
 * the parameters again, so that both spellings of one model have one configuration. In the blended
 * range, what is kept is a line in f: two points give its slope and offset, one gives the slope under the usual
 * high. What does not reproduce every divisor is left alone; the divisors are used in any case.
 */
static void recognise_llama3(struct st_config *cfg, const double *f, const double *by, uint32_t pairs)
{
	struct st_config c = *cfg;
	double factor = 1, f0 = 0, k0 = 0, f1 = 0, k1 = 0;
	uint32_t blended = 0;
	for (uint32_t i = 0; i < pairs; i++)
		factor = fmax(factor, by[i]);
	if (factor < 1 + 1e-6)
		return;
	for (uint32_t i = 0; i < pairs; i++) {
		double k = (1 / by[i] - 1 / factor) / (1 - 1 / factor);
		if (k < 1e-5 || k > 1 - 1e-5)
			continue;
		if (blended++ == 0) {
			f0 = f[i];
			k0 = k;
		}
		f1 = f[i];
		k1 = k;
	}
	double high = USUAL_HIGH, original = USUAL_ORIGINAL;
	if (blended >= 2) {
		double slope = (k1 - k0) / (f1 - f0), offset = k0 - slope * f0;
		high = LOW - LOW / offset;
		high = round(high * 16) / 16; /* divisors are f32: what was meant is a short number near by */
	}
	if (blended >= 1)
		original = round((k0 * (high - LOW) + LOW) * 2 * M_PI / f0);
	if (!(high > LOW) || !(high < 1e6) || !(original >= 1 && original <= UINT32_MAX))
		return;
	c.rope_scaling = ST_ROPE_SCALING_LLAMA3;
	c.rope_factor = factor;
	c.rope_low_freq = LOW;
	c.rope_high_freq = high;
	c.rope_original_positions = (uint32_t)original;
	for (uint32_t i = 0; i < pairs; i++)
		if (!(fabs(st_rope_llama3(&c, f[i]) * by[i] - 1) < AS_MEANT))
			return;
	*cfg = c;
}

enum st_status st_rope_frequencies(struct st_model *m, double *inv, struct st_error *err)
{
	struct st_config *cfg = &m->cfg;
	const struct st_tensor *t = m->weights[st_model_slot(m, ST_ROLE_ROPE_FREQS, 0)].tensor;
	uint32_t pairs = cfg->head_dim / 2;
	double by[ST_MAX_HEAD_DIM / 2], f[ST_MAX_HEAD_DIM / 2];
	double ln_theta = st_log(cfg->rope_theta);
	for (uint32_t i = 0; i < pairs; i++) {
		f[i] = st_exp(-ln_theta * (2.0 * i) / cfg->head_dim); /* theta^(-2i/d) */
		inv[i] = f[i];
		if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR)
			inv[i] /= cfg->rope_factor;
		else if (cfg->rope_scaling == ST_ROPE_SCALING_LLAMA3)
			inv[i] *= st_rope_llama3(cfg, f[i]);
	}
	if (!t)
		return ST_OK;
	st_tensor_decode_f64(t, 0, 1, by);
	for (uint32_t i = 0; i < pairs; i++) {
		if (!(by[i] > 0) || !isfinite(by[i]))
			return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name,
			                  "element %u is %g, no divisor of a frequency", i, by[i]);
		if (cfg->rope_scaling != ST_ROPE_SCALING_LLAMA3)
			inv[i] /= by[i];
		else if (!(fabs(st_rope_llama3(cfg, f[i]) * by[i] - 1) < AS_MEANT)) /* said twice, it is applied once */
			return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name,
			                  "element %u is %g, where the configuration's llama3 scaling divides by %g", i,
			                  by[i], 1 / st_rope_llama3(cfg, f[i]));
	}
	if (cfg->rope_scaling == ST_ROPE_SCALING_NONE)
		recognise_llama3(cfg, f, by, pairs);
	return ST_OK;
}
