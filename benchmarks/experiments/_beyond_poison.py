"""Part "poison" of `beyond`: training rows with a backdoor, and a shifted part with wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from .. import _data, _peers
from . import _beyond_curators as curators

DATA = ("spambase", "california_housing")
BACKDOOR, SHIFTED = "backdoor", "shifted part"
#: Share of the training rows that each case touches; as many rows are removed.
SHARES = {BACKDOOR: 0.1, SHIFTED: 0.15}
TRIGGER, SHIFT = 4.0, 3.0  # in standard deviations
N_TRUSTED = 200
ALONE, ADDED, TRUSTED_LOSS = "trusted rows alone", "trusted rows added", "loss under a model of trusted rows"
VALUES = ("accuracy", "balanced_accuracy", "majority", "attack", "removed", "auroc")


@dataclass(frozen=True)
class Poisoned:
    """Training rows, some poisoned; clean trusted and test rows; test rows of class 0 with the trigger."""

    X: np.ndarray
    y: np.ndarray
    poisoned: np.ndarray
    X_trusted: np.ndarray
    y_trusted: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    X_triggered: np.ndarray | None


def poison(table: _data.Table, case: str, n_trusted: int, seed: int) -> Poisoned:
    """Poison a share of the rows; the scaler is fitted on what a user has, the poisoned rows among them."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table.y_train))
    trusted, rows = order[:n_trusted], order[n_trusted:]
    X, y = table.X_train[rows].copy(), table.y_train[rows].copy()
    scale = StandardScaler().fit(X)
    chosen = np.zeros(len(y), dtype=bool)
    n_chosen = round(SHARES[case] * len(y))
    X_triggered = None
    if case == BACKDOOR:
        column = int(rng.integers(X.shape[1]))
        value = scale.mean_[column] + TRIGGER * scale.scale_[column]
        chosen[rng.choice(np.flatnonzero(y == 0), min(n_chosen, int(np.sum(y == 0))), replace=False)] = True
        X[chosen, column] = value
        y[chosen] = 1
        X_triggered = table.X_test[table.y_test == 0].copy()
        X_triggered[:, column] = value
    else:
        chosen[rng.choice(len(y), n_chosen, replace=False)] = True
        direction = rng.normal(size=X.shape[1])
        X[chosen] += SHIFT * scale.scale_ * direction / np.linalg.norm(direction)
        y[chosen] = 1 - y[chosen]
    scaler = StandardScaler().fit(X)
    return Poisoned(
        scaler.transform(X),
        y,
        chosen,
        scaler.transform(table.X_train[trusted]),
        table.y_train[trusted],
        scaler.transform(table.X_test),
        table.y_test,
        None if X_triggered is None else scaler.transform(X_triggered),
    )


def one_seed(data: str, case: str, seed: int, cap: int, n_trusted: int, data_home: Any) -> list[dict[str, Any]]:
    """What every curator does with one poisoning."""
    table = _data.load(data, seed=seed, flips=0.0, cap=cap + n_trusted, data_home=data_home)
    rows = poison(table, case, n_trusted, seed)
    model = LogisticRegression(max_iter=1000)
    outcomes = without_trusted(rows, model, SHARES[case], seed) | with_trusted(rows, model, SHARES[case], seed)
    fits = {name: (rows.X, rows.y, outcome) for name, outcome in outcomes.items()}
    everything = curators.Outcome(np.ones(n_trusted, dtype=bool))
    fits[ALONE] = rows.X_trusted, rows.y_trusted, everything
    X, y = np.concatenate([rows.X, rows.X_trusted]), np.concatenate([rows.y, rows.y_trusted])
    fits[ADDED] = X, y, curators.Outcome(np.ones(len(y), dtype=bool))
    made = []
    for name, (X, y, outcome) in fits.items():
        fitted = curators.quietly(curators.retrained, model, X, y, outcome)
        found = curators.judged(fitted, rows.X_test, rows.y_test)
        if rows.X_triggered is not None:
            found["attack"] = float(fitted.predict(rows.X_triggered).mean())
        if name in outcomes:
            found |= curators.detected(outcome, rows.poisoned)
        made.append({"data": data, "case": case, "seed": seed, "method": name} | found)
    return made


def without_trusted(rows: Poisoned, model: Any, rate: float, seed: int) -> dict[str, curators.Outcome]:
    """Curators that have the training rows alone."""
    given = rows.X, rows.y, model, seed
    return curators.quietly(curators.baselines, *given, rate) | {
        "ip_ensemble": curators.removed(*given, removal_rate=rate),
        "exact": curators.removed(*given, method="exact", removal_rate=rate),
        "exact, auto": curators.removed(*given, method="exact", removal_rate="auto"),
        "self_tracin": curators.removed(*given, method="self_tracin", removal_rate=rate),
    }


def with_trusted(rows: Poisoned, model: Any, rate: float, seed: int) -> dict[str, curators.Outcome]:
    """Curators that are judged by the trusted rows."""
    given = rows.X, rows.y, model, seed
    val = {"X_val": rows.X_trusted, "y_val": rows.y_trusted}
    found = {
        f"{method}, trusted rows": curators.removed(*given, method=method, removal_rate=rate, val=val)
        for method in ("ip", "ip_ensemble", "exact")
    }
    p = curators.retrained(
        model, rows.X_trusted, rows.y_trusted, curators.Outcome(np.ones(len(rows.y_trusted), dtype=bool))
    ).predict_proba(rows.X)
    loss = _peers.log_loss_of_rows(rows.y, p)
    found[TRUSTED_LOSS] = curators.Outcome(_peers.remove_most_suspect(loss, rows.y, rate).keep, loss)
    return found
