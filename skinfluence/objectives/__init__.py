"""Objectives: what the scores are about. Every objective is *lower is better*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._base import BoundObjective, MeanLoss, Objective
from .utility import Utility

__all__ = ["OBJECTIVES", "BoundObjective", "MeanLoss", "Objective", "Utility", "resolve_objective"]

OBJECTIVES: dict[str, Callable[[], Any]] = {"utility": Utility}


def resolve_objective(objective: Any) -> Any:
    """An objective from its name or from a configured object."""
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            raise ValueError(
                f"objective must be one of {sorted(OBJECTIVES)} or an objective object, got {objective!r}."
            )
        return OBJECTIVES[objective]()
    if not hasattr(objective, "bind"):
        raise TypeError(
            f"objective must be one of {sorted(OBJECTIVES)} or an object such as Utility(loss='mae'), got "
            f"{objective!r}."
        )
    return objective
