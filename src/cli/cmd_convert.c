/* stele convert - one model from one container into another, and repaired on the way. */
#include "cli/cli.h"

#include <stele/convert.h>

#include "report/json.h"

#include <inttypes.h>
#include <string.h>

struct opts {
	const char *in, *out, *type, *to, *imatrix, *repair, *side, *family;
	bool force, json, quiet;
	uint32_t threads;
};

static const struct cli_param options[] = {
	{ "type", 0, "T",
	  "store matrices as T: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4; "
	  "AprQ4, AprQ8 in APR; or by a recipe of llama.cpp: Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M",
	  CLI_STR(struct opts, type) },
	{ "imatrix", 0, "FILE", "weigh columns by an importance matrix (GGUF, as llama-imatrix writes it)",
	  CLI_PATH(struct opts, imatrix) },
	{ "to", 0, "F",
	  "write this container; hf: a Hugging Face folder (default: as OUT's suffix says, hf where it has none)",
	  CLI_CHOICE(struct opts, to, "gguf|safetensors|apr|hf") },
	{ "repair", 0, "REPORT", "apply the repair that a report of 'stele rosetta --json' recommends",
	  CLI_PATH(struct opts, repair) },
	{ "side", 0, "SIDE", "IN is this input of the report, and the one that is wrong",
	  CLI_CHOICE(struct opts, side, "a|b") },
	CLI_OPTION_FAMILY(struct opts, "the model"),
	{ "force", 0, NULL, "replace an existing OUT", CLI_BOOL(struct opts, force) },
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "IN", 0, NULL, "a GGUF, safetensors or APR file, a shard index, or a Hugging Face folder",
	  CLI_PATH(struct opts, in), .flags = CLI_REQUIRED },
	{ "OUT", 0, NULL, "the new file (.gguf, .apr, .safetensors) or folder", CLI_PATH(struct opts, out),
	  .flags = CLI_REQUIRED },
	{ 0 }
};

static json_t *lines(const char *const *v, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; a && i < n; i++)
		json_array_append_new(a, st_json_text(v[i]));
	return a;
}

static void print_json(const struct opts *o, const struct st_convert_result *r)
{
	json_t *j = json_pack("{s:s, s:{s:o, s:s}, s:{s:o, s:s, s:o}, s:s, s:s, s:{s:o, s:o, s:o, s:o}, s:o, s:o, s:o}",
	                      "schema", "stele.convert/1", "input", "path", st_json_text(o->in), "format", r->from,
	                      "output", "path", st_json_text(o->out), "format", r->to, "bytes", st_json_u64(r->bytes),
	                      "arch", r->arch, "checked", r->checked, "tensors", "total", st_json_u64(r->tensors),
	                      "untouched", st_json_u64(r->untouched), "rows_moved", st_json_u64(r->moved), "encoded",
	                      st_json_u64(r->encoded), "repairs", lines(r->repairs, r->n_repairs), "notes",
	                      lines(r->notes, r->n_notes), "left_out", lines(r->left_out, r->n_left_out));
	cli_print_json(j);
	json_decref(j);
}

/* One line with its word in front, made safe: paths and names of tensors come from outside. */
static void say(struct st_text *out, const char *word, const struct st_text *what)
{
	struct st_text line = { 0 };
	st_text_printf(&line, "%-9s", word);
	st_text_add_safe(&line, what->s ? what->s : "", what->len);
	st_text_wrap(out, line.s ? line.s : "", line.len, "         ", cli_page(stdout).wrap);
	out->failed |= line.failed || what->failed;
	st_text_release(&line);
}

static void say_all(struct st_text *out, const char *word, const char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct st_text what = { 0 };
		st_text_puts(&what, v[i]);
		say(out, word, &what);
		st_text_release(&what);
	}
}

static void print_text(const struct opts *o, const struct st_convert_result *r)
{
	struct st_text t = { 0 }, what[4] = { 0 };
	st_text_printf(&what[0], "%s  %s, %s", o->in, r->from, r->arch);
	st_text_printf(&what[1], "%s  %s, %" PRIu64 " bytes", o->out, r->to, r->bytes);
	st_text_printf(&what[2], "%" PRIu64 ": %" PRIu64 " untouched, %" PRIu64 " with rows moved, %" PRIu64 " encoded",
	               r->tensors, r->untouched, r->moved, r->encoded);
	st_text_printf(&what[3], "read back and compared: %s", r->checked);
	say(&t, "read", &what[0]);
	say_all(&t, "repaired", r->repairs, r->n_repairs);
	say(&t, "wrote", &what[1]);
	say(&t, "tensors", &what[2]);
	say_all(&t, "note", r->notes, r->n_notes);
	say_all(&t, "left out", r->left_out, r->n_left_out);
	say(&t, "checked", &what[3]);
	cli_print_text(&t);
	for (size_t i = 0; i < 4; i++)
		st_text_release(&what[i]);
	st_text_release(&t);
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_convert_result *r = NULL;
	c->undone = "nothing was written";
	if (o->side && !o->repair)
		return cli_usage(c, "--side says which input of a report IN is; it needs --repair");
	struct st_convert_options co = {
		.type = o->type,
		.format = o->to,
		.imatrix = o->imatrix,
		.repair = o->repair,
		.side = o->side ? o->side[0] : 0,
		.family = o->family,
		.force = o->force,
		.threads = cli_threads(o->threads),
		.hooks = cli_hooks(c),
	};
	if (st_convert(o->in, o->out, &co, &r, &err) != ST_OK)
		return cli_fail(c, &err);
	if (o->json)
		print_json(o, r);
	else if (!o->quiet)
		print_text(o, r);
	st_convert_result_free(r);
	return CLI_SAME;
}

const struct cli_command cmd_convert = {
	.name = "convert",
	.summary = "write a model into another container, or repaired",
	.description =
		"Carries a model between GGUF, safetensors and APR: names of tensors, order of Q and K rows, "
		"configuration, tokenizer and chat "
		"template. Stored bytes stay as they are wherever the target has their type; safetensors has no "
		"block types, so there they become "
		"F32, which holds their values exactly. With --type matrices are stored as another type; norms "
		"and biases keep theirs, and a matrix "
		"whose rows do not divide into blocks takes the nearest type that fits, which is printed. A recipe gives each "
		"matrix the type that llama.cpp gives it. With --imatrix the encoders save what matters most. Numbers that the "
		"type cannot hold are refused before anything is written.\n\n"
		"The result is read back with the ordinary reader and compared, tensor by tensor, key by key "
		"and in the ids of some texts, before it "
		"gets its name. Whatever goes wrong, nothing is left behind. Memory does not depend on the "
		"model's size.\n\n"
		"--repair undoes every fault that a report lists for IN. Where the right numbers are in the "
		"file they are put right there; else the "
		"tensor is taken from the report's other input. A repaired tensor must match the other input's, "
		"where that is at hand, or nothing is written. When "
		"the report cannot tell which of the two files is wrong, --side says that it is this one.",
	.examples = "stele convert model.gguf model/\n"
		    "stele convert model/ model.apr --type Q8_0\n"
		    "stele convert model/ model-Q4_K_M.gguf --type Q4_K_M --imatrix imatrix.gguf\n"
		    "stele rosetta broken.apr sound.gguf -p \"2+2=\" --json > report.json\n"
		    "stele convert broken.apr mended.apr --repair report.json --side a",
	.exit_status = "0  the output was written and checked\n2  trouble: nothing was written",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.run = run,
};
