/*
 * bytes.c - bytes as vocabularies write them.
 *
 * Byte-level BPE writes every byte as one printable character: the bytes that Latin-1 prints
 * stand for themselves, the other 68 for U+0100 and up in ascending order (GPT-2's alphabet).
 * SentencePiece has pieces "<0x00>" to "<0xFF>" for text it has no piece for.
 */
#include "token/tokenizer.h"

#include <string.h>

/* 0..32, 127..160 and 173 are not printable. */
uint32_t st_byte_char(uint8_t b)
{
	if (b <= 32)
		return 256u + b;
	if (b >= 127 && b <= 160)
		return 289u + (b - 127u);
	return b == 173 ? 323 : b;
}

int st_char_byte(uint32_t cp)
{
	if (cp >= 256)
		return cp <= 288 ? (int)cp - 256 : cp <= 322 ? (int)cp - 289 + 127 : cp == 323 ? 173 : -1;
	return st_byte_char((uint8_t)cp) == cp ? (int)cp : -1;
}

size_t st_byte_write(uint8_t b, char out[2])
{
	uint32_t cp = st_byte_char(b);
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	out[0] = (char)(0xC0 | cp >> 6);
	out[1] = (char)(0x80 | (cp & 0x3F));
	return 2;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0'
	     : c >= 'A' && c <= 'F' ? c - 'A' + 10
	     : c >= 'a' && c <= 'f' ? c - 'a' + 10
	                            : -1;
}

int st_byte_piece(const char *s, size_t n)
{
	if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
		return -1;
	int high = hex_digit(s[3]), low = hex_digit(s[4]);
	return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void st_byte_ids(struct st_tokenizer *t)
{
	memset(t->byte_id, 0xFF, sizeof t->byte_id);
	if (t->byte_level) {
		for (unsigned b = 0; b < 256; b++) {
			char text[2];
			size_t n = st_byte_write((uint8_t)b, text);
			t->byte_id[b] = st_vocab_find(&t->vocab, text, n);
		}
		return;
	}
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		const struct st_piece *p = &t->vocab.pieces[id];
		int b = p->type == ST_PIECE_BYTE ? st_byte_piece(p->s, p->len) : -1;
		if (b >= 0)
			t->byte_id[b] = id;
	}
}

bool st_push_id(struct st_scratch *s, uint32_t id)
{
	if (!st_grow((void **)&s->ids, &s->ids_cap, s->n_ids + 1, sizeof *s->ids))
		return false;
	s->ids[s->n_ids++] = id;
	s->last_unk = false;
	return true;
}

enum st_status st_push_unknown(struct st_scratch *s, const char *p, size_t n, struct st_error *err)
{
	const struct st_tokenizer *t = s->t;
	size_t covered = 0;
	while (covered < n && t->byte_id[(uint8_t)p[covered]] != ST_NO_ID)
		covered++;
	if (covered == n) {
		for (size_t i = 0; i < n; i++)
			if (!st_push_id(s, t->byte_id[(uint8_t)p[i]]))
				return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
		return ST_OK;
	}
	if (t->unk < 0)
		return st_fail(err, ST_ERR_UNSUPPORTED,
		               "the vocabulary has no piece for byte 0x%02X of the text and no unknown token",
		               (unsigned)(uint8_t)p[covered]);
	if (t->fuse_unk && s->last_unk)
		return ST_OK;
	if (!st_push_id(s, (uint32_t)t->unk))
		return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	s->last_unk = true;
	return ST_OK;
}
