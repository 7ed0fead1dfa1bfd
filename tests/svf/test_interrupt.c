/* Export, replay and apply stopped on their way, by cancellation and by SIGKILL: the next run ends with what an
 * undisturbed one writes, and takes over nothing that was made from other inputs. */
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>

static struct fx fx;

/* ---- runs that stop themselves ---- */

struct stop {
	size_t calls, at;
	bool kill;
};

static void progress(void *user, const char *what, uint64_t done, uint64_t total)
{
	struct stop *s = user;
	(void)what, (void)done, (void)total;
	if (++s->calls != s->at)
		return;
	if (s->kill)
		raise(SIGKILL);
	st_cancel();
}

enum command { EXPORT, REPLAY, APPLY, COMMANDS };

struct inputs {
	const char *reference;
	enum st_svf_tie tie;
	int threads;
};
static const struct inputs plain = { "reference.json", ST_SVF_INDEPENDENT, 1 },
			   composed = { "reference.json", ST_SVF_COMPOSE, 1 },
			   exchanged = { "exchanged.json", ST_SVF_COMPOSE, 1 },
			   two_threads = { "reference.json", ST_SVF_INDEPENDENT, 2 };

/* One command in the folder `to`; stops at the given call of its progress hook, 0 for never. */
static enum st_status run(enum command what, const char *to, const struct inputs *in, struct stop *stop)
{
	char components[160], python[160], stages[160], report[160], artifact[160], reference[160];
	const struct st_hooks hooks = { .progress = progress, .user = stop };
	struct st_svf_result r;
	struct st_error err = ST_ERROR_INIT;
	enum st_status st;
	snprintf(components, sizeof components, "%s/components", to);
	snprintf(python, sizeof python, "%s/python.json", to);
	snprintf(stages, sizeof stages, "%s/stages", to);
	snprintf(report, sizeof report, "%s/replay.json", to);
	snprintf(artifact, sizeof artifact, "%s/artifact", to);
	snprintf(reference, sizeof reference, "%s/%s", fx.dir, in->reference);
	if (what == EXPORT)
		st = st_svf_export(&(struct st_svf_export_options){ .model = fx.model,
		                                                    .reference = reference,
		                                                    .vector = fx.st,
		                                                    .out = python,
		                                                    .write_dir = components,
		                                                    .all_selected = true,
		                                                    .decompose_all = true,
		                                                    .tie = in->tie,
		                                                    .chunk_rows = 100,
		                                                    .threads = in->threads,
		                                                    .hooks = hooks },
		                   &r, &err);
	else if (what == REPLAY)
		st = st_svf_replay(&(struct st_svf_replay_options){ .components_dir = components,
		                                                    .python_report = python,
		                                                    .reference = reference,
		                                                    .vector = fx.st,
		                                                    .model = fx.model,
		                                                    .stage_dir = stages,
		                                                    .out = report,
		                                                    .all_selected = true,
		                                                    .tie = -1,
		                                                    .chunk_rows = 100,
		                                                    .threads = in->threads,
		                                                    .hooks = hooks },
		                   &r, &err);
	else
		st = st_svf_apply(&(struct st_svf_apply_options){ .model = fx.model,
		                                                  .reference = reference,
		                                                  .vector = fx.st,
		                                                  .components = components,
		                                                  .out = artifact,
		                                                  .tie = in->tie,
		                                                  .chunk_rows = 100,
		                                                  .threads = in->threads,
		                                                  .hooks = hooks },
		                  &r, &err);
	if (st == ST_OK)
		st_svf_result_release(&r);
	else if (st != ST_ERR_CANCELLED)
		fprintf(stderr, "# %s: %s\n", err.where, err.message);
	st_cancel_reset();
	return st;
}

/* A process of its own, since a thread pool does not survive a fork. */
static void run_and_kill(enum command what, const char *to, size_t at)
{
	char w[8], n[24];
	int status;
	snprintf(w, sizeof w, "%d", (int)what);
	snprintf(n, sizeof n, "%zu", at);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		execl("/proc/self/exe", "test_svf_interrupt", fx.dir, to, w, n, (char *)NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* ---- what they leave ---- */

/* Times, and digests of files that hold times. */
static void strip(json_t *j)
{
	static const char *const times[] = { "generated_at_utc", "created_at", "updated_at", "seconds" };
	json_t *v;
	size_t i;
	const char *key, *role = json_string_value(json_object_get(j, "role"));
	for (i = 0; i < sizeof times / sizeof *times; i++)
		json_object_del(j, times[i]);
	if (role && (!strcmp(role, "debug_manifest") || !strcmp(role, "python_report"))) {
		json_object_del(j, "sha256");
		json_object_del(j, "bytes");
	}
	json_object_foreach(j, key, v) strip(v);
	json_array_foreach(j, i, v) strip(v);
}

static char *without_folder(const char *text, const char *folder)
{
	char *out = malloc(strlen(text) + 1), *p = out;
	while (*text)
		if (strncmp(text, folder, strlen(folder)) == 0)
			text += strlen(folder);
		else
			*p++ = *text++;
	*p = '\0';
	return out;
}

static void same_json(const char *a, const char *folder_a, const char *b, const char *folder_b)
{
	json_t *x = json_load_file(a, 0, NULL), *y = json_load_file(b, 0, NULL);
	assert_true(x && y);
	strip(x);
	strip(y);
	char *s = json_dumps(x, JSON_SORT_KEYS | JSON_INDENT(1)), *t = json_dumps(y, JSON_SORT_KEYS | JSON_INDENT(1));
	char *u = without_folder(s, folder_a), *v = without_folder(t, folder_b);
	assert_string_equal(u, v);
	free(s), free(t), free(u), free(v);
	json_decref(x);
	json_decref(y);
}

static const char *wanted, *got; /* folders */
static size_t seen;

static int same_file(const char *path, const struct stat *s, int kind, struct FTW *f)
{
	char other[400];
	size_t n, k, len = strlen(path);
	(void)s, (void)f;
	snprintf(other, sizeof other, "%s%s", got, path + strlen(wanted));
	seen++;
	if (kind == FTW_DP || kind == FTW_D)
		return 0;
	if (len > 5 && strcmp(path + len - 5, ".json") == 0) {
		same_json(path, wanted, other, got);
		return 0;
	}
	char *a = read_bytes(path, &n), *b = read_bytes(other, &k);
	assert_int_equal(n, k);
	assert_memory_equal(a, b, n);
	free(a);
	free(b);
	return 0;
}

static int count(const char *p, const struct stat *s, int k, struct FTW *f)
{
	(void)p, (void)s, (void)k, (void)f;
	seen--;
	return 0;
}

/* The same files in both folders and nothing besides. */
static void same_folder(const char *want, const char *have)
{
	wanted = want;
	got = have;
	seen = 0;
	nftw(want, same_file, 8, FTW_PHYS);
	nftw(have, count, 8, FTW_PHYS);
	assert_int_equal(seen, 0);
}

static const char *folder(const char *name)
{
	const char *p = fx_path(&fx, name);
	assert_int_equal(mkdir(p, 0777), 0);
	return p;
}

/* ---- the tests ---- */

static void test_stopped(void **state)
{
	(void)state;
	/* Parts of the way, in eighths. */
	static const struct {
		enum command what;
		size_t eighths;
		bool kill;
	} stops[] = {
		{ EXPORT, 1, true },  { EXPORT, 3, false }, { EXPORT, 5, true }, { EXPORT, 7, false },
		{ REPLAY, 2, false }, { REPLAY, 6, true },  { APPLY, 3, true },  { APPLY, 6, false },
	};
	char good[160], bad[160];
	size_t calls[COMMANDS];
	snprintf(good, sizeof good, "%s", folder("good"));
	snprintf(bad, sizeof bad, "%s", folder("stopped"));
	for (int i = 0; i < COMMANDS; i++) {
		struct stop never = { 0 };
		assert_int_equal(run((enum command)i, good, &plain, &never), ST_OK);
		calls[i] = never.calls;
	}
	for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
		size_t at = calls[stops[i].what] * stops[i].eighths / 8;
		assert_true(at > 0);
		/* A finished artifact would be kept. */
		if (stops[i].what == APPLY)
			nftw(fx_path(&fx, "stopped/artifact"), fx_remove, 8, FTW_DEPTH | FTW_PHYS);
		if (stops[i].kill)
			run_and_kill(stops[i].what, bad, at);
		else
			assert_int_equal(run(stops[i].what, bad, &plain, &(struct stop){ .at = at }), ST_ERR_CANCELLED);
		assert_int_equal(run(stops[i].what, bad, &plain, &(struct stop){ 0 }), ST_OK);
	}
	same_folder(good, bad);
}

/* A composed head is made from the adapted embedding: with another span for that, its factors are others, and those of
 * the interrupted run are not taken over. */
static void test_other_inputs(void **state)
{
	(void)state;
	char good[160], bad[160], sha[65];
	struct stop never = { 0 };
	json_t *m, *list, *e[2];
	fx_sha(fx.st, sha);
	m = fx_manifest(&fx, 5, sha);
	list = json_object_get(m, "selected_tensors");
	for (size_t i = 0; i < 2; i++)
		e[i] = json_deep_copy(json_array_get(list, 1 - i));
	for (size_t i = 0; i < 2; i++) {
		json_object_set_new(e[i], "offset_start", json_integer((json_int_t)(64 * i)));
		json_object_set_new(e[i], "offset_end", json_integer((json_int_t)(64 * i + 64)));
		json_array_set_new(list, i, e[i]);
	}
	fx_json(fx_path(&fx, "exchanged.json"), m);
	snprintf(good, sizeof good, "%s", folder("other_good"));
	snprintf(bad, sizeof bad, "%s", folder("other"));
	assert_int_equal(run(EXPORT, good, &exchanged, &never), ST_OK);
	assert_int_equal(run(EXPORT, bad, &composed, &(struct stop){ .at = never.calls - 1 }), ST_ERR_CANCELLED);
	assert_int_equal(run(EXPORT, bad, &exchanged, &(struct stop){ 0 }), ST_OK);
	same_folder(good, bad);
}

/* What an interrupted run noted, as another version would have: the length stays. */
static size_t noted;

static int as_other_version(const char *path, const struct stat *s, int kind, struct FTW *f)
{
	size_t n, len = strlen(st_version());
	const char *name = path + f->base;
	(void)s;
	if (kind != FTW_F || strlen(name) < 5 || strcmp(name + strlen(name) - 5, ".json") != 0)
		return 0;
	char *text = read_bytes(path, &n);
	for (char *p = strstr(text, st_version()); p; p = strstr(p + len, st_version()), noted++)
		memset(p, '9', len);
	write_bytes(path, text, n);
	free(text);
	return 0;
}

/* Another version's work, or that of another number of threads, is done again: as many steps as from nothing. */
static void test_other_environment(void **state)
{
	(void)state;
	static const char *const notes[COMMANDS] = { "env/python.json.work", "env/stages", "env/artifact" };
	char dir[160], stages[160], artifact[160];
	snprintf(dir, sizeof dir, "%s", folder("env"));
	snprintf(stages, sizeof stages, "%s", fx_path(&fx, notes[REPLAY]));
	snprintf(artifact, sizeof artifact, "%s", fx_path(&fx, notes[APPLY]));
	for (int i = 0; i < COMMANDS; i++) {
		struct stop full = { 0 };
		assert_int_equal(run((enum command)i, dir, &plain, &full), ST_OK);
		for (int how = 0; how < 3; how++) {
			struct stop again = { 0 };
			nftw(i == APPLY ? artifact : stages, fx_remove, 8, FTW_DEPTH | FTW_PHYS);
			assert_int_equal(run((enum command)i, dir, &plain, &(struct stop){ .at = full.calls - 1 }),
			                 ST_ERR_CANCELLED);
			noted = 0;
			if (how == 1) {
				nftw(fx_path(&fx, notes[i]), as_other_version, 8, FTW_PHYS);
				assert_true(noted > 0);
			}
			assert_int_equal(run((enum command)i, dir, how == 2 ? &two_threads : &plain, &again), ST_OK);
			if (how == 0 ? again.calls >= full.calls : again.calls != full.calls)
				fail_msg("command %d, case %d: %zu steps of %zu", i, how, again.calls, full.calls);
		}
	}
}

static int open_fixture(void **state)
{
	(void)state;
	fx_open(&fx);
	return 0;
}

static int close_fixture(void **state)
{
	(void)state;
	fx_close(&fx);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_stopped), cmocka_unit_test(test_other_inputs),
		                            cmocka_unit_test(test_other_environment) };
	if (argc == 5) {
		snprintf(fx.dir, sizeof fx.dir, "%s", argv[1]);
		snprintf(fx.model, sizeof fx.model, "%s/model", fx.dir);
		snprintf(fx.st, sizeof fx.st, "%s/vector.safetensors", fx.dir);
		return (int)run((enum command)atoi(argv[3]), argv[2], &plain,
		                &(struct stop){ .at = (size_t)atol(argv[4]), .kill = true });
	}
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("svf interrupt", tests, open_fixture, close_fixture);
}
