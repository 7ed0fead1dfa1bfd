# A configuration that contradicts the shapes, or itself: shown as a fault, and one line with status 2.
[ "$SHARED" ] || exit 77
cp -r $SHARED/models/stories260k/hf m
chmod -R u+w m
cp m/config.json good
try() {
	sed "s/$1/$2/" good > m/config.json
	stele inspect m | sed -n '/^Anomalies/,$p'
	[ "${PIPESTATUS[0]}" = 2 ]
}
try '"intermediate_size": 172' '"intermediate_size": 171'
try '"num_attention_heads": 8' '"num_attention_heads": 7'
try '"rms_norm_eps": 1e-05' '"rms_norm_eps": -1'
stele inspect m --json | grep -A 3 '"severity"'
