# What is no model, or not a whole one, is shown with the reason.
[ "$SHARED" ] || exit 77
mkdir other && cp $SHARED/oracles/neural-gemma2/*.safetensors other && sed 's/[Gg]emma2/zorp/g' $SHARED/oracles/neural-gemma2/config.json >other/config.json
stele inspect other | grep 'does not run'
stele inspect $SHARED/malformed/gguf/good.gguf | grep 'does not run'
stele inspect $SHARED/tokenizers/ggml-vocab-gpt-2.gguf --json | grep -A 1 '"kind"'
stele inspect $SHARED/captures/clean-qwen2-d96-f32/trace.safetensors | sed -n '/^Trace/,/tokens/p'
