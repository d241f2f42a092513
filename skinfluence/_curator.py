"""What all curators share: validation, scoring with cross-fitting and caching, and their homes."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, check_memory, column_or_1d

from ._crossfit import Scored, Table, make_folds, score_table
from ._fitting import (
    check_labels,
    default_estimator,
    find_estimator,
    find_task,
    fit_estimator,
    is_frozen,
    refuse_ignored,
    takes_weight,
)
from ._held_out import HeldOut
from ._parameters import NamedParameters
from ._rates import check_auto, check_rate
from ._redraw import redraw
from ._rows import as_rows, is_dataset, take_rows
from ._sampler import CuratorSampler
from ._scores import as_held_out, combined, refuse_groups
from ._summary import SummaryInHTML, summarize
from ._tables import check_table, kind_of_table, n_samples, targets_of
from ._version import __version__
from .methods import resolve_method
from .models._fitted import Task
from .models._host import is_foreign, on_host
from .objectives import resolve_objective
from .operators import check_weights


class Curator(SummaryInHTML, NamedParameters, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of the curators: scores the training rows, and leaves to its subclasses what to do with the scores.

    A subclass sets ``support_`` (the rows it keeps) in `_act`. ``transform`` is the identity: curation happens at fit,
    in one of the homes (`skinfluence.Pipeline`, `CuratedClassifier`, `CuratedRegressor`, an imbalanced-learn Pipeline
    by `as_sampler`), or, approximately, in ``fit_transform`` by re-drawing.
    """

    makes_weights = False
    n_rounds = 1
    on_fit_transform = "redraw"
    _rate_name = ""  # the parameter that may be "auto"
    _each_label = False  # whether rows are scored under every label

    estimator: Any
    method: Any
    objective: Any
    cv: Any
    memory: Any
    n_jobs: int | None
    random_state: Any
    verbose: int

    # --- fitting ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sensitive_features: Any = None,
        sensitive_features_val: Any = None,
    ) -> Any:
        """Score the rows and decide what becomes of them.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            The training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets; None for those that X, a torch Dataset, pairs its rows with.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights, in the fits and in the objective.
        X_val : {array-like, sparse matrix, dataframe} of shape (n_validation, n_features) or HeldOut, default=None
            Validation rows whose labels are trusted; rows are then scored in-sample against them. None: cross-fitting.
        y_val : array-like of shape (n_validation,), default=None
            Their targets.
        sensitive_features, sensitive_features_val : array-like, default=None
            Groups of the rows, for objectives about fairness; others refuse them.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If the estimator, the method or the objective is of no supported kind.
        ValueError
            If a parameter is out of range, or the input is not finite, of unequal lengths, or of one class.
        """
        held_out = as_held_out(X_val, y_val, sensitive_features_val)
        return self._fit(X, y, sample_weight, held_out, sensitive_features, refit=True)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        held_out: HeldOut | None,
        sensitive_features: Any,
        *,
        following: Any = None,
        task: Task | None = None,
        refit: bool = False,
        keeps_rows: bool = False,
    ) -> Any:
        started = time.perf_counter()
        for name in ("classes_", "estimator_", "scores_by_objective_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        method, objective = resolve_method(self.method), resolve_objective(self.objective)
        refuse_groups(self.objective, sensitive_features, None if held_out is None else held_out.sensitive_features)
        estimator = find_estimator(self.estimator, following)
        self._check_params(method, estimator)
        y = targets_of(X, y)
        if y is None:
            hint = " This torch Dataset has items that are no pairs (row, target)." if is_dataset(X) else ""
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.{hint}")
        X, y = self._check_rows(estimator, X, y)
        check_consistent_length(np.empty(n_samples(X)), y, sample_weight, sensitive_features)
        self.task_ = find_task(estimator, y, task)
        self._check_task(held_out, keeps_rows)
        y, codes = self._check_target(y)
        if codes is not None:
            refuse_ignored(estimator, self.classes_, codes)
        if estimator is None:
            estimator = default_estimator(self.task_, X)
        table = Table(X, y, check_weights(sample_weight, np.empty((n_samples(X), 1))), sensitive_features)
        scored = self._score(estimator, table, held_out, method, objective, codes)
        self._take_scores(scored, objective, codes)
        self.diagnostics_ = scored.reports
        self.notes_ = list(dict.fromkeys(note for report in scored.reports for note in report.get("notes", ())))
        self.engine_ = ", ".join(sorted({report["engine"] for report in scored.reports}))
        self._act(table, codes)
        self.sample_indices_ = np.flatnonzero(self.support_)
        if scored.estimator is not None:
            self.estimator_ = scored.estimator
        elif refit and (not self.makes_weights or takes_weight(estimator)):
            self.estimator_ = self._refit(estimator, table)
        seconds = time.perf_counter() - started
        # As a dict, so that a saved curator is made of plain types.
        self._summary = vars(summarize(self, codes, len(scored.reports) > 1, held_out is not None, seconds))
        return self

    def _refit(self, estimator: Any, table: Table) -> Any:
        """The estimator on the curated rows; cross-fitted models have each seen a part of them."""
        X, y, factor = self._curated(table.X, table.y)
        weight = None if table.sample_weight is None else table.sample_weight[self.sample_indices_]
        if factor is not None:
            weight = factor if weight is None else weight * factor
        return fit_estimator(estimator, X, y, weight, self._refit_seed)

    def _check_rows(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Any]:
        """X and y, checked as the estimator needs them."""
        self._table_kind = kind_of_table(estimator)
        return check_table(self, self._table_kind, X, y), as_rows(y)

    def _check_params(self, method: Any, estimator: Any) -> None:
        check_scalar(self.n_rounds, "n_rounds", Integral, min_val=1)
        n_jobs: Any = self.n_jobs
        if n_jobs is not None and (not isinstance(n_jobs, Integral) or int(n_jobs) == 0):
            raise ValueError(f"n_jobs must be None or a whole number other than 0, got {self.n_jobs!r}.")
        if self.n_rounds > 1 and is_frozen(estimator):
            raise ValueError(
                f"n_rounds={self.n_rounds} refits the estimator after each round, and a FrozenEstimator is never "
                "refitted."
            )
        if self._rate_name:
            check_rate(self._rate_name, getattr(self, self._rate_name), method, resolve_objective(self.objective))
        if self.on_fit_transform not in ("redraw", "raise"):
            raise ValueError(f"on_fit_transform must be 'redraw' or 'raise', got {self.on_fit_transform!r}.")

    def _check_task(self, held_out: HeldOut | None, keeps_rows: bool) -> None:
        """Raise where the task, or the rows that are judged by, rule out what was asked for."""
        if keeps_rows and self.task_ == "regression":
            raise ValueError(
                "A stock scikit-learn Pipeline cannot drop rows, and with a continuous target no kept row can stand "
                "for "
                "a removed one. Use skinfluence.Pipeline, CuratedRegressor, or as_sampler() in imbalanced-learn's "
                "Pipeline."
            )
        if self._rate_name:
            check_auto(self._rate_name, getattr(self, self._rate_name), self.task_, held_out)

    def _check_target(self, y: Any) -> tuple[Any, np.ndarray | None]:
        """The target, one-dimensional for a classifier, and its class codes (None for a regression target)."""
        if self.task_ == "regression":
            check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
            return y, None
        flat, self.classes_, codes = check_labels(on_host(y))
        # An array of another library stays what it is: the estimator is fitted with it.
        return y if is_foreign(y) else flat, codes

    def _score(
        self,
        estimator: Any,
        table: Table,
        held_out: HeldOut | None,
        method: Any,
        objective: Any,
        codes: np.ndarray | None,
    ) -> Scored:
        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=4)
        fold_seed, score_seed, self._redraw_seed, self._refit_seed = (int(s) for s in seeds)
        folds = make_folds(self.cv, estimator, table, held_out, self.task_, fold_seed)
        # Whatever turns scores into decisions stays out of the cache's key: a grid over it scores once.
        cached = check_memory(self.memory).cache(score_table, ignore=["n_jobs", "verbose"])
        if self.memory is not None and not isinstance(self.random_state, Integral):
            warnings.warn(
                f"memory caches nothing with random_state={self.random_state!r}: every fit draws other seeds. Give an "
                "integer.",
                UserWarning,
                stacklevel=3,
            )
        kept = np.ones(len(table), dtype=bool)
        for round_ in range(self.n_rounds):
            scored = cached(
                estimator,
                table,
                held_out,
                kept,
                folds,
                method,
                objective,
                score_seed,
                self.n_jobs,
                codes=codes,
                each_label=self._each_label,
                release=__version__,
                verbose=self.verbose,
            )
            if self.verbose:
                print(f"[{type(self).__name__}] round {round_ + 1} of {self.n_rounds}: scored {len(table)} rows")
            if round_ + 1 < self.n_rounds:
                kept = self._kept_after(combined(objective, scored.by_part), codes, table.sample_weight)
        return scored

    def _take_scores(self, scored: Scored, objective: Any, codes: np.ndarray | None) -> None:
        """Set ``scores_``, and for a joint objective ``scores_by_objective_``."""
        self.scores_ = combined(objective, scored.by_part)
        if hasattr(objective, "parts"):
            self.scores_by_objective_ = dict(zip(objective.names(), scored.by_part.T, strict=True))

    def _kept_after(self, scores: np.ndarray, codes: np.ndarray | None, weight: np.ndarray | None) -> np.ndarray:
        """The rows that the next round fits on: all, unless the curator removes some."""
        return np.ones(len(scores), dtype=bool)

    @abstractmethod
    def _act(self, table: Table, codes: np.ndarray | None) -> None:
        """Set ``support_`` and what else the scores lead to."""

    # --- homes --------------------------------------------------------------------------------------------------------

    def fit_curate(
        self, X: Any, y: Any, *, following: Any = None, task: Task | None = None, **fit_params: Any
    ) -> tuple[Any, Any, np.ndarray | None]:
        """Fit, and return the curated rows: what `skinfluence.Pipeline` and the Curated estimators call.

        Parameters
        ----------
        X, y : array-like
            The training rows and their targets.
        following : estimator, default=None
            The (unfitted) estimator after the curator, for ``estimator="final"``.
        task : {"classification", "regression"}, default=None
            The task of that estimator, where ``y`` alone leaves it open.
        **fit_params : dict
            As for `fit`.

        Returns
        -------
        X, y : same types as given
            The rows kept, in order; ``sample_indices_`` holds their indices.
        factor : ndarray or None
            What to multiply each returned row's weight by; None where curation changes no weight.
        """
        X, y = as_rows(X), as_rows(targets_of(X, y))
        self._fit(X, y, following=following, task=task, **self._fit_arguments(fit_params))
        return self._curated(X, y)

    def _fit_arguments(self, fit_params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of `fit` as `_fit` takes them."""
        given = dict(fit_params)
        arguments = {
            "sample_weight": given.pop("sample_weight", None),
            "held_out": as_held_out(*(given.pop(name, None) for name in ("X_val", "y_val", "sensitive_features_val"))),
            "sensitive_features": given.pop("sensitive_features", None),
        }
        if given:
            raise TypeError(f"{type(self).__name__}.fit takes no parameter named {sorted(given)}.")
        return arguments

    def _row_factors(self) -> np.ndarray:
        """The factor that curation puts on each row's weight; zero for a removed row."""
        return self.support_.astype(np.float64)

    def _curated(self, X: Any, y: Any) -> tuple[Any, Any, np.ndarray | None]:
        return take_rows(X, self.sample_indices_), take_rows(y, self.sample_indices_), None

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit, and return as many rows as given, re-drawn within each class in proportion to their weights.

        This is what a stock scikit-learn Pipeline calls, where neither rows can be dropped nor y changed: a removed
        row, whose weight is zero, is replaced by a kept row of its class. The replacements are drawn by systematic
        sampling, seeded by ``random_state``; a DataFrame keeps its index. Weights of the Pipeline's later steps stay
        in their places: a replacement has the weight of the row that it replaces. A continuous target has no such
        replacement and raises.

        Parameters
        ----------
        X, y : array-like
            The training rows and their targets.
        **fit_params : dict
            As for `fit`.

        Returns
        -------
        X : same type as given, of shape (n_samples, n_features)
        """
        if self.on_fit_transform == "raise":
            raise ValueError(
                "fit_transform keeps the number of rows, and on_fit_transform='raise' forbids the re-draw that this "
                "takes. Use skinfluence.Pipeline, "
                "CuratedClassifier or CuratedRegressor, or as_sampler() in imbalanced-learn's Pipeline, which do "
                "remove rows."
            )
        X, y = as_rows(X), targets_of(X, y)
        self._fit(X, y, keeps_rows=True, **self._fit_arguments(fit_params))
        weights = self._row_factors()
        if np.ptp(weights) == 0:
            return X
        codes = np.searchsorted(self.classes_, column_or_1d(on_host(y)))
        indices = redraw(codes, weights, np.random.RandomState(self._redraw_seed))
        redrawn = take_rows(X, indices)
        if hasattr(redrawn, "iloc"):
            redrawn.index = X.index
        return redrawn

    def transform(self, X: Any) -> Any:
        """Return ``X`` as it is: curation changes training rows, and happens at fit.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)

        Returns
        -------
        X : same type as given
        """
        check_is_fitted(self)
        return check_table(self, self._table_kind, X, None, reset=False)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """The rows kept, as a mask over the training rows or as indices.

        Parameters
        ----------
        indices : bool, default=False

        Returns
        -------
        support : ndarray of bool of shape (n_samples,), or of int of shape (n_kept,)
        """
        check_is_fitted(self)
        return np.flatnonzero(self.support_) if indices else self.support_

    def as_sampler(self) -> CuratorSampler:
        """This curator as a ``fit_resample`` sampler, for imbalanced-learn's Pipeline.

        Returns
        -------
        sampler : CuratorSampler
        """
        return CuratorSampler(clone(self))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.sparse = True
        return tags
