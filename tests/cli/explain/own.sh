# Traces of Stele itself are sound in every mode, of the prompt and of steps behind it.
stele synth --arch qwen2 --preset tiny --type q4_k_m -o a.gguf > out
for mode in exact fast emulate:f16 emulate:bf16 emulate:q8_0 emulate:q8_k; do
	rm -f t.st
	stele trace a.gguf --tokens 1,2,3,4,5,6 --save-tensor all --bundle t.st --mode $mode --steps 2 --quiet > out
	stele explain t.st --model a.gguf --json --quiet | jq -r '"'$mode' \(.verdict) \(.stages | length)"'
done
