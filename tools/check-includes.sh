#!/bin/sh
# The dependency rule between the rooms of src/, read from their #include lines. TAP, one case per room.
#
#   tools/check-includes.sh SOURCE_ROOT
#
# A room sees itself and the rooms of lower rank. Public headers count as the room that they describe.
set -eu
cd "$1"
awk '
BEGIN {
	n = split("base=0 cause=1 json=1 family=1 dtype=1 format=2 kernel=2 linalg=3 token=3 graph=3 arch=4 trace=5 synth=6 compare=6 inspect=7 " \
	          "convert=7 judge=7 svf=8 turboquant=7 explain=8 report=9 cli=10", pair, " ")
	for (i = 1; i <= n; i++) {
		split(pair[i], kv, "=")
		rank[kv[1]] = kv[2]
		order[i] = kv[1]
	}
	rooms = n
	n = split("status=base pool=base cause=cause causes=cause dtype=dtype container=format token=token family=arch model=graph trace=trace inspect=inspect " \
	          "compare=compare diff=compare judge=judge explain=explain convert=convert synth=convert svf=svf synth=synth replay=turboquant stele=cli", pair, " ")
	for (i = 1; i <= n; i++) {
		split(pair[i], kv, "=")
		public[kv[1]] = kv[2]
	}
}
FNR == 1 {
	split(FILENAME, path, "/")
	room = path[2]
	files[room]++
	if (!(room in rank))
		fault[room] = fault[room] "# " FILENAME ": no rank for room " room " in tools/check-includes.sh\n"
}
/^[ \t]*#[ \t]*include[ \t]*<stele\// {
	name = $0
	sub(/.*<stele\//, "", name)
	sub(/\.(h|def)>.*/, "", name)
	if (!(name in public))
		complain("stele/" name ".h has no room in tools/check-includes.sh")
	else
		check(public[name], "<stele/" name ".h>")
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
	name = $0
	sub(/[^"]*"/, "", name)
	sub(/".*/, "", name)
	target = name
	sub(/\/.*/, "", target)
	if (name !~ /\//)
		complain("\"" name "\" names no room: include it as \"" room "/" name "\"")
	else if (!(target in rank))
		complain("\"" name "\" is in no room")
	else
		check(target, "\"" name "\"")
}
function complain(text) { fault[room] = fault[room] "# " FILENAME ":" FNR ": " text "\n" }
function check(target, text) {
	if (target != room && rank[target] >= rank[room])
		complain(text " belongs to " target ", which " room " must not see")
}
END {
	for (r in files)
		if (!(r in rank)) {
			order[++rooms] = r
			rank[r] = 99
		}
	print "1.." rooms
	for (i = 1; i <= rooms; i++) {
		r = order[i]
		printf "%s", fault[r]
		print (fault[r] ? "not ok " : "ok ") i " - " r " includes only what it may see"
		bad = bad || fault[r]
	}
	exit bad != 0
}' $(find src -name '*.[ch]' | sort)
