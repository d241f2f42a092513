"""The one loop: every gradient method is snapshots, a preconditioner, and one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, clone

from .._parallel import in_threads
from .._seeds import seeded, unseeded
from ..objectives import BoundObjective
from ..operators import Directions, Rows, TrainingProblem
from ..preconditioners import Identity, Preconditioner, Solve
from ..snapshots import Final, Snapshot, Snapshots

Solves = Iterable[tuple[float, np.ndarray, Solve]]
"""(weight, parameters, P there) of each snapshot; may be gone through more than once."""


class Method(Protocol):
    """What scoring asks of a method.

    ``calibrated`` says that scores estimate the change itself, zero included, so that ``removal_rate="auto"`` may go by
    their sign. ``uses_objective = False`` says that the objective plays no part; it need not be there otherwise.
    """

    calibrated: bool

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Scores ``(n,)`` of ``rows`` (None: the training rows), and a report."""


class GradientMethod(BaseEstimator):
    """Any combination of snapshots and preconditioner: ``(1/n) · mean over snapshots of weight · J P g``.

    Parameters
    ----------
    snapshots : snapshots, default=None
        Where gradients are taken, such as `skinfluence.snapshots.Dropout`; None is the fitted parameters.
    preconditioner : preconditioner, default=None
        The matrix between the two gradients, such as `skinfluence.preconditioners.ExactInverse`; None is the identity.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import ExactInverse
    >>> from skinfluence.snapshots import Dropout
    >>> method = GradientMethod(snapshots=Dropout(3), preconditioner=ExactInverse())
    """

    calibrated = False

    def __init__(self, snapshots: Snapshots | None = None, preconditioner: Preconditioner | None = None) -> None:
        self.snapshots = snapshots
        self.preconditioner = preconditioner

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        """The snapshots and the preconditioner that the parameters stand for."""
        return self.snapshots or Final(), self.preconditioner or Identity()

    def solves(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None
    ) -> tuple[Solves, dict[str, Any]]:
        """(weight, parameters, P there) of each snapshot, and a report."""
        snapshots, preconditioner = self.parts()
        drawn = snapshots.draw(problem, random_state, n_jobs)
        if not len(drawn):
            raise ValueError(f"{snapshots!r} drew no snapshot of the model, at which gradients could be taken.")
        if type(preconditioner) is Identity:  # a subclass may look at the parameters
            solve, report = preconditioner.at(problem, problem.params)
            return _InTurn(drawn, solve), report if len(drawn) == 1 else {"members": [report] * len(drawn)}
        drawn = list(drawn)  # each made once
        seeds = random_state.randint(np.iinfo(np.int32).max, size=len(drawn))
        places = [
            (_seeded(preconditioner, int(seed)), problem, params)
            for (_, params), seed in zip(drawn, seeds, strict=True)
        ]
        made = in_threads(_made_at, places, n_jobs)
        reports = [report for _, report in made]
        report = reports[0] if len(reports) == 1 else {"members": reports}
        return [(weight, params, solve) for (weight, params), (solve, _) in zip(drawn, made, strict=True)], report

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        directions, report = self._directions(problem, objective, random_state, n_jobs)
        return problem.scores(directions, rows), report

    def score_labels(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Scores ``(n, n_classes)`` that ``rows`` would have under each label, and a report."""
        directions, report = self._directions(problem, objective, random_state, n_jobs)
        return problem.label_scores(directions, rows), report

    def _directions(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[Directions, dict[str, Any]]:
        """(weight, parameters, P g) of each snapshot."""
        snapshots, report = self.solves(problem, random_state, n_jobs)
        if not problem.fitted.model.linear and effective_n_jobs(n_jobs) == 1:
            return _one_at_a_time(objective, snapshots), report
        every = list(snapshots)
        gradients = objective.gradients([params for _, params, _ in every])
        solves = [(solve, g) for (_, _, solve), g in zip(every, gradients, strict=True)]
        us = in_threads(_solved, solves, n_jobs)
        return [(weight, params, u) for (weight, params, _), u in zip(every, us, strict=True)], report


class _InTurn:
    """The same P at each of some snapshots, whose parameters may be made when it is their turn."""

    def __init__(self, drawn: Sequence[Snapshot], solve: Solve) -> None:
        self.drawn, self.solve = drawn, solve

    def __iter__(self) -> Iterator[tuple[float, np.ndarray, Solve]]:
        # By place: a name for the parameters would keep them until the next are made.
        return ((*self.drawn[at], self.solve) for at in range(len(self.drawn)))


def _one_at_a_time(objective: BoundObjective, snapshots: Solves) -> Directions:
    """Each snapshot's gradient and direction are made when it is its turn, and gone when it was."""
    for weight, params, solve in snapshots:
        (g,) = objective.gradients([params])
        u = solve(g)
        del g  # of a large net it is as large as all else
        yield weight, params, u
        del params, u  # before those of the next are made


def _made_at(preconditioner: Preconditioner, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, Any]:
    return preconditioner.at(problem, params)


def _solved(solve: Solve, g: np.ndarray) -> np.ndarray:
    return solve(g)


def _seeded(preconditioner: Any, seed: int) -> Any:
    """A preconditioner that draws at random, seeded from the scoring's ``random_state`` unless it has a seed."""
    if not hasattr(preconditioner, "get_params") or not unseeded(preconditioner):
        return preconditioner
    return seeded(clone(preconditioner), seed)
