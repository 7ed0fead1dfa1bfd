# Files that end too early, through the command: status 2 and one line, at the end of each part and at places between.
export OMP_NUM_THREADS=1
limit=$((64 * 1024 + 1024 * 1024))
{ (ulimit -v $limit; stele --version); } > out 2>&1 && ulimit -v $limit # sanitizers reserve more than any file needs
cat > config.json << 'END'
{"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
 "vocab_size": 264, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true}
END
for name in model.gguf model.apr model; do
	stele synth --config config.json -o $name --quiet > made
done
mv model/model.safetensors model.safetensors
cp model/config.json whole.json
stele trace model.gguf --tokens 1,2 --save-tensor attn_norm,lm_head --bundle trace.safetensors --quiet > made
cp model.safetensors model/

ask() {
	rc=0
	timeout 10 stele "$@" > out 2> err || rc=$?
	[ "$rc" = 2 ] && [ ! -s out ] && [ "$(wc -l < err)" = 1 ] || echo "$label: stele $1: status $rc, $(wc -c < out) bytes, $(head -c 300 err)"
}

for file in model.gguf model.apr model.safetensors trace.safetensors; do
	size=$(stat -c %s $file)
	suffix=${file##*.}
	for at in 0 1 4 8 9 16 24 63 64 500 1000 2000 3000 4000 $((size / 3)) $((size / 2)) $((size - 5)) $((size - 1)); do
		[ "$at" -lt "$size" ] || continue
		label="$file cut at $at of $size"
		head -c $at $file > cut.$suffix
		ask inspect cut.$suffix
		ask trace cut.$suffix --tokens 1 --quiet
		ask rosetta model.gguf cut.$suffix --tokens 1 --quiet
		ask diff cut.$suffix model.gguf --quiet
	done
done
for at in 0 1 20 100; do
	label="config.json cut at $at"
	head -c $at whole.json > model/config.json
	ask inspect model
	ask trace model --tokens 1 --quiet
done
