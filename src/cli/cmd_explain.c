/* stele explain - what an engine computed, judged against the model's own weights. */
#include "cli/cli.h"

#include "report/explain.h"

struct opts {
	const char *trace, *model, *cpu, *family, *reference, *reference_model, *again;
	bool other_file, keep_going, verbose, json, quiet;
	uint32_t threads;
};

static const struct opts defaults = { 0 };

static const struct cli_param options[] = {
	{ "model", 'm', "MODEL", "the model that the engine ran: GGUF, safetensors, Hugging Face folder or APR",
	  CLI_PATH(struct opts, model), .flags = CLI_REQUIRED },
	{ "reference", 'r', "TRACE", "another engine's trace of the same tokens: both are placed on the scale of how far they are "
	  "from exact", CLI_PATH(struct opts, reference) },
	{ "reference-model", 0, "MODEL", "the file that the other engine ran, where it is another one: a finer type of the same weights",
	  CLI_PATH(struct opts, reference_model) },
	{ "again", 0, "TRACE", "another trace of the same engine and tokens: it is judged too, and what differs between the two is "
	  "told", CLI_PATH(struct opts, again) },
	{ "other-file", 0, NULL, "judge by MODEL although the trace was made of another file of its weights",
	  CLI_BOOL(struct opts, other_file) },
	{ "keep-going", 'k', NULL, "name the cause of every faulty stage, not of the first alone",
	  CLI_BOOL(struct opts, keep_going) },
	{ "verbose", 'v', NULL, "print every stage", CLI_BOOL(struct opts, verbose) },
	CLI_OPTION_FAMILY(struct opts, "the model"),
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_CPU(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "TRACE", 0, NULL, "a bundle, an npz with its keys, or an APRT tree that the engine wrote",
	  CLI_PATH(struct opts, trace), .flags = CLI_REQUIRED },
	{ 0 }
};

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_explain_options eo = { .cpu = o->cpu,
		                         .family = o->family,
		                         .reference = o->reference,
		                         .reference_model = o->reference_model,
		                         .again = o->again,
		                         .other_file = o->other_file,
		                         .threads = cli_threads(o->threads),
		                         .keep_going = o->keep_going,
		                         .hooks = cli_hooks(c) };
	struct st_explain *x = NULL;
	c->undone = "the trace was not judged";
	if (st_explain_run(o->trace, o->model, &eo, &x, &err) != ST_OK)
		return cli_fail(c, &err);
	int status = st_explain_exit(x);
	if (o->json) {
		json_t *j = st_report_explain_json(x, status);
		cli_print_json(j);
		json_decref(j);
	} else {
		struct st_text t = { 0 };
		struct st_page page = cli_page(stdout);
		st_report_explain_text(x, o->verbose, &page, &t);
		cli_print_text(&t);
		st_text_release(&t);
	}
	st_explain_free(x);
	return status;
}

const struct cli_command cmd_explain = {
	.name = "explain",
	.summary = "judge what an engine computed, and name the mistake in it",
	.description =
		"TRACE holds values that an engine had while it ran a model. Each of them is evaluated again, in f64, with the "
		"weights of MODEL and from what the trace itself holds before it, so that an operation that is right with wrong "
		"inputs is never blamed. A difference is noise where an arithmetic that sound engines use accounts for it, element "
		"by element: f32 in any order, operands or results in 16 bits, activations in Q8_0 or Q8_K, a cache in 16 or 8 "
		"bits. Of what none accounts for, mistakes are tried one after the other; the one under which the difference "
		"vanishes is the cause, with what was fitted.\n\n"
		"Values between captured ones are evaluated along, and the judged stretch is told. Exit status: 0 sound, 1 a fault, "
		"2 trouble, 3 undecided.",
	.examples = "stele explain trace.safetensors --model model.gguf\n"
		    "stele explain trace.safetensors --model model/ --json | jq '.cause'\n",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
