stele inspect file --hexdump
