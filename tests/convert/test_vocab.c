/*
 * Vocabularies from GGUF to tokenizer.json, to APR and back: ids of published texts stay what they are.
 *
 * Each published vocabulary gets a small model written around it, since a vocabulary alone is no model to convert.
 */
#include "convert/support.h"

#include <stele/token.h>

/* A GGUF file with the toy's weights and the tokenizer of `vocab`, the last `lacking` pieces without a row. */
static void model_around(const char *vocab, const char *path, uint64_t lacking)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *v, *m;
	struct toy toy;
	toy_make(&toy, "llama", 64, false);
	toy_write(&toy, in_folder("toy.gguf"), ST_DTYPE_F16, true);
	toy_free(&toy);
	assert_ok(st_container_open(vocab, &v, &err), &err);
	assert_ok(st_container_open(in_folder("toy.gguf"), &m, &err), &err);
	struct st_kv kv[128];
	struct st_tensor_spec specs[64];
	size_t n = 0;
	for (size_t i = 0; i < m->keys.n; i++)
		if (!strstr(m->keys.kv[i].key, "vocab_size"))
			kv[n++] = m->keys.kv[i];
	for (size_t i = 0; i < v->keys.n; i++)
		if (strncmp(v->keys.kv[i].key, "tokenizer.", 10) == 0)
			kv[n++] = v->keys.kv[i];
	assert_true(n < 128 && m->n_tensors <= 64);
	const struct st_kv *pieces = st_kv_find(&v->keys, "tokenizer.ggml.tokens");
	assert_non_null(pieces);
	for (size_t i = 0; i < m->n_tensors; i++) {
		specs[i] = (struct st_tensor_spec){ .name = m->tensors[i].name,
			                            .dtype = m->tensors[i].dtype,
			                            .ndim = m->tensors[i].ndim };
		memcpy(specs[i].shape, m->tensors[i].shape, sizeof specs[i].shape);
		if (specs[i].ndim == 2 && specs[i].shape[0] == TOY_VOCAB) /* a row for every piece */
			specs[i].shape[0] = pieces->count - lacking;
	}
	struct st_write_plan plan = {
		.format = ST_FORMAT_GGUF, .specs = specs, .n_specs = m->n_tensors, .kv = kv, .n_kv = n
	};
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < m->n_tensors; i++)
		for (uint64_t left = specs[i].ndim == 2 ? specs[i].shape[0] : 1; left > 0;) {
			const struct st_tensor *t = &m->tensors[i];
			uint64_t rows = t->ndim == 2 ? t->shape[0] : 1, k = left < rows ? left : rows;
			assert_ok(st_writer_append(w, t->data, t->n_bytes / rows * k, &err), &err);
			left -= k;
		}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
	st_container_close(v);
	st_container_close(m);
}

/* Texts separated by "\n__ggml_vocab_test__\n", ids of each on a line. */
static size_t count_wrong(const char *model, const char *vocab)
{
	static const char separator[] = "\n__ggml_vocab_test__\n";
	char path[1200];
	size_t n, n_ids, wrong = 0, k = 0;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	struct st_tokenizer *t;
	assert_ok(st_container_open(model, &c, &err), &err);
	assert_ok(st_tokenizer_open(c, &t, &err), &err);
	snprintf(path, sizeof path, "%s.inp", vocab);
	char *texts = read_bytes(path, &n), *at = texts;
	snprintf(path, sizeof path, "%s.out", vocab);
	char *lines = read_bytes(path, &n), *line = lines;
	for (char *end; at; at = end ? end + sizeof separator - 1 : NULL, k++) {
		end = strstr(at, separator);
		if (end)
			*end = '\0';
		else if (!*at)
			break;
		uint32_t *ids;
		assert_ok(st_tokenize(t, at, strlen(at), ST_TOKENIZE_SPECIAL, &ids, &n_ids, &err), &err);
		char *eol = strchr(line, '\n');
		bool same = true;
		for (size_t i = 0; i < n_ids; i++) {
			char *after;
			unsigned long want = strtoul(line, &after, 10);
			same = same && after != line && after <= eol && want == ids[i];
			line = after;
		}
		while (same && line < eol)
			same = *line++ == ' ';
		if (!same)
			fprintf(stderr, "%s: text %zu\n", model, k);
		wrong += !same;
		line = eol + 1;
		free(ids);
	}
	assert_true(k > 20);
	free(texts);
	free(lines);
	st_tokenizer_close(t);
	st_container_close(c);
	return wrong;
}

/* Pieces, types, scores and merges of two files alike. */
static void same_vocabulary(const char *a, const char *b)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *x, *y;
	struct st_tokenizer *s, *t;
	assert_ok(st_container_open(a, &x, &err), &err);
	assert_ok(st_container_open(b, &y, &err), &err);
	assert_ok(st_tokenizer_open(x, &s, &err), &err);
	assert_ok(st_tokenizer_open(y, &t, &err), &err);
	assert_int_equal(st_tokenizer_vocab_size(s), st_tokenizer_vocab_size(t));
	assert_int_equal(st_tokenizer_bos(s), st_tokenizer_bos(t));
	assert_int_equal(st_tokenizer_eos(s), st_tokenizer_eos(t));
	assert_int_equal(st_tokenizer_adds_bos(s), st_tokenizer_adds_bos(t));
	for (uint32_t i = 0; i < st_tokenizer_vocab_size(s); i++) {
		size_t n, k;
		const char *p = st_tokenizer_piece(s, i, &n), *q = st_tokenizer_piece(t, i, &k);
		assert_int_equal(n, k);
		assert_memory_equal(p, q, n);
	}
	/* What the kind of vocabulary has; files carry keys that mean nothing for theirs. */
	bool bytes = strncmp(st_tokenizer_describe(s), "bpe", 3) == 0;
	const char *const keys[] = { "tokenizer.ggml.model", "tokenizer.ggml.token_type",
		                     bytes ? "tokenizer.ggml.merges" : "tokenizer.ggml.scores",
		                     bytes ? "tokenizer.ggml.pre" : "tokenizer.ggml.model" };
	for (size_t i = 0; i < 4; i++) {
		const struct st_kv *p = st_kv_find(&x->keys, keys[i]), *q = st_kv_find(&y->keys, keys[i]);
		assert_non_null(p);
		assert_non_null(q);
		assert_int_equal(p->count, q->count);
		assert_int_equal(st_kv_bytes(p), st_kv_bytes(q));
		assert_memory_equal(p->data, q->data, st_kv_bytes(p));
	}
	st_tokenizer_close(s);
	st_tokenizer_close(t);
	st_container_close(x);
	st_container_close(y);
}

static void published_vocabularies_go_around(void **state)
{
	(void)state;
	static const char *const names[] = { "gpt-2", "starcoder", "falcon", "deepseek-coder", "llama-spm", "phi-3" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char rel[128];
		snprintf(rel, sizeof rel, "tokenizers/ggml-vocab-%s.gguf", names[i]);
		const char *vocab = shared_path(rel);
		model_around(vocab, in_folder("a.gguf"), 0);
		assert_int_equal(count_wrong(in_folder("a.gguf"), vocab), 0);
		convert(in_folder("a.gguf"), in_folder("b.apr"));
		convert(in_folder("b.apr"), in_folder("c.gguf"));
		same_vocabulary(in_folder("a.gguf"), in_folder("c.gguf"));
		assert_int_equal(count_wrong(in_folder("b.apr"), vocab), 0);
		convert(in_folder("a.gguf"), in_folder("d"));
		assert_int_equal(count_wrong(in_folder("d"), vocab), 0);
		convert(in_folder("d"), in_folder("e.gguf"));
		assert_int_equal(count_wrong(in_folder("e.gguf"), vocab), 0);
		convert(in_folder("d"), in_folder("f.apr"));
		assert_int_equal(count_wrong(in_folder("f.apr"), vocab), 0);
		char cmd[128];
		snprintf(cmd, sizeof cmd, "rm -rf '%s'/*", folder);
		assert_int_equal(system(cmd), 0);
	}
}

/* Who was given the last token would read behind the embedding: no container gets such a pair. */
static void pieces_without_rows(void **state)
{
	(void)state;
	static const char *const outputs[] = { "b.gguf", "b.apr", "b" };
	model_around(shared_path("tokenizers/ggml-vocab-gpt-2.gguf"), in_folder("a.gguf"), 3);
	for (size_t i = 0; i < 3; i++) {
		struct st_error err = convert_fails(in_folder("a.gguf"), in_folder(outputs[i]),
		                                    &(struct st_convert_options){ 0 });
		assert_int_equal(err.code, ST_ERR_MISMATCH);
		assert_non_null(strstr(err.message, "has 50257 pieces, the embedding 50254 rows"));
	}
}

/* ---- the rest of a folder ---- */

static void put_json(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* A byte-level tokenizer.json of 256 bytes, one merge and a special token, with a template. */
static void write_tokenizer(const char *dir, const char *split)
{
	char path[300];
	snprintf(path, sizeof path, "%s/tokenizer.json", dir);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f,
	        "{\"added_tokens\": [{\"id\": 257, \"content\": \"<|end|>\", \"special\": true}, {\"id\": 258, "
	        "\"content\": \"<tool>\", \"special\": false, \"lstrip\": true}], "
	        "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
	        "\"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\"}, "
	        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, \"post_processor\": "
	        "null, \"decoder\": {\"type\": \"ByteLevel\"}, "
	        "\"model\": {\"type\": \"BPE\", \"vocab\": {",
	        split);
	unsigned next = 256;
	for (unsigned b = 0; b < 256; b++) {
		bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
		fprintf(f, "\"\\u%04x\": %u, ", plain ? b : next++, b);
	}
	fprintf(f, "\"th\": 256}, \"merges\": [\"t h\"]}}");
	fclose(f);
}

static const char config[] = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "
			     "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
			     "\"intermediate_size\": 128, \"vocab_size\": 259, \"rms_norm_eps\": 1e-05, "
			     "\"tie_word_embeddings\": true, \"eos_token_id\": 257}";

static void documents_are_carried(void **state)
{
	(void)state;
	struct toy m;
	struct st_error err = ST_ERROR_INIT;
	toy_make(&m, "llama", 64, true);
	struct toy_tensor *embed = toy_find(&m, "model.embed_tokens.weight");
	embed->data = realloc(embed->data, 259 * 64 * sizeof *embed->data); /* a row for every token */
	for (size_t i = TOY_VOCAB * 64; i < 259 * 64; i++)
		embed->data[i] = embed->data[i - TOY_VOCAB * 64];
	embed->rows = 259;
	toy_write(&m, in_folder("a"), ST_DTYPE_F32, false);
	toy_free(&m);
	put_json("a/config.json", config);
	write_tokenizer(in_folder("a"), "\\\\p{N}{1,3}| ?\\\\p{L}+|\\\\s+");
	/* A splitting that has no name cannot become GGUF. */
	struct st_error no = convert_fails(in_folder("a"), in_folder("x.gguf"), &(struct st_convert_options){ 0 });
	assert_int_equal(no.code, ST_ERR_UNSUPPORTED);
	assert_string_equal(no.where, "tokenizer.json");
	/* From folder to folder it is copied as it is. */
	put_json("a/tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\", \"eos_token\": \"<|end|>\"}");
	convert(in_folder("a"), in_folder("b"));
	char cmd[1024];
	snprintf(cmd, sizeof cmd,
	         "cd '%s' && for f in config.json tokenizer.json tokenizer_config.json; do cmp a/$f b/$f || exit 1; "
	         "done",
	         folder);
	assert_int_equal(system(cmd), 0);
	/* One that has: recognised by what it does. */
	write_tokenizer(in_folder("a"), "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{"
	                                "1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
	                                "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+");
	struct st_convert_result *r = convert_with(in_folder("a"), in_folder("c.gguf"),
	                                           &(struct st_convert_options){ 0 });
	assert_true(has_note(r, "white space"));
	st_convert_result_free(r);
	convert(in_folder("c.gguf"), in_folder("d.apr"));
	convert(in_folder("d.apr"), in_folder("e"));
	struct st_container *c;
	const char *s;
	size_t n;
	bool found;
	assert_ok(st_container_open(in_folder("c.gguf"), &c, &err), &err);
	assert_ok(st_kv_str(&c->keys, "tokenizer.ggml.pre", &s, &n, &found, &err), &err);
	assert_true(found && n == 4 && memcmp(s, "dbrx", 4) == 0); /* digits in threes, merges not ignored */
	assert_ok(st_kv_str(&c->keys, "tokenizer.chat_template", &s, &n, &found, &err), &err);
	assert_true(found && n == 14 && memcmp(s, "{{ messages }}", 14) == 0);
	st_container_close(c);
	assert_ok(st_container_open(in_folder("e"), &c, &err), &err);
	assert_string_equal(json_string_value(json_object_get(c->docs.tokenizer_config, "chat_template")),
	                    "{{ messages }}");
	assert_string_equal(json_string_value(json_object_get(c->docs.tokenizer_config, "eos_token")), "<|end|>");
	assert_int_equal(json_integer_value(json_object_get(c->docs.generation_config, "eos_token_id")), 257);
	assert_true(json_is_true(json_object_get(c->docs.config, "tie_word_embeddings")));
	assert_null(st_container_find(c, "lm_head.weight"));
	st_container_close(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(published_vocabularies_go_around),
		CASE(pieces_without_rows),
		CASE(documents_are_carried),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
