"""`InfluenceDisplay`: the distribution of the scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_consistent_length

from .._scores import influence_scores
from ..metrics import encode_groups
from ._sources import check_scores, find_curator
from ._style import COLOURS, HATCHES, LINES, new_axes, tidy


class InfluenceDisplay:
    """Distribution of influence scores, with groups of rows marked, and the threshold below which rows are removed.

    Make it with `from_estimator`, `from_curator` or `from_scores`; the constructor stores what they computed.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Influence of each row: by how much the objective rises if it is removed. Negative: the row hurts.
    groups : array-like of shape (n_samples,), default=None
        A label for each row: rows of each label are drawn as a histogram of their own.
    threshold : float, default=None
        Rows that score below it are removed; drawn as a line.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : list of matplotlib containers, one a group
    threshold_line_ : matplotlib Line2D or None

    See Also
    --------
    most_harmful : The rows with the lowest scores themselves.
    RemovalCurveDisplay : What removing them does to the model.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from skinfluence import InfluenceSelector
    >>> from skinfluence.plotting import InfluenceDisplay
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> selector = InfluenceSelector(removal_rate=0.1, random_state=0).fit(X, y)
    >>> display = InfluenceDisplay.from_curator(selector, groups=y)  # doctest: +SKIP
    """

    def __init__(self, scores: np.ndarray, *, groups: Any = None, threshold: float | None = None) -> None:
        self.scores = scores
        self.groups = groups
        self.threshold = threshold

    @classmethod
    def from_scores(
        cls, scores: Any, *, groups: Any = None, threshold: float | None = None, ax: Any = None, **kwargs: Any
    ) -> InfluenceDisplay:
        """Draw scores that are there already.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)
            Influence of each row.
        groups : array-like of shape (n_samples,), default=None
            A label for each row.
        threshold : float, default=None
            Where to draw the threshold.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : InfluenceDisplay

        Raises
        ------
        TypeError, ValueError
            If the scores are no finite numbers, or the groups not as many.
        """
        return cls(check_scores(scores), groups=groups, threshold=threshold).plot(ax=ax, **kwargs)

    @classmethod
    def from_curator(cls, curator: Any, *, groups: Any = None, ax: Any = None, **kwargs: Any) -> InfluenceDisplay:
        """Draw the scores of a fitted curator, and the threshold if it removes rows.

        Parameters
        ----------
        curator : estimator
            A fitted curator, or a fitted Pipeline, Curated estimator or search that holds one.
        groups : array-like of shape (n_samples,), default=None
            A label for each row that the curator was given.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : InfluenceDisplay

        Raises
        ------
        TypeError
            If there is no curator.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        found = find_curator(curator)
        threshold = getattr(found, "threshold_", None)
        return cls.from_scores(found.scores_, groups=groups, threshold=threshold, ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        *,
        method: Any = "ip",
        objective: Any = "utility",
        sample_weight: Any = None,
        sensitive_features: Any = None,
        sensitive_features_val: Any = None,
        random_state: Any = None,
        groups: Any = None,
        threshold: float | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> InfluenceDisplay:
        """Score the training rows of a fitted estimator, and draw the scores.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator that `skinfluence.influence_scores` takes.
        X, y, X_val, y_val, method, objective, sample_weight, sensitive_features, sensitive_features_val, random_state
            As for `skinfluence.influence_scores`.
        groups : array-like of shape (n_samples,), default=None
            A label for each training row.
        threshold : float, default=None
            Where to draw a threshold.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : InfluenceDisplay

        Raises
        ------
        TypeError, ValueError
            As `skinfluence.influence_scores`.
        """
        scores = influence_scores(
            estimator,
            X,
            y,
            X_val,
            y_val,
            method=method,
            objective=objective,
            sample_weight=sample_weight,
            sensitive_features=sensitive_features,
            sensitive_features_val=sensitive_features_val,
            random_state=random_state,
        )
        return cls.from_scores(scores, groups=groups, threshold=threshold, ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, bins: Any = 50, line_kw: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        bins : int, str or array-like, default=50
            As for `numpy.histogram_bin_edges`, over all rows, so that groups are comparable.
        line_kw : dict, default=None
            For the line at the threshold.
        **kwargs : dict
            For ``Axes.hist``, such as ``log=True`` to see the tails, or ``density=True``.

        Returns
        -------
        self : InfluenceDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the groups are not as many as the scores, or have missing values.
        """
        members = self._members()
        ax, self.figure_ = new_axes(type(self).__name__, ax)
        edges = np.histogram_bin_edges(self.scores, bins)
        self.bars_ = []
        for place, (label, chosen) in enumerate(members):
            _, _, bars = ax.hist(self.scores[chosen], edges, **{**_look(place), "label": label, **kwargs})
            self.bars_.append(bars)
        ax.axvline(0, color="black", linewidth=0.8)
        self.threshold_line_ = None
        if self.threshold is not None:
            n_below = int(np.count_nonzero(self.scores < self.threshold))
            look = {"color": "black", "linestyle": "--", "linewidth": 1.3}
            label = f"threshold: {n_below} rows below"
            self.threshold_line_ = ax.axvline(self.threshold, **{**look, "label": label, **(line_kw or {})})
        ax.set(
            xlabel="influence score: rise of the objective if the row is removed\n(below 0: the row hurts)",
            ylabel="density" if kwargs.get("density") else "training rows",
        )
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
        if len(members) > 1 or self.threshold is not None:
            ax.legend(frameon=False)
        tidy(ax)
        self.ax_ = ax
        return self

    def _members(self) -> list[tuple[str | None, np.ndarray]]:
        """Label and rows of each group, the largest first."""
        n = len(self.scores)
        if self.groups is None:
            return [(None, np.ones(n, dtype=bool))]
        check_consistent_length(self.scores, self.groups)
        if len(set(np.asarray(self.groups).ravel().tolist())) == 1:
            return [(f"{np.asarray(self.groups).ravel()[0]} ({n} rows)", np.ones(n, dtype=bool))]
        codes, labels = encode_groups(self.groups, n, "groups has a label for each row.")
        sizes = np.bincount(codes)
        order = np.argsort(-sizes, kind="stable")
        return [(f"{labels[code]} ({sizes[code]} rows)", codes == code) for code in order]


def _look(place: int) -> dict[str, Any]:
    """The first group is filled, the others are hatched outlines in front of it, which hide nothing."""
    if place == 0:
        return {"color": COLOURS[0], "alpha": 0.8, "histtype": "stepfilled"}
    place %= len(COLOURS)
    return {
        "facecolor": "none",
        "edgecolor": COLOURS[place],
        "hatch": HATCHES[place],
        "linestyle": LINES[place],
        "linewidth": 1.4,
        "histtype": "stepfilled",
    }
