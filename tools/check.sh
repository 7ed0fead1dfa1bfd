#!/bin/sh
# What `make check` does: everything is built with warnings as errors and tested; then what opens files is built again by
# clang with AddressSanitizer and UndefinedBehaviorSanitizer, and tested. The closing lines are those of stages.sh.
#
#   tools/check.sh BUILD
set -u
cd "$(dirname "$0")/.."
. tools/stages.sh

stage "tests" "$1" --werror all --no-suite long
# Programs that compute much and open little ('whole', 'svf') and checks of the source ('source') would find nothing new;
# the command ('cli') takes its time to start under sanitizers.
# A loop that is not made a vector (-Wno-pass-failed) is no fault where little is optimized.
export CC=clang CFLAGS="-gline-tables-only -Wno-pass-failed"
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
stage "clang, with sanitizers" "$1-clang" \
	"--werror -Db_sanitize=address,undefined -Db_lundef=false -Ddebug=false -Doptimization=1 -Dcuda=disabled" "" \
	--timeout-multiplier 5 --no-suite long --no-suite whole --no-suite svf --no-suite cuda --no-suite cli --no-suite source
echo "left out $(meson test -C "$1" --list --suite long 2>/dev/null | grep -c /) slow programs, valgrind, ThreadSanitizer, clang-tidy, and sanitizers over every quick test: make check-long"
closing
