"""llama.cpp through llama-cpp-python, without a rebuild.

    import stele_tap.llama_cpp
    with stele_tap.llama_cpp.trace("t.safetensors") as tap:
        llm = tap.Llama("model.gguf", n_ctx=512)    # every argument of llama_cpp.Llama
        llm.eval(llm.tokenize(b"The sky is"))

The first pass is the prompt, further passes of one token are decode steps. A prompt whose last chunk is one token needs
trace(..., prompt=LENGTH), or the chunk is taken for a step.

What the engine fuses is not captured: with flash attention there are no scores.
"""
import contextlib
import ctypes
import hashlib
import os
import re
import struct

from . import TapError
from .bundle import Bundle, key

class _Tensor(ctypes.Structure):
    """ggml_tensor as ggml 0.9 to 0.25 lay it out; checked at run time against ggml_get_name()."""

_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
]

_DTYPES = {0: "F32", 1: "F16", 26: "I32", 30: "BF16"}  # numbers of ggml_type, which do not move between releases

def _table():
    """(name without its layer, operation) -> stage, and the stages of the whole model."""
    stages, whole = {}, {"lm_head"}
    with open(os.path.join(os.path.dirname(__file__), "ggml_stages.def"), encoding="utf-8") as f:
        for name, op, stage, where in re.findall(r'^STAGE\("(\w+)", "(\w+)", "(\w+)", (\w+)\)', f.read(), re.MULTILINE):
            stages[(name, op)] = stage
            if where == "WHOLE":
                whole.add(stage)
    return stages, whole

_STAGES, _WHOLE = _table()
_PARTNER = {1: "f16", 30: "bf16", 2: "q8_0", 6: "q8_0", 8: "q8_0", 20: "q8_0", 39: "q8_0", 3: "q8_1", 7: "q8_1"}

def _partner(kind):
    """What the CPU rounds activations to before a product with weights of a type."""
    return _PARTNER.get(kind, "f32" if kind == 0 else "q8_k" if 10 <= kind <= 23 or kind == 29 else "")

class _Ubatch:
    """One run of the graph over a piece of a batch."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.positions = None
        self.out_rows = None

class _Piece:
    def __init__(self, ubatch, dtype, shape, axis, data, outputs):
        self.ubatch, self.dtype, self.shape, self.axis, self.data = ubatch, dtype, shape, axis, data
        self.outputs = outputs  # whether its rows are those with logits

class Tap:
    """What trace() gives: Llama(...) opens a model under the tap."""

    def __init__(self, path, stages=None, prompt=None, hash_model=False):
        import llama_cpp
        import llama_cpp.llama_cpp as low

        self.path, self.prompt, self.hash_model = path, prompt, hash_model
        self.stages = set(stages) if stages is not None else None
        self.llama_cpp, self.low = llama_cpp, low
        self.ggml = self._ggml()
        self.error = None
        self.ubatches = []
        self.pieces = {}  # (step-less key) -> pieces in order
        self.kv_type = self.flash = self.rope_mode = self.model_path = None
        self.heads = [0, 0, 0]
        self.partners, self.weights = set(), {}
        self.scaled = False
        self.callback = low.ggml_backend_sched_eval_callback(self._called)
        self.arch = ""

    def _ggml(self):
        folder = os.path.join(os.path.dirname(self.llama_cpp.__file__), "lib")
        for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
            path = os.path.join(folder, name)
            if os.path.exists(path):
                lib = ctypes.CDLL(path)
                break
        else:
            raise TapError(f"no ggml-base library in {folder}")
        lib.ggml_get_name.restype, lib.ggml_get_name.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        lib.ggml_op_desc.restype, lib.ggml_op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        lib.ggml_nbytes.restype, lib.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
        lib.ggml_type_name.restype, lib.ggml_type_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
        lib.ggml_backend_tensor_get.restype = None
        lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        return lib

    # ---- opening ----

    def Llama(self, model_path, **options):
        """llama_cpp.Llama with the tap in place. logits_all=True unless said otherwise: else the last layer keeps one row."""
        options.setdefault("logits_all", True)
        options.setdefault("verbose", False)
        self.model_path = model_path
        old = self.low.llama_context_default_params

        def with_tap():
            p = old()
            p.cb_eval = self.callback
            p.cb_eval_user_data = None
            return p

        self.low.llama_context_default_params = with_tap
        try:
            llm = self.llama_cpp.Llama(model_path, **options)
        finally:
            self.low.llama_context_default_params = old
        self.arch = llm.metadata.get("general.architecture", "")
        return llm

    # ---- the callback ----

    def _called(self, address, ask, user):
        if self.error is not None:
            return not ask
        try:
            if self.ubatches == [] and ask:
                self._check_layout(address)
            wanted = self._wanted(_Tensor.from_address(address), address)
            if ask:
                return wanted
            if wanted:
                self._take(_Tensor.from_address(address), address)
        except BaseException as e:  # an exception must not cross into C
            self.error = e
        return not ask or self.error is None

    def _check_layout(self, address):
        if self.ggml.ggml_get_name(address) - address != _Tensor.name.offset:
            raise TapError("this ggml lays its tensors out otherwise than the tap knows: nothing can be read from it")

    @staticmethod
    def _split(name):
        stem, dash, layer = name.rpartition("-")
        return (stem, int(layer)) if dash and layer.isdigit() else (name, None)

    def _stage(self, t, op):
        name = t.name.decode(errors="replace")
        stem, layer = self._split(name)
        if stem == "result_output":
            return "lm_head", None
        stage = _STAGES.get((stem, op))
        if stage == "embedding" and stem == "embd" and op == "GET_ROWS" and self.arch.startswith("gemma"):
            return None, None
        if op == "MUL_MAT" and t.src[0]:
            weight = t.src[0].contents.name.decode(errors="replace")
            if weight.endswith(".attn_output.weight"):
                return "attn_out", int(weight.split(".")[1])
        if stage and layer is None and stage not in _WHOLE:
            return None, None
        return stage, layer

    def _wanted(self, t, address):
        op = self.ggml.ggml_op_desc(address).decode()
        if op in ("GET_ROWS", "FLASH_ATTN_EXT"):
            return True
        if op == "SOFT_MAX" and t.name.startswith(b"kq_soft_max"):
            # Where the soft-max multiplies by nothing, Q was multiplied by the scale before (Gemma, Phi-3).
            self.scaled = struct.unpack("f", struct.pack("i", t.op_params[0]))[0] == 1.0
        stage, _ = self._stage(t, op)
        return stage is not None and (self.stages is None or stage in self.stages or op == "ROPE")

    def _bytes(self, t, address):
        """The values in row-major order, whatever the strides."""
        size = self.ggml.ggml_nbytes(address)
        buffer = (ctypes.c_char * size)()
        self.ggml.ggml_backend_tensor_get(address, buffer, 0, size)
        if t.type not in _DTYPES:
            raise TapError(f"{t.name.decode()}: type {t.type} of ggml is not read")
        each = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2}[_DTYPES[t.type]]
        ne, nb = list(t.ne), list(t.nb)
        dense = each
        for n, b in zip(ne, nb):
            if b != dense and n > 1:
                break
            dense *= n
        else:
            return bytes(buffer)
        raw, out = bytes(buffer), []
        for i3 in range(ne[3]):
            for i2 in range(ne[2]):
                for i1 in range(ne[1]):
                    at = i3 * nb[3] + i2 * nb[2] + i1 * nb[1]
                    if nb[0] == each:
                        out.append(raw[at:at + each * ne[0]])
                    else:
                        out.extend(raw[at + i * nb[0]:at + i * nb[0] + each] for i in range(ne[0]))
        return b"".join(out)

    def _ints(self, pointer):
        t = pointer.contents
        raw = self._bytes(t, ctypes.addressof(t))
        return list(memoryview(raw).cast("i"))

    def _take(self, t, address):
        op = self.ggml.ggml_op_desc(address).decode()
        name = t.name.decode(errors="replace")
        if op == "GET_ROWS":
            if name == "embd" or (t.src[0] and t.src[0].contents.name == b"token_embd.weight"):
                self.ubatches.append(_Ubatch(self._ints(t.src[1])))
            elif self.ubatches and b"out_ids" in t.src[1].contents.name:
                self.ubatches[-1].out_rows = self._ints(t.src[1])
        if not self.ubatches:
            raise TapError("a value came before the token ids: this graph does not begin with token_embd.weight")
        u = self.ubatches[-1]
        if op == "FLASH_ATTN_EXT":
            self.flash = True
            self.kv_type = self.ggml.ggml_type_name(t.src[1].contents.type).decode()
            return
        stage, layer = self._stage(t, op)
        if op == "ROPE" and stage in ("q_post_rope", "k_post_rope"):
            self.rope_mode = t.op_params[2]
            positions = self._ints(t.src[1])
            if len(positions) != len(u.tokens):
                raise TapError(f"{len(positions)} positions of {len(u.tokens)} tokens: rotation by several positions is not read")
            if u.positions is not None and u.positions != positions:
                raise TapError("two rotations of one pass have different positions")
            u.positions = positions
            self.heads[2] = t.ne[0]
            self.heads[0 if stage == "q_post_rope" else 1] = t.ne[1]
        if stage == "attn_scores":
            if t.ne[3] != 1:
                raise TapError("several sequences in one pass: trace them one by one")
            self.kv_type = self.ggml.ggml_type_name(t.src[0].contents.type).decode()
            self.flash = False
        if op == "MUL_MAT" and t.src[0] and stage != "attn_scores":
            kind = t.src[0].contents.type
            self.weights[self.ggml.ggml_type_name(kind).decode()] = 1
            self.partners.add(_partner(kind))
        if stage is None or (self.stages is not None and stage not in self.stages and stage != "attn_out"):
            return
        if stage == "attn_out":
            # What the product reads: in the right basis also where the engine keeps its cache in another.
            before = t.src[1].contents
            self._keep(u, "attention", layer, before, ctypes.addressof(before))
        self._keep(u, stage, layer, t, address)

    def _keep(self, u, stage, layer, t, address):
        if self.stages is not None and stage not in self.stages:
            return
        ne = list(t.ne)
        if ne[3] != 1:
            raise TapError(f"{stage}: several sequences in one pass: trace them one by one")
        if 0 in ne:
            return  # a pass without outputs
        n = len(u.tokens)
        if stage in ("attn_scores", "attn_softmax"):
            shape, axis = [ne[2], ne[1], ne[0]], 1
        elif stage.endswith(("_post_rope", "_post_norm")) and stage[0] in "qk" and ne[2] > 1 or ne[2] == n and ne[2] > 1:
            shape, axis = [ne[2], ne[1] * ne[0]], 0
        elif stage.endswith(("_post_rope", "_post_norm")) and stage[0] in "qk":
            shape, axis = [1, ne[1] * ne[0]], 0
        else:
            shape, axis = [ne[1], ne[0]], 0
        rows = shape[axis]
        outputs = rows != n
        if outputs and (u.out_rows is None or len(u.out_rows) != rows):
            raise TapError(f"{stage}: {rows} rows of {n} tokens, and nothing says which")
        data = self._bytes(t, address)
        name = key(stage, layer)
        self.pieces.setdefault(name, []).append(_Piece(u, _DTYPES[t.type], shape, axis, data, outputs))

    # ---- the file ----

    def _passes(self):
        """[(step, ubatches)]: the prompt, then single tokens."""
        prompt, steps, at = [], [], 0
        for u in self.ubatches:
            if u.positions is None:  # a model without rotation
                u.positions = list(range(at, at + len(u.tokens)))
            at += len(u.tokens)
            seen = sum(len(p.tokens) for p in prompt)
            if not steps and (not prompt or (len(u.tokens) > 1 if self.prompt is None else seen < self.prompt)):
                prompt.append(u)
            elif len(u.tokens) == 1:
                steps.append(u)
            else:
                raise TapError(f"a pass of {len(u.tokens)} tokens follows the prompt: give prompt=LENGTH, or trace one prompt at a time")
        positions = [p for u in prompt + steps for p in u.positions]
        if positions != list(range(len(positions))):
            raise TapError(f"positions {positions[:8]}... do not count from 0: more than one sequence, or a cache that was filled before")
        return prompt, steps

    def _put(self, bundle, name, pieces, step, n_tokens):
        name = (f"steps.{step}." if step else "") + name
        first = pieces[0]
        positions = []
        for p in pieces:
            own = p.ubatch.positions
            positions += [own[r] for r in p.ubatch.out_rows] if p.outputs else own
        if first.axis == 0:
            shape = [sum(p.shape[0] for p in pieces), first.shape[1]]
            data = b"".join(p.data for p in pieces)
        else:  # [heads, rows, cached]
            if len(pieces) > 1:
                raise TapError(f"{name}: scores of several pieces are not joined: raise n_ubatch above the prompt's length")
            shape, data = first.shape, first.data
            used = max(first.ubatch.positions) + 1
            if shape[2] < used:
                raise TapError(f"{name}: {shape[2]} columns of {used} cached positions")
        some = not step and positions != list(range(n_tokens))
        bundle.put(name, data, first.dtype, shape, positions if some else None)

    def finish(self):
        if self.error is not None:
            raise self.error
        if not self.ubatches:
            raise TapError("nothing was evaluated under the tap: open the model with tap.Llama(...), then eval()")
        prompt, steps = self._passes()
        tokens = [t for u in prompt for t in u.tokens]
        where = {id(u): 0 for u in prompt}
        where.update({id(u): s + 1 for s, u in enumerate(steps)})
        meta = dict(
            tokens=tokens, engine=f"llama.cpp (llama-cpp-python {self.llama_cpp.__version__})", backend="cpu", arch=self.arch,
            model=os.path.basename(self.model_path), weights=",".join(sorted(self.weights)),
            rope_layout="half" if self.rope_mode is not None and self.rope_mode & 2 else "interleaved" if self.rope_mode is not None else None,
            kv_cache=self.kv_type, flash_attention=None if self.flash is None else "on" if self.flash else "off",
            activations=",".join(sorted(p for p in self.partners if p)), heads=self.heads if all(self.heads) else None)
        meta["attn_scores.form"] = "scaled" if self.scaled else "raw"
        if self.hash_model:
            digest = hashlib.sha256()
            with open(self.model_path, "rb") as f:
                for block in iter(lambda: f.read(1 << 20), b""):
                    digest.update(block)
            meta["model_sha256"] = digest.hexdigest()
        with Bundle(self.path, **meta) as bundle:
            for s, u in enumerate(steps):
                bundle.put_step_token(s + 1, u.tokens[0])
            for name, pieces in self.pieces.items():
                for step in sorted({where[id(p.ubatch)] for p in pieces}):
                    self._put(bundle, name, [p for p in pieces if where[id(p.ubatch)] == step], step, len(tokens))
        self.pieces.clear()

@contextlib.contextmanager
def trace(path, stages=None, prompt=None, hash_model=False):
    """A Tap; the bundle is written when the block ends without an exception.

    stages: names to keep, else all that the engine shows. prompt: its number of tokens, where it ends in a piece of one.
    """
    tap = Tap(path, stages, prompt, hash_model)
    yield tap
    tap.finish()
