# Output that did not arrive is an error, however it was printed.
stele help > /dev/full && exit 1
stele --version > /dev/full && exit 1
stele help --man > /dev/full && exit 1 # more than stdio keeps back
stele help --list > /dev/full
