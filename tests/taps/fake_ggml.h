/* fake_ggml.h - a library with ggml's names and layout that evaluates nothing: what the tap of ggml programs is tried on. */
#ifndef FAKE_GGML_H
#define FAKE_GGML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor {
#ifdef FAKE_OTHER_LAYOUT
	void *backend;
#endif
	int type;
	void *buffer;
	int64_t ne[4];
	size_t nb[4];
	int op;
	int32_t op_params[16];
	int32_t flags;
	struct ggml_tensor *src[10], *view_src;
	size_t view_offs;
	void *data;
	char name[64];
	void *extra;
	char padding[8];
};

typedef bool (*fake_callback)(struct ggml_tensor *, bool, void *);

enum { F32 = 0, F16 = 1, Q8_0 = 8, I32 = 26, I64 = 27 };
enum { NONE, GET_ROWS, ROPE, SET_ROWS, MUL_MAT, SOFT_MAX, ADD, MUL };

void ggml_backend_sched_set_eval_callback(void *sched, fake_callback f, void *user);
/* Evaluate nodes as ggml does: ranges up to a wanted one, whose value is there while the callback looks and no longer. */
void fake_compute(void *sched, struct ggml_tensor **nodes, int n, void (*fill)(struct ggml_tensor *));

#endif
