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
# A massive channel, mis-estimated by a few per cent: the streams are alike to four digits, until the last layer takes the channel away.
cat > massive.json << 'EOF'
{ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "use_sliding_window": false }
EOF
"$stele" synth --config massive.json -o massive --quiet > out 2>&1 || cat out
run --massive massive --size 100
run massive --random 12 --out f32.st --arith f32
run massive --random 12 --out t.st --arith f32 --fault weight.row_corrupt/channel:down=0.97 --layer 1
"$stele" diff f32.st t.st --json > report.json
asks "a massive channel that is off by 3 %: hidden for 24 layers, and there when it is gone" true \
	'[.stages[] | select(.stage == "post_ffn_residual") | {layer, c: .min_cosine}] | (map(select(.layer >= 1 and .layer <= 24).c) | min > 0.9998) and (map(select(.layer == 25).c) | min < 0.99)'
explain t.st --model massive --keep-going
asks "it is named where it begins, by the channel, and nothing else is" '["fault","weight.row_corrupt","ffn_out",1,5,5,1]' \
	'[.verdict, .cause.code, .first_divergence.stage, .first_divergence.layer, .cause.parameters.first_row, .cause.parameters.last_row, (.findings | length)]'
"$stele" synth --config massive.json -o massive40 --quiet > out 2>&1 || cat out
run --massive massive40 --size 40
run massive40 --random 12 --out q8.st --arith q8_0
explain q8.st --model massive40
asks "int8 kernels that do it right are noise" '["noise",null]' '[.verdict, .cause]'
run massive40 --random 12 --out t.st --arith q8_0 --fault weight.row_corrupt/channel:down=0.9 --layer 1
explain t.st --model massive40 --keep-going
asks "int8 kernels that do not are named, too" '["fault","weight.row_corrupt","ffn_out",1,5,1]' \
	'[.verdict, .cause.code, .first_divergence.stage, .first_divergence.layer, .cause.parameters.first_row, (.findings | length)]'

# A channel so large that the others, normed, are among the least numbers of F16, where a rounding is no part of the number.
run --make huge --like "$families/qwen3" --set $wide --seed 5 --outlier 40000
run huge --random 12 --out t.st --arith f16stream --dtype F16
explain t.st --model huge
asks "what a huge channel leaves of the others in F16 is noise" '["noise",null]' '[.verdict, .cause]'

# Greedy tokens that part at a near tie.
run --make tie --like "$families/qwen3" --set $wide --seed 12
run tie --random 5 --decode 6 --out f32.st --arith f32
run tie --random 5 --decode 6 --out q8.st --arith q8_k --kv f16
explain q8.st --model tie --reference f32.st
asks "greedy tokens that part at a near tie, which Q8_K and a cache in f16 explain" '["noise",null,"match",2,true]' \
	'[.verdict, .cause, .reference.judged.verdict, .reference.parted.rank_here, (.reference.parted | .gap_here < 0.15 and .gap_there < 0.15)]'
asks "what comes behind is not compared" true \
	'. as $r | [.stages[] | select(.step <= $r.reference.parted.after)] | length == $r.reference.compared'
run tie --random 5 --decode 6 --out wrong.st --arith f32 --fault rope.theta --layer 1
explain q8.st --model tie --reference wrong.st
asks "where they part by a mistake, that is found" '["noise","fault","rope.theta"]' \
	'[.verdict, .reference.judged.verdict, .reference.judged.cause.code]'

# 4-bit weights against a reference in F16: each side by its own file.
"$stele" synth --arch qwen2 --preset tiny --seed 3 --type F16 -o half.gguf --quiet > out
"$stele" convert half.gguf four.gguf --type Q4_0 --quiet > out 2>&1 || cat out
"$stele" rosetta four.gguf half.gguf --tokens 5,3,8,1,9,2 --json --quiet > report.json
asks "4-bit weights against F16 are noise, with the same best token" '["noise",true,true]' \
	'[.verdict, .top1.agree, ([.stages[] | select(.status == "noise") | .local.floor > 0] | all)]'
"$stele" trace half.gguf --tokens 5,3,8,1,9,2 --save-tensor all --bundle half.st --mode fast --quiet
"$stele" trace four.gguf --tokens 5,3,8,1,9,2 --save-tensor all --bundle four.st --mode fast --quiet
explain four.st --model four.gguf --reference half.st --reference-model half.gguf
asks "so are their engines, each judged by its own file" '["match","match",true]' \
	'[.verdict, .reference.judged.verdict, .reference.top1_agree]'

# A near tie of experts.
run --make experts --like "$families/gpt_oss" --set hidden_size=64,intermediate_size=32,vocab_size=160,max_position_embeddings=512,num_local_experts=16,head_dim=16 --seed 3
run experts --random 300 --out t.st --arith bf16 --stages ffn_norm,moe_router_indices,moe_router_weights,post_attn_residual,post_ffn_residual
explain t.st --model experts
asks "experts chosen at a near tie that BF16 decides are noise, and the gap is told" '["noise",true,true]' \
	'[.verdict, ([.stages[] | select(.stage == "moe_router_indices" and .status == "noise")] | length > 0), ([.stages[] | select(.stage == "moe_router_indices" and .status == "noise") | .local | .rel_l2 > 0 and .rel_l2 < .floor] | all)]'

# Two traces of one engine.
run llama --random 12 --out serial.st --arith f32
run llama --random 12 --out batched.st --arith f32 --order lanes
explain serial.st --model llama --again batched.st
asks "another order of sums in the second run of one engine is noise, and where it begins is told" '["noise","numeric.nondeterministic","attn_norm",0]' \
	'[.verdict, .cause.code, .cause.stage, .cause.layer]'
run llama --random 12 --out batched.st --arith bf16
explain serial.st --model llama --again batched.st
asks "where the two say another path, that is no chance" '["noise",null,false,true]' \
	'[.verdict, .cause, .again.same_path, .again.differ > 0]'
"$stele" explain serial.st --model llama --again batched.st | tr -s '\n ' ' ' | jq -Rs . > report.json
asks "the report names the path that each says" true \
	'contains("they did not take the same path: the trace says naive, cpu, f32, this one naive, cpu, bf16")'

# ulps FILE STAGE COUNT: the last bit of some numbers of a value in F32 is turned over, as by a race.
ulps() {
	local header start k at byte
	header=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
	start=$(head -c $((8 + header)) "$1" | tail -c "$header" | jq ".[\"$2\"].data_offsets[0]")
	for ((k = 0; k < $3; k++)); do
		at=$((8 + header + start + 4 * 37 * k))
		byte=$(od -An -t u1 -j "$at" -N 1 "$1" | tr -d ' ')
		printf "\\x$(printf %02x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
	done
}
cp serial.st second.st
ulps second.st layers.1.ffn_out 5
explain serial.st --model llama --again second.st
asks "a few last bits of one value in the second run" '["noise","numeric.nondeterministic","ffn_out",1,1]' \
	'[.verdict, .cause.code, .cause.stage, .cause.layer, .again.differ]'
echo "1..$n"
exit $failed
