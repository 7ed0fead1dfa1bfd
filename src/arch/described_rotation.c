/* described_rotation.c - llama3's rotation, which config.json says by numbers and GGUF by what they come to. */
#include "arch/arch.h"
#include "arch/described.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <string.h>

/* All of frequency f stays for wavelengths below original/high positions, nothing beyond original/low, linear in
 * original/wavelength between (transformers, modeling_rope_utils). */
double st_rope_bands(double f, double factor, double low, double high, double original)
{
	double turns = original * f / (2 * M_PI); /* original / wavelength */
	double keep = (turns - low) / (high - low);
	keep = keep < 0 ? 0 : keep > 1 ? 1 : keep;
	return (1 - keep) / factor + keep;
}

/* Published models use low 1 and high 4; they count only in proportion to the original length,
 * so 1 is no loss of generality. */
#define LOW 1.0
#define USUAL_HIGH 4.0
#define USUAL_ORIGINAL 8192

struct llama3 {
	double factor, high, original;
};

/*
 * Converters write one divisor for each pair. Find the numbers again, so that both spellings of one model have one
 * configuration. In the blended range, what is kept is a line in f: two points give its slope and offset, one gives the slope
 * under the usual high. What does not reproduce every divisor is left alone; the divisors are used in any case.
 */
static bool recognise(const double *f, const double *by, uint32_t pairs, struct llama3 *out)
{
	double factor = 1, f0 = 0, k0 = 0, f1 = 0, k1 = 0;
	uint32_t blended = 0;
	for (uint32_t i = 0; i < pairs; i++)
		factor = fmax(factor, by[i]);
	if (factor < 1 + 1e-6)
		return false;
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
		return false;
	for (uint32_t i = 0; i < pairs; i++)
		if (!(fabs(st_rope_bands(f[i], factor, LOW, high, original) * by[i] - 1) < ST_DIVISORS_AGREE))
			return false;
	*out = (struct llama3){ factor, high, original };
	return true;
}

static struct st_setting *key(const struct st_described *d, const char *name)
{
	uint32_t i = st_family_find_key(d->family, name);
	return i == ST_FAMILY_NONE ? NULL : (struct st_setting *)(uintptr_t)&d->settings.keys[i];
}

/* The weight that holds the divisors, where it is a plain vector. */
static const struct st_tensor *divisors(const struct st_described *d)
{
	uint32_t i = st_family_find_weight(d->family, "rope_freqs");
	const struct st_tensor *t = i == ST_FAMILY_NONE ? NULL : d->weights[i][0].tensor;
	return t && t->ndim == 1 && t->n_elems <= ST_MAX_HEAD_DIM / 2 ? t : NULL;
}

void st_described_rotation(struct st_described *d)
{
	struct st_setting *kind = key(d, "rope_type"), *theta = key(d, "theta"), *factor = key(d, "factor"),
			  *low = key(d, "low_freq"), *high = key(d, "high_freq"), *original = key(d, "original");
	const struct st_tensor *t = divisors(d);
	double f[ST_MAX_HEAD_DIM / 2], by[ST_MAX_HEAD_DIM / 2];
	struct llama3 found;
	if (!t || !kind || !theta || !factor || !low || !high || !original || theta->kind != ST_SETTING_NUMBER
	    || strcmp(st_described_scaling(d), "none") != 0)
		return;
	uint32_t pairs = (uint32_t)t->n_elems;
	double ln_theta = st_log(theta->number);
	st_tensor_decode_f64(t, 0, 1, by);
	for (uint32_t i = 0; i < pairs; i++) {
		f[i] = st_exp(-ln_theta * (2.0 * i) / (2.0 * pairs)); /* theta^(-2i/d) */
		if (!(by[i] > 0) || !isfinite(by[i]))
			return;
	}
	if (!recognise(f, by, pairs, &found))
		return;
	*kind = (struct st_setting){ .kind = ST_SETTING_TEXT, .text = "llama3" };
	factor->number = found.factor;
	low->number = LOW;
	high->number = found.high;
	original->number = found.original;
}
