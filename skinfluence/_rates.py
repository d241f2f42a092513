"""Shares of the rows: numbers, or "auto" for as many as have a negative score."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from ._held_out import HeldOut
from .models._fitted import Task


def check_rate(name: str, rate: float | str, method: Any, objective: Any) -> None:
    """Raise unless the rate is a share, or "auto" where the sign of the scores can be trusted."""
    if not isinstance(rate, str):
        check_scalar(rate, name, Real, min_val=0, max_val=1, include_boundaries="left")
        if np.isnan(rate):
            raise ValueError(f"{name} must be a number in [0, 1) or 'auto', got nan.")
    elif rate != "auto":
        raise ValueError(f"{name} must be a number in [0, 1) or 'auto', got {rate!r}.")
    elif not (getattr(method, "calibrated", False) and getattr(objective, "calibrated", True)):
        raise ValueError(
            f"{name}='auto' goes by the sign of the scores, which with method={method!r} and objective={objective!r} "
            "is no "
            "measure of harm: far too many rows would be taken. Use the method 'exact', 'cg' or 'leave_one_out', and "
            "no "
            "joint ranking; or a number."
        )


def check_auto(name: str, rate: float | str, task: Task, held_out: HeldOut | None) -> None:
    """Raise where "auto" is known to take far too many rows."""
    if isinstance(rate, str) and (task == "regression" or held_out is not None):
        raise ValueError(
            f"{name}='auto' is for classifiers scored without validation rows. For a regression target, or against "
            "validation rows under the training loss, near half of the rows score below zero whatever their labels, "
            "and to "
            "take them all ruins the model. Give a number, and choose it by a grid."
        )


def n_chosen(rate: float | str, scores: np.ndarray) -> int:
    """How many rows a rate stands for."""
    if isinstance(rate, str):
        return int(np.count_nonzero(scores < 0))
    # 0.29 * 100 is 28.999999999999996; a share below 1 is never all of the rows, however near it is.
    return min(int(rate * len(scores) + 1e-9), len(scores) - 1)
