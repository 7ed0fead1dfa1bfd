/* Families, configurations and bindings, on small files written here. */
#include "arch/files.h"
#include "folder.h"

#include <sys/stat.h>

/* The shapes of the three families: llama; qwen2 with biases; qwen3 with QK-norm and a head size of its own. */
static struct naive sizes(const char *arch)
{
	struct naive m = {
		.D = 32, .H = 4, .G = 2, .d = 8, .F = 48, .V = 29, .eps = 1e-5, .theta = 10000, .factor = 1
	};
	if (strcmp(arch, "qwen2") == 0) {
		m.bias = m.tied = true;
		m.theta = 65536; /* exact in f32, as GGUF stores it */
	}
	if (strcmp(arch, "qwen3") == 0) {
		m.qk_norm = true;
		m.d = 12;
		m.eps = 1e-6;
	}
	return m;
}

#define T_LEN 9
static const uint32_t ids[T_LEN] = { 3, 17, 0, 28, 5, 5, 22, 9, 1 };

/* A folder in_folder("hf"), fresh: the weights of f and this configuration (reference taken). */
static const char *write_hf(struct file_model *f, json_t *config)
{
	mkdir(in_folder("hf"), 0777);
	file_write(f, (struct st_write_plan){ .format = ST_FORMAT_SAFETENSORS }, in_folder("hf/model.safetensors"));
	assert_int_equal(json_dump_file(config, in_folder("hf/config.json"), 0), 0);
	json_decref(config);
	return in_folder("hf");
}

static const char *write_gguf(struct file_model *f, const struct file_keys *k)
{
	file_write(f, (struct st_write_plan){ .format = ST_FORMAT_GGUF, .kv = k->kv, .n_kv = k->n },
	           in_folder("m.gguf"));
	return in_folder("m.gguf");
}

static const char *write_apr(struct file_model *f, json_t *metadata)
{
	file_write(f, (struct st_write_plan){ .format = ST_FORMAT_APR, .metadata = metadata }, in_folder("m.apr"));
	json_decref(metadata);
	return in_folder("m.apr");
}

static void check_model(const char *what, const char *path, const struct naive *m)
{
	struct st_model *model = open_model(path);
	const struct st_config *cfg = st_model_config(model);
	assert_int_equal(cfg->n_layers, NAIVE_LAYERS);
	assert_int_equal(cfg->head_dim, m->d);
	assert_int_equal(cfg->vocab, m->V);
	assert_int_equal(cfg->tied, m->tied);
	assert_int_equal(cfg->qkv_bias, m->bias);
	assert_int_equal(cfg->qk_norm, m->qk_norm);
	double *want = malloc(T_LEN * m->V * sizeof *want);
	naive_forward(m, ids, T_LEN, want);
	struct st_exec e = exec_in(ST_MODE_EXACT);
	float *got = model_logits(model, &e, ids, T_LEN, 4);
	double d = rel_l2(got, want, T_LEN * m->V);
	if (!(d <= 2e-6))
		fail_msg("%s: relative L2 %g", what, d);
	free(got);
	free(want);
	st_model_close(model);
}

/* Fails with that status, and the message has every one of the words (NULL ends them). */
static void check_refused(const char *what, const char *path, enum st_status want, const char *word, const char *word2)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m = NULL;
	char line[1400];
	enum st_status st = st_model_open(path, &m, &err);
	if (st == ST_OK)
		fail_msg("%s: accepted", what);
	st_error_format(&err, line, sizeof line);
	if (st != want || !strstr(line, word) || (word2 && !strstr(line, word2)))
		fail_msg("%s: status %s, \"%s\"; expected %s, \"%s\", \"%s\"", what, st_status_name(st), line,
		         st_status_name(want), word, word2 ? word2 : "");
	assert_null(strchr(line, '\n'));
	assert_memory_equal(line, folder, strlen(folder)); /* the file comes first */
}

static const char *const families[] = { "llama", "qwen2", "qwen3" };

static void every_family_in_every_container(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		bool llama = i == 0;
		struct naive m = sizes(families[i]);
		struct file_model f;
		struct file_keys k;
		naive_init(&m, 5 + i);
		file_model_init(&f, &m, "model.", false);
		check_model("hf", write_hf(&f, file_config(families[i], &m)), &m);
		check_model("apr, writer A", write_apr(&f, file_config(families[i], &m)), &m);
		file_model_free(&f);

		/* Writer B has GGUF names and no head size. */
		file_model_init(&f, &m, NULL, llama);
		json_t *meta = file_config("transformer_lm", &m);
		json_object_set_new(meta, "architecture", json_string(families[i]));
		json_object_set_new(meta, "rope_type", json_integer(2)); /* only a guess there */
		json_object_del(meta, "head_dim");
		json_object_del(meta, "tie_word_embeddings");
		check_model("apr, writer B", write_apr(&f, meta), &m);
		file_keys_init(&k, families[i], &m);
		check_model("gguf", write_gguf(&f, &k), &m);
		file_model_free(&f);
		naive_free(&m);
	}
}

static struct st_model *open_by(const char *family)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	assert_ok(st_model_open_as(in_folder("hf"), family, &m, &err), &err);
	return m;
}

static void prefixes_of_names(void **state)
{
	(void)state;
	static const char *const prefixes[] = { "", "language_model.model.", "model.language_model." };
	struct naive m = sizes("llama");
	naive_init(&m, 11);
	struct file_model f;
	for (size_t i = 0; i < 3; i++) {
		file_model_init(&f, &m, prefixes[i], false);
		check_model(prefixes[i], write_hf(&f, file_config("llama", &m)), &m);
		for (int page = 0; page < 2; page++) {
			struct st_model *model = open_by(page ? "llama" : NULL);
			const struct st_weight *w = st_model_role(model, ST_ROLE_UP, 2);
			assert_string_equal(w->canonical, "model.layers.2.mlp.up_proj.weight");
			assert_int_equal(st_model_n_unused(model), 0);
			st_model_close(model);
		}
		file_model_free(&f);
	}
	file_model_init(&f, &m, "", false);
	file_add_f32(&f, "model.embed_tokens.weight", m.embed, m.V, m.D);
	check_refused("two prefixes", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT, "embed_tokens.weight",
	              "two embeddings");
	file_model_free(&f);
	naive_free(&m);
}

/* Put `front` before every name, and `inside` behind the layer's number of those that have one. */
static void rename_all(struct file_model *f, const char *front, const char *inside)
{
	for (size_t i = 0; i < f->n; i++) {
		char name[96], *layer;
		snprintf(name, sizeof name, "%s", f->t[i].name);
		layer = *inside ? strstr(name, "layers.") : NULL;
		size_t cut = layer ? (size_t)(strchr(layer + 7, '.') + 1 - name) : strlen(name);
		snprintf(f->t[i].name, sizeof f->t[i].name, "%s%.*s%s%s", front, (int)cut, name, layer ? inside : "",
		         name + cut);
	}
}

static void wrappers_in_names(void **state)
{
	(void)state;
	static const struct {
		const char *prefix, *front, *inside, *says;
	} cases[] = {
		{ "model.", "_orig_mod.", "", "without _orig_mod." },
		{ "model.", "module.", "", "without module." },
		{ "", "module.", "", "without module." },
		{ "model.language_model.", "state_dict.", "", "without state_dict." },
		{ "language_model.model.", "module.", "", "without module." },
		{ "model.", "model.", "", "without model." },
		{ "model.", "base_model.model.", "", "without base_model.model." },
		{ "model.", "module._orig_mod.", "", "without module. and _orig_mod." },
		{ "model._orig_mod.", "", "", "without _orig_mod." },
		{ "model.", "", "_checkpoint_wrapped_module.", "without _checkpoint_wrapped_module." },
		{ "model.", "", "_fsdp_wrapped_module._checkpoint_wrapped_module.",
		  "without _checkpoint_wrapped_module. and _fsdp_wrapped_module." },
		{ "model.", "base_model.model.", "base_layer.", "without base_model.model. and base_layer." },
		{ "model.", "", "", NULL },
		/* No wrappers: words of their own, and parts of words. */
		{ "my_orig_mod.model.", "", "", "without my_orig_mod." },
	};
	struct naive m = sizes("llama");
	naive_init(&m, 12);
	struct file_model f;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		file_model_init(&f, &m, cases[i].prefix, false);
		rename_all(&f, cases[i].front, cases[i].inside);
		if (strcmp(cases[i].prefix, "my_orig_mod.model.") == 0)
			snprintf(f.t[f.n - 1].name, sizeof f.t[f.n - 1].name, "my_orig_mod.lm_head.weight");
		check_model(cases[i].front, write_hf(&f, file_config("llama", &m)), &m);
		for (int page = 0; page < 2; page++) {
			struct st_model *model = open_by(page ? "llama" : NULL);
			const char *said = st_container_describe(st_model_container(model));
			if (cases[i].says ? !strstr(said, cases[i].says) : strstr(said, "without") != NULL)
				fail_msg("case %zu: %s", i, said);
			assert_int_equal(st_model_n_unused(model), 0);
			st_model_close(model);
		}
		file_model_free(&f);
	}
	/* Two spellings of one weight, and two models under two prefixes. */
	file_model_init(&f, &m, "model.", false);
	file_add_f32(&f, "model._orig_mod.norm.weight", m.final_norm, 0, m.D);
	check_refused("twice", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT, "norm.weight", "are one weight");
	file_model_free(&f);
	file_model_init(&f, &m, "model.", false);
	rename_all(&f, "student.", "");
	file_add_f32(&f, "teacher.model.embed_tokens.weight", m.embed, m.V, m.D);
	check_refused("two", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT, "embed_tokens.weight",
	              "two embeddings");
	file_model_free(&f);
	naive_free(&m);
}

/* A tensor without elements is one that is missing: what is left of weights that lay on another machine. */
/* The page asks for one value of what config.json says in two places. */
static void pages_refuse_two_values(void **state)
{
	(void)state;
	static const struct {
		const char *patch;
		const char *at; /* NULL: sound */
	} cases[] = {
		{ "{\"rope_parameters\": {\"rope_theta\": 10000.0, \"rope_type\": \"default\"}}", NULL },
		{ "{\"rope_parameters\": {\"rope_theta\": 10001.0, \"rope_type\": \"default\"}}",
		  "rope_parameters.rope_theta" },
		{ "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2.0}, \"rope_scaling\": {\"rope_type\": "
		  "\"linear\", \"factor\": 4.0}}",
		  "rope_parameters.factor" },
		{ "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2.0}, \"rope_scaling\": {\"rope_type\": "
		  "\"linear\", \"factor\": 2}}",
		  NULL },
	};
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 29);
	file_model_init(&f, &m, "model.", false);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		json_t *c = file_config("llama", &m);
		json_object_update_new(c, json_loads(cases[i].patch, 0, NULL));
		write_hf(&f, c);
		struct st_error err = ST_ERROR_INIT;
		struct st_model *model = NULL;
		enum st_status st = st_model_open_as(in_folder("hf"), "llama", &model, &err);
		assert_int_equal(st, cases[i].at ? ST_ERR_FORMAT : ST_OK);
		if (cases[i].at)
			assert_string_equal(err.where, cases[i].at);
		st_model_close(model);
	}
	file_model_free(&f);
	naive_free(&m);
}

/* What a caller of the library sees: keys and weights by their names, in models of the older code and of pages alike. */
static void names_are_the_way_in(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 23);
	file_model_init(&f, &m, "model.", false);
	for (int page = 0; page < 2; page++) {
		json_t *c = file_config("llama", &m);
		if (page)
			json_object_set_new(
				c, "layer_types",
				json_pack("[s, s, s]", "full_attention", "full_attention", "full_attention"));
		write_hf(&f, c);
		struct st_error err = ST_ERROR_INIT;
		struct st_model *model;
		assert_ok(st_model_open_as(in_folder("hf"), page ? "llama" : NULL, &model, &err), &err);
		const char *const want[][3] = { { "arch", "llama", "model_type" },
			                        { "n_layers", "3", "num_hidden_layers" },
			                        { "rope_theta", "10000", "rope_theta" },
			                        { "hidden", "32", "hidden_size" } };
		for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
			struct st_model_key k = { 0 };
			for (size_t n = 0; n < st_model_n_keys(model) && (!k.name || strcmp(k.name, want[i][0]) != 0);
			     n++)
				st_model_key_at(model, n, &k);
			assert_string_equal(k.name, want[i][0]);
			assert_string_equal(k.value, want[i][1]);
			assert_true(k.from.said);
			assert_string_equal(k.from.key, want[i][2]);
		}
		assert_string_equal(st_model_weight(model, "up", 2)->tensor->name, "model.layers.2.mlp.up_proj.weight");
		assert_string_equal(st_model_weight(model, "final_norm", 0)->tensor->name, "model.norm.weight");
		assert_null(st_model_weight(model, "up", 3));
		assert_ptr_equal(st_model_called(model, "model.layers.2.mlp.up_proj.weight"),
		                 st_model_weight(model, "up", 2));
		assert_null(st_model_called(model, "model.layers.3.mlp.up_proj.weight"));
		assert_null(st_model_weight(model, "ups", 0));
		assert_null(st_model_weight(model, "", 0));
		st_model_close(model);
	}
	file_model_free(&f);
	naive_free(&m);
}

static void empty_tensors(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	naive_init(&m, 14);
	struct file_model f;
	struct st_model *model;
	struct st_error err = ST_ERROR_INIT;
	file_model_init(&f, &m, "model.", false);
	for (size_t i = 0; i < f.n; i++)
		if (strcmp(f.t[i].name, "model.layers.1.self_attn.k_proj.weight") == 0) {
			f.t[i].spec.ndim = 1;
			f.t[i].spec.shape[0] = f.t[i].n_bytes = 0;
		}
	const char *path = write_hf(&f, file_config("llama", &m));
	check_refused("empty", path, ST_ERR_FORMAT, "model.layers.1.self_attn.k_proj.weight", "has no elements");
	assert_ok(st_model_open_partial(path, &model, &err), &err);
	assert_null(st_model_role(model, ST_ROLE_K, 1)->tensor);
	assert_non_null(st_model_role(model, ST_ROLE_K, 0)->tensor);
	assert_non_null(strstr(st_container_describe(st_model_container(model)), "1 empty tensor"));
	st_model_close(model);
	file_model_free(&f);
	naive_free(&m);
}

static void what_is_no_language_model(void **state)
{
	(void)state;
	static const struct {
		const char *name, *says;
	} cases[] = {
		{ "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
		  "is a base model with an adapter (LoRA) beside it" },
		{ "score.weight", "is a classifier" },
	};
	struct naive m = sizes("llama");
	naive_init(&m, 15);
	struct file_model f;
	for (size_t i = 0; i < 2; i++) {
		file_model_init(&f, &m, "model.", false);
		snprintf(f.t[f.n - 1].name, sizeof f.t[f.n - 1].name, "%s", cases[i].name); /* in place of the head */
		check_refused(cases[i].name, write_hf(&f, file_config("llama", &m)), ST_ERR_UNSUPPORTED, cases[i].says,
		              "");
		file_model_free(&f);
	}
	file_model_init(&f, &m, "model.", false);
	for (size_t i = 0; i < f.n; i++) {
		const char *tail = strstr(f.t[i].name, "self_attn.q_proj") ? "attention.wq.weight"
		                 : strstr(f.t[i].name, "mlp.gate_proj")    ? "feed_forward.w1.weight"
		                                                           : NULL;
		unsigned layer;
		if (tail && sscanf(f.t[i].name, "model.layers.%u.", &layer) == 1)
			snprintf(f.t[i].name, sizeof f.t[i].name, "layers.%u.%s", layer, tail);
	}
	check_refused("native", write_hf(&f, file_config("llama", &m)), ST_ERR_UNSUPPORTED, "Mistral's own code", "");
	for (size_t i = 0; i < f.n; i++) {
		unsigned layer;
		if (strstr(f.t[i].name, "feed_forward.w1") && sscanf(f.t[i].name, "layers.%u.", &layer) == 1)
			snprintf(f.t[i].name, sizeof f.t[i].name, "layers.%u.feed_forward.experts.0.w1.weight", layer);
	}
	check_refused("native experts", write_hf(&f, file_config("llama", &m)), ST_ERR_UNSUPPORTED,
	              "Mistral's own code", "");
	file_model_free(&f);
	/* A classifier's head beside the head of tokens is a tensor without a place. */
	file_model_init(&f, &m, "model.", false);
	file_add_f32(&f, "score.weight", m.head, 2, m.D);
	struct st_model *model = open_model((write_hf(&f, file_config("llama", &m)), in_folder("hf")));
	assert_int_equal(st_model_n_unused(model), 1);
	st_model_close(model);
	file_model_free(&f);
	naive_free(&m);
}

static void packed_weights(void **state)
{
	(void)state;
	static const struct {
		const char *tails[4], *says;
	} cases[] = {
		{ { "qweight", "qzeros", "scales", "g_idx" }, "packed by GPTQ," },
		{ { "qweight", "qzeros", "scales" }, "packed by AWQ," },
		{ { "weight", "scales", "biases" }, "packed by MLX," },
		{ { "weight", "SCB" }, "packed by bitsandbytes (int8)," },
		{ { "weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4" },
		  "packed by bitsandbytes (NF4)," },
		{ { "weight_packed", "weight_scale", "weight_shape" }, "packed by compressed-tensors," },
		{ { "weight", "weight_scale_inv" }, "packed by FP8 with block scales," },
	};
	struct naive m = sizes("llama");
	naive_init(&m, 16);
	struct file_model f;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		file_model_init(&f, &m, "model.", false);
		for (size_t k = 0; k < f.n; k++)
			if (strcmp(f.t[k].name, "model.layers.0.mlp.up_proj.weight") == 0)
				snprintf(f.t[k].name, sizeof f.t[k].name, "model.layers.0.mlp.up_proj.%s",
				         cases[i].tails[0]);
		for (size_t k = 1; k < 4 && cases[i].tails[k]; k++) {
			char name[96];
			snprintf(name, sizeof name, "model.layers.0.mlp.up_proj.%s", cases[i].tails[k]);
			file_add_f32(&f, name, m.final_norm, 0, m.D);
		}
		check_refused(cases[i].says, write_hf(&f, file_config("llama", &m)), ST_ERR_UNSUPPORTED, cases[i].says,
		              "up_proj");
		file_model_free(&f);
	}
	/* Of a method that has no row: integers, and what is called their scale. */
	file_model_init(&f, &m, "model.", false);
	for (size_t k = 0; k < f.n; k++)
		if (strcmp(f.t[k].name, "model.layers.0.mlp.up_proj.weight") == 0) {
			f.t[k].spec.dtype = ST_DTYPE_I8;
			f.t[k].n_bytes /= sizeof(float);
		}
	file_add_f32(&f, "model.layers.0.mlp.up_proj.weight_scales", m.final_norm, 0, m.D);
	check_refused("integers", write_hf(&f, file_config("llama", &m)), ST_ERR_UNSUPPORTED,
	              "packed by integers with scales,", "up_proj.weight");
	file_model_free(&f);
	naive_free(&m);
}

/* Of two tied tensors some writers keep the head. */
static void tied_head_alone(void **state)
{
	(void)state;
	struct naive m = sizes("qwen2");
	assert_true(m.tied);
	naive_init(&m, 13);
	struct file_model f;
	file_model_init(&f, &m, "model.", false);
	assert_string_equal(f.t[0].name, "model.embed_tokens.weight");
	snprintf(f.t[0].name, sizeof f.t[0].name, "lm_head.weight");
	check_model("head alone", write_hf(&f, file_config("qwen2", &m)), &m);
	struct st_model *model = open_model(in_folder("hf"));
	assert_non_null(strstr(st_container_describe(st_model_container(model)), "embedding read from lm_head.weight"));
	assert_string_equal(st_model_role(model, ST_ROLE_EMBED, 0)->tensor->name, "lm_head.weight");
	assert_null(st_model_role(model, ST_ROLE_HEAD, 0)->tensor);
	assert_int_equal(st_model_n_unused(model), 0);
	st_model_close(model);
	/* Not where nothing ties them. */
	json_t *untied = file_config("qwen2", &m);
	json_object_set_new(untied, "tie_word_embeddings", json_false());
	check_refused("untied", write_hf(&f, untied), ST_ERR_FORMAT, "model.embed_tokens.weight", "is missing");
	file_model_free(&f);
	naive_free(&m);
}

/* rope_type 0 under Hugging Face names: the writer says that rows are in adjacent pairs. */
static void apr_rope_type(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	naive_init(&m, 12);
	struct file_model f;
	file_model_init(&f, &m, "model.", true);
	json_t *meta = file_config("llama", &m);
	json_object_set_new(meta, "rope_type", json_integer(0));
	check_model("rope_type 0", write_apr(&f, json_deep_copy(meta)), &m);
	json_object_set_new(meta, "rope_type", json_integer(1));
	check_refused("rope_type 1", write_apr(&f, meta), ST_ERR_UNSUPPORTED, "rope_type", "1");
	file_model_free(&f);
	naive_free(&m);
}

static void optional_parts(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	struct file_keys k;
	m.bias = true; /* a llama with biases on Q, K and V; their rows are interleaved too */
	naive_init(&m, 13);
	file_model_init(&f, &m, NULL, true);
	file_keys_init(&k, "llama", &m);
	check_model("llama with biases", write_gguf(&f, &k), &m);
	file_drop(&f, "blk.1.attn_k.bias");
	check_refused("one bias less", write_gguf(&f, &k), ST_ERR_FORMAT, "blk.1.attn_k.bias", "missing");
	file_model_free(&f);
	naive_free(&m);

	/* A head that is stored although the configuration ties it is used. */
	m = sizes("llama");
	naive_init(&m, 14);
	file_model_init(&f, &m, "model.", false);
	json_t *c = file_config("llama", &m);
	json_object_set_new(c, "tie_word_embeddings", json_true());
	check_model("materialised head", write_hf(&f, c), &m);
	/* Without it, the embedding; where the configuration does not say so, an error. */
	file_drop(&f, "lm_head.weight");
	check_refused("no head", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT, "lm_head.weight", "missing");
	struct naive tied = m;
	tied.head = m.embed;
	tied.tied = true;
	check_model("tied", write_hf(&f, file_config("llama", &tied)), &tied);
	file_model_free(&f);
	naive_free(&m);
}

/* Blocks that run over the ends of rows cannot be cut; where nothing is to be cut, that is no matter. */
static void vocabularies_are_limited(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 19);
	file_model_init(&f, &m, "model.", false);
	write_hf(&f, file_config("llama", &m));
	struct st_model *model = open_model(in_folder("hf"));
	uint32_t vocab = st_model_config(model)->vocab;
	struct st_tensor flat = *st_model_role(model, ST_ROLE_EMBED, 0)->tensor;
	const struct st_tensor *whole = st_model_role(model, ST_ROLE_EMBED, 0)->tensor;
	struct st_weight *embed = (struct st_weight *)(uintptr_t)st_model_role(model, ST_ROLE_EMBED, 0);
	flat.layout = ST_LAYOUT_FLAT;
	embed->tensor = &flat;
	assert_true(st_model_limit_vocab(model, vocab));
	assert_false(st_model_limit_vocab(model, vocab - 1));
	assert_int_equal(st_model_config(model)->vocab, vocab);
	embed->tensor = whole;
	assert_true(st_model_limit_vocab(model, vocab - 1));
	assert_int_equal(st_model_config(model)->vocab, vocab - 1);
	st_model_close(model);
	file_model_free(&f);
	naive_free(&m);
}

static void windows_and_scaling(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	struct file_keys k;
	m.window = 3;
	naive_init(&m, 15);
	file_model_init(&f, &m, "model.", false);
	json_t *c = file_config("mistral", &m);
	json_object_set_new(c, "sliding_window", json_integer(3));
	check_model("mistral", write_hf(&f, c), &m);
	struct st_model *model;
	c = file_config("mistral", &m);
	write_hf(&f, c);
	model = open_model(in_folder("hf"));
	assert_int_equal(st_model_config(model)->sliding_window, 4096); /* MistralConfig's default */
	assert_string_equal(st_model_config(model)->arch, "llama");
	st_model_close(model);
	/* By its class alone; with null, which is none; and a llama, of which transformers reads no window. */
	static const struct {
		const char *type, *class;
		int window;
		uint32_t want;
	} windows[] = {
		{ NULL, "MistralForCausalLM", 3, 3 },
		{ "mistral", "MistralForCausalLM", 0, 0 },
		{ "llama", "LlamaForCausalLM", 3, 0 },
	};
	for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
		c = file_config("llama", &m);
		json_object_del(c, "model_type");
		if (windows[i].type)
			json_object_set_new(c, "model_type", json_string(windows[i].type));
		json_object_set_new(c, "architectures", json_pack("[s]", windows[i].class));
		json_object_set_new(c, "sliding_window",
		                    windows[i].window ? json_integer(windows[i].window) : json_null());
		write_hf(&f, c);
		model = open_model(in_folder("hf"));
		assert_int_equal(st_model_config(model)->sliding_window, windows[i].want);
		st_model_close(model);
	}
	file_model_free(&f);
	file_model_init(&f, &m, NULL, true);
	file_keys_init(&k, "llama", &m);
	key_u32(&k, "llama.attention.sliding_window", 3);
	check_model("llama gguf with a window", write_gguf(&f, &k), &m);
	m.window = 0;
	m.factor = 4;
	file_keys_init(&k, "llama", &m);
	key_str(&k, "llama.rope.scaling.type", "linear");
	key_f32(&k, "llama.rope.scaling.factor", 4);
	check_model("linear", write_gguf(&f, &k), &m);
	file_keys_init(&k, "llama", &m);
	key_f32(&k, "llama.rope.scale_linear", 4);
	check_model("linear, old key", write_gguf(&f, &k), &m);
	/* One divisor for every pair is linear scaling by another name. */
	float four[4] = { 4, 4, 4, 4 };
	file_add_f32(&f, "rope_freqs.weight", four, 0, 4);
	file_keys_init(&k, "llama", &m);
	check_model("rope_freqs", write_gguf(&f, &k), &m);
	/* Beside llama3's scaling, which only an APR file can say as well: the same scaling twice counts once, another
	 * is refused. */
	struct naive three = m;
	three.factor = 1;
	file_drop(&f, "rope_freqs.weight");
	json_t *meta = file_config("llama", &three);
	json_object_set_new(meta, "rope_scaling",
	                    json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", 4.0,
	                              "low_freq_factor", 1.0, "high_freq_factor", 4.0,
	                              "original_max_position_embeddings", 1));
	three.factor = 4; /* every wavelength is beyond one position */
	check_model("llama3 in APR", write_apr(&f, json_deep_copy(meta)), &three);
	file_add_f32(&f, "rope_freqs.weight", four, 0, 4);
	check_model("llama3 in APR, said twice", write_apr(&f, json_deep_copy(meta)), &three);
	file_drop(&f, "rope_freqs.weight");
	four[3] = 5;
	file_add_f32(&f, "rope_freqs.weight", four, 0, 4);
	check_refused("two scalings in APR", write_apr(&f, meta), ST_ERR_FORMAT, "rope_freqs.weight", "element 3 is 5");
	four[3] = 4;
	file_find(&f, "rope_freqs.weight")->spec.shape[0] = 2;
	file_find(&f, "rope_freqs.weight")->n_bytes = 8;
	check_refused("short rope_freqs", write_gguf(&f, &k), ST_ERR_FORMAT, "rope_freqs.weight", "expected [4]");
	file_drop(&f, "rope_freqs.weight");
	four[2] = 0;
	file_add_f32(&f, "rope_freqs.weight", four, 0, 4);
	check_refused("zero in rope_freqs", write_gguf(&f, &k), ST_ERR_FORMAT, "rope_freqs.weight", "element 2");
	file_model_free(&f);
	file_model_init(&f, &m, "model.", false);
	c = file_config("llama", &m);
	json_object_set_new(c, "rope_scaling", json_pack("{s:s, s:f}", "type", "linear", "factor", 4.0));
	check_model("linear, config.json", write_hf(&f, c), &m);
	file_model_free(&f);
	naive_free(&m);

	m = sizes("qwen2");
	m.window = 3;
	m.window_from = 2;
	naive_init(&m, 16);
	file_model_init(&f, &m, "model.", false);
	c = file_config("qwen2", &m);
	json_object_update_new(
		c, json_pack("{s:b, s:i, s:i}", "use_sliding_window", 1, "sliding_window", 3, "max_window_layers", 2));
	check_model("qwen2 with a window", write_hf(&f, json_deep_copy(c)), &m);
	json_object_set_new(c, "layer_types",
	                    json_pack("[s, s, s]", "full_attention", "full_attention", "sliding_attention"));
	check_model("qwen2 with layer_types", write_hf(&f, json_deep_copy(c)), &m);
	json_object_set_new(c, "layer_types",
	                    json_pack("[s, s, s]", "sliding_attention", "full_attention", "sliding_attention"));
	struct st_model *alternating = open_model(write_hf(&f, json_deep_copy(c))); /* by the family's page */
	for (int32_t l = 0; l < 3; l++) {
		const struct st_graph *g = st_model_graph(alternating);
		assert_int_equal(g->nodes[st_graph_find(g, ST_STAGE_ATTN_SCORES, l)].window, l == 1 ? 0 : 3);
	}
	st_model_close(alternating);
	json_object_set_new(c, "use_sliding_window", json_false());
	json_object_del(c, "layer_types");
	m.window = 0;
	check_model("qwen2, window off", write_hf(&f, c), &m);
	file_model_free(&f);
	naive_free(&m);
}

/* transformers 5 moves theta and scaling into one object. llama3's frequencies against its formula in f32's
 * reference code are checked by the published logits (test_oracles). */
static void rope_parameters(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 17);
	file_model_init(&f, &m, "model.", false);
	json_t *c = file_config("llama", &m);
	json_object_del(c, "rope_theta");
	json_object_set_new(c, "rope_parameters",
	                    json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", 10000.0));
	check_model("rope_parameters", write_hf(&f, json_deep_copy(c)), &m);
	json_object_set_new(c, "rope_parameters", json_pack("{s:f}", "rope_theta", 10000.0)); /* no type: default */
	check_model("rope_parameters, theta alone", write_hf(&f, json_deep_copy(c)), &m);
	json_object_set_new(c, "rope_theta", json_real(5000.0));
	check_refused("two thetas", write_hf(&f, json_deep_copy(c)), ST_ERR_FORMAT, "rope_parameters", "contradicts");
	json_object_del(c, "rope_theta");
	json_object_set_new(c, "rope_scaling", json_pack("{s:s, s:f}", "rope_type", "linear", "factor", 2.0));
	check_refused("two scalings", write_hf(&f, c), ST_ERR_FORMAT, "rope_scaling", "contradicts");
	/* Without any theta: the family's default, where it has one. */
	c = file_config("llama", &m);
	json_object_del(c, "rope_theta");
	check_model("no theta", write_hf(&f, c), &m);
	file_model_free(&f);
	naive_free(&m);
	m = sizes("qwen3");
	naive_init(&m, 18);
	file_model_init(&f, &m, "model.", false);
	c = file_config("qwen3", &m);
	json_object_del(c, "rope_theta");
	check_refused("qwen3 without theta", write_hf(&f, c), ST_ERR_FORMAT, "rope_theta", "missing");
	file_model_free(&f);
	naive_free(&m);
}

/* The divisor of one pair as converters to GGUF compute it, in f32 throughout. */
static float f32_divisor(double theta, size_t d, size_t pair, float factor, float high, float original)
{
	float f = 1 / powf((float)theta, (float)(2 * pair) / (float)d), wavelength = (float)(2 * M_PI) / f;
	if (wavelength < original / high)
		return 1;
	if (wavelength > original)
		return factor;
	float smooth = (original / wavelength - 1) / (high - 1);
	return 1 / ((1 - smooth) / factor + smooth);
}

/* The divisors that converters write for llama3's scaling are recognised as that scaling. */
static void llama3_as_divisors(void **state)
{
	(void)state;
	static const struct {
		size_t d;
		double theta, factor, high, original;
		bool exact, in_f32;
	} cases[] = {
		{ 128, 500000, 32, 4, 8192, true, false },
		{ 64, 500000, 8, 4, 8192, true, false },
		{ 64, 10000, 4, 2.5, 100, true, false },
		{ 8, 500000, 8, 4, 16, true, false }, /* one blended pair */
		{ 64, 500000, 32, 4, 8192, true, true },
		{ 96, 500000, 32, 4, 8192, true, true },
		{ 80, 500000, 64, 4, 32768, true, true },
		{ 64, 500000, 8, 4, 8192, false, false }, /* one divisor disturbed: no such scaling */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct naive m = sizes("llama");
		struct file_model f;
		struct file_keys k;
		m.d = cases[i].d;
		m.theta = cases[i].theta;
		naive_init(&m, 25);
		file_model_init(&f, &m, NULL, true);
		float by[64];
		for (size_t p = 0; p < m.d / 2; p++) {
			double wavelength = 2 * M_PI * pow(m.theta, 2.0 * (double)p / (double)m.d),
			       original = cases[i].original;
			double smooth = (original / wavelength - 1) / (cases[i].high - 1);
			by[p] = wavelength < original / cases[i].high ? 1
			      : wavelength > original                 ? (float)cases[i].factor
			                              : (float)(1 / ((1 - smooth) / cases[i].factor + smooth));
			if (cases[i].in_f32)
				by[p] = f32_divisor(m.theta, m.d, p, (float)cases[i].factor, (float)cases[i].high,
				                    (float)original);
		}
		if (!cases[i].exact)
			by[3] *= 1.001f;
		file_add_f32(&f, "rope_freqs.weight", by, 0, m.d / 2);
		file_keys_init(&k, "llama", &m);
		struct st_model *model = open_model(write_gguf(&f, &k));
		const struct st_config *cfg = st_model_config(model);
		assert_int_equal(cfg->rope_scaling, cases[i].exact ? ST_ROPE_SCALING_LLAMA3 : ST_ROPE_SCALING_NONE);
		if (cases[i].exact) {
			assert_true(cfg->rope_factor == cases[i].factor);
			assert_true(cfg->rope_low_freq == 1 && cfg->rope_high_freq == cases[i].high);
			assert_int_equal(cfg->rope_original_positions, cases[i].original);
		}
		/* The divisors are used once, whatever they were taken for. */
		const struct st_graph *g = st_model_graph(model);
		const double *inv = g->nodes[st_graph_find(g, ST_STAGE_Q_POST_ROPE, 0)].inv_freq;
		for (size_t p = 0; p < m.d / 2; p++) {
			double want = pow(m.theta, -2.0 * (double)p / (double)m.d) / by[p];
			assert_true(fabs(inv[p] / want - 1) < 1e-14);
		}
		st_model_close(model);
		file_model_free(&f);
		naive_free(&m);
	}
}

static void bad_config_json(void **state)
{
	(void)state;
	static const struct {
		const char *patch;
		enum st_status want;
		const char *word, *word2;
	} cases[] = {
		{ "{\"model_type\": \"gemma9\"}", ST_ERR_UNSUPPORTED, "gemma9", "family list" },
		{ "{\"model_type\": 7}", ST_ERR_FORMAT, "model_type", "string" },
		{ "{\"model_type\": null}", ST_ERR_FORMAT, "model_type", "missing" },
		{ "{\"num_hidden_layers\": -1}", ST_ERR_FORMAT, "num_hidden_layers", "-1" },
		{ "{\"num_hidden_layers\": 0}", ST_ERR_FORMAT, "num_hidden_layers", "0" },
		{ "{\"num_hidden_layers\": 3.0}", ST_ERR_FORMAT, "num_hidden_layers", "integer" },
		{ "{\"num_hidden_layers\": \"3\"}", ST_ERR_FORMAT, "num_hidden_layers", "integer" },
		{ "{\"num_hidden_layers\": null}", ST_ERR_FORMAT, "num_hidden_layers", "missing" },
		{ "{\"num_hidden_layers\": 4294967296}", ST_ERR_FORMAT, "num_hidden_layers",
		  "is 4294967296, not an integer from 1 to 4294967295" },
		{ "{\"num_hidden_layers\": 4000}", ST_ERR_FORMAT, "number of layers", "4000" },
		{ "{\"num_hidden_layers\": 4000000000}", ST_ERR_LIMIT, "number of layers", "4000000000" },
		{ "{\"num_hidden_layers\": 4}", ST_ERR_FORMAT, "model.layers.3.input_layernorm.weight", "missing" },
		{ "{\"num_hidden_layers\": 2}", ST_ERR_FORMAT, "model.layers.2.", "layer 2" },
		{ "{\"hidden_size\": 64}", ST_ERR_FORMAT, "model.embed_tokens.weight", "hidden_size" },
		{ "{\"intermediate_size\": 47}", ST_ERR_FORMAT, "model.layers.0.mlp.gate_proj.weight",
		  "intermediate_size" },
		{ "{\"vocab_size\": 30}", ST_ERR_FORMAT, "model.embed_tokens.weight", "vocab_size" },
		{ "{\"num_attention_heads\": 8}", ST_ERR_FORMAT, "model.layers.0.self_attn.q_proj.weight", "[32, 32]" },
		{ "{\"num_key_value_heads\": 3}", ST_ERR_FORMAT, "key-value heads", "3" },
		{ "{\"num_key_value_heads\": 4}", ST_ERR_FORMAT, "model.layers.0.self_attn.k_proj.weight",
		  "num_key_value_heads" },
		{ "{\"head_dim\": 7}", ST_ERR_FORMAT, "head size", "7" },
		{ "{\"head_dim\": 100000}", ST_ERR_LIMIT, "head size", "100000" },
		{ "{\"head_dim\": null, \"num_attention_heads\": 6}", ST_ERR_FORMAT, "head size", "multiple" },
		{ "{\"rms_norm_eps\": null}", ST_ERR_FORMAT, "rms_norm_eps", "missing" },
		{ "{\"rms_norm_eps\": -1e-5}", ST_ERR_FORMAT, "epsilon", "-1e-05" },
		{ "{\"rms_norm_eps\": \"1e-5\"}", ST_ERR_FORMAT, "rms_norm_eps", "number" },
		{ "{\"rope_theta\": -1}", ST_ERR_FORMAT, "rope_theta", "-1" },
		{ "{\"rope_theta\": 0}", ST_ERR_FORMAT, "rope_theta", "0" },
		{ "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}", ST_ERR_FORMAT, "llama.family",
		  "original 0" },
		{ "{\"rope_scaling\": {\"rope_type\": \"longrope\"}}", ST_ERR_FORMAT, "llama.family", "rotation" },
		{ "{\"rope_scaling\": {\"factor\": 4}}", ST_ERR_FORMAT, "rope_scaling", "rope_type" },
		{ "{\"rope_scaling\": {\"rope_type\": \"linear\"}}", ST_ERR_FORMAT, "rope_scaling", "factor" },
		{ "{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0}}", ST_ERR_FORMAT, "factor", "0" },
		{ "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
		  "\"high_freq_factor\": 4}}",
		  ST_ERR_FORMAT, "original_max_position_embeddings", "missing" },
		{ "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
		  "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 16}}",
		  ST_ERR_FORMAT, "low_freq_factor", "4" },
		{ "{\"rope_scaling\": []}", ST_ERR_FORMAT, "rope_scaling", "object" },
		{ "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}}", ST_ERR_UNSUPPORTED,
		  "rope_parameters", "full_attention" },
		{ "{\"hidden_act\": \"gelu\"}", ST_ERR_UNSUPPORTED, "hidden_act", "gelu" },
		{ "{\"mlp_bias\": true}", ST_ERR_FORMAT, "mlp.gate_proj.bias", "missing" },
		{ "{\"attention_bias\": true}", ST_ERR_FORMAT, "model.layers.0.self_attn.q_proj.bias", "missing" },
		{ "{\"attention_bias\": 1}", ST_ERR_FORMAT, "attention_bias", "true or false" },
		{ "{\"attn_logit_softcapping\": 50.0}", ST_ERR_UNSUPPORTED, "attn_logit_softcapping", NULL },
		{ "{\"partial_rotary_factor\": 0.5}", ST_ERR_UNSUPPORTED, "partial_rotary_factor", NULL },
		{ "{\"logit_scale\": 0.0625}", ST_ERR_UNSUPPORTED, "logit_scale", NULL },
		{ "{\"residual_multiplier\": 0.22}", ST_ERR_UNSUPPORTED, "residual_multiplier", NULL },
		{ "{\"embedding_multiplier\": 12}", ST_ERR_UNSUPPORTED, "embedding_multiplier", NULL },
		{ "{\"num_local_experts\": 8}", ST_ERR_UNSUPPORTED, "num_local_experts", NULL },
		{ "{\"pruned_heads\": {\"0\": [1]}}", ST_ERR_UNSUPPORTED, "pruned_heads", "read by nothing" },
		{ "{\"new_multiplier\": 0.5}", ST_ERR_UNSUPPORTED, "new_multiplier", "read by nothing" },
		{ "{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2, \"new_factor\": 8}}",
		  ST_ERR_UNSUPPORTED, "rope_scaling.new_factor", "read by nothing" },
		{ "{\"quantization_config\": {\"quant_method\": \"gptq\"}}", ST_ERR_UNSUPPORTED, "quantization_config",
		  NULL },
		{ "{\"tie_word_embeddings\": \"no\"}", ST_ERR_FORMAT, "tie_word_embeddings", "true or false" },
		{ "{\"eos_token_id\": \"</s>\"}", ST_ERR_FORMAT, "eos_token_id", NULL },
	};
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 19);
	file_model_init(&f, &m, "model.", false);
	/* Neutral values of the same keys, and keys that change nothing, are fine. */
	json_t *fine = file_config("llama", &m);
	json_object_update_new(
		fine,
		json_loads(
			"{\"logit_scale\": 1.0, \"mlp_bias\": false, \"attention_bias\": false, "
			"\"partial_rotary_factor\": 1, \"attn_logit_softcapping\": null, "
			"\"rope_scaling\": null, \"use_cache\": true, "
			"\"pretraining_tp\": 1, \"num_local_experts\": 0, \"eos_token_id\": [2, 5], "
			"\"bos_token_id\": null, \"new_thing\": null, \"pruned_heads\": {}, \"list\": [], \"newer_thing\": false, "
			"\"_name_or_path\": \"a\", \"auto_map\": {\"AutoModel\": \"x.Y\"}, "
			"\"initializer_range\": 0.02, \"attention_dropout\": 0.1, \"temperature\": 0.7, "
			"\"num_labels\": 2, \"rope_parameters\": {\"rope_type\": \"default\", "
			"\"rope_theta\": 10000.0, \"partial_rotary_factor\": 1.0}}",
			0, NULL));
	check_model("neutral keys", write_hf(&f, fine), &m);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		json_t *c = file_config("llama", &m), *patch = json_loads(cases[i].patch, 0, NULL);
		assert_non_null(patch);
		json_object_update_new(c, patch);
		check_refused(cases[i].patch, write_hf(&f, c), cases[i].want, cases[i].word, cases[i].word2);
	}
	file_model_free(&f);
	naive_free(&m);
}

static void bad_gguf_keys(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	struct file_keys k;
	naive_init(&m, 20);
	file_model_init(&f, &m, NULL, true);
	static const char *const required[] = {
		"general.architecture",      "llama.block_count",          "llama.embedding_length",
		"llama.feed_forward_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"
	};
	for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
		file_keys_init(&k, "llama", &m);
		key_drop(&k, required[i]);
		check_refused("key dropped", write_gguf(&f, &k), ST_ERR_FORMAT, required[i], "missing");
	}
	static const struct {
		const char *key;
		uint32_t v;
		enum st_status want;
		const char *word;
	} counts[] = {
		{ "llama.block_count", 0, ST_ERR_FORMAT, "llama.block_count" },
		{ "llama.block_count", 4, ST_ERR_FORMAT, "blk.3.attn_norm.weight" },
		{ "llama.block_count", 2, ST_ERR_FORMAT, "block_count" },
		{ "llama.block_count", 4000, ST_ERR_FORMAT, "4000" },
		{ "llama.embedding_length", 31, ST_ERR_FORMAT, "embedding_length" },
		{ "llama.feed_forward_length", 49, ST_ERR_FORMAT, "feed_forward_length" },
		{ "llama.attention.head_count", 8, ST_ERR_FORMAT, "blk.0.attn_q.weight" },
		{ "llama.attention.value_length", 16, ST_ERR_UNSUPPORTED, "llama.attention.value_length" },
		{ "llama.rope.dimension_count", 4, ST_ERR_UNSUPPORTED, "llama.rope.dimension_count" },
		{ "llama.expert_count", 8, ST_ERR_UNSUPPORTED, "no place in the description of mixtral" },
		{ "llama.vocab_size", 30, ST_ERR_FORMAT, "token_embd.weight" },
		{ "llama.attention.layer_norm_rms_epsilon", 1, ST_ERR_FORMAT, "epsilon" },
		{ "general.architecture", 3, ST_ERR_FORMAT, "general.architecture" },
		{ "llama.rope.scaling.type", 3, ST_ERR_FORMAT, "llama.rope.scaling.type" },
		{ "llama.attention.sliding_window_pattern", 2, ST_ERR_UNSUPPORTED, "sliding_window_pattern" },
		{ "llama.attention.new_thing", 2, ST_ERR_UNSUPPORTED, "llama.attention.new_thing" },
	};
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		file_keys_init(&k, "llama", &m);
		key_u32(&k, counts[i].key, counts[i].v);
		check_refused(counts[i].key, write_gguf(&f, &k), counts[i].want, counts[i].word, NULL);
	}
	static const struct {
		const char *key;
		float v;
		enum st_status want;
		const char *word;
	} reals[] = {
		{ "llama.block_count", 3, ST_ERR_FORMAT, "llama.block_count" },
		{ "llama.rope.freq_base", -1, ST_ERR_FORMAT, "rope_theta" },
		{ "llama.rope.freq_base", NAN, ST_ERR_FORMAT, "llama.rope.freq_base" },
		{ "llama.attention.layer_norm_rms_epsilon", NAN, ST_ERR_FORMAT, "epsilon" },
		{ "llama.logit_scale", 0.5f, ST_ERR_UNSUPPORTED, "llama.logit_scale" },
		{ "llama.rope.scaling.factor", -2, ST_ERR_FORMAT, "factor" },
		{ "llama.attn_logit_softcapping", 30, ST_ERR_UNSUPPORTED, "llama.attn_logit_softcapping" },
	};
	for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
		file_keys_init(&k, "llama", &m);
		key_f32(&k, reals[i].key, reals[i].v);
		check_refused(reals[i].key, write_gguf(&f, &k), reals[i].want, reals[i].word, NULL);
	}
	file_keys_init(&k, "llama", &m);
	key_str(&k, "llama.rope.scaling.type", "yarn");
	check_refused("yarn", write_gguf(&f, &k), ST_ERR_FORMAT, "llama.family", "original 0");
	file_keys_init(&k, "zorp", &m);
	check_refused("zorp", write_gguf(&f, &k), ST_ERR_UNSUPPORTED, "zorp", "family list");
	file_model_free(&f);
	naive_free(&m);
}

static void bad_tensors(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	naive_init(&m, 21);
	/* Each needed tensor in turn. */
	file_model_init(&f, &m, "model.", false);
	size_t n = f.n;
	file_model_free(&f);
	for (size_t i = 0; i < n; i++) {
		char name[96];
		file_model_init(&f, &m, "model.", false);
		snprintf(name, sizeof name, "%s", f.t[i].name);
		file_drop(&f, name);
		check_refused(name, write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT, name, "missing");
		file_model_free(&f);
	}
	/* A tensor that the family has no place for, and one that harms nobody. */
	static const struct {
		const char *name;
		enum st_status want;
	} extra[] = {
		{ "model.layers.1.self_attn.o_proj.bias", ST_ERR_UNSUPPORTED },
		{ "model.layers.0.mlp.down_proj.bias", ST_ERR_UNSUPPORTED },
		{ "model.layers.2.self_attn.q_norm.weight", ST_ERR_UNSUPPORTED },
		{ "lm_head.bias", ST_ERR_UNSUPPORTED },
		{ "model.layers.0.mlp.new_proj.weight", ST_ERR_UNSUPPORTED },
		{ "model.new_norm.weight", ST_ERR_UNSUPPORTED },
		{ "model.layers.0.mlp.up_proj.weight_scale", ST_ERR_UNSUPPORTED },
		{ "model.layers.0.self_attn.rotary_emb.inv_freq", ST_OK },
		{ "something.else", ST_OK },
	};
	for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
		file_model_init(&f, &m, "model.", false);
		file_add_f32(&f, extra[i].name, m.final_norm, 0, m.D);
		write_hf(&f, file_config("llama", &m));
		if (extra[i].want != ST_OK) {
			check_refused(extra[i].name, in_folder("hf"), extra[i].want, extra[i].name,
			              strstr(extra[i].name, "weight_scale") ? "packed by FP8" : "llama");
		} else {
			check_model(extra[i].name, in_folder("hf"), &m);
			struct st_model *model = open_model(in_folder("hf"));
			assert_int_equal(st_model_n_unused(model), 1);
			assert_string_equal(st_model_unused_at(model, 0)->name, extra[i].name);
			st_model_close(model);
		}
		file_model_free(&f);
	}
	/* Integers, and a matrix lying the other way. */
	file_model_init(&f, &m, "model.", false);
	file_find(&f, "model.layers.1.mlp.up_proj.weight")->spec.dtype = ST_DTYPE_I32;
	check_refused("integers", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT,
	              "model.layers.1.mlp.up_proj.weight", "I32");
	file_model_free(&f);
	file_model_init(&f, &m, "model.", false);
	struct file_tensor *t = file_find(&f, "model.layers.1.mlp.up_proj.weight");
	t->spec.shape[0] = m.D;
	t->spec.shape[1] = m.F;
	check_refused("transposed", write_hf(&f, file_config("llama", &m)), ST_ERR_FORMAT,
	              "is [32, 48], expected [48, 32]", "transposed");
	/* In an APR file the label of one matrix means nothing: its bytes are [out, in]. */
	check_model("apr, one label reversed", write_apr(&f, file_config("llama", &m)), &m);
	file_model_free(&f);
	naive_free(&m);
}

struct lines {
	size_t n, ok, reversed, unused, transposed, layers;
	char up[256], folded[256];
};

static void count_line(void *user, const char *line)
{
	struct lines *l = user;
	l->n++;
	assert_memory_equal(line, "[APR-LOAD] ", 11);
	l->layers += strncmp(line, "[APR-LOAD] layers ", 18) == 0;
	if (strstr(line, " mlp.up_proj.weight: "))
		snprintf(l->folded, sizeof l->folded, "%s", line);
	l->ok += strstr(line, ", layout OK") != NULL;
	l->reversed += strstr(line, ", label reversed") != NULL;
	l->unused += strstr(line, ", unused") != NULL;
	l->transposed += strstr(line, ", TRANSPOSED") != NULL;
	if (strstr(line, "layers.1.mlp.up_proj"))
		snprintf(l->up, sizeof l->up, "%s", line);
}

static void load_log_and_partial_opening(void **state)
{
	(void)state;
	struct naive m = sizes("llama");
	struct file_model f;
	struct st_error err = ST_ERROR_INIT;
	struct st_model *model;
	naive_init(&m, 22);
	file_model_init(&f, &m, "model.", false);
	file_add_f32(&f, "spare", m.final_norm, 0, m.D);
	struct file_tensor *t = file_find(&f, "model.layers.1.mlp.up_proj.weight");
	t->spec.shape[0] = m.D;
	t->spec.shape[1] = m.F;
	model = open_model(write_apr(&f, file_config("llama", &m)));
	struct lines l = { 0 };
	struct st_hooks hooks = { .log = count_line, .user = &l };
	st_model_load_log(model, true, &hooks);
	assert_int_equal(l.layers, 0);
	assert_int_equal(l.n, f.n);
	assert_int_equal(l.unused, 1);
	assert_int_equal(l.reversed, 1);
	assert_int_equal(l.ok, f.n - 2);
	assert_string_equal(l.up, "[APR-LOAD] tensor 'model.layers.1.mlp.up_proj.weight': dims=[32, 48], dtype=F32, "
	                          "expected [out, in] = [48, 32], label reversed");

	/* Lines of layers that say the same are one; the matrix of layer 1 says something else. */
	l = (struct lines){ 0 };
	st_model_load_log(model, false, &hooks);
	assert_string_equal(l.folded, "[APR-LOAD] layers 0, 2 mlp.up_proj.weight: dims=[48, 32], dtype=F32, layout OK");
	assert_string_equal(l.up, "[APR-LOAD] tensor 'model.layers.1.mlp.up_proj.weight': dims=[32, 48], dtype=F32, "
	                          "expected [out, in] = [48, 32], label reversed");
	assert_int_equal(l.layers, 9);        /* two norms and seven matrices */
	assert_int_equal(l.n, 9 + 1 + 3 + 1); /* and that matrix, embedding, last norm and head, the spare one */
	st_model_close(model);

	/* The same in a file whose labels count: it cannot be run, but looked at. */
	file_drop(&f, "model.layers.2.self_attn.v_proj.weight");
	write_hf(&f, file_config("llama", &m));
	assert_ok(st_model_open_partial(in_folder("hf"), &model, &err), &err);
	assert_null(st_model_graph(model));
	assert_int_equal(st_model_check(model, &err), ST_ERR_FORMAT);
	assert_string_equal(err.where, "model.layers.1.mlp.up_proj.weight"); /* the first in graph order */
	assert_null(st_model_role(model, ST_ROLE_V, 2)->tensor);
	assert_non_null(st_model_role(model, ST_ROLE_V, 1)->tensor);
	assert_int_equal(st_model_n_weights(model), f.n - 1);
	l = (struct lines){ 0 };
	st_model_load_log(model, false, &hooks);
	assert_int_equal(l.transposed, 1);
	st_model_close(model);
	file_model_free(&f);
	naive_free(&m);
}

static void names_and_roles(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		enum st_role role;
		uint32_t layer;
	} known[] = {
		{ "model.embed_tokens.weight", ST_ROLE_EMBED, 0 },
		{ "token_embd.weight", ST_ROLE_EMBED, 0 },
		{ "model.layers.17.self_attn.k_proj.bias", ST_ROLE_K_BIAS, 17 },
		{ "blk.17.attn_k.bias", ST_ROLE_K_BIAS, 17 },
		{ "model.layers.0.post_attention_layernorm.weight", ST_ROLE_FFN_NORM, 0 },
		{ "blk.0.ffn_norm.weight", ST_ROLE_FFN_NORM, 0 },
		{ "blk.3.attn_output.weight", ST_ROLE_O, 3 },
		{ "output.weight", ST_ROLE_HEAD, 0 },
		{ "lm_head.weight", ST_ROLE_HEAD, 0 },
		{ "model.norm.weight", ST_ROLE_FINAL_NORM, 0 },
		{ "output_norm.weight", ST_ROLE_FINAL_NORM, 0 },
		{ "rope_freqs.weight", ST_ROLE_ROPE_FREQS, 0 },
		{ "layers.2.mlp.down_proj.weight", ST_ROLE_DOWN, 2 },
	};
	enum st_role role;
	uint32_t layer;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		assert_true(st_role_of_name(known[i].name, &role, &layer));
		assert_int_equal(role, known[i].role);
		assert_int_equal(layer, known[i].layer);
	}
	for (size_t i = 0; i < st_arch_count; i++)
		assert_ptr_equal(st_arch_find(st_arch_table[i]->name, strlen(st_arch_table[i]->name)),
		                 st_arch_table[i]);
	assert_null(st_arch_find("llam", 4));
	static const char *const strangers[] = { "",
		                                 "blk.",
		                                 "blk.1",
		                                 "blk.01.attn_q.weight",
		                                 "blk.-1.attn_q.weight",
		                                 "model.layers.1.self_attn.q_proj",
		                                 "blk.0.self_attn.q_proj.weight",
		                                 "model.layers.0.attn_q.weight",
		                                 "blk.4294967296.attn_q.weight",
		                                 "xmodel.norm.weight" };
	for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
		assert_false(st_role_of_name(strangers[i], &role, &layer));
}

/* Files that are sound containers and no models. */
static void malformed(void **state)
{
	(void)state;
	static const char *const files[] = {
		"gguf/architecture-u32.gguf",   "gguf/block-count-f32.gguf",  "gguf/theta-negative.gguf",
		"gguf/tokens-u8.gguf",          "gguf/bos-out-of-range.gguf", "gguf/good.gguf",
		"apr/meta-alias-conflict.apr",  "apr/meta-negative.apr",      "apr/meta-empty.apr",
		"apr/vocab-not-strings.apr",    "apr/merges-malformed.apr",   "apr/good.apr",
		"safetensors/config-negative",  "safetensors/config-empty",   "safetensors/config-truncated",
		"safetensors/good.safetensors",
	};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		char rel[128], line[1400];
		struct st_error err = ST_ERROR_INIT;
		struct st_model *m = NULL;
		snprintf(rel, sizeof rel, "malformed/%s", files[i]);
		if (st_model_open(shared_path(rel), &m, &err) == ST_OK)
			fail_msg("%s opens as a model", files[i]);
		st_error_format(&err, line, sizeof line);
		assert_non_null(strstr(line, strrchr(files[i], '/') + 1));
		assert_true(err.message[0] != '\0');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_family_in_every_container),
		cmocka_unit_test(prefixes_of_names),
		cmocka_unit_test(wrappers_in_names),
		cmocka_unit_test(tied_head_alone),
		cmocka_unit_test(names_are_the_way_in),
		cmocka_unit_test(pages_refuse_two_values),
		cmocka_unit_test(empty_tensors),
		cmocka_unit_test(what_is_no_language_model),
		cmocka_unit_test(packed_weights),
		cmocka_unit_test(apr_rope_type),
		cmocka_unit_test(optional_parts),
		cmocka_unit_test(windows_and_scaling),
		cmocka_unit_test(vocabularies_are_limited),
		cmocka_unit_test(rope_parameters),
		cmocka_unit_test(llama3_as_divisors),
		cmocka_unit_test(bad_config_json),
		cmocka_unit_test(bad_gguf_keys),
		cmocka_unit_test(bad_tensors),
		cmocka_unit_test(load_log_and_partial_opening),
		cmocka_unit_test(names_and_roles),
		cmocka_unit_test(malformed),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
