/*
 * cli.h - what a subcommand is made of.
 *
 * A command is one file cmd_NAME.c with one `const struct cli_command` and a row in
 * commands.c. Its tables are the only description of its command line: parsing, --help,
 * the man page's SYNOPSIS and OPTIONS and the shells' completion all come from them.
 *
 *	struct opts { const char *model; bool json; uint32_t steps; };
 *	static const struct cli_param options[] = {
 *		{ "steps", 0, "N", "continue greedily for N tokens", CLI_U32(struct opts, steps) },
 *		CLI_OPTION_JSON(struct opts),
 *		{ 0 }
 *	};
 *	static const struct cli_param positionals[] = {
 *		{ "MODEL", 0, NULL, "the model", CLI_PATH(struct opts, model), .flags = CLI_REQUIRED },
 *		{ 0 }
 *	};
 *	static int run(struct cli *c, void *p) { const struct opts *o = p; ... return CLI_SAME; }
 *	const struct cli_command cmd_demo = { .name = "demo", .summary = "...", .options = options,
 *		.positionals = positionals, .opts_size = sizeof(struct opts), .run = run };
 */
#ifndef ST_CLI_CLI_H
#define ST_CLI_CLI_H

#include <stele/stele.h>

#include "report/table.h"

#include <jansson.h>
#include <stdio.h>

/* Exit statuses, the same for every command unless its man page says otherwise. */
enum { CLI_SAME = 0, CLI_FAULT = 1, CLI_TROUBLE = 2, CLI_UNDECIDED = 3, CLI_INTERRUPTED = 130 };

enum cli_type {
	CLI_TYPE_BOOL,
	CLI_TYPE_STR,
	CLI_TYPE_PATH,
	CLI_TYPE_CHOICE,
	CLI_TYPE_U32,
	CLI_TYPE_U64,
	CLI_TYPE_F64,
	CLI_TYPE_LIST
};

/* Strings in the order given; they belong to argv, the array to the framework. */
struct cli_list {
	const char **items;
	size_t n, cap;
};

enum {
	CLI_REQUIRED = 1, /* must be given; in a group: one of the group must be */
	CLI_FILES = 2,    /* a CLI_LIST of paths, for completion */
};

struct cli_param {
	const char *name; /* option: without dashes; positional: as printed ("MODEL"). NULL ends a table */
	char letter;      /* short form of an option, or 0 */
	const char *arg;  /* what an option's value is called; NULL for a bool. Unused for positionals */
	const char *help; /* lower case, no full stop */
	enum cli_type type;
	size_t offset;       /* of the field in the command's opts; zero bytes there mean "not given" unless
	                      * the command has defaults */
	const char *choices; /* CLI_TYPE_CHOICE: "a|b|c" */
	unsigned flags;
	int group; /* members of one group > 0 exclude each other */
};

/* Type and field together, so that a field of the wrong type does not compile. */
#define CLI_TYPED(T, f, ctype)                                                                  \
	(offsetof(T, f) + 0 * sizeof(struct {                                                   \
				  _Static_assert(_Generic(((T *)0)->f, ctype : 1, default : 0), \
		                                 "the field is not a " #ctype);                 \
				  int unused;                                                   \
			  }))
#define CLI_BOOL(T, f) .type = CLI_TYPE_BOOL, .offset = CLI_TYPED(T, f, bool)
#define CLI_STR(T, f) .type = CLI_TYPE_STR, .offset = CLI_TYPED(T, f, const char *)
#define CLI_PATH(T, f) .type = CLI_TYPE_PATH, .offset = CLI_TYPED(T, f, const char *)
#define CLI_CHOICE(T, f, list) .type = CLI_TYPE_CHOICE, .offset = CLI_TYPED(T, f, const char *), .choices = list
#define CLI_U32(T, f) .type = CLI_TYPE_U32, .offset = CLI_TYPED(T, f, uint32_t)
#define CLI_U64(T, f) .type = CLI_TYPE_U64, .offset = CLI_TYPED(T, f, uint64_t)
#define CLI_F64(T, f) .type = CLI_TYPE_F64, .offset = CLI_TYPED(T, f, double)
#define CLI_LIST(T, f) .type = CLI_TYPE_LIST, .offset = CLI_TYPED(T, f, struct cli_list)

/* Options that mean the same wherever they appear. --json and --quiet are also known to the
 * framework by name: errors follow --json, the log and the progress bar follow --quiet. */
#define CLI_OPTION_JSON(T)                                                                    \
	{                                                                                     \
		"json", 0, NULL, "print the result (or the error) as JSON", CLI_BOOL(T, json) \
	}
#define CLI_OPTION_QUIET(T)                                                                \
	{                                                                                  \
		"quiet", 'q', NULL, "no log lines and no progress bar", CLI_BOOL(T, quiet) \
	}
#define CLI_OPTION_THREADS(T)                                                          \
	{                                                                              \
		"threads", 0, "N", "use N threads (default: all)", CLI_U32(T, threads) \
	}
#define CLI_OPTION_CPU(T)                                                               \
	{                                                                               \
		"cpu", 0, "LEVEL", "use this instruction set (default: the best here)", \
			CLI_CHOICE(T, cpu, "scalar|avx2|avx512|neon")                   \
	}
/* of: "the model", "both models" */
#define CLI_OPTION_FAMILY(T, of)                                                                    \
	{                                                                                           \
		"family", 0, "F",                                                                   \
			"the description of " of                                                    \
			": a file, or the name of a built-in one (default: the one that knows it)", \
			CLI_PATH(T, family)                                                         \
	}
#define CLI_OPTION_MODE(T)                                                                                   \
	{                                                                                                    \
		"mode", 0, "MODE", "how to evaluate (default: exact)",                                       \
			CLI_CHOICE(T, mode, "exact|fast|emulate:f16|emulate:bf16|emulate:q8_0|emulate:q8_k") \
	}
/* The three ways to say what to run; the field is a struct cli_prompt. */
#define CLI_OPTIONS_PROMPT(T, f)                                                                               \
	{ "prompt", 'p', "TEXT", "the text to run", CLI_STR(T, f.text), .flags = CLI_REQUIRED, .group = 100 }, \
		{ "tokens",                                                                                    \
		  0,                                                                                           \
		  "LIST",                                                                                      \
		  "the token ids to run, comma separated",                                                     \
		  CLI_STR(T, f.ids),                                                                           \
		  .flags = CLI_REQUIRED,                                                                       \
		  .group = 100 },                                                                              \
	{                                                                                                      \
		"tokens-file", 0, "FILE", "read token ids from FILE, separated by commas or white space",      \
			CLI_PATH(T, f.file), .flags = CLI_REQUIRED, .group = 100                               \
	}

struct cli;

struct cli_command {
	const char *name;                              /* "trace", or two words: "svf export" */
	const char *summary;                           /* one line, lower case, no full stop */
	const char *description;                       /* man page: paragraphs, an empty line between them */
	const char *examples;                          /* man page: shown verbatim, or NULL */
	const char *exit_status;                       /* lines "N  meaning"; NULL for the common text */
	const struct cli_param *options, *positionals; /* NULL: none */
	size_t opts_size;
	const void *defaults;                  /* opts_size bytes, or NULL for zeros */
	int trouble;                           /* exit status of usage and input errors; 0 means CLI_TROUBLE */
	int (*run)(struct cli *c, void *opts); /* returns the exit status */
};

struct cli {
	const struct cli_command *cmd;
	bool json, quiet;
	const char *undone; /* set by a command: what an interrupt leaves undone, "the trace was not written" */
};

/* Report a failure - one line on stderr, or stele.error/1 on stdout under --json - and
 * return the exit status for it. An interrupt says what was not done. */
int cli_fail(struct cli *c, const struct st_error *err);
/* The same for a request that makes no sense. */
int cli_usage(struct cli *c, const char *fmt, ...) ST_PRINTF(2, 3);
int cli_no_memory(struct cli *c);
/* A remark on stderr, "stele CMD: ...", unless --quiet. */
void cli_note(struct cli *c, const char *fmt, ...) ST_PRINTF(2, 3);

/* Print to stdout. Failed writes are reported once, by main, with status 2. */
void cli_print(const char *s, const char *end);
void cli_print_text(const struct st_text *t);
void cli_print_json(json_t *j); /* indented, one newline; j stays the caller's */
void cli_flush(void);           /* what was printed so far */

/* Log lines to stderr, a progress bar when stderr is a terminal; silent under --quiet. */
struct st_hooks cli_hooks(struct cli *c);

/* What a stream prints on. Reports are laid out for as many columns as COLUMNS or the terminal has, 60 at the least;
 * where neither says, rows and sentences keep a line each, for grep. */
struct st_page cli_page(FILE *f);
/* Columns of the terminal (80 when it is none), and whether colour is wanted (a terminal, and neither NO_COLOR nor
 * TERM=dumb). */
size_t cli_columns(FILE *f);
bool cli_colour(FILE *f);

/* The value of --threads as the library takes it; more threads than this is no serious request. */
static inline int cli_threads(uint32_t n) { return (int)(n > 512 ? 512 : n); }

struct cli_prompt {
	const char *text, *ids, *file;
};
/* Token ids of the prompt; text needs the container's tokenizer. *ids is malloc'ed. */
ST_MUST_CHECK enum st_status cli_prompt_tokens(const struct cli_prompt *p, const struct st_container *c, uint32_t **ids,
                                               size_t *n, struct st_error *err);
/* The lines of a file that are not empty. */
ST_MUST_CHECK enum st_status cli_prompt_lines(const char *path, char ***lines, size_t *n, struct st_error *err);
void cli_prompt_lines_free(char **lines, size_t n);
/* The ids of "1, 2,3 4" alone. */
ST_MUST_CHECK enum st_status cli_parse_tokens(const char *list, size_t len, uint32_t **ids, size_t *n,
                                              struct st_error *err);

#endif
