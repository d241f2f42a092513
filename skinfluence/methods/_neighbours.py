"""Shapley values under a nearest-neighbour model: exact, by a recursion over sorted distances, without a refit."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, check_scalar
from sklearn.utils.parallel import delayed

from .._parallel import one_by_one
from ..objectives import BoundObjective, MeanLoss
from ..objectives.utility import UserLoss
from ..operators import Rows, TrainingProblem
from ._refit import class_codes, raw_rows

# Arrays of one number for each pair of rows that a block holds at the same time, counted generously.
_ARRAYS = 10


class KNNShapley(BaseEstimator):
    """The exact Shapley value of each row for a nearest-neighbour model on the same features, in the model's stead.

    A validation row is predicted by its ``n_neighbors`` nearest training rows in Euclidean distance. For classifiers
    its loss is one minus the share of them that have its label, which is the loss "mae" under the neighbours'
    probabilities; for regressors half the squared difference of its target and their mean. A row's value is the mean,
    over all orders in which rows may come, of the fall of the mean loss when it comes. Negative: the row hurts.

    The values add up to ``T(no rows) - T(all rows)``, the same losses with no training row and with all of them:
    neighbours that are missing, in subsets smaller than ``n_neighbors``, count as wrong ones, or as ones with the
    mean of all training targets.

    Parameters
    ----------
    n_neighbors : int, default=5
        Number of neighbours, at least 1.

    Notes
    -----
    Of the estimator it takes the transformers before it, and so the features; of the objective the rows and their
    weights, whatever its loss. It needs an objective that is a mean over rows ("utility") under one of the package's
    losses. Scale the features: distances depend on their units. Nets are valued in their inputs.

    Validation rows that are training rows themselves (no ``X_val`` given) are no neighbours of their own: each is
    predicted by the others. Rows that the model was not fitted on (cross-fitting) get their value in the game of the
    training rows and that row. Those values do not add up to anything.

    A closed form is known for rows that count alike, so that sample weights of the rows to be valued must be one
    number; rows of weight zero are left out, and have the value zero. Rows at the same distance come in the order of
    the table. The cost is one sort of the training rows for each validation row, ``O(m n (d + log n))``, in blocks
    within scikit-learn's ``working_memory``.

    Source: Jia et al., "Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms", PVLDB 12(11), 2019,
    Theorem 1 for classifiers and Theorem 6 for regressors; as there, a subset's neighbours are summed and divided by
    ``n_neighbors`` even if they are fewer.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence import influence_scores
    >>> from skinfluence.methods import KNNShapley
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X, X_val, y, y_val = train_test_split(scale(X), y, random_state=0)
    >>> y[:20] = 1 - y[:20]  # twenty wrong labels
    >>> clf = LogisticRegression().fit(X, y)
    >>> values = influence_scores(clf, X, y, X_val, y_val, method=KNNShapley())
    >>> int((values.argsort()[:20] < 20).sum())  # so many of them are among the twenty lowest
    15
    """

    calibrated = False

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        k = int(check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1))
        if not isinstance(objective, MeanLoss) or isinstance(objective.loss, UserLoss):
            raise TypeError(
                "knn_shapley has a loss of its own, and needs an objective that is a mean over rows under a loss of "
                f"the package, such as 'utility'; got {type(objective).__name__}. Use 'data_shapley' for others."
            )
        others = None if rows is None or rows is problem.rows else rows
        neighbours = _Neighbours(problem, objective.rows, others, k)
        # Threads: the work is in NumPy, and nothing needs to be copied to it.
        blocks = one_by_one((delayed(neighbours.block)(at) for at in neighbours.slices()), n_jobs, prefer="threads")
        values = np.zeros(len(problem.rows) if others is None else len(others))
        for block in blocks:
            values[neighbours.valued] += block
        return values, {"n_neighbors": k}


class _Neighbours:
    """Training rows, validation rows and, where they are not the training rows, rows to be valued, as points."""

    def __init__(self, problem: TrainingProblem, validation: Rows, others: Rows | None, k: int) -> None:
        players, chosen = _that_count(problem.rows), _that_count(others or problem.rows)
        asked = np.arange(len(validation)) if validation.weight is None else np.flatnonzero(validation.weight)
        weight = np.ones(len(asked)) if validation.weight is None else validation.weight[asked]
        self.weight = weight / weight.sum()
        self.train = _points(problem.rows)[players]
        self.val = _points(validation)[asked]
        self.others = None if others is None else _points(others)[chosen]
        self.valued = chosen
        # A validation row that is a training row is left out of its own neighbours.
        self.itself = np.searchsorted(players, asked) if validation is problem.rows else None
        self.game: _Game = _Classes(k)
        targets = [rows.y.reshape(len(rows), -1) for rows in (problem.rows, validation, others or problem.rows)]
        y, y_val, y_valued = (part[some] for part, some in zip(targets, (players, asked, chosen), strict=True))
        if class_codes(problem) is None:
            if problem.rows.y.dtype.kind == "i":
                raise TypeError("knn_shapley needs a class or numbers for each row, got several class codes a row.")
            self.game = _Numbers(k)
            centre = y.mean(axis=0, dtype=np.float64)
            y, y_val, y_valued = y - centre, y_val - centre, y_valued - centre
        self.y, self.y_val, self.y_valued = y, y_val, y_valued

    def slices(self) -> Iterator[slice]:
        """Blocks of validation rows, as many as there is memory for."""
        n, m = self.train.shape[0], 0 if self.others is None else self.others.shape[0]
        step = max(int(get_config()["working_memory"] * 2**20) // (8 * _ARRAYS * (n + m)), 1)
        for start in range(0, len(self.weight), step):
            yield slice(start, min(start + step, len(self.weight)))

    def block(self, at: slice) -> np.ndarray:
        """What some validation rows add to the value of each row."""
        D = _squared_distances(self.val[at], self.train)
        n_neighbours = D.shape[1]
        if self.itself is not None:
            D[np.arange(len(D)), self.itself[at]] = np.inf
            n_neighbours -= 1
        order = D.argsort(axis=1, kind="stable")[:, :n_neighbours]
        if self.others is None:
            values = sum(self.game.inside(y[order], v[at]) for y, v in zip(self.y.T, self.y_val.T, strict=True))
            weighted = values * self.weight[at, None]
            return np.bincount(order.ravel(), weighted.ravel(), minlength=D.shape[1])
        D, D_others = np.take_along_axis(D, order, axis=1), _squared_distances(self.val[at], self.others)
        places = np.stack([np.searchsorted(a, b, side="right") for a, b in zip(D, D_others, strict=True)])
        targets = zip(self.y.T, self.y_val.T, self.y_valued.T, strict=True)
        values = sum(self.game.inserted(y[order], v[at], places, z) for y, v, z in targets)
        return self.weight[at] @ values


def _that_count(rows: Rows) -> np.ndarray:
    """Indices of the rows of positive weight, which must all have the same."""
    weight = rows.user_weight
    if weight is None:
        return np.arange(len(rows))
    counted = np.flatnonzero(weight)
    if len(np.unique(weight[counted])) > 1:
        raise ValueError(
            "knn_shapley counts all rows alike: its exact form is known for neighbours without weights alone. Leave "
            "sample_weight out, or give one that is zero or one; 'data_shapley' takes any."
        )
    return counted


def _points(rows: Rows) -> Any:
    """Rows as points: a CSR matrix or a dense float64 table, whose entries are finite."""
    X = raw_rows(rows.X)
    if sp.issparse(X):
        X = X.tocsr()
    elif hasattr(X, "__array__"):
        X = np.asarray(X, dtype=np.float64).reshape(len(rows), -1)
    else:
        raise TypeError(
            f"knn_shapley takes distances between rows, and needs them in one array, got {type(X).__name__}. Bring "
            "them into one, or use another method."
        )
    assert_all_finite(X, input_name=rows.name)
    return X


def _squared_distances(A: Any, B: Any) -> np.ndarray:
    """Squared Euclidean distances ``(len(A), len(B))``; equal rows are at equal distances, to the last bit.

    Dense tables are not multiplied: what BLAS rounds depends on a row's place in its block, and would break ties.
    """
    if not sp.issparse(A) and not sp.issparse(B):
        return np.asarray(cdist(A, B, "sqeuclidean"))
    A, B = sp.csr_array(A), sp.csr_array(B)
    norms = [np.asarray(part.multiply(part).sum(axis=1), dtype=np.float64).ravel() for part in (A, B)]
    D = -2.0 * (A @ B.T).toarray().astype(np.float64)
    D += norms[0][:, None]
    D += norms[1]
    return np.maximum(D, 0, out=D)


class _Game(Protocol):
    """Values of training rows for one validation row each, in closed form.

    ``t (b, n)`` are the targets of the neighbours, nearest first, ``v (b,)`` those of the validation rows.
    """

    def inside(self, t: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Values ``(b, n)`` of the neighbours."""

    def inserted(self, t: np.ndarray, v: np.ndarray, places: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Values ``(b, m)`` of rows with targets ``z (m,)``, each come alone to ``places (b, m)`` among them."""


class _Classes:
    """The loss is one minus the sum over neighbours of ``[their label is the row's] / k``.

    Two neighbours next to each other, at places i and i + 1, differ in value by the difference of their terms times the
    probability ``min(k, i) / i`` that fewer than k of the nearer rows are in a random subset; the last one's value is
    its term times that probability, as if one with a term of zero came after it.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def inside(self, t: np.ndarray, v: np.ndarray) -> np.ndarray:
        steps = (t == v[:, None]).astype(np.float64)
        steps[:, :-1] -= steps[:, 1:].copy()
        return _from_the_end(steps * _share(self.k, t.shape[1]) / self.k)

    def inserted(self, t: np.ndarray, v: np.ndarray, places: np.ndarray, z: np.ndarray) -> np.ndarray:
        terms = _and_zeros((t == v[:, None]).astype(np.float64), 1)
        share = _share(self.k, terms.shape[1]) / self.k
        # A row that comes before them moves neighbours one place back.
        tail = _and_zeros(_from_the_end((terms[:, :-1] - terms[:, 1:]) * share[1:]), 1)
        own = (z == v[:, None]) - np.take_along_axis(terms, places, axis=1)
        return own * share[places] + np.take_along_axis(tail, places, axis=1)


class _Numbers:
    """The loss is ``(sum over neighbours of t / k - v)^2 / 2``.

    Neighbours at places i and i + 1 differ in value by ``-(t_i - t_{i+1}) / (2 k)`` times the mean, over random subsets
    with fewer than k nearer rows, of ``(t_i + t_{i+1} + 2 Q) / k - 2 v``, where Q is the sum over the k - 1 nearest
    others in the subset. A row nearer than both is among these with probability ``pair(i)``, one at a place l behind
    them with ``pair(l - 1)``.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def inside(self, t: np.ndarray, v: np.ndarray) -> np.ndarray:
        pair = _pair(self.k, t.shape[1])
        behind = _and_zeros(t, 1)[:, 1:]
        nearer = np.cumsum(t, axis=1) - t
        # From place i + 2 on, each with the probability of the place before its own.
        farther = _and_zeros(_from_the_end(behind[:, :-1] * pair[:-1]), 2)[:, 1 : t.shape[1] + 1]
        return _from_the_end(self._step(t, behind, v, _share(self.k, t.shape[1]), pair * nearer + farther))

    def inserted(self, t: np.ndarray, v: np.ndarray, places: np.ndarray, z: np.ndarray) -> np.ndarray:
        k, n = self.k, t.shape[1]
        share, pair = _share(k, n + 1), _pair(k, n + 1)
        padded = _and_zeros(t, 1)
        nearer = np.cumsum(padded, axis=1) - padded
        farther = _and_zeros(_from_the_end(t * pair[:-1]), 2)
        # Steps between neighbours behind the row, one place back, are a number and a multiple of the row's target.
        numbers = self._step(t, padded[:, 1:], v, share[1:], pair[1:] * nearer[:, :-1] + farther[:, 2:])
        multiples = (padded[:, 1:] - t) * pair[1:] / k**2
        tails = [_and_zeros(_from_the_end(part), 1) for part in (numbers, multiples)]
        next_one, nearer, farther = (
            np.take_along_axis(part, places, axis=1) for part in (padded, nearer, farther[:, 1:])
        )
        own = self._step(z, next_one, v, share[places], pair[places] * nearer + farther)
        number, multiple = (np.take_along_axis(tail, places, axis=1) for tail in tails)
        return own + number + z * multiple

    def _step(self, t: np.ndarray, behind: np.ndarray, v: np.ndarray, share: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """What a neighbour is worth more than the one behind it."""
        k = self.k
        return (behind - t) / (2 * k) * (((t + behind) / k - 2 * v[:, None]) * share + 2 * Q / k)


def _share(k: int, n: int) -> np.ndarray:
    """Probability that fewer than k of the rows nearer than places 1 to n are in a subset of a random size."""
    i = np.arange(1, n + 1)
    return np.minimum(k, i) / i


def _pair(k: int, n: int) -> np.ndarray:
    """Probability that one of the rows nearer than places 1 to n is, and fewer than k - 1 of the others are."""
    i = np.arange(1, n + 1)
    m = np.minimum(k - 1, i - 1)
    return m * (m + 1) / (2 * i * np.maximum(i - 1, 1))


def _from_the_end(steps: np.ndarray) -> np.ndarray:
    """Sums of each entry of a row and those after it."""
    return steps[:, ::-1].cumsum(axis=1)[:, ::-1]


def _and_zeros(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((len(values), n))], axis=1)
