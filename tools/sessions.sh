#!/bin/bash
# The sessions that documents show, run again. TAP, one case per document.
#
#   tools/sessions.sh STELE SOURCE_ROOT [--write]      --write: bring the documents up to date instead
#
# A session is a block that begins with "```session". Its lines "$ COMMAND" are run one after the other in a folder that
# all sessions of the document share, 80 columns wide; what they print stands below them. Seconds may differ, and
# are written as 0.20 s, so that no two runs differ.
set -u
stele=$(realpath "$1") root=$(realpath "$2") write=${3-}
documents="README.md docs/agreement.md docs/porting.md docs/explain.md"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
ln -s "$stele" "$work/bin/stele"
export LC_ALL=C.UTF-8 NO_COLOR=1 TERM=dumb COLUMNS=80 PATH="$work/bin:$PATH"

# The document on standard input, with what its commands print now.
rerun() {
	local line inside= status=0
	while IFS= read -r line; do
		case $inside$line in
		'```session') inside=@ ;;
		'@```') inside= ;;
		'@$ '*)
			printf '%s\n' "$line"
			bash -c "(exit $status); ${line#$ }" < /dev/null 2>&1
			status=$?
			continue
			;;
		@*) continue ;;
		esac
		printf '%s\n' "$line"
	done
}

seconds() { sed -E 's/[0-9.]+ s$/N s/' "$1"; }

set -- $documents
[ "$write" ] || echo "1..$#"
bad=0 n=0
for name; do
	n=$((n + 1))
	rm -rf "$work/run"
	mkdir "$work/run"
	(cd "$work/run" && rerun < "$root/$name" > "$work/new")
	if [ "$write" ]; then
		sed -E 's/; [0-9.]+ s$/; 0.20 s/' "$work/new" > "$root/$name"
	elif [ "$(seconds "$work/new")" = "$(seconds "$root/$name")" ]; then
		echo "ok $n - $name shows what its commands print"
	else
		diff -u "$root/$name" "$work/new" | head -n 40 | sed 's/^/# /'
		echo "# ninja sessions brings it up to date"
		echo "not ok $n - $name shows what its commands print"
		bad=1
	fi
done
exit $bad
