# No output replaces the model it is made of, or a folder of something else, and what fails leaves nothing behind.
stele synth --arch qwen2 --preset tiny -o m.gguf --quiet > made
stele synth --arch qwen2 --preset tiny -o hf --quiet > made
mkdir precious
echo kept > precious/diary
fails() { rc=0; stele "$@" --quiet > out || rc=$?; [ $rc = 2 ] && [ ! -s out ] || echo "stele $*: status $rc"; }
sums() { find . -type f ! -name out ! -name before ! -name after | LC_ALL=C sort | xargs cksum; }
sums > before
fails trace m.gguf --tokens 1 --save-tensor all --bundle m.gguf
fails trace hf --tokens 1 --save-tensor all --bundle hf/model.safetensors
fails trace hf --tokens 1 --save-tensor all --bundle m.gguf
fails synth --arch llama --preset tiny -o m.gguf
fails trace hf --tokens 1 --save-tensor all --save-tensor-dir hf --force
fails trace hf --tokens 1 --save-tensor all --bundle hf/config.json
fails rosetta hf m.gguf --tokens 1 --out hf --force
fails convert m.gguf m.gguf --force
fails convert hf hf --force
fails trace m.gguf --tokens 1 --save-tensor all --save-tensor-dir precious --force
fails rosetta m.gguf m.gguf --tokens 1 --out precious --force
fails convert m.gguf precious --force
fails synth --arch qwen2 --preset tiny -o precious --force
fails convert m.gguf nowhere/m.apr
cp -r hf published
echo kept > published/README.md
fails convert m.gguf published --force
fails trace m.gguf --tokens 1 --save-tensor all --save-tensor-dir hf --force
rm published/README.md
stele convert m.gguf published --force --quiet > out
rm -r published
ulimit -f 8
fails trace m.gguf --tokens 1,2,3,4,5,6,7,8 --save-tensor all --save-tensor-dir tree
fails trace m.gguf --tokens 1,2,3,4,5,6,7,8 --save-tensor all --bundle b.safetensors
fails convert m.gguf m.apr
fails convert m.gguf other
fails synth --arch qwen2 --preset tiny -o n.gguf
fails rosetta m.gguf m.gguf --tokens 1 --out report
sums > after
cmp before after
[ "$(echo *)" = "after before hf m.gguf made out precious" ]
