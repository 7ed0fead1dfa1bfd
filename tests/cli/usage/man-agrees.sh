# SYNOPSIS of the manual page and usage of --help are the same words; so are the options.
plain() { tr -s ' \n' ' ' | sed 's/^ *//; s/ *$//'; }
stele help --list | while read -r command; do
	stele help $command | sed -n '/^usage: /,/^$/p' | sed 's/^usage: //' | plain > usage
	stele help --man $command > page
	sed -n '/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/p' page | grep -v '^\.SH' | sed 's/^\.B //; s/\\&//g; s/\\-/-/g' | plain > synopsis
	diff usage synopsis
	stele help $command | sed -n '/^Options:/,/^Exit/p' | grep -o -- '--[a-z0-9-]*' | sort -u | grep -v '^--help$' > a || true
	sed -n '/^\.SH OPTIONS/,/^\.SH EXIT/p' page | sed 's/\\-/-/g' | grep '^\.B' | grep -o -- '--[a-z0-9-]*' | sort -u > b || true
	diff a b
done
