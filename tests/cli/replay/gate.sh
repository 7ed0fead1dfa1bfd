# A gate says what it measured and which program it was.
stele replay --gate round_trip | sed "s/$(sha256sum "$(readlink -f "$(command -v stele)")" | cut -d' ' -f1)/SELF/"
