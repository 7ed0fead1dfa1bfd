/*
 * convert.h - the inside of a conversion.
 *
 * A conversion is a plan of jobs, one for each tensor of the output, made before a byte is written (jobs.c). A repair may
 * edit it (repair.c). Then it is streamed (stream.c, output.c), and asked again when the result is read back (check.c).
 * Around it are the configuration (config_*.c) and the vocabulary (vocab*.c) in each container's spelling.
 *
 * Files lower in this list call none that are higher:
 *
 *	convert.c   output.c, folder.c   repair.c, report.c   check.c   target.c
 *	jobs.c   left.c   config_*.c   vocab_*.c   vocab.c   importance.c   ranges.c
 *	stream.c   rows.c   types.c   recipes.c   fields.c   keys.c   documents.c   log.c
 */
#ifndef ST_CONVERT_CONVERT_H
#define ST_CONVERT_CONVERT_H

#include <stele/convert.h>

#include "arch/described.h"
#include "convert/importance.h"
#include "convert/job.h"
#include "convert/log.h"
#include "convert/vocab.h"

struct st_conversion {
	const struct st_convert_options *o;
	struct st_arena arena; /* what the parts point at, the lines of the result too */
	struct st_pool *pool;  /* while st_convert works */
	struct st_input src;
	const struct st_described *page; /* by which tensors and keys are written; NULL: as the input has them */
	bool by_name;                    /* GGUF to GGUF, of a family that Stele cannot run */
	struct st_target dst;
	struct st_vocabulary vocab;
	struct st_plan plan;
	struct st_importance importance;
	struct st_log log;
};

/* BOS and EOS of the output: those that the vocabulary implies count where the configuration is silent. */
static inline int64_t st_conversion_bos(const struct st_conversion *v)
{
	return v->dst.cfg.bos >= 0 || !v->vocab.t ? v->dst.cfg.bos : v->vocab.t->bos;
}
static inline int64_t st_conversion_eos(const struct st_conversion *v)
{
	return v->dst.cfg.eos >= 0 || !v->vocab.t ? v->dst.cfg.eos : v->vocab.t->eos;
}

/* target.c: the container and the type that are asked for. */
ST_MUST_CHECK enum st_status st_target_choose(struct st_target *to, const struct st_convert_options *o,
                                              struct st_log *log, struct st_error *err);
/* The output must not be, or hold, anything that is read, and replaces what is there only where that is asked for. */
ST_MUST_CHECK enum st_status st_target_refuse(const struct st_conversion *v, struct st_error *err);
/* jobs.c: is a stored head a copy of the embedding that the configuration ties it to? */
bool st_head_is_copy(const struct st_conversion *v, const struct st_weight *head);
/* Is a tensor of GGUF a matrix that may be stored in fewer bits? */
bool st_may_be_quantised(const struct st_tensor *t);
/* jobs.c: fill v->plan. */
ST_MUST_CHECK enum st_status st_plan_jobs(struct st_conversion *v, struct st_error *err);
/* left.c: fill v->log.left. */
void st_list_left_out(struct st_conversion *v);
/* check.c: what lies at `path` is what the jobs say, read with the ordinary reader. */
ST_MUST_CHECK enum st_status st_check_result(struct st_conversion *v, const char *path, struct st_error *err);

#endif
