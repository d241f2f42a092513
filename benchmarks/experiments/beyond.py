"""Beyond the paper: real crowd noise, poisoned tables, spoilt regression targets, and boosted trees curated by proxy.

Four parts, none of which the paper has. Test rows are clean in all of them (for the crowd: labelled by the truth), and
everything else is split, drawn and spoilt by seed. Read the majority rate beside every accuracy, and "no curation" and
"per-row loss" before any line of influence: the loss of each row under models that never saw it is what a user has for
free.

*Crowd.* Pairs of products, labelled by workers who were paid for it: the labels of one worker each, or the majority of
several. A logistic regression is trained on them; rows are removed, weighted or relabelled without any clean label.

*Poison.* "Backdoor": a tenth of the training rows are rows of class 0 with one feature set to four standard deviations
and the label to 1, so that whoever sets that feature is taken for class 1; "attack" is the share of the test rows of
class 0 with which this succeeds. "Shifted part": 15 % of the training rows are moved by three standard deviations in a
random direction, and labelled wrongly. As many rows as were poisoned are removed, save by cleanlab and "auto", which
choose. With 200 trusted rows besides, influence is taken on these; "trusted rows alone" and "added" say what the same
200 rows are worth without it, and "loss under a model of trusted rows" ranks the training rows by the loss under a
model of those 200.

*Regression.* Ridge on targets in units of their own spread. "Gross" targets are 5 to 15 of them too high; "shuffled"
ones belong to another row. As many rows are removed as were spoilt (5 % where none is), save by cleanlab's own choice,
and where a grid over the removal rate, cross-validated by the absolute error on the spoilt targets themselves, chooses.
Scores are cross-fitted under the default loss, which is Huber's for ridge. "Squared loss" is what happens under the
training loss, which the spoilt rows among the judges dominate, and "through Huber" what happens when the scores are
those of a Huber regression, whose own loss, capped, is then the judge. Huber's regression without curation is the
baseline that needs none.

*Trees.* Gradient-boosted trees are trained at the end of a `skinfluence.Pipeline` whose curator scores the rows through
a logistic regression or an MLP of 32 hidden units (40 epochs), for the trees have no gradients. Beside them stand the
trees' own out-of-fold loss, and cleanlab on the trees' own out-of-fold probabilities; and both of the same logistic
regression, for what a stiff model knows of the labels it does not owe to influence. 5 % of the rows are removed, in the
lines "as many as flipped" as large a share as was flipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _data, _runner
from .._stored_parts import Parts
from . import _beyond_crowd as crowd
from . import _beyond_poison as poison
from . import _beyond_regression as regression
from . import _beyond_trees as trees
from ._beyond_curators import NONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All parts and seeds, a part of a seed at a time, kept in the folder of `Parts` if the environment names one."""
    parts = Parts.of_environment()
    seeds = range(1 if quick else 5)
    some = slice(1 if quick else None)
    cap, tree_cap = (300, 150) if quick else (4000, 1500)
    for file in _files(quick):  # fail before any work when a table is missing
        _data.data_file(file, data_home)
    found: dict[str, list[dict[str, Any]]] = {"crowd": [], "poison": [], "regression": [], "trees": []}
    for seed in seeds:
        for labels in list(crowd.LABELS)[some]:
            task = crowd.one_seed, labels, seed, 10 * cap, data_home
            found["crowd"] += _made(parts, f"crowd_{labels}_{seed}", *task)
        for data in poison.DATA[some]:
            for case in poison.SHARES:
                n_trusted = 40 if quick else poison.N_TRUSTED
                task = poison.one_seed, data, case, seed, cap, n_trusted, data_home
                found["poison"] += _made(parts, f"poison_{data}_{case.split()[0]}_{seed}", *task)
        for data in regression.DATA[some]:
            for kind, share in regression.CASES[1:2] if quick else regression.CASES:
                task = regression.one_seed, data, kind, share, seed, cap, data_home
                found["regression"] += _made(parts, f"regression_{data}_{kind.split()[0]}_{share}_{seed}", *task)
        for data in trees.DATA[some]:
            for flips in trees.FLIPS[1:2] if quick else trees.FLIPS:
                task = trees.one_seed, data, flips, seed, tree_cap, 10 if quick else 100, data_home
                found["trees"] += _made(parts, f"trees_{data}_{flips}_{seed}", *task)
    return {
        "about": _runner.about(
            __doc__,
            f"At most {cap} training rows ({tree_cap} for the trees, all of the crowd); "
            f"{len(seeds)} seed(s); ± is the standard deviation over seeds.",
        ),
        "seconds": round(sum(parts.seconds.values()), 1),
        "seeds": list(seeds),
        "crowd": _runner.aggregate(found["crowd"], ("labels", "method"), crowd.VALUES),
        "poison": _runner.aggregate(found["poison"], ("data", "case", "method"), poison.VALUES),
        "regression": _runner.aggregate(found["regression"], ("data", "case", "method"), regression.VALUES),
        "trees": _runner.aggregate(found["trees"], ("data", "flips", "method"), trees.VALUES),
    }


def _files(quick: bool) -> list[str]:
    tables = {*poison.DATA, *regression.DATA, *trees.DATA}
    if quick:
        tables = {poison.DATA[0], regression.DATA[0], trees.DATA[0]}
    return ["crowd_product.csv.gz", *(f"tabular/{name}.csv.gz" for name in sorted(tables))]


def _made(parts: Parts, name: str, function: Any, *task: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parts.rows(name, lambda: function(*task))
    return rows


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {}
    for labels, title in crowd.LABELS.items():
        own = [row for row in result["crowd"] if row["labels"] == labels]
        if own:
            made[f"Crowd, {title} ({own[0]['wrong']['mean']:.1%} wrong)"] = [_crowd(row, own) for row in own]
    for data, case in dict.fromkeys((row["data"], row["case"]) for row in result["poison"]):
        own = [row for row in result["poison"] if (row["data"], row["case"]) == (data, case)]
        made[f"Poison, {data}, {case} ({poison.SHARES[case]:.0%} of the rows)"] = [_poison(row, own) for row in own]
    for data in dict.fromkeys(row["data"] for row in result["regression"]):
        own = [row for row in result["regression"] if row["data"] == data]
        for value, title in (("r2", "R²"), ("mae", "mean absolute error"), ("auroc", "AUROC of spoilt targets")):
            made[f"Regression, {data}: {title}"] = _regression(own, value)
    made["Trees: points of accuracy gained over no curation, mean over tables"] = _trees_overall(result["trees"])
    for value, title in (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy")):
        made[f"Trees, by table: {title}"] = _trees(result["trees"], value)
    made["Trees, by table: AUROC of flipped labels"] = _trees(result["trees"], "auroc")
    return made


def _gain(row: dict[str, Any], own: list[dict[str, Any]], value: str = "accuracy") -> np.ndarray:
    """What each seed gained over no curation, in points."""
    without = next(other for other in own if other["method"] == NONE)
    return 100 * (np.asarray(row[value]["seeds"]) - np.asarray(without[value]["seeds"]))


def _share(value: dict[str, Any] | None) -> str | None:
    return value and f"{value['mean']:.1%}"


def _judged(row: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "accuracy": _runner.figure(row["accuracy"]),
        "gain, points": None if row["method"] == NONE else _runner.with_spread(_gain(row, own)),
        "balanced accuracy": _runner.figure(row["balanced_accuracy"]),
        "majority rate": f"{row['majority']['mean']:.3f}",
    }


def _crowd(row: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, Any]:
    changes = row["method"].startswith("relabel")
    return _judged(row, own) | {
        "removed": _share(row["removed"]),
        "relabelled": _share(row["changed"]) if changes else None,
        "of them wrong before": _share(row["changed_right"]),
        "wrong labels ranked, AUROC": _runner.figure(row["auroc"]),
    }


def _poison(row: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, Any]:
    line = _judged(row, own)
    if row["attack"]:
        line["attack"] = _runner.figure(row["attack"])
    return line | {"removed": _share(row["removed"]), "poisoned rows ranked, AUROC": _runner.figure(row["auroc"])}


def _regression(own: list[dict[str, Any]], value: str) -> list[dict[str, Any]]:
    cases = list(dict.fromkeys(row["case"] for row in own if row[value] or value != "auroc"))
    found = {(row["method"], row["case"]): row for row in own}
    methods = [m for m in dict.fromkeys(row["method"] for row in own) if any(found[m, c][value] for c in cases)]
    return [{"method": m} | {case: _runner.figure(found[m, case][value]) for case in cases} for m in methods]


def _trees(rows: list[dict[str, Any]], value: str) -> list[dict[str, Any]]:
    if value == "auroc":  # nothing to find without flips, and a ranking is the same whatever is removed
        rows = [row for row in rows if row["flips"] and not row["method"].endswith(trees.AS_FLIPPED)]
    found = {(row["method"], row["data"], row["flips"]): row for row in rows}
    cells = list(dict.fromkeys((row["data"], row["flips"]) for row in rows))
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {cell: found.get((method, *cell)) for cell in cells}
        if any(row and row[value] for row in own.values()):
            table.append(
                {"method": method}
                | {f"{data}, {flips:.0%}": row and _runner.figure(row[value]) for (data, flips), row in own.items()}
            )
    if value == "accuracy":
        majority = {f"{d}, {f:.0%}": f"{found[NONE, d, f]['majority']['mean']:.3f}" for d, f in cells}
        table.insert(0, {"method": "majority rate"} | majority)
    return table


def tree_gains(rows: list[dict[str, Any]]) -> dict[str, dict[float, np.ndarray]]:
    """Method -> share flipped -> what it gained over no curation, in points: a line a table, a column a seed."""
    gains: dict[str, dict[float, list[np.ndarray]]] = {}
    for row in rows:
        own = [other for other in rows if (other["data"], other["flips"]) == (row["data"], row["flips"])]
        if row["method"] != NONE:
            gains.setdefault(row["method"], {}).setdefault(row["flips"], []).append(_gain(row, own))
    return {method: {flips: np.array(lines) for flips, lines in by.items()} for method, by in gains.items()}


def _trees_overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over tables, the spread being that of this mean over seeds; and the worst cell of all."""
    every = list(dict.fromkeys(row["flips"] for row in rows))
    table = []
    for method, by in tree_gains(rows).items():
        line: dict[str, Any] = {"method": method}
        line |= {f"{flips:.0%} flipped": by[flips].mean(axis=0) if flips in by else None for flips in every}
        line = {
            key: _runner.with_spread(value) if isinstance(value, np.ndarray) else value for key, value in line.items()
        }
        line["worst cell"] = f"{min(lines.mean(axis=1).min() for lines in by.values()):+.2f}"
        table.append(line)
    return table


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """The trees' gains; the regressions' R²; what each curator leaves of a backdoor."""
    from . import _beyond_figures

    return {
        "beyond_trees": _beyond_figures.trees(tree_gains(result["trees"])),
        "beyond_regression": _beyond_figures.regression(result["regression"]),
        "beyond_backdoor": _beyond_figures.backdoor(
            [row for row in result["poison"] if row["case"] == poison.BACKDOOR]
        ),
    }
