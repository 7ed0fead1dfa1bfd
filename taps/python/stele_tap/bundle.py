"""The trace bundle: a safetensors file whose keys are stages, written with the standard library alone.

    with Bundle("t.safetensors", tokens=[1, 2, 3], engine="mine") as b:
        b.put("layers.0.attn_norm", values, "F32", (3, 64))

The file appears whole when the block ends, and not at all when it ends with an exception. Values go to the disk as they come.
"""
import json
import os
import shutil
import struct
import tempfile

from . import TapError, __version__

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "U8": 1}


def key(stage, layer=None, step=0):
    """The name of a stage: of a layer, or of the whole model; of the prompt, or of a decode step from 1 on."""
    return (f"steps.{step}." if step else "") + (f"layers.{layer}." if layer is not None else "") + stage


class Bundle:
    """metadata: strings, or lists of integers, under the names of the format (tokens, engine, rope_layout, ...)."""

    def __init__(self, path, **metadata):
        self.path = os.fspath(path)
        self.metadata = metadata
        self._entries = {}
        self._at = 0
        folder = os.path.dirname(os.path.abspath(self.path))
        self._data = tempfile.TemporaryFile(dir=folder)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.close()
        else:
            self.abort()
        return False

    def __contains__(self, name):
        return name in self._entries

    def __len__(self):
        return len(self._entries)

    def put(self, name, values, dtype, shape, positions=None):
        """values: bytes-like, little endian, row-major. positions: of the rows, where not every token has one."""
        if self._data is None:
            raise TapError(f"{self.path}: is closed")
        if name in self._entries:
            raise TapError(f"{self.path}: {name} is there already: two values of one pass have the same name")
        if dtype not in SIZES:
            raise TapError(f"{name}: type {dtype} cannot be written")
        shape = [int(n) for n in shape]
        count = 1
        for n in shape:
            if n <= 0:
                raise TapError(f"{name}: shape {shape} holds nothing")
            count *= n
        view = memoryview(values).cast("B")
        if len(view) != count * SIZES[dtype]:
            raise TapError(f"{name}: {len(view)} bytes are not {shape} of {dtype}")
        if positions is not None:
            positions = [int(p) for p in positions]
            if len(positions) not in shape:
                raise TapError(f"{name}: {len(positions)} positions, and the shape is {shape}")
            self.metadata[f"positions.{name}"] = positions
        self._data.write(view)
        self._entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [self._at, self._at + len(view)]}
        self._at += len(view)

    def put_step_token(self, step, token):
        """The token that decode step `step` evaluates."""
        self.put(key("token", step=step), struct.pack("<I", token), "U32", (1, 1))

    def close(self):
        """Write the file under a temporary name and rename it."""
        if self._data is None:
            return
        try:
            self._write()
        finally:
            self.abort()

    def _write(self):
        if not self._entries:
            raise TapError(f"{self.path}: nothing was captured, so there is nothing to write")
        meta = {"format": "stele-trace", "version": "1", "tool": f"stele_tap {__version__}"}
        for name, value in self.metadata.items():
            if value is None or value == "":
                continue
            meta[name] = value if isinstance(value, str) else json.dumps(value)
        header = json.dumps({"__metadata__": meta, **self._entries}).encode()
        header += b" " * (-len(header) % 8)
        folder = os.path.dirname(os.path.abspath(self.path))
        fd, name = tempfile.mkstemp(prefix=os.path.basename(self.path) + ".", suffix=".part", dir=folder)
        try:
            with os.fdopen(fd, "wb") as out:
                out.write(struct.pack("<Q", len(header)))
                out.write(header)
                self._data.seek(0)
                shutil.copyfileobj(self._data, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def abort(self):
        """Forget everything; no file appears."""
        if self._data is not None:
            self._data.close()
            self._data = None
