#!/bin/sh
# Everything that `make check` leaves out: every test under AddressSanitizer and UndefinedBehaviorSanitizer, the
# unit tests under valgrind, those of threads under ThreadSanitizer, everything built by clang, the fuzz corpora, and the slow tests.
# The last line is "N passed, N failed" over all of them.
set -u
cd "$(dirname "$0")/.."
logs=
broken=0

# stage NAME BUILD "SETUP OPTIONS" [ARGUMENT OF meson test...]
stage() {
	name=$1 build=$2 options=$3
	shift 3
	echo "== $name"
	if [ ! -f "$build/build.ninja" ] && ! meson setup $options "$build"; then
		echo "FAILED  $name: the configuration"
		broken=$((broken + 1))
		return
	fi
	if ! ninja -C "$build" all meson-test-prereq; then
		echo "FAILED  $name: the build"
		broken=$((broken + 1))
		return
	fi
	rm -f "$build"/meson-logs/testlog*.json
	meson test -C "$build" --no-rebuild --print-errorlogs --logbase testlog "$@"
	logs="$logs $(ls "$build"/meson-logs/testlog*.json)" # a setup's name is part of the file's
}

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ASAN_OPTIONS=detect_stack_use_after_return=1
stage "sanitizers" build-asan "-Db_sanitize=address,undefined -Dbuildtype=debugoptimized" --timeout-multiplier 10
stage "valgrind" build-valgrind "-Dbuildtype=debugoptimized -Dc_args=-DST_NO_JIT" --setup valgrind \
	--no-suite cli --no-suite long --no-suite whole --no-suite svf --no-suite cuda
# Every loop is cut small, so that small models run on many threads too. OpenBLAS brings threads of its own (svf).
stage "threads" build-threads "-Db_sanitize=thread -Dbuildtype=debugoptimized -Dc_args=-DST_PIECE_OPERATIONS=64" \
	--timeout-multiplier 10 pool kernel-matmul kernel-rows graph-run compare trace-run synth robust-pairs \
	turboquant-attention turboquant-quant
CC=clang stage "clang" build-clang "--werror" --no-suite long

# A stage that did not build counts as one failure.
closing=$(awk -f tools/count-tests.awk $logs)
status=$?
printf '%s\n' "$closing" | sed '$d'
printf '%s\n' "$closing" | tail -n 1 | awk -v broken="$broken" '{ $3 += broken; print }'
[ "$status" = 0 ] && [ "$broken" = 0 ]
