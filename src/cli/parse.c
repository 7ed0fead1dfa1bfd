/* parse.c - from argv to a command's options, by its tables. */
#include "cli/internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_param no_params[] = { { 0 } };

static const struct cli_param *options_of(const struct cli_command *cmd)
{
	return cmd->options ? cmd->options : no_params;
}
static const struct cli_param *positionals_of(const struct cli_command *cmd)
{
	return cmd->positionals ? cmd->positionals : no_params;
}

bool cli_is_option(const struct cli_command *cmd, const struct cli_param *p)
{
	for (const struct cli_param *q = options_of(cmd); q->name; q++)
		if (q == p)
			return true;
	return false;
}

/* What is being parsed: `seen` remembers parameters in the order of the two tables. */
#define MAX_PARAMS 96
struct parser {
	const struct cli_command *cmd;
	void *opts;
	struct st_error *err;
	bool seen[MAX_PARAMS];
};

static size_t index_of(const struct parser *ps, const struct cli_param *p)
{
	const struct cli_param *o = options_of(ps->cmd);
	size_t n = 0;
	for (; o->name; o++, n++)
		if (o == p)
			return n;
	return n + (size_t)(p - positionals_of(ps->cmd));
}

/* "--name" or "NAME", as an error message names it. */
static const char *spelled(const struct parser *ps, const struct cli_param *p, char buf[64])
{
	snprintf(buf, 64, "%s%s", cli_is_option(ps->cmd, p) ? "--" : "", p->name);
	return buf;
}

static enum st_status bad_value(struct parser *ps, const struct cli_param *p, const char *value, const char *wanted)
{
	char name[64];
	return st_fail_at(ps->err, ST_ERR_USAGE, ST_NO_OFFSET, spelled(ps, p, name), "'%.100s' is not %s", value,
	                  wanted);
}

static enum st_status parse_unsigned(struct parser *ps, const struct cli_param *p, const char *value, uint64_t max,
                                     uint64_t *out)
{
	char *end, wanted[64];
	errno = 0;
	unsigned long long v = strtoull(value, &end, 10);
	/* strtoull skips blanks and takes a sign; a number here has neither. */
	if (value[0] < '0' || value[0] > '9' || *end || errno || v > max) {
		snprintf(wanted, sizeof wanted, "a whole number from 0 to %llu", (unsigned long long)max);
		return bad_value(ps, p, value, wanted);
	}
	*out = v;
	return ST_OK;
}

static enum st_status check_choice(struct parser *ps, const struct cli_param *p, char *value)
{
	size_t n = strlen(value);
	for (const char *c = p->choices; *c;) {
		size_t len = strcspn(c, "|");
		if (len == n && strncasecmp(c, value, n) == 0) {
			memcpy(value, c, n); /* from here on there is one spelling */
			return ST_OK;
		}
		c += len + (c[len] == '|');
	}
	char wanted[200] = "one of ";
	size_t at = strlen(wanted);
	for (const char *c = p->choices; *c && at + 3 < sizeof wanted; c++) {
		wanted[at++] = *c == '|' ? ',' : *c;
		if (*c == '|')
			wanted[at++] = ' ';
	}
	wanted[at] = '\0';
	return bad_value(ps, p, value, wanted);
}

static enum st_status store(struct parser *ps, const struct cli_param *p, char *value)
{
	char *field = (char *)ps->opts + p->offset;
	uint64_t u;
	switch (p->type) {
	case CLI_TYPE_BOOL:
		*(bool *)field = true;
		break;
	case CLI_TYPE_CHOICE:
		ST_TRY(check_choice(ps, p, value));
		*(const char **)field = value;
		break;
	case CLI_TYPE_PATH:
		if (!*value)
			return bad_value(ps, p, value, "a file's name");
		*(const char **)field = value;
		break;
	case CLI_TYPE_STR:
		*(const char **)field = value;
		break;
	case CLI_TYPE_U32:
		ST_TRY(parse_unsigned(ps, p, value, UINT32_MAX, &u));
		*(uint32_t *)field = (uint32_t)u;
		break;
	case CLI_TYPE_U64:
		ST_TRY(parse_unsigned(ps, p, value, UINT64_MAX, &u));
		*(uint64_t *)field = u;
		break;
	case CLI_TYPE_F64: {
		char *end;
		double v = strtod(value, &end);
		if (end == value || *end || strspn(value, " \t\n") || !isfinite(v))
			return bad_value(ps, p, value, "a number");
		*(double *)field = v;
		break;
	}
	case CLI_TYPE_LIST: {
		if ((p->flags & CLI_FILES) && !*value)
			return bad_value(ps, p, value, "a file's name");
		struct cli_list *l = (struct cli_list *)field;
		if (!st_grow((void **)&l->items, &l->cap, l->n + 1, sizeof *l->items))
			return st_fail(ps->err, ST_ERR_NOMEM, "out of memory");
		l->items[l->n++] = value;
		break;
	}
	}
	ps->seen[index_of(ps, p)] = true;
	return ST_OK;
}

static enum st_status unknown_option(struct parser *ps, const char *word)
{
	const char *names[MAX_PARAMS + 1] = { "help" };
	size_t n = 1;
	for (const struct cli_param *p = options_of(ps->cmd); p->name; p++)
		names[n++] = p->name;
	char name[64];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
	const char *near = cli_nearest(name, names, n);
	return near ? st_fail(ps->err, ST_ERR_USAGE, "unknown option --%s; did you mean --%s?", name, near)
	            : st_fail(ps->err, ST_ERR_USAGE, "unknown option --%s; see 'stele help %s'", name, ps->cmd->name);
}

/* One "--name", "--name=value" or "--name value"; *next is the index of the following word. */
static enum st_status long_option(struct parser *ps, char **args, int n, int *next)
{
	char *word = args[*next - 1] + 2;
	size_t len = strcspn(word, "=");
	char *value = word[len] == '=' ? word + len + 1 : NULL;
	for (const struct cli_param *p = options_of(ps->cmd); p->name; p++) {
		if (strlen(p->name) != len || memcmp(p->name, word, len) != 0)
			continue;
		if (p->type == CLI_TYPE_BOOL && value)
			return st_fail(ps->err, ST_ERR_USAGE, "option --%s takes no value", p->name);
		if (p->type != CLI_TYPE_BOOL && !value) {
			if (*next >= n)
				return st_fail(ps->err, ST_ERR_USAGE, "option --%s needs a value (%s)", p->name,
				               p->arg);
			value = args[(*next)++];
		}
		return store(ps, p, value);
	}
	return unknown_option(ps, word);
}

/* "-v", "-vq", "-pTEXT", "-p TEXT". */
static enum st_status short_options(struct parser *ps, char **args, int n, int *next)
{
	for (char *s = args[*next - 1] + 1; *s; s++) {
		const struct cli_param *p = options_of(ps->cmd);
		while (p->name && p->letter != *s)
			p++;
		if (!p->name)
			return st_fail(ps->err, ST_ERR_USAGE, "unknown option -%c; see 'stele help %s'", *s,
			               ps->cmd->name);
		if (p->type == CLI_TYPE_BOOL) {
			ST_TRY(store(ps, p, NULL));
			continue;
		}
		if (s[1])
			return store(ps, p, s + 1);
		if (*next >= n)
			return st_fail(ps->err, ST_ERR_USAGE, "option -%c needs a value (%s)", *s, p->arg);
		return store(ps, p, args[(*next)++]);
	}
	return ST_OK;
}

static enum st_status positional(struct parser *ps, char *word)
{
	for (const struct cli_param *p = positionals_of(ps->cmd); p->name; p++)
		if (p->type == CLI_TYPE_LIST || !ps->seen[index_of(ps, p)])
			return store(ps, p, word);
	bool runs = false; /* a text, which is an option's */
	for (const struct cli_param *p = options_of(ps->cmd); p->name; p++)
		runs |= strcmp(p->name, "prompt") == 0;
	return st_fail(ps->err, ST_ERR_USAGE, "unexpected argument '%.200s'; %ssee 'stele help %s'", word,
	               runs ? "a text to run is given with --prompt; " : "", ps->cmd->name);
}

/* The members of a group, "--prompt, --tokens or FILE", for messages. */
static void name_group(const struct parser *ps, int group, char *buf, size_t size)
{
	const struct cli_param *tables[] = { positionals_of(ps->cmd), options_of(ps->cmd) }, *members[MAX_PARAMS];
	size_t n = 0, at = 0;
	for (size_t t = 0; t < 2; t++)
		for (const struct cli_param *p = tables[t]; p->name; p++)
			if (p->group == group)
				members[n++] = p;
	for (size_t i = 0; i < n && at < size; i++) {
		char name[64];
		at += (size_t)snprintf(buf + at, size - at, "%s%s",
		                       i == 0       ? ""
		                       : i + 1 == n ? " or "
		                                    : ", ",
		                       spelled(ps, members[i], name));
	}
}

/* Everything required is there, and no two of a group. */
static enum st_status check_given(struct parser *ps)
{
	const struct cli_param *tables[] = { positionals_of(ps->cmd), options_of(ps->cmd) };
	const struct cli_param *chosen[MAX_PARAMS];
	size_t n_chosen = 0;
	char a[64], b[64], all[256];
	for (size_t t = 0; t < 2; t++) {
		for (const struct cli_param *p = tables[t]; p->name; p++) {
			if (!p->group || !ps->seen[index_of(ps, p)])
				continue;
			for (size_t i = 0; i < n_chosen; i++)
				if (chosen[i]->group == p->group)
					return st_fail(ps->err, ST_ERR_USAGE, "%s and %s exclude each other",
					               spelled(ps, chosen[i], a), spelled(ps, p, b));
			chosen[n_chosen++] = p;
		}
	}
	for (size_t t = 0; t < 2; t++) {
		for (const struct cli_param *p = tables[t]; p->name; p++) {
			bool given = ps->seen[index_of(ps, p)];
			for (size_t i = 0; p->group && i < n_chosen; i++)
				given |= chosen[i]->group == p->group;
			if (given || !(p->flags & CLI_REQUIRED))
				continue;
			if (p->group)
				name_group(ps, p->group, all, sizeof all);
			return st_fail(ps->err, ST_ERR_USAGE, "%s is missing; see 'stele help %s'",
			               p->group ? all : spelled(ps, p, a), ps->cmd->name);
		}
	}
	return ST_OK;
}

enum cli_parsed cli_parse(const struct cli_command *cmd, char **args, int n, void *opts, struct st_error *err)
{
	struct parser ps = { .cmd = cmd, .opts = opts, .err = err };
	bool only_positionals = false;
	enum st_status st = ST_OK;
	for (int i = 0; i < n && st == ST_OK;) {
		char *word = args[i++];
		if (only_positionals || word[0] != '-' || !word[1])
			st = positional(&ps, word);
		else if (strcmp(word, "--") == 0)
			only_positionals = true;
		else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
			return CLI_PARSED_HELP;
		else if (word[1] == '-')
			st = long_option(&ps, args, n, &i);
		else
			st = short_options(&ps, args, n, &i);
	}
	if (st == ST_OK)
		st = check_given(&ps);
	return st == ST_OK ? CLI_PARSED_OK : CLI_PARSED_ERROR;
}

void cli_release(const struct cli_command *cmd, void *opts)
{
	const struct cli_param *tables[] = { positionals_of(cmd), options_of(cmd) };
	for (size_t t = 0; t < 2; t++)
		for (const struct cli_param *p = tables[t]; p->name; p++)
			if (p->type == CLI_TYPE_LIST)
				free(((struct cli_list *)((char *)opts + p->offset))->items);
}
