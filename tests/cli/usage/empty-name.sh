# An empty word where a file belongs: most likely a shell variable that was not set.
stele inspect "" && exit 1
stele inspect good "" && exit 1
stele diff "" x && exit 1
stele tokenize x --file "" && exit 1
true
