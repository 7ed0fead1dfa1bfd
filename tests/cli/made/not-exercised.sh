# What this prompt does not show is told and counts in --assert-match: another EOS, a window beyond the prompt, a merge
# less, a piece's spelling, a chat template, a head that its file says is none. With --prompt-only the same pairs match; a sound pair has nothing to tell.
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 -o a.gguf > /dev/null
stele synth --arch qwen2 --preset tiny --type f32 --seed 3 --format hf -o b > /dev/null
edit() { # edit FOLDER FILE JQ-FILTER: a copy of b in which FILE is changed
	cp -r b "$1"
	jq "$3" "b/$2" > "$1/$2"
}
edit also config.json '.eos_token_id = 7'
edit eos config.json '.eos_token_id = 7'
rm eos/generation_config.json
edit window config.json '.use_sliding_window = true | .sliding_window = 64 | .max_window_layers = 0'
edit merges tokenizer.json 'del(.model.merges[-1])'
edit piece tokenizer.json '.added_tokens[1].content = "<|start|>"'
edit type tokenizer.json '.added_tokens[1].special = false'
edit pre tokenizer.json '.pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true}'
edit template tokenizer_config.json '.chat_template = "{{ messages }}"'
edit other tokenizer_config.json '.chat_template = "{{ message }}"'
edit ends generation_config.json '.eos_token_id = [456, 3]'
edit strip tokenizer.json '.added_tokens[1].lstrip = true'
edit strips tokenizer.json '.added_tokens[1].rstrip = true'
edit pad config.json '.pad_token_id = 3'
edit tie config.json '.tie_word_embeddings = true'
for pair in "a.gguf b" "b a.gguf" "eos a.gguf" "also a.gguf" "window a.gguf" "a.gguf merges" "a.gguf piece" "a.gguf type" "a.gguf pre" \
	"a.gguf template" "other template" "ends b" "strip b" "strip strips" "pad b" "tie b"; do
	echo "== $pair"
	status=0
	stele rosetta $pair --prompt "2+2=" --assert-match --quiet > report || status=$?
	sed -n '/Not exercised/,/===/{/Not exercised/d;/===/d;s/^\[ROSETTA\] *//p;}' report
	sed -n 's/^\[ROSETTA\] \(PASSED[^:]*\):.*/\1/p' report
	echo "exit $status, this prompt only: $(stele rosetta $pair --prompt "2+2=" --assert-match --prompt-only --quiet > /dev/null; echo $?)"
done
stele rosetta eos a.gguf --prompt "2+2=" --json --quiet | jq -c '.not_exercised[]'
