/*
 * bench_load.c - a run beside other processes: how much longer it takes than its share of the processors explains.
 *
 * The fair share: with c processes on every processor besides one thread of the run, a processor gives the run
 * 1/(1 + c) of its time, so the run takes 1 + c times what it takes alone. For busy loops that is exact; a compiler
 * counts as one process on every processor, although it waits for files now and then. A thread that spins while it
 * waits for others takes part in that share and does nothing with it, which is what these rows would show.
 *
 * Every figure is a ratio of two times that were taken one after the other, and the median over some pairs. What else
 * runs on the machine slows both down; read these rows beside the load that is printed with them.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define PAIRS 3
#define BUSY 3 /* loops a processor */
#define MOST_PROCESSORS 256

/* About 90 MB in Q8_0 and 50 MB in Q4_K. */
static const char config[] =
	"{\"model_type\": \"qwen2\", \"hidden_size\": 1024, \"intermediate_size\": 2816, \"num_hidden_layers\": 6,\n"
	" \"num_attention_heads\": 16, \"num_key_value_heads\": 4, \"vocab_size\": 8192, \"rms_norm_eps\": 1e-6,\n"
	" \"rope_theta\": 10000, \"max_position_embeddings\": 2048, \"tie_word_embeddings\": false}\n";

struct load {
	const char *stele;
	char dir[64], a[96], b[96], source[96], config[96];
	int cpus[MOST_PROCESSORS], n_cpus;
	pid_t rivals[BUSY * MOST_PROCESSORS];
	int n_rivals;
	bool failed; /* rosetta, at least once */
};

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The command's seconds; below 0 when it fails. `judges`: "fault" and "undecided" are answers, too. */
static double run(const char *const argv[], bool judges)
{
	posix_spawn_file_actions_t quiet;
	pid_t pid;
	int status = -1;
	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
	double t = seconds();
	if (posix_spawnp(&pid, argv[0], &quiet, NULL, (char *const *)(uintptr_t)argv, environ) != 0)
		pid = -1;
	posix_spawn_file_actions_destroy(&quiet);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	return code == 0 || (judges && (code == 1 || code == 3)) ? seconds() - t : -1;
}

/* threads: as --threads takes it, "0" for one a processor. */
static double rosetta(struct load *l, const char *threads)
{
	const char *argv[] = { l->stele,      "rosetta",   l->a,    l->b,      "--tokens",
		               "17,10,17,28", "--threads", threads, "--quiet", NULL };
	double t = run(argv, true);
	l->failed |= t < 0;
	return t;
}

/* ---- rivals ---- */

static void stop_rivals(struct load *l)
{
	for (int i = 0; i < l->n_rivals; i++)
		kill(-l->rivals[i], SIGKILL); /* each leads a group: the compiler's parts die with it */
	for (int i = 0; i < l->n_rivals; i++)
		waitpid(l->rivals[i], NULL, 0);
	l->n_rivals = 0;
}

static void be_busy(const char *unused)
{
	(void)unused;
	for (volatile uint64_t i = 0;; i++)
		;
}

static void compile(const char *source)
{
	const char *argv[] = { "cc", "-O2", "-c", source, "-o", "/dev/null", NULL };
	while (run(argv, false) >= 0)
		;
}

/* So many on every processor, each kept there. */
static void start_rivals(struct load *l, int each, void (*work)(const char *))
{
	pid_t parent = getpid();
	for (int i = 0; i < each * l->n_cpus; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			cpu_set_t set;
			CPU_ZERO(&set);
			CPU_SET((size_t)l->cpus[i % l->n_cpus], &set);
			setpgid(0, 0);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == parent && sched_setaffinity(0, sizeof set, &set) == 0)
				work(l->source);
			_exit(0);
		}
		if (pid > 0) {
			setpgid(pid, pid); /* whoever is first */
			l->rivals[l->n_rivals++] = pid;
		}
	}
	usleep(200000);
}

/* ---- rows ---- */

static int ascending(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

static void row(const struct load *l, const char *what, double ratio[PAIRS], double limit)
{
	if (l->failed) {
		printf("%-44s left out, %s rosetta fails\n", what, l->stele);
		return;
	}
	qsort(ratio, PAIRS, sizeof *ratio, ascending);
	printf("%-44s %9.2f %9.2f %-7s %6.1f %%   (%.2f to %.2f)\n", what, ratio[PAIRS / 2], limit, "times",
	       100 * ratio[PAIRS / 2] / limit, ratio[0], ratio[PAIRS - 1]);
	fflush(stdout);
}

/* Time beside the rivals over the fair share of the time alone. */
static void beside(struct load *l, const char *what, int each, void (*work)(const char *))
{
	double ratio[PAIRS];
	for (int i = 0; i < PAIRS; i++) {
		double alone = rosetta(l, "0");
		start_rivals(l, each, work);
		ratio[i] = rosetta(l, "0") / (alone * (1 + each));
		stop_rivals(l);
	}
	row(l, what, ratio, 1.1);
}

/* Two threads over one. */
static void two_over_one(struct load *l, const char *what, int each)
{
	double ratio[PAIRS];
	if (each)
		start_rivals(l, each, be_busy);
	for (int i = 0; i < PAIRS; i++) {
		double one = rosetta(l, "1");
		ratio[i] = rosetta(l, "2") / one;
	}
	stop_rivals(l);
	row(l, what, ratio, 1.0);
}

static bool write_config(const char *path)
{
	FILE *f = fopen(path, "w");
	return f && fputs(config, f) >= 0 && fclose(f) == 0;
}

/* A few seconds of a compiler's work. */
static bool write_source(const char *path)
{
	FILE *f = fopen(path, "w");
	for (int i = 0; f && i < 3000; i++)
		fprintf(f,
		        "double f%d(double *x, int n)\n{\n\tfor (int i = 1; i < n; i++)\n"
		        "\t\tx[i] = x[i - 1] * x[i] + %d;\n\treturn x[0];\n}\n",
		        i, i);
	return f && fclose(f) == 0;
}

static bool make_model(const struct load *l, const char *path, const char *type)
{
	const char *argv[] = { l->stele, "synth", "--config", l->config, "--type", type, "-o", path, "--quiet", NULL };
	return run(argv, false) >= 0;
}

static void clean_up(const struct load *l)
{
	const char *all[] = { l->a, l->b, l->source, l->config };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		unlink(all[i]);
	rmdir(l->dir);
}

void bench_load(const struct bench *b)
{
	struct load l = { .stele = b->stele };
	cpu_set_t set;
	double busy = 0;
	snprintf(l.dir, sizeof l.dir, "/tmp/stele-bench-load-XXXXXX");
	if (!b->stele || sched_getaffinity(0, sizeof set, &set) != 0 || !mkdtemp(l.dir)) {
		printf("beside other processes: left out, --stele=FILE names the command to run\n");
		return;
	}
	for (int i = 0; i < CPU_SETSIZE && l.n_cpus < MOST_PROCESSORS; i++)
		if (CPU_ISSET((size_t)i, &set))
			l.cpus[l.n_cpus++] = i;
	snprintf(l.a, sizeof l.a, "%s/a.gguf", l.dir);
	snprintf(l.b, sizeof l.b, "%s/b.gguf", l.dir);
	snprintf(l.source, sizeof l.source, "%s/source.c", l.dir);
	snprintf(l.config, sizeof l.config, "%s/config.json", l.dir);
	if (!write_config(l.config) || !write_source(l.source) || !make_model(&l, l.a, "Q8_0")
	    || !make_model(&l, l.b, "Q4_K")) {
		printf("beside other processes: left out, the models could not be made\n");
		clean_up(&l);
		return;
	}
	getloadavg(&busy, 1);
	printf("beside other processes: rosetta of 90 and 50 MB on %d processors (load before it: %.1f)\n", l.n_cpus,
	       busy);
	rosetta(&l, "0");
	two_over_one(&l, "two threads over one, alone", 0);
	beside(&l, "over its fair share, three busy loops each", BUSY, be_busy);
	two_over_one(&l, "two threads over one, three busy loops each", BUSY);
	const char *cc[] = { "cc", "--version", NULL };
	if (run(cc, false) >= 0)
		beside(&l, "over its fair share, a compiler on each", 1, compile);
	clean_up(&l);
}
