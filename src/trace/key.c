/* key.c - what the name of a captured value means. */
#include "graph/stage.h"
#include "trace/trace.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Separate projections, as engines without a fused one store them. */
static const struct {
	const char *name;
	enum st_stage stage;
	enum st_part part;
} parts[] = {
	{ "q_matmul", ST_STAGE_QKV_MATMUL, ST_PART_Q }, { "q_matmul_bias", ST_STAGE_QKV_BIAS, ST_PART_Q },
	{ "k_matmul", ST_STAGE_QKV_MATMUL, ST_PART_K }, { "k_matmul_bias", ST_STAGE_QKV_BIAS, ST_PART_K },
	{ "v_matmul", ST_STAGE_QKV_MATMUL, ST_PART_V }, { "v_matmul_bias", ST_STAGE_QKV_BIAS, ST_PART_V },
};

/* A decimal number without sign or leading zeros, below 2^31. */
static bool read_number(const char **s, uint32_t *out)
{
	const char *p = *s;
	uint64_t v = 0;
	for (; *p >= '0' && *p <= '9' && p - *s < 10; p++)
		v = 10 * v + (uint64_t)(*p - '0');
	if (p == *s || (**s == '0' && p - *s > 1) || v > INT32_MAX)
		return false;
	*s = p;
	*out = (uint32_t)v;
	return true;
}

/* Step over WORD, a number and a dot: false and nothing moved when they are not there. */
static bool read_prefix(const char **s, const char *word, uint32_t *n)
{
	const char *p = *s;
	size_t len = strlen(word);
	if (strncmp(p, word, len) != 0)
		return false;
	p += len;
	if (!read_number(&p, n) || *p != '.')
		return false;
	*s = p + 1;
	return true;
}

static bool read_stage(const char *s, struct st_trace_key *k)
{
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if (strcmp(s, parts[i].name) == 0) {
			k->stage = parts[i].stage;
			k->part = parts[i].part;
			return true;
		}
	return st_stage_parse(s, strlen(s), &k->stage);
}

bool st_trace_key_parse(const char *name, bool tree, struct st_trace_key *out)
{
	struct st_trace_key k = { .layer = -1, .part = ST_PART_ALL };
	const char *s = name;
	uint32_t layer;
	if (tree && read_prefix(&s, "layers.", &layer)) /* the folder comes first */
		k.layer = (int32_t)layer;
	bool step = read_prefix(&s, "steps.", &k.step);
	if (step && k.step == 0)
		return false; /* the prompt has no prefix */
	if (!tree && step && strcmp(s, "token") == 0) {
		k.token = true;
		*out = k;
		return true;
	}
	if (!tree && read_prefix(&s, "layers.", &layer))
		k.layer = (int32_t)layer;
	if (!read_stage(s, &k))
		return false;
	if (tree && k.layer == 0 && k.stage == ST_STAGE_EMBEDDING)
		k.layer = -1;
	if (st_stage_per_layer(k.stage) != (k.layer >= 0))
		return false;
	*out = k;
	return true;
}

void st_trace_key_print(const struct st_trace_key *k, char *buf, size_t n)
{
	char step[32] = "", layer[32] = "";
	if (k->step > 0)
		snprintf(step, sizeof step, "steps.%u.", k->step);
	if (k->layer >= 0)
		snprintf(layer, sizeof layer, "layers.%d.", k->layer);
	snprintf(buf, n, "%s%s%s", step, layer, k->token ? "token" : st_stage_name(k->stage));
}

void st_trace_tree_key_print(const struct st_trace_key *k, char *buf, size_t n)
{
	char step[32] = "", layer[32] = "";
	/* The embedding is filed under layer 0, and a reader that knows no steps takes it for a stage of that layer. */
	if (k->layer >= 0 || (k->stage == ST_STAGE_EMBEDDING && k->step > 0))
		snprintf(layer, sizeof layer, "layers.%d.", k->layer >= 0 ? k->layer : 0);
	if (k->step > 0)
		snprintf(step, sizeof step, "steps.%u.", k->step);
	snprintf(buf, n, "%s%s%s", layer, step, st_stage_name(k->stage));
}

/* Whole-model stages stand before the first layer or behind the last. */
static int64_t place(const struct st_trace_key *k)
{
	if (k->layer >= 0)
		return k->layer;
	return st_stage_order(k->stage) < st_stage_order(ST_STAGE_ATTN_NORM) ? -1 : INT64_MAX;
}

#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

int st_trace_key_order(const struct st_trace_key *a, const struct st_trace_key *b)
{
	int c = ORDER(a->step, b->step);
	if (c == 0)
		c = ORDER(place(a), place(b));
	if (c == 0)
		c = ORDER(st_stage_order(a->stage), st_stage_order(b->stage));
	if (c == 0)
		c = ORDER(a->stage, b->stage);
	return c ? c : ORDER(a->part, b->part);
}

static enum st_status unknown_stage(const char *s, size_t n, struct st_error *err)
{
	char names[512];
	size_t used = 0;
	for (unsigned i = 0; i < st_stage_count() && used < sizeof names; i++)
		used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? " " : "",
		                         st_stage_name((enum st_stage)i));
	if (n == 0)
		return st_fail(err, ST_ERR_USAGE, "empty item in the list of stages; valid: all %s", names);
	return st_fail(err, ST_ERR_USAGE, "unknown stage \"%.*s\"; valid: all %s", n > 40 ? 40 : (int)n, s, names);
}

enum st_status st_trace_parse_stages(const char *list, struct st_stage_set *out, struct st_error *err)
{
	struct st_stage_set got = { 0 };
	for (const char *s = list;; s++) {
		size_t len = strcspn(s, ",");
		const char *item = s, *next = s + len;
		while (len > 0 && strchr(" \t", *item))
			item++, len--;
		while (len > 0 && strchr(" \t", item[len - 1]))
			len--;
		enum st_stage stage;
		if (len == 3 && strncasecmp(item, "all", 3) == 0)
			st_stage_set_add_all(&got);
		else if (len > 0 && st_stage_parse(item, len, &stage))
			st_stage_set_add(&got, stage);
		else
			return unknown_stage(item, len, err);
		s = next;
		if (*s == '\0')
			break;
	}
	*out = got;
	return ST_OK;
}
