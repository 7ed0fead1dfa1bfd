#!/bin/sh
# Described families written by convert as Hugging Face folders, out of GGUF files that it wrote, loaded by transformers. TAP.
#
#   tests/engines/families.sh STELE BUILD SOURCE
#
# Takes the virtual environment of run.sh; torch is not installed there by itself (it is large): without it the suite is skipped with a line.
set -u
venv=${STELE_ENGINES:-$2/engines}
"$venv/bin/python3" -c 'import torch, transformers, numpy' > /dev/null 2>&1 || {
	echo "1..0 # SKIP torch and transformers are not in $venv"
	exit 0
}
exec env TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$venv/bin/python3" "$(dirname "$0")/families.py" "$1" "$3/tests/data/families"
