# Every command explains itself in two ways, and the lines fit a terminal.
stele help --list | while read -r command; do
	stele $command --help > a
	stele help $command > b
	cmp a b
	grep -q "^usage: stele $command" a
	grep -q '^Exit status:' a
	awk -v c="$command" 'length > 100 { print c ": " $0 }' a
done
