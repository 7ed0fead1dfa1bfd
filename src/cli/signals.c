/*
 * signals.c - what ends a run from outside: interrupts, a closed pipe, a file that shrinks.
 *
 * The first SIGINT, SIGHUP, SIGTERM or SIGPIPE asks the library to stop; it then cleans up and the
 * command ends with ST_ERR_CANCELLED. A second signal kills. What does not stop by itself
 * within a second (a long call into another library) is ended here.
 */
#include "cli/internal.h"

#include "base/outfile.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t seen;
static struct cli *running;

static void put(int fd, const char *s)
{
	ssize_t n = write(fd, s, strlen(s));
	(void)n; /* nowhere to report it */
}

static void on_alarm(int sig)
{
	(void)sig;
	if (seen != SIGPIPE) {
		put(2, "stele ");
		put(2, running->cmd ? running->cmd->name : "");
		put(2, ": interrupted; ");
		put(2, st_outputs_placed() ? "the output is in place"
		       : running->undone   ? running->undone
		                           : "the work was not finished");
		put(2, "\n");
	}
	st_outdirs_remove();
	_exit(seen == SIGPIPE ? 128 + SIGPIPE : CLI_INTERRUPTED);
}

static void on_interrupt(int sig)
{
	if (seen == 0)
		seen = sig;
	st_cancel();
	alarm(1);
}

/* One JSON string's characters, written directly: nothing else is safe in a handler. */
static void put_json(int fd, const char *s)
{
	static const char hex[] = "0123456789abcdef";
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;
		char esc[] = { '\\', 'u', '0', '0', hex[ch >> 4], hex[ch & 15], '\0' }, plain[] = { *s, '\0' };
		put(fd, ch < 0x20 || ch == '"' || ch == '\\' ? esc : plain);
	}
}

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	const char *path = st_map_path_of(info->si_addr);
	if (!path) { /* not ours: let the default action show the bug */
		if (signal(sig, SIG_DFL) == SIG_ERR)
			abort();
		return;
	}
	if (running->json) {
		put(1, "{\"schema\": \"stele.error/1\", \"code\": \"io\", \"message\": \"the file became shorter while "
		       "it was read\", \"path\": \"");
		put_json(1, path);
		put(1, "\", \"offset\": null}\n");
	} else {
		put(2, "stele ");
		put(2, running->cmd ? running->cmd->name : "");
		put(2, ": ");
		put(2, path);
		put(2, ": the file became shorter while it was read\n");
	}
	st_outdirs_remove();
	_exit(running->cmd && running->cmd->trouble ? running->cmd->trouble : CLI_TROUBLE);
}

int cli_signal_seen(void) { return seen; }

void cli_signals_init(struct cli *c)
{
	running = c;
	struct sigaction act = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };
	sigemptyset(&act.sa_mask);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGPIPE, &act, NULL);
	/* A shell that starts a job in the background with SIGINT ignored means it, and so does nohup. */
	static const int unless_ignored[] = { SIGINT, SIGHUP };
	for (size_t i = 0; i < sizeof unless_ignored / sizeof *unless_ignored; i++) {
		struct sigaction old;
		if (sigaction(unless_ignored[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(unless_ignored[i], &act, NULL);
	}
	act.sa_flags = 0;
	act.sa_handler = on_alarm;
	sigaction(SIGALRM, &act, NULL);
	act.sa_flags = SA_SIGINFO;
	act.sa_sigaction = on_bus;
	sigaction(SIGBUS, &act, NULL);
	/* A write beyond a limit on file sizes then fails like one to a full disk, and is cleaned up after. */
	act.sa_flags = 0;
	act.sa_handler = SIG_IGN;
	sigaction(SIGXFSZ, &act, NULL);
}
