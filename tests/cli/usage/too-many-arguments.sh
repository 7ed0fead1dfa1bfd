stele tokenize model one two
