/* apr.h - what the APR reader and writer share (docs/format-apr.md). */
#ifndef ST_FORMAT_APR_H
#define ST_FORMAT_APR_H

#include "format/container.h"

#define ST_APR_HEADER 64u
#define ST_APR_ALIGN 64u
#define ST_APR_MAX_METADATA (UINT64_C(64) << 20)
#define ST_APR_MAX_NAME 256u

enum {
	ST_APR_LZ4 = 0x1,
	ST_APR_ZSTD = 0x2,
	ST_APR_ENCRYPTED = 0x4,
	ST_APR_SIGNED = 0x8,
	ST_APR_SHARDED = 0x10,
	ST_APR_QUANTISED = 0x20,
	ST_APR_VOCABULARY = 0x200,
	ST_APR_ROW_MAJOR = 0x400,
	ST_APR_COLUMN_MAJOR = 0x800,
	ST_APR_KNOWN_FLAGS = 0xfff,
};

/*
 * One meaning of a dtype byte. Some codes have two, an old APR type and the GGUF type of that
 * number; the size tells them apart. Of several codes for one type the first row is written.
 */
struct st_apr_code {
	uint8_t code;
	enum st_dtype dtype;
	bool ragged; /* the last block over the flat tensor may be a part of one */
};
extern const struct st_apr_code st_apr_codes[];
extern const size_t st_apr_n_codes;

/* CRC-32/IEEE of the header, which leaves its own field out. */
uint32_t st_apr_header_crc(const uint8_t header[ST_APR_HEADER]);

/* Keys with fixed types; 0 and NULL where absent. Texts and lists are borrowed from the metadata. */
struct st_apr_meta {
	uint64_t hidden_size, layers, heads, kv_heads, vocab, intermediate, positions, rope_type, head_dim, experts,
		experts_per_token, moe_intermediate;
	double norm_eps, rope_theta;
	const char *architecture, *model_type;
	const json_t *vocabulary, *merges, *scores;
};
/* A value of another type, and two spellings of a key that disagree, are errors that name the keys. origin: of the text
 * in its file. */
ST_MUST_CHECK enum st_status st_apr_read_metadata(const json_t *meta, uint64_t origin, struct st_apr_meta *m,
                                                  struct st_error *err);

/*
 * Decide, from names and config, who wrote the file and in which order it lists dimensions;
 * fills c->apr.writer and c->apr.dims_reversed, and of each tensor shape, and layout and strides
 * (ROWS or, where the bytes themselves are the other way round, STRIDED) from ndim and file_dims.
 * Needs c->docs.metadata and names; dimensions have been checked not to overflow.
 */
void st_apr_orient(struct st_container *c, const struct st_apr_meta *m);

#endif
