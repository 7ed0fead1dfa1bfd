/* stele replay - a packed KV-cache attention kernel against oracles. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/map.h"

#include <stele/replay.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

struct opts {
	bool singlestep, multistep, production, lint, make;
	const char *gate;
	const char *manifest, *against, *out, *variation, *canary, *oracle, *kernel, *q_dtype, *signs, *visibility,
		*seeding, *seed;
	const char *table, *kind, *session, *bits;
	uint32_t threads, null_seeds, iter;
	bool asymmetric, json, quiet;
};

enum { GROUP_MODE = 1 };

static const struct cli_param options[] = {
	{ "singlestep", 0, NULL, "run one captured step (the default with --manifest)",
	  CLI_BOOL(struct opts, singlestep), .group = GROUP_MODE },
	{ "multistep", 0, NULL, "run four synthetic positions of a ring buffer", CLI_BOOL(struct opts, multistep),
	  .group = GROUP_MODE },
	{ "production-faithful", 0, NULL, "run the gates, the registered sweeps and their null distribution",
	  CLI_BOOL(struct opts, production), .group = GROUP_MODE },
	{ "codebook-lint", 0, NULL, "measure codebooks against the optimum", CLI_BOOL(struct opts, lint),
	  .group = GROUP_MODE },
	{ "make-manifest", 0, NULL, "write a synthetic capture into the folder --out", CLI_BOOL(struct opts, make),
	  .group = GROUP_MODE },
	{ "gate", 0, "NAME", "run one regression gate alone",
	  CLI_CHOICE(struct opts, gate, "round_trip|bitwidth|kernel"), .group = GROUP_MODE },
	{ "manifest", 0, "FILE", "the capture: params and paths of raw dumps", CLI_PATH(struct opts, manifest) },
	{ "variation", 0, "X", "A rotates query and output, B does not, C attends over decoded rows (default: A)",
	  CLI_CHOICE(struct opts, variation, "A|B|C") },
	{ "canary", 0, "WHERE", "change norms on both sides and see what follows",
	  CLI_CHOICE(struct opts, canary, "in-range|out-of-range") },
	{ "canary-asymmetric", 0, NULL, "change the in-range canary for the kernel alone",
	  CLI_BOOL(struct opts, asymmetric) },
	{ "oracle", 0, "WHICH", "references to compare with (default: all that the capture allows)",
	  CLI_CHOICE(struct opts, oracle, "dequant|independent-floor|both") },
	{ "against", 0, "FILE", "explain this output of another engine instead of running the kernel",
	  CLI_PATH(struct opts, against) },
	{ "out", 0, "PATH", "base name of the files to write; of an audit the folder, or the file NAME.json",
	  CLI_PATH(struct opts, out) },
	{ "kernel", 0, "LEVEL", "the kernel to test (default: the best here)",
	  CLI_CHOICE(struct opts, kernel, "scalar|avx2|avx512|neon") },
	{ "q-dtype", 0, "TYPE", "type of the query inside the kernel (default: f32)",
	  CLI_CHOICE(struct opts, q_dtype, "f32|f16") },
	{ "signs", 0, "WHICH", "signs before the transform (default: as captured, else none)",
	  CLI_CHOICE(struct opts, signs, "none|d1") },
	{ "bits", 0, "N", "width of a code (default: as captured, else 4)", CLI_CHOICE(struct opts, bits, "4|5|6|8") },
	{ "visibility", 0, "HOW", "rows the kernel reads (default: chronological)",
	  CLI_CHOICE(struct opts, visibility, "chronological|physical") },
	{ "seed", 0, "N", "seed of synthetic data, decimal or 0x hexadecimal (default: 0xC25EED)",
	  CLI_STR(struct opts, seed) },
	{ "seeding", 0, "HOW", "how multistep derives sub-seeds (default: splitmix)",
	  CLI_CHOICE(struct opts, seeding, "splitmix|xor") },
	{ "null-seeds", 0, "N", "seeds of the null distribution, at least 200 (default: 200)",
	  CLI_U32(struct opts, null_seeds) },
	{ "session", 0, "TEXT", "recorded in the audit", CLI_STR(struct opts, session) },
	{ "iter", 0, "N", "recorded in the audit (default: 1)", CLI_U32(struct opts, iter) },
	{ "table", 0, "FILE", "lint these levels: numbers, or the upper half of a symmetric table",
	  CLI_PATH(struct opts, table) },
	{ "kind", 0, "NAME", "which capture to make (default: ring)",
	  CLI_CHOICE(struct opts, kind, "linear|ring|partial|d512|d128") },
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

/* ---- gates: this very program as a child process ---- */

/* What identifies a build: the digest of the program file that this process runs. */
static bool own_build(char hex[65])
{
	struct st_map m;
	struct st_error err = ST_ERROR_INIT;
	/* The link leads to the running file even after an update gave its name to another one. */
	if (st_map_open(&m, "/proc/self/exe", &err) != ST_OK)
		return false;
	bool ok = st_sha256_hex(m.data, m.size, hex, &err) == ST_OK;
	st_map_close(&m);
	return ok;
}

struct gate_user {
	const struct opts *o;
	struct cli *c;
};

/* Read to the end; keep the last bytes. An interrupt ends the child: it writes nothing, and nobody waits for it any
 * more. */
static void drain(int fd, pid_t child, char *out, size_t size)
{
	char buf[4096];
	size_t len = 0;
	for (;;) {
		/* An interrupt just before the call is seen at the next turn. */
		int ready = poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 50);
		if (st_cancelled()) {
			kill(child, SIGKILL);
			break;
		}
		if (ready == 0 || (ready < 0 && errno == EINTR))
			continue;
		ssize_t k = read(fd, buf, sizeof buf);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			break;
		for (ssize_t i = 0; i < k; i++) {
			if (len == size - 1) {
				memmove(out, out + size / 2, len - size / 2);
				len -= size / 2;
			}
			out[len++] = buf[i];
		}
	}
	out[len] = '\0';
}

static bool run_gate(void *user, const char *gate, struct st_replay_gate_result *r)
{
	const struct gate_user *u = user;
	char threads[16];
	const char *args[] = {
		"stele",      "replay", "--gate", gate, "--threads", threads, u->o->kernel ? "--kernel" : NULL,
		u->o->kernel, NULL
	};
	int fd[2];
	pid_t pid;
	posix_spawn_file_actions_t acts;
	snprintf(threads, sizeof threads, "%d", cli_threads(u->o->threads));
	if (pipe2(fd, O_CLOEXEC) != 0)
		return false;
	posix_spawn_file_actions_init(&acts);
	posix_spawn_file_actions_adddup2(&acts, fd[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&acts, fd[1], STDERR_FILENO);
	double start = st_now_ms();
	int rc = posix_spawn(&pid, "/proc/self/exe", &acts, NULL, (char *const *)args, environ);
	posix_spawn_file_actions_destroy(&acts);
	close(fd[1]);
	if (rc == 0) {
		int status;
		drain(fd[0], pid, r->output, sizeof r->output);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		r->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		r->duration_ms = st_now_ms() - start;
		/* The child's last line says which program it was. */
		char *build = NULL;
		for (char *p = r->output; (p = strstr(p, "build ")) != NULL; p++)
			build = p;
		if (build && strcspn(build + 6, "\n") == 64) {
			memcpy(r->build_id, build + 6, 64);
			r->build_id[64] = '\0';
		}
	}
	close(fd[0]);
	return rc == 0;
}

/* ---- the command ---- */

/* Choices match in any case. */
static bool is(const char *s, const char *what) { return s && !strcasecmp(s, what); }

static bool parse_seed(const char *s, uint64_t *out)
{
	char *end;
	errno = 0;
	*out = strtoull(s, &end, 0);
	return errno == 0 && end != s && !*end && s[0] >= '0' && s[0] <= '9';
}

/* What an option means in some modes only would be left out in silence in the others. */
enum {
	SINGLE = 1 << ST_REPLAY_SINGLESTEP,
	MULTI = 1 << ST_REPLAY_MULTISTEP,
	PRODUCTION = 1 << ST_REPLAY_PRODUCTION,
	LINT = 1 << ST_REPLAY_LINT,
	MAKE = 1 << ST_REPLAY_MAKE,
	GATE = 1 << ST_REPLAY_GATE,
	RUNS = SINGLE | MULTI | PRODUCTION,
	CACHES = RUNS | MAKE
};

/* NULL, or the option that has no meaning here. */
static const char *misplaced(const struct opts *o, enum st_replay_mode mode, const char **belongs)
{
	const struct {
		const char *name;
		bool given;
		unsigned modes;
		const char *belongs;
	} table[] = {
		{ "manifest", o->manifest != NULL, SINGLE, "a single step" },
		{ "against", o->against != NULL, SINGLE, "a single step" },
		{ "variation", o->variation != NULL, SINGLE, "a single step" },
		{ "canary", o->canary != NULL, SINGLE, "a single step" },
		{ "canary-asymmetric", o->asymmetric, SINGLE, "a single step" },
		{ "oracle", o->oracle != NULL, SINGLE, "a single step" },
		{ "seed", o->seed != NULL, MULTI | PRODUCTION | MAKE, "synthetic data" },
		{ "seeding", o->seeding != NULL, MULTI, "--multistep" },
		{ "null-seeds", o->null_seeds != 0, PRODUCTION, "--production-faithful" },
		{ "session", o->session != NULL, PRODUCTION, "--production-faithful" },
		{ "iter", o->iter != 0, PRODUCTION, "--production-faithful" },
		{ "table", o->table != NULL, LINT, "--codebook-lint" },
		{ "kind", o->kind != NULL, MAKE, "--make-manifest" },
		{ "q-dtype", o->q_dtype != NULL, RUNS, "a run of the kernel" },
		{ "visibility", o->visibility != NULL, RUNS, "a run of the kernel" },
		{ "bits", o->bits != NULL, CACHES, "a cache" },
		{ "signs", o->signs != NULL, CACHES, "a cache" },
		{ "kernel", o->kernel != NULL, CACHES | GATE, "a cache" },
		{ "out", o->out != NULL, CACHES | LINT, "modes that write files" },
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (table[i].given && !(table[i].modes >> mode & 1)) {
			*belongs = table[i].belongs;
			return table[i].name;
		}
	}
	return NULL;
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct gate_user user = { o, c };
	char build[65] = "";
	struct st_replay_options r = {
		.manifest = o->manifest,
		.against = o->against,
		.out = o->out,
		.variation = o->variation ? (char)toupper((unsigned char)o->variation[0]) : 'A',
		.kernel = o->kernel,
		.q_f16 = is(o->q_dtype, "f16"),
		.physical = is(o->visibility, "physical"),
		.bits = o->bits ? (unsigned)(o->bits[0] - '0') : 0,
		.threads = cli_threads(o->threads),
		.signs = !o->signs ? -1 : is(o->signs, "d1"),
		.seeding_xor = is(o->seeding, "xor"),
		.null_seeds = o->null_seeds,
		.session = o->session,
		.iter = o->iter,
		.table = o->table,
		.make = o->kind,
		.gate = o->gate,
		.hooks = cli_hooks(c),
	};
	if (!o->singlestep && !o->multistep && !o->production && !o->lint && !o->make && !o->gate && !o->manifest)
		return cli_usage(c, "say what to run: --manifest, --multistep, --production-faithful, --codebook-lint "
		                    "or --make-manifest");
	r.mode = o->multistep  ? ST_REPLAY_MULTISTEP
	       : o->production ? ST_REPLAY_PRODUCTION
	       : o->lint       ? ST_REPLAY_LINT
	       : o->make       ? ST_REPLAY_MAKE
	       : o->gate       ? ST_REPLAY_GATE
	                       : ST_REPLAY_SINGLESTEP;
	const char *belongs, *option = misplaced(o, r.mode, &belongs);
	if (option)
		return cli_usage(c, "--%s belongs to %s", option, belongs);
	/* An explanation evaluates the declared step itself, against its own reference. */
	if (o->against && (o->canary || o->asymmetric || o->oracle || r.variation != 'A'))
		return cli_usage(c, "--%s does not go with --against",
		                 o->canary       ? "canary"
		                 : o->asymmetric ? "canary-asymmetric"
		                 : o->oracle     ? "oracle"
		                                 : "variation");
	if (o->asymmetric && is(o->canary, "out-of-range"))
		return cli_usage(c, "--canary-asymmetric is an in-range canary");
	if (o->seed && !(r.seed_given = parse_seed(o->seed, &r.seed)))
		return cli_usage(c, "--seed: '%.60s' is not an integer in 0..2^64-1", o->seed);
	r.canary = o->asymmetric                 ? ST_CANARY_ASYMMETRIC
	         : is(o->canary, "in-range")     ? ST_CANARY_IN_RANGE
	         : is(o->canary, "out-of-range") ? ST_CANARY_OUT_OF_RANGE
	                                         : ST_CANARY_NONE;
	r.oracles = is(o->oracle, "dequant")           ? ST_ORACLE_DEQUANT
	          : is(o->oracle, "independent-floor") ? ST_ORACLE_FLOOR
	          : is(o->oracle, "both")              ? ST_ORACLE_DEQUANT | ST_ORACLE_FLOOR
	                                               : 0;
	if (r.mode == ST_REPLAY_PRODUCTION || r.mode == ST_REPLAY_GATE) {
		if (!own_build(build))
			return cli_usage(c, "gate: cannot read this program's own file");
		r.build_id = build;
		r.run_gate = run_gate;
		r.gate_user = &user;
	}
	c->undone = "the replay was not finished and nothing was written";
	struct st_replay_report report;
	if (st_replay_run(&r, &report, &err) != ST_OK)
		return cli_fail(c, &err);
	if (o->json)
		cli_print(report.json, "\n");
	else
		cli_print(report.text, "");
	if (r.mode == ST_REPLAY_GATE && !o->json)
		printf("build %s\n", build);
	int status = report.exit_status;
	st_replay_report_release(&report);
	return status;
}

const struct cli_command cmd_replay = {
	.name = "replay",
	.summary = "run a packed KV-cache attention kernel against oracles",
	.description = "Runs decode-step attention straight from a KV cache packed to 4, 5, 6 or 8 bits after a "
		       "Hadamard rotation, and compares it with "
		       "references in f64: attention over the decoded cache tells whether the kernel is right, "
		       "attention over the values before "
		       "quantisation tells what the quantiser costs.\n\n"
		       "With --manifest one captured step is run. With --against as well, the output of another engine "
		       "is explained: every known mistake is "
		       "applied to the capture, and one that reproduces the output down to the floor of f32 arithmetic "
		       "is the cause.\n\n"
		       "--multistep runs four positions of a ring buffer. --production-faithful first runs the "
		       "regression gates as child processes of "
		       "this very program, then the registered sweeps, then the same sweeps over other seeds, and "
		       "writes one audit.\n\n"
		       "Files written are OUT.json and OUT_sdpa_out.bin (f32, little-endian) for a single step, OUT.md "
		       "and OUT.json for --multistep, and the "
		       "audit alone for --production-faithful. They appear whole or not at all.",
	.examples = "stele replay --make-manifest --kind ring --out capture\n"
		    "stele replay --manifest capture/manifest.json --out run\n"
		    "stele replay --manifest capture/manifest.json --against engine_out.f32\n"
		    "stele replay --multistep --q-dtype f16 --seeding xor\n"
		    "stele replay --production-faithful --q-dtype f16 --visibility physical --out audit.json\n"
		    "stele replay --codebook-lint --table levels.txt",
	.exit_status = "0  all is well\n"
		       "1  arguments, files or a manifest that make no sense\n"
		       "2  a non-finite output, a fault, a falsified band, a step that can prove nothing, or a verdict "
		       "other than a correct "
		       "kernel or the quantiser's floor\n"
		       "3  a gate failed",
	.options = options,
	.opts_size = sizeof(struct opts),
	.trouble = 1,
	.run = run,
};
