"""What a method asks of a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from sklearn import get_config

from ..operators import TrainingProblem

Solve = Callable[[np.ndarray], np.ndarray]
"""``g -> P g`` on ``(p,)`` or, column by column, on ``(p, m)``."""


class Preconditioner(Protocol):
    """``P`` at given parameters."""

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        """``P`` as a function, and a report of what was done that the function goes on filling (damping, residuals)."""


def require_room(k: int, what: str, remedy: str) -> None:
    """Raise if a matrix of so many rows and columns takes more than ``sklearn.get_config()["working_memory"]``."""
    if 8 * k * k > get_config()["working_memory"] * 2**20:
        raise ValueError(
            f"{what} of {k} x {k} numbers takes more than working_memory={get_config()['working_memory']} MiB. "
            f"{remedy}, or raise working_memory (sklearn.set_config(working_memory=...))."
        )


def on_free(free: np.ndarray, solve: Solve) -> Solve:
    """``solve`` on the free parameters, zero on the others: those do not move."""
    if free.all():
        return solve

    def restricted(g: np.ndarray) -> np.ndarray:
        u = np.zeros_like(g)
        u[free] = solve(g[free])
        return u

    return restricted


def by_columns(solve: Solve) -> Solve:
    """A function of ``(p,)`` as one of ``(p, m)`` too."""

    # Not left to each such function by calling itself: what refers to itself keeps all that it holds, the copy of a net
    # and its rows, until Python looks for such.
    def on_each(g: np.ndarray) -> np.ndarray:
        return solve(g) if g.ndim == 1 else np.column_stack([solve(column) for column in g.T])

    return on_each
