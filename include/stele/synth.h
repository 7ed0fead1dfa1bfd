/*
 * stele/synth.h - models that nobody trained: real files with realistic statistics, for
 * demonstrations, tests and measurements; with one known fault in them where that is asked for.
 */
#ifndef STELE_SYNTH_H
#define STELE_SYNTH_H

#include <stele/status.h>

struct st_synth_options {
	const char *arch;   /* a family, as st_family_name() has it; may be NULL with `config` */
	const char *preset; /* one of st_synth_presets(); or */
	const char *config; /* path of a Hugging Face config.json */
	const char *type;   /* a stored type that Stele writes, or "Q4_K_M"; NULL: F32 */
	uint64_t seed;      /* one seed, one model: the same numbers in every container and, before rounding, type */
	const char *format; /* "gguf", "apr", "safetensors", "hf"; NULL: by the path's suffix, without one "hf" */
	uint32_t shards;    /* GGUF, safetensors and folders: files to spread the tensors over; 0 and 1: one file */
	const char *plant;  /* "CODE" or "CODE:LAYER": write this fault (docs/synth.md); NULL: a sound model */
	int threads;        /* 0: all; the bytes do not depend on it */
	bool replace;       /* an existing folder, or differing documents beside a .safetensors file, are replaced */
	struct st_hooks hooks;
};

/* What was written. */
struct st_synth_result {
	char path[512]; /* the file (the first of several), or the folder */
	char arch[32], type[16];
	uint32_t layers;
	uint64_t n_tensors, n_params, n_bytes; /* bytes: of the tensors */
	uint64_t n_fallbacks;                  /* tensors whose rows do not divide into the type's blocks */
	char fallback[160];                    /* "Q8_0 instead of Q4_K, the first is NAME: ...", or empty */
	char planted[256]; /* "weight.transposed in model.layers.1.self_attn.o_proj.weight", or empty */
};

/* Written whole or not at all; the files of a set of shards outside a folder one by one. */
ST_MUST_CHECK enum st_status st_synth_write(const char *path, const struct st_synth_options *o,
                                            struct st_synth_result *out, struct st_error *err);

/* Comma-separated names. */
const char *st_synth_presets(void);

/* The faults that can be planted: what --plant takes (a code, "CODE/WHICH" of others that have one code) and what it does; NULL
 * behind the last. */
const char *st_synth_plant_code(size_t i);
const char *st_synth_plant_text(size_t i);

#endif
