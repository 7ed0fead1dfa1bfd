/*
 * list-causes.c - what the documents say of the causes, made from their table.
 *
 *   list-causes markdown     the sections of docs/causes.md
 *   list-causes json         docs/schema/causes.json
 *
 * tools/cause-docs.sh compares both with what is in docs/, or writes it there.
 */
#include <stele/cause.h>

#include <stdio.h>
#include <string.h>

static const struct {
	unsigned bit;
	const char *name;
} places[] = {
	{ ST_ON_WEIGHT, "weight" }, { ST_ON_NODE, "node" },   { ST_ON_CAPTURE, "capture" },
	{ ST_ON_CONFIG, "config" }, { ST_ON_CACHE, "cache" }, { ST_ON_SVF, "svf" },
};

static void list_places(unsigned where, const char *quote)
{
	const char *between = "";
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		if (!(where & places[i].bit))
			continue;
		printf("%s%s%s%s", between, quote, places[i].name, quote);
		between = ", ";
	}
}

/* The text of a column, without marks of words.c. */
static void plain(const char *text)
{
	const char *mark = text ? strstr(text, "%n") : NULL;
	if (mark)
		printf("%.*sthe tensor%s", (int)(mark - text), text, mark + 2);
	else if (text)
		fputs(text, stdout);
}

static void markdown_group(const char *title)
{
	printf("\n## %s\n\n| code | on | what it means | how it is tested | parameters | repair |\n|---|---|---|---|---|---|\n",
	       title);
}

static void markdown_row(enum st_cause_code c)
{
	const struct st_cause_info *info = st_cause_info(c);
	printf("| `%s` | ", info->code);
	list_places(info->where, "");
	printf(" | %s | %s |", info->meaning, info->test ? info->test : "not tested yet");
	for (size_t i = 0; i < ST_CAUSE_PARAMS && info->params[i] != ST_PARAM_NONE; i++)
		printf("%s `%s`", i ? "," : "", st_param_info(info->params[i])->key);
	fputs(" | ", stdout);
	plain(info->repair);
	fputs(" |\n", stdout);
}

static void json_text(const char *key, const char *text)
{
	printf(", \"%s\": ", key);
	if (!text) {
		fputs("null", stdout);
		return;
	}
	putchar('"'); /* no row has a quote or a backslash in it: tests/cause */
	plain(text);
	putchar('"');
}

static void json_row(enum st_cause_code c)
{
	const struct st_cause_info *info = st_cause_info(c);
	printf("%s\n  {\"code\": \"%s\", \"on\": [", c > 1 ? "," : "", info->code);
	list_places(info->where, "\"");
	fputs("]", stdout);
	json_text("meaning", info->meaning);
	json_text("test", info->test);
	json_text("repair", info->repair);
	fputs(", \"parameters\": {", stdout);
	for (size_t i = 0; i < ST_CAUSE_PARAMS && info->params[i] != ST_PARAM_NONE; i++)
		printf("%s\"%s\": \"%s\"", i ? ", " : "", st_param_info(info->params[i])->key,
		       st_unit_name(st_param_info(info->params[i])->unit));
	fputs("}}", stdout);
}

static void markdown(void)
{
#define CAUSE_GROUP(title) markdown_group(title);
#define CAUSE(name, ...) markdown_row(ST_CAUSE_##name);
#include <stele/causes.def>
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "markdown") == 0) {
		markdown();
		return 0;
	}
	if (argc != 2 || strcmp(argv[1], "json") != 0)
		return 2;
	printf("{\"schema\": \"stele.causes/1\", \"causes\": [");
	for (int c = 1; c < ST_CAUSE_COUNT; c++)
		json_row((enum st_cause_code)c);
	printf("\n]}\n");
	return 0;
}
