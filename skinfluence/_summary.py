"""What a fitted curator did, as HTML for notebooks: below scikit-learn's own diagram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

_STYLE = "border-collapse: collapse; margin: 0.4em 0; font-size: 0.9em;"
_CELL = "padding: 0.1em 0.8em 0.1em 0; text-align: {}; border: none;"


@dataclass(frozen=True)
class FitSummary:
    """What is known when a fit ends, and not from the fitted attributes alone.

    Parameters
    ----------
    seconds : float
        Time of the fit.
    scored_by : {"folds", "validation rows", "training rows"}
        Where the objective was taken.
    n_rows : ndarray of int of shape (n_classes,), or (1,) for regression
        Rows of each class that the curator was given.
    n_changed : ndarray of int of the same shape
        How many of them it removed or relabelled.
    """

    seconds: float
    scored_by: str
    n_rows: np.ndarray
    n_changed: np.ndarray


def summarize(curator: Any, codes: np.ndarray | None, cross_fitted: bool, held_out: bool, seconds: float) -> FitSummary:
    """The summary of a curator that has just been fitted; ``codes`` are the rows' classes, None for regression."""
    codes = np.zeros(len(curator.support_), dtype=np.intp) if codes is None else codes
    changed = getattr(curator, "relabeled_", ~curator.support_)
    n_rows = np.bincount(codes)
    by = "validation rows" if held_out else "folds" if cross_fitted else "training rows"
    return FitSummary(seconds, by, n_rows, np.bincount(codes[changed], minlength=len(n_rows)))


def summary_html(curator: Any) -> str:
    """An HTML fragment about a fitted curator: rows changed by class, threshold, method and time.

    Parameters
    ----------
    curator : estimator
        A curator; one that is not fitted gives an empty string.

    Returns
    -------
    html : str
        Two tables without colours of their own, legible on a dark page as on a light one.
    """
    found = getattr(curator, "_summary", None)
    if found is None:
        return ""
    summary = FitSummary(**found)
    facts = _table([(escape(name), value) for name, value in _facts(curator, summary)], head=None)
    return (
        '<div class="skinfluence-summary" style="overflow-x: auto; max-width: 100%;">'
        f"{facts}{_by_class(curator, summary)}</div>"
    )


class SummaryInHTML:
    """Puts the summary below the diagram that scikit-learn shows of an estimator in a notebook.

    Goes in front of `sklearn.base.BaseEstimator`. `sklearn.utils.estimator_html_repr` and the diagrams of Pipelines are
    left as they are.
    """

    @property
    def _repr_html_(self) -> Any:
        diagram = super()._repr_html_  # type: ignore[misc]  # raises where scikit-learn is set to show text
        return lambda: diagram() + summary_html(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]  # BaseEstimator has it
        if "text/html" in bundle:
            bundle["text/html"] += summary_html(self)
        return bundle


def _facts(curator: Any, summary: FitSummary) -> list[tuple[str, str]]:
    n_rows, n_changed = int(summary.n_rows.sum()), int(summary.n_changed.sum())
    share = f"{n_changed} of {n_rows} ({n_changed / n_rows:.1%})"
    facts = []
    if hasattr(curator, "relabeled_"):
        facts.append(("rows relabelled", share))
    elif hasattr(curator, "effective_sample_size_"):
        facts.append(("effective rows", f"{curator.effective_sample_size_:.1f} of {n_rows}"))
    else:
        facts.append(("rows removed", share))
    if hasattr(curator, "threshold_"):
        facts.append(("threshold", f"{curator.threshold_:.4g} (lower scores are removed)"))
    low, middle, high = np.quantile(curator.scores_, [0, 0.5, 1])
    facts.append(("scores", f"{low:.3g} … {middle:.3g} … {high:.3g} (lowest, median, highest)"))
    facts.append(("method", escape(f"{curator.method}{_solver(curator.diagnostics_)}")))
    if getattr(curator, "engine_", ""):
        facts.append(("derivatives", escape(curator.engine_)))
    facts += [("note", escape(note)) for note in curator.notes_]
    facts.append(("objective", escape(str(curator.objective))))
    facts.append(("scored by", _scored_by(summary.scored_by, len(curator.diagnostics_))))
    facts.append(("time", f"{summary.seconds:.3g} s"))
    return facts


def _solver(reports: list[dict[str, Any]]) -> str:
    """The engine that the reports name, with its damping if there is any."""
    report = reports[0] if reports else {}
    if "solver" not in report:
        return ""
    damping = max(float(one.get("damping", 0.0)) for one in reports)
    return f" ({report['solver']}{f', damping {damping:.3g}' if damping else ''})"


def _scored_by(where: str, n_models: int) -> str:
    if where == "folds":
        return f"{n_models} models, cross-fitted: each row by one that never saw it"
    if where == "validation rows":
        return "one model, against validation rows"
    return "one model, against the rows it was fitted on"


def _by_class(curator: Any, summary: FitSummary) -> str:
    """Rows of each class, and how many were removed or relabelled; empty where curation changes neither."""
    if not hasattr(curator, "classes_") or hasattr(curator, "effective_sample_size_"):
        return ""
    verb = "relabelled" if hasattr(curator, "relabeled_") else "removed"
    rows = [
        (escape(str(label)), str(n), f"{changed} ({changed / n:.1%})" if n else "0")
        for label, n, changed in zip(curator.classes_, summary.n_rows, summary.n_changed, strict=True)
    ]
    return _table(rows, head=("class", "rows", verb))


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] | None) -> str:
    """Rows of cells that are HTML already."""

    def line(cells: tuple[str, ...], tag: str) -> str:
        sides = ["left", *("right" if head else "left" for _ in cells[1:])]
        return "".join(
            f'<{tag} style="{_CELL.format(side)}">{cell}</{tag}>' for side, cell in zip(sides, cells, strict=True)
        )

    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows)
    return f'<table style="{_STYLE}">{top}<tbody>{body}</tbody></table>'
