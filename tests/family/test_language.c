/* The language of descriptions: what every wrong line says, and what expressions are worth. */
#include "test.h"

#include "family/family.h"

#include <math.h>

static struct st_family *parse(const char *text)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_family *f = NULL;
	assert_ok(st_family_parse("t.family", text, strlen(text), &f, &err), &err);
	return f;
}

#define HEAD "family t\nconfig t\n[keys]\nlayers count - n\nvocab count - v\n"
#define TAIL \
	"[weights]\ne a b vocab, 4\n[graph]\nemb = embed(e)\nlayer x = emb\ny = add(x, x)\nend\nout = linear(x, e)\n"

static void builtin_descriptions_parse(void **state)
{
	(void)state;
	size_t n = 0;
	for (size_t i = 0; i < st_family_text_count; i++) {
		const struct st_family_text *t = &st_family_texts[i];
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f;
		char name[64];
		if (strstr(t->name, ".keys"))
			continue;
		assert_ok(st_family_parse(t->name, t->text, t->size, &f, &err), &err);
		snprintf(name, sizeof name, "%s.family", f->name);
		assert_string_equal(name, t->name);              /* the file is called as the family */
		assert_true(f->n_names[ST_SPELLING_CONFIG] + f->n_names[ST_SPELLING_GGUF] > 0); /* not all of them have a GGUF form */
		st_family_close(f);
		n++;
	}
	assert_true(n >= 8);
}

/* ---- a page asks for what it names ---- */

static bool source_names(const struct st_family *f, const struct st_source *s, uint32_t key)
{
	for (uint32_t i = 0; i < s->n_steps; i++)
		if (st_expression_names(f, &s->steps[i].a, key) || st_expression_names(f, &s->steps[i].b, key)
		    || st_expression_names(f, &s->steps[i].n, key) || st_expression_names(f, &s->steps[i].m, key))
			return true;
	return false;
}

static bool weight_names(const struct st_family *f, const struct st_family_weight *w, uint32_t key)
{
	bool any = st_expression_names(f, &w->condition, key) || st_expression_names(f, &w->optional_if, key);
	for (uint32_t i = 0; i < w->rank; i++)
		any |= st_expression_names(f, &w->shape[i], key);
	for (int where = 0; where < ST_COLUMNS; where++)
		for (uint32_t i = 0; i < w->n_sources[where]; i++)
			any |= source_names(f, &w->sources[where][i], key);
	return any;
}

/* A parameter that is not given has the value of the key of its name. */
static bool stage_names(const struct st_family *f, const struct st_family_stage *s, uint32_t key)
{
	bool any = false;
	for (uint32_t i = 0; i < s->n_params; i++)
		any |= st_expression_names(f, &s->params[i].value, key);
	for (uint32_t i = 0; i < s->n_when; i++)
		any |= st_expression_names(f, s->when[i], key);
	for (const char *const *p = st_operation_info(s->op)->params; *p; p++) {
		uint32_t own = st_family_find_key(f, *p);
		if (own != ST_FAMILY_NONE && !st_family_param(s, *p))
			any |= own == key || st_expression_names(f, &f->keys[own].let, key);
	}
	return any;
}

/* By a line, or by the default of another key. */
static bool is_asked(const struct st_family *f, uint32_t key)
{
	const struct st_family_key *k = &f->keys[key];
	bool any = k->among || strcmp(k->name, "layers") == 0 || strcmp(k->name, "vocab") == 0;
	for (uint32_t i = 0; i < f->n_keys; i++)
		any |= st_expression_names(f, &f->keys[i].null, key)
		    || st_expression_names(f, &f->keys[i].absent[ST_SPELLING_GGUF], key)
		    || st_expression_names(f, &f->keys[i].absent[ST_SPELLING_CONFIG], key)
		    || st_expression_names(f, &f->keys[i].absent[ST_SPELLING_APR], key);
	for (uint32_t i = 0; i < f->n_requirements; i++)
		any |= st_expression_names(f, &f->requirements[i].holds, key);
	for (uint32_t i = 0; i < f->n_weights; i++)
		any |= weight_names(f, &f->weights[i], key);
	for (uint32_t i = 0; i < f->n_stages; i++)
		any |= stage_names(f, &f->stages[i], key);
	return any;
}

/* What says nothing about numbers in most families. */
static bool in_common(const char *name)
{
	for (size_t i = 0; i < st_family_text_count; i++)
		if (strcmp(st_family_texts[i].name, "common.keys") == 0)
			return strstr(st_family_texts[i].text, name) != NULL;
	return false;
}

/* A flag that is read and asked by nothing would be passed over without a word; so would an unknown kind of layer. */
static void pages_ask_for_all_their_keys(void **state)
{
	(void)state;
	for (size_t i = 0; i < st_family_text_count; i++) {
		const struct st_family_text *t = &st_family_texts[i];
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f;
		if (strstr(t->name, ".keys"))
			continue;
		assert_ok(st_family_parse(t->name, t->text, t->size, &f, &err), &err);
		for (uint32_t k = 0; k < f->n_keys; k++) {
			const struct st_family_key *key = &f->keys[k];
			bool in_a_group = false; /* those of a group need not all be of use to a family */
			for (size_t g = 0; g < st_family_text_count; g++)
				in_a_group |= strstr(st_family_texts[g].name, ".keys")
				           && strstr(st_family_texts[g].text, key->name);
			if (!in_a_group && !is_asked(f, k))
				fail_msg("%s: %s is read, and nothing asks for it", t->name, key->name);
			if ((key->type == ST_KEY_TEXTS || key->type == ST_KEY_LETTERS) && !key->among)
				fail_msg("%s: %s may say anything", t->name, key->name);
			for (int where = 0; where < ST_SPELLINGS; where++)
				for (uint32_t s = 0; s < key->n_spelled[where]; s++)
					for (uint32_t h = 0; h < f->n_harmless[where]; h++)
						if (strcmp(key->spelled[where][s], f->harmless[where][h]) == 0
						    && !in_common(key->spelled[where][s]))
							fail_msg("%s: %s is read, and harmless", t->name,
							         key->spelled[where][s]);
		}
		st_family_close(f);
	}
}

/* ---- what GGUF files call things ---- */

/* Lines of tests/data/gguf-names.txt, which tools/gguf-names.py writes from the package gguf. */
static char *names_of_gguf(void)
{
	size_t n;
	char *text = (char *)read_bytes(STELE_SOURCE_ROOT "/tests/data/gguf-names.txt", &n);
	return text;
}

/* Whether a line "WHAT OF... WORD..." has the word; of NULL: the line is "WHAT WORD". */
static bool listed(const char *text, const char *what, const char *of, const char *word)
{
	char head[128], mid[128];
	snprintf(head, sizeof head, of ? "\n%s %s " : "\n%s ", what, of);
	snprintf(mid, sizeof mid, " %s", word);
	size_t n = strlen(mid);
	for (const char *l = text; (l = strstr(l, head)); l++) {
		const char *end = strchr(l + 1, '\n');
		for (const char *w = l + strlen(head) - 1; w && end && w < end; w = strstr(w + 1, mid))
			if (strncmp(w, mid, n) == 0 && (w[n] == ' ' || w[n] == '\n'))
				return true;
	}
	return false;
}

static bool knows_tensor(const char *text, const struct st_family *f, const struct st_source *s)
{
	char name[128] = "";
	size_t n = 0;
	for (const char *p = s->name; *p && n + 8 < sizeof name; p++)
		n += (size_t)snprintf(name + n, sizeof name - n, *p == '#' ? "{bid}" : "%c", *p);
	for (const char *const *t = (const char *const[]){ ".weight", ".bias", ".scale", NULL }; *t; t++)
		if (n > strlen(*t) && strcmp(name + n - strlen(*t), *t) == 0)
			name[n - strlen(*t)] = '\0';
	for (uint32_t i = 0; i < f->n_names[ST_SPELLING_GGUF]; i++)
		if (listed(text, "arch", f->names[ST_SPELLING_GGUF][i].name, name))
			return true;
	return false;
}

/* What the package does not list, and why a page may name it all the same. */
static bool is_excused(const struct st_family *f, const char *weight)
{
	/* An untied head, where the field has seen tied ones only; dense layers among those of experts. */
	bool experts = strcmp(f->name, "qwen2_moe") == 0 || strcmp(f->name, "qwen3_moe") == 0;
	return strcmp(weight, "head") == 0
	    || (experts && (strcmp(weight, "gate") == 0 || strcmp(weight, "up") == 0 || strcmp(weight, "down") == 0));
}

static void gguf_names_are_those_of_the_field(void **state)
{
	(void)state;
	char *text = names_of_gguf();
	for (size_t i = 0; i < st_family_text_count; i++) {
		const struct st_family_text *t = &st_family_texts[i];
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f;
		if (strstr(t->name, ".keys"))
			continue;
		assert_ok(st_family_parse(t->name, t->text, t->size, &f, &err), &err);
		bool any = f->n_names[ST_SPELLING_GGUF] > 0;
		for (uint32_t k = 0; any && k < f->n_keys; k++)
			for (uint32_t s = 0; s < f->keys[k].n_spelled[ST_SPELLING_GGUF]; s++)
				if (!listed(text, "key", NULL, f->keys[k].spelled[ST_SPELLING_GGUF][s])
				    && strcmp(f->keys[k].spelled[ST_SPELLING_GGUF][s], "rope.scale_linear")
				               != 0) /* until 2023 */
					fail_msg("%s: no GGUF key \"%s\"", t->name,
					         f->keys[k].spelled[ST_SPELLING_GGUF][s]);
		for (uint32_t w = 0; any && w < f->n_weights; w++) {
			const struct st_family_weight *fw = &f->weights[w];
			bool known = fw->n_sources[ST_SPELLING_GGUF] == 0 || is_excused(f, fw->name);
			for (uint32_t s = 0; s < fw->n_sources[ST_SPELLING_GGUF]; s++)
				known |= knows_tensor(text, f, &fw->sources[ST_SPELLING_GGUF][s]);
			if (!known)
				fail_msg("%s: no GGUF tensor \"%s\"", t->name, fw->sources[ST_SPELLING_GGUF][0].name);
		}
		st_family_close(f);
	}
	assert_false(listed(text, "key", NULL, "attention.head"));
	assert_false(listed(text, "arch", "llama", "blk.{bid}.attn"));
	free(text);
}

/* A description that is right but for one line: what is said of it. */
static const struct {
	const char *text, *says;
} wrong[] = {
	{ "famly t\n", "t.family:1: \"famly t\": expected family, gguf, config, apr or a section" },
	{ "family t\n[weights]\n",
	  "t.family:2: \"[weights]\": the sections are [keys], [weights] and [graph], in this order" },
	{ "family t\nfamily u\n", "t.family:2: a second name of the family" },
	{ HEAD "hidden cout a b\n",
	  "t.family:6: hidden: \"cout a b\" is no type; known are count, real, flag and text, and "
	  "counts, reals, flags, texts and letters with a value for each layer" },
	{ HEAD "layers count a b\n", "t.family:6: a second key \"layers\"; the first is in line 4" },
	{ HEAD "layer count a b\n", "t.family:6: \"layer\" has a meaning of its own" },
	{ HEAD "let a = b + 1\n", "t.family:6: \"b\" is no key above this line" },
	{ HEAD "let a = a + 1\n", "t.family:6: \"a\" is no key above this line" },
	{ HEAD "let a = (1\n", "t.family:6: \"end of line\": expected \")\"" },
	{ HEAD "let a = 1 if 2\n", "t.family:6: \"end of line\": expected \"else\"" },
	{ HEAD "let a = sinh(1)\n", "t.family:6: \"sinh\" is no function" },
	{ HEAD "let a = 1 2\n", "t.family:6: \"2\" is more than belongs here" },
	{ HEAD "let a = \"x\n", "t.family:6: a text without its closing quote" },
	{ HEAD "let a = ((((((((((((((((((((((((((1))))))))))))))))))))))))))\n",
	  "t.family:6: an expression nested more than 24 deep" },
	{ HEAD "use nothing\n", "t.family:6: \"nothing.keys\" is no group of keys" },
	{ HEAD "k count a b = 1 ; nul: 2\n",
	  "t.family:6: k: \"nul: 2\": expected null:, gguf:, config:, apr: or among:" },
	{ HEAD "apr k a\n", "t.family:6: \"k\" is no key above this line" },
	{ HEAD "apr layers\n", "t.family:6: layers: expected its name in APR files, or -" },
	{ HEAD "apr layers n_layer m\n", "t.family:6: \"m\" is more than belongs here" },
	{ HEAD "harmless m\n", "t.family:6: \"m\": harmless in gguf, in config or in apr?" },
	{ HEAD "default k = 1\n", "t.family:6: \"k\" is no key above this line" },
	{ HEAD "k count a b ; among: \"x\"\n", "t.family:6: k: among is for texts" },
	{ HEAD "k text a b ; among: x\n", "t.family:6: k: \"x\": expected texts in quotes" },
	{ HEAD "k text a b ; among: \"x\n", "t.family:6: a text without its closing quote" },
	{ HEAD "k text a b ; among: \"x\" ; among: \"y\"\n",
	  "t.family:6: k: \": \"y\"\": expected one among: and texts" },
	{ HEAD "[weights]\nw a b\n", "t.family:7: \"end of line\": expected a number, a text or a key" },
	{ HEAD "[weights]\nw a b 1, 2, 3, 4\n", "t.family:7: w: a shape of more than 3 sizes" },
	{ HEAD "[weights]\nw a b 1\nw a b 2\n", "t.family:8: a second weight \"w\"; the first is in line 7" },
	{ HEAD "[weights]\napr w a\n",
	  "t.family:7: \"w\" is no weight above this line with one source in config.json's column" },
	{ HEAD "[weights]\nw a b 1\napr w -\n", "t.family:8: w: expected one source" },
	{ HEAD "[weights]\nw a[1:2 b 1\n", "t.family:7: \"b 1\": expected \"]\"" },
	{ HEAD "[weights]\nw pairs(2, a b 1\n", "t.family:7: \"b 1\": expected \")\"" },
	{ HEAD "[weights]\ne a b 1\n[graph]\nx = embed(e)\n",
	  "t.family:9: \"x\" is the stream; a stage needs another name" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embd(e)\n", "t.family:9: \"embd\" is no operation" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(f)\n", "t.family:9: \"f\" is no weight" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed()\n", "t.family:9: embed needs 0 stages and 1 weight" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e, e)\n",
	  "t.family:9: \"e)\" is one argument more than embed has" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e, size=1)\n", "t.family:9: embed has no parameter \"size\"" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e, scale=1, scale=2)\n", "t.family:9: a second \"scale\"" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\ny = embed(e)\n",
	  "t.family:10: a second stage \"y\"; the first is in line 9" },
	{ HEAD "[weights]\ne a b 1\n[graph]\nz = silu(y)\n", "t.family:9: \"y\" is no stage above this line" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nz = silu(y.q)\n",
	  "t.family:10: \"q\" is no weight: a part of a stage has the name of the weight that made it" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nz = silu(x)\n",
	  "t.family:10: \"x\" is no stage above this line" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nend\n", "t.family:10: \"end\" of nothing" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nlayer x = y\nend\n", "t.family:11: a layer without stages" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nlayer x = y\nz = silu(x)\n",
	  "t.family:11: \"end\" is missing" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nlayer x = y\nz = silu(x)\nend\nw = silu(z)\n",
	  "t.family:13: \"z\" is no stage above this line" },
	{ HEAD "[weights]\ne a b 1\n[graph]\ny = embed(e)\nlayer x = y\nz = silu(x)\nend\n",
	  "t.family:12: the graph has no layers, or nothing behind them: its last stage is the logits" },
	{ "family t\n[keys]\n[weights]\ne a b 1\n[graph]\ny = embed(e)\nlayer x = y\nz = silu(x)\nend\nw = silu(x)\n",
	  "t.family:10: the keys \"layers\" and \"vocab\" are missing" },
	{ "family t\n\001\n", "t.family:2: a control character" },
};

static void wrong_lines_are_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f = NULL;
		char line[1400];
		assert_int_equal(st_family_parse("t.family", wrong[i].text, strlen(wrong[i].text), &f, &err),
		                 ST_ERR_FORMAT);
		st_error_format(&err, line, sizeof line);
		assert_string_equal(line, wrong[i].says);
	}
}

static void strangers_are_bounded(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_family *f = NULL;
	size_t size = 300000, n = 0;
	char *text = malloc(size + 64);
	memset(text, ' ', size);
	assert_int_equal(st_family_parse("t", text, size, &f, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "more than 262144 bytes"));
	memset(text, '\n', size);
	st_error_clear(&err);
	assert_int_equal(st_family_parse("t", text, 5000, &f, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "more than 4096 lines"));
	memset(text, 'a', size);
	st_error_clear(&err);
	assert_int_equal(st_family_parse("t", text, 2000, &f, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "a line of more than 1024 bytes"));
	/* Ten thousand stages end with the first that is too many. */
	n = (size_t)snprintf(text, size, "%s", HEAD "[weights]\ne a b 1\n[graph]\n");
	for (int i = 0; n < 100000; i++)
		n += (size_t)snprintf(text + n, size - n, "s%d = embed(e)\n", i);
	st_error_clear(&err);
	assert_int_equal(st_family_parse("t", text, n, &f, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "more than 1024 of a kind"));
	/* Names derived from each other double the work each time: it is counted, and ends. */
	n = (size_t)snprintf(text, size, "%s", HEAD "let a0 = 1\n");
	for (int i = 1; i <= 15; i++)
		n += (size_t)snprintf(text + n, size - n, "let a%d = a%d + a%d + a%d + a%d\n", i, i - 1, i - 1, i - 1,
		                      i - 1);
	n += (size_t)snprintf(text + n, size - n, "%s", TAIL);
	text[n] = '\0';
	f = parse(text);
	struct st_setting keys[32] = { { ST_SETTING_NONE, 0, NULL, NULL, 0 } };
	struct st_settings s = { .family = f, .keys = keys, .layer = -1 };
	double v;
	st_error_clear(&err);
	assert_int_equal(st_expression_number(&f->keys[st_family_find_key(f, "a15")].let, &s, &v, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "takes more than 100000 steps"));
	st_family_close(f);
	free(text);
}

static int64_t rows_of(const void *file, const char *name)
{
	(void)file;
	return strcmp(name, "there") == 0 ? 7 : -1;
}

/* Worked out by hand. */
static const struct {
	const char *text;
	double value;
} sums[] = {
	{ "1 + 2 * 3", 7 },
	{ "(1 + 2) * 3", 9 },
	{ "7 % 4 - 10 / 4", 0.5 },
	{ "-7 % 4", 1 }, /* of a negative number the remainder is positive: layers before the first are none */
	{ "2 - 3 - 4", -5 },
	{ "sqrt(16) + min(3, 2) * max(1, 5)", 14 },
	{ "floor(2.7) + ceil(2.1)", 5 },
	{ "1 if layers > 3 else 2", 1 },
	{ "1 if layers > 4 else 2 if layers == 4 else 3", 2 },
	{ "layers >= 4 and layers <= 4", 1 },
	{ "not layers == 4 or false", 0 },
	{ "layer % 2 == 1", 1 },
	{ "true + true", 2 },
	{ "model == \"t\"", 1 },
	{ "gguf", 0 },
	{ "kinds[layer] == \"b\"", 1 },
	{ "kinds[0] != \"a\"", 0 },
	{ "per[2]", 30 },
	{ "all[2]", 5 },
	{ "tensor(\"there\") + tensor(\"not\")", 1 },
	{ "rows(\"there\")", 7 },
	{ "0 and 1 / 0", 0 }, /* what does not count is not looked at */
	{ "5 if true else 1 / 0", 5 },
	{ "1e3 + 1.5e-1", 1000.15 },
};
static const struct {
	const char *text, *says;
} no_sums[] = {
	{ "1 / (layers - 4)", "\"1 / (layers - 4)\": division by zero" },
	{ "layers % 0", "\"layers % 0\": division by zero" },
	{ "per[9]", "\"per[9]\": a list of 3 has no element 9" },
	{ "per + 1", "\"per + 1\": a list where a number is wanted" },
	{ "model + 1", "\"model + 1\": a text where a number is wanted" },
	{ "sqrt(0 - 1)", "\"sqrt(0 - 1)\": is no finite number" },
	{ "unsaid + 1", "\"unsaid + 1\": unsaid has no value in this file" },
	{ "rows(\"not\")", "\"rows(\"not\")\": the file has no tensor not" },
};

#define MORE "kinds texts - k\nper counts - e\nall counts - a\nunsaid count - u\n"

static struct st_family *with(const char *sum, struct st_settings *s, struct st_setting *keys)
{
	static const struct st_setting kinds[] = { { ST_SETTING_TEXT, 0, "a", NULL, 0 },
		                                   { ST_SETTING_TEXT, 0, "b", NULL, 0 } };
	static const struct st_setting each[] = { { ST_SETTING_NUMBER, 10, NULL, NULL, 0 },
		                                  { ST_SETTING_NUMBER, 20, NULL, NULL, 0 },
		                                  { ST_SETTING_NUMBER, 30, NULL, NULL, 0 } };
	char text[800];
	snprintf(text, sizeof text, HEAD MORE "let sum = %s\n" TAIL, sum);
	struct st_family *f = parse(text);
	memset(keys, 0, 16 * sizeof *keys);
	keys[0] = (struct st_setting){ .kind = ST_SETTING_NUMBER, .number = 4 };
	keys[1] = (struct st_setting){ .kind = ST_SETTING_NUMBER, .number = 9 };
	keys[2] = (struct st_setting){ .kind = ST_SETTING_LIST, .items = kinds, .n = 2 };
	keys[3] = (struct st_setting){ .kind = ST_SETTING_LIST, .items = each, .n = 3 };
	keys[4] = (struct st_setting){ .kind = ST_SETTING_NUMBER, .number = 5 };
	*s = (struct st_settings){ .family = f,
		                   .keys = keys,
		                   .spelling = ST_SPELLING_CONFIG,
		                   .model = "t",
		                   .layer = 1,
		                   .tensor_rows = rows_of };
	return f;
}

static void sums_are_right(void **state)
{
	(void)state;
	struct st_settings s;
	struct st_setting keys[16];
	for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f = with(sums[i].text, &s, keys);
		double v = NAN;
		assert_ok(st_expression_number(&f->keys[st_family_find_key(f, "sum")].let, &s, &v, &err), &err);
		if (fabs(v - sums[i].value) > 1e-12)
			fail_msg("%s is %g, not %g", sums[i].text, v, sums[i].value);
		st_family_close(f);
	}
	for (size_t i = 0; i < sizeof no_sums / sizeof *no_sums; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_family *f = with(no_sums[i].text, &s, keys);
		double v;
		assert_int_equal(st_expression_number(&f->keys[st_family_find_key(f, "sum")].let, &s, &v, &err),
		                 ST_ERR_FORMAT);
		assert_string_equal(err.message, no_sums[i].says);
		assert_string_equal(err.path, "t.family:10");
		st_family_close(f);
	}
}

static void dependence_is_found(void **state)
{
	(void)state;
	struct st_family *f = parse(HEAD "let a = layers + 1\nlet b = a * 2\nlet c = vocab\n" TAIL);
	const struct st_expression *b = &f->keys[st_family_find_key(f, "b")].let,
				   *c = &f->keys[st_family_find_key(f, "c")].let;
	assert_true(st_expression_names(f, b, st_family_find_key(f, "a")));
	assert_true(st_expression_names(f, b, st_family_find_key(f, "layers")));
	assert_false(st_expression_names(f, b, st_family_find_key(f, "vocab")));
	assert_false(st_expression_names(f, c, st_family_find_key(f, "layers")));
	st_family_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(builtin_descriptions_parse),
		cmocka_unit_test(pages_ask_for_all_their_keys),
		cmocka_unit_test(gguf_names_are_those_of_the_field),
		cmocka_unit_test(wrong_lines_are_named),
		cmocka_unit_test(strangers_are_bounded),
		cmocka_unit_test(sums_are_right),
		cmocka_unit_test(dependence_is_found),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("family-language", tests, NULL, NULL);
}
