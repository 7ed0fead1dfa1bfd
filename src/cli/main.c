/* main.c - find the command, parse its arguments, run it, and make sure its output arrived. */
#include "cli/internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct cli_command *cli_find(char *const *args, int n, int *used)
{
	for (size_t i = 0; i < cli_n_commands; i++) {
		const char *name = cli_commands[i]->name, *space = strchr(name, ' ');
		size_t first = space ? (size_t)(space - name) : strlen(name);
		if (strlen(args[0]) != first || memcmp(args[0], name, first) != 0)
			continue;
		if (!space || (n > 1 && strcmp(args[1], space + 1) == 0)) {
			*used = space ? 2 : 1;
			return cli_commands[i];
		}
	}
	return NULL;
}

/* Errors follow --json even when they are about a word before or after it. */
static bool wants(const struct cli_command *cmd, char **args, int n, const char *option)
{
	bool known = cmd == NULL;
	for (const struct cli_param *p = cmd ? cmd->options : NULL; p && p->name; p++)
		known |= strcmp(p->name, option + 2) == 0;
	for (int i = 0; known && i < n && strcmp(args[i], "--") != 0; i++)
		if (strcmp(args[i], option) == 0)
			return true;
	return false;
}

/* The same once the command line is parsed, whatever way the option was spelled (-q, -vq, --qui). */
static bool given(const struct cli_command *cmd, const void *opts, const char *name)
{
	for (const struct cli_param *p = cmd->options; p && p->name; p++)
		if (strcmp(p->name, name) == 0)
			return *(const bool *)(const void *)((const char *)opts + p->offset);
	return false;
}

static int run_command(struct cli *c, char **args, int n)
{
	void *opts = st_alloc_zeroed(1, c->cmd->opts_size);
	if (!opts)
		return cli_no_memory(c);
	if (c->cmd->defaults)
		memcpy(opts, c->cmd->defaults, c->cmd->opts_size);
	struct st_error err = ST_ERROR_INIT;
	struct st_text help = { 0 };
	int rc = CLI_SAME;
	switch (cli_parse(c->cmd, args, n, opts, &err)) {
	case CLI_PARSED_HELP:
		cli_help(&help, c->cmd);
		cli_print_text(&help);
		st_text_release(&help);
		break;
	case CLI_PARSED_ERROR:
		rc = cli_fail(c, &err);
		break;
	case CLI_PARSED_OK:
		c->json = given(c->cmd, opts, "json");
		c->quiet = given(c->cmd, opts, "quiet");
		rc = c->cmd->run(c, opts);
		cli_progress_clear();
		break;
	}
	cli_release(c->cmd, opts);
	free(opts);
	return rc;
}

static int overview(const char *group, FILE *f, int rc)
{
	struct st_text t = { 0 };
	cli_overview(&t, group);
	fputs(t.s ? t.s : "", f);
	st_text_release(&t);
	return rc;
}

static bool asks_help(const char *word) { return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0; }

static int dispatch(struct cli *c, char **args, int n)
{
	if (n == 0)
		return overview(NULL, stderr, CLI_TROUBLE);
	if (asks_help(args[0]))
		return overview(NULL, stdout, CLI_SAME);
	if (n > 1 && asks_help(args[1]) && cli_is_group(args[0]))
		return overview(args[0], stdout, CLI_SAME);
	if (strcmp(args[0], "--version") == 0 || strcmp(args[0], "-V") == 0) {
		printf("stele %s\n", st_version());
		return CLI_SAME;
	}
	int used = 0;
	c->cmd = cli_find(args, n, &used);
	c->json = wants(c->cmd, args + used, n - used, "--json");
	if (!c->cmd && args[0][0] == '-')
		return cli_usage(c, "unknown option %.60s; 'stele help' lists the commands", args[0]);
	return c->cmd ? run_command(c, args + used, n - used) : cli_unknown_command(c, args, n);
}

int main(int argc, char **argv)
{
	static struct cli c; /* signals come until the process has ended, and look at it */
	cli_signals_init(&c);
	int rc = dispatch(&c, argv + 1, argc - 1);
	/* A full disk shows up here at the latest. */
	bool lost = ferror(stdout) != 0;
	lost |= fclose(stdout) != 0;
	alarm(0); /* nothing is left to interrupt */
	int why = cli_write_error() ? cli_write_error() : errno;
	if (lost && cli_signal_seen() == SIGPIPE)
		return 128 + SIGPIPE;
	if (lost) {
		fprintf(stderr, "stele%s%s: standard output: %s\n", c.cmd ? " " : "", c.cmd ? c.cmd->name : "",
		        strerror(why));
		return c.cmd && c.cmd->trouble ? c.cmd->trouble : CLI_TROUBLE;
	}
	return rc;
}
