/* passes.c - which rows of which run of the graph belong to the trace. */
#include "tap.h"

/* Rows from `at` on whose positions follow each other: one sequence's. */
static size_t run_of(const int32_t *positions, size_t at, size_t n)
{
	size_t end = at + 1;
	while (end < n && positions[end] == positions[end - 1] + 1)
		end++;
	return end - at;
}

/* Whether the prompt goes on as the wish has it. */
static bool as_wished(const struct st_tap_wish *w, const int32_t *tokens, size_t n, size_t from)
{
	for (size_t i = 0; i < n && from + i < w->n_tokens; i++)
		if (tokens[i] != w->tokens[from + i])
			return false;
	return true;
}

/* Common tools first run two tokens (begin and end of text), then clear the cache. What was asked for by name is no warm-up. */
static bool was_warm_up(const struct st_tap_passes *p)
{
	return p->wish->prompt < 0 && !p->wish->n_tokens && p->n_prompt <= 2 && p->step == 0;
}

static enum st_tap_answer begin(struct st_tap_passes *p, const int32_t *tokens, const int32_t *positions, size_t n,
                                struct st_tap_rows *rows)
{
	enum st_tap_answer answer = ST_TAP_IGNORE;
	for (size_t at = 0, len; at < n; at += len) {
		len = run_of(positions, at, n);
		if (positions[at] != 0) {
			p->skipped += !p->following;
			continue;
		}
		int number = p->prompts++;
		if (answer != ST_TAP_IGNORE || (p->wish->prompt >= 0 && number != p->wish->prompt)
		    || !as_wished(p->wish, tokens + at, len, 0))
			continue;
		*rows = (struct st_tap_rows){ .first = at, .n = len };
		answer = ST_TAP_BEGIN;
		p->following = true;
		p->answered = false;
		p->next = (int32_t)len;
		p->n_prompt = len;
		p->step = 0;
	}
	return answer;
}

enum st_tap_answer st_tap_pass(struct st_tap_passes *p, const int32_t *tokens, const int32_t *positions, size_t n,
                               struct st_tap_rows *rows)
{
	size_t found = 0, sequences = 0, afresh = 0;
	if (!p->following)
		return begin(p, tokens, positions, n, rows);
	for (size_t at = 0, len; at < n; at += len, sequences++) {
		len = run_of(positions, at, n);
		afresh += positions[at] == 0;
		if (positions[at] != p->next)
			continue;
		*rows = (struct st_tap_rows){ .first = at, .n = len, .position = p->next };
		found++;
	}
	if (found == 0 && sequences > 1 && !afresh)
		return ST_TAP_IGNORE; /* other sequences at work */
	if (found != 1) {
		/* Another prompt, a cache that was shifted or cut; or two sequences have come to one position. */
		if (!afresh || !was_warm_up(p))
			return ST_TAP_END;
		p->following = false;
		return begin(p, tokens, positions, n, rows);
	}
	bool decodes = p->step || (p->answered && rows->n == 1);
	if (decodes && (rows->n > 1 || p->step == p->wish->steps))
		return ST_TAP_END;
	if (decodes) {
		rows->step = ++p->step;
	} else {
		if (!as_wished(p->wish, tokens + rows->first, rows->n, p->n_prompt)) {
			p->following = false; /* it only began like the one that was asked for */
			return ST_TAP_IGNORE;
		}
		p->n_prompt += rows->n;
	}
	p->next += (int32_t)rows->n;
	return ST_TAP_TAKE;
}
