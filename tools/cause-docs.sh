#!/bin/sh
# What docs/ says of the causes, against their table. TAP, one case per file.
#
#   tools/cause-docs.sh LIST_CAUSES SOURCE_ROOT [--write]      --write: bring the files up to date instead
#
# In docs/causes.md everything behind the line "<!-- made from ..." is made.
set -eu
list=$1 docs=$2/docs write=${3-}
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
sed '/^<!-- made from /q' "$docs/causes.md" > "$new/causes.md"
"$list" markdown >> "$new/causes.md"
"$list" json > "$new/causes.json"
if [ "$write" = --write ]; then
	mkdir -p "$docs/schema"
	cp "$new/causes.md" "$docs/causes.md"
	cp "$new/causes.json" "$docs/schema/causes.json"
	exit 0
fi
bad=0
check() {
	if ! cmp -s "$1" "$2"; then
		diff -u "$2" "$1" | head -n 20 | sed 's/^/# /' || true
		echo "# ninja cause-docs brings it up to date"
		printf 'not '
		bad=1
	fi
	echo "ok $3 - $4 says what the table of causes says"
}
echo 1..2
check "$new/causes.md" "$docs/causes.md" 1 docs/causes.md
check "$new/causes.json" "$docs/schema/causes.json" 2 docs/schema/causes.json
exit $bad
