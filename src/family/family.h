/*
 * family.h - a model family as data: the page of text that describes it, parsed.
 *
 * A description has four parts: which files are of the family, the keys of its configuration, its weights as sources in
 * each container, and its graph as stages made by operations. docs/descriptions.md is the manual of the language.
 *
 * Nothing here knows a container or a tensor. What a description says is looked up in a file by the room arch.
 */
#ifndef ST_FAMILY_FAMILY_H
#define ST_FAMILY_FAMILY_H

#include <stele/status.h>

#include "base/error.h"
#include "base/mem.h"

#include <stdarg.h>

#define ST_FAMILY_NONE UINT32_MAX

/* ---- expressions over keys and the layer ---- */

enum st_setting_kind { ST_SETTING_NONE, ST_SETTING_NUMBER, ST_SETTING_TEXT, ST_SETTING_LIST };

/* The value of a key. Counts and flags are numbers; a flag is 0 or 1. */
struct st_setting {
	enum st_setting_kind kind;
	double number;
	const char *text;
	const struct st_setting *items; /* a list's, one for each layer */
	size_t n;
};

/* Whether two values are the same, as far as files can say: an f32 in one, decimals in the other. */
bool st_setting_same(const struct st_setting *a, const struct st_setting *b);

struct st_term; /* expression.c */

struct st_expression {
	const char *text; /* as written */
	uint32_t line;
	uint32_t n;                  /* terms; 0: no expression */
	const struct st_term *terms; /* the last is the whole */
};

/* ---- keys ---- */

enum st_key_type {
	ST_KEY_COUNT, /* a number from 0 to 2^31 - 1 */
	ST_KEY_REAL,
	ST_KEY_FLAG,
	ST_KEY_TEXT,
	ST_KEY_COUNTS, /* one for each layer; a file may say one number for all */
	ST_KEY_REALS,
	ST_KEY_FLAGS,
	ST_KEY_TEXTS,
	ST_KEY_LETTERS, /* in files one text, of which each letter is a layer's: texts of one letter */
	ST_KEY_SET,     /* counts in any number, to be asked with holds(); a file may say one */
	ST_KEY_NUMBERS, /* reals in any number, which an operation takes whole */
	ST_KEY_LET,     /* not in files: an expression over the keys above, and over the layer */
};

/*
 * Where a value is looked for. Pages have a column for GGUF and one for config.json. What the metadata of APR files call a
 * key is config.json's name where no line says otherwise; their tensors are named in one of the other two ways.
 */
enum st_spelling { ST_SPELLING_GGUF, ST_SPELLING_CONFIG, ST_SPELLING_APR, ST_SPELLINGS };
#define ST_COLUMNS ((int)ST_SPELLING_APR)

struct st_family_key {
	const char *name;
	enum st_key_type type;
	uint32_t line;
	/* Names in files, the first that is there counts. GGUF's stand behind "ARCHITECTURE."; dots in those of
	 * config.json lead into objects. */
	const char *const *spelled[ST_SPELLINGS];
	uint32_t n_spelled[ST_SPELLINGS];
	struct st_expression absent[ST_SPELLINGS]; /* the value where a file does not say it */
	bool own_apr, own_apr_absent;              /* of APR the page says it itself; else it is as in config.json */
	struct st_expression null;                 /* where config.json says null */
	const char *const *among;                  /* of texts: what a file may say; NULL: anything */
	uint32_t n_among;
	struct st_expression let;
};

struct st_requirement {
	struct st_expression holds;
};

/* ---- weights ---- */

/* What is done to a stored tensor, in this order, to make the weight that the graph means. Each has an inverse. */
enum st_source_op {
	ST_SOURCE_TRANSPOSE, /* NAME^T */
	ST_SOURCE_ROWS,      /* NAME[a:b]: rows a to b; a: from there to the end */
	ST_SOURCE_STRIDE,    /* NAME[a::n]: every nth row from a */
	ST_SOURCE_EACH,      /* NAME[each n: a:b of m]: of n groups of m rows, rows a to b of each */
	ST_SOURCE_PAIRS,     /* pairs(n, NAME[, m]): n heads, of whose features the first m (all) lie in rotary pairs; 0: as they are */
	ST_SOURCE_PLUS_ONE,  /* 1+NAME */
	ST_SOURCE_NEG_EXP,   /* -exp(NAME) */
	ST_SOURCE_COLUMNS,   /* NAME[,a::n]: every nth column from a */
	ST_SOURCE_TIMES,     /* times(a, NAME): a times what is stored */
};

#define ST_SOURCE_STEPS 4
#define ST_SOURCE_LABEL 4

struct st_source_step {
	enum st_source_op op;
	struct st_expression a, b, n, m; /* where the operation has them */
};

struct st_source {
	const char *name; /* of the tensor; "#" is the layer, "@" the expert */
	uint32_t n_steps;
	struct st_source_step steps[ST_SOURCE_STEPS];
	/* NAME{a, b, c}: the sizes that files label the tensor with, where its shape in the graph does not say them. Readers
	 * go by the number of elements; writers write it so. */
	uint32_t n_label;
	struct st_expression label[ST_SOURCE_LABEL];
};

/* The name with "#" and "@" filled in; as snprintf: the length that it has. */
size_t st_source_spell(const char *name, int32_t layer, int32_t expert, char *buf, size_t size);

#define ST_WEIGHT_RANK 3

struct st_family_weight {
	const char *name;
	uint32_t line;
	bool per_layer;                          /* a source names the layer */
	struct st_source *sources[ST_COLUMNS];   /* the first whose tensor is there counts */
	uint32_t n_sources[ST_COLUMNS];
	struct st_source *apr; /* in APR files under the names of config.json's, where it is another; else NULL */
	uint32_t rank;
	struct st_expression shape[ST_WEIGHT_RANK];
	struct st_expression condition;   /* the weight exists where it holds; none: always */
	bool optional;                    /* a file may lack it... */
	struct st_expression optional_if; /* ...where this holds; none: always */
};

/* ---- the graph ---- */

enum st_operation {
#define OPERATION(name, ...) ST_OPERATION_##name,
#include "family/operations.def"
	ST_OPERATIONS
};

struct st_operation_info {
	const char *name;
	uint32_t min_in, max_in;   /* stages, given first */
	uint32_t min_w, max_w;     /* weights, given behind them */
	const char *const *params; /* NULL-terminated */
	const char *meaning;
};
const struct st_operation_info *st_operation_info(enum st_operation op);

/* One argument: a stage above, or a weight. */
struct st_family_arg {
	uint32_t stage;  /* index into stage_names; ST_FAMILY_NONE: a weight */
	uint32_t part;   /* of a stage: the part that this weight made (qkv_matmul.q); ST_FAMILY_NONE: all of it */
	uint32_t weight; /* ST_FAMILY_NONE: a stage */
	uint32_t other;  /* "head or embed": the weight that stands in where the first is absent; or ST_FAMILY_NONE */
};

struct st_family_param {
	const char *name;
	struct st_expression value;
};

enum st_scope { ST_SCOPE_BEFORE, ST_SCOPE_LAYER, ST_SCOPE_AFTER };

#define ST_FAMILY_WHEN 4

struct st_family_stage {
	uint32_t name; /* index into stage_names */
	uint32_t line;
	enum st_scope scope;
	enum st_operation op;
	const struct st_family_arg *in, *w;
	uint32_t n_in, n_w;
	const struct st_family_param *params;
	uint32_t n_params;
	/* Conditions that enclose it, the outermost first; `not_when`: the stage stands in the other branch. */
	const struct st_expression *when[ST_FAMILY_WHEN];
	bool not_when[ST_FAMILY_WHEN];
	uint32_t n_when;
};

/* ---- the whole ---- */

/* A name under which files call the family. */
struct st_family_name {
	const char *name;
	const char *key; /* GGUF: only where this key is there and is not 0 (`unless`: otherwise); NULL: always */
	bool unless;
	uint32_t line;
};

/* A source of a weight. apr: of an APR file. */
static inline const struct st_source *st_family_source(const struct st_family_weight *w, enum st_spelling column, uint32_t i,
                                                       bool apr)
{
	return apr && column == ST_SPELLING_CONFIG && w->apr ? w->apr : &w->sources[column][i];
}

struct st_family {
	const char *file; /* where it was read, for messages */
	const char *name;
	struct st_family_name *names[ST_SPELLINGS];
	uint32_t n_names[ST_SPELLINGS];
	struct st_family_key *keys;
	uint32_t n_keys;
	struct st_requirement *requirements;
	uint32_t n_requirements;
	const char **harmless[ST_SPELLINGS]; /* keys that change no number */
	uint32_t n_harmless[ST_SPELLINGS];
	struct st_family_weight *weights;
	uint32_t n_weights;
	const char **ignored; /* names of tensors that mean nothing; "#" is a layer, "*" at the end anything */
	uint32_t n_ignored;
	const char **stage_names; /* the first is the stream */
	uint32_t n_stage_names;
	struct st_family_stage *stages;
	uint32_t n_stages;
	uint32_t stream_from; /* the stage whose value enters the first layer, index into stage_names */
	bool built_in;        /* not somebody's own: what does not fit it is wrong with the model */
	char sha256[65];      /* of the text, in hexadecimal: reports say which description was used */
	struct st_arena arena;
};

/*
 * Parse a description. `file` is for messages only. Failures name file and line as their path ("gemma2.family:53") and
 * quote the words at fault. The text is a stranger's: its size, the number of its lines and the depth of what it nests
 * are bounded, and nothing is allocated by its numbers.
 */
ST_MUST_CHECK enum st_status st_family_parse(const char *file, const char *text, size_t size, struct st_family **out,
                                             struct st_error *err);
ST_MUST_CHECK enum st_status st_family_open(const char *path, struct st_family **out, struct st_error *err);
void st_family_close(struct st_family *f);

/* A failure at a line of a description, which the error names as its path ("gemma2.family:53"). */
enum st_status st_family_vfail(const char *file, uint32_t line, enum st_status code, struct st_error *err,
                               const char *fmt, va_list ap);
enum st_status st_family_fail(const char *file, uint32_t line, enum st_status code, struct st_error *err,
                              const char *fmt, ...) ST_PRINTF(5, 6);
#define st_family_fail(...) st_failure((st_family_fail)(__VA_ARGS__))

/* Index of a key or a weight, or ST_FAMILY_NONE. */
uint32_t st_family_find_key(const struct st_family *f, const char *name);
uint32_t st_family_find_weight(const struct st_family *f, const char *name);
/* The parameter of a stage, or NULL where it is not given. */
const struct st_expression *st_family_param(const struct st_family_stage *s, const char *name);

/* What an expression is evaluated on. */
struct st_settings {
	const struct st_family *family;
	const struct st_setting *keys; /* one for each key of the family; those of `let` are not read */
	enum st_spelling spelling;     /* which kind of file they come from */
	const char *model;             /* the name under which the file calls the family */
	int32_t layer;                 /* -1: outside the layers */
	/* Rows of the file's tensor of that name, -1: it has none. For tensor("output.weight"), whether it is there, and
	 * rows("token_embd.weight"). */
	int64_t (*tensor_rows)(const void *file, const char *name);
	const void *file;
};

/* Division by zero, a list without that layer, text where a number is wanted: a failure at the line of the
 * expression. The result of a number is finite. Texts and lists belong to the settings. */
ST_MUST_CHECK enum st_status st_expression_value(const struct st_expression *e, const struct st_settings *s,
                                                 struct st_setting *out, struct st_error *err);
ST_MUST_CHECK enum st_status st_expression_number(const struct st_expression *e, const struct st_settings *s,
                                                  double *out, struct st_error *err);
/* A whole number from 0 to 2^31 - 1. */
ST_MUST_CHECK enum st_status st_expression_count(const struct st_expression *e, const struct st_settings *s,
                                                 uint32_t *out, struct st_error *err);
/* The same; `otherwise` where there is no expression. */
ST_MUST_CHECK enum st_status st_expression_count_or(const struct st_expression *e, const struct st_settings *s,
                                                    uint64_t otherwise, uint64_t *out, struct st_error *err);
ST_MUST_CHECK enum st_status st_expression_holds(const struct st_expression *e, const struct st_settings *s, bool *out,
                                                 struct st_error *err);
/* Whether its value depends on this key, through `let` or directly. */
bool st_expression_names(const struct st_family *f, const struct st_expression *e, uint32_t key);

/* The descriptions that are built in. */
struct st_family_text {
	const char *name;   /* "gemma2.family", "rope.keys" */
	const char *family; /* "gemma2" */
	const char *text;
	size_t size;
};
extern const struct st_family_text st_family_texts[];
extern const size_t st_family_text_count;

#endif
