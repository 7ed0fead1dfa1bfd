#!/bin/bash
# Run the command-line cases of one folder and print TAP.
#
#   tests/cli/run.sh STELE FOLDER
#
# A case is a shell script NAME.sh, run by `bash -eu` in an empty folder with `stele` first in PATH. Beside it
# may stand what is expected of it:
#
#   NAME.exit            the exit status (default: 0)
#   NAME.stdout.exact    standard output, byte for byte
#   NAME.stdout.glob     line by line as shell patterns; a line "..." stands for any number of lines
#   NAME.stderr.exact, NAME.stderr.glob    likewise
#
# Silence is the default: without such a file nothing may be printed. A case that exits with 77 is skipped (its line "skipped: REASON" on stderr says why);
# SHARED names the folder of the shared data set, or is empty.
set -u
stele=$(realpath "$1")
folder=$(realpath "$2")
shared=${STELE_SHARED:-$(realpath -q "$(dirname "$0")/../../../shared" || true)}
[ -d "$shared/data" ] && shared=$shared/data || shared=
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
ln -s "$stele" "$work/bin/stele"
LC_ALL=C.UTF-8

# Lines of the arrays `want` and `got` from given indices on.
lines_match() {
	local i=$1 j=$2
	while [ "$i" -lt ${#want[@]} ]; do
		if [ "${want[i]}" = ... ]; then
			while [ "$j" -le ${#got[@]} ]; do
				lines_match $((i + 1)) "$j" && return 0
				j=$((j + 1))
			done
			return 1
		fi
		# shellcheck disable=SC2053 # the right side is a pattern
		[ "$j" -lt ${#got[@]} ] && [[ ${got[j]} == ${want[i]} ]] || return 1
		i=$((i + 1)) j=$((j + 1))
	done
	[ "$j" -eq ${#got[@]} ]
}

# Explain on "# " lines how a stream differs from what its case expects; silent when it does not.
check_stream() {
	local base=$1 stream=$2 actual=$3
	if [ -f "$base.$stream.exact" ]; then
		cmp -s "$base.$stream.exact" "$actual" && return 0
		diff "$base.$stream.exact" "$actual" | sed "s/^/# $stream: /"
	elif [ -f "$base.$stream.glob" ]; then
		mapfile -t want < "$base.$stream.glob"
		mapfile -t got < "$actual"
		lines_match 0 0 && return 0
		echo "# $stream does not match $(basename "$base").$stream.glob:"
		sed "s/^/# $stream: /" "$actual"
	else
		[ -s "$actual" ] || return 0
		echo "# $stream should be silent:"
		sed "s/^/# $stream: /" "$actual"
	fi
	return 1
}

scripts=("$folder"/*.sh)
echo "1..${#scripts[@]}"
n=0 failed=0
for script in "${scripts[@]}"; do
	n=$((n + 1))
	base=${script%.sh}
	name=$(basename "$base")
	rm -rf "$work/cwd"
	mkdir "$work/cwd"
	status=0
	(cd "$work/cwd" && NO_COLOR= TERM=dumb SHARED=$shared CASES=$folder PATH="$work/bin:$PATH" \
		bash -eu "$script" < /dev/null > "$work/stdout" 2> "$work/stderr") || status=$?
	if [ "$status" = 77 ]; then
		why=$(sed -n 's/^skipped: //p' "$work/stderr" | tail -n 1)
		echo "ok $n - $name # SKIP ${why:-needs the shared data set}"
		continue
	fi
	wanted=0
	[ ! -f "$base.exit" ] || read -r wanted < "$base.exit"
	problems=$(
		[ "$status" = "$wanted" ] || echo "# exit status $status, expected $wanted"
		check_stream "$base" stdout "$work/stdout"
		check_stream "$base" stderr "$work/stderr"
	)
	if [ -z "$problems" ]; then
		echo "ok $n - $name"
	else
		printf '%s\n' "$problems"
		echo "not ok $n - $name"
		failed=1
	fi
done
exit $failed
