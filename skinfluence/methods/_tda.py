"""TDA by approximate unrolled differentiation (SOURCE), and the paper's reduction of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_scalar

from .._seeds import seeded
from ..models import LinearModel
from ..objectives import BoundObjective
from ..operators import Directions, TrainingProblem
from ..preconditioners import EKFACInverse, Preconditioner
from ..preconditioners.ekfac import Factor
from ..snapshots import Checkpoints, Final, History, Snapshots
from ..snapshots._checkpoints import recorded_history
from ._base import GradientMethod

_CONVEX_NOTE = (
    "No checkpoints were given: the fitted model is the only one. For a convex model at its optimum TDA comes to EKFAC "
    "there, and the scores are those of 'ekfac'."
)


class TDA(GradientMethod):
    """Training data attribution along the training run, with EKFAC curvature.

    Parameters
    ----------
    variant : {"ensemble", "source"}, default="ensemble"
        - "ensemble": the mean over checkpoints of ``(1/n) grad loss_i . (H + damping I)^-1 g``, each at its own
          parameters; how "Revisit, Extend, and Enhance Hessian-Free Influence Functions" reduces SOURCE.
        - "source": the original. The run is cut into segments of constant curvature ``H_l`` and row gradients, the
          means over the segment's checkpoints. From the objective's gradient v at the end of the run backwards, a
          segment of total learning rate ``r_l`` adds ``(1/n) grad loss_i . (I - exp(-r_l H_l)) H_l^-1 v`` and hands
          ``exp(-r_l H_l) v`` on to the one before it.
    checkpoints : History, or list of ndarray of shape (p,) or of fitted estimators, default=None
        What was kept while the model was trained; see `skinfluence.snapshots.Checkpoints`. None takes those that a
        `skinfluence.snapshots.CheckpointRecorder` among the callbacks of a skorch net has kept, and is allowed for
        linear models and "ensemble".
    weights : array-like of shape (n_checkpoints,), default=None
        For "source": how far gradient descent on the mean loss has come since the checkpoint before, the sum of the
        learning rates of its steps. None: those of the `History`, which count what one row was multiplied with, times
        the number of rows.
    n_segments : int, default=3
        For "source": consecutive checkpoints are put into so many segments, as equal as can be.
    damping : float, default=0.1
        Of EKFAC, for "ensemble"; "source" adds none beside the penalty's, since nothing is inverted there.
    labels, uncovered : as in `EKFAC`

    Notes
    -----
    Cost: that of `EKFAC` for each checkpoint, and an `IP` for each.

    Keeps rank and sign. It fails where there are too few checkpoints for the curvature to be constant between them.

    Source: Bae, Lin, Lorraine and Grosse, "Training Data Attribution via Approximate Unrolled Differentiation", NeurIPS
    2024, Eq. 14 to 17.

    Examples
    --------
    >>> from skinfluence.methods import TDA
    >>> TDA("source", n_segments=2)
    TDA(n_segments=2, variant='source')
    """

    def __init__(
        self,
        variant: str = "ensemble",
        checkpoints: History | Sequence[Any] | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
        n_segments: int = 3,
        damping: float = 0.1,
        labels: str = "sampled",
        uncovered: str = "raise",
    ) -> None:
        self.variant = variant
        self.checkpoints = checkpoints
        self.weights = weights
        self.n_segments = n_segments
        self.damping = damping
        self.labels = labels
        self.uncovered = uncovered

    def __sklearn_clone__(self) -> TDA:
        # The checkpoints are data: the default would replace fitted estimators in the list by unfitted ones.
        return type(self)(**self.get_params(deep=False))

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        if self.variant not in ("ensemble", "source"):
            raise ValueError(f"variant must be 'ensemble' or 'source', got {self.variant!r}.")
        curvature = EKFACInverse(self.damping, self.labels, self.uncovered)
        if self.checkpoints is None:
            return Final(), curvature
        given = self.checkpoints
        equal = self.variant == "ensemble"
        n = len(given)
        weights = np.full(n, 1.0 / n) if equal and n else self.weights
        return Checkpoints(given, weights), curvature

    def _directions(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[Directions, dict[str, Any]]:
        recorded = recorded_history(problem) if self.checkpoints is None else None
        if recorded is not None:
            params = self.get_params(deep=False) | {"checkpoints": recorded}
            return TDA(**params)._directions(problem, objective, random_state, n_jobs)
        self._require_checkpoints(problem)
        if self.variant == "ensemble":
            directions, report = super()._directions(problem, objective, random_state, n_jobs)
            return directions, report | ({"notes": [_CONVEX_NOTE]} if self.checkpoints is None else {})
        return self._source(problem, objective, random_state, n_jobs)

    def _require_checkpoints(self, problem: TrainingProblem) -> None:
        self.parts()
        if self.checkpoints is None and (self.variant == "source" or not isinstance(problem.fitted.model, LinearModel)):
            raise ValueError(
                f"TDA(variant={self.variant!r}) needs checkpoints of the training of this "
                f"{type(problem.fitted.estimator).__name__}: TDA(checkpoints=...), see "
                "skinfluence.snapshots.Checkpoints."
            )

    def _source(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[list[tuple[float, np.ndarray, np.ndarray]], dict[str, Any]]:
        check_scalar(self.n_segments, "n_segments", Integral, min_val=1)
        if self.weights is None and not isinstance(self.checkpoints, History):
            raise ValueError(
                "TDA(variant='source') needs to know how far descent came between checkpoints: give a History, or "
                "weights=[...], the sum of learning rates of the steps before each checkpoint."
            )
        snapshots, curvature = self.parts()
        drawn = snapshots.draw(problem, random_state, n_jobs)
        if self.n_segments > len(drawn):
            raise ValueError(f"n_segments={self.n_segments} is more than the {len(drawn)} checkpoints.")
        steps = len(problem.rows) if self.weights is None else 1
        seed = int(random_state.randint(np.iinfo(np.int32).max))
        curvature = seeded(clone(curvature), seed)
        assert isinstance(curvature, EKFACInverse)
        free, l2 = problem.free, problem.penalty_scale * problem.fitted.penalty.l2
        (v,) = objective.gradients([drawn[-1][1]])
        v = v * free
        directions: list[tuple[float, np.ndarray, np.ndarray]] = []
        segments = np.array_split(np.arange(len(drawn)), self.n_segments)
        for segment in reversed(segments):
            several = [drawn[i][1] for i in segment]
            horizon = steps * sum(drawn[i][0] for i in segment)
            factors, _ = curvature.factors(problem, several)
            u = _applied(factors, v, l2, partial(_response, horizon=horizon)) * free
            directions += [(1.0 / len(several), params, u) for params in several]
            v = _applied(factors, v, l2, partial(_decay, horizon=horizon)) * free
        report = {"segments": [len(s) for s in segments], "n_checkpoints": len(drawn)}
        return directions, report


def _response(spectrum: np.ndarray, horizon: float) -> np.ndarray:
    """``(1 - exp(-r h)) / h``, which is r where h is zero: how far a push has come after descent of length r."""
    return np.where(spectrum > 0, -np.expm1(-horizon * spectrum) / np.where(spectrum > 0, spectrum, 1.0), horizon)


def _decay(spectrum: np.ndarray, horizon: float) -> np.ndarray:
    """``exp(-r h)``: what is left of a push after descent of length r."""
    return np.exp(-horizon * spectrum)


def _applied(
    factors: dict[str, Factor], v: np.ndarray, l2: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    out = np.zeros_like(v)
    for factor in factors.values():
        factor.layer.add(factor.apply(factor.layer.matrix(v), factor.layer.matrix(l2), function), out)
    return out
