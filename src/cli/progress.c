/* progress.c - the log and the progress bar, both on stderr. */
#include "cli/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* The bar appears when work has lasted this long and is redrawn at most this often. */
#define FIRST_AFTER 1.0
#define REDRAW_AFTER 0.1

static struct {
	double started, drawn;
	bool begun, visible;
} bar;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t cli_columns(FILE *f)
{
	struct winsize w;
	return ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

static size_t wanted_columns(FILE *f)
{
	struct winsize w;
	const char *s = getenv("COLUMNS");
	char *rest = NULL;
	unsigned long n = s && s[0] >= '0' && s[0] <= '9' ? strtoul(s, &rest, 10) : 0;
	if (n && !*rest && n < 100000)
		return n;
	return ioctl(fileno(f), TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

struct st_page cli_page(FILE *f)
{
	enum { LEAST = 60 };
	size_t n = wanted_columns(f);
	n = n && n < LEAST ? LEAST : n;
	return (struct st_page){ .columns = n, .wrap = n, .colour = cli_colour(f) };
}

bool cli_colour(FILE *f)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
	return isatty(fileno(f)) && !(no && no[0]) && !(term && strcmp(term, "dumb") == 0);
}

void cli_progress_clear(void)
{
	if (bar.visible)
		fputs("\r\033[K", stderr);
	bar.visible = false;
}

static void progress(void *user, const char *what, uint64_t done, uint64_t total)
{
	(void)user;
	double t = now();
	if (!bar.begun) {
		bar.begun = true;
		bar.started = t;
	}
	if (t - bar.started < FIRST_AFTER || t - bar.drawn < REDRAW_AFTER)
		return;
	bar.drawn = t;
	double part = total ? (double)done / (double)total : 0;
	part = part > 1 ? 1 : part;
	struct st_text line = { 0 };
	size_t cols = cli_columns(stderr), cells = cols / 3;
	st_text_printf(&line, "%3.0f%% [", 100 * part);
	for (size_t i = 0; i < cells; i++)
		st_text_puts(&line, (double)i < part * (double)cells ? "#" : " ");
	st_text_puts(&line, "] ");
	/* Names are long and the bar must stay on one line: what does not fit is left out. */
	size_t room = cols > line.len + 1 ? cols - line.len - 1 : 0, n = strlen(what);
	while (n > room || (n > 0 && ((unsigned char)what[n] & 0xC0) == 0x80))
		n--;
	st_text_add_safe(&line, what, n);
	if (!line.failed) {
		fprintf(stderr, "\r%s\033[K", line.s);
		bar.visible = true;
	}
	st_text_release(&line);
}

static void log_line(void *user, const char *line)
{
	(void)user;
	struct st_text safe = { 0 };
	st_text_add_safe(&safe, line, strlen(line));
	cli_progress_clear();
	fprintf(stderr, "%s\n", safe.failed || !safe.s ? "" : safe.s);
	st_text_release(&safe);
}

struct st_hooks cli_hooks(struct cli *c)
{
	struct st_hooks h = { .user = c };
	if (!c->quiet) {
		h.log = log_line;
		h.progress = isatty(STDERR_FILENO) ? progress : NULL;
	}
	return h;
}
