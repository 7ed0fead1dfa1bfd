/* stele trace - evaluate a model and show, or write, the value of every stage. */
#include "arch/arch.h"
#include "cli/cli.h"

#include <stele/inspect.h>

#include "report/json.h"
#include "report/table.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct opts {
	const char *model, *stages, *layers, *save_stages, *save_layers, *dir, *bundle, *mode, *cpu, *family;
	struct cli_prompt prompt;
	uint32_t steps, threads;
	bool force, all_logits, plan, verbose, json, quiet;
};

/* What the callbacks collect. */
struct collect {
	struct st_trace_stats *stats;
	uint32_t *greedy;
	size_t n_stats, cap_stats, n_greedy, cap_greedy;
	uint32_t next; /* the token that would come next, where there is one */
	bool has_next, failed;
	bool table; /* it is shown; else the values are in files */
	/* of the table: --stages, --layers */
	struct st_stage_set shown;
	bool named;                      /* --stages: then what is in no layer is shown whatever --layers says */
	uint32_t layer_first, layer_end; /* 0, 0: every layer, and what is in none */
};

static void on_stage(void *user, const struct st_trace_stats *s)
{
	struct collect *k = user;
	void *p = k->stats;
	if (!st_stage_set_has(&k->shown, s->stage))
		return;
	if (k->layer_end
	    && (s->layer < 0 ? !k->named : s->layer < (int32_t)k->layer_first || s->layer >= (int32_t)k->layer_end))
		return;
	if (!st_grow(&p, &k->cap_stats, k->n_stats + 1, sizeof *s)) {
		k->failed = true;
		return;
	}
	k->stats = p;
	k->stats[k->n_stats++] = *s;
}

static void on_token(void *user, uint32_t step, uint32_t token)
{
	struct collect *k = user;
	void *p = k->greedy;
	(void)step; /* they come in order */
	if (!st_grow(&p, &k->cap_greedy, k->n_greedy + 1, sizeof token)) {
		k->failed = true;
		return;
	}
	k->greedy = p;
	k->greedy[k->n_greedy++] = token;
}

static void on_next(void *user, uint32_t token)
{
	struct collect *k = user;
	k->next = token;
	k->has_next = true;
}

/* "A..B", half open, or "A" alone. */
static bool parse_layers(const char *s, uint32_t *first, uint32_t *end)
{
	char *rest;
	if (s[0] < '0' || s[0] > '9')
		return false;
	unsigned long a = strtoul(s, &rest, 10), b = a + 1;
	if (*rest && (strncmp(rest, "..", 2) != 0 || rest[2] < '0' || rest[2] > '9'))
		return false;
	if (*rest)
		b = strtoul(rest + 2, &rest, 10);
	if (*rest || a > UINT32_MAX || b > UINT32_MAX)
		return false;
	*first = (uint32_t)a;
	*end = (uint32_t)b;
	return true;
}

/* "dir/qwen.Q4_K.gguf" -> "qwen.Q4_K-trace", in the current folder. */
static void default_tree(const char *model, struct st_text *t)
{
	char whole[PATH_MAX];
	const char *last = strrchr(model, '/') ? strrchr(model, '/') + 1 : model;
	if ((!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) && realpath(model, whole))
		model = whole; /* "." is no name for a folder beside it, and ".-trace" would be hidden */
	static const char *const suffixes[] = { ".safetensors.index.json", ".safetensors", ".gguf", ".apr" };
	size_t n = strlen(model);
	while (n > 1 && model[n - 1] == '/')
		n--;
	size_t start = n;
	while (start > 0 && model[start - 1] != '/')
		start--;
	for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
		size_t len = strlen(suffixes[i]);
		if (n - start > len && memcmp(model + n - len, suffixes[i], len) == 0) {
			n -= len;
			break;
		}
	}
	st_text_add(t, model + start, n - start);
	st_text_puts(t, "-trace");
}

/* The text of some tokens in quotes, where there is a vocabulary; and the end of the line. */
static void print_pieces(struct st_text *out, const struct st_tokenizer *tok, const uint32_t *ids, size_t n)
{
	for (size_t i = 0; tok && i < n; i++) {
		char piece[1024];
		size_t len = st_tokenizer_decode(tok, ids[i], piece, sizeof piece);
		st_text_puts(out, i ? "" : " \"");
		st_text_add_safe(out, piece, len < sizeof piece ? len : sizeof piece);
		st_text_puts(out, i + 1 < n ? "" : "\"");
	}
	st_text_puts(out, "\n");
}

static void print_text(const struct collect *k, const struct st_tokenizer *tok)
{
	static const char *const heads[] = { "step", "layer", "stage", "shape", "min", "max",
		                             "mean", "std",   "L2",    "NaN",   "inf" };
	struct st_table table;
	struct st_text out = { 0 };
	st_table_init(&table, "rrllrrrrrrr");
	for (size_t i = 0; i < table.n_cols; i++)
		st_table_cell(&table, ST_STYLE_DIM, heads[i]);
	for (size_t i = 0; i < k->n_stats; i++) {
		const struct st_trace_stats *s = &k->stats[i];
		st_table_cellf(&table, ST_STYLE_PLAIN, "%" PRIu32, s->step);
		if (s->layer >= 0)
			st_table_cellf(&table, ST_STYLE_PLAIN, "%" PRId32, s->layer);
		else
			st_table_cell(&table, ST_STYLE_PLAIN, "-");
		st_table_cell(&table, ST_STYLE_PLAIN, st_stage_name(s->stage));
		st_table_cellf(&table, ST_STYLE_PLAIN, "[%" PRIu64 ", %" PRIu64 "]", s->rows, s->cols);
		const double numbers[] = { s->min, s->max, s->mean, s->std, s->l2 };
		for (size_t j = 0; j < sizeof numbers / sizeof *numbers; j++)
			st_table_number(&table, numbers[j], 6);
		st_table_cellf(&table, s->n_nan ? ST_STYLE_BAD : ST_STYLE_PLAIN, "%" PRIu64, s->n_nan);
		st_table_cellf(&table, s->n_inf ? ST_STYLE_BAD : ST_STYLE_PLAIN, "%" PRIu64, s->n_inf);
	}
	struct st_page page = cli_page(stdout);
	if (k->n_stats)
		st_table_render(&table, &out, "", &page);
	st_table_release(&table);
	if (k->n_greedy) {
		st_text_puts(&out, "greedy: [");
		for (size_t i = 0; i < k->n_greedy; i++)
			st_text_printf(&out, "%s%" PRIu32, i ? ", " : "", k->greedy[i]);
		st_text_puts(&out, "]");
		print_pieces(&out, tok, k->greedy, k->n_greedy);
	}
	if (k->has_next && k->table) {
		st_text_printf(&out, "next token: %" PRIu32, k->next);
		print_pieces(&out, tok, &k->next, 1);
	} else if (k->table) {
		st_text_puts(&out, "next token: none, every logit is NaN\n");
	}
	cli_print_text(&out);
	st_text_release(&out);
}

static json_t *ids_json(const uint32_t *ids, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, json_integer(ids[i]));
	return a;
}

static void print_json(const struct opts *o, const struct st_trace_options *t, const struct collect *k)
{
	json_t *stages = json_array();
	for (size_t i = 0; i < k->n_stats; i++) {
		const struct st_trace_stats *s = &k->stats[i];
		json_array_append_new(stages, json_pack("{s:s, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		                                        "stage", st_stage_name(s->stage), "layer",
		                                        s->layer < 0 ? json_null() : json_integer(s->layer), "step",
		                                        (json_int_t)s->step, "rows", st_json_u64(s->rows), "cols",
		                                        st_json_u64(s->cols), "min", st_json_number(s->min), "max",
		                                        st_json_number(s->max), "mean", st_json_number(s->mean), "std",
		                                        st_json_number(s->std), "l2", st_json_number(s->l2), "nan",
		                                        st_json_u64(s->n_nan), "inf", st_json_u64(s->n_inf)));
	}
	json_t *doc = json_pack("{s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o}", "schema", "stele.trace/1",
	                        "model", st_json_text(o->model), "prompt", st_json_text(o->prompt.text), "tokens",
	                        ids_json(t->tokens, t->n_tokens), "mode", t->mode ? t->mode : "exact", "greedy",
	                        ids_json(k->greedy, k->n_greedy), "next",
	                        k->has_next ? json_integer(k->next) : json_null(), "tree", st_json_text(t->tree),
	                        "bundle", st_json_text(t->bundle), "stages", stages);
	cli_print_json(doc);
	json_decref(doc);
}

static int print_plan(struct cli *cli, const struct opts *o, const struct st_model *m, size_t n_tokens)
{
	uint64_t mapped = 0;
	uint64_t n = st_model_run_memory(m, n_tokens, o->steps, o->all_logits, o->mode, cli_threads(o->threads));
	if (n == UINT64_MAX)
		return cli_usage(cli, "%zu tokens and %" PRIu32 " steps need more memory than can be counted", n_tokens,
		                 (uint32_t)o->steps);
	const struct st_container *c = st_model_container(m);
	for (size_t i = 0; i < st_container_n_files(c); i++)
		mapped += st_container_file_size(c, i);
	if (o->json) {
		json_t *doc = json_pack("{s:s, s:o, s:o, s:o, s:I}", "schema", "stele.plan/1", "model",
		                        st_json_text(o->model), "memory", st_json_u64(n), "mapped", st_json_u64(mapped),
		                        "tokens", (json_int_t)n_tokens + (json_int_t)o->steps);
		cli_print_json(doc);
		json_decref(doc);
		return CLI_SAME;
	}
	struct st_text out = { 0 };
	st_text_puts(&out, "peak memory  ");
	st_text_bytes(&out, n);
	st_text_printf(&out, " (%" PRIu64 " bytes) for %zu tokens", n, n_tokens + o->steps);
	st_text_puts(&out, ", beside ");
	st_text_bytes(&out, mapped);
	st_text_puts(&out, " of mapped file\n");
	cli_print_text(&out);
	st_text_release(&out);
	return CLI_SAME;
}

static bool read_layers(struct cli *c, const char *option, const char *s, const struct st_model *m, uint32_t *first,
                        uint32_t *end, int *rc)
{
	const uint32_t layers = st_model_config(m)->n_layers;
	if (!parse_layers(s, first, end)) {
		*rc = cli_usage(c, "%s: '%.60s' is no layer and no range A..B", option, s);
		return false;
	}
	if (*first >= *end || *end > layers) {
		*rc = cli_usage(c, "%s: %" PRIu32 "..%" PRIu32 " is %s; the model has layers 0..%" PRIu32, option,
		                *first, *end, *first >= *end ? "empty" : "beyond the end", layers);
		return false;
	}
	return true;
}

/* What the table shows. */
static bool selection(struct cli *c, const struct opts *o, const struct st_model *m, struct collect *k, int *rc)
{
	struct st_error err = ST_ERROR_INIT;
	k->named = o->stages != NULL;
	if (o->layers && !read_layers(c, "--layers", o->layers, m, &k->layer_first, &k->layer_end, rc))
		return false;
	if (st_trace_parse_stages(o->stages ? o->stages : "all", &k->shown, &err) == ST_OK)
		return true;
	*rc = cli_fail(c, &err);
	return false;
}

/* What to capture and where it goes; rc is set when that makes no sense. */
static bool destinations(struct cli *c, const struct opts *o, const struct st_model *m, struct st_text *tree,
                         struct st_trace_options *t, int *rc)
{
	struct st_error err = ST_ERROR_INIT;
	bool save = o->save_stages || o->dir || o->bundle;
	if (!save && (o->save_layers || o->all_logits || o->force)) {
		*rc = cli_usage(c, "%s says how to write a trace, and none is written; see 'stele help trace'",
		                o->save_layers  ? "--save-tensor-layers"
		                : o->all_logits ? "--all-logits"
		                                : "--force");
		return false;
	}
	if (o->save_layers
	    && !read_layers(c, "--save-tensor-layers", o->save_layers, m, &t->layer_first, &t->layer_end, rc))
		return false;
	if (save && st_trace_parse_stages(o->save_stages ? o->save_stages : "all", &t->capture, &err) != ST_OK) {
		*rc = cli_fail(c, &err);
		return false;
	}
	if (save && !o->dir && !o->bundle)
		default_tree(o->model, tree);
	t->tree = o->dir ? o->dir : tree->s;
	t->bundle = o->bundle;
	return true;
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m = NULL;
	struct st_tokenizer *tok = NULL;
	struct st_text tree = { 0 };
	struct collect k = { 0 };
	uint32_t *ids = NULL;
	struct st_trace_options t = { .mode = o->mode,
		                      .cpu = o->cpu,
		                      .threads = cli_threads(o->threads),
		                      .steps = o->steps,
		                      .force = o->force,
		                      .lm_head_all = o->all_logits,
		                      .prompt = o->prompt.text,
		                      .hooks = cli_hooks(c),
		                      .on_stage = on_stage,
		                      .on_token = on_token,
		                      .on_next = on_next,
		                      .user = &k };
	int rc = CLI_SAME;
	c->undone = o->save_stages || o->dir || o->bundle ? "no trace was written" : "no table was made";
	if (st_model_open_as(o->model, o->family, &m, &err) != ST_OK
	    || cli_prompt_tokens(&o->prompt, st_model_container(m), &ids, &t.n_tokens, &err) != ST_OK) {
		rc = cli_fail(c, &err);
		goto out;
	}
	t.tokens = ids;
	if (!selection(c, o, m, &k, &rc) || !destinations(c, o, m, &tree, &t, &rc))
		goto out;
	if (o->plan) {
		rc = print_plan(c, o, m, t.n_tokens);
		goto out;
	}
	uint32_t made_for = st_model_config(m)->max_positions;
	if (made_for && t.n_tokens + o->steps > made_for)
		cli_note(c, "%zu positions, beyond the %u that the model says it was made for", t.n_tokens + o->steps,
		         made_for);
	if (!o->quiet && st_container_format(st_model_container(m)) == ST_FORMAT_APR)
		st_model_load_log(m, o->verbose, &t.hooks);
	if (!o->save_stages || strcasecmp(o->save_stages, "all") == 0)
		t.hooks.log = NULL; /* it would say which stages the model lacks, and nobody named one */
	if (st_trace_run(m, &t, &err) != ST_OK) {
		rc = cli_fail(c, &err);
		goto out;
	}
	if (k.failed) {
		rc = cli_no_memory(c);
		goto out;
	}
	if (t.tree)
		cli_note(c, "wrote %s/", t.tree);
	if (t.bundle)
		cli_note(c, "wrote %s", t.bundle);
	k.table = st_stage_set_empty(&t.capture);
	if (!k.table && !o->json)
		k.n_stats = 0; /* the greedy tokens are still worth a line */
	if (o->json) {
		print_json(o, &t, &k);
	} else {
		struct st_error none = ST_ERROR_INIT;
		if (st_tokenizer_open(st_model_container(m), &tok, &none) != ST_OK)
			tok = NULL; /* ids alone, then */
		print_text(&k, tok);
	}
out:
	free(k.stats);
	free(k.greedy);
	free(ids);
	st_text_release(&tree);
	st_tokenizer_close(tok);
	st_model_close(m);
	return rc;
}

static const struct cli_param options[] = {
	CLI_OPTIONS_PROMPT(struct opts, prompt),
	{ "stages", 0, "LIST", "show these stages, comma separated (default: all)", CLI_STR(struct opts, stages) },
	{ "layers", 0, "A..B", "show layers A to B - 1 alone, or A (default: all, and what is in none)",
	  CLI_STR(struct opts, layers) },
	{ "save-tensor", 0, "LIST", "write these stages, comma separated, or 'all'",
	  CLI_STR(struct opts, save_stages) },
	{ "save-tensor-layers", 0, "A..B", "of layers A to B - 1 only, or A (default: all)",
	  CLI_STR(struct opts, save_layers) },
	{ "save-tensor-dir", 0, "DIR", "write a tree of APRT files to DIR (default: MODEL-trace in the current folder)",
	  CLI_PATH(struct opts, dir) },
	{ "bundle", 0, "FILE", "write one safetensors bundle", CLI_PATH(struct opts, bundle) },
	{ "all-logits", 0, NULL, "bundle: the logits of every position, not of the last alone",
	  CLI_BOOL(struct opts, all_logits) },
	{ "force", 0, NULL, "replace an existing tree or bundle", CLI_BOOL(struct opts, force) },
	CLI_OPTION_FAMILY(struct opts, "the model"),
	{ "steps", 0, "N", "continue greedily for N tokens and capture each step", CLI_U32(struct opts, steps) },
	{ "plan", 0, NULL, "print the memory that the run would need, and stop", CLI_BOOL(struct opts, plan) },
	{ "verbose", 'v', NULL, "a line for each tensor of an APR file, not one for layers that say the same",
	  CLI_BOOL(struct opts, verbose) },
	CLI_OPTION_MODE(struct opts),
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_CPU(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = { { "MODEL", 0, NULL,
	                                          "the model: GGUF, safetensors file, index or folder, APR",
	                                          CLI_PATH(struct opts, model), .flags = CLI_REQUIRED },
	                                        { 0 } };

const struct cli_command cmd_trace = {
	.name = "trace",
	.summary = "evaluate a model and show or write the value of every stage",
	.description =
		"Runs the prompt through MODEL. Without --save-tensor, --save-tensor-dir or --bundle it prints one "
		"line per stage, in "
		"the order of evaluation: the least, greatest and mean value, the standard deviation, the L2 norm, and "
		"how many values are "
		"NaN or infinite. --stages and --layers select lines. The last line is the token that would come "
		"next.\n\n"
		"With one of them the values are written, as a tree of APRT files with a trace.json beside them or as "
		"one safetensors "
		"bundle. Trees and bundles appear whole or not at all, and two runs write the same bytes. Q and K are "
		"in the half-split "
		"order of Hugging Face, whatever order the file stores them in.\n\n"
		"Stages: embedding, attn_norm, qkv_matmul, qkv_bias, q_post_norm, k_post_norm, q_post_rope, "
		"k_post_rope, attn_scores, attn_softmax, "
		"attention, attn_out, post_attn_residual, ffn_norm, ffn_gate, ffn_up, ffn_silu, ffn_swigl, ffn_out, "
		"post_ffn_residual (or layer_output), final_norm, lm_head. A model may lack some.\n\n"
		"Mode exact sums in f64 and rounds once, fast uses f32 in a fixed order; emulate:TYPE rounds operands "
		"as some engines do. Within a "
		"mode the bits do not depend on the number of threads or on the instruction set.",
	.examples = "stele trace model.gguf --prompt \"2+2=\"\nstele trace model.gguf --prompt \"2+2=\" --stages "
		    "attn_out,ffn_out --layers 3..5\nstele trace model.gguf --tokens 17,10,17,28 "
		    "--save-tensor attn_norm,qkv_matmul\n"
		    "stele trace model.gguf --prompt \"2+2=\" --bundle ours.safetensors --mode fast\n",
	.exit_status =
		"0  done\n2  trouble: usage, a file that cannot be read or written, a model that Stele cannot run",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.run = run,
};
