# stages.sh - sourced by check.sh and check-long.sh: builds and their tests one after the other, and one closing line.
# The last line is "N passed, N failed", and ", N skipped" where cases were; the lines before it say why. A stage that did
# not build counts as one failure.
#
# CLOSING, when set in the environment, names a file that gets the last line too.
logs=
broken=0
ran= # anything but tests that was done

did_not() {
	echo "FAILED  $1"
	broken=$((broken + 1))
}

# stage NAME BUILD "SETUP OPTIONS" "TARGETS" [ARGUMENT OF meson test...]
#
# Builds the targets, or, where there are none, just what the tests use. A folder that meson left half made has no
# build.ninja and is set up again.
stage() {
	name=$1 build=$2 options=$3 targets=$4
	shift 4
	echo "== $name"
	if [ ! -f "$build/build.ninja" ] && ! meson setup $options "$build"; then
		did_not "$name: the configuration"
		return
	fi
	if [ -n "$targets" ] && ! ninja -C "$build" $targets; then
		did_not "$name: the build"
		return
	fi
	rm -f "$build"/meson-logs/testlog*.json
	meson test -C "$build" ${targets:+--no-rebuild} --print-errorlogs --logbase testlog "$@"
	[ $? != 125 ] || did_not "$name: the build" # meson's word for it
	for log in "$build"/meson-logs/testlog*.json; do # a setup's name is part of the file's
		[ ! -f "$log" ] || logs="$logs $log"
	done
}

# The closing line over all stages; fails if anything did.
closing() {
	counted=$(awk -v other="$ran" -f tools/count-tests.awk ${logs:-/dev/null})
	status=$?
	printf '%s\n' "$counted" | sed '$d'
	last=$(printf '%s\n' "$counted" | tail -n 1 | awk -v broken="$broken" '{ $3 += broken; print }')
	printf '%s\n' "$last" | tee ${CLOSING:+"$CLOSING"}
	[ "$status" = 0 ] && [ "$broken" = 0 ]
}
