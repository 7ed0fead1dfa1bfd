#include "report/json.h"

#include "report/text.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

json_t *st_json_number(double v)
{
	if (isnan(v))
		return json_string("nan");
	if (isinf(v))
		return json_string(v < 0 ? "-inf" : "inf");
	return json_real(v);
}

json_t *st_json_u64(uint64_t v)
{
	return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

json_t *st_json_textn(const char *s, size_t n)
{
	struct st_text t = { 0 };
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &cp);
		if (len > 0)
			st_text_add(&t, s + i, (size_t)len);
		else
			st_text_puts(&t, "\xEF\xBF\xBD");
		i += len > 0 ? (size_t)len : 1;
	}
	json_t *j = t.failed ? NULL : json_stringn(t.s ? t.s : "", t.len);
	st_text_release(&t);
	return j;
}

json_t *st_json_text(const char *s) { return s ? st_json_textn(s, strlen(s)) : json_null(); }

json_t *st_json_shape(const uint64_t *shape, uint32_t ndim)
{
	json_t *a = json_array();
	for (uint32_t i = 0; a && i < ndim; i++) {
		if (json_array_append_new(a, st_json_u64(shape[i])) != 0) {
			json_decref(a);
			return NULL;
		}
	}
	return a;
}

json_t *st_json_error(const struct st_error *err)
{
	struct st_text m = { 0 };
	st_text_printf(&m, "%s%s%s", err->where, err->where[0] ? ": " : "", err->message);
	json_t *j = json_pack("{s:s, s:s, s:o, s:o, s:o}", "schema", "stele.error/1", "code", st_status_name(err->code),
	                      "message", st_json_text(m.s), "path", st_json_text(err->path[0] ? err->path : NULL),
	                      "offset", err->offset == ST_NO_OFFSET ? json_null() : st_json_u64(err->offset));
	st_text_release(&m);
	return j;
}
