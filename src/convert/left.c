/* left.c - what of the input has no place in the output: keys and documents, one line for each that holds them. */
#include "convert/convert.h"
#include "convert/described.h"
#include "convert/documents.h"
#include "convert/fields.h"

#include "base/text.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NAMES 64 /* on one line; the rest is counted, and longer names are */
#define MOST_LENGTH 200

struct line {
	char *text;
	size_t len, n, more;
};

static void add_name(struct st_log *log, struct line *l, const char *name)
{
	const size_t room = (MOST_NAMES + 1) * (MOST_LENGTH + 3);
	if (!l->text && !(l->text = st_alloc_array2(MOST_NAMES + 1, MOST_LENGTH + 3, 1))) {
		log->failed = true;
		return;
	}
	if (l->n == MOST_NAMES || strlen(name) > MOST_LENGTH) {
		l->more++;
		return;
	}
	l->len += (size_t)snprintf(l->text + l->len, room - l->len, "%s%s", l->n ? ", " : "", name);
	l->n++;
}

static void end_line(struct st_conversion *v, struct line *l, const char *where)
{
	if (l->n && l->more)
		st_log_line(&v->log, &v->log.left, "%s: %s and %zu more", where, l->text, l->more);
	else if (l->n)
		st_log_line(&v->log, &v->log.left, "%s: %s", where, l->text);
	else if (l->more)
		st_log_line(&v->log, &v->log.left, "%s: %zu keys", where, l->more);
	free(l->text);
	*l = (struct line){ 0 };
}

/* An item ending in '*' stands for everything that begins so. */
static bool in_list(const char *const *list, const char *name)
{
	for (; *list; list++) {
		size_t n = strlen(*list);
		if ((*list)[n - 1] == '*' ? strncmp(*list, name, n - 1) == 0 : strcmp(*list, name) == 0)
			return true;
	}
	return false;
}

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })
/* Ids that the configuration keeps even without a vocabulary. */
#define IDS "bos_token_id", "eos_token_id"

/* ---- keys ---- */

static void gguf_keys(struct st_conversion *v)
{
	static const char *const general[] = {
		"general.architecture", "general.name", "general.type", "general.alignment", "general.file_type", "general.quantization_version",
		"split.*", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", NULL,
	}, *const vocabulary[] = {
		"model", "pre", "tokens", "scores", "token_type", "merges", "unknown_token_id", "padding_token_id", "add_bos_token", "add_eos_token",
		"add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap", NULL,
	}, *const family[] = {
		"attention.sliding_window", "attention.value_length", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", NULL,
	};
	const struct st_container *c = st_model_container(v->src.model);
	const struct st_described *d = v->page;
	struct line l = { 0 };
	for (size_t i = 0; i < c->keys.n; i++) {
		const char *key = c->keys.kv[i].key, *dot = strchr(key, '.');
		bool known = in_list(general, key) || (v->vocab.t && strcmp(key, "tokenizer.chat_template") == 0);
		if (v->vocab.t && strncmp(key, "tokenizer.ggml.", 15) == 0)
			known |= in_list(vocabulary, key + 15);
		else if (dot && strncmp(key, "general.", 8) != 0)
			known |= in_list(family, dot + 1) || st_config_has_key(ST_FORMAT_GGUF, dot + 1);
		if (!known && !(d && st_described_names(d, key)))
			add_name(&v->log, &l, key);
	}
	end_line(v, &l, "keys");
}

/* Members of a document but for those that say nothing. */
static void members(struct st_conversion *v, const json_t *o, bool configuration, const char *const *known,
                    const char *where)
{
	const struct st_described *d = configuration ? v->page : NULL;
	struct line l = { 0 };
	const char *key;
	json_t *m;
	json_object_foreach((json_t *)(uintptr_t)o, key, m)
	{
		if (json_is_null(m) || json_is_false(m))
			continue;
		if (!in_list(known, key) && !(configuration && st_config_has_key(v->src.format, key))
		    && !(d && st_described_names(d, key)))
			add_name(&v->log, &l, key);
		else if (strcmp(key, "eos_token_id") == 0 && json_array_size(m) > 1)
			add_name(&v->log, &l, "eos_token_id (all but the first)");
	}
	end_line(v, &l, where);
}

#define CONFIGURATION                                                                                             \
	"model_type", "architectures", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window", \
		"max_window_layers", "layer_types", "attention_bias", "tie_word_embeddings", IDS

static void hf_keys(struct st_conversion *v)
{
	const struct st_container *c = st_model_container(v->src.model);
	members(v, c->docs.config, true,
	        LIST(CONFIGURATION, "_name_or_path", "hidden_act", "torch_dtype", "dtype", "use_cache",
	             "transformers_version", "pad_token_id"),
	        "config.json");
	members(v, c->docs.generation_config, false,
	        LIST(IDS, "pad_token_id", "_from_model_config", "transformers_version"), "generation_config.json");
	members(v, c->docs.metadata, false, LIST("format"), "__metadata__");
}

static void apr_keys(struct st_conversion *v)
{
	static const char
		*const with[] = { CONFIGURATION, "architecture", "name",          "rope_type",   "tied_embeddings",
		                  "hidden_act",  "quantization", "chat_template", "tokenizer.*", NULL },
		       *const without[] = { CONFIGURATION,     "architecture", "name",         "rope_type",
		                            "tied_embeddings", "hidden_act",   "quantization", NULL };
	members(v, st_model_container(v->src.model)->docs.metadata, true, v->vocab.t ? with : without, "metadata");
}

/* ---- documents ---- */

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Files of the folder that are neither weights nor what was read from them. */
static void files(struct st_conversion *v)
{
	DIR *d = opendir(v->src.path);
	struct st_text_list found = { 0 };
	struct line l = { 0 };
	if (!d)
		return; /* the input is a file, and its neighbours are none of its parts */
	for (struct dirent *e; (e = readdir(d));) {
		const char *s = e->d_name;
		bool document = v->src.format == v->dst.format ? st_document_is_kept(s)
		                                               : v->vocab.t && st_document_is_vocabulary(s);
		if (s[0] == '.' || document || st_ends_with(s, ".safetensors") || st_ends_with(s, ".safetensors.index.json")
		    || strcmp(s, "config.json") == 0 || strcmp(s, "generation_config.json") == 0)
			continue;
		st_list_add(&v->log, &found, st_arena_strndup(&v->arena, s, strlen(s)));
	}
	closedir(d);
	if (found.n)
		qsort(found.v, found.n, sizeof *found.v, by_name);
	for (size_t i = 0; i < found.n; i++)
		add_name(&v->log, &l, found.v[i]);
	free(found.v);
	end_line(v, &l, "files");
}

void st_list_left_out(struct st_conversion *v)
{
	if (v->src.format != v->dst.format && v->src.format == ST_FORMAT_GGUF)
		gguf_keys(v);
	else if (v->src.format != v->dst.format && v->src.format == ST_FORMAT_APR)
		apr_keys(v);
	else if (v->src.format != v->dst.format)
		hf_keys(v);
	if (v->src.format == ST_FORMAT_SAFETENSORS)
		files(v);
}
