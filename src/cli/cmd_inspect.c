/* stele inspect - what is in a file, and what looks wrong. */
#include "cli/cli.h"

#include <stele/inspect.h>

#include "report/inspect.h"
#include "report/json.h"
#include "report/metadata.h"

#include <inttypes.h>
#include <string.h>

struct opts {
	struct cli_list files;
	const char *hexdump, *family;
	uint64_t bytes;
	uint32_t threads, tokens;
	bool metadata, json, quiet, no_stats;
};

/* "00000040  3f 80 00 00 ...  |?...|", offsets in the file. */
static void hex_line(struct st_text *t, uint64_t offset, const uint8_t *p, size_t n)
{
	st_text_printf(t, "%08" PRIx64 " ", offset);
	for (size_t i = 0; i < 16; i++) {
		if (i == 8)
			st_text_puts(t, " ");
		if (i < n)
			st_text_printf(t, " %02x", p[i]);
		else
			st_text_puts(t, "   ");
	}
	st_text_puts(t, "  |");
	for (size_t i = 0; i < n; i++)
		st_text_printf(t, "%c", p[i] >= 0x20 && p[i] < 0x7f ? p[i] : '.');
	st_text_puts(t, "|\n");
}

static int hexdump(struct cli *c, const struct opts *o)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *con;
	if (st_container_open(o->files.items[0], &con, &err) != ST_OK)
		return cli_fail(c, &err);
	const struct st_tensor *t = st_container_find(con, o->hexdump);
	int rc = CLI_SAME;
	if (!t) {
		rc = cli_usage(c, "%.200s: no tensor is called '%.200s'", o->files.items[0], o->hexdump);
	} else if (t->layout == ST_LAYOUT_STRIDED && t->n_elems > 1) {
		/* A view may start anywhere and walk backwards; its bytes are not one run. */
		rc = cli_usage(c, "%.200s: %.200s is a strided view, not one run of bytes", o->files.items[0],
		               o->hexdump);
	} else {
		uint64_t n = o->bytes && o->bytes < t->n_bytes ? o->bytes : t->n_bytes;
		struct st_text line = { 0 };
		st_text_puts(&line, "# ");
		st_text_add_safe(&line, t->name, strlen(t->name));
		st_text_puts(&line, " ");
		st_text_shape(&line, t->shape, t->ndim);
		st_text_printf(&line, " %s, %" PRIu64 " bytes at %" PRIu64 " of %s\n", st_dtype_info(t->dtype)->name,
		               t->n_bytes, t->offset, st_container_file_path(con, t->file));
		for (uint64_t i = 0; i < n && !ferror(stdout); i += 16) {
			hex_line(&line, t->offset + i, t->data + i, n - i < 16 ? (size_t)(n - i) : 16);
			cli_print_text(&line);
			line.len = 0;
		}
		if (n < t->n_bytes)
			st_text_printf(&line, "# %" PRIu64 " more bytes (--bytes 0 shows all)\n", t->n_bytes - n);
		cli_print_text(&line);
		st_text_release(&line);
	}
	st_container_close(con);
	return rc;
}

/* 0 nothing wrong, 1 a fault among the anomalies, 2 the file contradicts itself. */
static int judge(struct cli *c, const struct st_inspection *in)
{
	if (st_inspection_contradiction(in)) {
		if (!c->json)
			return cli_fail(c, st_inspection_model_error(in));
		return CLI_TROUBLE;
	}
	for (size_t i = 0; i < st_inspection_n_anomalies(in); i++)
		if (st_inspection_anomaly(in, i)->severity == ST_FAULT)
			return CLI_FAULT;
	return CLI_SAME;
}

/* What the files say of themselves. */
static int metadata(struct cli *c, const struct opts *o)
{
	json_t *files = json_array();
	int rc = CLI_SAME;
	for (size_t i = 0; i < o->files.n && rc == CLI_SAME; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_container *con;
		struct st_text t = { 0 };
		struct st_page page = cli_page(stdout);
		if (st_container_open(o->files.items[i], &con, &err) != ST_OK) {
			rc = cli_fail(c, &err);
			break;
		}
		if (c->json)
			st_json_add(files, st_report_metadata_json(con));
		else
			st_report_metadata(con, &t, &page);
		cli_print_text(&t);
		st_text_release(&t);
		st_container_close(con);
	}
	json_t *doc = st_json_object({ "schema", json_string("stele.metadata/1") }, { "files", files });
	if (c->json && rc == CLI_SAME)
		cli_print_json(doc);
	json_decref(doc);
	return rc;
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	if (o->hexdump && o->metadata)
		return cli_usage(c, "--hexdump and --metadata show different things");
	if (o->metadata)
		return metadata(c, o);
	if (o->hexdump && (o->files.n != 1 || o->json))
		return cli_usage(c, "--hexdump shows one tensor of one file, as text");
	if (o->hexdump)
		return hexdump(c, o);
	struct st_inspect_options io = { .threads = cli_threads(o->threads),
		                         .no_stats = o->no_stats,
		                         .run_tokens = o->tokens,
		                         .family = o->family,
		                         .hooks = cli_hooks(c) };
	json_t *files = json_array();
	int worst = CLI_SAME;
	c->undone = "the inspection was not finished";
	for (size_t i = 0; i < o->files.n; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_inspection *in;
		int rc;
		if (st_inspect_open(o->files.items[i], &io, &in, &err) != ST_OK) {
			/* The error of a lone file is the document; among several it takes the file's place. */
			rc = CLI_TROUBLE;
			if (!c->json || o->files.n == 1 || err.code == ST_ERR_CANCELLED)
				rc = cli_fail(c, &err);
			else
				json_array_append_new(files, st_json_error(&err));
			if (err.code == ST_ERR_CANCELLED || (c->json && o->files.n == 1)) {
				json_decref(files);
				return rc;
			}
		} else {
			if (c->json) {
				json_array_append_new(files, st_report_inspection_json(in));
			} else {
				struct st_text t = { 0 };
				struct st_page page = cli_page(stdout);
				if (i)
					st_text_puts(&t, "\n");
				st_report_inspection(in, &t, &page);
				cli_print_text(&t);
				st_text_release(&t);
				cli_flush();
			}
			rc = judge(c, in);
			st_inspection_close(in);
		}
		worst = rc > worst ? rc : worst;
	}
	if (c->json) {
		json_t *doc = json_pack("{s:s, s:O}", "schema", "stele.inspect/1", "files", files);
		cli_print_json(doc);
		json_decref(doc);
	}
	json_decref(files);
	return worst;
}

static const struct cli_param options[] = {
	CLI_OPTION_FAMILY(struct opts, "the model"),
	{ "metadata", 0, NULL, "show every key of the files as they spell it instead",
	  CLI_BOOL(struct opts, metadata) },
	{ "hexdump", 0, "TENSOR", "show the stored bytes of one tensor instead", CLI_STR(struct opts, hexdump) },
	{ "bytes", 0, "N", "how many bytes --hexdump shows (default: 256; 0: all)", CLI_U64(struct opts, bytes) },
	{ "tokens", 0, "N", "give the memory of a run of N tokens (default: 128)", CLI_U32(struct opts, tokens) },
	{ "no-stats", 0, NULL, "read headers only, not the values", CLI_BOOL(struct opts, no_stats) },
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_JSON(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

static const struct cli_param positionals[] = {
	{ "FILE", 0, NULL,
	  "a model, trace, checkpoint or array: GGUF, safetensors file, index or folder, APR, npy, npz, "
	  "PyTorch zip, APRT stage or tree",
	  CLI_LIST(struct opts, files), .flags = CLI_REQUIRED | CLI_FILES },
	{ 0 }
};

static const struct opts defaults = { .bytes = 256 };

const struct cli_command cmd_inspect = {
	.name = "inspect",
	.summary = "show what is in a file, and what looks wrong",
	.description =
		"Recognises each FILE by its content and shows the container, the hyper-parameters of the "
		"model, the provenance of a "
		"trace, the facts of the tokenizer, and a table of all tensors: shape as [out, in] (whatever "
		"order the file lists its "
		"dimensions in), stored type, bytes, and the least, greatest, mean and standard deviation of "
		"the finite values.\n\n"
		"Below stand the anomalies. A fault is wrong: weights that are not finite, a configuration that "
		"contradicts the shapes, "
		"tensors whose bytes overlap, a square matrix that lies transposed among others of its kind (told by its "
		"numbers, where these tell), members of an npz file that do not have the CRC-32 it states. A "
		"note is unusual and often "
		"harmless: tensors of zeros, rows that hold one value, bytes that belong to no tensor (which a "
		"mislabelled type leaves "
		"behind), members of a torch checkpoint that do not have their CRC-32 (torch can be told to "
		"compute none).\n\n"
		"A container that holds no model, or not a whole one, or one of a family that Stele does not "
		"know, is shown all the same "
		"with the reason. The memory is what a run would allocate beside the mapped file.",
	.examples = "stele inspect model.gguf\nstele inspect --json model.apr | jq '.files[0].anomalies'\n"
		    "stele inspect model.gguf --hexdump blk.0.attn_q.bias\nstele inspect --metadata model.gguf\n",
	.exit_status = "0  nothing wrong was found; there may be notes\n"
		       "1  a fault is among the anomalies\n"
		       "2  trouble: usage, a file that cannot be read or that contradicts itself",
	.options = options,
	.positionals = positionals,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
