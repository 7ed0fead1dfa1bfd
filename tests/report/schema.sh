#!/bin/bash
# What commands print with --json, against docs/schema. TAP.
#
#   tests/report/schema.sh STELE CHECK_SCHEMA SCHEMAS
set -u
stele=$(realpath "$1") check=$(realpath "$2") schemas=$(realpath "$3")
here=$(realpath "$(dirname "$0")")
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
	last=$schema
	"$stele" "$@" --json > out.json 2> /dev/null
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
	! "$check" "$schemas/$last.json" < broken.json > /dev/null
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

echo 1..56
missing=$(grep -rhoE '"stele\.[a-z-]+/1"' "$here/../../src" | tr -d '"' | sort -u | while read -r name; do
	jq -e --arg name "$name" '.title == $name' "$schemas"/*.json 2> /dev/null | grep -q true || echo "# not described: $name"
done)
[ -z "$missing" ] || echo "$missing"
[ -z "$missing" ]
result $? "every document has a schema"
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

json trace "stages, files, a step" trace a.gguf --tokens 1,2,3 --steps 1 --save-tensor all --bundle a.safetensors --save-tensor-dir tree
says "one file of each" '.tree == "tree" and .bundle == "a.safetensors" and (.greedy | length) == 1'
broken "a stage without its layer is seen" 'del(.stages[1].layer)'
json trace "a prompt" trace a.gguf --prompt hello --stages lm_head
json plan "what a run takes" trace a.gguf --tokens 1,2,3 --plan
json tokens "a text" tokenize a.gguf hello
json tokens "ids" tokenize a.gguf --decode 1,2,3
json families "families" family list
json family-check "a family bound and run" family check a.gguf --tokens 1,2,3
"$stele" trace small.gguf --tokens 1,2,3 --save-tensor all --bundle small.safetensors > /dev/null 2> /dev/null
json trace-diff "the same trace" diff a.safetensors tree
says "every stage is as expected" '.verdict == "match" and .coverage.compared > 50 and (.stages | all(.status == "expected"))'
json trace-diff "two traces" diff small.safetensors a.safetensors
broken "another word is seen" '.stages[0].status = "fine"'
json stage-diff "one stage" diff small.safetensors:lm_head a.safetensors:lm_head
says "largest differences" '.top_diffs | length == 10'
json model-diff "two models of other types" diff small.gguf a.gguf
json model-diff "two models, keys and weights apart" diff fault.gguf b
says "a cause" '[.weights[].code] | index("weight.transposed") != null'
mkdir alone
"$stele" convert a.gguf alone/a.safetensors > /dev/null 2> /dev/null && "$stele" convert small.gguf alone/b.safetensors > /dev/null 2> /dev/null
json tensor-diff "two sets of tensors" diff alone/a.safetensors alone/b.safetensors
json convert "a conversion" convert a.gguf a.apr --type AprQ4
json convert "one with notes" convert small.gguf notes.safetensors
says "notes" '(.notes | length) > 0 and .tensors.encoded > 0'
json inspect "a model, a trace, a tree, no file at all" inspect a.gguf a.safetensors tree text.gguf alone/a.safetensors
says "each has its place" '[.files[] | .format // .code] | length == 5'
json inspect "without statistics" inspect a.gguf --no-stats
json metadata "keys" inspect a.gguf b --metadata
# The session of the svf tests leaves an export and its replay.
(mkdir svf bin && ln -s "$stele" bin/stele && cd svf && PATH=$work/bin:$PATH bash -eu "$here/../svf/cli/session.sh" > /dev/null 2> /dev/null)
json svf-compare "an adaptation and its replay" svf compare svf/python.json svf/replay.json
json replay "a capture made" replay --make-manifest --kind d128 --out capture
json replay "one step" replay --manifest capture/manifest.json --canary in-range --out step
says "a status for people and one for programs" '.exit_status == "ok" and .exit == 0'
json replay "an output explained" replay --manifest capture/manifest.json --against step_sdpa_out.bin
json replay "codebooks" replay --codebook-lint
"$stele" trace a.gguf --prompt hello --save-tensor all --bundle sound.st > /dev/null 2>&1
"$stele" trace fault.gguf --prompt hello --save-tensor all --bundle wrong.st > /dev/null 2>&1
json explain "a sound trace explained" explain sound.st --model a.gguf
says "no cause" '.verdict == "match" and .cause == null and .findings == []'
json explain "a faulty trace explained" explain wrong.st --model a.gguf --other-file
says "its cause" '.cause.code == "weight.transposed" and .first_divergence.layer == 1'
json explain "two traces beside it" explain sound.st --model a.gguf --other-file --reference wrong.st --again wrong.st
says "which is wrong" '.verdict == "fault" and .first_divergence.side == "b" and .reference.judged.verdict == "fault"'
[ $n = 56 ] || failed=1
exit $failed
