stele help > a
stele --help > b
cmp a b
head -n 1 a
