#!/bin/sh
# The built-in descriptions of families as C: st_family_texts of src/family/family.h, on standard output.
#
#   tools/embed-families.sh FILE...
set -eu
echo '#include "family/family.h"'
echo 'const struct st_family_text st_family_texts[] = {'
for file; do
	name=$(basename "$file")
	printf '\t{ "%s", "%s",\n' "$name" "${name%.*}"
	sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' -e 's/.*/\t  "&\\n"/' "$file"
	printf '\t  , %s },\n' "$(wc -c <"$file")"
done
echo '};'
echo "const size_t st_family_text_count = $#;"
