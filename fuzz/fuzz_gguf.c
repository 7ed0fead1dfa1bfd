/* Bytes behind a sound magic and version, so that no effort goes into finding those. */
#include "fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const struct fuzz_piece file[] = { { "GGUF\3\0\0\0", 8 }, { data, n } };
	bool whole = n >= 4 && memcmp(data, "GGUF", 4) == 0; /* from a corpus of files */
	fuzz_open(file + whole, 2 - whole);
	return 0;
}
