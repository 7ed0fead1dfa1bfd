/* folder.c - the documents beside the weights in a Hugging Face folder. */
#include "convert/convert.h"

#include "base/map.h"
#include "base/outfile.h"
#include "format/hf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum st_status write_file(struct st_conversion *v, const char *dir, const char *name, const void *p, size_t n,
                                 struct st_error *err)
{
	const char *path = st_arena_printf(&v->arena, "%s/%s", dir, name);
	struct st_outfile *f;
	if (!path)
		return st_no_memory(err);
	ST_TRY(st_outfile_open(path, &f, err));
	enum st_status st = st_outfile_write(f, p, n, err);
	if (st == ST_OK)
		return st_outfile_commit(f, err);
	st_outfile_abort(f);
	return st;
}

/* Numbers with as few digits as give the same numbers again: 1e-06 rather than 9.9999999999999995e-07. Takes j. */
static enum st_status write_json(struct st_conversion *v, const char *dir, const char *name, json_t *j, bool large,
                                 struct st_error *err)
{
	char *text = NULL;
	for (int digits = large ? 17 : 6; digits <= 17; digits++) {
		json_error_t e;
		free(text);
		text = json_dumps(j, JSON_INDENT(large ? 0 : 2) | JSON_REAL_PRECISION(digits));
		json_t *again = !large && text ? json_loads(text, 0, &e) : NULL;
		bool equal = again && json_equal(again, j);
		json_decref(again);
		if (equal)
			break;
	}
	json_decref(j);
	enum st_status st = text ? write_file(v, dir, name, text, strlen(text), err) : st_no_memory(err);
	free(text);
	return st;
}

/* The folder of the input's weights, or "." */
static const char *source_folder(struct st_conversion *v)
{
	const char *path = st_container_file_path(st_model_container(v->in), 0), *slash = strrchr(path, '/');
	return slash ? st_arena_strndup(&v->arena, path, (size_t)(slash - path)) : ".";
}

#define FIRST_OF_VOCABULARY 2

static bool listed(const char *name, size_t first)
{
	for (size_t i = first; i < ST_HF_DOCUMENTS; i++)
		if (strcmp(name, st_hf_names[i]) == 0)
			return true;
	return false;
}

bool st_folder_keeps(const char *name) { return listed(name, 0); }
bool st_folder_is_vocabulary(const char *name) { return listed(name, FIRST_OF_VOCABULARY); }

enum st_status st_folder_text(struct st_conversion *v, const char *name, const char **text, size_t *len,
                              struct st_error *err)
{
	const char *from = source_folder(v), *path = from ? st_arena_printf(&v->arena, "%s/%s", from, name) : NULL;
	struct st_map m = { 0 };
	*text = NULL;
	*len = 0;
	if (!path)
		return st_no_memory(err);
	if (access(path, F_OK) != 0)
		return ST_OK;
	ST_TRY(st_map_open(&m, path, err));
	*len = (size_t)m.size;
	*text = st_arena_strndup(&v->arena, m.data ? (const char *)m.data : "", *len);
	st_map_close(&m);
	return *text ? ST_OK : st_no_memory(err);
}

/* From folder to folder everything known that lies beside the weights is copied byte for byte. */
static enum st_status copy_documents(struct st_conversion *v, const char *dir, bool config, struct st_error *err)
{
	for (size_t i = config ? 0 : 1; i < ST_HF_DOCUMENTS; i++) {
		const char *text;
		size_t len;
		ST_TRY(st_folder_text(v, st_hf_names[i], &text, &len, err));
		if (text)
			ST_TRY(write_file(v, dir, st_hf_names[i], text, len, err));
	}
	return ST_OK;
}

static enum st_status write_config(struct st_conversion *v, const char *dir, struct st_error *err)
{
	json_t *j = NULL;
	enum st_status st = st_config_hf_document(v, &j, err);
	if (st == ST_OK)
		return write_json(v, dir, "config.json", j, false, err);
	json_decref(j);
	return st;
}

enum st_status st_folder_documents(struct st_conversion *v, const char *dir, struct st_error *err)
{
	if (v->from == v->to) {
		bool as_is = v->n_edited == 0 && !v->has_type && v->cfg.tied == st_model_config(v->in)->tied;
		ST_TRY(copy_documents(v, dir, as_is, err));
		return as_is ? ST_OK : write_config(v, dir, err);
	}
	ST_TRY(write_config(v, dir, err));
	int64_t bos = v->cfg.bos >= 0 || !v->vocab.t ? v->cfg.bos : v->vocab.t->bos,
		eos = v->cfg.eos >= 0 || !v->vocab.t ? v->cfg.eos : v->vocab.t->eos;
	json_t *g = json_object(), *tokenizer = NULL, *config = NULL;
	if (!g || (bos >= 0 && json_object_set_new(g, "bos_token_id", json_integer(bos)) != 0)
	    || (eos >= 0 && json_object_set_new(g, "eos_token_id", json_integer(eos)) != 0)) {
		json_decref(g);
		return st_no_memory(err);
	}
	ST_TRY(write_json(v, dir, "generation_config.json", g, false, err));
	if (!v->vocab.t)
		return ST_OK;
	enum st_status st = st_vocabulary_hf(v, &tokenizer, &config, err);
	if (st != ST_OK) {
		json_decref(tokenizer);
		json_decref(config);
		return st;
	}
	st = write_json(v, dir, "tokenizer_config.json", config, false, err);
	if (st == ST_OK)
		return write_json(v, dir, "tokenizer.json", tokenizer, true, err);
	json_decref(tokenizer);
	return st;
}
