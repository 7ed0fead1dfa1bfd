/* nearest.c - "did you mean". */
#include "cli/internal.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WORD 40

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t m = a < b ? a : b;
	return m < c ? m : c;
}

/* Edits that turn one into the other; swapping neighbours is one edit (optimal string alignment). */
static size_t distance(const char *a, size_t n, const char *b, size_t m)
{
	size_t d[MAX_WORD + 1][MAX_WORD + 1];
	for (size_t i = 0; i <= n; i++)
		d[i][0] = i;
	for (size_t j = 0; j <= m; j++)
		d[0][j] = j;
	for (size_t i = 1; i <= n; i++) {
		for (size_t j = 1; j <= m; j++) {
			size_t cost = a[i - 1] != b[j - 1];
			d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]
			    && d[i - 2][j - 2] + 1 < d[i][j])
				d[i][j] = d[i - 2][j - 2] + 1;
		}
	}
	return d[n][m];
}

const char *cli_nearest(const char *word, const char *const *candidates, size_t n)
{
	size_t len = strlen(word), best = SIZE_MAX;
	const char *found = NULL;
	if (len == 0 || len > MAX_WORD)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t clen = strlen(candidates[i]);
		if (clen > MAX_WORD)
			continue;
		/* A word that begins a candidate is most likely an abbreviation of it. */
		size_t d = clen > len && memcmp(candidates[i], word, len) == 0
		                 ? 1
		                 : distance(word, len, candidates[i], clen);
		if (d < best) {
			best = d;
			found = candidates[i];
		}
	}
	/* More than a third of the letters wrong is another word, not a slip. */
	return best <= 1 + len / 3 ? found : NULL;
}

/* The second words of the commands that begin with `first`, "export, replay"; returns how many. */
static size_t second_words(const char *first, char *buf, size_t size)
{
	size_t n = 0, at = 0, len = strlen(first);
	buf[0] = '\0';
	for (size_t i = 0; i < cli_n_commands; i++) {
		const char *name = cli_commands[i]->name;
		if (strncmp(name, first, len) == 0 && name[len] == ' ' && at < size)
			at += (size_t)snprintf(buf + at, size - at, "%s%s", n++ ? ", " : "", name + len + 1);
	}
	return n;
}

bool cli_is_group(const char *word)
{
	char seconds[256];
	return second_words(word, seconds, sizeof seconds) > 0;
}

int cli_unknown_command(struct cli *c, char *const *words, int n)
{
	char seconds[256];
	if (second_words(words[0], seconds, sizeof seconds) > 0)
		return n > 1 ? cli_usage(c, "unknown command '%.60s %.60s'; there is %s", words[0], words[1], seconds)
		             : cli_usage(c, "'%s' needs a second word: %s", words[0], seconds);
	const char **names = st_alloc_zeroed(cli_n_commands, sizeof *names);
	for (size_t i = 0; names && i < cli_n_commands; i++)
		names[i] = cli_commands[i]->name;
	const char *near = names ? cli_nearest(words[0], names, cli_n_commands) : NULL;
	free(names);
	return near ? cli_usage(c, "unknown command '%.60s'; did you mean '%s'?", words[0], near)
	            : cli_usage(c, "unknown command '%.60s'; 'stele help' lists them", words[0]);
}
