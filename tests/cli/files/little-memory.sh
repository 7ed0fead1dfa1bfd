# Where a limit leaves 300 MB of addresses, everything but singular values works; these say in one line what they lack.
if grep -q __asan_init "$(command -v stele)" || grep -q __tsan_init "$(command -v stele)"; then
	echo "skipped: a sanitizer needs more addresses" >&2
	exit 77
fi
ulimit -v 300000
stele --version > /dev/null
stele synth --arch llama --preset tiny --type f32 --threads 1 -o a.gguf > /dev/null
stele rosetta a.gguf a.gguf --tokens 1,2,3 --threads 1 --quiet | sed -n 's/^\[ROSETTA\] \(PASSED\).*/\1/p'
