# count-tests.awk - the closing line of `make check`, from meson's testlog.json files.
#
# One JSON object per line and program; TAP output is in "stdout". Every TAP case counts as one; a
# program that fails without a failed case (a crash, a time limit, missing cases) counts as one more. That there is no
# test at all is a failure, unless -v other=WHAT says what was done instead.
# Before the last line stands what was skipped: how many cases, and why. A case says why behind "# SKIP", or in a line
# "skipped: REASON" on stderr; what it adds in parentheses is an example and does not make a reason of its own.

function unescape(s) {
	gsub(/\\n/, "\n", s)
	gsub(/\\t/, "\t", s)
	gsub(/\\"/, "\"", s)
	return s
}

function skip_for(reason,    example) {
	sub(/^ +/, "", reason)
	if (reason == "")
		reason = "no reason given"
	example = reason
	sub(/ *\([^()]*\)$/, "", reason)
	if (!(reason in skips)) {
		order[++reasons] = reason
		examples[reason] = substr(example, length(reason) + 1)
	}
	skips[reason]++
}

{
	if (!match($0, /", "result": "[A-Z]+"/))
		next
	result = substr($0, RSTART + 14, RLENGTH - 15)
	begin = index($0, "\"stdout\": \"") + 11
	out = substr($0, begin, RSTART - begin)
	result_end = RSTART
	name = $0
	sub(/^\{"name": "/, "", name)
	sub(/".*/, "", name)
	sub(/^.* \/ /, "", name) # "stele:cli / cli-usage"

	told = 0
	if ((i = index(substr($0, result_end), "\"stderr\": \""))) {
		n = split(unescape(substr($0, result_end + i + 10)), line, "\n")
		for (i = 1; i <= n; i++)
			if (sub(/^skipped: /, "", line[i]))
				told_why[++told] = line[i]
	}
	n = split(unescape(out), line, "\n")
	ok = bad = skip = 0
	why = ""
	for (i = 1; i <= n; i++) {
		if (line[i] ~ /^(not )?ok [0-9]+.*# SKIP/) {
			skip++
			sub(/.*# SKIP/, "", line[i])
			skip_for(skip <= told ? told_why[skip] : line[i])
		} else if (line[i] ~ /^ok [0-9]+/)
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
		else if (result == "SKIP") {
			skip = 1
			skip_for(told ? told_why[1] : "")
		}
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
	if (NR == 0 && other == "") {
		failures = "FAILED  no test was run\n"
		failed = 1
	}
	printf "%s", failures
	for (i = 1; i <= reasons; i++)
		printf "skipped %d: %s%s\n", skips[order[i]], order[i], examples[order[i]]
	last = sprintf("%d passed, %d failed%s", passed, failed, skipped ? ", " skipped " skipped" : "")
	print last
	if (closing)
		print last > closing
	exit failed > 0
}
