"""Adversarial robustness: the loss on validation rows that were moved over the decision boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar

from ..metrics import robust_accuracy
from ..models import DifferentiableModel, FittedModel, as_model
from ..models._blocks import row_slices, take
from ..operators import Rows, TrainingProblem, outputs_by_block, require_finite
from ._base import MeanLoss, predicted_codes
from .utility import Utility


@dataclass(frozen=True)
class MovedRows(Rows):
    """Rows moved over the decision boundary of a frozen ``model``.

    ``X`` stays the rows as they were: blocks are moved (and made dense) each time they are asked for, so that the moved
    table never exists as a whole.
    """

    model: DifferentiableModel = field(kw_only=True)
    gamma: float = field(kw_only=True)

    def blocks(self, n_columns_of_work: int) -> Iterator[tuple[slice, Any, np.ndarray, np.ndarray | None]]:
        # Beside what the caller needs: the moved block, the rows made dense, and directions of their size.
        for at in row_slices(self.X, n_columns_of_work + 4 * _width(self.X), self.X.dtype.itemsize):
            moved = move(self.model, take(self.X, at), self.gamma, self.name)
            yield at, moved, self.y[at], None if self.weight is None else self.weight[at]


@dataclass(frozen=True)
class MovedLoss:
    """The weighted mean of a loss over moved rows.

    It is no `MeanLoss`, since the ``X`` of its rows is not what the model is asked about.
    """

    loss: MeanLoss

    def value(self, model: DifferentiableModel) -> float:
        """The mean loss on the moved rows."""
        return self.loss.value(model)

    def hard_value(self, model: DifferentiableModel) -> float:
        """One minus the accuracy on the moved rows, which is lower for better models as the loss is."""
        rows = self.loss.rows
        predicted = np.empty(len(rows), dtype=np.intp)
        for at, (F,) in outputs_by_block(model, rows, [model.params]):
            predicted[at] = predicted_codes(F)
        return 1.0 - robust_accuracy(rows.y, predicted, sample_weight=rows.user_weight)

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Its gradient ``(p,)`` at each parameter vector; the rows stay where they were moved to."""
        return self.loss.gradients(params)


class AdversarialRobustness(BaseEstimator):
    """The mean loss on the validation rows after an attack on each: robustness to evasion at prediction time.

    Each row is moved along the shortest way to the nearest decision boundary of the fitted model, ``gamma`` times that
    far, and keeps its label. For two classes and a linear model ``F = w.x + b`` that is ``x - gamma F / |w|^2 w``. The
    rows are moved once, against the fitted model, and stay there while parameters change: for all snapshots of an
    ensemble, and for refits.

    Parameters
    ----------
    gamma : float, default=1.3
        How far the rows move, as a multiple of the distance to the boundary: above 1 they cross it. 0 leaves them.
    loss : {"auto", "log_loss", "mae", "gce"} or callable, default="auto"
        The loss on the moved rows, as in `Utility`.

    Notes
    -----
    With more than two classes the way leads to the nearest of the boundaries with the other classes (to first order,
    and exactly for linear models). A row whose outputs do not change with it, as in a model whose coefficients are all
    zero, stays. The objective is for classifiers; ``hard_value`` of the bound one is the share of moved rows that are
    predicted wrong.

    Moved rows are dense. They are made in blocks, on each pass, within scikit-learn's ``working_memory``: sparse rows
    are never dense as a whole. Each pass costs one more of the outputs and of their gradients in ``x``.

    Source: Chhabra et al., "What Data Benefits My Classifier? Enhancing Model Performance and Interpretability through
    Influence-Based Data Selection", ICLR 2024; Megyeri, Hegedus and Jelasity, "Adversarial Robustness of Linear Models:
    Regularization and Dimensionality", ESANN 2019; the step for several classes: Moosavi-Dezfooli, Fawzi and Frossard,
    "DeepFool", CVPR 2016.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import influence_scores
    >>> from skinfluence.objectives import AdversarialRobustness
    >>> X, y = make_classification(200, random_state=0)
    >>> clf = LogisticRegression().fit(X[:100], y[:100])
    >>> objective = AdversarialRobustness(gamma=1.1)
    >>> influence_scores(clf, X[:100], y[:100], X[100:], y[100:], objective=objective).shape
    (100,)
    """

    uses_groups = False

    def __init__(
        self,
        gamma: float = 1.3,
        loss: str | Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = "auto",
    ) -> None:
        self.gamma = gamma
        self.loss = loss

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None) -> MovedLoss:
        """The objective on ``rows``, which are moved; ``trusted`` says that their labels are known to be right.

        Raises
        ------
        TypeError
            If the model is a regressor, or ``gamma`` is no number.
        ValueError
            If ``gamma`` is negative, or ``loss`` is not one for classifiers.
        """
        _require_classifier(problem.fitted)
        gamma = _check_gamma(self.gamma)
        X = _sliceable(rows.X)
        moved = MovedRows(X, rows.y, rows.weight, rows.user_weight, rows.name, model=problem.fitted.model, gamma=gamma)
        return MovedLoss(Utility(self.loss).bind(problem, moved, trusted=trusted))


def adversarial_rows(estimator: Any, X: Any, gamma: float = 1.3) -> np.ndarray:
    """Rows moved over the nearest decision boundary of a fitted classifier, ``gamma`` times their distance from it.

    It is the attack of `AdversarialRobustness`, for those who want the rows: to attack a test set, say.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier that `skinfluence.models.as_model` takes.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    gamma : float, default=1.3
        How far the rows move, as a multiple of the distance to the boundary.

    Returns
    -------
    X_moved : ndarray of shape (n_samples, n_features)
        Dense. If the estimator is a Pipeline, the rows are those that its last step gets.

    Raises
    ------
    TypeError
        If the estimator is of no supported kind, or is a regressor.
    ValueError
        If ``gamma`` is negative or X is not what the estimator takes.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence.objectives import adversarial_rows
    >>> X, y = [[-1.0], [-2.0], [1.0], [2.0]], [0, 0, 1, 1]
    >>> clf = LogisticRegression().fit(X, y)
    >>> clf.predict(X), clf.predict(adversarial_rows(clf, X))
    (array([0, 0, 1, 1]), array([1, 1, 0, 0]))
    """
    fitted = as_model(estimator)
    _require_classifier(fitted)
    gamma = _check_gamma(gamma)
    X = _sliceable(fitted.prepare(X))
    moved = np.empty(X.shape, dtype=X.dtype)
    for at in row_slices(X, 4 * _width(X), X.dtype.itemsize):
        moved[at] = move(fitted.model, take(X, at), gamma)
    return moved


def move(model: DifferentiableModel, X: Any, gamma: float, name: str = "X") -> np.ndarray:
    """A block of rows, moved and dense, ``(n, d)``; written against `DifferentiableModel.input_gradient` alone."""
    F = model.outputs(X)
    require_finite(F, X, name)
    if F.shape[1] == 1:
        way, gap = model.input_gradient(X, np.ones_like(F)), F[:, 0]
        squared = np.einsum("ij,ij->i", way, way)
    else:
        way, gap, squared = _nearest_boundary(model, X, F)
    step = np.divide(gamma * gap, squared, out=np.zeros_like(gap), where=squared > 0)
    way *= -step[:, None]
    moved = way.reshape(X.shape)
    moved += X.toarray() if sp.issparse(X) else X
    return moved


def _nearest_boundary(model: DifferentiableModel, X: Any, F: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ``F_own - F_k``, for the class k whose boundary is nearest: gradient in x ``(n, d)``, value, squared norm."""
    rows, own = np.arange(F.shape[0]), F.argmax(axis=1)
    way = np.zeros((X.shape[0], _width(X)), dtype=F.dtype)
    gap, squared = np.zeros_like(F[:, 0]), np.zeros_like(F[:, 0])
    nearest = np.full(F.shape[0], np.inf)
    for k in range(F.shape[1]):
        cotangents = np.zeros_like(F)
        cotangents[:, k] = -1
        cotangents[rows, own] += 1  # zero where k is the row's own class
        way_k = model.input_gradient(X, cotangents)
        squared_k = np.einsum("ij,ij->i", way_k, way_k)
        gap_k = F[rows, own] - F[:, k]
        distance = np.full(F.shape[0], np.inf)
        np.divide(gap_k, np.sqrt(squared_k), out=distance, where=(own != k) & (squared_k > 0))
        nearer = distance < nearest
        way[nearer], gap[nearer], squared[nearer] = way_k[nearer], gap_k[nearer], squared_k[nearer]
        nearest[nearer] = distance[nearer]
    return way, gap, squared


def _require_classifier(fitted: FittedModel) -> None:
    if fitted.task != "classification":
        raise TypeError(
            f"Adversarial rows cross a decision boundary, which a classifier has; {type(fitted.estimator).__name__} is "
            "a regressor. Use a classifier, or another objective such as 'utility'."
        )


def _check_gamma(gamma: Any) -> float:
    value = float(check_scalar(gamma, "gamma", Real, min_val=0))
    if not np.isfinite(value):
        raise ValueError(f"gamma must be finite, got {gamma!r}.")
    return value


def _width(X: Any) -> int:
    """Numbers in a row, of an image too."""
    return int(np.prod(X.shape[1:]))


def _sliceable(X: Any) -> Any:
    """CSC matrices as CSR, so that rows can be taken block by block; the array that a net's rows are of."""
    X = X.data if hasattr(X, "batch") else X
    if not sp.issparse(X) and not isinstance(X, np.ndarray):
        raise TypeError(
            f"Adversarial rows are moved in the columns of one array; the rows of this net are a {type(X).__name__}. "
            "Use another objective, such as 'utility'."
        )
    return X.tocsr() if sp.issparse(X) and X.format != "csr" else X
