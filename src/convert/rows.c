/* rows.c - from which stored row each row of the output comes. */
#include "convert/job.h"

#include "graph/basis.h"

bool st_output_interleaved(const struct st_target *to, enum st_role role)
{
	bool q = role == ST_ROLE_Q || role == ST_ROLE_Q_BIAS, k = role == ST_ROLE_K || role == ST_ROLE_K_BIAS;
	return (q || k) && to->format == ST_FORMAT_GGUF && to->arch->gguf_rope_interleaved;
}

enum st_status st_job_map(const struct st_target *to, struct st_arena *arena, struct st_job *j,
                          const struct st_weight *const w[2], const uint64_t *graph, struct st_error *err)
{
	bool out_pairs = st_output_interleaved(to, j->role);
	j->map = NULL;
	if (!graph && !w[1] && w[0]->interleaved == out_pairs)
		return ST_OK;
	bool vector = j->spec.ndim < 2;
	uint64_t n = vector ? st_spec_cols(&j->spec) : st_spec_rows(&j->spec), d = to->cfg.head_dim;
	uint64_t *map = st_arena_alloc(arena, n, sizeof *map);
	if (!map)
		return st_no_memory(err);
	for (uint64_t r = 0; r < n; r++) {
		uint64_t g = out_pairs ? st_row_in_halves(r, d) : r; /* row of the graph's basis that output row r is */
		uint64_t s = graph ? graph[g] : g;                   /* the source's row, in the same basis */
		uint64_t first = w[1] && s >= n ? n : 0;
		const struct st_weight *from = first ? w[1] : w[0];
		s -= first;
		map[r] = first + (from->interleaved ? st_row_in_pairs(s, d) : s);
	}
	j->map = map;
	return ST_OK;
}
