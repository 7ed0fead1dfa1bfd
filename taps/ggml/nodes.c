/* nodes.c - what a node of the graph is, and its values as dense rows. */
#include "tap.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *node, *op, *stage;
	enum st_tap_axis axis;
} stages[] = {
#define STAGE(node, op, stage, axis) { node, op, stage, axis },
#include "ggml_stages.def"
#undef STAGE
};

bool st_tap_layout_is_known(const struct ggml *g, const struct ggml_tensor *t)
{
	/* The name's place depends on everything before it; the sizes say whether ne and nb are where they should be. */
	if (g->get_name(t) != t->name || memchr(t->name, 0, sizeof t->name) == NULL)
		return false;
	int64_t block = g->blck_size(t->type);
	size_t bytes = g->type_size(t->type);
	if (block < 1)
		return false;
	for (int i = 0; i < 4; i++) {
		if (t->ne[i] < 0 || t->ne[i] > INT32_MAX * (int64_t)4)
			return false;
		if (t->ne[i] == 0)
			return true;
		bytes += i == 0 ? (size_t)(t->ne[0] / block - 1) * t->nb[0] : (size_t)(t->ne[i] - 1) * t->nb[i];
	}
	return g->nbytes(t) == bytes;
}

int st_tap_output_layer(const struct ggml_tensor *t)
{
	int layer, end = 0;
	if (!t->src[0] || sscanf(t->src[0]->name, "blk.%d.attn_output.weight%n", &layer, &end) != 1 || end == 0
	    || t->src[0]->name[end])
		return -1;
	return layer;
}

struct st_tap_stage st_tap_stage_of(const struct ggml *g, const struct ggml_tensor *t, const char *op)
{
	(void)g;
	const char *dash = strrchr(t->name, '-');
	size_t stem = strlen(t->name);
	int layer = -1;
	if (dash && dash[1] && strspn(dash + 1, "0123456789") == strlen(dash + 1)) {
		layer = (int)strtol(dash + 1, NULL, 10);
		stem = (size_t)(dash - t->name);
	}
	if (strcmp(t->name, "result_output") == 0)
		return (struct st_tap_stage){ "lm_head", WHOLE, -1 };
	if (strcmp(op, "MUL_MAT") == 0 && st_tap_output_layer(t) >= 0)
		return (struct st_tap_stage){ "attn_out", ROWS, st_tap_output_layer(t) };
	for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
		if (strlen(stages[i].node) == stem && strncmp(stages[i].node, t->name, stem) == 0
		    && strcmp(stages[i].op, op) == 0 && (stages[i].axis == WHOLE || layer >= 0))
			return (struct st_tap_stage){ stages[i].stage, stages[i].axis, stages[i].axis == WHOLE ? -1 : layer };
	return (struct st_tap_stage){ 0 };
}

/* ---- values ---- */

typedef void dequantize_fn(const void *x, float *y, int64_t n);

/* ggml exports a function for each type, named after it. */
static dequantize_fn *decoder(const struct ggml *g, int type)
{
	char name[64];
	snprintf(name, sizeof name, "dequantize_row_%s", g->type_name(type));
	void *p = dlsym(g->handle, name);
	dequantize_fn *f;
	memcpy(&f, &p, sizeof f);
	return f;
}

/* The bytes that a tensor spans. ggml ends the process where there are none: so that is asked first. */
static unsigned char *span(const struct ggml *g, const struct ggml_tensor *t, size_t *size)
{
	if (!(t->view_src ? t->view_src->buffer : t->buffer) || !t->data)
		return NULL;
	*size = g->nbytes(t);
	unsigned char *p = malloc(*size + 1);
	if (p)
		g->tensor_get(t, p, 0, *size);
	return p;
}

const char *st_tap_read(const struct ggml *g, const struct ggml_tensor *t, struct st_tap_dense *d)
{
	static const struct {
		int type;
		enum stele_tap_type as;
		size_t size;
	} plain[] = { { GGML_F32, STELE_TAP_F32, 4 },
		      { GGML_F16, STELE_TAP_F16, 2 },
		      { GGML_BF16, STELE_TAP_BF16, 2 },
		      { GGML_I32, STELE_TAP_I32, 4 } };
	size_t k = 0, size, count = 1;
	while (k < sizeof plain / sizeof *plain && plain[k].type != t->type)
		k++;
	bool coded = k == sizeof plain / sizeof *plain;
	dequantize_fn *decode = coded ? decoder(g, t->type) : NULL;
	if (coded && !decode)
		return "is of a type that is not read";
	*d = (struct st_tap_dense){ .type = coded ? STELE_TAP_F32 : plain[k].as, .size = coded ? 4 : plain[k].size };
	for (int i = 0; i < 4; i++) {
		d->ne[i] = t->ne[i];
		count *= (size_t)t->ne[i];
	}
	unsigned char *from = span(g, t, &size), *to = from ? malloc(count * d->size + 1) : NULL;
	if (!to) {
		free(from);
		return from ? "does not fit into memory" : "has no buffer";
	}
	d->data = to;
	for (int64_t c = 0; c < t->ne[3]; c++)
		for (int64_t b = 0; b < t->ne[2]; b++)
			for (int64_t a = 0; a < t->ne[1]; a++) {
				const unsigned char *row = from + (size_t)c * t->nb[3] + (size_t)b * t->nb[2] + (size_t)a * t->nb[1];
				size_t n = (size_t)t->ne[0];
				if (coded) {
					decode(row, (float *)(void *)to, t->ne[0]);
				} else if (t->nb[0] == d->size) {
					memcpy(to, row, n * d->size);
				} else {
					for (size_t i = 0; i < n; i++)
						memcpy(to + i * d->size, row + i * t->nb[0], d->size);
				}
				to += n * d->size;
			}
	free(from);
	return NULL;
}

int32_t *st_tap_ints(const struct ggml *g, const struct ggml_tensor *t, size_t *n)
{
	size_t size, each = t->type == GGML_I64 ? 8 : 4;
	if (t->type != GGML_I32 && t->type != GGML_I64)
		return NULL;
	*n = 1;
	for (int i = 0; i < 4; i++) {
		if (t->nb[i] != each * *n && t->ne[i] > 1)
			return NULL;
		*n *= (size_t)t->ne[i];
	}
	unsigned char *raw = span(g, t, &size);
	int32_t *ids = raw && size == *n * each ? malloc((*n + 1) * sizeof *ids) : NULL;
	for (size_t i = 0; ids && i < *n; i++) {
		int64_t wide;
		memcpy(&ids[i], raw + i * each, 4);
		if (each == 4)
			continue;
		memcpy(&wide, raw + i * 8, 8);
		ids[i] = wide < 0 || wide > INT32_MAX ? -1 : (int32_t)wide;
	}
	free(raw);
	return ids;
}
