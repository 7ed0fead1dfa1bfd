# What llama.cpp computed, soundly and with a mistake planted in it or in its file: verdict, place and cause.
[ "$SHARED" ] || { echo "skipped: no shared data" >&2; exit 77; }
for case in "$SHARED"/captures/*/case.json; do
	folder=$(dirname "$case")
	model=$SHARED/captures/$(jq -r .model "$case")
	stele explain "$folder/trace.safetensors" --model "$model" --json > report.json || [ $? = 1 ]
	jq -r --slurpfile c "$case" '
		. as $r | $c[0].expect as $e | (($e.also_accept_stages + [$e.stage]) | index([$r.first_divergence.stage])) as $place |
		(($e.also_accept_causes + [$e.cause]) | index([$r.cause.code])) as $cause |
		if $e.verdict == "clean" then (if $r.verdict == "match" or $r.verdict == "noise" then "clean" else "called a fault" end)
		elif $r.verdict != "fault" then "not seen"
		elif $place == null or $r.first_divergence.layer != $e.layer
		then "seen at \($r.first_divergence.stage) of layer \($r.first_divergence.layer)"
		elif $cause == null then "called \($r.cause.code)"
		else "\($r.cause.confidence): \($e.cause)" end | "\($c[0].id): \(.)"' report.json
done
