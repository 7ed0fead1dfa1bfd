# A description bound to a model, and run; one that does not fit says where.
stele synth --arch llama --preset tiny -o tiny.gguf --quiet
stele family check tiny.gguf | head -4
# The graph that the other commands have gives the same token.
next=$(stele trace tiny.gguf --tokens 1,2,3 --quiet | sed -n 's/^next token: \([0-9]*\).*/\1/p')
[ "$(stele family check tiny.gguf --tokens 1,2,3 --json | jq '.next[0].token')" = "$next" ]
stele family show llama > mine.family
stele family check tiny.gguf --family mine.family --json | jq -r '.family, .file, (.unused | length), (.keys[0] | .name, .value, .said)'
sed 's/^ffn_up .*/ffn_up = linear(ffn_norm, upp)/' mine.family > wrong.family
stele family check tiny.gguf --family wrong.family || echo "exit $?"
sed 's/^down .*/down blk.#.ffn_down - ffn, hidden/' mine.family > wrong.family
stele family check tiny.gguf --family wrong.family || echo "exit $?"
sed 's/blk.#.ffn_up/blk.#.ffn_upp/' mine.family > wrong.family
stele family check tiny.gguf --family wrong.family || echo "exit $?"
sed 's/^gguf .*/gguf lama/' mine.family > wrong.family
stele family check tiny.gguf --family wrong.family || echo "exit $?"
stele family check tiny.gguf --family missing.family || echo "exit $?"
stele family check missing.gguf || echo "exit $?"
stele family check tiny.gguf --tokens 99999 || echo "exit $?"
# Nothing is left over of a sound model of any family that can be made up.
for arch in llama qwen2 qwen3; do
	stele synth --arch $arch --preset tiny -o $arch.gguf --quiet > /dev/null
	stele family check $arch.gguf > /dev/null
done
