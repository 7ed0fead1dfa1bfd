/*
 * ggml.h - what the tap knows of ggml: its tensor, mirrored, and the functions that it calls. None of ggml's headers is used.
 *
 * The layout is that of ggml 0.9 to 0.25; st_ggml_layout_is_known() asks a real tensor whether it has it.
 */
#ifndef ST_TAP_GGML_H
#define ST_TAP_GGML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor {
	int32_t type;
	void *buffer;
	int64_t ne[4]; /* elements, the fastest axis first */
	size_t nb[4];  /* bytes from one to the next */
	int32_t op;    /* its number moves between releases: ggml_op_desc() is asked */
	int32_t op_params[16];
	int32_t flags;
	struct ggml_tensor *src[10];
	struct ggml_tensor *view_src;
	size_t view_offs;
	void *data;
	char name[64];
};

/* Numbers of types do not move between releases. */
enum { GGML_F32 = 0, GGML_F16 = 1, GGML_I32 = 26, GGML_I64 = 27, GGML_BF16 = 30 };

typedef bool ggml_eval_fn(struct ggml_tensor *t, bool ask, void *user);

struct ggml {
	void (*set_eval_callback)(void *sched, ggml_eval_fn *f, void *user);
	const char *(*get_name)(const struct ggml_tensor *);
	const char *(*op_desc)(const struct ggml_tensor *);
	size_t (*nbytes)(const struct ggml_tensor *);
	const char *(*type_name)(int);
	size_t (*type_size)(int);
	int64_t (*blck_size)(int);
	void (*tensor_get)(const struct ggml_tensor *, void *, size_t, size_t);
	/* These may be absent. */
	int (*n_backends)(void *sched);
	void *(*backend)(void *sched, int i);
	const char *(*backend_name)(void *backend);
	const char *(*version)(void);
	void *handle; /* of the library or of what is linked with it: for dequantize_row_TYPE */
};

#endif
