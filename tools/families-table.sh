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

# The first model of these has something that GGUF does not say; changed so it has not.
declare -A sayable=(
	[cohere2]='.layer_types = ["sliding_attention", "sliding_attention"]'
	[deepseek]='.rope_parameters.mscale = .rope_parameters.mscale_all_dim'
	[dots1]='del(.sliding_window, .layer_types)'
	[exaone4]='.layer_types = ["sliding_attention", "sliding_attention"]'
	[gemma2]='.query_pre_attn_scalar = .head_dim'
	[gemma3]='.query_pre_attn_scalar = .head_dim | .layer_types = [.layer_types[] | "sliding_attention"]'
	[gpt_oss]='.swiglu_limit = 7 | del(.rope_parameters.truncate)'
	[hunyuan_v1_dense]='.rope_parameters = {rope_type: "default", rope_theta: 10000}'
	[llama4]='.attention_chunk_size = 8192 | .floor_scale = 8192'
	[minicpm3]='.scale_emb = 12 | .scale_depth = 1.4 | .dim_model_base = 256'
	[mpt]='del(.attn_config.softmax_scale)'
	[olmo3]='.layer_types = ["sliding_attention", "sliding_attention"]'
	[qwen2]='.use_sliding_window = false | del(.sliding_window, .layer_types)'
	[smollm3]='.no_rope_layers = [1, 1, 1]'
)

# The first tokens after three, with their logits to five digits.
next() {
	"$stele" family check "$1" --tokens 3,4,5 --json 2> /dev/null | jq -c '[.next[] | .token, (.logit * 1e4 | round | . / 10 | round)]' 2> /dev/null
}
first() { "$stele" trace "$1" --tokens 3,4,5 --quiet 2> /dev/null | sed -n 's/^next token: \([0-9]*\).*/\1/p'; }
yes_if() { if "$@"; then echo yes; else echo -; fi; }
# What a file says, and not nothing.
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }

# A model into GGUF and back, in `gguf` and `back`; false where it does not go into GGUF.
carried() {
	local want
	want=$(next "$1")
	"$stele" convert "$1" x.gguf --quiet > /dev/null 2>&1 && same "$want" "$(next x.gguf)" || return 1
	gguf=yes
	back=-
	"$stele" convert x.gguf back/ --quiet > /dev/null 2>&1 && back=$(yes_if same "$want" "$(next back/)")
	return 0
}

# One line: the family, its models.
row() {
	local f=$1 m gguf=- back=- apr=- synth=- faults=- cache=yes n=0
	shift
	for m; do
		jq -e .one_pass "$data/$m/expected.json" > /dev/null 2>&1 || n=$((n + 1))
	done
	[ "$n" = $# ] || cache="yes; not where the rotation follows the length"
	m=$1
	rm -rf "w.$f" && mkdir "w.$f" && cd "w.$f" || return
	if carried "$data/$m"; then
		:
	elif "$stele" family show "$f" | grep -q "^gguf "; then
		gguf="read"
		# Another model of the family: the first one without what GGUF does not say, or one that synth makes.
		if [ -n "${sayable[$f]:-}" ]; then
			cp -r "$data/$m" v && jq "${sayable[$f]}" "$data/$m/config.json" > v/config.json
		else
			"$stele" synth --arch "$f" --preset tiny -o v/ --quiet > /dev/null 2>&1
		fi
		[ ! -d v ] || { rm -rf x.gguf back && carried v/; }
		[ "$gguf" = read ] || gguf="$gguf (1)"
		[ "$back" = - ] || [ "$gguf" = yes ] || back="$back (1)"
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
