# Each is refused with the option's name: signs, blanks, hexadecimal, fractions, too large, empty.
for v in -1 +1 ' 1' 0x10 1.5 4294967296 '' 1k; do
	stele inspect file --threads "$v" && exit 1
	[ $? = 2 ]
done
