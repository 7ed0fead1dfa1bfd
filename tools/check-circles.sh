#!/bin/sh
# Files of one room do not call each other in a loop: read from which object file defines a symbol and which use it.
# TAP, one case per archive.
#
#   tools/check-circles.sh libROOM.a...
set -eu
echo "1..$#"
for archive in "$@"; do
	echo "archive $archive"
	nm -A "$archive" 2>/dev/null
done | awk '
BEGIN { pending = " none " }
function finish(   e, pair, via, from, to, shown, late) {
	if (room == "")
		return
	for (e in use) {
		split(e, pair, SUBSEP)
		if ((pair[2] in home) && home[pair[2]] != pair[1])
			edge[pair[1], home[pair[2]]] = pair[2]
	}
	# reach: what a file comes to, over any number of steps
	for (e in edge)
		reach[e] = 1
	for (via in member)
		for (from in member)
			if ((from, via) in reach)
				for (to in member)
					if ((via, to) in reach)
						reach[from, to] = 1
	shown = ""
	for (e in edge) {
		split(e, pair, SUBSEP)
		if ((pair[2], pair[1]) in reach)
			shown = shown "# " pair[1] " uses " edge[e] " of " pair[2] "\n"
	}
	late = shown != "" && index(pending, " " room " ")
	printf "%s", shown
	print (shown ? "not ok " : "ok ") ++n " - the files of " room " call each other in one direction" (late ? " # TODO" : "")
	bad = bad || (shown && !late)
	split("", use)
	split("", home)
	split("", edge)
	split("", reach)
	split("", member)
}
/^archive / {
	finish()
	room = $2
	sub(/.*lib/, "", room)
	sub(/\.a$/, "", room)
	next
}
{
	# ARCHIVE:MEMBER:ADDRESS TYPE NAME; a thin archive has a path for its member
	at = match($0, /\.o:/)
	if (!at)
		next
	file = substr($0, 1, at - 1)
	sub(/.*[:\/]/, "", file)
	member[file] = 1
	n_words = split(substr($0, at + 3), word, " ")
	type = word[n_words - 1]
	if (type == "U")
		use[file, word[n_words]] = 1
	else if (type ~ /^[A-Z]$/)
		home[word[n_words]] = file
}
END {
	finish()
	exit bad != 0
}'
