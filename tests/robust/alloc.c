#include "alloc.h"

#include <errno.h>
#include <jansson.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void __wrap_free(void *p);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __wrap_asprintf(char **out, const char *fmt, ...);

static int64_t live, peak, base;
static uint64_t until_failure; /* 0: none is planned */
static bool fail_all, failed;

void alloc_init(void) { json_set_alloc_funcs(malloc, free); }

void alloc_fail_at(uint64_t n, bool all)
{
	until_failure = n;
	fail_all = all;
	failed = false;
}

bool alloc_failed(void) { return failed; }
int64_t alloc_live(void) { return __atomic_load_n(&live, __ATOMIC_RELAXED); }

void alloc_peak_reset(void)
{
	base = alloc_live();
	__atomic_store_n(&peak, base, __ATOMIC_RELAXED);
}

int64_t alloc_peak(void) { return __atomic_load_n(&peak, __ATOMIC_RELAXED) - base; }

static bool refuse(void)
{
	if (!__atomic_load_n(&failed, __ATOMIC_RELAXED) || !fail_all) {
		if (__atomic_load_n(&until_failure, __ATOMIC_RELAXED) == 0
		    || __atomic_sub_fetch(&until_failure, 1, __ATOMIC_RELAXED) > 0)
			return false;
		__atomic_store_n(&failed, true, __ATOMIC_RELAXED);
	}
	errno = ENOMEM;
	return true;
}

static void count(int64_t bytes)
{
	int64_t now = __atomic_add_fetch(&live, bytes, __ATOMIC_RELAXED), top = alloc_peak() + base;
	while (now > top && !__atomic_compare_exchange_n(&peak, &top, now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void *counted(void *p)
{
	if (p)
		count((int64_t)malloc_usable_size(p));
	return p;
}

void *__wrap_malloc(size_t n) { return refuse() ? NULL : counted(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return refuse() ? NULL : counted(__real_calloc(n, size)); }
void *__wrap_aligned_alloc(size_t align, size_t n) { return refuse() ? NULL : counted(__real_aligned_alloc(align, n)); }

void *__wrap_realloc(void *p, size_t n)
{
	if (refuse())
		return NULL;
	int64_t before = p ? (int64_t)malloc_usable_size(p) : 0;
	void *q = __real_realloc(p, n);
	if (q) {
		count(-before);
		counted(q);
	}
	return q;
}

void __wrap_free(void *p)
{
	if (p)
		count(-(int64_t)malloc_usable_size(p));
	__real_free(p);
}

char *__wrap_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *p = __wrap_malloc(len + 1);
	if (p) {
		memcpy(p, s, len);
		p[len] = '\0';
	}
	return p;
}

char *__wrap_strdup(const char *s) { return __wrap_strndup(s, strlen(s)); }

int __wrap_asprintf(char **out, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	*out = n < 0 ? NULL : __wrap_malloc((size_t)n + 1);
	if (*out)
		vsnprintf(*out, (size_t)n + 1, fmt, again);
	va_end(again);
	return *out ? n : -1;
}
