/* lapack.h - OpenBLAS and LAPACKE, loaded when singular values are first computed. */
#ifndef ST_LINALG_LAPACK_H
#define ST_LINALG_LAPACK_H

#include <stele/status.h>

#include <cblas.h>
#include <lapacke.h>

/* Their functions, under their own types. */
struct st_lapack {
	__typeof__(openblas_set_num_threads) *set_num_threads;
	__typeof__(openblas_get_config) *get_config;
	__typeof__(openblas_get_corename) *get_corename;
	__typeof__(cblas_sgemm) *sgemm;
	__typeof__(LAPACKE_sgeqrf) *sgeqrf;
	__typeof__(LAPACKE_sorgqr) *sorgqr;
	__typeof__(LAPACKE_sormqr) *sormqr;
	__typeof__(LAPACKE_dgesdd) *dgesdd;
	__typeof__(LAPACKE_dgesvj) *dgesvj;
};

/*
 * The functions; from the second call on, what the first one found. The libraries stay loaded until the process ends.
 * ST_ERR_UNSUPPORTED where they are not installed, ST_ERR_NOMEM where a limit leaves no room for them.
 */
ST_MUST_CHECK enum st_status st_lapack_open(const struct st_lapack **out, struct st_error *err);
/* The functions where they have been loaded; else NULL. */
const struct st_lapack *st_lapack_loaded(void);

#endif
