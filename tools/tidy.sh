#!/bin/sh
# Let clang-tidy read every C file that is compiled; .clang-tidy says what for. Fails if it finds anything. About four
# minutes of one processor.
#
#   tools/tidy.sh BUILD     a folder set up with CC=clang: its compile_commands.json is read, it need not be built
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$1"
sed -n 's/^ *"file": "\(.*\)",*$/\1/p' compile_commands.json | grep -E '^(\.\./)*(.*/)?(src|fuzz|bench|tests|tools)/[^ ]*\.c$' | sort -u |
	xargs -P "$(nproc)" -n 8 clang-tidy -p . --quiet 2>/dev/null
