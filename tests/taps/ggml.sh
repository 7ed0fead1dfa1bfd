#!/bin/sh
# stele tap on a program with ggml's symbols and layout: fake_llama.c. TAP. (On llama.cpp itself: tests/engines/tap.sh.)
#
#   tests/taps/ggml.sh STELE FAKE-LLAMA FAKE-LLAMA-OF-ANOTHER-LAYOUT
set -u
# Under AddressSanitizer: the object is preloaded before the runtime, and the program keeps its graphs.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0:detect_leaks=0"
stele=$(realpath "$1") fake=$(realpath "$2") other=$(realpath "$3")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
n=0 bad=0
check() { # what, status, text
	n=$((n + 1))
	if [ "$2" = 0 ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		printf '%s\n' "$3" | sed 's/^/# /'
		bad=1
	fi
}
# what, exit status, what stderr says, what the reader says, options and scenario
tapped() {
	what=$1 status=$2 said=$3 kept=$4
	shift 4
	rm -f t.safetensors
	err=$("$stele" tap -o t.safetensors "$@" 2>&1)
	got=$?
	read=$([ -f t.safetensors ] && "$fake" check t.safetensors)
	[ $got = "$status" ] && printf '%s\n' "$err" | grep -q -- "$said" && [ "$(printf '%s\n' "$err" | grep -c .)" -le 2 ] &&
		[ "$read" = "$kept" ] && [ -z "$(find . -name '*.part')" ]
	check "$what" $? "exit status $got: $err
$read"
}
all='"tokens":"[20, 21, 22, 23, 24
51 values, 0 wrong'
tapped "a prompt and two steps" 0 "5 tokens and 2 steps, 51 values" "$all" -- "$fake" plain
tapped "a warm-up is passed over, pieces are joined, one token is a piece of a prompt without logits" 0 "attn_scores of layer 0 has rows in several pieces" \
	"$(printf '%s\n' "$all" | sed 's/51/47/')" -- "$fake" pieces
tapped "the second prompt" 0 "5 tokens and 2 steps" "$all" --pass 1 -- "$fake" two-prompts
tapped "the prompt of these tokens" 0 "5 tokens and 2 steps" "$all" --pass 20,21,22 -- "$fake" two-prompts
tapped "the prompt of these tokens among two models" 0 "5 tokens and 2 steps" "$all" --pass 20,21,22 -- "$fake" two-models
tapped "F16" 0 "51 values" "$all" -- "$fake" half
tapped "rows with strides" 0 "51 values" "$all" -- "$fake" strided
tapped "quantised values are decoded" 0 "51 values" "$all" -- "$fake" quantised
tapped "the program's own callback sees what it asked for" 0 "51 values" "$all" -- "$fake" own-callback
tapped "one of two sequences, its columns are not its positions" 0 "12 values were left out: attn_scores" \
	"$(printf '%s\n' "$all" | sed 's/51/39/')" --pass 20,21 -- "$fake" sequences
tapped "a cache whose cells are not the positions" 0 "12 values were left out: attn_scores of layer 0 has its columns" \
	"$(printf '%s\n' "$all" | sed 's/51/39/')" -- "$fake" cells
tapped "stages that were asked for" 0 "9 values" "$(printf '%s\n' "$all" | sed 's/51/9/')" --stages lm_head,attention -- "$fake" plain
tapped "layers that were asked for" 0 "30 values" "$(printf '%s\n' "$all" | sed 's/51/30/')" --layers 1..2 -- "$fake" plain
tapped "steps that were asked for" 0 "5 tokens and 1 steps, 34 values" "$(printf '%s\n' "$all" | sed 's/51/34/')" --steps 1 -- "$fake" plain
tapped "two sequences that positions do not tell apart are refused" 2 "rows of several sequences" '' -- "$fake" merged
tapped "a cache that was filled before" 2 "no prompt began at position 0" '' -- "$fake" late
tapped "no such prompt" 2 "2 prompts came, none was the one asked for" '' --pass 7 -- "$fake" two-prompts
tapped "another layout of tensors is refused by its version" 2 "ggml 0.0.0-fake lays its tensors out otherwise" '' -- "$other" plain
tapped "a program without ggml" 2 "ran no graph of a shared ggml library" '' -- true
tapped "no program" 2 "No such file or directory" '' -- ./absent
tapped "a program's own exit status" 7 "ran no graph" '' -- sh -c 'exit 7'
tapped "a program that is killed" 137 "ended by signal 9" '' -- sh -c 'kill -9 $$'
tapped "a stage that is none" 2 "'queries' is none that the tap knows: attention, " '' --stages attention,queries -- "$fake" plain
tapped "layers that are none" 2 "is no range A..B" '' --layers 2..1 -- "$fake" plain
tapped "a pass that is none" 2 "neither a number nor a list" '' --pass 1,x -- "$fake" plain
trap '' XFSZ
tapped "a full disk ends the tap alone" 2 "File too large; the tap has ended, the engine goes on\|File too large; no trace was written" '' -- \
	sh -c "ulimit -f 2; exec '$fake' plain"
trap - XFSZ
echo "1..$n"
exit $bad
