stele inspect file --no-stats=yes
