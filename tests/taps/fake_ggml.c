/* fake_ggml.c - the functions of ggml that the tap calls. */
#include "fake_ggml.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static struct {
	void *sched, *user;
	fake_callback f;
} scheds[4];

EXPORT const char *ggml_get_name(const struct ggml_tensor *t) { return t->name; }
EXPORT const char *ggml_version(void) { return "0.0.0-fake"; }
EXPORT const char *ggml_op_desc(const struct ggml_tensor *t)
{
	static const char *const names[] = { "NONE", "GET_ROWS", "ROPE", "SET_ROWS", "MUL_MAT", "SOFT_MAX", "ADD", "MUL" };
	return names[t->op];
}
EXPORT const char *ggml_type_name(int type)
{
	return type == F32 ? "f32" : type == F16 ? "f16" : type == Q8_0 ? "q8_0" : type == I32 ? "i32" : "i64";
}
EXPORT size_t ggml_type_size(int type) { return type == F16 ? 2 : type == Q8_0 ? 34 : type == I64 ? 8 : 4; }
EXPORT int64_t ggml_blck_size(int type) { return type == Q8_0 ? 32 : 1; }
EXPORT size_t ggml_nbytes(const struct ggml_tensor *t)
{
	size_t n = ggml_type_size(t->type) + (size_t)(t->ne[0] / ggml_blck_size(t->type) - 1) * t->nb[0];
	for (int i = 0; i < 4; i++)
		if (t->ne[i] == 0)
			return 0;
	for (int i = 1; i < 4; i++)
		n += (size_t)(t->ne[i] - 1) * t->nb[i];
	return n;
}
EXPORT void ggml_backend_tensor_get(const struct ggml_tensor *t, void *to, size_t at, size_t n)
{
	if (!(t->view_src ? t->view_src->buffer : t->buffer) || !t->data || at + n > ggml_nbytes(t))
		abort(); /* so does ggml */
	memcpy(to, (char *)t->data + at, n);
}
EXPORT void dequantize_row_q8_0(const void *x, float *y, int64_t n)
{
	for (int64_t i = 0; i < n; i++) /* the scale of a block is 1 here */
		y[i] = ((const int8_t *)x)[i / 32 * 34 + 2 + i % 32];
}
EXPORT int ggml_backend_sched_get_n_backends(void *sched)
{
	(void)sched;
	return 1;
}
EXPORT void *ggml_backend_sched_get_backend(void *sched, int i)
{
	(void)i;
	return sched;
}
EXPORT const char *ggml_backend_name(void *backend)
{
	(void)backend;
	return "CPU";
}

EXPORT void ggml_backend_sched_set_eval_callback(void *sched, fake_callback f, void *user)
{
	int i = 0;
	while (scheds[i].sched && scheds[i].sched != sched)
		i++;
	scheds[i].sched = sched;
	scheds[i].f = f;
	scheds[i].user = user;
}

EXPORT void fake_compute(void *sched, struct ggml_tensor **nodes, int n, void (*fill)(struct ggml_tensor *))
{
	int s = 0;
	while (scheds[s].sched != sched)
		s++;
	for (int i = 0; i < n; i++) {
		bool need = scheds[s].f && scheds[s].f(nodes[i], true, scheds[s].user);
		size_t size = ggml_nbytes(nodes[i]);
		if (!need)
			continue;
		fill(nodes[i]);
		bool go_on = scheds[s].f(nodes[i], false, scheds[s].user);
		memset(nodes[i]->data, 0xff, size);
		if (!go_on)
			break;
	}
}
