"""Part "regression" of `beyond`: a share of the training targets spoilt."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, Pipeline
from skinfluence.objectives import Utility

from .. import _data, _peers
from ._beyond_curators import CLEANLAB, LOSS, NONE, RANDOM, Outcome, quietly, removed

DATA = ("california_housing", "diamonds", "2dplanes")
CLEAN, GROSS, SHUFFLED = "as they are", "gross", "shuffled"
CASES = ((CLEAN, 0.0), (GROSS, 0.05), (GROSS, 0.2), (SHUFFLED, 0.2))
RATE = 0.05  # of rows removed where no target is spoilt
GRID = (0.0, 0.025, 0.05, 0.1, 0.2, 0.3)
HUBER, GRIDDED = "Huber, no curation", "exact, rate by a grid"
VALUES = ("r2", "mae", "removed", "auroc")


@dataclass(frozen=True)
class Table:
    """Standardised features; targets in units of the clean ones' spread, those of the training rows spoilt."""

    X: np.ndarray
    y: np.ndarray
    spoilt: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(data: str, kind: str, share: float, seed: int, cap: int, data_home: Any) -> Table:
    """One split of a table, with a share of its training targets spoilt."""
    frame = pd.read_csv(_data.data_file(f"tabular/{data}.csv.gz", data_home))
    y = frame.pop("target").to_numpy(float)
    X = pd.get_dummies(frame).to_numpy(float)
    X, X_test, y, y_test = train_test_split(X, y, train_size=min(cap, len(y) * 7 // 10), random_state=seed)
    scaler = StandardScaler().fit(X)
    y, y_test = ((part - y.mean()) / y.std() for part in (y, y_test))
    y, spoilt = spoil(y, kind, share, seed)
    return Table(scaler.transform(X), y, spoilt, scaler.transform(X_test), y_test)


def spoil(y: np.ndarray, kind: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets with a share of them 5 to 15 too high, or exchanged among themselves; and which."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(y), round(share * len(y)), replace=False)
    y, spoilt = y.copy(), np.zeros(len(y), dtype=bool)
    spoilt[rows] = True
    if kind == GROSS:
        y[rows] += rng.uniform(5, 15, len(rows))
    elif kind == SHUFFLED:
        y[rows] = y[np.roll(rows, 1)]
    return y, spoilt


def one_seed(data: str, kind: str, share: float, seed: int, cap: int, data_home: Any) -> list[dict[str, Any]]:
    """What every curator, and Huber's regression, does with one split."""
    table = load(data, kind, share, seed, cap, data_home)
    ridge, huber = Ridge(), HuberRegressor(max_iter=1000)
    rate = share or RATE
    outcomes = quietly(curated, table.X, table.y, ridge, huber, seed, rate)
    # What is fitted on the rows kept: ridge, and for two lines the robust regression.
    fits = {name: (ridge, outcome) for name, outcome in outcomes.items()}
    fits[HUBER] = huber, outcomes[NONE]
    fits["exact, then Huber"] = huber, outcomes["exact"]
    made = []
    for name, (model, outcome) in fits.items():
        fitted = quietly(clone(model).fit, table.X[outcome.keep], table.y[outcome.keep])
        predicted = fitted.predict(table.X_test)
        known = share > 0 and outcome.suspicion is not None
        made.append(
            {
                "data": data,
                "case": _name(kind, share),
                "seed": seed,
                "method": name,
                "r2": r2_score(table.y_test, predicted),
                "mae": mean_absolute_error(table.y_test, predicted),
                "removed": 1 - outcome.keep.mean(),
                "auroc": roc_auc_score(table.spoilt, outcome.suspicion) if known else None,
            }
        )
    return made


def _name(kind: str, share: float) -> str:
    return f"{kind}, {share:.0%}" if share else kind


def curated(X: np.ndarray, y: np.ndarray, ridge: Any, huber: Any, seed: int, rate: float) -> dict[str, Outcome]:
    """Every curator's outcome, by the name it has in the tables."""
    rows = X, y, ridge, seed
    folds = KFold(5, shuffle=True, random_state=seed)
    residual = np.abs(y - cross_val_predict(ridge, X, y, cv=folds))
    draw = np.random.default_rng(seed).random(len(y))
    found = {
        NONE: Outcome(np.ones(len(y), dtype=bool)),
        RANDOM: Outcome(_peers.remove_most_suspect(draw, y, rate).keep),
        LOSS: Outcome(_peers.remove_most_suspect(residual, y, rate).keep, residual),
        "ip": removed(*rows, method="ip", removal_rate=rate),
        "exact": removed(*rows, method="exact", removal_rate=rate),
        "exact, squared loss": removed(*rows, method="exact", objective=Utility("training"), removal_rate=rate),
        "exact, through Huber": removed(X, y, huber, seed, method="exact", removal_rate=rate),
        GRIDDED: by_grid(X, y, ridge, seed),
    }
    with suppress(ModuleNotFoundError):  # a peer that is not installed has no line, as in the other benchmarks
        found[CLEANLAB] = cleanlab(X, y, ridge, seed)
        found[f"{CLEANLAB}, as many rows"] = found[CLEANLAB].at_rate(rate)
    return found


def by_grid(X: np.ndarray, y: np.ndarray, model: Any, seed: int) -> Outcome:
    """The removal rate by cross-validation on the spoilt targets, as a user would choose it, by the absolute error."""
    with tempfile.TemporaryDirectory() as folder:
        curator = InfluenceSelector(model, method="exact", memory=folder, random_state=seed)
        search = GridSearchCV(
            Pipeline([("curate", curator), ("model", clone(model))]),
            {"curate__removal_rate": list(GRID)},
            cv=KFold(5, shuffle=True, random_state=seed),
            scoring="neg_mean_absolute_error",
        ).fit(X, y)
    chosen = search.best_estimator_["curate"]
    return Outcome(chosen.get_support(), -chosen.scores_)


def cleanlab(X: np.ndarray, y: np.ndarray, model: Any, seed: int) -> Outcome:
    """cleanlab's `CleanLearning` for regression, with its own choice of how many rows are wrong."""
    from cleanlab.regression.learn import CleanLearning

    found = CleanLearning(model=clone(model), seed=seed).find_label_issues(X, y)
    return Outcome(~found["is_label_issue"].to_numpy(), -found["label_quality"].to_numpy())
