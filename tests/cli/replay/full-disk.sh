# What cannot be written is named by the place where it would have been, and nothing is left behind.
ulimit -f 8
stele replay --make-manifest --kind d128 --out cap || echo "status $?"
ls
