"""Seeds for estimators that were left without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def seeded(estimator: Any, seed: int) -> Any:
    """The estimator with every ``random_state=None`` in it replaced by a number drawn from ``seed``."""
    names = unseeded(estimator)
    draws = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=len(names))
    return estimator.set_params(**dict(zip(names, draws.tolist(), strict=True))) if names else estimator


def unseeded(estimator: Any) -> list[str]:
    """The parameters of an estimator, nested ones too, that are a ``random_state`` left at None."""
    params = estimator.get_params(deep=True)
    return sorted(name for name, value in params.items() if name.split("__")[-1] == "random_state" and value is None)


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Torch's random numbers drawn from ``seed`` within, and as they were afterwards.

    A net has no ``random_state``: its first weights and its batches come from torch's global numbers. Where torch was
    never imported there are none.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
