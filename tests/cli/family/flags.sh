# What a configuration switches off is off, and what it says of a layer is known: a tensor that is there all the same, a flag that the
# page cannot obey and a kind of layer that it does not know are refused by name. With the key as it was the model runs.
models=$CASES/../../data/families
try() { # MODEL FILTER: the model with its config.json changed
	rm -rf m && mkdir m && cp "$models/$1/model.safetensors" m/
	jq "$2" "$models/$1/config.json" > m/config.json
	stele trace m/ --tokens 3,4,5 --quiet > /dev/null 2> said && echo "$1 $2: runs" \
		|| echo "$1 $2: $(sed 's/^stele trace: m.: //; s/^byte [0-9]*: //; s/family:[0-9]*:/family:/' said)"
}
try phimoe '.lm_head_bias = false'
try glm4_moe '.use_qk_norm = false'
try glm4_moe '.attention_bias = false'
try mamba '.use_conv_bias = false'
try mamba '.use_bias = true'
try mamba2 '.use_conv_bias = false'
try falcon_mamba '.use_conv_bias = false'
try jamba '.mamba_conv_bias = false'
try bamba '.mamba_conv_bias = false'
try falcon_h1 '.mamba_conv_bias = false'
try falcon_h1 '.projectors_bias = true'
try granitemoehybrid '.mamba_conv_bias = false'
try nemotron_h '.use_conv_bias = false'
try nemotron_h '.mlp_bias = true'
try helium '.attention_bias = true'
try granite '.attention_bias = true'
try gpt_oss '.attention_bias = false'
try apertus '.mlp_bias = true'
try cohere '.use_qk_norm = false'
try stablelm '.qk_layernorm = false'
try lfm2_moe '.use_expert_bias = false'
try mpt '.attn_config.prefix_lm = true'
try mpt '.attn_config.attn_uses_sequence_id = true'
try mpt '.norm_type = "rmsnorm"'
try kimi_linear '.mla_use_nope = false'
try kimi_linear '.moe_router_activation_func = "softmax"'
try lfm2 '.layer_types[0] = "mamba"'
try lfm2_moe '.layer_types[2] = "linear_attention"'
try granitemoehybrid '.layer_types[0] = "conv"'
try kimi_linear '.layer_types[0] = "conv"'
try kimi_linear '.mlp_layer_types[0] = "moe"'
try qwen3_next '.layer_types[1] = "sliding_attention"'
try gemma2 '.layer_types[1] = "chunked_attention"'
try recurrent_gemma '.block_types[0] = "mamba"'
try nemotron_h '.layers_block_type[3] = "dense"'
try gpt_neo '.attention_layers[0] = "glocal"'
# Nemotron-H's older way to say its layers.
try nemotron_h 'del(.layers_block_type) | .hybrid_override_pattern = "ME*-"'
try nemotron_h 'del(.layers_block_type) | .hybrid_override_pattern = "MEX-"'
stele trace $models/nemotron_h/ --tokens 3,4,5 --quiet --bundle a.safetensors > /dev/null
rm -rf m && mkdir m && cp $models/nemotron_h/model.safetensors m/
jq 'del(.layers_block_type) | .hybrid_override_pattern = "ME*-"' $models/nemotron_h/config.json > m/config.json
stele trace m/ --tokens 3,4,5 --quiet --bundle b.safetensors > /dev/null
stele diff a.safetensors b.safetensors > /dev/null && echo "the pattern says the same"
