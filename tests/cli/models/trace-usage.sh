# What cannot be traced is refused by name, and nothing is written.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k/model.gguf
t() { stele trace $m "$@" && exit 1; [ $? = 2 ]; }
t --tokens 1 --save-tensor attn_nrom
t --tokens 1 --save-tensor attn_norm,
t --tokens 1 --save-tensor all --save-tensor-layers 3..3
t --tokens 1 --save-tensor all --save-tensor-layers 0..6
t --tokens 1 --save-tensor all --save-tensor-layers 1-2
t --tokens 1,,2
t --tokens 1,x
t --tokens 1,512
t --tokens 1 --bundle /nowhere/b.safetensors
t --tokens 1 --save-tensor-layers 0..1
ls -A
