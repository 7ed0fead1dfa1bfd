/* parts.c - products, norms, rotation. */
#include "engine.h"

/* What the arithmetic makes of the activations before a product with weights of that type. */
static void operand(const struct run *r, enum st_dtype type, double *x, size_t n)
{
	enum arith a = r->o.arith;
	if (a == ARITH_GGML)
		switch (type) {
		case ST_DTYPE_F16:
			a = ARITH_F16;
			break;
		case ST_DTYPE_BF16:
			a = ARITH_BF16;
			break;
		case ST_DTYPE_Q4_0:
		case ST_DTYPE_Q4_1:
		case ST_DTYPE_Q5_0:
		case ST_DTYPE_Q5_1:
		case ST_DTYPE_Q8_0:
		case ST_DTYPE_IQ4_NL:
		case ST_DTYPE_MXFP4:
			a = ARITH_Q8_0;
			break;
		case ST_DTYPE_F32:
			a = ARITH_F32;
			break;
		default:
			a = ARITH_Q8_K;
		}
	if (a == ARITH_Q8_0 && n % 32 == 0) /* nobody quantises parts of blocks */
		to_q8_0(x, n);
	else if (a == ARITH_Q8_K)
		to_q8_k(x, n);
	else if (a != ARITH_F64 && a != ARITH_F32 && a != ARITH_Q8_0)
		for (size_t i = 0; i < n; i++)
			x[i] = a == ARITH_TF32                        ? to_tf32(x[i])
			     : a == ARITH_F16 || a == ARITH_F16STREAM ? to_f16(x[i])
			                                              : to_bf16(x[i]);
}

/* The weights in the type that the product is computed in. */
static void weight_row(const struct run *r, const float *w, double *y, size_t n)
{
	enum arith a = r->o.arith;
	for (size_t i = 0; i < n; i++)
		y[i] = a == ARITH_F16 || a == ARITH_F16STREAM   ? to_f16(w[i])
		     : a == ARITH_BF16 || a == ARITH_BF16STREAM ? to_bf16(w[i])
		     : a == ARITH_TF32                          ? to_tf32(w[i])
		                                                : (double)w[i];
}

/* y[t, j] = sum over i of x[t, i] w[row0 + j, i], rows of y `stride` apart; not rounded to the engine's type. */
void product(struct run *r, size_t l, enum slot s, const struct weight *w, size_t row0, size_t n_out, const double *x,
             size_t n, double *y, size_t stride)
{
	size_t in = w->cols;
	double *operands = malloc(n * in * sizeof *operands), *one = malloc(in * sizeof *one);
	if (!operands || !one)
		exit(2);
	memcpy(operands, x, n * in * sizeof *x);
	for (size_t t = 0; t < n; t++)
		operand(r, w->type, operands + t * in, in);
	size_t used = on(r, FAULT_KERNEL_PARTIAL_SUM, s == HEAD ? -1 : (int)l, slot_names[s]) ? in / 2 : in;
	for (size_t j = 0; j < n_out; j++) {
		weight_row(r, w->v + (row0 + j) * in, one, in);
		for (size_t t = 0; t < n; t++)
			y[t * stride + j] = dot(r->o.arith, r->o.order, operands + t * in, one, used);
	}
	free(operands);
	free(one);
}

void round_all(const struct run *r, double *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		v[i] = out(r, v[i]);
}

/* Adds the bias, unless there is none. `at`: where in the bias, which a stack of experts has more of. */
void add_bias(struct run *r, size_t l, enum slot s, enum slot matrix, size_t at, double *y, size_t n, size_t cols,
              size_t stride)
{
	struct weight b = get(r, l, s);
	const char *name = slot_names[matrix];
	if (!b.v || on(r, FAULT_BIAS_MISSING, (int)l, name))
		return;
	double times = on(r, FAULT_BIAS_SCALED, (int)l, name) ? r->hit->value : 1;
	for (size_t t = 0; t < n; t++)
		for (size_t j = 0; j < cols; j++) {
			size_t k = on(r, FAULT_BIAS_PERMUTED, (int)l, name) ? pair_order(j, r->m->d)
			         : on(r, FAULT_BIAS_AXIS, (int)l, name)     ? t % cols
			                                                    : j;
			double v = b.v[at + k];
			if (is_stream(r))
				v = out(r, v);
			y[t * stride + j] = step(r, y[t * stride + j] + step(r, times * v));
		}
}

static enum slot other_norm(enum slot s)
{
	return s == ATTN_NORM ? FFN_NORM : s == FFN_NORM ? ATTN_NORM : s == Q_NORM ? K_NORM : s == K_NORM ? Q_NORM : s;
}

void norm_once(struct run *r, int l, const struct norm_of *o, const double *x, double *y, size_t n, size_t cols)
{
	const struct model *m = r->m;
	const char *st = o->stage;
	size_t at = l < 0 ? 0 : (size_t)l, groups = o->groups;
	struct weight w = get(r, at, on(r, FAULT_NORM_WRONG_WEIGHT, l, st) ? other_norm(o->weight) : o->weight);
	struct weight b = o->bias == SLOTS ? (struct weight){ 0 } : get(r, at, o->bias);
	if (on(r, FAULT_NORM_PER_HEAD, l, st))
		groups = groups == 1 ? cols / m->d : 1;
	size_t width = cols / groups, weight_width = o->wide ? cols : cols / o->groups;
	double eps = on(r, FAULT_NORM_EPS, l, st) ? r->hit->value : m->eps, plus = m->plus_one ? 1 : 0;
	bool centre = m->layernorm && o->weight != Q_NORM && o->weight != K_NORM;
	if (on(r, FAULT_NORM_PLUS_ONE, l, st))
		plus = m->plus_one ? 0 : 1;
	if (on(r, FAULT_NORM_LAYERNORM, l, st))
		centre = true;
	if (on(r, FAULT_NORM_RMS, l, st))
		centre = false;
	double *row = malloc(width * sizeof *row), *ones = malloc(width * sizeof *ones);
	if (!row || !ones)
		exit(2);
	for (size_t i = 0; i < width; i++)
		ones[i] = 1;
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < groups; g++) {
			const double *xs = x + t * cols + g * width;
			double mean = centre ? step(r, dot(r->o.arith, r->o.order, xs, ones, width) / (double)width)
			                     : 0;
			for (size_t i = 0; i < width; i++)
				row[i] = step(r, xs[i] - mean);
			size_t part = on(r, FAULT_NORM_PARTIAL, l, st) ? width / 2 : width;
			double square = step(r, dot(r->o.arith, r->o.order, row, row, part) / (double)part);
			double inv = step(r, 1 / step(r, sqrt(step(r, square + eps))));
			for (size_t i = 0; i < width; i++) {
				double v;
				if (on(r, FAULT_NORM_AXIS, l, st)) {
					double s = 0, about = 0;
					for (size_t u = 0; u < n && centre; u++)
						about += x[u * cols + g * width + i] / (double)n;
					for (size_t u = 0; u < n; u++) {
						double d = x[u * cols + g * width + i] - about;
						s += d * d;
					}
					v = (xs[i] - about) / sqrt(s / (double)n + eps);
				} else {
					v = step(r, row[i] * inv);
				}
				double weight = w.v[(g * width + i) % weight_width];
				if (on(r, FAULT_NORM_WEIGHT_MISSING, l, st))
					weight = 1 - plus;
				if (is_stream(r)) {
					weight = out(r, weight);
					if (!m->plus_one && !m->layernorm && !m->no_pre_norm && m->limit == 0)
						v = out(r, v); /* the norm is rounded before the weight */
				}
				v = step(r, v * step(r, weight + plus));
				if (b.v)
					v = step(r, v + (is_stream(r) ? out(r, b.v[i]) : (double)b.v[i]));
				y[t * cols + g * width + i] = out(r, v);
			}
		}
	free(row);
	free(ones);
}

double *norm(struct run *r, int l, const struct norm_of *o, const double *x, size_t n, size_t cols)
{
	double *y = rows(r, n, cols);
	if (on(r, FAULT_NORM_SKIPPED, l, o->stage))
		memcpy(y, x, n * cols * sizeof *y);
	else
		norm_once(r, l, o, x, y, n, cols);
	if (on(r, FAULT_NORM_TWICE, l, o->stage)) {
		double *z = rows(r, n, cols);
		norm_once(r, l, o, y, z, n, cols);
		y = z;
	}
	keep(r, o->stage, l, y, n, cols);
	return y;
}

void frequencies(const struct run *r, size_t l, const struct rotation *o, size_t dims, size_t seen, double *f,
                 double *scale)
{
	double theta = o->theta;
	if (on(r, FAULT_ROPE_THETA, (int)l, NULL))
		theta = r->hit->truth = fabs(r->hit->value / theta - 1) < 0.01 ? 10 * theta : r->hit->value;
	enum stretch stretch = on(r, FAULT_ROPE_FREQ_IGNORED, (int)l, NULL) ? STRETCH_NONE : o->stretch;
	*scale = stretch == STRETCH_YARN || stretch == STRETCH_LONGROPE ? o->attention : 1;
	for (size_t i = 0; i < dims / 2; i++) {
		double plain = pow(theta, -2. * (double)i / (double)dims);
		f[i] = plain;
		if (stretch == STRETCH_LINEAR) {
			f[i] = plain / o->factor;
		} else if (stretch == STRETCH_LLAMA3) {
			double wave = 2 * M_PI / plain, low = (double)o->original / o->low,
			       high = (double)o->original / o->high;
			double smooth = ((double)o->original / wave - o->low) / (o->high - o->low);
			f[i] = wave > low  ? plain / o->factor
			     : wave < high ? plain
			                   : (1 - smooth) * plain / o->factor + smooth * plain;
		} else if (stretch == STRETCH_YARN) {
			double at[2];
			for (int k = 0; k < 2; k++)
				at[k] = (double)dims * log((double)o->original / ((k ? o->slow : o->fast) * 2 * M_PI))
				      / (2 * log(theta));
			double from = fmax(o->truncate ? floor(at[0]) : at[0], 0);
			double to = fmin(o->truncate ? ceil(at[1]) : at[1], (double)dims - 1);
			if (from == to)
				to += 0.001;
			double ramp = fmin(fmax(((double)i - from) / (to - from), 0), 1);
			f[i] = plain / o->factor * ramp + plain * (1 - ramp);
		} else if (stretch == STRETCH_LONGROPE) {
			double by = (seen > o->original ? o->long_factor : o->short_factor)[i];
			f[i] = plain / (by != 0 ? by : 1);
		}
		if (on(r, FAULT_ROPE_FREQ_LINEAR, (int)l, NULL))
			f[i] /= r->hit->value;
		f[i] = step(r, f[i]);
	}
}

void rotate(struct run *r, size_t l, double *x, size_t n, size_t heads, size_t pos0, size_t seen)
{
	const struct model *m = r->m;
	const struct rotation *o = m->local[l] ? &m->local_rope : &m->rope;
	size_t d = m->latent ? m->turned : m->d, dims = o->dims;
	bool neighbours = m->interleaved != on(r, FAULT_ROPE_STYLE, (int)l, NULL);
	bool wide = is_stream(r) && (m->parallel || m->no_pre_norm); /* cohere and olmo2 rotate in f32 */
	double f[128], scale;
	if (on(r, FAULT_ROPE_PARTIAL, (int)l, NULL)) {
		dims = dims < d ? d : d / 2;
		r->hit->truth = (double)dims;
	}
	frequencies(r, l, o, dims, seen, f, &scale);
	if (on(r, FAULT_ROPE_SCALE, (int)l, NULL))
		scale = r->hit->truth = scale * r->hit->value;
	for (size_t t = 0; t < n; t++)
		for (size_t i = 0; i < dims / 2; i++) {
			double p = (double)(pos0 + t);
			if (on(r, FAULT_ROPE_OFFSET, (int)l, NULL))
				p += r->hit->value;
			if (on(r, FAULT_CACHE_POSITION, (int)l, NULL) && r->step > 0)
				p += r->hit->value;
			double angle = step(r, p * f[i]);
			if (on(r, FAULT_ROPE_BF16, (int)l, NULL))
				angle = to_bf16(to_bf16(p) * to_bf16(f[i]));
			double c = cos(angle), s = on(r, FAULT_ROPE_DIRECTION, (int)l, NULL) ? -sin(angle) : sin(angle);
			c = step(r, step(r, c) * step(r, scale));
			s = step(r, step(r, s) * step(r, scale));
			if (!wide || m->parallel) {
				c = out(r, c);
				s = out(r, s);
			}
			for (size_t h = 0; h < heads; h++) {
				double *a = x + (t * heads + h) * d + (neighbours ? 2 * i : i),
				       *b = a + (neighbours ? 1 : dims / 2), u = *a, v = *b;
				*a = wide ? out(r, step(r, u * c) - step(r, v * s))
				          : out(r, out(r, u * c) - out(r, v * s));
				*b = wide ? out(r, step(r, v * c) + step(r, u * s))
				          : out(r, out(r, v * c) + out(r, u * s));
			}
		}
}

void rope(struct run *r, size_t l, double *x, size_t n, size_t heads, size_t pos0, size_t seen)
{
	if (on(r, FAULT_ROPE_NONE, (int)l, NULL))
		return;
	rotate(r, l, x, n, heads, pos0, seen);
	if (on(r, FAULT_ROPE_TWICE, (int)l, NULL))
		rotate(r, l, x, n, heads, pos0, seen);
}
