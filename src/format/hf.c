/* hf.c - the files around the weights of a Hugging Face model folder. */
#include "format/hf.h"
#include "format/recognise.h"

#include "base/error.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

/* The vocabulary's documents follow the configuration's. */
const char *const st_hf_names[ST_HF_DOCUMENTS + 4] = {
	"config.json",
	"generation_config.json",
	"tokenizer.json",
	"tokenizer_config.json",
	"tokenizer.model",
	"special_tokens_map.json",
	"added_tokens.json",
	"vocab.json",
	"merges.txt",
	"chat_template.jinja",
	"chat_template.json",
	"model.safetensors",
	"model-*-of-*.safetensors",
	"model.safetensors.index.json",
};

static const char suffix[] = ".safetensors", index_suffix[] = ".safetensors.index.json",
		  torch_prefix[] = "pytorch_model";

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n > k && strcmp(s + n - k, end) == 0;
}

bool st_hf_is_torch(const char *name) { return strncmp(name, torch_prefix, sizeof torch_prefix - 1) == 0; }

static bool exists(struct st_arena *a, const char *dir, const char *name)
{
	const char *path = st_arena_printf(a, "%s/%s", dir, name);
	return path && access(path, F_OK) == 0;
}

bool st_hf_is_folder(const char *dir)
{
	DIR *d = opendir(dir);
	bool yes = false;
	for (struct dirent *e; d && !yes && (e = readdir(d));)
		yes = strcmp(e->d_name, "config.json") == 0 || strcmp(e->d_name, "tokenizer.json") == 0
		   || ends_with(e->d_name, suffix) || ends_with(e->d_name, index_suffix) || st_hf_is_torch(e->d_name);
	if (d)
		closedir(d);
	return yes;
}

/* The names people expect come first; a folder with other names is read when there is no choice to make. */
enum st_status st_hf_weights(struct st_arena *a, const char *dir, const char **out, struct st_error *err)
{
	const char *file = NULL, *index = NULL;
	size_t n_files = 0, n_indexes = 0;
	bool torch = false;
	*out = NULL;
	DIR *d = opendir(dir);
	if (!d)
		return st_fail_errno(err, dir, "cannot open");
	enum st_status st = ST_OK;
	for (struct dirent *e; st == ST_OK && (e = readdir(d));) {
		const char **slot = ends_with(e->d_name, suffix)       ? &file
		                  : ends_with(e->d_name, index_suffix) ? &index
		                                                       : NULL;
		torch |= st_hf_is_torch(e->d_name);
		if (!slot)
			continue;
		*(slot == &file ? &n_files : &n_indexes) += 1;
		*slot = st_arena_printf(a, "%s/%s", dir, e->d_name);
		if (!*slot)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	closedir(d);
	if (st != ST_OK)
		return st;
	if (exists(a, dir, "model.safetensors"))
		*out = st_arena_printf(a, "%s/model.safetensors", dir);
	else if (exists(a, dir, "model.safetensors.index.json"))
		*out = st_arena_printf(a, "%s/model.safetensors.index.json", dir);
	else if (n_indexes == 1)
		*out = index;
	else if (n_indexes == 0 && n_files == 1)
		*out = file;
	else if (n_indexes + n_files == 0 && exists(a, dir, "pytorch_model.bin.index.json"))
		*out = st_arena_printf(a, "%s/pytorch_model.bin.index.json", dir);
	else if (n_indexes + n_files == 0 && exists(a, dir, "pytorch_model.bin"))
		*out = st_arena_printf(a, "%s/pytorch_model.bin", dir);
	if (*out)
		return ST_OK;
	if (n_indexes > 1 || n_files > 1)
		return st_fail(
			err, ST_ERR_UNSUPPORTED,
			"folder holds %zu .safetensors files and %zu shard indexes, none named model.safetensors or "
			"model.safetensors.index.json; name the file you mean",
			n_files, n_indexes);
	if (torch)
		return st_fail(
			err, ST_ERR_UNSUPPORTED,
			"folder holds pytorch_model* but neither pytorch_model.bin nor pytorch_model.bin.index.json");
	if (exists(a, dir, "tokenizer.json"))
		return ST_OK;
	return st_fail(err, ST_ERR_FORMAT,
	               "folder has a config.json but no weights (.safetensors or pytorch_model.bin)");
}

/* Sizes in a config.json that are counts in every family. What they must be is for the family to say;
 * that they are not negative and not text can be said here, before anything multiplies by them. */
static const char *const counts[] = {
	"hidden_size",         "intermediate_size", "num_hidden_layers", "num_attention_heads",
	"num_key_value_heads", "head_dim",          "vocab_size",        "max_position_embeddings",
};

static enum st_status check_config(const json_t *config, struct st_error *err)
{
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		uint64_t n;
		const struct st_json_field count = { ST_JSON_IN(n), .key = { counts[i] } };
		ST_TRY(st_json_read_one(config, NULL, &count, &n, NULL, err));
	}
	return ST_OK;
}

/* A document that was not fetched is a pointer to itself, which no JSON reader would say. */
static enum st_status refuse_pointer(const char *path, struct st_error *err)
{
	struct st_map m;
	if (access(path, F_OK) != 0)
		return ST_OK;
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = m.size ? st_refuse_stranger(&m, err) : ST_OK;
	st_map_close(&m);
	return st;
}

enum st_status st_hf_documents(struct st_container *c, const char *dir, struct st_error *err)
{
	const struct {
		const char *name;
		json_t **doc;
	} docs[] = {
		{ "config.json", &c->docs.config },
		{ "generation_config.json", &c->docs.generation_config },
		{ "tokenizer.json", &c->docs.tokenizer },
		{ "tokenizer_config.json", &c->docs.tokenizer_config },
	};
	for (size_t i = 0; i < sizeof docs / sizeof *docs; i++) {
		const char *path = st_arena_printf(&c->arena, "%s/%s", dir, docs[i].name);
		if (!path)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		enum st_status st = refuse_pointer(path, err);
		if (st == ST_OK)
			st = st_json_load(path, docs[i].doc, err);
		if (st != ST_OK) {
			st_error_in(err, path);
			return st;
		}
		if (*docs[i].doc && !json_is_object(*docs[i].doc))
			st = st_fail_at(err, ST_ERR_FORMAT, 0, NULL, "must be a JSON object");
		else if (i == 0 && c->docs.config)
			st = check_config(c->docs.config, err);
		if (st != ST_OK) {
			st_error_in(err, path);
			return st;
		}
	}
	return ST_OK;
}
