"""A fitted estimator, seen as a model, its loss and its penalty."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from ..losses import DevianceLoss, Loss, MarginLoss
from ._balance import class_weights, count_codes
from ._host import on_host
from ._protocol import DifferentiableModel
from ._sources import Source, is_unloaded, source_of
from ._streams import RowStream

Task = Literal["classification", "regression"]

# The code of a row that is of no class, because the loss ignores it: such a row weighs nothing.
NO_CLASS = -1
# What comparing labels takes beside them is for so many rows: a byte or two each, which stay in cache.
_LABELS_AT_ONCE = 1 << 17

_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))


@dataclass(frozen=True)
class Penalty:
    """``scale * (sum_j l2_j theta_j^2 / 2 + sum_j l1_j |theta_j|)`` and the coordinates that are ``free`` to move.

    scikit-learn adds its penalties to a sum of losses (``per="sum"``: logistic regression, ridge, SVMs), to a weighted
    mean (``per="mean"``: lasso, elastic net, GLMs) or to a mean over rows whatever their weights (``per="rows"``: SGD).
    Relative to ``sum_i w_i loss_i / sum_i w_i`` the scale is 1/Σw, 1 and n/Σw. A coordinate is not free where an L1
    penalty, a bound or a pruning rule holds it at zero: to first order it stays there when a row is removed.
    """

    l2: np.ndarray
    l1: np.ndarray
    free: np.ndarray
    per: Literal["sum", "mean", "rows"]

    def scale(self, n_rows: int, total_weight: float) -> float:
        return {"sum": 1.0, "mean": total_weight, "rows": float(n_rows)}[self.per] / total_weight

    def value(self, params: np.ndarray) -> float:
        return float(self.l2 @ (params * params) / 2 + self.l1 @ np.abs(params))

    def gradient(self, params: np.ndarray) -> np.ndarray:
        return self.l2 * params + self.l1 * np.sign(params)


@dataclass(frozen=True)
class ClassWeight:
    """The estimator's ``class_weight`` and how it enters: as a factor of the row, or of one side of each one-vs-rest
    problem.

    ``scheme="sides"`` weights the positive rows of each problem, ``"balanced_sides"`` balances both sides.
    ``weighted_counts`` says whether "balanced" counts rows by their sample weight, which newer scikit-learn versions do
    for some estimators.
    """

    value: Any
    scheme: Literal["rows", "sides", "balanced_sides"] = "rows"
    weighted_counts: bool = False


class Intake(Protocol):
    """How a family takes rows and targets, where it is not scikit-learn's way."""

    def rows(self, X: Any) -> Any:
        """``X`` as the model takes it: with ``shape``, ``dtype`` and slices of rows."""

    def targets(self, y: Any) -> np.ndarray:
        """``y`` as the loss takes it."""

    def row_weight(self, targets: np.ndarray) -> np.ndarray | None:
        """What the training loss itself multiplies each row by, ``(n,)`` or None."""

    def verify(self, rows: Any, targets: np.ndarray) -> None:
        """Raise if the model is not what it was taken for, on a few rows."""


@dataclass(frozen=True)
class FittedModel:
    """What `as_model` returns: everything that scoring needs to know of a fitted estimator.

    Attributes
    ----------
    estimator : estimator
        The fitted final estimator.
    model : DifferentiableModel
        Parameters and raw outputs.
    loss : Loss
        The training loss of one row, in the raw outputs.
    penalty : Penalty
        The training penalty.
    task : {"classification", "regression"}
    classes : ndarray of shape (n_classes,) or None
    class_weight : ClassWeight or None
    transformers : Pipeline or None
        The fitted steps before the estimator; applied, never refitted.
    curvature : {"gauss_newton", "hessian"}
        What methods that need the training objective's curvature get; for linear models they are one.
    intake : Intake or None
        How rows and targets are taken; None for scikit-learn's own way.
    """

    estimator: BaseEstimator
    model: DifferentiableModel
    loss: Loss
    penalty: Penalty
    task: Task
    classes: np.ndarray | None = None
    class_weight: ClassWeight | None = None
    transformers: Any = None
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    intake: Intake | None = field(default=None, repr=False)

    def opened(self, X: Any) -> Any:
        """``X`` itself, or the source that its rows are streamed from; either has a ``shape`` or a length.

        Raises
        ------
        TypeError
            If ``X`` can be neither taken nor streamed.
        """
        if self.intake is None:
            source: Source | None = source_of(X, transformed=self.transformers is not None)
            return X if source is None else source
        if is_unloaded(X):
            raise TypeError(
                f"Nets take rows in memory or in a memory map, and X is a {type(X).__name__}. Load it, or score it a "
                "part at a time: validation rows stay, and each part is given as X."
            )
        return X

    def prepare(self, X: Any) -> Any:
        """``X`` as the model takes it: transformed, as a float array or CSR/CSC matrix, its width checked; or, where
        it is not in memory, a stream of these.

        Finiteness is not checked here: a NaN or an infinity in X reaches the raw outputs, and is looked for where those
        are made.
        """
        X = self.opened(X)
        if self.intake is None and hasattr(X, "piece"):
            return RowStream(X, self.prepare_block)
        return self.prepare_block(X)

    def prepare_block(self, X: Any) -> Any:
        """`prepare` of rows in memory."""
        if self.transformers is not None:
            X = self.transformers.transform(X)
        if self.intake is not None:
            return self.intake.rows(X)
        if self._is_plain(X):
            return X
        X = validate_data(
            self.estimator,
            on_host(X),
            reset=False,
            accept_sparse=("csr", "csc"),
            dtype=(np.float64, np.float32),
            ensure_all_finite=False,
        )
        # The rows of a CSC matrix are found by bisection of its columns.
        unsorted = issparse(X) and X.format == "csc" and not X.has_sorted_indices
        return X.sorted_indices() if unsorted else X

    def _is_plain(self, X: Any) -> bool:
        """Whether `validate_data` would return ``X`` itself and warn of nothing: asking it takes as long as a tenth of
        a product with 100,000 rows.
        """
        if type(X) is not np.ndarray or X.ndim != 2 or X.dtype not in _FLOATS or X.size == 0:
            return False
        named = hasattr(self.estimator, "feature_names_in_")
        return not named and X.shape[1] == getattr(self.estimator, "n_features_in_", None)

    def encode(self, y: Any) -> np.ndarray:
        """Targets as the loss takes them: class codes ``(n,)``, or floats ``(n, K)``."""
        if self.intake is not None:
            return self.intake.targets(y)
        return encode_targets(on_host(y), self.classes, self.model.n_outputs, self.loss)

    def resolve_class_weight(
        self, codes: np.ndarray, sample_weight: np.ndarray | None
    ) -> tuple[Loss, np.ndarray | None]:
        """The loss, and the weight of each class ``(n_classes,)`` or None, given the training targets."""
        spec = self.class_weight
        if spec is None or spec.value is None or self.classes is None:
            return self.loss, None
        n_classes = len(self.classes)
        if spec.scheme == "balanced_sides":
            assert isinstance(self.loss, MarginLoss)
            counts = count_codes(codes, sample_weight if spec.weighted_counts else None, n_classes)
            sides = np.column_stack([counts.sum() / (2.0 * counts), counts.sum() / (2.0 * (counts.sum() - counts))])
            return replace(self.loss, side_weights=_as_pairs(sides)), None
        value = spec.value
        if isinstance(value, dict):
            value = {code: value[label] for code, label in enumerate(self.classes.tolist()) if label in value}
        codes = codes if self.intake is None else codes[codes != NO_CLASS]
        weight = class_weights(value, codes, sample_weight if spec.weighted_counts else None, n_classes)
        if spec.scheme == "rows":
            return self.loss, weight
        assert isinstance(self.loss, MarginLoss)
        return replace(self.loss, side_weights=_as_pairs(np.column_stack([weight, np.ones_like(weight)]))), None


def encode_targets(y: Any, classes: np.ndarray | None, n_outputs: int, loss: Loss) -> np.ndarray:
    """Class codes ``(n,)``, or floats ``(n, K)`` checked for what the loss is defined for."""
    if classes is not None:
        plain = type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind in "biu"  # spares a general check
        return encode_labels(y if plain else column_or_1d(y), classes)
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    y = y.reshape(-1, 1) if y.ndim == 1 else y
    if y.shape[1] != n_outputs:
        raise ValueError(f"y must have {n_outputs} target(s), as in fit; got {y.shape[1]}.")
    if isinstance(loss, DevianceLoss):
        loss.check_targets(y)
    return y


def _as_pairs(table: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(a), float(b)) for a, b in table)


def without_ignored(classes: np.ndarray, ignored: int) -> np.ndarray:
    """The labels that are classes: the one that a loss ignores is none, unless a column of the outputs is its."""
    rest = classes[classes != ignored]
    return rest if ignored < 0 or np.array_equal(rest, np.arange(len(rest))) else classes


def encode_labels(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Integer codes of ``y`` in the sorted ``classes``; labels that are not there raise."""
    check_consistent_length(y)
    comparable = (y.dtype.kind in "OUST") == (classes.dtype.kind in "OUST")
    codes = np.empty(y.shape[0], dtype=np.min_scalar_type(-len(classes)))  # small: there may be many rows
    strange: list[Any] = []
    for start in range(0, y.shape[0], _LABELS_AT_ONCE):
        at = slice(start, start + _LABELS_AT_ONCE)
        known = _encode_block(y[at], classes, codes[at]) if comparable else np.zeros(len(y[at]), dtype=bool)
        if not known.all():
            strange += dict.fromkeys(y[at][~known].tolist())
    if strange:
        raise ValueError(
            f"y holds labels that the estimator was not fitted with: {list(dict.fromkeys(strange))[:5]}. Its classes "
            f"are {classes.tolist()}."
        )
    return codes


def _are_below(bound: int, y: np.ndarray) -> bool:
    """Whether integers are in ``range(bound)``: much faster than comparing each with every label."""
    if y.dtype.isnative:
        return bool(y.view(f"u{y.itemsize}").max() < bound)  # one pass: negative ones are large without their sign
    return bool(y.min() >= 0 and y.max() < bound)


def _encode_block(y: np.ndarray, classes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Write the codes of labels into ``codes``; which of the labels are there, ``(n,)``, or that all are, ``(1,)``."""
    integers = y.dtype.kind in "iu" and classes.dtype.kind in "iu"
    if integers and classes[0] == 0 and classes[-1] == len(classes) - 1 and _are_below(len(classes), y):
        codes[:] = y  # they are codes already
        return np.ones(1, dtype=bool)
    if len(classes) <= 16:
        # A comparison for each class is much faster than a binary search for each row.
        known = np.asarray(y == classes[0])
        codes[:] = 0
        for code, label in enumerate(classes[1:], start=1):
            same = np.asarray(y == label)
            known |= same
            codes += same.view(np.int8) * codes.dtype.type(code)
        return known
    codes[:] = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    return np.asarray(classes[codes] == y)
