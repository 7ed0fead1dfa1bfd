#!/bin/sh
# taps/stele_tap.h as an engine uses it: header.c, and engine.c, whose traces stele judges. TAP.
#
#   tests/taps/engine.sh STELE SOURCE
#
# Built by the compiler alone, as C99 and C++: the header owes the project's build nothing.
set -u
stele=$1 source=$2
command -v "${CC:-cc}" > /dev/null || {
	echo "1..0 # SKIP no C compiler"
	exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0 bad=0
check() { # what, status, text
	n=$((n + 1))
	if [ "$2" = 0 ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		printf '%s\n' "$3" | sed 's/^/# /'
		bad=1
	fi
}
c99="${CC:-cc} -O1 -std=c99 -pedantic -Wall -Wextra -Wshadow -Werror -I $source/taps"
out=$($c99 "$source/tests/taps/engine.c" -o "$work/engine" -lm -pthread 2>&1)
check "an engine in C99 compiles" $? "$out"
out=$($c99 "$source/tests/taps/header.c" -o "$work/header" -pthread 2>&1)
check "header.c compiles" $? "$out"
if command -v "${CXX:-c++}" > /dev/null; then
	printf '#define STELE_TAP_IMPLEMENTATION\n#include "stele_tap.h"\nint main() { return 0; }\n' > "$work/h.cpp"
	out=$("${CXX:-c++}" -std=c++11 -pedantic -Wall -Wextra -Werror -I "$source/taps" "$work/h.cpp" -o "$work/h" -pthread 2>&1)
	check "the header is C++" $? "$out"
fi
out=$("$work/header" "$work" 2>&1)
check "header.c: $(printf '%s\n' "$out" | grep -c '^ok') checks" $? "$out"

model=$source/tests/data/families/mistral
judged() { # fault, exit status, text
	out=$("$work/engine" "$model" "$work/t.safetensors" $1 2>&1; "$stele" explain "$work/t.safetensors" --model "$model" 2>&1)
	status=$?
	[ $status = "$2" ] && printf '%s\n' "$out" | grep -q -- "$3"
	check "the engine${1:+ with a mistake ($1)}: $3" $? "$out"
}
judged "" 0 "verdict match"
judged eps 1 "norm.eps (confirmed): attn_norm of layer 0"
judged pairs 1 "rope.style .*: q_post_rope of layer 0"
judged scale 1 "attn.scale (confirmed): attn_scores of layer 0"

# A disk that is full: the engine runs to its end and says so in one line, and leaves nothing behind.
mkdir "$work/full"
out=$(trap '' XFSZ; ulimit -f 4; "$work/engine" "$model" "$work/full/t.safetensors" 2>&1)
status=$?
[ $status = 3 ] && [ "$(printf '%s\n' "$out" | wc -l)" = 1 ] && printf '%s\n' "$out" | grep -q "File too large" && [ -z "$(ls -A "$work/full")" ]
check "a full disk costs the trace alone" $? "exit status $status: $out; $(ls -A "$work/full")"
[ -z "$(find "$work" -name '*.part')" ]
check "no file of work is left" $? "$(ls "$work")"
echo "1..$n"
exit $bad
