#!/bin/sh
# Make the large models that the benchmarks need (once; 9.4 GB, and 2.2 GB of traces beside them), then run
# the benchmarks on two threads.
#
#   tools/bench.sh BUILD [stele-bench's arguments]
#
# STELE_BENCH_DATA names another folder for them (default: BUILD/bench-data). Without room for them the other rows
# are printed all the same.
set -eu
build=$1
shift
data=${STELE_BENCH_DATA:-$build/bench-data}
mkdir -p "$data"
for name in 7b.gguf 7b.apr; do
	[ -e "$data/$name" ] && continue
	free=$(df -Pk "$data" | awk 'NR == 2 { print $4 }')
	if [ "$free" -lt 13000000 ]; then
		echo "bench: $data has no room for the 7B models; their rows are left out" >&2
		exec "$build/bench/stele-bench" --threads=2 "--stele=$build/stele" "$@"
	fi
	echo "bench: making $data/$name" >&2
	"$build/stele" synth --arch qwen2 --preset qwen2-7b --type Q4_K_M --seed 1 -o "$data/$name" --quiet >&2
done
exec "$build/bench/stele-bench" --threads=2 "--stele=$build/stele" "--data=$data" "$@"
