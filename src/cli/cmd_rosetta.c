/* stele rosetta - two model files, one prompt, lock-step. */
#include "cli/cli.h"

#include "base/error.h"
#include "base/outfile.h"
#include "format/container.h"
#include "report/rosetta.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct opts {
	const char *a, *b, *mode, *cpu, *out, *prompts, *family;
	struct cli_prompt prompt;
	bool assert_match, prompt_only, layer_costs, verbose, keep_going, json, quiet, force;
	double threshold;
	uint32_t threads;
};

static const struct opts defaults = { .threshold = NAN };

static const struct cli_param options[] = {
	CLI_OPTIONS_PROMPT(struct opts, prompt),
	{ "prompts", 0, "FILE", "the texts in FILE, one a line: the first stage by stage, the next tokens of all",
	  CLI_PATH(struct opts, prompts), .flags = CLI_REQUIRED, .group = 100 },
	{ "layer-costs", 0, NULL, "carry the error of each layer to the logits (an evaluation for each)",
	  CLI_BOOL(struct opts, layer_costs) },
	{ "assert-match", 0, NULL,
	  "exit 1 unless everything was compared and is at its floor, and nothing is known to differ for "
	  "other prompts",
	  CLI_BOOL(struct opts, assert_match) },
	{ "prompt-only", 0, NULL, "let --assert-match speak of this prompt alone", CLI_BOOL(struct opts, prompt_only) },
	{ "threshold", 0, "X", "also call a stage divergent when max|a-b| exceeds X", CLI_F64(struct opts, threshold) },
	{ "verbose", 'v', NULL, "print every stage, local errors and every weight that is not equal",
	  CLI_BOOL(struct opts, verbose) },
	{ "keep-going", 'k', NULL, "evaluate past the first fault", CLI_BOOL(struct opts, keep_going) },
	CLI_OPTION_FAMILY(struct opts, "both models"),
	{ "out", 'o', "DIR", "write report.txt and report.json into the new folder DIR", CLI_PATH(struct opts, out) },
	{ "force", 0, NULL, "replace an existing DIR", CLI_BOOL(struct opts, force) },
	CLI_OPTION_MODE(struct opts),
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_CPU(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "A", 0, NULL, "the model in question: GGUF, safetensors, Hugging Face folder or APR",
	  CLI_PATH(struct opts, a), .flags = CLI_REQUIRED },
	{ "B", 0, NULL, "the model it is compared with", CLI_PATH(struct opts, b), .flags = CLI_REQUIRED },
	{ 0 }
};

static enum st_status write_file(const char *dir, const char *name, const char *s, size_t n, struct st_error *err)
{
	struct st_text path = { 0 };
	st_text_printf(&path, "%s/%s", dir, name);
	enum st_status st = st_outfile_whole(path.failed ? NULL : path.s, s, n, err);
	st_text_release(&path);
	return st;
}

static enum st_status write_reports(const struct opts *o, const struct st_rosetta *r, json_t *j, struct st_error *err)
{
	struct st_outdir *d;
	struct st_text t = { 0 };
	char *s = st_json_print(j, JSON_INDENT(2));
	st_report_rosetta_text(r, true, &(struct st_page){ 0 }, &t);
	static const char *const names[] = { "report.json", "report.txt", NULL };
	enum st_status st = !s || t.failed ? st_fail(err, ST_ERR_NOMEM, "out of memory")
	                                   : st_outdir_open(o->out, o->force ? names : NULL, &d, err);
	if (st == ST_OK) {
		st = write_file(st_outdir_path(d), "report.json", s, strlen(s), err);
		if (st == ST_OK)
			st = write_file(st_outdir_path(d), "report.txt", t.s, t.len, err);
		if (st == ST_OK)
			st = st_outdir_commit(d, err);
		else
			st_outdir_abort(d, NULL);
	}
	st_text_release(&t);
	free(s);
	return st;
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	if (o->threshold < 0)
		return cli_usage(c, "--threshold: %g is negative, and no difference is", o->threshold);
	c->undone = "the comparison was not finished";
	if (o->out && (st_out_takes(o->out, o->a) || st_out_takes(o->out, o->b)))
		return cli_usage(c, "--out: %.300s is a model, or holds one", o->out);
	uint32_t *ids = NULL;
	size_t n_ids = 0;
	/* A text is tokenised by each side for itself; ids are the same for both. */
	char **lines = NULL;
	size_t n_lines = 0;
	if (o->prompts) {
		if (cli_prompt_lines(o->prompts, &lines, &n_lines, &err) != ST_OK)
			return cli_fail(c, &err);
	} else if (!o->prompt.text && cli_prompt_tokens(&o->prompt, NULL, &ids, &n_ids, &err) != ST_OK) {
		return cli_fail(c, &err);
	}
	struct st_rosetta_options ro = {
		.prompt = o->prompt.text,
		.prompts = (const char *const *)lines,
		.n_prompts = n_lines,
		.tokens = ids,
		.n_tokens = n_ids,
		.mode = o->mode,
		.cpu = o->cpu,
		.family = o->family,
		.threads = cli_threads(o->threads),
		.threshold = o->threshold,
		.keep_going = o->keep_going,
		.layer_costs = o->layer_costs,
		.hash = o->json || o->out,
		.log_all = o->verbose,
		.hooks = cli_hooks(c),
	};
	struct st_rosetta *r = NULL;
	enum st_status st = st_rosetta_run(o->a, o->b, &ro, &r, &err);
	free(ids);
	cli_prompt_lines_free(lines, n_lines);
	if (st != ST_OK)
		return cli_fail(c, &err);
	int status = st_rosetta_exit(r, !o->assert_match ? ST_ASSERT_NOTHING
	                                : o->prompt_only ? ST_ASSERT_PROMPT
	                                                 : ST_ASSERT_MATCH);
	json_t *j = o->json || o->out ? st_report_rosetta_json(r, status) : NULL;
	if ((o->json || o->out) && !j)
		st = st_fail(&err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK && o->out)
		st = write_reports(o, r, j, &err);
	if (st == ST_OK && o->json) {
		cli_print_json(j);
	} else if (st == ST_OK) {
		struct st_text t = { 0 };
		struct st_page page = cli_page(stdout);
		st_report_rosetta_text(r, o->verbose, &page, &t);
		cli_print_text(&t);
		st_text_release(&t);
	}
	json_decref(j);
	st_rosetta_free(r);
	return st == ST_OK ? status : cli_fail(c, &err);
}

const struct cli_command cmd_rosetta = {
	.name = "rosetta",
	.summary = "compare two files of one model, stage by stage",
	.description =
		"Loads both models, compares their tokenizers on the prompt, their configurations and every "
		"weight by value, then evaluates both "
		"in lock-step and measures each stage. A difference is split into what a stage's own weights do "
		"(local) and what arrived with its "
		"inputs; the local part is held against a floor that is computed from the stored types and the "
		"inputs at hand. What exceeds it "
		"is a fault, and the mistake that explains it is named and confirmed by undoing it.\n\n"
		"A verdict speaks of the tokens at hand. Vocabularies are compared whole, and every key that other "
		"prompts may exercise (EOS, a window, the chat template) is listed; --assert-match counts these "
		"differences too, but for those that one file leaves open.\n\n"
		"The order in which a file lists dimensions, the order in which it stores Q and K rows, its "
		"stored types, its shards, a "
		"materialised tied head and tensors that no stage uses are no differences.\n\n"
		"The report begins with the summary: verdict, first divergence, cause, what to do, next tokens. Below stand "
		"the keys that differ, the weights, and the stages: a layer without a finding takes one line, one with a "
		"finding (or, with -v, each) a line for each stage. There `apart' is |A - B| / |B|; `local' what of it the stage "
		"itself adds, given the same inputs; `inherited' what came with its inputs; `/floor' the local part over "
		"what the stored types and the arithmetic account for, at the worst token. About 1 or less is noise.\n\n"
		"Behind the stages come the next tokens: at how many positions both sides have the same best token, "
		"and B's best among the five best of A; the KL divergence of A's distribution from B's; the positions "
		"at which the best tokens differ, B's surest first; and how the errors compare with what the stored "
		"types usually cost. --layer-costs puts one layer of A at a time into B and measures what becomes of "
		"B's logits.\n\n"
		"Of a family that Stele cannot run, tokens, configuration keys and weights are compared and the stages are "
		"not; the report says so.\n\n"
		"Without --keep-going the evaluation stops behind the first faulty stage; the weights are "
		"always compared all.",
	.examples = "stele rosetta model.apr model.gguf --prompt \"2+2=\" --assert-match\n"
		    "stele rosetta converted/ original.gguf --tokens 1,403,407 --keep-going -v\n"
		    "stele rosetta small.gguf original.gguf --prompts texts.txt --layer-costs\n"
		    "stele rosetta a.gguf b.gguf -p \"Once upon a time\" --json | jq .cause",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
