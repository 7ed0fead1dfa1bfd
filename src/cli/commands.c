/*
 * commands.c - every command, in the order in which help lists them.
 *
 * To add one: write cmd_NAME.c with `const struct cli_command cmd_NAME`, name the file in
 * meson.build, and add it twice below. Commands of two words stand together.
 */
#include "cli/internal.h"

extern const struct cli_command cmd_convert, cmd_diff, cmd_explain, cmd_family_check, cmd_family_draft, cmd_family_list,
	cmd_family_show, cmd_help, cmd_inspect, cmd_replay, cmd_rosetta, cmd_svf_apply, cmd_svf_compare, cmd_svf_export,
	cmd_svf_replay, cmd_svf_route, cmd_synth, cmd_tap, cmd_tokenize, cmd_trace;

const struct cli_command *const cli_commands[] = {
	&cmd_rosetta,      &cmd_explain,      &cmd_tap,      &cmd_diff,      &cmd_inspect,     &cmd_tokenize,
	&cmd_trace,        &cmd_convert,      &cmd_synth,     &cmd_family_list, &cmd_family_show,
	&cmd_family_check, &cmd_family_draft, &cmd_replay,    &cmd_svf_export,  &cmd_svf_replay,
	&cmd_svf_compare,  &cmd_svf_apply,    &cmd_svf_route, &cmd_help,
};
const size_t cli_n_commands = sizeof cli_commands / sizeof *cli_commands;
