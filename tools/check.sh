#!/bin/sh
# Set up a build folder if need be, build, and run its tests. The last line is "N passed, N failed", and ", N skipped"
# where cases were; the lines before it say why.
#
#   tools/check.sh BUILD "SETUP OPTIONS" [ARGUMENT OF meson test...]
#
# CLOSING, when set in the environment, names a file that gets the last line too.
set -u
build=$1 options=$2
shift 2
log=$build/meson-logs/testlog.json

# What does not build has passed no test.
give_up() {
	echo "FAILED  $1"
	echo "0 passed, 1 failed" | tee ${CLOSING:+"$CLOSING"}
	exit 1
}
# A folder that meson left half made has no build.ninja and is set up again.
if [ ! -f "$build/build.ninja" ]; then
	meson setup $options "$build" || give_up "the configuration"
fi
ninja -C "$build" || give_up "the build"
rm -f "$log"
meson test -C "$build" --no-rebuild --print-errorlogs --logbase testlog "$@"
[ -f "$log" ] || : > "$log"
case " $* " in
*" --no-suite long "*)
	echo "left out $(meson test -C "$build" --list --suite long 2>/dev/null | grep -c /) slow programs, sanitizers, valgrind and clang: make check-long"
	;;
esac
awk -f "$(dirname "$0")/count-tests.awk" -v closing="${CLOSING:-}" "$log"
