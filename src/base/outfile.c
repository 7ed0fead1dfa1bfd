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

/* A sibling of `path`, so that rename stays within one file system. Of a long name it takes the beginning, so that the
 * name with its ending is none too long. */
static char *temp_name(const char *path)
{
	enum { ENDING = 48 }; /* ".stele-PID-N" at most */
	static unsigned long counter;
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	size_t folder = (size_t)(name - path), n = strnlen(name, NAME_MAX - ENDING);
	char *p = NULL;
	if (asprintf(&p, "%.*s%.*s.stele-%lu-%lu", (int)folder, path, (int)n, name, (unsigned long)getpid(),
	             __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED))
	    < 0)
		return NULL;
	return p;
}

/* For st_outputs_placed(). Files in a folder that is still being built are not in place. */
static int placed;

/*
 * Where an output goes, for the caller to free: through a symbolic link to what it points at, which is replaced while
 * the link stays. A link to nothing is refused by name, and so is a name that no file can have, before any work is
 * done.
 */
static char *target_of(const char *path, struct st_error *err)
{
	struct stat sb;
	char *target = NULL;
	size_t n = strlen(path);
	if (strcmp(path, "-") == 0) {
		(void)st_fail(err, ST_ERR_USAGE, "standard output cannot take it: name a file (./- is one called so)");
		st_error_in(err, path);
		return NULL;
	}
	while (n > 1 && path[n - 1] == '/')
		n--; /* "out/" and "out" are one folder */
	char *plain = strndup(path, n);
	if (!plain) {
		(void)st_fail(err, ST_ERR_NOMEM, "out of memory");
		return NULL;
	}
	bool there = lstat(plain, &sb) == 0;
	if (!there && errno != ENOENT) {
		(void)st_fail_errno(err, path, "cannot create");
	} else if (there && S_ISLNK(sb.st_mode)) {
		target = realpath(plain, NULL);
		if (!target) {
			(void)st_fail(err, ST_ERR_IO, "is a symbolic link to nothing");
			st_error_in(err, path);
		}
	} else {
		return plain;
	}
	free(plain);
	return target;
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
	char *target = target_of(path, err);
	if (!target)
		return err->code;
	if (stat(target, &sb) == 0 && !S_ISREG(sb.st_mode)) {
		enum st_status st = st_fail(err, ST_ERR_IO, "exists and is not a regular file");
		st_error_in(err, path);
		free(target);
		return st;
	}
	struct st_outfile *f = malloc(sizeof *f);
	char *dir = folder_of(target);
	if (!f || !dir) {
		free(f);
		free(dir);
		free(target);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	f->path = target;
	f->temp = NULL;
	f->size = f->used = 0;
	f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	free(dir);
	if (f->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		f->temp = temp_name(target);
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
	__atomic_store_n(&placed, 0, __ATOMIC_RELEASE);
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

static bool any_building(void);

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
		__atomic_store_n(&placed, !any_building(), __ATOMIC_RELEASE);
		free(f->temp);
		f->temp = NULL;
		sync_folder(f->path);
	}
	st_outfile_abort(f);
	return st;
}

enum st_status st_outfile_whole(const char *path, const void *p, size_t n, struct st_error *err)
{
	struct st_outfile *f;
	ST_NEED(path);
	ST_TRY(st_outfile_open(path, &f, err));
	enum st_status st = st_outfile_write(f, p, n, err);
	if (st == ST_OK)
		return st_outfile_commit(f, err);
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

static bool any_building(void)
{
	for (size_t i = 0; i < sizeof building / sizeof *building; i++)
		if (__atomic_load_n(&building[i].open, __ATOMIC_ACQUIRE))
			return true;
	return false;
}

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
	char *target = target_of(path, err);
	if (!target)
		return err->code;
	bool there = stat(target, &sb) == 0;
	enum st_status st = there && (!replaces || !S_ISDIR(sb.st_mode)) ? st_out_exists(path, err) : ST_OK;
	if (st == ST_OK && there && !may_be_replaced(target, replaces, err))
		st = ST_ERR_IO;
	struct st_outdir *d = st == ST_OK ? calloc(1, sizeof *d) : NULL;
	if (d) {
		d->path = target;
		d->temp = temp_name(target);
		d->replace = replaces != NULL;
	}
	if (st == ST_OK && (!d || !d->temp))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	else if (st == ST_OK && mkdir(d->temp, 0777) != 0)
		st = st_fail_errno(err, path, "cannot create folder");
	if (st == ST_OK) {
		building_add(d->temp);
		__atomic_store_n(&placed, 0, __ATOMIC_RELEASE);
		*out = d;
		return ST_OK;
	}
	free(d ? d->temp : NULL);
	free(d);
	free(target);
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

/* Where two folders cannot change places in one step: the old one goes aside, and there is a moment without either. */
static enum st_status replace_in_two_steps(struct st_outdir *d, struct st_error *err)
{
	char *aside = temp_name(d->path);
	enum st_status st = ST_OK;
	if (!aside)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (rename(d->path, aside) != 0) {
		st = st_fail_errno(err, d->path, "cannot move the old folder aside");
	} else if (rename(d->temp, d->path) != 0) {
		st = st_fail_errno(err, d->path, "cannot rename into place");
		/* If this fails as well, the old folder keeps its data under the other name. */
		(void)!rename(aside, d->path);
	} else {
		__atomic_store_n(&placed, 1, __ATOMIC_RELEASE);
		remove_tree(aside);
	}
	free(aside);
	return st;
}

enum st_status st_outdir_commit(struct st_outdir *d, struct st_error *err)
{
	enum st_status st = ST_OK;
	bool old = d->replace && access(d->path, F_OK) == 0;
	/* After an exchange the temporary name holds the old folder, which is then removed like an unfinished one. */
	if (old && renameat2(AT_FDCWD, d->temp, AT_FDCWD, d->path, RENAME_EXCHANGE) != 0)
		st = errno == EINVAL || errno == ENOSYS ? replace_in_two_steps(d, err)
		                                        : st_fail_errno(err, d->path, "cannot rename into place");
	else if (!old && rename(d->temp, d->path) != 0)
		st = st_fail_errno(err, d->path, "cannot rename into place");
	if (st == ST_OK) {
		__atomic_store_n(&placed, 1, __ATOMIC_RELEASE);
		sync_folder(d->path);
	}
	st_outdir_abort(d, NULL);
	return st;
}

bool st_outputs_placed(void) { return __atomic_load_n(&placed, __ATOMIC_ACQUIRE) != 0; }
