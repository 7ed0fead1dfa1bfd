# One bad file among good ones is named, the others are shown, and the status tells.
header="{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
printf '\x93NUMPY\x01\x00\x76\x00%-117s\n\x00\x00\x80\x3f' "$header" > a.npy
: > empty
stele inspect a.npy empty a.npy | grep -c '^a.npy$' || true
stele inspect --json a.npy empty a.npy
