/* Bytes behind the magic of an APRT stage. */
#include "fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const struct fuzz_piece file[] = { { "APRT", 4 }, { data, n } };
	bool whole = n >= 4 && memcmp(data, "APRT", 4) == 0; /* from a corpus of files */
	fuzz_open(file + whole, 2 - whole);
	return 0;
}
