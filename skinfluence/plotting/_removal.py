"""`RemovalCurveDisplay`: what the removal of rows does to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.metrics import check_scoring

from .._curation import InfluenceSelector
from ._retraining import Measure, Split, chance_scores, check_rates, curated_scores, retrain, splits_of, stacked
from ._sources import check_named_scores
from ._style import CHANCE, line_look, new_axes, percent, score_name, tidy


class RemovalCurveDisplay:
    """Score of a model against the share of its training rows removed: the lowest influence first, and at random.

    Parameters
    ----------
    removal_rates : ndarray of shape (n_rates,)
        Shares of the training rows.
    curves : dict of str to ndarray of shape (n_repeats, n_rates)
        Scores on test rows of the model trained without them; a repetition is a fold or a seed.
    score_name : str, default="score"
        What the scores are called on the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
    bands_ : dict of str to matplotlib collection
        One standard deviation about the mean, for curves with more than one repetition.

    See Also
    --------
    FrontierDisplay : Two figures at once.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence.plotting import RemovalCurveDisplay
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression())
    >>> RemovalCurveDisplay.from_estimator(model, X, y, random_state=0)  # doctest: +SKIP
    """

    def __init__(self, removal_rates: np.ndarray, curves: dict[str, np.ndarray], *, score_name: str = "score") -> None:
        self.removal_rates = removal_rates
        self.curves = curves
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        curator: Any = None,
        sensitive_features: Any = None,
        removal_rates: Sequence[float] | None = None,
        cv: Any = 5,
        scoring: Any = None,
        n_random: int = 3,
        random_state: Any = 0,
        n_jobs: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> RemovalCurveDisplay:
        """Cross-validate: score the training rows of each fold, remove the lowest, train again, test.

        The test rows of a fold play no part in the scores. Their labels are as noisy as the others: where many labels
        are wrong, all curves lie low.

        Parameters
        ----------
        estimator : estimator
            The model that is trained; a Pipeline that ends in one, of any kind. It is cloned.
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        curator : curator or dict of str to curator, default=None
            What scores the rows; None is `InfluenceSelector` with ``random_state``. Its own rate plays no part.
        sensitive_features : array-like of shape (n_samples,), default=None
            Groups of the rows, for curators with an objective about fairness.
        removal_rates : array-like of shape (n_rates,), default=None
            Shares to remove, rising; None is 0 to 30 % in steps of 5.
        cv : int, splitter or iterable, default=5
            Folds, as in `sklearn.model_selection.cross_validate`.
        scoring : str or callable, default=None
            A scorer; None is the estimator's own ``score``.
        n_random : int, default=3
            Repetitions of the removal at random in each fold; 0 leaves its curve out.
        random_state : int, RandomState instance or None, default=0
            Seed of the rows drawn at random, and of the default curator.
        n_jobs : int, default=None
            Models trained at the same time.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : RemovalCurveDisplay

        Raises
        ------
        TypeError, ValueError
            As the curators, and if the rates are no rising shares.
        """
        rates = check_rates(removal_rates)
        curators = _named(InfluenceSelector(random_state=random_state) if curator is None else curator)
        parts = []
        for split in splits_of(estimator, X, y, sensitive_features, cv):
            orders = {name: [curated_scores(one, estimator, split)] for name, one in curators.items()}
            orders |= _chance(len(next(iter(orders.values()))[0]), n_random, random_state)
            parts.append(retrain(estimator, split, orders, rates, _scorer(scoring), n_jobs))
        return cls._of(stacked(parts), rates, scoring, estimator).plot(ax=ax, **kwargs)

    @classmethod
    def from_scores(
        cls,
        scores: Any,
        estimator: Any,
        X: Any,
        y: Any,
        X_test: Any,
        y_test: Any,
        *,
        removal_rates: Sequence[float] | None = None,
        scoring: Any = None,
        n_random: int = 5,
        random_state: Any = 0,
        n_jobs: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> RemovalCurveDisplay:
        """Remove the training rows with the lowest of given scores, train again, and test on given rows.

        Parameters
        ----------
        scores : array-like of shape (n_samples,) or (n_repeats, n_samples), or dict of str to such
            Scores of the training rows; of several methods, or several seeds.
        estimator : estimator
            The model that is trained; it is cloned.
        X, y : array-like of n_samples rows
            The training rows.
        X_test, y_test : array-like of n_test rows
            The test rows.
        removal_rates : array-like of shape (n_rates,), default=None
            Shares to remove, rising; None is 0 to 30 % in steps of 5.
        scoring : str or callable, default=None
            A scorer; None is the estimator's own ``score``.
        n_random : int, default=5
            Repetitions of the removal at random; 0 leaves its curve out.
        random_state : int, RandomState instance or None, default=0
            Seed of the rows drawn at random.
        n_jobs : int, default=None
            Models trained at the same time.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : RemovalCurveDisplay

        Raises
        ------
        TypeError, ValueError
            If the scores are not one finite number a row, or the rates no rising shares.
        """
        rates = check_rates(removal_rates)
        orders = check_named_scores(scores, "lowest influence first")
        orders |= _chance(len(next(iter(orders.values()))[0]), n_random, random_state)
        found = retrain(estimator, Split(X, y, X_test, y_test), orders, rates, _scorer(scoring), n_jobs)
        return cls._of(found, rates, scoring, estimator).plot(ax=ax, **kwargs)

    @classmethod
    def _of(cls, found: dict[str, np.ndarray], rates: np.ndarray, scoring: Any, estimator: Any) -> RemovalCurveDisplay:
        curves = {name: values[:, :, 0] for name, values in found.items()}
        return cls(rates, curves, score_name=score_name(scoring, is_regressor(estimator)))

    def plot(self, ax: Any = None, *, relative: bool = False, band: bool = True, **kwargs: Any) -> Any:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        relative : bool, default=False
            Draw the gain over the model of the first rate in the same repetition. Folds differ more from each other
            than the removal changes in any, so that its spread says more.
        band : bool, default=True
            Shade one standard deviation about the mean of the repetitions.
        **kwargs : dict
            For ``Axes.plot``, for all curves.

        Returns
        -------
        self : RemovalCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax, self.figure_ = new_axes(type(self).__name__, ax)
        self.lines_, self.bands_ = {}, {}
        for place, (name, values) in enumerate(self.curves.items()):
            look = line_look(name, place)
            values = values - values[:, :1] if relative else values
            mean = values.mean(axis=0)
            (self.lines_[name],) = ax.plot(self.removal_rates, mean, **{**look, "label": name, "ms": 5, **kwargs})
            if band and len(values) > 1:
                std = values.std(axis=0, ddof=1)
                self.bands_[name] = ax.fill_between(
                    self.removal_rates, mean - std, mean + std, color=look["color"], alpha=0.12, linewidth=0
                )
        percent(ax.xaxis)
        note = " (mean ± std)" if self.bands_ else ""
        what = f"gain in {self.score_name}" if relative else self.score_name
        ax.set(xlabel="share of the training rows removed", ylabel=f"{what} on test rows{note}")
        ax.legend(frameon=False)
        tidy(ax, grid="y")
        self.ax_ = ax
        return self


def _named(curator: Any) -> dict[str, Any]:
    return curator if isinstance(curator, dict) else {"lowest influence first": curator}


def _chance(n_rows: int, n_random: int, random_state: Any) -> dict[str, list[np.ndarray]]:
    return {CHANCE: chance_scores(n_rows, n_random, random_state)} if n_random else {}


def _scorer(scoring: Any) -> Any:
    def measures(everything: Any, split: Split) -> list[Measure]:
        scorer = check_scoring(everything, scoring)
        return [lambda fitted: scorer(fitted, split.X_test, split.y_test)]

    return measures
