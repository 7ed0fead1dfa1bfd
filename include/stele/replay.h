/*
 * stele/replay.h - run a packed KV-cache attention kernel against oracles.
 *
 * A decode-step attention kernel reads keys and values packed to a few bits per number after a
 * Hadamard rotation. One call runs it on captured or synthetic inputs, measures it against f64
 * references, and says whether an error is the quantiser's floor or a fault.
 */
#ifndef STELE_REPLAY_H
#define STELE_REPLAY_H

#include <stele/status.h>

enum st_replay_mode {
	ST_REPLAY_SINGLESTEP, /* one captured step: `manifest`, `variation`, `canary`, `oracle`, `against` */
	ST_REPLAY_MULTISTEP,  /* four synthetic positions: `seed`, `seeding` */
	ST_REPLAY_PRODUCTION, /* the production-faithful sweep with gates, null distribution and audit */
	ST_REPLAY_LINT,       /* codebooks against the optimum: `table` */
	ST_REPLAY_MAKE,       /* write a synthetic capture: `make`, `out` a folder */
	ST_REPLAY_GATE,       /* one regression gate, in this process: `gate` */
};

enum st_replay_canary { ST_CANARY_NONE, ST_CANARY_IN_RANGE, ST_CANARY_OUT_OF_RANGE, ST_CANARY_ASYMMETRIC };
enum { ST_ORACLE_DEQUANT = 1, ST_ORACLE_FLOOR = 2 };

/* Name of the i-th gate that runs before a production-faithful measurement; NULL after the last. */
const char *st_replay_gate_name(size_t i);

/* What a gate's process left behind. Filled by the caller's callback, which also ends the process when st_cancel was
 * called. */
struct st_replay_gate_result {
	int exit_code; /* of the child; -1 when it did not exit by itself */
	double duration_ms;
	char build_id[65]; /* of the program that ran, as it said itself */
	char output[4096]; /* the end of what it printed */
};

struct st_replay_options {
	enum st_replay_mode mode;
	const char *manifest; /* singlestep: the capture to read */
	const char *against;  /* singlestep: a foreign output [H, d] f32 to explain, or NULL */
	const char *out;      /* base name of what is written, or NULL for nothing */
	char variation;       /* 'A', 'B', 'C' */
	enum st_replay_canary canary;
	unsigned oracles;     /* ST_ORACLE_* bits; 0 = both where the capture has what they need */
	const char *kernel;   /* "scalar", "avx2", "avx512", "neon"; NULL = the best here */
	bool q_f16, physical; /* --q-dtype f16, --visibility physical */
	int signs;            /* -1: as the capture says (none for synthetic modes), 0 none, 1 D1 */
	unsigned bits;        /* 0: as the capture says, else 4 */
	int threads;          /* 0 = all */
	bool seed_given;
	uint64_t seed;
	bool seeding_xor;    /* multistep: the older derivation of sub-seeds */
	uint32_t null_seeds; /* production: at least 200; 0 = 200 */
	const char *session; /* production: recorded, or NULL */
	uint32_t iter;       /* production: recorded */
	const char *table;   /* lint: a file of levels, or NULL for the built-in ones */
	const char *make;    /* make: "linear", "ring", "partial", "d512", "d128"; NULL = "ring" */
	const char *gate;
	/* The identity of the running program, for gates: production refuses a gate whose process
	 * states another one. The callback runs `gate` as a child process of the same build. */
	const char *build_id;
	bool (*run_gate)(void *user, const char *gate, struct st_replay_gate_result *r);
	void *gate_user;
	struct st_hooks hooks;
};

struct st_replay_report {
	char *text;      /* one screen, ends in a newline */
	char *json;      /* one object, schema stele.replay/1 */
	int exit_status; /* 0 ok, 2 fault, falsified or vacuous, 3 a gate failed; docs/replay.md lists the verdicts of
	                    each */
};

/*
 * Everything is computed before anything is written; files appear whole or not at all. Errors name
 * the parameter, key or file. On success the caller releases *r.
 */
ST_MUST_CHECK enum st_status st_replay_run(const struct st_replay_options *o, struct st_replay_report *r,
                                           struct st_error *err);
void st_replay_report_release(struct st_replay_report *r);

#endif
