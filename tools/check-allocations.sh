#!/bin/sh
# No product stands in an argument of an allocation: it would wrap before anybody looks. Factors are arguments of their
# own (st_alloc_array2), and those are checked. What sizeof says is a constant and may stand anywhere. malloc and its kin
# are called in base alone. TAP, one case per room.
#
#   tools/check-allocations.sh SOURCE_ROOT
set -eu
cd "$1"
for room in src/*/; do
	room=$(basename "$room")
	find "src/$room" -name '*.[ch]' | sort | tr '\n' ' ' | sed "s/^/$room /"
	echo
done | awk '
BEGIN {
	pending = " none "
	split("malloc calloc realloc reallocarray aligned_alloc posix_memalign st_alloc_array st_alloc_array2 st_alloc_array3 " \
	      "st_alloc_zeroed st_strndup st_grow st_arena_alloc st_arena_alloc2 st_arena_strndup st_container_table", list, " ")
	for (i in list)
		allocates[list[i]] = 1
	split("malloc calloc realloc reallocarray aligned_alloc posix_memalign strdup strndup asprintf vasprintf", list, " ")
	for (i in list)
		plain[list[i]] = 1
}
# Comments, strings and characters become blanks, so that only code is left, in its lines.
function code_of(path,   text, line, out, i, c, two, state) {
	out = ""
	state = ""
	while ((getline line < path) > 0) {
		text = ""
		for (i = 1; i <= length(line); i++) {
			c = substr(line, i, 1)
			two = substr(line, i, 2)
			if (state == "/*") {
				if (two == "*/") { state = ""; i++ }
			} else if (state != "") {
				if (c == "\\") i++
				else if (c == state) state = ""
			} else if (two == "/*") {
				state = "/*"; i++; text = text " "
			} else if (two == "//") {
				break
			} else if (c == "\"" || c == "\047") {
				state = c; text = text " 0 "
			} else {
				text = text c
			}
		}
		if (state != "/*")
			state = ""
		out = out text "\n"
	}
	close(path)
	return out
}
# The text from the opening parenthesis at `at` to its match.
function argument_list(s, at,   depth, i, c) {
	depth = 0
	for (i = at; i <= length(s); i++) {
		c = substr(s, i, 1)
		if (c == "(") depth++
		if (c == ")" && --depth == 0)
			return substr(s, at + 1, i - at - 1)
	}
	return ""
}
# sizeof and its operand: a parenthesis, or a name with what follows it.
function without_sizeof(s,   at, rest, arg) {
	while (match(s, /(^|[^A-Za-z0-9_])sizeof[ \t\n]*/)) {
		at = RSTART + RLENGTH
		rest = substr(s, at)
		if (substr(rest, 1, 1) == "(") {
			arg = argument_list(rest, 1)
			rest = substr(rest, length(arg) + 3)
		} else {
			sub(/^[*&]*[A-Za-z_][A-Za-z0-9_]*((->|\.)[A-Za-z0-9_]+|\[[^]]*\])*/, "", rest)
		}
		s = substr(s, 1, RSTART) " 1 " rest
	}
	return s
}
function has_product(s,   i, before, after) {
	for (i = 1; i <= length(s); i++) {
		if (substr(s, i, 1) != "*")
			continue
		before = substr(s, 1, i - 1)
		after = substr(s, i + 1)
		gsub(/[ \t\n]+$/, "", before)
		gsub(/^[ \t\n]+/, "", after)
		if (after ~ /^[*)]/ || before ~ /\*$/) # a pointer type
			continue
		if (before ~ /[A-Za-z0-9_\])]$/ && before !~ /\([a-z_0-9 ]*\)$/)
			return 1
		if (before ~ /\([a-z_0-9 ]*\)$/ && before ~ /[A-Za-z0-9_][ \t\n]*\([a-z_0-9 ]*\)$/) # a call, no cast
			return 1
	}
	return 0
}
{
	room = $1
	faults = ""
	for (f = 2; f <= NF; f++) {
		code = code_of($f)
		line = 1
		while (match(code, /[A-Za-z_][A-Za-z0-9_]*[ \t\n]*\(/)) {
			name = substr(code, RSTART, RLENGTH)
			sub(/[ \t\n]*\($/, "", name)
			head = substr(code, 1, RSTART)
			line += gsub(/\n/, "\n", head)
			end = RSTART + RLENGTH
			if ((name in plain) && room != "base")
				faults = faults "# " $f ":" line ": " name ", which belongs to base/mem.h\n"
			if (name in allocates) {
				args = argument_list(substr(code, end - 1), 1)
				declared = args ~ /^[ \t\n]*(const |struct |void |char |uint64_t |size_t )/
				if (!declared && has_product(without_sizeof(args))) {
					shown = args
					gsub(/[ \t\n]+/, " ", shown)
					faults = faults "# " $f ":" line ": " name "(" shown ")\n"
				}
			}
			inside = substr(code, RSTART + 1, end - RSTART - 1)
			line += gsub(/\n/, "\n", inside)
			code = substr(code, end)
		}
	}
	printf "%s", faults
	late = faults && index(pending, " " room " ")
	print (faults ? "not ok " : "ok ") ++n " - " room " allocates by factors" (late ? " # TODO" : "")
	bad = bad || (faults && !late)
}
END {
	print "1.." n
	exit bad != 0
}'
