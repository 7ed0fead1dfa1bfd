/*
 * Experts in another order. With their router they are the same function; without it, or with a part of them left
 * behind, they are another. The model is a small Mixtral (tests/data/families/README.md), whose experts are renamed and
 * whose router's rows are exchanged in the bytes of the file.
 */
#include "test.h"

#include "folder.h"

#include <stele/judge.h>

#include <math.h>
#include <sys/stat.h>

#define MODEL STELE_SOURCE_ROOT "/tests/data/families/mixtral"
#define LAYER "model.layers.1.block_sparse_moe."
enum { EXPERTS = 4, ONE = 0, OTHER = 2 };

static uint8_t *read_whole(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	uint8_t *p = malloc(1 << 20);
	*n = fread(p, 1, (1 << 20) - 1, f);
	p[*n] = '\0';
	fclose(f);
	return p;
}

static void write_whole(const char *dir, const char *name, const uint8_t *p, size_t n)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", in_folder(dir), name);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* The expert's digit in every name of the layer that ends in `last`. */
static void rename_experts(char *header, const char *last)
{
	static const char front[] = LAYER "experts.";
	size_t renamed = 0;
	for (char *p = header; (p = strstr(p, front)); p++) {
		char *digit = p + sizeof front - 1;
		if (strncmp(digit + 2, last, strlen(last)) != 0 || (*digit != '0' + ONE && *digit != '0' + OTHER))
			continue;
		*digit = *digit == '0' + ONE ? '0' + OTHER : '0' + ONE;
		renamed++;
	}
	assert_int_equal(renamed, 2);
}

static void exchange_rows(uint8_t *file, uint64_t header, const char *name)
{
	char *at = strstr((char *)file + 8, name);
	unsigned long long begin, end;
	assert_non_null(at);
	assert_int_equal(sscanf(strstr(at, "\"data_offsets\""), "\"data_offsets\":[%llu,%llu]", &begin, &end), 2);
	size_t row = (size_t)(end - begin) / EXPERTS;
	uint8_t *rows = file + 8 + header + begin;
	for (size_t i = 0; i < row; i++) {
		uint8_t x = rows[ONE * row + i];
		rows[ONE * row + i] = rows[OTHER * row + i];
		rows[OTHER * row + i] = x;
	}
}

static void make_model(const char *name, bool w1, bool w2, bool w3, bool router)
{
	size_t n;
	assert_int_equal(mkdir(in_folder(name), 0700), 0);
	uint8_t *config = read_whole(MODEL "/config.json", &n);
	write_whole(name, "config.json", config, n);
	free(config);
	uint8_t *file = read_whole(MODEL "/model.safetensors", &n);
	uint64_t header;
	memcpy(&header, file, sizeof header);
	uint8_t first = file[8 + header]; /* so that the header is a string */
	file[8 + header] = '\0';
	if (w1)
		rename_experts((char *)file + 8, "w1");
	if (w2)
		rename_experts((char *)file + 8, "w2");
	if (w3)
		rename_experts((char *)file + 8, "w3");
	if (router)
		exchange_rows(file, header, LAYER "gate.weight");
	file[8 + header] = first;
	write_whole(name, "model.safetensors", file, n);
	free(file);
}

static void experts_go_with_their_router(void **state)
{
	(void)state;
	static const struct {
		const char *folder;
		bool w1, w2, w3, router;
		enum st_verdict verdict;
	} cases[] = {
		{ "all", true, true, true, true, ST_VERDICT_NOISE },
		{ "none", false, false, false, false, ST_VERDICT_MATCH },
		{ "no-router", true, true, true, false, ST_VERDICT_FAULT },
		{ "router-alone", false, false, false, true, ST_VERDICT_FAULT },
		{ "no-down", true, false, true, true, ST_VERDICT_FAULT },
		{ "no-up", true, true, false, true, ST_VERDICT_FAULT },
	};
	static const uint32_t ids[] = { 1, 2, 3, 7, 9 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 5, .threshold = NAN };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		make_model(cases[i].folder, cases[i].w1, cases[i].w2, cases[i].w3, cases[i].router);
		for (int order = 0; order < 2; order++) {
			struct st_error err = ST_ERROR_INIT;
			struct st_rosetta *r;
			const char *own = in_folder(cases[i].folder);
			assert_ok(st_rosetta_run(order ? MODEL : own, order ? own : MODEL, &o, &r, &err), &err);
			bool same = r->cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION;
			if (r->verdict != cases[i].verdict || same != (r->verdict == ST_VERDICT_NOISE))
				fail_msg("%s, order %d: %s (%s)", cases[i].folder, order, st_verdict_name(r->verdict),
				         r->text);
			if (same)
				assert_non_null(strstr(r->text, "experts in another order"));
			st_rosetta_free(r);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(experts_go_with_their_router, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
