# A text without an end is read as far as it is too long.
stele synth --arch llama --preset tiny -o m.gguf --quiet > /dev/null
timeout 20 stele tokenize m.gguf --file /dev/zero
