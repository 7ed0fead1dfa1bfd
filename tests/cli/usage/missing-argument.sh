stele inspect --json-not-given || stele inspect
