# A tokenizer that Stele does not know stands in nobody's way but that of a text, and of containers that spell it otherwise.
stele synth --arch qwen2 --preset tiny -o in --quiet > /dev/null
sed -i 's/"ByteLevel"/"ByteNovel"/' in/tokenizer.json
stele tokenize in hello && exit 1
stele trace in --tokens 1,2 --quiet > trace
stele convert in out --type f16 | grep -E '^(note|checked)'
cmp in/tokenizer.json out/tokenizer.json
stele convert in out.safetensors | grep -E '^(note|checked)'
stele convert in out.gguf && exit 1
[ ! -e out.gguf ]
