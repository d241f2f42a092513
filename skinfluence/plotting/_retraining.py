"""Models trained again without the rows with the lowest scores: what the curves are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_consistent_length

from .._fitting import fit_estimator
from .._rates import n_chosen
from .._rows import as_rows, take_rows
from ..objectives import resolve_objective

RATES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
Measure = Callable[[Any], float]
"""A figure of a fitted model."""


@dataclass(frozen=True)
class Split:
    """Training and test rows, with the groups of the test rows if there are groups."""

    X: Any
    y: Any
    X_test: Any
    y_test: Any
    groups: Any = None
    groups_test: Any = None


def check_rates(removal_rates: Any) -> np.ndarray:
    """Removal rates as a rising array, or an error."""
    rates = np.asarray(RATES if removal_rates is None else removal_rates, dtype=np.float64)
    if rates.ndim != 1 or len(rates) < 2 or not ((rates >= 0) & (rates < 1)).all() or (np.diff(rates) <= 0).any():
        raise ValueError(
            "removal_rates must be at least two shares in [0, 1), each larger than the one before, got "
            f"{removal_rates!r}."
        )
    return rates


def splits_of(estimator: Any, X: Any, y: Any, groups: Any, cv: Any) -> list[Split]:
    """The splits of cross-validation."""
    X, y, groups = as_rows(X), as_rows(y), as_rows(groups)
    check_consistent_length(X, y, groups)

    def picked(rows: Any) -> list[Any]:
        return [None if part is None else take_rows(part, rows) for part in (X, y, groups)]

    found = []
    for train, test in check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y):
        (X_in, y_in, groups_in), (X_out, y_out, groups_out) = picked(train), picked(test)
        found.append(Split(X_in, y_in, X_out, y_out, groups_in, groups_out))
    return found


def curated_scores(curator: Any, estimator: Any, split: Split) -> np.ndarray:
    """What a curator scores the training rows of a split."""
    curator = clone(curator)
    # Groups that are there for the figure are given to the curators that use them, and to no others, which refuse them.
    objective = resolve_objective(getattr(curator, "objective", "utility"))
    uses_groups = split.groups is not None and getattr(objective, "uses_groups", False)
    params = {"sensitive_features": split.groups} if uses_groups else {}
    task = "classification" if is_classifier(estimator) else "regression"
    curator.fit_curate(split.X, split.y, following=estimator, task=task, **params)
    scores: np.ndarray = curator.scores_
    return scores


def kept_sets(scores: np.ndarray, y: Any, rates: np.ndarray, classifier: bool) -> list[np.ndarray]:
    """For each rate the rows left when the lowest scores are removed; a class keeps its best row."""
    order = np.argsort(scores, kind="stable")  # ties by row order
    _, codes = np.unique(np.asarray(y), return_inverse=True) if classifier else (None, np.zeros(len(scores), dtype=int))
    best = [order[codes.ravel()[order] == code][-1] for code in range(int(codes.max()) + 1)]
    sets = []
    for rate in rates:
        kept = np.ones(len(scores), dtype=bool)
        kept[order[: n_chosen(float(rate), scores)]] = False
        for row in best:
            kept[row] |= not kept[codes.ravel() == codes.ravel()[row]].any()
        sets.append(np.flatnonzero(kept))
    return sets


def chance_scores(n_rows: int, n_random: int, random_state: Any) -> list[np.ndarray]:
    """Scores that order the rows at random, one array a repetition."""
    rng = check_random_state(random_state)
    return [rng.permutation(n_rows).astype(np.float64) for _ in range(n_random)]


def retrain(
    estimator: Any,
    split: Split,
    orders: dict[str, list[np.ndarray]],
    rates: np.ndarray,
    measures_for: Callable[[Any, Split], Sequence[Measure]],
    n_jobs: int | None,
) -> dict[str, np.ndarray]:
    """Figures ``(n_repeats, n_rates, n_measures)`` of models trained again, for each name in ``orders``.

    ``measures_for`` is given the model trained on all rows first: an attack, say, is made against that one.
    """
    everything = fit_estimator(estimator, split.X, split.y, None, 0)
    measures = measures_for(everything, split)
    classifier = is_classifier(estimator)
    jobs, places = [], []
    for name, repeats in orders.items():
        for repeat, scores in enumerate(repeats):
            check_consistent_length(scores, split.X)
            for at, kept in enumerate(kept_sets(scores, split.y, rates, classifier)):
                places.append((name, repeat, at))
                fitted = everything if len(kept) == len(scores) else None
                jobs.append(delayed(_figures)(estimator, fitted, split, kept, measures))
    found = Parallel(n_jobs=n_jobs)(jobs)
    curves = {name: np.empty((len(repeats), len(rates), len(measures))) for name, repeats in orders.items()}
    for (name, repeat, at), figures in zip(places, found, strict=True):
        curves[name][repeat, at] = figures
    return curves


def _figures(estimator: Any, fitted: Any, split: Split, kept: np.ndarray, measures: Sequence[Measure]) -> list[float]:
    if fitted is None:
        fitted = fit_estimator(estimator, take_rows(split.X, kept), take_rows(split.y, kept), None, 0)
    return [float(measure(fitted)) for measure in measures]


def stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The repetitions of several splits, one below the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
