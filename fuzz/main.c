/* main.c - runs a fuzz target over the files it is given; folders are left out. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (!f) {
		perror(path);
		return 1;
	}
	size_t n = 0, cap = 1 << 16;
	uint8_t *p = malloc(cap);
	for (size_t k; p && (k = fread(p + n, 1, cap - n, f)) > 0;) {
		n += k;
		if (n == cap)
			p = realloc(p, cap *= 2);
	}
	int bad = !p || (ferror(f) && n > 0);
	fclose(f);
	if (!bad) {
		/* A copy of exactly n bytes, so that a read past the end is seen. */
		uint8_t *exact = malloc(n ? n : 1);
		for (size_t i = 0; exact && i < n; i++)
			exact[i] = p[i];
		bad = !exact || LLVMFuzzerTestOneInput(exact, n) != 0;
		free(exact);
	}
	free(p);
	return bad;
}

int main(int argc, char **argv)
{
	int bad = 0;
	for (int i = 1; i < argc; i++)
		bad |= run_file(argv[i]);
	printf("%d files\n", argc - 1);
	return bad;
}
