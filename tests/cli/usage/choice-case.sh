# A choice may be spelled in any case; everything behind it sees one spelling.
stele synth --arch QWEN3 --preset Tiny --format GGUF -o a.gguf --quiet > one
stele synth --arch qwen3 --preset tiny --format gguf -o b.gguf --quiet > two
cmp a.gguf b.gguf
stele trace a.gguf --tokens 1 --cpu=SCALAR --mode Exact --quiet > one
stele replay --make-manifest --kind LINEAR --out c > out
