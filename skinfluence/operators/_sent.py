"""What is computed of rows, as objects that can be sent to where the rows are.

Two kinds: functions of a block, ``(X, y, weight) -> (n, ...)``, for `Rows.each`; and functions of `Rows`, whose results
`Rows.total` adds up. They hold a model, a loss and small arrays, never the rows of X, and can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..models._blocks import MAX_ROWS, blocks_of
from ._rows import Rows, require_finite

Directions = Iterable[tuple[float, np.ndarray, np.ndarray]]
"""(weight, parameters, direction) of each snapshot."""


def weighted(terms: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Terms ``(m, K)`` times the weights of their rows, in the dtype of the terms."""
    return terms if weight is None else terms * weight[:, None].astype(terms.dtype)


def row_dot(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The inner product of each row of ``A (n, K)`` with that of ``B``, ``(n,)``."""
    if A.shape[1] == 1:
        return A[:, 0] * B[:, 0]
    return np.einsum("ik,ik->i", A, B)


# --- of a block -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowValues:
    """`TrainingProblem.row_values`."""

    model: Any
    loss: Any
    name: str

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        F = self.model.outputs(X)
        require_finite(F, X, self.name)
        return np.asarray(self.loss.value(F, y))


@dataclass(frozen=True)
class RowNorms:
    """Squared norms of the gradients that ``cotangents(F, y)`` make in the free parameters, times the rows' weights if
    they are to be weighted.
    """

    model: Any
    cotangents: Callable[[np.ndarray, np.ndarray], np.ndarray]
    free: np.ndarray
    name: str
    weighted: bool = False

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        def of_block(F: np.ndarray, part: slice, member: int) -> np.ndarray:
            require_finite(F, X, self.name)
            return np.asarray(self.cotangents(F, y[part]))

        norms = np.asarray(self.model.squared_row_norms(X, of_block, self.free))
        return norms if weight is None or not self.weighted else norms * weight


@dataclass(frozen=True)
class RowProducts:
    """`TrainingProblem.scores`."""

    model: Any
    loss: Any
    directions: Directions
    total_weight: float
    name: str

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        weights, params, vs = zip(*self.directions, strict=True)
        total = np.zeros(len(y), dtype=X.dtype)
        Fs, Ts = self.model.outputs_and_jvps(X, params, vs)
        for snapshot_weight, F, T in zip(weights, Fs, Ts, strict=True):
            require_finite(F, X, self.name)
            scale = X.dtype.type(snapshot_weight / self.total_weight)
            for start in range(0, len(y), MAX_ROWS):  # a CSC matrix may be one block, of many rows
                at = slice(start, start + MAX_ROWS)
                total[at] += row_dot(self.loss.gradient(F[at], y[at]), T[at]) * scale
        return total if weight is None else total * weight


@dataclass(frozen=True)
class EachProduct:
    """`TrainingProblem.score_matrix`, but for the rows' total weight; ``vs (m, p)``, the result ``(n, m)``."""

    model: Any
    loss: Any
    vs: np.ndarray
    name: str

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        F = self.model.outputs(X)
        require_finite(F, X, self.name)
        D = weighted(self.loss.gradient(F, y), weight)
        return np.stack([row_dot(D, T) for T in self.model.jvps(X, self.vs)], axis=1)


@dataclass(frozen=True)
class LabelProducts:
    """`TrainingProblem.label_scores`, without the users' weights; ``share`` is what a row of each label weighs."""

    model: Any
    loss: Any
    directions: Directions
    share: np.ndarray
    name: str

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        weights, params, vs = zip(*self.directions, strict=True)
        out = np.zeros((len(y), len(self.share)))
        Fs, Ts = self.model.outputs_and_jvps(X, params, vs)
        for snapshot_weight, F, T in zip(weights, Fs, Ts, strict=True):
            require_finite(F, X, self.name)
            for label, share in enumerate(self.share):
                D = self.loss.gradient(F, np.full(F.shape[0], label))
                out[:, label] += row_dot(D, T) * (snapshot_weight * share)
        return out


# --- of rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """Raw outputs ``(n, K)`` at each of ``params``: a list, joined over blocks."""

    model: Any
    params: Sequence[np.ndarray]

    def __call__(self, rows: Rows) -> list[np.ndarray]:
        blocks = [Fs for _, Fs in outputs_by_block(self.model, rows, self.params)]
        return [np.concatenate(own) for own in zip(*blocks, strict=True)]


def outputs_by_block(
    model: Any, rows: Rows, params: Sequence[np.ndarray]
) -> Iterator[tuple[slice, Sequence[np.ndarray]]]:
    """Slices of the rows with the raw outputs ``(m, K)`` at each of ``params``, which come from where the rows are."""
    if rows.are_elsewhere:
        yield from rows.on_pieces(Outputs(model, params))
        return
    for at, X, _, _ in rows.blocks(len(params) * 4 * model.n_outputs):
        Fs, _ = model.outputs_and_jvps(X, params, [])
        for F in Fs:
            require_finite(F, X, rows.name)
        yield at, Fs


@dataclass(frozen=True)
class PulledBack:
    """Sums over rows of given cotangents ``(n, K)`` through the model at each of ``params``: ``(len(params), p)``."""

    model: Any
    params: Sequence[np.ndarray]

    def __call__(self, rows: Rows, *cotangents: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.params), len(self.params[0])))
        for at, X, _, _ in rows.blocks(self.model.n_outputs):
            for m, (params, D) in enumerate(zip(self.params, cotangents, strict=True)):
                total[m] += self.model.at(params).vjp(X, D[at])
        return total


@dataclass(frozen=True)
class HessianProducts:
    """The sum over rows of their weighted losses' second derivatives, times each column of ``V (p, m)``.

    ``kept`` are outputs that are known already, with the slices of the rows that they are of.
    """

    model: Any
    loss: Any
    second_order: bool
    V: np.ndarray
    kept: Sequence[tuple[slice, np.ndarray]] | None = None

    def __call__(self, rows: Rows) -> np.ndarray:
        vs = np.ascontiguousarray(self.V.T)
        total = np.zeros(vs.shape)
        for X, y, weight, F in self._blocks(rows):
            if F is None and self.second_order:
                F = self.model.outputs(X)
            total += self.model.push_and_pull_each(X, vs, partial(self._curved, y, weight), F)
            if self.second_order:
                D = weighted(self.loss.gradient(F, y), weight)
                for j, v in enumerate(vs):
                    total[j] += self.model.second_order(X, D, v)
        return total.T

    def _curved(self, y: np.ndarray, weight: np.ndarray | None, F: np.ndarray, T: np.ndarray, at: slice) -> np.ndarray:
        return weighted(self.loss.hessian_product(F, y[at], T), None if weight is None else weight[at])

    def _blocks(self, rows: Rows) -> Iterator[tuple[Any, np.ndarray, np.ndarray | None, np.ndarray | None]]:
        if self.kept is None:
            for _, X, y, weight in rows.blocks(4 * self.model.n_outputs):
                yield X, y, weight, None
            return
        slices, outputs = zip(*self.kept, strict=True)
        for (at, X), F in zip(blocks_of(rows.X, slices), outputs, strict=True):
            yield X, rows.y[at], None if rows.weight is None else rows.weight[at], F


@dataclass(frozen=True)
class GramCurvature:
    """The same sum as an array, for a linear model: ``(K, d [+ 1], K, d [+ 1])``, of which the blocks below the
    diagonal of outputs are left to their twins.
    """

    model: Any
    loss: Any

    def __call__(self, rows: Rows) -> np.ndarray:
        model = self.model
        K, width = model.n_outputs, model.width
        H = np.zeros((K, width, K, width))
        for _, X, y, weight in rows.blocks(2 * width + 4 * K):
            F = model.outputs(X)
            require_finite(F, X, rows.name)
            for k, curvature in enumerate(output_curvature(self.loss, F, y, weight)):
                for j in range(k + 1):
                    if curvature[:, j].any():
                        H[k, :, j, :] += model.gram(X, np.ascontiguousarray(curvature[:, j]))
        return H


@dataclass(frozen=True)
class JacobianCurvature:
    """The same sum, without what is beyond Gauss-Newton, for a model that gives Jacobians ``(m, K, p)`` of its rows."""

    model: Any
    loss: Any

    def __call__(self, rows: Rows) -> np.ndarray:
        p = len(self.model.params)
        H = np.zeros((p, p))
        for _, X, y, weight in rows.blocks(4 * self.model.n_outputs):
            F = self.model.outputs(X)
            require_finite(F, X, rows.name)
            curvature = np.stack(list(output_curvature(self.loss, F, y, weight)), axis=2)
            start = 0
            for J in self.model.jacobians(X):
                H += J.reshape(-1, p).T @ (curvature[start : start + len(J)] @ J).reshape(-1, p)
                start += len(J)
        return H


def output_curvature(loss: Any, F: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> Iterator[np.ndarray]:
    """The columns ``(n, K)`` of each row's weighted second derivative in its outputs, one after the other."""
    for k in range(F.shape[1]):
        e = np.zeros_like(F)
        e[:, k] = 1
        yield weighted(loss.hessian_product(F, y, e), weight)
