/* A pickle as the data.pkl of a checkpoint with one storage of 64 bytes; whole zip files as they are. */
#include "fuzz.h"

#include <string.h>
#include <zlib.h>

/* Fields of both kinds of header that differ from member to member; the rest is zero (stored, no date). */
static void put_sizes(uint8_t *p, uint32_t crc, uint32_t n, uint16_t name)
{
	memcpy(p, &crc, 4);
	memcpy(p + 4, &n, 4);
	memcpy(p + 8, &n, 4);
	memcpy(p + 12, &name, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const uint8_t storage[64];
	static const char *const names[2] = { "a/data.pkl", "a/data/0" };
	const struct fuzz_piece bodies[2] = { { data, n }, { storage, sizeof storage } };
	if (n > 1u << 20 || (n >= 2 && memcmp(data, "PK", 2) == 0)) {
		fuzz_open(bodies, 1);
		return 0;
	}
	uint8_t local[2][30] = { "PK\3\4", "PK\3\4" }, entry[2][46] = { "PK\1\2", "PK\1\2" }, end[22] = "PK\5\6";
	uint32_t at = 0, directory = 0;
	for (int i = 0; i < 2; i++) {
		uint32_t crc = (uint32_t)crc32(0, bodies[i].p, (uInt)bodies[i].n), size = (uint32_t)bodies[i].n;
		uint16_t len = (uint16_t)strlen(names[i]);
		put_sizes(local[i] + 14, crc, size, len);
		put_sizes(entry[i] + 16, crc, size, len);
		memcpy(entry[i] + 42, &at, 4);
		at += (uint32_t)sizeof local[i] + len + size;
		directory += (uint32_t)sizeof entry[i] + len;
	}
	end[8] = end[10] = 2;
	memcpy(end + 12, &directory, 4);
	memcpy(end + 16, &at, 4);
	const struct fuzz_piece file[] = {
		{ local[0], 30 },
		{ names[0], strlen(names[0]) },
		bodies[0],
		{ local[1], 30 },
		{ names[1], strlen(names[1]) },
		bodies[1],
		{ entry[0], 46 },
		{ names[0], strlen(names[0]) },
		{ entry[1], 46 },
		{ names[1], strlen(names[1]) },
		{ end, 22 },
	};
	fuzz_open(file, sizeof file / sizeof *file);
	return 0;
}
