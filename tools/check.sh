#!/bin/sh
# What `make check` does: everything is built with warnings as errors and tested. The closing lines are those of stages.sh.
#
#   tools/check.sh BUILD
set -u
cd "$(dirname "$0")/.."
. tools/stages.sh

stage "tests" "$1" --werror all --no-suite long
echo "left out $(meson test -C "$1" --list --suite long 2>/dev/null | grep -c /) slow programs, sanitizers, valgrind and clang: make check-long"
closing
