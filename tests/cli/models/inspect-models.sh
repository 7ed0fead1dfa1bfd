# One model in three containers has the same tensors and the same statistics, whatever the file calls them.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k
stele inspect $m/model.gguf | sed -n '/^Model/,/^Tensors/p'
stele inspect $m/model.gguf --json > doc
grep -c '"file_dims"' doc
sed -n '/"name": "blk.0.ffn_gate.weight"/,/"type"/p' doc
