"""Every model of tests/data/families that convert carries to GGUF and back: transformers loads the folder, misses nothing in it, passes
nothing over, and computes the logits that it computed for the original. Of families whose model there has something that GGUF does not
say, another one is made without it."""
import importlib.util, json, os, subprocess, sys, tempfile

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

torch.cuda.is_current_stream_capturing = lambda: False  # a torch without its CUDA libraries would ask them
stele, root = sys.argv[1], sys.argv[2]
BOUND = 1e-6  # f32 arithmetic of a mixture; the others are computed in f64

SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
EVERY_4TH = [LINEAR, LINEAR, LINEAR, FULL]
# What readers of GGUF have in their code in the place of a key, or have no word for.
SAYABLE = {
    "cohere2": dict(layer_types=[SLIDING, SLIDING]),  # every fourth layer sees all
    "deepseek_v2": dict(rope_parameters=dict(mscale=0.5)),  # one number for mscale and mscale_all_dim
    "dots1": dict(sliding_window=None, layer_types=None),
    "exaone4": dict(layer_types=[SLIDING, SLIDING]),
    "gemma2": dict(query_pre_attn_scalar=8),  # the size of a head
    "gemma3_text": dict(layer_types=[SLIDING, SLIDING, SLIDING], query_pre_attn_scalar=8),  # every sixth
    "gpt_oss": dict(swiglu_limit=7.0, rope_parameters=dict(truncate=True)),
    "hunyuan_v1_dense": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, alpha=None, factor=None)),
    "llama": dict(rope_parameters=dict(rope_type="default", rope_theta=5000.0, factor=None, low_freq_factor=None, high_freq_factor=None,
                                       original_max_position_embeddings=None)),
    "llama4_text": dict(attention_chunk_size=8192, floor_scale=8192),
    "minicpm3": dict(scale_emb=12, scale_depth=1.4, dim_model_base=256),
    "mpt": dict(attn_config=dict(softmax_scale=None)),
    "olmo3": dict(layer_types=[SLIDING, SLIDING]),
    "qwen2": dict(use_sliding_window=False, sliding_window=None, layer_types=None),
    "qwen2_moe": dict(mlp_only_layers=[]),
    "qwen3_5_text": dict(linear_num_value_heads=2, linear_value_head_dim=4, num_hidden_layers=4, layer_types=EVERY_4TH),
    "qwen3_moe": dict(mlp_only_layers=[]),
    "qwen3_next": dict(linear_value_head_dim=4, num_hidden_layers=4, layer_types=EVERY_4TH),
    "smollm3": dict(no_rope_layers=[1, 1, 1]),
}


def logits(folder, ids):
    for kind in (torch.float64, torch.float32):  # grouped products of experts have no f64
        try:
            model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation='eager',
                                                               experts_implementation='eager', output_loading_info=True)
            model.eval()
            with torch.no_grad():
                out = model(torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
            return out, [f'{k}: {sorted(v)[0]}' for k, v in info.items() if v and k.endswith('_keys')]
        except RuntimeError:
            if kind == torch.float32:
                raise


def carried(model, out):
    """The folder that comes back, or None and why not."""
    gguf, back = os.path.join(out, 'm.gguf'), os.path.join(out, 'back')
    for a, b in ((model, gguf), (gguf, back)):
        p = subprocess.run([stele, 'convert', a, b, '--quiet'], capture_output=True, text=True)
        if p.returncode:
            return None, p.stderr.strip()
    return back, None


def merged(config, changes):
    for k, v in changes.items():
        if isinstance(v, dict):
            merged(config[k], v)
        elif v is None:
            config.pop(k, None)
        else:
            config[k] = v
    return config


def variant(name, sweep, out):
    """The model without what GGUF cannot say; its folder, token ids and logits."""
    folder = os.path.join(out, 'variant')
    os.mkdir(folder)
    with open(os.path.join(root, name, 'config.json')) as f:
        config = merged(json.load(f), SAYABLE[name])
    sweep.make(config, folder, 'eager', 7)
    ids = [3, 7, 9, 1, 12, 5, 8, 2]
    want, strange = logits(folder, ids)
    assert not strange, strange
    return folder, ids, want


def helper(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + '.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sweep = helper('configs').Sweep(stele, os.path.join(root, '..', '..', '..'))
names, n, bad = sorted(os.listdir(root)), 0, 0
for name in names:
    expected = os.path.join(root, name, 'expected.json')
    if not os.path.exists(expected):
        continue
    with tempfile.TemporaryDirectory() as out:
        why = ''
        try:
            if name in SAYABLE:
                original, ids, want = variant(name, sweep, out)
            else:
                e = json.load(open(expected))
                original, ids, want = os.path.join(root, name), e['tokens'][0], np.array(e['logits'][0])
                with open(os.path.join(original, 'config.json')) as f:
                    if json.load(f)['model_type'] not in CONFIG_MAPPING:
                        continue  # transformers has no class for it
            folder, refused = carried(original, out)
            if not folder and name not in SAYABLE:
                continue  # tests/convert/test_described.c says which and why
            if folder:
                got, strange = logits(folder, ids)
                apart = np.linalg.norm(got - want) / np.linalg.norm(want)
                why = '' if apart <= BOUND and not strange else f'relative L2 {apart:.3g} {"; ".join(strange)}'
            else:
                why = refused
        except Exception as x:
            why = str(x).strip().split('\n')[-1][:200]
        n += 1
        bad += bool(why)
        print(f'{"not ok" if why else "ok"} {n} - {name}{", without what GGUF does not say" if name in SAYABLE else ""}', flush=True)
        if why:
            print(f'# {why}')
print(f'1..{n}' if n >= 60 else f'1..{n + 1}\nnot ok {n + 1} - at least 60 models are carried')
sys.exit(bad > 0 or n < 60)
