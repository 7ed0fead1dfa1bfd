# What synth says: the file, what was stored otherwise, what was planted where; and refusals.
stele synth --arch qwen2 --preset tiny --type Q8_0 --seed 5 --plant weight.scaled -o m.gguf --quiet
echo '{"model_type": "llama", "hidden_size": 72, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 96,
"vocab_size": 300, "rms_norm_eps": 1e-5}' > config.json
stele synth --config config.json --type Q4_K --shards 2 -o f.gguf
ls f-*
stele synth --arch qwen3 --preset tiny --type bf16 -o folder
ls folder
stele synth --arch llama --preset tiny -o m.gguf --plant weight.nope || echo "exit $?"
stele synth --arch llama --preset tiny -o folder || echo "exit $?"
stele synth --arch llama --preset tiny || echo "exit $?"
