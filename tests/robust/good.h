/*
 * good.h - sound files of every container, small, made by Stele and by the byte builders of the format tests:
 * what the tests of this folder damage.
 */
#ifndef ST_TESTS_ROBUST_GOOD_H
#define ST_TESTS_ROBUST_GOOD_H

#include "format/zipfile.h"

#include <stele/synth.h>
#include <stele/trace.h>

#include <dirent.h>
#include <sys/time.h>

/* SIGPROF after so many seconds of the processor, which a busy machine does not shorten; 0: never. */
static inline void limit_time(int seconds)
{
	assert_int_equal(setitimer(ITIMER_PROF, &(struct itimerval){ .it_value.tv_sec = seconds }, NULL), 0);
}

/* The smallest vocabulary that synth makes, one layer: files of some 50 KB. */
static const char good_config[] = "{\"model_type\": \"qwen2\", \"hidden_size\": 32, \"intermediate_size\": 32, "
				  "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
				  "\"num_key_value_heads\": 1, \"vocab_size\": 264, \"max_position_embeddings\": 64, "
				  "\"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
				  "\"tie_word_embeddings\": true}";

static inline void good_synth(const char *name, const char *type, uint32_t shards)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_synth_result result;
	struct st_synth_options o = {
		.config = in_folder("config.json"), .type = type, .seed = 1, .shards = shards, .threads = 1
	};
	assert_ok(st_synth_write(in_folder(name), &o, &result, &err), &err);
}

static inline void good_trace(void)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	const uint32_t tokens[] = { 3, 1, 4 };
	struct st_stage_set mask;
	assert_ok(st_model_open(in_folder("model.gguf"), &m, &err), &err);
	assert_ok(st_trace_parse_stages("attn_norm, attention, lm_head", &mask, &err), &err);
	struct st_trace_options o = { .tokens = tokens,
		                      .n_tokens = 3,
		                      .prompt = "three",
		                      .threads = 1,
		                      .steps = 1,
		                      .capture = mask,
		                      .tree = in_folder("tree"),
		                      .bundle = in_folder("trace.safetensors") };
	assert_ok(st_trace_run(m, &o, &err), &err);
	st_model_close(m);
}

/* ---- arrays and checkpoints ---- */

static const float good_six[6] = { 0, 1, 2, 3, 4, 5 };

static inline void good_npy(struct bytes *b)
{
	static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
	b->n = 0;
	put(b, "\x93NUMPY\1\0\x76\0", 10);
	put(b, text, sizeof text - 1);
	while (b->n < 127)
		put_u8(b, ' ');
	put_u8(b, '\n');
	put(b, good_six, sizeof good_six);
}

/* Pickle of protocol 2: {"w": a tensor of [2, 3] f32 over storage 0}. */
static inline void good_pickle(struct bytes *b)
{
	static const uint8_t head[] = "\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(("
				      "X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
				      "0X\3\0\0\0cpuK\6tQ"
				      "K\0K\2K\3\x86K\3K\1\x86\x89"
				      "ccollections\nOrderedDict\n)RtRs.";
	b->n = 0;
	put(b, head, sizeof head - 1);
}

static inline void good_npz(struct bytes *b, const struct bytes *npy)
{
	const struct member m[] = {
		{ .name = "a.npy", .data = npy->p, .size = npy->n },
		{ .name = "b.npy", .data = npy->p, .size = npy->n, .deflate = true },
	};
	build_zip(b, m, 2, false);
}

static inline void good_checkpoint(struct bytes *b, const struct bytes *pickle)
{
	const struct member m[] = {
		{ .name = "a/data.pkl", .data = pickle->p, .size = pickle->n },
		{ .name = "a/data/0", .data = good_six, .size = sizeof good_six },
		{ .name = "a/version", .data = "3\n", .size = 2 },
	};
	build_zip(b, m, 3, false);
}

static inline void copy_file(const char *from, const char *to)
{
	char command[700];
	snprintf(command, sizeof command, "cp -r '%s' '%s'", from, to);
	assert_int_equal(system(command), 0);
}

/* A group setup: the folder of files.h, filled. */
static inline int make_good_files(void **state)
{
	static struct bytes inner, outer;
	if (make_folder(state) != 0)
		return -1;
	save_text("config.json", good_config);
	good_synth("model.gguf", "Q8_0", 0);
	good_synth("split.gguf", "F32", 2);
	good_synth("model.apr", "F32", 0);
	good_synth("hf", "BF16", 0);
	good_synth("shards", "BF16", 2);
	copy_file(in_folder("hf/model.safetensors"), in_folder("lone.safetensors"));
	good_trace();
	copy_file(in_folder("tree/layer-0/attn_norm.bin"), in_folder("stage.bin"));
	good_npy(&inner);
	save("array.npy", &inner);
	good_npz(&outer, &inner);
	save("arrays.npz", &outer);
	good_pickle(&inner);
	good_checkpoint(&outer, &inner);
	save("model.pt", &outer);
	if (mkdir(in_folder("torch"), 0700) != 0)
		return -1;
	save("torch/pytorch_model-1.bin", &outer);
	save_text("torch/pytorch_model.bin.index.json", "{\"weight_map\":{\"w\":\"pytorch_model-1.bin\"}}");
	unlink(in_folder("config.json"));
	return 0;
}

/* What the tests damage: the file, and the path that is then opened (a folder for its documents). */
struct good_file {
	const char *file, *open;
	bool json; /* a document: what follows its last brace may go */
};

static const struct good_file good_files[] = {
	{ "model.gguf", "model.gguf", false },
	{ "split-00001-of-00002.gguf", "split-00001-of-00002.gguf", false },
	{ "split-00002-of-00002.gguf", "split-00001-of-00002.gguf", false },
	{ "model.apr", "model.apr", false },
	{ "lone.safetensors", "lone.safetensors", false },
	{ "hf/model.safetensors", "hf", false },
	{ "hf/config.json", "hf", true },
	{ "hf/generation_config.json", "hf", true },
	{ "hf/tokenizer.json", "hf", true },
	{ "hf/tokenizer_config.json", "hf", true },
	{ "shards/model-00002-of-00002.safetensors", "shards", false },
	{ "shards/model.safetensors.index.json", "shards", true },
	{ "trace.safetensors", "trace.safetensors", false },
	{ "tree/trace.json", "tree", true },
	{ "tree/layer-0/attention.bin", "tree", false },
	{ "stage.bin", "stage.bin", false },
	{ "array.npy", "array.npy", false },
	{ "arrays.npz", "arrays.npz", false },
	{ "model.pt", "model.pt", false },
	{ "torch/pytorch_model-1.bin", "torch", false },
	{ "torch/pytorch_model.bin.index.json", "torch", true },
};
#define N_GOOD (sizeof good_files / sizeof *good_files)

#endif
