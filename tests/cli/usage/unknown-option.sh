stele inspect --jsno file
