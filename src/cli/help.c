/* help.c - the overview, and one command's --help, from its tables. */
#include "cli/internal.h"

#include <string.h>

const char cli_common_exit_status[] = "0  the same, or different only as expected\n"
				      "1  a fault, or a value beyond --threshold\n"
				      "2  trouble: usage, unreadable or inconsistent input\n"
				      "3  undecided";

static void emit_param(struct st_text *t, const struct cli_param *p, bool option)
{
	if (!option)
		st_text_printf(t, "%s%s", p->name, p->type == CLI_TYPE_LIST ? "..." : "");
	else if (p->type == CLI_TYPE_BOOL)
		st_text_printf(t, "--%s", p->name);
	else
		st_text_printf(t, "--%s %s%s", p->name, p->arg, p->type == CLI_TYPE_LIST ? " ..." : "");
}

/* One piece: a parameter alone, or with the rest of its group, "(TEXT | --file F)". */
static void emit_piece(const struct cli_command *cmd, const struct cli_param *first,
                       void (*emit)(void *user, const char *piece), void *user)
{
	const struct cli_param *tables[] = { cmd->positionals, cmd->options };
	struct st_text t = { 0 };
	bool required = first->flags & CLI_REQUIRED;
	st_text_puts(&t, !required ? "[" : first->group ? "(" : "");
	emit_param(&t, first, cli_is_option(cmd, first));
	for (size_t i = 0; i < 2; i++) {
		for (const struct cli_param *p = tables[i]; first->group && p && p->name; p++) {
			if (p == first || p->group != first->group)
				continue;
			st_text_puts(&t, " | ");
			emit_param(&t, p, cli_is_option(cmd, p));
		}
	}
	st_text_puts(&t, !required ? "]" : first->group ? ")" : "");
	if (!t.failed)
		emit(user, t.s);
	st_text_release(&t);
}

void cli_synopsis(const struct cli_command *cmd, void (*emit)(void *user, const char *piece), void *user)
{
	int done[32];
	size_t n_done = 0;
	/* Positionals, then what must be given, then the rest, each in table order. */
	for (int pass = 0; pass < 3; pass++) {
		for (const struct cli_param *p = pass == 0 ? cmd->positionals : cmd->options; p && p->name; p++) {
			if (pass > 0 && (pass == 1) != !!(p->flags & CLI_REQUIRED))
				continue;
			bool again = false;
			for (size_t i = 0; p->group && i < n_done; i++)
				again |= done[i] == p->group;
			if (again)
				continue;
			if (p->group && n_done < sizeof done / sizeof *done)
				done[n_done++] = p->group;
			emit_piece(cmd, p, emit, user);
		}
	}
}

/* Words flowed into lines that end before `width`, later lines indented. */
struct flow {
	struct st_text *t;
	size_t indent, width, column;
};

static void flow_piece(void *user, const char *piece)
{
	struct flow *f = user;
	size_t n = strlen(piece);
	if (f->column > f->indent && f->column + 1 + n > f->width) {
		st_text_puts(f->t, "\n");
		st_text_pad(f->t, f->indent);
		f->column = f->indent;
	} else if (f->column > f->indent) {
		st_text_puts(f->t, " ");
		f->column++;
	}
	st_text_puts(f->t, piece);
	f->column += n;
}

/* A piece of the synopsis; a long group of alternatives may break between them. */
static void flow_synopsis(void *user, const char *piece)
{
	const struct flow *f = user;
	char part[256];
	for (const char *bar; strlen(piece) > f->width - f->indent && (bar = strstr(piece, " | ")); piece = bar + 3) {
		snprintf(part, sizeof part, "%.*s |", (int)(bar - piece), piece);
		flow_piece(user, part);
	}
	flow_piece(user, piece);
}

static void flow_words(struct st_text *t, const char *s, size_t indent, size_t width)
{
	struct flow f = { t, indent, width, indent };
	while (*s) {
		char word[128];
		size_t n = strcspn(s, " \n");
		n = n < sizeof word ? n : sizeof word - 1;
		memcpy(word, s, n);
		word[n] = '\0';
		if (n)
			flow_piece(&f, word);
		s += n;
		s += strspn(s, " \n");
	}
}

#define TERM_COLUMN 28

static void help_param(struct st_text *t, const struct cli_param *p, bool option, size_t width)
{
	struct st_text term = { 0 };
	if (!option)
		st_text_printf(&term, "  %s", p->name);
	else if (p->letter)
		st_text_printf(&term, "  -%c, --%s", p->letter, p->name);
	else
		st_text_printf(&term, "      --%s", p->name);
	if (option && p->type != CLI_TYPE_BOOL)
		st_text_printf(&term, " %s", p->arg);
	st_text_add(t, term.s, term.len);
	if (term.len + 2 > TERM_COLUMN) {
		st_text_puts(t, "\n");
		st_text_pad(t, TERM_COLUMN);
	} else {
		st_text_pad(t, TERM_COLUMN - term.len);
	}
	flow_words(t, p->help, TERM_COLUMN, width);
	if (p->type == CLI_TYPE_CHOICE) {
		st_text_puts(t, "\n");
		st_text_pad(t, TERM_COLUMN);
		struct st_text list = { 0 };
		st_text_printf(&list, "one of: %s", p->choices);
		for (char *c = list.s; c && *c; c++)
			*c = *c == '|' ? ' ' : *c;
		flow_words(t, list.s ? list.s : "", TERM_COLUMN, width);
		t->failed |= list.failed;
		st_text_release(&list);
	}
	st_text_puts(t, "\n");
	st_text_release(&term);
}

/* The last blank of s outside of quotes that leaves at most `room` bytes before it; n where all of it fits or none
 * does. */
static size_t break_of(const char *s, size_t n, size_t room)
{
	size_t at = n;
	bool inside = false;
	for (size_t i = 0; n > room && i < n && (i <= room || at == n); i++) {
		inside ^= s[i] == '"' || s[i] == '\'';
		if (s[i] == ' ' && !inside && i > 0)
			at = i;
	}
	return at;
}

/* Commands to copy: a long one goes on as the shell has it. */
static void help_examples(struct st_text *t, const char *s, size_t width)
{
	st_text_puts(t, "\nExamples:\n");
	while (*s) {
		size_t n = strcspn(s, "\n"), room = width - 4;
		for (const char *indent = "  "; n; indent = "      ") {
			size_t at = break_of(s, n, room);
			st_text_printf(t, "%s%.*s%s\n", indent, (int)at, s, at < n ? " \\" : "");
			s += at < n ? at + 1 : n;
			n = at < n ? n - at - 1 : 0;
			room = width - 8;
		}
		s += *s == '\n';
	}
}

void cli_help(struct st_text *t, const struct cli_command *cmd)
{
	size_t width = cli_page(stdout).columns;
	width = width > 100 ? 100 : !width ? 80 : width;
	st_text_printf(t, "usage: stele %s ", cmd->name);
	struct flow f = { t, strlen("usage: stele ") + strlen(cmd->name) + 1, width,
		          strlen("usage: stele ") + strlen(cmd->name) + 1 };
	cli_synopsis(cmd, flow_synopsis, &f);
	st_text_printf(t, "\n\n%c%s.\n", cmd->summary[0] - 'a' + 'A', cmd->summary + 1);
	if (cmd->positionals && cmd->positionals->name)
		st_text_puts(t, "\nArguments:\n");
	for (const struct cli_param *p = cmd->positionals; p && p->name; p++)
		help_param(t, p, false, width);
	st_text_puts(t, "\nOptions:\n");
	for (const struct cli_param *p = cmd->options; p && p->name; p++)
		help_param(t, p, true, width);
	static const struct cli_param help = { "help", 'h', NULL, "show this and stop", CLI_TYPE_BOOL, 0, NULL, 0, 0 };
	help_param(t, &help, true, width);
	st_text_printf(t, "\nExit status:\n");
	for (const char *s = cmd->exit_status ? cmd->exit_status : cli_common_exit_status; *s;) {
		size_t n = strcspn(s, "\n"), digits = strcspn(s, " ");
		char meaning[512];
		snprintf(meaning, sizeof meaning, "%.*s", (int)(n - digits), s + digits);
		st_text_printf(t, "  %.*s  ", (int)digits, s);
		flow_words(t, meaning, 5, width);
		st_text_puts(t, "\n");
		s += n + (s[n] == '\n');
	}
	if (cmd->examples)
		help_examples(t, cmd->examples, width);
}

void cli_overview(struct st_text *t, const char *group)
{
	size_t len = group ? strlen(group) : 0;
	st_text_printf(t, "usage: stele %s%sCOMMAND [ARGUMENTS]\n\n", group ? group : "", group ? " " : "");
	if (!group)
		st_text_puts(t,
		             "One model, several scripts: find the first tensor where they disagree, and say why.\n\n");
	st_text_puts(t, "Commands:\n");
	for (size_t i = 0; i < cli_n_commands; i++)
		if (!group || (strncmp(cli_commands[i]->name, group, len) == 0 && cli_commands[i]->name[len] == ' '))
			st_text_printf(t, "  %-14s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
	if (group)
		st_text_printf(t, "\n'stele help %s COMMAND' shows a command's arguments.\n", group);
	else
		st_text_puts(t, "\n'stele help COMMAND' shows a command's arguments, 'stele --version' the version.\n");
}
