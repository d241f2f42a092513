"""The objective as a game that the training rows play: its values on the beginnings of random orders, by refits."""

from __future__ import annotations

import numpy as np
from scipy.stats import betabinom

from .._checkpoint import Arrays
from ..operators import Rows
from ._refit import Refit, class_codes, constant_model

# So many prefixes in a row must have the objective of all rows: one alone may have it by chance.
_PATIENCE = 5
# Positions that weigh less than this share of the heaviest are not refitted.
_NEGLIGIBLE = 1e-6
RULES = (_PATIENCE, _NEGLIGIBLE)
"""What the falls of an order depend on beside the parameters."""


def size_shares(n_others: int, alpha: float, beta: float) -> np.ndarray:
    """Probability ``(n_others + 1,)`` that a row is added to none, one, ..., all of so many others."""
    shares: np.ndarray = betabinom.pmf(np.arange(n_others + 1), n_others, beta, alpha)
    return shares / shares.sum()


class Game:
    """The objective as a function of subsets of the training rows."""

    def __init__(self, refit: Refit, min_rows: int, truncation: float, alpha: float, beta: float, seed: int) -> None:
        rows = refit.problem.rows
        self.refit = refit
        self.min_rows, self.truncation = min_rows, truncation
        self.alpha, self.beta = alpha, beta
        self.seed = seed
        self.players = np.arange(len(rows)) if rows.user_weight is None else np.flatnonzero(rows.user_weight)
        self.codes = class_codes(refit.problem)
        # A class that no row has, which only a net can know, is asked of no subset either.
        self.needed = None if self.codes is None else np.unique(self.codes)
        if not self._can_be_fitted(self.players):
            of = "" if self.codes is None else " of each class"
            raise ValueError(
                f"Shapley values need min_rows={min_rows} training rows of positive weight{of}, and there are fewer. "
                "Give more rows, or lower min_rows."
            )
        self.of_none = float(refit.objective.value(constant_model(refit.problem)))
        self.of_all = np.nan

    def order(self, number: int) -> Arrays:
        """The fall of the objective, weighted, when each row comes in a random order of all."""
        order = self._rng(number).permutation(self.players)
        n = len(order)
        weights = n * size_shares(n - 1, self.alpha, self.beta)
        heavy = np.flatnonzero(weights > _NEGLIGIBLE * weights.max())
        first, last = int(heavy[0]), int(heavy[-1])
        falls = np.zeros(n)
        near = n_refits = 0
        before, cost = self._value(order[:first])
        for j in range(first, last + 1):
            n_refits += cost
            after, cost = self._value(order[: j + 1])
            falls[j] = before - after
            before = after
            close = abs(after - self.of_all) < self.truncation * abs(self.of_none - self.of_all)
            near = near + 1 if close else 0
            if near == _PATIENCE and j + 1 < n:
                falls[j + 1 :] = (after - self.of_all) / (n - 1 - j)
                break
        out = np.zeros(len(self.refit.problem.rows))
        out[order] = weights * falls
        return {"falls": out, "n_refits": np.array(n_refits + cost)}

    def adding(self, number: int, others: Rows) -> Arrays:
        """The fall of the objective when each of ``others`` comes to one random subset of the training rows."""
        rng = self._rng(number)
        order = rng.permutation(self.players)
        below = np.cumsum(size_shares(len(order), self.alpha, self.beta))
        size = min(int(np.searchsorted(below, rng.random_sample(), side="right")), len(order))
        before, n_refits = self._value(order[:size])
        out = np.zeros(len(others))
        counted = np.arange(len(others)) if others.user_weight is None else np.flatnonzero(others.user_weight)
        for i in counted:
            after, cost = self._value(order[:size], others.take(np.array([i])))
            out[i] = before - after
            n_refits += cost
        return {"falls": out, "n_refits": np.array(n_refits)}

    def _rng(self, number: int) -> np.random.RandomState:
        # A seed for each order: it is the same whichever others are drawn, and wherever it runs.
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, number])))

    def _value(self, subset: np.ndarray, added: Rows | None = None) -> tuple[float, int]:
        """The objective of a subset, and how many refits it took."""
        if not self._can_be_fitted(subset, added):
            return self.of_none, 0
        if added is None and len(subset) == len(self.players):
            return self.of_all, 0
        # In the order of the table: a subset has one value, in whichever order its rows came.
        return self.refit.value(np.sort(subset), added), 1

    def _can_be_fitted(self, subset: np.ndarray, added: Rows | None = None) -> bool:
        if self.codes is None or self.needed is None:
            return len(subset) + (added is not None) >= self.min_rows
        codes = self.codes[subset] if added is None else np.append(self.codes[subset], added.y)
        counts = np.bincount(codes, minlength=int(self.needed[-1]) + 1)
        return bool(counts[self.needed].min() >= self.min_rows)
