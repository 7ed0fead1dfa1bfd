# The shared collection of broken and odd files through the command, each as its manifest says: refusals have status 2, one
# line on standard error that names the file, and nothing else; no answer takes long or much memory.
[ -n "$SHARED" ] || exit 77
wrong() { printf '%s\n' "$file ($expect, $level): $*"; }

# KiB: 64 MB beyond what the command and its libraries take from the start, and the file itself.
limit=$((64 * 1024 + 1024 * 1024))
{ (ulimit -v $limit; stele --version); } > out 2>&1 && ulimit -v $limit # sanitizers reserve more than any file needs
export OMP_NUM_THREADS=1

# One command on $file; status in $rc. Says what is wrong with its answer.
ask() {
	rc=0
	timeout 10 stele "$@" > out 2> err || rc=$?
	[ "$rc" -le 3 ] || wrong "$1: status $rc"
	[ "$rc" = 2 ] || return 0
	[ "$(wc -l < err)" = 1 ] || wrong "$1: $(wc -l < err) lines of errors"
	grep -q "^stele $1: .*${file%%/*}" err || wrong "$1: does not name the file: $(cat err)"
	# What inspect can show of a sound container stands although its contents contradict each other.
	[ ! -s out ] || [ "$1 $level" = "inspect model" ] || wrong "$1: prints beside its error"
}

cases=0
for manifest in "$SHARED"/malformed/*/manifest.json; do
	folder=$(dirname "$manifest")
	sed -n 's/^"\(file\|expect\|level\)": "\(.*\)",\{0,1\}$/\1 \2/p; /^}/s/.*/end/p' "$manifest" > list
	while read -r key value; do
		case $key in
		file | expect | level) eval "$key=\$value"; continue ;;
		esac
		cases=$((cases + 1))
		path=$folder/$file
		ask inspect "$path"
		case $expect-$level in
		reject-model) [ "$rc" = 2 ] || [ "$rc" = 0 ] || wrong "inspect: status $rc" ;;
		reject-*) [ "$rc" = 2 ] || wrong "inspect: status $rc" ;;
		accept-*) [ "$rc" = 0 ] || wrong "inspect: status $rc: $(cat err)" ;;
		esac
		if [ "$expect" = reject ]; then
			for command in trace rosetta diff; do
				case $command in
				trace) ask trace "$path" --tokens 1 --quiet ;;
				rosetta) ask rosetta "$path" "$path" --tokens 1 --quiet ;;
				diff) ask diff "$path" "$path" --quiet ;;
				esac
				[ "$rc" = 2 ] || [ "$command $level" = "diff model" ] || wrong "$command: status $rc"
			done
			rc=0
			timeout 10 stele trace --json "$path" --tokens 1 > out 2> err || rc=$?
			[ "$rc" = 2 ] && [ ! -s err ] && tr -d '\n' < out | grep -q '^{ *"schema": "stele.error/1", *"code": "[a-z]*", *"message": "..*}$' ||
				wrong "trace --json: status $rc: $(head -c 200 out)"
		fi
	done < list
done
[ "$cases" -gt 200 ] || echo "only $cases cases"
