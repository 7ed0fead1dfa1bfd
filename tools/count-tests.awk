# count-tests.awk - the closing line of `make check`, from meson's testlog.json files.
#
# One JSON object per line and program; TAP output is in "stdout". Every TAP case counts as one; a
# program that fails without a failed case (a crash, a time limit, missing cases) counts as one more.

{
	if (!match($0, /", "result": "[A-Z]+"/))
		next
	result = substr($0, RSTART + 14, RLENGTH - 15)
	begin = index($0, "\"stdout\": \"") + 11
	out = substr($0, begin, RSTART - begin)
	name = $0
	sub(/^\{"name": "/, "", name)
	sub(/".*/, "", name)
	sub(/^.* \/ /, "", name) # "stele:cli / cli-usage"

	gsub(/\\n/, "\n", out)
	gsub(/\\t/, "\t", out)
	gsub(/\\"/, "\"", out)
	n = split(out, line, "\n")
	ok = bad = skip = 0
	why = ""
	for (i = 1; i <= n; i++) {
		if (line[i] ~ /^(not )?ok [0-9]+.*# SKIP/)
			skip++
		else if (line[i] ~ /^ok [0-9]+/)
			ok++
		else if (line[i] ~ /^not ok [0-9]+/) {
			bad++
			sub(/^not ok [0-9]+ *-? */, "", line[i])
			failures = failures "FAILED  " name ": " line[i] "\n" why
		}
		# What a case says of itself stands before its result.
		why = line[i] ~ /^# / ? why "        " substr(line[i], 3) "\n" : ""
	}
	if (ok + bad + skip == 0) {
		if (result == "OK")
			ok = 1
		else if (result == "SKIP")
			skip = 1
	}
	if (result != "OK" && result != "SKIP" && result != "EXPECTEDFAIL" && bad == 0) {
		bad = 1
		failures = failures "FAILED  " name ": " tolower(result) " outside its cases\n"
	}
	passed += ok
	failed += bad
	skipped += skip
}

END {
	if (NR == 0) {
		failures = "FAILED  no test was run\n"
		failed = 1
	}
	printf "%s", failures
	last = sprintf("%d passed, %d failed%s", passed, failed, skipped ? ", " skipped " skipped" : "")
	print last
	if (closing)
		print last > closing
	exit failed > 0
}
