/* Bytes as an APR v2 file whose magic, version and header CRC are sound, so that no effort goes into finding those. */
#include "fuzz.h"

#include "format/apr.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint8_t header[ST_APR_HEADER];
	if (n < sizeof header)
		return 0;
	memcpy(header, data, sizeof header);
	memcpy(header, "APR\0\2", 5);
	uint32_t crc = st_apr_header_crc(header);
	memcpy(header + 40, &crc, sizeof crc);
	const struct fuzz_piece file[] = { { header, sizeof header }, { data + sizeof header, n - sizeof header } };
	fuzz_open(file, 2);
	return 0;
}
