#include "base/outfile.h"

#include "base/error.h"
#include "base/map.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER (1u << 20)

struct st_outfile {
	int fd;
	char *path;
	char *temp;    /* name to remove on abort; NULL while the file is nameless */
	char proc[40]; /* /proc/self/fd/N */
	uint64_t size; /* including the buffer */
	size_t used;
	uint8_t buf[BUFFER];
};

static char *print_path(const char *fmt, const char *a, unsigned long b, unsigned long c)
{
	char *p = NULL;
	return asprintf(&p, fmt, a, b, c) < 0 ? NULL : p;
}

/* A sibling of `path`, so that rename stays within one file system. */
static char *temp_name(const char *path)
{
	static unsigned long counter;
	return print_path("%s.stele-%lu-%lu", path, (unsigned long)getpid(),
	                  __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED));
}

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static void sync_folder(const char *path)
{
	char *dir = folder_of(path);
	int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	free(dir);
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
}

enum st_status st_outfile_open(const char *path, struct st_outfile **out, struct st_error *err)
{
	*out = NULL;
	struct stat sb;
	if (stat(path, &sb) == 0 && !S_ISREG(sb.st_mode)) {
		enum st_status st = st_fail(err, ST_ERR_IO, "exists and is not a regular file");
		st_error_in(err, path);
		return st;
	}
	struct st_outfile *f = malloc(sizeof *f);
	char *dir = folder_of(path);
	if (!f || !dir || !(f->path = strdup(path))) {
		free(f);
		free(dir);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	f->temp = NULL;
	f->size = f->used = 0;
	f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	free(dir);
	if (f->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		f->temp = temp_name(path);
		if (f->temp)
			f->fd = open(f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	}
	if (f->fd < 0) {
		enum st_status st = st_fail_errno(err, path, "cannot create");
		free(f->temp);
		free(f->path);
		free(f);
		return st;
	}
	snprintf(f->proc, sizeof f->proc, "/proc/self/fd/%d", f->fd);
	*out = f;
	return ST_OK;
}

static enum st_status write_all(struct st_outfile *f, const uint8_t *p, size_t n, struct st_error *err)
{
	while (n > 0) {
		ssize_t k = write(f->fd, p, n);
		if (k < 0 && errno == EINTR)
			continue;
		const char *source = k < 0 && errno == EFAULT ? st_map_path_of(p) : NULL;
		if (source) { /* what a read would have raised SIGBUS for */
			enum st_status st = st_fail(err, ST_ERR_IO, "the file became shorter while it was read");
			st_error_in(err, source);
			return st;
		}
		if (k < 0)
			return st_fail_errno(err, f->path, "cannot write");
		p += k;
		n -= (size_t)k;
	}
	return ST_OK;
}

static enum st_status flush(struct st_outfile *f, struct st_error *err)
{
	size_t n = f->used;
	f->used = 0;
	return write_all(f, f->buf, n, err);
}

enum st_status st_outfile_write(struct st_outfile *f, const void *p, size_t n, struct st_error *err)
{
	f->size += n;
	if (n <= BUFFER - f->used) {
		memcpy(f->buf + f->used, p, n);
		f->used += n;
		return ST_OK;
	}
	ST_TRY(flush(f, err));
	if (n >= BUFFER)
		return write_all(f, p, n, err);
	memcpy(f->buf, p, n);
	f->used = n;
	return ST_OK;
}

enum st_status st_outfile_zeros(struct st_outfile *f, uint64_t n, struct st_error *err)
{
	static const uint8_t zeros[4096];
	while (n > 0) {
		size_t k = n < sizeof zeros ? (size_t)n : sizeof zeros;
		ST_TRY(st_outfile_write(f, zeros, k, err));
		n -= k;
	}
	return ST_OK;
}

enum st_status st_outfile_patch(struct st_outfile *f, uint64_t off, const void *p, size_t n, struct st_error *err)
{
	ST_TRY(flush(f, err));
	for (const uint8_t *q = p; n > 0;) {
		ssize_t k = pwrite(f->fd, q, n, (off_t)off);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return st_fail_errno(err, f->path, "cannot write");
		q += k;
		off += (uint64_t)k;
		n -= (size_t)k;
	}
	return ST_OK;
}

uint64_t st_outfile_size(const struct st_outfile *f) { return f->size; }

enum st_status st_outfile_readable(struct st_outfile *f, const char **path, struct st_error *err)
{
	ST_TRY(flush(f, err));
	*path = f->temp ? f->temp : f->proc;
	return ST_OK;
}

void st_outfile_abort(struct st_outfile *f)
{
	if (!f)
		return;
	close(f->fd);
	if (f->temp)
		unlink(f->temp);
	free(f->temp);
	free(f->path);
	free(f);
}

enum st_status st_outfile_commit(struct st_outfile *f, struct st_error *err)
{
	enum st_status st = flush(f, err);
	if (st == ST_OK && fsync(f->fd) != 0)
		st = st_fail_errno(err, f->path, "cannot flush to disk");
	if (st == ST_OK && !f->temp) {
		/* linkat cannot replace, so the nameless file gets a sibling's name first. */
		f->temp = temp_name(f->path);
		if (!f->temp) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		} else if (linkat(AT_FDCWD, f->proc, AT_FDCWD, f->temp, AT_SYMLINK_FOLLOW) != 0) {
			st = st_fail_errno(err, f->path, "cannot create");
			free(f->temp);
			f->temp = NULL;
		}
	}
	if (st == ST_OK && rename(f->temp, f->path) != 0)
		st = st_fail_errno(err, f->path, "cannot rename into place");
	if (st == ST_OK) {
		free(f->temp);
		f->temp = NULL;
		sync_folder(f->path);
	}
	st_outfile_abort(f);
	return st;
}

struct st_outdir {
	char *path, *temp;
	bool replace;
};

static int remove_one(const char *path, const struct stat *sb, int kind, struct FTW *ftw)
{
	(void)sb, (void)kind, (void)ftw;
	return remove(path);
}

static void remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

/*
 * Folders under construction, for st_outdirs_remove(). A slot is claimed by setting `busy`, filled, and published by
 * `open`; a run builds one or two folders at a time, and one without a slot is only not removed by a signal.
 */
static struct {
	int busy, open;
	char path[PATH_MAX];
} building[8];

static void building_add(const char *path)
{
	size_t n = strlen(path);
	for (size_t i = 0; n < PATH_MAX && i < sizeof building / sizeof *building; i++) {
		int free_slot = 0;
		if (!__atomic_compare_exchange_n(&building[i].busy, &free_slot, 1, false, __ATOMIC_ACQ_REL,
		                                 __ATOMIC_RELAXED))
			continue;
		memcpy(building[i].path, path, n + 1);
		__atomic_store_n(&building[i].open, 1, __ATOMIC_RELEASE);
		return;
	}
}

static void building_drop(const char *path)
{
	for (size_t i = 0; i < sizeof building / sizeof *building; i++)
		if (__atomic_load_n(&building[i].open, __ATOMIC_ACQUIRE) && strcmp(building[i].path, path) == 0) {
			__atomic_store_n(&building[i].open, 0, __ATOMIC_RELEASE);
			__atomic_store_n(&building[i].busy, 0, __ATOMIC_RELEASE);
			return;
		}
}

/* Traces are two folders deep. readdir() allocates, so the entries come from the system call. */
#define MAX_DEPTH 4
static void remove_below(int at, const char *name, int depth)
{
	int fd = depth < MAX_DEPTH ? openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	_Alignas(struct dirent64) char buf[4096];
	long n;
	/* Removing entries moves the rest, so each round starts at the front; it ends when nothing could be removed. */
	for (bool some = true; fd >= 0 && some && lseek(fd, 0, SEEK_SET) == 0
	                       && (n = syscall(SYS_getdents64, fd, buf, sizeof buf)) > 0;) {
		some = false;
		for (long i = 0; i < n;) {
			const struct dirent64 *e = (const struct dirent64 *)(buf + i);
			i += e->d_reclen;
			if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
				continue;
			if (unlinkat(fd, e->d_name, 0) != 0)
				remove_below(fd, e->d_name, depth + 1);
			some = some || faccessat(fd, e->d_name, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
		}
	}
	if (fd >= 0)
		close(fd);
	unlinkat(at, name, AT_REMOVEDIR);
}

void st_outdirs_remove(void)
{
	for (size_t i = 0; i < sizeof building / sizeof *building; i++)
		if (__atomic_load_n(&building[i].open, __ATOMIC_ACQUIRE))
			remove_below(AT_FDCWD, building[i].path, 0);
}

enum st_status st_out_exists(const char *path, struct st_error *err)
{
	enum st_status st = st_fail(err, ST_ERR_IO, "already exists (--force replaces it)");
	st_error_in(err, path);
	return st;
}

/* A slip of the keyboard behind a --force must not cost anybody a folder of something else. */
static bool may_be_replaced(const char *path, const char *const *ours, struct st_error *err)
{
	DIR *dir = opendir(path);
	bool marked = false;
	char other[sizeof((struct dirent *)0)->d_name] = "";
	size_t n = 0;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		const char *const *p = ours;
		while (*p && fnmatch(*p, e->d_name, 0) != 0)
			p++;
		marked = marked || strcmp(e->d_name, ours[0]) == 0;
		n++;
		if (!*p && !other[0])
			snprintf(other, sizeof other, "%s", e->d_name);
	}
	if (!dir)
		(void)st_fail_errno(err, path, "cannot look into the folder");
	else if (other[0])
		(void)st_fail(err, ST_ERR_IO, "is not replaced: it also holds %.200s", other);
	else if (n && !marked)
		(void)st_fail(err, ST_ERR_IO, "is not replaced: it has no %s", ours[0]);
	if (dir)
		closedir(dir);
	st_error_in(err, path);
	return dir && !other[0] && (n == 0 || marked);
}

bool st_out_takes(const char *out, const char *in)
{
	char a[PATH_MAX], b[PATH_MAX];
	if (!realpath(out, a) || !realpath(in, b))
		return false;
	size_t n = strlen(a);
	return strncmp(a, b, n) == 0 && (b[n] == '\0' || b[n] == '/');
}

enum st_status st_outdir_open(const char *path, const char *const *replaces, struct st_outdir **out,
                              struct st_error *err)
{
	*out = NULL;
	struct stat sb;
	if (lstat(path, &sb) == 0 && (!replaces || !S_ISDIR(sb.st_mode)))
		return st_out_exists(path, err);
	if (lstat(path, &sb) == 0 && !may_be_replaced(path, replaces, err))
		return ST_ERR_IO;
	struct st_outdir *d = calloc(1, sizeof *d);
	if (d) {
		d->path = strdup(path);
		for (size_t n = d->path ? strlen(d->path) : 0; n > 1 && d->path[n - 1] == '/'; n--)
			d->path[n - 1] = '\0'; /* "out/" and "out" are one folder */
		d->temp = d->path ? temp_name(d->path) : NULL;
		d->replace = replaces != NULL;
	}
	enum st_status st = ST_OK;
	if (!d || !d->temp)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	else if (mkdir(d->temp, 0777) != 0)
		st = st_fail_errno(err, path, "cannot create folder");
	if (st == ST_OK) {
		building_add(d->temp);
		*out = d;
	} else if (d) {
		free(d->temp);
		free(d->path);
		free(d);
	}
	return st;
}

const char *st_outdir_path(const struct st_outdir *d) { return d->temp; }

void st_outdir_abort(struct st_outdir *d, struct st_error *err)
{
	if (!d)
		return;
	size_t n = strlen(d->temp);
	if (err && strncmp(err->path, d->temp, n) == 0) {
		char rest[sizeof err->path];
		snprintf(rest, sizeof rest, "%s", err->path + n);
		snprintf(err->path, sizeof err->path, "%s%s", d->path, rest);
	}
	building_drop(d->temp);
	remove_tree(d->temp);
	free(d->temp);
	free(d->path);
	free(d);
}

enum st_status st_outdir_commit(struct st_outdir *d, struct st_error *err)
{
	enum st_status st = ST_OK;
	char *aside = NULL;
	if (d->replace && access(d->path, F_OK) == 0) {
		aside = temp_name(d->path);
		if (!aside)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		else if (rename(d->path, aside) != 0)
			st = st_fail_errno(err, d->path, "cannot move the old folder aside");
	}
	if (st == ST_OK && rename(d->temp, d->path) != 0) {
		st = st_fail_errno(err, d->path, "cannot rename into place");
		if (aside && rename(aside, d->path) != 0) {
			/* Both failed: the old folder keeps its data under the other name. */
			free(aside);
			aside = NULL;
		}
	}
	if (st == ST_OK) {
		sync_folder(d->path);
		if (aside)
			remove_tree(aside);
	}
	free(aside);
	st_outdir_abort(d, NULL);
	return st;
}
