stele
