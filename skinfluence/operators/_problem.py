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
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator
from sklearn import get_config
from sklearn.utils.validation import check_consistent_length

from ..models import FittedModel
from ..models._blocks import n_rows
from ..models._fitted import NO_CLASS
from ..models._layers import LayerRows
from ._dense import dense_hessian
from ._rows import ClassWeights, Rows, check_weights, require_finite
from ._sent import (
    Directions,
    EachProduct,
    HessianProducts,
    LabelProducts,
    Outputs,
    PulledBack,
    RowNorms,
    RowProducts,
    RowValues,
    outputs_by_block,
    weighted,
)

# Beside scores of as many rows that is all that a call may take.
_KEPT_OUTPUTS_BYTES = 6 << 20
_FEW = 256  # rows


class Reduction(NamedTuple):
    """A model and rows for it; ``order`` is which of the problem's parameters the model's are, as an index."""

    model: Any
    rows: Rows
    order: Any

    def take(self, indices: np.ndarray) -> Reduction:
        """Of some of the rows, copied."""
        return self._replace(rows=self.rows.take(indices))


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
        if fitted.intake is None:
            X = fitted.opened(X)  # what is streamed has a length then
            check_consistent_length(X, y)
        self.fitted = fitted
        inputs = fitted.prepare(X)  # first: a net learns from it what it puts out
        targets = fitted.encode(y)
        weight = check_weights(sample_weight, inputs)
        self._check_targets(targets)
        self.loss, self._class_weight = fitted.resolve_class_weight(targets, weight)
        self.rows = self._rows(inputs, targets, weight)
        self.total_weight = float(len(self.rows)) if self.rows.weight is None else float(self.rows.weight.sum())
        self.free = fitted.penalty.free
        self.penalty_scale = fitted.penalty.scale(len(self.rows), self.total_weight)
        if fitted.intake is not None:
            fitted.intake.verify(inputs, targets)

    def _check_targets(self, targets: np.ndarray) -> None:
        if self.fitted.classes is None:
            return
        if self.fitted.intake is not None:
            targets = targets[targets != NO_CLASS]
        some = targets[:_FEW]  # nearly always enough
        if not ((some != targets[:1]).any() or (targets != targets[:1]).any()):
            raise ValueError(
                f"y must hold at least two classes, got one: {self.fitted.classes[targets[:1]].tolist()}. "
                "With a single class there is nothing to separate."
            )

    def _rows(self, X: Any, targets: np.ndarray, user_weight: np.ndarray | None, name: str = "X") -> Rows:
        weight: Any = user_weight
        if self._class_weight is not None:
            weight = ClassWeights(self._class_weight, targets, user_weight)
        if self.fitted.intake is not None:
            weight = None if weight is None else np.asarray(weight)
            own = self.fitted.intake.row_weight(targets)
            weight = own if weight is None else weight if own is None else own * weight
        # Regression targets in the dtype of X, so that float32 tables are worked on in float32.
        y = targets.astype(X.dtype, copy=False) if targets.dtype.kind == "f" else targets
        return Rows(X, y, weight, user_weight, name)

    def other_rows(self, X: Any, y: Any, sample_weight: Any = None, name: str = "X") -> Rows:
        """Rows that the model was not fitted on, weighted as they would be in training."""
        if self.fitted.intake is None:
            X = self.fitted.opened(X)
            check_consistent_length(X, y)
        inputs = self.fitted.prepare(X)
        targets = self.fitted.encode(y)
        if len(targets) != n_rows(inputs):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {[n_rows(inputs), len(targets)]}"
            )
        return self._rows(inputs, targets, check_weights(sample_weight, inputs), name)

    @property
    def params(self) -> np.ndarray:
        return self.fitted.model.params

    @property
    def n_params(self) -> int:
        return int(self.params.shape[0])

    # --- the objective and its derivatives ----------------------------------------------------------------------------

    def row_values(self, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """The unweighted loss of each of ``rows`` (the training rows unless given), ``(n,)``."""
        rows = self.rows if rows is None else rows
        model = self.fitted.model.at(params)
        return rows.each(RowValues(model, self.loss, rows.name), 4 * model.n_outputs)

    def value(self, params: np.ndarray) -> float:
        """``L(params)``."""
        mean = np.average(self.row_values(params), weights=self.rows.weight)
        return float(mean) + self.penalty_scale * self.fitted.penalty.value(params)

    def gradient(self, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """``dL/dparams``, ``(p,)``, or that of the mean over ``rows`` (a mini-batch) with the same penalty."""
        some = self.rows if rows is None else rows
        total_weight = float(len(some)) if some.weight is None else float(some.weight.sum())

        def cotangents(F: np.ndarray, at: slice, member: int) -> np.ndarray:
            return weighted(self.loss.gradient(F, some.y[at]), None if some.weight is None else some.weight[at])

        (total,) = pull_back(self.fitted, some, [params], cotangents)
        return total / total_weight + self.penalty_scale * self.fitted.penalty.gradient(params)

    def require_hessian(self, method: str) -> None:
        """Raise if the training loss has no second derivative to speak of."""
        if not self.loss.twice_differentiable:
            name = type(self.fitted.estimator).__name__
            raise TypeError(
                f"method={method!r} needs the second derivative of the training loss, and the loss of this {name} has "
                "none (it is "
                "piecewise linear). Methods that work: 'ip', 'ip_ensemble', 'self_tracin', 'leave_one_out', "
                "'tracin', 'gex', 'trak', 'datainf'."
            )

    def hessian(self, at: np.ndarray | Reduction) -> LinearOperator:
        """The Hessian of L ``(p, p)`` at parameters, or at what `reduced` gives for them, which may be of some of the
        rows. For a linear model it is the Gauss-Newton matrix too.

        Raises
        ------
        TypeError
            If the loss has no second derivative.
        """
        self.require_hessian("hessian")
        model, rows, order = at if isinstance(at, Reduction) else self.reduced(at)
        l2 = self.penalty_scale * self.fitted.penalty.l2
        # The outputs do not change from one product to the next; they are kept where they are small beside X, and here.
        small = len(rows) * model.n_outputs * rows.X.dtype.itemsize <= _KEPT_OUTPUTS_BYTES
        second_order = self.fitted.curvature == "hessian" and not model.linear
        keep = small and not rows.are_elsewhere and (model.linear or second_order)
        kept = [(part, F) for part, (F,) in outputs_by_block(model, rows, [model.params])] if keep else None

        def products(V: np.ndarray) -> np.ndarray:
            total = np.empty(V.shape)
            total[order] = rows.total(HessianProducts(model, self.loss, second_order, V[order], kept))
            return total / self.total_weight + l2[:, None] * V

        def product(v: np.ndarray) -> np.ndarray:
            return products(np.reshape(v, (-1, 1)))[:, 0]

        shape = (self.n_params, self.n_params)
        return LinearOperator(
            shape, matvec=product, rmatvec=product, matmat=products, rmatmat=products, dtype=np.float64
        )

    def reduced(self, params: np.ndarray) -> Reduction:
        """The model at ``params`` with the training rows, or what serves many products with them at less work."""
        model = self.fitted.model.at(params)
        quarter = int(get_config()["working_memory"] * 2**20) // 4
        found = None if self.rows.are_elsewhere else model.reduced(self.rows.X, quarter)
        if found is None:
            return Reduction(model, self.rows, slice(None))
        order = slice(None) if found.order is None else found.order
        return Reduction(found.model, replace(self.rows, X=found.X), order)

    def dense_hessian(self, params: np.ndarray) -> np.ndarray:
        """The same Hessian as an array ``(p, p)``, where that is small."""
        return dense_hessian(self, params)

    # --- products with the rows' gradients ----------------------------------------------------------------------------

    def row_products(self, v: np.ndarray, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """``(w_i / Σw) grad loss_i(params) . v`` for each of ``rows`` (the training rows unless given), ``(n,)``."""
        return self.scores([(1.0, params, v)], rows)

    def scores(self, directions: Directions, rows: Rows | None = None) -> np.ndarray:
        """The weighted sum of `row_products` over snapshots, in one pass over the rows where that costs less."""
        rows = self.rows if rows is None else rows
        model = self.fitted.model

        def of(some: list[Any]) -> np.ndarray:
            products = RowProducts(model, self.loss, some, self.total_weight, rows.name)
            return rows.each(products, len(some) * 4 * model.n_outputs)

        return self._over(directions, of)

    def _over(self, directions: Directions, scores: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        """``scores`` of all directions together, or their sum over one after the other."""
        if self.fitted.model.linear:
            return scores(list(directions))
        total: np.ndarray | None = None
        for one in directions:
            part = scores([one])
            del one  # before the next is made
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total

    def score_matrix(self, params: np.ndarray, vs: np.ndarray) -> np.ndarray:
        """`row_products` of the training rows with each of ``vs (m, p)``, ``(m, n)``, in one pass over the rows."""
        products = EachProduct(self.fitted.model.at(params), self.loss, vs, self.rows.name)
        out = self.rows.each(products, (len(vs) + 4) * self.fitted.model.n_outputs, (len(vs),)).T
        out /= self.total_weight
        return out

    def label_scores(self, directions: Directions, rows: Rows | None = None) -> np.ndarray:
        """What `scores` would be if the row had each label in turn, ``(n, n_classes)``: one derivative serves them all.

        Giving row i the label k instead of c changes the objective by ``scores[i, c] - scores[i, k]``, to first order.
        """
        if self.fitted.classes is None:
            raise TypeError(f"Labels are a classifier's; {type(self.fitted.estimator).__name__} is a regressor.")
        rows = self.rows if rows is None else rows
        model, n_labels = self.fitted.model, len(self.fitted.classes)
        share = np.ones(n_labels) if self._class_weight is None else self._class_weight

        def of(some: list[Any]) -> np.ndarray:
            products = LabelProducts(model, self.loss, some, share / self.total_weight, rows.name)
            return rows.each(products, len(some) * 4 * model.n_outputs + 2 * n_labels, (n_labels,))

        out = self._over(directions, of)
        return out if rows.user_weight is None else out * rows.user_weight[:, None]

    def squared_gradient_norms(self, params: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """``‖grad loss_i(params)‖²`` over the free parameters, not weighted, ``(n,)``."""
        rows = self.rows if rows is None else rows
        model = self.fitted.model.at(params)
        return rows.each(RowNorms(model, self.loss.gradient, self.free, rows.name), 4 * model.n_outputs)

    def self_influences(self, rows: Rows | None = None) -> np.ndarray:
        """``-(w_i / Σw) ‖grad loss_i‖²`` at the fitted parameters, ``(n,)``."""
        rows = self.rows if rows is None else rows
        model = self.fitted.model
        norms = RowNorms(model, self.loss.gradient, self.free, rows.name, weighted=True)
        return rows.each(norms, 4 * model.n_outputs, scale=-1.0 / self.total_weight)

    def layer_rows(
        self, params: np.ndarray, cotangents: Callable[[np.ndarray, slice], np.ndarray] | None = None
    ) -> Iterator[tuple[slice, list[LayerRows]]]:
        """The gradients of blocks of training rows, layer by layer and not weighted.

        They are those of the training loss, or of ``cotangents(F, rows) -> (m, K)`` in the outputs.
        """
        model = self.fitted.model.at(params)
        # What is made dense of sparse rows on the way is cut into blocks where it is made.
        of_layers = 0 if sp.issparse(self.rows.X) else 2 * model.widest_layer
        for at, X, y, _ in self.rows.blocks(4 * model.n_outputs + of_layers):

            def of_block(
                F: np.ndarray, part: slice, member: int, start: int = at.start, y: np.ndarray = y
            ) -> np.ndarray:
                require_finite(F, self.rows.X, self.rows.name)
                if cotangents is None:
                    return self.loss.gradient(F, y[part])
                return cotangents(F, slice(start + part.start, start + part.stop))

            for part, layers in model.layers(X, of_block, self.free):
                yield slice(at.start + part.start, at.start + part.stop), layers


def pull_back(
    fitted: FittedModel,
    rows: Rows,
    params: Sequence[np.ndarray],
    cotangents: Callable[[np.ndarray, slice, int], np.ndarray],
) -> list[np.ndarray]:
    """``sum_i cotangents_i dF_i/dparams`` at each of ``params``, in one pass; ``cotangents(F, rows, m)`` gives those of
    a block.

    Where the rows are elsewhere the outputs come from there and the cotangents, which anything may be made of, go back:
    as many numbers a row as the model has outputs. Returns float64 vectors ``(p,)``.
    """
    model = fitted.model
    if rows.are_elsewhere:
        there = rows.on_pieces(Outputs(model, params))
        back = ([cotangents(F, at, m) for m, F in enumerate(Fs)] for at, Fs in there)
        return list(rows.total(PulledBack(model, params), back))
    totals = [np.zeros(model.params.shape[0]) for _ in params]
    for at, X, _, _ in rows.blocks(len(params) * 4 * model.n_outputs):

        def of_block(F: np.ndarray, part: slice, member: int, start: int = at.start) -> np.ndarray:
            require_finite(F, rows.X, rows.name)
            return cotangents(F, slice(start + part.start, start + part.stop), member)

        for total, part in zip(totals, model.pull_back(X, params, of_block), strict=True):
            total += part
    return totals
