# groff finds nothing to complain about.
command -v groff > /dev/null || exit 77
stele help --man | groff -man -Tutf8 -ww > /dev/null
stele help --list | while read -r command; do
	stele help --man $command | groff -man -Tutf8 -ww > /dev/null
done
