# A capture is made, run, and its own output explained; then one that read the ring from the wrong row.
stele replay --make-manifest --kind partial --signs d1 --out cap
stele replay --manifest cap/manifest.json --out right > /dev/null
stele replay --manifest cap/manifest.json --against right_sdpa_out.bin | tail -1
sed 's/"ring_start": 27/"ring_start": 26/' cap/manifest.json > cap/wrong.json
stele replay --manifest cap/wrong.json --oracle dequant --out wrong > /dev/null || echo "status $?"
stele replay --manifest cap/manifest.json --against wrong_sdpa_out.bin | grep -E 'cause|ring_start =|verdict' || true
ls | sort
