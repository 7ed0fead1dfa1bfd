/* stele help - the overview, a command's help, and what is generated for man and the shells. */
#include "cli/internal.h"

struct opts {
	struct cli_list words;
	const char *completion;
	bool man, list;
};

static int print(struct st_text *t)
{
	cli_print_text(t);
	st_text_release(t);
	return CLI_SAME;
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_text t = { 0 };
	if (o->completion) {
		cli_completion(&t, o->completion);
		return print(&t);
	}
	if (o->list) {
		for (size_t i = 0; i < cli_n_commands; i++)
			st_text_printf(&t, "%s\n", cli_commands[i]->name);
		return print(&t);
	}
	const struct cli_command *cmd = NULL;
	if (o->words.n) {
		int used;
		if (o->words.n == 1 && !o->man && cli_is_group(o->words.items[0])) {
			cli_overview(&t, o->words.items[0]);
			return print(&t);
		}
		cmd = cli_find((char *const *)o->words.items, (int)o->words.n, &used);
		if (!cmd)
			return cli_unknown_command(c, (char *const *)o->words.items, (int)o->words.n);
		if ((size_t)used != o->words.n)
			return cli_usage(c, "unexpected argument '%.200s' after '%s'", o->words.items[used], cmd->name);
	}
	if (o->man)
		cli_man(&t, cmd);
	else if (cmd)
		cli_help(&t, cmd);
	else
		cli_overview(&t, NULL);
	return print(&t);
}

static const struct cli_param options[] = {
	{ "man", 0, NULL, "print the manual page as roff", CLI_BOOL(struct opts, man), .group = 1 },
	{ "completion", 0, "SHELL", "print the completion script for a shell",
	  CLI_CHOICE(struct opts, completion, "bash|zsh|fish"), .group = 1 },
	{ "list", 0, NULL, "print the names of the commands, one per line", CLI_BOOL(struct opts, list), .group = 1 },
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "COMMAND", 0, NULL, "the command to explain; without it, list the commands", CLI_LIST(struct opts, words) },
	{ 0 }
};

const struct cli_command cmd_help = {
	.name = "help",
	.summary = "explain a command",
	.description =
		"Prints the list of commands, or the arguments and options of one. The manual pages and the completion "
		"scripts that are installed come from here as well.",
	.examples = "stele help trace\nstele help --completion bash > /etc/bash_completion.d/stele\n",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.run = run,
};
