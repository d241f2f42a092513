"""Values that refit the model: no derivatives, and the truth that the others are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.utils.parallel import Parallel, delayed

from .._seeds import seeded, unseeded
from ..models import as_model
from ..objectives import BoundObjective
from ..operators import Rows, TrainingProblem


class LeaveOneOut(BaseEstimator):
    """The change of the objective when the model is refitted without the row: ``T(without) - T(with)``.

    A training row is left out; a row that the model was not fitted on (cross-fitting) is added instead, and the
    difference has the same sign. One refit a row, run by joblib. A row of weight zero scores zero. Transformers before
    the estimator stay as they are fitted.

    Notes
    -----
    Refits keep the estimator's parameters. Where scikit-learn adds the penalty to a *mean* loss (lasso, elastic net,
    the generalised linear models, SGD), leaving a row out then weakens the penalty's total, which the gradient methods
    keep: the two differ by a constant, and in the zero point. A CV estimator chooses its penalty anew in each refit.

    Source: Cook, "Detection of Influential Observation in Linear Regression", Technometrics, 1977.

    Examples
    --------
    >>> from skinfluence.methods import LeaveOneOut
    >>> LeaveOneOut()
    LeaveOneOut()
    """

    calibrated = True

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        # One seed for all refits: what differs between two of them is the row, not the draw.
        refit = _Refit(problem, objective, int(random_state.randint(np.iinfo(np.int32).max)))
        base = refit.base()
        leave_out = rows is None or rows is problem.rows
        if leave_out:
            refit.require_two_of_each_class()
            jobs = (delayed(refit.without)(i) for i in range(len(problem.rows)))
        else:
            assert rows is not None
            jobs = (delayed(refit.adding)(rows, i) for i in range(len(rows)))
        values = np.array(Parallel(n_jobs=n_jobs)(jobs), dtype=np.float64)
        return (values - base if leave_out else base - values), {"n_refits": len(values)}


class _Refit:
    """Refits of a problem's estimator on its prepared rows, and the objective there."""

    def __init__(self, problem: TrainingProblem, objective: BoundObjective, seed: int) -> None:
        self.problem = problem
        self.objective = objective
        self.estimator = seeded(clone(problem.fitted.estimator), seed)

    def base(self) -> float:
        """The objective with all rows; of a refit with the same seed, where the fitted model was drawn with another."""
        if not unseeded(self.problem.fitted.estimator):
            return self.objective.value(self.problem.fitted.model)
        rows = self.problem.rows
        return self._value(rows.X, rows.y, rows.user_weight)

    def require_two_of_each_class(self) -> None:
        classes = self.problem.fitted.classes
        if classes is None:
            return
        counts = np.bincount(self.problem.rows.y, minlength=len(classes))
        if (counts == 1).any():
            raise ValueError(
                f"leave_one_out needs two rows of each class; {classes[counts == 1].tolist()} have one, and leaving "
                "it out would change "
                "the classes that the model knows."
            )

    def without(self, i: int) -> float:
        rows = self.problem.rows
        keep = np.delete(np.arange(len(rows)), i)
        return self._value(rows.X[keep], rows.y[keep], self._user_weight(rows, keep))

    def adding(self, rows: Rows, i: int) -> float:
        train = self.problem.rows
        everything = np.arange(len(train))
        weight, added = self._user_weight(train, everything), self._user_weight(rows, np.array([i]))
        if weight is not None or added is not None:
            weight = np.concatenate([_ones_if_none(weight, len(train)), _ones_if_none(added, 1)])
        return self._value(_stack(train.X, rows.X[[i]]), np.concatenate([train.y, rows.y[[i]]]), weight)

    def _user_weight(self, rows: Rows, keep: np.ndarray) -> np.ndarray | None:
        """Weights without class_weight, which the estimator puts on again when it is refitted."""
        return None if rows.user_weight is None else rows.user_weight[keep]

    def _value(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> float:
        fitted = self.problem.fitted
        target = fitted.classes[y] if fitted.classes is not None else y.reshape(len(y), -1)
        if fitted.classes is None and target.shape[1] == 1:
            target = target.ravel()
        estimator = clone(self.estimator)
        estimator.fit(X, target, **({} if weight is None else {"sample_weight": weight}))
        return self.objective.value(as_model(estimator).model)


def _ones_if_none(weight: np.ndarray | None, n: int) -> np.ndarray:
    return np.ones(n) if weight is None else weight


def _stack(A: Any, B: Any) -> Any:
    if isinstance(A, np.ndarray):
        return np.concatenate([A, B])
    return sp.vstack([A, B], format="csr")
