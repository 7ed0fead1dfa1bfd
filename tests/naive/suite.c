/*
 * suite.c - `stele explain` judged: traces of the plain engine, with one mistake each or none.
 *
 *   naive-suite STELE FOLDER [all] [--only TEXT] [--jobs N] [--verbose]
 *
 * Models are the small ones of the families and larger ones made from them, also in stored types that `stele convert`
 * writes; they lie in FOLDER afterwards. Of every row of faults.def some cases are drawn, from all families, layers,
 * targets and values that fit; `all` draws more. What is right is measured: the first stage at which the run with the
 * mistake differs from the same run without it. Where the mistake is smaller than what the arithmetic itself does to that
 * stage, nothing is asked for. Sound runs in every arithmetic must not be called a fault.
 */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FOLDER STELE_SOURCE_ROOT "/tests/data/families/"

/* ---- models ---- */

struct source {
	const char *name, *like, *settings, *type;
	double outlier, bias;
};
#define MID "hidden_size=64,intermediate_size=96,vocab_size=160,max_position_embeddings=256"
#define WIDE "hidden_size=256,intermediate_size=512,vocab_size=160,max_position_embeddings=256"
static const struct source sources[] = {
	/* clang-format off */
	{ "llama", "llama", NULL, NULL, 0, 0 }, { "qwen2", "qwen2", NULL, NULL, 0, 0 }, { "qwen3", "qwen3", NULL, NULL, 0, 0 },
	{ "gemma2", "gemma2", NULL, NULL, 0, 0 }, { "gemma3_text", "gemma3_text", NULL, NULL, 0, 0 }, { "phi3", "phi3", NULL, NULL, 0, 0 },
	{ "phi3-long", "phi3-long", NULL, NULL, 0, 0 }, { "gpt2", "gpt2", NULL, NULL, 0, 0 }, { "mixtral", "mixtral", NULL, NULL, 0, 0 },
	{ "qwen3_moe", "qwen3_moe", NULL, NULL, 0, 0 }, { "gpt_oss", "gpt_oss", NULL, NULL, 0, 0 }, { "granite", "granite", NULL, NULL, 0, 0 },
	{ "smollm3", "smollm3", NULL, NULL, 0, 0 }, { "cohere2", "cohere2", NULL, NULL, 0, 0 }, { "olmo2", "olmo2", NULL, NULL, 0, 0 },
	{ "dots1", "dots1", NULL, NULL, 0, 0 }, { "qwen2_moe", "qwen2_moe", NULL, NULL, 0, 0 }, { "mpt", "mpt", NULL, NULL, 0, 0 },
	{ "deepseek_v2-lite", "deepseek_v2-lite", NULL, NULL, 0, 0 },
	{ "llama-64", "llama", MID ",head_dim=16", NULL, 0, 0 }, { "qwen2-64", "qwen2", MID, NULL, 0, 0 },
	{ "qwen3-64", "qwen3", MID ",head_dim=16", NULL, 0, 0 }, { "gemma2-64", "gemma2", MID ",head_dim=16", NULL, 0, 0 },
	{ "gemma3-64", "gemma3_text", MID ",head_dim=16", NULL, 0, 0 }, { "phi3-64", "phi3", MID, NULL, 0, 0 },
	{ "gpt2-64", "gpt2", "n_embd=64,n_inner=128,vocab_size=160,n_positions=256", NULL, 0, 0 },
	{ "mixtral-64", "mixtral", MID ",head_dim=16", NULL, 0, 0 },
	{ "qwen3_moe-64", "qwen3_moe", MID ",head_dim=16,moe_intermediate_size=32", NULL, 0, 0 },
	{ "gpt_oss-64", "gpt_oss", MID ",head_dim=16", NULL, 0, 0 }, { "granite-64", "granite", MID, NULL, 0, 0 },
	{ "smollm3-64", "smollm3", MID, NULL, 0, 0 }, { "cohere2-64", "cohere2", MID ",head_dim=16", NULL, 0, 0 },
	{ "olmo2-64", "olmo2", MID, NULL, 0, 0 }, { "dots1-64", "dots1", MID ",head_dim=16,moe_intermediate_size=32", NULL, 0, 0 },
	{ "qwen2_moe-64", "qwen2_moe", MID ",moe_intermediate_size=32,shared_expert_intermediate_size=48", NULL, 0, 0 },
	{ "llama-256", "llama", WIDE ",head_dim=64", NULL, 0, 0 },
	{ "deepseek_v2-64", "deepseek_v2-lite", MID ",kv_lora_rank=32,qk_nope_head_dim=16,qk_rope_head_dim=8,qk_head_dim=24,head_dim=8,v_head_dim=16,moe_intermediate_size=32", NULL, 0, 0 },
	{ "mpt-64", "mpt", "d_model=64,n_heads=4,vocab_size=160,max_seq_len=256", NULL, 0, 0 },
	{ "mpt-96", "mpt", "d_model=96,n_heads=6,vocab_size=160,max_seq_len=256", NULL, 0, 0 },
	{ "qwen2-bias", "qwen2", MID, NULL, 0, 60 }, { "qwen3-outlier", "qwen3", WIDE ",head_dim=64", NULL, 40, 0 },
	{ "gemma2-outlier", "gemma2", MID ",head_dim=16", NULL, 30, 0 },
	{ "llama-64-Q8_0", "llama", MID ",head_dim=16", "Q8_0", 0, 0 }, { "llama-256-Q4_K", "llama", WIDE ",head_dim=64", "Q4_K", 0, 0 },
	{ "llama-256-Q6_K", "llama", WIDE ",head_dim=64", "Q6_K", 0, 0 }, { "llama-64-F16", "llama", MID ",head_dim=16", "F16", 0, 0 },
	{ "qwen3-256-Q4_K", "qwen3", WIDE ",head_dim=64", "Q4_K", 40, 0 }, { "qwen3-64-Q4_0", "qwen3", MID ",head_dim=16", "Q4_0", 0, 0 },
	{ "gpt2-64-Q8_0", "gpt2", "n_embd=64,n_inner=128,vocab_size=160,n_positions=256", "Q8_0", 0, 0 },
	{ "gpt2-64-Q5_1", "gpt2", "n_embd=64,n_inner=128,vocab_size=160,n_positions=256", "Q5_1", 0, 0 },
	{ "granite-64-Q4_0", "granite", MID, "Q4_0", 0, 0 }, { "mixtral-64-Q8_0", "mixtral", MID ",head_dim=16", "Q8_0", 0, 0 },
	{ "olmo2-64-Q5_0", "olmo2", MID, "Q5_0", 0, 0 }, { "olmo2-64-BF16", "olmo2", MID, "BF16", 0, 0 },
	{ "granite-64-Q4_1", "granite", MID, "Q4_1", 0, 0 },
	/* clang-format on */
};
#define N_SOURCES (sizeof sources / sizeof *sources)
#define N_SMALL 19 /* the first ones are the families' own */
#define N_PLAIN 39 /* and these are whole, in F32 */

static const char *stele, *folder;
static struct model *models[N_SOURCES];

static void path_of(size_t i, char *model, char *config, size_t n)
{
	const struct source *s = &sources[i];
	if (!s->settings)
		snprintf(model, n, FOLDER "%s", s->like);
	else
		snprintf(model, n, "%s/%s%s", folder, s->name, s->type ? ".gguf" : "");
	snprintf(config, n, s->type ? "%s/%s.hf/config.json" : "%s/config.json", s->type ? folder : model, s->name);
}

static void make_one(size_t i)
{
	const struct source *s = &sources[i];
	char model[1100], config[1100], like[600], hf[700], cmd[3000];
	if (models[i])
		return;
	path_of(i, model, config, sizeof model);
	if (s->settings && access(config, R_OK) != 0) {
		snprintf(like, sizeof like, FOLDER "%s", s->like);
		snprintf(hf, sizeof hf, "%s/%s%s", folder, s->name, s->type ? ".hf" : "");
		model_make(like, hf, s->settings, i + 1, s->outlier, s->bias);
		if (s->type) {
			snprintf(cmd, sizeof cmd, "'%s' convert '%s' '%s' --type %s >/dev/null", stele, hf, model,
			         s->type);
			if (system(cmd) != 0) {
				fprintf(stderr, "naive-suite: %s\n", cmd);
				exit(2);
			}
		}
	}
	models[i] = model_open(model, config);
}

/* ---- cases ---- */

struct one {
	size_t source, tokens, decode;
	struct options o;
	struct trace_options t;
	char fault[200], options[160]; /* as of the command */
	enum arith arith;
};

struct result {
	bool asked;   /* false: the mistake does nothing here, or less than the arithmetic */
	bool plainly; /* it was asked for in f32, as the drawn arithmetic hides it */
	/* In that arithmetic: it differs, and the report called it noise; or it named something else. */
	bool hidden, quiet, misled;
	bool ran;
	char stage[48], said_stage[48], cause[48], verdict[16];
	char equivalent[200]; /* codes that the report cannot tell from it */
	int layer, said_layer, status;
	double size;         /* of the mistake at its stage, relative L2 */
	char parameter[24];  /* its name in the report, or empty */
	double truth, param; /* what the report has to say of the mistake, and what it says; NAN: nothing */
	size_t found,
		strange; /* of several mistakes in one run: those that were named, and what was said beside them */
};

static struct one cases[20000];
static size_t n_cases;
static struct result *results;

static void sound(size_t source, size_t tokens, size_t decode, const char *options)
{
	struct one *c = &cases[n_cases++];
	*c = (struct one){ .source = source, .tokens = tokens, .decode = decode, .t.dtype = ST_DTYPE_F32 };
	snprintf(c->options, sizeof c->options, "%s", options);
}

static int choice(const char *const *names, const char *s)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(names[i], s) == 0)
			return i;
	fprintf(stderr, "naive-suite: %s\n", s);
	exit(2);
}

/* The command's options, again. */
static void read_options(struct one *c)
{
	char text[160], *save = NULL;
	snprintf(text, sizeof text, "%s", c->options);
	for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		if (strcmp(w, "--last") == 0) {
			c->o.last_only = true;
		} else if (strcmp(w, "--bare") == 0) {
			c->t.bare = true;
		} else if (strcmp(w, "--split") == 0) {
			c->t.split = true;
		} else if (strcmp(w, "--alias") == 0) {
			c->t.alias = true;
		} else if (strcmp(w, "--last-rows") == 0) {
			c->t.last_rows = true;
		} else if (strcmp(w, "--unplaced") == 0) {
			c->t.unplaced = true;
		} else if (strcmp(w, "--raw-scores") == 0) {
			c->o.raw_scores = true;
		} else if (strcmp(w, "--mask-inf") == 0) {
			c->o.mask_inf = true;
		} else if (strcmp(w, "--gelu-table") == 0) {
			c->o.gelu_table = true;
		} else {
			char *v = strtok_r(NULL, " ", &save);
			if (strcmp(w, "--arith") == 0)
				c->o.arith = (enum arith)choice(arith_names, v);
			else if (strcmp(w, "--order") == 0)
				c->o.order = (enum order)choice(order_names, v);
			else if (strcmp(w, "--kv") == 0)
				c->o.kv = (enum cache_type)choice(cache_names, v);
			else if (strcmp(w, "--flash") == 0)
				c->o.flash = (enum flash)choice(flash_names, v);
			else if (strcmp(w, "--dtype") == 0)
				(void)!st_dtype_parse(v, &c->t.dtype);
			else if (strcmp(w, "--stages") == 0)
				c->t.stages = strdup(v);
			else if (strcmp(w, "--layers") == 0)
				c->t.layers = strdup(v);
		}
	}
}

static uint64_t hash(const char *s)
{
	uint64_t h = 14695981039346656037u;
	for (; *s != '\0'; s++)
		h = (h ^ (unsigned char)*s) * 1099511628211u;
	h ^= h >> 31;
	return h * 0x9E3779B97F4A7C15u >> 20;
}

static void sound_cases(bool all)
{
	/* Of every family, in every arithmetic. */
	static const char *const ways[] = {
		"--arith f64",
		"--arith f32 --order sequential",
		"--arith f32 --order lanes",
		"--arith f32 --order blocked --dtype F64",
		"--arith bf16stream",
		"--arith bf16stream --dtype BF16",
		"--arith f16 --kv f16",
		"--arith f16stream",
		"--arith bf16",
		"--arith tf32",
		"--arith f32 --flash f32",
		"--arith f32 --flash f16 --kv f16",
		"--arith f32 --order lanes --bare",
		"--arith f32 --last",
		"--arith f32 --stages embedding,attn_norm,qkv_matmul,q_post_rope,k_post_rope,attention,attn_out,ffn_norm,final_norm,lm_head",
		"--arith f32 --stages embedding,post_ffn_residual,final_norm,lm_head",
		"--arith f32 --stages -attn_scores,-attn_softmax,-ffn_silu,-expert_silu",
		"--arith f32 --layers 0..1",
		"--arith f32 --kv f16",
		"--arith f32 --kv bf16",
		"--arith f32 --order lanes --gelu-table",
		"--arith q8_0",
		"--arith f32 --stages usual",
		"--arith f32 --mask-inf",
		"--arith f32 --raw-scores --bare",
		"--arith f32 --raw-scores --mask-inf",
		"--arith f32 --split --alias",
		"--arith f32 --last-rows",
		"--arith f32 --last-rows --unplaced",
	};
	size_t n_ways = sizeof ways / sizeof *ways;
	for (size_t s = 0; s < N_PLAIN; s++)
		for (size_t w = 0; w < n_ways; w++) {
			size_t tokens = (s + w) % 5 == 0 ? 1
			              : (s + w) % 5 == 1 ? 23
			                                 : 9,
			       decode = (s + w) % 4 == 3 ? 3 : 0;
			if (all ? s < N_SMALL || (s + w) % 2 == 0 : s < N_SMALL && (w + s) % 11 == 0)
				sound(s, tokens, decode, ways[w]);
		}
	/* Long prompts, large biases, outliers. */
	for (size_t s = N_SMALL; s < N_PLAIN + 3; s++)
		if (all || s % 6 == 0) {
			sound(s, 200, 0, "--arith f32 --order lanes");
			if (all)
				sound(s, 200, 0, "--arith bf16stream");
		}
	static const char *const hard[] = { "--arith f32", "--arith bf16stream", "--arith f16 --kv f16", "--arith q8_0",
		                            "--arith q8_k" };
	for (size_t s = N_PLAIN; s < N_PLAIN + 3; s++)
		for (size_t w = 0; w < 5; w++)
			if (all || (s + w) % 5 == 0)
				sound(s, 17, w == 2 ? 2 : 0, hard[w]);
	/* Stored types, as the engine that reads them computes. */
	static const char *const stored[] = { "--arith ggml",
		                              "--arith ggml --kv f16",
		                              "--arith ggml --kv f16 --flash f16",
		                              "--arith f32 --order lanes",
		                              "--arith ggml --kv q8_0 --flash f32",
		                              "--arith bf16stream" };
	for (size_t s = N_PLAIN + 3; s < N_SOURCES; s++)
		for (size_t w = 0; w < 6; w++)
			if (all || (s + w) % 12 == 0)
				sound(s, w % 2 ? 21 : 9, w == 0 ? 2 : 0, stored[w]);
}

/* A few, some more, and sometimes one or many, where a mistake shows in so many. */
static size_t tokens_for(const struct fault_row *row, uint64_t key)
{
	bool one_row = !strstr(row->needs, "long") && !strstr(row->needs, "beyond")
	            && strncmp(row->name, "rope", 4) != 0 && strncmp(row->name, "capture", 7) != 0
	            && strncmp(row->name, "attn", 4) != 0 && strncmp(row->name, "cache", 5) != 0;
	return key / 3 % 16 == 0            ? 200
	     : key / 3 % 16 == 1            ? 40
	     : key / 3 % 16 == 2 && one_row ? 4
	     : key % 3 == 0                 ? 23
	                                    : 12;
}

/* Some cases of each mistake: those of all that fit whose names come first in an order by chance. */
static void faulty_cases(size_t per_fault)
{
	static const char *const ways[] = { "--arith f32 --order lanes",
		                            "--arith f32 --order sequential",
		                            "--arith f64",
		                            "--arith f32 --order blocked",
		                            "--arith bf16stream",
		                            "--arith f32 --kv f16",
		                            "--arith f16",
		                            "--arith f32 --order lanes --bare",
		                            "--arith f32 --order lanes --stages usual",
		                            "--arith f32 --stages usual" };
	for (int f = 1; f < FAULTS; f++) {
		const struct fault_row *row = &fault_table[f];
		struct {
			struct one c;
			uint64_t key;
		} best[64];
		size_t n = 0;
		for (size_t s = 0; s < N_SOURCES; s++) {
			if (sources[s].bias > 0 || sources[s].outlier > 0)
				continue;
			const struct model *m = models[s];
			for (int l = -1; m && l < (int)m->L; l++)
				for (const char *t = row->targets, *next = t; t; t = *next ? next : NULL) {
					size_t tn = strcspn(t, " ");
					next = t + tn + (t[tn] == ' ');
					for (const char *v = row->values, *after = v; v; v = *after ? after : NULL) {
						size_t vn = strcspn(v, " ");
						after = v + vn + (v[vn] == ' ');
						struct one c = { .source = s, .t.dtype = ST_DTYPE_F32 };
						char id[300];
						snprintf(c.fault, sizeof c.fault, "%s%s%.*s%s%.*s", row->name,
						         tn ? ":" : "", (int)tn, t, vn ? "=" : "", (int)vn, v);
						snprintf(id, sizeof id, "%s %s %d", sources[s].name, c.fault, l);
						uint64_t key = hash(id);
						if (!planted_parse(c.fault, &c.o.plant))
							exit(2);
						c.o.plant.layer = l;
						bool fits = false; /* in every layer: where it fits one */
						for (size_t k = l < 0 ? 0 : (size_t)l;
						     k < (l < 0 ? m->L : (size_t)l + 1); k++)
							fits = fits
							    || fault_fits(m, (enum fault)f, k, c.o.plant.target);
						if (!fits
						    || (l >= 0
						        && strstr("embedding head_matmul|lm_head lm_head", row->stage)))
							continue;
						c.decode = strstr(row->needs, "decode") ? 2 : 0;
						c.tokens = tokens_for(row, key);
						if (c.tokens + c.decode > m->max_positions)
							c.tokens = 12;
						snprintf(c.options, sizeof c.options, "%s",
						         sources[s].type
						                 ? "--arith ggml"
						                 : ways[key / 7 % (sizeof ways / sizeof *ways)]);
						size_t at = n < per_fault ? n++ : per_fault;
						while (at > 0 && best[at - 1].key > key) {
							if (at < per_fault)
								best[at] = best[at - 1];
							at--;
						}
						if (at < per_fault) {
							best[at].c = c;
							best[at].key = key;
						}
					}
				}
		}
		for (size_t i = 0; i < n; i++)
			cases[n_cases++] = best[i].c;
	}
}

/* Mistakes that have nothing to do with each other, in one run. */
static void several_cases(void)
{
	static const struct {
		const char *model, *faults[3];
		int layers[3];
	} several[] = {
		{ "llama-64", { "norm.eps:attn_norm=1e-2", "weight.transposed:up", "attn.scale=1" }, { 0, 0, 1 } },
		{ "qwen2-64", { "bias.missing:k", "ffn.activation=2", "weight.scaled:o=1.26" }, { 0, 0, 1 } },
		{ "qwen3-64", { "norm.skipped:q_post_norm", "weight.row_shift:up=1", "head.scale" }, { 0, 1, -1 } },
		{ "gemma2-64",
		  { "norm.plus_one:ffn_norm", "attn.softcap/missing", "weight.low_rank:down" },
		  { 0, 1, 1 } },
		{ "gpt2-64", { "norm.rms:attn_norm", "bias.scaled:down=2", "kernel.stale_token:ffn_up" }, { 0, 0, 1 } },
		{ "mixtral-64", { "moe.topk_norm", "weight.missing:o", "weight.transposed:gate" }, { 0, 1, 1 } },
		{ "gpt_oss-64", { "attn.sink/missing", "ffn.clamp/missing", "moe.weights_permuted" }, { 0, 0, 1 } },
		{ "cohere2-64", { "weight.rows_permuted:o", "residual.scaled:post_ffn_residual=2" }, { 0, 1 } },
		{ "dots1-64", { "norm.wrong_weight:ffn_norm", "moe.shared_scaled=2", "rope.direction" }, { 0, 1, 1 } },
		{ "smollm3-64", { "rope.theta=10000", "residual.branch_missing:post_attn_residual" }, { 0, 1 } },
	};
	for (size_t i = 0; i < sizeof several / sizeof *several; i++) {
		struct one *c = &cases[n_cases];
		*c = (struct one){ .tokens = 12, .t.dtype = ST_DTYPE_F32 };
		while (c->source < N_SOURCES && strcmp(sources[c->source].name, several[i].model) != 0)
			c->source++;
		if (c->source == N_SOURCES || !models[c->source])
			continue;
		snprintf(c->options, sizeof c->options, "--arith f32 --order lanes");
		for (size_t k = 0; k < 3 && several[i].faults[k]; k++) {
			struct planted *p = k == 0 ? &c->o.plant : &c->o.more[k - 1];
			if (!planted_parse(several[i].faults[k], p))
				exit(2);
			p->layer = several[i].layers[k];
			c->o.n_more = k;
			snprintf(c->fault + strlen(c->fault), sizeof c->fault - strlen(c->fault), "%s%s",
			         k ? "+" : "several+", several[i].faults[k]);
		}
		n_cases++;
	}
}

/* ---- one case ---- */

/* What each arithmetic does to a stage, relative L2, generously: a mistake that is not far larger is not asked for. */
static double noise_of(enum arith a)
{
	return a == ARITH_F64                                            ? 1e-7
	     : a == ARITH_F32                                            ? 1e-6
	     : a == ARITH_BF16 || a == ARITH_BF16STREAM                  ? 1e-2
	     : a == ARITH_F16 || a == ARITH_TF32 || a == ARITH_F16STREAM ? 1e-3
	                                                                 : 1.5e-2;
}

static double distance(const struct value *a, const struct value *b)
{
	double sum = 0, all = 0;
	if (!a || !b || a->n != b->n)
		return INFINITY;
	for (size_t i = 0; i < a->n; i++) {
		if (!isfinite(a->v[i]))
			return INFINITY;
		sum += (a->v[i] - b->v[i]) * (a->v[i] - b->v[i]);
		all += b->v[i] * b->v[i];
	}
	return sqrt(sum / (all + 1e-300));
}

static bool one_of(const char *list, const char *code)
{
	size_t n = strlen(code);
	for (const char *p = list; *p != '\0'; p += strcspn(p, " "), p += *p == ' ')
		if (strcspn(p, " ") == n && memcmp(p, code, n) == 0)
			return true;
	return false;
}

static const char *text(const json_t *j, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : otherwise;
}

/* Whether a finding has the mistake's code, or cannot tell it, and its layer. One mistake may show in several stages. */
static bool is_of(const json_t *finding, const struct planted *p)
{
	char code[64];
	size_t k;
	const json_t *cause = json_object_get(finding, "cause"), *l = json_object_get(finding, "layer"), *e;
	fault_code(p->fault, code, sizeof code);
	bool said = strcmp(text(cause, "code", "-"), code) == 0
	         || one_of(fault_table[p->fault].also, text(cause, "code", "-"));
	json_array_foreach(json_object_get(cause, "equivalent"), k, e)
		said = said || strcmp(json_string_value(e), code) == 0;
	return said && (json_is_integer(l) ? (int)json_integer_value(l) : -1) == p->layer;
}

static void match_findings(const struct one *c, const json_t *findings, struct result *r)
{
	bool found[8] = { false };
	size_t i;
	const json_t *f;
	json_array_foreach(findings, i, f)
	{
		bool any = false;
		for (size_t k = 0; k <= c->o.n_more; k++)
			if (is_of(f, k ? &c->o.more[k - 1] : &c->o.plant))
				any = found[k] = true;
		r->strange += !any;
	}
	for (size_t k = 0; k <= c->o.n_more; k++)
		r->found += found[k];
}

static void ask(const struct one *c, const char *trace, const char *model, struct result *r)
{
	char cmd[3000];
	snprintf(cmd, sizeof cmd, "'%s' explain '%s' --model '%s' --json %s 2>/dev/null", stele, trace, model,
	         c->o.n_more ? "--keep-going" : "");
	FILE *p = popen(cmd, "r");
	json_error_t trouble;
	json_t *j = p ? json_loadf(p, 0, &trouble) : NULL;
	r->status = p ? WEXITSTATUS(pclose(p)) : -1;
	r->ran = j != NULL;
	const json_t *first = json_object_get(j, "first_divergence"), *cause = json_object_get(j, "cause"),
		     *l = json_object_get(first, "layer");
	snprintf(r->verdict, sizeof r->verdict, "%s", text(j, "verdict", "error"));
	snprintf(r->said_stage, sizeof r->said_stage, "%s", text(first, "stage", "-"));
	snprintf(r->cause, sizeof r->cause, "%s", text(cause, "code", "-"));
	r->said_layer = json_is_integer(l) ? (int)json_integer_value(l) : -1;
	const json_t *e = json_object_get(json_object_get(cause, "parameters"), r->parameter);
	size_t k;
	r->param = json_is_number(e) ? json_number_value(e) : NAN;
	if (c->fault[0] != '\0')
		match_findings(c, json_object_get(j, "findings"), r);
	json_array_foreach(json_object_get(cause, "equivalent"), k, e)
		snprintf(r->equivalent + strlen(r->equivalent), sizeof r->equivalent - strlen(r->equivalent), " %s",
	                 json_string_value(e));
	json_decref(j);
}

static void tokens_of(const struct one *c, const struct model *m, uint32_t *ids)
{
	uint64_t x = 12345; /* as the command's --random */
	for (size_t i = 0; i < c->tokens; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		ids[i] = (uint32_t)((x >> 33) % m->V);
		if (i > 0 && ids[i] == ids[i - 1])
			ids[i] = (ids[i] + 1) % (uint32_t)m->V;
	}
}

static void judge_case(struct one *c, struct result *r, const char *trace)
{
	struct model *m = models[c->source];
	char model[1100], config[1100];
	uint32_t ids[512], others[512];
	size_t all = c->tokens + c->decode;
	path_of(c->source, model, config, sizeof model);
	tokens_of(c, m, ids);
	read_options(c);
	struct run *run = run_model(m, &c->o, ids, c->tokens, all), *clean = NULL, *other = NULL;
	r->asked = true;
	r->layer = -1;
	if (c->fault[0] != '\0') {
		struct options plain = c->o;
		plain.plant = (struct planted){ 0 };
		for (size_t t = 0; t < c->tokens; t++)
			others[t] = (ids[t] * 7 + 5) % (uint32_t)m->V;
		clean = run_model(m, &plain, ids, c->tokens, all);
		other = run_model(m, &plain, others, c->tokens, all);
		run_spoil_capture(run, other);
		const struct value *v = run_first_difference(clean, run, &c->t);
		if (c->o.plant.fault == FAULT_TOKENS_MISMATCH) {
			v = run_find(run, "embedding", -1, 0);
			r->size = INFINITY;
		} else {
			r->size = v ? distance(v, run_find(clean, v->stage, v->layer, v->step)) : 0;
		}
		r->asked = v && r->size > 20 * noise_of(c->o.arith);
		if (v) {
			snprintf(r->stage, sizeof r->stage, "%s", v->stage);
			r->layer = v->layer;
		}
	}
	r->hidden = !r->asked && r->size > 0;
	if (r->asked || r->hidden) {
		const char *says = c->fault[0] != '\0' ? fault_table[c->o.plant.fault].says : "";
		size_t n = strcspn(says, "=");
		snprintf(r->parameter, sizeof r->parameter, "%.*s", (int)n, says);
		r->truth = says[n] == '='         ? strtod(says + n + 1, NULL)
		         : isnan(run->hit->truth) ? c->o.plant.value
		                                  : run->hit->truth;
		trace_arrange(run, &c->t);
		trace_write(run, &c->t, trace);
		ask(c, trace, model, r);
	}
	run_free(run);
	run_free(clean);
	run_free(other);
}

static void code_of(const struct one *c, char *buf, size_t n)
{
	snprintf(buf, n, "%.*s", (int)strcspn(c->fault, "/:="), c->fault);
}

static bool right_stage(const struct one *c, const struct result *r)
{
	const char *claim = fault_table[c->o.plant.fault].stage;
	bool either = strchr(claim, '&') && strstr(claim, r->said_stage);
	return (either || strcmp(r->stage, r->said_stage) == 0) && r->layer == r->said_layer;
}

static bool right_cause(const struct one *c, const struct result *r)
{
	char code[64];
	if (c->o.n_more)
		return r->found == c->o.n_more + 1 && r->strange == 0;
	code_of(c, code, sizeof code);
	return strcmp(code, r->cause) == 0 || one_of(fault_table[c->o.plant.fault].also, r->cause)
	    || (r->equivalent[0] != '\0' && one_of(r->equivalent + 1, code));
}

static const char plain_way[] = "--arith f32 --order lanes";

static void judge(size_t i, const char *trace)
{
	struct one again = cases[i];
	struct result *r = &results[i], first;
	judge_case(&cases[i], r, trace);
	r->quiet = r->hidden && (strcmp(r->verdict, "noise") == 0 || strcmp(r->verdict, "match") == 0);
	r->misled = r->hidden && strchr(r->cause, '.') && !right_cause(&cases[i], r);
	if (r->asked || strcmp(again.options, plain_way) == 0)
		return;
	first = *r;
	*r = (struct result){ 0 };
	snprintf(again.options, sizeof again.options, "%s", plain_way);
	judge_case(&again, r, trace);
	r->plainly = true;
	r->hidden = first.hidden;
	r->quiet = first.quiet;
	r->misled = first.misled;
}

/* ---- the table ---- */

static bool right_parameter(const struct result *r) { return fabs(r->param - r->truth) <= 0.02 * fabs(r->truth); }

static void command_of(const struct one *c, const struct result *r, char *buf, size_t n)
{
	char model[1100], config[1100], layer[24] = "", decode[40] = "", fault[220] = "", conf[1200] = "";
	path_of(c->source, model, config, sizeof model);
	if (c->o.plant.layer >= 0 && c->fault[0])
		snprintf(layer, sizeof layer, " --layer %d", c->o.plant.layer);
	if (c->decode)
		snprintf(decode, sizeof decode, " --decode %zu", c->decode);
	if (c->fault[0])
		snprintf(fault, sizeof fault, " --fault %s", c->fault);
	if (sources[c->source].type)
		snprintf(conf, sizeof conf, " --config %s", config);
	snprintf(buf, n, "naive %s%s --random %zu%s%s%s %s --out t.st && stele explain t.st --model %s", model, conf,
	         c->tokens, decode, fault, layer, r->plainly ? plain_way : c->options, model);
}

static int table(bool verbose)
{
	size_t asked = 0, stage = 0, cause = 0, controls = 0, alarms = 0, open = 0, small = 0, failed = 0, misled = 0;
	size_t several = 0, all_found = 0, fitted = 0, right_fit = 0, hidden = 0, quiet = 0, misled_below = 0;
	char line[3000], code[64];
	for (size_t i = 0; i < n_cases; i++) {
		const struct one *c = &cases[i];
		const struct result *r = &results[i];
		bool control = c->fault[0] == '\0', wrong;
		hidden += r->hidden;
		quiet += r->quiet;
		misled_below += r->misled;
		if (r->misled) {
			command_of(c, r, line, sizeof line);
			printf("# below the arithmetic, and another cause named: %s: %s\n", c->fault, line);
		}
		if (!r->asked) {
			small++;
			continue;
		}
		if (!r->ran)
			failed++;
		if (control) {
			controls++;
			wrong = strcmp(r->verdict, "match") != 0 && strcmp(r->verdict, "noise") != 0;
			alarms += strcmp(r->verdict, "fault") == 0;
			open += wrong && strcmp(r->verdict, "fault") != 0;
		} else {
			asked++;
			stage += right_stage(c, r);
			cause += right_cause(c, r);
			misled += !right_cause(c, r) && strchr(r->cause, '.') != NULL;
			wrong = !right_stage(c, r) || !right_cause(c, r);
			code_of(c, code, sizeof code);
			if (c->o.n_more) {
				several++;
				all_found += right_cause(c, r);
			} else if (r->parameter[0] != '\0' && strcmp(code, r->cause) == 0) {
				fitted++;
				right_fit += right_parameter(r);
				wrong = wrong || !right_parameter(r);
			}
		}
		if (wrong || verbose) {
			command_of(c, r, line, sizeof line);
			printf("# %s%s: wanted %s %d; got %s %s %d %s %s %g for %g (exit %d; size %.1e)\n#   %s\n",
			       wrong ? "wrong: " : "", c->fault[0] ? c->fault : "sound",
			       control ? "no fault" : r->stage, r->layer, r->verdict, r->said_stage, r->said_layer,
			       r->cause, r->parameter, r->param, r->truth, r->status, r->size, line);
		}
	}
	/* One line for each code: how often it was said, and what else. */
	printf("# %-32s %5s %5s %5s  %s\n", "planted", "cases", "stage", "cause", "said otherwise");
	for (int f = 1; f < FAULTS; f++) {
		size_t n = 0, s = 0, k = 0;
		char others[400] = "";
		for (size_t i = 0; i < n_cases; i++) {
			const struct result *r = &results[i];
			if (cases[i].fault[0] == '\0' || cases[i].o.plant.fault != (enum fault)f || !r->asked
			    || cases[i].o.n_more)
				continue;
			n++;
			s += right_stage(&cases[i], r);
			k += right_cause(&cases[i], r);
			fault_code((enum fault)f, code, sizeof code);
			if (strcmp(code, r->cause) != 0 && !strstr(others, r->cause)
			    && strlen(others) + strlen(r->cause) + 3 < sizeof others)
				snprintf(others + strlen(others), sizeof others - strlen(others), "%s%s",
				         others[0] ? ", " : "", strcmp(r->cause, "-") == 0 ? r->verdict : r->cause);
		}
		if (n > 0)
			printf("# %-32s %5zu %5zu %5zu  %s\n", fault_table[f].name, n, s, k, others);
	}
	double ps = asked ? 100. * (double)stage / (double)asked : 0,
	       pc = asked ? 100. * (double)cause / (double)asked : 0;
	printf("# %zu faults: first stage right %.1f %%, cause right %.1f %%, another one named %zu times; %zu more below what the "
	       "arithmetic does\n",
	       asked, ps, pc, misled, small);
	printf("# %zu parameters fitted, %zu of them right; %zu runs with several mistakes, all of them found in %zu\n",
	       fitted, right_fit, several, all_found);
	printf("# %zu faults in an arithmetic that hides them: %zu called noise, another cause named %zu times\n",
	       hidden, quiet, misled_below);
	printf("# %zu sound runs: %zu called a fault, %zu left open or refused; %zu gave no report at all\n", controls,
	       alarms, open, failed);
	struct {
		bool asked, ok;
		const char *what;
	} wanted[] = {
		{ asked > 0, ps >= 99, "the first stage is right in 99 of 100" },
		{ asked > 0, pc >= 97, "the cause is right in 97 of 100" },
		{ fitted > 0, right_fit * 100 >= fitted * 97, "parameters are those that were planted in 97 of 100" },
		{ several > 0, all_found == several, "of several mistakes in one run all are found" },
		{ controls > 0, alarms == 0 && open == 0, "no sound run is called a fault" },
	};
	int n = 0, bad = 0;
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
		if (wanted[i].asked) {
			printf("%s %d - %s\n", wanted[i].ok ? "ok" : "not ok", ++n, wanted[i].what);
			bad += !wanted[i].ok;
		}
	printf("1..%d\n", n);
	return bad > 0;
}

int main(int argc, char **argv)
{
	bool all = false, verbose = false;
	const char *only = NULL;
	size_t jobs = 2, per = 0;
	if (argc < 3) {
		fputs("naive-suite STELE FOLDER [all] [--only TEXT] [--per N] [--jobs N] [--verbose]\n", stderr);
		return 2;
	}
	stele = argv[1];
	folder = argv[2];
	for (int i = 3; i < argc; i++) {
		if (strcmp(argv[i], "all") == 0)
			all = true;
		else if (strcmp(argv[i], "--verbose") == 0)
			verbose = true;
		else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
			only = argv[++i];
		else if (strcmp(argv[i], "--per") == 0 && i + 1 < argc)
			per = strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--jobs") == 0 && i + 1 < argc)
			jobs = strtoul(argv[++i], NULL, 10);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir(folder, 0777);
	for (size_t s = 0; s < N_SOURCES; s++)
		make_one(s);
	sound_cases(all);
	faulty_cases(per ? per : all ? 10 : 1);
	several_cases();
	size_t n = 0;
	for (size_t i = 0; i < n_cases; i++)
		if (!only || strstr(cases[i].fault[0] ? cases[i].fault : "sound", only))
			cases[n++] = cases[i];
	n_cases = n;
	results = mmap(NULL, n_cases * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		return 2;
	fflush(stdout);
	for (size_t k = 0; k < jobs; k++)
		if (fork() == 0) {
			char trace[1100];
			snprintf(trace, sizeof trace, "%s/trace-%ld.safetensors", folder, (long)getpid());
			for (size_t i = k; i < n_cases; i += jobs)
				judge(i, trace);
			(void)unlink(trace);
			_exit(0);
		}
	int status, bad = 0;
	while (wait(&status) > 0)
		bad += status != 0;
	if (bad) {
		printf("Bail out! a part of the suite ended badly\n");
		return 2;
	}
	return table(verbose);
}
