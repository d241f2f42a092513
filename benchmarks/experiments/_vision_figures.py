"""Figures of the experiment with CIFAR-10N, of its stored result alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _figures
from ._vision_data import NOISES
from ._vision_linear import CROSS, ENSEMBLE, LOSS, MARGIN, RANDOM, TRUSTED
from ._vision_tables import LINEAR, TITLES, chosen, seeds_of, swept_rates, without

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Method -> colour and marker.
LOOKS = {
    "ip": (_figures.BLUE, "o"),
    ENSEMBLE: (_figures.ORANGE, "s"),
    "exact": (_figures.GREEN, "^"),
    "self_tracin": (_figures.PURPLE, "D"),
    LOSS: (_figures.BLACK, "x"),
    RANDOM: (_figures.GREY, "v"),
    MARGIN: (_figures.SKY, "P"),
}


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Removal rate; dropout and members; detection."""
    rows = result["rows"]
    return {"vision_rate": _rates(rows), "vision_ensemble": _ensemble(rows), "vision_detection": _detection(rows)}


def _noises(rows: list[dict]) -> list[str]:
    return [noise for noise in NOISES if chosen(rows, LINEAR, noise)]


def _rates(rows: list[dict]) -> Figure:
    noises = _noises(rows)
    figure, axes = _figures.panels(2, len(noises), (3.6 * len(noises) + 1.0, 6.6), sharex=True, sharey="col")
    for protocol, line in zip((TRUSTED, CROSS), axes, strict=True):
        for noise, ax in zip(noises, line, strict=True):
            own = swept_rates(rows, protocol, noise)
            for method, (colour, marker) in LOOKS.items():
                found = [row for row in own if row["method"] == method]
                _line(ax, [100 * row["at"] for row in found], found, colour, marker, method)
            ax.axhline(seeds_of(without(rows, LINEAR, noise)).mean(), color=_figures.GREY, ls="--", lw=1)
            ax.set_title(f"{noise}, {protocol}")
            ax.grid(axis="y")
        line[0].set_ylabel("test accuracy, %")
    for ax in axes[-1]:
        ax.set_xlabel("rows removed, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LOOKS))
    figure.suptitle("CIFAR-10N, linear head: the rows of lowest score removed (dashed: none; bars: spread over seeds)")
    return figure


def _line(ax: Axes, at: list[float], found: list[dict], colour: str, marker: str, label: str) -> None:
    means, spreads = [seeds_of(row).mean() for row in found], [seeds_of(row).std() for row in found]
    ax.errorbar(at, means, spreads, color=colour, marker=marker, ms=4.5, lw=1.2, elinewidth=0.7, capsize=2, label=label)


def _ensemble(rows: list[dict]) -> Figure:
    noises = _noises(rows)
    figure, axes = _figures.panels(2, len(noises), (3.6 * len(noises) + 1.0, 6.2), sharex="row")
    for noise, (above, below) in zip(noises, zip(*axes, strict=True), strict=True):
        own = chosen(rows, LINEAR, noise, TRUSTED, "dropout")
        _line(above, list(range(len(own))), own, _figures.ORANGE, "s", "5 members")
        above.set_xticks(range(len(own)), [f"{row['at']:g}" for row in own])
        above.set_xlabel("dropout, five members")
        for sweep, colour, marker, label in (
            ("members", _figures.ORANGE, "s", "IP Ensemble, dropout 0.01"),
            ("members, dropout 0.5", _figures.GREEN, "^", "IP Ensemble, dropout 0.5"),
        ):
            own = chosen(rows, LINEAR, noise, TRUSTED, sweep)
            _line(below, [row["at"] for row in own], own, colour, marker, label)
        below.set_xlabel("members")
        (ip,) = (row for row in chosen(rows, LINEAR, noise, TRUSTED) if row["method"] == "ip")
        for ax in (above, below):
            ax.axhline(seeds_of(ip).mean(), color=_figures.BLUE, lw=1.2, label="IP")
            ax.axhline(seeds_of(without(rows, LINEAR, noise)).mean(), color=_figures.GREY, ls="--", label="no curation")
            ax.grid(axis="y")
        above.set_title(noise)
    for line in axes:
        line[0].set_ylabel("test accuracy, %")
    figure.legend(*axes[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("CIFAR-10N, linear head, 5 % removed by IP Ensemble (bars: spread over seeds)")
    return figure


def _detection(rows: list[dict]) -> Figure:
    """A column a model, a line a protocol; a panel without methods is left empty."""
    protocols = [protocol for protocol in (TRUSTED, CROSS) if len(chosen(rows, LINEAR, None, protocol)) > 2]
    parts = [part for part in TITLES if len(chosen(rows, part)) > 2]
    size = (3.6 * len(parts) + 0.5, 4.0 * len(protocols) + 0.5)
    figure, axes = _figures.panels(len(protocols), len(parts), size)
    marks = dict(zip(NOISES, (("o", _figures.BLUE), ("s", _figures.ORANGE), ("^", _figures.BLACK)), strict=True))
    for protocol, line in zip(protocols, axes, strict=True):
        for part, ax in zip(parts, line, strict=True):
            own = [row for row in chosen(rows, part, None, protocol) if row["auroc"]]
            if not own:
                ax.set_axis_off()
                continue
            names = list(dict.fromkeys(row["method"] for row in own))[::-1]
            for noise, (marker, colour) in marks.items():
                found = [row for row in own if row["noise"] == noise]
                at = [names.index(row["method"]) for row in found]
                ax.plot([row["auroc"]["mean"] for row in found], at, marker, color=colour, ms=5, label=noise)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(-0.7, len(names) - 0.3)
            ax.axvline(0.5, color=_figures.GREY, lw=0.8)
            ax.set_xlim(min(0.45, *(row["auroc"]["mean"] for row in own)) - 0.02, 1.0)
            ax.set_xlabel("AUROC: wrong labels among low scores")
            ax.set_title(f"{TITLES[part]}, {protocol}")
            ax.grid(axis="x")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
