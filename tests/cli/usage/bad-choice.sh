stele trace m --tokens 1 --mode=exakt
