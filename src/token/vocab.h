/*
 * vocab.h - the pieces of a vocabulary: found by text, and by being a prefix of a text.
 *
 * Pieces are views into the container (its map or its JSON documents), so opening a
 * vocabulary of 150,000 pieces allocates three arrays and copies no text.
 */
#ifndef ST_TOKEN_VOCAB_H
#define ST_TOKEN_VOCAB_H

#include "base/error.h"
#include "base/mem.h"

#define ST_NO_ID UINT32_MAX
#define ST_MAX_VOCAB (1u << 20) /* pieces, and merges; the largest published vocabularies have 2^18 and 2^19 */

/* The numbers are those of tokenizer.ggml.token_type. */
enum st_piece_type {
	ST_PIECE_NORMAL = 1,
	ST_PIECE_UNKNOWN = 2,
	ST_PIECE_CONTROL = 3, /* special: recognised in text only on request */
	ST_PIECE_USER = 4,    /* added: recognised in text always, before anything else */
	ST_PIECE_UNUSED = 5,
	ST_PIECE_BYTE = 6, /* "<0xE2>" */
};

enum { ST_STRIP_LEFT = 1, ST_STRIP_RIGHT = 2 }; /* white space beside an added token belongs to it */

struct st_piece {
	const char *s; /* not terminated; NULL for an id that no piece has */
	uint32_t len;
	uint8_t type; /* enum st_piece_type */
	uint8_t strip;
};

struct st_vocab {
	struct st_piece *pieces; /* n, by id */
	float *scores;           /* n, or NULL */
	uint32_t n;
	uint32_t longest; /* bytes of the longest piece */
	uint32_t *slots;  /* open addressing, id + 1, 0 = empty */
	uint32_t mask;
};

/* All arrays come from the arena. `what` names the list in messages. */
ST_MUST_CHECK enum st_status st_vocab_init(struct st_vocab *v, struct st_arena *arena, uint64_t n, bool scores,
                                           const char *what, struct st_error *err);
/* Check every piece (UTF-8, not twice) and make it findable. Empty pieces are holes: published
 * vocabularies have them, and no text can contain them. */
ST_MUST_CHECK enum st_status st_vocab_index(struct st_vocab *v, struct st_arena *arena, const char *what,
                                            struct st_error *err);
uint32_t st_vocab_find(const struct st_vocab *v, const char *s, size_t n); /* ST_NO_ID when absent */

/* Some pieces in sorted order. A walk narrows the range of those that continue the text read so
 * far, one byte at a time, and ends as soon as none does. */
struct st_prefixes {
	struct st_prefix {
		const char *s;
		uint32_t len, id;
	} * entries;
	uint32_t n;
};

struct st_prefix_walk {
	uint32_t lo, hi, depth;
};

void st_prefixes_sort(struct st_prefixes *p);
static inline struct st_prefix_walk st_prefix_walk_start(const struct st_prefixes *p)
{
	return (struct st_prefix_walk){ 0, p->n, 0 };
}
/* Read one more byte. False when no piece goes on; else *id is the piece that ends here or ST_NO_ID. */
bool st_prefix_walk_next(const struct st_prefixes *p, struct st_prefix_walk *w, uint8_t byte, uint32_t *id);

#endif
