/*
 * json.h - JSON from strangers (parse.c), documents that are written here (values.c, write.c), and members of objects
 * read into structs by tables (fields.c).
 *
 * What makes a value returns a new reference, or NULL when out of memory (jansson's *_new setters take that and fail in
 * turn).
 */
#ifndef ST_JSON_JSON_H
#define ST_JSON_JSON_H

#include <stele/status.h>

#include "base/mem.h"

#include <jansson.h>

/* ---- reading ---- */

/* Parse JSON text of a file: duplicate keys rejected, byte position in errors, depth bounded
 * by jansson. `origin` is the file offset of text. Text whose tree would take far more memory
 * than any honest document of its size is refused unparsed. */
ST_MUST_CHECK enum st_status st_json_parse(const char *text, uint64_t n, uint64_t origin, json_t **out,
                                           struct st_error *err);
/* The same with the caller's own bound on the tree's memory, in bytes. */
ST_MUST_CHECK enum st_status st_json_parse_within(const char *text, uint64_t n, uint64_t origin, uint64_t budget,
                                                  json_t **out, struct st_error *err);
/* Map and parse a JSON file; *out = NULL when the file does not exist. */
ST_MUST_CHECK enum st_status st_json_load(const char *path, json_t **out, struct st_error *err);
/* The same for a file that must exist and hold an object, in at most `most` bytes (0: no such limit). */
ST_MUST_CHECK enum st_status st_json_load_object(const char *path, uint64_t most, json_t **out, struct st_error *err);

/* ---- members by table ---- */

/* What a member of an object must be. ST_JSON_AT derives it from the member of the struct that takes it. */
enum st_json_type {
	ST_JSON_KNOWN, /* anything; read by other code, or by none */
	ST_JSON_U32,   /* integers */
	ST_JSON_U64,
	ST_JSON_I64,
	ST_JSON_F64,
	ST_JSON_BOOL,
	ST_JSON_TEXT,    /* const char *, borrowed from the object */
	ST_JSON_CHARS,   /* char[size]: cut where it is too long, not inside a character */
	ST_JSON_U32S,    /* uint32_t[size / 4]: a list of just so many integers */
	ST_JSON_SHAPE,   /* uint64_t[size / 8]: a list of just so many positive integers below 2^31 */
	ST_JSON_VALUE,   /* const json_t *, borrowed from the object */
	ST_JSON_LIST,    /* such a value that is a list */
	ST_JSON_TEXTS,   /* a list of texts */
	ST_JSON_NUMBERS, /* a list of numbers */
	ST_JSON_OBJECT,  /* an object */
	ST_JSON_N_TYPES,
};

struct st_json_field {
	enum st_json_type type;
	size_t offset, size; /* of the struct's member */
	const char *in;      /* member, an object, that has the key; NULL: the object itself */
	const char *key[5];  /* spellings, the usual one first; the rest is NULL. Two that are there must agree */
	bool required;
	bool reals;      /* an integer may be spelled 256.0 */
	double min, max; /* of a number, or of the bytes of a TEXT; max 0 = no limit of its own */
	/* A text must be one of these, which NULL ends. In a uint32_t or an enum its index is stored. */
	const char *const *choices;
};

/* Type, offset and size of a row: { ST_JSON_AT(struct s, m), .key = { "m" }, .required = true }. A const json_t * takes
 * any value with that; ST_JSON_AT_A(struct s, m, ST_JSON_OBJECT) one of that type. */
#define ST_JSON_AT(S, m) .type = ST_JSON_TYPE_OF(((S *)0)->m), .offset = offsetof(S, m), .size = sizeof(((S *)0)->m)
#define ST_JSON_AT_A(S, m, t) \
	.type = _Generic(((S *)0)->m, const json_t * : t), .offset = offsetof(S, m), .size = sizeof(((S *)0)->m)
#define ST_JSON_TYPE_OF(x) \
	_Generic((x),                                                                                    \
	        uint32_t: ST_JSON_U32, uint64_t: ST_JSON_U64, int64_t: ST_JSON_I64, double: ST_JSON_F64, \
	        bool: ST_JSON_BOOL, const char *: ST_JSON_TEXT, char *: ST_JSON_CHARS,                   \
	        uint32_t *: ST_JSON_U32S, uint64_t *: ST_JSON_SHAPE, const json_t *: ST_JSON_VALUE)

/* How an object is read. All zero: it is the document's root, and keys that no row names are passed over. */
struct st_json_read {
	const char *where;   /* what messages put before a key: "entries[3]" */
	uint64_t offset;     /* of the text in its file, for messages; 0: none */
	bool refuse_unknown; /* a key that no row names is a failure */
};

/*
 * Read the members that the table names into *out. An absent member, which null is too, leaves its own alone: set
 * defaults before. Failures name the key, the value and what it should be. spelled, where not NULL, takes for each row
 * the spelling found (owned by the table), NULL for none.
 */
ST_MUST_CHECK enum st_status st_json_read(const json_t *o, const struct st_json_read *how,
                                          const struct st_json_field *fields, size_t n, void *out, const char **spelled,
                                          struct st_error *err);
/* One row; *spelled as above. For a single variable v: { ST_JSON_IN(v), .key = { "v" } } and &v. */
ST_MUST_CHECK enum st_status st_json_read_one(const json_t *o, const struct st_json_read *how,
                                              const struct st_json_field *field, void *out, const char **spelled,
                                              struct st_error *err);
#define ST_JSON_IN(v) .type = ST_JSON_TYPE_OF(v), .size = sizeof(v)

/* A failure about o[key] in the words of this room: "is VALUE, WORDS", or "is missing". */
ST_MUST_CHECK enum st_status st_json_bad(const json_t *o, const struct st_json_read *how, const char *key,
                                         const char *words, struct st_error *err);
/* The keys of o that no row names, as a list. NULL when out of memory. */
json_t *st_json_unread(const json_t *o, const struct st_json_field *fields, size_t n);
/* A list of integers of any length, in the arena; text that holds such a list will do. */
ST_MUST_CHECK enum st_status st_json_u32s(const json_t *v, const char *key, struct st_arena *arena, uint32_t **out,
                                          size_t *n, struct st_error *err);

/* A list of at most `most` integers of 0 or more, as shapes are. False: it is none, and out holds nothing of use. */
bool st_json_counts(const json_t *list, size_t most, uint64_t *out, size_t *n);

/* ---- writing ---- */

/* json_dumps(), but NULL instead of a text that lacks something when memory runs out on the way, and for a NULL. */
char *st_json_print(const json_t *j, size_t flags);
/* Indented, members sorted, one newline; whole or not at all. What j lacks for want of memory is an error. */
ST_MUST_CHECK enum st_status st_json_write(const char *path, const json_t *j, struct st_error *err);

/* JSON has no such numbers: NaN and the infinities become "nan", "inf", "-inf". */
json_t *st_json_number(double v);
/* Counts and offsets; above INT64_MAX a real. */
json_t *st_json_u64(uint64_t v);
/* Text that may come from a file or be a path: broken UTF-8 becomes U+FFFD. NULL becomes null. */
json_t *st_json_text(const char *s);
json_t *st_json_textn(const char *s, size_t n);
json_t *st_json_shape(const uint64_t *shape, size_t ndim);
/* "2026-01-31T12:00:00Z" of now. */
json_t *st_json_now(void);
/* Sets o[key] = v and takes v. Lack of memory, which a NULL is too, is seen once, by st_json_ok. */
void st_json_put(json_t *o, const char *key, json_t *v);
/* A member by the type of its value: text, truth, float, count, or a json_t * that is taken. An int does not compile: it
 * may be a truth, which json_boolean says, or a number, which json_integer does. */
#define ST_IS(key, v)                                                                                                \
	{                                                                                                            \
		key, _Generic((v),                                                                                 \
		        json_t *: st_json_same, const char *: st_json_text, char *: st_json_text, bool: st_json_bool, \
		        double: st_json_number, float: st_json_float, unsigned: st_json_u64,                       \
		        unsigned long: st_json_u64, unsigned long long: st_json_u64, long: st_json_i64,            \
		        long long: st_json_i64)(v) \
	}
static inline json_t *st_json_same(json_t *v) { return v; }
static inline json_t *st_json_bool(bool v) { return json_boolean(v); }
static inline json_t *st_json_float(float v) { return st_json_number((double)v); }
static inline json_t *st_json_i64(int64_t v) { return json_integer(v); }
/* Several at once: st_json_put_all(o, ST_IS("key", x), ST_IS("other", y)). Returns o. */
#define st_json_put_all(o, ...) st_json_put_members(o, (const struct st_json_member[]){ __VA_ARGS__, { 0 } })
/* A new object of them. */
#define st_json_object(...) st_json_put_all(json_object(), __VA_ARGS__)
struct st_json_member {
	const char *key;
	json_t *value;
};
json_t *st_json_put_members(json_t *o, const struct st_json_member *m);
/* The members of a struct, under the first spelling of each row; the counterpart of st_json_read. Returns o. */
json_t *st_json_put_fields(json_t *o, const struct st_json_field *fields, size_t n, const void *from);
/* Appends v to a list and takes it. Lack of memory is seen by st_json_ok. */
void st_json_add(json_t *list, json_t *v);
/* Whether nothing was lost while j was put together. */
bool st_json_ok(const json_t *j);

#endif
