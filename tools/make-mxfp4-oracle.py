#!/usr/bin/env python3
"""Make tests/data/families/gpt_oss-mxfp4: a tiny random gpt-oss whose experts are stored as MXFP4, as its publisher stores them.

    python3 tools/make-mxfp4-oracle.py [--out FOLDER]

Codes and exponents are drawn, so that the numbers they stand for are exact; transformers computes the logits in f64 with these numbers as
plain weights. Needs torch and transformers (versions: tests/data/families/README.md).
"""
import argparse
import json
import os

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

HERE = os.path.join(os.path.dirname(__file__), "..", "tests", "data", "families")
LEVELS = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
TOKENS = [[3, 7, 9, 1, 12], [5, 30, 2, 17, 8, 8, 21, 4, 19, 11, 26, 6]]


def packed(stack, rng):
    """Codes for a stack [experts, in, out], and the numbers that they stand for in that form."""
    experts, inner, out = stack.shape
    codes = rng.integers(0, 16, (experts, out, inner // 32, 32), dtype=np.uint8)
    scales = rng.integers(122, 127, codes.shape[:3], dtype=np.uint8)
    numbers = LEVELS[codes] * (2.0 ** (scales.astype(float) - 127))[..., None]
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales, numbers.reshape(experts, out, inner).transpose(0, 2, 1)


p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
p.add_argument("--out", default=os.path.join(HERE, "gpt_oss-mxfp4"))
args = p.parse_args()
os.makedirs(args.out, exist_ok=True)
with open(os.path.join(HERE, "gpt_oss", "config.json")) as f:
    config = json.load(f)
config |= dict(hidden_size=32, intermediate_size=32, head_dim=8, num_attention_heads=4, num_key_value_heads=2, vocab_size=32,
               swiglu_limit=7.0)
config["rope_parameters"]["truncate"] = True  # as readers of GGUF do always
torch.manual_seed(5)
rng = np.random.default_rng(3)
model = transformers.AutoModelForCausalLM.from_config(transformers.GptOssConfig(**config), attn_implementation="eager",
                                                      experts_implementation="eager").double()
tensors, numbers = {}, {}
for name, x in model.state_dict().items():
    stack = name.endswith(("gate_up_proj", "down_proj"))
    if stack:
        tensors[name + "_blocks"], tensors[name + "_scales"], y = packed(x, rng)
    else:
        y = torch.nn.init.normal_(x.clone(), 1 if "norm" in name else 0, 0.1 if "norm" in name else 0.3).float().numpy()
        tensors[name] = np.ascontiguousarray(y)
    numbers[name] = torch.tensor(np.ascontiguousarray(y)).double()
model.load_state_dict(numbers)
with torch.no_grad():
    logits = [model(torch.tensor([t]), use_cache=False).logits[0].tolist() for t in TOKENS]
save_file(tensors, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
config["quantization_config"] = dict(quant_method="mxfp4")
with open(os.path.join(args.out, "config.json"), "w") as f:
    json.dump(config, f, indent=2, sort_keys=True)
    f.write("\n")
with open(os.path.join(args.out, "expected.json"), "w") as f:
    json.dump(dict(source="tools/make-mxfp4-oracle.py: random numbers, run by transformers", licence="the project's own",
                   transformers=transformers.__version__, torch=torch.__version__.split("+")[0], dtype="float64", tokens=TOKENS,
                   logits=logits), f, separators=(",", ":"))
    f.write("\n")
