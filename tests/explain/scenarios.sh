#!/bin/bash
# The false trails of the field: true measurements from which the wrong conclusion was drawn. The values come from the plain
# engine, which shares no arithmetic with the judge. TAP.
#
#   tests/explain/scenarios.sh STELE NAIVE FAMILIES
set -u
stele=$(realpath "$1") naive=$(realpath "$2") families=$(realpath "$3")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
n=0 failed=0

# asks NAME WANTED FILTER: what the filter says of the report just made.
asks() {
	n=$((n + 1))
	local got
	got=$(jq -c "$3" report.json 2>&1)
	if [ "$got" = "$2" ]; then
		echo "ok $n - $1"
	else
		echo "# wanted $2, is $got"
		echo "not ok $n - $1"
		failed=1
	fi
}
run() { "$naive" "$@" > out 2>&1 || cat out; }
explain() { "$stele" explain "$@" --json --quiet > report.json 2> err || [ $? != 2 ] || sed 's/^/# /' err; }

mid=hidden_size=64,intermediate_size=96,vocab_size=160,max_position_embeddings=256
wide=hidden_size=256,intermediate_size=512,vocab_size=160,max_position_embeddings=256,head_dim=64
run --make llama --like "$families/llama" --set $mid,head_dim=16 --seed 3
run --make biased --like "$families/qwen2" --set $mid --seed 4 --bias 60
run --make outlier --like "$families/qwen3" --set $wide --seed 5 --outlier 40
"$stele" synth --arch qwen2 --preset tiny -o deep --quiet > out

run llama --random 12 --out t.st --fault capture.token_subset:all
explain t.st --model llama
asks "the last token's row alone, of everything, is placed or refused, and never scored against all" true '.verdict != "fault"'

run llama --random 12 --out t.st --fault capture.partial:attn_norm
explain t.st --model llama
asks "half of the rows, and no positions, is no score" '["undecided","capture.partial"]' '[.verdict, .cause.code]'

run biased --random 12 --out t.st --arith f32
explain t.st --model biased
asks "very large biases that are right are nothing" '["match",null]' '[.verdict, .cause]'

run llama --random 12 --out t.st --fault kernel.orientation:head
explain t.st --model llama
asks "a product with the transpose in the head alone: everything before it is clean" '["fault","kernel.orientation","lm_head",1]' \
	'[.verdict, .cause.code, .first_divergence.stage, ([.stages[] | select(.status == "fault")] | length)]'

run outlier --random 12 --out q8.st --arith q8_k
run outlier --random 12 --out f32.st --arith f32
run outlier --random 12 --out bf16.st --arith bf16
explain q8.st --model outlier
asks "an outlier that crushes a block of Q8_K is noise of that arithmetic" '["noise",true]' \
	'[.verdict, ([.stages[].local.kind] | index(["q8_k activations"]) != null)]'
explain f32.st --model outlier --reference q8.st
asks "a reference in Q8_K is the less exact side of an engine in f32" '["match","noise",true]' \
	'[.verdict, .reference.judged.verdict, .reference.rms_there > 100 * .reference.rms_here]'
explain f32.st --model outlier --reference bf16.st
asks "so is one in bf16" '["match","noise",true]' \
	'[.verdict, .reference.judged.verdict, .reference.rms_there > 100 * .reference.rms_here]'
explain q8.st --model outlier --reference f32.st
asks "and the other way round" '["noise","match",true]' \
	'[.verdict, .reference.judged.verdict, .reference.rms_here > 100 * .reference.rms_there]'

run outlier --random 12 --out wrong.st --arith f32 --fault rope.theta --layer 1
explain q8.st --model outlier --reference wrong.st
asks "a reference that is wrong is found out" '["noise","fault","rope.theta"]' \
	'[.verdict, .reference.judged.verdict, .reference.judged.cause.code]'

run outlier --random 12 --out less.st --arith f32 --stages -attn_softmax
explain f32.st --model outlier --reference less.st
asks "what one side did not write down is not measured" '["match","match",2,0]' \
	'[.verdict, .reference.judged.verdict, .reference.only_here, .reference.only_there]'

run outlier --random 11 --out short.st --arith f32
explain f32.st --model outlier --reference short.st
asks "another prompt is not compared" '["fault","tokens.mismatch"]' '[.verdict, .cause.code]'

explain f32.st --model outlier --again wrong.st
asks "a tracer that is right does not clear the path that users run" '["fault","b",1,"rope.theta"]' \
	'[.verdict, .first_divergence.side, .first_divergence.layer, .cause.code]'
explain f32.st --model outlier --again f32.st
asks "two equal runs" '["match",0]' '[.verdict, .again.differ]'

run llama --random 12 --out t.st --fault stage.mislabelled/last_hidden
explain t.st --model llama
asks "the last hidden state is normed already: another stage, and no gain" '["stage.mislabelled",true]' \
	'[.cause.code, .cause.engine_right]'

for arith in f16 bf16 q8_0; do
	run deep --random 12 --out t.st --arith $arith --arith-layer 2
	explain t.st --model deep
	asks "one layer in $arith among layers in f32 is a finding" '["fault","numeric.low_precision",2]' \
		'[.verdict, .cause.code, .first_divergence.layer]'
	run deep --random 12 --out t.st --arith $arith
	explain t.st --model deep
	asks "all layers in $arith are none" '["noise",null]' '[.verdict, .cause]'
done
echo "1..$n"
exit $failed
