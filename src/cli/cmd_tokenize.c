/* stele tokenize - the ids that a model's own vocabulary gives a text. */
#include "cli/cli.h"

#include "base/error.h"
#include "base/mem.h"
#include "report/json.h"
#include "report/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct opts {
	const char *model, *text, *file, *decode;
	bool no_bos, no_special, json;
};

/* All of a file, or of standard input for "-"; of an endless one as much as is too much. */
static bool read_all(const char *path, struct st_text *t)
{
	FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
	if (!f)
		return false;
	char buf[65536];
	size_t n;
	while (t->len <= ST_TOKENIZE_MAX && (n = fread(buf, 1, sizeof buf, f)) > 0)
		st_text_add(t, buf, n);
	bool ok = !ferror(f);
	int saved = errno;
	if (f != stdin)
		fclose(f);
	errno = saved;
	if (ok && t->failed)
		errno = ENOMEM;
	return ok && !t->failed;
}

static void print_text(const struct st_tokenizer *tok, const uint32_t *ids, size_t n)
{
	struct st_text out = { 0 }, piece = { 0 };
	struct st_table table;
	st_table_init(&table, "rl");
	st_text_puts(&out, "[");
	for (size_t i = 0; i < n; i++) {
		size_t len;
		const char *s = st_tokenizer_piece(tok, ids[i], &len);
		st_text_printf(&out, "%s%" PRIu32, i ? ", " : "", ids[i]);
		st_table_cellf(&table, ST_STYLE_PLAIN, "%" PRIu32, ids[i]);
		piece.len = 0;
		st_text_add_quoted(&piece, s ? s : "", s ? len : 0);
		st_table_cell(&table, ST_STYLE_PLAIN, piece.s);
	}
	st_text_puts(&out, "]\n");
	struct st_page page = cli_page(stdout);
	page.colour = false;
	st_table_render(&table, &out, "  ", &page);
	cli_print_text(&out);
	st_table_release(&table);
	st_text_release(&piece);
	st_text_release(&out);
}

/* What the ids stand for, one after the other. */
static void decode(const struct st_tokenizer *tok, const uint32_t *ids, size_t n, struct st_text *t)
{
	for (size_t i = 0; i < n; i++) {
		char small[256];
		const size_t len = st_tokenizer_decode(tok, ids[i], small, sizeof small);
		if (len <= sizeof small) {
			st_text_add(t, small, len);
			continue;
		}
		char *big = st_alloc_array(len, 1);
		if (big)
			st_tokenizer_decode(tok, ids[i], big, len);
		st_text_add(t, big ? big : "", big ? len : 0);
		t->failed |= !big;
		free(big);
	}
}

static void print_json(const struct opts *o, const struct st_tokenizer *tok, const uint32_t *ids, size_t n)
{
	json_t *tokens = json_array(), *pieces = json_array();
	for (size_t i = 0; i < n; i++) {
		size_t len = 0;
		const char *s = st_tokenizer_piece(tok, ids[i], &len);
		json_array_append_new(tokens, json_integer(ids[i]));
		json_array_append_new(pieces, s ? st_json_textn(s, len) : json_null());
	}
	json_t *doc = json_pack("{s:s, s:o, s:o, s:o, s:o}", "schema", "stele.tokens/1", "model",
	                        st_json_text(o->model), "tokenizer", st_json_text(st_tokenizer_describe(tok)), "tokens",
	                        tokens, "pieces", pieces);
	if (o->decode) {
		struct st_text text = { 0 };
		decode(tok, ids, n, &text);
		st_json_put(doc, "text", text.failed ? NULL : st_json_textn(text.s ? text.s : "", text.len));
		st_text_release(&text);
	}
	cli_print_json(doc);
	json_decref(doc);
}

static void print_decoded(const struct st_tokenizer *tok, const uint32_t *ids, size_t n)
{
	struct st_text out = { 0 };
	decode(tok, ids, n, &out);
	st_text_puts(&out, "\n");
	cli_print_text(&out);
	st_text_release(&out);
}

/* Ids of this vocabulary. */
static enum st_status read_ids(const struct st_tokenizer *tok, const char *list, uint32_t **ids, size_t *n,
                               struct st_error *err)
{
	const uint32_t vocab = st_tokenizer_vocab_size(tok);
	ST_TRY(cli_parse_tokens(list, strlen(list), ids, n, err));
	for (size_t i = 0; i < *n; i++)
		if ((*ids)[i] >= vocab)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--decode",
			                  "%" PRIu32 " is no id of this vocabulary; it has %" PRIu32, (*ids)[i], vocab);
	return ST_OK;
}

static enum st_status to_ids(const struct opts *o, const struct st_tokenizer *tok, const struct st_text *file,
                             uint32_t **ids, size_t *n, struct st_error *err)
{
	const unsigned flags = (o->no_bos ? 0 : ST_TOKENIZE_BOS) | (o->no_special ? 0 : ST_TOKENIZE_SPECIAL);
	const char *s = o->file ? file->s : o->text;
	return st_tokenize(tok, s ? s : "", o->file ? file->len : strlen(o->text), flags, ids, n, err);
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *con = NULL;
	struct st_tokenizer *tok = NULL;
	struct st_text text = { 0 };
	uint32_t *ids = NULL;
	size_t n = 0;
	int rc = CLI_SAME;
	if (o->file && !read_all(o->file, &text)) {
		int why = errno;
		if (st_check_cancel(&err) == ST_OK) {
			errno = why;
			(void)st_fail_errno(&err, o->file, "cannot read");
		}
		rc = cli_fail(c, &err);
		goto out;
	}
	if (o->text && access(o->model, F_OK) != 0 && access(o->text, F_OK) == 0) {
		rc = cli_usage(c, "%.300s is no file, and %.300s is one: MODEL stands before TEXT", o->model, o->text);
		goto out;
	}
	if (st_container_open(o->model, &con, &err) != ST_OK || st_tokenizer_open(con, &tok, &err) != ST_OK
	    || (o->decode ? read_ids(tok, o->decode, &ids, &n, &err) : to_ids(o, tok, &text, &ids, &n, &err))
	               != ST_OK) {
		rc = cli_fail(c, &err);
		goto out;
	}
	if (st_tokenizer_guessed(tok))
		cli_note(c, "the file does not say how words are split; read as %s", st_tokenizer_describe(tok));
	if (o->json)
		print_json(o, tok, ids, n);
	else if (o->decode)
		print_decoded(tok, ids, n);
	else
		print_text(tok, ids, n);
out:
	free(ids);
	st_text_release(&text);
	st_tokenizer_close(tok);
	st_container_close(con);
	return rc;
}

static const struct cli_param options[] = {
	{ "file", 0, "F", "read the text from F ('-': standard input)", CLI_PATH(struct opts, file),
	  .flags = CLI_REQUIRED, .group = 1 },
	{ "decode", 0, "IDS", "print the text that these ids stand for", CLI_STR(struct opts, decode),
	  .flags = CLI_REQUIRED, .group = 1 },
	{ "no-bos", 0, NULL, "no BOS or EOS, whatever the model's rules say", CLI_BOOL(struct opts, no_bos) },
	{ "no-special", 0, NULL, "take special tokens written in the text for plain text",
	  CLI_BOOL(struct opts, no_special) },
	CLI_OPTION_JSON(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "MODEL", 0, NULL, "a file or folder with a vocabulary; it need not hold weights",
	  CLI_PATH(struct opts, model), .flags = CLI_REQUIRED },
	{ "TEXT", 0, NULL, "the text", CLI_STR(struct opts, text), .flags = CLI_REQUIRED, .group = 1 },
	{ 0 }
};

const struct cli_command cmd_tokenize = {
	.name = "tokenize",
	.summary = "print the token ids of a text",
	.description =
		"Turns a text into the ids that MODEL's own vocabulary, merges, normalisation and rules for BOS "
		"and EOS give it. The first "
		"line is the list of ids, as --tokens of other commands takes it; below stands each id with its "
		"piece as the vocabulary "
		"stores it.\n\n"
		"--decode goes the other way: it prints the bytes that ids stand for, one after the other, and a "
		"newline. Ids are separated by commas or blanks.",
	.examples = "$ stele tokenize qwen2.gguf \"2+2=\"\n[17, 10, 17, 28]\n  17  \"2\"\n  10  \"+\"\n  17  \"2\"\n  "
		    "28  \"=\"\n$ stele tokenize qwen2.gguf --decode 17,10,17,28\n2+2=\n",
	.exit_status = "0  the ids were printed\n2  trouble: usage, a file that cannot be read, a tokenizer that Stele "
		       "does not know",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.run = run,
};
