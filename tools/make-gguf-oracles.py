#!/usr/bin/env python3
"""Write models of tests/data/families as the GGUF files that llama.cpp's converter makes of such models.

    python3 tools/make-gguf-oracles.py [--out FOLDER] [NAME ...]

Needs numpy and gguf (0.19). The logits stay those of tests/data/families/NAME/expected.json. Each of these files was run by
llama.cpp 0.5 (llama-cpp-python 0.3.36) too: to 1e-6 the same logits, but for falcon, whose GELU is a
table there (3e-4). gpt_oss is not among them: its clamp has no GGUF key.
"""
import argparse
import json
import os
import struct

import gguf
import numpy as np

HERE = os.path.join(os.path.dirname(__file__), "..", "tests", "data", "families")


def load(name):
    with open(f"{HERE}/{name}/model.safetensors", "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for key, t in json.loads(data[8:8 + size]).items():
        if key != "__metadata__":
            a, b = t["data_offsets"]
            tensors[key] = np.frombuffer(data[8 + size + a:8 + size + b], "<f4").reshape(t["shape"])
    with open(f"{HERE}/{name}/config.json") as f:
        return tensors, json.load(f)


def write(path, arch, tensors, keys):
    w = gguf.GGUFWriter(path, arch)
    w.add_tokenizer_model("none")
    for key, v in keys.items():
        key = key[1:] if key.startswith("/") else f"{arch}.{key}"
        add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string}.get(type(v), w.add_array)
        add(key, v)
    for key, t in tensors.items():
        w.add_tensor(key, np.ascontiguousarray(t.astype(np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


ATTENTION = {f"self_attn.{a}_proj.{s}": f"attn_{b}.{s}" for a, b in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output"))
             for s in ("weight", "bias")}
USUAL = ATTENTION | {"input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
                     "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight"}
USUAL |= {f"mlp.{a}_proj.weight": f"ffn_{a}.weight" for a in ("gate", "up", "down")}


def layers(t, c, prefix="model.layers."):
    for i in range(c["num_hidden_layers"]):
        p = f"{prefix}{i}."
        yield i, {k[len(p):]: v for k, v in t.items() if k.startswith(p)}


def renamed(out, i, layer, names):
    for a, b in names.items():
        if a in layer:
            out[f"blk.{i}.{b}"] = layer[a]


def outside(t, embed="model.embed_tokens", norm="model.norm", to="output_norm"):
    out = {"token_embd.weight": t[embed + ".weight"], to + ".weight": t[norm + ".weight"]}
    if "lm_head.weight" in t:
        out["output.weight"] = t["lm_head.weight"]
    return out


def usual_keys(c):
    keys = {"block_count": c["num_hidden_layers"], "vocab_size": c["vocab_size"], "embedding_length": c["hidden_size"],
            "context_length": c.get("max_position_embeddings", 64)}
    if "num_attention_heads" in c:
        keys |= {"attention.head_count": c["num_attention_heads"],
                 "rope.freq_base": float(c["rope_parameters"]["rope_theta"])}
    if "rms_norm_eps" in c:
        keys["attention.layer_norm_rms_epsilon"] = float(c["rms_norm_eps"])
    return keys


def yarn_keys(r):
    return {"rope.scaling.type": "yarn", "rope.scaling.factor": float(r["factor"]),
            "rope.scaling.original_context_length": r["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": float(r["beta_fast"]), "rope.scaling.yarn_beta_slow": float(r["beta_slow"])}


def deepseek(t, c):
    out, rope = outside(t), c["rope_parameters"]
    nope, turned, v, latent = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    keys = usual_keys(c) | {
        "attention.head_count_kv": c["num_key_value_heads"], "attention.kv_lora_rank": latent,
        "attention.key_length": nope + turned, "attention.value_length": v,
        "rope.dimension_count": turned, "feed_forward_length": c["intermediate_size"],
        "leading_dense_block_count": c["first_k_dense_replace"], "expert_count": c["n_routed_experts"],
        "expert_used_count": c["num_experts_per_tok"], "expert_feed_forward_length": c["moe_intermediate_size"],
        "expert_shared_count": c["n_shared_experts"], "expert_weights_scale": float(c["routed_scaling_factor"]),
        "expert_weights_norm": c["norm_topk_prob"], "expert_gating_func": 2}
    keys |= {"attention.q_lora_rank": c["q_lora_rank"], "expert_group_count": c["n_group"],
             "expert_group_used_count": c["topk_group"]}
    keys |= yarn_keys(rope) | {"rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]}
    names = USUAL | {"mlp.gate.weight": "ffn_gate_inp.weight", "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
                     "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
                     "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
                     "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
                     "self_attn.q_a_proj.weight": "attn_q_a.weight", "self_attn.q_b_proj.weight": "attn_q_b.weight",
                     "self_attn.kv_b_proj.weight": "attn_kv_b.weight"}
    names |= {f"mlp.shared_experts.{a}_proj.weight": f"ffn_{a}_shexp.weight" for a in ("gate", "up", "down")}
    for i, l in layers(t, c):
        renamed(out, i, l, names)
        for a in ("gate", "up", "down") if i >= c["first_k_dense_replace"] else ():
            out[f"blk.{i}.ffn_{a}_exps.weight"] = np.stack(
                [l[f"mlp.experts.{e}.{a}_proj.weight"] for e in range(c["n_routed_experts"])])
    return "deepseek2", out, keys


def mamba2(t, c):
    inner = c["expand"] * c["hidden_size"]
    out = outside(t, "backbone.embeddings", "backbone.norm_f")
    keys = usual_keys(c) | {
        "feed_forward_length": 0, "attention.head_count": 0, "ssm.conv_kernel": c["conv_kernel"], "ssm.inner_size": inner,
        "ssm.state_size": c["state_size"], "ssm.time_step_rank": inner // c["head_dim"], "ssm.group_count": c["n_groups"],
        "attention.layer_norm_rms_epsilon": float(c["layer_norm_epsilon"])}
    for i, l in layers(t, c, "backbone.layers."):
        renamed(out, i, l, {"norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight",
                            "mixer.conv1d.bias": "ssm_conv1d.bias", "mixer.dt_bias": "ssm_dt.bias",
                            "mixer.out_proj.weight": "ssm_out.weight"})
        out[f"blk.{i}.ssm_conv1d.weight"] = l["mixer.conv1d.weight"][:, 0]
        out[f"blk.{i}.ssm_a"], out[f"blk.{i}.ssm_d"] = -np.exp(l["mixer.A_log"])[:, None], l["mixer.D"][:, None]
        out[f"blk.{i}.ssm_norm.weight"] = l["mixer.norm.weight"].reshape(c["n_groups"], -1)
    return "mamba2", out, keys


def lfm2(t, c):
    out = outside(t, norm="model.embedding_norm", to="token_embd_norm")
    attends = [kind == "full_attention" for kind in c["layer_types"]]
    keys = usual_keys(c) | {
        "attention.head_count_kv": [c["num_key_value_heads"] * a for a in attends], "shortconv.l_cache": c["conv_L_cache"],
        "attention.layer_norm_rms_epsilon": float(c["norm_eps"]),
        "feed_forward_length": t["model.layers.0.feed_forward.w1.weight"].shape[0]}
    names = ATTENTION | {"operator_norm.weight": "attn_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
                         "self_attn.out_proj.weight": "attn_output.weight",
                         "self_attn.q_layernorm.weight": "attn_q_norm.weight",
                         "self_attn.k_layernorm.weight": "attn_k_norm.weight",
                         "conv.in_proj.weight": "shortconv.in_proj.weight",
                         "conv.out_proj.weight": "shortconv.out_proj.weight", "feed_forward.w1.weight": "ffn_gate.weight",
                         "feed_forward.w2.weight": "ffn_down.weight", "feed_forward.w3.weight": "ffn_up.weight"}
    for i, l in layers(t, c):
        renamed(out, i, l, names)
        if "conv.conv.weight" in l:
            out[f"blk.{i}.shortconv.conv.weight"] = l["conv.conv.weight"][:, 0]
    return "lfm2", out, keys


def falcon(t, c):
    out = outside(t, "transformer.word_embeddings", "transformer.ln_f") | {"output_norm.bias": t["transformer.ln_f.bias"]}
    heads, kv = c["num_attention_heads"], c["num_kv_heads"] if c["new_decoder_architecture"] else 1
    keys = usual_keys(c) | {"feed_forward_length": c["ffn_hidden_size"], "attention.head_count_kv": kv,
                            "attention.layer_norm_epsilon": float(c["layer_norm_epsilon"])}
    names = {f"{a}.{s}": f"{b}.{s}" for a, b in (("ln_attn", "attn_norm_2"), ("ln_mlp", "attn_norm"),
                                                 ("input_layernorm", "attn_norm")) for s in ("weight", "bias")}
    names |= {"self_attention.dense.weight": "attn_output.weight", "mlp.dense_h_to_4h.weight": "ffn_up.weight",
              "mlp.dense_4h_to_h.weight": "ffn_down.weight"}
    for i, l in layers(t, c, "transformer.h."):
        renamed(out, i, l, names)
        q, width = l["self_attention.query_key_value.weight"], c["hidden_size"]
        q = q.reshape(kv, heads // kv + 2, width // heads, width)
        out[f"blk.{i}.attn_qkv.weight"] = np.concatenate([x.reshape(-1, width) for x in (q[:, :-2], q[:, -2], q[:, -1])])
    return "falcon", out, keys


def absorbed(t, c):
    """The newer form: what makes keys and what makes values in tensors of their own, the former turned for each head."""
    arch, out, keys = deepseek(t, c)
    heads, nope, v, latent = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"))
    turned = c["qk_rope_head_dim"]
    for i in range(c["num_hidden_layers"]):
        both = out.pop(f"blk.{i}.attn_kv_b.weight").reshape(heads, nope + v, latent)
        out[f"blk.{i}.attn_k_b.weight"] = both[:, :nope].transpose(0, 2, 1)
        out[f"blk.{i}.attn_v_b.weight"] = both[:, nope:]
    keys |= {"attention.head_count_kv": 1, "attention.key_length": latent + turned, "attention.value_length": latent,
             "attention.key_length_mla": nope + turned, "attention.value_length_mla": v}
    return arch, out, keys


def paired(w, heads):
    """Rows of queries or keys with rotary pairs side by side."""
    return w.reshape(heads, 2, -1, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


def turned_pairs(out, i, q_heads, kv_heads):
    for x, heads in (("q", q_heads), ("k", kv_heads)):
        name = f"blk.{i}.attn_{x}.weight"
        out[name] = paired(out[name], heads)


def baichuan(t, c):
    out, heads = outside(t), c["num_attention_heads"]
    keys = usual_keys(c | {"rope_parameters": {"rope_theta": 10000}}) | {
        "feed_forward_length": c["intermediate_size"], "rope.dimension_count": c["hidden_size"] // heads,
        "attention.head_count_kv": heads}
    for i, l in layers(t, c):
        renamed(out, i, l, USUAL)
        for x, w in zip("qkv", np.split(l["self_attn.W_pack.weight"], 3)):
            out[f"blk.{i}.attn_{x}.weight"] = w
        turned_pairs(out, i, heads, heads)
    return "baichuan", out, keys


def deepseek_v1(t, c):
    out = outside(t)
    keys = usual_keys(c | {"rope_parameters": c}) | {
        "attention.head_count_kv": c["num_key_value_heads"], "feed_forward_length": c["intermediate_size"],
        "rope.dimension_count": c["hidden_size"] // c["num_attention_heads"],
        "leading_dense_block_count": c["first_k_dense_replace"], "expert_count": c["n_routed_experts"],
        "expert_used_count": c["num_experts_per_tok"], "expert_feed_forward_length": c["moe_intermediate_size"],
        "expert_shared_count": c["n_shared_experts"], "expert_weights_scale": 1.0}
    names = USUAL | {"mlp.gate.weight": "ffn_gate_inp.weight"}
    names |= {f"mlp.shared_experts.{a}_proj.weight": f"ffn_{a}_shexp.weight" for a in ("gate", "up", "down")}
    for i, l in layers(t, c):
        renamed(out, i, l, names)
        turned_pairs(out, i, c["num_attention_heads"], c["num_key_value_heads"])
        for a in ("gate", "up", "down") if i >= c["first_k_dense_replace"] else ():
            out[f"blk.{i}.ffn_{a}_exps.weight"] = np.stack(
                [l[f"mlp.experts.{e}.{a}_proj.weight"] for e in range(c["n_routed_experts"])])
    return "deepseek", out, keys


def plm(t, c):
    out = outside(t)
    keys = usual_keys(c | {"rope_parameters": c}) | {
        "attention.head_count_kv": c["num_key_value_heads"], "attention.kv_lora_rank": c["kv_lora_rank"],
        "attention.key_length": c["qk_nope_head_dim"] + c["qk_rope_head_dim"], "attention.value_length": c["v_head_dim"],
        "rope.dimension_count": c["qk_rope_head_dim"], "feed_forward_length": c["intermediate_size"]}
    names = USUAL | {"self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
                     "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
                     "self_attn.kv_b_proj.weight": "attn_kv_b.weight"}
    for i, l in layers(t, c):
        renamed(out, i, l, names)
    return "plm", out, keys


CASES = {"deepseek_v3": deepseek, "deepseek_v3.mla": absorbed, "mamba2": mamba2, "lfm2": lfm2, "falcon": falcon, "falcon-7b": falcon,
         "baichuan": baichuan, "baichuan-13b": baichuan, "deepseek": deepseek_v1, "plm": plm}

parser = argparse.ArgumentParser()
parser.add_argument("--out", default=os.path.join(HERE, "..", "families-gguf"))
parser.add_argument("names", nargs="*")
args = parser.parse_args()
os.makedirs(args.out, exist_ok=True)
for name in args.names or CASES:
    arch, tensors, keys = CASES[name](*load(name.split(".")[0]))
    write(f"{args.out}/{name}.gguf", arch, tensors, keys)
