/*
 * preload.c - the symbol that takes ggml's place in a program that is run under `stele tap`.
 *
 * libllama sets the callback of its scheduler through the exported ggml_backend_sched_set_eval_callback(). This object has the
 * same symbol, is loaded first, and gives the scheduler a callback of its own, which passes on what the program's own one is told.
 * The wish stands in the environment (STELE_TAP_...). A process that runs no graph does nothing. Of several processes the first
 * that runs one is traced: it is the one that removes the file STELE_TAP_CLAIM.
 */
#define STELE_TAP_IMPLEMENTATION
#include "tap.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#define MAX_SCHEDS 32
#define MAX_HELD 64
#define MAX_TYPES 64

/* A scheduler and the program's own callback. */
struct sched {
	void *sched, *user;
	ggml_eval_fn *theirs;
	bool asked; /* by theirs, for the node at hand */
};

/* A value that was read before it was known whether it is wanted. */
struct held {
	struct st_tap_stage stage;
	struct st_tap_dense value;
};

static struct {
	pthread_mutex_t lock;
	struct st_tap_wish wish;
	struct ggml g;
	struct sched scheds[MAX_SCHEDS];
	size_t n_scheds;
	void *running, *followed; /* schedulers: of the run at hand, of the trace */
	bool claimed, done, checked;
	struct st_tap_passes passes;
	stele_tap *bundle;

	/* the run of the graph at hand */
	int32_t *tokens, *positions, *outs;
	size_t n, n_outs;
	bool open, placed, with_outs, in_order, mask_seen;
	enum st_tap_answer answer;
	struct st_tap_rows rows;
	struct held held[MAX_HELD];
	size_t n_held;

	/* what is said of the engine */
	char backend[128], model[4096];
	bool flash, scores, scaled, rotated;
	int32_t rope_mode, heads[3];
	int kv_type;
	bool weights[MAX_TYPES];

	char left_out[256]; /* the first value that could not be kept, and why */
	size_t n_left_out;
	int64_t own, whole, begun; /* ns */
} tap = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void say(const char *format, ...)
{
	char line[1024];
	va_list args;
	va_start(args, format);
	int n = snprintf(line, sizeof line, "stele tap: ");
	vsnprintf(line + n, sizeof line - (size_t)n, format, args);
	va_end(args);
	fprintf(stderr, "%s\n", line);
}

static void forget_run(void)
{
	for (size_t i = 0; i < tap.n_held; i++)
		free(tap.held[i].value.data);
	free(tap.tokens);
	free(tap.positions);
	free(tap.outs);
	tap.tokens = tap.positions = tap.outs = NULL;
	tap.n = tap.n_outs = tap.n_held = 0;
	tap.open = tap.placed = tap.with_outs = false;
	tap.in_order = tap.mask_seen = false;
}

/* The tap ends; the engine goes on. */
static void stop(const char *why)
{
	if (why)
		say("%s: %s; no trace was written", tap.wish.out, why);
	stele_tap_abort(tap.bundle);
	tap.bundle = NULL;
	tap.done = true;
	forget_run();
}

static void leave_out(const struct st_tap_stage *s, const char *why)
{
	if (tap.n_left_out++ == 0)
		snprintf(tap.left_out, sizeof tap.left_out, s->layer >= 0 ? "%s of layer %d %s" : "%s%.0d %s", s->name, s->layer < 0 ? 0 : s->layer,
		         why);
}

/* ---- provenance ---- */

/* What the CPU rounds activations to before a product with weights of a type; by the type's name. */
static const char *partner(const char *type)
{
	static const char *const table[][2] = { { "f16", "f16" },   { "bf16", "bf16" },   { "q4_0", "q8_0" }, { "q5_0", "q8_0" },
		                                { "q8_0", "q8_0" }, { "iq4_nl", "q8_0" }, { "mxfp4", "q8_0" }, { "q4_1", "q8_1" },
		                                { "q5_1", "q8_1" } };
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (strcmp(table[i][0], type) == 0)
			return table[i][1];
	return strchr(type, 'K') || strncmp(type, "iq", 2) == 0 ? "q8_k" : NULL;
}

/* The file that an address is a map of. */
static void file_of(const void *p, char *path, size_t size)
{
	char line[4608];
	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof line, f)) {
		unsigned long from, to;
		int at = 0;
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) == 2 && (uintptr_t)p >= from && (uintptr_t)p < to && line[at] == '/') {
			line[strcspn(line, "\n")] = 0;
			snprintf(path, size, "%s", line + at);
		}
	}
	if (f)
		fclose(f);
}

/* STELE_TAP_MODELS: lines "path<tab>sha256" of the GGUF files that the command line names. */
static void name_model(void)
{
	const char *list = getenv("STELE_TAP_MODELS"), *only = list && strchr(list, '\n') == strrchr(list, '\n') ? list : NULL;
	char path[4096], sum[65];
	for (const char *p = list; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : "") {
		if (sscanf(p, "%4095[^\t]\t%64[0-9a-f]", path, sum) < 1 || (tap.model[0] && strcmp(path, tap.model)) || (!tap.model[0] && !only))
			continue;
		snprintf(tap.model, sizeof tap.model, "%s", path);
		if (sscanf(p, "%4095[^\t]\t%64[0-9a-f]", path, sum) == 2)
			stele_tap_meta(tap.bundle, "model_sha256", sum);
		break;
	}
	const char *slash = strrchr(tap.model, '/');
	if (tap.model[0])
		stele_tap_meta(tap.bundle, "model", slash ? slash + 1 : tap.model);
}

static void add_word(char *list, size_t size, const char *word)
{
	size_t n = strlen(list), len = strlen(word);
	for (const char *p = list; (p = strstr(p, word)); p += len)
		if ((p == list || p[-1] == ',') && (p[len] == ',' || !p[len]))
			return;
	snprintf(list + n, size - n, "%s%s", n ? "," : "", word);
}

static void describe(void)
{
	char text[256], weights[256] = "", activations[128] = "";
	snprintf(text, sizeof text, "llama.cpp, ggml %s", tap.g.version ? tap.g.version() : "of unknown version");
	stele_tap_meta(tap.bundle, "engine", text);
	stele_tap_meta(tap.bundle, "backend", tap.backend);
	stele_tap_meta(tap.bundle, "tool", "stele tap");
	if (tap.rotated) {
		stele_tap_meta(tap.bundle, "rope_layout", tap.rope_mode & 2 ? "half" : "interleaved");
		snprintf(text, sizeof text, "[%d, %d, %d]", tap.heads[0], tap.heads[1], tap.heads[2]);
		if (tap.heads[0] && tap.heads[1])
			stele_tap_meta(tap.bundle, "heads", text);
	}
	if (tap.kv_type >= 0) {
		stele_tap_meta(tap.bundle, "kv_cache", tap.g.type_name(tap.kv_type));
		stele_tap_meta(tap.bundle, "flash_attention", tap.flash ? "on" : "off");
	}
	if (tap.scores)
		stele_tap_meta(tap.bundle, "attn_scores.form", tap.scaled ? "scaled" : "raw");
	for (int i = 0; i < MAX_TYPES; i++)
		if (tap.weights[i]) {
			const char *name = tap.g.type_name(i);
			add_word(weights, sizeof weights, name);
			if (partner(name))
				add_word(activations, sizeof activations, partner(name));
		}
	stele_tap_meta(tap.bundle, "weights", weights);
	/* Only the CPU is known to round so. */
	if (activations[0] && strncmp(tap.backend, "CPU", 3) == 0 && !strchr(tap.backend, ','))
		stele_tap_meta(tap.bundle, "activations", activations);
	if (tap.wish.all)
		stele_tap_meta(tap.bundle, "fusion", "off");
	name_model();
}

static void finish(void)
{
	char why[512];
	if (tap.begun)
		tap.whole += now() - tap.begun;
	tap.begun = 0;
	describe();
	stele_tap *b = tap.bundle;
	size_t values = b->n_entries - (size_t)tap.passes.step; /* without the tokens of steps */
	tap.bundle = NULL;
	if (stele_tap_close(b, why, sizeof why)) {
		say("%s; no trace was written", why);
	} else {
		if (tap.n_left_out)
			say("%zu values were left out: %s", tap.n_left_out, tap.left_out);
		say("%s: %zu tokens and %d steps, %zu values; the tap took %.1f ms of %.1f ms", tap.wish.out, tap.passes.n_prompt,
		    tap.passes.step, values, (double)tap.own / 1e6,
		    (double)(tap.whole > tap.own ? tap.whole : tap.own) / 1e6);
	}
	tap.done = true;
	forget_run();
}

/* ---- values ---- */

static bool in_list(const char *list, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = list; (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

static bool is_wished(const struct st_tap_stage *s)
{
	return s->name && (!tap.wish.stages || in_list(tap.wish.stages, s->name))
	    && (s->layer < 0 || tap.wish.end == 0 || (s->layer >= tap.wish.first && s->layer < tap.wish.end));
}

/* Rows of the trace out of a value of the whole run. */
static void put(const struct st_tap_stage *s, const struct st_tap_dense *d)
{
	const int64_t *ne = d->ne;
	size_t T = tap.n, rows = (size_t)ne[1], columns = (size_t)ne[0];
	stele_tap_value v = { .stage = s->name, .layer = s->layer, .step = tap.rows.step, .type = d->type };
	if (rows == 0 || columns == 0 || ne[2] == 0)
		return; /* a pass without outputs */
	if (s->axis == SCORES) {
		if (ne[3] != 1 || !tap.in_order)
			return leave_out(s, "has its columns in another order than positions have");
		if (tap.rows.position && !tap.rows.step) {
			/* Rows of two pieces see different numbers of positions: what the first one put is taken back. */
			stele_tap_drop(tap.bundle, s->name, s->layer, 0);
			return leave_out(s, "has rows in several pieces of the prompt, which are not joined");
		}
		if (rows != T || columns < (size_t)tap.passes.next)
			return leave_out(s, "has other rows or columns than the run has tokens");
		v.heads = (int)ne[2];
		v.row_step = columns * d->size;
		v.head_step = rows * v.row_step;
		columns = (size_t)tap.passes.next; /* what lies beyond is room of the cache */
	} else if ((s->axis == DEEP && (size_t)ne[2] == T) || ((size_t)ne[2] == T && T > 1)) {
		rows = T;
		columns *= (size_t)ne[1];
	} else if (ne[2] != 1) {
		return leave_out(s, "has other rows than the run has tokens");
	}
	if (ne[3] != 1)
		return leave_out(s, "has an axis of sequences");
	int32_t *positions = malloc((tap.rows.n + 1) * sizeof *positions);
	size_t n = 0;
	const char *from = d->data;
	size_t row = v.row_step ? v.row_step : columns * d->size;
	if (!positions)
		return leave_out(s, "does not fit into memory");
	if (rows != T && !(tap.with_outs && rows == tap.n_outs)) {
		free(positions);
		return leave_out(s, "has rows of which nothing says whose they are");
	}
	v.columns = columns;
	if (rows == T) {
		for (n = 0; n < tap.rows.n; n++)
			positions[n] = tap.rows.position + (int32_t)n;
		v.data = from + tap.rows.first * row;
		v.rows = n;
		v.positions = positions;
		stele_tap_put(tap.bundle, &v);
	} else {
		for (size_t i = 0; i < tap.n_outs; i++) {
			size_t at = (size_t)tap.outs[i];
			int32_t position = tap.rows.position + (int32_t)(at - tap.rows.first);
			if (at < tap.rows.first || at >= tap.rows.first + tap.rows.n)
				continue;
			v.data = from + i * row;
			v.rows = 1;
			v.positions = &position;
			stele_tap_put(tap.bundle, &v);
			n++;
		}
	}
	free(positions);
	tap.scores |= s->axis == SCORES;
	if (stele_tap_error(tap.bundle)) {
		say("%s; the tap has ended, the engine goes on", stele_tap_error(tap.bundle));
		stop(NULL);
	}
}

static void take(const struct st_tap_stage *s, const struct ggml_tensor *t)
{
	struct held *h = tap.held;
	struct st_tap_dense d;
	const char *why = st_tap_read(&tap.g, t, &d);
	if (why)
		return leave_out(s, why);
	if (tap.placed) {
		put(s, &d);
		free(d.data);
		return;
	}
	/* A stage that comes twice is what came last: embeddings before and after their scale. */
	while (h < tap.held + tap.n_held && (strcmp(h->stage.name, s->name) || h->stage.layer != s->layer))
		h++;
	if (h == tap.held + MAX_HELD) {
		free(d.data);
		return leave_out(s, "came before it was known where its tokens stand");
	}
	if (h < tap.held + tap.n_held)
		free(h->value.data);
	else
		tap.n_held++;
	*h = (struct held){ *s, d };
}

/* ---- runs of the graph ---- */

static void begin_run(const struct ggml_tensor *t, const struct sched *s)
{
	if (tap.running != s->sched && tap.g.n_backends && tap.g.backend && tap.g.backend_name) {
		tap.backend[0] = 0;
		for (int i = 0; i < tap.g.n_backends(s->sched); i++)
			add_word(tap.backend, sizeof tap.backend, tap.g.backend_name(tap.g.backend(s->sched, i)));
	}
	tap.running = s->sched;
	if (tap.begun)
		tap.whole += now() - tap.begun;
	tap.begun = 0;
	forget_run();
	tap.tokens = st_tap_ints(&tap.g, t->src[1], &tap.n);
	tap.open = tap.tokens != NULL;
	if (tap.open && !tap.model[0] && t->src[0])
		file_of(t->src[0]->data, tap.model, sizeof tap.model);
	tap.begun = now();
}

/* The positions of the run are known: is it the trace's? */
static void place(int32_t *positions)
{
	tap.positions = positions;
	tap.placed = true;
	tap.answer = st_tap_pass(&tap.passes, tap.tokens, positions, tap.n, &tap.rows);
	if (tap.answer == ST_TAP_END) {
		finish();
		return;
	}
	if (tap.bundle && (tap.answer == ST_TAP_BEGIN || !tap.passes.following)) {
		stele_tap_abort(tap.bundle);
		tap.bundle = NULL;
		tap.followed = NULL;
		tap.n_left_out = 0;
		tap.own = tap.whole = 0;
	}
	if (tap.answer == ST_TAP_IGNORE) {
		forget_run();
		return;
	}
	if (tap.answer == ST_TAP_BEGIN && !(tap.bundle = stele_tap_open(tap.wish.out))) {
		stop(strerror(errno));
		return;
	}
	tap.followed = tap.running;
	if (tap.rows.step)
		stele_tap_step(tap.bundle, tap.rows.step, tap.tokens[tap.rows.first]);
	else
		stele_tap_tokens(tap.bundle, tap.tokens + tap.rows.first, tap.rows.n);
	tap.passes.answered = true; /* unless rows with outputs are named, and the last one is not among them */
	for (size_t i = 0; i < tap.n_held && tap.bundle; i++)
		put(&tap.held[i].stage, &tap.held[i].value);
	for (size_t i = 0; i < tap.n_held; i++)
		free(tap.held[i].value.data);
	tap.n_held = 0;
}

/* Positions of a rotation: one for each token, or equal ones in several blocks. */
static void place_by(const struct ggml_tensor *ids)
{
	size_t n;
	int32_t *positions = st_tap_ints(&tap.g, ids, &n);
	if (!positions || n < tap.n || n % tap.n) {
		free(positions);
		return;
	}
	for (size_t i = tap.n; i < n && i < 3 * tap.n; i++)
		if (positions[i] != positions[i % tap.n]) {
			free(positions);
			stop("tokens have positions in several dimensions");
			return;
		}
	place(positions);
}

/* A model without positions: runs follow each other. */
static void place_next(void)
{
	int32_t *positions = malloc(tap.n * sizeof *positions);
	for (size_t i = 0; positions && i < tap.n; i++)
		positions[i] = (tap.passes.following ? tap.passes.next : 0) + (int32_t)i;
	if (positions)
		place(positions);
	else
		stop("out of memory");
}

/* A row of the same sequence sees what the row before it sees, but for one cell where there is a window. Positions alone cannot
 * tell two sequences that stand side by side. */
static void check_sequence(const struct ggml_tensor *mask)
{
	struct st_tap_dense d;
	if (!mask || st_tap_read(&tap.g, mask, &d))
		return;
	size_t columns = (size_t)d.ne[0], bad = 0;
	const unsigned char *p = d.data;
	for (size_t r = tap.rows.first + 1; r < tap.rows.first + tap.rows.n && (int64_t)r < d.ne[1] && d.ne[3] == 1; r++) {
		size_t more = 0, less = 0;
		for (size_t c = 0; c < columns; c++) {
			static const unsigned char zero[4];
			bool now_seen = !memcmp(p + (r * columns + c) * d.size, zero, d.size),
			     before = !memcmp(p + ((r - 1) * columns + c) * d.size, zero, d.size);
			more += now_seen && !before;
			less += before && !now_seen;
		}
		bad += less > 1 || (less == 1 && more > 1);
	}
	free(d.data);
	if (bad)
		stop("rows of several sequences, which positions do not tell apart; run one sequence");
}

/* Cells of the cache that keys are written to. */
static void check_cells(const struct ggml_tensor *t)
{
	size_t n;
	int32_t *cells;
	if (!t->src[1] || !strstr(t->src[1]->name, "k_idxs") || !(cells = st_tap_ints(&tap.g, t->src[1], &n)))
		return;
	tap.in_order = n == tap.n;
	for (size_t i = 0; i < tap.rows.n && tap.in_order; i++)
		tap.in_order = cells[tap.rows.first + i] == tap.rows.position + (int32_t)i;
	free(cells);
}

/* ---- the callback ---- */

/* Inputs of the graph are there before it runs, so that they are read when a node is asked for. */
static void look(const struct ggml_tensor *t, const char *op)
{
	const struct ggml_tensor *a = t->src[0], *b = t->src[1];
	if (strcmp(op, "GET_ROWS") == 0 && a && b) {
		if (tap.open && !tap.placed && strcmp(a->name, "position_embd.weight") == 0)
			place_by(b);
		else if (tap.open && !tap.with_outs && strstr(b->name, "out_ids") && (tap.outs = st_tap_ints(&tap.g, b, &tap.n_outs))) {
			tap.with_outs = true;
			tap.passes.answered = false;
			for (size_t i = 0; i < tap.n_outs; i++)
				tap.passes.answered |= (size_t)tap.outs[i] == tap.rows.first + tap.rows.n - 1;
		}
	}
	if (!tap.open)
		return;
	if (strcmp(op, "ROPE") == 0 && b && (strncmp(t->name, "Qcur", 4) == 0 || strncmp(t->name, "Kcur", 4) == 0)) {
		if (!tap.placed)
			place_by(b);
		tap.rotated = true;
		tap.rope_mode = t->op_params[2];
		tap.heads[t->name[0] == 'K'] = (int32_t)t->ne[1];
		tap.heads[2] = (int32_t)t->ne[0];
	}
	const char *dash = strrchr(t->name, '-');
	if (tap.open && !tap.placed && ((dash && strtol(dash + 1, NULL, 10) > 0) || strncmp(t->name, "result_", 7) == 0))
		place_next();
	if (!tap.open || !tap.placed)
		return;
	bool softmax = strcmp(op, "SOFT_MAX") == 0, flash = strcmp(op, "FLASH_ATTN_EXT") == 0;
	if (strcmp(op, "SET_ROWS") == 0)
		check_cells(t);
	if (strcmp(op, "MUL_MAT") == 0 && a && strncmp(t->name, "kq-", 3) == 0) {
		tap.kv_type = a->type;
	} else if (strncmp(op, "MUL_MAT", 7) == 0 && a && a->type >= 0 && a->type < MAX_TYPES && strstr(a->name, ".weight")) {
		tap.weights[a->type] = true;
	}
	if (flash && b) {
		tap.flash = true;
		tap.kv_type = b->type;
	}
	if (softmax && strncmp(t->name, "kq_soft_max", 11) == 0) {
		float scale; /* 1: Q was multiplied by the scale before (Gemma, Phi-3) */
		memcpy(&scale, &t->op_params[0], sizeof scale);
		tap.scaled = scale == 1.0f;
	}
	if ((softmax || flash) && tap.rows.n > 1 && !tap.mask_seen) {
		tap.mask_seen = true;
		check_sequence(softmax ? b : t->src[3]);
	}
}

static bool is_end(const struct ggml_tensor *t)
{
	return tap.placed && strcmp(t->name, "result_output") == 0 && tap.passes.answered && tap.passes.step == tap.wish.steps;
}

/* ask: whether the tap wants the node. Else it is there. */
static bool node(struct ggml_tensor *t, bool ask, const struct sched *by)
{
	if (tap.done || (tap.followed && tap.followed != by->sched))
		return false;
	if (!tap.checked) {
		if (!st_tap_layout_is_known(&tap.g, t)) {
			char why[160];
			snprintf(why, sizeof why, "ggml %.60s lays its tensors out otherwise than the tap knows", tap.g.version ? tap.g.version() : "(unknown)");
			stop(why);
			return false;
		}
		tap.checked = true;
	}
	const char *op = tap.g.op_desc(t);
	if (ask && strcmp(op, "GET_ROWS") == 0 && t->src[0] && t->src[1] && strcmp(t->src[0]->name, "token_embd.weight") == 0)
		begin_run(t, by);
	if (tap.running != by->sched)
		return false;
	if (ask)
		look(t, op);
	if (!tap.open || tap.done)
		return false;
	struct st_tap_stage s = st_tap_stage_of(&tap.g, t, op);
	bool output = s.name && strcmp(s.name, "attn_out") == 0;
	struct st_tap_stage before = { "attention", ROWS, s.layer };
	bool wanted = is_wished(&s) || (output && is_wished(&before)) || tap.wish.all || is_end(t);
	if (ask || !wanted)
		return wanted;
	/* What the product reads is in the right basis also where the engine keeps its cache in another. */
	if (output && t->src[1] && is_wished(&before))
		take(&before, t->src[1]);
	if (!tap.done && is_wished(&s))
		take(&s, t);
	if (!tap.done && is_end(t))
		finish();
	return true;
}

static bool on_node(struct ggml_tensor *t, bool ask, void *user)
{
	struct sched *s = user;
	int64_t start = now();
	pthread_mutex_lock(&tap.lock);
	bool mine = node(t, ask, s);
	tap.own += now() - start;
	pthread_mutex_unlock(&tap.lock);
	if (ask) {
		s->asked = s->theirs && s->theirs(t, true, s->user);
		return mine || s->asked;
	}
	return s->asked ? s->theirs(t, false, s->user) : true;
}

/* ---- taking ggml's place ---- */

static void *find(void *caller, const char *name)
{
	/* Libraries that were loaded for themselves (Python) are not behind this one: what called is asked, and what it is linked with. */
	void *p = dlsym(RTLD_NEXT, name);
	Dl_info info;
	if (!p && !tap.g.handle && dladdr(caller, &info) && info.dli_fname)
		tap.g.handle = dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_LAZY);
	return p ? p : tap.g.handle ? dlsym(tap.g.handle, name) : NULL;
}

static bool resolve(void *caller)
{
	struct {
		const char *name;
		void *to;
		bool needed;
	} names[] = { { "ggml_backend_sched_set_eval_callback", &tap.g.set_eval_callback, true },
		      { "ggml_get_name", &tap.g.get_name, true },
		      { "ggml_op_desc", &tap.g.op_desc, true },
		      { "ggml_nbytes", &tap.g.nbytes, true },
		      { "ggml_type_name", &tap.g.type_name, true },
		      { "ggml_type_size", &tap.g.type_size, true },
		      { "ggml_blck_size", &tap.g.blck_size, true },
		      { "ggml_backend_tensor_get", &tap.g.tensor_get, true },
		      { "ggml_backend_sched_get_n_backends", &tap.g.n_backends, false },
		      { "ggml_backend_sched_get_backend", &tap.g.backend, false },
		      { "ggml_backend_name", &tap.g.backend_name, false },
		      { "ggml_version", &tap.g.version, false } };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		void *p = find(caller, names[i].name);
		memcpy(names[i].to, &p, sizeof p);
		if (!p && names[i].needed) {
			if (tap.wish.out && tap.claimed)
				say("%s: this ggml has no %s; no trace was written", tap.wish.out, names[i].name);
			return false;
		}
	}
	if (!tap.g.handle)
		tap.g.handle = RTLD_NEXT;
	return true;
}

static int number(const char *name, int otherwise)
{
	const char *s = getenv(name);
	return s && *s ? (int)strtol(s, NULL, 10) : otherwise;
}

/* stele has checked what stands there. */
static void read_wish(void)
{
	const char *pass = getenv("STELE_TAP_PASS"), *layers = getenv("STELE_TAP_LAYERS"), *claim = getenv("STELE_TAP_CLAIM");
	struct st_tap_wish *w = &tap.wish;
	w->out = getenv("STELE_TAP_OUT");
	w->stages = getenv("STELE_TAP_STAGES");
	w->steps = number("STELE_TAP_STEPS", 0);
	w->all = number("STELE_TAP_ALL", 0) != 0;
	w->prompt = -1;
	if (layers)
		sscanf(layers, "%d..%d", &w->first, &w->end);
	if (pass && !strchr(pass, ','))
		w->prompt = (int)strtol(pass, NULL, 10);
	for (const char *p = pass && strchr(pass, ',') ? pass : NULL; p && *p;) {
		char *end;
		int32_t *more = realloc(w->tokens, (w->n_tokens + 1) * sizeof *more);
		if (!more)
			break;
		w->tokens = more;
		w->tokens[w->n_tokens++] = (int32_t)strtol(p, &end, 10);
		p = *end == ',' ? end + 1 : "";
	}
	tap.passes.wish = w;
	tap.kv_type = -1;
	tap.claimed = w->out && claim && unlink(claim) == 0;
	tap.done = !tap.claimed;
}

__attribute__((visibility("default"))) void ggml_backend_sched_set_eval_callback(void *sched, ggml_eval_fn *theirs, void *user);

void ggml_backend_sched_set_eval_callback(void *sched, ggml_eval_fn *theirs, void *user)
{
	static bool begun, resolved;
	struct sched *s = tap.scheds;
	pthread_mutex_lock(&tap.lock);
	if (!begun) {
		begun = true;
		read_wish();
		resolved = resolve(__builtin_return_address(0));
	}
	if (resolved) {
		while (s < tap.scheds + tap.n_scheds && s->sched != sched)
			s++;
		if (s < tap.scheds + MAX_SCHEDS && !tap.done) {
			*s = (struct sched){ .sched = sched, .user = user, .theirs = theirs };
			tap.n_scheds += s == tap.scheds + tap.n_scheds;
			tap.g.set_eval_callback(sched, on_node, s);
		} else {
			tap.g.set_eval_callback(sched, theirs, user);
		}
	}
	pthread_mutex_unlock(&tap.lock);
}

__attribute__((destructor)) static void end(void)
{
	pthread_mutex_lock(&tap.lock);
	if (tap.claimed && !tap.done) {
		if (tap.bundle)
			finish();
		else if (tap.passes.skipped && !tap.passes.prompts)
			say("%s: no prompt began at position 0 (%d began later, on a cache that was filled before); no trace was written", tap.wish.out,
			    tap.passes.skipped);
		else
			say("%s: %d prompts came, none was the one asked for; no trace was written", tap.wish.out, tap.passes.prompts);
	}
	pthread_mutex_unlock(&tap.lock);
}
