"""Models of mlx-lm.

    import stele_tap.mlx
    with stele_tap.mlx.trace(model, "t.safetensors"):
        model(mx.array([ids]))                  # or mlx_lm.generate(model, tokenizer, prompt, max_tokens=4)

The first pass is the prompt, further passes of one token are decode steps (mlx_lm.generate evaluates the prompt's last token alone:
it is the first step). One sequence at a time. MLX has no hooks: for the block, the modules are of classes that call what
they are made of and keep what comes out; behind it they are what they were.

Modules are known by their names, as in transformers. What is no module is not captured: scores, soft-max, the activation of a gate.
Run on the CPU (Linux, mlx 0.32) with llama, mistral, qwen2, qwen3 and gemma 2; on Apple's GPUs never.
"""
import contextlib

from . import TapError, __version__
from .bundle import Bundle, key
from .transformers import _FFN, _LINEAR

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def _bytes(x):
    """Dense values of an array, row-major."""
    import mlx.core as mx
    x = mx.contiguous(x)
    if x.dtype == mx.bfloat16:
        x = x.view(mx.uint16)
    mx.eval(x)
    return bytes(memoryview(x))


class _Tap:
    def __init__(self, model, path, stages):
        self.model, self.path = model, path
        self.stages = set(stages) if stages is not None else None
        self.classes = []  # (module, what it was)
        self.bundle, self.error = None, None
        self.tokens, self.step, self.done = [], -1, -1
        self.current, self.turned = {}, {}
        self.layout, self.heads = None, [0, 0, 0]

    # ---- keeping ----

    def _keep(self, stage, layer, x):
        if self.step < 0 or (self.stages is not None and stage not in self.stages):
            return
        if x.shape[0] != 1 or x.shape[1] != len(self.tokens):
            raise TapError(f"{stage}: {tuple(x.shape)} is not one sequence of {len(self.tokens)} tokens")
        self.current[(stage, layer)] = x.reshape(x.shape[1], -1)

    def _guard(self, f, *args):
        """An error is kept for the end of the block: the model's own run goes on."""
        if self.error is None:
            try:
                f(*args)
            except Exception as e:
                self.error = e

    def _watch(self, module, before=None, after=None):
        tap, own = self, type(module)

        def call(this, *args, **kwargs):
            if before:
                tap._guard(before, args)
            out = own.__call__(this, *args, **kwargs)
            if after:
                tap._guard(after, out)
            return out
        self.classes.append((module, own))
        module.__class__ = type(own.__name__, (own,), {"__call__": call})

    def _as(self, stage, layer, before=None):
        def after(out):
            self._keep(stage, layer, out[0] if isinstance(out, tuple) else out)
        return dict(before=(lambda args: self._keep(before, layer, args[0])) if before else None, after=after)

    # ---- modules ----

    def install(self):
        body = getattr(self.model, "model", None)
        layers = getattr(body, "layers", None)
        if not layers:
            raise TapError(f"{type(self.model).__name__}: no model.layers")
        self._watch(self.model, self._begin, self._end)
        for i, layer in enumerate(layers):
            self._layer(i, layer)
        if hasattr(body, "norm"):
            self._watch(body.norm, **self._as("final_norm", None))

    def _layer(self, i, layer):
        self._watch(layer, (lambda args: self._keep("embedding", None, args[0])) if i == 0 else None, self._as("post_ffn_residual", i)["after"])
        if "input_layernorm" in layer:
            self._watch(layer.input_layernorm, **self._as("attn_norm", i))
        if "pre_feedforward_layernorm" in layer:
            self._watch(layer.post_attention_layernorm, **self._as("post_attn_norm", i))
            self._watch(layer.pre_feedforward_layernorm, **self._as("ffn_norm", i, "post_attn_residual"))
            self._watch(layer.post_feedforward_layernorm, **self._as("post_ffn_norm", i))
        elif "post_attention_layernorm" in layer:
            self._watch(layer.post_attention_layernorm, **self._as("ffn_norm", i, "post_attn_residual"))
        if "self_attn" in layer:
            self._attention(i, layer.self_attn)
        if "mlp" in layer and all(n in layer.mlp for n in ("gate_proj", "up_proj", "down_proj")):
            for name, module in layer.mlp.children().items():
                if name in _FFN:
                    self._watch(module, **self._as(_FFN[name] + ("_bias" if "bias" in module else ""), i, "ffn_swigl" if name == "down_proj" else None))

    def _attention(self, i, attention):
        if not all(n in attention for n in ("q_proj", "k_proj", "v_proj", "o_proj")):
            return  # fused or latent: what its parts are differs between families
        biased = any("bias" in attention[n] for n in ("q_proj", "k_proj", "v_proj"))
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            module, output = attention[name], name == "o_proj"
            bias = "bias" in module if output else biased
            self._watch(module, **self._as(_LINEAR[name] + ("_bias" if bias else ""), i, "attention" if output else None))
        for name in ("q_norm", "k_norm"):
            if name in attention:
                self._watch(attention[name], **self._as(name[0] + "_post_norm", i))
        if "rope" in attention:
            self.layout = "interleaved" if getattr(attention.rope, "traditional", False) else "half"
            self._watch(attention.rope, after=lambda out: self._turned(i, out))

    def _turned(self, i, out):
        """Queries are turned first, then keys: [1, heads, T, size]."""
        if self.step < 0:
            return
        n = self.turned[i] = self.turned.get(i, 0) + 1
        self.heads[0 if n == 1 else 1], self.heads[2] = out.shape[1], out.shape[3]
        if n <= 2:
            self._keep("q_post_rope" if n == 1 else "k_post_rope", i, out.transpose(0, 2, 1, 3))

    # ---- passes ----

    def _begin(self, args):
        ids = args[0] if args else None
        if ids is None or ids.ndim != 2 or ids.shape[0] != 1:
            raise TapError(f"input is {tuple(ids.shape) if ids is not None else None}: one sequence at a time")
        tokens = [int(t) for t in ids[0].tolist()]
        if self.bundle is None:
            self.bundle = Bundle(self.path, tokens=tokens)
        elif len(tokens) != 1:
            raise TapError(f"a further pass of {len(tokens)} tokens: a trace holds one prompt and its decode steps of one token")
        self.tokens, self.step = tokens, self.done + 1
        self.current.clear()
        self.turned.clear()

    def _end(self, out):
        if self.step < 0:
            return
        self._keep("lm_head", None, out)
        if self.step:
            self.bundle.put_step_token(self.step, self.tokens[0])
        for (stage, layer), x in self.current.items():
            dtype = _DTYPES.get(str(x.dtype).rpartition(".")[2])
            if dtype is None:
                raise TapError(f"{stage}: type {x.dtype} is not written")
            self.bundle.put(key(stage, layer, self.step), _bytes(x), dtype, x.shape)
        self.done, self.step = self.step, -1
        self.current.clear()

    def remove(self):
        for module, own in reversed(self.classes):
            module.__class__ = own
        self.classes = []

    def finish(self):
        import mlx.core as mx
        if self.error is not None:
            raise self.error
        if self.bundle is None:
            raise TapError("nothing was evaluated under the tap: call the model inside the block")
        self.bundle.metadata.update(engine=f"mlx {mx.__version__}", backend=f"mlx {mx.default_device().type}".replace("DeviceType.", ""),
                                    arch=getattr(self.model, "model_type", ""), rope_layout=self.layout,
                                    heads=self.heads if all(self.heads) else None, tool=f"stele_tap {__version__}")
        self.bundle.close()


@contextlib.contextmanager
def trace(model, path, stages=None):
    """Watches `model` for the block; the bundle is written when the block ends without an exception. stages: names to keep, else all."""
    tap = _Tap(model, path, stages)
    try:
        tap.install()
        yield tap
        tap.remove()
        tap.finish()
    finally:
        tap.remove()
        if tap.bundle is not None:
            tap.bundle.abort()
