/* causes.c - the cause codes: an interface, so every code of it is here, also those that need
 * a foreign trace and are not tested by this version (test = NULL). docs/causes.md follows this table. */
#include <stele/compare.h>

#include <string.h>

const struct st_cause_info st_causes[] = {
	/* input */
	{ "tokens.mismatch", "the two tokenizers give different ids for the prompt", "ids compared one by one",
	  "fix the tokenizer, or pass --tokens" },
	{ "tokens.bos", "one side puts a begin-of-sequence token in front and the other does not",
	  "ids equal after dropping the first", "set the BOS rule of the wrong file" },
	/* weights */
	{ "weight.transposed", "the matrix is stored as its transpose",
	  "W against the transpose of the other side's bytes", "rewrite the tensor as its transpose" },
	{ "weight.rope_permuted", "rows of Q or K are in the other RoPE order",
	  "rows permuted between adjacent pairs and split halves, with the model's head count", "permute the rows" },
	{ "weight.rope_permuted_wrong_heads",
	  "rows of Q or K were permuted between RoPE orders with a wrong head count",
	  "the same with every head count that divides the rows",
	  "undo with the wrong count, redo with the right one" },
	{ "weight.rows_permuted", "the rows are the other side's in another order", "best matching row for each row",
	  "put the rows in order" },
	{ "weight.row_shift", "every row is the other side's row a fixed distance away",
	  "best matching row for each row", "shift the rows back" },
	{ "weight.qkv_swapped", "the tensor holds another one of Q, K, V",
	  "compared with its siblings of the same layer", "swap the tensors" },
	{ "weight.gate_up_swapped", "gate and up projections are exchanged", "compared with its sibling",
	  "swap the tensors" },
	{ "weight.qkv_interleaved", "Q, K and V rows are interleaved within the tensor",
	  "rows of all three gathered by every number of chunks", "split the rows" },
	{ "weight.gate_up_interleaved", "gate and up rows alternate within the tensor",
	  "rows matched against both siblings", "split the rows" },
	{ "weight.layer_swapped", "the tensor is the same one of another layer",
	  "compared with the tensor of every other layer", "put the layer's own tensor there" },
	{ "weight.wrong_tensor", "the tensor holds another tensor of the model",
	  "compared with every tensor of its shape", "put the right tensor there" },
	{ "weight.missing", "a tensor the model needs is on one side only, or all zero there",
	  "every weight slot of both sides; all elements", "copy the tensor from the other file" },
	{ "weight.scaled", "the tensor, or each row or column of it, is the other side's times a constant",
	  "least-squares gain", "divide by the constant" },
	{ "weight.row_corrupt", "a few rows or columns, or many that lie together, differ and the rest agree",
	  "residuals of each row and column against the predicted noise", "rewrite them" },
	{ "weight.block_scale", "blocks carry a wrong scale", "gain fitted per block", "rewrite the block scales" },
	{ "weight.block_layout", "nibbles or values inside the blocks are in another order",
	  "blocks decoded in the other order", "rewrite the blocks" },
	{ "weight.dtype_mislabelled", "the bytes are of another stored type than the label says",
	  "the same bytes decoded as every type of equal size", "correct the type label" },
	{ "weight.truncated_rounding", "conversion cut the low bits off instead of rounding",
	  "bits equal to truncation, not to rounding", "convert again, rounding to nearest even" },
	{ "weight.nan", "the tensor holds NaN or infinity", "non-finite elements counted per side",
	  "convert again from a sound source" },
	/* config */
	{ "config.mismatch", "a configuration key that changes arithmetic differs", "every key compared",
	  "correct the key" },
	/* embedding, head */
	{ "embedding.scale", "token embeddings are scaled by a constant", "least-squares gain of the embedding matrix",
	  "divide by the constant" },
	{ "embedding.row_shift", "every token has its neighbour's embedding", "best matching row for each row",
	  "shift the rows back" },
	{ "head.tied", "one side uses its embedding as the head, the other has a head of its own",
	  "head against the embeddings of both sides; what the files say of the tie",
	  "store the head, or correct the tie flag" },
	{ "head.untied", "a head that should be the embedding is something else",
	  "a head of its own in a file that says it is tied, or beside one that says so", "tie the head" },
	{ "head.wrong_tensor", "the head is some other matrix", "compared with every tensor of its shape",
	  "store the right head" },
	{ "head.scale", "the head is scaled by a constant", "least-squares gain", "divide by the constant" },
	{ "head.softcap", "the logits' soft-cap differs", NULL, "correct the soft-cap" },
	/* norm */
	{ "norm.eps", "the norm's epsilon differs", NULL, "correct the epsilon" },
	{ "norm.plus_one", "1 was added to the norm weights, or not", "weights against weights plus and minus one",
	  "subtract or add one" },
	{ "norm.skipped", "the norm was not applied", NULL, NULL },
	{ "norm.weight_missing", "the norm ran without its weight", "all ones on one side", "store the weight" },
	{ "norm.wrong_weight", "the norm carries another norm's weight", "compared with the other norms",
	  "put the right weight there" },
	{ "norm.applied_twice", "the norm was applied twice", NULL, NULL },
	{ "norm.layernorm", "the mean was subtracted", NULL, NULL },
	{ "norm.order", "the norm stands before instead of behind, or the other way round", NULL, NULL },
	{ "norm.per_head", "the norm ran over another axis", NULL, NULL },
	{ "norm.partial_reduction", "the norm's sum missed a part of the row", NULL, NULL },
	/* bias */
	{ "bias.missing", "the bias is absent or zero", "all zero on one side, or no tensor", "store the bias" },
	{ "bias.scaled", "the bias is multiplied by a constant", "least-squares gain", "divide by the constant" },
	{ "bias.wrong_axis", "the bias is broadcast along the wrong axis", NULL, NULL },
	/* rope */
	{ "rope.style", "adjacent pairs were rotated instead of split halves, or the other way round", NULL, NULL },
	{ "rope.theta", "another base frequency", NULL, "correct rope_theta" },
	{ "rope.position_offset", "positions are off by a constant", NULL, NULL },
	{ "rope.not_applied", "no rotation", NULL, NULL },
	{ "rope.applied_twice", "rotated twice", NULL, NULL },
	{ "rope.direction", "rotated the other way", NULL, NULL },
	{ "rope.on_v", "V was rotated", NULL, NULL },
	{ "rope.partial", "another number of rotated dimensions", NULL, NULL },
	{ "rope.scale", "cosines and sines are multiplied by a constant", NULL, NULL },
	{ "rope.freq_scaling", "frequency scaling is wrong or ignored", NULL, NULL },
	{ "rope.low_precision", "angles computed in low precision", NULL, NULL },
	/* attention */
	{ "attn.scale", "another scale on the scores", NULL, NULL },
	{ "attn.softcap", "another soft-cap on the scores", NULL, NULL },
	{ "attn.mask_missing", "future positions are visible", NULL, NULL },
	{ "attn.mask_off_by_one", "the causal mask is off by one", NULL, NULL },
	{ "attn.window", "the sliding window differs", NULL, NULL },
	{ "attn.gqa_mapping", "query heads read the wrong key-value heads", NULL, NULL },
	{ "attn.kv_swapped", "keys and values are exchanged", NULL, NULL },
	{ "attn.head_permuted", "heads are in another order", NULL, NULL },
	{ "attn.head_zeroed", "a head's output is zero", NULL, NULL },
	{ "attn.sink", "an attention sink is missing or added", NULL, NULL },
	/* ffn, moe */
	{ "ffn.activation", "another activation function", NULL, NULL },
	{ "ffn.gate_up_swapped", "the activation was applied to up instead of gate", NULL, NULL },
	{ "ffn.no_gate", "the gate was left out", NULL, NULL },
	{ "ffn.clamp", "a clamp is missing or added", NULL, NULL },
	{ "moe.gating", "another gating function", NULL, NULL },
	{ "moe.topk_norm", "weights of the chosen experts are normalised, or not", NULL, NULL },
	{ "moe.weights_missing", "expert weights were not applied", NULL, NULL },
	{ "moe.weight_scale", "expert weights are scaled", NULL, NULL },
	{ "moe.expert_permuted", "experts are in another order", NULL, NULL },
	/* residual */
	{ "residual.missing", "the stream was not added", NULL, NULL },
	{ "residual.branch_missing", "the branch was not added", NULL, NULL },
	{ "residual.scaled", "the residual is scaled", NULL, NULL },
	{ "residual.wrong_source", "the residual was taken from another place", NULL, NULL },
	/* cache */
	{ "cache.position", "a cached entry carries another position", NULL, NULL },
	{ "cache.slot", "a cache slot holds another token", NULL, NULL },
	{ "cache.ring_start", "the ring buffer starts at another slot", NULL, NULL },
	{ "cache.quantiser", "the cache's quantiser is not what it should be", NULL, NULL },
	/* captures */
	{ "capture.token_subset", "the capture holds some of the tokens", NULL, NULL },
	{ "capture.partial", "the capture lacks stages", NULL, NULL },
	{ "capture.stale_token", "a row is left over from an earlier token", NULL, NULL },
	{ "capture.row_shift", "rows belong to their neighbours", NULL, NULL },
	{ "stage.mislabelled", "the values are another stage's", NULL, NULL },
	/* numeric, kernel */
	{ "numeric.nan", "NaN appears", "non-finite values counted per side and stage", NULL },
	{ "numeric.overflow", "infinity appears", "non-finite values counted per side and stage", NULL },
	{ "numeric.low_precision", "computed in lower precision than stated", NULL, NULL },
	{ "numeric.nondeterministic", "two runs differ", NULL, NULL },
	{ "kernel.tail", "only the last elements of rows or sums are wrong", NULL, NULL },
	{ "kernel.orientation", "the kernel read its operand transposed", NULL, NULL },
	{ "kernel.stale_token", "a row is computed from an earlier token", NULL, NULL },
	{ "kernel.uninitialised", "the kernel read memory nobody wrote", NULL, NULL },
	/* none fits */
	{ "unexplained", "a difference beyond the floor that no tested cause explains", "what is left", NULL },
};
const size_t st_n_causes = sizeof st_causes / sizeof *st_causes;

const struct st_cause_info *st_cause_find(const char *code)
{
	for (size_t i = 0; i < st_n_causes; i++)
		if (strcmp(st_causes[i].code, code) == 0)
			return &st_causes[i];
	return NULL;
}
