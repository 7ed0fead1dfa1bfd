/* test_naive.c - the plain engine: its logits are those of the families' reference, and each mistake is seen where it is said. */
#include "family/oracle.h"
#include "naive.h"

#include <math.h>

#define FOLDER STELE_SOURCE_ROOT "/tests/data/families/"

static const char *const families[] = { "llama",   "qwen2",     "qwen3",   "gemma2",          "gemma3_text",
	                                "phi3",    "phi3-long", "gpt2",    "mixtral",         "qwen3_moe",
	                                "gpt_oss", "granite",   "smollm3", "cohere2",         "olmo2",
	                                "dots1",   "qwen2_moe", "mpt",     "deepseek_v2-lite" };
#define N_FAMILIES (sizeof families / sizeof *families)

static struct model *open_family(const char *name)
{
	char path[1024];
	snprintf(path, sizeof path, FOLDER "%s", name);
	return model_open(path, NULL);
}

static void logits_are_the_references(void **state)
{
	(void)state;
	for (size_t f = 0; f < N_FAMILIES; f++) {
		char path[1024];
		json_error_t e;
		snprintf(path, sizeof path, FOLDER "%s/expected.json", families[f]);
		json_t *j = json_load_file(path, 0, &e);
		assert_non_null(j);
		struct model *m = open_family(families[f]);
		for (size_t s = 0; s < 2; s++) {
			struct oracle_sequence o = read_oracle(json_array_get(json_object_get(j, "tokens"), s),
			                                       json_array_get(json_object_get(j, "logits"), s), m->V);
			struct options plain = { 0 };
			struct run *r = run_model(m, &plain, o.tokens, o.T, o.T);
			const struct value *v = run_find(r, "lm_head", -1, 0);
			double most = 0;
			assert_int_equal(v->n, o.T * m->V);
			for (size_t i = 0; i < v->n; i++)
				most = fmax(most, fabs(v->v[i] - o.logits[i]) / (1 + fabs(o.logits[i])));
			print_message("%s: %zu tokens: %.2g\n", families[f], o.T, most);
			assert_true(most < 1e-8);
			run_free(r);
			/* In f32, in half precision, and one by one through the cache, it is the same function. */
			struct options rounded[] = { { .arith = ARITH_F32, .order = ORDER_LANES },
				                     { .arith = ARITH_F32, .flash = FLASH_F32 },
				                     { .arith = ARITH_BF16STREAM },
				                     { .arith = ARITH_F16, .kv = CACHE_F16 } };
			const double near[] = { 3e-6, 3e-6, 0.5, 0.01 };
			for (size_t k = 0; k < 4; k++) {
				r = run_model(m, &rounded[k], o.tokens, o.T, o.T);
				v = run_find(r, "lm_head", -1, 0);
				double sum = 0, all = 0;
				for (size_t i = 0; i < v->n; i++) {
					sum += (v->v[i] - o.logits[i]) * (v->v[i] - o.logits[i]);
					all += o.logits[i] * o.logits[i];
				}
				print_message("    variant %zu: %.2g\n", k, sqrt(sum / all));
				assert_true(sqrt(sum / all) < near[k]);
				run_free(r);
			}
			free(o.logits);
		}
		model_close(m);
		json_decref(j);
	}
}

/* A step through the cache computes what the prompt's last row is, but for rotations that depend on the length seen. */
static void steps_continue_prompts(void **state)
{
	(void)state;
	for (size_t f = 0; f < N_FAMILIES; f++) {
		if (strcmp(families[f], "phi3-long") == 0)
			continue;
		struct model *m = open_family(families[f]);
		const uint32_t ids[6] = { 3, 9, 27, 14, 8, 21 };
		struct options plain = { 0 };
		struct run *r = run_model(m, &plain, ids, 6, 9);
		struct run *whole = run_model(m, &plain, r->tokens, 9, 9);
		const struct value *a = run_find(whole, "lm_head", -1, 0), *b = run_find(r, "lm_head", -1, 3);
		for (size_t i = 0; i < m->V; i++)
			assert_true(fabs(a->v[8 * m->V + i] - b->v[i]) < 1e-9);
		run_free(r);
		run_free(whole);
		model_close(m);
	}
}

static bool claims(const char *claim, const struct planted *p, const struct value *v)
{
	const char *s = v->stage;
	if (claim[0] == '*') {
		const char *t = p->target;
		return t[0] == 'q' || t[0] == 'k' || t[0] == 'v' ? strncmp(s, "qkv_matmul", 10) == 0
		     : t[0] == 'l' ? strcmp(s, "q_matmul") == 0 || strncmp(s, "kv_", 3) == 0
		     : t[0] == 'o' ? strcmp(s, "attn_out") == 0
		     : t[0] == 'h' ? strcmp(s, "head_matmul") == 0 || strcmp(s, "lm_head") == 0
		     : t[0] == 'r' ? strcmp(s, "moe_router") == 0
		                   : strstr(s, *t == 'g'   ? "_gate"
		                               : *t == 'u' ? "_up"
		                                           : "_out")
		                                     != NULL
		                             || strcmp(s, "expert_matmul") == 0;
	}
	if (strcmp(claim, "@") == 0)
		return strcmp(s, p->target) == 0 || strcmp(p->target, "all") == 0;
	if (claim[0] == '@')
		return strstr(s, claim[1] == 'b'   ? "_bias"
		                 : claim[1] == 'a' ? "_silu"
		                                   : "_swigl")
		            != NULL
		    || strcmp(s, "expert_up_one") == 0 || strcmp(s, "expert_out") == 0;
	for (const char *c = claim; c; c = strpbrk(c, "|&") ? strpbrk(c, "|&") + 1 : NULL)
		if (strcspn(c, "|&") == strlen(s) && strncmp(c, s, strlen(s)) == 0)
			return true;
	return false;
}

static void mistakes_are_seen_where_they_are_said(void **state)
{
	(void)state;
	size_t n_cases = 0, seen[FAULTS] = { 0 }, wrong = 0;
	uint32_t ids[14], others[14];
	for (size_t f = 0; f < N_FAMILIES; f++) {
		struct model *m = open_family(families[f]);
		for (size_t i = 0; i < 14; i++) {
			ids[i] = (uint32_t)((i * 11 + 5) % m->V);
			others[i] = (uint32_t)((i * 7 + 2) % m->V);
		}
		struct options plain = { 0 };
		struct run *clean = run_model(m, &plain, ids, 12, 14), *other = run_model(m, &plain, others, 12, 14);
		for (int k = 1; k < FAULTS; k++) {
			const struct fault_row *row = &fault_table[k];
			for (size_t l = 0; l < m->L; l++) {
				const char *t = row->targets;
				do {
					char text[160];
					size_t len = strcspn(t, " ");
					snprintf(text, sizeof text, "%s%s%.*s", row->name, len ? ":" : "", (int)len, t);
					t += len + (t[len] == ' ');
					struct options o = { 0 };
					assert_true(planted_parse(text, &o.plant));
					o.plant.layer = (int)l;
					if (!fault_fits(m, (enum fault)k, l, o.plant.target))
						continue;
					struct run *r = run_model(m, &o, ids, 12, 14);
					run_spoil_capture(r, other);
					const struct value *v = run_first_difference(clean, r, NULL);
					n_cases++;
					if (k == FAULT_TOKENS_MISMATCH)
						seen[k]++;
					else if (v && claims(row->stage, &o.plant, v)
					         && (v->layer < 0 || v->layer == (int)l
					             || strncmp(row->name, "capture", 7) == 0))
						seen[k]++;
					else if (v || seen[k] == 0) {
						print_message("%s layer %zu: %s: %s %d\n", families[f], l, text,
						              v ? v->stage : "nothing", v ? v->layer : -1);
						wrong += v != NULL;
					}
					run_free(r);
				} while (*t != '\0');
			}
		}
		run_free(clean);
		run_free(other);
		model_close(m);
	}
	for (int k = 1; k < FAULTS; k++)
		if (seen[k] == 0) {
			print_message("never seen: %s\n", fault_table[k].name);
			wrong += strcmp(fault_table[k].name, "weight.block_layout")
			      != 0; /* of rows of 32, which none of these has */
		}
	print_message("%zu cases\n", n_cases);
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logits_are_the_references),
		cmocka_unit_test(steps_continue_prompts),
		cmocka_unit_test(mistakes_are_seen_where_they_are_said),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("naive", tests, NULL, NULL);
}
