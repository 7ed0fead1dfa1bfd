# A model of a known family under another architecture's name: the page that is drafted binds, and gives the same logits.
models=$CASES/../../data/families
rename='.model_type = "newarch" | .architectures = ["NewArchForCausalLM"]'
next() { stele family check "$@" --tokens 3,4,5 --json | jq -c .next; }
for m in gemma2 qwen3_next deepseek_v3 deepseek_v2 gpt2 mamba2 phi3 mixtral falcon-7b llama4_text lfm2 stablelm jamba; do
	mkdir $m && cp $models/$m/model.safetensors $m/ && jq "$rename" $models/$m/config.json > $m/config.json
	stele family check $m/ > /dev/null 2>&1 && echo "$m: is known as it is"
	stele family draft $m/ > $m.family || echo "$m: exit $?"
	[ "$(next $m/ --family $m.family)" = "$(next $models/$m/)" ] || echo "$m: other logits"
	sed -n '1s/.*page \([^,]*\),.*/\1/p; /^family /p; /^config /p' $m.family | paste -s -d ' '
done
# The same of a GGUF file.
sed 's/mamba2/mambo2/g' $CASES/../../data/families-gguf/mamba2.gguf > new.gguf
stele family draft new.gguf > new.family
[ "$(next new.gguf --family new.family)" = "$(next $models/mamba2/)" ]
# Other names of tensors and keys: the nearest that the file has are taken and marked, and the numbers are the same.
mkdir other
sed 's/self_attn\.q_proj/attention.wqproj/g; s/self_attn\.k_proj/attention.wkproj/g; s/self_attn\.v_proj/attention.wvproj/g; s/self_attn\.o_proj/attention.woproj/g
	s/mlp\.gate_proj/ffn_00.w1.lin/g; s/mlp\.down_proj/ffn_00.w2.lin/g; s/embed_tokens/embeddings_0/g' $models/qwen3/model.safetensors > other/model.safetensors
jq "$rename | .d_model = .hidden_size | .n_layer = .num_hidden_layers | .norm_eps = .rms_norm_eps | del(.hidden_size, .num_hidden_layers, .rms_norm_eps)" \
	$models/qwen3/config.json > other/config.json
stele family draft other/ > other.family || echo "exit $?"
grep "^hidden \|^eps \|^q \|^embed " other.family | tr -s ' '
[ "$(next other/ --family other.family)" = "$(next $models/qwen3/)" ]
# What is more than the nearest family has is marked, and so is what it has more.
mkdir more && cp $models/granitemoehybrid/model.safetensors more/
jq "$rename | .new_gate_scale = 0.25 | .layer_types[0] = \"conv\"" $models/granitemoehybrid/config.json > more/config.json
stele family draft more/ > more.family || echo "exit $?"
grep "# ?" more.family
cp -r $models/qwen3 q
# What check says of a page that does not fit: all of it, with what is near.
stele family show qwen3 | sed 's/self_attn\.q_proj /self_attn.query /; s/mlp\.gate_proj *ffn,/mlp.gate_proj 2*ffn,/' > wrong.family
{ stele family check q/ --family wrong.family --tokens 1 || echo "exit $?"; } | sed 's/family:[0-9][0-9]*/family:LINE/'
stele family check q/ --family wrong.family --json 2> /dev/null | jq -c '.faults[]' | sed 's/family:[0-9][0-9]*/family:LINE/'
stele family show qwen3 | sed 's/ hidden_size$/ hidden_width/' > wrong.family
stele family check q/ --family wrong.family || echo "exit $?"
# Bad input: one line.
stele family draft missing/ || echo "exit $?"
cp $models/README.md page.md
stele family draft page.md || echo "exit $?"
cp $models/qwen3/model.safetensors alone.safetensors
stele family draft alone.safetensors || echo "exit $?"
mkdir odd && cp $models/qwen3/model.safetensors odd/ && jq '.model_type = "a b\"c"' $models/qwen3/config.json > odd/config.json
stele family draft odd/ || echo "exit $?"
jq 'del(.model_type, .architectures)' $models/qwen3/config.json > odd/config.json
stele family draft odd/ || echo "exit $?"
