/* stele family - the descriptions of model families: what is built in, and whether one fits a model. */
#include "cli/cli.h"

#include <stele/family.h>

#include "report/json.h"
#include "report/table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- list, show ---- */

struct list_opts {
	bool json;
};

static int run_list(struct cli *c, void *p)
{
	(void)p;
	json_t *names = json_array();
	for (size_t i = 0; i < st_family_count(); i++)
		if (c->json)
			st_json_add(names, st_json_text(st_family_name(i)));
		else
			cli_print(st_family_name(i), "\n");
	json_t *doc = st_json_object({ "schema", json_string("stele.families/1") }, { "families", names });
	if (c->json)
		cli_print_json(doc);
	json_decref(doc);
	return CLI_SAME;
}

struct show_opts {
	const char *name;
};

static int run_show(struct cli *c, void *p)
{
	const struct show_opts *o = p;
	size_t size;
	const char *text = st_family_text(o->name, &size);
	if (!text)
		return cli_usage(c, "no family is called '%.80s'; 'stele family list' names them", o->name);
	cli_print(text, "");
	return CLI_SAME;
}

/* ---- check ---- */

struct check_opts {
	const char *family, *model;
	struct cli_prompt prompt;
	uint32_t threads;
	bool json, quiet;
};

static void print_names(struct st_text *t, const char *what, const char *const *names, size_t n)
{
	if (n)
		st_text_printf(t, "\n%s:\n", what);
	for (size_t i = 0; i < n; i++) {
		st_text_puts(t, "  ");
		st_text_add_safe(t, names[i], strlen(names[i]));
		st_text_puts(t, "\n");
	}
}

static void add_name(struct st_text *t, const char *before, const char *name)
{
	st_text_puts(t, before);
	st_text_add_safe(t, name, strlen(name));
}

/* What does not fit, and what may have been meant. */
static void print_faults(const struct st_family_check *k)
{
	struct st_text t = { 0 };
	st_text_printf(&t, "%s (%s) does not fit:\n", k->family, k->file);
	for (size_t i = 0; i < k->n_faults; i++) {
		const struct st_family_fault *f = &k->faults[i];
		add_name(&t, "  ", f->what);
		add_name(&t, ": ", f->why);
		for (size_t m = 0; m < f->n_near; m++)
			add_name(&t, m ? ", " : "; near to it: ", f->near[m]);
		st_text_puts(&t, "\n");
	}
	print_names(&t, "tensors that nothing uses", k->unused, k->n_unused);
	print_names(&t, "keys that nothing reads", k->unread, k->n_unread);
	cli_print_text(&t);
	st_text_release(&t);
}

static void print_check(const struct st_family_check *k)
{
	struct st_text t = { 0 };
	struct st_table table;
	struct st_page page = cli_page(stdout);
	st_text_printf(&t, "%s (%s, sha256 %.12s): %" PRIu32 " layers, %" PRIu32 " ids, %zu weights, %zu stages\n\n",
	               k->family, k->file, k->sha256, k->n_layers, k->vocab, k->n_weights, k->n_stages);
	st_table_init(&table, "lll");
	for (size_t i = 0; i < k->n_values; i++) {
		const struct st_family_value *v = &k->values[i];
		st_table_cell(&table, ST_STYLE_PLAIN, v->name);
		st_table_cell(&table, ST_STYLE_PLAIN, *v->value ? v->value : v->key ? "\"\"" : "by layer");
		st_table_cellf(&table, ST_STYLE_DIM, "%s%s",
		               !v->key   ? "derived"
		               : v->said ? ""
		                         : "default: no ",
		               v->key ? v->key : "");
	}
	st_table_render(&table, &t, "  ", &page);
	st_table_release(&table);
	print_names(&t, "tensors that nothing uses", k->unused, k->n_unused);
	print_names(&t, "keys that nothing reads", k->unread, k->n_unread);
	if (k->n_top)
		st_text_puts(&t, "\nnext token, by its logit:\n");
	for (size_t i = 0; i < k->n_top; i++)
		st_text_printf(&t, "  %8" PRIu32 "  %.6g\n", k->top[i], (double)k->logit[i]);
	cli_print_text(&t);
	st_text_release(&t);
}

static void print_check_json(const struct st_family_check *k)
{
	json_t *values = json_array(), *unused = json_array(), *unread = json_array(), *top = json_array();
	json_t *faults = json_array();
	for (size_t i = 0; i < k->n_faults; i++) {
		const struct st_family_fault *f = &k->faults[i];
		json_t *near = json_array();
		for (size_t m = 0; m < f->n_near; m++)
			st_json_add(near, st_json_text(f->near[m]));
		st_json_add(faults, st_json_object({ "what", st_json_text(f->what) }, { "why", st_json_text(f->why) },
		                                   { "near", near }));
	}
	for (size_t i = 0; i < k->n_values; i++) {
		const struct st_family_value *v = &k->values[i];
		st_json_add(values,
		            st_json_object({ "name", st_json_text(v->name) }, { "value", st_json_text(v->value) },
		                           { "key", st_json_text(v->key) }, { "said", json_boolean(v->said) }));
	}
	for (size_t i = 0; i < k->n_unused; i++)
		st_json_add(unused, st_json_text(k->unused[i]));
	for (size_t i = 0; i < k->n_unread; i++)
		st_json_add(unread, st_json_text(k->unread[i]));
	for (size_t i = 0; i < k->n_top; i++)
		st_json_add(top, st_json_object({ "token", json_integer(k->top[i]) },
		                                { "logit", st_json_number((double)k->logit[i]) }));
	json_t *doc = st_json_object({ "schema", json_string("stele.family-check/1") },
	                             { "family", st_json_text(k->family) }, { "file", st_json_text(k->file) },
	                             { "sha256", st_json_text(k->sha256) }, { "layers", json_integer(k->n_layers) },
	                             { "vocab", json_integer(k->vocab) },
	                             { "weights", json_integer((json_int_t)k->n_weights) },
	                             { "stages", json_integer((json_int_t)k->n_stages) }, { "keys", values },
	                             { "faults", faults }, { "unused", unused }, { "unread", unread }, { "next", top });
	cli_print_json(doc);
	json_decref(doc);
}

static int run_check(struct cli *c, void *p)
{
	const struct check_opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_family_check *k = NULL;
	struct st_container *con = NULL;
	uint32_t *ids = NULL;
	size_t n = 0;
	bool any = o->prompt.text || o->prompt.ids || o->prompt.file;
	int rc = CLI_SAME;
	if ((any
	     && (st_container_open(o->model, &con, &err) != ST_OK
	         || cli_prompt_tokens(&o->prompt, con, &ids, &n, &err) != ST_OK))
	    || st_family_check(o->family, o->model, ids, n, cli_threads(o->threads), &k, &err) != ST_OK)
		rc = CLI_TROUBLE;
	bool faults = k && k->n_faults;
	if (rc != CLI_SAME && faults && !o->json)
		print_faults(k);
	if (o->json && (rc == CLI_SAME || faults))
		print_check_json(k);
	else if (rc != CLI_SAME)
		rc = cli_fail(c, &err);
	else
		print_check(k);
	if (rc == CLI_SAME && (k->n_unused || k->n_unread))
		rc = CLI_FAULT;
	st_family_check_close(k);
	st_container_close(con);
	free(ids);
	return rc;
}

/* ---- draft ---- */

struct draft_opts {
	const char *model, *from;
};

static int run_draft(struct cli *c, void *p)
{
	const struct draft_opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_family_draft *d = NULL;
	size_t size;
	if (o->from && !st_family_text(o->from, &size))
		return cli_usage(c, "no family is called '%.80s'; 'stele family list' names them", o->from);
	if (st_family_draft(o->model, o->from, &d, &err) != ST_OK)
		return cli_fail(c, &err);
	int rc = d->fits ? CLI_SAME : CLI_FAULT;
	cli_print(d->text, "");
	st_family_draft_close(d);
	return rc;
}

/* ---- tables ---- */

static const struct cli_param list_options[] = { CLI_OPTION_JSON(struct list_opts), { 0 } };

const struct cli_command cmd_family_list = {
	.name = "family list",
	.summary = "name the model families that are built in",
	.description =
		"Prints a line for each family that is described. 'stele family show NAME' prints the description.",
	.options = list_options,
	.opts_size = sizeof(struct list_opts),
	.exit_status = "0  they were printed",
	.run = run_list,
};

static const struct cli_param show_positionals[] = {
	{ "NAME", 0, NULL, "the family", CLI_STR(struct show_opts, name), .flags = CLI_REQUIRED }, { 0 }
};

const struct cli_command cmd_family_show = {
	.name = "family show",
	.summary = "print the description of a model family",
	.description =
		"Prints the page of text that Stele knows a family by: its keys, weights and graph. Changed and saved, it "
		"is a description of one's own, which 'stele family check' tries on a model.",
	.examples = "$ stele family show gemma2 > mine.family\n$ stele family check mine.family gemma-2-2b/\n",
	.positionals = show_positionals,
	.opts_size = sizeof(struct show_opts),
	.exit_status = "0  it was printed\n2  no family is called so",
	.run = run_show,
};

static const struct cli_param check_options[] = {
	{ "prompt", 'p', "TEXT", "the text to run", CLI_STR(struct check_opts, prompt.text), .group = 1 },
	{ "tokens", 0, "LIST", "the token ids to run, comma separated", CLI_STR(struct check_opts, prompt.ids),
	  .group = 1 },
	{ "tokens-file", 0, "FILE", "read token ids from FILE, separated by commas or white space",
	  CLI_PATH(struct check_opts, prompt.file), .group = 1 },
	{ "family", 0, "F",
	  "the description: a file, or the name of a built-in one (default: the one that knows the model)",
	  CLI_STR(struct check_opts, family) },
	CLI_OPTION_THREADS(struct check_opts),
	CLI_OPTION_JSON(struct check_opts),
	{ 0 }
};

static const struct cli_param check_positionals[] = {
	{ "MODEL", 0, NULL, "the model", CLI_PATH(struct check_opts, model), .flags = CLI_REQUIRED }, { 0 }
};

const struct cli_command cmd_family_check = {
	.name = "family check",
	.summary = "bind the description of a family to a model, and run it",
	.description =
		"Looks up everything that a description names in MODEL: each key with its value and where that comes from, each "
		"weight with its shape. What is missing or of another shape is listed with the names in MODEL that are nearest to it, and ends "
		"the check. Else lists the tensors that nothing uses and the keys that nothing reads, and with a prompt runs the graph and shows "
		"the tokens that would come next.",
	.examples =
		"$ stele family check gemma-3-270m/ --prompt \"2+2=\"\n$ stele family check --family mine.family model.gguf\n",
	.exit_status =
		"0  the description fits\n1  it fits, but tensors or keys of the model are left over\n2  trouble: it does not, or usage, or a file that cannot be read",
	.options = check_options,
	.positionals = check_positionals,
	.opts_size = sizeof(struct check_opts),
	.run = run_check,
};

static const struct cli_param draft_options[] = { { "from", 0, "NAME",
	                                            "the built-in family to begin from (default: the nearest)",
	                                            CLI_STR(struct draft_opts, from) },
	                                          { 0 } };

static const struct cli_param draft_positionals[] = { { "MODEL", 0, NULL,
	                                                "the model: a GGUF file, or a folder with config.json",
	                                                CLI_PATH(struct draft_opts, model), .flags = CLI_REQUIRED },
	                                              { 0 } };

const struct cli_command cmd_family_draft = {
	.name = "family draft",
	.summary = "write a description for a model of an architecture that is not known",
	.description =
		"Prints a page for MODEL as far as its names, shapes and keys tell: the built-in description that is nearest to them, "
		"under the model's own name. Tensors and keys that it misses get the nearest name that the file has, and every such "
		"place, every tensor that no weight is and every key that nothing reads is marked with \"?\". What a file does not tell - "
		"activations, the order of operations, where a norm stands - is that of the nearest family, and for a porter to "
		"check. 'stele family check' binds and runs the page.",
	.examples =
		"$ stele family draft new-model/ > mine.family\n$ stele family check --family mine.family new-model/ --tokens 1,2,3\n",
	.exit_status =
		"0  a page that fits, with nothing left over\n1  a page to work on: what differs is marked\n2  trouble: usage, or a file that cannot be read",
	.options = draft_options,
	.positionals = draft_positionals,
	.opts_size = sizeof(struct draft_opts),
	.run = run_draft,
};
