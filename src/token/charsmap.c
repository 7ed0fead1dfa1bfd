/*
 * charsmap.c - SentencePiece's precompiled character map, as T5-like models carry it.
 *
 *   u32      size of the trie in bytes
 *   u32[]    a double-array trie (darts-clone): the longest key that is a prefix of the text
 *            leads to an offset into
 *   bytes    the replacements, each ended by a zero byte
 *
 * A unit of the trie: bits 0..7 label, bit 8 "has a leaf", bit 9 scales the offset by 256,
 * bits 10..30 offset to the children; a leaf unit has bit 31 set and its value in the others.
 */
#include "token/tokenizer.h"

#include "base/cursor.h"

#include <string.h>

enum st_status st_charsmap_check(const char *map, uint64_t n, const char *what, struct st_error *err)
{
	uint32_t trie = n >= 4 ? st_load_u32(map) : 0;
	if (n < 8 || trie == 0 || trie % 4 != 0 || trie > n - 4)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
		                  "character map of %llu bytes with a trie of %u bytes", (unsigned long long)n, trie);
	/* Replacements are C strings: the last one must end. */
	if (trie < n - 4 && map[n - 1] != '\0')
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
		                  "the last replacement of the character map does not end");
	return ST_OK;
}

static uint32_t child_offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }

/* Longest key at p: its length, 0 when none, and its value. Units outside the trie end the walk. */
static size_t longest_key(const char *units, uint32_t n_units, const char *p, size_t n, uint32_t *value)
{
	uint32_t node = child_offset(st_load_u32(units));
	size_t best = 0;
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)p[i];
		node ^= c;
		if (node >= n_units)
			break;
		uint32_t unit = st_load_u32(units + 4 * (size_t)node);
		if ((unit & 0x800000FFu) != c)
			break;
		node ^= child_offset(unit);
		if (!(unit & 0x100))
			continue;
		if (node >= n_units)
			break;
		*value = st_load_u32(units + 4 * (size_t)node) & 0x7FFFFFFFu;
		best = i + 1;
	}
	return best;
}

bool st_charsmap_apply(const char *map, size_t map_len, const char *p, size_t n, struct st_text *out)
{
	uint32_t trie = st_load_u32(map);
	const char *replacements = map + 4 + trie;
	size_t n_replacements = map_len - 4 - trie;
	while (n > 0) {
		uint32_t value;
		size_t len = longest_key(map + 4, trie / 4, p, n, &value);
		bool ok;
		if (len > 0 && value < n_replacements) {
			ok = st_text_append(out, replacements + value, strlen(replacements + value));
		} else {
			len = st_utf8_step(p, n);
			len = len ? len : 1;
			ok = st_text_append(out, p, len);
		}
		if (!ok)
			return false;
		p += len;
		n -= len;
	}
	return true;
}
