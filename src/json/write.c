/* write.c - a JSON document as a file. */
#include "json/json.h"

#include "base/error.h"
#include "base/outfile.h"

#include <stdlib.h>
#include <string.h>

enum st_status st_json_write(const char *path, const json_t *j, struct st_error *err)
{
	char *s = st_json_ok(j) ? st_json_print(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)) : NULL;
	struct st_outfile *f = NULL;
	enum st_status st = s ? st_outfile_open(path, &f, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = st_outfile_write(f, s, strlen(s), err);
	if (st == ST_OK)
		st = st_outfile_write(f, "\n", 1, err);
	if (st == ST_OK)
		st = st_outfile_commit(f, err);
	else
		st_outfile_abort(f);
	free(s);
	return st;
}
