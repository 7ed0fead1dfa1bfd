/* expression.c - arithmetic over keys and the layer: parsed to a tree, evaluated on the settings of a file. */
#include "family/parser.h"

#include "base/error.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TERMS 96u
#define MAX_DEPTH 24u
#define MAX_LETS 16u      /* one derived key in another */
#define MAX_STEPS 100000u /* of one evaluation: a derived key may be named twice in the next, and so on */

enum term_op {
	TERM_NUMBER,
	TERM_TEXT,
	TERM_KEY,
	TERM_LAYER,
	TERM_MODEL,
	TERM_IS_GGUF, /* whether the file spells keys as GGUF does */
	TERM_IS_APR,
	TERM_TENSOR,  /* whether the file has the tensor */
	TERM_ROWS,    /* its rows */
	TERM_NEGATE,
	TERM_NOT,
	TERM_ADD,
	TERM_SUBTRACT,
	TERM_MULTIPLY,
	TERM_DIVIDE,
	TERM_MODULO,
	TERM_EQUAL,
	TERM_UNEQUAL,
	TERM_LESS,
	TERM_AT_MOST,
	TERM_MORE,
	TERM_AT_LEAST,
	TERM_AND,
	TERM_OR,
	TERM_IF, /* b if a else c */
	TERM_INDEX,
	TERM_SQRT,
	TERM_LOG,
	TERM_EXP,
	TERM_FLOOR,
	TERM_CEIL,
	TERM_MIN,
	TERM_MAX,
	TERM_LENGTH,  /* of a list; of one value 1 */
	TERM_LARGEST, /* of a list of numbers */
	TERM_HOLDS,   /* whether b is one of a */
	TERM_PLACE,   /* in list a, of number b of those that are not 0 */
};

struct st_term {
	enum term_op op;
	uint32_t a, b, c; /* operands: terms that stand before */
	uint32_t key;
	double number;
	const char *text;
};

/* ---- parsing ---- */

struct parser {
	struct st_line *l;
	const struct st_family *f;
	struct st_term terms[MAX_TERMS];
	uint32_t n, depth;
	struct st_error *err;
};

static enum st_status put(struct parser *p, struct st_term t, uint32_t *out)
{
	if (p->n == MAX_TERMS)
		return st_line_fail(p->l, p->err, "an expression of more than %u parts", MAX_TERMS);
	p->terms[p->n] = t;
	*out = p->n++;
	return ST_OK;
}

static enum st_status whole(struct parser *p, bool plain, uint32_t *out);

static enum st_status bracketed(struct parser *p, uint32_t *out)
{
	ST_TRY(whole(p, false, out));
	if (!st_line_take(p->l, ")"))
		return st_line_fail(p->l, p->err, "\"%s\": expected \")\"", st_line_rest(p->l).text);
	return ST_OK;
}

static const struct function {
	const char *name;
	enum term_op op;
	bool two;
} functions[] = {
	{ "sqrt", TERM_SQRT, false },       { "log", TERM_LOG, false },    { "exp", TERM_EXP, false },
	{ "floor", TERM_FLOOR, false },     { "ceil", TERM_CEIL, false },  { "min", TERM_MIN, true },
	{ "max", TERM_MAX, true },          { "holds", TERM_HOLDS, true }, { "length", TERM_LENGTH, false },
	{ "largest", TERM_LARGEST, false }, { "place", TERM_PLACE, true },
};

static enum st_status call(struct parser *p, const struct function *fn, uint32_t *out)
{
	struct st_term t = { .op = fn->op };
	ST_TRY(whole(p, false, &t.a));
	if (fn->two) {
		if (!st_line_take(p->l, ","))
			return st_line_fail(p->l, p->err, "%s needs two numbers", fn->name);
		ST_TRY(whole(p, false, &t.b));
	}
	if (!st_line_take(p->l, ")"))
		return st_line_fail(p->l, p->err, "\"%s\": expected \")\"", st_line_rest(p->l).text);
	return put(p, t, out);
}

static bool is(const char *s, size_t n, const char *word) { return strlen(word) == n && memcmp(s, word, n) == 0; }

static enum st_status quoted(struct parser *p, enum term_op op, uint32_t *out)
{
	struct st_line *l = p->l;
	struct st_term t = { .op = op };
	const char *s = l->at;
	while (l->at < l->end && *l->at != '"')
		l->at++;
	if (l->at == l->end)
		return st_line_fail(l, p->err, "a text without its closing quote");
	ST_TRY(st_line_copy(l, s, (size_t)(l->at - s), &t.text, p->err));
	l->at++;
	return put(p, t, out);
}

/* tensor("NAME") and rows("NAME"), behind the bracket */
static enum st_status tensor(struct parser *p, enum term_op op, uint32_t *out)
{
	if (!st_line_take(p->l, "\""))
		return st_line_fail(p->l, p->err, "\"%s\": expected a tensor's name in quotes",
		                    st_line_rest(p->l).text);
	ST_TRY(quoted(p, op, out));
	if (!st_line_take(p->l, ")"))
		return st_line_fail(p->l, p->err, "\"%s\": expected \")\"", st_line_rest(p->l).text);
	return ST_OK;
}

static enum st_status named(struct parser *p, const char *s, size_t n, uint32_t *out)
{
	if (is(s, n, "true") || is(s, n, "false"))
		return put(p, (struct st_term){ .op = TERM_NUMBER, .number = n == 4 }, out);
	if (is(s, n, "layer"))
		return put(p, (struct st_term){ .op = TERM_LAYER }, out);
	if (is(s, n, "model"))
		return put(p, (struct st_term){ .op = TERM_MODEL }, out);
	if (is(s, n, "gguf"))
		return put(p, (struct st_term){ .op = TERM_IS_GGUF }, out);
	if (is(s, n, "apr"))
		return put(p, (struct st_term){ .op = TERM_IS_APR }, out);
	if (p->l->at < p->l->end && *p->l->at == '(') {
		p->l->at++;
		if (is(s, n, "tensor") || is(s, n, "rows"))
			return tensor(p, n == 4 ? TERM_ROWS : TERM_TENSOR, out);
		for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
			if (is(s, n, functions[i].name))
				return call(p, &functions[i], out);
		return st_line_fail(p->l, p->err, "\"%.*s\" is no function", (int)n, s);
	}
	for (uint32_t i = 0; i < p->f->n_keys; i++)
		if (is(s, n, p->f->keys[i].name))
			return put(p, (struct st_term){ .op = TERM_KEY, .key = i }, out);
	return st_line_fail(p->l, p->err, "\"%.*s\" is no key above this line", (int)n, s);
}

static enum st_status literal(struct parser *p, uint32_t *out)
{
	struct st_line *l = p->l;
	st_line_blanks(l);
	if (st_line_take(l, "\""))
		return quoted(p, TERM_TEXT, out);
	if (l->at < l->end && ((*l->at >= '0' && *l->at <= '9') || *l->at == '.')) {
		char buf[40];
		size_t n = (size_t)(l->end - l->at);
		n = n < sizeof buf - 1 ? n : sizeof buf - 1;
		memcpy(buf, l->at, n);
		buf[n] = '\0';
		char *end;
		struct st_term t = { .op = TERM_NUMBER, .number = strtod(buf, &end) };
		if (end == buf || end == buf + sizeof buf - 1 || !isfinite(t.number))
			return st_line_fail(l, p->err, "\"%s\" is no number", st_line_rest(l).text);
		l->at += end - buf;
		return put(p, t, out);
	}
	size_t n;
	const char *s = st_line_name(l, &n);
	if (!s)
		return st_line_fail(l, p->err, "\"%s\": expected a number, a text or a key", st_line_rest(l).text);
	return named(p, s, n, out);
}

static enum st_status primary(struct parser *p, uint32_t *out)
{
	if (st_line_take(p->l, "("))
		ST_TRY(bracketed(p, out));
	else
		ST_TRY(literal(p, out));
	while (st_line_take(p->l, "[")) {
		struct st_term t = { .op = TERM_INDEX, .a = *out };
		ST_TRY(whole(p, false, &t.b));
		if (!st_line_take(p->l, "]"))
			return st_line_fail(p->l, p->err, "\"%s\": expected \"]\"", st_line_rest(p->l).text);
		ST_TRY(put(p, t, out));
	}
	return ST_OK;
}

static enum st_status unary(struct parser *p, uint32_t *out)
{
	if (!st_line_take(p->l, "-"))
		return primary(p, out);
	if (++p->depth > MAX_DEPTH)
		return st_line_fail(p->l, p->err, "an expression nested more than %u deep", MAX_DEPTH);
	struct st_term t = { .op = TERM_NEGATE };
	ST_TRY(unary(p, &t.a));
	p->depth--;
	return put(p, t, out);
}

struct infix {
	const char *text;
	enum term_op op;
};

/* Longer spellings first, so that "<=" is not read as "<". */
static const struct infix products[] = {
	{ "*", TERM_MULTIPLY }, { "/", TERM_DIVIDE }, { "%", TERM_MODULO }, { NULL, 0 }
};
static const struct infix sums[] = { { "+", TERM_ADD }, { "-", TERM_SUBTRACT }, { NULL, 0 } };
static const struct infix comparisons[] = { { "==", TERM_EQUAL },
	                                    { "!=", TERM_UNEQUAL },
	                                    { "<=", TERM_AT_MOST },
	                                    { ">=", TERM_AT_LEAST },
	                                    { "<", TERM_LESS },
	                                    { ">", TERM_MORE },
	                                    { NULL, 0 } };

static bool take_infix(struct st_line *l, const struct infix *known, enum term_op *op)
{
	for (; known->text; known++)
		if (st_line_take(l, known->text)) {
			*op = known->op;
			return true;
		}
	return false;
}

static enum st_status chain(struct parser *p, const struct infix *known,
                            enum st_status (*operand)(struct parser *, uint32_t *), bool many, uint32_t *out)
{
	struct st_term t = { 0 };
	ST_TRY(operand(p, out));
	while (take_infix(p->l, known, &t.op)) {
		t.a = *out;
		ST_TRY(operand(p, &t.b));
		ST_TRY(put(p, t, out));
		if (!many)
			break;
	}
	return ST_OK;
}

static enum st_status product(struct parser *p, uint32_t *out) { return chain(p, products, unary, true, out); }
static enum st_status sum(struct parser *p, uint32_t *out) { return chain(p, sums, product, true, out); }
static enum st_status comparison(struct parser *p, uint32_t *out) { return chain(p, comparisons, sum, false, out); }

static enum st_status negation(struct parser *p, uint32_t *out)
{
	if (!st_line_word(p->l, "not"))
		return comparison(p, out);
	struct st_term t = { .op = TERM_NOT };
	ST_TRY(comparison(p, &t.a));
	return put(p, t, out);
}

static enum st_status both(struct parser *p, uint32_t *out)
{
	ST_TRY(negation(p, out));
	while (st_line_word(p->l, "and")) {
		struct st_term t = { .op = TERM_AND, .a = *out };
		ST_TRY(negation(p, &t.b));
		ST_TRY(put(p, t, out));
	}
	return ST_OK;
}

static enum st_status either(struct parser *p, uint32_t *out)
{
	ST_TRY(both(p, out));
	while (st_line_word(p->l, "or")) {
		struct st_term t = { .op = TERM_OR, .a = *out };
		ST_TRY(both(p, &t.b));
		ST_TRY(put(p, t, out));
	}
	return ST_OK;
}

static enum st_status whole(struct parser *p, bool plain, uint32_t *out)
{
	if (++p->depth > MAX_DEPTH)
		return st_line_fail(p->l, p->err, "an expression nested more than %u deep", MAX_DEPTH);
	ST_TRY(either(p, out));
	if (!plain && st_line_word(p->l, "if")) {
		struct st_term t = { .op = TERM_IF, .b = *out };
		ST_TRY(either(p, &t.a));
		if (!st_line_word(p->l, "else"))
			return st_line_fail(p->l, p->err, "\"%s\": expected \"else\"", st_line_rest(p->l).text);
		ST_TRY(whole(p, false, &t.c));
		ST_TRY(put(p, t, out));
	}
	p->depth--;
	return ST_OK;
}

enum st_status st_expression_parse(struct st_line *l, const struct st_family *f, bool plain, struct st_expression *out,
                                   struct st_error *err)
{
	struct parser p = { .l = l, .f = f, .err = err };
	uint32_t root;
	st_line_blanks(l);
	const char *from = l->at;
	ST_TRY(whole(&p, plain, &root));
	struct st_term *terms = st_arena_alloc(l->arena, p.n, sizeof *terms);
	ST_NEED(terms);
	memcpy(terms, p.terms, p.n * sizeof *terms);
	const char *end = l->at;
	while (end > from && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*out = (struct st_expression){ .line = l->number, .n = p.n, .terms = terms };
	return st_line_copy(l, from, (size_t)(end - from), &out->text, err);
}

/* ---- evaluating ---- */

struct evaluation {
	const struct st_settings *s;
	const struct st_expression *e;
	uint32_t lets;   /* derived keys around this one */
	uint32_t *steps; /* done so far */
	struct st_error *err;
};

/* "FAMILY:LINE: the words: what is wrong" */
#define FAIL(v, ...) st_failure(fail_expression((v)->s->family, (v)->e, (v)->err, __VA_ARGS__))

static enum st_status fail_expression(const struct st_family *f, const struct st_expression *e, struct st_error *err,
                                      const char *fmt, ...) ST_PRINTF(4, 5);
static enum st_status fail_expression(const struct st_family *f, const struct st_expression *e, struct st_error *err,
                                      const char *fmt, ...)
{
	char message[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	return st_family_fail(f->file, e->line, ST_ERR_FORMAT, err, "\"%.160s\": %s", e->text, message);
}

static enum st_status eval(const struct evaluation *v, uint32_t i, struct st_setting *out);

static enum st_status number(const struct evaluation *v, uint32_t i, double *out)
{
	struct st_setting x;
	ST_TRY(eval(v, i, &x));
	if (x.kind != ST_SETTING_NUMBER)
		return FAIL(v, "%s where a number is wanted", x.kind == ST_SETTING_LIST ? "a list" : "a text");
	*out = x.number;
	return ST_OK;
}

static enum st_status key_value(const struct evaluation *v, uint32_t key, struct st_setting *out)
{
	const struct st_family_key *k = &v->s->family->keys[key];
	if (k->type == ST_KEY_LET) {
		struct evaluation inner = *v;
		inner.e = &k->let;
		if (++inner.lets > MAX_LETS)
			return FAIL(v, "names that are derived from each other more than %u times", MAX_LETS);
		return eval(&inner, inner.e->n - 1, out);
	}
	*out = v->s->keys[key];
	if (out->kind == ST_SETTING_NONE)
		return FAIL(v, "%s has no value in this file", k->name);
	return ST_OK;
}

static enum st_status element(const struct evaluation *v, const struct st_term *t, struct st_setting *out)
{
	struct st_setting list;
	double at;
	ST_TRY(eval(v, t->a, &list));
	ST_TRY(number(v, t->b, &at));
	if (list.kind != ST_SETTING_LIST) { /* one value for all layers */
		*out = list;
		return ST_OK;
	}
	if (!(at >= 0) || !(at < (double)list.n))
		return FAIL(v, "a list of %zu has no element %g", list.n, at);
	*out = list.items[(size_t)at];
	return ST_OK;
}

static enum st_status of_tensor(const struct evaluation *v, const struct st_term *t, double *out)
{
	int64_t rows = v->s->tensor_rows ? v->s->tensor_rows(v->s->file, t->text) : -1;
	if (t->op == TERM_ROWS && rows < 0)
		return FAIL(v, "the file has no tensor %s", t->text);
	*out = t->op == TERM_ROWS ? (double)rows : rows >= 0;
	return ST_OK;
}

static enum st_status equal(const struct evaluation *v, const struct st_term *t, bool *out)
{
	struct st_setting a, b;
	ST_TRY(eval(v, t->a, &a));
	ST_TRY(eval(v, t->b, &b));
	if (a.kind == ST_SETTING_LIST && b.kind == ST_SETTING_LIST)
		return FAIL(v, "lists are not compared: name the layer");
	*out = a.kind == b.kind && (a.kind == ST_SETTING_TEXT ? strcmp(a.text, b.text) == 0 : a.number == b.number);
	return ST_OK;
}

static enum st_status holds(const struct evaluation *v, const struct st_term *t, bool *out)
{
	struct st_setting a;
	double b;
	ST_TRY(eval(v, t->a, &a));
	ST_TRY(number(v, t->b, &b));
	*out = a.kind == ST_SETTING_NUMBER && a.number == b;
	for (size_t i = 0; a.kind == ST_SETTING_LIST && i < a.n && !*out; i++)
		*out = a.items[i].kind == ST_SETTING_NUMBER && a.items[i].number == b;
	return ST_OK;
}

static enum st_status largest(const struct evaluation *v, const struct st_term *t, double *out)
{
	struct st_setting a;
	ST_TRY(eval(v, t->a, &a));
	const struct st_setting *items = a.kind == ST_SETTING_LIST ? a.items : &a;
	size_t n = a.kind == ST_SETTING_LIST ? a.n : 1;
	*out = -INFINITY;
	for (size_t i = 0; i < n; i++) {
		if (items[i].kind != ST_SETTING_NUMBER)
			return FAIL(v, "has no largest: it is no number");
		*out = fmax(*out, items[i].number);
	}
	return n ? ST_OK : FAIL(v, "an empty list has no largest");
}

/* Counted from 0; the list's length where it has none so far. One value stands for every layer. */
static enum st_status place(const struct evaluation *v, const struct st_term *t, double *out)
{
	struct st_setting a;
	double nth;
	ST_TRY(eval(v, t->a, &a));
	ST_TRY(number(v, t->b, &nth));
	if (a.kind == ST_SETTING_NUMBER) {
		*out = a.number != 0 ? nth : 1;
		return ST_OK;
	}
	if (a.kind != ST_SETTING_LIST)
		return FAIL(v, "places are those of numbers");
	size_t i = 0;
	for (double seen = 0; i < a.n; i++) {
		if (a.items[i].kind != ST_SETTING_NUMBER)
			return FAIL(v, "places are those of numbers");
		if (a.items[i].number != 0 && seen++ == nth)
			break;
	}
	*out = (double)i;
	return ST_OK;
}

static enum st_status calculate(const struct evaluation *v, const struct st_term *t, double *out)
{
	bool same;
	double a, b = 0;
	switch (t->op) {
	case TERM_LENGTH: {
		struct st_setting list;
		ST_TRY(eval(v, t->a, &list));
		*out = list.kind == ST_SETTING_LIST ? (double)list.n : 1;
		return ST_OK;
	}
	case TERM_LARGEST:
		return largest(v, t, out);
	case TERM_PLACE:
		return place(v, t, out);
	case TERM_EQUAL:
	case TERM_UNEQUAL:
		ST_TRY(equal(v, t, &same));
		*out = same == (t->op == TERM_EQUAL);
		return ST_OK;
	case TERM_AND: /* what follows is looked at only where it counts */
	case TERM_OR:
		ST_TRY(number(v, t->a, &a));
		if ((a != 0) == (t->op == TERM_OR)) {
			*out = t->op == TERM_OR;
			return ST_OK;
		}
		ST_TRY(number(v, t->b, &b));
		*out = b != 0;
		return ST_OK;
	case TERM_HOLDS:
		ST_TRY(holds(v, t, &same));
		*out = same;
		return ST_OK;
	default:
		break;
	}
	ST_TRY(number(v, t->a, &a));
	bool two = (t->op >= TERM_ADD && t->op <= TERM_AT_LEAST) || t->op == TERM_MIN || t->op == TERM_MAX;
	if (two)
		ST_TRY(number(v, t->b, &b));
	switch (t->op) {
	case TERM_NEGATE:
		*out = -a;
		break;
	case TERM_NOT:
		*out = a == 0;
		break;
	case TERM_ADD:
		*out = a + b;
		break;
	case TERM_SUBTRACT:
		*out = a - b;
		break;
	case TERM_MULTIPLY:
		*out = a * b;
		break;
	case TERM_DIVIDE:
	case TERM_MODULO:
		if (b == 0)
			return FAIL(v, "division by zero");
		*out = t->op == TERM_DIVIDE ? a / b : a - b * floor(a / b);
		break;
	case TERM_LESS:
		*out = a < b;
		break;
	case TERM_AT_MOST:
		*out = a <= b;
		break;
	case TERM_MORE:
		*out = a > b;
		break;
	case TERM_AT_LEAST:
		*out = a >= b;
		break;
	case TERM_SQRT:
		*out = sqrt(a);
		break;
	case TERM_LOG:
		*out = log(a);
		break;
	case TERM_EXP:
		*out = exp(a);
		break;
	case TERM_FLOOR:
		*out = floor(a);
		break;
	case TERM_CEIL:
		*out = ceil(a);
		break;
	case TERM_MIN:
		*out = fmin(a, b);
		break;
	case TERM_MAX:
		*out = fmax(a, b);
		break;
	default:
		return FAIL(v, "is no arithmetic");
	}
	if (!isfinite(*out))
		return FAIL(v, "is no finite number");
	return ST_OK;
}

static enum st_status eval(const struct evaluation *v, uint32_t i, struct st_setting *out)
{
	const struct st_term *t = &v->e->terms[i];
	double condition;
	if (++*v->steps > MAX_STEPS)
		return FAIL(v, "takes more than %u steps", MAX_STEPS);
	*out = (struct st_setting){ .kind = ST_SETTING_NUMBER };
	switch (t->op) {
	case TERM_NUMBER:
		out->number = t->number;
		return ST_OK;
	case TERM_TEXT:
		*out = (struct st_setting){ .kind = ST_SETTING_TEXT, .text = t->text };
		return ST_OK;
	case TERM_KEY:
		return key_value(v, t->key, out);
	case TERM_LAYER:
		if (v->s->layer < 0)
			return FAIL(v, "there is no layer outside the layers");
		out->number = v->s->layer;
		return ST_OK;
	case TERM_MODEL:
		*out = (struct st_setting){ .kind = ST_SETTING_TEXT, .text = v->s->model };
		return ST_OK;
	case TERM_IS_GGUF:
		out->number = v->s->spelling == ST_SPELLING_GGUF;
		return ST_OK;
	case TERM_IS_APR:
		out->number = v->s->spelling == ST_SPELLING_APR;
		return ST_OK;
	case TERM_TENSOR:
	case TERM_ROWS:
		return of_tensor(v, t, &out->number);
	case TERM_IF:
		ST_TRY(number(v, t->a, &condition));
		return eval(v, condition != 0 ? t->b : t->c, out);
	case TERM_INDEX:
		return element(v, t, out);
	default:
		return calculate(v, t, &out->number);
	}
}

enum st_status st_expression_value(const struct st_expression *e, const struct st_settings *s, struct st_setting *out,
                                   struct st_error *err)
{
	uint32_t steps = 0;
	struct evaluation v = { .s = s, .e = e, .steps = &steps, .err = err };
	return eval(&v, e->n - 1, out);
}

enum st_status st_expression_number(const struct st_expression *e, const struct st_settings *s, double *out,
                                    struct st_error *err)
{
	uint32_t steps = 0;
	struct evaluation v = { .s = s, .e = e, .steps = &steps, .err = err };
	return number(&v, e->n - 1, out);
}

enum st_status st_expression_count(const struct st_expression *e, const struct st_settings *s, uint32_t *out,
                                   struct st_error *err)
{
	double x;
	ST_TRY(st_expression_number(e, s, &x, err));
	if (!(x >= 0) || !(x <= INT32_MAX) || x != floor(x))
		return st_failure(fail_expression(s->family, e, err, "%.17g is no count", x));
	*out = (uint32_t)x;
	return ST_OK;
}

enum st_status st_expression_holds(const struct st_expression *e, const struct st_settings *s, bool *out,
                                   struct st_error *err)
{
	double x;
	ST_TRY(st_expression_number(e, s, &x, err));
	*out = x != 0;
	return ST_OK;
}

static bool names(const struct st_family *f, const struct st_expression *e, uint32_t key, bool *seen)
{
	for (uint32_t i = 0; i < e->n; i++) {
		uint32_t k = e->terms[i].key;
		if (e->terms[i].op != TERM_KEY || seen[k])
			continue;
		seen[k] = true;
		if (k == key || names(f, &f->keys[k].let, key, seen))
			return true;
	}
	return false;
}

bool st_expression_names(const struct st_family *f, const struct st_expression *e, uint32_t key)
{
	bool seen[ST_FAMILY_MAX_ITEMS] = { false };
	return names(f, e, key, seen);
}

bool st_setting_same(const struct st_setting *a, const struct st_setting *b)
{
	if (a->kind != b->kind || a->n != b->n)
		return false;
	if (a->kind == ST_SETTING_TEXT)
		return strcmp(a->text, b->text) == 0;
	if (a->kind == ST_SETTING_NUMBER)
		return (float)a->number == (float)b->number;
	for (size_t i = 0; i < a->n; i++)
		if (!st_setting_same(&a->items[i], &b->items[i]))
			return false;
	return true;
}

enum st_status st_expression_count_or(const struct st_expression *e, const struct st_settings *s, uint64_t otherwise,
                                      uint64_t *out, struct st_error *err)
{
	uint32_t v = 0;
	*out = otherwise;
	if (!e->n)
		return ST_OK;
	ST_TRY(st_expression_count(e, s, &v, err));
	*out = v;
	return ST_OK;
}
