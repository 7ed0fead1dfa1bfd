#!/bin/sh
# A small model in two containers, first sound, then with one matrix transposed: what Stele says
# of each. Everything happens in a temporary folder.
#
#   tools/demo.sh STELE
set -eu
stele=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# Show a command, run it, and insist on its exit status.
step() {
	want=$1
	shift
	printf '\n$ stele'
	for word in "$@"; do
		case $word in *[!A-Za-z0-9_./:=-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
	done
	printf '\n'
	status=0
	"$stele" "$@" || status=$?
	if [ "$status" != "$want" ]; then
		echo "demo: exit status $status, expected $want" >&2
		exit 1
	fi
}

echo "One model in two containers:"
step 0 synth --arch qwen2 --preset tiny --type f32 --seed 1 -o model.gguf
step 0 synth --arch qwen2 --preset tiny --type f32 --seed 1 -o model.apr
printf '\nThe sound pair:\n'
step 0 rosetta model.apr model.gguf --prompt "2+2=" --assert-match --quiet
printf '\nThe same model, written with one matrix transposed:\n'
step 0 synth --arch qwen2 --preset tiny --type f32 --seed 1 --plant weight.transposed:1 -o broken.apr
step 1 rosetta broken.apr model.gguf --prompt "2+2=" --assert-match --quiet > report
cat report
# The report begins with its summary; a screen shows the end.
printf '\nIn short:\n'
sed -n 's/^\[ROSETTA\] \(FAILED\|DIAGNOSIS\|Recommendation\)/\1/p' report
