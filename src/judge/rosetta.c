/* rosetta.c - two files of one model: opened, compared by their words and their weights, evaluated, and judged. */
#include "judge/rosetta.h"

#include "arch/arch.h"
#include "arch/described.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "compare/settings.h"
#include "judge/agreement.h"

#include <stele/token.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "Q4_K/Q6_K": the types of the matrices, most bytes first. */
static void describe_types(const struct st_model *m, char *buf, size_t n)
{
	uint64_t bytes[ST_DTYPE_COUNT] = { 0 };
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_tensor *t = st_model_weight_at(m, i)->tensor;
		if (t && t->ndim >= 2)
			bytes[t->dtype] += t->n_bytes;
	}
	buf[0] = '\0';
	for (size_t used = 0; used < n;) {
		int best = -1;
		for (int d = 0; d < ST_DTYPE_COUNT; d++)
			if (bytes[d] && (best < 0 || bytes[d] > bytes[best]))
				best = d;
		if (best < 0)
			break;
		used += (size_t)snprintf(buf + used, n - used, "%s%s", used ? "/" : "",
		                         st_dtype_info((enum st_dtype)best)->name);
		bytes[best] = 0;
	}
}

static enum st_status describe_side(const struct st_model *m, const char *path, bool hash, struct st_side_info *s,
                                    struct st_error *err)
{
	const struct st_container *c = st_model_container(m);
	const struct st_config *cfg = st_model_config(m);
	snprintf(s->path, sizeof s->path, "%s", path);
	snprintf(s->format, sizeof s->format, "%s", st_container_describe(c));
	snprintf(s->arch, sizeof s->arch, "%s", cfg->arch);
	snprintf(s->name, sizeof s->name, "%s", cfg->name);
	s->layers = cfg->n_layers;
	s->tensors = st_container_n_tensors(c);
	describe_types(m, s->dtypes, sizeof s->dtypes);
	return hash ? st_container_sha256(c, s->sha256, err) : ST_OK;
}

/* Keys that spell the same function in another way do not matter: frequencies given as factors in
 * one file and as a scaling rule in the other, a family under two names. */
static void settle_config(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	const struct st_graph *a = st_model_graph(s->ma), *b = st_model_graph(s->mb);
	bool form = st_form_of(a, b).differs == ST_FORM_EQUAL, rope = form;
	for (uint32_t i = 0; form && i < b->n_nodes; i++)
		if (b->nodes[i].op == ST_OP_ROPE)
			rope &= st_node_same_parameters(&a->nodes[i], &b->nodes[i], 0);
	for (size_t i = 0; i < r->n_config; i++) {
		if (strncmp(r->config[i].key, "rope_", 5) == 0 && rope)
			r->config[i].matters = false;
		if (strcmp(r->config[i].key, "arch") == 0 && form)
			r->config[i].matters = false;
	}
}

static enum st_status rows_are_zero(const struct st_weight *w, uint64_t from, bool *zero, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(w->tensor), cols = st_tensor_cols(w->tensor);
	float *row = st_alloc_array(cols, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*zero = true;
	for (uint64_t r = from; r < rows && *zero && !st_cancelled(); r++) {
		st_weight_decode(w, r, 1, row);
		for (uint64_t i = 0; i < cols && *zero; i++)
			*zero = row[i] == 0;
	}
	free(row);
	return st_check_cancel(err);
}

/*
 * Vocabularies are padded to round numbers. Where the prompt needs none of the rows that one side only has, both sides
 * are evaluated with those they share; whether these are the same is for the weights to say.
 */
static enum st_status settle_vocab(struct st_rosetta_state *s, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	uint32_t a = st_model_config(s->ma)->vocab, b = st_model_config(s->mb)->vocab, common = a < b ? a : b;
	bool fits = a != b && st_model_config(s->ma)->hidden == st_model_config(s->mb)->hidden;
	for (size_t i = 0; i < r->n_tokens_a; i++)
		fits &= r->tokens_a[i] < common;
	for (size_t i = 0; i < r->n_tokens_b; i++)
		fits &= r->tokens_b[i] < common;
	for (size_t k = 0; k < s->n_prompts; k++)
		for (size_t i = 0; i < s->n_ids[k]; i++)
			fits &= s->ids[k][i] < common;
	if (fits) {
		const struct st_model *more = a > b ? s->ma : s->mb;
		bool zero = false;
		if (st_model_graph(more))
			ST_TRY(rows_are_zero(st_model_role(more, ST_ROLE_EMBED, 0), common, &zero, err));
		fits = st_model_limit_vocab(s->ma, common) && st_model_limit_vocab(s->mb, common);
		if (fits)
			snprintf(
				r->vocab_note, sizeof r->vocab_note,
				"%c has %u more rows in its vocabulary than the other's %u, %s; they were not compared",
				a > b ? 'A' : 'B', (a > b ? a : b) - common, common,
				zero ? "all zero" : "not all zero");
	}
	for (size_t i = 0; i < r->n_config; i++)
		if (strcmp(r->config[i].key, "vocab") == 0 && !fits)
			r->config[i].matters = true;
	return ST_OK;
}

/* ---- several prompts ---- */

/* The ids of all prompts, until one is found that the two tokenizers take apart differently: that one is reported. */
static enum st_status all_tokens(struct st_rosetta_state *s, const struct st_rosetta_options *o, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	if (!o->prompts)
		return st_rosetta_tokens(s, o, err);
	if (o->n_prompts == 0)
		return st_fail(err, ST_ERR_USAGE, "there is no prompt: nothing can be compared");
	s->ids = st_arena_alloc(&s->arena, o->n_prompts, sizeof *s->ids);
	s->n_ids = st_arena_alloc(&s->arena, o->n_prompts, sizeof *s->n_ids);
	if (!s->ids || !s->n_ids)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	char *first = NULL;
	for (size_t i = 0; i < o->n_prompts; i++) {
		struct st_rosetta_options one = *o;
		one.prompt = o->prompts[i];
		ST_TRY(st_rosetta_tokens(s, &one, err));
		if (s->tokens_differ) {
			s->n_prompts = 0; /* with keep_going this one alone is evaluated */
			return ST_OK;
		}
		first = i ? first : r->prompt;
		s->ids[i] = r->tokens_b;
		s->n_ids[i] = r->n_tokens_b;
		s->n_prompts++;
	}
	r->prompt = first;
	r->tokens_a = r->tokens_b = (uint32_t *)(uintptr_t)s->ids[0];
	r->n_tokens_a = r->n_tokens_b = s->n_ids[0];
	return ST_OK;
}

/* The text of a token; what does not fit is cut between characters. */
static void decode_piece(const struct st_tokenizer *t, uint32_t id, char piece[ST_PIECE_BYTES])
{
	char whole[256];
	size_t n = st_tokenizer_decode(t, id, whole, sizeof whole);
	n = n < sizeof whole ? n : sizeof whole;
	if (n >= ST_PIECE_BYTES) {
		static const char more[] = "...";
		n = ST_PIECE_BYTES - sizeof more;
		while (n > 0 && ((unsigned char)whole[n] & 0xC0) == 0x80)
			n--;
		memcpy(whole + n, more, sizeof more - 1);
		n += sizeof more - 1;
	}
	memcpy(piece, whole, n);
	piece[n] = '\0';
}

static void add_position_text(const struct st_tokenizer *t, struct st_position *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		decode_piece(t, p[i].token, p[i].text_token);
		decode_piece(t, p[i].best_a, p[i].text_a);
		decode_piece(t, p[i].best_b, p[i].text_b);
	}
}

/* Tokens of the positions that are reported, as text where a side has a tokenizer. */
static void add_text(struct st_rosetta_state *s)
{
	struct st_agreement *g = &s->r.agreement;
	const struct st_tokenizer *t = s->tb ? s->tb : s->ta;
	if (!t)
		return;
	add_position_text(t, g->changed, g->n_changed);
	add_position_text(t, g->each, g->n_each);
	for (size_t i = 0; i < g->n_last; i++) {
		decode_piece(t, g->last_a[i].token, g->last_a[i].text);
		decode_piece(t, g->last_b[i].token, g->last_b[i].text);
	}
}

/* The tokens of the prompt as text, by each side's own vocabulary where it has one. */
static enum st_status add_pieces(struct st_rosetta_state *s, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	const struct st_tokenizer *own[2] = { s->ta ? s->ta : s->tb, s->tb ? s->tb : s->ta };
	for (int side = 0; own[0] && side < 2; side++) {
		const uint32_t *ids = side ? r->tokens_b : r->tokens_a;
		size_t n = side ? r->n_tokens_b : r->n_tokens_a;
		char(*pieces)[ST_PIECE_BYTES] = st_arena_alloc(&s->arena, n, sizeof *pieces);
		if (!pieces)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		for (size_t i = 0; i < n; i++)
			decode_piece(own[side], ids[i], pieces[i]);
		*(side ? &r->pieces_b : &r->pieces_a) = pieces;
	}
	return ST_OK;
}

/* Behind the lock-step, where that reached the logits: the other prompts, and what layers cost. */
static enum st_status measure_agreement(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                        const struct st_exec *e, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	const struct st_graph *ga = st_model_graph(s->ma), *gb = st_model_graph(s->mb);
	if (!r->agreement.prompts)
		return ST_OK;
	for (size_t i = 1; i < s->n_prompts; i++) {
		ST_TRY(st_agreement_of_prompt(&r->agreement, ga, gb, (uint32_t)i, s->ids[i], s->n_ids[i], e, err));
		if (o->hooks.progress)
			o->hooks.progress(o->hooks.user, "more prompts", i, s->n_prompts - 1);
	}
	st_agreement_usual(&r->agreement, r->stages, r->n_stages);
	add_text(s);
	if (!o->layer_costs)
		return ST_OK;
	r->layers = st_arena_alloc(&s->arena, gb->n_nodes, sizeof *r->layers);
	if (!r->layers)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return st_layer_costs(ga, gb, r->tokens_b, r->n_tokens_b, r->stages, e, &o->hooks, r->layers, &r->n_layers,
	                      err);
}

static bool same_page(const struct st_model *a, const struct st_model *b)
{
	const struct st_described *x = st_model_described(a), *y = st_model_described(b);
	return x && y && strcmp(x->family->sha256, y->family->sha256) == 0;
}

/* Whether two models can be compared weight by weight: of one family, or of two whose graphs are of the common kind, which
 * differ in what their files say. */
static bool same_family(const struct st_model *a, const struct st_model *b)
{
	const struct st_graph *ga = st_model_graph(a), *gb = st_model_graph(b);
	if (st_model_is_by_name(a) || st_model_is_by_name(b))
		return st_model_is_by_name(a) == st_model_is_by_name(b);
	return same_page(a, b) || (ga && gb && st_graph_is_plain(ga) && st_graph_is_plain(gb));
}

static enum st_status open_by_names(struct st_model **m, const char *path, struct st_pool *pool, struct st_error *err)
{
	st_model_close(*m);
	*m = NULL;
	return st_model_open_any(path, NULL, ST_OPEN_NAMES, pool, m, err);
}

/*
 * Of a family that Stele cannot run tensors are known by name alone; then those of the other file are, too, and so are those
 * of two families.
 */
static enum st_status open_both(struct st_rosetta_state *s, const char *path_a, const char *path_b, const char *family,
                                struct st_pool *pool, struct st_error *err)
{
	ST_TRY(st_model_open_any(path_a, family, ST_OPEN_FAMILY, pool, &s->ma, err));
	ST_TRY(st_model_open_any(path_b, family, st_model_is_by_name(s->ma) ? ST_OPEN_NAMES : ST_OPEN_FAMILY, pool,
	                         &s->mb, err));
	if (same_family(s->ma, s->mb))
		return ST_OK;
	if (!st_model_is_by_name(s->ma))
		ST_TRY(open_by_names(&s->ma, path_a, pool, err));
	return st_model_is_by_name(s->mb) ? ST_OK : open_by_names(&s->mb, path_b, pool, err);
}

/* Whether both files have a row for every token. */
static bool tokens_fit(const struct st_rosetta_state *s, uint32_t vocab)
{
	bool fit = true;
	for (size_t i = 0; i < s->r.n_tokens_a; i++)
		fit &= s->r.tokens_a[i] < vocab;
	for (size_t i = 0; i < s->r.n_tokens_b; i++)
		fit &= s->r.tokens_b[i] < vocab;
	return fit;
}

enum st_status st_rosetta_run(const char *path_a, const char *path_b, const struct st_rosetta_options *o,
                              struct st_rosetta **out, struct st_error *err)
{
	*out = NULL;
	double start = st_now_ms();
	struct st_exec e;
	ST_TRY(st_exec_at(o->cpu, &e, err));
	if (o->mode && !st_mode_parse(o->mode, &e.mode))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--mode", "unknown mode \"%s\"", o->mode);

	struct st_rosetta_state *s = st_alloc_zeroed(1, sizeof *s);
	if (!s)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&s->arena);
	struct st_rosetta *r = &s->r;
	r->mode = st_mode_name(e.mode);
	r->threshold = o->threshold;
	enum st_status st;
	ST_TRY_OUT(st_pool_open(o->threads, &e.pool, err));
	/* A weight that is missing or does not fit is a finding, not a failure; such a model is not evaluated. */
	ST_TRY_OUT(open_both(s, path_a, path_b, o->family, e.pool, err));
	for (int i = 0; i < 2; i++) {
		const struct st_model *m = i ? s->mb : s->ma;
		if (o->log_all || st_container_format(st_model_container(m)) == ST_FORMAT_APR)
			st_model_load_log(m, o->log_all, &o->hooks);
	}
	ST_TRY_OUT(describe_side(s->ma, path_a, o->hash, &r->a, err));
	ST_TRY_OUT(describe_side(s->mb, path_b, o->hash, &r->b, err));
	if (st_model_is_by_name(s->ma)) {
		ST_TRY_OUT(st_rosetta_by_name(s, o, e.pool, err));
		st_rosetta_decide(s);
		r->ms_total = st_now_ms() - start;
		st_pool_close(e.pool);
		*out = r;
		return ST_OK;
	}
	ST_TRY_OUT(all_tokens(s, o, err));
	ST_TRY_OUT(add_pieces(s, err));
	r->ms_load = st_now_ms() - start;

	double judge = st_now_ms();
	struct st_form form = st_form_of(st_model_graph(s->ma), st_model_graph(s->mb));
	/* A padded vocabulary makes the logits alone wider. */
	bool one_form = form.differs == ST_FORM_EQUAL
	             || (form.differs == ST_FORM_WIDTH && form.stage_a == ST_STAGE_LM_HEAD);
	if (same_page(s->ma, s->mb))
		r->n_config = st_compare_settings(s->ma, s->mb, one_form, r->n_tokens_b, r->config);
	else
		r->n_config = st_compare_configs(st_model_config(s->ma), st_model_config(s->mb), r->n_tokens_b,
		                                 r->config);
	ST_TRY_OUT(settle_vocab(s, err));
	settle_config(s);
	if (one_form)
		st_find_layers(st_model_graph(s->ma), st_model_graph(s->mb), r->config, r->n_config);
	ST_TRY_OUT(st_rosetta_asides(s, err));
	r->unused_a = st_model_n_unused(s->ma);
	r->unused_b = st_model_n_unused(s->mb);
	bool stop = s->tokens_differ && !o->keep_going;
	if (!stop)
		ST_TRY_OUT(st_compare_weights(s->ma, s->mb, e.pool, &o->hooks, &r->weights, &r->n_weights, err));
	r->ms_judge = st_now_ms() - judge;

	double run = st_now_ms();
	const struct st_graph *ga = st_model_graph(s->ma), *gb = st_model_graph(s->mb);
	if (!stop)
		s->form = st_form_of(ga, gb);
	bool whole = ga && gb, runnable = !stop && s->form.differs == ST_FORM_EQUAL;
	for (size_t i = 0; i < r->n_weights; i++) /* a missing weight leaves a hole in one graph */
		runnable &= r->weights[i].status < ST_WEIGHT_ONLY_A;
	if (runnable)
		ST_TRY_OUT(st_rosetta_find_function(s, e.pool, err));
	if (whole && !stop && s->form.agree && tokens_fit(s, ga->vocab < gb->vocab ? ga->vocab : gb->vocab)) {
		ST_TRY_OUT(st_rosetta_lockstep(s, o, &e, err));
		ST_TRY_OUT(measure_agreement(s, o, &e, err));
	} else {
		r->skipped = gb ? gb->n_nodes : ga ? ga->n_nodes : 0;
	}
	r->ms_run = st_now_ms() - run;
	/* Both sides lack the same weight: nothing to compare it with, so the files themselves are the trouble. */
	if (!ga && !gb && !stop)
		ST_TRY_OUT(st_model_check(s->ma, err));
	ST_TRY_OUT(st_noise_sizes_of(r->weights, r->n_weights, &r->sizes, err));
	st_rosetta_decide(s);
	/* One file cannot be evaluated, and what is wrong with it is no difference of the two. */
	if (r->verdict == ST_VERDICT_UNDECIDED && !whole && !stop) {
		ST_TRY_OUT(st_model_check(s->ma, err));
		ST_TRY_OUT(st_model_check(s->mb, err));
	}
	r->ms_total = st_now_ms() - start;
	st_pool_close(e.pool);
	*out = r;
	return ST_OK;
out:
	st_pool_close(e.pool);
	st_rosetta_free(r);
	return st;
}

void st_rosetta_free(struct st_rosetta *r)
{
	if (!r)
		return;
	struct st_rosetta_state *s = (struct st_rosetta_state *)(void *)r;
	free(r->weights);
	st_tokenizer_close(s->ta);
	st_tokenizer_close(s->tb);
	st_model_close(s->ma);
	st_model_close(s->mb);
	st_arena_release(&s->arena);
	free(s);
}

const struct st_model *st_rosetta_model(const struct st_rosetta *r, char side)
{
	const struct st_rosetta_state *s = (const struct st_rosetta_state *)(const void *)r;
	return side == 'a' ? s->ma : s->mb;
}
