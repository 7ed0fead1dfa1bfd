#!/bin/sh
# What Stele writes, read by the readers of the field: the Python packages tokenizers, transformers, gguf, safetensors. TAP.
#
#   tests/engines/run.sh STELE BUILD [CASE...]
#
# The packages are installed into a virtual environment in the build folder, once; STELE_ENGINES names another that has
# them. Where they cannot be had, the suite is skipped with a line.
set -u
venv=${STELE_ENGINES:-$2/engines}
here=$(dirname "$0")
skip() {
	echo "1..0 # SKIP $1"
	exit 0
}
needs='numpy gguf tokenizers transformers safetensors'
if [ ! -x "$venv/bin/python3" ]; then
	python3 -m venv "$venv" > /dev/null 2>&1 || skip "no virtual environment for Python can be made"
	# shellcheck disable=SC2086 # words
	if ! "$venv/bin/pip" install -q $needs > "$venv/pip.log" 2>&1; then
		rm -rf "$venv"
		skip "the Python packages $needs cannot be installed"
	fi
fi
"$venv/bin/python3" -c 'import numpy, gguf, tokenizers, transformers, safetensors' > /dev/null 2>&1 \
	|| skip "the Python packages $needs are not in $venv"
stele=$1
shift 2
exec env TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$venv/bin/python3" "$here/engines.py" "$stele" "$@"
