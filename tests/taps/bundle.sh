#!/bin/sh
# The bundle writer of taps/python: bundle.py. TAP.
#
#   tests/taps/bundle.sh STELE SOURCE
set -u
command -v python3 > /dev/null || {
	echo "1..0 # SKIP no python3"
	exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PYTHONDONTWRITEBYTECODE=1 python3 -I -S "$(dirname "$0")/bundle.py" "$1" "$2" "$work"
