"""Scores of all the rows of a table from models fitted here: in-sample, against held-out rows, or cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils.parallel import delayed

from ._fitting import fit_estimator, is_frozen
from ._held_out import HeldOut
from ._parallel import run_all
from ._progress import progress
from ._rows import take_rows
from ._scores import bind, parts_of, require_finite_scores
from ._tables import n_samples
from .models import as_model
from .models._fitted import Task
from .models._host import on_host
from .operators import TrainingProblem, unwarned_floats


@dataclass(frozen=True)
class Table:
    """The training rows as the user gave them."""

    X: Any
    y: Any
    sample_weight: np.ndarray | None = None
    sensitive_features: Any = None

    def __len__(self) -> int:
        return n_samples(self.X)

    def take(self, indices: np.ndarray) -> Table:
        parts = (self.X, self.y, self.sample_weight, self.sensitive_features)
        return Table(*(None if part is None else take_rows(part, indices) for part in parts))


@dataclass(frozen=True)
class Scored:
    """Scores of all rows, the model that gave them if there was one, and what the method reported for each.

    ``by_part`` is ``(n, n_objectives)``, a column for each objective of a joint one; with the scores under every label
    it is ``(n, n_objectives, n_classes)``.
    """

    by_part: np.ndarray
    estimator: Any
    reports: list[dict[str, Any]]


Fold = tuple[np.ndarray, np.ndarray]


def score_table(
    estimator: Any,
    table: Table,
    held_out: HeldOut | None,
    kept: np.ndarray,
    folds: list[Fold] | None,
    method: Any,
    objective: Any,
    seed: int,
    n_jobs: int | None,
    *,
    codes: np.ndarray | None,
    each_label: bool = False,
    release: str = "",
    verbose: int = 0,
) -> Scored:
    """Score every row of ``table`` by models fitted on its rows marked ``kept``.

    With ``folds`` each row is scored by a model that never saw it, against the rows that model was fitted on. Without,
    one model is fitted on all kept rows and scores them in-sample, against ``held_out`` if there is one. ``release`` is
    there for the cache alone: another release may score otherwise.
    """
    everything = np.arange(len(table))
    work = [(np.flatnonzero(kept), everything)] if folds is None else folds
    work = [(_fit_rows(codes, train, kept), test) for train, test in work]
    seeds = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=(len(work), 2))
    inner_jobs = n_jobs if folds is None else 1
    jobs = (
        delayed(_score_one)(
            estimator, table, held_out, train, test, method, objective, s, inner_jobs, each_label, folds is None
        )
        for (train, test), s in zip(work, seeds, strict=True)
    )
    with progress(len(work), "folds", verbose and folds is not None) as step:
        parts = run_all(jobs, None if folds is None else n_jobs, step)
    by_part = np.empty((len(table), *parts[0][0].shape[1:]))
    for (_, test), (scores, _, _) in zip(work, parts, strict=True):
        by_part[test] = scores
    return Scored(require_finite_scores(by_part), parts[0][1], [report for _, _, report in parts])


def _score_one(
    estimator: Any,
    table: Table,
    held_out: HeldOut | None,
    train: np.ndarray,
    test: np.ndarray,
    method: Any,
    objective: Any,
    seeds: np.ndarray,
    n_jobs: int | None,
    each_label: bool,
    keep_model: bool,
) -> tuple[np.ndarray, Any, dict[str, Any]]:
    """Scores of the rows ``test`` from a model fitted on the rows ``train``."""
    fit_seed, score_seed = (int(s) for s in seeds)
    fit_on = table if len(train) == len(table) else table.take(train)
    fitted = fit_estimator(estimator, fit_on.X, fit_on.y, fit_on.sample_weight, fit_seed)
    with unwarned_floats():
        problem = TrainingProblem(as_model(fitted), fit_on.X, fit_on.y, fit_on.sample_weight)
        bounds = [bind(part, problem, held_out, fit_on.sensitive_features, method) for part in parts_of(objective)]
        score = method.score_labels if each_label else method.score_rows
        n_labels = (len(problem.fitted.classes),) if each_label and problem.fitted.classes is not None else ()
        scores = np.empty((len(table), len(bounds), *n_labels))
        report: dict[str, Any] = {}
        # To a method that refits, rows that the model was fitted on may mean something else than rows that it was not.
        seen = np.isin(test, train, assume_unique=True)
        for some, is_seen in ((test[seen], True), (test[~seen], False)):
            if len(some) == 0:
                continue
            if is_seen and np.array_equal(some, train):
                rows = problem.rows
            else:
                part = table.take(some)
                rows = problem.other_rows(part.X, part.y, part.sample_weight)
            for j, bound in enumerate(bounds):
                scores[some, j], report = score(problem, bound, rows, np.random.RandomState(score_seed), n_jobs)
        if any(hasattr(bound, "hard_value") for bound in bounds):
            report = report | {"objectives": [_reported(bound, problem) for bound in bounds]}
        report = report | {"engine": problem.fitted.model.engine}
    # Cross-fitted models have done their work, and need not travel back from where they were fitted.
    return scores[test], fitted if keep_model else None, report


def _reported(bound: Any, problem: TrainingProblem) -> dict[str, float]:
    """What was differentiated, at the fitted model, and the metric that it stands for where it is another."""
    model = problem.fitted.model
    found = {"value": float(bound.value(model))}
    if hasattr(bound, "hard_value"):
        found["hard_value"] = float(bound.hard_value(model))
    return found


def _fit_rows(codes: np.ndarray | None, train: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept rows of a training fold; a class that would vanish from it stays whole, for its rows are scored too."""
    if codes is None:
        return train[kept[train]]
    lost = np.setdiff1d(codes[train], codes[train[kept[train]]])
    return train[kept[train] | np.isin(codes[train], lost)]


def make_folds(
    cv: Any, estimator: Any, table: Table, held_out: HeldOut | None, task: Task, seed: int
) -> list[Fold] | None:
    """Training and test rows of each fold, or None where one model scores all rows.

    Test folds partition the rows. A class with fewer rows than folds lowers the number of folds; the row of a class
    that has only one stays in every training fold, and is scored in-sample: it can never be removed.
    """
    if cv is None or held_out is not None or is_frozen(estimator):
        return None
    n = len(table)
    if not isinstance(cv, (int, np.integer)):
        y = np.asarray(on_host(table.y))
        folds = [
            (np.unique(a), np.asarray(b))
            for a, b in check_cv(cv, y, classifier=task == "classification").split(np.zeros(n), y)
        ]
        counts = np.bincount(np.concatenate([test for _, test in folds]), minlength=n)
        if len(counts) != n or (counts != 1).any():
            raise ValueError("cv must put every row into exactly one test fold; ShuffleSplit and its like do not.")
        return folds
    if isinstance(cv, bool) or cv < 2:
        raise ValueError(f"cv must be None, an integer >= 2 or a splitter, got {cv!r}.")
    if task == "regression":
        if n < 2:
            raise ValueError(
                f"Cross-fitting needs at least 2 samples, got n_samples = {n}. Pass X_val and y_val, or cv=None."
            )
        return list(KFold(min(int(cv), n), shuffle=True, random_state=seed).split(np.zeros(n)))
    codes = np.unique(np.asarray(on_host(table.y)), return_inverse=True)[1].ravel()
    counts = np.bincount(codes)
    single = np.flatnonzero(counts[codes] == 1)
    several = np.flatnonzero(counts[codes] > 1)
    if len(several) == 0:
        raise ValueError("Cross-fitting needs a class with at least two rows. Pass X_val and y_val, or cv=None.")
    n_splits = int(min(cv, counts[counts > 1].min()))
    splits = StratifiedKFold(n_splits, shuffle=True, random_state=seed).split(np.zeros(len(several)), codes[several])
    folds = [(np.union1d(several[train], single), several[test]) for train, test in splits]
    folds[0] = (folds[0][0], np.union1d(folds[0][1], single))
    return folds
