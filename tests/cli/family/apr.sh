# APR files by the pages of their families: what their metadata call the keys, in the spellings of both writers.
for arch in llama qwen2 qwen3; do
	stele synth --arch $arch --preset tiny --format apr -o $arch.apr --quiet > /dev/null
	stele synth --arch $arch --preset tiny --format hf -o $arch --quiet > /dev/null
	stele family check $arch.apr --tokens 1,2,3 --json > apr.json
	stele family check $arch --tokens 1,2,3 --json > hf.json
	# The same model: the same tokens come next.
	[ "$(jq -c .next apr.json)" = "$(jq -c .next hf.json)" ] || echo "$arch: another token"
	jq -c '.family, (.unused | length), (.unread | length)' apr.json
	jq -r '.keys[] | select(.name == "layers" or .name == "eps" or .name == "row_order") | "\(.name) \(.value) \(.key) \(.said)"' apr.json
done
# A page that has no line for APR files knows none.
stele family show qwen2 | grep -v '^apr ' > mine.family
stele family check qwen2.apr --family mine.family || echo "exit $?"
# Of a name that the file has not, the nearest that it has.
stele family show qwen2 | sed 's/mlp.up_proj /mlp.upp /' > mine.family
stele family check qwen2.apr --family mine.family | sed -n '1,2p'
