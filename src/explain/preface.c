/* preface.c - what makes a comparison meaningless before any number is looked at: other tokens, other rows. */
#include "explain/explain.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rows_of(const struct st_trace_entry *e)
{
	bool scores = e->stage == ST_STAGE_ATTN_SCORES || e->stage == ST_STAGE_ATTN_SOFTMAX;
	return e->tensor->shape[scores && e->tensor->ndim > 1 ? 1 : 0];
}

/* How far rows [from, from + n) of an entry are from the embeddings of the tokens, relative L2. */
static enum st_status embedding_distance(struct st_explainer *x, const struct st_trace_entry *e, uint64_t from,
                                         double *out, struct st_error *err)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	uint32_t i = st_graph_find(x->g, e->stage, e->layer);
	size_t T = p->n_tokens;
	double dd = 0, yy = 0;
	*out = INFINITY;
	if (i == ST_NO_NODE || x->g->nodes[i].op != ST_OP_EMBED || e->cols != x->g->nodes[i].width)
		return ST_OK;
	ST_TRY(st_run_begin(x->run, p->tokens, T, err));
	ST_TRY(st_run_eval(x->run, i, err));
	const float *y = st_run_value(x->run, i).data;
	float *row = st_alloc_array(e->cols, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t t = 0; t < T; t++) {
		st_tensor_decode(e->tensor, from + t, 1, row);
		for (size_t k = 0; k < e->cols; k++) {
			double d = (double)row[k] - y[t * e->cols + k];
			dd += d * d;
			yy += (double)y[t * e->cols + k] * y[t * e->cols + k];
		}
	}
	free(row);
	*out = yy > 0 ? sqrt(dd / yy) : INFINITY;
	return ST_OK;
}

static void put(struct st_explainer *x, enum st_cause_code code, enum st_confidence sure,
                const struct st_trace_entry *e)
{
	struct st_finding *f = &x->r.findings[x->r.n_findings++];
	*f = (struct st_finding){ .stage = SIZE_MAX, .at = e->stage, .layer = e->layer };
	f->cause = (struct st_cause){ .code = code, .confidence = sure };
	snprintf(f->structure, sizeof f->structure, "%llu rows for %zu tokens", (unsigned long long)rows_of(e),
	         st_trace_provenance(x->t)->n_tokens);
}

enum st_status st_check_rows(struct st_explainer *x, bool *stop, struct st_error *err)
{
	size_t n = 0, misfits = 0, alike = 0, tokens = st_trace_provenance(x->t)->n_tokens;
	const struct st_trace_entry *first = NULL, *embedding = NULL;
	*stop = false;
	for (size_t i = 0; i < st_trace_n_entries(x->t); i++) {
		const struct st_trace_entry *e = st_trace_entry_at(x->t, i);
		if (e->step || e->positions)
			continue;
		n++;
		misfits += e->misfit;
		first = e->misfit && !first ? e : first;
		alike += first && e->misfit && rows_of(e) == rows_of(first);
		embedding = e->misfit && e->stage == ST_STAGE_EMBEDDING ? e : embedding;
	}
	if (!misfits)
		return ST_OK;
	if (misfits < n || alike < n) { /* some stages hold some of the positions, and nobody says which */
		put(x, ST_CAUSE_CAPTURE_PARTIAL, ST_CONFIRMED, first);
		return ST_OK;
	}
	/* All of them: the engine ran other tokens. One more in front is what tokenizers put there. */
	*stop = true;
	double apart = INFINITY;
	bool one_more = rows_of(first) == tokens + 1;
	if (one_more && embedding)
		ST_TRY(embedding_distance(x, embedding, 1, &apart, err));
	put(x, one_more && !(apart > 0.3 && embedding) ? ST_CAUSE_TOKENS_BOS : ST_CAUSE_TOKENS_MISMATCH,
	    apart <= 0.3 ? ST_CONFIRMED : ST_LIKELY, embedding ? embedding : first);
	return ST_OK;
}
