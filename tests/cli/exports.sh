#!/bin/sh
# libstele exports what the public headers declare, all of it, and nothing else.
#
#   tests/cli/exports.sh SOURCE_ROOT libstele.so
set -eu
want=$(mktemp) got=$(mktemp)
trap 'rm -f "$want" "$got"' EXIT
"$1"/tools/export-map.sh --names "$1"/include/stele/*.h | sort -u > "$want"
nm -D --defined-only "$2" | awk '{ print $3 }' | sed 's/@.*//' | sort -u > "$got"
status=0
echo 1..2
missing=$(comm -23 "$want" "$got")
extra=$(comm -13 "$want" "$got")
if [ -s "$want" ] && [ -z "$missing" ]; then
	echo "ok 1 - every declared function is there"
else
	printf 'not ok 1 - every declared function is there\n'
	printf '%s\n' "$missing" | sed 's/^/# not defined: /'
	status=1
fi
if [ -z "$extra" ]; then
	echo "ok 2 - nothing else is exported"
else
	echo "not ok 2 - nothing else is exported"
	printf '%s\n' "$extra" | sed 's/^/# exported: /'
	status=1
fi
exit $status
