# A tree and a bundle: the right files, the same bytes twice, never mixed with an older run.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k/model.gguf
stele trace $m --tokens 1,403,407 --save-tensor "attn_norm, LM_HEAD" --save-tensor-layers 1..3
(cd model-trace && find . -type f | sort && stat -c '%s %n' layer-1/attn_norm.bin lm_head.bin)
cp -r model-trace first
stele trace $m --tokens 1,403,407 --save-tensor attn_norm && exit 1
stele trace $m --tokens 1,403,407 --save-tensor attn_norm,lm_head --save-tensor-layers 1..3 --force --quiet
diff -r first model-trace
stele trace $m --tokens 1,403,407 --bundle a.safetensors --threads 1 --quiet
stele trace $m --tokens 1,403,407 --bundle b.safetensors --threads 3 --quiet
cmp a.safetensors b.safetensors
