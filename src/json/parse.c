/* parse.c - JSON from strangers, by jansson. */
#include "json/json.h"

#include "base/error.h"
#include "base/map.h"

#include <errno.h>
#include <stdlib.h>
#include <threads.h>
#include <unistd.h>

/*
 * An upper bound on what jansson allocates for a text, from counting its punctuation. The
 * costs are malloc'ed bytes of jansson 2.14 on a 64-bit machine: an object is a struct and
 * eight buckets, an array a struct and eight slots, a key or a string a struct and its text.
 * Punctuation inside strings counts too, which only makes the bound looser.
 */
static uint64_t tree_cost(const char *text, uint64_t n)
{
	static const uint8_t cost[256] = { ['{'] = 224, ['['] = 128, [':'] = 112, [','] = 56, ['"'] = 40 };
	uint64_t sum = n;
	for (uint64_t i = 0; i < n; i++)
		sum += cost[(unsigned char)text[i]];
	return sum;
}

/*
 * jansson takes a failure of malloc for a fault in the text or, worse, loses a letter of a string and goes on. Its
 * allocator therefore goes through one that remembers; memory from before and after is the same to it.
 */
static once_flag watching = ONCE_FLAG_INIT;
static json_malloc_t plain_malloc;
static _Thread_local bool lost;

static void *watched_malloc(size_t n)
{
	void *p = plain_malloc(n);
	lost |= !p;
	return p;
}

static void watch(void)
{
	json_free_t plain_free;
	json_get_alloc_funcs(&plain_malloc, &plain_free);
	json_set_alloc_funcs(watched_malloc, plain_free);
}

enum st_status st_json_parse_within(const char *text, uint64_t n, uint64_t origin, uint64_t budget, json_t **out,
                                    struct st_error *err)
{
	*out = NULL;
	uint64_t cost = tree_cost(text, n);
	if (cost > budget)
		return st_fail_at(err, ST_ERR_LIMIT, origin, NULL,
		                  "JSON text of %llu bytes would take up to %llu bytes of memory, allowed are %llu",
		                  (unsigned long long)n, (unsigned long long)cost, (unsigned long long)budget);
	json_error_t e;
	call_once(&watching, watch);
	lost = false;
	json_t *j = json_loadb(n ? text : "", (size_t)n, JSON_REJECT_DUPLICATES, &e);
	if (lost) {
		json_decref(j);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (!j)
		return st_fail_at(err, ST_ERR_FORMAT, origin + (e.position > 0 ? (uint64_t)e.position : 0), NULL,
		                  "not valid JSON: %s", e.text);
	*out = j;
	return ST_OK;
}

char *st_json_print(const json_t *j, size_t flags)
{
	call_once(&watching, watch);
	lost = false;
	char *text = j ? json_dumps(j, flags) : NULL;
	if (!lost)
		return text;
	free(text); /* jansson may have left something out */
	return NULL;
}

enum st_status st_json_parse(const char *text, uint64_t n, uint64_t origin, json_t **out, struct st_error *err)
{
	/* A tokenizer.json with pretty-printed merges, the densest document met in practice, needs 6 bytes per byte. */
	uint64_t budget;
	if (!st_mul_u64(n, 16, &budget) || !st_add_u64(budget, (uint64_t)64 << 20, &budget))
		budget = UINT64_MAX;
	return st_json_parse_within(text, n, origin, budget, out, err);
}

/* Parse the file; `most` 0: of any size. */
static enum st_status load(const char *path, uint64_t most, json_t **out, struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = most && m.size > most ? st_fail(err, ST_ERR_LIMIT, "%llu bytes of JSON, allowed are %llu",
	                                                    (unsigned long long)m.size, (unsigned long long)most)
	                                          : st_json_parse((const char *)m.data, m.size, 0, out, err);
	st_map_close(&m);
	return st;
}

enum st_status st_json_load(const char *path, json_t **out, struct st_error *err)
{
	*out = NULL;
	if (access(path, F_OK) != 0 && errno == ENOENT)
		return ST_OK;
	enum st_status st = load(path, 0, out, err);
	if (st != ST_OK)
		st_error_in(err, path);
	return st;
}

enum st_status st_json_load_object(const char *path, uint64_t most, json_t **out, struct st_error *err)
{
	*out = NULL;
	enum st_status st = load(path, most, out, err);
	if (st == ST_OK && !json_is_object(*out))
		st = st_fail(err, ST_ERR_FORMAT, "holds a JSON value that is not an object");
	if (st != ST_OK) {
		st_error_in(err, path);
		json_decref(*out);
		*out = NULL;
	}
	return st;
}
