/* open.c - opening fuzzed bytes and touching what came out. */
#include "fuzz.h"

#include "format/container.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint8_t sink; /* keeps the reads */

static void touch(const uint8_t *p, uint64_t n)
{
	if (n)
		sink = (uint8_t)(p[0] ^ p[n - 1]);
}

static void touch_all(const struct st_container *c)
{
	for (size_t i = 0; i < st_container_n_tensors(c); i++) {
		const struct st_tensor *t = st_container_tensor(c, i);
		touch(t->data, t->n_bytes);
		if (st_container_find(c, t->name) != t)
			abort();
	}
	for (size_t i = 0; i < c->keys.n; i++) {
		const struct st_kv *kv = &c->keys.kv[i];
		if (st_kv_find(&c->keys, kv->key) != kv)
			abort();
		touch(kv->data, st_kv_bytes(kv));
	}
}

void fuzz_open(const struct fuzz_piece *pieces, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0)
		abort();
	for (size_t i = 0; i < n; i++)
		if (write(fd, pieces[i].p, pieces[i].n) != (ssize_t)pieces[i].n)
			abort();
	char path[64], line[1400];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct st_container *c = NULL;
	struct st_error err = ST_ERROR_INIT;
	if (st_container_open(path, &c, &err) == ST_OK) {
		touch_all(c);
	} else {
		st_error_format(&err, line, sizeof line);
		if (c || !err.message[0] || !err.path[0] || strchr(line, '\n'))
			abort();
	}
	st_container_close(c);
	close(fd);
}
