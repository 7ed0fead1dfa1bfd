/* eigen.h - eigenvalues of a small symmetric matrix. */
#ifndef ST_COMPARE_EIGEN_H
#define ST_COMPARE_EIGEN_H

#include <stddef.h>

/* Jacobi's rotations: g [n, n] becomes diagonal, e [n, n] holds the vectors as rows. */
void st_diagonalise(double *g, double *e, size_t n);

#endif
