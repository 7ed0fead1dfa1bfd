/* stele svf export, replay, compare, apply, route - a singular-value adaptation, made and proved. */
#include "cli/cli.h"

#include <stele/svf.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What every one of them ends with: the report under --json, lines for people otherwise. */
static int finish(struct cli *c, bool json, enum st_status st, struct st_svf_result *r, const struct st_error *err)
{
	if (st != ST_OK)
		return cli_fail(c, err);
	if (json)
		cli_print(r->json, "\n");
	else
		cli_print(r->text, "");
	int status = r->exit_status ? CLI_FAULT : CLI_SAME;
	st_svf_result_release(r);
	return status;
}

/* Index of a choice in "a|b|c"; choices match in any case. */
static int choice(const char *s, const char *const *names)
{
	for (int i = 0; s && names[i]; i++)
		if (strcasecmp(s, names[i]) == 0)
			return i;
	return 0;
}

static const char *const layouts[] = { "torch_v", "vh", "nx", NULL }, *const ties[] = { "independent", "compose",
	                                                                                "last-wins", NULL };

#define LAYOUTS "torch_v|vh|nx"
#define TIES "independent|compose|last-wins"
#define OPTION_CHUNK(T)                                                                                  \
	{                                                                                                \
		"chunk-rows", 0, "N", "work on N rows at a time (default: 8192)", CLI_U64(T, chunk_rows) \
	}
#define OPTION_REFERENCE(T)                                                                                           \
	{                                                                                                             \
		"reference", 0, "FILE", "the manifest that says which tensor has which span", CLI_PATH(T, reference), \
			.flags = CLI_REQUIRED                                                                         \
	}
#define OPTION_VECTOR(T)                                                                                   \
	{                                                                                                  \
		"router-vector", 0, "FILE", "the trained vector, npy or safetensors", CLI_PATH(T, vector), \
			.flags = CLI_REQUIRED                                                              \
	}

/* The second name is what the exporting scripts of others call it. */
#define OPTIONS_MODEL_DTYPE(T)                                                                \
	{ "model-dtype",                                                                      \
	  0,                                                                                  \
	  "TYPE",                                                                             \
	  "round the base model to this type first (default: float32)",                       \
	  CLI_CHOICE(T, model_dtype, "float32|bfloat16"),                                     \
	  .group = 2 },                                                                       \
	{                                                                                     \
		"model-torch-dtype", 0, "TYPE", "the same, by the name older scripts use",    \
			CLI_CHOICE(T, model_torch_dtype, "auto|float32|bfloat16"), .group = 2 \
	}

/* ---- export ---- */

struct export_opts {
	const char *model, *reference, *vector, *out, *svd_weights, *write_dir, *readback_dir, *model_dtype,
		*model_torch_dtype, *vector_dtype, *tie, *svd, *layout, *storage;
	bool all, decompose, strict, no_components, no_stages, json, quiet;
	uint64_t chunk_rows;
	uint32_t threads;
};

static const struct cli_param export_options[] = {
	{ "model", 0, "MODEL", "the base model", CLI_PATH(struct export_opts, model), .flags = CLI_REQUIRED },
	OPTION_REFERENCE(struct export_opts),
	OPTION_VECTOR(struct export_opts),
	{ "out", 0, "REPORT", "write the report here", CLI_PATH(struct export_opts, out), .flags = CLI_REQUIRED },
	{ "svd-weights", 0, "FILE", "take the factors from a torch checkpoint or a component file",
	  CLI_PATH(struct export_opts, svd_weights) },
	{ "v-layout", 0, "LAYOUT", "how that file stores the third factor (default: torch_v)",
	  CLI_CHOICE(struct export_opts, layout, LAYOUTS) },
	{ "write-components-dir", 0, "DIR", "write factors, offsets and stages into this folder",
	  CLI_PATH(struct export_opts, write_dir) },
	{ "readback-components-dir", 0, "DIR",
	  "compute the stages from this folder's components (default: what was written)",
	  CLI_PATH(struct export_opts, readback_dir) },
	{ "no-write-components", 0, NULL, "write no components", CLI_BOOL(struct export_opts, no_components) },
	{ "no-write-stage-tensors", 0, NULL, "write no stages", CLI_BOOL(struct export_opts, no_stages) },
	{ "all-selected-tensors", 0, NULL, "every tensor of the reference, not the sample alone",
	  CLI_BOOL(struct export_opts, all) },
	{ "decompose-all-selected-if-missing", 0, NULL, "allow the factors of every tensor to be computed",
	  CLI_BOOL(struct export_opts, decompose) },
	{ "strict-reference-hash", 0, NULL, "exit with 1 unless the reference's digest is reproduced",
	  CLI_BOOL(struct export_opts, strict) },
	{ "tie", 0, "POLICY", "what to do with tensors that share storage (default: independent)",
	  CLI_CHOICE(struct export_opts, tie, TIES) },
	{ "svd", 0, "METHOD", "divide and conquer or Jacobi (default: gesdd)",
	  CLI_CHOICE(struct export_opts, svd, "gesdd|gesvj") },
	{ "stage-storage", 0, "HOW", "store stages, or only their digests (default: full)",
	  CLI_CHOICE(struct export_opts, storage, "full|digest") },
	OPTIONS_MODEL_DTYPE(struct export_opts),
	{ "vector-dtype", 0, "TYPE", "type the vector is recorded as; offsets are float32 (default: float32)",
	  CLI_CHOICE(struct export_opts, vector_dtype, "float32|float64") },
	OPTION_CHUNK(struct export_opts),
	CLI_OPTION_THREADS(struct export_opts),
	CLI_OPTION_JSON(struct export_opts),
	CLI_OPTION_QUIET(struct export_opts),
	{ 0 }
};

static bool is(const char *s, const char *what) { return s && strcasecmp(s, what) == 0; }

/* Whether the base model is rounded, said under either name. */
static bool rounds(struct cli *c, const char *dtype, const char *torch_dtype)
{
	if (torch_dtype)
		cli_note(
			c,
			"--model-torch-dtype is --model-dtype here; auto and float32 take the numbers as they are stored");
	return is(dtype, "bfloat16") || is(torch_dtype, "bfloat16");
}

static int run_export(struct cli *c, void *p)
{
	const struct export_opts *o = p;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_export_options x = {
		.model = o->model,
		.reference = o->reference,
		.vector = o->vector,
		.out = o->out,
		.svd_weights = o->svd_weights,
		.write_dir = o->write_dir,
		.readback_dir = o->readback_dir,
		.all_selected = o->all,
		.decompose_all = o->decompose,
		.strict_hash = o->strict,
		.no_components = o->no_components,
		.no_stages = o->no_stages,
		.digest = is(o->storage, "digest"),
		.model_bf16 = rounds(c, o->model_dtype, o->model_torch_dtype),
		.vector_f64 = is(o->vector_dtype, "float64"),
		.layout = (enum st_svf_layout)choice(o->layout, layouts),
		.tie = (enum st_svf_tie)choice(o->tie, ties),
		.svd = is(o->svd, "gesvj") ? ST_SVF_GESVJ : ST_SVF_GESDD,
		.chunk_rows = o->chunk_rows,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	c->undone = "the report was not written; factors that are done are taken over by the next run";
	return finish(c, o->json, st_svf_export(&x, &r, &err), &r, &err);
}

const struct cli_command cmd_svf_export = {
	.name = "svf export",
	.summary = "write factors, stages and report of a singular-value adaptation",
	.description =
		"Decomposes weights of the base model (or takes given factors), rescales their singular values by the "
		"trained vector, and writes what "
		"another implementation needs to be compared with: factors, offsets, the ten stages of the "
		"computation, and a report with the "
		"digests of everything.\n\n"
		"By default only the sample tensor of the reference is exported. --all-selected-tensors exports every "
		"one, embedding and head included; "
		"their factors come from --svd-weights or, with --decompose-all-selected-if-missing, are computed.\n\n"
		"Factors are kept in REPORT.work until the run ends, so that an interrupted run goes on where it was.",
	.examples = "stele svf export --model Qwen3-0.6B --reference reference.json --router-vector vector.npy "
		    "--write-components-dir components --out python.json\n"
		    "stele svf export --model Qwen3-0.6B --reference reference.json --router-vector vector.npy "
		    "--svd-weights svd_weights.pt "
		    "--all-selected-tensors --write-components-dir components --out python.json",
	.exit_status = "0  the files were written\n"
		       "1  --strict-reference-hash was given and the digest is another\n"
		       "2  trouble: usage, unusable input",
	.options = export_options,
	.opts_size = sizeof(struct export_opts),
	.run = run_export,
};

/* ---- replay ---- */

struct replay_opts {
	const char *components, *python, *reference, *vector, *model, *stage_dir, *out, *filter, *tie, *storage,
		*model_dtype, *model_torch_dtype, *check;
	bool preferred, from_python, all, semantic, host_semantic, device_semantic, skip_svd, no_cuda, json, quiet;
	uint64_t chunk_rows;
	uint32_t threads;
};

static const struct cli_param replay_options[] = {
	{ "components-dir", 0, "DIR", "the exported factors", CLI_PATH(struct replay_opts, components),
	  .flags = CLI_REQUIRED },
	{ "python-report", 0, "FILE", "the report of the exporting side", CLI_PATH(struct replay_opts, python),
	  .flags = CLI_REQUIRED },
	{ "reference", 0, "FILE", "the manifest of tensors and spans (default: as that report names it)",
	  CLI_PATH(struct replay_opts, reference) },
	{ "router-vector", 0, "FILE", "the trained vector (default: as that report names it)",
	  CLI_PATH(struct replay_opts, vector) },
	{ "model", 0, "MODEL", "the base model", CLI_PATH(struct replay_opts, model) },
	{ "stage-dir", 0, "DIR", "write this side's stages into this folder", CLI_PATH(struct replay_opts, stage_dir),
	  .flags = CLI_REQUIRED },
	{ "out", 0, "REPORT", "write the report here", CLI_PATH(struct replay_opts, out), .flags = CLI_REQUIRED },
	{ "all-selected-tensors", 0, NULL, "every tensor of the reference, not the sample alone",
	  CLI_BOOL(struct replay_opts, all) },
	{ "selected-source-filter", 0, "TEXT", "only tensors whose name contains TEXT",
	  CLI_STR(struct replay_opts, filter) },
	{ "source-from-python-stage", 0, NULL, "take sources from the other side's stages; they are then not checked",
	  CLI_BOOL(struct replay_opts, from_python) },
	{ "semantic-only", 0, NULL, "of older scripts: what this command does anyway",
	  CLI_BOOL(struct replay_opts, semantic) },
	{ "device-semantic-only", 0, NULL, "of older scripts: what this command does anyway, on the processor",
	  CLI_BOOL(struct replay_opts, device_semantic) },
	{ "host-semantic-only", 0, NULL, "of older scripts: what this command does anyway, on the processor",
	  CLI_BOOL(struct replay_opts, host_semantic) },
	{ "skip-native-svd", 0, NULL, "of older scripts: what this command does anyway",
	  CLI_BOOL(struct replay_opts, skip_svd) },
	{ "no-cuda", 0, NULL, "of older scripts: what this command does anyway",
	  CLI_BOOL(struct replay_opts, no_cuda) },
	{ "preferred-layout-only", 0, NULL, "do not try the sample in the other layout of the third factor",
	  CLI_BOOL(struct replay_opts, preferred) },
	{ "tie", 0, "POLICY", "what to do with tensors that share storage (default: as the export recorded)",
	  CLI_CHOICE(struct replay_opts, tie, TIES) },
	{ "stage-storage", 0, "HOW", "store stages, or only their digests (default: full)",
	  CLI_CHOICE(struct replay_opts, storage, "full|digest") },
	{ "check", 0, "TYPE", "compute a sample of rows in f64 too and say how far each side is from it",
	  CLI_CHOICE(struct replay_opts, check, "f64") },
	OPTIONS_MODEL_DTYPE(struct replay_opts),
	OPTION_CHUNK(struct replay_opts),
	CLI_OPTION_THREADS(struct replay_opts),
	CLI_OPTION_JSON(struct replay_opts),
	CLI_OPTION_QUIET(struct replay_opts),
	{ 0 }
};

static int run_replay(struct cli *c, void *p)
{
	const struct replay_opts *o = p;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_replay_options x = {
		.components_dir = o->components,
		.python_report = o->python,
		.reference = o->reference,
		.vector = o->vector,
		.model = o->model,
		.stage_dir = o->stage_dir,
		.out = o->out,
		.filter = o->filter,
		.preferred_only = o->preferred,
		.source_from_python = o->from_python,
		.all_selected = o->all,
		.digest = is(o->storage, "digest"),
		.check_f64 = o->check != NULL,
		.model_bf16 = rounds(c, o->model_dtype, o->model_torch_dtype),
		.tie = o->tie ? choice(o->tie, ties) : -1,
		.chunk_rows = o->chunk_rows,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	const struct {
		bool given;
		const char *name, *where;
	} idle[] = {
		{ o->semantic, "semantic-only", "" },
		{ o->device_semantic, "device-semantic-only", ", here on the processor" },
		{ o->host_semantic, "host-semantic-only", "" },
		{ o->skip_svd, "skip-native-svd", "" },
		{ o->no_cuda, "no-cuda", "" },
	};
	for (size_t i = 0; i < sizeof idle / sizeof *idle; i++)
		if (idle[i].given)
			cli_note(c, "--%s changes nothing: the exported factors are replayed in any case%s", idle[i].name,
			         idle[i].where);
	c->undone = "the report was not written; tensors that are done are taken over by the next run";
	return finish(c, o->json, st_svf_replay(&x, &r, &err), &r, &err);
}

const struct cli_command cmd_svf_replay = {
	.name = "svf replay",
	.summary = "compute an exported adaptation again and check it stage by stage",
	.description = "Computes the ten stages of every tensor from the exported factors and compares each with the "
		       "exporting side's. Sources are read from the "
		       "base model and offsets from the vector, so that those checks are real.\n\n"
		       "Embedding and head are included: they are worked on in blocks of rows. Stage files appear "
		       "whole, one per tensor, and an "
		       "interrupted run goes on with the next tensor.",
	.examples = "stele svf replay --components-dir components --python-report python.json --reference "
		    "reference.json --router-vector vector.npy "
		    "--model Qwen3-0.6B --all-selected-tensors --stage-dir stages --out replay.json",
	.exit_status = "0  every required stage is within its tolerance\n"
		       "1  one is not\n"
		       "2  trouble: usage, unusable input",
	.options = replay_options,
	.opts_size = sizeof(struct replay_opts),
	.run = run_replay,
};

/* ---- compare ---- */

struct compare_opts {
	const char *a, *b, *tolerances;
	bool strict_stages, strict_python, strict_reference, json, quiet;
	uint32_t top, threads;
};

static const struct compare_opts compare_defaults = { .top = 3 };

static const struct cli_param compare_options[] = {
	{ "tolerances", 0, "PROFILE", "strict (the default), f32, or a JSON file",
	  CLI_STR(struct compare_opts, tolerances), .group = 1 },
	{ "strict-stage-tolerances", 0, NULL, "the profile strict, by the name older scripts use",
	  CLI_BOOL(struct compare_opts, strict_stages), .group = 1 },
	{ "strict-current-python", 0, NULL, "a variant of one side must have the other's baseline digest",
	  CLI_BOOL(struct compare_opts, strict_python) },
	{ "strict-reference", 0, NULL, "both sides must have the reference's digest",
	  CLI_BOOL(struct compare_opts, strict_reference) },
	{ "top-diffs", 0, "N", "list the N largest differences of a stage that fails (default: 3)",
	  CLI_U32(struct compare_opts, top) },
	CLI_OPTION_THREADS(struct compare_opts),
	CLI_OPTION_JSON(struct compare_opts),
	CLI_OPTION_QUIET(struct compare_opts),
	{ 0 }
};

static const struct cli_param compare_positionals[] = {
	{ "REPORT_A", 0, NULL, "a report of svf export or of another tool", CLI_PATH(struct compare_opts, a),
	  .flags = CLI_REQUIRED },
	{ "REPORT_B", 0, NULL, "a report of svf replay or of another tool", CLI_PATH(struct compare_opts, b),
	  .flags = CLI_REQUIRED },
	{ 0 }
};

static int run_compare(struct cli *c, void *p)
{
	const struct compare_opts *o = p;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_compare_options x = {
		.a = o->a,
		.b = o->b,
		.tolerances = o->tolerances,
		.strict_python = o->strict_python,
		.strict_reference = o->strict_reference,
		.top = o->top,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	return finish(c, o->json, st_svf_compare(&x, &r, &err), &r, &err);
}

const struct cli_command cmd_svf_compare = {
	.name = "svf compare",
	.summary = "compare two parity reports by their stage files",
	.description =
		"Measures every stage again from the stage files that the reports name; a report's own verdict "
		"is only checked. Prints per stage whether it "
		"is required and passed, whether the bytes are equal, largest and mean difference, how many "
		"elements differ, the distances of bf16 "
		"results in units of the last place, and the worst elements with their positions. Tensors or "
		"stages that one side lacks make the "
		"verdict incomplete; where a replay was asked for some tensors only (--selected-source-filter), "
		"these are what is looked for, and the line says how many were selected. A source that one side "
		"took over from the other (--source-from-python-stage) is told as copied and checks nothing. Empty "
		"stages and numbers that are not finite never pass. A report is not compared with itself, nor a "
		"stage file.\n\n"
		"Known mistakes are named: the third factor in another layout, spans in alphabetical order or "
		"swapped, offsets rounded to bf16, the "
		"scalar before the product, a truncating cast, a square matrix left as it is, another policy "
		"for tied tensors, products of reduced "
		"precision, stage files or verdicts that do not belong to the report.\n\n"
		"A tolerance file is an object of stage names, each with max_abs_error, mean_abs_error and "
		"required; what it leaves out is as in strict.",
	.examples = "stele svf compare python.json replay.json\n"
		    "stele svf compare --tolerances f32 --top-diffs 10 python.json replay.json",
	.exit_status = "0  the two match\n"
		       "1  a required stage fails, something is missing or proves nothing, or a fault is named\n"
		       "2  trouble: usage, unusable input",
	.options = compare_options,
	.positionals = compare_positionals,
	.opts_size = sizeof(struct compare_opts),
	.defaults = &compare_defaults,
	.run = run_compare,
};

/* ---- apply ---- */

struct apply_opts {
	const char *model, *reference, *vector, *components, *out, *tie, *layout, *model_dtype, *model_torch_dtype;
	bool force, json, quiet;
	uint64_t chunk_rows;
	uint32_t threads;
};

static const struct cli_param apply_options[] = {
	{ "model", 0, "MODEL", "the base model", CLI_PATH(struct apply_opts, model), .flags = CLI_REQUIRED },
	OPTION_REFERENCE(struct apply_opts),
	OPTION_VECTOR(struct apply_opts),
	{ "components-dir", 0, "DIR", "the exported factors, or a torch checkpoint of factors",
	  CLI_PATH(struct apply_opts, components), .flags = CLI_REQUIRED },
	{ "out", 0, "DIR", "write the artifact into this folder", CLI_PATH(struct apply_opts, out),
	  .flags = CLI_REQUIRED },
	{ "v-layout", 0, "LAYOUT", "how a file of factors stores the third one (default: torch_v)",
	  CLI_CHOICE(struct apply_opts, layout, LAYOUTS) },
	{ "tie", 0, "POLICY", "what to do with tensors that share storage (default: independent)",
	  CLI_CHOICE(struct apply_opts, tie, TIES) },
	OPTIONS_MODEL_DTYPE(struct apply_opts),
	{ "force", 0, NULL, "start over in a folder that holds an artifact of other inputs",
	  CLI_BOOL(struct apply_opts, force) },
	OPTION_CHUNK(struct apply_opts),
	CLI_OPTION_THREADS(struct apply_opts),
	CLI_OPTION_JSON(struct apply_opts),
	CLI_OPTION_QUIET(struct apply_opts),
	{ 0 }
};

static int run_apply(struct cli *c, void *p)
{
	const struct apply_opts *o = p;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	const struct st_svf_apply_options x = {
		.model = o->model,
		.reference = o->reference,
		.vector = o->vector,
		.components = o->components,
		.out = o->out,
		.layout = (enum st_svf_layout)choice(o->layout, layouts),
		.tie = (enum st_svf_tie)choice(o->tie, ties),
		.force = o->force,
		.model_bf16 = rounds(c, o->model_dtype, o->model_torch_dtype),
		.chunk_rows = o->chunk_rows,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	c->undone = "the artifact is not complete; the same command goes on with it";
	return finish(c, o->json, st_svf_apply(&x, &r, &err), &r, &err);
}

const struct cli_command cmd_svf_apply = {
	.name = "svf apply",
	.summary = "write the adapted tensors and the router head as an artifact",
	.description = "Writes manifest.json, router_head.safetensors and one checkpoint per selected tensor, in bf16 "
		       "and the orientation that its target has. "
		       "Weights of layers whose target ends in .kernel are turned over, square ones too; embedding and "
		       "head are not. Everything "
		       "is read back and verified at the end. The same command goes on with a folder that an "
		       "interrupted run left.",
	.examples = "stele svf apply --model Qwen3-0.6B --reference reference.json --router-vector vector.npy "
		    "--components-dir components --out artifact",
	.exit_status = "0  the artifact is complete and verified\n"
		       "2  trouble: usage, unusable input",
	.options = apply_options,
	.opts_size = sizeof(struct apply_opts),
	.run = run_apply,
};

/* ---- route ---- */

struct route_opts {
	const char *artifact, *model, *message, *role, *transcript, *tokens, *out, *mode;
	bool json, quiet;
	uint32_t threads;
};

static const struct cli_param route_options[] = {
	{ "artifact", 0, "DIR", "the adapted artifact", CLI_PATH(struct route_opts, artifact), .flags = CLI_REQUIRED },
	{ "model", 0, "MODEL", "its base model", CLI_PATH(struct route_opts, model), .flags = CLI_REQUIRED },
	{ "message", 0, "TEXT", "what to route", CLI_STR(struct route_opts, message), .flags = CLI_REQUIRED,
	  .group = 1 },
	{ "transcript", 0, "TEXT", "the whole transcript, lines \"role: content\"",
	  CLI_STR(struct route_opts, transcript), .flags = CLI_REQUIRED, .group = 1 },
	{ "tokens", 0, "LIST", "the transcript's token ids, comma separated", CLI_STR(struct route_opts, tokens),
	  .flags = CLI_REQUIRED, .group = 1 },
	{ "role", 0, "NAME", "who says the message (default: user)", CLI_STR(struct route_opts, role) },
	{ "out", 0, "FILE", "write the trace here", CLI_PATH(struct route_opts, out) },
	CLI_OPTION_MODE(struct route_opts),
	CLI_OPTION_THREADS(struct route_opts),
	CLI_OPTION_JSON(struct route_opts),
	CLI_OPTION_QUIET(struct route_opts),
	{ 0 }
};

static int run_route(struct cli *c, void *p)
{
	const struct route_opts *o = p;
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	uint32_t *ids = NULL;
	struct st_svf_route_options x = {
		.artifact = o->artifact,
		.model = o->model,
		.message = o->message,
		.role = o->role,
		.transcript = o->transcript,
		.out = o->out,
		.mode = o->mode,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	if (o->tokens && cli_parse_tokens(o->tokens, strlen(o->tokens), &ids, &x.n_tokens, &err) != ST_OK)
		return cli_fail(c, &err);
	x.tokens = ids;
	c->undone = "nothing was routed";
	int status = finish(c, o->json, st_svf_route(&x, &r, &err), &r, &err);
	free(ids);
	return status;
}

const struct cli_command cmd_svf_route = {
	.name = "svf route",
	.summary = "route a message with an adapted model",
	.description = "Evaluates the adapted model on the transcript, takes the last layer's normed hidden state of "
		       "the token before the last, and multiplies it "
		       "by the head: seven logits for agents, three for roles, the largest of each decides. The "
		       "artifact is verified first.",
	.examples = "stele svf route --artifact artifact --model Qwen3-0.6B --message \"Select a role for this task.\" "
		    "--out route.json",
	.exit_status = "0  the message was routed\n"
		       "2  trouble: usage, unusable input",
	.options = route_options,
	.opts_size = sizeof(struct route_opts),
	.run = run_route,
};
