/*
 * stele_tap.h - an engine of your own writes what it computes, stage by stage, for `stele explain` and `stele diff`.
 *
 * One header, C99 or C++, no dependency (POSIX threads or Windows). One source file of the engine says
 *
 *	#define STELE_TAP_IMPLEMENTATION
 *	#include "stele_tap.h"
 *
 * and all others the second line alone. Then
 *
 *	stele_tap *t = stele_tap_open("trace.safetensors");
 *	stele_tap_meta(t, "engine", "mine 1.0");
 *	stele_tap_meta(t, "rope_layout", "half");
 *	stele_tap_tokens(t, ids, n);
 *	stele_tap_f32(t, "attn_norm", layer, x, n, hidden);          (for every stage that the engine has, in any order)
 *	char why[256];
 *	if (stele_tap_close(t, why, sizeof why)) fprintf(stderr, "%s\n", why);
 *
 *	stele explain trace.safetensors --model MODEL
 *
 * What is not put is absent, which is no error: explain then evaluates it. Never put zeros for what you do not have. Names of
 * stages and what each holds: docs/format-bundle.md and `stele family show NAME`.
 *
 * The first failure sticks: later calls do nothing, and stele_tap_close() tells it. So return values may be ignored on the way,
 * and a full disk costs the engine nothing but its trace. Any thread may put. Values go to the disk as they come (two names beside
 * PATH that end in .part); PATH appears whole, by rename, when the tap is closed, and not at all after a failure.
 */
#ifndef STELE_TAP_H
#define STELE_TAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct stele_tap stele_tap;

enum stele_tap_type { STELE_TAP_F32, STELE_TAP_F16, STELE_TAP_BF16, STELE_TAP_F64, STELE_TAP_I32 };

/* One value, or some of its rows. A row is what one token has; rows of one value may be put piece by piece, in any order. */
typedef struct stele_tap_value {
	const char *stage; /* "attn_norm" */
	int layer;         /* -1: of the whole model */
	int step;          /* 0: of the prompt; 1, 2, ...: of a decode step, which has one row */
	enum stele_tap_type type;
	const void *data;
	int heads;       /* 0: rows of `columns` numbers. Else [heads, rows, columns]: scores, probabilities; put in one piece */
	size_t rows;     /* tokens */
	size_t columns;  /* numbers of a row; with `heads`: of one head's row */
	size_t row_step; /* bytes from one row to the next; 0: they lie side by side */
	size_t head_step;         /* bytes from one head to the next; 0: likewise */
	const int32_t *positions; /* of the rows in the prompt; NULL: 0, 1, 2, ... Unused in steps */
} stele_tap_value;

/* NULL where there is no memory or no file can be made beside path; errno says why. Every function takes NULL for a tap that
 * does nothing. */
stele_tap *stele_tap_open(const char *path);
/* Metadata of the format: engine, backend, model, arch, rope_layout (half or interleaved), heads ("[8, 2, 64]": query heads,
 * key-value heads, size), kv_cache, ... UTF-8. A name given again replaces the value. */
int stele_tap_meta(stele_tap *t, const char *name, const char *value);
/* The prompt's token ids; a further call appends (prompts in chunks). */
int stele_tap_tokens(stele_tap *t, const int32_t *ids, size_t n);
/* The token that decode step `step` evaluates. */
int stele_tap_step(stele_tap *t, int step, int32_t id);
int stele_tap_put(stele_tap *t, const stele_tap_value *v);
/* The usual case: rows of the whole prompt, f32, dense. */
int stele_tap_f32(stele_tap *t, const char *stage, int layer, const float *x, size_t rows, size_t columns);
/* Take back what was put of a value: it is absent. */
void stele_tap_drop(stele_tap *t, const char *stage, int layer, int step);
/* Whether a failure happened, and its text (NULL: none). */
const char *stele_tap_error(const stele_tap *t);
/* Write the file and free the tap. 0, or -1 with the reason in why (which may be NULL). */
int stele_tap_close(stele_tap *t, char *why, size_t size);
/* Free the tap; no file appears. */
void stele_tap_abort(stele_tap *t);

#ifdef __cplusplus
}
#endif
#endif

#if defined STELE_TAP_IMPLEMENTATION && !defined STELE_TAP_IMPLEMENTED
#define STELE_TAP_IMPLEMENTED

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK stele_tap_lock_t;
#define STELE_TAP_LOCK_INIT(l) InitializeSRWLock(l)
#define STELE_TAP_LOCK(l) AcquireSRWLockExclusive(l)
#define STELE_TAP_UNLOCK(l) ReleaseSRWLockExclusive(l)
#define STELE_TAP_LOCK_FREE(l) (void)(l)
#else
#include <pthread.h>
typedef pthread_mutex_t stele_tap_lock_t;
#define STELE_TAP_LOCK_INIT(l) pthread_mutex_init(l, NULL)
#define STELE_TAP_LOCK(l) pthread_mutex_lock(l)
#define STELE_TAP_UNLOCK(l) pthread_mutex_unlock(l)
#define STELE_TAP_LOCK_FREE(l) pthread_mutex_destroy(l)
#endif

/* Where a row lies in the file of values. */
struct stele_tap_row {
	int32_t position;
	uint64_t at;
};

struct stele_tap_entry {
	char *key;
	enum stele_tap_type type;
	int heads, step;
	size_t columns;
	struct stele_tap_row *rows; /* of every head in turn where there are heads */
	size_t n, room;
};

struct stele_tap_pair {
	char *name, *value;
};

struct stele_tap {
	char *path, *data_path;
	FILE *data; /* rows as they came */
	uint64_t size;
	stele_tap_lock_t lock;
	struct stele_tap_entry *entries;
	struct stele_tap_pair *meta;
	int32_t *tokens;
	size_t n_entries, room_entries, n_meta, room_meta, n_tokens, room_tokens;
	char error[512];
};

/* Text that grows. */
struct stele_tap_text {
	char *s;
	size_t n, room;
	int failed;
};

static const struct {
	const char *name;
	size_t size;
} stele_tap_types[] = { { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "F64", 8 }, { "I32", 4 } };

static int stele_tap_fail(stele_tap *t, const char *format, ...)
{
	va_list args;
	if (t->error[0])
		return -1;
	va_start(args, format);
	vsnprintf(t->error, sizeof t->error, format, args);
	va_end(args);
	if (t->data) { /* the room on the disk is the engine's again */
		fclose(t->data);
		remove(t->data_path);
		t->data = NULL;
	}
	return -1;
}

static int stele_tap_no_memory(stele_tap *t) { return stele_tap_fail(t, "%s: out of memory", t->path); }

static int stele_tap_failed_write(stele_tap *t)
{
	return stele_tap_fail(t, "%s: %s", t->path, errno ? strerror(errno) : "cannot be written");
}

/* p with room for n elements of `size` bytes; NULL: no memory, and p is what it was. */
static void *stele_tap_grow(void *p, size_t *room, size_t n, size_t size)
{
	size_t more = *room ? *room : 8;
	if (p && n <= *room)
		return p;
	while (more < n)
		more = more > SIZE_MAX / 2 ? n : more * 2;
	if (more > SIZE_MAX / size || !(p = realloc(p, more * size)))
		return NULL;
	*room = more;
	return p;
}

static char *stele_tap_copy(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	char *s = (char *)malloc(n + m + 1);
	if (s) {
		memcpy(s, a, n);
		memcpy(s + n, b, m + 1);
	}
	return s;
}

static void stele_tap_free(stele_tap *t)
{
	size_t i;
	if (t->data) {
		fclose(t->data);
		remove(t->data_path);
	}
	for (i = 0; i < t->n_entries; i++) {
		free(t->entries[i].key);
		free(t->entries[i].rows);
	}
	for (i = 0; i < t->n_meta; i++) {
		free(t->meta[i].name);
		free(t->meta[i].value);
	}
	STELE_TAP_LOCK_FREE(&t->lock);
	free(t->entries);
	free(t->meta);
	free(t->tokens);
	free(t->path);
	free(t->data_path);
	free(t);
}

stele_tap *stele_tap_open(const char *path)
{
	char name[64];
	stele_tap *t = (stele_tap *)calloc(1, sizeof *t);
	if (!t)
		return NULL;
	STELE_TAP_LOCK_INIT(&t->lock);
	/* Two engines that write to one path do not meet. */
	snprintf(name, sizeof name, ".%08lx.part",
	         ((unsigned long)time(NULL) * 2654435761UL ^ (unsigned long)clock() ^ (unsigned long)(uintptr_t)t >> 4) & 0xffffffffUL);
	t->path = stele_tap_copy(path, "");
	t->data_path = stele_tap_copy(path, name);
	if (t->path && t->data_path)
		t->data = fopen(t->data_path, "wb+");
	if (!t->data) {
		int e = errno;
		stele_tap_free(t);
		errno = e;
		return NULL;
	}
	return t;
}

const char *stele_tap_error(const stele_tap *t) { return t && t->error[0] ? t->error : NULL; }

static int stele_tap_set(stele_tap *t, const char *name, const char *value)
{
	size_t i;
	struct stele_tap_pair *meta = (struct stele_tap_pair *)stele_tap_grow(t->meta, &t->room_meta, t->n_meta + 1, sizeof *meta);
	char *copy = stele_tap_copy(value, "");
	if (meta)
		t->meta = meta;
	if (!copy || !meta) {
		free(copy);
		return stele_tap_no_memory(t);
	}
	for (i = 0; i < t->n_meta && strcmp(t->meta[i].name, name); i++)
		;
	if (i < t->n_meta) {
		free(t->meta[i].value);
	} else {
		if (!(t->meta[i].name = stele_tap_copy(name, ""))) {
			free(copy);
			return stele_tap_no_memory(t);
		}
		t->n_meta++;
	}
	t->meta[i].value = copy;
	return 0;
}

int stele_tap_meta(stele_tap *t, const char *name, const char *value)
{
	int r;
	if (!t)
		return -1;
	STELE_TAP_LOCK(&t->lock);
	r = t->error[0] ? -1 : stele_tap_set(t, name, value);
	STELE_TAP_UNLOCK(&t->lock);
	return r;
}

int stele_tap_tokens(stele_tap *t, const int32_t *ids, size_t n)
{
	int r = -1;
	if (!t)
		return -1;
	STELE_TAP_LOCK(&t->lock);
	if (!t->error[0]) {
		int32_t *all = (int32_t *)stele_tap_grow(t->tokens, &t->room_tokens, t->n_tokens + n, sizeof *ids);
		if (all) {
			t->tokens = all;
			if (n)
				memcpy(all + t->n_tokens, ids, n * sizeof *ids);
			t->n_tokens += n;
			r = 0;
		} else {
			r = stele_tap_no_memory(t);
		}
	}
	STELE_TAP_UNLOCK(&t->lock);
	return r;
}

static struct stele_tap_entry *stele_tap_entry_of(stele_tap *t, const stele_tap_value *v)
{
	char key[256];
	size_t i;
	struct stele_tap_entry *e;
	int n = v->step ? snprintf(key, sizeof key, "steps.%d.", v->step) : 0;
	n += v->layer >= 0 ? snprintf(key + n, sizeof key - (size_t)n, "layers.%d.", v->layer) : 0;
	n += snprintf(key + n, sizeof key - (size_t)n, "%s", v->stage);
	if ((size_t)n >= sizeof key) {
		stele_tap_fail(t, "%s: a name of %d characters", t->path, n);
		return NULL;
	}
	for (i = t->n_entries; i-- > 0;) /* the last ones are asked for most */
		if (!strcmp(t->entries[i].key, key))
			return &t->entries[i];
	if (!(e = (struct stele_tap_entry *)stele_tap_grow(t->entries, &t->room_entries, t->n_entries + 1, sizeof *e))) {
		stele_tap_no_memory(t);
		return NULL;
	}
	t->entries = e;
	e += t->n_entries;
	memset(e, 0, sizeof *e);
	e->type = v->type;
	e->heads = v->heads;
	e->columns = v->columns;
	e->step = v->step;
	if (!(e->key = stele_tap_copy(key, ""))) {
		stele_tap_no_memory(t);
		return NULL;
	}
	t->n_entries++;
	return e;
}

static int stele_tap_put_locked(stele_tap *t, const stele_tap_value *v)
{
	struct stele_tap_entry *e;
	struct stele_tap_row *rows;
	size_t h, r, heads = v->heads > 0 ? (size_t)v->heads : 1, row;
	if (t->error[0])
		return -1;
	if (v->type < STELE_TAP_F32 || v->type > STELE_TAP_I32 || v->heads < 0 || v->step < 0 || !v->stage || !*v->stage)
		return stele_tap_fail(t, "%s: %s: no such type, heads or step", t->path, v->stage ? v->stage : "(no name)");
	if (!v->rows || !v->columns || v->rows > INT32_MAX || v->columns > SIZE_MAX / 8)
		return stele_tap_fail(t, "%s: %s of layer %d: %lu rows of %lu numbers", t->path, v->stage, v->layer,
		                      (unsigned long)v->rows, (unsigned long)v->columns);
	if (v->step && v->rows != 1)
		return stele_tap_fail(t, "%s: %s of layer %d: a decode step has one row, not %lu", t->path, v->stage, v->layer,
		                      (unsigned long)v->rows);
	if (!(e = stele_tap_entry_of(t, v)))
		return -1;
	if (e->n && (e->heads || v->heads || v->step))
		return stele_tap_fail(t, "%s: %s is put twice", t->path, e->key);
	if (e->type != v->type || e->columns != v->columns)
		return stele_tap_fail(t, "%s: %s: rows of %s [%lu] after rows of %s [%lu]", t->path, e->key, stele_tap_types[v->type].name,
		                      (unsigned long)v->columns, stele_tap_types[e->type].name, (unsigned long)e->columns);
	if (!(rows = (struct stele_tap_row *)stele_tap_grow(e->rows, &e->room, e->n + heads * v->rows, sizeof *rows)))
		return stele_tap_no_memory(t);
	e->rows = rows;
	row = v->columns * stele_tap_types[v->type].size;
	for (h = 0; h < heads; h++) {
		size_t from_row = v->row_step ? v->row_step : row;
		const char *p = (const char *)v->data + h * (v->head_step ? v->head_step : from_row * v->rows);
		for (r = 0; r < v->rows; r++) {
			errno = 0;
			if (fwrite(p + r * from_row, 1, row, t->data) != row)
				return stele_tap_failed_write(t);
			e->rows[e->n].position = v->positions && !v->step ? v->positions[r] : (int32_t)r;
			e->rows[e->n++].at = t->size;
			t->size += row;
		}
	}
	return 0;
}

int stele_tap_put(stele_tap *t, const stele_tap_value *v)
{
	int r;
	if (!t)
		return -1;
	STELE_TAP_LOCK(&t->lock);
	r = stele_tap_put_locked(t, v);
	STELE_TAP_UNLOCK(&t->lock);
	return r;
}

int stele_tap_f32(stele_tap *t, const char *stage, int layer, const float *x, size_t rows, size_t columns)
{
	stele_tap_value v;
	memset(&v, 0, sizeof v);
	v.stage = stage;
	v.layer = layer;
	v.type = STELE_TAP_F32;
	v.data = x;
	v.rows = rows;
	v.columns = columns;
	return stele_tap_put(t, &v);
}

int stele_tap_step(stele_tap *t, int step, int32_t id)
{
	stele_tap_value v;
	memset(&v, 0, sizeof v);
	v.stage = "token";
	v.layer = -1;
	v.step = step > 0 ? step : -1;
	v.type = STELE_TAP_I32;
	v.data = &id;
	v.rows = v.columns = 1;
	return stele_tap_put(t, &v);
}

void stele_tap_drop(stele_tap *t, const char *stage, int layer, int step)
{
	stele_tap_value v;
	struct stele_tap_entry *e;
	if (!t)
		return;
	memset(&v, 0, sizeof v);
	v.stage = stage;
	v.layer = layer;
	v.step = step;
	STELE_TAP_LOCK(&t->lock);
	if (!t->error[0] && (e = stele_tap_entry_of(t, &v)) != NULL) {
		/* The last one takes its place. */
		free(e->key);
		free(e->rows);
		*e = t->entries[--t->n_entries];
	}
	STELE_TAP_UNLOCK(&t->lock);
}

/* ---- the file ---- */

static void stele_tap_say(struct stele_tap_text *x, const char *s, size_t n)
{
	char *more = x->failed ? NULL : (char *)stele_tap_grow(x->s, &x->room, x->n + n + 1, 1);
	if (!more) {
		x->failed = 1;
		return;
	}
	x->s = more;
	memcpy(x->s + x->n, s, n);
	x->n += n;
	x->s[x->n] = 0;
}

static void stele_tap_sayf(struct stele_tap_text *x, const char *format, ...)
{
	char s[128];
	va_list args;
	va_start(args, format);
	vsnprintf(s, sizeof s, format, args);
	va_end(args);
	stele_tap_say(x, s, strlen(s));
}

static void stele_tap_quote(struct stele_tap_text *x, const char *s)
{
	stele_tap_say(x, "\"", 1);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			stele_tap_sayf(x, "\\%c", c);
		else if (c < 0x20)
			stele_tap_sayf(x, "\\u%04x", c);
		else
			stele_tap_say(x, s, 1);
	}
	stele_tap_say(x, "\"", 1);
}

/* "name": "[1, 2, 3]" */
static void stele_tap_list(struct stele_tap_text *x, const char *prefix, const char *name, const int32_t *ids,
                           const struct stele_tap_row *rows, size_t n)
{
	size_t i;
	char *whole = stele_tap_copy(prefix, name);
	if (!whole) {
		x->failed = 1;
		return;
	}
	stele_tap_say(x, ",", 1);
	stele_tap_quote(x, whole);
	stele_tap_say(x, ":\"[", 3);
	for (i = 0; i < n; i++)
		stele_tap_sayf(x, i ? ", %ld" : "%ld", (long)(ids ? ids[i] : rows[i].position));
	stele_tap_say(x, "]\"", 2);
	free(whole);
}

static int stele_tap_by_position(const void *a, const void *b)
{
	int32_t p = ((const struct stele_tap_row *)a)->position, q = ((const struct stele_tap_row *)b)->position;
	return (p > q) - (p < q);
}

/* Rows in the order of their positions, each position once and one that the prompt has. */
static int stele_tap_order(stele_tap *t, struct stele_tap_entry *e)
{
	size_t i, n = e->heads ? e->n / (size_t)e->heads : e->n;
	if (e->step)
		return 0;
	if (!e->heads)
		qsort(e->rows, e->n, sizeof *e->rows, stele_tap_by_position);
	for (i = 0; i < n; i++) {
		if (e->rows[i].position < 0 || (size_t)e->rows[i].position >= t->n_tokens)
			return stele_tap_fail(t, "%s: %s: a row of position %ld, and the prompt has %lu tokens", t->path, e->key,
			                      (long)e->rows[i].position, (unsigned long)t->n_tokens);
		if (i && e->rows[i].position <= e->rows[i - 1].position)
			return stele_tap_fail(t, "%s: %s: position %ld %s", t->path, e->key, (long)e->rows[i].position,
			                      e->rows[i].position == e->rows[i - 1].position ? "is put twice" : "is out of order");
	}
	return 0;
}

static void stele_tap_header(stele_tap *t, struct stele_tap_text *x)
{
	uint64_t at = 0;
	size_t i;
	stele_tap_sayf(x, "{\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"1\"");
	stele_tap_list(x, "tokens", "", t->tokens, NULL, t->n_tokens);
	for (i = 0; i < t->n_meta; i++) {
		stele_tap_say(x, ",", 1);
		stele_tap_quote(x, t->meta[i].name);
		stele_tap_say(x, ":", 1);
		stele_tap_quote(x, t->meta[i].value);
	}
	for (i = 0; i < t->n_entries; i++) {
		const struct stele_tap_entry *e = &t->entries[i];
		size_t n = e->heads ? e->n / (size_t)e->heads : e->n;
		if (!e->step && n != t->n_tokens)
			stele_tap_list(x, "positions.", e->key, NULL, e->rows, n);
	}
	stele_tap_say(x, "}", 1);
	for (i = 0; i < t->n_entries; i++) {
		const struct stele_tap_entry *e = &t->entries[i];
		uint64_t size = (uint64_t)e->n * e->columns * stele_tap_types[e->type].size;
		stele_tap_say(x, ",", 1);
		stele_tap_quote(x, e->key);
		stele_tap_sayf(x, ":{\"dtype\":\"%s\",\"shape\":[", stele_tap_types[e->type].name);
		if (e->heads)
			stele_tap_sayf(x, "%d,", e->heads);
		stele_tap_sayf(x, "%lu,%lu],\"data_offsets\":[", (unsigned long)(e->heads ? e->n / (size_t)e->heads : e->n),
		               (unsigned long)e->columns);
		stele_tap_sayf(x, "%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + size));
		at += size;
	}
	stele_tap_say(x, "}", 1);
	while (x->n % 8 && !x->failed)
		stele_tap_say(x, " ", 1);
}

static int stele_tap_copy_rows(stele_tap *t, const struct stele_tap_entry *e, FILE *out)
{
	char block[16384];
	size_t i, row = e->columns * stele_tap_types[e->type].size;
	for (i = 0; i < e->n; i++) {
		size_t left = row;
		/* Rows that follow each other in the file are read on. */
		if (!i || e->rows[i].at != e->rows[i - 1].at + row) {
			if (e->rows[i].at > LONG_MAX)
				return stele_tap_fail(t, "%s: more than a long counts", t->path);
			if (fseek(t->data, (long)e->rows[i].at, SEEK_SET))
				return stele_tap_failed_write(t);
		}
		while (left) {
			size_t n = left < sizeof block ? left : sizeof block;
			if (fread(block, 1, n, t->data) != n || fwrite(block, 1, n, out) != n)
				return stele_tap_failed_write(t);
			left -= n;
		}
	}
	return 0;
}

static int stele_tap_write(stele_tap *t)
{
	struct stele_tap_text x = { NULL, 0, 0, 0 };
	unsigned char length[8];
	char *part = NULL;
	FILE *out = NULL;
	size_t i;
	if (!t->n_entries)
		return stele_tap_fail(t, "%s: nothing was put, so there is nothing to write", t->path);
	for (i = 0; i < t->n_entries; i++)
		if (stele_tap_order(t, &t->entries[i]))
			return -1;
	stele_tap_header(t, &x);
	part = stele_tap_copy(t->data_path, ".part");
	if (x.failed || !part) {
		stele_tap_no_memory(t);
		goto done;
	}
	for (i = 0; i < 8; i++)
		length[i] = (unsigned char)((uint64_t)x.n >> 8 * i);
	errno = 0;
	if (!(out = fopen(part, "wb")) || fwrite(length, 1, 8, out) != 8 || fwrite(x.s, 1, x.n, out) != x.n || fflush(t->data)) {
		stele_tap_failed_write(t);
		goto done;
	}
	for (i = 0; i < t->n_entries; i++)
		if (stele_tap_copy_rows(t, &t->entries[i], out))
			goto done;
	i = (size_t)fclose(out);
	out = NULL;
	if (i)
		stele_tap_failed_write(t);
#ifdef _WIN32
	if (!t->error[0])
		remove(t->path); /* its rename replaces nothing */
#endif
	if (!t->error[0] && rename(part, t->path))
		stele_tap_failed_write(t);
done:
	if (out)
		fclose(out);
	if (part && t->error[0])
		remove(part);
	free(part);
	free(x.s);
	return t->error[0] ? -1 : 0;
}

int stele_tap_close(stele_tap *t, char *why, size_t size)
{
	int r;
	if (!t) {
		if (why && size)
			snprintf(why, size, "the tap was not opened");
		return -1;
	}
	r = t->error[0] ? -1 : stele_tap_write(t);
	if (why && size)
		snprintf(why, size, "%s", t->error);
	stele_tap_free(t);
	return r;
}

void stele_tap_abort(stele_tap *t)
{
	if (t)
		stele_tap_free(t);
}
#endif
