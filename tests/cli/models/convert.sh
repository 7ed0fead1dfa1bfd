# There and back, and a fault repaired by the report that names it.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k
stele convert $m/model-q8_0.gguf a.apr | sed 's|/.*/||; s|[0-9]* bytes|N bytes|'
stele convert a.apr b.gguf --json | grep -E '"(format|untouched|rows_moved|encoded)"'
stele rosetta b.gguf $m/model-q8_0.gguf --prompt "Once upon a time" --assert-match --quiet | sed -n '/PASSED/p'
stele rosetta $m/fault-q-transposed.apr $m/model.gguf --prompt "Once upon a time" --json --quiet > report.json || echo "exit $?"
stele convert $m/fault-q-transposed.apr mended.apr --repair report.json || echo "exit $?"
stele convert $m/fault-q-transposed.apr mended.apr --repair report.json --side a --quiet
stele rosetta mended.apr $m/model.gguf --prompt "Once upon a time" --assert-match --quiet | sed -n '/PASSED/p'
stele convert a.apr mended.apr || echo "exit $?"
ls *.apr *.gguf
