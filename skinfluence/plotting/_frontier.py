"""`FrontierDisplay`: utility against fairness or robustness, as more and more rows are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.metrics import check_scoring

from .. import metrics
from .._curation import InfluenceSelector
from ..objectives import adversarial_rows
from ._removal import _chance, _named
from ._retraining import Measure, Split, check_rates, curated_scores, retrain, splits_of, stacked
from ._sources import check_named_scores
from ._style import line_look, new_axes, score_name, tidy

_GAPS = {
    "demographic_parity": metrics.demographic_parity_difference,
    "equal_opportunity": metrics.equal_opportunity_difference,
    "equalized_odds": metrics.equalized_odds_difference,
}


class FrontierDisplay:
    """Utility against a second figure, fairness or robustness, along the removal rates.

    Each curve begins, at its largest marker, with the model trained on all rows.

    Parameters
    ----------
    removal_rates : ndarray of shape (n_rates,)
        Shares of the training rows.
    utility : dict of str to ndarray of shape (n_repeats, n_rates)
        Scores on test rows, higher is better.
    against : dict of str to ndarray of shape (n_repeats, n_rates)
        The second figure, for the same names.
    utility_name, against_name : str
        What they are called on the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D

    See Also
    --------
    RemovalCurveDisplay : One figure against the removal rate.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import InfluenceSelector
    >>> from skinfluence.plotting import FrontierDisplay
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression())
    >>> FrontierDisplay.from_estimator(  # doctest: +SKIP
    ...     model, X, y, against="demographic_parity", sensitive_features=X[:, 0] > 14,
    ...     curator={
    ...         "utility": InfluenceSelector(random_state=0),
    ...         "parity": InfluenceSelector(objective="demographic_parity", random_state=0),
    ...     },
    ... )
    """

    def __init__(
        self,
        removal_rates: np.ndarray,
        utility: dict[str, np.ndarray],
        against: dict[str, np.ndarray],
        *,
        utility_name: str = "utility",
        against_name: str = "second figure",
    ) -> None:
        self.removal_rates = removal_rates
        self.utility = utility
        self.against = against
        self.utility_name = utility_name
        self.against_name = against_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        against: str | Callable[..., float],
        sensitive_features: Any = None,
        curator: Any = None,
        removal_rates: Sequence[float] | None = None,
        cv: Any = 5,
        scoring: Any = None,
        gamma: float = 1.3,
        n_random: int = 0,
        random_state: Any = 0,
        n_jobs: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> FrontierDisplay:
        """Cross-validate: score the training rows of each fold, remove the lowest, train again, test both figures.

        Parameters
        ----------
        estimator : estimator
            The model that is trained; it is cloned.
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        against : str or callable
            "demographic_parity", "equal_opportunity" or "equalized_odds", the hard gaps of `skinfluence.metrics`
            (lower is fairer); "robustness", the accuracy on test rows moved over the boundary of the model trained on
            all rows (higher is better); or ``against(fitted, X_test, y_test, sensitive_features_test) -> float``.
        sensitive_features : array-like of shape (n_samples,), default=None
            Groups of the rows, for the gaps and for curators with an objective about fairness.
        curator : curator or dict of str to curator, default=None
            What scores the rows; a curve for each. None is `InfluenceSelector` with ``random_state``.
        removal_rates : array-like of shape (n_rates,), default=None
            Shares to remove, rising; None is 0 to 30 % in steps of 5.
        cv : int, splitter or iterable, default=5
            Folds, as in `sklearn.model_selection.cross_validate`.
        scoring : str or callable, default=None
            A scorer for the utility; None is the estimator's own ``score``.
        gamma : float, default=1.3
            How far attacked rows move, as in `skinfluence.objectives.adversarial_rows`.
        n_random : int, default=0
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
        display : FrontierDisplay

        Raises
        ------
        TypeError, ValueError
            As the curators and metrics, if the rates are no rising shares, or groups are missing.
        """
        rates = check_rates(removal_rates)
        _check_against(against, sensitive_features, "sensitive_features")
        curators = _named(InfluenceSelector(random_state=random_state) if curator is None else curator)
        parts = []
        for split in splits_of(estimator, X, y, sensitive_features, cv):
            orders = {name: [curated_scores(one, estimator, split)] for name, one in curators.items()}
            orders |= _chance(len(next(iter(orders.values()))[0]), n_random, random_state)
            parts.append(retrain(estimator, split, orders, rates, _both(scoring, against, gamma), n_jobs))
        return cls._of(stacked(parts), rates, scoring, against, estimator).plot(ax=ax, **kwargs)

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
        against: str | Callable[..., float],
        sensitive_features_test: Any = None,
        removal_rates: Sequence[float] | None = None,
        scoring: Any = None,
        gamma: float = 1.3,
        n_random: int = 0,
        random_state: Any = 0,
        n_jobs: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> FrontierDisplay:
        """Remove the training rows with the lowest of given scores, train again, and test both figures on given rows.

        Parameters
        ----------
        scores : array-like of shape (n_samples,) or (n_repeats, n_samples), or dict of str to such
            Scores of the training rows; a curve for each name.
        estimator : estimator
            The model that is trained; it is cloned.
        X, y : array-like of n_samples rows
            The training rows.
        X_test, y_test : array-like of n_test rows
            The test rows.
        sensitive_features_test : array-like of shape (n_test,), default=None
            Groups of the test rows.
        against, removal_rates, scoring, gamma, n_random, random_state, n_jobs
            As for `from_estimator`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            As for `plot`.

        Returns
        -------
        display : FrontierDisplay

        Raises
        ------
        TypeError, ValueError
            If the scores are not one finite number a row, the rates no rising shares, or groups are missing.
        """
        rates = check_rates(removal_rates)
        _check_against(against, sensitive_features_test, "sensitive_features_test")
        orders = check_named_scores(scores, "lowest influence first")
        orders |= _chance(len(next(iter(orders.values()))[0]), n_random, random_state)
        split = Split(X, y, X_test, y_test, groups_test=sensitive_features_test)
        found = retrain(estimator, split, orders, rates, _both(scoring, against, gamma), n_jobs)
        return cls._of(found, rates, scoring, against, estimator).plot(ax=ax, **kwargs)

    @classmethod
    def _of(
        cls, found: dict[str, np.ndarray], rates: np.ndarray, scoring: Any, against: Any, estimator: Any
    ) -> FrontierDisplay:
        return cls(
            rates,
            {name: values[:, :, 0] for name, values in found.items()},
            {name: values[:, :, 1] for name, values in found.items()},
            utility_name=score_name(scoring, is_regressor(estimator)),
            against_name=_against_name(against),
        )

    def plot(self, ax: Any = None, *, label_rates: bool = True, **kwargs: Any) -> Any:
        """Draw the curves of the means over repetitions.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        label_rates : bool, default=True
            Write the removal rate at the end of each curve.
        **kwargs : dict
            For ``Axes.plot``, for all curves.

        Returns
        -------
        self : FrontierDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax, self.figure_ = new_axes(type(self).__name__, ax)
        self.lines_ = {}
        for place, (name, utility) in enumerate(self.utility.items()):
            look = line_look(name, place)
            x, y = self.against[name].mean(axis=0), utility.mean(axis=0)
            (self.lines_[name],) = ax.plot(x, y, **{**look, "label": name, "ms": 5, **kwargs})
            ax.plot(x[0], y[0], color=look["color"], marker=look["marker"], ms=10, mfc="white", mew=1.6)
            if label_rates:
                ax.annotate(
                    f"{self.removal_rates[-1]:.0%}",
                    (x[-1], y[-1]),
                    (5, 4),
                    textcoords="offset points",
                    fontsize="small",
                )
        first, last = self.removal_rates[0], self.removal_rates[-1]
        ax.set(
            xlabel=self.against_name,
            ylabel=f"{self.utility_name} on test rows (higher is better)",
            title=f"{first:.0%} (open marker) to {last:.0%} of the training rows removed",
        )
        ax.title.set_fontsize("medium")
        ax.legend(frameon=False)
        tidy(ax, grid="both")
        self.ax_ = ax
        return self


def _check_against(against: Any, groups: Any, name: str) -> None:
    if not callable(against) and against not in (*_GAPS, "robustness"):
        raise ValueError(
            f"against must be one of {sorted([*_GAPS, 'robustness'])} or a function(fitted, X_test, y_test, "
            f"sensitive_features_test) -> float, got {against!r}."
        )
    if isinstance(against, str) and against in _GAPS and groups is None:
        raise ValueError(f"against={against!r} compares groups of rows: pass {name}=...")


def _against_name(against: Any) -> str:
    if callable(against):
        return str(getattr(against, "__name__", type(against).__name__)).replace("_", " ")
    if against == "robustness":
        return "accuracy on attacked test rows (higher is better)"
    return f"{against.replace('_', ' ')} difference on test rows (lower is fairer)"


def _both(scoring: Any, against: Any, gamma: float) -> Callable[[Any, Split], Sequence[Measure]]:
    """The two figures of a model, given the one that was trained on all rows."""

    def measures(everything: Any, split: Split) -> list[Measure]:
        scorer = check_scoring(everything, scoring)
        X, y, groups = split.X_test, split.y_test, split.groups_test
        attacked = _moved(everything, X, gamma) if isinstance(against, str) and against == "robustness" else None

        def utility(fitted: Any) -> float:
            return float(scorer(fitted, X, y))

        def second(fitted: Any) -> float:
            if callable(against):
                return float(against(fitted, X, y, groups))
            if attacked is not None:
                return metrics.robust_accuracy(y, fitted.predict(attacked))
            return _GAPS[against](y, fitted.predict(X), sensitive_features=groups)

        return [utility, second]

    return measures


def _moved(fitted: Any, X: Any, gamma: float) -> Any:
    """Attacked rows in the container of ``X``, taken back through the estimator's transformers."""
    moved = adversarial_rows(fitted, X, gamma)
    if hasattr(fitted, "steps") and len(fitted.steps) > 1:
        if not hasattr(fitted[:-1], "inverse_transform"):
            raise TypeError(
                "against='robustness' moves rows in front of the last step, and takes them back through the steps "
                "before it, of which one has no inverse_transform. Transform the rows first, and pass the last step "
                "alone."
            )
        moved = fitted[:-1].inverse_transform(moved)
    if hasattr(X, "iloc"):
        return type(X)(np.asarray(moved), X.index, X.columns)
    return type(X)(np.asarray(moved), schema=X.columns) if hasattr(X, "columns") else moved
