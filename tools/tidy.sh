#!/bin/sh
# Let clang-tidy read the C files of the library, the command, the fuzz targets, the benchmarks and the tools; .clang-tidy
# says what for. Fails if it finds anything. Two and a half minutes of one processor.
#
#   tools/tidy.sh BUILD     a folder set up with CC=clang: its compile_commands.json is read, it need not be built
set -eu
cd "$(dirname "$0")/.."
cd "$1"
ninja build.ninja >&2 # lists of files may have changed
# Not what the build writes, whose names do not lead out of the folder.
sed -n 's/^ *"file": "\(.*\)",*$/\1/p' compile_commands.json | grep -E '^(\.\./|/).*(src|fuzz|bench|tools)/[^ ]*\.c$' |
	sort -u | xargs -P "$(nproc)" -n 8 clang-tidy -p . --quiet 2>/dev/null
