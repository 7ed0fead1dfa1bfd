/* run_llama.c - a program as llama.cpp's tools are: a warm-up, a prompt, three greedy steps; prints what the logits are. */
#include "llama.h"

#include <stdio.h>
#include <stdlib.h>

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
	(void)level, (void)text, (void)user;
}

int main(int argc, char **argv)
{
	llama_token ids[] = { 3, 10, 17, 24, 31, 38, 45 }, warm_up[] = { 1, 2 };
	struct llama_context_params cp = llama_context_default_params();
	if (argc != 2)
		return 2;
	llama_log_set(quiet, NULL);
	llama_backend_init();
	struct llama_model *m = llama_model_load_from_file(argv[1], llama_model_default_params());
	cp.n_ctx = 256;
	cp.n_threads = cp.n_threads_batch = 2;
	struct llama_context *c = m ? llama_init_from_model(m, cp) : NULL;
	if (!c || llama_decode(c, llama_batch_get_one(warm_up, 2)))
		return 2;
	llama_memory_clear(llama_get_memory(c), true);
	int n = 7, vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(m));
	for (int step = 0; step < 4; step++) {
		if (llama_decode(c, llama_batch_get_one(step ? &ids[0] : ids, step ? 1 : n)))
			return 2;
		const float *logits = llama_get_logits_ith(c, -1);
		int best = 0;
		for (int i = 0; i < vocabulary; i++) {
			if (i < 64)
				printf("%a ", (double)logits[i]);
			best = logits[i] > logits[best] ? i : best;
		}
		printf("%d\n", best);
		ids[0] = best;
	}
	llama_free(c);
	llama_model_free(m);
	return 0;
}
