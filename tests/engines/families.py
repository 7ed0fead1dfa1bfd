"""Every model of tests/data/families that convert carries to GGUF and back: transformers loads the folder, misses nothing in it, passes
nothing over, and computes the logits that it computed for the original."""
import json, os, subprocess, sys, tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

torch.cuda.is_current_stream_capturing = lambda: False  # a torch without its CUDA libraries would ask them
stele, root = sys.argv[1], sys.argv[2]
BOUND = 1e-6  # f32 arithmetic of a mixture; the others are computed in f64


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
    gguf, back = os.path.join(out, 'm.gguf'), os.path.join(out, 'back')
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if subprocess.run([stele, 'convert', model, gguf], **quiet).returncode:
        return None
    return back if subprocess.run([stele, 'convert', gguf, back], **quiet).returncode == 0 else None


names, n, bad = sorted(os.listdir(root)), 0, 0
for name in names:
    expected = os.path.join(root, name, 'expected.json')
    if not os.path.exists(expected):
        continue
    with tempfile.TemporaryDirectory() as out:
        folder = carried(os.path.join(root, name), out)
        if not folder:
            continue  # refused: tests/convert/test_described.c says which and why
        e = json.load(open(expected))
        n += 1
        try:
            got, strange = logits(folder, e['tokens'][0])
            want = np.array(e['logits'][0])
            apart = np.linalg.norm(got - want) / np.linalg.norm(want)
            why = '' if apart <= BOUND and not strange else f'relative L2 {apart:.3g} {"; ".join(strange)}'
        except Exception as x:
            why = str(x).strip().split('\n')[-1][:200]
        bad += bool(why)
        print(f'{"not ok" if why else "ok"} {n} - {name}')
        if why:
            print(f'# {why}')
print(f'1..{n}' if n >= 40 else f'1..{n + 1}\nnot ok {n + 1} - at least 40 models are carried')
sys.exit(bad > 0 or n < 40)
