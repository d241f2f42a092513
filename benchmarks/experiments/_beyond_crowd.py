"""Part "crowd" of `beyond`: labels that real workers of a crowd gave, tested against the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from .. import _data
from . import _beyond_curators as curators

LABELS = {"single_worker": "one worker's labels", "majority": "majority of the workers"}
RATE = 0.05
VALUES = ("accuracy", "balanced_accuracy", "majority", "wrong", "removed", "changed", "changed_right", "auroc")


def one_seed(labels: str, seed: int, cap: int, data_home: Any) -> list[dict[str, Any]]:
    """What every curator does with one split."""
    frame = pd.read_csv(_data.data_file("crowd_product.csv.gz", data_home))
    X, truth, given = frame.iloc[:, 3:17].to_numpy(float), frame["truth"].to_numpy(), frame[labels].to_numpy()
    rows, test = (np.asarray(part) for part in _data._split_rows(truth, seed))
    rows = rows[:cap]
    scaler = StandardScaler().fit(X[rows])
    X_test, X = scaler.transform(X[test]), scaler.transform(X[rows])
    y, wrong = given[rows], given[rows] != truth[rows]
    model = LogisticRegression(max_iter=1000)
    made = []
    for name, outcome in outcomes(X, y, model, seed).items():
        fitted = curators.quietly(curators.retrained, model, X, y, outcome)
        changed = np.zeros(len(y), dtype=bool) if outcome.y is None else outcome.y != y
        made.append(
            {"labels": labels, "seed": seed, "method": name, "wrong": wrong.mean(), "changed": changed.mean()}
            | {"changed_right": wrong[changed].mean() if changed.any() else None}
            | curators.judged(fitted, X_test, truth[test])
            | curators.detected(outcome, wrong)
        )
    return made


def outcomes(X: np.ndarray, y: np.ndarray, model: Any, seed: int) -> dict[str, curators.Outcome]:
    """Every curator's, by the name it has in the tables."""
    rows = X, y, model, seed
    return curators.quietly(curators.baselines, *rows, RATE) | {
        "remove, ip_ensemble, 5 %": curators.removed(*rows, removal_rate=RATE),
        "remove, exact, 5 %": curators.removed(*rows, method="exact", removal_rate=RATE),
        "remove, exact, auto": curators.removed(*rows, method="exact", removal_rate="auto"),
        "reweight, ip_ensemble": curators.reweighted(*rows),
        "reweight, exact": curators.reweighted(*rows, method="exact"),
        "relabel, ip_ensemble, 5 %": curators.relabelled(*rows, relabel_rate=RATE),
        "relabel, exact, 5 %": curators.relabelled(*rows, method="exact", relabel_rate=RATE),
        "relabel, exact, auto": curators.relabelled(*rows, method="exact", relabel_rate="auto"),
    }
