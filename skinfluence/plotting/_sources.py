"""Where scores come from: arrays, fitted curators, and the homes that curators live in."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils import column_or_1d


def find_curator(source: Any) -> Any:
    """The fitted curator in a curator, a Pipeline, a Curated estimator or a search over one of these.

    Raises
    ------
    TypeError
        If there is none.
    ValueError
        If there are several, whose scores are of different rows.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    found = _curators(source)
    if not found:
        raise TypeError(
            f"Wanted a fitted curator such as InfluenceSelector, or a Pipeline, a CuratedClassifier or a search that "
            f"holds one, got {type(source).__name__}. Scores in an array are for from_scores."
        )
    if len(found) > 1:
        raise ValueError(
            f"{type(source).__name__} holds {len(found)} curators, each with scores of the rows that it was given. "
            "Pass one of them."
        )
    if not hasattr(found[0], "scores_"):
        raise NotFittedError(
            f"This {type(found[0]).__name__} is not fitted. Call fit first; what a Pipeline was given as a step, it "
            "clones: the fitted curator is pipe['name of the step']."
        )
    return found[0]


def _curators(source: Any) -> list[Any]:
    for name in ("best_estimator_", "curator_"):
        if hasattr(source, name):
            return _curators(getattr(source, name))
    if hasattr(source, "steps"):
        return [curator for _, step in source.steps for curator in _curators(step)]
    return [source] if hasattr(source, "fit_curate") else []


def check_scores(scores: Any, name: str = "scores") -> np.ndarray:
    """Scores as a float array ``(n,)``, or an error."""
    values = np.asarray(scores)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numbers, one a row, got {type(scores).__name__} of dtype {values.dtype}.")
    values = np.asarray(column_or_1d(values), dtype=np.float64)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers, one a row, got {len(values)} of which some are not.")
    return values


def check_named_scores(scores: Any, default: str) -> dict[str, list[np.ndarray]]:
    """Scores by name, each as a list of arrays ``(n,)``: one a repetition."""
    named = scores if isinstance(scores, dict) else {default: scores}
    if not named:
        raise ValueError("scores must name at least one array, got an empty dict.")
    checked = {}
    for name, values in named.items():
        array = np.asarray(values)
        rows = list(array) if array.ndim == 2 else [array]
        checked[str(name)] = [check_scores(row, f"scores[{name!r}]") for row in rows]
    return checked
