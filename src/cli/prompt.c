/* prompt.c - what to run: text, a list of ids, or a file of them. */
#include "cli/cli.h"

#include "base/error.h"
#include "base/map.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static bool separates(char ch) { return ch == ',' || ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r'; }

/* White space, then at most one comma, then white space. */
static size_t skip_separator(const char *list, size_t i, size_t len, bool *comma)
{
	*comma = false;
	while (i < len && (separates(list[i]) && !(list[i] == ',' && *comma))) {
		*comma |= list[i] == ',';
		i++;
	}
	return i;
}

enum st_status cli_parse_tokens(const char *list, size_t len, uint32_t **ids, size_t *n, struct st_error *err)
{
	uint32_t *out = NULL;
	size_t cap = 0, count = 0, i = 0;
	enum st_status st = ST_OK;
	while (len && separates(list[len - 1]) && list[len - 1] != ',')
		len--;
	while (i < len && separates(list[i]) && list[i] != ',')
		i++;
	/* "[1, 2]" is how reports print ids, so it is taken back. */
	if (len - i >= 2 && list[i] == '[' && list[len - 1] == ']') {
		i++;
		len--;
	}
	bool comma = false;
	while (st == ST_OK && (i < len || comma)) {
		size_t start = i;
		uint64_t v = 0;
		while (i < len && list[i] >= '0' && list[i] <= '9' && v <= UINT32_MAX)
			v = v * 10 + (uint64_t)(list[i++] - '0');
		void *p = out;
		if (i == start || (i < len && !separates(list[i])) || v > UINT32_MAX) {
			size_t end = start;
			while (end < len && end - start < 20 && !separates(list[end]))
				end++;
			st = end == start ? st_fail_at(err, ST_ERR_USAGE, start, "tokens", "an id is missing")
			                  : st_fail_at(err, ST_ERR_USAGE, start, "tokens", "'%.*s' is not a token id",
			                               (int)(end - start), list + start);
		} else if (!st_grow(&p, &cap, count + 1, sizeof *out)) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		} else {
			out = p;
			out[count++] = (uint32_t)v;
			i = skip_separator(list, i, len, &comma);
		}
	}
	if (st == ST_OK && count == 0)
		st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "tokens", "the list is empty");
	if (st != ST_OK) {
		free(out);
		return st;
	}
	*ids = out;
	*n = count;
	return ST_OK;
}

static enum st_status from_text(const char *text, const struct st_container *c, uint32_t **ids, size_t *n,
                                struct st_error *err)
{
	struct st_tokenizer *tok;
	ST_TRY(st_tokenizer_open(c, &tok, err));
	enum st_status st = st_tokenize(tok, text, strlen(text), ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, ids, n, err);
	st_tokenizer_close(tok);
	if (st == ST_OK && *n == 0) {
		free(*ids);
		st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--prompt", "the text gives no tokens");
	}
	return st;
}

static enum st_status from_file(const char *path, uint32_t **ids, size_t *n, struct st_error *err)
{
	struct st_map map;
	ST_TRY(st_map_open(&map, path, err));
	enum st_status st = cli_parse_tokens((const char *)map.data, map.size, ids, n, err);
	st_error_in(err, path);
	st_map_close(&map);
	return st;
}

enum st_status cli_prompt_lines(const char *path, char ***lines, size_t *n, struct st_error *err)
{
	struct st_map map;
	char **out = NULL, *text = NULL;
	size_t cap = 0, count = 0;
	ST_TRY(st_map_open(&map, path, err));
	enum st_status st = ST_OK;
	if (map.size > ST_TOKENIZE_MAX)
		st = st_fail(err, ST_ERR_LIMIT, "is larger than the %u bytes that are read as prompts",
		             ST_TOKENIZE_MAX);
	else if (memchr(map.data, 0, map.size))
		st = st_fail(err, ST_ERR_FORMAT, "holds a NUL byte: prompts are text");
	else if (!(text = st_strndup((const char *)map.data, map.size)))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	char *rest = text;
	for (char *line; st == ST_OK && (line = strsep(&rest, "\n"));) {
		size_t len = strlen(line);
		void *p = out;
		if (len && line[len - 1] == '\r')
			line[--len] = '\0';
		if (len == 0)
			continue;
		if (!st_grow(&p, &cap, count + 2, sizeof *out)) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
			break;
		}
		out = p;
		out[count++] = line;
	}
	if (st == ST_OK && count == 0)
		st = st_fail(err, ST_ERR_USAGE, "holds no prompt");
	st_error_in(err, path);
	st_map_close(&map);
	if (st != ST_OK) {
		free(out);
		free(text);
		return st;
	}
	out[count] = text; /* what the lines lie in */
	*lines = out;
	*n = count;
	return ST_OK;
}

void cli_prompt_lines_free(char **lines, size_t n)
{
	if (lines)
		free(lines[n]);
	free(lines);
}

enum st_status cli_prompt_tokens(const struct cli_prompt *p, const struct st_container *c, uint32_t **ids, size_t *n,
                                 struct st_error *err)
{
	if (p->text)
		return from_text(p->text, c, ids, n, err);
	if (p->file)
		return from_file(p->file, ids, n, err);
	return cli_parse_tokens(p->ids, strlen(p->ids), ids, n, err);
}
