# One line that names the parameter, status 1, nothing written.
stele replay --make-manifest --kind d128 --out cap > /dev/null
try() { stele replay "$@" --out never || echo "$?"; }
try --manifest cap/manifest.json --variation D
try --manifest cap/manifest.json --oracle mine
try --manifest cap/manifest.json --bits 5
try --manifest absent.json
try --codebook-lint --variation B
try --multistep --table cap/manifest.json
try --manifest cap/manifest.json --seed 1
try --manifest cap/manifest.json --against cap/q_natural.f32 --canary in-range
try --manifest cap/manifest.json --against cap/q_natural.f32 --variation C
try --make-manifest --kind d128 --variation A
try --manifest cap/q_natural.f32
sed 's/"ring_start": 0/"ring_start": 128/' cap/manifest.json > cap/a.json
try --manifest cap/a.json
sed 's/"num_heads": 4/"num_heads": 3/' cap/manifest.json > cap/a.json
try --manifest cap/a.json
try --gate round_trip
for option in '--bits 5' '--signs d1' '--kernel scalar' '--q-dtype f16' '--visibility physical'; do
	stele replay --codebook-lint $option || echo "$?"
done
for option in '--bits 5' '--signs d1' '--q-dtype f16' '--visibility physical'; do stele replay --gate kernel $option || echo "$?"; done
for option in '--q-dtype f16' '--visibility physical'; do try --make-manifest $option; done
stele replay --multistep --out no/such/place || echo "$?"
stele replay || echo "$?"
ls
