#!/bin/sh
# The linker's version script for libstele: the functions and tables that the public headers declare,
# and nothing else.
#
#   tools/export-map.sh HEADER... > libstele.map      (--names: only the names, one per line)
set -eu
names=0
if [ "$1" = --names ]; then
	names=1
	shift
fi
cat "$@" | awk -v names="$names" '
# Comments out, declarations on one line each.
{ text = text $0 "\n" }
END {
	out = ""
	while ((i = index(text, "/*"))) {
		out = out substr(text, 1, i - 1)
		text = substr(text, i + 2)
		text = substr(text, index(text, "*/") + 2)
	}
	text = out text
	gsub(/#[^\n]*\n/, "\n", text)
	gsub(/\n/, " ", text)
	n = split(text, part, ";")
	if (!names)
		print "{\n\tglobal:"
	for (i = 1; i <= n; i++) {
		s = part[i]
		if (s ~ /static inline/)
			continue
		if (s ~ /extern /) {
			sub(/\[.*/, "", s)
			match(s, /st_[a-z0-9_]+[ ]*$/)
		} else if (s ~ /\{/ || !match(s, /st_[a-z0-9_]+ *\(/)) {
			continue
		}
		name = substr(s, RSTART, RLENGTH)
		gsub(/[ (]/, "", name)
		print names ? name : "\t\t" name ";"
	}
	if (!names)
		print "\tlocal: *;\n};"
}'
