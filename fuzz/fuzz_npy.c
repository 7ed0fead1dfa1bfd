/* A dictionary's text as an npy header with the length it has, followed by 64 bytes of data; other bytes (npy and npz
 * files) as they are. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const uint8_t body[64];
	const uint16_t length = (uint16_t)n;
	const struct fuzz_piece file[] = {
		{ "\x93NUMPY\1", 8 }, { &length, sizeof length }, { data, n }, { body, sizeof body }
	};
	if (n > 0 && n <= UINT16_MAX && data[0] == '{')
		fuzz_open(file, 4);
	else
		fuzz_open(file + 2, 1);
	return 0;
}
