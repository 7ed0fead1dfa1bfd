# A second trace: of another engine, on the scale of how far each is from exact; of the same engine; of other tokens.
stele synth --arch qwen2 --preset tiny --type q4_k_m -o a.gguf > out
stele synth --arch qwen2 --preset tiny --type q4_k_m --plant norm.wrong_weight:1 -o wrong.gguf > out
for mode in exact emulate:q8_k emulate:bf16; do
	stele trace a.gguf --tokens 1,2,3,4,5,6 --save-tensor all --bundle ${mode#*:}.st --mode $mode --steps 1 --quiet > out
done
ask() { stele explain "$@" --model a.gguf --json --quiet > report.json || true; }
echo "a candidate in f32, a reference that rounds:"
ask exact.st --reference bf16.st
jq -c '[.verdict, .reference.judged.verdict, .reference.rms_here < 1e-6, .reference.rms_there > 1e-3, .reference.nearer_there]' report.json
stele explain exact.st --model a.gguf --reference q8_k.st | grep -o "this one is the less exact side"
echo "twice the same:"
ask q8_k.st --again q8_k.st
jq -c '[.verdict, .again.differ, .again.first, .again.same_path, .cause]' report.json
echo "other tokens:"
stele trace a.gguf --tokens 1,2,7,4,5,6 --save-tensor all --bundle other.st --quiet > out
ask exact.st --reference other.st
jq -c '[.verdict, .exit, .cause.code, .cause.parameters, .first_divergence.stage]' report.json
echo "a second run that is wrong:"
stele trace wrong.gguf --tokens 1,2,3,4,5,6 --save-tensor all --bundle wrong.st --steps 1 --quiet > out
ask exact.st --again wrong.st --other-file
jq -c '[.verdict, .exit, .first_divergence.layer, .first_divergence.side, .cause.code, .again.judged.verdict]' report.json
