/* completion.c - completion for three shells, from the same tables as --help. */
#include "cli/internal.h"

#include <string.h>

/* Words of a choice list with another separator. */
static void choices(struct st_text *t, const char *list, const char *sep)
{
	for (const char *c = list; *c;) {
		size_t n = strcspn(c, "|");
		if (c != list)
			st_text_puts(t, sep);
		for (size_t i = 0; i < n; i++) {
			if (c[i] == ':' && sep[0] == ' ')
				st_text_puts(t, "\\"); /* zsh: a colon begins a description */
			st_text_add(t, &c[i], 1);
		}
		c += n + (c[n] == '|');
	}
}

static bool takes_path(const struct cli_param *p)
{
	return p->type == CLI_TYPE_PATH || (p->type == CLI_TYPE_LIST && (p->flags & CLI_FILES));
}

static const char *first_word(const char *name, char buf[32])
{
	snprintf(buf, 32, "%.*s", (int)strcspn(name, " "), name);
	return buf;
}

/* Distinct first words of the commands; two-word commands follow one another in the table. */
static void command_words(struct st_text *t, const char *sep)
{
	char last[32] = "", word[32];
	for (size_t i = 0; i < cli_n_commands; i++) {
		if (strcmp(first_word(cli_commands[i]->name, word), last) == 0)
			continue;
		st_text_printf(t, "%s%s", last[0] ? sep : "", word);
		snprintf(last, sizeof last, "%s", word);
	}
}

static void second_words(struct st_text *t, const char *first)
{
	char word[32];
	for (size_t i = 0, n = 0; i < cli_n_commands; i++) {
		const char *name = cli_commands[i]->name, *space = strchr(name, ' ');
		if (space && strcmp(first_word(name, word), first) == 0)
			st_text_printf(t, "%s%s", n++ ? " " : "", space + 1);
	}
}

static void bash(struct st_text *t)
{
	st_text_puts(
		t, "# bash completion for stele(1), made from the command's option tables\n"
		   "_stele()\n{\n"
		   "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]} opts=\n"
		   "\tCOMPREPLY=()\n"
		   "\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\tCOMPREPLY=($(compgen -W \"");
	command_words(t, " ");
	st_text_puts(t, " --help --version\" -- \"$cur\"))\n\t\treturn\n\tfi\n\tcase $cmd in\n");
	char last[32] = "", word[32];
	for (size_t i = 0; i < cli_n_commands; i++) {
		const char *name = cli_commands[i]->name;
		if (!strchr(name, ' ') || strcmp(first_word(name, word), last) == 0)
			continue;
		snprintf(last, sizeof last, "%s", word);
		st_text_printf(t, "\t%s)\n\t\tif [ \"$COMP_CWORD\" -eq 2 ]; then\n\t\t\tCOMPREPLY=($(compgen -W \"",
		               word);
		second_words(t, word);
		st_text_puts(t, "\" -- \"$cur\"))\n\t\t\treturn\n\t\tfi\n\t\tcmd=\"$cmd ${COMP_WORDS[2]}\" ;;\n");
	}
	st_text_puts(t, "\tesac\n\tcase \"$cmd $prev\" in\n");
	for (size_t i = 0; i < cli_n_commands; i++) {
		for (const struct cli_param *p = cli_commands[i]->options; p && p->name; p++) {
			if (p->type == CLI_TYPE_BOOL)
				continue;
			st_text_printf(t, "\t\"%s --%s\")\n\t\t", cli_commands[i]->name, p->name);
			if (p->type == CLI_TYPE_CHOICE) {
				st_text_puts(t, "COMPREPLY=($(compgen -W \"");
				for (const char *c = p->choices; *c; c++)
					st_text_add(t, *c == '|' ? " " : c, 1);
				st_text_puts(t, "\" -- \"$cur\")); return ;;\n");
			} else if (takes_path(p)) {
				st_text_puts(t, "COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames "
				                "2>/dev/null; return ;;\n");
			} else {
				st_text_puts(t, "return ;;\n");
			}
		}
	}
	st_text_puts(t, "\tesac\n\tcase $cmd in\n");
	for (size_t i = 0; i < cli_n_commands; i++) {
		st_text_printf(t, "\t\"%s\") opts=\"", cli_commands[i]->name);
		for (const struct cli_param *p = cli_commands[i]->options; p && p->name; p++)
			st_text_printf(t, "--%s ", p->name);
		st_text_puts(t, "--help\" ;;\n");
	}
	st_text_puts(t, "\tesac\n\tcase $cur in\n\t-*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\")) ;;\n"
	                "\t*) case $cmd in help) COMPREPLY=($(compgen -W \"");
	command_words(t, " ");
	st_text_puts(t, "\" -- \"$cur\")) ;;\n"
	                "\t   *) COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames 2>/dev/null ;; esac ;;\n"
	                "\tesac\n}\ncomplete -F _stele stele\n");
}

/* Inside '...': a single quote closes the string; brackets and colons belong to _arguments. */
static void zsh_text(struct st_text *t, const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			st_text_puts(t, "'\\''");
		else if (strchr("[]:", *s))
			st_text_printf(t, "\\%c", *s);
		else
			st_text_add(t, s, 1);
	}
}

static void zsh_params(struct st_text *t, const struct cli_command *cmd, const char *indent)
{
	st_text_printf(t, "%s_arguments -S", indent);
	for (const struct cli_param *p = cmd->options; p && p->name; p++) {
		st_text_printf(t, " \\\n%s\t'%s--%s%s[", indent, p->type == CLI_TYPE_LIST ? "*" : "", p->name,
		               p->type == CLI_TYPE_BOOL ? "" : "=");
		zsh_text(t, p->help);
		st_text_puts(t, "]");
		if (p->type != CLI_TYPE_BOOL) {
			st_text_printf(t, ":%s:", p->arg);
			if (p->type == CLI_TYPE_CHOICE) {
				st_text_puts(t, "(");
				choices(t, p->choices, " ");
				st_text_puts(t, ")");
			} else if (takes_path(p)) {
				st_text_puts(t, "_files");
			}
		}
		st_text_puts(t, "'");
	}
	st_text_printf(t, " \\\n%s\t'(- *)--help[show help]'", indent);
	for (const struct cli_param *p = cmd->positionals; p && p->name; p++)
		st_text_printf(t, " \\\n%s\t'%s:%s:%s'", indent,
		               p->type == CLI_TYPE_LIST  ? "*"
		               : p->flags & CLI_REQUIRED ? ""
		                                         : ":",
		               p->name, takes_path(p) ? "_files" : "");
	st_text_puts(t, "\n");
}

static void zsh(struct st_text *t)
{
	st_text_puts(t, "#compdef stele\n# zsh completion for stele(1), made from the command's option tables\n"
	                "_stele() {\n\tlocal cmd\n\tif (( CURRENT == 2 )); then\n\t\tlocal -a commands=(\n");
	char last[32] = "", word[32];
	for (size_t i = 0; i < cli_n_commands; i++) {
		bool pair = strchr(cli_commands[i]->name, ' ') != NULL;
		if (strcmp(first_word(cli_commands[i]->name, word), last) == 0)
			continue;
		snprintf(last, sizeof last, "%s", word);
		st_text_printf(t, "\t\t\t'%s:", word);
		zsh_text(t, pair ? "a group of commands" : cli_commands[i]->summary);
		st_text_puts(t, "'\n");
	}
	st_text_puts(t, "\t\t)\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcmd=$words[2]\n\tshift words\n\t(( "
	                "CURRENT-- ))\n\tcase $cmd in\n");
	last[0] = '\0';
	for (size_t i = 0; i < cli_n_commands; i++) {
		const struct cli_command *cmd = cli_commands[i];
		const char *space = strchr(cmd->name, ' ');
		first_word(cmd->name, word);
		if (!space) {
			st_text_printf(t, "\t%s)\n", word);
			zsh_params(t, cmd, "\t\t");
			st_text_puts(t, "\t\t;;\n");
		} else if (strcmp(word, last) != 0) {
			st_text_printf(t, "\t%s)\n\t\tif (( CURRENT == 2 )); then\n\t\t\tcompadd ", word);
			second_words(t, word);
			st_text_puts(t, "\n\t\t\treturn\n\t\tfi\n\t\tcmd=$words[2]\n\t\tshift words\n\t\t(( CURRENT-- "
			                "))\n\t\tcase $cmd in\n");
			for (size_t j = i; j < cli_n_commands; j++) {
				char other[32];
				if (strcmp(first_word(cli_commands[j]->name, other), word) != 0)
					continue;
				st_text_printf(t, "\t\t%s)\n", strchr(cli_commands[j]->name, ' ') + 1);
				zsh_params(t, cli_commands[j], "\t\t\t");
				st_text_puts(t, "\t\t\t;;\n");
			}
			st_text_puts(t, "\t\tesac\n\t\t;;\n");
		}
		snprintf(last, sizeof last, "%s", word);
	}
	st_text_puts(t, "\tesac\n}\n_stele \"$@\"\n");
}

/* Inside '...' of fish only the quote and the backslash are special. */
static void fish_text(struct st_text *t, const char *s)
{
	for (; *s; s++) {
		if (*s == '\'' || *s == '\\')
			st_text_puts(t, "\\");
		st_text_add(t, s, 1);
	}
}

static void fish(struct st_text *t)
{
	st_text_puts(t, "# fish completion for stele(1), made from the command's option tables\n");
	char last[32] = "", word[32];
	for (size_t i = 0; i < cli_n_commands; i++) {
		const struct cli_command *cmd = cli_commands[i];
		const char *space = strchr(cmd->name, ' ');
		first_word(cmd->name, word);
		if (strcmp(word, last) != 0) {
			st_text_printf(t, "complete -c stele -n __fish_use_subcommand -a %s -d '", word);
			fish_text(t, space ? "a group of commands" : cmd->summary);
			st_text_puts(t, "'\n");
		}
		snprintf(last, sizeof last, "%s", word);
		if (space) {
			st_text_printf(t, "complete -c stele -f -n '__fish_seen_subcommand_from %s' -a %s -d '", word,
			               space + 1);
			fish_text(t, cmd->summary);
			st_text_puts(t, "'\n");
		}
		for (const struct cli_param *p = cmd->options; p && p->name; p++) {
			st_text_printf(t, "complete -c stele -n '__fish_seen_subcommand_from %s%s%s' -l %s", word,
			               space ? "; and __fish_seen_subcommand_from " : "", space ? space + 1 : "",
			               p->name);
			if (p->letter)
				st_text_printf(t, " -s %c", p->letter);
			if (p->type != CLI_TYPE_BOOL)
				st_text_puts(t, takes_path(p) ? " -r -F" : " -x");
			if (p->type == CLI_TYPE_CHOICE) {
				st_text_puts(t, " -a '");
				for (const char *c = p->choices; *c; c++)
					st_text_add(t, *c == '|' ? " " : c, 1);
				st_text_puts(t, "'");
			}
			st_text_puts(t, " -d '");
			fish_text(t, p->help);
			st_text_puts(t, "'\n");
		}
	}
}

bool cli_completion(struct st_text *t, const char *shell)
{
	static const struct {
		const char *shell;
		void (*make)(struct st_text *);
	} makers[] = {
		{ "bash", bash },
		{ "zsh", zsh },
		{ "fish", fish },
	};
	for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
		if (strcmp(makers[i].shell, shell) == 0) {
			makers[i].make(t);
			return true;
		}
	}
	return false;
}
