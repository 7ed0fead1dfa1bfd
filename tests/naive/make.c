/* make.c - a random model with the tensors of a small one at other sizes. */
#include "naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t state;

static double uniform(void)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	uint64_t x = state ^ state >> 29;
	x *= 0xBF58476D1CE4E5B9u;
	return (double)(x >> 11) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(uniform() + 1e-300)) * cos(2 * M_PI * uniform()); }

/* What the dimensions of tensors whose names end so are. */
static const struct {
	const char *end, *dims;
} shapes[] = {
	/* clang-format off */
	{ "embed_tokens.weight", "V D" }, { "lm_head.weight", "V D" }, { "wte.weight", "V D" }, { "wpe.weight", "P D" },
	{ "qkv_proj.weight", "A D" }, { "gate_up_proj.weight", "2 D" }, /* before those that end alike */
	{ "q_proj.weight", "Q D" }, { "k_proj.weight", "K D" }, { "v_proj.weight", "K D" }, { "o_proj.weight", "D O" },
	{ "q_proj.bias", "Q" }, { "k_proj.bias", "K" }, { "v_proj.bias", "K" }, { "o_proj.bias", "D" },
	{ "self_attn.sinks", "H" },
	{ "experts.gate_up_proj", "E D 3" }, { "experts.down_proj", "E X D" }, { "experts.gate_up_proj_bias", "E 3" },
	{ "experts.down_proj_bias", "E D" }, { "router.weight", "E D" }, { "router.bias", "E" },
	{ "block_sparse_moe.gate.weight", "E D" }, { "mlp.gate.weight", "E D" }, { "e_score_correction_bias", "E" },
	{ "w1.weight", "X D" }, { "w3.weight", "X D" }, { "w2.weight", "D X" },
	{ "shared_experts.gate_proj.weight", "S D" }, { "shared_experts.up_proj.weight", "S D" },
	{ "shared_experts.down_proj.weight", "D S" }, { "shared_expert.gate_proj.weight", "S D" },
	{ "shared_expert.up_proj.weight", "S D" }, { "shared_expert.down_proj.weight", "D S" },
	{ "shared_expert_gate.weight", "1 D" },
	{ "mlp.gate_proj.weight", "F D" }, { "mlp.up_proj.weight", "F D" }, { "mlp.down_proj.weight", "D F" },
	{ "mlp.gate_proj.bias", "F" }, { "mlp.up_proj.bias", "F" }, { "mlp.down_proj.bias", "D" },
	{ "Wqkv.weight", "4 D" }, { "attn.out_proj.weight", "D D" }, { "ffn.up_proj.weight", "F D" },
	{ "ffn.down_proj.weight", "D F" }, { "c_attn.weight", "D 4" }, { "c_attn.bias", "4" }, { "attn.c_proj.weight", "D D" }, { "attn.c_proj.bias", "D" },
	{ "c_fc.weight", "D F" }, { "c_fc.bias", "F" }, { "mlp.c_proj.weight", "F D" }, { "mlp.c_proj.bias", "D" },
	{ "gate_proj.weight", "X D" }, { "up_proj.weight", "X D" }, { "down_proj.weight", "D X" }, /* of experts */
	{ "norm_1.weight", "D" }, { "norm_2.weight", "D" }, { "norm_f.weight", "D" },
	{ "kv_a_proj_with_mqa.weight", "L D" }, { "kv_a_layernorm.weight", "l" }, { "kv_b_proj.weight", "B l" },
	{ "q_norm.weight", "q" }, { "k_norm.weight", "k" }, { "norm.weight", "D" }, { "ln_1.weight", "D" }, { "ln_2.weight", "D" },
	{ "ln_f.weight", "D" }, { "ln_1.bias", "D" }, { "ln_2.bias", "D" }, { "ln_f.bias", "D" },
	/* clang-format on */
};

static bool ends(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcmp(s + n - k, end) == 0;
}

static size_t size_of(const struct model *m, char c)
{
	size_t q = m->H * m->d, k = m->G * m->d;
	switch (c) {
	case 'V':
		return m->V;
	case 'D':
		return m->D;
	case 'P':
		return m->max_positions;
	case 'Q':
		return q;
	case 'O':
		return m->latent ? m->H * m->vd : q;
	case 'K':
		return k;
	case 'A':
		return q + 2 * k;
	case 'l':
		return m->latent;
	case 'L':
		return m->latent + m->turned;
	case 'B':
		return m->H * (m->nope + m->vd);
	case 'H':
		return m->H;
	case 'E':
		return m->E;
	case 'X':
		return m->expert_F;
	case 'S':
		return m->shared_F;
	case 'F':
		return m->F;
	case '1':
		return 1;
	case '2':
		return 2 * m->F;
	case '3':
		return 2 * m->expert_F;
	case '4':
		return 3 * m->D;
	case 'q':
		return m->qk_norm_whole ? q : m->d;
	default:
		return m->qk_norm_whole ? k : m->d;
	}
}

static void trouble(const char *what, const char *which)
{
	fprintf(stderr, "naive: %s: %s\n", what, which);
	exit(2);
}

/* Only sizes, for the shapes: the weights are not there yet. */
static void sizes_of(struct model *m, const json_t *c)
{
	const char *family = json_string_value(json_object_get(c, "model_type"));
	bool gpt2 = strcmp(family, "gpt2") == 0, mpt = strcmp(family, "mpt") == 0;
#define N(key) ((size_t)json_integer_value(json_object_get(c, key)))
	*m = (struct model){ .D = N(gpt2 ? "n_embd" : mpt ? "d_model" : "hidden_size"),
		             .H = N(gpt2 ? "n_head" : mpt ? "n_heads" : "num_attention_heads"),
		             .F = N(gpt2 ? "n_inner" : "intermediate_size"),
		             .V = N("vocab_size") };
	m->G = json_object_get(c, "num_key_value_heads") ? N("num_key_value_heads") : m->H;
	m->d = N("head_dim") ? N("head_dim") : m->D / m->H;
	m->latent = N("kv_lora_rank");
	m->nope = N("qk_nope_head_dim");
	m->turned = N("qk_rope_head_dim");
	m->vd = N("v_head_dim");
	m->d = m->latent ? m->nope + m->turned : m->d;
	m->max_positions = N(gpt2 ? "n_positions" : mpt ? "max_seq_len" : "max_position_embeddings");
	m->F = mpt ? N("expansion_ratio") * m->D : m->F;
	m->E = N("num_local_experts") + N("n_routed_experts");
	if (m->E == 0)
		m->E = N("num_experts");
	m->expert_F = N("moe_intermediate_size") ? N("moe_intermediate_size") : m->F;
	m->shared_F = N("shared_expert_intermediate_size") ? N("shared_expert_intermediate_size")
	                                                   : N("n_shared_experts") * m->expert_F;
	m->qk_norm_whole = strcmp(family, "olmo2") == 0;
#undef N
}

static void set_key(json_t *c, const char *key, const char *value)
{
	json_error_t e;
	json_t *v = json_loads(value, JSON_DECODE_ANY, &e);
	if (!v)
		trouble("not a JSON value", value);
	json_t *rope = json_object_get(c, "rope_parameters");
	json_object_set_new(json_object_get(rope, key) && !json_object_get(c, key) ? rope : c, key, v);
}

void model_make(const char *like, const char *to, const char *settings, uint64_t seed, double outlier, double bias)
{
	char path[1200], name[256], key[64], value[200];
	struct st_error err = ST_ERROR_INIT;
	struct st_container *from = NULL;
	json_error_t e;
	state = seed * 2654435761u + 99;
	snprintf(path, sizeof path, "%s/config.json", like);
	json_t *c = json_load_file(path, 0, &e);
	if (!c || st_container_open(like, &from, &err) != ST_OK)
		trouble("cannot be read", like);
	/* "key=value,key=[1;2]": lists with semicolons */
	for (const char *p = settings; *p != '\0'; p += strcspn(p, ","), p += *p == ',') {
		if (sscanf(p, "%63[^=]=%199[^,]", key, value) != 2)
			trouble("setting", p);
		for (char *s = value; *s != '\0'; s++)
			*s = *s == ';' ? ',' : *s;
		set_key(c, key, value);
	}
	struct model m;
	sizes_of(&m, c);
	/* Longrope has one factor for each pair. */
	json_t *rope = json_object_get(c, "rope_parameters");
	for (int k = 0; k < 2; k++) {
		const char *which = k ? "long_factor" : "short_factor";
		if (!json_object_get(rope, which))
			continue;
		json_t *a = json_array();
		size_t pairs = (size_t)((double)m.d * json_number_value(json_object_get(rope, "partial_rotary_factor")))
		             / 2;
		for (size_t i = 0; i < pairs; i++)
			json_array_append_new(a, json_real(k ? 2 + 0.5 * (double)i : 1 + 0.02 * (double)i));
		json_object_set_new(rope, which, a);
	}
	mkdir(to, 0777);
	snprintf(path, sizeof path, "%s/config.json", to);
	if (json_dump_file(c, path, JSON_INDENT(1)) != 0)
		trouble("cannot be written", path);
	bool gemma = strncmp(json_string_value(json_object_get(c, "model_type")), "gemma", 5) == 0;
	json_t *header = json_object();
	size_t at = 0, n_tensors = st_container_n_tensors(from);
	float *all = NULL;
	for (size_t i = 0; i < n_tensors; i++) {
		snprintf(name, sizeof name, "%s", st_container_tensor(from, i)->name);
		size_t k = 0, n = 1, dims[3], n_dims = 0;
		while (k < sizeof shapes / sizeof *shapes && !ends(name, shapes[k].end))
			k++;
		if (k == sizeof shapes / sizeof *shapes)
			trouble("no shape for", name);
		json_t *shape = json_array();
		for (const char *p = shapes[k].dims; *p != '\0'; p++)
			if (*p != ' ') {
				dims[n_dims++] = size_of(&m, *p);
				n *= dims[n_dims - 1];
				json_array_append_new(shape, json_integer((json_int_t)dims[n_dims - 1]));
			}
		json_object_set_new(header, name,
		                    json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", shape, "data_offsets",
		                              (json_int_t)(at * 4), (json_int_t)((at + n) * 4)));
		all = realloc(all, (at + n) * sizeof *all);
		if (!all)
			trouble("no memory", name);
		bool norm = strstr(name, "norm") || strstr(name, "ln_"), is_bias = ends(name, "bias");
		bool in_out = strstr(name, "c_attn") || strstr(name, "c_proj") || strstr(name, "c_fc")
		           || strstr(name, "mlp.experts.gate_up") || ends(name, "experts.down_proj");
		size_t in = n_dims < 2 ? 1 : dims[in_out ? n_dims - 2 : n_dims - 1];
		for (size_t j = 0; j < n; j++) {
			double x = normal();
			if (is_bias)
				x *= strstr(name, "self_attn") && bias > 0 ? bias : 0.3;
			else if (norm)
				x = (gemma ? 0 : 1) + 0.15 * x;
			else if (strstr(name, "sinks"))
				x *= 0.5;
			else if (strstr(name, "wpe"))
				x *= 0.2;
			else if (strstr(name, "embed_tokens") || strstr(name, "wte"))
				x *= outlier > 0 && j % m.D == 5 ? 0.6 * outlier
				                                 : 0.6; /* one channel is far larger than the rest */
			else
				x *= 1 / sqrt((double)in);
			all[at + j] = (float)x;
		}
		at += n;
	}
	json_object_set_new(header, "__metadata__", json_pack("{s:s}", "format", "pt"));
	char *text = json_dumps(header, JSON_COMPACT);
	uint64_t padded = (strlen(text) + 7) / 8 * 8;
	snprintf(path, sizeof path, "%s/model.safetensors", to);
	FILE *f = fopen(path, "wb");
	if (!f)
		trouble("cannot be written", path);
	fwrite(&padded, 8, 1, f);
	fprintf(f, "%-*s", (int)padded, text);
	fwrite(all, sizeof *all, at, f);
	if (fclose(f) != 0)
		trouble("cannot be written", path);
	free(all);
	free(text);
	json_decref(header);
	json_decref(c);
	st_container_close(from);
}
