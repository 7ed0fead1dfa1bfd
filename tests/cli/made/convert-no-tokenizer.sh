# A GGUF that says it has no tokenizer is a model all the same, and goes on saying so.
stele synth --arch qwen2 --preset tiny -o in.gguf --quiet > /dev/null
LC_ALL=C sed 's/\(tokenizer\.ggml\.model.\{12\}\)gpt2/\1none/' in.gguf > none.gguf
stele tokenize none.gguf hello && exit 1
stele convert none.gguf out.gguf --type f16 | grep -E '^(note|checked)'
stele tokenize out.gguf hello && exit 1
stele rosetta none.gguf out.gguf --tokens 1,2,3 --assert-match --quiet | sed -n 's/^\[ROSETTA\] \(PASSED\).*/\1/p'
