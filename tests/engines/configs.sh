#!/bin/sh
# Models of every family with other configurations, against transformers (configs.py). TAP.
#
#   tests/engines/configs.sh STELE BUILD SOURCE [OPTION...]
#
# Takes the virtual environment of run.sh; torch is not installed there by itself (it is large): without it the suite is skipped with a line.
# All changes of all families take half an hour on one core; by themselves every fifth is tried. `--share 0/1` tries all.
set -u
venv=${STELE_ENGINES:-$2/engines}
"$venv/bin/python3" -c 'import torch, transformers, numpy' > /dev/null 2>&1 || {
	echo "1..0 # SKIP torch and transformers are not in $venv"
	exit 0
}
stele=$1 source=$3
shift 3
[ $# -gt 0 ] || set -- --share 0/5
exec "$venv/bin/python3" "$(dirname "$0")/configs.py" "$stele" "$source" "$@"
