"""Configurations that nobody wrote by hand. Each model of tests/data/families with one key of its config.json changed, left out or
null, and with several changed at once: transformers builds the model and runs it, and stele trace computes the same logits or refuses
the model. Another number without a word is a failure. TAP, a line for each model.

    configs.py STELE SOURCE [--seed N] [--random N] [--share N/M] [--tell] [NAME ...]

What transformers cannot build or load is passed over. --tell prints refusals. --random: so many models with several changes (2).
--share: every M-th change alone, from the N-th on."""
import argparse
import copy
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import numpy as np
import torch
import transformers

transformers.logging.set_verbosity(transformers.logging.CRITICAL)
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
torch.cuda.is_current_stream_capturing = lambda: False  # a torch without its CUDA libraries would ask them

BOUND = 1e-5
IDS = [3, 7, 9, 1, 12, 5, 8, 2, 30, 17, 4, 11]

# ---- changes ----

# What changes no number of a forward pass, or how many numbers there are (a vocabulary is no matter of the arithmetic).
SKIPPED = ("vocab_size", "model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict",
           "output_attentions", "output_hidden_states", "output_router_logits", "is_encoder_decoder", "chunk_size_feed_forward",
           "id2label", "label2id", "problem_type", "initializer_range", "quantization_config", "auto_map", "tokenizer_class",
           "pad_token_id", "bos_token_id", "eos_token_id",
           "rescale_prenorm_residual",  # transformers scales loaded weights by it once more
           "max_seq_len")  # shorter than the text it cuts a bias that the text needs
# 0 of these is no model: a window that sees nothing, a bound that leaves nothing, no group to choose from.
NOT_0 = ("window", "softcap", "soft_cap", "clip", "limit", "group", "chunk")
ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "relu2", "sigmoid", "tanh", "linear")
TEXTS = {
    "scoring_func": ("softmax", "sigmoid"), "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "position_embedding_type": ("rope", "nope", "alibi", "learned"), "hidden_activation": ACTIVATIONS,
}
LAYERS = ("sliding_attention", "full_attention", "linear_attention", "chunked_attention", "mamba", "attention", "conv", "hybrid",
          "moe", "mlp", "dense", "sparse", "recurrent", "global", "local")


def rotations(old):
    theta = old.get("rope_theta", 10000.0)
    keep = {k: v for k, v in old.items() if k in ("partial_rotary_factor", "rope_theta")}
    yield dict(keep, rope_type="default", rope_theta=theta * 7 + 3)
    yield dict(keep, rope_type="linear", factor=3.0)
    yield dict(keep, rope_type="dynamic", factor=2.5)
    yield dict(keep, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, original_max_position_embeddings=16)
    yarn = dict(keep, rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=100.0, beta_fast=2.0, beta_slow=0.5)
    yield yarn
    yield dict(yarn, truncate=False)
    yield dict(yarn, attention_factor=1.3)
    yield dict(yarn, mscale=0.7, mscale_all_dim=0.4)
    yield dict(yarn, mscale=0.7)
    yield {k: v for k, v in yarn.items() if k != "original_max_position_embeddings"}
    yield {k: v for k, v in yarn.items() if not k.startswith("beta")}
    for n in (2, 3, 4):
        long = dict(keep, rope_type="longrope", short_factor=[1.0 + i / 5 for i in range(n)], long_factor=[2.0 + i for i in range(n)])
        yield dict(long, original_max_position_embeddings=8, factor=4.0)
        yield dict(long, original_max_position_embeddings=32)
    for part in (0.25, 0.5, 0.75, 1.0):
        yield dict(old, partial_rotary_factor=part)


def others(key, old, rng):
    """Other values that a key might have."""
    if key == "rope_parameters" or (key == "rope_scaling" and isinstance(old, dict)):
        if not isinstance(old, dict):
            return
        kinds = [k for k, v in old.items() if isinstance(v, dict)]
        for kind in kinds:
            for r in rotations(old[kind]):
                yield dict(old, **{kind: r})
        if not kinds:
            yield from rotations(old)
    elif isinstance(old, bool):
        yield not old
    elif isinstance(old, (int, float)):
        if "eps" in key:
            yield from (1e-2, 1e-8)
        elif isinstance(old, float):
            yield from (old * 1.5 + 0.1, old * 0.4, 1.0, 0.0)
        else:
            yield from (old + 1, old - 1, old * 2, old // 2, 0, 1)
    elif isinstance(old, str):
        if "act" in key:
            yield from ACTIVATIONS
        yield from TEXTS.get(key, ())
    elif old is None:
        yield from (True, 3, 0.6)
    elif isinstance(old, list) and old:
        yield old[::-1]
        if all(isinstance(x, str) for x in old):
            for name in sorted(set(LAYERS)):
                for i in range(len(old)):
                    yield old[:i] + [name] + old[i + 1:]
        elif all(isinstance(x, (int, float)) for x in old):
            yield [x + 1 for x in old]
            yield [0 for x in old]
            yield [x * 0.7 for x in old]
    elif isinstance(old, dict):
        for k, v in old.items():
            for x in others(k, v, rng):
                yield dict(old, **{k: x})


def changes(config, rng):
    """Descriptions of one change each: a key, and the value (ABSENT: it is left out)."""
    names = sorted(set(config) | set(known(config)))
    for key in names:
        if key in SKIPPED or key.startswith("_"):
            continue
        old = config.get(key, known(config).get(key))
        seen = [json.dumps(config.get(key))] if key in config else []
        values = list(others(key, old, rng)) + ([None] if key in config else [])
        for v in values:
            if json.dumps(v) not in seen and not (v == 0 and any(n in key for n in NOT_0) and not isinstance(v, bool)):
                seen.append(json.dumps(v))
                yield key, v
        if key in config:
            yield key, ABSENT


ABSENT = object()


def known(config, memory={}):
    """What transformers' class knows beside what the file says."""
    kind = config["model_type"]
    if kind not in memory:
        try:
            memory[kind] = transformers.AutoConfig.for_model(kind).to_dict()
        except Exception:
            memory[kind] = {}
    return memory[kind]


def changed(config, some):
    out = copy.deepcopy(config)
    for key, value in some:
        if value is ABSENT:
            out.pop(key, None)
        else:
            out[key] = value
    return out


# ---- runs ----


def read_logits(path):
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        at, (begin, end) = f.tell(), head["lm_head"]["data_offsets"]
        f.seek(at + begin)
        return np.frombuffer(f.read(end - begin), dtype=np.float32).astype(np.float64).reshape(-1, head["lm_head"]["shape"][-1])


def run_stele(stele, folder):
    out = os.path.join(folder, "out.safetensors")
    p = subprocess.run([stele, "trace", folder, "--tokens", ",".join(map(str, IDS)), "--bundle", out, "--all-logits", "--quiet",
                        "--force", "--threads", "1"], capture_output=True, text=True, timeout=60)
    if p.returncode == 0:
        return read_logits(out), None
    return None, p.stderr.strip() if p.returncode == 2 and p.stderr.count("\n") == 1 else f"CRASH {p.returncode}: {p.stderr[-300:]}"


def relative(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)) if a.shape == b.shape else float("inf")


class Sweep:
    def __init__(self, stele, source):
        spec = importlib.util.spec_from_file_location("oracles", os.path.join(source, "tools", "make-oracles.py"))
        self.oracles = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.oracles)
        self.stele = stele
        self.same = self.refused = self.wrong = self.passed_over = 0

    def load(self, folder, attention, kind):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=kind,
                                                                        output_loading_info=True)
        model.config._experts_implementation = "eager"
        if any(v for k, v in info.items() if k.endswith("_keys")):
            raise ValueError("does not load whole")
        return model.eval()

    def logits(self, model):
        with torch.no_grad():
            return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].double().numpy()

    def exact(self, folder, attention):
        """In f64 where the model can: rounding of f32 is not held against anybody."""
        try:
            with self.oracles.doubles(torch):
                return self.logits(self.load(folder, attention, torch.float64))
        except Exception:
            return None

    def make(self, config, folder, attention, seed):
        """The model's numbers in the folder, with the configuration as it is given; transformers' logits."""
        path = os.path.join(folder, "config.json")
        with open(path, "w") as f:
            json.dump(config, f)
        read = transformers.AutoConfig.from_pretrained(folder)
        # A size that is left out is that of a large model: counted before there is memory for it.
        with torch.device("meta"):
            if sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(copy.deepcopy(read)).parameters()) > 3e6:
                raise ValueError("too large")
        torch.manual_seed(seed)
        model = self.oracles.build(read, torch, attention)
        self.oracles.fill(model, torch, torch.Generator().manual_seed(seed))
        model.tie_weights()
        model.save_pretrained(folder)
        with open(path, "w") as f:
            json.dump(config, f)
        out = self.logits(self.load(folder, attention, torch.float32))
        if not np.isfinite(out).all():
            raise ValueError("no finite logits")
        return out

    def try_one(self, name, config, attention, what, seed, tell):
        with tempfile.TemporaryDirectory() as folder:
            try:
                want = self.make(config, folder, attention, seed)
            except Exception as e:
                self.passed_over += 1
                if tell == 2:
                    print(f"# {name}: {what}: transformers: {type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}")
                return
            got, why = run_stele(self.stele, folder)
            if why and not why.startswith("CRASH"):
                self.refused += 1
                if tell:
                    print(f"# {name}: {what}: refused: {why.split(': ', 2)[-1][:200]}", flush=True)
                return
            apart = relative(got, want) if got is not None else float("inf")
            bound = BOUND
            if got is not None and apart > BOUND:
                better = self.exact(folder, attention)
                apart = min(apart, relative(got, better)) if better is not None else apart
                bound = BOUND if better is not None else 10 * BOUND  # f32 alone
            if got is not None and apart <= bound:
                self.same += 1
                return
            self.wrong += 1
            print(f"# {name}: {what}: WRONG: " + (why or f"relative L2 {apart:.3g}"), flush=True)


def shown(some):
    return ", ".join(f"{k} {'absent' if v is ABSENT else json.dumps(v)}" for k, v in some)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("stele")
    p.add_argument("source")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--random", type=int, default=2)
    p.add_argument("--share", default="0/1")
    p.add_argument("--tell", type=int, default=0)
    p.add_argument("name", nargs="*")
    a = p.parse_intermixed_args()
    first, step = map(int, a.share.split("/"))
    sweep = Sweep(a.stele, a.source)
    root, n = os.path.join(a.source, "tests", "data", "families"), 0
    for name in a.name or sorted(os.listdir(root)):
        if name not in sweep.oracles.CASES or sweep.oracles.CASES[name]["recast"]:
            continue
        attention = sweep.oracles.CASES[name]["attention"]
        with open(os.path.join(root, name, "config.json")) as f:
            config = json.load(f)
        if config["model_type"] == "falcon":
            attention = "sdpa"  # the eager one adds its ALiBi twice
        rng = random.Random(f"{name} {a.seed}")
        alone = list(changes(config, rng))
        before, wrong = sweep.same, sweep.wrong
        for i, some in enumerate(alone):
            if i % step == first:
                sweep.try_one(name, changed(config, [some]), attention, shown([some]), a.seed, a.tell)
        for _ in range(a.random):
            some = rng.sample(alone, 3)
            sweep.try_one(name, changed(config, some), attention, shown(some), a.seed, a.tell)
        n += 1
        print(f"{'not ok' if sweep.wrong > wrong else 'ok'} {n} - {name}: {sweep.same - before} with equal logits", flush=True)
    n += 1
    enough = 4 * sweep.same > sweep.refused
    print(f"{'ok' if enough else 'not ok'} {n} - not most are refused")
    print(f"1..{n}")
    print(f"# {sweep.same} with equal logits, {sweep.refused} refused, {sweep.passed_over} that transformers has not, {sweep.wrong} wrong")
    return 0 if enough and not sweep.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
