"""Products in the full precision of their numbers, whatever the user lets a device make of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _settings() -> list[tuple[Any, str, Any]]:
    """Owners and names of torch's settings, and the value of each at which nothing is rounded beforehand."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]
    owners = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    owners += [getattr(backends.mkldnn, kind) for kind in ("matmul", "conv", "rnn") if hasattr(backends.mkldnn, kind)]
    return [(owner, "fp32_precision", "ieee") for owner in owners]


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 nor bfloat16 in the place of single precision; the settings are put back afterwards.

    A CUDA device makes convolutions of numbers of ten bits (TF32) unless told otherwise. Where derivatives are compared
    to see whether they are right, those of a deep net would then differ by rounding alone, and all engines but the
    slowest be taken for wrong.
    """
    before = [(owner, name, getattr(owner, name), value) for owner, name, value in _settings()]
    others = [setting for setting in before if setting[2] != setting[3]]
    try:
        for owner, name, _, value in others:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, own, _ in others:
            setattr(owner, name, own)
