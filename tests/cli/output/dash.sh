# Standard output holds no model, trace or folder: "-" is refused, before any work, and no file of that name appears.
stele synth --arch qwen2 --preset tiny -o m.gguf --quiet > made
for command in "convert m.gguf -" "convert m.gguf - --to gguf" "synth --arch llama --preset tiny -o -" "trace m.gguf --tokens 1 --save-tensor all --bundle -" \
	"trace m.gguf --tokens 1 --save-tensor all --save-tensor-dir -" "rosetta m.gguf m.gguf --tokens 1 --out -"; do
	rc=0
	stele $command --quiet > out || rc=$?
	[ $rc = 2 ] && [ ! -s out ] && [ ! -e ./- ] || echo "$command: status $rc"
done
stele convert m.gguf ./- --to gguf --quiet
[ -f ./- ]
