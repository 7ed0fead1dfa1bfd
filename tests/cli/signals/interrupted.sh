# An interrupt stops within a second and says what was not done; 130 for each signal.
header="{'descr': '<f4', 'fortran_order': False, 'shape': (2000000, 1024), }"
printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" > big.npy
truncate -s 8192000128 big.npy
set -m # or the shell would start it with SIGINT ignored
for signal in INT HUP TERM; do
	stele inspect --threads 1 big.npy &
	until grep -q big.npy /proc/$!/maps 2> /dev/null; do sleep 0.01; done
	start=$(date +%s%N)
	kill -$signal $!
	status=0
	wait $! || status=$?
	[ $status = 130 ]
	[ $(($(date +%s%N) - start)) -lt 1500000000 ]
done
