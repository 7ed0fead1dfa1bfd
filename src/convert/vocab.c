/*
 * vocab.c - the vocabulary of the source, in one form for every target.
 *
 * The source's own reader has made pieces, types, scores and merges of it already; what it does not keep
 * (the name of the word splitting, SentencePiece's switches) is found here.
 */
#include "convert/vocab.h"

#include "convert/documents.h"

#include <stdlib.h>
#include <string.h>

/* What a vocabulary is read with. */
struct reading {
	const struct st_input *from;
	const struct st_target *to;
	struct st_arena *arena;
	struct st_log *log;
	struct st_vocabulary *vocab;
};

/* ---- the name of the word splitting ---- */

/* Does the splitting of that name cut the probe as the source's own does? */
static enum st_status splits_alike(const struct st_tokenizer *t, const char *name, const struct st_probe_cut *want,
                                   bool *alike, struct st_error *err)
{
	struct st_tokenizer other = *t;
	struct st_probe_cut c = { 0 };
	bool bos;
	other.n_norms = other.n_stages = 0;
	enum st_status st = st_pretok_set(&other, name, strlen(name), "tokenizer", &bos, err);
	if (st == ST_OK)
		st = st_probe_cut(&other, &c, err);
	*alike = st == ST_OK && st_probe_same(want, &c);
	st_probe_release(&c);
	for (size_t i = 0; i < other.n_stages; i++)
		pcre2_code_free(other.stages[i].code);
	return st;
}

/* tokenizer.json has patterns and no name: the first name, the family's usual one before the others, that cuts a text
 * full of corner cases into the same words. */
static enum st_status recognise_pre(struct reading *v, struct st_error *err)
{
	const struct st_tokenizer *t = v->vocab->t;
	const char *usual = st_pretok_guess(t, v->to->family, strlen(v->to->family));
	struct st_pretok_facts f;
	struct st_probe_cut want;
	bool alike = false;
	enum st_status st = st_probe_cut(t, &want, err);
	if (st == ST_OK && usual)
		st = splits_alike(t, usual, &want, &alike, err);
	if (alike)
		v->vocab->pre = usual;
	for (size_t i = 0; st == ST_OK && !alike && st_pretok_at(i, &f); i++) {
		if (f.ignore_merges != t->ignore_merges)
			continue;
		st = splits_alike(t, f.name, &want, &alike, err);
		if (alike)
			v->vocab->pre = f.name;
	}
	st_probe_release(&want);
	if (st == ST_OK && !alike)
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tokenizer.json",
		                "splits text into words in a way that has no name in %s",
		                st_format_name(v->to->format));
	return st;
}

static enum st_status find_pre(struct reading *v, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->from->model);
	const struct st_tokenizer *t = v->vocab->t;
	const char *s = NULL, *arch = v->to->family;
	size_t n = 0;
	bool found = false;
	if (v->from->format == ST_FORMAT_SAFETENSORS)
		return recognise_pre(v, err);
	if (v->from->format == ST_FORMAT_GGUF) {
		ST_TRY(st_kv_str(&c->keys, "tokenizer.ggml.pre", &s, &n, &found, err));
	} else {
		s = json_string_value(json_object_get(c->docs.metadata, "tokenizer.pre"));
		n = s ? strlen(s) : 0;
		const char *said = json_string_value(json_object_get(c->docs.metadata, "architecture"));
		arch = said ? said : arch;
	}
	v->vocab->pre = s ? st_arena_strndup(v->arena, s, n) : st_pretok_guess(t, arch, strlen(arch));
	return v->vocab->pre ? ST_OK : st_no_memory(err);
}

/* ---- merges and scores ---- */

static int by_order(const void *a, const void *b)
{
	const struct st_merge *x = *(const struct st_merge *const *)a, *y = *(const struct st_merge *const *)b;
	return (x->order > y->order) - (x->order < y->order);
}

/* The reader keeps merges in a hash table by pair; their ranks bring back the list. */
static enum st_status list_merges(struct reading *v, struct st_error *err)
{
	const struct st_merges *m = &v->vocab->t->merges;
	uint32_t n = 0;
	if (!m->slots)
		return ST_OK;
	for (uint32_t i = 0; i <= m->mask; i++)
		n += m->slots[i].order != 0;
	const struct st_merge **sorted = st_alloc_array(n, sizeof *sorted);
	v->vocab->merges = st_arena_alloc(v->arena, n, sizeof *v->vocab->merges);
	if (!sorted || !v->vocab->merges) {
		free(sorted);
		return st_no_memory(err);
	}
	n = 0;
	for (uint32_t i = 0; i <= m->mask; i++)
		if (m->slots[i].order)
			sorted[n++] = &m->slots[i];
	qsort(sorted, n, sizeof *sorted, by_order);
	for (uint32_t i = 0; i < n; i++) {
		v->vocab->merges[i][0] = sorted[i]->left;
		v->vocab->merges[i][1] = sorted[i]->right;
	}
	v->vocab->n_merges = n;
	free(sorted);
	return ST_OK;
}

/*
 * SentencePiece joins the pair whose result has the best score; a list of merges joins the pair that stands first. The
 * rank of the first merge that makes a piece, negated, is a score with the same effect. What no merge makes comes last.
 */
static enum st_status scores_from_merges(struct reading *v, struct st_error *err)
{
	const struct st_tokenizer *t = v->vocab->t;
	float *s = v->vocab->scores = st_arena_alloc(v->arena, t->vocab.n, sizeof *s);
	if (!s)
		return st_no_memory(err);
	for (uint32_t id = 0; id < t->vocab.n; id++)
		s[id] = t->vocab.pieces[id].type == ST_PIECE_NORMAL ? -(float)v->vocab->n_merges : 0;
	uint32_t rank = UINT32_MAX;
	for (uint32_t i = 0; i <= t->merges.mask; i++) {
		const struct st_merge *m = &t->merges.slots[i];
		rank = m->order - 1;
		if (m->order && -(float)rank > s[m->id])
			s[m->id] = -(float)rank;
	}
	return ST_OK;
}

struct found_merge {
	float score;
	uint32_t id, left, right;
};

static int by_score(const void *a, const void *b)
{
	const struct found_merge *x = a, *y = b;
	if (x->score != y->score)
		return x->score < y->score ? 1 : -1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->left != y->left ? (x->left < y->left ? -1 : 1) : (x->right > y->right) - (x->right < y->right);
}

static bool joins(const struct st_tokenizer *t, uint32_t id)
{
	uint8_t type = id == ST_NO_ID ? ST_PIECE_CONTROL : t->vocab.pieces[id].type;
	return type == ST_PIECE_NORMAL || type == ST_PIECE_USER || type == ST_PIECE_UNUSED;
}

/* The reverse: every way of cutting a piece into two pieces, best score first. */
static enum st_status merges_from_scores(struct reading *v, struct st_error *err)
{
	const struct st_vocab *voc = &v->vocab->t->vocab;
	struct found_merge *f = NULL;
	size_t n = 0, cap = 0;
	enum st_status st = ST_OK;
	for (uint32_t id = 0; id < voc->n && st == ST_OK; id++) {
		const struct st_piece *p = &voc->pieces[id];
		if (!joins(v->vocab->t, id))
			continue;
		for (size_t at = 0, len; at < p->len && st == ST_OK; at += len) {
			len = st_utf8_step(p->s + at, p->len - at);
			len = len ? len : 1;
			size_t cut = at + len;
			if (cut >= p->len)
				continue;
			uint32_t l = st_vocab_find(voc, p->s, cut), r = st_vocab_find(voc, p->s + cut, p->len - cut);
			if (!joins(v->vocab->t, l) || !joins(v->vocab->t, r))
				continue;
			if (st_grow((void **)&f, &cap, n + 1, sizeof *f))
				f[n++] = (struct found_merge){ voc->scores[id], id, l, r };
			else
				st = st_no_memory(err);
		}
	}
	if (st == ST_OK)
		v->vocab->merges = st_arena_alloc(v->arena, n, sizeof *v->vocab->merges);
	if (st == ST_OK && !v->vocab->merges)
		st = st_no_memory(err);
	if (st == ST_OK) {
		qsort(f, n, sizeof *f, by_score);
		for (size_t i = 0; i < n; i++) {
			v->vocab->merges[i][0] = f[i].left;
			v->vocab->merges[i][1] = f[i].right;
		}
		v->vocab->n_merges = (uint32_t)n;
	}
	free(f);
	return st;
}

/* ---- the rest ---- */

static bool has_norm(const struct st_tokenizer *t, enum st_norm_kind kind)
{
	for (size_t i = 0; i < t->n_norms; i++)
		if (t->norms[i].kind == kind)
			return true;
	return false;
}

static void read_norms(struct st_vocabulary *v)
{
	const struct st_tokenizer *t = v->t;
	v->space_prefix = has_norm(t, ST_NORM_PREPEND) || has_norm(t, ST_NORM_PREPEND_MISSING)
	               || has_norm(t, ST_NORM_PREPEND_FIRST);
	v->squeeze = has_norm(t, ST_NORM_SQUEEZE);
	for (size_t i = 0; i < t->n_norms; i++)
		if (t->norms[i].kind == ST_NORM_CHARSMAP) {
			v->charsmap = t->norms[i].a;
			v->charsmap_len = t->norms[i].a_len;
		}
}

static enum st_status read_around(struct st_vocabulary *v, struct st_error *err)
{
	const struct st_tokenizer *t = v->t;
	v->add_bos = t->n_before == 1 && (int64_t)t->before[0] == t->bos;
	v->add_eos = t->n_after == 1 && (int64_t)t->after[0] == t->eos;
	if (t->n_before != (size_t)v->add_bos || t->n_after != (size_t)v->add_eos)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tokenizer.json",
		                  "adds tokens around a text that are not BOS and EOS");
	return ST_OK;
}

static enum st_status read_pad(struct reading *v, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->from->model);
	v->vocab->pad = -1;
	if (v->from->format == ST_FORMAT_GGUF) {
		uint64_t id;
		bool found;
		ST_TRY(st_kv_u64(&c->keys, "tokenizer.ggml.padding_token_id", &id, &found, err));
		if (found && id < v->vocab->t->vocab.n)
			v->vocab->pad = (int64_t)id;
		return ST_OK;
	}
	const json_t *token = json_object_get(c->docs.tokenizer_config, "pad_token");
	token = json_is_object(token) ? json_object_get(token, "content") : token;
	const char *s = json_string_value(token);
	uint32_t id = s ? st_vocab_find(&v->vocab->t->vocab, s, strlen(s)) : ST_NO_ID;
	if (id != ST_NO_ID)
		v->vocab->pad = id;
	return ST_OK;
}

static enum st_status read_chat_template(struct reading *v, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->from->model);
	bool found;
	if (v->from->format == ST_FORMAT_GGUF)
		return st_kv_str(&c->keys, "tokenizer.chat_template", &v->vocab->chat_template,
		                 &v->vocab->chat_template_len, &found, err);
	const json_t *t = json_object_get(
		v->from->format == ST_FORMAT_APR ? c->docs.metadata : c->docs.tokenizer_config, "chat_template");
	if (json_is_array(t)) /* several, named: the one called default is what the other containers keep */
		for (size_t i = 0; i < json_array_size(t); i++) {
			const json_t *one = json_array_get(t, i);
			const char *name = json_string_value(json_object_get(one, "name"));
			if (name && strcmp(name, "default") == 0) {
				st_note(v->log, "of %zu chat templates only the default one is carried",
				        json_array_size(t));
				t = json_object_get(one, "template");
				break;
			}
		}
	if (json_is_string(t)) {
		v->vocab->chat_template = json_string_value(t);
		v->vocab->chat_template_len = json_string_length(t);
		return ST_OK;
	}
	/* Newer folders keep it as a file of its own. */
	return v->from->format == ST_FORMAT_APR
	             ? ST_OK
	             : st_document_text(v->from, v->arena, "chat_template.jinja", &v->vocab->chat_template,
	                                &v->vocab->chat_template_len, err);
}

/* In what way BPE without a byte alphabet can become SentencePiece's. */
static enum st_status ranked_as_scored(struct reading *v, struct st_error *err)
{
	const struct st_tokenizer *t = v->vocab->t;
	if (!t->space_marker || t->n_stages != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tokenizer.json",
		                  "BPE that is neither byte-level nor SentencePiece's has no place in %s",
		                  st_format_name(v->to->format));
	return scores_from_merges(v, err);
}

/* The name of the splitting and a score for each piece are what one kind has and another lacks. */
static enum st_status read_model(struct reading *v, struct st_error *err)
{
	struct st_vocabulary *voc = v->vocab;
	ST_TRY(list_merges(v, err));
	if (voc->t->byte_level)
		return find_pre(v, err);
	read_norms(voc);
	if (voc->t->model == ST_MODEL_RANKED)
		return v->to->format == ST_FORMAT_SAFETENSORS ? ST_OK : ranked_as_scored(v, err);
	voc->scores = voc->t->vocab.scores;
	return voc->t->model == ST_MODEL_SCORED && v->to->format == ST_FORMAT_SAFETENSORS ? merges_from_scores(v, err)
	                                                                                  : ST_OK;
}

/* A file whose vocabulary lies elsewhere says "none"; the word is carried. */
static bool says_model(const struct st_container *c)
{
	const struct st_kv *kv = st_kv_find(&c->keys, "tokenizer.ggml.model");
	const uint8_t *p = kv ? kv->data : NULL;
	size_t n = 0;
	const char *s = kv && kv->type == ST_KV_STR ? st_kv_next_str(&p, &n) : NULL;
	return kv && !(s && ((n == 4 && memcmp(s, "none", 4) == 0) || (n == 8 && memcmp(s, "no_vocab", 8) == 0)));
}

/* A container without any vocabulary is a model all the same; one whose vocabulary is not understood stays in its
 * container. */
static bool has_vocabulary(const struct st_container *c)
{
	switch (c->format) {
	case ST_FORMAT_GGUF:
		return says_model(c);
	case ST_FORMAT_APR:
		return json_object_get(c->docs.metadata, "tokenizer.vocabulary") != NULL;
	default:
		return c->docs.tokenizer != NULL;
	}
}

/*
 * An engine that was given a token without a row would read behind the embedding. A folder whose documents are taken over
 * has what its maker gave it: there it is a note.
 */
static enum st_status check_rows(struct reading *v, bool as_it_stands, struct st_error *err)
{
	const struct st_tokenizer *t = v->vocab->t;
	uint32_t rows = v->to->cfg.vocab;
	if (!t || t->vocab.n <= rows || (as_it_stands && rows == 0))
		return ST_OK;
	if (as_it_stands && v->to->format == ST_FORMAT_SAFETENSORS) {
		st_note(v->log, "the tokenizer has %u pieces, the embedding %u rows: token %u has no row", t->vocab.n,
		        rows, rows);
		return ST_OK;
	}
	return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "tokenizer",
	                  "has %u pieces, the embedding %u rows: token %u has no row; nothing was written", t->vocab.n,
	                  rows, rows);
}

static enum st_status read_vocabulary(struct reading *v, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->from->model);
	if (!has_vocabulary(c)) {
		st_note(v->log, "the input has no vocabulary, so neither has the output");
		return ST_OK;
	}
	struct st_error why = ST_ERROR_INIT;
	bool as_it_stands = v->from->format == v->to->format
	                 || v->to->bare; /* then it is opened to compare ids, nothing else */
	if (st_tokenizer_open(c, &v->vocab->t, &why) != ST_OK) {
		if (!v->to->bare && (!as_it_stands || why.code != ST_ERR_UNSUPPORTED)) {
			*err = why;
			return err->code;
		}
		if (!v->to->bare)
			st_note(v->log, "the tokenizer is carried unread and its ids are not compared: %.60s%s%.*s",
			        why.where, why.where[0] ? ": " : "", (int)strcspn(why.message, ";"), why.message);
	}
	ST_TRY(check_rows(v, as_it_stands, err));
	if (as_it_stands)
		return ST_OK;
	struct st_vocabulary *voc = v->vocab;
	if (voc->t->model == ST_MODEL_WORDPIECE)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tokenizer",
		                  "WordPiece stays in its kind of container");
	/* tokenizer.json calls the unknown piece special, as it does BOS. */
	voc->mark_unknown = v->from->format == ST_FORMAT_SAFETENSORS && !voc->t->byte_level;
	voc->n = v->to->cfg.vocab;
	ST_TRY(read_model(v, err));
	ST_TRY(read_around(voc, err));
	ST_TRY(read_pad(v, err));
	ST_TRY(read_chat_template(v, err));
	bool strips = false;
	for (uint32_t id = 0; id < voc->t->vocab.n; id++)
		strips |= voc->t->vocab.pieces[id].strip != 0;
	if (strips && v->to->format != ST_FORMAT_SAFETENSORS)
		st_note(v->log, "added tokens that swallow white space beside them no longer do: %s cannot say it",
		        st_format_name(v->to->format));
	return ST_OK;
}

enum st_status st_vocabulary_read(struct st_vocabulary *voc, const struct st_input *from, const struct st_target *to,
                                  struct st_arena *arena, struct st_log *log, struct st_error *err)
{
	struct reading v = { from, to, arena, log, voc };
	return read_vocabulary(&v, err);
}

void st_vocabulary_piece(const struct st_vocabulary *v, uint32_t id, struct st_piece_view *p)
{
	const struct st_piece *x = id < v->t->vocab.n ? &v->t->vocab.pieces[id] : NULL;
	if (x && x->s) {
		*p = (struct st_piece_view){ .s = x->s, .len = x->len, .type = x->type };
		if ((int64_t)id == v->t->unk && v->mark_unknown)
			p->type = ST_PIECE_UNKNOWN;
		return;
	}
	/* An id of the embedding that no piece has, under the name that converters give it. */
	p->type = ST_PIECE_UNUSED;
	p->len = (size_t)snprintf(p->made, sizeof p->made, "[PAD%u]", id);
	p->s = p->made;
}
