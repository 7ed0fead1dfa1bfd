# A description of one's own in every command that opens a model: with an activation that the built-in one does not have the
# logits are others, and only the stages behind it.
stele synth --arch llama --preset tiny -o tiny.gguf --quiet > /dev/null
stele family show llama > same.family
sed 's/= silu(ffn_gate_bias)/= relu(ffn_gate_bias)/' same.family > other.family
stele trace tiny.gguf --tokens 1,2,3 --family same.family --bundle same.safetensors --save-tensor all --quiet
stele trace tiny.gguf --tokens 1,2,3 --bundle built.safetensors --save-tensor all --quiet
stele trace tiny.gguf --tokens 1,2,3 --family other.family --bundle other.safetensors --save-tensor all --quiet
stele diff same.safetensors built.safetensors > /dev/null; echo "same: exit $?"
stele diff other.safetensors built.safetensors --json | jq -r '.stages[.first] | .stage, .layer'
stele inspect tiny.gguf --family other.family --no-stats | grep family
stele convert tiny.gguf hf/ --family same.family --quiet
stele rosetta tiny.gguf hf/ --family same.family --tokens 1,2,3 | grep PASSED
stele rosetta tiny.gguf hf/ --family gemma2 --tokens 1,2,3 || echo "exit $?"
echo 'family x' > bad.family
stele trace tiny.gguf --tokens 1 --family bad.family || echo "exit $?"
stele inspect tiny.gguf --family missing.family || echo "exit $?"
