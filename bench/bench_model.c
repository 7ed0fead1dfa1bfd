/*
 * bench_model.c - whole commands on a 7B model: open, trace, compare, prefill; and two large traces.
 *
 * Needs a folder with 7b.gguf and 7b.apr (`make bench` makes them with stele synth; 9 GB) that fits the page cache.
 * The two traces are written there as well.
 */
#include "bench.h"

#include <stele/stele.h>

#include "arch/arch.h"
#include "format/writer.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint32_t four[] = { 17, 10, 17, 28 };

struct job {
	const struct bench *b;
	char gguf[512], apr[512], trace_a[512], trace_b[512];
	const struct st_model *m;
	const char *mode;
	uint32_t tokens[64];
};

static void stop(const struct st_error *err)
{
	char line[1400];
	st_error_format(err, line, sizeof line);
	fprintf(stderr, "stele-bench: %s\n", line);
	exit(1);
}

static void open_and_tokenise(void *p)
{
	struct job *j = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	struct st_tokenizer *t = NULL;
	uint32_t *ids = NULL;
	size_t n;
	if (st_model_open(j->gguf, &m, &err) != ST_OK || st_tokenizer_open(st_model_container(m), &t, &err) != ST_OK
	    || st_tokenize(t, "2+2=", 4, ST_TOKENIZE_BOS, &ids, &n, &err) != ST_OK)
		stop(&err);
	free(ids);
	st_tokenizer_close(t);
	st_model_close(m);
}

static void trace_four(void *p)
{
	struct job *j = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_trace_options o = { .tokens = four, .n_tokens = 4, .mode = j->mode, .threads = j->b->threads };
	if (st_trace_run(j->m, &o, &err) != ST_OK)
		stop(&err);
}

static void rosetta(void *p)
{
	struct job *j = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = { .tokens = four, .n_tokens = 4, .threads = j->b->threads, .threshold = NAN };
	if (st_rosetta_run(j->gguf, j->apr, &o, &r, &err) != ST_OK)
		stop(&err);
	if (r->verdict != ST_VERDICT_MATCH) {
		fprintf(stderr, "stele-bench: the sound pair is no match: %s\n", r->text);
		exit(1);
	}
	st_rosetta_free(r);
}

/* Evaluation alone, logits of the last position: what a prefill is. */
static void prefill(void *p)
{
	struct job *j = p;
	struct st_error err = ST_ERROR_INIT;
	const struct st_graph *g = st_model_graph(j->m);
	struct st_exec e = st_exec_default();
	struct st_run *r;
	e.mode = ST_MODE_FAST;
	e.pool = j->b->pool;
	if (st_run_open_flags(g, &e, 64, 64, ST_RUN_HEAD_LAST, &r, &err) != ST_OK
	    || st_run_begin(r, j->tokens, 64, &err) != ST_OK)
		stop(&err);
	for (uint32_t i = 0; i < g->n_nodes; i++)
		if (st_run_eval(r, i, &err) != ST_OK)
			stop(&err);
	st_run_close(r);
}

static void diff(void *p)
{
	struct job *j = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_diff *d;
	struct st_diff_options o = { .limit = 10, .threshold = NAN, .rel_threshold = NAN, .threads = j->b->threads };
	if (st_diff_run(j->trace_a, j->trace_b, &o, &d, &err) != ST_OK)
		stop(&err);
	st_diff_free(d);
}

/* ---- memory ---- */

static volatile bool sampling;
static uint64_t peak_kb;

static uint64_t anonymous_kb(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[128];
	unsigned long kb = 0;
	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, "RssAnon:", 8) == 0)
			kb = strtoul(line + 8, NULL, 10);
	if (f)
		fclose(f);
	return kb;
}

static void *sample(void *p)
{
	(void)p;
	while (sampling) {
		uint64_t kb = anonymous_kb();
		peak_kb = kb > peak_kb ? kb : peak_kb;
		usleep(2000);
	}
	return NULL;
}

static void memory_row(const char *what, bench_fn f, void *arg, double limit_mb)
{
	/* What earlier rows gave back to malloc alone would hide what this one takes. */
	malloc_trim(0);
	uint64_t before = anonymous_kb();
	pthread_t t;
	peak_kb = before;
	sampling = true;
	if (pthread_create(&t, NULL, sample, NULL) != 0)
		return;
	f(arg);
	sampling = false;
	pthread_join(t, NULL);
	double mb = (double)(peak_kb - before) / 1000;
	printf("%-44s %9.0f %9.0f %-7s %6.1f %%\n", what, mb, limit_mb, "MB", 100 * mb / limit_mb);
}

/* ---- two traces of a gigabyte ---- */

enum { ROWS = 2048, COLS = 4096, STAGES = 32 };

static void write_trace(const char *path, float step)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tensor_spec specs[STAGES];
	char names[STAGES][40];
	const char *readable;
	struct st_writer *w;
	json_t *meta = json_pack("{s:s, s:s, s:s, s:s, s:s}", "format", "stele-trace", "version", "1", "engine",
	                         "stele", "mode", "exact", "weights", "F32");
	float *row = malloc(COLS * sizeof *row);
	if (access(path, R_OK) == 0 || !row || !meta)
		goto out;
	for (int i = 0; i < STAGES; i++) {
		snprintf(names[i], sizeof names[i], "layers.%d.post_ffn_residual", i);
		specs[i] = (struct st_tensor_spec){
			.name = names[i], .dtype = ST_DTYPE_F32, .ndim = 2, .shape = { ROWS, COLS }
		};
	}
	struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = STAGES, .metadata = meta, .pad_header = true
	};
	if (st_writer_open(path, &plan, &w, &err) != ST_OK)
		stop(&err);
	for (int i = 0; i < STAGES * ROWS; i++) {
		for (int k = 0; k < COLS; k++)
			row[k] = (float)((i * 31 + k * 17) % 1000 - 500) * (1 + step * (float)(k % 3));
		if (st_writer_append(w, row, COLS * sizeof *row, &err) != ST_OK)
			stop(&err);
	}
	if (st_writer_finish(w, &readable, &err) != ST_OK || st_writer_commit(w, &err) != ST_OK)
		stop(&err);
out:
	json_decref(meta);
	free(row);
}

/* ---- explain ---- */

struct explaining {
	const char *model, *trace;
	int threads;
	enum st_verdict expected;
};

static void explain(void *p)
{
	const struct explaining *j = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_explain *x;
	const struct st_explain_options o = { .threads = j->threads, .other_file = true };
	if (st_explain_run(j->trace, j->model, &o, &x, &err) != ST_OK)
		stop(&err);
	if (x->verdict != j->expected) {
		fprintf(stderr, "stele-bench: the trace's verdict is %s\n", st_verdict_name(x->verdict));
		exit(1);
	}
	st_explain_free(x);
}

enum planted { PLANTED_NOTHING, PLANTED_GAIN, PLANTED_UNEXPLAINED };

/* A bundle of every stage. The down projection of a layer in the middle is made too large, or each of its numbers is
 * changed by up to a quarter, which no cause explains. */
static void write_bundle(const struct job *j, const char *path, enum planted planted)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_trace_options o = {
		.tokens = four, .n_tokens = 4, .mode = "exact", .threads = j->b->threads, .bundle = path, .force = true
	};
	if (st_trace_parse_stages("all", &o.capture, &err) != ST_OK || st_trace_run(j->m, &o, &err) != ST_OK)
		stop(&err);
	if (planted == PLANTED_NOTHING)
		return;
	struct st_trace *t;
	if (st_trace_open(path, &t, &err) != ST_OK)
		stop(&err);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_FFN_OUT, (int32_t)st_model_graph(j->m)->n_layers / 2, 0);
	uint64_t at = e->tensor->offset, n = e->tensor->n_elems;
	float *v = malloc(n * sizeof *v);
	st_trace_close(t);
	FILE *f = fopen(path, "r+b");
	bool ok = v && f && fseek(f, (long)at, SEEK_SET) == 0 && fread(v, sizeof *v, n, f) == n;
	for (uint64_t i = 0; ok && i < n; i++)
		v[i] *= 1 + 0.25f * (planted == PLANTED_GAIN ? 1 : (float)(i * 2654435761u % 2001) / 1000 - 1);
	ok = ok && fseek(f, (long)at, SEEK_SET) == 0 && fwrite(v, sizeof *v, n, f) == n && fclose(f) == 0;
	free(v);
	if (!ok) {
		perror(path);
		exit(1);
	}
}

static void bench_explain(struct job *j)
{
	struct explaining e = { .model = j->gguf, .trace = j->trace_a, .threads = j->b->threads };
	j->mode = "exact";
	double trace = bench_time(j->b, trace_four, j);
	write_bundle(j, j->trace_a, PLANTED_NOTHING);
	e.expected = ST_VERDICT_MATCH;
	bench_row_seconds(j->b, "7B: explain a sound trace, 2 x trace exact", explain, &e, 2 * trace);
	memory_row("7B: explain, anonymous memory", explain, &e, 600);
	e.expected = ST_VERDICT_FAULT;
	write_bundle(j, j->trace_a, PLANTED_GAIN);
	bench_row_seconds(j->b, "7B: explain one fault, 4 x trace exact", explain, &e, 4 * trace);
	write_bundle(j, j->trace_a, PLANTED_UNEXPLAINED);
	bench_row_seconds(j->b, "7B: the same, unexplained, 4 x trace exact", explain, &e, 4 * trace);
	memory_row("7B: explain a fault, anonymous memory", explain, &e, 600);
	(void)remove(j->trace_a);
}

void bench_model(const struct bench *b)
{
	if (!b->data) {
		printf("model: skipped, no --data=FOLDER with 7b.gguf and 7b.apr\n");
		return;
	}
	struct job j = { .b = b };
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	snprintf(j.gguf, sizeof j.gguf, "%s/7b.gguf", b->data);
	snprintf(j.apr, sizeof j.apr, "%s/7b.apr", b->data);
	snprintf(j.trace_a, sizeof j.trace_a, "%s/a.safetensors", b->data);
	snprintf(j.trace_b, sizeof j.trace_b, "%s/b.safetensors", b->data);
	if (st_model_open(j.gguf, &m, &err) != ST_OK)
		stop(&err);
	j.m = m;
	/* What a pass has to read and to multiply: all weights but the embedding, of which a few rows are read. */
	double bytes = 0, products = 0;
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (w->role == ST_ROLE_EMBED && st_model_role(m, ST_ROLE_HEAD, 0)->tensor)
			continue;
		bytes += (double)w->tensor->n_bytes;
		if (w->role != ST_ROLE_HEAD && w->role != ST_ROLE_EMBED && w->tensor->ndim == 2)
			products += (double)w->tensor->n_elems;
	}
	for (uint32_t i = 0; i < 64; i++)
		j.tokens[i] = 7 * i + 3;

	bench_row_seconds(b, "7B: open, parse, tokenise", open_and_tokenise, &j, 0.3);
	j.mode = "exact";
	trace_four(&j); /* the file into the page cache */
	bench_row(b, "7B: trace of 4 tokens, exact, packed bytes", trace_four, &j, bytes, bench_read_bandwidth, "GB/s",
	          1e9);
	bench_row_seconds(b, "7B: trace of 4 tokens, exact", trace_four, &j, 0.6);
	j.mode = "fast";
	bench_row(b, "7B: trace of 4 tokens, fast, packed bytes", trace_four, &j, bytes, bench_read_bandwidth, "GB/s",
	          1e9);
	bench_row_seconds(b, "7B: trace of 4 tokens, fast", trace_four, &j, 0.6);
	memory_row("7B: trace of 4 tokens, anonymous memory", trace_four, &j, 400);
	bench_row(b, "7B: prefill of 64 tokens, fast", prefill, &j, 2 * 64 * products, bench_fma_peak, "Gflop/s", 1e9);
	bench_explain(&j);
	rosetta(&j);
	bench_row_seconds(b, "7B: rosetta GGUF against APR, 4 tokens", rosetta, &j, 3);
	memory_row("7B: rosetta, anonymous memory", rosetta, &j, 400);
	write_trace(j.trace_a, 0);
	write_trace(j.trace_b, 1e-7f);
	diff(&j);
	bench_row(b, "diff of two traces of 1.07 GB", diff, &j, 2.0 * STAGES * ROWS * COLS * 4, bench_read_bandwidth,
	          "GB/s", 1e9);
	st_model_close(m);
}
