"""TracIn: gradients' inner products, summed over the checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models import LinearModel
from ..operators import TrainingProblem
from ..preconditioners import Identity, Preconditioner
from ..snapshots import Checkpoints, Final, History, Snapshots
from ..snapshots._checkpoints import recorded_history
from ._base import GradientMethod, Solves

_CONVEX_NOTE = (
    "No checkpoints were given: the fitted model is the only one, with weight 1. For a convex model at its optimum "
    "TracIn comes to that, and the scores are those of 'ip'."
)


class TracIn(GradientMethod):
    """TracIn with checkpoints: ``(1/n) sum_c rate_c grad loss_i(θ_c) . g(θ_c)``, no Hessian.

    Parameters
    ----------
    checkpoints : History, or list of ndarray of shape (p,) or of fitted estimators, default=None
        What was kept while the model was trained; see `skinfluence.snapshots.Checkpoints`, and
        `skinfluence.snapshots.record_partial_fit`, which trains and keeps. None takes those that a
        `skinfluence.snapshots.CheckpointRecorder` among the callbacks of a skorch net has kept. It is allowed for
        linear models too: their fitted parameters with weight 1, which makes the scores those of `IP`.
    weights : array-like of shape (n_checkpoints,), default=None
        Learning rates. None: those of the `History`; for a list, all alike.

    Raises
    ------
    ValueError
        If a model that is not linear is scored without checkpoints.

    Notes
    -----
    Unit: TracIn's own number, the fall of the objective that the visits to a row have brought about, is n times the
    score (``sum_j w_j`` times, with row weights): scores here are per share of the training objective, as those of
    every other method. Keeps rank and sign, not size, of what removing the row would do.

    Cost: an `IP` for each checkpoint; for a linear model all of them go through one product with X.

    It fails where the checkpoints are few and far between (gradients change meanwhile), and sums over them may cancel.
    Checkpoints belong to one training run on the rows that are scored: a curator that fits models of its own
    (cross-fitting too) should be given none, or a FrozenEstimator.

    Source: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020, TracInCP. For
    convex models see section 7 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions".

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.linear_model import SGDRegressor
    >>> from skinfluence import influence_scores
    >>> from skinfluence.methods import TracIn
    >>> from skinfluence.snapshots import record_partial_fit
    >>> X, y = make_regression(noise=10, random_state=0)
    >>> estimator = SGDRegressor(random_state=0)
    >>> method = TracIn(record_partial_fit(estimator, X, y, n_epochs=5))
    >>> influence_scores(estimator, X, y, method=method).shape
    (100,)
    """

    def __init__(
        self,
        checkpoints: History | Sequence[Any] | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.weights = weights

    def __sklearn_clone__(self) -> TracIn:
        # The checkpoints are data: the default would replace fitted estimators in the list by unfitted ones.
        return type(self)(self.checkpoints, self.weights)

    def parts(self) -> tuple[Snapshots, Preconditioner]:
        if self.checkpoints is not None:
            return Checkpoints(self.checkpoints, self.weights), Identity()
        if self.weights is not None:
            raise ValueError("weights are those of checkpoints, and no checkpoints were given.")
        return Final(), Identity()

    def solves(
        self, problem: TrainingProblem, random_state: np.random.RandomState, n_jobs: int | None
    ) -> tuple[Solves, dict[str, Any]]:
        """(weight, parameters, identity) of each checkpoint, and a report."""
        recorded = recorded_history(problem) if self.checkpoints is None else None
        if recorded is not None:
            return TracIn(recorded, self.weights).solves(problem, random_state, n_jobs)
        if self.checkpoints is None and not isinstance(problem.fitted.model, LinearModel):
            raise ValueError(
                f"TracIn needs checkpoints of the training of this {type(problem.fitted.estimator).__name__}: keep "
                "as_model(estimator).model.params after some of the epochs, with the learning rates, and give them as "
                "TracIn(checkpoints=[...], weights=[...]); or give a skorch net the callback "
                "skinfluence.snapshots.CheckpointRecorder()."
            )
        solves, report = super().solves(problem, random_state, n_jobs)
        if self.checkpoints is None:
            return solves, {"notes": [_CONVEX_NOTE]}
        return solves, report | {"weights": [weight for weight, _, _ in solves]}
