#include "base/map.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The registry lets a signal handler ask which file an address belongs to. Entries are
 * never moved: a slot is claimed by setting `busy`, filled, and published by storing
 * `size` last; readers look at size first. A model of more shards than slots still
 * works, its last files only go unnamed in that one message.
 */
#define MAX_MAPS 1024
static struct {
	int busy;
	const uint8_t *data;
	uint64_t size;
	char path[512];
} registry[MAX_MAPS];

static void registry_add(const struct st_map *m)
{
	for (size_t i = 0; i < MAX_MAPS; i++) {
		int free_slot = 0;
		if (!__atomic_compare_exchange_n(&registry[i].busy, &free_slot, 1, false, __ATOMIC_ACQ_REL,
		                                 __ATOMIC_RELAXED))
			continue;
		size_t n = strlen(m->path);
		if (n >= sizeof registry[i].path)
			n = sizeof registry[i].path - 1;
		memcpy(registry[i].path, m->path, n);
		registry[i].path[n] = '\0';
		registry[i].data = m->data;
		__atomic_store_n(&registry[i].size, m->size, __ATOMIC_RELEASE);
		return;
	}
}

static void registry_remove(const struct st_map *m)
{
	for (size_t i = 0; i < MAX_MAPS; i++) {
		if (__atomic_load_n(&registry[i].size, __ATOMIC_ACQUIRE) && registry[i].data == m->data) {
			__atomic_store_n(&registry[i].size, 0, __ATOMIC_RELEASE);
			__atomic_store_n(&registry[i].busy, 0, __ATOMIC_RELEASE);
			return;
		}
	}
}

const char *st_map_path_of(const void *p)
{
	for (size_t i = 0; i < MAX_MAPS; i++) {
		uint64_t size = __atomic_load_n(&registry[i].size, __ATOMIC_ACQUIRE);
		if (size && (uintptr_t)p - (uintptr_t)registry[i].data < size)
			return registry[i].path;
	}
	return NULL;
}

/* What an empty file is a map of: functions that take no bytes want an address all the same. */
static const uint8_t nothing[1];

enum st_status st_map_open(struct st_map *m, const char *path, struct st_error *err)
{
	*m = (struct st_map){ .data = nothing };
	/* O_NONBLOCK: opening a FIFO must not wait for a writer before it is refused. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return st_fail_errno(err, path, "cannot open");
	enum st_status st = ST_OK;
	struct stat sb;
	if (fstat(fd, &sb) != 0) {
		st = st_fail_errno(err, path, "cannot stat");
	} else if (!S_ISREG(sb.st_mode)) {
		st = st_fail(err, ST_ERR_IO, "not a regular file; Stele maps its inputs and cannot read from a %s",
		             S_ISDIR(sb.st_mode)    ? "folder here"
		             : S_ISFIFO(sb.st_mode) ? "pipe"
		                                    : "device");
		st_error_in(err, path);
	} else if (sb.st_size > 0) {
		void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			st = st_fail_errno(err, path, "cannot map");
		else
			*m = (struct st_map){ .data = p, .size = (uint64_t)sb.st_size };
	}
	close(fd);
	if (st != ST_OK) {
		memset(m, 0, sizeof *m);
		return st;
	}
	m->path = strdup(path);
	if (!m->path) {
		st_map_close(m);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (m->size)
		registry_add(m);
	return ST_OK;
}

void st_map_close(struct st_map *m)
{
	if (m->size) {
		if (m->path)
			registry_remove(m);
		munmap((void *)(uintptr_t)m->data, (size_t)m->size);
	}
	free(m->path);
	memset(m, 0, sizeof *m);
}
