/* A matrix that stands out among its like in one file: by what its numbers were stored as before, which is exact. */
#define TOY_LAYERS 6
#include "toy.h"

#include "folder.h"

#include "dtype/half.h"

#include <stele/inspect.h>

/* What is said to be unlike the others; how many. */
static size_t unlike(const char *path, char *tensor, char *text)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_inspection *in;
	size_t n = 0;
	assert_ok(st_inspect_open(path, &(struct st_inspect_options){ .threads = 1 }, &in, &err), &err);
	for (size_t i = 0; i < st_inspection_n_anomalies(in); i++) {
		const struct st_anomaly *a = st_inspection_anomaly(in, i);
		if (strcmp(a->kind, "unlike") != 0)
			continue;
		assert_int_equal(a->severity, ST_NOTE);
		strcpy(tensor, a->tensor);
		strcpy(text, a->text);
		n++;
	}
	st_inspection_close(in);
	return n;
}

static void round_all(struct toy *m)
{
	for (size_t i = 0; i < m->n; i++)
		for (uint64_t k = 0; k < m->t[i].rows * m->t[i].cols; k++)
			m->t[i].data[k] = st_bf16_to_f32(st_f32_to_bf16(m->t[i].data[k]));
}

/* Rank 1, a hundredth of the weights' size. */
static void merge(struct toy *m, int layer, const char *kind)
{
	char name[96];
	snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight", layer, kind);
	struct toy_tensor *t = toy_find(m, name);
	uint64_t seed = 5 + (uint64_t)layer;
	double v[64];
	for (uint64_t k = 0; k < t->cols; k++)
		v[k] = toy_normal(&seed);
	for (uint64_t r = 0; r < t->rows; r++) {
		double u = 0.001 * toy_normal(&seed);
		for (uint64_t k = 0; k < t->cols; k++)
			t->data[r * t->cols + k] += (float)(u * v[k]);
	}
}

static void a_lost_adapter_stands_out(void **state)
{
	(void)state;
	static const struct {
		int but, alone, layers; /* merged in all layers but one; in one alone; the first layers */
		size_t all;
		const char *tensor, *says;
	} cases[] = {
		{ -1, -1, 0, 0, "", "" },
		{ -1, -1, 6, 0, "", "" },
		{ -1, -1, 3, 0, "", "" }, /* some layers trained: no accident */
		{ 4, -1, 6, 2, "blk.4.attn_v.weight", "those of its like in 5 other layers fill F32" },
		{ -1, 2, 0, 2, "blk.2.attn_v.weight", "it was changed alone" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int types = 0; types < 3; types++) {
			static const enum st_dtype stored[] = { ST_DTYPE_F32, ST_DTYPE_BF16, ST_DTYPE_Q8_0 };
			struct toy m;
			char tensor[200] = "", text[256] = "";
			toy_make(&m, "llama", 64, false);
			round_all(&m);
			for (int l = 0; l < TOY_LAYERS; l++) {
				if (l != cases[i].alone && (l >= cases[i].layers || l == cases[i].but))
					continue;
				merge(&m, l, "q_proj");
				merge(&m, l, "v_proj");
			}
			toy_write(&m, in_folder("m.gguf"), stored[types], true);
			/* Stored in less, nothing of it is left. */
			assert_int_equal(unlike(in_folder("m.gguf"), tensor, text), types ? 0 : cases[i].all);
			if (!types) {
				assert_string_equal(tensor, cases[i].tensor);
				assert_non_null(strstr(text, cases[i].says));
			}
			toy_free(&m);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_lost_adapter_stands_out, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
