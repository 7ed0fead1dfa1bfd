# A configuration that names another EOS than its own tokenizer is said to; a sound folder has nothing to say.
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 --format hf -o b > /dev/null
stele inspect b --no-stats --json --quiet | jq -c '[.files[0].anomalies[] | .kind]'
jq '.eos_token_id = 7' b/config.json > c && mv c b/config.json
# With generation_config.json beside it, which has the right one, and without.
stele inspect b --no-stats --json --quiet | jq -c '.files[0].anomalies[] | [.severity, .kind, .text]'
rm b/generation_config.json
stele inspect b --no-stats --json --quiet | jq -c '.files[0].anomalies[] | [.severity, .kind, .text]'
