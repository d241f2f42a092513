"""Tables and figures of the defence study, from its stored rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _runner
from ._defence_scores import (
    ACTIONS,
    CLEANLAB,
    CLEANLAB_5,
    L2,
    LOSS,
    NONE,
    PROTOCOLS,
    RANDOM,
    RAW,
    RELABEL,
    REWEIGHT,
    SELF,
    SELF_LISSA,
    TRIM,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"bank": "Bank", "celeba": "CelebA attributes", "toxic": "Toxic comments"}
BASELINES = (RANDOM, LOSS, CLEANLAB_5, CLEANLAB)
ENSEMBLE = "ip_ensemble"
#: Accuracy after defence as published (Table 2), in the order of the data.
PUBLISHED = {
    ("pre-attack", ""): (80.31, 85.26, 73.58),
    ("post-attack", ""): (70.79, 75.33, 66.18),
    ("lissa", RELABEL): (86.07, 68.68, 73.30),
    ("ekfac", RELABEL): (87.38, 77.36, 70.04),
    ("datainf", RELABEL): (87.46, 77.36, 70.39),
    (SELF, RELABEL): (86.12, 75.58, 68.31),
    (SELF_LISSA, RELABEL): (78.97, 75.55, 69.18),
    ("ip", RELABEL): (87.45, 77.28, 70.43),
    (ENSEMBLE, RELABEL): (87.45, 77.30, 70.51),
    ("lissa", RAW): (78.69, 73.23, 70.13),
    ("ekfac", RAW): (83.50, 75.11, 70.05),
    ("datainf", RAW): (85.99, 74.74, 70.82),
    (SELF, RAW): (85.22, 73.12, 71.37),
    (SELF_LISSA, RAW): (85.16, 73.17, 71.41),
    ("ip", RAW): (86.17, 75.10, 70.82),
    (ENSEMBLE, RAW): (86.44, 75.10, 70.67),
}
#: What the paper averages over to call IP Ensemble the best, and the methods that it compares there.
AVERAGED = (RELABEL, RAW)
COMPARED = tuple(dict.fromkeys(method for method, action in PUBLISHED if action))


def verdict(rows: list[dict]) -> str:
    """Whether IP Ensemble is best on average, as the paper says, by protocol."""
    said = []
    for protocol in PROTOCOLS:
        means = _means(rows, protocol, AVERAGED)
        best = max(means, key=lambda method: means[method].mean())
        of_paper = sorted(COMPARED, key=lambda method: -means[method].mean())
        ahead = means[ENSEMBLE] - means["ip"]
        holds = "it is" if of_paper[0] == ENSEMBLE else "it is **not**"
        said.append(
            f"under protocol {protocol} {holds}: of the paper's {len(COMPARED)} methods {of_paper[0]} has most "
            f"({means[of_paper[0]].mean():.2f} %), IP Ensemble comes at place {of_paper.index(ENSEMBLE) + 1} "
            f"({means[ENSEMBLE].mean():.2f} %, {_runner.with_spread(ahead)} points from IP over attacks); of all lines "
            f"{best} has most ({means[best].mean():.2f} %)"
        )
    return (
        "The paper says that IP Ensemble is best on average, over the tables, relabelling and (raw) reweighting. Here "
        + "; ".join(said)
        + "."
    )


def _means(rows: list[dict], protocol: str, actions: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Method -> accuracy after each attack in %, mean over the tables and actions; methods that have all of them."""
    found: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    names = {row["data"] for row in rows}
    for row in rows:
        if row["protocol"] == protocol and row["action"] in actions:
            found.setdefault(row["method"], {})[row["data"], row["action"]] = np.array(row["accuracy"]["seeds"])
    whole = len(names) * len(actions)
    return {method: 100 * np.mean(list(own.values()), axis=0) for method, own in found.items() if len(own) == whole}


def _on_average(rows: list[dict]) -> list[dict[str, Any]]:
    """The paper's average, published and here, and that of trimming; the best of each column first."""
    columns = {
        f"{protocol}, {label}": _means(rows, protocol, actions)
        for protocol in PROTOCOLS[::-1]
        for label, actions in (("relabel and raw weights", AVERAGED), ("trim", (TRIM,)), ("reweight", (REWEIGHT,)))
    }
    first = next(iter(columns.values()))
    methods = list(dict.fromkeys(row["method"] for row in rows if row["action"]))
    without = {protocol: _means(rows, protocol, ("",))[NONE] for protocol in PROTOCOLS}
    table: list[dict[str, Any]] = [
        {"method": NONE, "published": f"{np.mean(PUBLISHED['post-attack', '']):.2f}", "place": None}
        | {label: _level(without[label.partition(",")[0]]) for label in columns}
    ]
    order = sorted(first, key=lambda method: -first[method].mean())
    for method in sorted(methods, key=lambda method: order.index(method) if method in order else len(order)):
        published = [PUBLISHED[method, action] for action in AVERAGED if (method, action) in PUBLISHED]
        line = {
            "method": method,
            "published": f"{np.mean(published):.2f}" if published else None,
            "place": order.index(method) + 1 if method in order else None,
        }
        table.append(line | {k: _level(own[method]) if method in own else None for k, own in columns.items()})
    return table


def _level(values: np.ndarray) -> str:
    return _runner.with_spread(values, signed=False)


def _same(rows: list[dict]) -> list[dict[str, Any]]:
    return [
        {
            "method": f"{row['method']}, as {row['as']}",
            "data": TITLES[row["data"]],
            "protocol": row["protocol"],
            "largest difference / largest score": f"{row['difference']:.1e}",
            "rows chosen in common": f"{row['chosen']:.1%}",
        }
        for row in rows
    ]


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    rows = result["rows"]
    names = list(dict.fromkeys(row["data"] for row in rows))
    made = {"Before any defence, accuracy in %": _undefended(rows)}
    made["On average over the tables, accuracy in % on attacked rows"] = _on_average(rows)
    made["Protocol paper beside the published figures (Table 2), accuracy in %"] = _beside_published(rows, names)
    for protocol in PROTOCOLS:
        for name in names:
            made[f"{TITLES[name]}, protocol {protocol}"] = _defended(_of(rows, protocol, name))
    if "same" in result:  # results of before have no such lines
        made["Methods that come to another for a linear model"] = _same(result["same"])
    return made


def _undefended(rows: list[dict]) -> list[dict[str, Any]]:
    return [
        {
            "data": TITLES[row["data"]],
            "protocol": row["protocol"],
            "majority rate": f"{100 * row['majority']['mean']:.2f}",
            "pre-attack": f"{100 * row['clean']['mean']:.2f}",
            "pre-attack, balanced": f"{100 * row['clean_balanced']['mean']:.2f}",
            "post-attack": _percent(row["accuracy"]),
            "post-attack, balanced": _percent(row["balanced_accuracy"]),
            "rows attacked": _percent(row["share"], 1),
        }
        for row in rows
        if row["method"] == NONE
    ]


def _beside_published(rows: list[dict], names: list[str]) -> list[dict[str, Any]]:
    table = []
    scored = {row["method"] for row in rows}
    for (method, action), published in PUBLISHED.items():
        if action and method not in scored:
            continue
        line = {"": f"{method} {action}".strip()}
        for name, figure in zip(L2, published, strict=True):
            if name not in names:
                continue
            wanted = (NONE, "") if not action else (method, action)
            found = next(row for row in _of(rows, "paper", name) if (row["method"], row["action"]) == wanted)
            value = found["clean"] if method == "pre-attack" else found["accuracy"]
            line |= {TITLES[name]: _percent(value), "published" + " " * list(L2).index(name): f"{figure:.2f}"}
        table.append(line)
    return table


def _defended(rows: list[dict]) -> list[dict[str, Any]]:
    table = []
    for row in sorted(rows, key=lambda row: ("", *ACTIONS).index(row["action"])):
        gain = None if not row["action"] else f"{row['gain']['mean']:+.2f} ± {row['gain']['std'] or 0:.2f}"
        table.append(
            {
                "action": row["action"] or "–",
                "method": row["method"],
                "accuracy, attacked": _percent(row["accuracy"]),
                "gain, points": gain,
                "balanced accuracy, attacked": _percent(row["balanced_accuracy"]),
                "majority rate": f"{100 * row['majority']['mean']:.2f}",
                "accuracy, clean": _percent(row["clean"]),
                "attacked anew": _percent(row["anew"]),
                "effective rows": f"{row['effective']['mean']:.1%}",
            }
        )
    return table


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """A box plot a protocol: accuracy after defence, over attacks."""
    from .. import _figures

    drawn = {}
    for protocol in PROTOCOLS:
        names = list(dict.fromkeys(row["data"] for row in result["rows"]))
        lines = max(len(_shown(_of(result["rows"], protocol, name), action)) for name in names for action in ACTIONS)
        size = (3.4 * len(names) + 1.0, 0.8 + len(ACTIONS) * (0.5 + 0.21 * lines))
        figure, axes = _figures.panels(len(ACTIONS), len(names), size, sharex="col")
        for action, line in zip(ACTIONS, axes, strict=True):
            for name, ax in zip(names, line, strict=True):
                _boxes(ax, _of(result["rows"], protocol, name), action, _figures)
            line[0].set_ylabel(action, fontsize=10, fontweight="bold")
        for name, ax in zip(names, axes[0], strict=True):
            ax.set_title(TITLES[name])
        for line in axes:
            for ax in line[1:]:
                ax.tick_params(labelleft=False)
        for ax in axes[-1]:
            ax.set_xlabel("accuracy on the attacked test rows")
        where = "attacked validation rows" if protocol == "held-out" else "the attacked test rows themselves"
        figure.suptitle(f"After defence, scores taken on {where}")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        drawn[f"defence_{protocol.replace('-', '_')}"] = figure
    return drawn


def _boxes(ax: Any, rows: list[dict], action: str, style: Any) -> None:
    shown = _shown(rows, action)[::-1]
    (without,) = (row for row in shown if row["method"] == NONE)
    heights = range(1, len(shown) + 1)
    for at, row in zip(heights, shown, strict=True):
        style.box(ax, at, row["accuracy"]["seeds"], filled=row["method"] not in (NONE, *BASELINES))
    ax.set_yticks(heights, [row["method"] for row in shown])
    for value, label, marker in (
        ("balanced_accuracy", "balanced accuracy, mean", {"marker": "D", "color": style.ORANGE, "mec": style.BLACK}),
        ("anew", "accuracy if attacked anew, mean", {"marker": "x", "color": style.BLACK, "mew": 1.4}),
    ):
        means = [row[value]["mean"] for row in shown]
        ax.plot(means, heights, ls="", ms=4.5, zorder=3, label=label, **marker)
    ax.axvline(without["clean"]["mean"], color=style.GREY, ls="--", lw=1.2, label="before the attack")
    ax.axvline(without["accuracy"]["mean"], color=style.GREY, ls="-", lw=1.2, label="attacked, no curation (mean)")
    ax.axvline(without["majority"]["mean"], color=style.BLACK, ls=":", lw=1.6, label="majority rate")
    ax.grid(axis="x")


def _shown(rows: list[dict], action: str) -> list[dict]:
    return [row for row in rows if row["action"] in ("", action)]


def _of(rows: list[dict], protocol: str, data: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["protocol"] == protocol and row["data"] == data]


def _percent(value: dict[str, Any], digits: int = 2) -> str | None:
    """An aggregated share, in %."""
    scaled = {"mean": 100 * value["mean"], "std": None if not value["std"] else 100 * value["std"]}
    return _runner.figure(scaled, digits)
