/* stele diff - two stage files, traces, models or sets of tensors. */
#include "cli/cli.h"

#include "report/diff.h"

#include <math.h>
#include <stdint.h>

struct opts {
	const char *a, *b, *filter;
	uint64_t limit;
	double threshold, rel_threshold;
	uint32_t threads;
	bool values, json, quiet;
};

static const struct opts defaults = { .threshold = NAN, .rel_threshold = NAN, .limit = UINT64_MAX };

static const struct cli_param options[] = {
	{ "values", 0, NULL, "also print the largest differences of each row", CLI_BOOL(struct opts, values) },
	{ "filter", 0, "GLOB", "only stages or tensors whose name matches", CLI_STR(struct opts, filter) },
	{ "limit", 'n', "N", "print at most N rows (stage files: N largest differences, default 10)",
	  CLI_U64(struct opts, limit) },
	{ "threshold", 0, "X", "exit 1 when any |a-b| exceeds X", CLI_F64(struct opts, threshold) },
	{ "rel-threshold", 0, "X", "exit 1 when a relative L2 exceeds X", CLI_F64(struct opts, rel_threshold) },
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "A", 0, NULL, "a file, a folder, or BUNDLE:KEY for one stage of a trace", CLI_PATH(struct opts, a),
	  .flags = CLI_REQUIRED },
	{ "B", 0, NULL, "the reference, of the same kind", CLI_PATH(struct opts, b), .flags = CLI_REQUIRED },
	{ 0 }
};

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	if (o->threshold < 0)
		return cli_usage(c, "--threshold: %g is negative, and no difference is", o->threshold);
	if (o->rel_threshold < 0)
		return cli_usage(c, "--rel-threshold: %g is negative, and no difference is", o->rel_threshold);
	c->undone = "the comparison was not finished";
	bool given = o->limit != UINT64_MAX;
	struct st_diff_options d_o = { .filter = o->filter,
		                       .limit = given ? (size_t)o->limit : 10,
		                       .threshold = o->threshold,
		                       .rel_threshold = o->rel_threshold,
		                       .threads = cli_threads(o->threads),
		                       .hooks = cli_hooks(c) };
	struct st_diff *d = NULL;
	if (st_diff_run(o->a, o->b, &d_o, &d, &err) != ST_OK)
		return cli_fail(c, &err);
	int status = st_diff_exit(d);
	enum st_status st = ST_OK;
	if (o->json) {
		json_t *j = st_report_diff_json(d, status);
		cli_print_json(j);
		json_decref(j);
	} else {
		struct st_text t = { 0 };
		struct st_report_diff_options ro = { .limit = given ? (size_t)o->limit : SIZE_MAX,
			                             .values = o->values,
			                             .page = cli_page(stdout) };
		st = st_report_diff_text(d, &ro, &t, &err);
		if (st == ST_OK)
			cli_print_text(&t);
		st_text_release(&t);
	}
	st_diff_free(d);
	return st == ST_OK ? status : cli_fail(c, &err);
}

const struct cli_command cmd_diff = {
	.name = "diff",
	.summary = "compare two stage files, traces, models or sets of tensors",
	.description =
		"A and B are each one APRT, npy or npz file, a trace (bundle, tree or folder of npy files) or a model, and of one "
		"kind; one stage of a trace is named "
		"as BUNDLE:KEY. Everything on both sides is accounted for: compared, or listed as being on one "
		"side only.\n\n"
		"Of two traces the worst position of every stage is shown, with a floor estimated from what the "
		"traces say of themselves; "
		"beyond it, a stage is a fault where the difference appears at once, and undecided where it "
		"grew by and by. Where the traces say nothing there is no floor: the first stage that is apart is named. "
		"Values stored in 16 bits are the same where one number rounds to both, and floats that are all numbers of such a "
		"type are taken as stored in it. A leading dimension of "
		"one is a batch, heads may stand in front of positions, one position alone is the last. Of lm_head the largest "
		"logits are compared "
		"too. Names that are no stage's are compared by name, or listed. Of two models "
		"every weight is compared by value, in the orientation and row order that fits; containers that "
		"are no known model are "
		"compared tensor by tensor, by name.",
	.examples = "stele diff a-trace/layer-0/attn_norm.bin b-trace/layer-0/attn_norm.bin\n"
		    "stele diff mine.safetensors theirs.safetensors --filter 'attn_*'\n"
		    "stele diff mine.safetensors:layers.0.attn_norm b-trace/layer-0/attn_norm.bin\n"
		    "stele diff model.gguf converted/ --json | jq '.weights[] | select(.status == \"fault\")'",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
