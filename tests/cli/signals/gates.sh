# An interrupt while a gate runs is no failed gate: 130, no audit, and no gate that goes on without its parent.
children() { cat /proc/[0-9]*/stat 2> /dev/null | awk -v parent="$1" '$4 == parent && $3 != "Z" { print $1 }'; }
set -m # or the shell would start it with SIGINT ignored
for signal in INT TERM; do
	stele replay --production-faithful --threads 1 --kernel scalar --out audit.json > out &
	parent=$!
	# The gate that takes seconds.
	until gate=$(children $parent | head -1) && grep -qs bitwidth "/proc/$gate/cmdline"; do sleep 0.01; done
	start=$(date +%s%N)
	# A terminal interrupts the whole group, kill -TERM the parent alone.
	if [ $signal = INT ]; then kill -INT -- -$parent; else kill -TERM $parent; fi
	status=0
	wait $parent || status=$?
	[ $status = 130 ]
	[ $(($(date +%s%N) - start)) -lt 900000000 ]
	[ -z "$(grep -vs ') Z ' "/proc/$gate/stat")" ]
	[ ! -s out ]
	[ ! -e audit.json ]
done
