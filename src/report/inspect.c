#include "arch/arch.h"
#include "report/inspect.h"

#include "arch/described.h"
#include "report/json.h"
#include "report/table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *scaling_name(enum st_rope_scaling s)
{
	static const char *const names[] = { "none", "linear", "llama3" };
	return names[s];
}

/* ---- text ---- */

/* "  key          value" */
static void field(struct st_text *out, const char *key, const char *fmt, ...) ST_PRINTF(3, 4);
static void field(struct st_text *out, const char *key, const char *fmt, ...)
{
	char value[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(value, sizeof value, fmt, ap);
	va_end(ap);
	st_text_printf(out, "  %-13s", key);
	st_text_add_safe(out, value, strlen(value));
	st_text_puts(out, "\n");
}

static void error_line(const struct st_error *e, char *buf, size_t n)
{
	struct st_error bare = *e; /* the heading has named the file already */
	bare.path[0] = '\0';
	st_error_format(&bare, buf, n);
}

/* Of a described family as its page calls it. */
static const char *scaling_of(const struct st_model *m)
{
	const struct st_described *d = st_model_described(m);
	return d ? st_described_scaling(d) : scaling_name(st_model_config(m)->rope_scaling);
}

static void model_text(const struct st_inspection *in, struct st_text *out)
{
	const struct st_model *m = st_inspection_model(in);
	char line[1400];
	if (!m) {
		if (st_inspection_model_error(in)->code == ST_OK)
			return;
		error_line(st_inspection_model_error(in), line, sizeof line);
		st_text_puts(out, "\nModel\n");
		field(out, "does not run", "%s", line);
		return;
	}
	const struct st_config *c = st_model_config(m);
	st_text_puts(out, "\nModel\n");
	field(out, "family", "%s%s%s%s", c->arch, c->name[0] ? ", named \"" : "", c->name, c->name[0] ? "\"" : "");
	field(out, "layers", "%" PRIu32, c->n_layers);
	field(out, "hidden", "%" PRIu32, c->hidden);
	field(out, "heads", "%" PRIu32 " query, %" PRIu32 " key-value, of size %" PRIu32 "%s%s", c->n_heads,
	      c->n_kv_heads, c->head_dim, c->qkv_bias ? ", QKV bias" : "", c->qk_norm ? ", QK norm" : "");
	field(out, "feed-forward", "%" PRIu32, c->ffn);
	field(out, "vocabulary", "%" PRIu32 ", head %s", c->vocab, c->tied ? "tied to the embedding" : "of its own");
	field(out, "positions", "%" PRIu32, c->max_positions);
	field(out, "norm eps", "%g", c->norm_eps);
	if (c->rope_theta != 0)
		field(out, "rope", "theta %g, scaling %s", c->rope_theta, scaling_of(m));
	if (c->rope_scaling == ST_ROPE_SCALING_LINEAR)
		field(out, "", "factor %g", c->rope_factor);
	if (c->rope_scaling == ST_ROPE_SCALING_LLAMA3)
		field(out, "", "factor %g, low %g, high %g, original positions %" PRIu32, c->rope_factor,
		      c->rope_low_freq, c->rope_high_freq, c->rope_original_positions);
	if (c->sliding_window)
		field(out, "window", "%" PRIu32 ", from layer %" PRIu32, c->sliding_window, c->window_from_layer);
	struct st_text mem = { 0 };
	st_text_bytes(&mem, st_inspection_run_memory(in));
	if (!mem.failed)
		field(out, "memory", "%s beside the mapped file, for a run of %" PRIu32 " tokens", mem.s,
		      st_inspection_run_tokens(in));
	st_text_release(&mem);
	if (st_model_n_unused(m))
		field(out, "unused", "%zu tensors that no weight of the family uses", st_model_n_unused(m));
}

static void token_list(const uint32_t *ids, size_t n, struct st_text *out)
{
	st_text_puts(out, "[");
	for (size_t i = 0; i < n; i++)
		st_text_printf(out, "%s%" PRIu32, i ? ", " : "", ids[i]);
	st_text_puts(out, "]");
}

static void trace_text(const struct st_inspection *in, struct st_text *out)
{
	const struct st_trace *t = st_inspection_trace(in);
	if (!t)
		return;
	const struct st_provenance *p = st_trace_provenance(t);
	const struct {
		const char *key, *value;
	} rows[] = {
		{ "engine", p->engine },
		{ "backend", p->backend },
		{ "mode", p->mode },
		{ "model", p->model },
		{ "model sha256", p->model_sha256 },
		{ "family", p->arch },
		{ "weights", p->weights },
		{ "rope layout", p->rope_layout },
		{ "kv cache", p->kv_cache },
		{ "flash attn", p->flash_attention },
		{ "activations", p->activations },
		{ "tool", p->tool },
		{ "prompt", p->prompt },
	};
	st_text_puts(out, "\nTrace\n");
	if (!p->known)
		field(out, "provenance", "unknown: there is no trace.json");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (rows[i].value && rows[i].value[0])
			field(out, rows[i].key, "%s", rows[i].value);
	if (p->tokens) {
		st_text_printf(out, "  %-13s", "tokens");
		token_list(p->tokens, p->n_tokens, out);
		st_text_puts(out, "\n");
	}
	field(out, "stages", "%zu values", st_trace_n_entries(t));
}

static void tokenizer_text(const struct st_inspection *in, struct st_text *out)
{
	const struct st_tokenizer *t = st_inspection_tokenizer(in);
	char line[1400];
	if (!t) {
		if (st_inspection_tokenizer_error(in)->code == ST_OK)
			return;
		error_line(st_inspection_tokenizer_error(in), line, sizeof line);
		st_text_puts(out, "\nTokenizer\n");
		field(out, "none", "%s", line);
		return;
	}
	st_text_puts(out, "\nTokenizer\n");
	field(out, "kind", "%s", st_tokenizer_describe(t));
	field(out, "ids", "%" PRIu32, st_tokenizer_vocab_size(t));
	if (st_tokenizer_bos(t) >= 0)
		field(out, "BOS", "%" PRId64 "%s", st_tokenizer_bos(t),
		      st_tokenizer_adds_bos(t) ? ", put before every text" : "");
	if (st_tokenizer_eos(t) >= 0)
		field(out, "EOS", "%" PRId64, st_tokenizer_eos(t));
}

static void tensors_text(const struct st_inspection *in, struct st_text *out, const struct st_page *page)
{
	const struct st_container *c = st_inspection_container(in);
	const struct st_tensor_stats *stats = st_inspection_stats(in);
	size_t n = st_container_n_tensors(c);
	st_text_printf(out, "\nTensors (%zu)\n", n);
	if (n == 0)
		return;
	static const char *const heads[] = {
		"name", "shape", "type", "bytes", "min", "max", "mean", "std", "NaN", "inf"
	};
	struct st_table t;
	st_table_init(&t, stats ? "llrrrrrrrr" : "llrr");
	for (size_t i = 0; i < t.n_cols; i++)
		st_table_cell(&t, ST_STYLE_DIM, heads[i]);
	for (size_t i = 0; i < n; i++) {
		const struct st_tensor *x = st_container_tensor(c, i);
		struct st_text shape = { 0 };
		st_text_shape(&shape, x->shape, x->ndim);
		st_table_cell(&t, ST_STYLE_PLAIN, x->name);
		st_table_cell(&t, ST_STYLE_PLAIN, shape.s);
		st_table_cell(&t, ST_STYLE_PLAIN, st_dtype_info(x->dtype)->name);
		st_table_cellf(&t, ST_STYLE_PLAIN, "%" PRIu64, x->n_bytes);
		st_text_release(&shape);
		if (!stats)
			continue;
		const struct st_tensor_stats *s = &stats[i];
		st_table_number(&t, s->min, 4);
		st_table_number(&t, s->max, 4);
		st_table_number(&t, s->mean, 3);
		st_table_number(&t, s->std, 4);
		st_table_cellf(&t, s->n_nan ? ST_STYLE_BAD : ST_STYLE_PLAIN, "%" PRIu64, s->n_nan);
		st_table_cellf(&t, s->n_inf ? ST_STYLE_BAD : ST_STYLE_PLAIN, "%" PRIu64, s->n_inf);
	}
	st_table_render(&t, out, "  ", page);
	st_table_release(&t);
}

/* "Q4_K 3.9 GB, Q6_K 0.4 GB": largest first. */
static void types_text(const struct st_container *c, struct st_text *out)
{
	uint64_t bytes[ST_DTYPE_COUNT] = { 0 };
	for (size_t i = 0; i < st_container_n_tensors(c); i++)
		bytes[st_container_tensor(c, i)->dtype] += st_container_tensor(c, i)->n_bytes;
	for (bool first = true;; first = false) {
		int top = 0;
		for (int d = 1; d < ST_DTYPE_COUNT; d++)
			if (bytes[d] > bytes[top])
				top = d;
		if (bytes[top] == 0)
			return;
		st_text_printf(out, "%s%s ", first ? "" : ", ", st_dtype_info((enum st_dtype)top)->name);
		st_text_bytes(out, bytes[top]);
		bytes[top] = 0;
	}
}

/* Sentences are wrapped, tables lay themselves out. */
static void put_part(struct st_text *part, const char *margin, const struct st_page *page, struct st_text *out)
{
	st_text_wrap(out, part->s ? part->s : "", part->len, margin, page->wrap);
	out->failed |= part->failed;
	st_text_release(part);
}

void st_report_inspection(const struct st_inspection *in, struct st_text *out, const struct st_page *page)
{
	static const char margin[] = "               "; /* behind the names of facts */
	const struct st_container *c = st_inspection_container(in);
	struct st_text part = { 0 };
	uint64_t size = 0;
	for (size_t i = 0; i < st_container_n_files(c); i++)
		size += st_container_file_size(c, i);
	st_text_add_safe(&part, st_container_path(c), strlen(st_container_path(c)));
	st_text_printf(&part, "\n  %-13s%s\n  %-13s", "container", st_container_describe(c), "size");
	st_text_bytes(&part, size);
	if (st_container_n_files(c) > 1)
		st_text_printf(&part, " in %zu files", st_container_n_files(c));
	st_text_printf(&part, "\n  %-13s", "stored as");
	types_text(c, &part);
	st_text_puts(&part, "\n");
	model_text(in, &part);
	trace_text(in, &part);
	tokenizer_text(in, &part);
	put_part(&part, margin, page, out);
	tensors_text(in, out, page);
	size_t n = st_inspection_n_anomalies(in);
	st_text_printf(&part, "\nAnomalies (%zu)\n", n);
	for (size_t i = 0; i < n; i++) {
		const struct st_anomaly *a = st_inspection_anomaly(in, i);
		enum st_style style = a->severity == ST_FAULT ? ST_STYLE_BAD : ST_STYLE_WARN;
		st_text_printf(&part, "  %s%s%s %s: ", st_style_on(style, page->colour),
		               a->severity == ST_FAULT ? "fault" : "note ", st_style_off(style, page->colour), a->kind);
		if (a->tensor) {
			st_text_add_safe(&part, a->tensor, strlen(a->tensor));
			st_text_puts(&part, ": ");
		}
		st_text_add_safe(&part, a->text, strlen(a->text));
		st_text_puts(&part, "\n");
	}
	put_part(&part, margin, page, out);
}

/* ---- JSON ---- */

static json_t *config_json(const struct st_model *m)
{
	const struct st_config *c = st_model_config(m);
	return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:o, s:o, s:o, s:I, s:I, "
	                 "s:I, s:b, s:b, s:b, s:o, s:o}",
	                 "arch", st_json_text(c->arch), "name", st_json_text(c->name), "n_layers",
	                 (json_int_t)c->n_layers, "hidden", (json_int_t)c->hidden, "n_heads", (json_int_t)c->n_heads,
	                 "n_kv_heads", (json_int_t)c->n_kv_heads, "head_dim", (json_int_t)c->head_dim, "ffn",
	                 (json_int_t)c->ffn, "vocab", (json_int_t)c->vocab, "max_positions",
	                 (json_int_t)c->max_positions, "norm_eps", st_json_number(c->norm_eps), "rope_theta",
	                 st_json_number(c->rope_theta), "rope_scaling", scaling_of(m), "rope_factor",
	                 c->rope_scaling ? st_json_number(c->rope_factor) : json_null(), "rope_low_freq",
	                 c->rope_scaling == ST_ROPE_SCALING_LLAMA3 ? st_json_number(c->rope_low_freq) : json_null(),
	                 "rope_high_freq",
	                 c->rope_scaling == ST_ROPE_SCALING_LLAMA3 ? st_json_number(c->rope_high_freq) : json_null(),
	                 "rope_original_positions", (json_int_t)c->rope_original_positions, "sliding_window",
	                 (json_int_t)c->sliding_window, "window_from_layer", (json_int_t)c->window_from_layer,
	                 "qkv_bias", c->qkv_bias, "qk_norm", c->qk_norm, "tied", c->tied, "bos",
	                 c->bos < 0 ? json_null() : json_integer(c->bos), "eos",
	                 c->eos < 0 ? json_null() : json_integer(c->eos));
}

static json_t *model_json(const struct st_inspection *in)
{
	const struct st_model *m = st_inspection_model(in);
	if (m)
		return json_pack("{s:o, s:{s:o, s:I}, s:I}", "config", config_json(m), "run", "memory",
		                 st_json_u64(st_inspection_run_memory(in)), "tokens",
		                 (json_int_t)st_inspection_run_tokens(in), "unused_tensors",
		                 (json_int_t)st_model_n_unused(m));
	const struct st_error *e = st_inspection_model_error(in);
	return e->code == ST_OK ? json_null() : json_pack("{s:o}", "error", st_json_error(e));
}

static json_t *tokenizer_json(const struct st_inspection *in)
{
	const struct st_tokenizer *t = st_inspection_tokenizer(in);
	if (t)
		return json_pack("{s:o, s:I, s:o, s:o, s:b}", "kind", st_json_text(st_tokenizer_describe(t)), "ids",
		                 (json_int_t)st_tokenizer_vocab_size(t), "bos",
		                 st_tokenizer_bos(t) < 0 ? json_null() : json_integer(st_tokenizer_bos(t)), "eos",
		                 st_tokenizer_eos(t) < 0 ? json_null() : json_integer(st_tokenizer_eos(t)), "adds_bos",
		                 st_tokenizer_adds_bos(t));
	const struct st_error *e = st_inspection_tokenizer_error(in);
	return e->code == ST_OK ? json_null() : json_pack("{s:o}", "error", st_json_error(e));
}

static json_t *text_or_null(const char *s) { return st_json_text(s && s[0] ? s : NULL); }

static json_t *trace_json(const struct st_inspection *in)
{
	const struct st_trace *t = st_inspection_trace(in);
	if (!t)
		return json_null();
	const struct st_provenance *p = st_trace_provenance(t);
	json_t *tokens = p->tokens ? json_array() : json_null();
	for (size_t i = 0; p->tokens && i < p->n_tokens; i++)
		json_array_append_new(tokens, json_integer(p->tokens[i]));
	return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}",
	                 "provenance_known", p->known, "engine", text_or_null(p->engine), "backend",
	                 text_or_null(p->backend), "mode", text_or_null(p->mode), "model", text_or_null(p->model),
	                 "model_sha256", text_or_null(p->model_sha256), "arch", text_or_null(p->arch), "weights",
	                 text_or_null(p->weights), "rope_layout", text_or_null(p->rope_layout), "kv_cache",
	                 text_or_null(p->kv_cache), "flash_attention", text_or_null(p->flash_attention), "activations",
	                 text_or_null(p->activations), "tool", text_or_null(p->tool), "prompt", st_json_text(p->prompt),
	                 "tokens", tokens, "values", (json_int_t)st_trace_n_entries(t));
}

static json_t *tensor_json(const struct st_tensor *t, const struct st_tensor_stats *s)
{
	json_t *j = json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:I}", "name", st_json_text(t->name), "shape",
	                      st_json_shape(t->shape, t->ndim), "file_dims", st_json_shape(t->file_dims, t->ndim),
	                      "type", st_dtype_info(t->dtype)->name, "bytes", st_json_u64(t->n_bytes), "offset",
	                      st_json_u64(t->offset), "file", (json_int_t)t->file);
	if (j && s) {
		json_t *stats = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o}", "min", st_json_number(s->min),
		                          "max", st_json_number(s->max), "mean", st_json_number(s->mean), "std",
		                          st_json_number(s->std), "nan", st_json_u64(s->n_nan), "inf",
		                          st_json_u64(s->n_inf), "constant", s->constant, "constant_rows",
		                          st_json_u64(s->constant_rows));
		if (!stats || json_object_update(j, stats) != 0) {
			json_decref(j);
			j = NULL;
		}
		json_decref(stats);
	}
	return j;
}

json_t *st_report_inspection_json(const struct st_inspection *in)
{
	const struct st_container *c = st_inspection_container(in);
	const struct st_tensor_stats *stats = st_inspection_stats(in);
	json_t *files = json_array(), *tensors = json_array(), *anomalies = json_array();
	int failed = 0;
	for (size_t i = 0; i < st_container_n_files(c); i++)
		failed |= json_array_append_new(files, json_pack("{s:o, s:o}", "path",
		                                                 st_json_text(st_container_file_path(c, i)), "bytes",
		                                                 st_json_u64(st_container_file_size(c, i))));
	for (size_t i = 0; i < st_container_n_tensors(c); i++)
		failed |= json_array_append_new(tensors,
		                                tensor_json(st_container_tensor(c, i), stats ? &stats[i] : NULL));
	for (size_t i = 0; i < st_inspection_n_anomalies(in); i++) {
		const struct st_anomaly *a = st_inspection_anomaly(in, i);
		failed |= json_array_append_new(anomalies, json_pack("{s:s, s:s, s:o, s:o}", "severity",
		                                                     a->severity == ST_FAULT ? "fault" : "note", "kind",
		                                                     a->kind, "tensor", st_json_text(a->tensor), "text",
		                                                     st_json_text(a->text)));
	}
	json_t *j = json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "path",
	                      st_json_text(st_container_path(c)), "format", st_format_name(st_container_format(c)),
	                      "container", st_json_text(st_container_describe(c)), "parts", files, "model",
	                      model_json(in), "trace", trace_json(in), "tokenizer", tokenizer_json(in), "tensors",
	                      tensors, "anomalies", anomalies);
	if (failed && j) {
		json_decref(j);
		return NULL;
	}
	return j;
}
