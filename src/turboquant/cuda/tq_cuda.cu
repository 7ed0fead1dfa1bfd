/* tq_cuda.cu - see tq_cuda.h. One block per vector for the transform, one per query head and split for attention. */
#include "turboquant/cuda/tq_cuda.h"

#include <cuda_runtime.h>
#include <math.h>

/* Visible rows per block; partial softmaxes are merged by a second kernel. */
enum { SPLIT = 256, WARPS = 8 };

/* Frees what it holds however a call ends; the first failure sticks. */
struct device_memory {
	void *p[16];
	int n;
	cudaError_t e;
	device_memory() : n(0), e(cudaSuccess) {}
	~device_memory()
	{
		for (int i = 0; i < n; i++)
			cudaFree(p[i]);
	}
	template <class T> T *get(size_t count)
	{
		void *q = NULL;
		if (e == cudaSuccess)
			e = cudaMalloc(&q, count * sizeof(T));
		if (e != cudaSuccess)
			return NULL;
		p[n++] = q;
		return (T *)q;
	}
	template <class T> T *put(const T *host, size_t count)
	{
		T *q = get<T>(count);
		if (e == cudaSuccess)
			e = cudaMemcpy(q, host, count * sizeof(T), cudaMemcpyHostToDevice);
		return q;
	}
	template <class T> void take(T *host, const T *dev, size_t count)
	{
		if (e == cudaSuccess)
			e = cudaGetLastError();
		if (e == cudaSuccess)
			e = cudaMemcpy(host, dev, count * sizeof(T), cudaMemcpyDeviceToHost);
	}
	const char *result() const { return e == cudaSuccess ? NULL : cudaGetErrorString(e); }
};

const char *st_tq_cuda_unavailable(void)
{
	int n = 0;
	cudaError_t e = cudaGetDeviceCount(&n);
	return e != cudaSuccess ? cudaGetErrorString(e) : n == 0 ? "no CUDA device" : NULL;
}

/* Butterfly over D values of one block, one thread per value. s: [D] shared */
template <int D> __device__ float transform(float v, float *s)
{
	const int t = threadIdx.x;
	s[t] = v;
	__syncthreads();
	for (int h = 1; h < D; h *= 2) {
		float own = s[t], other = s[t ^ h];
		__syncthreads();
		s[t] = t & h ? other - own : own + other;
		__syncthreads();
	}
	return s[t] * (1 / sqrtf((float)D));
}

template <int D> __global__ void fwht_kernel(float *x, const float *sign)
{
	__shared__ float s[D];
	float *row = x + (size_t)blockIdx.x * D;
	row[threadIdx.x] = transform<D>(row[threadIdx.x] * sign[threadIdx.x], s);
}

/* One vector: signs, transform, L2 norm (D = 256) or two RMS norms (D = 512), nearest level, two codes per byte. */
template <int D> __global__ void encode_kernel(const float *x, const float *sign, const float *bounds, uint8_t *codes, float *norms)
{
	constexpr int B = D / 256;
	__shared__ float s[D], sum[B];
	__shared__ uint8_t index[D];
	const int t = threadIdx.x, block = t / 256;
	float y = transform<D>(x[(size_t)blockIdx.x * D + t] * sign[t], s);
	__syncthreads();
	s[t] = y * y;
	__syncthreads();
	for (int h = 128; h > 0; h /= 2) {
		if (t % 256 < h)
			s[t] += s[t + h];
		__syncthreads();
	}
	if (t % 256 == 0) {
		float n = sqrtf(B == 2 ? s[t] / 256 : s[t]);
		sum[block] = n < 1e-10f ? 0 : n;
		norms[(size_t)blockIdx.x * B + block] = sum[block];
	}
	__syncthreads();
	y = sum[block] == 0 ? 0 : B == 2 ? y / sum[block] : y * sqrtf((float)D) / sum[block];
	int k = 0;
	for (int i = 0; i < 15; i++)
		k += y > bounds[i];
	index[t] = (uint8_t)k;
	__syncthreads();
	if (t < D / 2)
		codes[(size_t)blockIdx.x * (D / 2) + t] = (uint8_t)(index[2 * t] | index[2 * t + 1] << 4);
}

/*
 * Partial attention of query head blockIdx.x over rows [blockIdx.y SPLIT, ..) of the visible sequence. Each warp
 * takes every WARPS-th row with an online softmax of its own: a lane holds D/32 consecutive coordinates, whose
 * codes are one or two 32-bit words, and nothing decoded leaves registers.
 */
template <int D> __global__ void attention_kernel(st_tq_cuda_step s, const float *q, float *part, float *part_max, float *part_sum)
{
	constexpr int PER = D / 32, B = D / 256, WORDS = PER / 8;
	__shared__ float level[16], all[WARPS][D], top[WARPS], total[WARPS];
	const uint32_t h = blockIdx.x, g = h / (s.num_heads / s.num_kv_heads), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	const uint32_t first = s.window && s.window < s.kv_seq_len ? s.kv_seq_len - s.window : 0;
	const uint32_t begin = first + blockIdx.y * SPLIT, end = min(begin + SPLIT, s.kv_seq_len);
	const uint32_t block = lane * PER / 256;
	float mine[PER], acc[PER], m = -INFINITY, l = 0;
	if (threadIdx.x < 16)
		level[threadIdx.x] = s.levels[threadIdx.x];
	for (int j = 0; j < PER; j++) {
		mine[j] = q[(size_t)h * D + lane * PER + j];
		acc[j] = 0;
	}
	__syncthreads();
	for (uint32_t i = begin + warp; i < end; i += WARPS) {
		const size_t row = (size_t)g * s.kv_capacity + ((size_t)s.ring_start + i) % s.kv_capacity;
		const uint32_t *kw = (const uint32_t *)(s.k_codes + row * (D / 2)) + lane * WORDS;
		const uint32_t *vw = (const uint32_t *)(s.v_codes + row * (D / 2)) + lane * WORDS;
		float dot = 0;
		for (int w = 0; w < WORDS; w++) {
			uint32_t word = kw[w];
			for (int j = 0; j < 8; j++)
				dot = fmaf(level[word >> (4 * j) & 15], mine[8 * w + j], dot);
		}
		dot *= s.k_norms[row * B + block] * s.factor;
		for (int o = 16; o > 0; o /= 2)
			dot += __shfl_xor_sync(0xffffffffu, dot, o);
		float x = dot * s.scale;
		if (s.softcap > 0)
			x = s.softcap * tanhf(x / s.softcap);
		float up = fmaxf(m, x), keep = expf(m - up), p = expf(x - up), v = p * s.v_norms[row * B + block] * s.factor;
		m = up;
		l = l * keep + p;
		for (int w = 0; w < WORDS; w++) {
			uint32_t word = vw[w];
			for (int j = 0; j < 8; j++)
				acc[8 * w + j] = fmaf(level[word >> (4 * j) & 15], v, acc[8 * w + j] * keep);
		}
	}
	/* The warps' partial results, then the block's. */
	for (int j = 0; j < PER; j++)
		all[warp][lane * PER + j] = acc[j];
	if (lane == 0) {
		top[warp] = m;
		total[warp] = l;
	}
	__syncthreads();
	float best = -INFINITY, sum = 0;
	for (int w = 0; w < WARPS; w++)
		best = fmaxf(best, top[w]);
	for (int w = 0; w < WARPS; w++)
		sum += top[w] == -INFINITY ? 0 : total[w] * expf(top[w] - best);
	const size_t at = (size_t)h * gridDim.y + blockIdx.y;
	for (uint32_t j = threadIdx.x; j < D; j += blockDim.x) {
		float y = 0;
		for (int w = 0; w < WARPS; w++)
			y += top[w] == -INFINITY ? 0 : all[w][j] * expf(top[w] - best);
		part[at * D + j] = y;
	}
	if (threadIdx.x == 0) {
		part_max[at] = best;
		part_sum[at] = sum;
	}
}

/* Splits of one head in order. */
__global__ void merge_kernel(const float *part, const float *part_max, const float *part_sum, int splits, int d, float *out)
{
	const size_t h = blockIdx.x;
	float best = -INFINITY, sum = 0, y = 0;
	for (int s = 0; s < splits; s++)
		best = fmaxf(best, part_max[h * splits + s]);
	for (int s = 0; s < splits; s++) {
		float w = expf(part_max[h * splits + s] - best);
		sum += w * part_sum[h * splits + s];
		y += w * part[(h * splits + s) * d + threadIdx.x];
	}
	out[h * d + threadIdx.x] = y / sum;
}

static const char *unsupported(uint32_t d) { return d == 256 || d == 512 ? NULL : "head_dim is neither 256 nor 512"; }

const char *st_tq_cuda_fwht(float *x, size_t n, uint32_t d, const float *sign)
{
	if (unsupported(d) || n == 0)
		return unsupported(d);
	device_memory m;
	float *dx = m.put(x, n * d), *ds = m.put(sign, d);
	if (m.e != cudaSuccess)
		return m.result();
	if (d == 256)
		fwht_kernel<256><<<(unsigned)n, 256>>>(dx, ds);
	else
		fwht_kernel<512><<<(unsigned)n, 512>>>(dx, ds);
	m.take(x, dx, n * d);
	return m.result();
}

const char *st_tq_cuda_encode(const float *x, size_t n, uint32_t d, const float *sign, const float *bounds, uint8_t *codes, float *norms)
{
	if (unsupported(d) || n == 0)
		return unsupported(d);
	device_memory m;
	float *dx = m.put(x, n * d), *ds = m.put(sign, d), *db = m.put(bounds, 15), *dn = m.get<float>(n * (d / 256));
	uint8_t *dc = m.get<uint8_t>(n * (d / 2));
	if (m.e != cudaSuccess)
		return m.result();
	if (d == 256)
		encode_kernel<256><<<(unsigned)n, 256>>>(dx, ds, db, dc, dn);
	else
		encode_kernel<512><<<(unsigned)n, 512>>>(dx, ds, db, dc, dn);
	m.take(codes, dc, n * (d / 2));
	m.take(norms, dn, n * (d / 256));
	return m.result();
}

const char *st_tq_cuda_attention(const struct st_tq_cuda_step *step, const float *q, float *out)
{
	st_tq_cuda_step s = *step;
	const uint32_t d = s.head_dim;
	if (unsupported(d))
		return unsupported(d);
	if (s.num_kv_heads == 0 || s.num_heads % s.num_kv_heads || s.kv_seq_len == 0 || s.kv_seq_len > s.kv_capacity || s.ring_start >= s.kv_capacity)
		return "the step's parameters contradict each other";
	const size_t rows = (size_t)s.num_kv_heads * s.kv_capacity;
	const uint32_t visible = s.window && s.window < s.kv_seq_len ? s.window : s.kv_seq_len, splits = (visible + SPLIT - 1) / SPLIT;
	device_memory m;
	s.k_codes = m.put(step->k_codes, rows * (d / 2));
	s.v_codes = m.put(step->v_codes, rows * (d / 2));
	s.k_norms = m.put(step->k_norms, rows * (d / 256));
	s.v_norms = m.put(step->v_norms, rows * (d / 256));
	float *dq = m.put(q, (size_t)s.num_heads * d), *dout = m.get<float>((size_t)s.num_heads * d);
	float *part = m.get<float>((size_t)s.num_heads * splits * d), *pmax = m.get<float>((size_t)s.num_heads * splits), *psum = m.get<float>((size_t)s.num_heads * splits);
	if (m.e != cudaSuccess)
		return m.result();
	const dim3 grid(s.num_heads, splits);
	if (d == 256)
		attention_kernel<256><<<grid, WARPS * 32>>>(s, dq, part, pmax, psum);
	else
		attention_kernel<512><<<grid, WARPS * 32>>>(s, dq, part, pmax, psum);
	merge_kernel<<<s.num_heads, d>>>(part, pmax, psum, (int)splits, (int)d, dout);
	m.take(out, dout, (size_t)s.num_heads * d);
	return m.result();
}
