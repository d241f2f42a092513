"""Seeds for estimators that were left without one."""

from __future__ import annotations

import sys
import threading
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


# Torch's random numbers are one stream for all threads. Whoever seeds it, or puts it back, holds this meanwhile.
TORCH_LOCK = threading.RLock()
_WITHOUT_TORCH = ("sklearn", "numpy", "scipy", "builtins")


@contextmanager
def torch_seed(seed: int, estimator: Any) -> Iterator[None]:
    """Torch's random numbers drawn from ``seed`` within, where ``estimator`` is fitted, and as they were afterwards.

    A net has no ``random_state``: its first weights and its batches come from torch's global numbers. So two threads do
    not fit nets at once. Where torch was never imported there are none, and estimators that are scikit-learn's all
    through draw none.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not _may_draw(estimator):
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with TORCH_LOCK, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _may_draw(estimator: Any) -> bool:
    parts = (estimator, *estimator.get_params(deep=True).values())
    return any(getattr(part, "__module__", "builtins").partition(".")[0] not in _WITHOUT_TORCH for part in parts)
