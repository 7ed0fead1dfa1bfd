# What cannot be judged is refused with the reason.
stele synth --arch qwen2 --preset tiny --type f32 -o a.gguf > out
stele synth --arch llama --preset tiny --type f32 -o b.gguf > out
stele trace a.gguf --tokens 1,2,3 --save-tensor attn_norm --bundle t.st --quiet > out
stele explain t.st || echo "exit $?"
stele explain a.gguf --model a.gguf || echo "exit $?"
stele explain none.st --model a.gguf || echo "exit $?"
stele explain t.st --model none.gguf || echo "exit $?"
head -c 100 t.st > cut.st
stele explain cut.st --model a.gguf || echo "exit $?"
stele trace a.gguf --tokens 1,2,3 --save-tensor attn_norm --save-tensor-dir tree --quiet > out
rm -f tree/trace.json
stele explain tree --model a.gguf || echo "exit $?"
# A trace of another model: by the digest that it names, by its tokens, by its shapes.
stele trace a.gguf --tokens 1,2,300 --save-tensor attn_norm,attn_scores --bundle t.st --force --quiet > out
stele explain t.st --model b.gguf || echo "exit $?"
stele explain t.st --model "$CASES/../../data/families/qwen2" --other-file || echo "exit $?"
stele trace a.gguf --tokens 1,2,3 --save-tensor attn_norm,attn_scores --bundle t.st --force --quiet > out
stele explain t.st --model "$CASES/../../data/families/qwen2" --other-file || echo "exit $?"
stele explain t.st --model a.gguf --reference none.st || echo "exit $?"
stele explain t.st --model a.gguf --again a.gguf || echo "exit $?"
