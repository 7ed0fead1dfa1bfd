/* values.c - values of JSON documents. */
#include "json/json.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#define LOST "out of memory" /* a member that says the object is incomplete */

json_t *st_json_number(double v)
{
	if (isnan(v))
		return json_string("nan");
	if (isinf(v))
		return json_string(v < 0 ? "-inf" : "inf");
	return json_real(v);
}

json_t *st_json_u64(uint64_t v) { return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v); }

json_t *st_json_textn(const char *s, size_t n)
{
	static const char replacement[] = "\xEF\xBF\xBD";
	/* The longest that it can become: nothing but broken bytes. */
	char *text = st_alloc_array(n ? n : 1, sizeof replacement - 1);
	size_t len = 0;
	if (!text)
		return NULL;
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t good = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i),
		                                         &cp);
		size_t take = good > 0 ? (size_t)good : sizeof replacement - 1;
		memcpy(text + len, good > 0 ? s + i : replacement, take);
		len += take;
		i += good > 0 ? take : 1;
	}
	json_t *j = json_stringn(text, len);
	free(text);
	return j;
}

json_t *st_json_text(const char *s) { return s ? st_json_textn(s, strlen(s)) : json_null(); }

json_t *st_json_shape(const uint64_t *shape, size_t ndim)
{
	json_t *a = json_array();
	for (size_t i = 0; a && i < ndim; i++)
		if (json_array_append_new(a, st_json_u64(shape[i])) != 0) {
			json_decref(a);
			return NULL;
		}
	return a;
}

json_t *st_json_now(void)
{
	time_t t = time(NULL);
	struct tm tm;
	char buf[32];
	gmtime_r(&t, &tm);
	return json_stringn(buf, strftime(buf, sizeof buf, "%Y-%m-%dT%H:%M:%SZ", &tm));
}

void st_json_put(json_t *o, const char *key, json_t *v)
{
	if (json_object_set_new(o, key, v ? v : json_null()) != 0 || !v)
		json_object_set_new(o, LOST, json_true());
}

json_t *st_json_put_members(json_t *o, const struct st_json_member *m)
{
	for (; m->key; m++)
		st_json_put(o, m->key, m->value);
	return o;
}

/* Stands in a list that lacks something. */
static json_t lost = { JSON_NULL, (size_t)-1 };

void st_json_add(json_t *list, json_t *v)
{
	if (v && json_array_append_new(list, v) == 0)
		return;
	/* Neither needs memory: a new list has room for a few. */
	if (json_array_size(list))
		json_array_set_new(list, 0, &lost);
	else
		json_array_append_new(list, &lost);
}

static bool complete(const json_t *j)
{
	if (j == &lost)
		return false;
	const char *key;
	json_t *v;
	size_t i;
	if (json_is_object(j)) {
		json_object_foreach((json_t *)(uintptr_t)j, key,
		                    v) if (strcmp(key, LOST) == 0 || !complete(v)) return false;
	} else if (json_is_array(j)) {
		json_array_foreach(j, i, v) if (!complete(v)) return false;
	}
	return true;
}

bool st_json_ok(const json_t *j) { return j && complete(j); }
