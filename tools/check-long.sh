#!/bin/sh
# Everything that `make check` leaves out: every quick test, and every damaged file, under AddressSanitizer and
# UndefinedBehaviorSanitizer; the unit tests under valgrind; those of threads under ThreadSanitizer; everything built by
# clang, with the slow tests, and read by clang-tidy. The closing lines are those of stages.sh.
#
#   tools/check-long.sh [STAGE...]     (default: all, in this order: tidy sanitizers damaged valgrind threads clang)
set -u
cd "$(dirname "$0")/.."
. tools/stages.sh

wanted() { [ -z "$only" ] || case " $only " in *" $1 "*) ;; *) false ;; esac; }
only=$*

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# Not detect_stack_use_after_return: gcc 12 then lays variables of 64 bytes (AVX-512) where their loads and stores fail.
everything="all meson-test-prereq"

# What .clang-tidy says, of every C file. The folder is that of the last stage; nothing in it needs to be built.
tidy() {
	echo "== tidy"
	ran=tidy
	if ! command -v clang-tidy >/dev/null; then
		echo "left out clang-tidy, which is not installed"
	elif [ ! -f build-clang/build.ninja ] && ! CC=clang meson setup --werror build-clang; then
		did_not "tidy: the configuration"
	elif ! tools/tidy.sh build-clang; then
		did_not "tidy: findings"
	fi
}

! wanted tidy || tidy
# The products of cases ('long' without 'damaged') compute for an hour and open what the quick suite opens.
asan="-Db_sanitize=address,undefined -Dbuildtype=debugoptimized"
! wanted sanitizers || stage "sanitizers" build-asan "$asan" "$everything" --timeout-multiplier 10 --no-suite long
! wanted damaged || stage "sanitizers, damaged files" build-asan "$asan" "$everything" --timeout-multiplier 10 --suite damaged
! wanted valgrind || stage "valgrind" build-valgrind "-Dbuildtype=debugoptimized -Dc_args=-DST_NO_JIT" "$everything" \
	--setup valgrind --no-suite cli --no-suite source --no-suite long --no-suite whole --no-suite svf --no-suite cuda
# Every loop is cut small, so that small models run on many threads too. OpenBLAS brings threads of its own (svf).
! wanted threads || stage "threads" build-threads \
	"-Db_sanitize=thread -Dbuildtype=debugoptimized -Dc_args=-DST_PIECE_OPERATIONS=64" "" \
	--timeout-multiplier 10 pool kernel-matmul kernel-rows graph-run compare trace-run synth robust-pairs \
	turboquant-attention turboquant-quant
! wanted clang || CC=clang stage "clang" build-clang "--werror" "$everything"
closing
