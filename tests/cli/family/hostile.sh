# Pages of strangers on a sound model: each is refused in one line that names the page's line and the words at fault, within
# little time and memory, by the command that binds a page and by one that runs it.
stele synth --arch llama --preset tiny -o tiny.gguf --quiet > /dev/null
stele family show llama > llama.family
memory=600000
! grep -q __asan_init "$(command -v stele)" && ! grep -q __tsan_init "$(command -v stele)" || memory=unlimited
try() {
	for command in "family check" trace; do
		rc=0
		(ulimit -v $memory; timeout 60 stele $command tiny.gguf --tokens 1,2,3 --family h.family > out 2> err) || rc=$?
		[ $rc = 2 ] || echo "$1: $command: exit $rc"
		[ "$(wc -l < err)" = 1 ] || echo "$1: $command: not one line"
		[ "$command" = trace ] || sed "s/^stele $command: //" err > first
	done
	sed "s/^stele trace: //" err | cmp - first
	# The line itself for its number, which moves with the built-in page.
	line=$(sed -n 's/.*h\.family:\([0-9]*\).*/\1/p' first)
	sed "s/^/$1: /; s/h\.family:[0-9][0-9]*/h.family:LINE/; s/in line [0-9]*/in line N/" first
	[ -z "$line" ] || sed -n "${line}p" h.family | tr -d '\0' | tr -s ' ' | cut -c 1-60 | sed 's/^/    /'
}
with() {
	sed "$2" llama.family > h.family
	! cmp -s llama.family h.family || echo "$1: nothing is changed"
	try "$1"
}
behind() { # these lines stand behind the first that matches
	sed "/$2/r many" llama.family > h.family
	try "$1"
}
with "of itself" 's/^attn_out  .*/attn_out = add(attn_out, x)/'
with "cycle" 's/^attn_norm .*rmsnorm(x/attn_norm = rmsnorm(ffn_norm/'
with "before it stands" 's/^post_attn_residual .*/post_attn_residual = add(x, ffn_out)/'
with "recursion" 's/^\[weights\]/let width = width + 1\n&/'
with "a key twice" 's/^\[weights\]/hidden count a b\n&/'
with "a key again" 's/^\[weights\]/let hidden = 3\n&/'
with "zero, require" 's/^\[weights\]/let zero = hidden - hidden\nrequire 1 \/ zero > 0\n&/'
with "zero, shape" 's/^up \(.*\)ffn, hidden/up \1ffn \/ (hidden - hidden), hidden/'
with "zero, parameter" 's/^attn_norm .*rmsnorm(x, attn_norm/&, eps=1\/(layer - layer)/'
with "zero, remainder" 's/^attn_norm .*rmsnorm(x, attn_norm/&, eps=1%(layer - layer)/'
with "2^31, shape" 's/^up \(.*\)ffn, hidden/up \12147483648, hidden/'
with "2^31, width" 's/^lm_head .*/lm_head = slice(final_norm, count=2147483648)/'
with "2^31 - 1, width" 's/^lm_head .*/lm_head = slice(final_norm, count=2147483647)/'
with "2^31 - 1, place" 's/^lm_head .*/lm_head = slice(final_norm, from=2147483647, count=1)/'
with "1e300" 's/^up \(.*\)ffn, hidden/up \11e300, hidden/'
with "negative" 's/^up \(.*\)ffn, hidden/up \1-4, hidden/'
with "a fraction" 's/^up \(.*\)ffn, hidden/up \1ffn \/ 7, hidden/'
with "another shape" 's/^up \(.*\)ffn, hidden/up \1ffn + 1, hidden/'
with "heads" 's/^attn_scores .*k_post_rope/&, heads=7/'
with "no heads" 's/^attn_scores .*k_post_rope/&, heads=0/'
with "widths" 's/^post_attn_residual .*/post_attn_residual = add(x, qkv_matmul)/'
with "heads of 3" 's/^q_post_rope .*rope_freqs/&, head_dim=3/'
with "heads of 0" 's/^q_post_rope .*rope_freqs/&, head_dim=0/'
with "pairs" 's/^q_post_rope .*rope_freqs/&, pairs=77/'
with "eps" 's/^attn_norm .*rmsnorm(x, attn_norm/&, eps=-1/'
with "a group in front" 's/^layers .*/let nothing = 0/'
with "wide" 's/^post_ffn_residual .*/a = spread(x, x)\nb = spread(a, x)\nc = spread(b, x)\n&/'
{ printf 'a = spread(x, x)\nb = spread(a, x)\n'; for i in $(seq 900); do echo "b$i = silu(b)"; done; } > many
behind "wide and many" '^layer x'
for i in $(seq 10000); do echo "s$i = silu(x)"; done > many
behind "10000 stages" '^layer x'
for i in $(seq 200); do echo 'harmless config a b c d e f g'; done > many
behind "many words" '^\[keys\]'
echo "let deep = $(printf '(%.0s' $(seq 400))1" > many
behind "deep brackets" '^\[keys\]'
echo "let deep = $(printf -- '-%.0s' $(seq 900))1" > many
behind "deep signs" '^\[keys\]'
echo "let deep = $(printf -- '1 if 1 else %.0s' $(seq 80))1" > many
behind "deep choices" '^\[keys\]'
{ echo 'let a0 = 2'; for i in $(seq 40); do echo "let a$i = a$((i - 1)) * a$((i - 1))"; done; echo 'require a40 > 1'; } > many
behind "doubling" '^\[keys\]'
for i in $(seq 300); do echo 'when layer >= 0'; done > many
behind "deep conditions" '^layer x'
printf 'family llama\0\n' > h.family
try "NUL"
{ cat llama.family; printf '\0'; } > h.family
try "NUL at the end"
{ cat llama.family; printf 'z = silu(lm_head)%*s' 100000 x; } > h.family
try "a long line"
head -c 300000 /dev/zero > h.family
try "zeros"
: > h.family
try "nothing"
rm h.family; mkdir h.family
try "a folder"
rmdir h.family; mkfifo h.family
try "a pipe"
