/* lint.c - how far a codebook is from the optimum for N(0,1). */
#include "turboquant/modes.h"

#include "base/files.h"
#include "base/map.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One number of the table, or why it is none. Longer than any f64 that is written out, it is none. */
static enum st_status read_level(const char *word, size_t k, uint64_t at, double *x, struct st_error *err)
{
	char buf[1024], *end;
	if (k >= sizeof buf)
		return st_fail_at(err, ST_ERR_FORMAT, at, "--table", "%zu characters are no number", k);
	memcpy(buf, word, k);
	buf[k] = '\0';
	*x = strtod(buf, &end);
	return k && (!*end || !strcmp(end, "f"))
	             ? ST_OK
	             : st_fail_at(err, ST_ERR_FORMAT, at, "--table", "\"%.60s\" is not a number", buf);
}

/* A file of levels: numbers separated by white space or commas; '#' starts a comment. A file of n/2
 * positive numbers is the upper half of a symmetric table. */
static enum st_status read_table(const char *path, struct st_codebook *cb, struct st_error *err)
{
	static const char between[] = " \t\r\n,;[]";
	struct st_map m;
	double level[ST_TQ_MAX_LEVELS];
	size_t n = 0;
	enum st_status st = st_map_open(&m, path, err);
	for (uint64_t i = 0; st == ST_OK && i < m.size;) {
		const char *p = (const char *)m.data + i;
		size_t k = 0;
		while (p[0] == '#' && i + k < m.size && p[k] != '\n')
			k++;
		if (!k && *p && strchr(between, *p))
			k = 1;
		if (k) {
			i += k;
			continue;
		}
		while (i + k < m.size && p[k] && !strchr(between, p[k]) && p[k] != '#')
			k++;
		st = n < ST_TQ_MAX_LEVELS
		           ? read_level(p, k, i, &level[n++], err)
		           : st_fail_at(err, ST_ERR_FORMAT, i, "--table", "more than %d levels", ST_TQ_MAX_LEVELS);
		i += k;
	}
	if (st == ST_OK && n > 1 && n <= ST_TQ_MAX_LEVELS / 2 && level[0] > 0) {
		memmove(level + n, level, n * sizeof *level);
		for (size_t i = 0; i < n; i++)
			level[n - 1 - i] = -level[n + i];
		n *= 2;
	}
	if (st == ST_OK)
		st = st_codebook_from_levels(cb, level, n, err);
	st_map_close(&m);
	return st_in_file(path, st_in_place("--table", st, err), err);
}

/* A table recognised by the two figures on record: outermost level to 1e-6, RMSE to its printed digits. */
static const struct st_codebook_known *recognise(const struct st_codebook *cb, const struct st_codebook_lint *l)
{
	for (size_t i = 0; i < st_codebooks_n_known; i++) {
		const struct st_codebook_known *k = st_codebooks_known + i;
		if (k->bits == cb->bits && fabs(l->outermost - k->outermost) < 1e-6
		    && (k->rmse == 0 || fabs(l->rmse - k->rmse) < 1e-6))
			return k;
	}
	return NULL;
}

static void add(struct st_replay_run *r, json_t *list, const char *name, const struct st_codebook *cb)
{
	struct st_codebook_lint l;
	st_codebook_lint(cb, &l);
	const struct st_codebook_known *k = recognise(cb, &l);
	const bool other = k && strcmp(k->name, name) != 0;
	fprintf(r->text, "%-16s %4u  %9.3g  %9.3g  %.6f  %+8.2f%%  %10.7f  %s%s%s\n", name, cb->bits, l.lloyd_move,
	        l.distance, l.rmse, 100 * l.mse_excess, l.outermost, l.ok ? "optimal" : "NOT OPTIMAL",
	        other ? ", this is " : "", other ? k->name : "");
	st_json_add(
		list,
		st_json_object(
			ST_IS("name", name), ST_IS("bits", cb->bits), ST_IS("largest_lloyd_move", l.lloyd_move),
			ST_IS("largest_lloyd_move_level", l.lloyd_level), ST_IS("distance_from_optimum", l.distance),
			ST_IS("rmse", l.rmse), ST_IS("rmse_optimum", l.rmse_optimum), ST_IS("mse_excess", l.mse_excess),
			ST_IS("outermost", l.outermost), ST_IS("outermost_optimum", l.outermost_optimum),
			ST_IS("asymmetry", l.asymmetry), ST_IS("recognised", k ? k->name : NULL), ST_IS("ok", l.ok)));
	if (!l.ok)
		r->exit_status = 2;
}

/* A table of which only figures are known: stated beside the optimum, not as something measured here. */
static void add_known(struct st_replay_run *r, json_t *list, const struct st_codebook_known *k,
                      const struct st_codebook *best)
{
	struct st_codebook_lint l;
	st_codebook_lint(best, &l);
	const double excess = k->rmse * k->rmse / (l.rmse * l.rmse) - 1;
	fprintf(r->text,
	        "%-16s %4u          -          -  %.6f  %+8.2f%%  %10.7f  as published, levels not on record\n",
	        k->name, k->bits, k->rmse, 100 * excess, k->outermost);
	st_json_add(list,
	            st_json_object(ST_IS("name", k->name), ST_IS("bits", k->bits), ST_IS("rmse_published", k->rmse),
	                           ST_IS("outermost_published", k->outermost), ST_IS("mse_excess", excess)));
}

static enum st_status generate(struct st_codebook *cb, unsigned bits, struct st_error *err)
{
	return st_codebook_generate(cb, bits) ? ST_OK
	                                      : st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "bits",
	                                                   "the %u-bit codebook did not converge", bits);
}

enum st_status st_replay_lint(struct st_replay_run *r, struct st_error *err)
{
	struct st_codebook own = { 0 }, cb;
	json_t *list = json_array(), *known = json_array();
	st_json_put_all(r->json, ST_IS("tolerance", ST_CODEBOOK_TOLERANCE), ST_IS("codebooks", list),
	                ST_IS("known", known));
	fprintf(r->text, "codebook         bits Lloyd move   distance      RMSE  excess MSE  outermost  verdict\n");
	if (r->o->table) {
		ST_TRY(read_table(r->o->table, &own, err));
		add(r, list, "table", &own);
	}
	for (unsigned bits = ST_TQ_MIN_BITS; bits <= ST_TQ_MAX_BITS; bits++) {
		char name[24];
		if (r->o->table && bits != own.bits)
			continue;
		ST_TRY(generate(&cb, bits, err));
		snprintf(name, sizeof name, "generated-%ubit", bits);
		add(r, list, name, &cb);
	}
	for (size_t i = 0; i < st_codebooks_n_known; i++) {
		const struct st_codebook_known *k = st_codebooks_known + i;
		if (r->o->table && k->bits != own.bits)
			continue;
		if (st_codebook_from_known(&cb, k)) {
			add(r, list, k->name, &cb);
			continue;
		}
		ST_TRY(generate(&cb, k->bits, err));
		add_known(r, known, k, &cb);
	}
	st_json_put(r->json, "verdict", json_string(r->exit_status ? "not_optimal" : "optimal"));
	fprintf(r->text, "verdict: %s\n",
	        r->exit_status ? "a codebook is not the optimum for N(0,1)"
	                       : "every codebook whose levels are known is the Lloyd-Max optimum for N(0,1)");
	return ST_OK;
}
