"""Cost of every method as a multiple of IP, gradients included, and how it grows with the size of the task.

Appendix A.5 (Table 6) and Figure 2 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions". The paper's
times leave out the gradients, which it takes to be there already; to make them, it says, takes 61 s and 4 s on
CIFAR-10N, for the training and the validation rows. Here nothing is there already: a time is that of the whole call,
`influence_scores` on a fitted model, its set-up, gradients, curvature and products included, with each method's default
settings, and five checkpoints for "tracin" and "tda". "gex" is given its number of steps: left without any, it makes no
members for a linear model and is IP. "exact" is "cg" on the net, which has too many parameters for its Hessian to be
made. Rows are drawn, and a validation row comes to twenty training rows.

Times are seconds of the processor on one thread, which a busy machine does not change much. Methods are called turn by
turn, and the multiple is the median over seven rounds of a call's time by that of IP in the same round; a method whose
first call takes more than two seconds has five rounds of its own, each time between three calls of IP. What a call
costs whatever its size, some 2 ms for a linear model and 15 ms for a net, is in all times: it lowers the multiples of a
net somewhat, and flattens the slopes of the quick methods. Beside the methods stand what a random order costs, the loss
of the rows under the fitted model, and cleanlab's lowest margins with their five fits.

What refits is run on few rows, where its fits are counted (Shapley values in two orders of the rows of their hundred),
and put in proportion for the task: **extrapolated, not run**, at the time of one fit of the task, which for Shapley
values, whose fits are on parts of the rows, is too much by about a half. "self_lissa" of the net is not run either: it
is a solve of "lissa" for each row. A net is fitted here in 20 epochs; a real one takes longer.

How time grows is measured by itself: one size is changed, the others stay, the median of three calls is taken (of one
where it takes over half a second), and the slope is that of a line through the logarithms of the three largest sizes. A
method that took over five seconds is not tried at the next size. What takes longer still does a part of its work, named
in the table, and what refits, or solves for each row of a net, is tried on few rows and small nets; where the sizes are
not those of IP they stand beside the slope. On small ones much of the time does not depend on the size, and more rows
cost more than such a slope says.

The published multiples are for IP's 0.03 s (0.28 s on CIFAR-100N), a ResNet-34 and a GPU; its "GEX" and "TracIn" leave
out what makes the members and the checkpoints. "With its gradients" adds the paper's own 61 and 4 seconds to both sides
of its multiples on CIFAR-10N, once: what remains of them for whoever does not have the gradients.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from skinfluence.methods import METHODS

from .. import _runner
from ._cost_tasks import (
    BASELINES,
    CLEANLAB,
    GRADIENTS,
    IP,
    LINEAR,
    NET,
    ORDERS,
    PERMUTATIONS,
    REFITS,
    SELF_LISSA,
    SHORT,
    Task,
    linear_task,
    net_task,
    trained_net_task,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS, SLOW_ROUNDS, SLOW = 7, 5, 2.0  # seconds from which on a method is called less often
GROWTH_ROUNDS, UNHURRIED, GIVEN_UP = 3, 0.5, 5.0
#: Left out of a quick run: hundreds of products with the Hessian, whatever the size.
LONG = ("exact", "cg", "lissa", "arnoldi", "trak", "gex")
#: Of which a part is done where the cost on nets is seen to grow: half a minute and more by default.
IN_PART_ON_NETS = ("lissa", "gex")
#: Seconds without gradients on CIFAR-10N, CIFAR-100N and Animal-10N (Table 6); IP's are those of its ensemble there.
PUBLISHED = {
    "ip": (0.03, 0.28, 0.03),
    "ip_ensemble": (0.03, 0.28, 0.03),
    "lissa": (7.67, 34.59, 7.46),
    "tracin": (0.03, 0.28, 0.03),
    "ekfac": (22.54, 192.58, 23.89),
    "datainf": (11.50, 45.29, 10.89),
    "self_tracin": (0.15, 1.41, 0.15),
    "self_lissa": (14.57, 54.39, 14.40),
    "gex": (0.03, 0.28, 0.03),
    "tda": (23.98, 193.79, 24.77),
}
PUBLISHED_GRADIENTS = 61.0 + 4.0
MEASURED, EXTRAPOLATED = "measured", "extrapolated"
AXES = ROWS, WIDTH, CLASSES = "rows", "width", "classes"


@dataclass(frozen=True)
class Ladder:
    """Methods, what they are tried on as (rows, features or width, classes), and by what each of the three grows."""

    task: Callable[[int, int, int], Task]
    base: tuple[int, int, int]
    factors: dict[str, tuple[float, ...]]
    methods: tuple[str, ...]
    short: bool = False


@dataclass(frozen=True)
class Sizes:
    """Of the tasks as (rows, features or width, classes); the ladders on which the cost is seen to grow."""

    linear: tuple[int, int, int]
    net: tuple[int, int, int]
    small: tuple[int, int, int]
    ladders: tuple[Ladder, ...]
    gex_steps: int
    rounds: int
    slow_rounds: int
    on_nets: tuple[str, ...]

    def names(self, family: str) -> tuple[str, ...]:
        """The methods that are timed on the task of a family."""
        return GRADIENTS if family == LINEAR else self.on_nets


def _but(*names: str) -> tuple[str, ...]:
    """The methods that do not refit, but for some."""
    return tuple(name for name in GRADIENTS if name not in names)


FAR = {ROWS: (0.25, 0.5, 1, 2, 4, 8), WIDTH: (0.5, 1, 2, 4), CLASSES: (0.5, 1, 2, 4)}
NEAR = dict.fromkeys(AXES, (0.5, 1, 2))
FULL = Sizes(
    linear=(12_000, 50, 10), net=(2000, 256, 10), small=(200, 20, 3),
    ladders=(
        Ladder(linear_task, (8000, 50, 6), FAR, GRADIENTS),
        Ladder(linear_task, (200, 25, 6), NEAR | {ROWS: (1, 2, 4, 8)}, REFITS, short=True),
        Ladder(net_task, (2000, 128, 6), FAR, _but(SELF_LISSA, *IN_PART_ON_NETS)),
        Ladder(net_task, (2000, 128, 6), FAR, IN_PART_ON_NETS, short=True),
        Ladder(net_task, (128, 64, 6), NEAR, (SELF_LISSA,), short=True),
        Ladder(trained_net_task, (100, 16, 6), NEAR, REFITS, short=True),
    ),
    gex_steps=800, rounds=ROUNDS, slow_rounds=SLOW_ROUNDS, on_nets=_but(SELF_LISSA),
)  # fmt: skip
TWO_SIZES = {ROWS: (1, 2), WIDTH: (1,), CLASSES: (1,)}
QUICK = Sizes(
    linear=(200, 8, 3), net=(60, 6, 3), small=(20, 2, 2),
    ladders=(
        Ladder(linear_task, (60, 4, 3), TWO_SIZES, GRADIENTS),
        Ladder(net_task, (40, 4, 3), TWO_SIZES, _but(SELF_LISSA, *LONG)),
    ),
    gex_steps=5, rounds=1, slow_rounds=1, on_nets=_but(SELF_LISSA, *LONG),
)  # fmt: skip


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """Both tasks, then their growth, on one thread; `data_home` is not used."""
    import torch

    sizes = QUICK if quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            tasks = [linear_task(*sizes.linear), net_task(*sizes.net)]
            rows = [row for task in tasks for row in multiples(task, sizes)]
            growth = [
                point for ladder in sizes.ladders for axis in AXES for point in grow(ladder, axis, sizes.gex_steps)
            ]
    finally:
        torch.set_num_threads(threads)
    return {
        "about": _runner.about(__doc__, "Drawn with seed 0."),
        "seeds": [0],
        "threads": 1,
        "tasks": {task.family: task.label for task in tasks},
        "rows": rows,
        "growth": growth,
    }


def multiples(task: Task, sizes: Sizes) -> list[dict[str, Any]]:
    """One row a method: its time and its multiple of IP."""
    names = sizes.names(task.family)
    baselines = [name for name in BASELINES if name != CLEANLAB or find_spec("cleanlab")]
    calls = {name: task.baseline(name) for name in baselines}
    calls |= {name: task.call(name, sizes.gex_steps) for name in names}
    for name in (*baselines, IP):
        calls[name]()  # imports, and what is kept for the next call
    first = {name: seconds(call) for name, call in calls.items()}
    quick = [name for name in calls if first[name] <= SLOW or name == IP]
    rounds = [{name: seconds(calls[name]) for name in quick} for _ in range(sizes.rounds)]
    pairs = {name: [(one[name], one[IP]) for one in rounds] for name in quick}
    for name in calls:
        if name not in quick:
            pairs[name] = [_beside_ip(calls[name], calls[IP]) for _ in range(sizes.slow_rounds)]
    rows = []
    for name in calls:
        times, ratios = [time_ for time_, _ in pairs[name]], [time_ / ip for time_, ip in pairs[name]]
        rows.append(_row(task, name, statistics.median(times), ratios, MEASURED))
    return rows + extrapolated(task, rows, sizes)


def _beside_ip(call: Callable[[], Any], ip: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a slow call, and of IP in the middle of three calls about it."""
    before = [seconds(ip) for _ in range(2)]
    slow = seconds(call)
    return slow, statistics.median([*before, seconds(ip)])


def extrapolated(task: Task, rows: list[dict[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """What refits, and a net's Hessian-based self-influence, put in proportion."""
    found = {row["method"]: row["seconds"] for row in rows}
    small, fit = linear_task(*sizes.small), statistics.median(seconds(task.refit) for _ in range(3))
    refits = {name: small.count_refits(name) / len(small.X) for name in REFITS}
    for name in set(REFITS) & set(SHORT):
        refits[name] *= PERMUTATIONS / ORDERS
    times = {name: refits[name] * len(task.X) * fit for name in REFITS}
    if SELF_LISSA not in found and "lissa" in found:
        times[SELF_LISSA] = found["lissa"] * len(task.X)
    return [
        _row(task, name, time_, [time_ / found[IP]], EXTRAPOLATED)
        | {"fits_a_row": round(refits[name], 2) if name in refits else None}
        for name, time_ in times.items()
    ]


def _row(task: Task, name: str, time_: float, ratios: list[float], how: str) -> dict[str, Any]:
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else None
    return {
        "task": task.family,
        "method": name,
        "how": how,
        "seconds": float(f"{time_:.4g}"),
        "ratio": float(f"{statistics.median(ratios):.4g}"),
        "ratio_quartiles": quarters and [float(f"{quarters[0]:.4g}"), float(f"{quarters[2]:.4g}")],
        "calls": len(ratios) if how == MEASURED else 0,
    }


def grow(ladder: Ladder, axis: str, gex_steps: int) -> list[dict[str, Any]]:
    """One point a method and size: seconds, as one size of the task grows."""
    at = AXES.index(axis)
    names = list(ladder.methods)
    points = []
    for factor in ladder.factors[axis]:
        task = ladder.task(*(round(size * factor) if i == at else size for i, size in enumerate(ladder.base)))
        if axis == WIDTH:
            x = task.n_params if task.family == NET else task.X.shape[1]
        else:
            x = len(task.X) if axis == ROWS else task.n_classes
        calls = {name: task.call(name, gex_steps, short=ladder.short) for name in names}
        task.call(IP, gex_steps)()  # what is kept for the next call
        times = {name: [seconds(call)] for name, call in calls.items()}
        for _ in range(GROWTH_ROUNDS - 1):
            for name, call in calls.items():
                if times[name][0] <= UNHURRIED:
                    times[name].append(seconds(call))
        found = {name: statistics.median(values) for name, values in times.items()}
        points += [
            {
                "task": task.family,
                "axis": axis,
                "x": x,
                "method": name,
                "seconds": float(f"{found[name]:.4g}"),
            }
            | ({"part": SHORT[name][0]} if ladder.short and name in SHORT else {})
            for name in names
        ]
        names = [name for name in names if name == IP or found[name] <= GIVEN_UP]
    return points


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of a call, which runs on one thread."""
    began = time.process_time()
    call()
    return time.process_time() - began


def slope(points: Sequence[dict[str, Any]]) -> float | None:
    """Of a line through the logarithms of the three largest sizes and their times; None where there are fewer."""
    largest = sorted(points, key=lambda point: point["x"])[-3:]
    if len(largest) < 3:
        return None
    return float(np.polyfit(*(np.log([point[key] for point in largest]) for key in ("x", "seconds")), 1)[0])


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {f"{label}": _multiples(result["rows"], family) for family, label in result["tasks"].items()}
    made["Multiples of IP beside the published"] = _beside_published(result["rows"])
    for family in result["tasks"]:
        made[f"Growth, {family}: slope of log time"] = _slopes(result["growth"], family)
    return made


def _multiples(rows: list[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    own = sorted((row for row in rows if row["task"] == family), key=lambda row: row["ratio"])
    return [
        {
            "method": row["method"],
            "× ip": _figures(row["ratio"]),
            "quartiles": row["ratio_quartiles"] and " to ".join(map(_figures, row["ratio_quartiles"])),
            "seconds": _figures(row["seconds"]),
            "calls": row["calls"] or "extrapolated",
        }
        for row in own
    ]


def _beside_published(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a method, the baselines first and then those of the paper."""
    found = {(row["task"], row["method"]): row for row in rows}
    base = PUBLISHED[IP]
    table = []
    for name in dict.fromkeys([*BASELINES, *PUBLISHED, *METHODS]):
        line: dict[str, Any] = {"method": name}
        for family in (LINEAR, NET):
            row = found.get((family, name))
            mark = " (extrapolated)" if row and row["how"] == EXTRAPOLATED else ""
            line[f"here, {family}"] = row and _figures(row["ratio"]) + mark
        times = PUBLISHED.get(name)
        for data, at in (("CIFAR-10N", 0), ("CIFAR-100N", 1)):
            line[f"published, {data}"] = times and _figures(times[at] / base[at])
        line["published, with its gradients"] = times and (
            f"{(times[0] + PUBLISHED_GRADIENTS) / (base[0] + PUBLISHED_GRADIENTS):.2f}"
        )
        table.append(line)
    return table


def _slopes(growth: list[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """A row a method; where it was tried on other sizes than IP its own stand beside the slope."""
    own = [point for point in growth if point["task"] == family]
    sizes = {axis: _range([point for point in own if (point["axis"], point["method"]) == (axis, IP)]) for axis in AXES}
    table = []
    for name in dict.fromkeys(point["method"] for point in own):
        points = [point for point in own if point["method"] == name]
        line: dict[str, Any] = {"method": name, "part": points[0].get("part", "all")}
        for axis in AXES:
            along = [point for point in points if point["axis"] == axis]
            found, tried = slope(along), _range(along)
            beside = "" if tried == sizes[axis] else f" ({tried})"
            line[f"in {_axis(family, axis)}, {sizes[axis]}"] = found and f"{found:.2f}{beside}"
        table.append(line)
    return table


def _range(points: Sequence[dict[str, Any]]) -> str:
    sizes = [point["x"] for point in points]
    return f"{min(sizes):,} to {max(sizes):,}"


def _axis(family: str, axis: str) -> str:
    return {LINEAR: "features", NET: "parameters"}[family] if axis == WIDTH else axis


def _figures(value: float) -> str:
    """Two or three significant figures, without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """The multiples beside the published ones, and how the cost grows."""
    from . import _cost_figures

    return {
        "cost_multiples": _cost_figures.multiples(_of_tasks(result["rows"]), result["tasks"], _published()),
        "cost_growth": _cost_figures.growth(result["growth"], _axis),
    }


def _of_tasks(rows: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, bool]]]:
    """Method -> task -> multiple, and whether it was measured; the dearest for a net last."""
    by_method: dict[str, dict[str, tuple[float, bool]]] = {}
    for row in sorted(rows, key=lambda row: (row["task"] != NET, row["ratio"])):
        by_method.setdefault(row["method"], {})[row["task"]] = (row["ratio"], row["how"] == MEASURED)
    return by_method


def _published() -> dict[str, float]:
    return {name: times[0] / PUBLISHED[IP][0] for name, times in PUBLISHED.items()}
