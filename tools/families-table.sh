#!/bin/bash
# The table of docs/families.md: what is known to work with each family, tried on the models of tests/data/families.
#
#   tools/families-table.sh STELE            print the table
#   tools/families-table.sh STELE --write    put it into docs/families.md, between its two marks
#   tools/families-table.sh STELE --check    say which lines are not true (exit 1)
#
# Every "yes" is a run: logits equal to those of the Hugging Face folder (whose own are held against transformers by the test
# family-oracles), or a planted fault that rosetta sees beside a pair of sound files that pass.
set -u
stele=$(realpath "$1") root=$(realpath "$(dirname "$0")/..")
data=$root/tests/data/families page=$root/docs/families.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2

# Pretrained models that were run beside llama.cpp (docs/descriptions.md).
declare -A real=([llama]="SmolLM2 135M" [gemma3]="Gemma 3 270M")

# The first tokens after three, with their logits to five digits.
next() {
	"$stele" family check "$1" --tokens 3,4,5 --json 2> /dev/null | jq -c '[.next[] | .token, (.logit * 1e4 | round | . / 10 | round)]' 2> /dev/null
}
first() { "$stele" trace "$1" --tokens 3,4,5 --quiet 2> /dev/null | sed -n 's/^next token: \([0-9]*\).*/\1/p'; }
yes_if() { if "$@"; then echo yes; else echo -; fi; }
# What a file says, and not nothing.
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }

# One line: the family, its models.
row() {
	local f=$1 m want gguf=- back=- apr=- synth=- faults=- cache=yes n=0
	shift
	for m; do
		jq -e .one_pass "$data/$m/expected.json" > /dev/null 2>&1 || n=$((n + 1))
	done
	[ "$n" = $# ] || cache="yes; not where the rotation follows the length"
	m=$1
	rm -rf "w.$f" && mkdir "w.$f" && cd "w.$f" || return
	want=$(next "$data/$m")
	if "$stele" convert "$data/$m" x.gguf --quiet > /dev/null 2>&1 && same "$want" "$(next x.gguf)"; then
		gguf=yes
		"$stele" convert x.gguf back/ --quiet > /dev/null 2>&1 && back=$(yes_if same "$want" "$(next back/)")
	elif "$stele" family show "$f" | grep -q "^gguf "; then
		gguf="read"
	fi
	"$stele" convert "$data/$m" x.apr --quiet > /dev/null 2>&1 && apr=$(yes_if same "$(first "$data/$m")" "$(first x.apr)")
	local from=(--preset tiny)
	"$stele" synth --arch "$f" "${from[@]}" -o a/ --quiet > /dev/null 2>&1 || from=(--config "$data/$m/config.json")
	if [ -d a ] || "$stele" synth --arch "$f" "${from[@]}" -o a/ --quiet > /dev/null 2>&1; then
		synth=yes
		"$stele" synth --arch "$f" "${from[@]}" -o b/ --plant embedding.row_shift --quiet > /dev/null 2>&1
		"$stele" rosetta a/ a/ --tokens 1,2,3 > /dev/null 2>&1 && ! "$stele" rosetta a/ b/ --tokens 1,2,3 > /dev/null 2>&1 && faults=yes
		"$stele" rosetta a/ b/ --tokens 1,2,3 > /dev/null 2>&1
		[ $? = 1 ] || faults=-
	fi
	cd .. && rm -rf "w.$f"
	echo "| \`$f\` | $# | $gguf | $back | $apr | $synth | $faults | $cache | ${real[$f]:--} |"
}

table() {
	local f m
	declare -A models
	for m in $(cd "$data" && ls -d -- */ | tr -d / | LC_ALL=C sort); do
		f=$("$stele" family check "$data/$m" --json 2> /dev/null | jq -r 'select((.unused + .unread | length) == 0) | .family' 2> /dev/null)
		[ -n "$f" ] && models[$f]="${models[$f]:-} $m"
	done
	echo "| family | models held to logits of others | GGUF | GGUF to Hugging Face | APR | synth | planted fault seen | cache, in steps and chunks | real |"
	echo "|---|---|---|---|---|---|---|---|---|"
	export -f row next first yes_if same
	for f in $("$stele" family list); do
		# shellcheck disable=SC2086 # a list of words
		row "$f" ${models[$f]:-none}
	done
}

begin='<!-- table: tools/families-table.sh -->' end='<!-- end of table -->'
case ${2:-} in
--write)
	table > made
	awk -v b="$begin" -v e="$end" '$0 == b { print; while ((getline l < "made") > 0) print l; skip = 1 } $0 == e { skip = 0 } !skip' "$page" > new
	cat new > "$page"
	;;
--check)
	table > made
	awk -v b="$begin" -v e="$end" '$0 == e { on = 0 } on { print } $0 == b { on = 1 }' "$page" | diff - made
	;;
*) table ;;
esac
