# What a newcomer types first: arguments in another order, a text without its option. The message says what to do.
stele synth --arch qwen2 --preset tiny -o m.gguf --quiet > made
stele tokenize "2+2=" m.gguf || echo "exit $?"
stele rosetta m.gguf m.gguf "2+2=" || echo "exit $?"
stele trace m.gguf "2+2=" || echo "exit $?"
stele diff m.gguf m.gguf m.gguf || echo "exit $?"
