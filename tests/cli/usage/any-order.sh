# Options may stand anywhere, and after -- everything is an argument: each of these reaches the file, which is absent.
stele tokenize --no-bos absent text && exit 1
stele tokenize absent --no-bos text && exit 1
stele tokenize absent text --no-bos && exit 1
stele tokenize --no-bos -- absent --no-bos && exit 1
stele tokenize absent --file=/dev/null --no-bos
