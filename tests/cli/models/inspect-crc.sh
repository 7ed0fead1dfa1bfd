# Members of an archive that do not have their CRC: damage in an npz file; torch can be told to compute none.
[ -n "$SHARED" ] || exit 77
damage() { # FILE, into ./$2: one byte of the first tensor
	cp "$1" "$2"
	chmod u+w "$2"
	at=$(stele inspect --json "$1" | sed -n 's/^ *"offset": \([0-9]*\),/\1/p' | head -n 1)
	printf '\177' | dd of="$2" bs=1 seek="$at" conv=notrunc status=none
}
damage "$SHARED/malformed/pt/good.pt" one.pt
stele inspect one.pt | grep crc:
stele inspect "$SHARED/malformed/pt/good.pt" | grep crc: && exit 1
damage "$SHARED/malformed/npy/pitloom-example-model-bundle.npz" one.npz
stele inspect one.npz > out && exit 1
grep crc: out
stele inspect --no-stats one.npz | grep crc: && exit 1
true
