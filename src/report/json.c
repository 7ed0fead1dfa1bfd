#include "report/json.h"

#include "report/text.h"

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

json_t *st_json_layer(int32_t layer) { return layer < 0 ? json_null() : json_integer(layer); }

json_t *st_json_params(const struct st_cause *c)
{
	json_t *o = json_object();
	for (size_t i = 0; i < c->n_params && o; i++) {
		const struct st_param *p = &c->params[i];
		json_t *v = st_param_is_text(p->name) ? st_json_text(p->text) : st_json_number(p->number);
		if (json_object_set_new(o, st_param_info(p->name)->key, v) != 0) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}
