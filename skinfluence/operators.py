"""J, H and the training objective as operators: streamed over row blocks, nothing of size n x p is ever formed.

The training objective is ``L(theta) = sum_i w_i loss_i / sum_i w + penalty``. `Rows` are rows with targets and weights;
a `TrainingProblem` is a fitted model with the rows it was fitted on, and from it come the products that every method is
made of:

- `row_products`: ``(w_i / Σw) grad loss_i . u`` for a row each, the product of J with a direction;
- `pull_back`: ``sum_i`` of cotangents through the model, which makes every gradient;
- `hessian`: the Hessian of L as a SciPy LinearOperator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from .models import FittedModel
from .models._blocks import n_rows, row_slices, take
from .models.linear import LinearModel

_KEPT_OUTPUTS_BYTES = 1 << 23

Directions = Sequence[tuple[float, np.ndarray, np.ndarray]]
"""(weight, parameters, direction) of each snapshot."""


@dataclass(frozen=True)
class Rows:
    """Rows as the model takes them: ``X``, encoded targets, and weights ``(n,)`` or None.

    ``weight`` is what counts in the training objective, ``class_weight`` included; ``user_weight`` is the
    ``sample_weight`` given.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray | None = None
    user_weight: np.ndarray | None = None
    name: str = "X"

    def __len__(self) -> int:
        return n_rows(self.X)

    def blocks(self, n_columns_of_work: int) -> Iterator[tuple[slice, Any, np.ndarray, np.ndarray | None]]:
        """Slices of the rows with their X, targets and weights."""
        for at in row_slices(self.X, n_columns_of_work, self.X.dtype.itemsize):
            yield at, take(self.X, at), self.y[at], None if self.weight is None else self.weight[at]


def check_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Row weights as float64 ``(n,)``, or None; negative, non-finite and all-zero weights raise."""
    if sample_weight is None:
        return None
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight must have at least one positive entry, got zeros alone.")
    return weight


class TrainingProblem:
    """The objective that a fitted estimator was trained on.

    Parameters
    ----------
    fitted : FittedModel
        From `skinfluence.models.as_model`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The rows the estimator was fitted on.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Their targets.
    sample_weight : array-like of shape (n_samples,), default=None
        The weights it was fitted with.

    Attributes
    ----------
    rows : Rows
        The training rows; their weights include ``class_weight``.
    total_weight : float
        Sum of the rows' weights, by which the loss is divided.
    free : ndarray of bool of shape (p,)
        The parameters that can move.
    """

    def __init__(self, fitted: FittedModel, X: Any, y: Any, sample_weight: Any = None) -> None:
        check_consistent_length(X, y)
        self.fitted = fitted
        targets = fitted.encode(y)
        inputs = fitted.prepare(X)
        weight = check_weights(sample_weight, inputs)
        self._check_targets(targets)
        self.loss, self._class_weight = fitted.resolve_class_weight(targets, weight)
        self.rows = self._rows(inputs, targets, weight)
        self.total_weight = float(len(self.rows)) if self.rows.weight is None else float(self.rows.weight.sum())
        self.free = fitted.penalty.free
        self.penalty_scale = fitted.penalty.scale(len(self.rows), self.total_weight)

    def _check_targets(self, targets: np.ndarray) -> None:
        if self.fitted.classes is None:
            return
        if not (targets != targets[0]).any():
            raise ValueError(
                f"y must hold at least two classes, got one: {self.fitted.classes[targets[:1]].tolist()}. "
                "With a single class there is nothing to separate."
            )

    def _rows(self, X: Any, targets: np.ndarray, user_weight: np.ndarray | None, name: str = "X") -> Rows:
        weight = user_weight
        if self._class_weight is not None:
            by_class = self._class_weight[targets]
            weight = by_class if weight is None else by_class * weight
        # Regression targets in the dtype of X, so that float32 tables are worked on in float32.
        y = targets if targets.dtype.kind == "i" else targets.astype(X.dtype, copy=False)
        return Rows(X, y, weight, user_weight, name)

    def other_rows(self, X: Any, y: Any, sample_weight: Any = None, name: str = "X") -> Rows:
        """Rows that the model was not fitted on, weighted as they would be in training."""
        check_consistent_length(X, y)
        targets = self.fitted.encode(y)
        inputs = self.fitted.prepare(X)
        return self._rows(inputs, targets, check_weights(sample_weight, inputs), name)

    @property
    def params(self) -> np.ndarray:
        return self.fitted.model.params

    @property
    def n_params(self) -> int:
        return int(self.params.shape[0])

    # --- the objective and its derivatives ----------------------------------------------------------------------------

    def row_values(self, params: np.ndarray) -> np.ndarray:
        """The unweighted loss of each training row, ``(n,)``."""
        values = np.empty(len(self.rows))
        for at, F, y, _ in self.outputs_by_block(self.rows, params):
            values[at] = self.loss.value(F, y)
        return values

    def value(self, params: np.ndarray) -> float:
        """``L(params)``."""
        mean = np.average(self.row_values(params), weights=self.rows.weight)
        return float(mean) + self.penalty_scale * self.fitted.penalty.value(params)

    def gradient(self, params: np.ndarray) -> np.ndarray:
        """``dL/dparams``, ``(p,)``."""
        (total,) = pull_back(
            self.fitted,
            self.rows,
            [params],
            lambda F, at, m: self._weighted(self.loss.gradient(F, self.rows.y[at]), at),
        )
        return total / self.total_weight + self.penalty_scale * self.fitted.penalty.gradient(params)

    def _weighted(self, terms: np.ndarray, at: slice) -> np.ndarray:
        weight = self.rows.weight
        return terms if weight is None else terms * weight[at, None].astype(terms.dtype)

    def outputs_by_block(
        self, rows: Rows, params: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray | None]]:
        model = self.fitted.model.at(params)
        for at, X, y, weight in rows.blocks(4 * model.n_outputs):
            F = model.outputs(X)
            require_finite(F, rows.X, rows.name)
            yield at, F, y, weight

    def require_hessian(self, method: str) -> None:
        """Raise if the training loss has no second derivative to speak of."""
        if not self.loss.twice_differentiable:
            name = type(self.fitted.estimator).__name__
            raise TypeError(
                f"method={method!r} needs the second derivative of the training loss, and the loss of this {name} has "
                "none (it is "
                "piecewise linear). Methods that work: 'ip', 'ip_ensemble', 'self_tracin', 'leave_one_out'."
            )

    def hessian(self, params: np.ndarray) -> LinearOperator:
        """The Hessian of L at ``params``, ``(p, p)``. For a linear model it is the Gauss-Newton matrix too.

        Raises
        ------
        TypeError
            If the loss has no second derivative.
        """
        self.require_hessian("hessian")
        model = self.fitted.model
        l2 = self.penalty_scale * self.fitted.penalty.l2
        # The outputs do not change from one product to the next; they are kept where they are small beside X.
        small = len(self.rows) * model.n_outputs * self.rows.X.dtype.itemsize <= _KEPT_OUTPUTS_BYTES
        kept = [(at, F, y) for at, F, y, _ in self.outputs_by_block(self.rows, params)] if small else None

        def blocks(v: np.ndarray) -> Iterator[tuple[slice, Any, np.ndarray, np.ndarray, np.ndarray]]:
            if kept is not None:
                for at, F, y in kept:
                    X = take(self.rows.X, at)
                    yield at, X, F, y, model.jvp(X, v)
                return
            for at, X, y, _ in self.rows.blocks(4 * model.n_outputs):
                (F,), (T,) = model.outputs_and_jvps(X, [params], [v])
                yield at, X, F, y, T

        def product(v: np.ndarray) -> np.ndarray:
            v = np.ravel(v)
            total = np.zeros(self.n_params)
            for at, X, F, y, T in blocks(v):
                total += model.vjp(X, self._weighted(self.loss.hessian_product(F, y, T), at))
            return total / self.total_weight + l2 * v

        return LinearOperator((self.n_params, self.n_params), matvec=product, rmatvec=product, dtype=np.float64)

    def dense_hessian(self, params: np.ndarray) -> np.ndarray:
        """The same Hessian as an array ``(p, p)``, from weighted Gram matrices. Linear models only."""
        model = self.fitted.model
        assert isinstance(model, LinearModel)
        K, width = model.n_outputs, model.width
        H = np.zeros((K, width, K, width))
        for at, X, y, _ in self.rows.blocks(2 * model.width + 4 * K):
            F = model.at(params).outputs(X)
            require_finite(F, self.rows.X)
            for k in range(K):
                e = np.zeros_like(F)
                e[:, k] = 1
                curvature = self._weighted(self.loss.hessian_product(F, y, e), at)
                for j in range(k + 1):
                    if curvature[:, j].any():
                        H[k, :, j, :] += model.gram(X, np.ascontiguousarray(curvature[:, j]))
        for k in range(K):
            for j in range(k):
                H[j, :, k, :] = H[k, :, j, :].T
        dense = H.reshape(self.n_params, self.n_params)
        dense /= self.total_weight
        dense[np.diag_indices_from(dense)] += self.penalty_scale * self.fitted.penalty.l2
        return dense

    # --- products with the rows' gradients ----------------------------------------------------------------------------

    def row_products(self, v: np.ndarray, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """``(w_i / Σw) grad loss_i(params) . v`` for each of ``rows`` (the training rows unless given), ``(n,)``."""
        return self.scores([(1.0, params, v)], rows)

    def scores(self, directions: Directions, rows: Rows | None = None) -> np.ndarray:
        """The weighted sum of `row_products` over snapshots, all of them in one pass over the rows."""
        rows = self.rows if rows is None else rows
        weights, params, vs = zip(*directions, strict=True)
        out = np.empty(len(rows))
        K = self.fitted.model.n_outputs
        for at, X, y, weight in rows.blocks(len(weights) * 4 * K):
            total = np.zeros(at.stop - at.start, dtype=X.dtype)
            Fs, Ts = self.fitted.model.outputs_and_jvps(X, params, vs)
            for snapshot_weight, F, T in zip(weights, Fs, Ts, strict=True):
                require_finite(F, rows.X, rows.name)
                total += _row_dot(self.loss.gradient(F, y), T) * X.dtype.type(snapshot_weight / self.total_weight)
            out[at] = total if weight is None else total * weight
        return out

    def label_scores(self, directions: Directions, rows: Rows | None = None) -> np.ndarray:
        """What `scores` would be if the row had each label in turn, ``(n, n_classes)``: one derivative serves them all.

        Giving row i the label k instead of c changes the objective by ``scores[i, c] - scores[i, k]``, to first order.
        """
        if self.fitted.classes is None:
            raise TypeError(f"Labels are a classifier's; {type(self.fitted.estimator).__name__} is a regressor.")
        rows = self.rows if rows is None else rows
        weights, params, vs = zip(*directions, strict=True)
        K, n_labels = self.fitted.model.n_outputs, len(self.fitted.classes)
        share = np.ones(n_labels) if self._class_weight is None else self._class_weight
        out = np.zeros((len(rows), n_labels))
        for at, X, _, _ in rows.blocks(len(weights) * 4 * K + 2 * n_labels):
            Fs, Ts = self.fitted.model.outputs_and_jvps(X, params, vs)
            for snapshot_weight, F, T in zip(weights, Fs, Ts, strict=True):
                require_finite(F, rows.X, rows.name)
                for label in range(n_labels):
                    D = self.loss.gradient(F, np.full(F.shape[0], label))
                    out[at, label] += _row_dot(D, T) * (snapshot_weight * share[label] / self.total_weight)
        return out if rows.user_weight is None else out * rows.user_weight[:, None]

    def squared_gradient_norms(self, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """``‖grad loss_i(params)‖²`` over the free parameters, not weighted, ``(n,)``."""
        rows = self.rows if rows is None else rows
        out = np.empty(len(rows))
        for at, F, y, _ in self.outputs_by_block(rows, params):
            D = self.loss.gradient(F, y)
            out[at] = self.fitted.model.squared_row_norms(take(rows.X, at), D, self.free)
        return out


def _row_dot(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    if A.shape[1] == 1:
        return A[:, 0] * B[:, 0]
    return np.einsum("ik,ik->i", A, B)


def pull_back(
    fitted: FittedModel,
    rows: Rows,
    params: Sequence[np.ndarray],
    cotangents: Callable[[np.ndarray, slice, int], np.ndarray],
) -> list[np.ndarray]:
    """``sum_i cotangents_i dF_i/dparams`` at each of ``params``, in one pass; ``cotangents(F, rows, m)`` gives those of
    a block.

    Returns float64 vectors ``(p,)``.
    """
    model = fitted.model
    totals = [np.zeros(model.params.shape[0]) for _ in params]
    for at, X, _, _ in rows.blocks(len(params) * 4 * model.n_outputs):
        Fs, _ = model.outputs_and_jvps(X, params, [])
        for F in Fs:
            require_finite(F, rows.X, rows.name)
        parts = model.vjps(X, params, [cotangents(F, at, m) for m, F in enumerate(Fs)])
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


def require_finite(F: np.ndarray, X: Any, name: str = "X") -> None:
    """Raise if raw outputs are not finite, and say whether X is the cause.

    A NaN or an infinity in a row of X always makes that row's outputs non-finite, so that looking at the (small)
    outputs spares a pass over X.
    """
    if np.isfinite(F.sum()) or np.isfinite(F).all():
        return
    assert_all_finite(X.data if sp.issparse(X) else X, input_name=name)
    raise ValueError(
        "The model's raw outputs are not finite although X is: its parameters or the values of X are too large."
    )
