"""Rank correlation with an interval."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import check_scalar


class Bootstrap:
    """Spearman's correlation, its mean over rows, and a percentile interval."""

    def __init__(self, n_resamples: int, confidence_level: float, seed: int) -> None:
        check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
        check_scalar(confidence_level, "confidence_level", Real, min_val=0, max_val=1, include_boundaries="neither")
        self.n_resamples = n_resamples
        self.tails = [(1 - confidence_level) / 2, (1 + confidence_level) / 2]
        self.seed = seed

    def correlate(
        self, predicted: np.ndarray, actual: np.ndarray, weight: np.ndarray | None
    ) -> tuple[float, tuple[float, float], np.ndarray]:
        """The (weighted) mean correlation, its interval, and the correlation of each row of ``(m, J)`` or ``(J,)``."""
        # Places among the different values: ranks in any sample of columns follow from these without a sort.
        a, b = (rankdata(np.atleast_2d(part), "dense", axis=1).astype(np.intp) - 1 for part in (predicted, actual))
        m, J = a.shape
        weight = np.ones(m) if weight is None else weight
        each = _spearman(a, b, np.ones(J))
        rng = np.random.RandomState(self.seed)
        means = np.empty(self.n_resamples)
        for i in range(self.n_resamples):
            columns = np.bincount(rng.randint(J, size=J), minlength=J)
            rows = np.bincount(rng.choice(m, size=m, p=weight / weight.sum()), minlength=m) if m > 1 else np.ones(1)
            drawn = np.flatnonzero(rows)
            means[i] = np.average(_spearman(a[drawn], b[drawn], columns), weights=rows[drawn])
        low, high = np.quantile(means, self.tails).tolist()
        return float(np.average(each, weights=weight)), (low, high), each


def _spearman(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation ``(m,)`` of rows ``(m, J)`` of codes, column j ``counts[j]`` times; 0 if undefined."""
    ranks = [_mid_ranks(codes, counts) for codes in (a, b)]
    centred = [rank - np.average(rank, axis=1, weights=counts)[:, None] for rank in ranks]
    covariance = (centred[0] * centred[1]) @ counts
    spread = np.sqrt((centred[0] ** 2 @ counts) * (centred[1] ** 2 @ counts))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)


def _mid_ranks(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    m, J = codes.shape
    places = codes + J * np.arange(m)[:, None]
    number = np.bincount(places.ravel(), np.broadcast_to(counts, codes.shape).ravel(), minlength=m * J).reshape(m, J)
    middle = np.cumsum(number, axis=1) - (number - 1) / 2
    return np.take_along_axis(middle, codes, axis=1)
