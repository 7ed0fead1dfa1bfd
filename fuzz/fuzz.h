/*
 * fuzz.h - what the fuzz targets share.
 *
 * A target is one file with LLVMFuzzerTestOneInput. With clang, `-fsanitize=fuzzer` gives it a main
 * that searches; linked with main.c it runs over the files it is given, which is how a
 * corpus is replayed in the tests.
 */
#ifndef ST_FUZZ_H
#define ST_FUZZ_H

#include <stele/container.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct fuzz_piece {
	const void *p;
	size_t n;
};

/* Put the pieces into a file without a name, open it as whatever it is, and use all that a successful open
 * promises: the first and last byte of every tensor, every key, every string of every array. A refusal
 * without a message, or with a line break in it, aborts. */
void fuzz_open(const struct fuzz_piece *pieces, size_t n);

#endif
