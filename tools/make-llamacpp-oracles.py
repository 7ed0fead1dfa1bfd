#!/usr/bin/env python3
"""Make the forward-pass oracles of families that transformers has no class for, by llama.cpp.

A tiny random model of each is written as its own code saves it (tests/data/families) and as llama.cpp's converter would
have it (tests/data/families-gguf, by make-gguf-oracles.py); expected.json has the logits of llama.cpp for that.

    python3 tools/make-llamacpp-oracles.py [NAME ...]

Needs numpy, gguf and llama-cpp-python, which computes in F32.
"""
import json
import os
import struct
import subprocess
import sys
import zlib

import gguf
import llama_cpp
import numpy as np

TOOLS = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(TOOLS, "..", "tests", "data")
LENGTHS = (5, 12)


class Draw:
    def __init__(self, name):
        self.g = np.random.default_rng(zlib.crc32(name.encode()))
        self.t = {}

    def matrix(self, name, rows, cols, scale=1.2):
        self.t[name + ".weight"] = (scale / np.sqrt(cols) * self.g.standard_normal((rows, cols))).astype(np.float32)

    def vector(self, name, n, about=1.0, spread=0.2):
        self.t[name] = (about + spread * self.g.standard_normal(n)).astype(np.float32)

    def norm(self, name, n):
        self.vector(name + ".weight", n)

    def outside(self, c):
        self.t["model.embed_tokens.weight"] = (0.3 * self.g.standard_normal((c["vocab_size"], c["hidden_size"]))).astype(np.float32)
        self.norm("model.norm", c["hidden_size"])
        if not c["tie_word_embeddings"]:
            self.matrix("lm_head", c["vocab_size"], c["hidden_size"])

    def norms(self, p, c):
        for x in ("input_layernorm", "post_attention_layernorm"):
            self.norm(p + x, c["hidden_size"])

    def mlp(self, p, hidden, ffn, parts=("gate", "up", "down")):
        for x in parts:
            self.matrix(f"{p}{x}_proj", *((hidden, ffn) if x == "down" else (ffn, hidden)))


def baichuan_13b(d):
    c = dict(model_type="baichuan", architectures=["BaichuanForCausalLM"], hidden_size=8, intermediate_size=8,
             num_hidden_layers=40, num_attention_heads=2, vocab_size=32, rms_norm_eps=1e-6, hidden_act="silu",
             model_max_length=64, tie_word_embeddings=False)
    d.outside(c)
    for i in range(40):
        p = f"model.layers.{i}."
        d.norms(p, c)
        d.matrix(p + "self_attn.W_pack", 24, 8)
        d.matrix(p + "self_attn.o_proj", 8, 8)
        d.mlp(p + "mlp.", 8, 8)
    return c


def deepseek(d):
    c = dict(model_type="deepseek", architectures=["DeepseekForCausalLM"], hidden_size=24, intermediate_size=20,
             moe_intermediate_size=10, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             n_shared_experts=2, n_routed_experts=4, num_experts_per_tok=2, moe_layer_freq=1, first_k_dense_replace=1,
             norm_topk_prob=False, scoring_func="softmax", vocab_size=32, rms_norm_eps=1e-6, rope_theta=5000.0,
             hidden_act="silu", attention_bias=False, max_position_embeddings=64, tie_word_embeddings=False)
    d.outside(c)
    for i in range(3):
        p = f"model.layers.{i}."
        d.norms(p, c)
        for x, rows in (("q", 24), ("k", 12), ("v", 12), ("o", 24)):
            d.matrix(f"{p}self_attn.{x}_proj", rows, 24)
        if i == 0:
            d.mlp(p + "mlp.", 24, 20)
            continue
        d.matrix(p + "mlp.gate", 4, 24, 3)
        d.mlp(p + "mlp.shared_experts.", 24, 20)
        for e in range(4):
            d.mlp(f"{p}mlp.experts.{e}.", 24, 10)
    return c


def plm(d):
    c = dict(model_type="plm", architectures=["PLMForCausalLM"], hidden_size=24, intermediate_size=20, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4,
             v_head_dim=5, q_lora_rank=None, vocab_size=32, rms_norm_eps=1e-6, rope_theta=5000.0, hidden_act="relu2",
             attention_bias=False, max_position_embeddings=64, tie_word_embeddings=True)
    d.outside(c)
    for i in range(2):
        p = f"model.layers.{i}."
        d.norms(p, c)
        d.matrix(p + "self_attn.q_proj", 40, 24)
        d.matrix(p + "self_attn.kv_a_proj_with_mqa", 14, 24)
        d.norm(p + "self_attn.kv_a_layernorm", 10)
        d.matrix(p + "self_attn.kv_b_proj", 44, 10)
        d.matrix(p + "self_attn.o_proj", 24, 20)
        d.mlp(p + "mlp.", 24, 20, ("up", "down"))
    return c


def rwkv6(d):
    """GGUF alone: there is nobody here whose code would read its other files."""
    hidden, ffn, size, extra, slow = 24, 20, 6, 3, 4
    keys = {"block_count": 3, "vocab_size": 32, "context_length": 64, "embedding_length": hidden, "feed_forward_length": ffn,
            "attention.head_count": 0, "attention.layer_norm_epsilon": 1e-5, "wkv.head_size": size,
            "time_mix_extra_dim": extra, "time_decay_extra_dim": slow, "rescale_every_n_layers": 2}
    d.t["token_embd.weight"] = (0.3 * d.g.standard_normal((32, hidden))).astype(np.float32)
    d.matrix("output", 32, hidden)
    for name in ("token_embd_norm", "output_norm"):
        d.norm(name, hidden)
        d.vector(name + ".bias", hidden, 0)
    for i in range(3):
        p = f"blk.{i}."
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            d.norm(p + name, hidden)
            d.vector(f"{p}{name}.bias", hidden, 0)
        d.matrix(p + "time_mix_w1", 5 * extra, hidden)
        d.matrix(p + "time_mix_w2", 5 * hidden, extra)
        d.t[p + "time_mix_w2.weight"] = d.t[p + "time_mix_w2.weight"].reshape(5, hidden, extra)
        for name in ("time_mix_lerp_x", "channel_mix_lerp_k", "channel_mix_lerp_r"):
            d.vector(f"{p}{name}.weight", (1, 1, hidden), 0.5)
        d.vector(p + "time_mix_lerp_fused.weight", (5, 1, 1, hidden), 0.5)
        d.vector(p + "time_mix_first.weight", (hidden // size, size), 0.5)
        d.vector(p + "time_mix_decay.weight", hidden, -1, 0.8)
        d.matrix(p + "time_mix_decay_w1", slow, hidden)
        d.matrix(p + "time_mix_decay_w2", hidden, slow)
        for name in ("key", "value", "receptance", "gate", "output"):
            d.matrix(f"{p}time_mix_{name}", hidden, hidden)
        d.matrix(p + "channel_mix_receptance", hidden, hidden)
        d.matrix(p + "channel_mix_key", ffn, hidden)
        d.matrix(p + "channel_mix_value", hidden, ffn)
    return keys


GGUF_ALONE = {"rwkv6": rwkv6}
CASES = {"baichuan-13b": baichuan_13b, "deepseek": deepseek, "plm": plm}


def save(folder, config, tensors):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as f:
        f.write(json.dumps(config, indent=2, sort_keys=True) + "\n")
    head, at = {}, 0
    for name in sorted(tensors):
        t = tensors[name]
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            f.write(np.ascontiguousarray(tensors[name]).tobytes())


def write_gguf(path, arch, keys, tensors):
    w = gguf.GGUFWriter(path, arch)
    w.add_tokenizer_model("none")
    for key, v in keys.items():
        (w.add_float32 if isinstance(v, float) else w.add_uint32)(f"{arch}.{key}", v)
    for name, t in tensors.items():
        w.add_tensor(name, t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def logits(path, sequences):
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(quiet, None)
    mp = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(path.encode(), mp)
    assert model, path
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    out = []
    for ids in sequences:
        cp = llama_cpp.llama_context_default_params()
        cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads = 64, 64, 64, 1
        cp.type_k = cp.type_v = llama_cpp.GGML_TYPE_F32
        cp.flash_attn_type = 0
        ctx = llama_cpp.llama_init_from_model(model, cp)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = t, i, 1, 0, 1
        assert llama_cpp.llama_decode(ctx, batch) == 0
        out.append([[float(f"{x:.9g}") for x in llama_cpp.llama_get_logits_ith(ctx, i)[:vocab]] for i in range(len(ids))])
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(ctx)
    llama_cpp.llama_model_free(model)
    return out


@llama_cpp.llama_log_callback
def quiet(level, text, data):
    if level >= 4:
        sys.stderr.write(text.decode())


for name in sys.argv[1:] or list(CASES) + list(GGUF_ALONE):
    d = Draw(name)
    folder = f"{DATA}/families/{name}"
    if name in GGUF_ALONE:
        folder = f"{DATA}/families-gguf/{name}"
        config = GGUF_ALONE[name](d)
        os.makedirs(folder, exist_ok=True)
        write_gguf(f"{folder}.gguf", name, config, d.t)
    else:
        config = CASES[name](d)
        save(folder, config, d.t)
        subprocess.run([sys.executable, f"{TOOLS}/make-gguf-oracles.py", name], check=True)
    tokens = [d.g.integers(3, config["vocab_size"], n).tolist() for n in LENGTHS]
    got = logits(f"{DATA}/families-gguf/{name}.gguf", tokens)
    assert all(np.isfinite(np.array(x)).all() for x in got)
    expected = dict(tokens=tokens, logits=got, source="tools/make-llamacpp-oracles.py: random numbers, run by llama.cpp",
                    licence="the project's own", llama_cpp_python=llama_cpp.__version__, dtype="float32")
    with open(f"{folder}/expected.json", "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in expected.items()) + "\n}\n")
    print(name, "largest logit", max(abs(np.array(x)).max() for x in got))
