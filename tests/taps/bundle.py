"""The bundle writer of taps/python, with the standard library alone; what it writes is read by stele. TAP.

    bundle.py STELE SOURCE FOLDER
"""
import json
import os
import struct
import subprocess
import sys

stele, source, folder = map(os.path.abspath, sys.argv[1:4])
sys.path.insert(0, os.path.join(source, "taps", "python"))
from stele_tap import TapError
from stele_tap.bundle import Bundle, key

model = os.path.join(source, "tests", "data", "families", "llama")
n = bad = 0


def check(what, ok, why=""):
    global n, bad
    n += 1
    bad += not ok
    print(f"{'ok' if ok else 'not ok'} {n} - {what}")
    if not ok and why:
        print("#", str(why).strip().replace("\n", "\n# "))


def run(*args):
    r = subprocess.run([stele, *args], capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


def read(path):
    """Header and values of a safetensors file."""
    raw = open(path, "rb").read()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    meta = header.pop("__metadata__")
    return meta, {k: (v["dtype"], v["shape"], raw[8 + length + v["data_offsets"][0]:8 + length + v["data_offsets"][1]])
                  for k, v in header.items()}


def refused(what, f):
    try:
        f()
    except TapError:
        return check(what, True)
    check(what, False, "no error")


def changed(data):
    x = list(struct.unpack(f"<{len(data) // 4}f", data))
    x[5] += 0.5
    return struct.pack(f"<{len(x)}f", *x)


os.chdir(folder)
code, text = run("trace", model, "--tokens", "1,5,9,3", "--steps", "2", "--bundle", "own.safetensors", "--quiet")
check("a trace of stele's own", code == 0, text)
meta, values = read("own.safetensors")

with Bundle("again.safetensors", tokens=json.loads(meta["tokens"]), engine="copy", rope_layout="half", heads=[4, 2, 4]) as b:
    for name, (dtype, shape, data) in values.items():
        last = name == "lm_head" and shape[0] == 1
        b.put(name, data, dtype, shape, [3] if last else None)
code, text = run("diff", "own.safetensors", "again.safetensors")
check("written again by the tap it is the same", code == 0, text)
code, text = run("inspect", "again.safetensors")
check("inspect reads tokens and engine", code == 0 and "[1, 5, 9, 3]" in text and "copy" in text, text)
code, text = run("explain", "again.safetensors", "--model", model)
check("explain finds nothing", code == 0 and "verdict match" in text, text)
mode = os.stat("again.safetensors").st_mode & 0o777
mask = os.umask(0)
os.umask(mask)
check("the file's rights are the umask's", mode == 0o666 & ~mask, oct(mode))

name = "layers.1.ffn_out"
with Bundle("fault.safetensors", tokens=json.loads(meta["tokens"])) as b:
    for k, (dtype, shape, data) in values.items():
        b.put(k, changed(data) if k == name else data, dtype, shape)
code, text = run("diff", "own.safetensors", "fault.safetensors")
check("one changed value is seen by diff", code == 3 and "first apart: ffn_out of layer 1" in text, text)
code, text = run("explain", "fault.safetensors", "--model", model)
check("one changed value is seen by explain", code == 1 and "ffn_out" in text, text)

dtype, shape, data = values["layers.0.attn_norm"]
width = shape[1] * 4
with Bundle("rows.safetensors", tokens=[1, 5, 9, 3]) as b:
    b.put("embedding", values["embedding"][2], "F32", values["embedding"][1])
    b.put("layers.0.attn_norm", memoryview(data)[2 * width:], "F32", (2, shape[1]), positions=[2, 3])
code, text = run("explain", "rows.safetensors", "--model", model)
check("rows of some positions", code == 0, text)

b = Bundle("none.safetensors", tokens=[1])
refused("a bundle of nothing is refused", b.close)
b = Bundle("bad.safetensors", tokens=[1])
refused("bytes that are not the shape", lambda: b.put("embedding", b"1234", "F32", (1, 2)))
refused("a type that is none", lambda: b.put("embedding", b"1234", "F12", (1, 1)))
b.put("embedding", b"1234", "F32", (1, 1))
refused("one name twice", lambda: b.put("embedding", b"1234", "F32", (1, 1)))
refused("positions that are not the rows", lambda: b.put("lm_head", b"1234" * 3, "F32", (1, 3), positions=[0, 1]))
b.abort()
refused("after the end", lambda: b.put("lm_head", b"1234", "F32", (1, 1)))
try:
    with Bundle("broken.safetensors", tokens=[1]) as b:
        b.put("embedding", b"1234", "F32", (1, 1))
        raise KeyError
except KeyError:
    pass
left = [f for f in os.listdir(".") if f.split(".")[0] in ("none", "bad", "broken") or f.endswith(".part")]
check("what is not finished leaves no file", not left, left)
check("names of stages", (key("attn_norm", 3), key("lm_head"), key("q_matmul", 0, 2)) ==
      ("layers.3.attn_norm", "lm_head", "steps.2.layers.0.q_matmul"))
print(f"1..{n}")
sys.exit(bad > 0)
