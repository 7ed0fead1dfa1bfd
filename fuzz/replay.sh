#!/bin/sh
# Replay the small files of the shared data set through one fuzz target; skipped (77) where the set is absent.
#
#   fuzz/replay.sh TARGET
set -eu
shared=${STELE_SHARED:-$(dirname "$0")/../../shared}
[ -d "$shared/data/malformed" ] || exit 77
find "$shared/data" -type f -size -256k -print0 | sort -z | xargs -0 "$1"
