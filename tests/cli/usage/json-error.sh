# Under --json the error is a document on stdout, whether about an option or a file.
stele inspect --json absent && exit 1
stele inspect --json --threads x absent && exit 1
stele inspect --unknown --json
