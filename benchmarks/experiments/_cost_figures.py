"""The pictures of `cost`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from .. import _figures as style

#: Colour, marker and line of each method: those of a kind share a colour, and markers say the same without it.
_LOOKS = {
    "ip": (style.BLACK, "o", "-"),
    "ip_ensemble": (style.BLACK, "s", "--"),
    "tracin": (style.BLACK, "^", ":"),
    "self_tracin": (style.BLACK, "v", "-."),
    "exact": (style.BLUE, "o", "-"),
    "cg": (style.BLUE, "s", "--"),
    "lissa": (style.BLUE, "^", ":"),
    "arnoldi": (style.BLUE, "v", "-."),
    "self_lissa": (style.BLUE, "D", "-"),
    "datainf": (style.ORANGE, "o", "-"),
    "ekfac": (style.ORANGE, "s", "--"),
    "tda": (style.ORANGE, "^", ":"),
    "trak": (style.ORANGE, "v", "-."),
    "gex": (style.GREEN, "o", "-"),
    "knn_shapley": (style.PURPLE, "s", "--"),
    "leave_one_out": (style.SKY, "o", "-"),
    "data_shapley": (style.SKY, "s", "--"),
    "beta_shapley": (style.SKY, "^", ":"),
}

_TICKS = 7  # at most one more than these stand on an axis
_PLAIN = StrMethodFormatter("{x:,.10g}")


def multiples(
    found: dict[str, dict[str, tuple[float, bool]]], tasks: dict[str, str], published: dict[str, float]
) -> Figure:
    """A line a method: its multiple of IP for each task, dotted where it is extrapolated, and the published one."""
    figure, axes = style.panels(1, 1, (9.0, 0.34 * len(found) + 1.8))
    ax = axes[0][0]
    names = list(found)[::-1]
    for at in range(len(names)):
        ax.axhline(at, color="#DDDDDD", lw=0.6, zorder=0)
    marks = dict(zip(tasks, (("o", style.BLUE, "none"), ("s", style.ORANGE, style.ORANGE)), strict=True))
    for measured, line in ((True, "-"), (False, ":")):
        for task, (marker, edge, face) in marks.items():
            own = [(found[name].get(task, (0.0, None)), at) for at, name in enumerate(names)]
            points = [(ratio, at) for (ratio, how), at in own if how is measured]
            label = ", ".join(tasks[task].split(", ")[:-1]) if measured else f"{task}, extrapolated"
            looks = {"marker": marker, "edgecolor": edge, "facecolor": face if measured else "none", "linestyle": line}
            if points:
                ax.scatter(*zip(*points, strict=True), s=46, label=label, zorder=3, **looks)
    own = [(published[name], at) for at, name in enumerate(names) if name in published]
    label = "published, gradients left out (CIFAR-10N, ResNet-34, GPU)"
    ax.scatter(*zip(*own, strict=True), s=52, marker="x", color=style.BLACK, label=label, zorder=2)
    ax.axvline(1, color=style.GREY, lw=0.8)
    ax.axvline(100, color=style.GREY, lw=0.8, ls=":")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(_PLAIN)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("time as a multiple of ip, gradients included; the dotted line is a hundred times")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    figure.suptitle("What a score costs")
    return figure


def growth(points: list[dict[str, Any]], name_of: Callable[[str, str], str]) -> Figure:
    """A panel a family (down) and size that grows (across), both axes logarithmic; hollow: a part of the work."""
    families = list(dict.fromkeys(point["task"] for point in points))
    sizes = list(dict.fromkeys(point["axis"] for point in points))
    figure, axes = style.panels(len(families), len(sizes), (12.5, 4.0 * len(families)))
    for family, line in zip(families, axes, strict=True):
        for axis, ax in zip(sizes, line, strict=True):
            own = [point for point in points if (point["task"], point["axis"]) == (family, axis)]
            for method, (colour, marker, dashes) in _LOOKS.items():
                mine = [point for point in own if point["method"] == method]
                if mine:
                    xs, ys = [point["x"] for point in mine], [1e3 * point["seconds"] for point in mine]
                    face = "white" if "part" in mine[0] else colour
                    ax.plot(xs, ys, color=colour, marker=marker, mfc=face, ls=dashes, ms=4.5, lw=1.1, label=method)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ticks = _spaced({point["x"] for point in own})
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            ax.yaxis.set_major_formatter(_PLAIN)
            ax.minorticks_off()
            ax.grid()
            ax.set_xlabel(name_of(family, axis))
            ax.set_title(f"{family}: {name_of(family, axis)}")
        line[0].set_ylabel("milliseconds")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=9)
    figure.suptitle("How the time of a score grows, gradients included; hollow: of a part of the work")
    return figure


def _spaced(sizes: set[int]) -> list[int]:
    """The sizes whose figures do not stand in one another's way."""
    kept: list[int] = []
    apart = (max(sizes) / min(sizes)) ** (1 / _TICKS)
    for size in sorted(sizes):
        if not kept or size >= apart * kept[-1]:
            kept.append(size)
    return kept
