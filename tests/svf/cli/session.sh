# Export, replay, compare, apply and route on a small synthetic model, by the command line alone.
stele synth --preset tiny --arch qwen3 --type BF16 --format hf --output model -q > synth.out
k=$(jq .hidden_size model/config.json)
rows=$(jq .vocab_size model/config.json)
# One span for the embedding, one for the head; a vector of small offsets and a head of ones.
n=$((2 * k + 10 * k))
{
	header=$(printf '{"trinity_router_es_vector":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' $n $((4 * n)))
	while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
	printf "$(printf '%016x' ${#header} | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\\x\8\\x\7\\x\6\\x\5\\x\4\\x\3\\x\2\\x\1/')"
	printf '%s' "$header"
	# 0.125 = 00 00 00 3e, 0.25 = 00 00 80 3e: by turns
	for ((i = 0; i < n; i++)); do
		if ((i % 3)); then printf '\0\0\0\x3e'; else printf '\0\0\x80\x3e'; fi
	done
} > vector.safetensors
sha=$(sha256sum vector.safetensors | cut -d' ' -f1)
jq -n --arg sha "$sha" --argjson k "$k" --argjson rows "$rows" '
def entry($n; $t; $i): { source_name: $n, elixir_name: $t, shape: [$rows, $k], singular_values: $k, offset_start: ($i * $k), offset_end: (($i + 1) * $k) };
{ source_vector_sha256: $sha, selected_tensor_count: 2, selected_singular_value_count: (2 * $k),
  selected_tensors: [ entry("model.embed_tokens.weight"; "embedder.token_embedding.kernel"; 0), entry("lm_head.weight"; "language_modeling_head.output.kernel"; 1) ],
  sample_adapted_tensor: { source_name: "model.embed_tokens.weight", elixir_name: "embedder.token_embedding.kernel", offset_start: 0, offset_end: $k,
    source_shape: [$rows, $k], sample_reconstructed_shape: [$rows, $k], sample_reconstructed_bf16_sha256: "00" } }' > reference.json
args="--reference reference.json --router-vector vector.safetensors --model model --threads 2 -q"
stele svf export $args --all-selected-tensors --write-components-dir components --out python.json 2> refused && exit 1
grep -q Gflop refused
stele svf export $args --all-selected-tensors --decompose-all-selected-if-missing --write-components-dir components --out python.json > out
stele svf replay $args --components-dir components --python-report python.json --all-selected-tensors --stage-dir stages --out replay.json > out
stele svf compare python.json replay.json --tolerances f32 > out
tail -n 1 out
stele svf compare python.json replay.json --strict-stage-tolerances --strict-current-python --json | jq -r .verdict
# The command line of older scripts: reference and vector as the report names them, the sample alone, sources of the other side.
stele svf replay --semantic-only --device-semantic-only --preferred-layout-only --source-from-python-stage --components-dir components \
	--python-report python.json --stage-dir stages-sample --out sample.json 2>&1 > out | grep -c 'semantic-only changes nothing: '
stele svf compare --strict-stage-tolerances python.json sample.json | grep -e ^coverage -e ^verdict
# Some tensors only: what was asked for is what is looked for; the digests asked for are those of the sample, which is left out here.
for filter in embed_tokens lm_head; do
	stele svf replay $args --components-dir components --python-report python.json --all-selected-tensors --selected-source-filter $filter \
		--stage-dir stages-$filter --out $filter.json > out
	stele svf compare --strict-stage-tolerances python.json $filter.json | grep -e ^coverage -e ^verdict
	stele svf compare --strict-current-python python.json $filter.json | grep -e ^missing -e ^cause -e ^verdict || true
done
# More threads than any machine has are cut down; a report beside itself is no comparison.
stele svf compare python.json replay.json --threads 100000 -q | tail -n 1
status=0
stele svf compare python.json ./python.json -q > none 2> err || status=$?
echo "status $status, $(wc -l < err) line, $(wc -c < none) bytes"
stele svf apply $args --components-dir components --out artifact > out
jq -r .status artifact/manifest.json
status=0
stele svf route --artifact artifact --model model --tokens 1,2,3 --out model/model.safetensors -q > none 2> err || status=$?
echo "status $status, $(wc -l < err) line, $(wc -c < none) bytes"
stele svf route --artifact artifact --model model --tokens 1,2,3 --threads 2 -q --json | jq -r .schema
# A wrong vector: one line, status 2, nothing written.
head -c 200 vector.safetensors > short.safetensors
status=0
stele svf apply --reference reference.json --router-vector short.safetensors --model model --components-dir components --out other -q 2> err || status=$?
echo "status $status, $(wc -l < err) line"
[ ! -e other ]
