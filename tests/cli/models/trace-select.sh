# Lines are selected by stage and by layer; the last one is the token that would come next. With files nothing is shown.
[ "$SHARED" ] || exit 77
m=$SHARED/models/stories260k/hf
stele trace $m --prompt "Once upon a" --stages ffn_out,attn_out --layers 3..5
stele trace $m --prompt "Once upon a" --stages ffn_out,lm_head --layers 4..5 # asked for by name, it is in no layer
stele trace $m --prompt "Once upon a" --stages lm_head --json | grep -E '"(stage|next)"'
stele trace $m --prompt "Once upon a" --bundle out.safetensors --quiet
stele trace $m --prompt "Once upon a" --layers 4..9 || echo $?
stele trace $m --prompt "Once upon a" --stages nothing 2> /dev/null || echo $?
