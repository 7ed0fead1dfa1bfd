/*
 * test_plants.c - sound pairs of made-up models are sound, and every planted fault is found for what it is.
 *
 * Synth and the judge share no code below arch; each is the other's test.
 */
#include "synth/helpers.h"

#include <stele/judge.h>

static struct st_rosetta *compare(const char *a, const char *b, bool keep_going)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = { .prompt = "2+2=", .threshold = NAN, .threads = 1, .keep_going = keep_going };
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static void assert_verdict(const char *a, const char *b, enum st_verdict want)
{
	struct st_rosetta *r = compare(a, b, true);
	if (r->verdict != want)
		fail_msg("%s against %s: %s (%s)", a, b, st_verdict_name(r->verdict), r->text);
	assert_int_equal(st_rosetta_exit(r, true), 0);
	st_rosetta_free(r);
}

static const struct {
	const char *arch, *more;
} models[] = {
	{ "llama", "" },
	{ "qwen2", "" },
	{ "qwen3", ", \"tie_word_embeddings\": true" },
	{ "llama", ", \"tie_word_embeddings\": true, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
	           "\"low_freq_factor\": 1.0, "
	           "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}" },
};
#define N_MODELS (sizeof models / sizeof *models)

static void sound_containers_match(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_MODELS; i++) {
		struct st_synth_options o = small(write_config("m.json", models[i].arch, models[i].more), NULL);
		synth(in_folder("m.gguf"), &o);
		synth(in_folder("m.apr"), &o);
		synth(in_folder("m"), &o);
		o.shards = 2;
		synth(in_folder("m-split.gguf"), &o);
		assert_verdict(in_folder("m.apr"), in_folder("m.gguf"), ST_VERDICT_MATCH);
		assert_verdict(in_folder("m"), in_folder("m.gguf"), ST_VERDICT_MATCH);
		assert_verdict(in_folder("m"), in_folder("m.apr"), ST_VERDICT_MATCH);
		assert_verdict(in_folder("m-split-00001-of-00002.gguf"), in_folder("m.gguf"), ST_VERDICT_MATCH);
		o = small(in_folder("m.json"), "Q4_K"); /* the same blocks in both */
		synth(in_folder("k.gguf"), &o);
		synth(in_folder("k.apr"), &o);
		assert_verdict(in_folder("k.apr"), in_folder("k.gguf"), ST_VERDICT_MATCH);
	}
}

/* A window from some layer on has a place in a folder and in APR. */
static void windows_of_some_layers_match(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_synth_options o = small(
		write_config("w.json", "qwen2",
	                     ", \"use_sliding_window\": true, \"sliding_window\": 3, \"max_window_layers\": 1"),
		NULL);
	synth(in_folder("w"), &o);
	synth(in_folder("w.apr"), &o);
	assert_verdict(in_folder("w"), in_folder("w.apr"), ST_VERDICT_MATCH);
	assert_int_equal(st_synth_write(in_folder("w.gguf"), &o, NULL, &err), ST_ERR_UNSUPPORTED);
	assert_string_equal(err.where, "max_window_layers");
}

static void sound_types_are_noise(void **state)
{
	(void)state;
	static const struct {
		const char *type, *file;
	} list[] = {
		{ "F16", "n.gguf" },  { "BF16", "n" },        { "Q4_0", "n.apr" },  { "Q4_1", "n.gguf" },
		{ "Q5_0", "n.gguf" }, { "Q5_1", "n.gguf" },   { "Q8_0", "n.apr" },  { "Q4_K", "n.gguf" },
		{ "Q6_K", "n.apr" },  { "Q4_K_M", "n.gguf" }, { "AprQ4", "n.apr" }, { "AprQ8", "n.apr" },
	};
	for (size_t i = 0; i < N_MODELS; i++) {
		const char *config = write_config("n.json", models[i].arch, models[i].more);
		struct st_synth_options o = small(config, NULL);
		synth(in_folder("n-ref.gguf"), &o);
		o.type = "Q8_0";
		synth(in_folder("n-q8.gguf"), &o);
		for (size_t t = i % 2; t < sizeof list / sizeof *list;
		     t += 2) { /* half of them each: the families share the arithmetic */
			o.type = list[t].type;
			synth(in_folder(list[t].file), &o);
			assert_verdict(in_folder(list[t].file), in_folder("n-ref.gguf"), ST_VERDICT_NOISE);
			if (t % 3 == 0 && strcmp(list[t].type, "Q8_0") != 0)
				assert_verdict(in_folder(list[t].file), in_folder("n-q8.gguf"), ST_VERDICT_NOISE);
		}
	}
}

/* The first tensor of "CODE in TENSOR, ...", or empty when no tensor is named. */
static void first_tensor(const char *planted, char *buf, size_t size)
{
	const char *in = strstr(planted, " in ");
	assert_non_null(in);
	in += 4;
	snprintf(buf, size, "%.*s", (int)strcspn(in, ", ("), in);
	if (!strstr(buf, ".weight") && !strstr(buf, ".bias"))
		buf[0] = '\0';
}

static char other_side(char side) { return side == 'a' ? 'b' : side == 'b' ? 'a' : 0; }

/* The same two files in the other order: the same fault, of the same file or of neither, and never of the sound one. */
static void assert_order_is_nothing(const struct st_rosetta *r, const char *bad, const char *good, const char *what)
{
	struct st_rosetta *q = compare(good, bad, false);
	if (q->verdict != r->verdict || q->cause.code != r->cause.code || q->first.side != other_side(r->first.side)
	    || strcmp(q->first.tensor, r->first.tensor) != 0)
		fail_msg("%s: %s in %s, side %c; in the other order %s in %s, side %c", what,
		         st_cause_name(r->cause.code), r->first.tensor, r->first.side ? r->first.side : '-',
		         st_cause_name(q->cause.code), q->first.tensor, q->first.side ? q->first.side : '-');
	if (r->first.side == 'b')
		fail_msg("%s: the sound file is accused (%s)", what, r->text);
	/* Where the tokens differ it stops before the weights. */
	for (size_t i = 0; i < r->n_weights && q->n_weights; i++) {
		const struct st_weight_diff *x = &r->weights[i], *y = NULL;
		for (size_t k = 0; k < q->n_weights && !y; k++)
			if (strcmp(q->weights[k].slot->canonical, x->slot->canonical) == 0)
				y = &q->weights[k];
		if (!y || y->cause.code != x->cause.code || y->side != other_side(x->side) || x->side == 'b')
			fail_msg("%s: %s of %s, side %c; in the other order %s, side %c", what,
			         st_cause_name(x->cause.code), x->slot->canonical, x->side ? x->side : '-',
			         y ? st_cause_name(y->cause.code) : "nothing", y && y->side ? y->side : '-');
	}
	/* What rests on which file is trusted says so first. */
	for (int k = 0; k < 2; k++) {
		const struct st_rosetta *p = k ? q : r;
		if (p->first.tensor[0] && !p->first.side && strncmp(p->recommendation, "if ", 3) != 0)
			fail_msg("%s: \"%s\"", what, p->recommendation);
	}
	st_rosetta_free(q);
}

/* "CODE" or "CODE/WHICH". */
static bool is_of_code(const char *plant, const char *code)
{
	size_t n = strlen(code);
	return strncmp(plant, code, n) == 0 && (plant[n] == '\0' || plant[n] == '/');
}

/* Plant every fault that fits and see it named, with its tensor, and no other. Returns how many fitted. */
static size_t plant_all(const char *config, const char *type, const char *bad, const char *good)
{
	struct st_synth_options ref = small(config, type);
	size_t planted = 0;
	synth(in_folder(good), &ref);
	ref.type = "F32";
	synth(in_folder("exact.gguf"), &ref);
	for (size_t i = 0; st_synth_plant_code(i); i++) {
		struct st_synth_options o = small(config, type);
		struct st_synth_result w;
		struct st_error err = ST_ERROR_INIT;
		char tensor[96];
		o.plant = st_synth_plant_code(i);
		enum st_status st = st_synth_write(in_folder(bad), &o, &w, &err);
		if (st == ST_ERR_USAGE && strstr(err.message, "does not fit"))
			continue;
		assert_ok(st, &err);
		planted++;
		assert_int_equal(strncmp(w.planted, o.plant, strcspn(o.plant, "/")), 0);
		first_tensor(w.planted, tensor, sizeof tensor);
		/* What BF16 lost can be seen only beside all the bits. */
		bool exact = strcmp(o.plant, "weight.truncated_rounding") == 0;
		struct st_rosetta *r = compare(in_folder(bad), in_folder(exact ? "exact.gguf" : good), true);
		if (r->verdict != ST_VERDICT_FAULT || !is_of_code(o.plant, st_cause_name(r->cause.code))
		    || strcmp(r->first.tensor, tensor) != 0)
			fail_msg("%s, %s: planted %s, found %s %s in %s (%s)", type, bad, w.planted,
			         st_verdict_name(r->verdict), st_cause_name(r->cause.code), r->first.tensor, r->text);
		for (size_t k = 0; k < r->n_weights; k++) {
			const struct st_weight_diff *d = &r->weights[k];
			if (d->status >= ST_WEIGHT_FAULT
			    && (!is_of_code(o.plant, st_cause_name(d->cause.code))
			        || !strstr(w.planted, d->slot->canonical)))
				fail_msg("%s, %s: planted %s, also found %s in %s", type, bad, w.planted,
				         st_cause_name(d->cause.code), d->slot->canonical);
		}
		assert_int_equal(st_rosetta_exit(r, false), 1);
		assert_order_is_nothing(r, in_folder(bad), in_folder(exact ? "exact.gguf" : good), o.plant);
		st_rosetta_free(r);
		remove(in_folder(bad));
	}
	return planted;
}

static void faults_in_f32(void **state)
{
	(void)state;
	assert_int_equal(plant_all(write_config("f.json", "qwen2", ""), "F32", "bad.apr", "good.gguf"), 29);
}

static void faults_in_bf16_folders(void **state)
{
	(void)state;
	/* Tied: no head of its own; no biases. */
	assert_int_equal(plant_all(write_config("b.json", "qwen3", ", \"tie_word_embeddings\": true"), "BF16", "bad",
	                           "good.gguf"),
	                 25);
}

static void faults_in_q8_0(void **state)
{
	(void)state;
	assert_int_equal(plant_all(write_config("q.json", "llama", ""), "Q8_0", "bad.gguf", "good.apr"), 28);
}

static void faults_in_q4_k(void **state)
{
	(void)state;
	assert_int_equal(plant_all(write_config("k.json", "qwen2", ""), "Q4_K", "bad.gguf", "good.gguf"), 31);
}

/* Families that are made from their pages: 1 + what is stored, experts, heads in rotary pairs. */
static void faults_of_pages(void **state)
{
	(void)state;
	static const struct {
		const char *family, *bad;
		size_t fit;
	} cases[] = { { "gemma2", "bad", 20 }, { "qwen3_moe", "bad", 20 }, { "granite", "bad.gguf", 17 } };
	for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
		struct st_synth_options o = {
			.arch = cases[c].family, .preset = "tiny", .seed = 3, .threads = 1, .replace = true
		};
		size_t planted = 0;
		synth(in_folder("good"), &o);
		for (size_t i = 0; st_synth_plant_code(i); i++) {
			struct st_synth_result w;
			struct st_error err = ST_ERROR_INIT;
			o.plant = st_synth_plant_code(i);
			enum st_status st = st_synth_write(in_folder(cases[c].bad), &o, &w, &err);
			if (st == ST_ERR_USAGE && strstr(err.message, "does not fit"))
				continue;
			assert_ok(st, &err);
			planted++;
			struct st_rosetta *r = compare(in_folder(cases[c].bad), in_folder("good"), false);
			if (r->verdict != ST_VERDICT_FAULT || !is_of_code(o.plant, st_cause_name(r->cause.code)))
				fail_msg("%s: planted %s, found %s %s in %s (%s)", cases[c].family, w.planted,
				         st_verdict_name(r->verdict), st_cause_name(r->cause.code), r->first.tensor,
				         r->text);
			st_rosetta_free(r);
		}
		if (planted < cases[c].fit)
			fail_msg("%s: %zu faults fit", cases[c].family, planted);
	}
}

/* What pages put together: fused tensors, experts, latents, what the router adds, numbers of the rotation that stand
 * twice; on two families each where two have it, in two stored types and in both containers. */
static const struct {
	const char *family, *plant;
	bool folder, gguf;
	bool longrope; /* its config.json says so */
} shapes[] = {
	{ "gpt2", "weight.qkv_swapped", true, true, false },
	{ "gpt_neox", "weight.qkv_swapped", true, true, false },
	{ "gpt_bigcode", "weight.fused_order", true, true, false },
	{ "falcon", "weight.fused_order", true, true, false },
	{ "deepseek", "weight.fused_order", true, true, false },
	{ "deepseek", "weight.fused_order/latent", true, true, false },
	{ "minicpm3", "weight.fused_order/latent", true, true, false },
	{ "gpt_neox", "weight.qkv_interleaved", true, true, false },
	{ "phi3", "weight.qkv_interleaved", true, true, false },
	{ "internlm2", "weight.qkv_interleaved", true, false, false },
	{ "phi3", "weight.gate_up_interleaved", true, true, false },
	{ "glm4", "weight.gate_up_interleaved", true, true, false },
	{ "gpt_oss", "weight.gate_up_interleaved", true, false, false }, /* GGUF has them apart */
	{ "granitemoe", "weight.gate_up_interleaved", true, false, false },
	{ "mixtral", "weight.expert_swapped", true, true, false },
	{ "granitemoe", "weight.expert_swapped", true, true, false },
	{ "gpt_oss", "weight.expert_swapped", true, true, false },
	{ "qwen2_moe", "weight.wrong_tensor/shared", true, true, false },
	{ "glm4_moe", "weight.wrong_tensor/shared", true, true, false },
	{ "gemma", "norm.plus_one", true, true, false },
	{ "gemma2", "norm.plus_one/less", true, true, false },
	{ "nemotron", "norm.plus_one/less", true, true, false },
	{ "glm4_moe", "bias.missing/router", true, true, false },
	{ "gpt_oss", "bias.missing/router", true, true, false },
	{ "gemma3", "config.mismatch/bases", true, true, false },
	{ "gemma4", "config.mismatch/bases", true, false, false },
	{ "phi3", "config.mismatch/factors", true, false, true },
	{ "phimoe", "config.mismatch/factors", true, false, true },
};

/* A rotation by factors for short and long texts, of heads of 64. */
static const char *write_longrope(const char *family)
{
	FILE *f = fopen(in_folder("longrope.json"), "w");
	assert_non_null(f);
	fprintf(f,
	        "{\"model_type\": \"%s\", \"vocab_size\": 640, \"hidden_size\": 256, \"intermediate_size\": 256, "
	        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5, "
	        "\"original_max_position_embeddings\": 4096, \"max_position_embeddings\": 8192, \"tie_word_embeddings\": false, ",
	        family);
	if (strcmp(family, "phimoe") == 0)
		fprintf(f,
		        "\"num_local_experts\": 4, \"num_experts_per_tok\": 2, \"lm_head_bias\": true, \"attention_bias\": true, "
		        "\"router_jitter_noise\": 0.01, \"hidden_act\": \"silu\", ");
	fprintf(f, "\"rope_scaling\": {\"type\": \"longrope\", %s\"short_factor\": [",
	        strcmp(family, "phimoe") == 0
	                ? "\"short_mscale\": 1.0, \"long_mscale\": 1.0, \"original_max_position_embeddings\": 4096, "
	                : "");
	for (int i = 0; i < 32; i++)
		fprintf(f, "%s%g", i ? ", " : "", 1 + i / 20.0);
	fprintf(f, "], \"long_factor\": [");
	for (int i = 0; i < 32; i++)
		fprintf(f, "%s%g", i ? ", " : "", 2.0 + i);
	fprintf(f, "]}}");
	assert_int_equal(fclose(f), 0);
	return in_folder("longrope.json");
}

static void assert_shape(size_t i, const struct st_synth_options *o, const char *bad, const char *good)
{
	struct st_synth_options sound = *o;
	sound.plant = NULL;
	synth(in_folder(good), &sound);
	struct st_synth_result w = synth(in_folder(bad), o);
	for (int turn = 0; turn < 2; turn++) {
		struct st_rosetta *r = compare(in_folder(turn ? good : bad), in_folder(turn ? bad : good), false);
		if (r->verdict != ST_VERDICT_FAULT || !is_of_code(o->plant, st_cause_name(r->cause.code))
		    || r->cause.confidence != ST_CONFIRMED
		    || (r->cause.code != ST_CAUSE_CONFIG_MISMATCH && r->first.side == (turn ? 'a' : 'b')))
			fail_msg("%s %s: planted %s, found %s %s in %s, side %c (%s)", shapes[i].family, bad, w.planted,
			         st_verdict_name(r->verdict), st_cause_name(r->cause.code), r->first.tensor,
			         r->first.side ? r->first.side : '-', r->text);
		st_rosetta_free(r);
	}
	assert_verdict(in_folder(good), in_folder(good), ST_VERDICT_MATCH);
}

static void shapes_of_pages(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct st_synth_options o = { .arch = shapes[i].longrope ? NULL : shapes[i].family,
			                      .preset = shapes[i].longrope ? NULL : "tiny",
			                      .config = shapes[i].longrope ? write_longrope(shapes[i].family) : NULL,
			                      .plant = shapes[i].plant,
			                      .type = "BF16",
			                      .seed = 3,
			                      .threads = 1,
			                      .replace = true };
		assert_true(shapes[i].folder || shapes[i].gguf);
		if (shapes[i].folder)
			assert_shape(i, &o, "shape", "sound");
		o.type = i % 2 ? "Q8_0" : "Q4_K";
		if (shapes[i].gguf)
			assert_shape(i, &o, "shape.gguf", "sound.gguf");
	}
}

static void a_layer_can_be_chosen(void **state)
{
	(void)state;
	struct st_synth_options o = small(write_config("l.json", "llama", ""), "Q8_0");
	synth(in_folder("l.gguf"), &o);
	o.plant = "norm.plus_one:2";
	struct st_synth_result w = synth(in_folder("l.apr"), &o);
	assert_string_equal(w.planted, "norm.plus_one in model.layers.2.input_layernorm.weight");
	struct st_rosetta *r = compare(in_folder("l.apr"), in_folder("l.gguf"), false);
	assert_int_equal(r->verdict, ST_VERDICT_FAULT);
	assert_string_equal(r->first.tensor, "model.layers.2.input_layernorm.weight");
	assert_int_equal(r->first.layer, 2);
	st_rosetta_free(r);
}

/* Every code is one of the interface, once. */
static void codes_are_known(void **state)
{
	(void)state;
	size_t n = 0;
	for (; st_synth_plant_code(n); n++) {
		enum st_cause_code code;
		char name[64];
		snprintf(name, sizeof name, "%.*s", (int)strcspn(st_synth_plant_code(n), "/"), st_synth_plant_code(n));
		assert_true(st_cause_parse(name, &code));
		assert_non_null(st_synth_plant_text(n));
		for (size_t i = 0; i < n; i++)
			assert_string_not_equal(st_synth_plant_code(i), st_synth_plant_code(n));
	}
	assert_int_equal(n, 39);
	assert_null(st_synth_plant_text(n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sound_containers_match), cmocka_unit_test(windows_of_some_layers_match),
		cmocka_unit_test(sound_types_are_noise),  cmocka_unit_test(faults_in_f32),
		cmocka_unit_test(faults_in_bf16_folders), cmocka_unit_test(faults_in_q8_0),
		cmocka_unit_test(faults_in_q4_k),         cmocka_unit_test(a_layer_can_be_chosen),
		cmocka_unit_test(faults_of_pages),        cmocka_unit_test(codes_are_known),
		cmocka_unit_test(shapes_of_pages),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("plants", tests, make_folder, remove_folder);
}
