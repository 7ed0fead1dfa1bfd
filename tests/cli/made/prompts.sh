# Several prompts: the first is judged by stages, the next tokens of all are counted; layers by what they cost.
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 -o a.gguf > /dev/null
stele synth --arch qwen2 --preset tiny --type q8_0 --seed 3 -o b.gguf > /dev/null
printf '2+2=\n\nhello\r\n' > two.txt
: > none.txt
stele rosetta b.gguf a.gguf --prompts two.txt --layer-costs --json --quiet > report.json
jq -c '[.verdict, .prompt, .agreement.prompts, .agreement.positions >= 4, .agreement.top1 <= .agreement.top5, .agreement.kl_mean > 0, .agreement.kl_max < 0.1, (.layer_costs | length) > 2]' report.json
jq -c '[.layer_costs[].layer] | [.[0], .[1]]' report.json
stele rosetta b.gguf a.gguf --prompts two.txt --quiet | sed -n '/=== Next tokens/p'
stele rosetta b.gguf a.gguf --prompts none.txt --quiet || echo "exit $?"
stele rosetta b.gguf a.gguf --prompts two.txt --prompt x --quiet || echo "exit $?"
