/* man.c - manual pages from the same tables as --help. */
#include "cli/internal.h"

#include <ctype.h>
#include <string.h>

/* roff text: a leading dot or quote, backslashes and hyphens mean something there. */
static void roff(struct st_text *t, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool line_start = i == 0 || s[i - 1] == '\n';
		if (line_start && (s[i] == '.' || s[i] == '\''))
			st_text_puts(t, "\\&");
		if (s[i] == '\\')
			st_text_puts(t, "\\e");
		else if (s[i] == '-')
			st_text_puts(t, "\\-");
		else
			st_text_add(t, &s[i], 1);
	}
}

static void roff_line(struct st_text *t, const char *macro, const char *s)
{
	st_text_puts(t, macro);
	roff(t, s, strlen(s));
	st_text_puts(t, "\n");
}

static void paragraphs(struct st_text *t, const char *s)
{
	while (*s) {
		const char *end = strstr(s, "\n\n");
		size_t n = end ? (size_t)(end - s) : strlen(s);
		st_text_puts(t, ".PP\n");
		roff(t, s, n);
		st_text_puts(t, "\n");
		s += n;
		s += strspn(s, "\n");
	}
}

static void verbatim(struct st_text *t, const char *s)
{
	st_text_puts(t, ".PP\n.nf\n.RS 4\n");
	roff(t, s, strlen(s));
	st_text_puts(t, s[0] && s[strlen(s) - 1] == '\n' ? ".RE\n.fi\n" : "\n.RE\n.fi\n");
}

static void title(struct st_text *t, const char *name)
{
	st_text_puts(t, ".TH ");
	for (const char *s = name; *s; s++) {
		char c = *s == ' ' ? '-' : (char)toupper((unsigned char)*s);
		roff(t, &c, 1);
	}
	/* No date: the page is the same bytes whenever it is built. */
	st_text_printf(t, " 1 \"\" \"Stele %s\" \"Stele\"\n", st_version());
}

static void synopsis_piece(void *user, const char *piece) { roff_line(user, "", piece); }

static void param(struct st_text *t, const struct cli_param *p, bool option)
{
	st_text_puts(t, ".TP\n");
	if (!option) {
		st_text_printf(t, ".I %s\n", p->name);
	} else {
		st_text_puts(t, ".B ");
		if (p->letter)
			st_text_printf(t, "\\-%c, ", p->letter);
		st_text_puts(t, "\\-\\-");
		roff(t, p->name, strlen(p->name));
		if (p->type != CLI_TYPE_BOOL)
			st_text_printf(t, " \\fI%s\\fR", p->arg);
		st_text_puts(t, "\n");
	}
	roff(t, p->help, strlen(p->help));
	if (p->type == CLI_TYPE_CHOICE) {
		st_text_puts(t, "; one of");
		for (const char *c = p->choices; *c;) {
			size_t n = strcspn(c, "|");
			st_text_puts(t, c == p->choices ? " " : ", ");
			roff(t, c, n);
			c += n + (c[n] == '|');
		}
	}
	st_text_puts(t, ".\n");
}

static void exit_status(struct st_text *t, const char *s)
{
	st_text_puts(t, ".SH EXIT STATUS\n");
	while (*s) {
		size_t n = strcspn(s, "\n"), digits = strcspn(s, " ");
		size_t blanks = strspn(s + digits, " ");
		st_text_printf(t, ".TP\n.B %.*s\n", (int)digits, s);
		roff(t, s + digits + blanks, n - digits - blanks);
		st_text_puts(t, "\n");
		s += n + (s[n] == '\n');
	}
}

static void overview(struct st_text *t)
{
	title(t, "stele");
	roff_line(t, ".SH NAME\n",
	          "stele - find the first tensor where two versions of one model disagree, and say why");
	st_text_puts(t, ".SH SYNOPSIS\n.B stele\n.I COMMAND\n[\n.I ARGUMENTS\n]\n.SH DESCRIPTION\n");
	paragraphs(t, "Stele compares two files of one transformer model: it evaluates both stage by stage, says which "
	              "stage is the first to "
	              "differ by more than rounding and storage explain, and names the cause after confirming it. What "
	              "other engines "
	              "computed is compared stage by stage with a trace that Stele makes.\n\n"
	              "Data goes to standard output, everything else to standard error. With --json the result, or the "
	              "error, is one JSON "
	              "document on standard output.");
	st_text_puts(t, ".SH COMMANDS\n");
	for (size_t i = 0; i < cli_n_commands; i++) {
		roff_line(t, ".TP\n.B ", cli_commands[i]->name);
		roff(t, cli_commands[i]->summary, strlen(cli_commands[i]->summary));
		st_text_puts(t, ".\n");
	}
	exit_status(t, cli_common_exit_status);
	roff_line(t, ".TP\n.B 130\n",
	          "interrupted, by Ctrl-C, a closed terminal or SIGTERM; the message says what was not done");
	roff_line(t, ".PP\n",
	          "The page of a command lists what it returns; those of stele replay mean something else.");
	st_text_puts(
		t,
		".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nSet and not empty: no colour.\n.TP\n.B COLUMNS\nHow wide reports are, 60 at the least; else the terminal\(aqs width. In a pipe, with neither, every row and sentence keeps its line.\n.SH SEE ALSO\n");
	for (size_t i = 0; i < cli_n_commands; i++) {
		st_text_puts(t, ".BR stele\\-");
		for (const char *s = cli_commands[i]->name; *s; s++)
			roff(t, *s == ' ' ? "-" : s, 1);
		st_text_puts(t, i + 1 < cli_n_commands ? " (1),\n" : " (1)\n");
	}
}

void cli_man(struct st_text *t, const struct cli_command *cmd)
{
	if (!cmd) {
		overview(t);
		return;
	}
	char name[64];
	snprintf(name, sizeof name, "stele %s", cmd->name);
	title(t, name);
	st_text_puts(t, ".SH NAME\nstele\\-");
	for (const char *s = cmd->name; *s; s++)
		roff(t, *s == ' ' ? "-" : s, 1);
	roff_line(t, " \\- ", cmd->summary);
	roff_line(t, ".SH SYNOPSIS\n.B stele ", cmd->name);
	cli_synopsis(cmd, synopsis_piece, t);
	st_text_puts(t, ".SH DESCRIPTION\n");
	paragraphs(t, cmd->description);
	st_text_puts(t, ".SH OPTIONS\n");
	for (const struct cli_param *p = cmd->positionals; p && p->name; p++)
		param(t, p, false);
	for (const struct cli_param *p = cmd->options; p && p->name; p++)
		param(t, p, true);
	exit_status(t, cmd->exit_status ? cmd->exit_status : cli_common_exit_status);
	if (cmd->examples) {
		st_text_puts(t, ".SH EXAMPLES\n");
		verbatim(t, cmd->examples);
	}
	st_text_puts(t, ".SH SEE ALSO\n.BR stele (1)\n");
}
