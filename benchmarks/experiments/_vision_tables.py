"""Tables of the experiment with CIFAR-10N, of its stored result alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _runner
from ._vision_data import NOISES
from ._vision_linear import CLEANLAB, CLEANLAB_5, CROSS, ENSEMBLE, LOSS, MARGIN, NONE, ORACLE, RANDOM, TRUSTED
from ._vision_net import LARGE, NETS

Row = dict[str, Any]
LINEAR = "linear"
TITLES = {LINEAR: "Linear head", **{net: net for net in (*NETS, LARGE)}}
#: What IP Ensemble is compared with.
RIVALS = (NONE, RANDOM, LOSS, CLEANLAB, CLEANLAB_5, "ip", "self_tracin", "exact", "ekfac")
#: Baselines that are the same under both protocols; what stands first in a table.
PROTOCOL_FREE = (ORACLE, RANDOM, CLEANLAB_5, CLEANLAB)
FIRST = (NONE, ORACLE, RANDOM, LOSS, CLEANLAB_5, CLEANLAB, MARGIN)
#: Accuracy as published (Table 1): aggregate, random, worst.
PUBLISHED = {
    NONE: (91.62, 90.25, 85.66),
    "lissa": (92.13, 90.98, 85.97),
    "tracin": (90.48, 88.09, 85.18),
    "ekfac": (91.76, 90.47, 83.25),
    "datainf": (91.88, 90.79, 86.22),
    "self_tracin": (92.03, 90.43, 86.00),
    "self_lissa": (91.91, 90.66, 85.73),
    "tda": (91.95, 89.87, 84.02),
    "gex": (91.81, 90.68, 85.64),
    "ip": (92.42, 90.82, 86.31),
    ENSEMBLE: (92.26, 91.28, 86.50),
}


def tables(result: dict[str, Any]) -> dict[str, list[Row]]:
    """All tables; of parts that were not run there are none."""
    rows = result["rows"]
    made: dict[str, list[Row]] = {}
    for part, title in TITLES.items():
        for noise in NOISES:
            for protocol in (TRUSTED, CROSS):
                own = chosen(rows, part, noise, protocol)
                if len(own) > 1:
                    made[f"{title}, {noise}, {protocol}"] = _methods(_with_baselines(own, chosen(rows, part, noise)))
    for part, n_test in result["n_test"].items():
        made[f"{TITLES[part]}: IP Ensemble less each other, points"] = _paired(rows, part, n_test)
    if chosen(rows, LINEAR):
        made["Points gained, beside Table 1 of the paper"] = _beside_published(rows)
        for protocol in (TRUSTED, CROSS):
            made[f"Removal rate, {protocol}: accuracy in % (Table 3)"] = _rates(rows, protocol)
        for sweep in ("dropout", "members", "members, dropout 0.5"):
            made[f"IP Ensemble, {sweep} (Table 4)"] = _swept(rows, sweep)
        made["Left out, and what it would take"] = _left_out(rows, result["n_val"][LINEAR])
    return {title: table for title, table in made.items() if table}


def chosen(
    rows: list[Row], part: str, noise: str | None = None, protocol: str | None = None, sweep: str | None = None
) -> list[Row]:
    """Rows of a part, a kind of noise, a protocol (None: all of them) and a sweep (None: those of none)."""
    return [
        row
        for row in rows
        if row["part"] == part
        and noise in (None, row["noise"])
        and protocol in (None, row["protocol"])
        and row["sweep"] == sweep
    ]


def _with_baselines(own: list[Row], of_both: list[Row]) -> list[Row]:
    """The rows of a protocol and, of the other, what takes neither validation rows nor scores; baselines first."""
    there = {row["method"] for row in own}
    missing = [row for row in of_both if row["method"] in (NONE, *PROTOCOL_FREE) and row["method"] not in there]
    return sorted([*own, *missing], key=_rank)


def _rank(row: Row) -> int:
    """Baselines first, in one order in all tables."""
    return FIRST.index(row["method"]) if row["method"] in FIRST else len(FIRST)


def without(rows: list[Row], part: str, noise: str) -> Row:
    """The row of no curation."""
    return next(row for row in chosen(rows, part, noise) if row["method"] == NONE)


def seeds_of(row: Row, value: str = "accuracy") -> np.ndarray:
    """What each seed gave, in points if it is a share."""
    return 100 * np.asarray(row[value]["seeds"])


def difference(first: Row, second: Row) -> str:
    """Mean and spread over seeds of what the first has more than the second, in points of accuracy."""
    return _runner.with_spread(seeds_of(first) - seeds_of(second))


def _methods(own: list[Row]) -> list[Row]:
    none, table = own[0], []
    at_random = next((row for row in own if row["method"] == RANDOM), None)
    for row in own:
        removed = row["removed"]["mean"] if row["removed"] else 0.0
        table.append(
            {
                "method": row["method"],
                "accuracy, %": percent(row["accuracy"]),
                "gain, points": None if row is none else difference(row, none),
                "over random removal": difference(row, at_random) if at_random and row is not at_random else None,
                "AUROC": _runner.figure(row["auroc"]),
                "AP": _runner.figure(row["ap"]),
                "removed": f"{removed:.1%}",
                "wrong among removed": f"{row['hit']['mean']:.1%}" if row["hit"] else None,
                "seconds": f"{row['seconds']['mean']:.1f}" if row["seconds"] else None,
            }
        )
    return table


def _paired(rows: list[Row], part: str, n: int) -> list[Row]:
    table = []
    for noise in NOISES:
        for protocol in (TRUSTED, CROSS):
            of_protocol = chosen(rows, part, noise, protocol)
            own = {row["method"]: row for row in _with_baselines(of_protocol, chosen(rows, part, noise))}
            if ENSEMBLE not in own:
                continue
            for rival in RIVALS:
                if rival not in own:
                    continue
                wins = seeds_of(own[ENSEMBLE]) - seeds_of(own[rival])
                other = own[ENSEMBLE] if rival == NONE else own[rival]
                apart = other["apart" if rival == NONE else "apart_ensemble"] if other in of_protocol else None
                table.append(
                    {
                        "noise": noise,
                        "protocol": protocol,
                        "against": rival,
                        "difference": difference(own[ENSEMBLE], own[rival]),
                        "seeds ahead": f"{(wins > 0).sum()} of {len(wins)}",
                        "± by test rows": None if apart is None else f"{100 * (apart['mean'] / n) ** 0.5:.2f}",
                    }
                )
    return table


def _beside_published(rows: list[Row]) -> list[Row]:
    table = []
    for method in (RANDOM, LOSS, CLEANLAB_5, *(name for name in PUBLISHED if name != NONE)):
        line: Row = {"method": method}
        for at, noise in enumerate(NOISES):
            own = _with_baselines(chosen(rows, LINEAR, noise, TRUSTED), chosen(rows, LINEAR, noise))
            found = [row for row in own if row["method"] == method]
            gain = PUBLISHED[method][at] - PUBLISHED[NONE][at] if method in PUBLISHED else None
            line[f"{noise}, paper"] = None if gain is None else f"{gain:+.2f}"
            line[f"{noise}, linear head"] = difference(found[0], without(rows, LINEAR, noise)) if found else None
        table.append(line)
    return table


def _rates(rows: list[Row], protocol: str) -> list[Row]:
    own = sorted(swept_rates(rows, protocol), key=lambda row: (list(NOISES).index(row["noise"]), _rank(row)))
    return _across(own, lambda at: f"{100 * at:g} %")


def swept_rates(rows: list[Row], protocol: str, noise: str | None = None) -> list[Row]:
    """Removal rates of a protocol; the baselines that are the same under both stand in both."""
    swept = chosen(rows, LINEAR, noise, None, "removal rate")
    return [row for row in swept if row["protocol"] == protocol or row["method"] in (RANDOM, MARGIN)]


def _swept(rows: list[Row], sweep: str) -> list[Row]:
    """What a setting of IP Ensemble does, beside the baselines, which have none."""
    own = chosen(rows, LINEAR, None, None, sweep)
    table = []
    for name, value in (("accuracy, %", "accuracy"), ("AUROC", "auroc")):
        for line in _across(own, lambda at: f"{at:g}", value):
            noise = line["noise"]
            beside = {row["method"]: row for row in _with_baselines([], chosen(rows, LINEAR, noise))}
            beside |= {
                row["method"]: row for row in chosen(rows, LINEAR, noise, TRUSTED) if row["method"] in (LOSS, "ip")
            }
            table.append(
                {"noise": noise, "": name}
                | dict(list(line.items())[2:])
                | {
                    method: _shown(beside[method], value)
                    for method in (NONE, RANDOM, LOSS, CLEANLAB_5, "ip")
                    if method in beside
                }
            )
    return table


def _across(own: list[Row], label: Any, value: str = "accuracy") -> list[Row]:
    lines: dict[tuple[str, str], Row] = {}
    for row in own:
        line = lines.setdefault((row["noise"], row["method"]), {"noise": row["noise"], "method": row["method"]})
        line[label(row["at"])] = _shown(row, value)
    return list(lines.values())


def _shown(row: Row, value: str) -> str | None:
    return percent(row[value]) if value == "accuracy" else _runner.figure(row[value])


def _left_out(rows: list[Row], n_val: int) -> list[Row]:
    """What was not run, with its cost in hours of one core for one seed, from what was measured here."""
    (fitted, *_) = [row for row in chosen(rows, LINEAR) if row["refit_seconds"]]
    n, refit = fitted["rows"]["mean"], fitted["refit_seconds"]["mean"]
    table = [
        {"method": "leave_one_out", "why": f"{n:.0f} fits of {refit:.1f} s", "hours": f"{n * refit / 3600:.0f}"},
        {
            "method": "data_shapley, beta_shapley",
            "why": "hundreds of fits a row at the least",
            "hours": f"> {100 * n * refit / 3600:.0f}",
        },
    ]
    neighbours = [row for row in chosen(rows, LINEAR, None, TRUSTED) if row["method"] == "knn_shapley"]
    if neighbours:
        # Each of five folds has four fifths of the rows to be neighbours, and as many to be predicted.
        seconds = neighbours[0]["seconds"]["mean"]
        hours = seconds * 5 * (0.8 * n / n_val) / 3600
        why = f"{seconds:.0f} s against {n_val} validation rows, five times {0.8 * n:.0f} of them"
        table.append({"method": "knn_shapley, cross-fitted", "why": why, "hours": f"{hours:.1f}"})
    return table


def percent(value: Row, digits: int = 2) -> str:
    """An aggregated share in %."""
    scaled = {"mean": 100 * value["mean"], "std": None if value["std"] is None else 100 * value["std"]}
    return _runner.figure(scaled, digits) or ""
