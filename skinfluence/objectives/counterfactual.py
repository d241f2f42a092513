"""Counterfactual fairness: rows and their perturbed twins should be predicted alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length

from ..metrics import fair_score
from ..models import DifferentiableModel
from ..models._blocks import blocks_of, n_rows, row_slices
from ..models._protocol import Cotangents
from ..operators import Rows, TrainingProblem, require_finite
from ._base import Predicted, predicted_codes


@dataclass(frozen=True)
class TwinGap:
    """The mean squared difference of the predictions for rows and for their twins."""

    problem: TrainingProblem
    X: Any
    X_twin: Any
    predicted: Predicted

    def value(self, model: DifferentiableModel) -> float:
        """``mean_i sum_k (p_ik - p'_ik)^2`` of the predicted probabilities (or means)."""
        total = 0.0
        for F, F_twin in self._outputs(model):
            difference = self.predicted.value(F) - self.predicted.value(F_twin)
            total += float(np.square(difference, dtype=np.float64).sum())
        return total / n_rows(self.X)

    def hard_value(self, model: DifferentiableModel) -> float:
        """`skinfluence.metrics.fair_score`: the share of twins whose class differs; for regressors it is `value`."""
        if self.problem.fitted.classes is None:
            return self.value(model)
        codes = [(predicted_codes(F), predicted_codes(F_twin)) for F, F_twin in self._outputs(model)]
        own, twin = (np.concatenate(parts) for parts in zip(*codes, strict=True))
        return fair_score(own, twin)

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The gradient ``(p,)`` of `value` at each parameter vector, in one pass over rows and twins together."""
        model = self.problem.fitted.model
        totals = [np.zeros(model.params.shape[0]) for _ in params]
        for X, X_twin in self._blocks(len(params) * 8 * model.n_outputs):
            Fs, _ = model.outputs_and_jvps(X, params, [])
            Fs_twin, _ = model.outputs_and_jvps(X_twin, params, [])
            pulled = []
            for F, F_twin in zip(Fs, Fs_twin, strict=True):
                require_finite(F, self.X, "pairs[0]")
                require_finite(F_twin, self.X_twin, "pairs[1]")
                D = 2 * (self.predicted.value(F) - self.predicted.value(F_twin)) / n_rows(self.X)
                pulled.append((self.predicted.vjp(F, D), self.predicted.vjp(F_twin, -D)))
            own_side, twin_side = zip(*pulled, strict=True)
            own = model.pull_back(X, params, _already(own_side))
            twin = model.pull_back(X_twin, params, _already(twin_side))
            for total, part, part_twin in zip(totals, own, twin, strict=True):
                total += part + part_twin
        return totals

    def _blocks(self, n_columns_of_work: int) -> Iterator[tuple[Any, Any]]:
        twins = 0 if sp.issparse(self.X_twin) else self.X_twin.shape[1]
        slices = list(row_slices(self.X, n_columns_of_work + twins, self.X.dtype.itemsize))
        for (_, X), (_, X_twin) in zip(blocks_of(self.X, slices), blocks_of(self.X_twin, slices), strict=True):
            yield X, X_twin

    def _outputs(self, model: DifferentiableModel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for X, X_twin in self._blocks(6 * model.n_outputs):
            F, F_twin = model.outputs(X), model.outputs(X_twin)
            require_finite(F, self.X, "pairs[0]")
            require_finite(F_twin, self.X_twin, "pairs[1]")
            yield F, F_twin


class Counterfactual(BaseEstimator):
    """Rows and their perturbed twins (another name, another gender, all else equal) should be predicted alike.

    The *hard* metric, `skinfluence.metrics.fair_score`, is the share of twins whose predicted class differs from the
    row's; it is ``hard_value`` of the bound objective. It has no derivative, so that what is differentiated is its
    smooth surrogate, the mean squared difference of the predicted probabilities, summed over outputs (for regressors:
    of the predicted means).

    Parameters
    ----------
    pairs : tuple (X, X_twin) of {array-like, sparse matrix} of shape (n_pairs, n_features)
        The rows and, in the same order, their twins, as the estimator that is scored takes them: unscaled if it is a
        Pipeline with a scaler, scaled if the scaler comes before it.

    Notes
    -----
    The pairs are the rows of this objective, and bring no labels: neither ``X_val``, ``y_val`` nor the training rows
    enter it, so that in `Joint` it goes with objectives that are about those. Where rows are cross-fitted, each model
    is asked about all pairs.

    Source of the metric: Qian et al., "Perturbation Augmentation for Fairer NLP", EMNLP 2022; of the idea: Kusner et
    al., "Counterfactual Fairness", NeurIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.objectives import Counterfactual
    >>> X, y = make_classification(random_state=0)
    >>> twins = X.copy()
    >>> twins[:, 0] *= -1
    >>> clf = LogisticRegression().fit(X, y)
    >>> influence_scores(clf, X, y, objective=Counterfactual(pairs=(X, twins))).shape
    (100,)
    """

    uses_groups = False

    def __init__(self, pairs: Any = None) -> None:
        self.pairs = pairs

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None) -> TwinGap:
        """The objective on its own pairs; ``rows`` are not looked at.

        Raises
        ------
        ValueError
            If ``pairs`` is no pair of tables, there are none, or the tables are not of the same length or not as wide
            as the estimator's input.
        """
        if not isinstance(self.pairs, (tuple, list)) or len(self.pairs) != 2:
            got = "None" if self.pairs is None else f"{type(self.pairs).__name__}"
            if isinstance(self.pairs, (tuple, list)):
                got += f" of {len(self.pairs)}"
            raise ValueError(
                "Counterfactual needs the rows and their twins, pairs=(X, X_twin), two tables of the same shape; got "
                f"{got}."
            )
        check_consistent_length(*self.pairs)
        X, X_twin = (problem.fitted.prepare(table) for table in self.pairs)
        X, X_twin = (table.tocsr() if sp.issparse(table) else table for table in (X, X_twin))
        if n_rows(X) != n_rows(X_twin):  # of tables in a dict, which were counted above by their names
            raise ValueError(
                "Counterfactual needs a twin for each row, in the same order: pairs[0] has "
                f"{n_rows(X)} rows, pairs[1] {n_rows(X_twin)}."
            )
        return TwinGap(problem, X, X_twin, Predicted.of(problem))


def _already(cotangents: Sequence[np.ndarray]) -> Cotangents:
    """Cotangents that are known before the outputs, one array for each parameter vector."""
    return lambda F, at, member: cotangents[member][at]
