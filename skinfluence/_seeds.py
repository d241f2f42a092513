"""Seeds for estimators that were left without one."""

from __future__ import annotations

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
