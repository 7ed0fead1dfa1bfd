/*
 * A stranger's description: parsed, and where it parses bound to a small model and run. The model is gpt2's tiny
 * tensors in memory: the description decides what is read of them. Without a family's head the bytes stand behind one.
 */
#include "fuzz.h"

#include "arch/described.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define HIDDEN 8u

static float numbers[64 * 64];
static struct st_tensor tensors[5];
static const struct st_tensor *by_name[5];

static void tensor(size_t i, const char *name, uint64_t rows, uint64_t cols)
{
	struct st_tensor *t = &tensors[i];
	*t = (struct st_tensor){ .name = name,
		                 .dtype = ST_DTYPE_F32,
		                 .layout = ST_LAYOUT_ROWS,
		                 .ndim = rows ? 2 : 1,
		                 .shape = { rows ? rows : cols, rows ? cols : 0 },
		                 .n_elems = (rows ? rows : 1) * cols,
		                 .n_bytes = (rows ? rows : 1) * cols * 4,
		                 .row_bytes = cols * 4,
		                 .scale = 1,
		                 .data = (const uint8_t *)numbers };
	by_name[i] = t;
}

static void judge(const struct st_error *err)
{
	char line[1400];
	st_error_format(err, line, sizeof line);
	if (err->code == ST_OK || !err->message[0] || strchr(line, '\n'))
		abort();
}

static void run(const struct st_described *d)
{
	static const uint32_t tokens[] = { 1, 0, 1 };
	struct st_exec e = st_exec_default();
	struct st_error err = ST_ERROR_INIT;
	struct st_run *r = NULL;
	uint64_t bytes = st_run_memory(&d->graph, &e, 3, 3);
	if (bytes > 64u << 20) /* a large model may be meant: only the time of this run is saved */
		return;
	enum st_status st = st_run_open(&d->graph, &e, 3, 3, &r, &err);
	if (st == ST_OK)
		st = st_run_begin(r, tokens, d->vocab > 1 ? 3 : 0, &err);
	for (uint32_t i = 0; st == ST_OK && i < d->graph.n_nodes; i++)
		st = st_run_eval(r, i, &err);
	st_run_close(r);
	if (st != ST_OK)
		judge(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char head[] = "family t\nconfig t\n";
	static struct st_container c = { .format = ST_FORMAT_SAFETENSORS,
		                         .path = (char *)"t",
		                         .tensors = tensors,
		                         .n_tensors = 5,
		                         .by_name = by_name };
	struct st_error err = ST_ERROR_INIT;
	struct st_family *f;
	struct st_described *d;
	if (!c.docs.config) {
		for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
			numbers[i] = (float)(i * 37 % 101) / 50 - 1;
		tensor(0, "a.weight", 16, HIDDEN); /* in the order of their names */
		tensor(1, "b.0.weight", 3 * HIDDEN, HIDDEN);
		tensor(2, "b.1.weight", 3 * HIDDEN, HIDDEN);
		tensor(3, "c.bias", 0, HIDDEN);
		tensor(4, "c.weight", 0, HIDDEN);
		c.docs.config = json_pack("{s:s, s:i, s:i, s:i, s:i, s:n, s:[i,i], s:f}", "model_type", "t", "n", 2,
		                          "d", HIDDEN, "h", 2, "v", 16, "null", "each", 1, 2, "eps", 1e-5);
	}
	char *text = malloc(n + sizeof head);
	if (!text)
		return 0;
	size_t own = n >= 6 && memcmp(data, "family", 6) == 0 ? 0 : sizeof head - 1;
	memcpy(text, head, own);
	memcpy(text + own, data, n);
	enum st_status st = st_family_parse("t.family", text, n + own, &f, &err);
	free(text);
	if (st != ST_OK) {
		judge(&err);
		return 0;
	}
	if (st_described_open(&c, f, &d, &err) == ST_OK) {
		run(d);
		st_described_close(d);
	} else {
		judge(&err);
	}
	st_family_close(f);
	return 0;
}
