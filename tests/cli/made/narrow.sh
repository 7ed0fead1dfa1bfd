# At 60 columns no line of a report is wider, but for words that are; what the wide one says is all there, in order.
stele synth --arch llama --preset tiny --type bf16 -o a.gguf > /dev/null
stele synth --arch llama --preset tiny --type q8_0 --plant weight.transposed:1 -o b.gguf > /dev/null
stele synth --arch llama --preset tiny --type q8_0 -o c.gguf > /dev/null
words() { sed -E 's/^\[ROSETTA\] *//; s/[0-9.]+ s$//' "$1" | tr -s ' \n' '\n\n' | grep -v '^$' | sort; }
for command in "rosetta b.gguf a.gguf --tokens 1,2,3 --quiet" "rosetta c.gguf a.gguf --prompt hello --layer-costs --quiet -v" "inspect a.gguf" \
	"trace a.gguf --tokens 1,2,3 --quiet" "diff b.gguf a.gguf --quiet" "convert c.gguf out.safetensors --force" "help rosetta"; do
	stele $command > whole || true
	COLUMNS=60 stele $command > narrow || true
	COLUMNS=20 stele $command > least || true
	echo "$command: $(awk 'length($0) > 60 && NF > 4' narrow | wc -l) lines too wide"
	awk 'length($0) > 60 && NF > 4' narrow
	[ "$command" = "help rosetta" ] || cmp <(words whole) <(words narrow) || echo "something is lost"
	cmp <(sed -E 's/[0-9.]+ s$//' narrow) <(sed -E 's/[0-9.]+ s$//' least) || echo "less than 60 columns are 60"
done
