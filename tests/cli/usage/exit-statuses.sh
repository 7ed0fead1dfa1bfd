# Help lists exit statuses one to a line, "0  meaning"; the overview page knows that of an interrupt.
stele help --list | while read -r command; do
	stele help $command | sed -n '/^Exit status:/,$p' > list
	grep -q '^  0  [a-z]' list || echo "$command: no line for 0"
	grep -nE ';? *[0-9] (when|for) ' list || true
done
stele help --man | grep -q '^\.B 130'
