"""Taps: what a model computes, stage by stage, in a trace bundle that `stele explain` and `stele diff` read.

stele_tap.bundle        the file
stele_tap.transformers  PyTorch models of transformers
stele_tap.llama_cpp     llama.cpp through llama-cpp-python
stele_tap.mlx           models of mlx-lm

Nothing but the standard library is imported until a tap is used.
"""
__version__ = "0.1.0"


class TapError(Exception):
    """What was asked for cannot be captured; the message says why."""
