"""PyTorch models of transformers.

    import stele_tap.transformers
    with stele_tap.transformers.trace(model, "t.safetensors"):
        model(input_ids)                        # or model.generate(input_ids, max_new_tokens=4)

The first pass is the prompt, further passes of one token with the cache are decode steps. Hooks are set when the block begins
and taken away when it ends; the model computes what it computes without them. One sequence without padding.

Modules are known by their names and places, which most families of transformers share. A value whose meaning is not certain is
not written, so that nothing stands under a stage that it may not be: what lies between two captured values is judged as one.
trace(..., require=[...]) makes the absence of a stage an error.
"""
import contextlib
import ctypes
import sys

from . import TapError, __version__
from .bundle import Bundle, key

_LAYERS = ("layers", "h", "blocks")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "block_sparse_moe", "feed_forward")
_LINEAR = {  # inside attention
    "q_proj": "q_matmul", "k_proj": "k_matmul", "v_proj": "v_matmul", "qkv_proj": "qkv_matmul", "c_attn": "qkv_matmul",
    "o_proj": "attn_out", "c_proj": "attn_out", "dense": "attn_out", "out_proj": "attn_out",
}
_FUSED_QKV = {"phi3", "gpt2"}  # whose one product holds Q, K and V of a token side by side
_FFN = {
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_out", "c_fc": "ffn_up", "c_proj": "ffn_out",
    "fc1": "ffn_up", "fc2": "ffn_out", "dense_h_to_4h": "ffn_up", "dense_4h_to_h": "ffn_out",
}
_ALL_EXPERTS = {"llama4_text"}  # whose experts see every token, each in a row of its own
_SCALED = {"falcon_h1"}  # whose products are multiplied by factors of the configuration outside of any module
_ACTS = ("act_fn", "activation_fn", "act")
_DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float64": "F64"}


def _first(value):
    """The tensor of a module's output or arguments: modules give one, or a tuple that begins with it."""
    import torch
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def _has_bias(module):
    return getattr(module, "bias", None) is not None


def _rope_layout(model):
    """How the family pairs the features that it turns: asked of its own functions."""
    import torch
    source = sys.modules[type(model).__module__]
    x = torch.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    for name in ("rotate_half", "rotate_every_two"):
        turn = getattr(source, name, None)
        if turn is None:
            continue
        got = turn(x).flatten().tolist()
        if got == [-3.0, -4.0, 1.0, 2.0]:
            layout = "half"
        elif got == [-2.0, 1.0, -4.0, 3.0]:
            layout = "interleaved"
        else:
            continue
        if hasattr(source, "apply_rotary_pos_emb_interleave") and getattr(model.config, "rope_interleave", True):
            return "half", True  # read in pairs, written in halves
        return layout, False
    if hasattr(source, "apply_rotary_emb"):  # complex numbers
        return "interleaved", False
    return None, False


class _Pass:
    def __init__(self, tokens, step):
        self.tokens, self.step, self.values = tokens, step, {}


class _Tap:
    def __init__(self, model, path, stages, require):
        self.model, self.path = model, path
        self.stages = set(stages) if stages is not None else None
        self.require = require or []
        self.handles, self.restore = [], []
        self.tokens, self.step, self.bundle = None, -1, None  # step -1: between passes
        self.heads = None
        self.done = -1
        self.current_in = (None, None)  # a layer and what it reads
        self.current = {}  # stage, layer -> (bytes, dtype, shape, positions), of the pass at hand
        self.norm_out = {}
        self.q_out = None
        self.error = None
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        self.kind = config.model_type
        self.config = config
        self.layout, self.mixed = _rope_layout(model)
        self.layers = self._find_layers()

    # ---- where things are ----

    def _find_layers(self):
        import torch
        found = [(n, m) for n, m in self.model.named_modules()
                 if isinstance(m, torch.nn.ModuleList) and n.rpartition(".")[2] in _LAYERS and n.count(".layers") + n.count(".h") <= 2]
        text = [(n, m) for n, m in found if not any(w in n for w in ("vision", "visual", "audio", "encoder", "mtp"))]
        if not text:
            raise TapError(f"{type(self.model).__name__}: no list of layers named {', '.join(_LAYERS)}")
        return min(text, key=lambda p: p[0].count("."))

    def _child(self, module, names):
        for n in names:
            if hasattr(module, n):
                return n, getattr(module, n)
        return None, None

    # ---- keeping values ----

    def _keep(self, stage, layer, tensor, shape=None, positions=None):
        if self.step < 0 or (self.stages is not None and stage not in self.stages):
            return
        t = tensor.detach()
        if str(t.dtype) not in _DTYPES and not str(t.dtype).startswith("torch.int"):
            raise TapError(f"{stage}: type {t.dtype} is not written")
        if str(t.dtype).startswith("torch.int"):
            import torch
            t = t.to(torch.int32)
        n = len(self.tokens)
        if shape is None:
            if t.dim() > 2 and t.shape[0] == 1:
                t = t[0]
            elif t.dim() > 2 and t.shape[0] != n:
                raise TapError(f"{stage}: a batch of {t.shape[0]}; one sequence at a time")
            t = t.reshape(t.shape[0], -1)
            if t.shape[0] != n:
                if positions is None:
                    raise TapError(f"{stage}: {t.shape[0]} rows of {n} tokens, and nothing says which")
            shape = list(t.shape)
        t = t.to("cpu").contiguous()
        data = ctypes.string_at(t.data_ptr(), t.numel() * t.element_size())
        self.current[(stage, layer)] = (data, "I32" if str(t.dtype) == "torch.int32" else _DTYPES[str(t.dtype)], shape, positions)

    def _guard(self, f):
        """A hook that keeps its error for the end of the block: the model's own run goes on."""
        def hook(*args, **kwargs):
            if self.error is None and self.step >= 0:
                try:
                    f(*args, **kwargs)
                except Exception as e:
                    self.error = e
        return hook

    def _on_out(self, module, f):
        g = self._guard(f)
        self.handles.append(module.register_forward_hook(lambda m, a, out: g(out)))

    def _on_in(self, module, f):
        g = self._guard(f)

        def hook(m, args, kwargs):
            g(_first(args) if args else _first(kwargs.get("hidden_states", kwargs.get("input"))))
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _out_as(self, module, stage, layer):
        def f(out):
            t = _first(out)
            if t is not None:
                self._keep(stage, layer, t)
        self._on_out(module, f)

    def _in_as(self, module, stage, layer):
        def f(t):
            if t is not None:
                self._keep(stage, layer, t)
        self._on_in(module, f)

    # ---- hooks ----

    def install(self):
        name, layers = self.layers
        base = name.rpartition(".")[0]
        body = self.model.get_submodule(base) if base else self.model
        self._hook_model(body, layers)
        for i, layer in enumerate(layers):
            self._hook_layer(i, layer)
        self._hook_attention()

    def _hook_model(self, body, layers):
        top = self._guard_pass
        self.handles.append(self.model.register_forward_pre_hook(top, with_kwargs=True))
        self.handles.append(self.model.register_forward_hook(self._end_pass))
        summed = any(hasattr(body, n) for n in ("wpe", "embed_positions", "word_embeddings_layernorm", "embed_norm"))
        _, table = self._child(body, ("embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings"))
        if summed and table is not None:
            self._out_as(table, "embedding", None)
        elif self.kind not in ("nanochat",):
            self._in_as(layers[0], "embedding", None)
        elif table is not None:
            self._out_as(table, "embedding", None)
        _, norm = self._child(body, ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f"))
        if norm is not None:
            self._out_as(norm, "final_norm", None)

    def _hook_layer(self, i, layer):
        if not getattr(self.config, "rescale_every", 0):  # rwkv halves the stream between layers
            self._out_as(layer, "post_ffn_residual", i)
        self.handles.append(layer.register_forward_pre_hook(self._layer_input(i), with_kwargs=True))
        pre_ffn = hasattr(layer, "pre_feedforward_layernorm")
        _, first = self._child(layer, ("input_layernorm", "ln_1"))
        if first is not None:
            self._out_as(first, "attn_norm", i)
        post = getattr(layer, "post_attention_layernorm", None) or getattr(layer, "ln_2", None)
        second = getattr(layer, "post_feedforward_layernorm", None)
        if post is not None and (pre_ffn or first is None):  # Gemma 2, OLMo 2: norms of what the blocks give
            self._out_as(post, "post_attn_norm", i)
        elif post is not None and self.kind not in ("glm4", "exaone4"):
            self._out_as(post, "ffn_norm", i)
            self._stream_into(post, i)
        if pre_ffn:
            self._out_as(layer.pre_feedforward_layernorm, "ffn_norm", i)
            self._stream_into(layer.pre_feedforward_layernorm, i)
        if second is not None and self.kind not in ("glm4", "exaone4"):
            self._out_as(second, "post_ffn_norm", i)
        if self.kind == "glm4":
            self._out_as(layer.post_self_attn_layernorm, "post_attn_norm", i)
            self._out_as(layer.post_attention_layernorm, "ffn_norm", i)
            self._stream_into(layer.post_attention_layernorm, i)
            self._out_as(layer.post_mlp_layernorm, "post_ffn_norm", i)
        if self.kind in _SCALED:
            return
        _, attention = self._child(layer, _ATTENTION)
        if attention is not None:
            self._hook_projections(i, attention)
        _, mlp = self._child(layer, _MLP)
        if mlp is not None:
            self._hook_mlp(i, mlp, beside=getattr(layer, "experts", None) is not None)

    def _layer_input(self, i):
        def hook(m, args, kwargs):
            t = _first(args) if args else _first(kwargs.get("hidden_states"))
            self.current_in = (i, t)
        return hook

    def _stream_into(self, norm, i):
        """The residual stream after attention is what the second norm reads, unless the block is parallel."""
        def f(t):
            layer, start = self.current_in
            if t is None or (layer == i and start is not None and t.data_ptr() == start.data_ptr() and t.shape == start.shape):
                return
            self._keep("post_attn_residual", i, t)
        self._on_in(norm, f)

    def _hook_projections(self, i, attention):
        latents = hasattr(attention, "kv_a_proj_with_mqa")
        # One stage: with a bias of one of the three the others are behind it too.
        biased = any(_has_bias(getattr(attention, n)) for n in ("q_proj", "k_proj", "v_proj") if hasattr(attention, n))
        for name, module in attention.named_children():
            stage = _LINEAR.get(name)
            if stage in ("qkv_matmul",) and self.kind not in _FUSED_QKV:
                continue
            if latents and stage != "attn_out":
                continue
            if self.mixed and stage and stage != "attn_out":
                continue
            if stage and stage != "qkv_matmul" and stage[1:] == "_matmul" and self._gated(attention):
                continue
            if stage is None:
                continue
            if stage == "qkv_matmul":
                stage = "qkv_bias" if _has_bias(module) else stage
            elif biased if stage[1:] == "_matmul" else _has_bias(module):
                stage += "_bias"
            if name in ("q_proj", "k_proj") and getattr(attention, "v_proj", module) is None:  # K is V, too: the stage has these two
                self._hook_two(i, module, stage)
                continue
            self._out_as(module, stage, i)
        for name, stage in (("q_norm", "q_post_norm"), ("k_norm", "k_post_norm"), ("query_layernorm", "q_post_norm"),
                            ("key_layernorm", "k_post_norm"), ("q_layernorm", "q_post_norm"), ("k_layernorm", "k_post_norm")):
            norm = getattr(attention, name, None)
            if norm is not None and not latents:
                self._hook_head_norm(i, norm, stage)

    def _hook_two(self, i, module, stage):
        """Q and K as one value, where there is no V to make three of them."""
        def after(out):
            import torch
            if stage.startswith("q"):
                self.q_out = (i, _first(out))
            elif self.q_out and self.q_out[0] == i:
                self._keep("qkv" + stage[1:], i, torch.cat((self.q_out[1], _first(out)), dim=-1))
        self._on_out(module, after)

    def _gated(self, attention):
        """Whether Q's product holds a gate beside Q."""
        q = getattr(attention, "q_proj", None)
        o = getattr(attention, "o_proj", None)
        return q is not None and o is not None and getattr(q, "out_features", 0) != getattr(o, "in_features", 0)

    def _rows(self, t, heads_first):
        """[1, H, T, d] or [1, T, H, d] -> [T, H * d]"""
        if t.dim() == 4 and heads_first:
            t = t.transpose(1, 2)
        return t.reshape(1, t.shape[1], -1)

    def _hook_head_norm(self, i, norm, stage):
        def after(out):
            t = _first(out)
            if t is None:
                return
            heads_first = t.dim() == 4 and t.shape[1] != len(self.tokens)
            if t.dim() == 4 and t.shape[1] == t.shape[2]:
                return  # heads or positions: told by the attention function, or not at all
            self.norm_out[(i, stage)] = t
            self._keep(stage, i, self._rows(t, heads_first))
        self._on_out(norm, after)

    def _hook_mlp(self, i, mlp, beside=False):
        """beside: the layer has experts of its own, and what leaves the feed-forward part is the sum of both."""
        experts = getattr(mlp, "experts", None)
        gate = getattr(mlp, "gate", None) if experts is not None else None
        gate = gate if gate is not None else getattr(mlp, "router", None)
        if experts is not None:
            self._hook_router(i, gate)
            if self.kind not in _ALL_EXPERTS:
                self._out_as(experts, "moe_ffn_out", i)
            return
        norm = getattr(mlp, "ffn_sub_norm", None)
        for name, module in mlp.named_children():
            stage = _FFN.get(name)
            if name == "gate_up_proj":
                self._on_out(module, self._halves(i))
            if name in _ACTS:
                self._out_as(module, "ffn_silu", i)
            if stage is None or not hasattr(module, "weight"):
                continue
            if stage == "ffn_out" and beside:
                continue
            if stage == "ffn_out" and (hasattr(mlp, "gate_proj") or hasattr(mlp, "gate_up_proj")):
                self._in_as(norm if norm is not None else module, "ffn_swigl", i)
            self._out_as(module, stage + ("_bias" if _has_bias(module) else ""), i)
        if norm is not None:
            self._out_as(norm, "ffn_sub_norm", i)

    def _halves(self, i):
        def f(out):
            t = _first(out)
            half = t.shape[-1] // 2
            self._keep("ffn_gate", i, t[..., :half])
            self._keep("ffn_up", i, t[..., half:])
        return f

    def _hook_router(self, i, router):
        """Logits and choices. Routers give logits, probabilities or scores under one name: what is its product is kept."""
        if router is None or not hasattr(router, "weight"):
            return
        stage = "moe_router_bias" if _has_bias(router) else "moe_router"

        def f(args, out):
            import torch
            parts = [t for t in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(t, torch.Tensor)]
            n = len(self.tokens)
            x = _first(args).detach().reshape(n, -1).float()
            product = torch.nn.functional.linear(x, router.weight.detach().float(), router.bias.detach().float() if _has_bias(router) else None)
            for t in parts:
                if t.dtype in (torch.int64, torch.int32) and t.numel() // n < product.shape[1]:
                    self._keep("moe_router_indices", i, t.reshape(n, -1))
                elif t.is_floating_point() and t.numel() == product.numel():
                    t = t.reshape(n, -1)
                    if float((t.float() - product).norm()) <= 0.02 * float(product.norm()):
                        self._keep(stage, i, t)
        g = self._guard(f)
        self.handles.append(router.register_forward_hook(lambda m, args, out: g(args, out)))

    # ---- the attention function ----

    def _hook_attention(self):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        mine = {}
        for i, layer in enumerate(self.layers[1]):
            for m in layer.modules():
                mine[id(m)] = i
        tap = self

        def wrapped(original):
            def attention(module, query, key_, value, attention_mask=None, *args, **kwargs):
                out = original(module, query, key_, value, attention_mask, *args, **kwargs)
                if id(module) in mine and tap.step >= 0 and tap.error is None:
                    try:
                        tap._attention(mine[id(module)], module, query, key_, value, out)
                    except Exception as e:
                        tap.error = e
                return out
            return attention

        sources = {type(m).__module__ for m in self.model.modules()}
        for s in sources:
            source = sys.modules[s]
            eager = getattr(source, "eager_attention_forward", None)
            if eager is not None and s.startswith("transformers.models."):
                source.eager_attention_forward = wrapped(eager)
                self.restore.append(lambda source=source, eager=eager: setattr(source, "eager_attention_forward", eager))
        name = getattr(self.config, "_attn_implementation", None)
        if name in ALL_ATTENTION_FUNCTIONS.keys():
            old = ALL_ATTENTION_FUNCTIONS[name]
            local = getattr(ALL_ATTENTION_FUNCTIONS, "_local_mapping", {})
            had = name in local
            ALL_ATTENTION_FUNCTIONS[name] = wrapped(old)

            def back():
                if had:
                    ALL_ATTENTION_FUNCTIONS[name] = old
                else:
                    del ALL_ATTENTION_FUNCTIONS[name]
            self.restore.append(back)

    def _attention(self, i, module, query, key_, value, out):
        n = len(self.tokens)
        if query.shape[0] != 1:
            raise TapError(f"a batch of {query.shape[0]}; one sequence at a time")
        if query.shape[2] != n:
            raise TapError(f"layer {i}: attention over {query.shape[2]} queries of {n} tokens")
        fresh = key_[:, :, key_.shape[2] - n:]
        # Llama 4 norms behind the rotation, by one module for Q and K: what comes here is neither stage for sure.
        if self.layout is not None and not hasattr(module, "qk_norm"):
            for t, part in ((query, "q"), (fresh, "k")):
                normed = self.norm_out.get((i, part + "_post_norm"))
                if normed is not None and normed.data_ptr() == t.data_ptr():
                    continue  # its norm comes last: not the value after rotation
                self._keep(part + "_post_rope", i, self._rows(t, True))
        self.heads = [query.shape[1], key_.shape[1], query.shape[3]]
        result = _first(out)
        if result.shape[1] == n and result.dim() == 4:
            self._keep("attention", i, self._rows(result, False))
        weights = out[1] if isinstance(out, (tuple, list)) and len(out) > 1 else None
        seen = len(self.bundle.metadata["tokens"]) + self.step
        if weights is not None and weights.dim() == 4 and weights.shape[3] == key_.shape[2] >= seen:  # a window's cache has fewer columns
            self._keep("attn_softmax", i, weights[0], list(weights.shape[1:]))

    # ---- passes ----

    def _guard_pass(self, module, args, kwargs):
        if self.error is not None:
            return
        try:
            self._begin_pass(args, kwargs)
        except Exception as e:
            self.error = e
            self.step = -1

    def _begin_pass(self, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise TapError("the model was called without input_ids (inputs_embeds?): a trace needs the tokens")
        if ids.dim() != 2 or ids.shape[0] != 1:
            raise TapError(f"input_ids are {list(ids.shape)}; one sequence at a time")
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and not bool((mask != 0).all()):
            raise TapError("the attention mask hides tokens: trace without padding")
        tokens = [int(t) for t in ids[0].tolist()]
        if self.bundle is None:
            self.bundle = Bundle(self.path)
            self.bundle.metadata["tokens"] = tokens
        elif len(tokens) != 1 or self._is_afresh(kwargs):
            raise TapError(f"a further pass of {len(tokens)} tokens: a trace holds one prompt and its decode steps of one token")
        self.tokens, self.step = tokens, self.done + 1
        self.current.clear()
        self.norm_out.clear()

    @staticmethod
    def _is_afresh(kwargs):
        return all(kwargs.get(n) is None for n in ("past_key_values", "cache", "cache_params", "state"))

    def _end_pass(self, module, args, out):
        if self.error is not None or self.step < 0:
            return
        try:
            logits = getattr(out, "logits", None)
            n = len(self.tokens)
            if logits is not None:
                rows = logits.shape[1]
                self._keep("lm_head", None, logits, None, list(range(n - rows, n)) if rows != n else None)
            if self.step:
                self.bundle.put_step_token(self.step, self.tokens[0])
            for (stage, layer), (data, dtype, shape, positions) in self.current.items():
                self.bundle.put(key(stage, layer, self.step), data, dtype, shape, positions if not self.step else None)
            self.done, self.step = self.step, -1
            self.current.clear()
        except Exception as e:
            self.error = e

    def remove(self):
        for h in self.handles:
            h.remove()
        for back in reversed(self.restore):
            back()
        self.handles, self.restore = [], []

    def finish(self):
        import transformers
        if self.error is not None:
            raise self.error
        if self.bundle is None:
            raise TapError("nothing was evaluated under the tap: call the model inside the block")
        have = {k.rpartition(".")[2] for k in self.bundle._entries}
        missing = [s for s in self.require if s not in have]
        if missing:
            raise TapError(f"not captured: {', '.join(missing)} ({type(self.model).__name__} does not show it)")
        p = next(self.model.parameters())
        name = str(p.dtype).replace("torch.", "")
        short = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}.get(name, name)
        attn = getattr(self.config, "_attn_implementation", None)
        self.bundle.metadata.update(
            engine=f"transformers {transformers.__version__}", backend=f"torch {sys.modules['torch'].__version__} {p.device.type}, {attn}",
            model=getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__, arch=self.kind, weights=short,
            activations=short, rope_layout=self.layout, heads=self.heads, kv_cache=short,
            flash_attention="on" if attn and "flash" in attn else "off", tool=f"stele_tap {__version__}")
        self.bundle.close()


@contextlib.contextmanager
def trace(model, path, stages=None, require=None):
    """Hooks on `model` for the block; the bundle is written when the block ends without an exception.

    stages: names to keep, else all. require: stages whose absence is an error.
    """
    tap = _Tap(model, path, stages, require)
    try:
        tap.install()
        yield tap
        tap.remove()
        tap.finish()
    finally:
        tap.remove()
        if tap.bundle is not None:
            tap.bundle.abort()
