#!/bin/sh
# Run a test program so that every reader of TAP understands its output: skipped cases, which cmocka 1.1 prints as
# "not ok N # SKIP", count as skipped, and remarks become comments.
#
#   tests/tap.sh PROGRAM [ARGUMENT...]
# Threads that wait without spinning: tests run side by side, with more threads than cores.
export OMP_WAIT_POLICY=passive
exec 4>&1
status=$({ { "$@" 3>&- 4>&-; echo $? >&3; } | sed -u \
	-e 's/^not ok \([0-9]* # SKIP\)/ok \1/' \
	-e '/^\(ok\|not ok\|[0-9]*\.\.[0-9]\|#\|TAP version\|Bail out!\|$\)/!s/^/# /' >&4; } 3>&1)
exit "$status"
