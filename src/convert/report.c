/* report.c - which input of a report a file is, and what the report says of it. */
#include "convert/report.h"

#include <stele/cause.h>

#include "convert/fields.h"
#include "convert/repair.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

char st_fault_side(const json_t *o)
{
	const char *s = st_report_text(o, "side");
	return s && (s[0] == 'a' || s[0] == 'b') && !s[1] ? s[0] : 0;
}

bool st_fault_concerns(const struct st_repair *r, const json_t *fault)
{
	char side = st_fault_side(fault);
	return !side || side == r->side;
}

static enum st_status bad_report(const struct st_conversion *v, struct st_error *err, const char *what)
{
	enum st_status st = st_fail(err, ST_ERR_FORMAT, "%s", what);
	st_error_in(err, v->o->repair);
	return st;
}

static const json_t *input(const struct st_repair *r, char side)
{
	return json_object_get(json_object_get(r->doc, "inputs"), side == 'a' ? "a" : "b");
}

static bool same_path(const char *a, const char *b)
{
	char x[PATH_MAX], y[PATH_MAX];
	return a && realpath(a, x) && realpath(b, y) && strcmp(x, y) == 0;
}

/* By path; else by the digest, when the report has them. */
static enum st_status identify(struct st_repair *r, const struct st_conversion *v, struct st_error *err)
{
	char hex[65];
	bool a = same_path(st_report_text(input(r, 'a'), "path"), v->src.path),
	     b = same_path(st_report_text(input(r, 'b'), "path"), v->src.path);
	const char *sha_a = st_report_text(input(r, 'a'), "sha256"), *sha_b = st_report_text(input(r, 'b'), "sha256");
	if (a == b && sha_a && sha_b && strcmp(sha_a, sha_b) != 0) {
		ST_TRY(st_container_sha256(st_model_container(v->src.model), hex, err));
		a = strcmp(hex, sha_a) == 0;
		b = strcmp(hex, sha_b) == 0;
	}
	if (a == b) {
		const char *pa = st_report_text(input(r, 'a'), "path"), *pb = st_report_text(input(r, 'b'), "path");
		return st_fail(err, ST_ERR_MISMATCH,
		               "is neither input of the report, A %.100s and B %.100s, by path or digest",
		               pa ? pa : "?", pb ? pb : "?");
	}
	r->side = a ? 'a' : 'b';
	if (v->o->side && v->o->side != r->side)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "side", "the file is input %c of the report, not %c",
		                  r->side, v->o->side);
	return ST_OK;
}

static enum st_status ask_side(const struct st_conversion *v, const struct st_repair *r, const char *what,
                               struct st_error *err)
{
	if (v->o->side)
		return ST_OK;
	return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "side",
	                  "the report cannot tell which file is wrong about %.100s; say --side %c if it is this one, "
	                  "input %c of the report",
	                  what, r->side, r->side);
}

static bool matters(const json_t *diff) { return json_is_true(json_object_get(diff, "matters")); }

/* Keys of one setting come together: a scaling has its factor, whether or not that mattered by itself. */
static enum st_status repair_config(struct st_repair *r, struct st_conversion *v, struct st_error *err)
{
	const json_t *list = json_object_get(r->doc, "config");
	bool rope = false;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *d = json_array_get(list, i);
		const char *key = st_report_text(d, "key");
		rope |= key && matters(d) && strncmp(key, "rope_", 5) == 0;
	}
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *d = json_array_get(list, i);
		const char *key = st_report_text(d, "key"), *was = st_report_text(d, r->side == 'a' ? "a" : "b"),
			   *is = st_report_text(d, r->side == 'a' ? "b" : "a");
		if (!key || !was || !is || !(matters(d) || (rope && strncmp(key, "rope_", 5) == 0)))
			continue;
		ST_TRY(ask_side(v, r, key, err));
		if (!st_config_set(&v->dst.cfg, key, is)
		    || v->dst.n_edited == sizeof v->dst.edited / sizeof *v->dst.edited)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
			                  "config.mismatch (%.60s here, %.60s there) cannot be repaired: the tensors "
			                  "depend on it",
			                  was, is);
		v->dst.edited[v->dst.n_edited++] = st_arena_strndup(&v->arena, key, strlen(key));
		if (!v->dst.edited[v->dst.n_edited - 1])
			return st_no_memory(err);
		st_log_line(&v->log, &v->log.repairs, "config.mismatch: %s is %s instead of %s", key, is, was);
	}
	return ST_OK;
}

/* The faults as one list: those compared, and the weights that only the other file has. */
static enum st_status list_faults(struct st_repair *r, struct st_error *err)
{
	json_t *weights = json_object_get(r->doc, "weights"), *faults = json_object_get(weights, "faults");
	const json_t *missing = json_object_get(weights, r->side == 'a' ? "only_b" : "only_a");
	if (!json_is_array(faults))
		return st_fail(err, ST_ERR_FORMAT, "weights.faults is missing");
	for (size_t i = 0; i < json_array_size(missing); i++) {
		json_t *f = json_pack("{s:O, s:s, s:s#}", "tensor", json_array_get(missing, i), "code",
		                      st_cause_name(ST_CAUSE_WEIGHT_MISSING), "side", &r->side, 1);
		if (!f || json_array_append_new(faults, f) != 0)
			return st_no_memory(err);
	}
	r->faults = faults;
	return ST_OK;
}

static enum st_status nothing_to_do(const struct st_repair *r, struct st_error *err)
{
	const json_t *cause = json_object_get(r->doc, "cause");
	const char *code = st_report_text(cause, "code");
	for (size_t i = 0; i < json_array_size(r->faults); i++)
		if (!st_fault_concerns(r, json_array_get(r->faults, i)))
			return st_fail(err, ST_ERR_USAGE,
			               "is input %c of the report, which says that the other one is wrong", r->side);
	if (code)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, code,
		                  "cannot be repaired in a file by what the report says");
	return st_fail(err, ST_ERR_USAGE, "the report finds no fault to repair");
}

enum st_status st_repair_open(struct st_conversion *v, struct st_repair **out, struct st_error *err)
{
	struct st_repair *r = *out = st_alloc_zeroed(1, sizeof *r);
	size_t n = 0;
	if (!r)
		return st_no_memory(err);
	ST_TRY(st_json_load(v->o->repair, &r->doc, err));
	const char *schema = st_report_text(r->doc, "schema"), *command = st_report_text(r->doc, "command");
	if (!r->doc)
		return bad_report(v, err, "does not exist");
	if (!schema || strcmp(schema, "stele.report/1") != 0 || !command || strcmp(command, "rosetta") != 0)
		return bad_report(v, err, "is no report of stele rosetta --json");
	ST_TRY(identify(r, v, err));
	enum st_status st = list_faults(r, err);
	if (st != ST_OK) {
		st_error_in(err, v->o->repair);
		return st;
	}
	ST_TRY(repair_config(r, v, err));
	for (size_t i = 0; i < json_array_size(r->faults); i++) {
		const json_t *f = json_array_get(r->faults, i);
		const char *name = st_report_text(f, "tensor");
		if (!st_fault_concerns(r, f))
			continue;
		if (!st_fault_side(f))
			ST_TRY(ask_side(v, r, name ? name : "a tensor", err));
		n++;
	}
	if (n == 0 && v->dst.n_edited == 0)
		return nothing_to_do(r, err);
	const char *other = st_report_text(input(r, r->side == 'a' ? 'b' : 'a'), "path");
	struct st_error why = ST_ERROR_INIT;
	if (!other || st_model_open_partial(other, &v->src.other, &why) != ST_OK)
		st_note(&v->log, "the repair could not be compared with %.200s: %.200s",
		        other ? other : "the other file", other ? why.message : "the report does not name it");
	return ST_OK;
}

void st_repair_close(struct st_repair *r)
{
	if (!r)
		return;
	json_decref(r->doc);
	free(r);
}
