"""What snapshots are, and those that the fitted parameters alone give: themselves, and copies with some dropped."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Protocol, overload

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar

from ..operators import TrainingProblem

Snapshot = tuple[float, np.ndarray]
"""(weight, parameters)."""


class Snapshots(Protocol):
    """What a method asks of its snapshots."""

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> Sequence[Snapshot]:
        """The snapshots of a fitted model, the same for any ``n_jobs``: parts that are made at the same time."""


class Final(BaseEstimator):
    """The fitted parameters, alone.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.snapshots import Final
    >>> GradientMethod(snapshots=Final())
    GradientMethod(snapshots=Final())
    """

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> list[Snapshot]:
        return [(1.0, problem.params)]


class Dropout(BaseEstimator):
    """Copies of the fitted parameters, each with its own random share of parameters dropped.

    Each parameter (intercepts too) is set to zero with probability ``rate``, and those that stay are divided by ``1 -
    rate``: inverted dropout, so that the parameters, and the outputs of a linear model, are right on average.

    Parameters
    ----------
    n_members : int, default=5
        Number of copies.
    rate : float, default=0.01
        Probability, in [0, 1), that a parameter is dropped.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.snapshots import Dropout
    >>> GradientMethod(snapshots=Dropout(n_members=10, rate=0.05))
    GradientMethod(snapshots=Dropout(n_members=10, rate=0.05))
    """

    def __init__(self, n_members: int = 5, rate: float = 0.01) -> None:
        self.n_members = n_members
        self.rate = rate

    def draw(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None = None
    ) -> Sequence[Snapshot]:
        check_scalar(self.n_members, "n_members", Integral, min_val=1)
        check_scalar(self.rate, "dropout rate", Real, min_val=0, max_val=1, include_boundaries="left")
        # A seed for each member: a member is the same whichever others are drawn, and wherever it runs.
        seeds = random_state.randint(np.iinfo(np.int32).max, size=self.n_members)
        return _Members(problem.params, self.rate, [(1.0 / self.n_members, int(seed)) for seed in seeds])


class _Members(Sequence[Snapshot]):
    """Each made when it is asked for: of a large net one is as much as memory may hold."""

    def __init__(self, params: np.ndarray, rate: float, drawn: list[tuple[float, int]]) -> None:
        self.params, self.rate, self.drawn = params, rate, drawn

    def __len__(self) -> int:
        return len(self.drawn)

    @overload
    def __getitem__(self, at: int) -> Snapshot: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Snapshot]: ...

    def __getitem__(self, at: int | slice) -> Snapshot | Sequence[Snapshot]:
        if isinstance(at, slice):
            return _Members(self.params, self.rate, self.drawn[at])
        weight, seed = self.drawn[at]
        kept = check_random_state(seed).random_sample(self.params.shape[0]) >= self.rate
        return weight, self.params * kept / (1.0 - self.rate)
