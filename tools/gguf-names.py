#!/usr/bin/env python3
"""Write tests/data/gguf-names.txt: the names that GGUF files use, as the package gguf has them.

    python3 tools/gguf-names.py ARCHITECTURE... > tests/data/gguf-names.txt

The first lines are keys behind the architecture's name ("key NAME"; "/NAME" stands by itself), the others an architecture's tensors ("arch NAME
TENSOR...", {bid} for the layer).
"""
import importlib.metadata
import inspect
import sys

from gguf import constants


def keys(group):
    for name, value in vars(group).items():
        if inspect.isclass(value) and not name.startswith("_"):
            yield from keys(value)
        elif isinstance(value, str) and value.startswith("{arch}."):
            yield value[len("{arch}."):]
        elif isinstance(value, str) and "." in value and "{" not in value:
            yield "/" + value


print("# made by tools/gguf-names.py from gguf " + importlib.metadata.version("gguf"))
for key in sorted(set(keys(constants.Keys))):
    print("key", key)
for arch, name in sorted(constants.MODEL_ARCH_NAMES.items(), key=lambda x: x[1]):
    if name in sys.argv[1:]:
        print("arch", name, *[constants.TENSOR_NAMES[t] for t in constants.MODEL_TENSORS[arch]])
