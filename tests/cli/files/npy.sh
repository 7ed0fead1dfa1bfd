# A hand-made array: shape (2, 2), values 1, -2, NaN, inf.
header="{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" > a.npy
printf '\x00\x00\x80\x3f\x00\x00\x00\xc0\x00\x00\xc0\x7f\x00\x00\x80\x7f' >> a.npy
stele inspect a.npy
stele inspect a.npy --json > doc
grep -c '"min": -2.0' doc
tensor=$(sed -n 's/.*"name": "\(.*\)",/\1/p' doc)
stele inspect a.npy --hexdump "$tensor"
stele inspect a.npy --hexdump "$tensor" --bytes 4
stele inspect a.npy --hexdump absent
