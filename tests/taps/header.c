/* What taps/stele_tap.h promises beside a plain trace: threads, strides, whole files, failures that stick. TAP. header FOLDER */
#define STELE_TAP_IMPLEMENTATION
#include "stele_tap.h"

enum { THREADS = 4, LAYERS = 32, COLUMNS = 5, ROWS = 3 };

static int n, bad;
static stele_tap *shared;

static void check(int ok, const char *what, const char *why)
{
	n++;
	bad += !ok;
	printf("%s %d - %s\n", ok ? "ok" : "not ok", n, what);
	if (!ok)
		printf("# %s\n", why);
}

static float number(int layer, int row, int column) { return (float)(layer * 100 + row * 10 + column); }

/* Every fourth layer; rows one by one, from the last to the first, out of a wider matrix. */
static void *some_layers(void *p)
{
	int first = *(int *)p;
	for (int l = first; l < LAYERS; l += THREADS)
		for (int32_t r = ROWS - 1; r >= 0; r--) {
			float x[COLUMNS];
			stele_tap_value v = { 0 };
			for (int c = 0; c < COLUMNS; c++)
				x[c] = number(l, r, c);
			v.stage = "ffn_norm", v.layer = l, v.data = x, v.rows = 1, v.columns = COLUMNS, v.positions = &r;
			stele_tap_put(shared, &v);
		}
	return NULL;
}

static size_t read_all(const char *path, char *to, size_t room)
{
	FILE *f = fopen(path, "rb");
	size_t got = f ? fread(to, 1, room - 1, f) : 0;
	if (f)
		fclose(f);
	to[got] = 0;
	return got;
}

static void threads(const char *path)
{
	static char file[1 << 18];
	const int32_t ids[ROWS] = { 7, 8, 9 };
	pthread_t t[THREADS];
	int first[THREADS], wrong = 0;
	size_t head = 0;
	char why[256];
	shared = stele_tap_open(path);
	stele_tap_tokens(shared, ids, 2);
	stele_tap_tokens(shared, ids + 2, 1);
	stele_tap_meta(shared, "engine", "a \"quoted\"\tname");
	stele_tap_meta(shared, "engine", "replaced \\ \"twice\"");
	for (int i = 0; i < THREADS; i++) {
		first[i] = i;
		pthread_create(&t[i], NULL, some_layers, &first[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	check(!stele_tap_close(shared, why, sizeof why), "four threads put", why);
	read_all(path, file, sizeof file);
	for (int i = 0; i < 8; i++)
		head |= (size_t)(unsigned char)file[i] << 8 * i;
	for (int l = 0; l < LAYERS; l++) {
		char key[64];
		unsigned long at;
		float x[ROWS][COLUMNS];
		const char *p;
		snprintf(key, sizeof key, "\"layers.%d.ffn_norm\":", l);
		p = strstr(file + 8, key);
		if (!p || !(p = strstr(p, "\"shape\":[3,5],\"data_offsets\":[")) || sscanf(p, "\"shape\":[3,5],\"data_offsets\":[%lu", &at) != 1) {
			wrong++;
			continue;
		}
		memcpy(x, file + 8 + head + at, sizeof x);
		for (int r = 0; r < ROWS; r++)
			for (int c = 0; c < COLUMNS; c++)
				wrong += x[r][c] != number(l, r, c);
	}
	check(!wrong, "rows lie in the order of their positions", "numbers are elsewhere");
	check(strstr(file + 8, "\"engine\":\"replaced \\\\ \\\"twice\\\"\"") != NULL, "text is quoted", file + 8);
}

/* A transposed view: [heads, rows, columns] out of [rows, heads, columns]. */
static void strides(const char *path)
{
	static char file[1 << 16];
	const float x[2][3][2] = { { { 0, 1 }, { 10, 11 }, { 20, 21 } }, { { 100, 101 }, { 110, 111 }, { 120, 121 } } };
	const float want[3][2][2] = { { { 0, 1 }, { 100, 101 } }, { { 10, 11 }, { 110, 111 } }, { { 20, 21 }, { 120, 121 } } };
	const int32_t ids[2] = { 1, 2 };
	stele_tap_value v = { 0 };
	stele_tap *t = stele_tap_open(path);
	char why[256];
	size_t size;
	stele_tap_tokens(t, ids, 2);
	v.stage = "attn_scores", v.layer = 0, v.data = x, v.heads = 3, v.rows = 2, v.columns = 2;
	v.row_step = sizeof x[0], v.head_step = sizeof x[0][0];
	stele_tap_put(t, &v);
	check(!stele_tap_close(t, why, sizeof why), "a view with strides", why);
	size = read_all(path, file, sizeof file);
	check(strstr(file + 8, "\"shape\":[3,2,2]") && !memcmp(file + size - sizeof want, want, sizeof want), "is written dense", "it is not");
}

static int there(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (f)
		fclose(f);
	return f != NULL;
}

/* One thing goes wrong in a tap that holds a sound value already. */
static void refused(const char *path, const char *what, const char *want, void (*wrong)(stele_tap *))
{
	const int32_t ids[2] = { 1, 2 };
	const float x[4] = { 0 };
	char why[256] = "", name[128];
	stele_tap *t = stele_tap_open(path);
	int r;
	stele_tap_tokens(t, ids, 2);
	stele_tap_f32(t, "attn_norm", 0, x, 2, 2);
	wrong(t);
	r = stele_tap_close(t, why, sizeof why);
	snprintf(name, sizeof name, "refused: %s", what);
	check(r == -1 && strstr(why, want) && !there(path), name, why);
}

static const float zeros[8];

static void twice(stele_tap *t)
{
	stele_tap_f32(t, "attn_norm", 0, zeros, 2, 2);
	stele_tap_f32(t, "ffn_norm", 0, zeros, 2, 2);
}
static void beyond(stele_tap *t) { stele_tap_f32(t, "ffn_norm", 0, zeros, 3, 2); }
static void none(stele_tap *t) { stele_tap_f32(t, "ffn_norm", 0, zeros, 0, 2); }
static void widths(stele_tap *t) { stele_tap_f32(t, "attn_norm", 0, zeros, 1, 3); }
static void long_name(stele_tap *t)
{
	char s[300];
	memset(s, 'a', sizeof s - 1);
	s[sizeof s - 1] = 0;
	stele_tap_f32(t, s, 0, zeros, 2, 2);
}
static void step_rows(stele_tap *t)
{
	stele_tap_value v = { 0 };
	v.stage = "attn_norm", v.step = 1, v.data = zeros, v.rows = 2, v.columns = 2;
	stele_tap_put(t, &v);
}

int main(int argc, char **argv)
{
	char path[4096], why[256];
	if (argc != 2)
		return 2;
	snprintf(path, sizeof path, "%s/threads.safetensors", argv[1]);
	threads(path);
	snprintf(path, sizeof path, "%s/strides.safetensors", argv[1]);
	strides(path);
	snprintf(path, sizeof path, "%s/refused.safetensors", argv[1]);
	refused(path, "a value twice", "position 0 is put twice", twice);
	refused(path, "a row beyond the prompt", "the prompt has 2 tokens", beyond);
	refused(path, "no rows", "0 rows of 2 numbers", none);
	refused(path, "rows of two widths", "after rows of F32 [2]", widths);
	refused(path, "a name without end", "a name of", long_name);
	refused(path, "two rows in a step", "a decode step has one row", step_rows);
	check(stele_tap_close(stele_tap_open(path), why, sizeof why) == -1 && strstr(why, "nothing was put") && !there(path), "refused: nothing", why);
	check(!stele_tap_open("/nowhere/at/all") && stele_tap_f32(NULL, "x", 0, zeros, 1, 1) == -1 && stele_tap_close(NULL, why, sizeof why) == -1,
	      "a tap that is none does nothing", why);
	stele_tap_abort(NULL);
	printf("1..%d\n", n);
	return bad > 0;
}
