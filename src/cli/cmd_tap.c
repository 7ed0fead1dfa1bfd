/* stele tap - run a ggml program, unchanged, and keep what it computes. The object that is preloaded is taps/ggml. */
#include "cli/cli.h"

#include "base/error.h"
#include "base/files.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct opts {
	const char *out, *stages, *layers, *pass;
	struct cli_list command;
	uint32_t steps;
	bool all, no_hash;
};

static const struct opts defaults = { .steps = 4 };

static const struct cli_param options[] = {
	{ "output", 'o', "TRACE", "the bundle to write", CLI_PATH(struct opts, out), .flags = CLI_REQUIRED },
	{ "stages", 0, "LIST", "keep these stages alone, comma separated (default: all that the engine shows)",
	  CLI_STR(struct opts, stages) },
	{ "layers", 0, "A..B", "keep layers A to B - 1, and what is in none (default: all)", CLI_STR(struct opts, layers) },
	{ "pass", 0, "N|TOKENS",
	  "trace the prompt of this number, from 0, or the one that begins with these ids, comma separated (default: the "
	  "first that is no warm-up)",
	  CLI_STR(struct opts, pass) },
	{ "steps", 0, "N", "keep N decode steps after it (default: 4)", CLI_U32(struct opts, steps) },
	{ "all", 0, NULL, "ask for every node, so that the engine fuses nothing; the trace says so",
	  CLI_BOOL(struct opts, all) },
	{ "no-hash", 0, NULL, "do not read the model's file for its SHA-256", CLI_BOOL(struct opts, no_hash) },
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "COMMAND", 0, NULL, "the program and its arguments, after --", CLI_LIST(struct opts, command),
	  .flags = CLI_REQUIRED },
	{ 0 }
};

/* The stages that the tap knows of. */
static const char *const stages[] = { "attention", "attn_out", "lm_head",
#define STAGE(node, op, stage, axis) stage,
#include <ggml_stages.def> /* the table of the taps, which are no room */
#undef STAGE
};

static int check_stages(struct cli *c, const char *list)
{
	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		size_t n = strcspn(p, ","), i = 0;
		while (i < sizeof stages / sizeof *stages && (strlen(stages[i]) != n || strncmp(stages[i], p, n) != 0))
			i++;
		if (i < sizeof stages / sizeof *stages)
			continue;
		char known[1024] = "";
		for (size_t k = 0, at = 0; k < sizeof stages / sizeof *stages; k++) {
			size_t seen = 0;
			while (seen < k && strcmp(stages[seen], stages[k]) != 0)
				seen++;
			if (seen == k)
				at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", k ? ", " : "", stages[k]);
		}
		return cli_usage(c, "--stages: '%.*s' is none that the tap knows: %s", (int)(n < 60 ? n : 60), p, known);
	}
	return CLI_SAME;
}

static bool is_number(const char *s, const char *end, uint64_t most)
{
	errno = 0;
	char *e;
	return s < end && *s >= '0' && *s <= '9' && strtoul(s, &e, 10) <= most && errno == 0 && e == end;
}

static int check(struct cli *c, const struct opts *o)
{
	const char *dots = o->layers ? strstr(o->layers, "..") : NULL, *end = o->pass ? o->pass + strlen(o->pass) : NULL;
	if (o->layers
	    && (!dots || !is_number(o->layers, dots, 65535) || !is_number(dots + 2, o->layers + strlen(o->layers), 65535)
	        || strtoul(o->layers, NULL, 10) >= strtoul(dots + 2, NULL, 10)))
		return cli_usage(c, "--layers: '%.60s' is no range A..B", o->layers);
	for (const char *p = o->pass, *q; p; p = q < end ? q + 1 : NULL) {
		q = p + strcspn(p, ",");
		if (!is_number(p, q, INT32_MAX))
			return cli_usage(c, "--pass: '%.60s' is neither a number nor a list of token ids", o->pass);
	}
	if (o->steps > 1000000)
		return cli_usage(c, "--steps: %" PRIu32 " are more than a trace holds", o->steps);
	return o->stages ? check_stages(c, o->stages) : CLI_SAME;
}

/* Beside the command as it was built, or where it is installed. */
static bool find_object(char *path, size_t size)
{
	static const char *const places[] = { "taps/ggml/stele-ggml-tap.so", "../" STELE_LIBDIR "/stele/stele-ggml-tap.so" };
	char exe[2048];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n <= 0)
		return false;
	exe[n] = '\0';
	char *slash = strrchr(exe, '/');
	*slash = '\0';
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(path, size, "%s/%s", exe, places[i]);
		if (access(path, R_OK) == 0)
			return true;
	}
	return false;
}

static bool is_gguf(const char *path)
{
	char magic[4] = "";
	struct stat st;
	if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return false;
	FILE *f = fopen(path, "rb");
	bool yes = f && fread(magic, 1, sizeof magic, f) == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
	if (f)
		fclose(f);
	return yes;
}

/* Lines "path<tab>sha256" of the models that the command line names: the engine says which of them it opened. */
static enum st_status list_models(const struct opts *o, struct st_text *t, struct st_error *err)
{
	for (size_t i = 1; i < o->command.n; i++) {
		char hex[65] = "", *path = is_gguf(o->command.items[i]) ? realpath(o->command.items[i], NULL) : NULL;
		enum st_status st = path && !o->no_hash ? st_file_sha256(path, hex, NULL, err) : ST_OK;
		if (path)
			st_text_printf(t, "%s\t%s\n", path, hex);
		free(path);
		ST_TRY(st);
	}
	return ST_OK;
}

static pid_t child;

static void pass_on(int sig)
{
	if (child > 0)
		kill(child, sig);
}

/* The terminal interrupts both; the engine decides. What is sent to this process alone is passed on. */
static void leave_signals_to_child(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, forward = { .sa_handler = pass_on };
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGQUIT, &ignore, NULL);
	sigaction(SIGTERM, &forward, NULL);
	sigaction(SIGHUP, &forward, NULL);
}

extern char **environ;

static int spawn(char *const argv[])
{
	posix_spawnattr_t attr;
	sigset_t usual;
	sigemptyset(&usual);
	for (int i = 0; i < 5; i++)
		sigaddset(&usual, (const int[]){ SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGPIPE }[i]);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &usual);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	int failed = posix_spawnp(&child, argv[0], NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	return failed;
}

static void set(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	char object[4200], claim[] = "/tmp/stele-tap-XXXXXX", steps[16];
	struct st_text models = { 0 }, preload = { 0 };
	struct stat before = { 0 }, after = { 0 };
	int rc = check(c, o), status = 0;
	if (rc != CLI_SAME)
		return rc;
	if (!find_object(object, sizeof object))
		return cli_usage(c, "stele-ggml-tap.so is not where it was installed");
	if (list_models(o, &models, &err) != ST_OK) {
		st_text_release(&models);
		return cli_fail(c, &err);
	}
	const char *loaded = getenv("LD_PRELOAD");
	st_text_printf(&preload, "%s%s%s", object, loaded && *loaded ? ":" : "", loaded ? loaded : "");
	char **argv = st_alloc_array(o->command.n + 1, sizeof *argv);
	int fd = mkstemp(claim);
	if (!argv || models.failed || preload.failed || fd < 0) {
		free(argv);
		st_text_release(&models);
		st_text_release(&preload);
		return fd < 0 ? cli_usage(c, "%s: %s", claim, strerror(errno)) : cli_no_memory(c);
	}
	close(fd);
	memcpy(argv, o->command.items, o->command.n * sizeof *argv);
	argv[o->command.n] = NULL;
	snprintf(steps, sizeof steps, "%" PRIu32, o->steps);
	char *out = o->out[0] == '/' ? NULL : getcwd(NULL, 0); /* the engine may change its folder */
	struct st_text place = { 0 };
	st_text_printf(&place, "%s%s%s", out ? out : "", out ? "/" : "", o->out);
	free(out);
	set("STELE_TAP_OUT", place.s);
	set("STELE_TAP_STAGES", o->stages);
	set("STELE_TAP_LAYERS", o->layers);
	set("STELE_TAP_PASS", o->pass);
	set("STELE_TAP_STEPS", steps);
	set("STELE_TAP_ALL", o->all ? "1" : NULL);
	set("STELE_TAP_MODELS", models.s);
	set("STELE_TAP_CLAIM", claim);
	set("LD_PRELOAD", preload.s);
	bool there = stat(o->out, &before) == 0;
	leave_signals_to_child();
	int failed = spawn(argv);
	while (!failed && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	bool unclaimed = unlink(claim) == 0;
	bool written = stat(o->out, &after) == 0
	            && (!there || before.st_ino != after.st_ino || before.st_mtim.tv_sec != after.st_mtim.tv_sec
	                || before.st_mtim.tv_nsec != after.st_mtim.tv_nsec);
	if (failed)
		rc = cli_usage(c, "%s: %s", argv[0], strerror(failed));
	else if (!written && WIFSIGNALED(status))
		cli_note(c, "%s was ended by signal %d; no trace was written", argv[0], WTERMSIG(status));
	else if (unclaimed)
		cli_note(c, "%s ran no graph of a shared ggml library%s; no trace was written", argv[0],
		         status ? "" : " (it may be linked statically)");
	if (!failed)
		rc = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	if (rc == CLI_SAME && !written)
		rc = CLI_TROUBLE;
	free(argv);
	st_text_release(&place);
	st_text_release(&models);
	st_text_release(&preload);
	return rc;
}

const struct cli_command cmd_tap = {
	.name = "tap",
	.summary = "run a llama.cpp program as it is and write a trace of what it computes",
	.description =
		"COMMAND is any program that is linked with ggml's shared libraries: llama-cli, llama-server, llama-bench, a "
		"distribution's package, Python with llama-cpp-python. It runs as without the tap, on the same terminal, with its own "
		"exit status; an object is preloaded that reads values out of the graph while it is evaluated. Nothing is rebuilt. On the "
		"CPU the logits are the same bits.\n\n"
		"A trace is one prompt and the decode steps behind it. The first prompt is taken, unless it is a warm-up (two tokens, "
		"after which the cache is cleared); --pass takes another. A prompt that is evaluated in pieces is joined by position. Of "
		"several sequences in one run the rows of one are kept. The file appears when the last step was evaluated or the "
		"program ends, whole or not at all.\n\n"
		"Only nodes that are stages are asked for, so that the engine fuses what it fuses otherwise; what is fused is not in the "
		"trace. With flash attention there are no scores. What else the engine does not show is absent, never zero. If the tap "
		"fails (a full disk, a ggml that it does not know) it says so in one line and the program goes on.",
	.examples = "stele tap -o t.safetensors -- llama-cli -m model.gguf -p 'The sky is' -n 4\n"
		    "stele tap -o t.safetensors --pass 1,450,7692 -- llama-server -m model.gguf\n"
		    "stele explain t.safetensors --model model.gguf\n",
	.exit_status = "0  the trace was written, and the program ended well\n"
		       "2  the program ended well, and no trace was written\n"
		       "N  the program's own status; 128 and the number of the signal that ended it\n",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
