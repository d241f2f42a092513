"""Group fairness: gaps between groups of the mean predicted probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator

from .. import metrics
from ..models import DifferentiableModel, FittedModel
from ..operators import Rows, TrainingProblem, outputs_by_block, pull_back
from ._base import Predicted, predicted_codes

_HINT = (
    "pass sensitive_features=... for the training rows, or sensitive_features_val=... (in a HeldOut: "
    "sensitive_features=...) for validation rows."
)


@dataclass(frozen=True)
class GroupGap:
    """A gap between groups on its rows: the greatest, over rates, of the greatest minus the least group mean.

    A *cell* is a group under a rate, and has the code ``rate * n_groups + group``; ``cells`` gives the cell of each
    row, and ``len(mass)`` to rows that are under no rate. ``mass`` is the weight of each cell. ``columns`` are the
    predictions that are averaged: that of the positive class, or those of all targets.
    """

    problem: TrainingProblem
    rows: Rows
    groups: np.ndarray
    cells: np.ndarray
    mass: np.ndarray
    n_rates: int
    columns: list[int]
    predicted: Predicted
    positive: int | None
    metric: Callable[..., float]

    def value(self, model: DifferentiableModel) -> float:
        """The soft gap, which is what is differentiated."""
        (means,) = self._means(model, [model.params])
        return float(np.ptp(means, axis=-1).max())

    def hard_value(self, model: DifferentiableModel) -> float:
        """The gap of predicted classes, from `skinfluence.metrics`; for regressors it is `value`."""
        if self.positive is None:
            return self.value(model)
        predicted = np.empty(len(self.rows), dtype=np.intp)
        for at, (F,) in outputs_by_block(model, self.rows, [model.params]):
            predicted[at] = predicted_codes(F)
        return self.metric(
            self.rows.y,
            predicted,
            sensitive_features=self.groups,
            sample_weight=self.rows.user_weight,
            positive_label=self.positive,
        )

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Gradient ``(p,)`` of the soft gap at each parameter vector, in two passes over the rows.

        Which groups are the extreme ones is known after the first; the derivative is theirs.
        """
        model = self.problem.fitted.model
        slopes = [self._slopes(means, model.n_outputs) for means in self._means(model, params)]
        weight = self.rows.user_weight

        def cotangents(F: np.ndarray, at: slice, member: int) -> np.ndarray:
            C = slopes[member][self.cells[at]]
            if weight is not None:
                C *= weight[at, None]
            return self.predicted.vjp(F, C.astype(F.dtype))

        return pull_back(self.problem.fitted, self.rows, params, cotangents)

    def _means(self, model: DifferentiableModel, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Mean prediction of each cell, ``(n_columns, n_rates, n_groups)``, at each of ``params``."""
        n_cells = len(self.mass)
        sums = np.zeros((len(params), len(self.columns), n_cells + 1))
        for at, Fs in outputs_by_block(model, self.rows, params):
            weight = 1.0 if self.rows.user_weight is None else self.rows.user_weight[at]
            for F, total in zip(Fs, sums, strict=True):
                P = self.predicted.value(F)
                for column, of_column in zip(self.columns, total, strict=True):
                    of_column += np.bincount(self.cells[at], weight * P[:, column], minlength=n_cells + 1)
        return [(total[:, :-1] / self.mass).reshape(len(self.columns), self.n_rates, -1) for total in sums]

    def _slopes(self, means: np.ndarray, n_outputs: int) -> np.ndarray:
        """Derivative of the gap in the prediction of a row of unit weight, by cell and output, ``(n_cells + 1, K)``."""
        gaps = np.ptp(means, axis=-1)
        column, rate = np.unravel_index(gaps.argmax(), gaps.shape)
        at_rate = means[column, rate]
        slopes = np.zeros((len(self.mass) + 1, n_outputs))
        # Both signs are added, so that a gap of zero, whose greatest and least group are one, has no slope.
        for sign, group in ((1.0, at_rate.argmax()), (-1.0, at_rate.argmin())):
            cell = int(rate) * len(at_rate) + int(group)
            slopes[cell, self.columns[int(column)]] += sign / self.mass[cell]
        return slopes


class _Fairness(BaseEstimator):
    """Base of the fairness objectives: a subclass says under which conditions on ``y`` the groups are compared."""

    uses_groups = True

    _rates: tuple[Literal["all", "positive", "negative"], ...]
    _metric: Callable[..., float]

    def __init__(self, positive_label: Any = None) -> None:
        self.positive_label = positive_label

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None) -> GroupGap:
        """The gap on ``rows``; whether their labels are ``trusted`` makes no difference.

        Raises
        ------
        ValueError
            If the sensitive features are missing, incomplete, of another length than the rows or of a single group; if
            a group has no rows of a class that the objective looks at; if there are more than two classes and no
            ``positive_label``; or if the objective needs classes and the model is a regressor.
        """
        groups, labels = metrics.encode_groups(sensitive_features, len(rows), _HINT)
        positive = self._positive_code(problem.fitted)
        n_cells = len(self._rates) * len(labels)
        cells = np.full(len(rows), n_cells)
        for r, rate in enumerate(self._rates):
            under = np.ones(len(rows), dtype=bool) if rate == "all" else (rows.y == positive) == (rate == "positive")
            cells[under] = r * len(labels) + groups[under]
        mass = np.bincount(cells, rows.user_weight, minlength=n_cells + 1)[:-1].astype(float)
        if (mass == 0).any():
            rate_code, group = divmod(int(np.flatnonzero(mass == 0)[0]), len(labels))
            raise self._empty(self._rates[rate_code], labels[group], problem.fitted, positive)
        columns = list(range(problem.fitted.model.n_outputs))
        if positive is not None:
            columns = [0 if len(columns) == 1 else positive]
        return GroupGap(
            problem,
            rows,
            groups,
            cells,
            mass,
            len(self._rates),
            columns,
            Predicted.of(problem),
            positive,
            type(self)._metric,
        )

    def _empty(self, rate: str, group: Any, fitted: FittedModel, positive: int | None) -> ValueError:
        which = "rows"
        if fitted.classes is not None and positive is not None and rate != "all":
            which = f"rows with y {'==' if rate == 'positive' else '!='} {fitted.classes.tolist()[positive]!r}"
        return ValueError(
            f"{type(self).__name__} needs {which} of positive weight in each group, and group {group!r} has none. "
            "Merge or leave out that group, or give more rows (with cross-fitting: fewer folds)."
        )

    def _positive_code(self, fitted: FittedModel) -> int | None:
        name = type(self).__name__
        if fitted.classes is None:
            if self._rates != ("all",) or self.positive_label is not None:
                raise ValueError(
                    f"{self!r} is about a class, and {type(fitted.estimator).__name__} is a regressor. Use "
                    "DemographicParity(), the gap of the groups' mean predictions."
                )
            return None
        classes = fitted.classes.tolist()
        if self.positive_label is None:
            if len(classes) > 2:
                raise ValueError(
                    f"{name} compares the probability of one class, and there are {len(classes)}: {classes}. Say "
                    f"which: {name}(positive_label=...)."
                )
            return 1
        if self.positive_label not in classes:
            raise ValueError(f"positive_label must be one of the classes {classes}, got {self.positive_label!r}.")
        return classes.index(self.positive_label)


class DemographicParity(_Fairness):
    """The gap between groups of the mean predicted probability of the positive class.

    What is differentiated is the *soft* gap, largest minus smallest group mean of the predicted probability; of several
    groups the two extreme ones count. The *hard* gap, of the shares predicted positive, is ``hard_value`` of the bound
    objective, and `skinfluence.metrics.demographic_parity_difference`. For a regressor it is the gap of the groups'
    mean predictions (the greatest over targets), soft and hard alike.

    Parameters
    ----------
    positive_label : object, default=None
        The class whose probability is compared; None is the greater of two classes (``classes_[1]``). More than two
        classes need it.

    Notes
    -----
    Needs ``sensitive_features``, the group of each row on which the objective is taken. Rows count by their
    ``sample_weight``, and not by ``class_weight``, so that the gap is that of the population. Labels play no part.

    A row with a negative score widens the gap, and removing it narrows it, until the gap turns around or other groups
    become the extreme ones: the scores are derivatives of a size. Remove no more rows than their (calibrated) scores
    add up to the gap, or score again after a part of them (``n_rounds``).

    Source: Dwork et al., "Fairness through Awareness", ITCS 2012; its soft form as the objective of an influence
    function: Li and Liu, "Achieving Fairness at No Utility Cost via Data Reweighing with Influence", ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.objectives import DemographicParity
    >>> X, y = make_classification(random_state=0)
    >>> groups = np.where(X[:, 0] > 0, "a", "b")
    >>> clf = LogisticRegression().fit(X, y)
    >>> scores = influence_scores(clf, X, y, objective=DemographicParity(), sensitive_features=groups)
    >>> scores.shape
    (100,)
    """

    _rates = ("all",)
    _metric = staticmethod(metrics.demographic_parity_difference)


class EqualOpportunity(_Fairness):
    """The gap between groups of the mean predicted probability of the positive class, among the rows that are positive.

    The *soft* gap is differentiated; the *hard* one, of the true positive rates, is ``hard_value`` of the bound
    objective, and `skinfluence.metrics.equal_opportunity_difference`. Classifiers only.

    Parameters
    ----------
    positive_label : object, default=None
        The positive class; None is the greater of two classes (``classes_[1]``). More than two classes need it.

    Notes
    -----
    Needs ``sensitive_features``, and positive rows in each group. Rows count by their ``sample_weight``, and not by
    ``class_weight``. It looks at labels: wrong ones bias it, even where `Utility` takes a loss that bears them.

    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016.

    Examples
    --------
    >>> from skinfluence.objectives import EqualOpportunity
    >>> EqualOpportunity(positive_label="granted")
    EqualOpportunity(positive_label='granted')
    """

    _rates = ("positive",)
    _metric = staticmethod(metrics.equal_opportunity_difference)


class EqualizedOdds(_Fairness):
    """The greater of two gaps between groups of the mean predicted probability: among positive and among negative rows.

    The *soft* gap is differentiated, the greater one alone; the *hard* one, of true and of false positive rates, is
    ``hard_value`` of the bound objective, and `skinfluence.metrics.equalized_odds_difference`. The greater of the two
    is fairlearn's default, ``agg="worst_case"``. Classifiers only.

    Parameters
    ----------
    positive_label : object, default=None
        The positive class; None is the greater of two classes (``classes_[1]``). More than two classes need it; all
        others are negative.

    Notes
    -----
    Needs ``sensitive_features``, and positive and negative rows in each group. Rows count by their ``sample_weight``,
    and not by ``class_weight``. It looks at labels: wrong ones bias it.

    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016.

    Examples
    --------
    >>> from skinfluence.objectives import EqualizedOdds
    >>> EqualizedOdds()
    EqualizedOdds()
    """

    _rates = ("positive", "negative")
    _metric = staticmethod(metrics.equalized_odds_difference)
