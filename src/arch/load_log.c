/* load_log.c - what became of every tensor of a container, for people to read while a model is loaded. */
#include "arch/model_state.h"
#include "arch/turned.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const fit_names[] = {
	[ST_FIT_UNUSED] = "unused",     [ST_FIT_OK] = "layout OK",          [ST_FIT_REVERSED] = "label reversed",
	[ST_FIT_MISSING] = "missing",   [ST_FIT_TRANSPOSED] = "TRANSPOSED", [ST_FIT_SIZE] = "size mismatch",
	[ST_FIT_TYPE] = "integer type",
};

static void print_dims(char *buf, size_t n, const uint64_t *dims, uint32_t ndim)
{
	size_t len = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < ndim && len < n; i++)
		len += (size_t)snprintf(buf + len, n - len, "%s%" PRIu64, i ? ", " : "", dims[i]);
}

/* What tensor i is used for; of a family that cannot be run nothing is expected. */
static const struct st_described_use *use_of(const struct st_model *m, size_t i)
{
	static const struct st_described_use none = { .layer = -1 };
	return m->described ? &m->described->uses[i] : &none;
}

/* What is said of the fit: where a label cannot say how a matrix lies, its numbers may. */
static const char *fit_name(const struct st_model *m, size_t i, const bool *turned)
{
	return turned && turned[i] ? "TRANSPOSED, by its numbers" : fit_names[use_of(m, i)->fit];
}

/* turned: by tensor, or NULL */
static void say_tensor(const struct st_model *m, size_t i, const bool *turned, const struct st_hooks *hooks)
{
	const struct st_tensor *t = &m->c->tensors[i];
	const char *type = st_dtype_info(t->dtype)->name;
	const struct st_described_use *use = use_of(m, i);
	char line[1024], dims[192], expected[64];
	print_dims(dims, sizeof dims, t->file_dims, t->ndim);
	if (use->fit == ST_FIT_UNUSED) {
		snprintf(line, sizeof line, "[APR-LOAD] tensor '%.400s': dims=[%s], dtype=%s, unused", t->name, dims,
		         type);
	} else {
		print_dims(expected, sizeof expected, use->shape, use->rank);
		snprintf(line, sizeof line, "[APR-LOAD] tensor '%.400s': dims=[%s], dtype=%s, expected %s = [%s], %s",
		         t->name, dims, type,
		         use->rank == 2   ? "[out, in]"
		         : use->rank == 1 ? "[n]"
		                          : "[experts, out, in]",
		         expected, fit_name(m, i, turned));
	}
	hooks->log(hooks->user, line);
}

/* The layer of a tensor whose line may stand for others; -1: it has a line of its own. */
static int32_t layer_of(const struct st_model *m, size_t i, const bool *turned)
{
	const struct st_described_use *use = use_of(m, i);
	return !turned[i] && (use->fit == ST_FIT_OK || use->fit == ST_FIT_REVERSED) ? use->layer : -1;
}

/* "self_attn.q_proj.weight": what follows the number of the layer in a name. */
static const char *after_layer(const char *name)
{
	const char *digit = strpbrk(name, "0123456789"), *dot = digit ? strchr(digit, '.') : NULL;
	return dot ? dot + 1 : name;
}

static bool alike(const struct st_model *m, size_t i, size_t k, const bool *turned)
{
	const struct st_tensor *a = &m->c->tensors[i], *b = &m->c->tensors[k];
	return layer_of(m, k, turned) >= 0 && use_of(m, i)->fit == use_of(m, k)->fit && a->dtype == b->dtype
	    && a->ndim == b->ndim && memcmp(a->file_dims, b->file_dims, a->ndim * sizeof *a->file_dims) == 0
	    && strcmp(after_layer(a->name), after_layer(b->name)) == 0;
}

/* "0..3, 7, 9..27" of the layers that are marked. */
static void print_layers(char *buf, size_t n, const bool *in, uint32_t n_layers)
{
	size_t len = 0;
	buf[0] = '\0';
	for (uint32_t i = 0; i < n_layers && len < n; i++) {
		uint32_t end = i;
		while (in[i] && end + 1 < n_layers && in[end + 1])
			end++;
		if (in[i])
			len += (size_t)snprintf(buf + len, n - len, end > i ? "%s%" PRIu32 "..%" PRIu32 : "%s%" PRIu32,
			                        len ? ", " : "", i, end);
		i = end;
	}
}

/* The line of tensor i and of all that say the same: they are marked as done. in: [layers], scratch */
static void say_layers(const struct st_model *m, size_t i, const bool *turned, bool *done, bool *in,
                       const struct st_hooks *hooks)
{
	const struct st_tensor *t = &m->c->tensors[i];
	size_t n = 0;
	memset(in, 0, m->cfg.n_layers * sizeof *in);
	for (size_t k = i; k < m->c->n_tensors; k++) {
		if (done[k] || !alike(m, i, k, turned))
			continue;
		in[layer_of(m, k, turned)] = done[k] = true;
		n++;
	}
	if (n == 1) {
		say_tensor(m, i, NULL, hooks);
		return;
	}
	char line[1024], dims[192], layers[512];
	print_dims(dims, sizeof dims, t->file_dims, t->ndim);
	print_layers(layers, sizeof layers, in, m->cfg.n_layers);
	snprintf(line, sizeof line, "[APR-LOAD] layers %s %.200s: dims=[%s], dtype=%s, %s", layers,
	         after_layer(t->name), dims, st_dtype_info(t->dtype)->name, fit_names[use_of(m, i)->fit]);
	hooks->log(hooks->user, line);
}

/* By tensor; NULL: no memory. */
static bool *find_turned(const struct st_model *m)
{
	bool *turned = st_alloc_zeroed(m->c->n_tensors ? m->c->n_tensors : 1, sizeof *turned);
	struct st_error none = ST_ERROR_INIT;
	for (size_t i = 0; turned && i < m->c->n_tensors; i++) {
		const struct st_described_use *use = use_of(m, i);
		const struct st_weight *w =
			use->fit == ST_FIT_OK ? &m->described->weights[use->weight][use->layer < 0 ? 0 : use->layer] : NULL;
		if (w && w->tensor && st_weight_turned(m, w, &turned[i], &none) != ST_OK) {
			free(turned);
			return NULL;
		}
	}
	return turned;
}

void st_model_load_log(const struct st_model *m, bool each, const struct st_hooks *hooks)
{
	if (!hooks || !hooks->log)
		return;
	/* Without memory for them, tensors are not looked at, and every one has its line. */
	bool *turned = find_turned(m), *done = each || !turned ? NULL : st_alloc_zeroed(m->c->n_tensors, sizeof *done),
	     *in = each ? NULL : st_alloc_zeroed(m->cfg.n_layers, sizeof *in);
	for (size_t i = 0; i < m->c->n_tensors; i++) {
		if (done && in && layer_of(m, i, turned) >= 0) {
			if (!done[i])
				say_layers(m, i, turned, done, in, hooks);
		} else {
			say_tensor(m, i, turned, hooks);
		}
	}
	free(turned);
	free(done);
	free(in);
}
