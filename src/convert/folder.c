/* folder.c - the documents beside the weights in a Hugging Face folder. */
#include "convert/output.h"

#include "base/outfile.h"
#include "convert/config.h"
#include "convert/described.h"
#include "convert/documents.h"
#include "format/hf.h"

#include <stdlib.h>
#include <string.h>

static enum st_status write_file(struct st_conversion *v, const char *dir, const char *name, const void *p, size_t n,
                                 struct st_error *err)
{
	return st_outfile_whole(st_arena_printf(&v->arena, "%s/%s", dir, name), p, n, err);
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

/* From folder to folder everything known that lies beside the weights is copied byte for byte. */
static enum st_status copy_documents(struct st_conversion *v, const char *dir, bool config, struct st_error *err)
{
	for (size_t i = config ? 0 : 1; i < ST_HF_DOCUMENTS; i++) {
		const char *text;
		size_t len;
		ST_TRY(st_document_text(&v->src, &v->arena, st_hf_names[i], &text, &len, err));
		if (text)
			ST_TRY(write_file(v, dir, st_hf_names[i], text, len, err));
	}
	return ST_OK;
}

static enum st_status write_config(struct st_conversion *v, const char *dir, struct st_error *err)
{
	json_t *j = NULL;
	enum st_status st = v->page ? st_described_document(v, &j, err)
	                                                     : st_config_hf_document(v, &j, err);
	if (st == ST_OK)
		return write_json(v, dir, "config.json", j, false, err);
	json_decref(j);
	return st;
}

enum st_status st_folder_documents(struct st_conversion *v, const char *dir, struct st_error *err)
{
	if (v->src.format == v->dst.format) {
		bool as_is = v->dst.n_edited == 0 && !v->dst.has_type
		          && v->dst.cfg.tied == st_model_config(v->src.model)->tied;
		ST_TRY(copy_documents(v, dir, as_is, err));
		return as_is ? ST_OK : write_config(v, dir, err);
	}
	ST_TRY(write_config(v, dir, err));
	int64_t bos = st_conversion_bos(v), eos = st_conversion_eos(v);
	json_t *g = json_object(), *tokenizer = NULL, *config = NULL;
	if (!g || (bos >= 0 && json_object_set_new(g, "bos_token_id", json_integer(bos)) != 0)
	    || (eos >= 0 && json_object_set_new(g, "eos_token_id", json_integer(eos)) != 0)) {
		json_decref(g);
		return st_no_memory(err);
	}
	ST_TRY(write_json(v, dir, "generation_config.json", g, false, err));
	if (!v->vocab.t)
		return ST_OK;
	enum st_status st = st_vocabulary_hf(&v->vocab, &v->dst, &tokenizer, &config, err);
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
