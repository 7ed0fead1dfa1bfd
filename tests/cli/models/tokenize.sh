# Ids and pieces, the same from a GGUF and an APR of one model, from an argument, a file and standard input.
[ "$SHARED" ] || exit 77
m=$SHARED/models/qwen2-tiny/qwen2-tiny-q4_k
stele tokenize $m.gguf "2+2="
stele tokenize $m.apr --json "2+2=" | grep -A 5 '"tokens"'
printf '2+2=' > text
stele tokenize $m.gguf --file text | head -n 1
stele tokenize --file=- $m.gguf < text | head -n 1
stele tokenize $SHARED/models/stories260k/hf "Once upon a time" | head -n 1
stele tokenize --no-bos $SHARED/models/stories260k/model.gguf "Once upon a time" | head -n 1
