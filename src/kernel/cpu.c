/* cpu.c - CPU levels and modes: names, what this processor has, defaults. */
#include "kernel/kernels.h"

#include "base/error.h"

#include <strings.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const mode_names[ST_MODE_COUNT] = {
	[ST_MODE_EXACT] = "exact",
	[ST_MODE_FAST] = "fast",
	[ST_MODE_EMULATE_F16] = "emulate:f16",
	[ST_MODE_EMULATE_BF16] = "emulate:bf16",
	[ST_MODE_EMULATE_Q8_0] = "emulate:q8_0",
	[ST_MODE_EMULATE_Q8_K] = "emulate:q8_k",
};

static const char *const cpu_names[ST_CPU_COUNT] = {
	[ST_CPU_SCALAR] = "scalar",
	[ST_CPU_AVX2] = "avx2",
	[ST_CPU_AVX512] = "avx512",
	[ST_CPU_NEON] = "neon",
};

static const struct st_kernels *const levels[ST_CPU_COUNT] = {
	[ST_CPU_SCALAR] = &st_kernels_scalar,
#if defined(__x86_64__)
	[ST_CPU_AVX2] = &st_kernels_avx2,
	[ST_CPU_AVX512] = &st_kernels_avx512,
#elif defined(__aarch64__)
	[ST_CPU_NEON] = &st_kernels_neon,
#endif
};

static bool find_name(const char *const *names, int n, const char *name, int *out)
{
	for (int i = 0; i < n; i++)
		if (strcasecmp(names[i], name) == 0) {
			*out = i;
			return true;
		}
	return false;
}

const char *st_mode_name(enum st_mode m) { return mode_names[m]; }
const char *st_cpu_name(enum st_cpu c) { return cpu_names[c]; }

bool st_mode_parse(const char *name, enum st_mode *out)
{
	int i;
	if (!find_name(mode_names, ST_MODE_COUNT, name, &i))
		return false;
	*out = (enum st_mode)i;
	return true;
}

bool st_cpu_parse(const char *name, enum st_cpu *out)
{
	int i;
	if (!find_name(cpu_names, ST_CPU_COUNT, name, &i))
		return false;
	*out = (enum st_cpu)i;
	return true;
}

bool st_cpu_usable(enum st_cpu c)
{
	if (!levels[c])
		return false;
#if defined(__x86_64__)
	/* The builtins also ask whether the system saves the wide registers. F16C has none in clang 14. */
	unsigned a, b, ecx = 0, d;
	bool f16c = __get_cpuid(1, &a, &b, &ecx, &d) && (ecx & bit_F16C);
	bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
	if (c == ST_CPU_AVX2)
		return avx2;
	if (c == ST_CPU_AVX512)
		return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
		    && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
	return true;
}

enum st_cpu st_cpu_best(void)
{
	static const enum st_cpu order[] = { ST_CPU_AVX512, ST_CPU_AVX2, ST_CPU_NEON };
	for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
		if (st_cpu_usable(order[i]))
			return order[i];
	return ST_CPU_SCALAR;
}

const struct st_kernels *st_kernels_get(enum st_cpu c) { return st_cpu_usable(c) ? levels[c] : NULL; }
enum st_cpu st_kernels_cpu(const struct st_kernels *k) { return k->cpu; }

struct st_exec st_exec_default(void) { return (struct st_exec){ .k = levels[st_cpu_best()], .mode = ST_MODE_EXACT }; }

enum st_status st_exec_at(const char *cpu, struct st_exec *out, struct st_error *err)
{
	enum st_cpu level;
	*out = st_exec_default();
	if (!cpu)
		return ST_OK;
	if (!st_cpu_parse(cpu, &level) || !st_cpu_usable(level))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--cpu",
		                  "level \"%s\" is unknown or not usable here", cpu);
	out->k = st_kernels_get(level);
	return ST_OK;
}

const struct st_gemm_level *st_gemm_level(enum st_cpu c)
{
	const struct st_kernels *k = st_kernels_get(c);
	return k ? &k->gemm : &st_kernels_scalar.gemm;
}
