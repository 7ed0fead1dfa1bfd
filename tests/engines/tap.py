"""stele tap on llama.cpp: in a process of llama-cpp-python and in a program linked with its libraries. TAP.

    tap.py STELE SOURCE FOLDER MODEL...
    tap.py run MODEL TOKENS STEPS N_UBATCH FLASH TYPE_K TYPE_V      the engine: prints the hash of all logits

Logits have the same bits with and without the tap; what was kept is judged by explain, and is what stele_tap.llama_cpp keeps.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys


def run(model, tokens, steps, ubatch, flash, keys, values):
    import ctypes

    import llama_cpp
    llm = llama_cpp.Llama(model, n_ctx=1024, n_batch=512, n_ubatch=ubatch, n_threads=2, verbose=False, flash_attn=bool(flash), type_k=keys, type_v=values)
    vocabulary, digest = llm.n_vocab(), hashlib.sha256()

    def evaluate(ids):
        llm.eval(ids)
        digest.update(ctypes.string_at(llama_cpp.llama_get_logits(llm.ctx), 4 * vocabulary))
    evaluate([(7 * i + 3) % vocabulary for i in range(tokens)])
    for s in range(steps):
        evaluate([(13 * s + 11) % vocabulary])
    print(digest.hexdigest())


if sys.argv[1] == "run":
    run(sys.argv[2], *map(int, sys.argv[3:]))
    sys.exit()

stele, source, folder = sys.argv[1:4]
sys.path.insert(0, os.path.join(source, "taps", "python"))
n = bad = 0


def say(ok, what, remarks=""):
    global n, bad
    n += 1
    bad += not ok
    print(f"{'ok' if ok else 'not ok'} {n} - {what}")
    if remarks:
        print("# " + str(remarks).strip().replace("\n", "\n# "))
    sys.stdout.flush()


def command(*args):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True, errors="replace")
    return r.returncode, r.stdout, r.stderr


def header(path):
    with open(path, "rb") as f:
        h = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return h.pop("__metadata__"), h


trace = os.path.join(folder, "t.safetensors")
names = {0: "F32", 1: "F16", 8: "Q8_0"}


def tapped(model, tokens, steps, ubatch, flash, keys, values, *options):
    what = f"{os.path.basename(model)}, {tokens} tokens in pieces of {ubatch}, {steps} steps, flash attention {'on' if flash else 'off'}, {names[keys]} cache"
    engine = (sys.executable, __file__, "run", model, tokens, steps, ubatch, flash, keys, values)
    code, without, err = command(*engine)
    if code:
        return print(f"# {what}: llama.cpp: {err.strip().splitlines()[-1][:100] if err.strip() else code}")
    code, within, err = command(stele, "tap", "-o", trace, "--steps", steps, *options, "--", *engine)
    tail = [line for line in err.splitlines() if line.startswith("stele tap")]
    say(code == 0 and within == without, what + ": the logits are the same bits", "\n".join(tail) if tail else err[-300:])
    if code:
        return
    code, out, err = command(stele, "explain", "--json", trace, "--model", model)
    report = json.loads(out) if out else {}
    say(report.get("verdict") in ("match", "noise"), f"{what}: {report.get('verdict', err)}",
        "".join(f.get("text") or (f.get("cause") or {}).get("text", "") for f in report.get("findings", [])[:3]))
    meta, entries = header(trace)
    say(len(json.loads(meta["tokens"])) == tokens and sum(k.endswith(".token") for k in entries) == steps and "model_sha256" in meta
        and meta["flash_attention"] == ("on" if flash else "off"), what + ": tokens, steps and provenance",
        " ".join(f"{k}={v}" for k, v in meta.items() if k not in ("tokens",) and not k.startswith("positions")))


models = sys.argv[4:]
for model in models:
    pretrained = os.path.getsize(model) > 50 << 20
    for flash, keys in ((0, 1), (1, 1), (1, 8)):
        tapped(model, 9, 2, 512, flash, keys, keys)
    tapped(model, 40, 1, 16, 0, 1, 1)
    if pretrained:
        tapped(model, 200, 1, 64, 1, 1, 1)
        tapped(model, 9, 1, 512, 0, 1, 1, "--all")

# A program of one's own in C, linked with the libraries: no Python in the process.
import llama_cpp

library = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
include = os.path.join(os.path.dirname(os.path.dirname(llama_cpp.__file__)), "include")
program = os.path.join(folder, "run-llama")
if shutil.which("cc") and os.path.exists(os.path.join(include, "llama.h")):
    code, _, err = command("cc", "-I", include, os.path.join(os.path.dirname(__file__), "run_llama.c"), "-o", program, "-L", library, "-lllama", "-lggml",
                           "-lggml-base", f"-Wl,-rpath,{library}")
    say(code == 0, "a C program is linked with the libraries", err)
    for model in models if code == 0 else ():
        what = f"C program, {os.path.basename(model)}"
        _, without, _ = command(program, model)
        code, within, err = command(stele, "tap", "-o", trace, "--", program, model)
        say(code == 0 and within == without and len(within) > 100, what + ": the logits are the same bits, the warm-up is passed over", err[-300:])
        code, out, err = command(stele, "explain", "--json", trace, "--model", model)
        say(code == 0, f"{what}: {json.loads(out).get('verdict') if out else err}")
else:
    print("# no C compiler or no llama.h: the program in C was not tried")
print(f"1..{n}")
sys.exit(bad > 0)
