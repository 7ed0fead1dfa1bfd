/* internal.h - between the files of the framework; commands do not need it. */
#ifndef ST_CLI_INTERNAL_H
#define ST_CLI_INTERNAL_H

#include "cli/cli.h"

/* commands.c: every command, in the order in which help lists them. */
extern const struct cli_command *const cli_commands[];
extern const size_t cli_n_commands;

/* The command that args[0] (and, for two-word names, args[1]) name; *used = words taken. */
const struct cli_command *cli_find(char *const *args, int n, int *used);
/* The candidate nearest to `word` in edits, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *candidates, size_t n);
/* Is that the first word of commands of two? */
bool cli_is_group(const char *word);
/* Report that no command is called like this, with what may have been meant. */
int cli_unknown_command(struct cli *c, char *const *words, int n);

/* output.c: errno of the first write to stdout that failed, or 0 */
int cli_write_error(void);

/* parse.c */
enum cli_parsed { CLI_PARSED_OK, CLI_PARSED_HELP, CLI_PARSED_ERROR };
/* Fill opts from args; err says what is wrong. Lists are freed by cli_release. */
enum cli_parsed cli_parse(const struct cli_command *cmd, char **args, int n, void *opts, struct st_error *err);
void cli_release(const struct cli_command *cmd, void *opts);

/* help.c */
bool cli_is_option(const struct cli_command *cmd, const struct cli_param *p);
void cli_overview(struct st_text *t, const char *group); /* NULL: all commands; "svf": those that begin with it */
void cli_help(struct st_text *t, const struct cli_command *cmd);
/* Call `emit` with each piece of the synopsis, "MODEL", "[--json]", in order. */
void cli_synopsis(const struct cli_command *cmd, void (*emit)(void *user, const char *piece), void *user);
extern const char cli_common_exit_status[];

/* man.c, completion.c */
void cli_man(struct st_text *t, const struct cli_command *cmd); /* NULL: stele(1) */
bool cli_completion(struct st_text *t, const char *shell);      /* false: unknown shell */

/* signals.c */
void cli_signals_init(struct cli *c);
int cli_signal_seen(void); /* SIGINT, SIGHUP, SIGTERM, SIGPIPE or 0 */

/* progress.c */
void cli_progress_clear(void); /* before anything else is written to stderr */

#endif
