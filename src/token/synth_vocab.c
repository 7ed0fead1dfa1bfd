#include "token/synth_vocab.h"

#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* Written for this purpose. Common words and letter pairs are all that matters here. */
static const char text[] = "A model is a graph of named stages, and a trace is the value of every stage for some "
			   "tokens. When two versions of one "
			   "model disagree, the first question is where they part, the second is whether the "
			   "difference is noise or a fault, and the "
			   "third is why. The tool reads both files, walks through the layers in order, and stops at "
			   "the first place where the numbers "
			   "are further apart than rounding and quantisation can explain. Then it tries each known "
			   "mistake in turn: a matrix that was "
			   "transposed, a bias that was left out, a wrong epsilon, a rotation with the wrong pairs. "
			   "The one that makes the difference "
			   "vanish is the cause, and the report says so in plain words. If none of them does, the "
			   "answer is that nobody knows yet. "
			   "Once upon a time there was a little girl who lived in a house near the forest. Every day "
			   "she went out to play with her "
			   "friends, and every evening she came back home before the sun went down. One day she found "
			   "a small box under the old tree. "
			   "She wanted to open it, but the box would not open. She asked her mother for help, and her "
			   "mother said that some things "
			   "take time. So the girl waited, and when the morning came the box was open, and there was "
			   "nothing inside but light. "
			   "What is the answer to this question? It is not known what they should have done with those "
			   "that were there before us. "
			   "Some of our people have been able to use more than one of these, which is about as much as "
			   "anyone could have said. "
			   "You can read the numbers from left to right, from the first to the last: one, two, three, "
			   "four, five, six, seven, eight. "
			   "for (i = 0; i < n; i++) { sum = sum + x[i] * y[i]; } return sum / n; if the value is not a "
			   "number then print the error.";

#define N_TEXT (sizeof text - 1)
#define FIRST_MERGE 256

static const char *const specials[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
#define N_SPECIALS (sizeof specials / sizeof *specials)

/* Byte pieces in the order of the alphabet: the printable bytes first, as GPT-2 numbers them. */
static bool byte_pieces(struct st_arena *arena, const char **pieces, uint32_t id_of[256])
{
	uint32_t id = 0;
	for (unsigned cp = 0; cp < 324; cp++) {
		int b = st_char_byte(cp);
		if (b < 0)
			continue;
		char c[2];
		pieces[id] = st_arena_strndup(arena, c, st_byte_write((uint8_t)b, c));
		if (!pieces[id])
			return false;
		id_of[b] = id++;
	}
	return true;
}

/* How often each pair of neighbours occurs: a table over left * n + right would be large, a sorted
 * list of pairs of this short text is not. */
struct pair {
	uint32_t left, right;
};

static int by_pair(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	return x->left != y->left ? (x->left > y->left) - (x->left < y->left)
	                          : (x->right > y->right) - (x->right < y->right);
}

/* Is the joined text a piece already, reached in another way? Pieces are unique. */
static bool known(const struct st_synth_vocab *v, struct pair p)
{
	const char *left = v->pieces[p.left], *right = v->pieces[p.right];
	size_t n = strlen(left);
	for (uint32_t id = 0; id < FIRST_MERGE + v->n_merges; id++)
		if (strncmp(v->pieces[id], left, n) == 0 && strcmp(v->pieces[id] + n, right) == 0)
			return true;
	return false;
}

/* The most frequent pair inside words (a word starts at its space); the lowest ids win a tie. False when none occurs
 * twice. */
static bool best_pair(const struct st_synth_vocab *v, const uint32_t *ids, const bool *starts, size_t n,
                      struct pair *work, struct pair *best)
{
	size_t n_pairs = 0, most = 1;
	for (size_t i = 0; i + 1 < n; i++)
		if (!starts[i + 1])
			work[n_pairs++] = (struct pair){ ids[i], ids[i + 1] };
	qsort(work, n_pairs, sizeof *work, by_pair);
	for (size_t i = 0, end; i < n_pairs; i = end) {
		for (end = i + 1; end < n_pairs && by_pair(&work[i], &work[end]) == 0;)
			end++;
		if (end - i > most && !known(v, work[i])) {
			most = end - i;
			*best = work[i];
		}
	}
	return most > 1;
}

static size_t join(uint32_t *ids, bool *starts, size_t n, struct pair p, uint32_t id)
{
	size_t out = 0;
	for (size_t i = 0; i < n; i++, out++) {
		bool here = i + 1 < n && !starts[i + 1] && ids[i] == p.left && ids[i + 1] == p.right;
		starts[out] = starts[i];
		ids[out] = here ? id : ids[i];
		i += here;
	}
	return out;
}

static enum st_status learn(struct st_arena *arena, struct st_synth_vocab *v, uint32_t limit, const uint32_t id_of[256],
                            struct st_error *err)
{
	uint32_t *ids = st_arena_alloc(arena, N_TEXT, sizeof *ids);
	bool *starts = st_arena_alloc(arena, N_TEXT, sizeof *starts);
	struct pair *work = st_arena_alloc(arena, N_TEXT, sizeof *work), best = { 0, 0 };
	size_t n = N_TEXT;
	if (!ids || !starts || !work)
		return st_fail(err, ST_ERR_NOMEM, "no memory for a vocabulary");
	for (size_t i = 0; i < n; i++) {
		bool letter = text[i] >= 'a' && text[i] <= 'z', upper = text[i] >= 'A' && text[i] <= 'Z';
		bool after_letter = i > 0 && ((text[i - 1] | 32) >= 'a' && (text[i - 1] | 32) <= 'z');
		ids[i] = id_of[(uint8_t)text[i]];
		/* Words are runs of letters with the space before them; everything else stays bytes. */
		starts[i] = !(letter || upper) || !(after_letter || (i > 0 && text[i - 1] == ' '));
	}
	while (v->n_merges < limit && best_pair(v, ids, starts, n, work, &best)) {
		uint32_t id = FIRST_MERGE + v->n_merges;
		v->pieces[id] = st_arena_printf(arena, "%s%s", v->pieces[best.left], v->pieces[best.right]);
		v->merges[v->n_merges] = st_arena_printf(arena, "%s %s", v->pieces[best.left], v->pieces[best.right]);
		if (!v->pieces[id] || !v->merges[v->n_merges])
			return st_fail(err, ST_ERR_NOMEM, "no memory for a vocabulary");
		v->types[id] = ST_PIECE_NORMAL;
		v->n_merges++;
		n = join(ids, starts, n, best, id);
	}
	return ST_OK;
}

enum st_status st_synth_vocab_make(struct st_arena *arena, uint32_t n, struct st_synth_vocab *out, struct st_error *err)
{
	uint32_t id_of[256];
	if (n < ST_SYNTH_VOCAB_MIN || n > ST_MAX_VOCAB)
		return st_fail(err, ST_ERR_USAGE, "a vocabulary of %u pieces; between %d and %u can be made", n,
		               ST_SYNTH_VOCAB_MIN, ST_MAX_VOCAB);
	uint32_t limit = n - FIRST_MERGE - (uint32_t)N_SPECIALS;
	*out = (struct st_synth_vocab){ .n = n };
	out->pieces = st_arena_alloc(arena, n, sizeof *out->pieces);
	out->types = st_arena_alloc(arena, n, 1);
	/* No more pairs can be joined than the text has bytes. */
	out->merges = st_arena_alloc(arena, limit < N_TEXT ? limit : N_TEXT, sizeof *out->merges);
	if (!out->pieces || !out->types || !out->merges || !byte_pieces(arena, out->pieces, id_of))
		return st_fail(err, ST_ERR_NOMEM, "no memory for a vocabulary");
	memset(out->types, ST_PIECE_NORMAL, FIRST_MERGE);
	ST_TRY(learn(arena, out, limit, id_of, err));

	uint32_t id = FIRST_MERGE + out->n_merges;
	out->bos = id;
	out->eos = id + 2;
	for (size_t i = 0; i < N_SPECIALS; i++, id++) {
		out->pieces[id] = specials[i];
		out->types[id] = ST_PIECE_CONTROL;
	}
	for (uint32_t extra = 0; id < n; id++, extra++) {
		out->pieces[id] = st_arena_printf(arena, "<extra_%u>", extra);
		out->types[id] = ST_PIECE_UNUSED;
		if (!out->pieces[id])
			return st_fail(err, ST_ERR_NOMEM, "no memory for a vocabulary");
	}
	return ST_OK;
}
