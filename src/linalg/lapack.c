/*
 * lapack.c - OpenBLAS and LAPACKE at run time.
 *
 * Nothing but singular values needs them, and every program that is linked with OpenBLAS pays for it: its constructor
 * maps 300 MB, and where a limit forbids that it tries again for ever, before main.
 */
#include "linalg/lapack.h"

#include "base/error.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <threads.h>

/* What OpenBLAS 0.3.21 maps on the way through its constructor, LAPACKE, and buffers of the first products. */
#define ROOM ((size_t)512 << 20)

enum { OPENBLAS, LAPACKE, N_LIBRARIES };
static const char *const sonames[N_LIBRARIES] = { "libopenblas.so.0", "liblapacke.so.3" };

static const struct {
	int in; /* which of the libraries */
	const char *name;
	size_t offset;
} functions[] = {
	{ OPENBLAS, "openblas_set_num_threads", offsetof(struct st_lapack, set_num_threads) },
	{ OPENBLAS, "openblas_get_config", offsetof(struct st_lapack, get_config) },
	{ OPENBLAS, "openblas_get_corename", offsetof(struct st_lapack, get_corename) },
	{ OPENBLAS, "cblas_sgemm", offsetof(struct st_lapack, sgemm) },
	{ LAPACKE, "LAPACKE_sgeqrf", offsetof(struct st_lapack, sgeqrf) },
	{ LAPACKE, "LAPACKE_sorgqr", offsetof(struct st_lapack, sorgqr) },
	{ LAPACKE, "LAPACKE_sormqr", offsetof(struct st_lapack, sormqr) },
	{ LAPACKE, "LAPACKE_dgesdd", offsetof(struct st_lapack, dgesdd) },
	{ LAPACKE, "LAPACKE_dgesvj", offsetof(struct st_lapack, dgesvj) },
};

static once_flag once = ONCE_FLAG_INIT;
static struct st_lapack table;
static _Atomic bool loaded;
static enum st_status outcome;
static struct st_error failure = ST_ERROR_INIT;

static bool there_is_room(void)
{
	void *p = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return false;
	munmap(p, ROOM);
	return true;
}

static enum st_status load(struct st_error *err)
{
	void *library[N_LIBRARIES];
	if (!there_is_room())
		return st_fail(
			err, ST_ERR_NOMEM,
			"singular values are computed by OpenBLAS, which takes %zu MiB of addresses to start; the "
			"limit (ulimit -v) leaves less",
			ROOM >> 20);
	for (int i = 0; i < N_LIBRARIES; i++) {
		library[i] = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL);
		if (!library[i])
			return st_fail(
				err, ST_ERR_UNSUPPORTED,
				"singular values are computed by OpenBLAS and LAPACKE, which cannot be loaded: %s",
				dlerror());
	}
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		void *f = dlsym(library[functions[i].in], functions[i].name);
		if (!f)
			return st_fail(err, ST_ERR_UNSUPPORTED, "%s has no %s, which singular values are computed with",
			               sonames[functions[i].in], functions[i].name);
		memcpy((char *)&table + functions[i].offset, &f, sizeof f);
	}
	return ST_OK;
}

static void load_once(void)
{
	outcome = load(&failure);
	loaded = outcome == ST_OK;
}

const struct st_lapack *st_lapack_loaded(void) { return loaded ? &table : NULL; }

enum st_status st_lapack_open(const struct st_lapack **out, struct st_error *err)
{
	call_once(&once, load_once);
	*out = &table;
	if (outcome != ST_OK && err->code == ST_OK)
		*err = failure;
	return outcome;
}
