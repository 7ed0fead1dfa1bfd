/* folder.h - a scratch folder for each test: setup, teardown, and paths in it. */
#ifndef ST_TESTS_FOLDER_H
#define ST_TESTS_FOLDER_H

#include "test.h"

#include <stdbool.h>
#include <sys/statvfs.h>

static char folder[64];

/* In memory where there is room: what is written is flushed, and a busy disk takes its time over that. */
static inline int make_folder(void **state)
{
	struct statvfs room;
	bool memory = statvfs("/dev/shm", &room) == 0 && (uint64_t)room.f_bavail * room.f_frsize > UINT64_C(4) << 30;
	(void)state;
	snprintf(folder, sizeof folder, "%s/stele-test-XXXXXX", memory ? "/dev/shm" : "/tmp");
	return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
	(void)state;
	char cmd[128];
	snprintf(cmd, sizeof cmd, "rm -rf '%s'", folder);
	return system(cmd);
}

/* A path in the folder, in one of 16 static buffers used in turn. */
static inline const char *in_folder(const char *name)
{
	static char buf[16][320];
	static unsigned turn;
	char *p = buf[turn++ % 16];
	snprintf(p, sizeof buf[0], "%s/%s", folder, name);
	return p;
}

#endif
