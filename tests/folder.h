/* folder.h - a scratch folder for each test: setup, teardown, and paths in it. */
#ifndef ST_TESTS_FOLDER_H
#define ST_TESTS_FOLDER_H

#include "test.h"

static char folder[64];

static inline int make_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/stele-test-XXXXXX");
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
