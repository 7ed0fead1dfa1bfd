stele inspect -Z file
