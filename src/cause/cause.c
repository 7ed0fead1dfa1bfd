/* cause.c - the table of causes, made from <stele/causes.def>, and what one found cause carries. */
#include <stele/cause.h>

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const units[] = {
	[ST_UNIT_COUNT] = "count",       [ST_UNIT_INDEX] = "index",         [ST_UNIT_ROWS] = "rows",
	[ST_UNIT_ELEMENTS] = "elements", [ST_UNIT_POSITIONS] = "positions", [ST_UNIT_RATIO] = "ratio",
	[ST_UNIT_VALUE] = "value",       [ST_UNIT_TEXT] = "text",           [ST_UNIT_TENSOR] = "tensor",
	[ST_UNIT_TYPE] = "type",
};

const char *st_unit_name(enum st_unit u) { return units[u]; }

const char *st_confidence_name(enum st_confidence c)
{
	static const char *const names[] = { "unexplained", "likely", "confirmed" };
	return names[c];
}

enum st_confidence st_confidence_of(bool noise, double before, double after)
{
	double most = before < 1 ? before : 1;
	return noise ? ST_CONFIRMED : after <= 0.1 * most ? ST_LIKELY : ST_UNEXPLAINED;
}

static const struct st_param_info params[] = {
#define PARAM(name, key, unit) [ST_PARAM_##name] = { key, ST_UNIT_##unit },
#include <stele/causes.def>
};

const struct st_param_info *st_param_info(enum st_param_name p) { return &params[p]; }
bool st_param_is_text(enum st_param_name p) { return params[p].unit >= ST_UNIT_TEXT; }

static const struct st_cause_info causes[] = {
	[ST_CAUSE_NONE] = { .code = "none" },
#define LIST(...)           \
	{                   \
		__VA_ARGS__ \
	}
#define CAUSE(name, code, where, tester, params, words, meaning, test, repair) \
	[ST_CAUSE_##name] = { code, where, words, meaning, test, repair, tester, LIST params },
#include <stele/causes.def>
};

const struct st_cause_info *st_cause_info(enum st_cause_code c) { return &causes[c]; }

const char *st_cause_name(enum st_cause_code c) { return causes[c].code; }

bool st_cause_parse(const char *code, enum st_cause_code *out)
{
	for (int i = ST_CAUSE_NONE + 1; i < ST_CAUSE_COUNT; i++) {
		if (strcmp(causes[i].code, code) == 0) {
			*out = (enum st_cause_code)i;
			return true;
		}
	}
	return false;
}

/* Beside its own parameters, a cause of a weight may say how many rows are wrong on top of it. */
static bool may_carry(enum st_cause_code c, enum st_param_name p)
{
	if (p == ST_PARAM_ROWS_BEYOND && causes[c].where & ST_ON_WEIGHT)
		return true;
	for (size_t i = 0; i < ST_CAUSE_PARAMS; i++)
		if (causes[c].params[i] == p)
			return p != ST_PARAM_NONE;
	return false;
}

static struct st_param *add_param(struct st_cause *c, enum st_param_name p)
{
	assert(may_carry(c->code, p));
	if (c->n_params == ST_MAX_PARAMS)
		return NULL;
	c->params[c->n_params] = (struct st_param){ .name = p };
	return &c->params[c->n_params++];
}

void st_cause_put(struct st_cause *c, enum st_param_name p, double v)
{
	assert(!st_param_is_text(p));
	struct st_param *q = add_param(c, p);
	if (q)
		q->number = v;
}

void st_cause_put_text(struct st_cause *c, enum st_param_name p, const char *text)
{
	assert(st_param_is_text(p));
	struct st_param *q = add_param(c, p);
	if (q)
		snprintf(q->text, sizeof q->text, "%s", text);
}

static const struct st_param *find(const struct st_cause *c, enum st_param_name p)
{
	for (size_t i = 0; i < c->n_params; i++)
		if (c->params[i].name == p)
			return &c->params[i];
	return NULL;
}

bool st_cause_has(const struct st_cause *c, enum st_param_name p) { return find(c, p) != NULL; }

double st_cause_number(const struct st_cause *c, enum st_param_name p, double otherwise)
{
	const struct st_param *q = find(c, p);
	return q ? q->number : otherwise;
}

const char *st_cause_text(const struct st_cause *c, enum st_param_name p)
{
	const struct st_param *q = find(c, p);
	return q ? q->text : "";
}
