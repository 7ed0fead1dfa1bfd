stele tokenize model --file f text
