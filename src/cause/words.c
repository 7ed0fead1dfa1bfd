/* words.c - a cause as a sentence: the wordings of its row, filled in. <stele/causes.def> describes the marks. */
#include <stele/cause.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct sentence {
	char *buf;
	size_t n;
	int used; /* as snprintf counts */
};

static void add(struct sentence *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct sentence *s, const char *fmt, ...)
{
	size_t at = (size_t)s->used < s->n ? (size_t)s->used : s->n;
	va_list ap;
	va_start(ap, fmt);
	int more = vsnprintf(at < s->n ? s->buf + at : NULL, s->n - at, fmt, ap);
	va_end(ap);
	s->used += more > 0 ? more : 0;
}

static void add_param(struct sentence *s, const struct st_cause *c, enum st_param_name p)
{
	if (st_param_is_text(p)) {
		add(s, "%s", st_cause_text(c, p));
		return;
	}
	switch (st_param_info(p)->unit) {
	case ST_UNIT_RATIO:
		add(s, "%.6g", st_cause_number(c, p, 0));
		break;
	case ST_UNIT_VALUE:
		add(s, "%g", st_cause_number(c, p, 0));
		break;
	default: /* whole numbers */
		add(s, "%.0f", st_cause_number(c, p, 0));
	}
}

static enum st_param_name param_of(const struct st_cause *c, char digit)
{
	return st_cause_info(c->code)->params[digit - '1'];
}

/* Whether all that a wording asks for and mentions is known. */
static bool applies(const struct st_cause *c, const struct st_saying *s, const char *w)
{
	for (; *w && *w != '|'; w++) {
		if (*w != '%')
			continue;
		switch (*++w) {
		case 'n':
			if (!s->name)
				return false;
			break;
		case 'e':
			if (!s->either)
				return false;
			break;
		case '+':
		case '>':
			if (!(st_cause_number(c, param_of(c, w[1]), 0) > (*w == '>')))
				return false;
			w++;
			break;
		case '=':
			w++;
			/* fall through */
		default:
			if (*w >= '1' && *w <= '9' && !st_cause_has(c, param_of(c, *w)))
				return false;
		}
	}
	return true;
}

static void fill(struct sentence *out, const struct st_cause *c, const struct st_saying *s, const char *w)
{
	for (; *w && *w != '|'; w++) {
		if (*w != '%') {
			add(out, "%c", *w);
			continue;
		}
		switch (*++w) {
		case 'n':
			add(out, "%s", s->name);
			break;
		case 'x':
			add(out, "%c", s->x);
			break;
		case 'y':
			add(out, "%c", s->y);
			break;
		case 'c':
			add(out, "%s", s->vector ? "element" : "column");
			break;
		case 'e':
			break;
		case '=':
		case '+':
		case '>':
			w++; /* a condition that holds */
			break;
		default:
			add_param(out, c, param_of(c, *w));
		}
	}
}

int st_cause_say(const struct st_cause *c, const struct st_saying *s, char *buf, size_t n)
{
	struct sentence out = { .buf = buf, .n = n };
	const struct st_cause_info *info = st_cause_info(c->code);
	for (const char *w = info->words; w; w = strchr(w, '|') ? strchr(w, '|') + 1 : NULL) {
		if (applies(c, s, w)) {
			fill(&out, c, s, w);
			return out.used;
		}
	}
	if (s->name)
		add(&out, "%s of %c against %c's: ", s->name, s->x, s->y);
	add(&out, "%s", info->meaning);
	return out.used;
}

int st_cause_advise(enum st_cause_code c, const char *name, char *buf, size_t n)
{
	struct sentence out = { .buf = buf, .n = n };
	const char *repair = st_cause_info(c)->repair, *mark = repair ? strstr(repair, "%n") : NULL;
	if (n)
		buf[0] = '\0';
	if (mark)
		add(&out, "%.*s%s%s", (int)(mark - repair), repair, name, mark + 2);
	else if (repair)
		add(&out, "%s%s%s", repair, name ? ": " : "", name ? name : "");
	return out.used;
}
