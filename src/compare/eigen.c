#include "compare/eigen.h"

#include <math.h>

void st_diagonalise(double *g, double *e, size_t n)
{
	for (size_t i = 0; i < n * n; i++)
		e[i] = i % (n + 1) == 0;
	for (int sweep = 0; sweep < 12; sweep++) {
		double off = 0, all = 0;
		for (size_t i = 0; i < n; i++)
			for (size_t k = 0; k < n; k++) {
				all += g[i * n + k] * g[i * n + k];
				off += i != k ? g[i * n + k] * g[i * n + k] : 0;
			}
		if (off <= 1e-20 * all)
			return;
		for (size_t p = 0; p < n; p++)
			for (size_t q = p + 1; q < n; q++) {
				double apq = g[p * n + q];
				if (apq * apq <= 1e-30 * all)
					continue;
				double theta = (g[q * n + q] - g[p * n + p]) / (2 * apq);
				double tan = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1)),
				       c = 1 / sqrt(tan * tan + 1), s = tan * c;
				for (size_t k = 0; k < n; k++) {
					double x = g[k * n + p], y = g[k * n + q];
					g[k * n + p] = c * x - s * y;
					g[k * n + q] = s * x + c * y;
				}
				for (size_t k = 0; k < n; k++) {
					double x = g[p * n + k], y = g[q * n + k];
					g[p * n + k] = c * x - s * y;
					g[q * n + k] = s * x + c * y;
					x = e[p * n + k];
					y = e[q * n + k];
					e[p * n + k] = c * x - s * y;
					e[q * n + k] = s * x + c * y;
				}
			}
	}
}
