#!/bin/sh
# Replay the seeds, and the small files of the shared data set where it is there, through one fuzz target.
#
#   fuzz/replay.sh TARGET SEEDS
#
# SEEDS is the program that writes the seeds.
set -eu
shared=${STELE_SHARED:-$(dirname "$0")/../../shared}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$2" "$folder"
[ ! -d "$shared/data" ] || find "$shared/data" -type f -size -256k -print0 | sort -z | xargs -0 "$1"
find "$(dirname "$0")/family" "$(dirname "$0")/../families" -type f -print0 | sort -z | xargs -0 "$1"
find "$folder" -type f -print0 | sort -z | xargs -0 "$1"
