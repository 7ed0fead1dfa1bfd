/* probe.c - a text that the known ways of splitting cut differently, and whether two tokenizers cut it alike. */
#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* Contractions, runs of blanks and breaks, digits of several lengths and scripts, punctuation in rows, capitals inside
 * words, letters with marks, composed and not. */
const char st_probe[] = "I'm you're WE'LL he'd  x\n\n \n\t y\r\n  z   1 12 123 1234 123456789 3.14 2+2=4 "
			"\xd9\xa1\xd9\xa2\xd9\xa3 $5 <=> a_b__c ~^` "
			"(\"it's\") [x]: {y}; ... !!!??? foo.bar,baz/qux\\n #tag @me 50% a&b camelCaseWord "
			"HTTPServer iPhone15Pro Don'T "
			"\xc3\xa9t\xc3\xa9 e\xcc\x81te\xcc\x81 na\xc3\xafve "
			"\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82"
			"\xe3\x81\x93\xe3\x82\x93\xe3\x81\xab\xe3\x81\xa1\xe3\x81\xaf "
			"\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xea\xb0\x80\xeb\x82\x98 "
			"\xf0\x9f\x99\x82\xf0\x9f\x91\x8d \xe2\x80\xa6 \xe2\x80\x94 \xef\xbc\x81 "
			"\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87    ";
const size_t st_probe_len = sizeof st_probe - 1;

enum st_status st_probe_cut(const struct st_tokenizer *t, struct st_probe_cut *c, struct st_error *err)
{
	*c = (struct st_probe_cut){ .s = { .t = t } };
	ST_TRY(st_normalize(&c->s, st_probe, st_probe_len, true, &c->text, &c->n, err));
	return st_split_words(&c->s, c->text, c->n, &c->words, err);
}

void st_probe_release(struct st_probe_cut *c)
{
	for (int i = 0; i < 2; i++) {
		free(c->s.text[i].s);
		free(c->s.words[i].v);
	}
	pcre2_match_data_free(c->s.match);
	pcre2_match_context_free(c->s.limits);
	pcre2_jit_stack_free(c->s.jit_stack);
}

bool st_probe_same(const struct st_probe_cut *a, const struct st_probe_cut *b)
{
	if (a->n != b->n || a->words->n != b->words->n || memcmp(a->text, b->text, a->n) != 0)
		return false;
	for (size_t i = 0; i < a->words->n; i++)
		if (a->words->v[i].start != b->words->v[i].start || a->words->v[i].len != b->words->v[i].len)
			return false;
	return true;
}

enum st_status st_probe_alike(const struct st_tokenizer *a, const struct st_tokenizer *b, bool *alike,
                              struct st_error *err)
{
	struct st_probe_cut x, y = { 0 };
	enum st_status st = st_probe_cut(a, &x, err);
	if (st == ST_OK)
		st = st_probe_cut(b, &y, err);
	*alike = st == ST_OK && st_probe_same(&x, &y);
	st_probe_release(&x);
	st_probe_release(&y);
	return st;
}
