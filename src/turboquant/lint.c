/* lint.c - how far a codebook is from the optimum for N(0,1). */
#include "turboquant/replay_internal.h"

#include "base/error.h"
#include "base/map.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A file of levels: numbers separated by white space or commas; '#' starts a comment. A file of n/2
 * positive numbers is the upper half of a symmetric table. */
static enum st_status read_table(const char *path, struct st_codebook *cb, struct st_error *err)
{
	struct st_map m;
	double level[ST_TQ_MAX_LEVELS];
	size_t n = 0;
	enum st_status st = st_map_open(&m, path, err);
	if (st != ST_OK) {
		if (!err->where[0])
			snprintf(err->where, sizeof err->where, "--table");
		return st;
	}
	for (uint64_t i = 0; i < m.size && st == ST_OK;) {
		char c = (char)m.data[i];
		if (c == '#') {
			while (i < m.size && m.data[i] != '\n')
				i++;
		} else if (strchr(" \t\r\n,;[]", c) && c) {
			i++;
		} else {
			/* Room for any f64 that is written out; a longer word is none. */
			char word[1024], *end;
			size_t k = 0;
			uint64_t at = i;
			for (; i < m.size && m.data[i] && !strchr(" \t\r\n,;[]#", m.data[i]); i++)
				if (++k < sizeof word)
					word[k - 1] = (char)m.data[i];
			word[k < sizeof word ? k : 0] = '\0';
			double x = strtod(word, &end);
			if (k >= sizeof word)
				st = st_fail_at(err, ST_ERR_FORMAT, at, "--table", "%zu characters are no number", k);
			else if (k == 0 || (*end && !(end[0] == 'f' && !end[1])))
				st = st_fail_at(err, ST_ERR_FORMAT, at, "--table", "\"%.60s\" is not a number", word);
			else if (n == ST_TQ_MAX_LEVELS)
				st = st_fail_at(err, ST_ERR_FORMAT, at, "--table", "more than %d levels",
				                ST_TQ_MAX_LEVELS);
			else
				level[n++] = x;
		}
	}
	st_map_close(&m);
	if (st == ST_OK && n > 1 && n <= ST_TQ_MAX_LEVELS / 2 && level[0] > 0) {
		for (size_t i = n; i-- > 0;)
			level[n + i] = level[i];
		for (size_t i = 0; i < n; i++)
			level[n - 1 - i] = -level[n + i];
		n *= 2;
	}
	if (st == ST_OK)
		st = st_codebook_from_levels(cb, level, n, err);
	if (st != ST_OK && !err->where[0])
		snprintf(err->where, sizeof err->where, "--table");
	st_error_in(err, path);
	return st;
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
	json_t *j = json_object();
	st_codebook_lint(cb, &l);
	const struct st_codebook_known *k = recognise(cb, &l);
	fprintf(r->text, "%-16s %4u  %9.3g  %9.3g  %.6f  %+8.2f%%  %10.7f  %s%s%s\n", name, cb->bits, l.lloyd_move,
	        l.distance, l.rmse, 100 * l.mse_excess, l.outermost, l.ok ? "optimal" : "NOT OPTIMAL",
	        k && strcmp(k->name, name) ? ", this is " : "", k && strcmp(k->name, name) ? k->name : "");
	st_json_put(j, "name", json_string(name));
	st_json_put(j, "bits", json_integer(cb->bits));
	st_json_put(j, "largest_lloyd_move", st_json_number(l.lloyd_move));
	st_json_put(j, "largest_lloyd_move_level", json_integer(l.lloyd_level));
	st_json_put(j, "distance_from_optimum", st_json_number(l.distance));
	st_json_put(j, "rmse", st_json_number(l.rmse));
	st_json_put(j, "rmse_optimum", st_json_number(l.rmse_optimum));
	st_json_put(j, "mse_excess", st_json_number(l.mse_excess));
	st_json_put(j, "outermost", st_json_number(l.outermost));
	st_json_put(j, "outermost_optimum", st_json_number(l.outermost_optimum));
	st_json_put(j, "asymmetry", st_json_number(l.asymmetry));
	st_json_put(j, "recognised", k ? json_string(k->name) : json_null());
	st_json_put(j, "ok", json_boolean(l.ok));
	json_array_append_new(list, j);
	if (!l.ok)
		r->exit_status = 2;
}

enum st_status st_replay_lint(struct st_replay_run *r, struct st_error *err)
{
	struct st_codebook cb = { 0 };
	json_t *list = json_array(), *known = json_array();
	st_json_put(r->json, "tolerance", st_json_number(ST_CODEBOOK_TOLERANCE));
	st_json_put(r->json, "codebooks", list);
	st_json_put(r->json, "known", known);
	r->inputs[0] = r->o->table;
	ST_TRY(st_replay_open_json(r, err));
	fprintf(r->text, "codebook         bits Lloyd move   distance      RMSE  excess MSE  outermost  verdict\n");
	if (r->o->table) {
		ST_TRY(read_table(r->o->table, &cb, err));
		add(r, list, "table", &cb);
	}
	for (unsigned bits = ST_TQ_MIN_BITS; bits <= ST_TQ_MAX_BITS; bits++) {
		char name[24];
		if (r->o->table && bits != cb.bits)
			continue;
		struct st_codebook best;
		if (!st_codebook_generate(&best, bits))
			return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "bits",
			                  "the %u-bit codebook did not converge", bits);
		snprintf(name, sizeof name, "generated-%ubit", bits);
		add(r, list, name, &best);
	}
	for (size_t i = 0; i < st_codebooks_n_known; i++) {
		const struct st_codebook_known *k = st_codebooks_known + i;
		struct st_codebook named, best;
		if (r->o->table && k->bits != cb.bits)
			continue;
		if (st_codebook_from_known(&named, k)) {
			add(r, list, k->name, &named);
			continue;
		}
		/* Only figures are known: stated beside the optimum, not as something measured here. */
		if (!st_codebook_generate(&best, k->bits))
			return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, "bits",
			                  "the %u-bit codebook did not converge", k->bits);
		struct st_codebook_lint l;
		st_codebook_lint(&best, &l);
		double excess = k->rmse * k->rmse / (l.rmse * l.rmse) - 1;
		fprintf(r->text,
		        "%-16s %4u          -          -  %.6f  %+8.2f%%  %10.7f  as published, levels not on record\n",
		        k->name, k->bits, k->rmse, 100 * excess, k->outermost);
		json_t *j = json_object();
		st_json_put(j, "name", json_string(k->name));
		st_json_put(j, "bits", json_integer(k->bits));
		st_json_put(j, "rmse_published", st_json_number(k->rmse));
		st_json_put(j, "outermost_published", st_json_number(k->outermost));
		st_json_put(j, "mse_excess", st_json_number(excess));
		json_array_append_new(known, j);
	}
	st_json_put(r->json, "verdict", json_string(r->exit_status ? "not_optimal" : "optimal"));
	fprintf(r->text, "verdict: %s\n",
	        r->exit_status ? "a codebook is not the optimum for N(0,1)"
	                       : "every codebook whose levels are known is the Lloyd-Max optimum for N(0,1)");
	return ST_OK;
}
