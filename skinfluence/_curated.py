"""An estimator together with the curation of its training rows: exact at any place where an estimator goes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    RegressorMixin,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from ._pipeline import Method, offered_if, takes_weights
from ._rows import count_rows, n_rows, take_rows
from ._travel import curating_steps

__all__ = ["CuratedClassifier", "CuratedRegressor"]

_ANSWERS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score")


def _like_estimator(method: str) -> Callable[[Method], Method]:
    """Offer a method where the estimator does; its own error, otherwise, says what is missing."""

    def check(self: Any) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return offered_if(check)


class _Curated:
    """What the two public classes share; they say which task they are for."""

    _task: str
    _other: str
    estimator_: Any
    curator_: Any

    # These parameters are routed on, as the curator and the estimator request them; no request here has a say.
    __metadata_request__fit = dict.fromkeys(
        ("sample_weight", "X_val", "y_val", "sensitive_features", "sensitive_features_val"), UNUSED
    )
    __metadata_request__score = {"sample_weight": UNUSED}  # noqa: RUF012 - read by scikit-learn, by name

    def __init__(self, estimator: Any, curator: Any = None) -> None:
        self.estimator = estimator
        self.curator = curator

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sensitive_features: Any = None,
        sensitive_features_val: Any = None,
        **fit_params: Any,
    ) -> _Curated:
        """Fit the curator on the rows, then the estimator on those that are left.

        With metadata routing enabled, all parameters but X and y go where they are requested, by
        ``set_fit_request`` of the curator and of the estimator.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights, for the curator and for the estimator.
        X_val : {array-like, sparse matrix, dataframe} of shape (n_val, n_features) or HeldOut, default=None
            Validation rows for the curator.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Their targets; not with a `skinfluence.HeldOut`, which has its own.
        sensitive_features : array-like of shape (n_samples,), default=None
            The groups of the training rows, for the curator's fairness objectives.
        sensitive_features_val : array-like of shape (n_val,), default=None
            The groups of the validation rows.
        **fit_params : dict of str -> object
            Further parameters of the estimator's ``fit``. Those with one entry a row follow the rows that are left.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        curator = self._check_and_make_curator()
        validation = {
            "X_val": X_val,
            "y_val": y_val,
            "sensitive_features": sensitive_features,
            "sensitive_features_val": sensitive_features_val,
        }
        given = {name: value for name, value in validation.items() if value is not None}
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_weight=sample_weight, **given, **fit_params)
            for_curator, for_estimator = dict(routed["curator"]["fit"]), dict(routed["estimator"]["fit"])
        else:
            for_curator, for_estimator = given, fit_params
            if sample_weight is not None:
                self._check_takes_weights("Row weights were given")
                for_estimator["sample_weight"] = sample_weight
                if all(has_fit_parameter(step, "sample_weight") for step in curating_steps(curator).values()):
                    for_curator["sample_weight"] = sample_weight
            for_curator = {
                f"{path}{name}": value for name, value in for_curator.items() for path in curating_steps(curator)
            }

        following = clone(self.estimator)
        _, y_kept, factor = curator.fit_curate(X, y, following=following, task=self._task, **for_curator)
        kept, n = np.asarray(curator.sample_indices_), n_rows(X)
        for name, value in for_estimator.items():
            if count_rows(value) == n and not name.endswith("_val"):  # by their name, those belong to other rows
                for_estimator[name] = take_rows(value, kept)
        if factor is not None:
            self._check_takes_weights("The curator puts weights on rows")
            weight = for_estimator.get("sample_weight")
            for_estimator["sample_weight"] = factor if weight is None else np.asarray(weight) * factor
        # Rows of X as given, not as the curator returned them: it may be a Pipeline that scales them for its own use.
        self.estimator_ = clone(self.estimator).fit(take_rows(X, kept), y_kept, **for_estimator)
        self.curator_ = curator
        return self

    def _check_and_make_curator(self) -> Any:
        """Raise what can be known before any work; clone or make the curator."""
        is_task = is_classifier if self._task == "classification" else is_regressor
        if not is_task(self.estimator):
            kind = "classifier" if self._task == "classification" else "regressor"
            raise TypeError(f"{type(self).__name__} wants a {kind}, got {self.estimator!r}. Try {self._other}.")
        if self.curator is None:
            return _default_curator()
        if not hasattr(self.curator, "fit_curate"):
            raise TypeError(
                f"{type(self).__name__} wants as curator a step which has a fit_curate method, as InfluenceSelector "
                f"does; got {self.curator!r}."
            )
        if getattr(self.curator, "makes_weights", False):
            self._check_takes_weights("The curator puts weights on rows")
        return clone(self.curator)

    def _check_takes_weights(self, reason: str) -> None:
        if not takes_weights(self.estimator):
            raise TypeError(
                f"{reason}, but the fit of {type(self.estimator).__name__} takes no sample_weight. "
                f"Use an estimator whose fit does."
            )

    def _answer(self, method: str, *args: Any, **params: Any) -> Any:
        check_is_fitted(self)
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, method, **params)["estimator"][method]
        return getattr(self.estimator_, method)(*args, **params)

    @_like_estimator("predict")
    def predict(self, X: Any, **params: Any) -> Any:
        """Predict with the fitted estimator; ``params`` go to its ``predict``.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            Rows.
        **params : dict of str -> object
            Parameters of the estimator's method.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions.
        """
        return self._answer("predict", X, **params)

    @_like_estimator("score")
    def score(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Any:
        """Score the fitted estimator; the score is the estimator's own.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights.
        **params : dict of str -> object
            Further parameters of the estimator's ``score``.

        Returns
        -------
        score : float
            The score.
        """
        if sample_weight is not None:
            params["sample_weight"] = sample_weight
        return self._answer("score", X, y, **params)

    @property
    def n_features_in_(self) -> Any:
        """Number of features seen in ``fit``."""
        return self._fitted("n_features_in_")

    @property
    def feature_names_in_(self) -> Any:
        """Names of the features seen in ``fit``, if they had names."""
        return self._fitted("feature_names_in_")

    def _fitted(self, name: str) -> Any:
        if not hasattr(self, "estimator_"):  # an AttributeError, by which hasattr says no before fit
            raise AttributeError(f"This {type(self).__name__} is not fitted yet, and has no attribute {name!r}.")
        return getattr(self.estimator_, name)

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell who wants which metadata: the curator in ``fit``, the estimator in all its methods.

        Returns
        -------
        routing : MetadataRouter
            The requests of both.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        curator = _default_curator() if self.curator is None else self.curator
        router = MetadataRouter(owner=self).add(curator=curator, method_mapping=mapping)
        for method in _ANSWERS:
            mapping.add(caller=method, callee=method)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]  # MetaEstimatorMixin has none, BaseEstimator has
        estimator = get_tags(self.estimator)
        curator = get_tags(_default_curator() if self.curator is None else self.curator)
        tags.classifier_tags = deepcopy(estimator.classifier_tags)
        tags.regressor_tags = deepcopy(estimator.regressor_tags)
        if tags.classifier_tags is None:
            tags.target_tags.multi_output = estimator.target_tags.multi_output
        else:  # curation knows one class a row
            tags.classifier_tags.multi_label = False
        tags.input_tags = deepcopy(estimator.input_tags)
        tags.input_tags.sparse = estimator.input_tags.sparse and curator.input_tags.sparse
        tags.input_tags.allow_nan = estimator.input_tags.allow_nan and curator.input_tags.allow_nan
        return tags


def _default_curator() -> Any:
    from ._curation import InfluenceSelector  # here, so that neither of the two modules needs the other first

    return InfluenceSelector()


class CuratedClassifier(_Curated, ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A classifier that is fitted on curated rows.

    ``fit`` fits the curator on the rows it is given, then the classifier on those that are left, with the weights that
    the curator puts on them. Everything else is the classifier's. As this is a classifier like any other, curation is
    exact wherever a classifier goes: in a stock scikit-learn Pipeline, in a stacking or voting ensemble, in a search.

    Parameters
    ----------
    estimator : classifier
        The classifier to fit.
    curator : curating step, default=None
        What chooses the rows; None is `skinfluence.InfluenceSelector` with its defaults. A pipeline that ends in a
        curating step may scale the features for the curator alone.

    Attributes
    ----------
    estimator_ : classifier
        The classifier fitted on the rows that are left.
    curator_ : curating step
        The fitted curator; its ``sample_indices_`` are the rows that are left.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they had names.

    See Also
    --------
    CuratedRegressor : The same for regression.
    skinfluence.Pipeline : Curation as a step.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import CuratedClassifier, InfluenceSelector
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> curated = CuratedClassifier(LogisticRegression(), InfluenceSelector(removal_rate=0.1, random_state=0))
    >>> model = make_pipeline(StandardScaler(), curated).fit(X, y)
    >>> len(model[-1].curator_.sample_indices_)
    513
    """

    _task = "classification"
    _other = "CuratedRegressor"

    @property
    def classes_(self) -> Any:
        """The labels."""
        return self._fitted("classes_")

    @_like_estimator("predict_proba")
    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Give the probability of each class; parameters as for ``predict``.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            One column a class, in the order of ``classes_``.
        """
        return self._answer("predict_proba", X, **params)

    @_like_estimator("predict_log_proba")
    def predict_log_proba(self, X: Any, **params: Any) -> Any:
        """Give the log-probability of each class; parameters as for ``predict``.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            One column a class, in the order of ``classes_``.
        """
        return self._answer("predict_log_proba", X, **params)

    @_like_estimator("decision_function")
    def decision_function(self, X: Any, **params: Any) -> Any:
        """Give the classifier's decision values; parameters as for ``predict``.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The values, as the classifier defines them.
        """
        return self._answer("decision_function", X, **params)


class CuratedRegressor(_Curated, RegressorMixin, MetaEstimatorMixin, BaseEstimator):
    """A regressor that is fitted on curated rows.

    ``fit`` fits the curator on the rows it is given, then the regressor on those that are left, with the weights that
    the curator puts on them. Everything else is the regressor's. The curator is told that this is regression: targets
    that happen to be integers are not taken for classes.

    Parameters
    ----------
    estimator : regressor
        The regressor to fit.
    curator : curating step, default=None
        What chooses the rows; None is `skinfluence.InfluenceSelector` with its defaults. A pipeline that ends in a
        curating step may scale the features for the curator alone.

    Attributes
    ----------
    estimator_ : regressor
        The regressor fitted on the rows that are left.
    curator_ : curating step
        The fitted curator; its ``sample_indices_`` are the rows that are left.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they had names.

    See Also
    --------
    CuratedClassifier : The same for classification.
    skinfluence.Pipeline : Curation as a step.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import CuratedRegressor, InfluenceSelector
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = CuratedRegressor(Ridge(), InfluenceSelector(removal_rate=0.1, random_state=0)).fit(X, y)
    >>> len(y), len(model.curator_.sample_indices_)
    (442, 398)
    """

    _task = "regression"
    _other = "CuratedClassifier"
