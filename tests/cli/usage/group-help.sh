# A first word of two: what it begins with, asked for in each way; without a second word it is an error.
stele svf --help > one
stele svf -h | cmp one -
stele help svf | cmp one -
cat one
stele svf && exit 1
stele svf nosuch && exit 1
true
