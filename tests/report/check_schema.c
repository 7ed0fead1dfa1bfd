/*
 * check-schema SCHEMA - whether the JSON document on standard input is what a schema of docs/schema describes; every
 * place where it is not, one a line. Of JSON Schema it knows what these files use, and refuses what it does not know.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_t *root;
static int problems, silent;

static void complain(const char *path, const char *what, const char *which)
{
	if (!silent)
		printf("%s: %s%s%s\n", path[0] ? path : "/", what, which ? " " : "", which ? which : "");
	problems++;
}

static bool has_type(const json_t *v, const char *type)
{
	return strcmp(type, "object") == 0  ? json_is_object(v)
	     : strcmp(type, "array") == 0   ? json_is_array(v)
	     : strcmp(type, "string") == 0  ? json_is_string(v)
	     : strcmp(type, "integer") == 0 ? json_is_integer(v)
	     : strcmp(type, "number") == 0  ? json_is_number(v)
	     : strcmp(type, "boolean") == 0 ? json_is_boolean(v)
	     : strcmp(type, "null") == 0    ? json_is_null(v)
	                                    : false;
}

static void check(const json_t *schema, const json_t *v, const char *path);

static bool fits(const json_t *schema, const json_t *v)
{
	int before = problems;
	silent++;
	check(schema, v, "");
	silent--;
	bool ok = problems == before;
	problems = before;
	return ok;
}

static bool any_fits(const json_t *list, const json_t *v, bool as_schema)
{
	size_t i;
	json_t *x;
	json_array_foreach(list, i, x)
	{
		if (as_schema ? fits(x, v) : json_equal(x, v))
			return true;
	}
	return false;
}

static void check_members(const json_t *schema, const json_t *v, const char *path)
{
	const json_t *known = json_object_get(schema, "properties");
	char at[512];
	const char *key;
	json_t *x;
	size_t i;
	json_array_foreach(json_object_get(schema, "required"), i, x)
	{
		if (!json_object_get(v, json_string_value(x)))
			complain(path, "lacks", json_string_value(x));
	}
	json_object_foreach((json_t *)(size_t)v, key, x)
	{
		const json_t *of = json_object_get(known, key);
		snprintf(at, sizeof at, "%s/%s", path, key);
		if (of)
			check(of, x, at);
		else if (json_is_false(json_object_get(schema, "additionalProperties")))
			complain(path, "is not described:", key);
	}
}

static void check(const json_t *schema, const json_t *v, const char *path)
{
	const char *keyword;
	json_t *what;
	json_object_foreach((json_t *)(size_t)schema, keyword, what)
	{
		if (strcmp(keyword, "$ref") == 0) {
			const char *name = json_string_value(what);
			const json_t *of = strncmp(name, "#/$defs/", 8) == 0
			                         ? json_object_get(json_object_get(root, "$defs"), name + 8)
			                         : NULL;
			if (of)
				check(of, v, path);
			else
				complain(path, "the schema lacks", name);
		} else if (strcmp(keyword, "type") == 0) {
			bool ok = json_is_string(what) && has_type(v, json_string_value(what));
			size_t i;
			json_t *t;
			json_array_foreach(what, i, t) { ok |= has_type(v, json_string_value(t)); }
			if (!ok)
				complain(path, "is of another type", NULL);
		} else if (strcmp(keyword, "anyOf") == 0) {
			if (!any_fits(what, v, true))
				complain(path, "is none of the kinds that are described", NULL);
		} else if (strcmp(keyword, "enum") == 0) {
			if (!any_fits(what, v, false))
				complain(path, "is none of the values that are described", NULL);
		} else if (strcmp(keyword, "const") == 0) {
			if (!json_equal(what, v))
				complain(path, "is another value", NULL);
		} else if (strcmp(keyword, "minimum") == 0) {
			if (json_is_number(v) && json_number_value(v) < json_number_value(what))
				complain(path, "is too small", NULL);
		} else if (strcmp(keyword, "items") == 0) {
			char at[512];
			size_t i;
			json_t *x;
			json_array_foreach(v, i, x)
			{
				snprintf(at, sizeof at, "%s/%zu", path, i);
				check(what, x, at);
			}
		} else if (strcmp(keyword, "properties") == 0) {
			if (json_is_object(v))
				check_members(schema, v, path);
		} else if (strcmp(keyword, "required") != 0 && strcmp(keyword, "additionalProperties") != 0
		           && strcmp(keyword, "description") != 0 && strcmp(keyword, "title") != 0
		           && strcmp(keyword, "$schema") != 0 && strcmp(keyword, "$defs") != 0) {
			complain(path, "the schema uses a keyword that is not known here:", keyword);
		}
	}
}

int main(int argc, char **argv)
{
	json_error_t e;
	json_t *schema = argc == 2 ? json_load_file(argv[1], 0, &e) : NULL, *doc = json_loadf(stdin, 0, &e);
	if (!schema || !doc) {
		printf("%s:%d: %s\n", schema ? "standard input" : argc == 2 ? argv[1] : "usage", e.line, e.text);
		return 2;
	}
	root = schema;
	check(schema, doc, "");
	json_decref(schema);
	json_decref(doc);
	return problems > 0;
}
