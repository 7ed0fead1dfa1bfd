# One model in two containers is the same; with a planted fault it is not, and the report says where and why.
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 -o a.gguf > /dev/null
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 -o b.apr > /dev/null
stele rosetta b.apr a.gguf --prompt "2+2=" --assert-match --quiet > sound
sed -n '/PASSED/p' sound
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 --plant weight.transposed:2 -o c.apr > /dev/null
stele rosetta c.apr a.gguf --tokens 1,2,3 --quiet | sed -n '/DIAGNOSIS/p; /FAILED/p; /as its transpose/p; /DIVERGENCE/p'
exit ${PIPESTATUS[0]}
