"""`MethodComparisonDisplay`: how far methods agree on the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.utils.validation import check_consistent_length

from .._scores import influence_scores
from ._sources import check_scores
from ._style import new_axes


class MethodComparisonDisplay:
    """Spearman's rank correlation between the scores of several methods, as a matrix.

    1: the same order of the rows; 0: none in common; -1: the reverse.

    Parameters
    ----------
    correlation : ndarray of shape (n_methods, n_methods)
        Spearman's rank correlation, in [-1, 1].
    names : list of str of length n_methods

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    im_ : matplotlib AxesImage
    text_ : ndarray of matplotlib Text of shape (n_methods, n_methods)

    Notes
    -----
    The scores of a constant method (all rows alike) have no order: its correlations are nan.

    Source: Spearman, "The Proof and Measurement of Association between Two Things", American Journal of Psychology,
    1904.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence.plotting import MethodComparisonDisplay
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X)
    >>> clf = LogisticRegression().fit(X, y)
    >>> MethodComparisonDisplay.from_estimator(  # doctest: +SKIP
    ...     clf, X[:400], y[:400], X[400:], y[400:], methods=["ip", "exact"]
    ... )
    """

    def __init__(self, correlation: np.ndarray, names: Sequence[str]) -> None:
        self.correlation = correlation
        self.names = names

    @classmethod
    def from_scores(cls, scores: dict[str, Any], *, ax: Any = None, **kwargs: Any) -> MethodComparisonDisplay:
        """Compare scores that are there already.

        Parameters
        ----------
        scores : dict of str to array-like of shape (n_samples,)
            The scores of the same rows by each method.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : MethodComparisonDisplay

        Raises
        ------
        TypeError
            If ``scores`` is no dict.
        ValueError
            If there are fewer than two methods, or their scores are of different lengths or not finite.
        """
        if not isinstance(scores, dict):
            raise TypeError(
                f"scores must be a dict of the methods' names to their scores, got {type(scores).__name__}."
            )
        if len(scores) < 2:
            raise ValueError(f"A comparison needs the scores of at least two methods, got {len(scores)}.")
        checked = {str(name): check_scores(values, f"scores[{name!r}]") for name, values in scores.items()}
        check_consistent_length(*checked.values())
        return cls(rank_correlation(list(checked.values())), list(checked)).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        *,
        methods: Sequence[Any] | dict[str, Any] = ("ip", "ip_ensemble", "exact"),
        objective: Any = "utility",
        sample_weight: Any = None,
        sensitive_features: Any = None,
        sensitive_features_val: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> MethodComparisonDisplay:
        """Score the training rows of a fitted estimator by each method, and compare.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator that `skinfluence.influence_scores` takes.
        X, y, X_val, y_val, objective, sample_weight, sensitive_features, sensitive_features_val, random_state, n_jobs
            As for `skinfluence.influence_scores`.
        methods : list or dict, default=("ip", "ip_ensemble", "exact")
            Names or configured objects; a dict says how to call them.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : MethodComparisonDisplay

        Raises
        ------
        TypeError, ValueError
            As `skinfluence.influence_scores`, and if two methods have the same name.
        """
        named = methods if isinstance(methods, dict) else {str(method): method for method in methods}
        if len(named) < len(methods):
            raise ValueError(f"Two of the methods have the same name: {methods}. Give a dict of names to methods.")
        scores = {
            name: influence_scores(
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
                n_jobs=n_jobs,
            )
            for name, method in named.items()
        }
        return cls.from_scores(scores, ax=ax, **kwargs)

    def plot(
        self, ax: Any = None, *, cmap: Any = "PuOr", values_format: str = ".2f", colorbar: bool = True, **kwargs: Any
    ) -> Any:
        """Draw the matrix, with its numbers.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str or matplotlib Colormap, default="PuOr"
            Colours from -1 to 1.
        values_format : str, default=".2f"
            How the numbers are written.
        colorbar : bool, default=True
            Whether to draw one.
        **kwargs : dict
            For ``Axes.imshow``.

        Returns
        -------
        self : MethodComparisonDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        n = len(self.names)
        side = max(3.6, 0.72 * n + 2.0)
        ax, self.figure_ = new_axes(type(self).__name__, ax, (side + 1.0, side))
        self.im_ = ax.imshow(self.correlation, **{"cmap": cmap, "vmin": -1, "vmax": 1, **kwargs})
        self.text_ = np.empty((n, n), dtype=object)
        for i in range(n):
            for j in range(n):
                value = self.correlation[i, j]
                self.text_[i, j] = ax.text(
                    j, i, format(value, values_format), ha="center", va="center", color=_ink(self.im_, value)
                )
        ax.set_xticks(range(n), self.names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n), self.names)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        if colorbar:
            bar = self.figure_.colorbar(self.im_, ax=ax, shrink=0.8)
            bar.set_label("Spearman's rank correlation")
            bar.outline.set_visible(False)
        else:
            ax.set_title("Spearman's rank correlation")
        self.ax_ = ax
        return self


def rank_correlation(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Spearman's rank correlation of each pair, ties sharing their mean rank; nan where scores are constant."""
    ranks = np.array([rankdata(values) for values in scores])
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.einsum("ij,ij->i", ranks, ranks))
    product = np.outer(lengths, lengths)
    return np.divide(ranks @ ranks.T, product, out=np.full_like(product, np.nan), where=product > 0).clip(-1, 1)


def _ink(image: Any, value: float) -> str:
    """Black or white, whichever reads better on the cell's colour (relative luminance, WCAG 2.2)."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"
