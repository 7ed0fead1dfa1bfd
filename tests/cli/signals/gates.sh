# An interrupt while a gate runs is no failed gate: 130, no audit, and no gate that goes on without its parent.
children() { cat /proc/[0-9]*/stat 2> /dev/null | awk -v parent="$1" '$4 == parent && $3 != "Z" { print $1 }'; }
set -m # or the shell would start it with SIGINT ignored
for signal in INT TERM; do
	stele replay --production-faithful --threads 1 --out audit.json > out &
	parent=$!
	until [ -n "$(children $parent)" ]; do sleep 0.01; done
	gate=$(children $parent | head -1)
	start=$(date +%s%N)
	# The terminal interrupts the whole group, kill -TERM the parent alone.
	[ $signal = INT ] && kill -INT -- -$parent || kill -TERM $parent
	status=0
	wait $parent || status=$?
	[ $status = 130 ]
	[ $(($(date +%s%N) - start)) -lt 900000000 ]
	[ -z "$(grep -v ') Z ' /proc/"$gate"/stat 2> /dev/null)" ]
	[ ! -s out ]
	[ ! -e audit.json ]
done
