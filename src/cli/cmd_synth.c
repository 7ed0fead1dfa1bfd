/* stele synth - write a model that nobody trained. */
#include "cli/cli.h"

#include <stele/synth.h>

#include <ctype.h>
#include <inttypes.h>

struct opts {
	const char *arch, *preset, *config, *type, *out, *format, *plant;
	uint64_t seed;
	uint32_t shards, threads;
	bool force, quiet;
};

static void print(const struct opts *o, const struct st_synth_result *r)
{
	struct st_text t = { 0 };
	st_text_printf(&t,
	               "%s: %s, %" PRIu32 " layers, %" PRIu64 " tensors, %.4g M parameters, %s, %.4g MB, seed %" PRIu64
	               "\n",
	               r->path, r->arch, r->layers, r->n_tensors, (double)r->n_params * 1e-6, r->type,
	               (double)r->n_bytes * 1e-6, o->seed);
	if (r->n_fallbacks)
		st_text_printf(&t, "%" PRIu64 " tensors are stored as %s\n", r->n_fallbacks, r->fallback);
	if (r->planted[0])
		st_text_printf(&t, "planted %s\n", r->planted);
	cli_print_text(&t);
	st_text_release(&t);
}

static int run(struct cli *c, void *p)
{
	const struct opts *o = p;
	struct st_error err = ST_ERROR_INIT;
	struct st_synth_result r;
	/* Names of families are written small; choices may be typed as one likes. */
	char arch[64];
	size_t n = 0;
	for (; o->arch && o->arch[n] && n + 1 < sizeof arch; n++)
		arch[n] = (char)tolower((unsigned char)o->arch[n]);
	arch[n] = '\0';
	struct st_synth_options s = { .arch = o->arch ? arch : NULL,
		                      .preset = o->preset,
		                      .config = o->config,
		                      .type = o->type,
		                      .seed = o->seed,
		                      .format = o->format,
		                      .shards = o->shards,
		                      .plant = o->plant,
		                      .threads = cli_threads(o->threads),
		                      .replace = o->force,
		                      .hooks = cli_hooks(c) };
	c->undone = "the model was not written";
	if (st_synth_write(o->out, &s, &r, &err) != ST_OK)
		return cli_fail(c, &err);
	print(o, &r);
	return CLI_SAME;
}

static const struct opts defaults = { .seed = 1 };

static const struct cli_param options[] = {
	{ "arch", 0, "A", "the model family, as stele family list names it", CLI_STR(struct opts, arch) },
	{ "preset", 0, "NAME", "the sizes of a known model",
	  CLI_CHOICE(struct opts, preset, "tiny|qwen2-7b|qwen3-0.6b|llama-1b"), .flags = CLI_REQUIRED, .group = 1 },
	{ "config", 0, "JSON", "the sizes of a Hugging Face config.json", CLI_PATH(struct opts, config),
	  .flags = CLI_REQUIRED, .group = 1 },
	{ "type", 0, "T", "how matrices are stored, for example BF16, Q8_0, Q4_K, Q4_K_M (default: F32)",
	  CLI_STR(struct opts, type) },
	{ "seed", 0, "N", "which model (default: 1)", CLI_U64(struct opts, seed) },
	{ "output", 'o', "FILE", "the file, or folder, to write", CLI_PATH(struct opts, out), .flags = CLI_REQUIRED },
	{ "format", 0, "F", "the container (default: as the suffix of FILE says; without one hf, a folder)",
	  CLI_CHOICE(struct opts, format, "gguf|apr|safetensors|hf") },
	{ "shards", 0, "N", "spread the tensors over N files", CLI_U32(struct opts, shards) },
	{ "plant", 0, "CODE[/WHICH][:LAYER]", "write this fault into the model", CLI_STR(struct opts, plant) },
	{ "force", 0, NULL, "replace an existing file or folder, and the documents beside a .safetensors file",
	  CLI_BOOL(struct opts, force) },
	CLI_OPTION_THREADS(struct opts),
	CLI_OPTION_QUIET(struct opts),
	{ 0 }
};

const struct cli_command cmd_synth = {
	.name = "synth",
	.summary = "write a synthetic model, sound or with a known fault",
	.description = "Writes a model of made-up numbers with the statistics of trained ones, a small real byte-level "
		       "vocabulary and everything "
		       "else that makes a file a model. One seed is one model: its numbers are the same in every "
		       "container and, before they are "
		       "rounded, in every stored type.\n\n"
		       "FILE says what is written: .gguf, .apr, .safetensors (config.json and tokenizer.json go beside "
		       "it), or without a suffix a "
		       "Hugging Face folder.\n\n"
		       "--plant writes one fault of the kind that its code names (a cause as rosetta would report it), "
		       "by default in layer 1, and "
		       "prints which tensor has it. The file itself does not tell. An unknown code lists those that "
		       "fit the model, the type and "
		       "the container. docs/synth.md describes them all.",
	.examples = "$ stele synth --arch qwen2 --preset tiny --type q8_0 -o good.gguf\n"
		    "$ stele synth --arch qwen2 --preset tiny --plant weight.transposed:1 -o bad.apr\n"
		    "$ stele rosetta bad.apr good.gguf --prompt \"2+2=\"\n",
	.exit_status = "0  the model was written\n2  trouble: usage, a full disk, a fault that does not fit",
	.options = options,
	.opts_size = sizeof(struct opts),
	.defaults = &defaults,
	.run = run,
};
