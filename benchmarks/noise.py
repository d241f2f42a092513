"""Wrong labels found, and accuracy after curation, on real tables.

Every table is split by seed into rows to train on and rows to test on; a share of the training labels is flipped, the
test labels never are. Tables with noise of their own are used as they are: ``crowd_product`` (labels of single crowd
workers, tested and judged against the truth) and ``bank`` (nobody knows which are wrong). The features are scaled, a
method chooses the rows to keep, and a logistic regression is trained on those. No method sees a clean label.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector

from . import _data, _runner
from ._peers import BASELINES, REMOVAL_RATE, Curation, Unsupported

NONE = "no curation"
DEFAULT = "skinfluence default (ip_ensemble, 5 %)"
AUTO = "skinfluence exact, auto"
OURS: dict[str, dict[str, Any]] = {
    DEFAULT: {"removal_rate": REMOVAL_RATE},
    "skinfluence ip, 5 %": {"method": "ip", "removal_rate": REMOVAL_RATE},
    "skinfluence exact, 5 %": {"method": "exact", "removal_rate": REMOVAL_RATE},
    AUTO: {"method": "exact", "removal_rate": "auto"},
    "skinfluence exact, auto, 2 rounds": {"method": "exact", "removal_rate": "auto", "n_rounds": 2},
}
METHODS = (*BASELINES, *OURS)
FLIPS = (0.0, 0.1, 0.3)
CAP = 6000
VALUES = ("accuracy", "balanced_accuracy", "majority", "auroc", "ap", "wrong", "removed", "seconds")


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All cells, all methods, all seeds, one core a cell."""
    seeds, cap = ((0, 1), 1500) if quick else (range(5), CAP)
    cells = [(name, flips) for name in _data.TABULAR for flips in FLIPS] + [(name, 0.0) for name in _data.AS_THEY_ARE]
    if quick:
        cells = [(name, flips) for name in ("spambase", "phoneme") for flips in (0.0, 0.3)]
    for name in {name for name, _ in cells}:  # fail before any work when a table is missing
        _data.load(name, seed=0, flips=0.0, cap=cap, data_home=data_home)
    done = _runner.over_cores(one_split, [(*cell, seed, cap, data_home) for cell in cells for seed in seeds])
    rows = _runner.aggregate((row for split in done for row in split), ("data", "flips", "method"), VALUES)
    return {
        "about": " ".join((__doc__ or "").split("\n\n", 1)[1].split())
        + f" At most {cap} training rows of a table, seeds {', '.join(map(str, seeds))}; ± is the standard deviation "
        f"over seeds; seconds are those of the method alone, on one thread, with all cores at work.",
        "seeds": list(seeds),
        "cap": cap,
        "removal_rate": REMOVAL_RATE,
        "rows": rows,
        "gates": gates(rows),
    }


def one_split(data: str, flips: float, seed: int, cap: int, data_home: str | os.PathLike[str] | None) -> list[dict]:
    """What every method does on one split of one table."""
    table = _data.load(data, seed=seed, flips=flips, cap=cap, data_home=data_home)
    scaler = StandardScaler().fit(table.X_train)
    X, X_test = scaler.transform(table.X_train), scaler.transform(table.X_test)
    model = LogisticRegression(max_iter=1000)
    common = {
        "data": data,
        "flips": flips,
        "seed": seed,
        "majority": np.bincount(table.y_test).max() / len(table.y_test),
        "wrong": None if table.wrong is None else table.wrong.mean(),
    }
    rows = []
    for name in METHODS:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers warn of separable data; what counts here is the outcome
            try:
                curation = curate(name, X, table.y_train, model, seed)
            except Unsupported:
                continue
            seconds = time.perf_counter() - began
            fitted = model.fit(X[curation.keep], table.y_train[curation.keep])
        predicted = fitted.predict(X_test)
        rows.append(
            common
            | {
                "method": name,
                "accuracy": np.mean(predicted == table.y_test),
                "balanced_accuracy": balanced_accuracy_score(table.y_test, predicted),
                "removed": 1 - curation.keep.mean(),
                "seconds": seconds,
            }
            | _detection(curation, table.wrong)
        )
    return rows


def curate(name: str, X: np.ndarray, y: np.ndarray, model: LogisticRegression, seed: int) -> Curation:
    """Run the method of that name."""
    if name in BASELINES:
        try:
            return BASELINES[name](X, y, model, seed)
        except ModuleNotFoundError as missing:
            raise Unsupported(f"{name} is not installed.") from missing
    selector = InfluenceSelector(model, random_state=seed, **OURS[name]).fit(X, y)
    return Curation(selector.get_support(), -selector.scores_)


def _detection(curation: Curation, wrong: np.ndarray | None) -> dict[str, float | None]:
    if wrong is None or curation.suspicion is None:
        return {"auroc": None, "ap": None}
    return {
        "auroc": roc_auc_score(wrong, curation.suspicion),
        "ap": average_precision_score(wrong, curation.suspicion),
    }


def gains(rows: Iterable[dict[str, Any]], value: str = "accuracy") -> dict[str, dict[str, np.ndarray]]:
    """Method -> cell -> what each seed gained over no curation, in points."""
    by_method: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[_cell(row)] = 100 * np.asarray(row[value]["seeds"])
    without = by_method[NONE]
    return {
        method: {cell: values - without[cell] for cell, values in cells.items()} for method, cells in by_method.items()
    }


def gates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do no harm: the mean over cells is no lower than without curation, and no cell is a point lower."""
    checked = []
    for method in (DEFAULT, AUTO):
        means = [np.mean(values) for values in gains(rows)[method].values()]
        checked.append(_runner.gate(f"{method}: mean gain, points", np.mean(means), 0, at_least=True))
        checked.append(_runner.gate(f"{method}: worst cell, points", np.min(means), -1, at_least=True))
    return checked


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    rows = result["rows"]
    cells = list(dict.fromkeys(map(_cell, rows)))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    counts = {method: sum(row["method"] == method for row in rows) for method in methods}
    partial = [method for method in methods if counts[method] < len(cells)]
    shared = [cell for cell in cells if all(any(_is(row, cell, method) for row in rows) for method in methods)]
    made = {
        f"All {len(cells)} cells": _overall(rows, cells, [method for method in methods if method not in partial]),
        "Gates": result["gates"],
    }
    if partial:
        made[f"The {len(shared)} cells of two classes, which all methods handle"] = _overall(rows, shared, methods)
    made["Accuracy by cell: points gained over no curation"] = _by_cell(rows, cells, methods, "accuracy")
    made["Balanced accuracy by cell: points gained over no curation"] = _by_cell(
        rows, cells, methods, "balanced_accuracy"
    )
    known = [
        cell for cell in cells if any(_cell(row) == cell and row["wrong"] and row["wrong"]["mean"] for row in rows)
    ]
    for value, title in (("auroc", "AUROC"), ("ap", "average precision")):
        made[f"Wrong labels found: {title} by cell"] = [
            {"cell": cell, "wrong": f"{_one(rows, cell, NONE)['wrong']['mean']:.1%}"}
            | {
                _short(method): _runner.figure(_one(rows, cell, method).get(value))
                for method in methods
                if method not in (NONE, "random removal, 5 %")
            }
            for cell in known
        ]
    return made


def _overall(rows: list[dict], cells: list[str], methods: list[str]) -> list[dict[str, Any]]:
    """One row a method: means over the cells, with their spread over seeds, and the worst cell."""
    gained = gains(rows)
    table = []
    for method in methods:
        own = [row for row in rows if row["method"] == method and _cell(row) in cells]
        by_cell = {cell: gained[method][cell].mean() for cell in cells}
        over_cells = np.mean([gained[method][cell] for cell in cells], axis=0)
        worst = min(by_cell, key=by_cell.__getitem__)
        means = {value: np.mean([row[value]["mean"] for row in own if row[value]] or [np.nan]) for value in VALUES}
        table.append(
            {
                "method": method,
                "accuracy": f"{means['accuracy']:.4f}",
                "gain, points": None if method == NONE else _runner.with_spread(over_cells),
                "worst cell, points": None
                if method == NONE
                else f"{_runner.with_spread(gained[method][worst])} ({worst})",
                "balanced accuracy": f"{means['balanced_accuracy']:.4f}",
                "majority rate": f"{means['majority']:.4f}",
                "AUROC": _found(own, "auroc"),
                "AP": _found(own, "ap"),
                "removed": f"{means['removed']:.1%}",
                "seconds": f"{means['seconds']:.2f}",
            }
        )
    return table


def _found(rows: list[dict], value: str) -> str | None:
    """Mean over the cells that have wrong labels, with its spread over seeds."""
    known = [row[value]["seeds"] for row in rows if row[value]]
    return _runner.with_spread(np.mean(known, axis=0), 3, signed=False) if known else None


def _by_cell(rows: list[dict], cells: list[str], methods: list[str], value: str) -> list[dict[str, Any]]:
    gained = gains(rows, value)
    return [
        {"cell": cell, "majority": f"{_one(rows, cell, NONE)['majority']['mean']:.3f}"}
        | {NONE: _runner.figure(_one(rows, cell, NONE)[value])}
        | {
            _short(method): _runner.with_spread(gained[method][cell]) if cell in gained[method] else None
            for method in methods
            if method != NONE
        }
        for cell in cells
    ]


def _cell(row: dict[str, Any]) -> str:
    return row["data"] if row["data"] in _data.AS_THEY_ARE else f"{row['data']}, {row['flips']:.0%}"


def _is(row: dict[str, Any], cell: str, method: str) -> bool:
    return row["method"] == method and _cell(row) == cell


def _one(rows: list[dict], cell: str, method: str) -> dict[str, Any]:
    return next((row for row in rows if _is(row, cell, method)), {})


def _short(method: str) -> str:
    return method.replace("skinfluence ", "").replace(" find_label_issues", "").removesuffix(", 5 %")
