/* main.c - the plain engine as a command; `naive --help`. */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"naive MODEL --tokens 1,2,3 --out TRACE [options]        evaluate, and write a trace\n"
	"naive --list [MODEL]                                    the mistakes it can make (that fit the model)\n"
	"naive --make FOLDER --like FOLDER [--set a=1,b=2] [--seed N] [--outlier X] [--bias X]   a random model\n"
	"naive --massive FOLDER --size X                         gives a model two features of that size\n"
	"\n"
	"MODEL          a folder with config.json and safetensors, or a GGUF file with --config FILE\n"
	"--random N     N tokens, always the same; --decode N: so many more, greedily\n"
	"--fault CODE[/VARIANT][:TARGET][=VALUE], --layer N (all)\n"
	"--arith f64 f32 f16 bf16 tf32 bf16stream f16stream ggml q8_0 q8_k\n"
	"--arith-layer N: layer N alone, the others in f32\n"
	"--order sequential lanes blocked\n"
	"--kv plain f16 bf16 q8_0, --flash none f32 f16, --gelu-table\n"
	"--dtype F32 BF16 F16 F64, --stages LIST (-NAME: without; usual; outputs), --layers A..B, --last, --last-rows, --unplaced\n"
	"--bare (no metadata), --split (Q, K, V apart), --alias, --raw-scores, --mask-inf\n";

static int choice(const char *const *names, const char *s, const char *option)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(names[i], s) == 0)
			return i;
	fprintf(stderr, "naive: %s %s\n", option, s);
	exit(2);
}

static void list(const char *model, const char *config)
{
	struct model *m = model ? model_open(model, config) : NULL;
	for (int f = 1; f < FAULTS; f++) {
		const struct fault_row *r = &fault_table[f];
		bool fits = !m;
		char target[48];
		snprintf(target, sizeof target, "%.*s", (int)strcspn(r->targets, " "), r->targets);
		for (size_t l = 0; m && l < m->L && !fits; l++)
			fits = fault_fits(m, (enum fault)f, l, target);
		if (fits)
			printf("%-28s %s\n    at %s; needs: %s; targets: %s; values: %s; or: %s\n", r->name, r->what,
			       r->stage, r->needs, r->targets, r->values, r->also);
	}
	model_close(m);
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct trace_options t = { .dtype = ST_DTYPE_F32 };
	const char *model = NULL, *config = NULL, *tokens = NULL, *to = NULL, *fault = NULL, *make = NULL, *like = NULL,
		   *sets = "";
	size_t n = 0, decode = 0, random = 0;
	int layer = -1;
	bool listing = false;
	double outlier = 0, bias = 0, size = 100;
	const char *massive = NULL;
	uint64_t seed = 1;
	uint32_t ids[4096];
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		if (a[0] != '-') {
			model = a;
			continue;
		}
		if (strcmp(a, "--list") == 0 || strcmp(a, "--gelu-table") == 0 || strcmp(a, "--last") == 0
		    || strcmp(a, "--bare") == 0 || strcmp(a, "--split") == 0 || strcmp(a, "--alias") == 0
		    || strcmp(a, "--last-rows") == 0 || strcmp(a, "--unplaced") == 0 || strcmp(a, "--raw-scores") == 0
		    || strcmp(a, "--mask-inf") == 0) {
			listing = listing || strcmp(a, "--list") == 0;
			o.gelu_table = o.gelu_table || strcmp(a, "--gelu-table") == 0;
			o.last_only = o.last_only || strcmp(a, "--last") == 0;
			t.bare = t.bare || strcmp(a, "--bare") == 0;
			t.split = t.split || strcmp(a, "--split") == 0;
			t.alias = t.alias || strcmp(a, "--alias") == 0;
			t.unplaced = t.unplaced || strcmp(a, "--unplaced") == 0;
			t.last_rows = t.last_rows || strcmp(a, "--last-rows") == 0;
			o.raw_scores = o.raw_scores || strcmp(a, "--raw-scores") == 0;
			o.mask_inf = o.mask_inf || strcmp(a, "--mask-inf") == 0;
			continue;
		}
		if (strcmp(a, "--help") == 0) {
			fputs(usage, stdout);
			return 0;
		}
		if (i + 1 == argc) {
			fputs(usage, stderr);
			return 2;
		}
		const char *v = argv[++i];
		if (strcmp(a, "--tokens") == 0)
			tokens = v;
		else if (strcmp(a, "--config") == 0)
			config = v;
		else if (strcmp(a, "--random") == 0)
			random = strtoul(v, NULL, 10);
		else if (strcmp(a, "--decode") == 0)
			decode = strtoul(v, NULL, 10);
		else if (strcmp(a, "--out") == 0)
			to = v;
		else if (strcmp(a, "--fault") == 0)
			fault = v;
		else if (strcmp(a, "--layer") == 0)
			layer = atoi(v);
		else if (strcmp(a, "--arith") == 0)
			o.arith = (enum arith)choice(arith_names, v, a);
		else if (strcmp(a, "--arith-layer") == 0)
			o.arith_layer = strtoul(v, NULL, 10) + 1;
		else if (strcmp(a, "--order") == 0)
			o.order = (enum order)choice(order_names, v, a);
		else if (strcmp(a, "--kv") == 0)
			o.kv = (enum cache_type)choice(cache_names, v, a);
		else if (strcmp(a, "--flash") == 0)
			o.flash = (enum flash)choice(flash_names, v, a);
		else if (strcmp(a, "--stages") == 0)
			t.stages = v;
		else if (strcmp(a, "--layers") == 0)
			t.layers = v;
		else if (strcmp(a, "--dtype") == 0 && st_dtype_parse(v, &t.dtype))
			continue;
		else if (strcmp(a, "--make") == 0)
			make = v;
		else if (strcmp(a, "--like") == 0)
			like = v;
		else if (strcmp(a, "--set") == 0)
			sets = v;
		else if (strcmp(a, "--seed") == 0)
			seed = strtoull(v, NULL, 10);
		else if (strcmp(a, "--outlier") == 0)
			outlier = atof(v);
		else if (strcmp(a, "--bias") == 0)
			bias = atof(v);
		else if (strcmp(a, "--massive") == 0)
			massive = v;
		else if (strcmp(a, "--size") == 0)
			size = atof(v);
		else {
			fprintf(stderr, "naive: %s\n%s", a, usage);
			return 2;
		}
	}
	if (listing) {
		list(model, config);
		return 0;
	}
	if (make) {
		model_make(like, make, sets, seed, outlier, bias);
		return 0;
	}
	if (massive) {
		model_make_massive(massive, size);
		return 0;
	}
	if (!model || (!tokens && !random)) {
		fputs(usage, stderr);
		return 2;
	}
	struct model *m = model_open(model, config);
	for (const char *p = tokens; p && *p != '\0' && n < 4000; p += strcspn(p, ","), p += *p == ',')
		ids[n++] = (uint32_t)strtoul(p, NULL, 10) % (uint32_t)m->V;
	for (uint64_t x = 12345; n < random && n < 4000; n++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		ids[n] = (uint32_t)((x >> 33) % m->V);
		if (n > 0 && ids[n] == ids[n - 1]) /* so that a row is never the one before by chance */
			ids[n] = (ids[n] + 1) % (uint32_t)m->V;
	}
	if (fault && !planted_parse(fault, &o.plant)) {
		fprintf(stderr, "naive: no fault '%s'\n", fault);
		return 2;
	}
	o.plant.layer = layer;
	struct run *r = run_model(m, &o, ids, n, n + decode), *other = NULL, *clean = NULL;
	if (fault) {
		struct options plain = o;
		uint32_t others[4096];
		plain.plant = (struct planted){ 0 };
		for (size_t i = 0; i < n; i++)
			others[i] = (ids[i] * 7 + 5) % (uint32_t)m->V;
		other = run_model(m, &plain, others, n, n + decode);
		clean = run_model(m, &plain, ids, n, n + decode);
		run_spoil_capture(r, other);
		const struct value *v = run_first_difference(clean, r, &t);
		fprintf(stderr, "first difference: %s %d step %u\n", v ? v->stage : "none", v ? v->layer : -1,
		        v ? v->step : 0);
	}
	trace_arrange(r, &t);
	if (to)
		trace_write(r, &t, to);
	run_free(r);
	run_free(other);
	run_free(clean);
	model_close(m);
	return 0;
}
