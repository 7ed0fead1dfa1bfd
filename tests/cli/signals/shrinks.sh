# A file that becomes shorter while it is mapped ends the run with its name, as text and as JSON.
make() {
	header="{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1024), }"
	printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" > big.npy
	truncate -s 4096000128 big.npy
}
# A megabyte of its pages is in use: the size was asked, and the numbers are being read.
is_read() {
	awk '/big.npy/ { here = 1 } here && /^Rss:/ { exit !($2 > 1000) } END { if (!here) exit 1 }' "/proc/$1/smaps" 2> /dev/null
}
for flag in --quiet --json; do
	make
	stele inspect --threads 1 $flag big.npy &
	until is_read $!; do sleep 0.01; done
	truncate -s 1000000 big.npy
	status=0
	wait $! || status=$?
	[ $status = 2 ]
done
