# More threads than any machine has are a request for all that are of use, not a crash.
stele synth --arch qwen3 --preset tiny -o m.gguf --threads 4000000000 --quiet > out
stele inspect m.gguf --threads 4000000000 > out
stele trace m.gguf --tokens 1,2 --threads 4000000000 --quiet > out
stele rosetta m.gguf m.gguf --tokens 1,2 --threads 4000000000 > out
stele diff m.gguf m.gguf --threads 4000000000 > out
stele convert m.gguf m.apr --threads 4000000000 --quiet > out
