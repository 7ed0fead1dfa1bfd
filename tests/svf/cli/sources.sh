# What a report says is decomposed, is: of a container that has its rotary pairs side by side, the rows in the order of a graph; of a model to
# be rounded, the rounded numbers. The digests are those of the rows in a Hugging Face folder of the same model.
stele synth --preset tiny --arch llama --type F32 --format hf --output model -q > synth.out
stele convert model model.gguf -q > synth.out
k=$(jq .hidden_size model/config.json)
rows=$k
# A vector of zeros: a span, and a head of ten rows.
n=$((11 * k))
header=$(printf '{"trinity_router_es_vector":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' $n $((4 * n)))
while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
{ printf "\\x$(printf %02x ${#header})\0\0\0\0\0\0\0%s" "$header"; head -c $((4 * n)) /dev/zero; } > vector.safetensors
name=model.layers.1.self_attn.q_proj.weight
jq -n --arg sha "$(sha256sum vector.safetensors | cut -d' ' -f1)" --arg name $name --argjson k "$k" --argjson rows "$rows" '
{ source_name: $name, elixir_name: "query.kernel", offset_start: 0, offset_end: $k } as $t |
{ source_vector_sha256: $sha, selected_tensor_count: 1, selected_singular_value_count: $k,
  selected_tensors: [ $t + { shape: [$rows, $k], singular_values: $k } ],
  sample_adapted_tensor: ($t + { source_shape: [$rows, $k], sample_reconstructed_shape: [$k, $rows], sample_reconstructed_bf16_sha256: "00" }) }' > reference.json
# Where its bytes are in the folder's file.
length=$(od -An -tu8 -N8 model/model.safetensors | tr -d ' ')
begin=$(tail -c +9 model/model.safetensors | head -c "$length" | jq --arg name $name '.[$name].data_offsets[0]')
tail -c +$((9 + length + begin)) model/model.safetensors | head -c $((4 * rows * k)) > rows.f32
# Rounded to bf16, nearest even, and widened again.
od -An -v -tu4 -w4 rows.f32 | awk '{ low = $1 % 65536; high = ($1 - low) / 65536; high += low > 32768 || (low == 32768 && high % 2)
	printf "\\0\\0\\x%02x\\x%02x\n", high % 256, high / 256 }' | while read -r bytes; do printf "$bytes"; done > rounded.f32
says() {
	stele svf export --model "$1" --model-dtype "$2" --reference reference.json --router-vector vector.safetensors --write-components-dir "$3" --out "$3.json" --threads 2 -q > out
	[ "$(jq -r .source_tensor_f32_svd_input.sha256_as_f32 "$3.json")" = "$(sha256sum < "$4" | cut -d' ' -f1)" ] || echo "$1 as $2: another digest"
	[ "$(jq -r .stage_debug.digests.sample.source_f32.sha256 "$3.json")" = "$(sha256sum < "$4" | cut -d' ' -f1)" ] || echo "$1 as $2: another stage"
}
says model float32 a rows.f32
says model bfloat16 b rounded.f32
says model.gguf float32 c rows.f32
says model.gguf bfloat16 d rounded.f32
