/*
 * Every built-in description against logits that its reference implementation computed: models of
 * tests/data/families (README.md there) and of the shared data set. One test for each.
 */
#include "arch/helpers.h"
#include "family/oracle.h"

#include "arch/described.h"

#include <dirent.h>

static void check_sequence(const char *what, const struct st_graph *g, bool whole, const json_t *ids,
                           const json_t *rows)
{
	size_t V = g->vocab;
	const struct oracle_sequence o = read_oracle(ids, rows, V);
	const size_t T = o.T;
	const double *want = o.logits;
	/* At once, in chunks, token by token, and in f32 sums. */
	static const struct {
		enum st_mode mode;
		size_t chunk;
		double bound;
	} runs[] = { { ST_MODE_EXACT, 64, 1e-5 },
		     { ST_MODE_EXACT, 3, 1e-5 },
		     { ST_MODE_EXACT, 1, 1e-5 },
		     { ST_MODE_FAST, 64, 1e-4 } };
	for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
		if (whole && runs[r].chunk < T)
			continue;
		struct st_exec e = exec_in(runs[r].mode);
		float *got = graph_logits(g, &e, o.tokens, T, runs[r].chunk < T ? runs[r].chunk : T);
		double rel = rel_l2(got, want, T * V);
		if (!(rel <= runs[r].bound))
			fail_msg("%s in %s, %zu tokens at a time: relative L2 %g", what, st_mode_name(runs[r].mode),
			         runs[r].chunk, rel);
		free(got);
	}
	/* The logits of the last token alone, as a prefill wants them. */
	struct st_error err = ST_ERROR_INIT;
	struct st_exec e = exec_in(ST_MODE_EXACT);
	struct st_run *r;
	assert_ok(st_run_open_flags(g, &e, T, T, ST_RUN_HEAD_LAST, &r, &err), &err);
	assert_ok(st_run_begin(r, o.tokens, T, &err), &err);
	for (uint32_t i = 0; i < g->n_nodes; i++)
		assert_ok(st_run_eval(r, i, &err), &err);
	struct st_value last = st_run_value(r, g->n_nodes - 1);
	assert_int_equal(last.rows, 1);
	if (!(rel_l2(last.data, want + (T - 1) * V, V) <= 1e-5))
		fail_msg("%s: the last token's logits are others where they alone are asked for", what);
	st_run_close(r);
	free(o.logits);
}

/* A model, and what its reference implementation computed. */
struct oracle {
	char path[600], expected[600];
};

static void check_model(void **state)
{
	const struct oracle *o = *state;
	const char *folder = o->path;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct st_described *d;
	json_error_t e;
	json_t *j = json_load_file(o->expected, 0, &e);
	assert_non_null(j);
	assert_ok(st_container_open(folder, &c, &err), &err);
	assert_ok(st_described_open(c, NULL, &d, &err), &err);
	if (d->n_unused || d->n_unread)
		fail_msg("%s: %s is left over", folder, d->n_unused ? d->unused[0] : d->unread[0]);
	const json_t *tokens = json_object_get(j, "tokens"), *rows = json_object_get(j, "logits");
	bool whole = json_is_true(json_object_get(j, "one_pass")); /* what was seen of a text changes how it is read */
	assert_true(json_array_size(tokens) >= 1);
	for (size_t s = 0; s < json_array_size(tokens); s++)
		check_sequence(folder, &d->graph, whole, json_array_get(tokens, s), json_array_get(rows, s));
	st_described_close(d);
	st_container_close(c);
	json_decref(j);
}

/* The graph of a GGUF file is that of the Hugging Face folder which it was made from, number for number. */
static void check_gguf(void **state)
{
	const struct oracle *o = *state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c[2];
	struct st_described *d[2];
	char folder[600];
	check_model(state);
	if (strstr(o->expected, "families-gguf")) /* known in this form alone */
		return;
	snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(o->expected, '/') - o->expected), o->expected);
	for (int i = 0; i < 2; i++) {
		assert_ok(st_container_open(i ? folder : o->path, &c[i], &err), &err);
		assert_ok(st_described_open(c[i], NULL, &d[i], &err), &err);
	}
	assert_int_equal(d[0]->graph.n_nodes, d[1]->graph.n_nodes);
	for (uint32_t i = 0; i < d[0]->graph.n_nodes; i++)
		if (!st_node_same_parameters(&d[0]->graph.nodes[i], &d[1]->graph.nodes[i], 0))
			fail_msg("%s: another %s in layer %d", o->path, st_stage_name(d[0]->graph.nodes[i].stage),
			         d[0]->graph.nodes[i].layer);
	for (int i = 0; i < 2; i++) {
		st_described_close(d[i]);
		st_container_close(c[i]);
	}
}

/* Of families that wait for their page: refused by name. */
static const char *const waiting[] = { "zamba2" };

static bool waits(const char *name)
{
	for (size_t i = 0; i < sizeof waiting / sizeof *waiting; i++)
		if (strcmp(waiting[i], name) == 0)
			return true;
	return false;
}

static void check_refused(void **state)
{
	const char *folder = ((const struct oracle *)*state)->path;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct st_described *d = NULL;
	assert_ok(st_container_open(folder, &c, &err), &err);
	assert_int_equal(st_described_open(c, NULL, &d, &err), ST_ERR_UNSUPPORTED);
	st_container_close(c);
}

#define MOST 256
static struct CMUnitTest tests[MOST];
static size_t n_tests;

static void add(const char *set, const char *name, const char *path, const char *expected)
{
	char title[600];
	struct oracle *o = malloc(sizeof *o);
	if (n_tests == MOST - 1 || access(expected, R_OK) != 0 || !o) {
		free(o);
		return;
	}
	snprintf(title, sizeof title, "%s/%s", set, name);
	snprintf(o->path, sizeof o->path, "%s", path);
	snprintf(o->expected, sizeof o->expected, "%s", expected);
	tests[n_tests++] = (struct CMUnitTest){ .name = strdup(title),
		                                .test_func = waits(name)           ? check_refused
		                                           : strstr(name, ".gguf") ? check_gguf
		                                                                   : check_model,
		                                .initial_state = o };
}

static bool add_folder(const char *root, const char *set)
{
	DIR *dir = opendir(root);
	bool there = dir != NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char path[500], expected[600];
		snprintf(path, sizeof path, "%s/%s", root, e->d_name);
		snprintf(expected, sizeof expected, "%s/expected.json", path);
		if (e->d_name[0] != '.')
			add(set, e->d_name, path, expected);
	}
	if (dir)
		closedir(dir);
	return there;
}

/* The same models as GGUF files (tools/make-gguf-oracles.py), which llama.cpp ran too. */
static void add_gguf(const char *root, const char *logits)
{
	DIR *dir = opendir(root);
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char path[500], expected[600];
		const char *end = strstr(e->d_name, ".gguf");
		snprintf(path, sizeof path, "%s/%s", root, e->d_name);
		snprintf(expected, sizeof expected, "%s/%.*s/expected.json", logits, end ? (int)strcspn(e->d_name, ".") : 0,
		         e->d_name);
		if (end && access(expected, R_OK) != 0)
			snprintf(expected, sizeof expected, "%s/%.*s/expected.json", root, (int)strcspn(e->d_name, "."), e->d_name);
		if (end)
			add("gguf", e->d_name, path, expected);
	}
	if (dir)
		closedir(dir);
}

static void needs_shared(void **state)
{
	(void)state;
	(void)shared_path("oracles"); /* skips */
}

static void all_are_here(void **state)
{
	(void)state;
	assert_in_range(n_tests, 88 + 6, MOST - 1);
}

int main(void)
{
	char path[500];
	(void)add_folder(STELE_SOURCE_ROOT "/tests/data/families", "own");
	add_gguf(STELE_SOURCE_ROOT "/tests/data/families-gguf", STELE_SOURCE_ROOT "/tests/data/families");
	snprintf(path, sizeof path, "%s/data/oracles", shared_root());
	if (!add_folder(path, "shared"))
		tests[n_tests++] = (struct CMUnitTest)cmocka_unit_test(needs_shared);
	tests[n_tests++] = (struct CMUnitTest)cmocka_unit_test(all_are_here);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return _cmocka_run_group_tests("family-oracles", tests, n_tests, NULL, NULL);
}
