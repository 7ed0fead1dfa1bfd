# Ids back to text; the keys of a file as it spells them.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k
stele tokenize $SHARED/models/qwen2-tiny/qwen2-tiny-q4_k.gguf --decode 17,10,17,28
stele tokenize $m/hf --decode "[403 407]" --json | grep '"text"'
stele tokenize $m/hf --decode 512 || echo $?
stele inspect --metadata $m/model.gguf | grep -E "block_count|ggml.tokens"
stele inspect --metadata --json $m/hf | grep -E '"(schema|hidden_size)"'
