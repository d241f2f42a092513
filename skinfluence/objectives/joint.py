"""Several objectives at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator

from ..operators import Rows, TrainingProblem


class Joint(BaseEstimator):
    """One ranking of the training rows from several objectives.

    Rows are scored for each objective by itself; the scores are then combined, row by row.

    Parameters
    ----------
    objectives : list of str or objective
        Such as ``["utility", DemographicParity()]``. None of them may be a `Joint`.
    weights : array-like of shape (n_objectives,), default=None
        How much each objective counts, zero or more; only their ratios matter. None: alike.
    combine : {"rank", "score"}, default="rank"
        - "rank": the weighted mean of the row's ranks, each in (0, 1] (its place among n rows, divided by n, lowest
          score first; rows of equal score share the mean of their places). Objectives of any size and distribution
          count alike. What is left is an order: no sign says whether a row hurts.
        - "score": the weighted mean of the scores, each objective's divided by their standard deviation over rows.
          Zero stays zero, and outliers in one objective count as such.

    Notes
    -----
    Lower is more harmful in both, as for the scores of one objective. Fairness scores are never calibrated against
    utility's: the weights say what one is worth in terms of the other.

    Sensitive features reach the objectives about fairness, and no others. The scores of each objective are kept beside
    the combined ones (``scores_by_objective_`` of the curators).

    Source: the joint criterion of section 6 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions".

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.objectives import Joint
    >>> joint = Joint(["utility", "demographic_parity"])
    >>> joint.names()
    ['utility', 'demographic_parity']
    >>> joint.combine_scores(np.array([[-3.0, 0.1], [1.0, 0.2], [2.0, -0.5], [4.0, 0.3]]))
    array([0.375, 0.625, 0.5  , 1.   ])
    """

    def __init__(
        self, objectives: Sequence[Any], weights: Sequence[float] | np.ndarray | None = None, combine: str = "rank"
    ) -> None:
        self.objectives = objectives
        self.weights = weights
        self.combine = combine

    @property
    def uses_groups(self) -> bool:
        """Whether any of the objectives is about groups of rows."""
        return any(getattr(part, "uses_groups", False) for part in self.parts())

    @property
    def calibrated(self) -> bool:
        """Whether the sign of a combined score says whether the row hurts: not that of a rank."""
        return self.combine == "score"

    def parts(self) -> list[Any]:
        """The objectives, names resolved, in order; raises if any of the parameters is not as it must be.

        Raises
        ------
        TypeError
            If ``objectives`` is no list, or holds what is no objective, or another `Joint`.
        ValueError
            If there are none, a name is unknown, or ``weights`` or ``combine`` are not as they must be.
        """
        from . import resolve_objective  # the table of names stands above all the objectives, this one too

        if not isinstance(self.objectives, (list, tuple)):
            raise TypeError(
                f"Joint needs a list of objectives, such as ['utility', 'demographic_parity'], got {self.objectives!r}."
            )
        if not self.objectives:
            raise ValueError("Joint needs at least one objective, got an empty list.")
        if self.combine not in ("rank", "score"):
            raise ValueError(f"combine must be 'rank' or 'score', got {self.combine!r}.")
        self._weights()
        parts = [resolve_objective(objective) for objective in self.objectives]
        if any(isinstance(part, Joint) for part in parts):
            raise TypeError("A Joint in a Joint is not supported: list all objectives in one, with their weights.")
        return parts

    def names(self) -> list[str]:
        """A name for each objective, no two alike: its name in the table, or that of its class."""
        from . import OBJECTIVES

        known = {cls: name for name, cls in OBJECTIVES.items()}
        names: list[str] = []
        counts: Counter[str] = Counter()
        for part in self.parts():
            cls = type(part)
            name = known.get(cls) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
            counts[name] += 1
            names.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
        return names

    def combine_scores(self, scores: np.ndarray) -> np.ndarray:
        """One score for each row, lower is more harmful.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_objectives)
            The scores for each objective, in order; all rows that are to be compared.

        Returns
        -------
        combined : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If there is not one column for each objective.
        """
        weights = self._weights()
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(weights):
            raise ValueError(f"scores must have shape (n_samples, {len(weights)}), got {scores.shape}.")
        if self.combine == "rank":
            return rankdata(scores, axis=0) @ weights / len(scores)
        spread = scores.std(axis=0)
        return scores @ (weights / np.where(spread > 0, spread, 1.0))

    def _weights(self) -> np.ndarray:
        """The weights, with sum one."""
        n = len(self.objectives)
        weights = np.ones(n) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError(
                f"weights must be {n} finite numbers, one for each objective, zero or more and not all zero; got "
                f"{self.weights!r}."
            )
        return weights / weights.sum()

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None) -> Any:
        """Refused: what is joined are scores, so that each of `parts` is bound by itself.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            "Joint combines scores, not gradients, and is bound part by part: bind each of parts(), score the rows, "
            "and give the columns to combine_scores(). influence_scores and the curators do so."
        )
