#!/bin/bash
# What commands print with --json, against docs/schema. TAP.
#
#   tests/report/schema.sh STELE CHECK_SCHEMA SCHEMAS
set -u
stele=$(realpath "$1") check=$(realpath "$2") schemas=$(realpath "$3")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
n=0 failed=0
result() { # result STATUS NAME
	n=$((n + 1))
	[ "$1" = 0 ] || { failed=1; printf 'not '; }
	echo "ok $n - $2"
}
# json SCHEMA NAME ARGUMENTS: what the command prints is what the schema describes.
json() {
	local schema=$1 name=$2
	shift 2
	"$stele" "$@" --json --quiet > out.json 2> /dev/null
	"$check" "$schemas/$schema.json" < out.json > problems
	local status=$?
	sed 's/^/# /' problems
	result $status "$name"
}
# says NAME FILTER: the document before has it.
says() { jq -e "$2" out.json > /dev/null; result $? "$1"; }
# broken NAME FILTER: with that change it is no such document any more.
broken() {
	jq "$2" out.json > broken.json
	! "$check" "$schemas/report.json" < broken.json > /dev/null
	result $? "$1"
}

"$stele" synth --arch qwen2 --preset tiny --type bf16 -o a.gguf > /dev/null
"$stele" synth --arch qwen2 --preset tiny --type q8_0 -o small.gguf > /dev/null
"$stele" synth --arch qwen2 --preset tiny --type bf16 --plant weight.transposed:1 -o fault.gguf > /dev/null
"$stele" synth --arch qwen2 --preset tiny --type bf16 --seed 2 -o other.gguf > /dev/null
"$stele" synth --arch llama --preset tiny --type bf16 -o llama.gguf > /dev/null
"$stele" synth --arch qwen2 --preset tiny --type bf16 --format hf -o b > /dev/null
jq 'del(.rope_theta) | .eos_token_id = 7 | .max_position_embeddings = 99' b/config.json > config.json && cp config.json b
rm -f b/generation_config.json
printf 'one\ntwo words\n' > texts
echo 'no model' > text.gguf

echo 1..17
json report "the same model" rosetta a.gguf a.gguf --prompt hello
says "no cause, no finding" '.verdict == "match" and .cause == null and .config == [] and .not_exercised == []'
broken "a member too many is seen" '.surprise = 1'
broken "a member too few is seen" 'del(.stages[0].local.floor)'
broken "another type is seen" '.stages[0].layer = "0"'
broken "an unknown word is seen" '.verdict = "fine"'
json report "another stored type, several prompts, layers by cost" rosetta small.gguf a.gguf --prompts texts --layer-costs
says "agreement has figures and tokens" '.agreement | .positions > 3 and .kl_mean > 0 and (.changed + .positions_of_first | all(.token.text != null and .rank_in_a >= 1)) and (.last.a | length) == 5'
says "what a stage adds and what it inherited are apart" '[.stages[] | select(.stage == "ffn_out" and .layer == 1)][0] | .inherited_rel_l2 > 0 and .local.rel_l2 > 0 and .local.rel_l2 < .rel_l2'
json report "a fault, evaluated to the end" rosetta fault.gguf a.gguf --tokens 1,2,3 --keep-going --threshold 0.001
json report "two models" rosetta other.gguf a.gguf --tokens 1,2,3
json report "keys that differ" rosetta b a.gguf --prompt hello
says "a default is named with its key" '.config[] | select(.key == "rope_theta") | .matters and .a == "10000" and .origin_a == {"key": "rope_theta", "default": true} and (.origin_b | .default | not) and .origin_b.key == "qwen2.rope.freq_base"'
says "what is not exercised has values and origins" '.not_exercised[] | select(.key == "eos") | .a == "7" and .origin_a.key == "eos_token_id" and .origin_b.key == "tokenizer.ggml.eos_token_id"'
json report "two families" rosetta llama.gguf a.gguf --prompt hello
json error "no model" rosetta text.gguf a.gguf --prompt hello
json error "no such option" rosetta a.gguf a.gguf --prompt hello --nonsense
[ $n = 17 ] || failed=1
exit $failed
