/* output.c - results to stdout, failures where the caller looks for them. */
#include "cli/internal.h"

#include "base/error.h"
#include "format/container.h"
#include "report/json.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

/* Nothing of a result that could not be put together is printed. */
static _Noreturn void no_memory(void)
{
	fputs("stele: out of memory\n", stderr);
	_exit(CLI_TROUBLE);
}

/* stdio remembers that a write failed and not why. */
static int write_error;

static void note_write(bool ok)
{
	if (!ok && !write_error)
		write_error = errno;
}

int cli_write_error(void) { return write_error; }
void cli_flush(void) { note_write(fflush(stdout) == 0); }

void cli_print(const char *s, const char *end) { note_write(printf("%s%s", s, end) >= 0); }

void cli_print_text(const struct st_text *t)
{
	if (t->failed)
		no_memory();
	if (t->len)
		note_write(fwrite(t->s, 1, t->len, stdout) == t->len);
}

void cli_print_json(json_t *j)
{
	char *s = st_json_print(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
	if (!s)
		no_memory();
	/* JSON may be read on a terminal too. What could drive one stands inside of strings, where it has another
	 * spelling. */
	struct st_text safe = { 0 };
	st_text_add_json(&safe, s);
	st_text_puts(&safe, "\n");
	cli_print_text(&safe);
	st_text_release(&safe);
	free(s);
}

int cli_fail(struct cli *c, const struct st_error *err)
{
	int trouble = c->cmd && c->cmd->trouble ? c->cmd->trouble : CLI_TROUBLE;
	cli_progress_clear();
	if (err->code == ST_ERR_CANCELLED && cli_signal_seen() == SIGPIPE)
		return 128 + SIGPIPE; /* the reader has gone: nothing to tell and nobody to tell it */
	struct st_error e = *err;
	if (err->code == ST_ERR_CANCELLED)
		snprintf(e.message, sizeof e.message, "interrupted; %s",
		         c->undone ? c->undone : "the work was not finished");
	if (c->json) {
		json_t *j = st_json_error(&e);
		cli_print_json(j);
		json_decref(j);
	} else {
		char line[1400];
		st_error_format(&e, line, sizeof line);
		fprintf(stderr, "stele%s%s: %s\n", c->cmd ? " " : "", c->cmd ? c->cmd->name : "", line);
	}
	return err->code == ST_ERR_CANCELLED ? CLI_INTERRUPTED : trouble;
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
	struct st_error err = ST_ERROR_INIT;
	err.code = ST_ERR_USAGE;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err.message, sizeof err.message, fmt, ap);
	va_end(ap);
	return cli_fail(c, &err);
}

int cli_no_memory(struct cli *c)
{
	struct st_error err = ST_ERROR_INIT;
	(void)st_fail(&err, ST_ERR_NOMEM, "out of memory");
	return cli_fail(c, &err);
}

void cli_note(struct cli *c, const char *fmt, ...)
{
	if (c->quiet)
		return;
	cli_progress_clear();
	fprintf(stderr, "stele %s: ", c->cmd->name);
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}
