"""What real engines compute, judged by stele explain. TAP.

    explain.py STELE SOURCE FOLDER transformers | faults | mlx | llama.cpp MODEL...

transformers: every family of tests/data/families that it loads, in several types and attention functions, with generate(); then faults
that are planted by replacing a function at run time. llama.cpp: each GGUF with and without flash attention, with several caches.
"""
import contextlib
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import time

stele, source, folder, engine = sys.argv[1:5]
sys.path.insert(0, os.path.join(source, "taps", "python"))
families = os.path.join(source, "tests", "data", "families")
n = bad = 0


def say(ok, what, remarks=""):
    global n, bad
    n += 1
    bad += not ok
    print(f"{'ok' if ok else 'not ok'} {n} - {what}")
    if remarks:
        print("# " + str(remarks).strip().replace("\n", "\n# "))
    sys.stdout.flush()


def judged(trace, model):
    start = time.time()
    r = subprocess.run([stele, "explain", "--json", trace, "--model", model], capture_output=True, text=True)
    try:
        report = json.loads(r.stdout)
    except ValueError:
        report = {"message": r.stderr}
    report["seconds"] = time.time() - start
    return report


def arithmetics(report):
    """The arithmetic named for each stage, but for f32."""
    found = {}
    for s in report.get("stages", []):
        kind = (s.get("local") or {}).get("kind")
        if kind and kind != "f32":
            found.setdefault(kind, set()).add(s["stage"])
    return "; ".join(f"{k}: {' '.join(sorted(v)) if len(v) < 6 else f'{len(v)} stages'}" for k, v in found.items())


def clean(what, report, allowed):
    """Clean, and single operations by no other arithmetic than those."""
    verdict = report.get("verdict")
    named = {(s.get("local") or {}).get("kind") for s in report.get("stages", []) if not s.get("segment_from")} - {None, "f32"}
    strange = sorted(k for k in named if not any(k.startswith(a) for a in allowed))
    why = "" if verdict in ("match", "noise") else "\n".join(f.get("text") or (f.get("cause") or {}).get("text", "") for f in report.get("findings", []))
    why = why or report.get("message", "")
    say(verdict in ("match", "noise") and not strange, f"{what}: {verdict}, {report['seconds']:.1f} s, {len(report.get('stages', []))} values",
        (why + "\n" if why else "") + arithmetics(report) + (f"\nunexpected: {strange}" if strange else ""))


# ---- transformers ----


def run_transformers(only_faults):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    import stele_tap.transformers as tap
    torch.cuda.is_current_stream_capturing = lambda: False  # a torch without its CUDA libraries would ask them
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Engine against itself: eager Falcon with ALiBi is 5 % from sdpa, which is what the expected logits have.
    wrong = {("falcon-rw", "eager")}
    unknown = {p for p in os.listdir(families) if os.path.isdir(os.path.join(families, p))
               and subprocess.run([stele, "family", "check", os.path.join(families, p)], capture_output=True).returncode == 2}

    def load(name, dtype, attention):
        return AutoModelForCausalLM.from_pretrained(os.path.join(families, name), dtype=getattr(torch, dtype), attn_implementation=attention,
                                                    experts_implementation="eager").eval()

    def tokens(name):
        return torch.tensor([json.load(open(os.path.join(families, name, "expected.json")))["tokens"][1]])

    def capture(name, model, generate=False):
        path = os.path.join(folder, "t.safetensors")
        with torch.no_grad(), tap.trace(model, path):
            if generate:
                model.generate(tokens(name), max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
            else:
                model(tokens(name), use_cache=False)
        return path

    def sound(name, dtype, attention, generate=False):
        what = f"transformers, {name}, {dtype}, {attention}{', generate' if generate else ''}"
        try:
            model = load(name, dtype, attention)
        except Exception as e:
            return print(f"# {what}: not loaded: {str(e).strip()[:120]}".replace("\n", " "))
        own = os.path.join(families, name)
        if dtype != "float32":
            own = os.path.join(folder, f"m-{name}-{dtype}")
            model.save_pretrained(own)
            # The keys as the family's folder has them: what transformers adds when it writes is not at issue here.
            with open(os.path.join(families, name, "config.json")) as f:
                config = json.load(f)
            with open(os.path.join(own, "config.json"), "w") as f:
                json.dump({**config, "dtype": dtype}, f)
        try:
            path = capture(name, model, generate)
        except Exception as e:
            return say(False, what, f"{type(e).__name__}: {e}")
        report = judged(path, own)
        if (name, attention) in wrong:
            return say(report.get("verdict") == "fault", what + ": the engine's own fault is seen", report.get("findings", [{}])[0].get("text", ""))
        clean(what, report, {"float32": (), "bfloat16": ("bf16", "written down in bf16"), "float16": ("f16", "written down in f16")}[dtype])

    names = sorted(p for p in os.listdir(families) if os.path.exists(os.path.join(families, p, "expected.json")) and p not in unknown)
    for name in names if not only_faults else ():
        sound(name, "float32", "eager")
        sound(name, "float32", "sdpa")
        for dtype in ("bfloat16", "float16"):
            sound(name, dtype, "eager")
            sound(name, dtype, "sdpa")
    for name in ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral", "gpt2", "olmo2", "deepseek_v3", "mistral", "starcoder2", "gpt_oss") if not only_faults else ():
        sound(name, "float32", "eager", generate=True)
        sound(name, "bfloat16", "sdpa", generate=True)
        sound(name, "float16", "eager", generate=True)

    if not only_faults:
        say(n >= 360, f"at least 360 runs, {n} were made")

    # ---- faults ----

    @contextlib.contextmanager
    def replaced(owner, attribute, value):
        old = getattr(owner, attribute)
        setattr(owner, attribute, value)
        try:
            yield
        finally:
            setattr(owner, attribute, old)

    def source_of(model):
        return sys.modules[type(model).__module__]

    def layer(model, i=1):
        return model.model.layers[i]

    def eps(m):
        return replaced(layer(m).input_layernorm, "variance_epsilon" if hasattr(layer(m).input_layernorm, "variance_epsilon") else "eps", 1e-2)

    def theta(m):
        f = m.model.rotary_emb.inv_freq
        d = 2 * f.numel()
        return replaced(m.model.rotary_emb, "inv_freq", 1.0 / (50.0 ** (torch.arange(0, d, 2).float() / d)))

    def in_attention(change):
        """Arguments of layer 1's attention function, changed."""
        def plant(m):
            s = source_of(m)
            old = s.eager_attention_forward

            def f(module, query, key, value, attention_mask, *args, **kwargs):
                if module.layer_idx == 1:
                    query, key, value, attention_mask, kwargs = change(module, query, key, value, attention_mask, dict(kwargs))
                return old(module, query, key, value, attention_mask, *args, **kwargs)
            return replaced(s, "eager_attention_forward", f)
        return plant

    def scale(module, q, k, v, mask, kw):
        kw["scaling"] = kw.get("scaling", module.scaling) * 1.5
        return q, k, v, mask, kw

    def no_cap(module, q, k, v, mask, kw):
        kw["softcap"] = None
        return q, k, v, mask, kw

    def no_mask(module, q, k, v, mask, kw):
        return q, k, v, None, kw

    def wide(module, q, k, v, mask, kw):
        t = q.shape[2]
        causal = torch.full((t, t), torch.finfo(q.dtype).min).triu(1)
        return q, k, v, causal[None, None], kw

    def kv_modulo(m):
        return replaced(source_of(m), "repeat_kv", lambda x, times: x.repeat(1, times, 1, 1))  # head h reads h mod groups

    def values_of_keys(module, q, k, v, mask, kw):
        return q, v, k, mask, kw

    def activation(m):
        return replaced(layer(m).mlp, "act_fn", torch.nn.ReLU())

    def swapped(m):
        mlp = layer(m).mlp
        return replaced(mlp, "forward", lambda h: mlp.down_proj(mlp.act_fn(mlp.up_proj(h)) * mlp.gate_proj(h)))

    def no_residual(m):
        """What attention gives is made so that the sum has no stream in it."""
        block = layer(m)
        attention = block.self_attn
        forward = attention.forward

        def f(*args, **kwargs):
            out = forward(*args, **kwargs)
            return (out[0] - f.stream, *out[1:])
        handle = block.register_forward_pre_hook(lambda mod, args, kw: setattr(f, "stream", args[0] if args else kw["hidden_states"]), with_kwargs=True)
        x = contextlib.ExitStack()
        x.callback(handle.remove)
        x.enter_context(replaced(attention, "forward", f))
        return x

    def renormalised(m):
        gate = layer(m).mlp.gate
        forward = gate.forward

        def f(*args, **kwargs):
            logits, weights, indices = forward(*args, **kwargs)
            probs = torch.nn.functional.softmax(logits.float(), -1)
            return logits, probs.gather(1, indices), indices  # shares of all, not of the chosen
        return replaced(gate, "forward", f)

    def plus_one(m):
        norm = layer(m).input_layernorm
        return replaced(norm, "forward", lambda x: norm._norm(x.float()).type_as(x) * norm.weight)

    def no_bias(m):
        v = layer(m).self_attn.v_proj
        return replaced(v, "forward", lambda x: torch.nn.functional.linear(x, v.weight))

    def head_norm(m):
        a = layer(m).self_attn
        x = contextlib.ExitStack()
        q, k = a.q_norm.weight, a.k_norm.weight
        x.enter_context(replaced(a.q_norm, "weight", k))
        x.enter_context(replaced(a.k_norm, "weight", q))
        return x

    def shifted(m):
        r = m.model.rotary_emb
        forward = r.forward
        return replaced(r, "forward", lambda x, position_ids, *a, **k: forward(x, position_ids + 1, *a, **k))

    def pairs(m):
        s = source_of(m)

        def f(x):
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

        def apply(q, k, cos, sin, *args, **kwargs):
            cos, sin = (t[..., :t.shape[-1] // 2].repeat_interleave(2, -1).unsqueeze(1) for t in (cos, sin))
            return q * cos + f(q) * sin, k * cos + f(k) * sin
        return replaced(s, "apply_rotary_pos_emb", apply)

    def embed_scale(m):
        return replaced(m.model.embed_tokens, "embed_scale", torch.tensor(1.0))

    def head(m):
        return replaced(m.config, "final_logit_softcapping", None)

    faults = [
        ("llama", "norm.eps", eps), ("llama", "rope.theta", theta), ("llama", "attn.scale", in_attention(scale)),
        ("llama", "attn.mask_missing", in_attention(no_mask)), ("mistral", "attn.window", in_attention(wide)),
        ("llama", "attn.gqa_mapping", kv_modulo), ("llama", "attn.kv_swapped", in_attention(values_of_keys)),
        ("llama", "ffn.activation", activation), ("llama", "ffn.gate_up_swapped", swapped), ("qwen3", "residual.missing", no_residual),
        ("mixtral", "moe.topk_norm", renormalised), ("gemma2", "norm.plus_one", plus_one), ("qwen2", "bias.missing", no_bias),
        ("qwen3", "norm.wrong_weight", head_norm), ("llama", "rope.position_offset", shifted), ("llama", "rope.style", pairs),
        ("gemma2", "attn.softcap", in_attention(no_cap)), ("gemma2", "embedding.scale", embed_scale), ("gemma2", "head.softcap", head),
    ]
    for name, code, plant in faults:
        what = f"transformers, {name}: {code}"
        try:
            model = load(name, "float32", "eager")
            with plant(model):
                path = capture(name, model)
            report = judged(path, os.path.join(families, name))
        except Exception as e:
            say(False, what, f"{type(e).__name__}: {e}")
            continue
        found = (report.get("findings") or [{}])[0]
        cause = found.get("cause") or {}
        codes = [cause.get("code")] + [e if isinstance(e, str) else e.get("code") for e in cause.get("equivalent", [])]
        say(report.get("verdict") == "fault" and code in codes, what, cause.get("text") or report.get("message") or report.get("verdict"))


# ---- llama.cpp ----


def run_llama(models):
    import stele_tap.llama_cpp as tap
    names = {0: "F32", 1: "F16", 8: "Q8_0"}

    def sound(model, flash, keys, values, length, steps):
        cache = names[keys] if keys == values else f"{names[keys]}/{names[values]}"
        what = f"llama.cpp, {os.path.basename(model)}, {cache} cache, flash attention {'on' if flash else 'off'}, {length} tokens, {steps} steps"
        path = os.path.join(folder, "l.safetensors")
        try:
            with tap.trace(path) as t:
                llm = t.Llama(model, n_ctx=512, n_batch=512, n_ubatch=512, flash_attn=flash, n_threads=2, type_k=keys, type_v=values)
                vocabulary = llm.n_vocab()
                llm.eval([(7 * i + 3) % vocabulary for i in range(length)])
                for s in range(steps):
                    llm.eval([(13 * s + 11) % vocabulary])
                del llm
        except ValueError as e:  # heads that the type does not divide
            return print(f"# {what}: {e}")
        except Exception as e:
            return say(False, what, f"{type(e).__name__}: {e}")
        weights = ("f16 operands", "bf16 operands", "q8_0 activations", "q8_k activations", "f16 table of GELU", "activations as each weight")
        half = ("f16 cache", "f16 attention", "flash attention")  # what flash attention sums in, and probabilities before an F16 V
        attention = {0: (), 1: half, 8: ("q8_0 cache",)}
        clean(what, judged(path, model), weights + attention[keys] + attention[values] + (half if flash else ()))
        os.unlink(path)

    def fault(model, code, cache, plant=None, **options):
        """Mistakes that llama.cpp makes on request: its options against what the file says."""
        what = f"llama.cpp, {os.path.basename(model)}, {cache} cache: {code}"
        path = os.path.join(folder, "l.safetensors")
        kind = {v: k for k, v in names.items()}[cache]
        try:
            with tap.trace(path) as t:
                llm = t.Llama(model, n_ctx=512, n_threads=2, flash_attn=False, type_k=kind, type_v=kind, **options)
                if plant:
                    plant(t, llm)
                llm.eval([(7 * i + 3) % llm.n_vocab() for i in range(12)])
                del llm
        except Exception as e:
            return say(False, what, f"{type(e).__name__}: {e}")
        report = judged(path, model)
        cause = (report.get("findings") or [{}])[0].get("cause") or {}
        codes = [cause.get("code")] + [e if isinstance(e, str) else e.get("code") for e in cause.get("equivalent", [])]
        say(report.get("verdict") == "fault" and code in codes, what, cause.get("text") or report.get("message") or report.get("verdict"))

    def sees_all(t, llm):
        t.low.llama_set_causal_attn(llm.ctx, False)

    for model in models:
        pretrained = os.path.getsize(model) > 50 << 20
        for length in (4, 40, 200) if pretrained else (10, 200):
            for flash, keys, values in ((False, 0, 0), (False, 1, 1), (False, 8, 1), (True, 0, 0), (True, 1, 1), (True, 8, 8)):
                # Keys alone in Q8_0: llama.cpp aborts where heads are no multiple of 32, as those of the tiny models.
                if (keys or length < 40) and (keys == values or pretrained):
                    sound(model, flash, keys, values, length, 2 if length < 40 else 1)
        with open(model, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            arch = re.search(rb"general.architecture.{12}([a-z0-9]+)", m, re.DOTALL)[1].decode()
        for cache in ("F32", "F16"):
            fault(model, "norm.eps", cache, kv_overrides={arch + ".attention.layer_norm_rms_epsilon": 1e-1})
            fault(model, "rope.theta", cache, rope_freq_base=777.0)
            fault(model, "rope.freq_scaling", cache, rope_freq_scale=0.5)
            fault(model, "attn.mask_missing", cache, sees_all)


# ---- mlx ----


def run_mlx():
    from pathlib import Path

    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    import stele_tap.mlx as tap

    def run(name, config=None):
        """The report on a prompt and two steps; config: keys of config.json that are other ones."""
        own = os.path.join(folder, name)
        shutil.copytree(os.path.join(families, name), own, dirs_exist_ok=True)
        if config:
            with open(os.path.join(own, "config.json")) as f:
                config = {**{k: v for k, v in json.load(f).items() if k != "rope_parameters"}, **config}
            with open(os.path.join(own, "config.json"), "w") as f:
                json.dump(config, f)
        model, _ = load_model(Path(own))
        with open(os.path.join(own, "expected.json")) as f:
            ids = mx.array([json.load(f)["tokens"][1]])
        plain, cache, path = model(ids), make_prompt_cache(model), os.path.join(folder, "m.safetensors")
        with tap.trace(model, path):
            watched = model(ids, cache=cache)
            model(mx.array([[3]]), cache=cache)
            model(mx.array([[5]]), cache=cache)
        say(bool(mx.all(plain == watched)), f"mlx, {name}: the logits are the same bits")
        return judged(path, own)

    clean("mlx, qwen3", run("qwen3"), ())
    clean("mlx, qwen2", run("qwen2", {"rope_theta": 10000.0, "use_sliding_window": False, "layer_types": ["full_attention"] * 2}), ())
    clean("mlx, mistral", run("mistral", {"rope_theta": 10000.0, "sliding_window": None}), ())
    # Its own: rope_parameters are not read, and there is no sliding window.
    for name, code in (("llama", "rope.theta"), ("mistral", "attn.window"), ("gemma2", "attn.window")):
        cause = (run(name).get("findings") or [{}])[0].get("cause") or {}
        say(cause.get("code") == code, f"mlx, {name}: the engine's own fault is seen", cause.get("text"))


if engine == "mlx":
    run_mlx()
elif engine == "llama.cpp":
    run_llama(sys.argv[5:])
else:
    run_transformers(engine == "faults")
print(f"1..{n}" if n else "1..0 # SKIP nothing could be run")
sys.exit(bad > 0)
