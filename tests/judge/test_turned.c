/*
 * A square matrix that lies transposed: its label cannot say so. Its numbers can where the channels of the stream differ
 * in size, as they do in real models; where they do not, nothing is said.
 */
#include "toy.h"

#include "folder.h"

#include <stele/inspect.h>
#include <stele/judge.h>

#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define O0 "model.layers.0.self_attn.o_proj.weight"

static bool ends(const char *name, const char *tail)
{
	size_t n = strlen(name), k = strlen(tail);
	return n >= k && strcmp(name + n - k, tail) == 0;
}

/* Every channel of the stream has a size of its own, which what reads it and what writes to it share in part. */
static void give_sizes(struct toy *m)
{
	uint64_t seed = 5;
	double *size = malloc(m->hidden * sizeof *size);
	for (uint32_t i = 0; i < m->hidden; i++)
		size[i] = 0.5 * toy_normal(&seed);
	for (size_t i = 0; i < m->n; i++) {
		struct toy_tensor *t = &m->t[i];
		bool writes = ends(t->name, "o_proj.weight") || ends(t->name, "down_proj.weight");
		bool reads = ends(t->name, "q_proj.weight") || ends(t->name, "k_proj.weight")
		          || ends(t->name, "v_proj.weight") || ends(t->name, "gate_proj.weight")
		          || ends(t->name, "up_proj.weight");
		if (!writes && !reads)
			continue;
		double *own = malloc(m->hidden * sizeof *own);
		for (uint32_t k = 0; k < m->hidden; k++)
			own[k] = exp(size[k] + 0.3 * toy_normal(&seed));
		for (uint64_t r = 0; r < t->rows; r++)
			for (uint64_t c = 0; c < t->cols; c++)
				t->data[r * t->cols + c] *= (float)own[writes ? r : c];
		free(own);
	}
	free(size);
}

static struct toy_tensor *tensor(struct toy *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->t[i].name, name) == 0)
			return &m->t[i];
	fail_msg("no %s", name);
	return NULL;
}

static void turn(struct toy_tensor *t)
{
	assert_int_equal(t->rows, t->cols);
	for (uint64_t r = 0; r < t->rows; r++)
		for (uint64_t c = 0; c < r; c++) {
			float x = t->data[r * t->cols + c];
			t->data[r * t->cols + c] = t->data[c * t->cols + r];
			t->data[c * t->cols + r] = x;
		}
}

struct said {
	size_t lines;
	char last[256];
};

static void hear(void *user, const char *line)
{
	struct said *s = user;
	if (!strstr(line, "TRANSPOSED"))
		return;
	s->lines++;
	snprintf(s->last, sizeof s->last, "%s", line);
}

static size_t inspected(const char *path)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_inspection *in;
	size_t n = 0;
	assert_ok(st_inspect_open(path, &(struct st_inspect_options){ .threads = 1 }, &in, &err), &err);
	for (size_t i = 0; i < st_inspection_n_anomalies(in); i++)
		n += strcmp(st_inspection_anomaly(in, i)->kind, "transposed") == 0;
	st_inspection_close(in);
	return n;
}

static struct said logged(const char *path)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	struct said said = { 0 };
	struct st_hooks hooks = { .log = hear, .user = &said };
	assert_ok(st_model_open(path, &m, &err), &err);
	st_model_load_log(m, false, &hooks);
	st_model_close(m);
	return said;
}

static void a_square_matrix_is_told_by_its_numbers(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_F32, ST_DTYPE_Q4_0 };
	for (int sizes = 0; sizes < 2; sizes++)
		for (size_t k = 0; k < 2; k++) {
			const char *good = in_folder("good.gguf"), *bad = in_folder("bad.gguf");
			struct toy a, b;
			toy_make(&a, "llama", 512, false);
			toy_make(&b, "llama", 512, false);
			if (sizes) {
				give_sizes(&a);
				give_sizes(&b);
			}
			turn(tensor(&b, k ? O0 : Q1));
			toy_write(&a, good, types[k], true);
			toy_write(&b, bad, types[k], true);
			toy_free(&a);
			toy_free(&b);
			assert_int_equal(inspected(good), 0);
			assert_int_equal(logged(good).lines, 0);
			assert_int_equal(inspected(bad), sizes);
			struct said said = logged(bad);
			assert_int_equal(said.lines, sizes);
			if (sizes)
				assert_non_null(
					strstr(said.last, k ? "blk.0.attn_output.weight" : "blk.1.attn_q.weight"));
			for (int order = 0; order < 2; order++) {
				static const uint32_t ids[] = { 5, 17 };
				struct st_rosetta_options o = { .tokens = ids, .n_tokens = 2, .threshold = NAN };
				struct st_error err = ST_ERROR_INIT;
				struct st_rosetta *r;
				assert_ok(st_rosetta_run(order ? good : bad, order ? bad : good, &o, &r, &err), &err);
				assert_string_equal(st_cause_name(r->cause.code), "weight.transposed");
				assert_int_equal(r->first.side, !sizes ? 0 : order ? 'b' : 'a');
				st_rosetta_free(r);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_square_matrix_is_told_by_its_numbers, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
