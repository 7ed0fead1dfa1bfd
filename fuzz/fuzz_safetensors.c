/* The text as a safetensors header with the length it has, followed by 64 bytes of data; whole files as they are. */
#include "fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const uint8_t body[64];
	const uint64_t length = n;
	const struct fuzz_piece file[] = { { &length, sizeof length }, { data, n }, { body, sizeof body } };
	if (n > 0 && data[0] == '{')
		fuzz_open(file, 3);
	else
		fuzz_open(file + 1, 1);
	return 0;
}
